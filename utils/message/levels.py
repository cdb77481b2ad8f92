"""How quantised changes are coded: their magnitudes and signs, by what came before in row, column, kernel and layer.

Weights of one neuron move in the same direction more often than not, and by like amounts; so do those of one input, and
of one kernel. Values are visited in an order that spreads evenly over each layer, in blocks; all that a block is coded
with was counted in the blocks before. A magnitude is a class, half an octave wide, and a place within it.

All arithmetic is in integers: see position_model.py, and docs/update_format.md for every formula.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.message.geometry import Geometry, coding_class
from utils.message.streams import StreamWriter, SymbolModel, blocks, log2_fixed

_ROW, _COLUMN, _KERNEL, _OLD_SIGN = 12, 8, 14, 6  # how much each counts for a sign, in sixteenths
_ONE = 64  # one class, in the fixed point of a scale
_FIRST_SCALE = 3 * _ONE  # before anything is known
_CONTEXT_STEP = 32


@dataclass
class Sites:
    """Where values lie, arrays of the same length but for `geometries`.

    tensor      the layer or entry of each
    index       its place in there
    group       a layer, or a kind of entry
    geometries  one for each tensor
    """

    tensor: np.ndarray
    index: np.ndarray
    group: np.ndarray
    geometries: list[Geometry]


def code_levels(
    coder: StreamWriter, sites: Sites, old: np.ndarray, levels: int, q: np.ndarray | None
) -> np.ndarray:
    """Pass quantised changes, -levels..levels, of the float32 values `old` through `coder`; return them, int64."""
    coded = np.zeros(len(old), dtype=np.int64)
    if not len(old):
        return coded
    model = _LevelModel(levels, sites)
    order, axes = _walk(sites)
    old_sign = 1 - 2 * (old.view(np.uint32) >> 31).astype(np.int64)
    for block in blocks(len(old)):
        at = order[block]
        sets = [(counts, ids[at]) for counts, ids in axes]
        given = None if q is None else q[at]
        coded[at] = model.code_block(coder, sites.tensor[at], sites.group[at], old_sign[at], sets, given)
    return coded


class _Counts:
    """For each of many sets of values, such as the rows: how many were seen, the sum of their signs and classes.

    One more set, the last, is for values that are in none: nothing is kept of it.
    """

    def __init__(self, number: int, weight: int):
        self.weight = weight
        self.seen, self.signs, self.classes = np.zeros((3, number + 1), dtype=np.int64)

    def of(self, sets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the three counts of the given sets."""
        return self.seen[sets], self.signs[sets], self.classes[sets]

    def add(self, sets: np.ndarray, signs: np.ndarray, classes: np.ndarray) -> None:
        """Count values of the given sets."""
        np.add.at(self.seen, sets, 1)
        np.add.at(self.signs, sets, signs)
        np.add.at(self.classes, sets, classes)
        self.seen[-1] = self.signs[-1] = self.classes[-1] = 0


def balance(seen: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Return log2, in 1/256, of how much more often signs were positive; the same number is added to both sides."""
    return log2_fixed(2 * (seen + signs) + 2) - log2_fixed(2 * (seen - signs) + 2)


def half_octaves(levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the class of each magnitude 0..levels; the first magnitude, and the bits of the places, of each class.

    Classes are 0, 1, 2, 3, 4-5, 6-7, 8-11, 12-15, 16-23, ...
    """
    size = np.arange(levels + 1)
    octave = np.frexp(size.astype(np.float64))[1]
    upper = size >> np.maximum(octave - 2, 0) & 1
    class_ = np.where(size > 1, 2 * octave + upper - 2, size)
    first = np.searchsorted(class_, np.arange(class_[-1] + 1))
    return class_, first, np.maximum(octave[first] - 2, 0)


class _LevelModel:
    """What coder and decoder know of the levels while they walk over them."""

    def __init__(self, levels: int, sites: Sites):
        self._class_of, self._first, self._width = half_octaves(levels)
        self._groups = int(sites.group.max()) + 1
        alphabet = len(self._first)
        self._contexts = 8 * alphabet
        self._classes = SymbolModel(alphabet, self._contexts // 4, 4)
        widths = range(1, int(self._width.max(initial=0)) + 1)
        self._places = {width: SymbolModel(1 << width, 2, self._groups) for width in widths}
        self._tensors = _Counts(len(sites.geometries), 0)
        self._by_group = _Counts(self._groups, _OLD_SIGN)  # whose signs are those of the products with the old values

    def code_block(self, coder, tensor, group, old_sign, sets, q: np.ndarray | None) -> np.ndarray:
        """Pass the levels of a block through `coder`; return them."""
        magnitude = given = None
        if q is not None:
            magnitude = np.abs(q)
            given = self._class_of[magnitude]
        class_ = self._classes.code_block(coder, self._context(tensor, sets), given)
        magnitude = self._first[class_] + self._place(coder, class_, group, magnitude)
        sign = self._sign(coder, class_ > 0, group, old_sign, sets, q)
        for counts, which in sets:
            counts.add(which, sign, class_)
        self._tensors.add(tensor, sign, class_)
        self._by_group.add(group, sign * old_sign, class_)
        return sign * magnitude

    def _context(self, tensor, sets) -> np.ndarray:
        """Return which class is likely: the mean so far of the layer, changed by those of row, column and kernel."""
        total = self._tensors.classes.sum(), self._tensors.seen.sum()
        mean = (_ONE * total[0] + _FIRST_SCALE) // (total[1] + 1)
        of_tensor = ((_ONE * self._tensors.classes + 4 * mean) // (self._tensors.seen + 4))[tensor]
        scale = of_tensor.copy()
        for counts, which in sets:
            seen, _, classes = counts.of(which)
            scale += (_ONE * classes - seen * of_tensor) // (seen + 2)
        return np.clip(scale // _CONTEXT_STEP, 0, self._contexts - 1)

    def _place(self, coder, class_, group, magnitude) -> np.ndarray:
        """Pass through where in its class each magnitude is."""
        place = np.zeros(len(class_), dtype=np.int64)
        width = self._width[class_]
        for number, model in self._places.items():
            some = np.flatnonzero(width == number)
            if len(some):
                given = None if magnitude is None else (magnitude - self._first[class_])[some]
                place[some] = model.code_block(coder, (class_[some] & 1) * self._groups + group[some], given)
        return place

    def _sign(self, coder, nonzero, group, old_sign, sets, q) -> np.ndarray:
        """Pass through the signs of the levels that are not zero; return -1, 0 or 1."""
        by_group = self._by_group
        logit = by_group.weight * old_sign * balance(by_group.seen, by_group.signs)[group]
        for counts, which in sets:
            logit += counts.weight * balance(*counts.of(which)[:2])
        positive = coder.bits(logit[nonzero] >> 4, None if q is None else q[nonzero] > 0)
        sign = np.zeros(len(nonzero), dtype=np.int64)
        sign[nonzero] = 2 * positive - 1
        return sign


def _walk(sites: Sites) -> tuple[np.ndarray, list[tuple[_Counts, np.ndarray]]]:
    """Return the order in which to visit the values and, by row, column and kernel, the counts and each value's set.

    A row has a set of its own in each layer, and so on. A kernel of one weight is none.
    """
    width, rows, columns, kernel = (
        np.array([getattr(g, name) for g in sites.geometries]) for name in ("width", "rows", "columns", "kernel")
    )
    row, j = np.divmod(sites.index, width[sites.tensor])
    order = np.argsort(coding_class(row, j).astype(np.uint8), kind="stable")
    column = j // kernel[sites.tensor]
    axes = []
    for weight, sizes, place in (
        (_ROW, rows, row),
        (_COLUMN, columns, column),
        (_KERNEL, rows * columns * (kernel > 1), row * columns[sites.tensor] + column),
    ):
        starts = np.cumsum(sizes) - sizes
        sets = np.where(sizes[sites.tensor] > 0, starts[sites.tensor] + place, sizes.sum())
        if sizes.any():
            axes.append((_Counts(int(sizes.sum()), weight), sets))
    return order, axes
