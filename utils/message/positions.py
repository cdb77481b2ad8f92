"""Where the updated weights are: the positions section of a message.

Per layer the encoder picks the cheaper of two ways: independent bits of the layer's density (a random mask has no
better code), or the context model with its default effect weights. A message may also bring effect weights of its
own, which readers take and this encoder never chooses: see docs/update_format.md.
"""

from __future__ import annotations

import numpy as np

from utils.message.position_model import (
    DEFAULT_WEIGHTS,
    NUM_EFFECTS,
    Geometry,
    LayerState,
    SparseLayer,
    geometries,
    mask_passes,
)  # fmt: skip
from utils.message.streams import StreamWriter, SymbolModel, UpdateFormatError, code_length
from utils.schema import Schema

_PLAIN, _DEFAULT, _BROUGHT = range(3)
_COUNT_ALPHABET = 64  # twice the bit length of a count, plus whether the unselected are counted
_WEIGHT_BITS = 8


def code_counts(coder: StreamWriter, sizes: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
    """Pass through how many weights of each layer are selected, of `sizes` that it has; return it, int64."""
    symbols = smaller = None
    if counts is not None:
        flipped = 2 * counts > sizes
        smaller = np.where(flipped, sizes - counts, counts)
        symbols = 2 * np.frexp(smaller.astype(np.float64))[1] + flipped
    symbols = SymbolModel(_COUNT_ALPHABET).code(coder, np.zeros(len(sizes), dtype=np.int64), symbols)
    length = symbols // 2
    widths = np.maximum(length - 1, 0)
    low = coder.raw(widths, None if smaller is None else smaller & (1 << widths) - 1)
    smaller = np.where(length > 0, low + (1 << widths), 0)
    if (2 * smaller > sizes).any():
        raise UpdateFormatError("more weights are selected than a layer has")
    return np.where(symbols % 2, sizes - smaller, smaller)


def code_mask(
    coder: StreamWriter,
    schema: Schema,
    changed: np.ndarray,
    mask: np.ndarray | None,
    deployed: np.ndarray | None = None,
) -> np.ndarray:
    """Pass a mask over all weights, (I,) bool, through `coder`; return it.

    changed   which weights of the base are not the initial ones
    deployed  (I,) bool, the weights of a sparse network: only these are coded, and no other may be in the mask
    """
    layers, sizes = schema.layers, schema.layer_sizes(deployed)
    counts = code_counts(coder, sizes, None if mask is None else schema.layer_sizes(mask))
    # All ways come before all masks, in one array: so the writer plans every layer before it codes the first.
    walks, previous = [], None
    for layer, geometry, size, count in zip(layers, geometries(schema), sizes, counts, strict=True):
        sparse = None if deployed is None else SparseLayer(geometry, deployed[layer.part])
        walks.append(_Walk(geometry, int(size), int(count), changed[layer.part], sparse))
        if mask is not None:
            walks[-1].plan(mask[layer.part], previous)
            previous = walks[-1].by_row(mask[layer.part])
    _code_ways(coder, [walk for walk in walks if walk.mixed], planned=mask is not None)

    parts, previous = [np.zeros(0, dtype=bool)], None
    for walk in walks:
        parts.append(walk.replay(coder) if mask is not None else walk.read(coder, previous))
        previous = walk.by_row(parts[-1])
    return np.concatenate(parts)


class _Walk:
    """A layer's mask on its way through a coder: its selected weights or, where these are the majority, the others.

    The writer plans all layers first, with this object as the coder, and replays what was recorded into the stream.
    """

    def __init__(self, geometry: Geometry, size: int, count: int, changed: np.ndarray, sparse: SparseLayer | None):
        self.mixed = 0 < count < size
        self.way, self.effect_weights = _DEFAULT, DEFAULT_WEIGHTS
        self._geometry, self._sparse, self._changed = geometry, sparse, changed
        self._count, self._flipped = count, 2 * count > size
        self._walked = size - count if self._flipped else count
        self._mask: np.ndarray | None = None
        self._recorded: list[tuple[np.ndarray, np.ndarray]] = []

    def plan(self, mask: np.ndarray, previous: np.ndarray | None) -> None:
        """Choose the cheaper way to code `mask`, which lies below a layer with `previous` selected weights by row."""
        self._mask = mask
        if not self.mixed:
            return
        state = self._state(previous)
        mask_passes(state, DEFAULT_WEIGHTS, self, self._flip(mask))
        plain = [(np.full(len(bits), state.level, dtype=np.int16), bits) for _, bits in self._recorded]
        if sum(code_length(*p) for p in self._recorded) >= sum(code_length(*p) for p in plain):
            self.way, self._recorded = _PLAIN, plain

    def bits(self, logits: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Record what would go through a coder. Log odds are far from 2^15, and clipped below it when coded."""
        self._recorded.append((np.clip(logits, -(1 << 15), (1 << 15) - 1).astype(np.int16), bits))
        return bits

    def replay(self, coder: StreamWriter) -> np.ndarray:
        """Code the planned mask; return it."""
        for logits, bits in self._recorded:
            coder.bits(logits.astype(np.int64), bits)
        return self._mask

    def read(self, coder: StreamWriter, previous: np.ndarray | None) -> np.ndarray:
        """Return the mask that `coder` holds."""
        if not self.mixed:
            everything = np.ones(self._geometry.size, dtype=bool) if self._sparse is None else self._sparse.mask
            return everything & (self._count > 0)
        mask = self._flip(mask_passes(self._state(previous), self.effect_weights, coder, None))
        if mask.sum() != self._count:
            raise UpdateFormatError(f"{mask.sum()} weights are selected where {self._count} were announced")
        return mask

    def by_row(self, mask: np.ndarray) -> np.ndarray:
        """Return how many weights of each row are in `mask`."""
        return mask.reshape(self._geometry.rows, -1).sum(axis=1)

    def _state(self, previous: np.ndarray | None) -> LayerState:
        return LayerState(self._geometry, self._walked, previous, self._changed, self._sparse)

    def _flip(self, mask: np.ndarray) -> np.ndarray:
        mask = mask ^ self._flipped
        return mask if self._sparse is None else mask & self._sparse.mask


def _code_ways(coder: StreamWriter, walks: list[_Walk], planned: bool) -> None:
    """Pass through how each layer with a mixed mask is coded, as effect weights; plain coding has no effects."""
    ways = np.array([walk.way for walk in walks], dtype=np.int64) if planned else None
    ways = SymbolModel(3).code(coder, np.zeros(len(walks), dtype=np.int64), ways)
    brought = coder.raw(np.full(NUM_EFFECTS * np.count_nonzero(ways == _BROUGHT), _WEIGHT_BITS), None)
    brought = iter(brought.reshape(-1, NUM_EFFECTS) - (1 << _WEIGHT_BITS - 1))
    for walk, way in zip(walks, ways.tolist(), strict=True):
        walk.effect_weights = next(brought) if way == _BROUGHT else DEFAULT_WEIGHTS * (way == _DEFAULT)
