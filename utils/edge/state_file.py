"""Network states as safetensors files, read and written with numpy and json alone.

The format: u64 little-endian length of a JSON header, the header (for each tensor dtype, shape and data offsets; text
under `__metadata__`), then the tensors' little-endian bytes. Any safetensors program reads these files. The library
is not used: it writes metadata in another order each time, so that two equal nodes would have unequal files, it gives
metadata back from a file alone, and a device would have to install it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from utils.schema import Schema
from utils.system.files import open_regular, write_atomic

_MAX_HEADER = 100 << 20  # as in the safetensors library


def write_tensors(path: str | Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write float32 tensors, atomically: after a power cut `path` holds the old content or the new."""
    header, offset = {"__metadata__": metadata}, 0
    for name, tensor in tensors.items():
        end = offset + tensor.size * 4
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    values = [np.asarray(tensor, dtype="<f4").tobytes() for tensor in tensors.values()]
    write_atomic(Path(path), b"".join([len(text).to_bytes(8, "little"), text, *values]))


def read_tensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the float32 tensors of a file by name, and its metadata. Raises ValueError if it is not such a file."""
    with open_regular(Path(path)) as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, _MAX_HEADER))
        # Of a file that is no such file, however long, no more is read.
        data = file.read() if 0 < length == len(text) else None
    if data is None:
        raise ValueError(f"{path}: not a safetensors file, or a truncated one")
    try:
        header = parse_json(text)
        metadata, tensors, parts = header.pop("__metadata__", {}), {}, []
        if any(type(text) is not str for text in metadata.values()):
            raise ValueError("metadata that is no text")
        for name, info in header.items():
            start, end = info["data_offsets"]
            numbers = [start, end, *info["shape"]]
            sound = info["dtype"] == "F32" and all(type(number) is int and number >= 0 for number in numbers)
            if not sound or end - start != 4 * math.prod(info["shape"]):
                raise ValueError(f"tensor {name!r}")
            parts.append((start, end))
            values = np.frombuffer(data, dtype="<f4", count=(end - start) // 4, offset=start)
            tensors[name] = np.asarray(values, dtype=np.float32).reshape(info["shape"])
        edges = [0, *(edge for part in sorted(parts) for edge in part), len(data)]
        if edges[::2] != edges[1::2]:
            raise ValueError("tensors overlap, or bytes belong to none")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: damaged safetensors file ({error})") from None
    return tensors, metadata


def split_state(schema: Schema, state: np.ndarray, prefix: str = "") -> dict[str, np.ndarray]:
    """Return the entries of a state vector by name."""
    return {prefix + entry.name: state[entry.part].reshape(entry.shape) for entry in schema.entries}


def join_state(schema: Schema, tensors: dict[str, np.ndarray], prefix: str = "") -> np.ndarray:
    """Return the state vector of named entries. Raises ValueError if one is missing, of another shape or not finite."""
    for entry in schema.entries:
        if prefix + entry.name not in tensors:
            raise ValueError(f"tensor {prefix + entry.name!r} is missing")
        if tensors[prefix + entry.name].shape != entry.shape:
            raise ValueError(f"tensor {prefix + entry.name!r} has another shape than the schema")
    parts = [tensors[prefix + entry.name].reshape(-1) for entry in schema.entries]
    state = np.concatenate([np.zeros(0, dtype=np.float32), *parts])
    if not np.isfinite(state).all():
        raise ValueError("it holds values that are not finite")
    return state


def parse_json(text: str | bytes) -> Any:
    """Return what JSON text says. Raises ValueError if it is none, holds a name twice or is nested too deep."""
    try:
        hooks = {"parse_constant": _refuse_constant, "parse_float": _finite, "object_pairs_hook": _without_repeats}
        return json.loads(text, **hooks)
    except RecursionError:
        raise ValueError("JSON is nested too deep") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_constant(text)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a JSON object holds a name twice")
    return dict(pairs)


def write_state(path: str | Path, schema: Schema, state: np.ndarray, run: str = "", inputs: str = "") -> None:
    """Write one network state with its schema, as a device is shipped with it (`initial.safetensors`).

    run     names the run that the messages to this device must be signed for
    inputs  what inference must know of images; kept as it is
    """
    more = {name: text for name, text in (("run", run), ("inputs", inputs)) if text}
    write_tensors(path, split_state(schema, state), {"schema": json.dumps(schema.to_plain()), **more})


def read_state(path: str | Path) -> tuple[Schema, np.ndarray]:
    """Return schema and state that `write_state` wrote. Raises ValueError, naming the file, if it is damaged."""
    return read_shipped(path)[:2]


def read_shipped(path: str | Path) -> tuple[Schema, np.ndarray, str, str]:
    """Return all that `write_state` wrote. Raises ValueError, naming the file, if it is damaged."""
    tensors, metadata = read_tensors(path)
    if "node" in metadata:
        raise ValueError(f"{path}: an edge node's file: give the run's initial.safetensors")
    schema = read_schema(path, metadata)
    try:
        return schema, join_state(schema, tensors), metadata.get("run", ""), metadata.get("inputs", "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_schema(path: str | Path, metadata: dict[str, str]) -> Schema:
    """Return the schema in a file's metadata. Raises ValueError, naming the file, if it has none."""
    try:
        return Schema(parse_json(metadata["schema"]))
    except (KeyError, ValueError, TypeError, OverflowError):
        raise ValueError(f"{path}: holds no network schema") from None
