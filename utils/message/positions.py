"""Where the updated weights are: the positions section of a message.

Per layer the encoder picks the cheaper of two ways: independent bits of the layer's density (a random mask has no
better code), or the context model. See docs/update_format.md.
"""

from __future__ import annotations

import numpy as np

from utils.message.geometry import geometries
from utils.message.position_model import LayerState, mask_passes
from utils.message.streams import StreamWriter, SymbolModel, UpdateFormatError, code_lengths
from utils.schema import Schema

_PLAIN, _BY_MODEL = range(2)
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
    length, flipped = symbols // 2, symbols % 2
    widths = np.maximum(length - 1, 0)
    low = coder.raw(widths, None if smaller is None else smaller & (1 << widths) - 1)
    smaller = np.where(length > 0, low + (1 << widths), 0)
    if (2 * smaller + flipped > sizes).any():  # of equal halves, the selected ones are counted
        raise UpdateFormatError("more weights are selected than a layer has, or other ones are counted than the fewer")
    return np.where(flipped, sizes - smaller, smaller)


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
    coded = np.zeros(schema.num_weights, dtype=bool) if mask is None else mask
    seen = geometries(layer.shape for layer in schema.layers)
    for layer, g, size, count in zip(schema.layers, seen, sizes.tolist(), counts.tolist(), strict=True):
        within = None if deployed is None else deployed[layer.part]
        if not 0 < count < size:
            if mask is None and count:
                coded[layer.part] = True if within is None else within
            continue
        flipped = 2 * count > size  # then the weights that are not selected are coded
        state = LayerState(g, size - count if flipped else count, changed[layer.part], within)
        if mask is not None:
            _write_layer(coder, state, _flip(mask[layer.part], flipped, within))
            continue
        read = mask_passes if coder.raw(np.array([1]), None)[0] == _BY_MODEL else _code_plain
        part = coded[layer.part] = _flip(read(state, coder, None), flipped, within)
        if np.count_nonzero(part) != count:
            raise UpdateFormatError(f"{np.count_nonzero(part)} weights are selected where {count} were announced")
    return coded


def _flip(mask: np.ndarray, flipped: bool, within: np.ndarray | None) -> np.ndarray:
    """Return a mask or, if `flipped`, the rest of the layer's weights; of a sparse network, only those `within`."""
    if not flipped:
        return mask
    return ~mask if within is None else ~mask & within


def _write_layer(coder: StreamWriter, state: LayerState, mask: np.ndarray) -> None:
    """Code the mask of one layer in the cheaper of the two ways: by the model or, if that costs more, plainly."""
    before = coder.mark()
    coder.raw(np.array([1]), np.array([_BY_MODEL]))
    meter = _Meter(coder)
    mask_passes(state, meter, mask)
    costs = code_lengths(np.array([state.level, state.level]), np.array([False, True]))
    if meter.cost >= costs @ (state.size - state.count, state.count):
        coder.back_to(before)
        coder.raw(np.array([1]), np.array([_PLAIN]))
        _code_plain(state, coder, mask)


class _Meter:
    """Hands bits on to a coder, and says what they cost."""

    def __init__(self, coder: StreamWriter):
        self.cost, self._coder = 0.0, coder

    def bits(self, logits: np.ndarray, bits: np.ndarray) -> np.ndarray:
        """Code bits whose log2 odds of being 1 are logits / 256."""
        self.cost += float(code_lengths(logits, bits).sum())
        return self._coder.bits(logits, bits)


def _code_plain(state: LayerState, coder: StreamWriter, mask: np.ndarray | None) -> np.ndarray:
    """Pass a mask through `coder` as independent bits of one density; return it."""
    coded = np.zeros(state.geometry.size, dtype=bool)
    for start in range(0, len(coded), _PLAIN_BITS):
        walked = np.arange(start, min(start + _PLAIN_BITS, len(coded)))
        if state.deployed is not None:
            walked = walked[state.deployed[walked]]
        level = np.full(len(walked), state.level)
        coded[walked] = coder.bits(level, None if mask is None else mask[walked])
    return coded
