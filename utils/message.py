"""The update message: what a server sends so that the edge node's network becomes its own.

`encode_update` makes a message, `decode_update` checks and reads it, `apply_losses` tells the server, without coding
anything, which network the edge will hold. Needs numpy and `constriction`, no torch.
The byte format is in docs/update_format.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from utils.entropy_coding import StreamReader, StreamWriter, UpdateFormatError
from utils.position_coding import code_counts, code_mask, random_mask
from utils.schema import Schema
from utils.update_header import MODES, Header, checksum, pack_message, unpack_message
from utils.value_coding import STATISTICS_BITS, VALUE_BITS, CodedValues, Place, code_values, draft_values

__all__ = [
    "MODES", "VALUE_BITS", "Header", "Schema", "Update", "UpdateFormatError",
    "decode_update", "encode_update", "edge_state", "layer_counts", "random_mask", "unpack_message",
]  # fmt: skip

_RANDOM_MASK = struct.Struct("<Id")


@dataclass(frozen=True)
class Update:
    """A decoded message: the network state it leads to, and which weights it changes."""

    header: Header
    result: np.ndarray  # float32 (schema.size,)
    selected: np.ndarray  # sorted int64 indices of the weights whose values were sent
    checksum: bytes

    @property
    def sizes(self) -> dict[str, int]:
        return self.header.sizes


@dataclass
class _Draft:
    """An update on the server, ready to be coded."""

    selected: np.ndarray
    weights: CodedValues
    rest: CodedValues
    buffers: CodedValues
    result: np.ndarray


def encode_update(
    base: np.ndarray,
    new: np.ndarray,
    schema: Schema,
    *,
    mode: str,
    round: int,
    initial: np.ndarray,
    value_bits: int = 32,
    selected: np.ndarray | None = None,
    mask_seed: int | None = None,
    updating_ratio: float | None = None,
    reinitialize: bool = False,
    serve: bool = True,
    sign_key: bytes | None = None,
) -> bytes:
    """Encode the step from `base` to `new`, both float32 (schema.size,).

    mode: "sparse" (positions are coded; `selected` defaults to all weights that differ), "random" (the mask of
    `random_mask(sizes, updating_ratio, mask_seed)`), "dense" (all weights) or "pruned" (the nonzero weights of `new`).
    initial: the state that the edge node was shipped with. reinitialize: the message builds on it, so base is initial.
    serve: whether the edge answers queries with the result; otherwise it goes to standby.
    value_bits: 32 is lossless; see docs/update_format.md for 16, 8, 6, 5, 4.
    Raises ValueError if `new` is not finite or differs from `base` where the mode says it must not.
    """
    if reinitialize and not _same(base, initial):
        raise ValueError("a re-initialising update builds on the initial state, but base differs from it")
    draft = _draft(base, new, schema, mode, value_bits, selected, mask_seed, updating_ratio)
    positions = b""
    if mode in ("sparse", "pruned"):
        mask = np.zeros(schema.num_weights, dtype=bool)
        mask[draft.selected] = True
        coder = StreamWriter()
        code_mask(coder, schema, _changed(schema, base, initial), mask)
        positions = coder.finish()
    elif mode == "random":
        positions = _RANDOM_MASK.pack(mask_seed, updating_ratio)
    values, rest = StreamWriter(), StreamWriter()
    _code_state(schema, mode, value_bits, base, draft.selected, values, rest, draft)
    sections = positions, values.finish(), rest.finish()
    header = Header(
        mode, value_bits, reinitialize, serve, sign_key is not None, round,
        schema.fingerprint, schema.state_fingerprint(base), schema.state_fingerprint(draft.result),
        *map(len, sections),
    )  # fmt: skip
    return pack_message(header, sections, sign_key)


def edge_state(
    base: np.ndarray,
    new: np.ndarray,
    schema: Schema,
    *,
    mode: str,
    value_bits: int = 32,
    selected: np.ndarray | None = None,
    mask_seed: int | None = None,
    updating_ratio: float | None = None,
) -> np.ndarray:
    """The state that the edge node will hold after `encode_update` of the same arguments, without coding it.

    Equals `new`, bit for bit, when value_bits is 32. The server validates on it and builds the next round on it.
    """
    return _draft(base, new, schema, mode, value_bits, selected, mask_seed, updating_ratio).result


def decode_update(
    data: bytes, schema: Schema, *, base: np.ndarray, initial: np.ndarray, key: bytes | None = None
) -> Update:
    """Read a message. `base` is the node's line; a re-initialising message uses `initial` instead.

    Raises UpdateFormatError naming the reason unless everything is right, the result's fingerprint included.
    """
    header, (positions, values, rest) = unpack_message(data, key)
    if header.schema_fingerprint != schema.fingerprint:
        raise UpdateFormatError("made for another network: the schema fingerprint differs")
    if header.reinitialize:
        base = initial
    if header.base_fingerprint != schema.state_fingerprint(base):
        what = "initial weights" if header.reinitialize else "state; a message may be missing"
        raise UpdateFormatError(f"builds on another base: the fingerprint is not that of this node's {what}")

    if header.mode in ("sparse", "pruned"):
        coder = StreamReader(positions, "positions")
        mask = code_mask(coder, schema, _changed(schema, base, initial), None)
        coder.finish()
        selected = np.flatnonzero(mask)
    else:
        selected = _stated_mask(header.mode, positions, schema)
    values_coder, rest_coder = StreamReader(values, "values"), StreamReader(rest, "rest")
    result = _code_state(schema, header.mode, header.value_bits, base, selected, values_coder, rest_coder, None)
    values_coder.finish()
    rest_coder.finish()
    if not np.isfinite(result).all():
        raise UpdateFormatError("holds values that are not finite")
    if schema.state_fingerprint(result) != header.result_fingerprint:
        raise UpdateFormatError("the result does not have the promised fingerprint")
    return Update(header, result, selected, checksum(data))


def layer_counts(data: bytes, schema: Schema) -> np.ndarray:
    """How many weights of each layer a message carries; needs no base."""
    header, (positions, _, _) = unpack_message(data)
    if header.schema_fingerprint != schema.fingerprint:
        raise UpdateFormatError("made for another network: the schema fingerprint differs")
    if header.mode in ("sparse", "pruned"):
        return code_counts(StreamReader(positions, "positions"), schema, None)
    selected = _stated_mask(header.mode, positions, schema)
    edges = np.searchsorted(selected, [layer.start for layer in schema.layers] + [schema.num_weights])
    return np.diff(edges)


def _stated_mask(mode: str, positions: bytes, schema: Schema) -> np.ndarray:
    """Selected weights where no positions are coded: random and dense mode."""
    if mode == "dense":
        if positions:
            raise UpdateFormatError("a dense update has no positions section")
        return np.arange(schema.num_weights)
    if len(positions) != _RANDOM_MASK.size:
        raise UpdateFormatError(f"a random mask is stated in {_RANDOM_MASK.size} bytes, not {len(positions)}")
    seed, ratio = _RANDOM_MASK.unpack(positions)
    if not 0 < ratio <= 1:
        raise UpdateFormatError(f"impossible updating ratio {ratio}")
    return random_mask([layer.size for layer in schema.layers], ratio, seed)


def _draft(base, new, schema, mode, value_bits, selected, mask_seed, updating_ratio) -> _Draft:
    """Choose what is sent, in which coded form, and what the edge makes of it."""
    if mode not in MODES or value_bits not in VALUE_BITS:
        raise ValueError(f"mode {mode!r}, value_bits {value_bits}: expected one of {MODES}, one of {VALUE_BITS}")
    for state in (base, new):
        if state.dtype != np.float32 or state.shape != (schema.size,):
            raise ValueError(f"a state is float32 of shape ({schema.size},), not {state.dtype} {state.shape}")
    if not np.isfinite(new).all():
        raise ValueError("the new state holds values that are not finite")
    w, sizes = schema.num_weights, [layer.size for layer in schema.layers]
    background = np.zeros(w, dtype=np.float32) if mode == "pruned" else base[:w]
    differs = new[:w].view(np.uint32) != background.view(np.uint32)
    if mode == "random":
        selected = random_mask(sizes, updating_ratio, mask_seed)
    elif mode == "dense":
        selected = np.arange(w)
    elif mode == "pruned" or selected is None:
        selected = np.flatnonzero(differs)
    stray = differs.copy()
    stray[selected] = False
    if stray.any():
        raise ValueError(f"{stray.sum()} weights outside the selection differ from the base")

    weights_place, rest_place, buffers_place = _places(schema, base, selected)
    weights, decoded = draft_values(value_bits, weights_place, new[selected])
    if mode == "sparse":  # what does not change need not be sent
        kept = decoded.view(np.uint32) != base[selected].view(np.uint32)
        selected, weights, decoded = selected[kept], weights.keep(kept), decoded[kept]
    rest, decoded_rest = draft_values(value_bits, rest_place, new[w : w + schema.num_rest])
    buffers, decoded_buffers = draft_values(STATISTICS_BITS[value_bits], buffers_place, new[w + schema.num_rest :])
    result = np.concatenate([background, decoded_rest, decoded_buffers])
    result[selected] = decoded
    if not np.isfinite(result).all():
        raise ValueError(f"the new state overflows in {value_bits} bits")
    return _Draft(selected, weights, rest, buffers, result)


def _code_state(schema, mode, value_bits, base, selected, values_coder, rest_coder, draft: _Draft | None) -> np.ndarray:
    """Pass the values and the rest through their coders; return the resulting state."""
    weights, rest, buffers = (None,) * 3 if draft is None else (draft.weights, draft.rest, draft.buffers)
    weights_place, rest_place, buffers_place = _places(schema, base, selected)
    background = np.zeros(schema.num_weights, dtype=np.float32) if mode == "pruned" else base[: schema.num_weights]
    with np.errstate(over="ignore", invalid="ignore"):  # the caller checks that the result is finite
        decoded = code_values(values_coder, value_bits, weights_place, weights)
        decoded_rest = code_values(rest_coder, value_bits, rest_place, rest)
        decoded_buffers = code_values(rest_coder, STATISTICS_BITS[value_bits], buffers_place, buffers)
    result = np.concatenate([background, decoded_rest, decoded_buffers])
    result[selected] = decoded
    return result


def _places(schema: Schema, base: np.ndarray, selected: np.ndarray) -> tuple[Place, Place, Place]:
    """What both sides know of the values to be coded: selected weights, rest, buffers."""
    starts = [layer.start for layer in schema.layers]
    layer = np.searchsorted(starts, selected, side="right") - 1
    places, roles = [Place(base[selected], layer, layer)], {}
    for kind in ("rest", "buffer"):
        entries = schema.of_kind(kind)
        sizes = [entry.size for entry in entries]
        role = [roles.setdefault(entry.name.rpartition(".")[2], len(roles)) for entry in entries]  # "bias", ...
        old = np.concatenate([base[entry.part] for entry in entries]) if entries else base[:0]
        tensor = np.repeat(np.arange(len(entries)), sizes)
        places.append(Place(old, np.repeat(np.array(role, dtype=np.int64), sizes), tensor, kind == "buffer"))
    return tuple(places)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


def _changed(schema: Schema, base: np.ndarray, initial: np.ndarray) -> np.ndarray:
    w = schema.num_weights
    return base[:w].view(np.uint32) != initial[:w].view(np.uint32)
