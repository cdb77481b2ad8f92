"""The body of an update message: the weights that are sent, their values, and the rest, either way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.message.container import MODES
from utils.message.masks import random_mask
from utils.message.values import MIN_STATISTICS_BITS, VALUE_BITS, CodedValues, Place, code_values, draft_values
from utils.schema import Schema


@dataclass
class Draft:
    """An update on the server, ready to be coded, and the state that it leads to."""

    selected: np.ndarray
    weights: CodedValues
    rest: CodedValues
    buffers: CodedValues
    result: np.ndarray


def draft_update(
    base: np.ndarray,
    new: np.ndarray,
    schema: Schema,
    *,
    mode: str,
    value_bits: int = 32,
    selected: np.ndarray | None = None,
    mask_seed: int | None = None,
    updating_ratio: float | None = None,
    deployed: np.ndarray | None = None,
    deploys: bool = False,
) -> Draft:
    """Choose what is sent, in which coded form, and what the edge makes of it; see message.encode_update."""
    if mode not in MODES or value_bits not in VALUE_BITS:
        raise ValueError(f"mode {mode!r}, value_bits {value_bits}; known are {MODES} and {VALUE_BITS}")
    for state in (base, new):
        if state.dtype != np.float32 or state.shape != (schema.size,):
            raise ValueError(f"a state is float32 of shape ({schema.size},), not {state.dtype} {state.shape}")
    if not np.isfinite(new).all():
        raise ValueError("the new state holds values that are not finite")
    check_deployment(mode, deployed, deploys)
    w = schema.num_weights
    background = _background(base, schema, mode)
    differs = differing(new[:w], background)
    if mode == "random":
        selected = random_mask([layer.size for layer in schema.layers], updating_ratio, mask_seed, deployed)
    elif mode == "dense":
        selected = np.arange(w) if deployed is None else np.flatnonzero(deployed)
    elif selected is None or (mode == "pruned" and not deploys):
        selected = np.flatnonzero(differs)
    stray = differs.copy()
    stray[selected] = False
    if stray.any():
        raise ValueError(f"{stray.sum()} weights outside the selection differ from the base")
    if deployed is not None and not deployed[selected].all():
        raise ValueError(f"{(~deployed[selected]).sum()} selected weights are not deployed")

    of_weights, of_rest, of_buffers = _places(schema, base, selected)
    weights, new_weights = draft_values(value_bits, of_weights, new[selected])
    if mode == "sparse":  # what does not change need not be sent
        kept = differing(new_weights, base[selected])
        selected, weights, new_weights = selected[kept], weights.keep(kept), new_weights[kept]
    rest, new_rest = draft_values(value_bits, of_rest, new[w : w + schema.num_rest])
    buffers, new_buffers = draft_values(
        max(value_bits, MIN_STATISTICS_BITS), of_buffers, new[w + schema.num_rest :]
    )
    result = np.concatenate([background, new_rest, new_buffers])
    result[selected] = new_weights
    if not np.isfinite(result).all():
        raise ValueError(f"the new state overflows in {value_bits} bits")
    return Draft(selected, weights, rest, buffers, result)


def code_state(
    schema: Schema,
    mode: str,
    value_bits: int,
    base: np.ndarray,
    selected: np.ndarray,
    values_coder,
    rest_coder,
    draft: Draft | None,
) -> np.ndarray:
    """Pass the values and the rest through their coders; return the resulting state, finite or not."""
    weights, rest, buffers = (None,) * 3 if draft is None else (draft.weights, draft.rest, draft.buffers)
    of_weights, of_rest, of_buffers = _places(schema, base, selected)
    with np.errstate(over="ignore", invalid="ignore"):
        new_weights = code_values(values_coder, value_bits, of_weights, weights)
        new_rest = code_values(rest_coder, value_bits, of_rest, rest)
        new_buffers = code_values(rest_coder, max(value_bits, MIN_STATISTICS_BITS), of_buffers, buffers)
    result = np.concatenate([_background(base, schema, mode), new_rest, new_buffers])
    result[selected] = new_weights
    return result


def differing(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two float32 arrays differ in their bits."""
    return a.view(np.uint32) != b.view(np.uint32)


def check_deployment(mode: str, deployed: np.ndarray | None, deploys: bool) -> None:
    """Raises ValueError if a message of this mode can neither make nor update such a sparse network."""
    if deploys and (mode != "pruned" or deployed is not None):
        raise ValueError("a sparse network is deployed once, by a pruned update")
    if deployed is not None and mode == "pruned":
        raise ValueError("a pruned update is not for a sparse network, which keeps its nonzero weights")


def _background(base: np.ndarray, schema: Schema, mode: str) -> np.ndarray:
    """What the weights are where nothing is sent."""
    return np.zeros(schema.num_weights, dtype=np.float32) if mode == "pruned" else base[: schema.num_weights]


def _places(schema: Schema, base: np.ndarray, selected: np.ndarray) -> tuple[Place, Place, Place]:
    """What both sides know of the values to be coded: selected weights, rest, buffers."""
    starts = [layer.start for layer in schema.layers]
    layer = np.searchsorted(starts, selected, side="right") - 1
    places, roles = [Place(base[selected], layer, layer)], {}
    for kind in ("rest", "buffer"):
        entries = schema.of_role(kind)
        names = [entry.name.rpartition(".")[2] for entry in entries]  # "bias", "running_var", ...
        groups = np.array([roles.setdefault(name, len(roles)) for name in names], dtype=np.int64)
        sizes = [entry.size for entry in entries]
        old = np.concatenate([base[:0], *(base[entry.part] for entry in entries)])
        tensor = np.repeat(np.arange(len(entries)), sizes)
        places.append(Place(old, np.repeat(groups, sizes), tensor, kind == "buffer"))
    return tuple(places)
