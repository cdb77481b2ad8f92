"""A context model of which weights of a layer are selected.

The selected weights cluster by output neuron (row), input (column), kernel, and kernel position; weights
that changed before change again; and the neurons that a layer updates are the inputs that the next one
updates. Each of these is an *effect*: the log ratio of the weights seen selected to those expected, so far.
The log odds of a weight are the layer's density plus the weighted effects. A layer is walked in 18 passes
that spread evenly over it, each coded as whole arrays with the effects of the passes before. Of a sparse
network only the deployed weights are there: to be walked over, seen and expected. All arithmetic is in
integers. See docs/update_format.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from utils.message.streams import LOGIT_ONE, log2_fixed
from utils.schema import Schema

CLASSES = 64  # weight j of row r is in class (23 j + 37 r) mod 64
PASS_ENDS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 33, 41, 51, 64)
PASS_STARTS = (0,) + PASS_ENDS[:-1]
WEIGHT_ONE = 16  # effect weights are signed bytes, in sixteenths
NUM_EFFECTS = 7  # level, row, column, kernel, kernel position, previous layer, changed before
DEFAULT_WEIGHTS = np.array([0, 19, 17, 14, 4, 3, 8])
_CACHED_SIZE = (
    1 << 16
)  # the passes of layers up to this size are remembered: most networks repeat a few shapes
_CLASS_OF = (23 * np.arange(CLASSES)[:, None] + 37 * np.arange(CLASSES)) % CLASSES  # [j mod 64, r mod 64]


@dataclass(frozen=True)
class Geometry:
    """A layer seen as rows (outputs) x columns (inputs) x kernel positions."""

    rows: int
    columns: int
    kernel: int

    @property
    def width(self) -> int:
        return self.columns * self.kernel

    @property
    def size(self) -> int:
        return self.rows * self.width


def geometries(schema: Schema) -> list[Geometry]:
    """How to see each layer. An fc layer on flattened channels has one column a channel, like a conv."""
    seen, previous_rows = [], 0
    for layer in schema.layers:
        rows, columns = layer.shape[:2]
        kernel = layer.size // (rows * columns)
        if len(layer.shape) == 2 and previous_rows and columns % previous_rows == 0:
            columns, kernel = previous_rows, columns // previous_rows
        seen.append(Geometry(rows, columns, kernel))
        previous_rows = rows
    return seen


@dataclass(frozen=True)
class Pass:
    """Some weights of a layer, in coding order, and how much of the layer the passes before have shown."""

    flat: np.ndarray
    row: np.ndarray
    column: np.ndarray
    position: np.ndarray  # in the kernel
    kernel_seen: np.ndarray  # weights seen of the kernel that each belongs to
    seen: np.ndarray  # weights seen by row, column, kernel position: (rows + columns + kernel,)


class Deployed:
    """The deployed weights of a layer of a sparse network, `mask` (size,) bool, in coding order."""

    def __init__(self, geometry: Geometry, mask: np.ndarray):
        flat = np.flatnonzero(mask)
        row, j = np.divmod(flat, geometry.width)
        class_ = (23 * j + 37 * row) % CLASSES
        order = np.argsort(class_, kind="stable")
        self.geometry, self.mask, self.flat = geometry, mask, flat[order]
        self.ends = np.searchsorted(class_[order], np.arange(CLASSES + 1))  # of the classes below each

    @property
    def size(self) -> int:
        return len(self.flat)

    def between(self, start: int, end: int) -> np.ndarray:
        """The weights of the classes from `start` to below `end`: class by class, row by row, left to right."""
        return self.flat[self.ends[start] : self.ends[end]]

    def shown(self, start: int) -> tuple[np.ndarray, np.ndarray]:
        """Weights of the classes below `start`, by row, column and kernel position in one array, and by kernel."""
        g = self.geometry
        row, column, position = _axes(g, *np.divmod(self.between(0, start), g.width))
        index = np.concatenate([row, g.rows + column, g.rows + g.columns + position])
        by_kernel = np.bincount(row * g.columns + column, minlength=g.rows * g.columns if g.kernel > 1 else 0)
        return np.bincount(index, minlength=g.rows + g.columns + g.kernel), by_kernel


def _axes(g: Geometry, row: np.ndarray, j: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and kernel position of the weights at places j of the given rows."""
    return row, *((j, 0 * j) if g.kernel == 1 else np.divmod(j, g.kernel))


def make_pass(
    geometry: Geometry, start: int, row: np.ndarray, j: np.ndarray, deployed: Deployed | None = None
) -> Pass:
    """The weights at places j of the given rows, once the classes below `start` were coded."""
    g, below = geometry, _CLASS_OF < start
    row, column, position = _axes(g, row, j)
    if deployed is not None:
        seen, by_kernel = deployed.shown(start)
        kernel_seen = by_kernel[row * g.columns + column] if g.kernel > 1 else position
        return Pass(row * g.width + j, row, column, position, kernel_seen, seen)
    all_j = np.arange(g.width) % CLASSES
    by_j = (below @ np.bincount(np.arange(g.rows) % CLASSES, minlength=CLASSES))[all_j].reshape(
        g.columns, g.kernel
    )
    by_row = (np.bincount(all_j, minlength=CLASSES) @ below)[np.arange(g.rows) % CLASSES]
    kernel_seen = position
    if g.kernel > 1:
        table = below[np.arange(CLASSES * g.kernel) % CLASSES].reshape(CLASSES, g.kernel, CLASSES).sum(axis=1)
        kernel_seen = table.reshape(-1)[(column & CLASSES - 1) * CLASSES + (row & CLASSES - 1)]
    seen = np.concatenate([by_row, by_j.sum(axis=1), by_j.sum(axis=0)])
    return Pass(row * g.width + j, row, column, position, kernel_seen, seen)


def passes(geometry: Geometry, deployed: Deployed | None = None) -> Iterator[Pass]:
    """The 18 passes over a layer. Within a pass: class by class, row by row, from left to right."""
    if deployed is not None:
        return _passes_over(deployed)
    if geometry.size <= _CACHED_SIZE:
        return iter(_remembered_passes(geometry))
    return _passes(geometry)


def _passes(geometry: Geometry) -> Iterator[Pass]:
    rows, steps = np.arange(geometry.rows), np.arange(0, geometry.width, CLASSES)
    for start, end in zip(PASS_STARTS, PASS_ENDS, strict=True):
        first = 39 * (np.arange(start, end)[:, None] - 37 * rows) % CLASSES  # 39 * 23 = 1 mod 64
        j = first[:, :, None] + steps
        inside = j < geometry.width
        row = np.broadcast_to(rows[:, None], j.shape)[inside]
        yield make_pass(geometry, start, row, j[inside])


def _passes_over(deployed: Deployed) -> Iterator[Pass]:
    for start, end in zip(PASS_STARTS, PASS_ENDS, strict=True):
        row, j = np.divmod(deployed.between(start, end), deployed.geometry.width)
        yield make_pass(deployed.geometry, start, row, j, deployed)


@lru_cache(maxsize=32)
def _remembered_passes(geometry: Geometry) -> tuple[Pass, ...]:
    return tuple(_passes(geometry))


class LayerState:
    """What coder and decoder know of a layer's mask while they walk over it.

    count: selected weights of the layer. previous: selected weights by row of the layer before, or None.
    changed: which weights of the base state differ from the initial ones. deployed: None for all weights.
    """

    def __init__(
        self,
        geometry: Geometry,
        count: int,
        previous: np.ndarray | None,
        changed: np.ndarray,
        deployed: Deployed | None = None,
    ):
        g = self.geometry = geometry
        self.deployed = deployed
        self.size = g.size if deployed is None else deployed.size
        self.count = count
        self.level = int(log2_fixed(count) - log2_fixed(self.size - count))
        self.previous = np.zeros(g.columns, dtype=np.int64)
        if previous is not None and len(previous) == g.columns:
            self.previous = self._effect(previous, previous.sum(), 1, g.columns)
        there = changed if deployed is None else changed[deployed.mask]
        self.changed = changed.astype(np.intp) if there.any() and not there.all() else None
        kernel = np.arange(g.kernel + 1)
        self.kernel_effect = self._effect(kernel, count, kernel[:, None], self.size).reshape(
            -1
        )  # [seen, selected]
        self.selected = np.zeros(g.rows + g.columns + g.kernel, dtype=np.int64)
        self.kernel_selected = np.zeros(g.rows * g.columns if g.kernel > 1 else 0, dtype=np.int64)
        self.changed_selected = np.zeros(2, dtype=np.int64)
        self.changed_seen = np.zeros(2, dtype=np.int64)

    @staticmethod
    def _effect(selected, total, seen, size) -> np.ndarray:
        """log2 of (selected + 1/4) / (expected + 1/4), when `total` of `size` weights are selected."""
        return log2_fixed((4 * selected + 1) * size) - log2_fixed(4 * seen * total + size)

    def effects(self, p: Pass) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """By number, each effect of this layer: its values in 1/256, and which a weight of the pass has."""
        g = self.geometry
        by_axis = self._effect(self.selected, self.count, p.seen, self.size)
        row, column, position = np.split(by_axis, (g.rows, g.rows + g.columns))
        effects = {1: (row, p.row), 2: (column, p.column), 5: (self.previous, p.column)}
        if g.kernel > 1:
            state = p.kernel_seen * (g.kernel + 1) + self.kernel_selected[p.row * g.columns + p.column]
            effects |= {3: (self.kernel_effect, state), 4: (position, p.position)}
        if self.changed is not None:
            by_flag = self._effect(self.changed_selected, self.count, self.changed_seen, self.size)
            effects[6] = (by_flag, self.changed[p.flat])
        return effects

    def logits(self, weights: np.ndarray, p: Pass) -> np.ndarray:
        """Log2 odds, in 1/256, that the weights of a pass are selected."""
        logits, level = 0, self.level + int(weights[0]) * LOGIT_ONE // WEIGHT_ONE
        for number, (values, which) in self.effects(p).items():
            logits += (level + int(weights[number]) * values // WEIGHT_ONE).take(which)
            level = 0
        return logits

    def learn(self, p: Pass, bits: np.ndarray) -> None:
        """Count what a pass has shown."""
        g, ones = self.geometry, np.flatnonzero(bits)
        row, column, position = p.row[ones], p.column[ones], p.position[ones]
        index = np.concatenate([row, g.rows + column, g.rows + g.columns + position])
        self.selected += np.bincount(index, minlength=len(self.selected))
        if g.kernel > 1:
            np.add.at(self.kernel_selected, row * g.columns + column, 1)
        if self.changed is not None:
            changed = self.changed[p.flat]
            self.changed_seen += np.bincount(changed, minlength=2)
            self.changed_selected += np.bincount(changed[ones], minlength=2)


def mask_passes(state: LayerState, weights: np.ndarray, coder, mask: np.ndarray | None) -> np.ndarray:
    """Pass the mask of one layer through `coder`; return it, False where nothing is deployed."""
    coded = np.zeros(state.geometry.size, dtype=bool)
    for p in passes(state.geometry, state.deployed):
        coded[p.flat] = bits = coder.bits(state.logits(weights, p), None if mask is None else mask[p.flat])
        state.learn(p, bits)
    return coded
