"""The update message: what a server sends so that the edge node's network becomes its own.

`body.draft_update` chooses what to send and says what will come of it; here `encode_update` codes it, and
`container.pack_message` lays out the bytes. `decode_update` checks and reads a message. docs/update_format.md has every
byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from utils.message.base import Shared
from utils.message.body import Draft, code_state, differing
from utils.message.container import Header, Message, pack_message, unpack_message
from utils.message.masks import random_mask
from utils.message.positions import code_counts, code_mask
from utils.message.streams import BaseMissingError, StreamReader, StreamWriter, TooCheapError, UpdateFormatError
from utils.schema import Schema

_RANDOM_MASK = struct.Struct("<Id")  # seed and updating ratio


@dataclass(frozen=True)
class Update:
    """A decoded message: the network state it leads to, and which weights it changes."""

    header: Header
    result: np.ndarray  # float32 (schema.size,)
    selected: np.ndarray  # sorted int64 indices of the weights whose values were sent
    deployed: np.ndarray | None  # (I,) bool, the weights of a sparse network; None: all


def encode_update(draft: Draft, *, round: int, serve: bool = True, sign_key: bytes | None = None) -> bytes:
    """Return the message of an update.

    Where a dense or random one changes so little that a reader would not do the work for its few bytes, it goes as a
    sparse one, which leads to the same state. Raises TooCheapError if no message can hold the update.

    serve     whether the edge answers queries with the result; otherwise it stands by
    sign_key  signs the message, for the run that `draft.shared` names
    """
    try:
        return _encode(draft, round, serve, sign_key)
    except TooCheapError:
        if draft.coding.kind not in ("dense", "random"):
            raise
        return _encode(draft.as_sparse(), round, serve, sign_key)


def _encode(draft: Draft, round: int, serve: bool, sign_key: bytes | None) -> bytes:
    shared, coding, start = draft.shared, draft.coding, draft.start
    schema, w = shared.schema, shared.schema.num_weights
    positions = b""
    if coding.kind in ("sparse", "pruned"):
        mask = np.zeros(w, dtype=bool)
        mask[draft.selected] = True
        coder = StreamWriter()
        code_mask(coder, schema, _changed(shared, start), mask, shared.deployed)
        positions = coder.finish()
    elif coding.kind == "random":
        positions = _RANDOM_MASK.pack(draft.mask_seed, coding.updating_ratio)
    coders = StreamWriter(), StreamWriter()
    code_state(schema, coding.kind, coding.value_bits, start, draft.selected, coders, draft)
    sections = positions, *(coder.finish() for coder in coders)
    header = Header(
        coding.kind, coding.value_bits, draft.base, serve, sign_key is not None, round,
        schema.fingerprint, schema.state_fingerprint(start), schema.state_fingerprint(draft.result),
        *map(len, sections), coding.deploys or shared.deployed is not None,
    )  # fmt: skip
    return pack_message(header, sections, sign_key, shared.run)


def decode_update(data: bytes, shared: Shared, key: bytes | None = None) -> Update:
    """Read a message. Raises UpdateFormatError naming the reason unless everything is right, the result included.

    key  if given, only a message that is signed with it, and for the run that `shared` names, is accepted
    """
    return decode_message(unpack_message(data, key, shared.run), shared)


def decode_message(message: Message, shared: Shared) -> Update:
    """Read an unpacked message; see `decode_update`."""
    header, (positions, values, rest) = message
    schema, deployed = shared.schema, shared.deployed
    _check_receiver(header, schema, deployed)
    start = shared.state(header.base)
    if header.base_fingerprint != schema.state_fingerprint(start):
        kind = UpdateFormatError if header.base.reinitialize else BaseMissingError
        origin = "initial weights" if header.base.reinitialize else "state; a message may be missing"
        raise kind(f"builds on another base: the fingerprint is not that of this node's {origin}")

    if header.kind in ("sparse", "pruned"):
        coder = StreamReader(positions, "positions")
        selected = np.flatnonzero(code_mask(coder, schema, _changed(shared, start), None, deployed))
        coder.finish()
    elif header.kind == "random":
        seed, ratio = _read_mask(positions)
        selected = random_mask(schema.layer_sizes(), ratio, seed, deployed)
    else:
        selected = schema.weight_indices(deployed)
    coders = StreamReader(values, "values"), StreamReader(rest, "rest")
    result = code_state(schema, header.kind, header.value_bits, start, selected, coders)
    for coder in coders:
        coder.finish()
    if not np.isfinite(result).all():
        raise UpdateFormatError("holds values that are not finite")
    if schema.state_fingerprint(result) != header.result_fingerprint:
        raise UpdateFormatError("the result does not have the promised fingerprint")
    if header.deploys:
        deployed = np.zeros(schema.num_weights, dtype=bool)
        deployed[selected] = True
    return Update(header, result, selected, deployed)


def sent_by_layer(message: Message, schema: Schema, deployed: np.ndarray | None = None) -> np.ndarray:
    """Return how many weights of each layer a message carries, int64.

    Needs no base, but for a message to a sparse network its `deployed` weights, (I,) bool.
    """
    header, (positions, _, _) = message
    _check_receiver(header, schema, deployed)
    sizes = schema.layer_sizes(deployed)
    if header.kind in ("sparse", "pruned"):
        return code_counts(StreamReader(positions, "positions"), sizes, None)
    if header.kind == "dense":
        return sizes
    _, ratio = _read_mask(positions)
    return np.array([round(ratio * size) for size in sizes.tolist()], dtype=np.int64)  # as `draw_mask` draws them


def _check_receiver(header: Header, schema: Schema, deployed: np.ndarray | None) -> None:
    """Refuse a message for a network of another kind than this one, and one with a section that its kind lacks."""
    if header.schema_fingerprint != schema.fingerprint:
        raise UpdateFormatError("made for another network: the schema fingerprint differs")
    if header.deploys and deployed is not None:
        raise UpdateFormatError("deploys a sparse network, but this node has one already")
    if header.sparse_network and not header.deploys and deployed is None:
        raise BaseMissingError("for a sparse network, which this node does not have; a message may be missing")
    if deployed is not None and not header.sparse_network:
        raise UpdateFormatError("for a network with all its weights, but this node has a sparse one")
    if header.kind == "dense" and header.index_bytes:
        raise UpdateFormatError("a dense update has no positions section")


def _changed(shared: Shared, start: np.ndarray) -> np.ndarray:
    """Return which weights of the base are not the initial ones: where they changed before, they change again."""
    w = shared.schema.num_weights
    return differing(start[:w], shared.initial_deployed[:w])


def _read_mask(positions: bytes) -> tuple[int, float]:
    """Return seed and updating ratio of a random mask."""
    if len(positions) != _RANDOM_MASK.size:
        raise UpdateFormatError(f"a random mask is stated in {_RANDOM_MASK.size} bytes, not {len(positions)}")
    seed, ratio = _RANDOM_MASK.unpack(positions)
    if not 0 < ratio <= 1:
        raise UpdateFormatError(f"impossible updating ratio {ratio}")
    return seed, ratio
