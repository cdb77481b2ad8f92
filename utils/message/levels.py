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
    order, axes, sets = _walk(sites)
    model = _LevelModel(levels, sites, axes)
    tensor, group, negative = sites.tensor[order], sites.group[order], (old.view(np.uint32) >> 31)[order]
    for block in blocks(len(old)):
        at = order[block]
        old_sign = 1 - 2 * negative[block].astype(np.int64)
        given = None if q is None else q[at]
        coded[at] = model.code_block(coder, tensor[block], group[block], old_sign, [s[block] for s in sets], given)
    return coded


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


class _Counts:
    """For each of many sets of values, such as all rows: how many were seen, the sum of their signs and classes.

    weight  how much a set counts for a sign, in sixteenths
    tensor  the tensor of each set. One more set, the last, is for values that are in none: nothing is kept of it.
    """

    def __init__(self, weight: int, tensor: np.ndarray):
        self.weight, self._tensor = weight, np.append(tensor, 0)
        self.seen, self.signs, self.classes = np.zeros((3, len(tensor) + 1), dtype=np.int64)

    def add(self, sets: np.ndarray, signs: np.ndarray, classes: np.ndarray) -> None:
        """Count values of the given sets."""
        np.add.at(self.seen, sets, 1)
        np.add.at(self.signs, sets, signs)
        np.add.at(self.classes, sets, classes)
        self.seen[-1] = self.signs[-1] = self.classes[-1] = 0

    def effects(self, sets: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return how far values of the given sets are above the `scale` of their tensor, and the log odds of a sign."""
        few = len(self.seen) < len(sets)  # then worked out for each set, else for each value
        which = slice(None) if few else sets
        seen = self.seen[which]
        excess = (_ONE * self.classes[which] - seen * scale[self._tensor[which]]) // (seen + 2)
        odds = self.weight * balance(seen, self.signs[which])
        return (excess.take(sets), odds.take(sets)) if few else (excess, odds)


def balance(seen: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Return log2, in 1/256, of how much more often signs were positive; half a sign is added to either side."""
    return log2_fixed(2 * (seen + signs) + 2) - log2_fixed(2 * (seen - signs) + 2)


class _LevelModel:
    """What coder and decoder know of the levels while they walk over them; `axes` are rows, columns and kernels."""

    def __init__(self, levels: int, sites: Sites, axes: list[_Counts]):
        self._class_of, self._first, self._width = half_octaves(levels)
        self._axes, self._groups = axes, int(sites.group.max()) + 1
        alphabet = len(self._first)
        self._contexts = 8 * alphabet
        self._classes = SymbolModel(alphabet, self._contexts // 4, 4)
        self._places = [SymbolModel(1 << width, 2, self._groups) for width in range(1, self._width[-1] + 1)]
        self._tensors = _Counts(0, np.arange(len(sites.geometries)))
        self._by_group = _Counts(_OLD_SIGN, np.arange(self._groups))  # of signs against those of the old values

    def code_block(
        self,
        coder: StreamWriter,
        tensor: np.ndarray,
        group: np.ndarray,
        old_sign: np.ndarray,
        sets: list[np.ndarray],
        q: np.ndarray | None,
    ) -> np.ndarray:
        """Pass the levels of a block through `coder`; return them."""
        magnitude = given = None
        if q is not None:
            magnitude = np.abs(q)
            given = self._class_of[magnitude]
        scale = self._scale()
        likely, odds = scale[tensor], old_sign * self._sign_odds()[group]
        for counts, which in zip(self._axes, sets, strict=True):
            excess, more = counts.effects(which, scale)
            likely += excess
            odds += more
        class_ = self._classes.code_block(coder, np.clip(likely // _CONTEXT_STEP, 0, self._contexts - 1), given)
        magnitude = self._first[class_] + self._place(coder, class_, group, magnitude)

        sign, nonzero = np.zeros(len(tensor), dtype=np.int64), np.flatnonzero(class_)
        positive = coder.bits(odds[nonzero] >> 4, None if q is None else q[nonzero] > 0)
        sign[nonzero] = 2 * positive.astype(np.int64) - 1

        for counts, which in zip(self._axes, sets, strict=True):
            counts.add(which, sign, class_)
        self._tensors.add(tensor, sign, class_)
        self._by_group.add(group, sign * old_sign, class_)
        return sign * magnitude

    def _scale(self) -> np.ndarray:
        """Return the mean class of each tensor so far, which starts from that of all."""
        counts = self._tensors
        of_all = (_ONE * counts.classes.sum() + _FIRST_SCALE) // (counts.seen.sum() + 1)
        return (_ONE * counts.classes + 4 * of_all) // (counts.seen + 4)

    def _sign_odds(self) -> np.ndarray:
        """Return by group the weighted log odds that a level has the sign of the old value."""
        return self._by_group.weight * balance(self._by_group.seen, self._by_group.signs)

    def _place(
        self, coder: StreamWriter, class_: np.ndarray, group: np.ndarray, magnitude: np.ndarray | None
    ) -> np.ndarray:
        """Pass through where in its class each magnitude is."""
        place, width = np.zeros(len(class_), dtype=np.int64), self._width[class_]
        for number, model in enumerate(self._places, 1):
            some = np.flatnonzero(width == number)
            if len(some):
                given = None if magnitude is None else magnitude[some] - self._first[class_[some]]
                place[some] = model.code_block(coder, (class_[some] & 1) * self._groups + group[some], given)
        return place


def _walk(sites: Sites) -> tuple[np.ndarray, list[_Counts], list[np.ndarray]]:
    """Return the order in which to visit the values; by row, column and kernel, the counts, and the sets of the values.

    A row has a set of its own in each layer, and so on. A kernel of one weight is none.
    """
    width, rows, columns, kernel = (
        np.array([getattr(g, name) for g in sites.geometries]) for name in ("width", "rows", "columns", "kernel")
    )
    row, j = np.divmod(sites.index, width[sites.tensor])
    order = np.argsort(coding_class(row, j).astype(np.uint8), kind="stable")
    tensor, row, j = sites.tensor[order], row[order], j[order]
    column = j // kernel[tensor]
    axes, sets = [], []
    for weight, sizes, place in (
        (_ROW, rows, row),
        (_COLUMN, columns, column),
        (_KERNEL, rows * columns * (kernel > 1), row * columns[tensor] + column),
    ):
        starts = np.cumsum(sizes) - sizes
        if sizes.any():
            axes.append(_Counts(weight, np.repeat(np.arange(len(sizes)), sizes)))
            sets.append(np.where(sizes[tensor] > 0, starts[tensor] + place, sizes.sum()))
    return order, axes, sets
