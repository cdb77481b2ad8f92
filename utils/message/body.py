"""The body of an update message: the weights that are sent, their values, and the rest, either way.

The server makes a `Draft`: what to send, in coded form, and the state that the edge will make of it. Below 32 bits
that is another state than the trained one, and the server must go on from exactly that one: it validates on the
draft's result, and builds the next update on it. Else the losses of many rounds would add up unseen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from utils.message.base import Base, Shared
from utils.message.container import KINDS
from utils.message.geometry import Geometry, geometries
from utils.message.levels import Sites
from utils.message.masks import random_mask
from utils.message.streams import StreamWriter
from utils.message.values import MIN_STATISTICS_BITS, VALUE_BITS, CodedValues, Place, code_values, draft_values
from utils.schema import Schema


@dataclass(frozen=True)
class Coding:
    """How a message names the weights that it sends, and how it codes their values.

    kind            "sparse": the positions of the selected weights are coded
                    "random": `round(k n_l)` weights of each layer l, drawn on both sides from a seed that is sent
                    "dense": all weights
                    "pruned": the positions of the nonzero weights are coded, all others become zero
    value_bits      32 is lossless; 16, 8, 6, 5 and 4 see docs/update_format.md
    updating_ratio  k of "random"
    deploys         "pruned" only: from now on, the weights that are sent are the only ones of the network
    most_bytes      that the message may have; None: any number
    Raises ValueError for an unknown kind or number of bits, and if another kind deploys.
    """

    kind: str
    value_bits: int = 32
    updating_ratio: float | None = None
    deploys: bool = False
    most_bytes: int | None = None

    def __post_init__(self):
        if self.kind not in KINDS or self.value_bits not in VALUE_BITS:
            known = f"known are {KINDS} and {VALUE_BITS}"
            raise ValueError(f"kind {self.kind!r}, value_bits {self.value_bits}; {known}")
        if self.deploys and self.kind != "pruned":
            raise ValueError("a sparse network is deployed once, by a pruned update")


@dataclass(frozen=True)
class Draft:
    """An update on the server, ready to be encoded.

    shared, base, coding, mask_seed   what it was made of
    start      the state that it builds on
    selected   the weights whose values are sent, sorted int64
    weights, rest, buffers            their values, and those of all else, in coded form
    result     the state that the edge will hold
    """

    shared: Shared
    base: Base
    coding: Coding
    mask_seed: int | None
    start: np.ndarray
    selected: np.ndarray
    weights: CodedValues
    rest: CodedValues
    buffers: CodedValues
    result: np.ndarray

    def as_sparse(self) -> Draft:
        """Return the same update without the weights that stay what they are, also when rounded; sparse."""
        kept = differing(self.result[self.selected], self.start[self.selected])
        coding, weights = replace(self.coding, kind="sparse"), replace(self.weights, numbers=self.weights.numbers[kept])
        return replace(self, coding=coding, selected=self.selected[kept], weights=weights)


def draft_update(
    shared: Shared,
    new: np.ndarray,
    coding: Coding,
    base: Base = Base(),  # noqa: B008, frozen
    selected: np.ndarray | None = None,
    mask_seed: int | None = None,
) -> Draft:
    """Choose what is sent to turn the network that a node with `shared` builds on into `new`, and what comes of it.

    new        float32 (schema.size,)
    selected   ascending: the weights that may differ ("sparse"; default: those that do) or stay (where it deploys)
    mask_seed  of kind "random", 32 bits
    Raises ValueError if `new` is not finite, or differs where the kind says that it must not, or `selected` is no such.
    """
    schema, deployed, kind = shared.schema, shared.deployed, coding.kind
    start = shared.state(base)
    for state in (start, new):
        if state.dtype != np.float32 or state.shape != (schema.size,):
            raise ValueError(f"a state is float32 of shape ({schema.size},), not {state.dtype} {state.shape}")
    if not np.isfinite(new).all():
        raise ValueError("the new state holds values that are not finite")
    if deployed is not None and coding.deploys:
        raise ValueError("a sparse network is deployed once, by a pruned update")
    if deployed is not None and kind == "pruned":
        raise ValueError("a pruned update is not for a sparse network, which keeps its nonzero weights")

    w = schema.num_weights
    background = _background(schema, kind, start)
    differs = differing(new[:w], background)
    if kind == "random":
        selected = random_mask(schema.layer_sizes(), coding.updating_ratio, mask_seed, deployed)
    elif kind == "dense":
        selected = schema.weight_indices(deployed)
    elif selected is None or (kind == "pruned" and not coding.deploys):
        selected = np.flatnonzero(differs)
    if (selected[1:] <= selected[:-1]).any():
        raise ValueError("the selected weights are not in ascending order")
    stray = differs.copy()
    stray[selected] = False
    if stray.any():
        raise ValueError(f"{stray.sum()} weights outside the selection differ from the base")
    if deployed is not None and not deployed[selected].all():
        raise ValueError(f"{(~deployed[selected]).sum()} selected weights are not deployed")

    bits, statistics_bits = coding.value_bits, max(coding.value_bits, MIN_STATISTICS_BITS)
    of_weights, of_rest, of_buffers = _places(schema, start, selected)
    weights, new_weights = draft_values(bits, of_weights, new[selected])
    rest, new_rest = draft_values(bits, of_rest, new[w : w + schema.num_rest])
    buffers, new_buffers = draft_values(statistics_bits, of_buffers, new[w + schema.num_rest :])
    result = np.concatenate([background, new_rest, new_buffers])
    result[selected] = new_weights
    if not np.isfinite(result).all():
        raise ValueError(f"the new state overflows in {bits} bits")
    draft = Draft(shared, base, coding, mask_seed, start, selected, weights, rest, buffers, result)
    return draft.as_sparse() if kind == "sparse" else draft


def code_state(
    schema: Schema,
    kind: str,
    value_bits: int,
    start: np.ndarray,
    selected: np.ndarray,
    coders: tuple[StreamWriter, StreamWriter],
    draft: Draft | None = None,
) -> np.ndarray:
    """Pass the values and the rest through their coders; return the resulting state, finite or not."""
    values_coder, rest_coder = coders
    weights, rest, buffers = (None,) * 3 if draft is None else (draft.weights, draft.rest, draft.buffers)
    of_weights, of_rest, of_buffers = _places(schema, start, selected)
    with np.errstate(over="ignore", invalid="ignore"):
        new_weights = code_values(values_coder, value_bits, of_weights, weights)
        new_rest = code_values(rest_coder, value_bits, of_rest, rest)
        new_buffers = code_values(rest_coder, max(value_bits, MIN_STATISTICS_BITS), of_buffers, buffers)
    if draft is not None:
        return draft.result
    result = np.concatenate([_background(schema, kind, start), new_rest, new_buffers])
    result[selected] = new_weights
    return result


def differing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return where two float32 arrays differ in their bits: -0.0 is not +0.0, and a NaN equals itself."""
    return a.view(np.uint32) != b.view(np.uint32)


def _background(schema: Schema, kind: str, start: np.ndarray) -> np.ndarray:
    """Return what the weights are where nothing is sent."""
    return np.zeros(schema.num_weights, dtype=np.float32) if kind == "pruned" else start[: schema.num_weights]


def _places(schema: Schema, start: np.ndarray, selected: np.ndarray) -> tuple[Place, Place, Place]:
    """Return what both sides know of the values to be coded: selected weights, rest, buffers."""
    starts = np.array([layer.start for layer in schema.layers], dtype=np.int64)
    layer = np.searchsorted(starts, selected, side="right") - 1
    seen = geometries(layer.shape for layer in schema.layers)
    of_weights = Sites(layer, selected - starts[layer], layer, seen)
    places, groups = [Place(start[selected], of_weights)], {}
    for role in ("rest", "buffer"):
        entries = schema.of_role(role)
        # Biases have statistics of their own, and so have running variances: the last part of a name tells.
        names = [entry.name.rpartition(".")[2] for entry in entries]
        group = np.array([groups.setdefault(name, len(groups)) for name in names], dtype=np.int64)
        tensor = np.repeat(np.arange(len(entries)), [entry.size for entry in entries])
        old = np.concatenate([start[:0], *(start[entry.part] for entry in entries)])
        index = np.concatenate([tensor[:0], *(np.arange(entry.size) for entry in entries)])
        sites = Sites(tensor, index, group[tensor], [Geometry(1, entry.size, 1) for entry in entries])
        variance = np.array([name == "running_var" for name in names], dtype=bool)[tensor]
        places.append(Place(old, sites, variance if role == "buffer" else None))
    return tuple(places)
