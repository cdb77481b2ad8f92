"""Where the updated weights are: the positions section of a message.

Per layer the encoder picks the cheapest of three ways: independent bits of the layer's density (a random
mask has no better code), the context model with its default effect weights, or with effect weights of its
own.
"""

from __future__ import annotations

import numpy as np

from utils.message.position_fit import code_length, fit_effect_weights
from utils.message.position_model import DEFAULT_WEIGHTS, NUM_EFFECTS, Deployed, LayerState, geometries, mask_passes
from utils.message.streams import SymbolModel, UpdateFormatError
from utils.schema import Schema

PLAIN, DEFAULT, FITTED = range(3)
_COUNT_ALPHABET = 64  # twice the bit length of a count, plus whether the unselected are counted
_EFFECT_BITS = 8


def code_counts(coder, schema: Schema, counts: np.ndarray | None, deployed: np.ndarray | None = None) -> np.ndarray:
    """How many weights of each layer are selected; of a sparse network's, `deployed` (I,) bool."""
    sizes = np.array([layer.size for layer in schema.layers], dtype=np.int64)
    if deployed is not None:
        sizes = np.array([deployed[layer.part].sum() for layer in schema.layers], dtype=np.int64)
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
    coder, schema: Schema, changed: np.ndarray, mask: np.ndarray | None, deployed: np.ndarray | None = None
) -> np.ndarray:
    """Pass a mask over all weights, (I,) bool, through `coder`; return it.

    `changed` says which weights of the base state differ from the initial ones. Of a sparse network, `deployed`
    says which weights are there: only these are coded, and no other may be in the mask.
    """
    layers, shapes = schema.layers, geometries(schema)
    there: list[Deployed | None] = [None] * len(layers)
    if deployed is not None:
        there = [Deployed(shape, deployed[layer.part]) for shape, layer in zip(shapes, layers, strict=True)]
    sizes = [shape.size if own is None else own.size for shape, own in zip(shapes, there, strict=True)]
    given = None if mask is None else [mask[layer.part] for layer in layers]
    counts = None if given is None else np.array([part.sum() for part in given], dtype=np.int64)
    counts = code_counts(coder, schema, counts, deployed)
    walked = [i for i, size in enumerate(sizes) if 0 < counts[i] < size]
    plans = None
    if given is not None:
        above = [None] + [_by_row(part, shape) for part, shape in zip(given, shapes, strict=True)]
        plans = [_Plan(shapes[i], given[i], above[i], changed[layers[i].part], there[i]) for i in walked]
    weights = dict(zip(walked, _code_effect_weights(coder, len(walked), plans), strict=True))
    replays = iter(plans or ())

    coded, previous = [np.zeros(0, dtype=bool)], None
    for i, layer in enumerate(layers):
        if i not in weights:
            part = np.ones(layer.size, dtype=bool) if there[i] is None else there[i].mask
            part = part & bool(counts[i])
        elif plans is not None:
            part = next(replays).replay(coder)
        else:
            state, flipped = _start(shapes[i], counts[i], previous, changed[layer.part], there[i])
            part = _inverted(mask_passes(state, weights[i], coder, None), flipped, there[i])
            if part.sum() != counts[i]:
                raise UpdateFormatError(f"{part.sum()} weights are selected where {counts[i]} were announced")
        previous = _by_row(part, shapes[i])
        coded.append(part)
    return np.concatenate(coded)


def _code_effect_weights(coder, num_layers: int, plans: list[_Plan] | None) -> list[np.ndarray]:
    """How each layer with a mixed mask is coded, as effect weights; plain coding is that with no effects."""
    methods = own = None
    if plans is not None:
        methods = np.array([plan.method for plan in plans], dtype=np.int64)
        fitted = [plan.weights for plan in plans if plan.method == FITTED]
        own = np.array(fitted, dtype=np.int64).reshape(-1) + 128
    methods = SymbolModel(3).code(coder, np.zeros(num_layers, dtype=np.int64), methods)
    own = coder.raw(np.full(NUM_EFFECTS * np.count_nonzero(methods == FITTED), _EFFECT_BITS), own)
    fitted = iter(own.reshape(-1, NUM_EFFECTS) - 128)
    fixed = {PLAIN: 0 * DEFAULT_WEIGHTS, DEFAULT: DEFAULT_WEIGHTS}
    return [next(fitted) if method == FITTED else fixed[method] for method in methods.tolist()]


def _by_row(mask: np.ndarray, shape) -> np.ndarray:
    return mask.reshape(shape.rows, -1).sum(axis=1)


def _start(shape, count: int, previous, changed, deployed: Deployed | None) -> tuple[LayerState, bool]:
    """Ready to walk over the selected weights or, where these are the majority, over the others."""
    size = shape.size if deployed is None else deployed.size
    flipped = bool(2 * count > size)
    return LayerState(shape, int(size - count if flipped else count), previous, changed, deployed), flipped


def _inverted(mask: np.ndarray, flipped: bool, deployed: Deployed | None) -> np.ndarray:
    """The weights that are not in `mask`, if `flipped`; of a sparse network only those that are there."""
    mask = mask ^ flipped
    return mask if deployed is None else mask & deployed.mask


class _Plan:
    """The encoder's choice for one layer. Records the coding, so that it can be compared and then sent."""

    def __init__(self, shape, mask: np.ndarray, previous, changed: np.ndarray, deployed: Deployed | None):
        self.mask, self._recorded = mask, []
        state, flipped = _start(shape, int(mask.sum()), previous, changed, deployed)
        walked = _inverted(mask, flipped, deployed)
        fitted, gain = fit_effect_weights(state, walked)
        self.method = FITTED if gain > NUM_EFFECTS * _EFFECT_BITS + 2 else DEFAULT
        self.weights = fitted if self.method == FITTED else DEFAULT_WEIGHTS
        state, _ = _start(shape, int(mask.sum()), previous, changed, deployed)
        mask_passes(state, self.weights, self, walked)
        length = sum(code_length(logits, bits) for logits, bits in self._recorded)
        length += NUM_EFFECTS * _EFFECT_BITS * (self.method == FITTED)
        plain = code_length(np.array([state.level]), np.array([False])) * (state.size - state.count)
        plain += code_length(np.array([state.level]), np.array([True])) * state.count
        if length >= plain:
            self.method = PLAIN
            self._recorded = [(np.full(len(bits), state.level), bits) for _, bits in self._recorded]

    def bits(self, logits: np.ndarray, bits: np.ndarray) -> np.ndarray:
        self._recorded.append((np.clip(logits, -(1 << 15), (1 << 15) - 1).astype(np.int16), bits))
        return bits

    def replay(self, coder) -> np.ndarray:
        for logits, bits in self._recorded:
            coder.bits(logits.astype(np.int64), bits)
        return self.mask
