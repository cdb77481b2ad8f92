"""A context model of which weights of a layer are selected.

The selected weights cluster by output neuron (row), input (column), kernel, and kernel position in a row; weights that
changed before change again; and where the inputs are pixels, neighbours are alike. Each of these is an *effect*: the
log ratio of the weights seen selected to those expected, so far. The log odds of a weight are the layer's density plus
the weighted effects. A layer is walked in passes that spread evenly over it, each coded as whole arrays with the
effects of the passes before. Of a sparse network only the deployed weights are walked over, seen and expected.

All arithmetic is in integers: a reader must find the same odds as the writer to the last bit, on any processor and
with any version of numpy, and nobody promises that of a float64 logarithm. See docs/update_format.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from utils.message.geometry import CLASSES, Geometry
from utils.message.streams import StreamWriter, log2_fixed

# The first passes are short, for they know least; later ones, which add little, are long, for each costs a round of
# arrays. In a large layer each class is a pass: that bounds the memory that a pass takes.
PASS_ENDS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 33, 41, 51, 64)
LARGE_LAYER = 1 << 20
# How much each effect counts, in sixteenths.
WEIGHT_ONE = 16
ROW, COLUMN, CHANGED_BEFORE = 16, 15, 6
CONV_ROW, ROW_POSITION, KERNEL = 10, 10, 14  # where there are kernels
NEIGHBOURS, PIXEL, NEIGHBOURING_COLUMNS = 20, 9, 9  # a pixel's column counts less, for its neighbours say the same
_CACHED_SIZE = 1 << 16  # the passes of layers up to this size are remembered: most networks repeat a few shapes


def pass_ranges(size: int) -> list[tuple[int, int]]:
    """Return from which class to below which one each pass over a layer of `size` weights goes."""
    ends = PASS_ENDS if size <= LARGE_LAYER else range(1, CLASSES + 1)
    return list(zip((0, *ends[:-1]), ends, strict=True))


@dataclass(frozen=True)
class Pass:
    """Some weights of a layer, in coding order, and how much of the layer the passes before have shown."""

    flat: np.ndarray
    row: np.ndarray
    column: np.ndarray
    position: np.ndarray  # in the kernel
    kernel_seen: np.ndarray  # weights seen of the kernel that each belongs to
    seen: np.ndarray  # weights seen, by row, column and, if there are kernels, row and kernel position


def _count(g: Geometry, row: np.ndarray, column: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return how many of some weights are in each row, in each column, and at each kernel position of each row."""
    sets = [(row, g.rows), (column, g.columns), (row * g.kernel + position, g.rows * g.kernel)]
    return np.concatenate([np.bincount(numbers, minlength=size) for numbers, size in sets[: 3 if g.kernel > 1 else 2]])


def _passes(g: Geometry, deployed: np.ndarray | None = None) -> Iterator[Pass]:
    """Yield the passes over a layer, or over its `deployed` weights, (size,) bool.

    Within a pass: class by class, row by row, from left to right.
    """
    rows, steps = np.arange(g.rows), np.arange(0, g.width, CLASSES)
    seen, by_kernel = _count(g, *[rows[:0]] * 3), np.zeros(g.rows * g.columns if g.kernel > 1 else 0, dtype=np.int64)
    for start, end in pass_ranges(g.size):
        first = 39 * (np.arange(start, end)[:, None] - 37 * rows) % CLASSES  # 39 * 23 = 1 mod 64
        j = first[:, :, None] + steps
        inside = j < g.width
        row, j = np.broadcast_to(rows[:, None], j.shape)[inside], j[inside]
        if deployed is not None:
            there = deployed[row * g.width + j]
            row, j = row[there], j[there]
        column, position = (j, np.broadcast_to(0, j.shape)) if g.kernel == 1 else np.divmod(j, g.kernel)
        kernel_seen = position
        if g.kernel > 1:
            kernel = row * g.columns + column
            kernel_seen = by_kernel[kernel]
        yield Pass(row * g.width + j, row, column, position, kernel_seen, seen.copy())
        seen += _count(g, row, column, position)
        if g.kernel > 1:
            np.add.at(by_kernel, kernel, 1)


@lru_cache(maxsize=32)
def _remembered_passes(geometry: Geometry) -> tuple[Pass, ...]:
    return tuple(_passes(geometry))


class LayerState:
    """What coder and decoder know of a layer's mask while they walk over it.

    count     selected weights of the layer
    changed   which weights of the base state differ from the initial ones
    deployed  the weights of a sparse network, (size,) bool; None: all
    """

    def __init__(self, geometry: Geometry, count: int, changed: np.ndarray, deployed: np.ndarray | None = None):
        g = self.geometry = geometry
        self.deployed = deployed
        self.size = g.size if deployed is None else int(np.count_nonzero(deployed))
        self.count = count
        # The log2 odds, in 1/256, that a weight is selected: some are, but not all.
        self.level = int(log2_fixed(count) - log2_fixed(self.size - count))
        walked = changed if deployed is None else changed[deployed]
        self.changed = changed if walked.any() and not walked.all() else None
        kernel = np.arange(g.kernel + 1)
        # A kernel has so few states, [seen, selected], that their effects are worked out once.
        self.kernel_effect = weighted(KERNEL, self._effect(kernel, count, kernel[:, None], self.size).reshape(-1))
        nothing = np.zeros(0, dtype=np.int64)
        self.selected = _count(g, nothing, nothing, nothing)
        self.kernel_selected = np.zeros(g.rows * g.columns if g.kernel > 1 else 0, dtype=np.int64)
        self.changed_selected = np.zeros(2, dtype=np.int64)
        self.changed_seen = np.zeros(2, dtype=np.int64)
        if g.neighbours:
            # Of each weight: 1 if it was seen, 17 if it is selected, too. So a sum over at most four neighbours is
            # 16 n + m, with n of them selected of m seen.
            margin = max(g.neighbours)
            shown = np.zeros(g.size + 2 * margin, dtype=np.uint8)
            self.shown, *self.shown_near = (shown[margin + d : margin + d + g.size] for d in (0, *g.neighbours))
            n, m = np.divmod(np.arange(16 * 5), 16)
            self.near_effect = weighted(NEIGHBOURS, self._effect(n, count, m, self.size))

    def passes(self) -> Iterator[Pass]:
        """Return the passes over the layer."""
        if self.deployed is None and self.geometry.size <= _CACHED_SIZE:
            return iter(_remembered_passes(self.geometry))
        return _passes(self.geometry, self.deployed)

    @staticmethod
    def _effect(selected, total, seen, size) -> np.ndarray:
        """Return log2 of (selected + 1/4) / (expected + 1/4), when `total` of `size` weights are selected.

        The quarters, multiplied out, keep it finite where nothing was seen yet, where it is 0.
        """
        return log2_fixed((4 * selected + 1) * size) - log2_fixed(4 * seen * total + size)

    def logits(self, p: Pass) -> np.ndarray:
        """Return the log2 odds, in 1/256, that the weights of a pass are selected."""
        g = self.geometry
        by_axis = self._effect(self.selected, self.count, p.seen, self.size)
        columns = slice(g.rows, g.rows + g.columns)
        row, column, by_position = by_axis[: g.rows], by_axis[columns], by_axis[columns.stop :]
        # Weighted and rounded in the short tables, not weight by weight.
        column = weighted(PIXEL if g.neighbours else COLUMN, column)
        if g.neighbours:
            selected, seen = self._near_columns(self.selected[columns]), self._near_columns(p.seen[columns])
            column = column + weighted(NEIGHBOURING_COLUMNS, self._effect(selected, self.count, seen, self.size))
        logits = (self.level + weighted(CONV_ROW if g.kernel > 1 else ROW, row)).take(p.row) + column.take(p.column)
        if g.neighbours:
            logits += self.near_effect.take(sum(shown.take(p.flat) for shown in self.shown_near))
        if g.kernel > 1:
            state = p.kernel_seen * (g.kernel + 1) + self.kernel_selected[p.row * g.columns + p.column]
            logits += self.kernel_effect.take(state)
            logits += weighted(ROW_POSITION, by_position).take(p.row * g.kernel + p.position)
        if self.changed is not None:
            by_flag = self._effect(self.changed_selected, self.count, self.changed_seen, self.size)
            logits += weighted(CHANGED_BEFORE, by_flag).take(self.changed[p.flat])
        return logits

    def _near_columns(self, counts: np.ndarray) -> np.ndarray:
        """Return for each column the sum over its neighbours."""
        margin = max(self.geometry.neighbours)
        padded = np.pad(counts, margin)
        return sum(padded[margin + d : margin + d + len(counts)] for d in self.geometry.neighbours)

    def learn(self, p: Pass, bits: np.ndarray) -> None:
        """Count what a pass has shown."""
        g, ones = self.geometry, np.flatnonzero(bits)
        row, column = p.row[ones], p.column[ones]
        self.selected += _count(g, row, column, p.position[ones])
        if g.kernel > 1:
            np.add.at(self.kernel_selected, row * g.columns + column, 1)
        if g.neighbours:
            self.shown[p.flat] = 1 + 16 * bits.astype(np.uint8)
        if self.changed is not None:
            changed = self.changed[p.flat].astype(np.intp)
            self.changed_seen += np.bincount(changed, minlength=2)
            self.changed_selected += np.bincount(changed[ones], minlength=2)


def weighted(weight: int, effect: np.ndarray) -> np.ndarray:
    """Return weight / 16 of an effect, rounded down."""
    return weight * effect // WEIGHT_ONE


def mask_passes(state: LayerState, coder: StreamWriter, mask: np.ndarray | None) -> np.ndarray:
    """Pass the mask of one layer through `coder`; return it, False where nothing is deployed."""
    coded = np.zeros(state.geometry.size, dtype=bool) if mask is None else mask
    for p in state.passes():
        bits = coder.bits(state.logits(p), None if mask is None else mask[p.flat])
        if mask is None:
            coded[p.flat] = bits
        state.learn(p, bits)
    return coded
