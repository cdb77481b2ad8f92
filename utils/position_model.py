"""Which weights a message updates: a context model of the mask.

The selected weights of a layer cluster by output neuron (row), input (column), kernel, and kernel position; weights
that changed before change again; and the neurons that a layer updates are the inputs that the next one updates.
Each of these is an *effect*: the log ratio of the weights seen selected to those expected, so far. The log odds of
a weight are the layer's density plus the weighted effects. A layer is walked in 18 passes that spread evenly
over it, each coded as whole arrays with the effects of the passes before. See docs/update_format.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.entropy_coding import LOGIT_ONE, log2_fixed
from utils.schema import Schema

CLASSES = 64  # weight j of row r is in class (23 j + 37 r) mod 64
PASS_ENDS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 18, 22, 27, 33, 41, 51, 64)
WEIGHT_ONE = 16  # effect weights are signed bytes, in sixteenths
NUM_EFFECTS = 7  # level, row, column, kernel, kernel position, previous layer, changed before
DEFAULT_WEIGHTS = np.array([0, 19, 17, 14, 4, 3, 8])


@dataclass
class Geometry:
    """A layer seen as rows (outputs) x columns (inputs) x kernel positions."""

    rows: int
    columns: int
    kernel: int

    @property
    def width(self) -> int:
        return self.columns * self.kernel


def geometries(schema: Schema) -> list[Geometry]:
    """How to see each layer. An fc layer on flattened channels has one column a channel, like a conv layer."""
    seen, previous_rows = [], 0
    for layer in schema.layers:
        rows, columns = layer.shape[:2]
        kernel = layer.size // (rows * columns)
        if len(layer.shape) == 2 and previous_rows and columns % previous_rows == 0:
            columns, kernel = previous_rows, columns // previous_rows
        seen.append(Geometry(rows, columns, kernel))
        previous_rows = rows
    return seen


def ratio_effect(count, total, part, whole) -> np.ndarray:
    """log2 of (count + 1/4) / (expected + 1/4), where `total` of `whole` are selected and `part` were seen."""
    return log2_fixed((4 * count + 1) * whole) - log2_fixed(4 * part * total + whole)


class LayerWalk:
    """The passes over one layer: which weights each visits, and the effects known when it begins."""

    def __init__(self, geometry: Geometry, count: int, previous: np.ndarray | None, changed: np.ndarray):
        g, self.geometry, self.count, self.size = geometry, geometry, count, geometry.rows * geometry.width
        self.level = int(log2_fixed(max(count, 1)) - log2_fixed(max(self.size - count, 1)))
        self.previous = np.zeros(g.columns, dtype=np.int64)
        if previous is not None and len(previous) == g.columns:
            self.previous = ratio_effect(previous, previous.sum(), 1, g.columns)
        self.changed = changed if changed.any() and not changed.all() else None
        self.j_column = np.arange(g.width) // g.kernel
        self.j_kernel = np.arange(g.width) % g.kernel
        self.selected = [np.zeros(n, dtype=np.int64) for n in (g.rows, g.columns, g.rows * g.columns, g.kernel, 2)]
        self.seen_changed = np.zeros(2, dtype=np.int64)
        self._row_residues = np.bincount(np.arange(g.rows) % CLASSES, minlength=CLASSES)
        self._j_residues = np.bincount(np.arange(g.width) % CLASSES, minlength=CLASSES)
        self._classes = (23 * np.arange(CLASSES)[:, None] + 37 * np.arange(CLASSES)) % CLASSES

    def members(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and in-row places of the weights in classes first..last-1: class by class, row by row."""
        g, rows, places = self.geometry, [], []
        row = np.arange(g.rows)
        steps = np.arange(0, g.width, CLASSES)
        for c in range(first, last):
            place = (39 * (c - 37 * row) % CLASSES)[:, None] + steps  # 39 * 23 = 1 mod 64
            inside = place < g.width
            rows.append(np.broadcast_to(row[:, None], place.shape)[inside])
            places.append(place[inside])
        return np.concatenate(rows), np.concatenate(places)

    def effects(self, end: int) -> list[np.ndarray]:
        """Per row, column, kernel, kernel position, column (from the previous layer), and changed flag."""
        g, c, n = self.geometry, self.count, self.size
        below = self._classes < end  # [j mod 64, row mod 64]
        by_place = (below @ self._row_residues)[np.arange(g.width) % CLASSES]
        seen_row = (self._j_residues @ below)[np.arange(g.rows) % CLASSES]
        seen_column = by_place.reshape(g.columns, g.kernel).sum(axis=1)
        kernel = np.zeros(1, dtype=np.int64)
        if g.kernel > 1:
            residue = np.arange(min(g.columns, CLASSES) * g.kernel) % CLASSES
            seen = below[residue].reshape(-1, g.kernel, CLASSES).sum(axis=1)  # [column mod 64, row mod 64]
            seen = seen[np.arange(g.columns) % CLASSES][:, np.arange(g.rows) % CLASSES].T
            kernel = ratio_effect(self.selected[2], c, seen.reshape(-1), n)
        by_kernel = by_place.reshape(g.columns, g.kernel).sum(axis=0)
        return [
            ratio_effect(self.selected[0], c, seen_row, n),
            ratio_effect(self.selected[1], c, seen_column, n),
            kernel,
            ratio_effect(self.selected[3], c, by_kernel, n),
            self.previous,
            ratio_effect(self.selected[4], c, self.seen_changed, n),
        ]

    def logits(self, weights: np.ndarray, end: int, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Log2 odds, in 1/256, of the given weights; `end` is the number of classes seen."""
        g = self.geometry
        row, column, kernel, position, previous, changed = (
            weight * effect // WEIGHT_ONE for weight, effect in zip(weights[1:], self.effects(end))
        )
        plane = (row[:, None] + (column + previous)[None, :]).reshape(-1)
        level = self.level + int(weights[0]) * LOGIT_ONE // WEIGHT_ONE
        if g.kernel == 1:
            logits = plane[rows * g.columns + places] + level
        else:
            logits = (plane + kernel)[rows * g.columns + self.j_column[places]]
            logits += (position + level)[self.j_kernel[places]]
        if self.changed is not None:
            logits += changed[self.changed[rows * g.width + places].astype(np.intp)]
        return logits

    def learn(self, rows: np.ndarray, places: np.ndarray, bits: np.ndarray) -> None:
        """Count what a pass has shown."""
        g = self.geometry
        r, j = rows[bits], places[bits]
        column, kernel = self.j_column[j], self.j_kernel[j]
        indices = [r, column, r * g.columns + column, kernel]
        if self.changed is not None:
            indices.append(self.changed[r * g.width + j].astype(np.intp))
            flags = self.changed[rows * g.width + places]
            self.seen_changed += np.bincount(flags, minlength=2)
        for counts, index in zip(self.selected, indices):
            counts += np.bincount(index, minlength=len(counts))


def mask_passes(walk: LayerWalk, weights: np.ndarray, coder, mask: np.ndarray | None) -> np.ndarray:
    """Pass the mask of one layer through `coder`; return it."""
    coded = np.zeros(walk.size, dtype=bool)
    for start, end in zip((0,) + PASS_ENDS[:-1], PASS_ENDS):
        rows, places = walk.members(start, end)
        flat = rows * walk.geometry.width + places
        logits = walk.logits(weights, start, rows, places)
        coded[flat] = bits = coder.bits(logits, None if mask is None else mask[flat])
        walk.learn(rows, places, bits)
    return coded
