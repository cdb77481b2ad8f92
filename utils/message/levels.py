"""How quantised changes are coded: their magnitudes and signs, by what came before in row, column, kernel and layer.

Weights of one neuron move in the same direction more often than not, and by like amounts; so do those of one input, and
of one kernel. Values are visited in an order that spreads evenly over each layer, in blocks; all that a block is coded
with was counted in the blocks before. A magnitude is a class, half an octave wide, and a place within it.

All arithmetic is in integers: see position_model.py, and docs/update_format.md for every formula.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.message.geometry import CLASSES, Geometry, coding_class
from utils.message.streams import StreamWriter, SymbolModel, blocks, log2_fixed

_ROW, _COLUMN, _KERNEL, _OLD_SIGN, _NEIGHBOURS = 12, 8, 14, 6, 12  # how much each counts for a sign, in sixteenths
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


def code_levels(coder: StreamWriter, sites: Sites, old: np.ndarray, levels: int, q: np.ndarray | None) -> np.ndarray:
    """Pass quantised changes, -levels..levels, of the float32 values `old` through `coder`; return them, int64."""
    coded = np.zeros(len(old), dtype=np.int64)
    if not len(old):
        return coded
    order, axes, sets = _walk(sites)
    model = _LevelModel(levels, sites, axes)
    tensor, group, negative = sites.tensor[order], sites.group[order], (old.view(np.uint32) >> 31)[order]
    picture = _Picture(sites, order) if sites.geometries[0].neighbours else None
    for block in blocks(len(old)):
        at = order[block]
        old_sign = 1 - 2 * negative[block].astype(np.int64)
        given = None if q is None else q[at]
        near = None if picture is None else picture.near(block)
        seen = model.code_block(coder, tensor[block], group[block], old_sign, near, [s[block] for s in sets], given)
        coded[at] = seen
        if picture is not None:
            picture.show(block, seen)
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
        odds = self.sign_odds(which)
        return (excess.take(sets), odds.take(sets)) if few else (excess, odds)

    def sign_odds(self, which: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Return by set the weighted log odds of a positive sign."""
        return self.weight * balance(self.seen[which], self.signs[which])


def balance(seen: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Return log2, in 1/256, of how much more often signs were positive; half a sign is added to either side."""
    return log2_fixed(2 * (seen + signs) + 2) - log2_fixed(2 * (seen - signs) + 2)


class _Picture:
    """The signs so far of the levels of the layer that sees pixels, the first one, laid out as the layer is."""

    def __init__(self, sites: Sites, order: np.ndarray):
        self._distances, size = sites.geometries[0].neighbours, sites.geometries[0].size
        margin = max(self._distances)
        # Values of other layers are all in one place, far from the layer's.
        self._place = np.where(sites.tensor == 0, sites.index + margin, size + 3 * margin)[order]
        self._signs = np.zeros(size + 4 * margin + 1, dtype=np.int8)

    def near(self, block: slice) -> np.ndarray:
        """Return the sum of the signs of the neighbours of each value of a block, 0 in other layers."""
        place = self._place[block]
        return sum(self._signs.take(place + d) for d in self._distances).astype(np.int64)

    def show(self, block: slice, q: np.ndarray) -> None:
        """Take down the signs of the levels of a block."""
        self._signs[self._place[block]] = np.sign(q)


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
        self._by_near = _Counts(_NEIGHBOURS, np.arange(4))  # of signs against those of 1 to 4 more neighbours than not

    def code_block(
        self,
        coder: StreamWriter,
        tensor: np.ndarray,
        group: np.ndarray,
        old_sign: np.ndarray,
        near: np.ndarray | None,
        sets: list[np.ndarray],
        q: np.ndarray | None,
    ) -> np.ndarray:
        """Pass the levels of a block through `coder`; return them."""
        magnitude = given = None
        if q is not None:
            magnitude = np.abs(q)
            given = self._class_of[magnitude]
        scale = self._scale()
        likely, odds = scale[tensor], old_sign * self._by_group.sign_odds()[group]
        if near is not None:
            odds += np.sign(near) * self._by_near.sign_odds()[np.abs(near) - 1]
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
        if near is not None:
            self._by_near.add(np.abs(near) - 1, sign * np.sign(near), class_)
        return sign * magnitude

    def _scale(self) -> np.ndarray:
        """Return the mean class of each tensor so far, which starts from that of all."""
        counts = self._tensors
        of_all = (_ONE * counts.classes.sum() + _FIRST_SCALE) // (counts.seen.sum() + 1)
        return (_ONE * counts.classes + 4 * of_all) // (counts.seen + 4)

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
    small = np.int32 if sum(g.size for g in sites.geometries) < 1 << 31 else np.int64  # for a large, dense update
    width, rows, columns, kernel = (
        np.array([getattr(g, name) for g in sites.geometries], dtype=small)
        for name in ("width", "rows", "columns", "kernel")
    )
    row, column = np.divmod(sites.index.astype(small), width[sites.tensor])
    order = np.argsort(coding_class(row % CLASSES, column % CLASSES).astype(np.uint8), kind="stable")
    tensor, row, column = sites.tensor[order].astype(small), row[order], column[order]
    column //= kernel[tensor]
    axes, sets = [], []
    for weight, sizes, place in (
        (_ROW, rows, row),
        (_COLUMN, columns, column),
        (_KERNEL, rows * columns * (kernel > 1), row * columns[tensor] + column),
    ):
        starts, number = (np.cumsum(sizes) - sizes).astype(small), int(sizes.sum())
        if number:
            of_values = np.where(sizes[tensor] > 0, starts[tensor] + place, small(number))
            used = np.zeros(number + 1, dtype=bool)  # only sets that have values are kept
            used[of_values] = used[number] = True
            axes.append(_Counts(weight, np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)[used[:number]]))
            sets.append((np.cumsum(used, dtype=small) - small(1))[of_values])
    return order, axes, sets
