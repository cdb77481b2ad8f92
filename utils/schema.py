"""What a network state looks like, known to server and edge alike: names, kinds and shapes, in order.

A state is one float32 vector: the weights, then the rest (biases, BatchNorm scale and shift), then the
buffers (BatchNorm statistics). Because both sides hold the schema, no name or shape ever travels in a
message.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import prod

import numpy as np

KINDS = ("weight", "rest", "buffer")
MAX_LAYER_SIZE = 1 << 28  # so that every product in the coder's integer arithmetic fits 64 bits


@dataclass(frozen=True)
class Entry:
    """One parameter or buffer. `start` is where it begins in the state vector."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int = 0

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def part(self) -> slice:
        """Where the entry lies in the state vector."""
        return slice(self.start, self.start + self.size)


class Schema:
    """The ordered layout of a network state.

    `entries` are `(name, kind, shape)` triples, kinds in the order weight, rest, buffer. Raises ValueError
    for an unknown kind, a wrong order, a repeated name, a weight with fewer than two dimensions, or an
    empty entry.
    """

    def __init__(self, entries):
        laid_out, start = [], 0
        for name, kind, shape in entries:
            if kind not in KINDS:
                raise ValueError(
                    f"schema entry {name!r} is of kind {kind!r}; expected one of {', '.join(KINDS)}"
                )
            shape = tuple(int(dim) for dim in shape)
            entry = Entry(str(name), kind, shape, start)
            if laid_out and KINDS.index(kind) < KINDS.index(laid_out[-1].kind):
                raise ValueError(f"schema entry {name!r} ({kind}) comes after a {laid_out[-1].kind}")
            if min(shape, default=1) < 1 or entry.size > MAX_LAYER_SIZE:
                raise ValueError(f"schema entry {name!r} has shape {shape}: no size in 1..2^28")
            if kind == "weight" and len(shape) < 2:
                raise ValueError(f"weight {name!r} has shape {shape}; weights have two or more dimensions")
            laid_out.append(entry)
            start += entry.size
        if len({entry.name for entry in laid_out}) < len(laid_out):
            raise ValueError("two schema entries have the same name")
        self.entries: tuple[Entry, ...] = tuple(laid_out)

    def of_kind(self, kind: str) -> list[Entry]:
        return [entry for entry in self.entries if entry.kind == kind]

    @property
    def layers(self) -> list[Entry]:
        """The weight entries, one a conv or fc layer."""
        return self.of_kind("weight")

    @property
    def num_weights(self) -> int:
        return sum(entry.size for entry in self.of_kind("weight"))

    @property
    def num_rest(self) -> int:
        return sum(entry.size for entry in self.of_kind("rest"))

    @property
    def num_buffers(self) -> int:
        return sum(entry.size for entry in self.of_kind("buffer"))

    @property
    def size(self) -> int:
        """Length of the state vector."""
        return self.num_weights + self.num_rest + self.num_buffers

    @property
    def fingerprint(self) -> bytes:
        """8 bytes: BLAKE2b over ordered names, kinds, dtypes and shapes."""
        digest = hashlib.blake2b(digest_size=8)
        for entry in self.entries:
            dims = ",".join(map(str, entry.shape))
            digest.update(f"{entry.name}\0{entry.kind}\0float32\0{dims}\n".encode())
        return digest.digest()

    def state_fingerprint(self, state: np.ndarray) -> bytes:
        """16 bytes: BLAKE2b over the schema fingerprint and the state's little-endian bytes."""
        digest = hashlib.blake2b(self.fingerprint, digest_size=16)
        digest.update(memoryview(np.ascontiguousarray(state, dtype="<f4")).cast("B"))
        return digest.digest()

    def to_plain(self) -> list:
        """The entries as lists, ready for JSON; `Schema(plain)` reads them back."""
        return [[entry.name, entry.kind, list(entry.shape)] for entry in self.entries]
