"""The random masks of RPU, which server and edge draw alike from a seed, so that no position travels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw_mask(layer_sizes: Sequence[int], updating_ratio: float, generator: np.random.RandomState) -> np.ndarray:
    """Return RPU's mask: sorted int64 indices of round(k n_l) random weights of each layer l."""
    start, selected = 0, [np.zeros(0, dtype=np.int64)]
    for size in layer_sizes:
        count = round(updating_ratio * size)
        selected.append(start + np.sort(generator.permutation(size)[:count]))
        start += size
    return np.concatenate(selected)


def random_mask(
    layer_sizes: Sequence[int], updating_ratio: float, seed: int, deployed: np.ndarray | None = None
) -> np.ndarray:
    """Return RPU's mask, the same on server and edge: numpy's RandomState is frozen across versions (NEP 19).

    deployed: draw among these weights alone, (I,) bool.
    """
    generator = np.random.RandomState(seed)
    if deployed is None:
        return draw_mask(layer_sizes, updating_ratio, generator)
    places = np.flatnonzero(deployed)
    return places[draw_mask(sizes_within(layer_sizes, places), updating_ratio, generator)]


def sizes_within(layer_sizes: Sequence[int], places: np.ndarray) -> list[int]:
    """Return how many of the weights at ascending `places` are in each layer."""
    edges = np.searchsorted(places, np.cumsum([0, *layer_sizes]))
    return np.diff(edges).tolist()
