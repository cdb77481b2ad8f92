"""Layers seen as rows, columns and kernel positions, and the order in which their weights are coded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isqrt, prod

import numpy as np

# Weight j of row r is in class (23 j + 37 r) mod 64, so that each class touches every row and column alike.
CLASSES = 64
_J_STEP, _ROW_STEP = 23, 37
# Larger ones count as columns: what a kernel's states may do to the odds is worked out for each of K^2 states.
LARGEST_KERNEL = 1024


@dataclass(frozen=True)
class Geometry:
    """A layer seen as rows (outputs) x columns (inputs) x kernel positions.

    pixels  whether the columns are the pixels of an image, of which neighbours are alike
    """

    rows: int
    columns: int
    kernel: int
    pixels: bool = False

    @property
    def width(self) -> int:
        """Weights in a row."""
        return self.columns * self.kernel

    @property
    def size(self) -> int:
        """Weights in the layer."""
        return self.rows * self.width

    @property
    def neighbours(self) -> tuple[int, ...]:
        """How far away a pixel's neighbours are: left and right and, in a square image, above and below."""
        if not self.pixels:
            return ()
        sides = [isqrt(self.columns // channels) for channels in (1, 3) if self.columns % channels == 0]
        side = next((side for side in sides if self.columns in (side * side, 3 * side * side)), 0)
        return (-1, 1, -side, side) if side > 1 else (-1, 1)


def geometries(shapes: Iterable[Sequence[int]]) -> list[Geometry]:
    """Return how to see layers of these shapes. One on flattened channels has a column a channel, like a conv."""
    seen, previous_rows = [], 0
    for shape in shapes:
        rows, columns = shape[:2]
        kernel = prod(shape[2:])
        if len(shape) == 2 and previous_rows > 1 and columns % previous_rows == 0:
            columns, kernel = previous_rows, columns // previous_rows
        if kernel > LARGEST_KERNEL:
            columns, kernel = columns * kernel, 1
        seen.append(Geometry(rows, columns, kernel, pixels=not seen and len(shape) == 2))
        previous_rows = rows
    return seen


def coding_class(row: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Return the class of the weights at places j of the given rows: they are coded in the order of their classes."""
    return (_J_STEP * j + _ROW_STEP * row) % CLASSES
