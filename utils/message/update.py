"""The update message: what a server sends so that the edge node's network becomes its own.

`encode_update` makes a message, `decode_update` checks and reads it, `apply_losses` tells the server,
without coding anything, which network the edge will hold. Needs numpy and `constriction`, no torch. The
byte format is in docs/update_format.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from utils.message.base import pruned
from utils.message.body import code_state, differing, draft_update
from utils.message.container import MODES, Header, checksum, pack_message, possible, unpack_message
from utils.message.masks import random_mask
from utils.message.positions import code_counts, code_mask
from utils.message.streams import StreamReader, StreamWriter, UpdateFormatError
from utils.message.values import VALUE_BITS
from utils.reinit import shrink_and_perturb
from utils.schema import Schema

__all__ = [
    "MODES", "VALUE_BITS", "Header", "Schema", "Update", "UpdateFormatError",
    "base_of", "decode_update", "encode_update", "edge_state", "layer_counts", "random_mask", "unpack_message",
]  # fmt: skip

_RANDOM_MASK = struct.Struct("<Id")


@dataclass(frozen=True)
class Update:
    """A decoded message: the network state it leads to, and which weights it changes."""

    header: Header
    result: np.ndarray  # float32 (schema.size,)
    selected: np.ndarray  # sorted int64 indices of the weights whose values were sent
    checksum: bytes
    deployed: np.ndarray | None = None  # (I,) bool, the weights of a sparse network

    @property
    def sizes(self) -> dict[str, int]:
        return self.header.sizes


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
    shrink_perturb: tuple[float, float] | None = None,
    deployed: np.ndarray | None = None,
    deploys: bool = False,
    serve: bool = True,
    sign_key: bytes | None = None,
) -> bytes:
    """Encode the step from `base` to `new`, both float32 (schema.size,).

    mode: "sparse" (positions are coded; `selected` defaults to all weights that differ), "random" (the mask
    of `random_mask(sizes, updating_ratio, mask_seed)`), "dense" (all weights) or "pruned" (the nonzero
    weights of `new`).
    initial: the state that the edge node was shipped with. reinitialize: the message builds on it, so base
    is initial. shrink_perturb: it builds on `shrink_and_perturb` of the node's line with these factors, and
    base is that.
    deployed: (schema.num_weights,) bool, the weights of a sparse network; None: all. deploys: the message makes a
    sparse network, mode is "pruned", and the weights `selected` (default: the nonzero ones) are deployed by it.
    serve: whether the edge answers queries with the result; otherwise it goes to standby.
    value_bits: 32 is lossless; see docs/update_format.md for 16, 8, 6, 5, 4.
    Raises ValueError if `new` is not finite or differs from `base` where the mode says it must not.
    """
    initial = pruned(initial, deployed)
    if reinitialize and differing(base, initial).any():
        raise ValueError("a re-initialising update builds on the initial state, but base differs from it")
    if shrink_perturb is not None and (reinitialize or not possible(shrink_perturb)):
        raise ValueError(f"shrink and perturb {shrink_perturb}: from 0 to 1, and not on the initial state")
    what = {"selected": selected, "mask_seed": mask_seed, "updating_ratio": updating_ratio}
    what |= {"deployed": deployed, "deploys": deploys}
    draft = draft_update(base, new, schema, mode=mode, value_bits=value_bits, **what)
    positions = b""
    if mode in ("sparse", "pruned"):
        w = schema.num_weights
        mask = np.zeros(w, dtype=bool)
        mask[draft.selected] = True
        coder = StreamWriter()
        code_mask(coder, schema, differing(base[:w], initial[:w]), mask, deployed)
        positions = coder.finish()
    elif mode == "random":
        positions = _RANDOM_MASK.pack(mask_seed, updating_ratio)
    values, rest = StreamWriter(), StreamWriter()
    code_state(schema, mode, value_bits, base, draft.selected, values, rest, draft)
    sections = positions, values.finish(), rest.finish()
    header = Header(
        mode, value_bits, reinitialize, serve, sign_key is not None, round,
        schema.fingerprint, schema.state_fingerprint(base), schema.state_fingerprint(draft.result),
        *map(len, sections), shrink_perturb, deploys or deployed is not None,
    )  # fmt: skip
    return pack_message(header, sections, sign_key)


def edge_state(base: np.ndarray, new: np.ndarray, schema: Schema, **what) -> np.ndarray:
    """The state that the edge node will hold after `encode_update`, without coding anything.

    Takes encode_update's mode, value_bits, selected, mask_seed, updating_ratio, deployed and deploys. Equals
    `new`, bit for bit, when value_bits is 32. The server validates on it, and builds the next round on it.
    """
    return draft_update(base, new, schema, **what).result


def decode_update(
    data: bytes,
    schema: Schema,
    *,
    base: np.ndarray,
    initial: np.ndarray,
    key: bytes | None = None,
    deployed: np.ndarray | None = None,
) -> Update:
    """Read a message. `base` is the node's line; what the message builds on is made of it and of `initial`.

    deployed: (schema.num_weights,) bool, the weights of the node's sparse network; None: all.

    Raises UpdateFormatError naming the reason unless everything is right, the result's fingerprint included.
    """
    header, (positions, values, rest) = unpack_message(data, key)
    if header.schema_fingerprint != schema.fingerprint:
        raise UpdateFormatError("made for another network: the schema fingerprint differs")
    _check_deployed(header, deployed)
    initial = pruned(initial, deployed)
    base = base_of(header, schema, base, initial)
    if header.base_fingerprint != schema.state_fingerprint(base):
        what = "initial weights" if header.reinitialize else "state; a message may be missing"
        raise UpdateFormatError(f"builds on another base: the fingerprint is not that of this node's {what}")

    if header.mode in ("sparse", "pruned"):
        w, coder = schema.num_weights, StreamReader(positions, "positions")
        mask = code_mask(coder, schema, differing(base[:w], initial[:w]), None, deployed)
        coder.finish()
        selected = np.flatnonzero(mask)
    else:
        selected = _stated_mask(header.mode, positions, schema, deployed)
    values_coder, rest_coder = StreamReader(values, "values"), StreamReader(rest, "rest")
    result = code_state(
        schema, header.mode, header.value_bits, base, selected, values_coder, rest_coder, None
    )
    values_coder.finish()
    rest_coder.finish()
    if not np.isfinite(result).all():
        raise UpdateFormatError("holds values that are not finite")
    if schema.state_fingerprint(result) != header.result_fingerprint:
        raise UpdateFormatError("the result does not have the promised fingerprint")
    if header.deploys:
        deployed = np.zeros(schema.num_weights, dtype=bool)
        deployed[selected] = True
    return Update(header, result, selected, checksum(data), deployed)


def base_of(header: Header, schema: Schema, line: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """The state that a message is applied to, by a node that holds `line`; `initial` is `pruned` as the line is."""
    if header.shrink_perturb is not None:
        return shrink_and_perturb(line, initial, header.shrink_perturb, schema.num_buffers)
    return initial if header.reinitialize else line


def _check_deployed(header: Header, deployed: np.ndarray | None) -> None:
    if header.deploys and deployed is not None:
        raise UpdateFormatError("deploys a sparse network, but this node has one already")
    if header.sparse_network and not header.deploys and deployed is None:
        raise UpdateFormatError("for a sparse network, which this node does not have")
    if deployed is not None and not header.sparse_network:
        raise UpdateFormatError("for a network with all its weights, but this node has a sparse one")


def layer_counts(data: bytes, schema: Schema, deployed: np.ndarray | None = None) -> np.ndarray:
    """How many weights of each layer a message carries; needs no base, but a sparse network's `deployed` weights."""
    header, (positions, _, _) = unpack_message(data)
    if header.schema_fingerprint != schema.fingerprint:
        raise UpdateFormatError("made for another network: the schema fingerprint differs")
    _check_deployed(header, deployed)
    if header.mode in ("sparse", "pruned"):
        return code_counts(StreamReader(positions, "positions"), schema, None, deployed)
    selected = _stated_mask(header.mode, positions, schema, deployed)
    edges = np.searchsorted(selected, [layer.start for layer in schema.layers] + [schema.num_weights])
    return np.diff(edges)


def _stated_mask(mode: str, positions: bytes, schema: Schema, deployed: np.ndarray | None) -> np.ndarray:
    """Selected weights where no positions are coded: random and dense mode."""
    if mode == "dense":
        if positions:
            raise UpdateFormatError("a dense update has no positions section")
        return np.arange(schema.num_weights) if deployed is None else np.flatnonzero(deployed)
    if len(positions) != _RANDOM_MASK.size:
        raise UpdateFormatError(f"a random mask is stated in {_RANDOM_MASK.size} bytes, not {len(positions)}")
    seed, ratio = _RANDOM_MASK.unpack(positions)
    if not 0 < ratio <= 1:
        raise UpdateFormatError(f"impossible updating ratio {ratio}")
    return random_mask([layer.size for layer in schema.layers], ratio, seed, deployed)
