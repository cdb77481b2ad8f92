"""Where the updated weights are: the positions section of a message.

Per layer the encoder picks the cheaper of two ways: independent bits of the layer's density (a random mask has no
better code), or the context model. See docs/update_format.md.
"""

from __future__ import annotations

import numpy as np

from utils.message.geometry import geometries
from utils.message.position_model import LayerState, SparseLayer, mask_passes
from utils.message.streams import StreamWriter, SymbolModel, UpdateFormatError, code_lengths
from utils.schema import Schema

_COUNT_ALPHABET = 64  # twice the bit length of a count, plus whether the unselected are counted
_PLAIN_BITS = 1 << 16  # so many at once


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
    sizes = schema.layer_sizes(deployed)
    counts = code_counts(coder, sizes, None if mask is None else schema.layer_sizes(mask))
    parts = [np.zeros(0, dtype=bool)]
    seen = geometries(layer.shape for layer in schema.layers)
    for layer, g, size, count in zip(schema.layers, seen, sizes.tolist(), counts.tolist(), strict=True):
        given = None if mask is None else mask[layer.part]
        within = None if deployed is None else deployed[layer.part]
        if 0 < count < size:
            flipped = 2 * count > size  # then the weights that are not selected are coded
            sparse = None if within is None else SparseLayer(g, within)
            state = LayerState(g, size - count if flipped else count, changed[layer.part], sparse)
            given = None if given is None else _flip(given, flipped, within)
            part = _flip(_code_layer(coder, state, given), flipped, within)
            if np.count_nonzero(part) != count:
                raise UpdateFormatError(f"{part.sum()} weights are selected where {count} were announced")
        else:
            part = (np.ones(layer.size, dtype=bool) if within is None else within) & (count > 0)
        parts.append(part)
    return np.concatenate(parts)


def _flip(mask: np.ndarray, flipped: bool, within: np.ndarray | None) -> np.ndarray:
    """Return a mask or, if `flipped`, the rest of the layer's weights; of a sparse network, only those `within`."""
    mask = mask ^ flipped
    return mask if within is None else mask & within


def _code_layer(coder: StreamWriter, state: LayerState, mask: np.ndarray | None) -> np.ndarray:
    """Pass the mask of one layer through `coder` in the cheaper of the two ways; return it."""
    recorder = None
    if mask is not None:
        recorder = _Recorder()
        mask_passes(state, recorder, mask)
        costs = code_lengths(np.array([state.level, state.level]), np.array([False, True]))
        plain = costs @ (state.size - state.count, state.count) <= recorder.cost
        coder.raw(np.array([1]), np.array([not plain]))
    else:
        plain = not coder.raw(np.array([1]), None)[0]
    if plain:
        return _code_plain(coder, state, mask)
    if recorder is None:
        return mask_passes(state, coder, None)
    recorder.replay(coder)
    return mask


class _Recorder:
    """Takes what would go through a coder, and says what it costs."""

    def __init__(self):
        self.cost = 0.0
        self._recorded: list[tuple[np.ndarray, np.ndarray]] = []

    def bits(self, logits: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Record bits. Log odds are far from 2^15, and clipped below it when coded."""
        self.cost += float(code_lengths(logits, bits).sum())
        self._recorded.append((np.clip(logits, -(1 << 15), (1 << 15) - 1).astype(np.int16), bits))
        return bits

    def replay(self, coder: StreamWriter) -> None:
        """Code what was recorded."""
        for logits, bits in self._recorded:
            coder.bits(logits.astype(np.int64), bits)


def _code_plain(coder: StreamWriter, state: LayerState, mask: np.ndarray | None) -> np.ndarray:
    """Pass a mask through `coder` as independent bits of one density; return it."""
    coded = np.zeros(state.geometry.size, dtype=bool)
    within = np.ones(len(coded), dtype=bool) if state.sparse is None else state.sparse.mask
    for start in range(0, len(coded), _PLAIN_BITS):
        walked = start + np.flatnonzero(within[start : start + _PLAIN_BITS])
        level = np.full(len(walked), state.level)
        coded[walked] = coder.bits(level, None if mask is None else mask[walked])
    return coded
