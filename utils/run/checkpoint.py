"""Everything that a resumed run needs, in one checked file; the one before it is kept.

A checkpoint is a BLAKE2b digest (32 bytes) followed by what torch.save wrote: tensors and plain values only.
"""

import hashlib
import io
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from utils.message.values import VALUE_BITS
from utils.rounds import EdgeCopy
from utils.schema import Schema
from utils.system.errors import UserError
from utils.system.files import replacing, sync_folder
from utils.training.round import RoundTraining

_DIGEST_BYTES = 32
FORMAT = 2  # of the saved state; another version's checkpoint is refused


class CheckpointError(UserError):
    """A checkpoint that does not read back as it was written."""


class _Hashing:
    """Passes on what is written and hashes it, so that a large state is never in memory a second time."""

    def __init__(self, file: BinaryIO):
        self._file, self._hash = file, hashlib.blake2b(digest_size=_DIGEST_BYTES)
        self.digest = self._hash.digest

    def write(self, data) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


class Checkpoints:
    """The latest checkpoint of a run folder and the one before it."""

    def __init__(self, folder: Path):
        self.latest = folder / "checkpoint"
        self.new = folder / "checkpoint_new"  # there only if a kill came between the renames
        self.previous = folder / "checkpoint_previous"

    def save(self, state: dict[str, Any]) -> None:
        """Make `state` the latest checkpoint. A kill at any moment leaves one that reads back."""
        with replacing(self.new) as file:
            file.write(bytes(_DIGEST_BYTES))
            hashing = _Hashing(file)
            torch.save({"format": FORMAT, **state}, hashing)
            file.seek(0)
            file.write(hashing.digest())
        if self.latest.exists():
            os.replace(self.latest, self.previous)
        os.replace(self.new, self.latest)
        sync_folder(self.latest.parent)

    def load(self, device: torch.device | str) -> dict[str, Any] | None:
        """Return the newest state that reads back, on `device`; None if there is no checkpoint.

        A damaged checkpoint is refused by name in a warning and set aside as `checkpoint_damaged`, and the one
        before it is used. Raises CheckpointError if there are checkpoints and none reads back.
        """
        damaged = None
        for path in filter(Path.exists, (self.latest, self.new, self.previous)):
            try:
                state = read_checkpoint(path, device)
            except CheckpointError as error:
                damaged = damaged or error
                continue
            if damaged is not None:
                warnings.warn(f"{damaged}; using the one before it", stacklevel=2)
                if self.latest.exists():  # else the next save would put it in the place of the good one
                    os.replace(self.latest, self.latest.with_name("checkpoint_damaged"))
            return state
        if damaged is not None:
            raise CheckpointError(f"{damaged}, and there is no good one before it: start anew with --overwrite")
        return None


def read_checkpoint(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Return the state in `path`, on `device`. Raises CheckpointError if it is not as it was written."""
    try:
        with open(path, "rb") as file:
            digest, data = file.read(_DIGEST_BYTES), file.read()
    except OSError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error.strerror}") from error
    if hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest() != digest:
        raise CheckpointError(f"checkpoint {path} is damaged: its checksum does not match")
    try:
        state = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"checkpoint {path} does not load: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict) or str(state.pop("format", None)) != str(FORMAT):
        raise CheckpointError(f"checkpoint {path} was written by another version of this program")
    return state


def pack(edge: EdgeCopy, training: RoundTraining | None = None) -> dict[str, Any]:
    """Return everything that a resumed run needs beside the rows: tensors and plain values."""
    held = {name: value for name, value in vars(edge).items() if name != "rows"}  # which rounds.csv has
    return {"edge": held, "training": None if training is None else training.state}


def unpack(state: dict[str, Any]) -> tuple[EdgeCopy, dict[str, Any] | None]:
    """Return the edge copy and the interrupted round in a `pack`ed state."""
    return EdgeCopy(**state["edge"]), state["training"]


def fits(state: dict[str, Any], schema: Schema) -> bool:
    """Return whether a checkpoint's state has every field, of its kind, and networks of the right size."""
    network, weights = _tensor(torch.float32, schema.size), schema.num_weights
    edge = {
        "line": network,
        "served": network,
        "line_acc": _pair,
        "served_acc": _pair,
        **dict.fromkeys(("next_round", "num_samples_at_last_init", "round_of_last_init"), _whole),
        "last_message": lambda value: value == -1 or _whole(value),
        "weights": _or_none(_tensor(torch.bool, weights)),
        "applied": lambda value: isinstance(value, list) and all(isinstance(digest, str) for digest in value),
        **dict.fromkeys(("line_top5", "served_top5"), _or_none(_number)),
    }
    training = {
        **dict.fromkeys(("number", "step", "epoch"), _whole),
        **dict.fromkeys(("seconds", "start_val_acc", "best_val_acc"), _number),
        **dict.fromkeys(("full_val_acc", "rewound_val_acc"), _or_none(_number)),
        "vector": network,
        "best": _or_none(network),
        "local": _or_none(lambda value: _tensor(torch.float32)(value) and len(value) <= weights),
        "selected": _or_none(lambda value: _tensor(torch.int64)(value) and _ascending(value, weights)),
        "ranking": _or_none(lambda value: _tensor(torch.int64)(value) and _ascending(value.sort().values, weights)),
        "value_bits": _or_none(lambda value: value in VALUE_BITS),
        "optimizer": lambda value: isinstance(value, dict),
    }
    return _has(state, {
        "edge": lambda value: _has(value, edge),
        "training": _or_none(lambda value: _has(value, training)),
    })  # fmt: skip


def _has(fields: object, kinds: dict[str, Callable[[Any], bool]]) -> bool:
    whole = isinstance(fields, dict) and fields.keys() == kinds.keys()
    return whole and all(kind(fields[name]) for name, kind in kinds.items())


def _tensor(dtype: torch.dtype, *shape: int) -> Callable[[Any], bool]:
    def is_such(value: Any) -> bool:
        right = isinstance(value, torch.Tensor) and value.dtype == dtype
        return right and (value.shape == shape if shape else value.ndim == 1)

    return is_such


def _ascending(indices: torch.Tensor, size: int) -> bool:
    within = not len(indices) or (0 <= int(indices[0]) and int(indices[-1]) < size)
    return within and bool((indices[1:] > indices[:-1]).all())


def _or_none(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or kind(value)


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _number(value: Any) -> bool:
    return type(value) in (int, float)


def _pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(_or_none(_number), value))
