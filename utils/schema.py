"""What a network state looks like, known to server and edge alike: names, roles and shapes, in order. Needs no torch.

A state is one float32 vector: the weights, then the rest (biases, BatchNorm scale and shift), then the buffers
(BatchNorm statistics). Because both sides hold the schema, no name or shape ever travels in a message.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

ROLES = ("weight", "rest", "buffer")
MAX_LAYER_SIZE = 1 << 28  # so that every product in the coder's integer arithmetic fits 64 bits
MAX_SIZE = 1 << 29  # so that the length of no section of a message takes more than 32 bits


@dataclass(frozen=True)
class Entry:
    """One parameter or buffer. `start` is where it begins in the state vector."""

    name: str
    role: str  # one of ROLES
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
    """The ordered layout of a network state, of `(name, role, shape)` triples; roles in the order of ROLES.

    .entries, .layers                       all entries; the weights, one a conv or fc layer
    .num_weights, .num_rest, .num_buffers   numbers of each role, I, J and B
    .size                                   length of the state vector, I+J+B
    .fingerprint                            8 bytes: BLAKE2b over ordered names, roles, dtypes and shapes

    Raises ValueError for an unknown role, a wrong order, a repeated name, a weight with fewer than two dimensions, or
    an empty or too large entry or state.
    """

    def __init__(self, entries: Iterable[tuple[str, str, Sequence[int]]]):
        laid_out: list[Entry] = []
        self.size = 0
        for name, role, shape in entries:
            if role not in ROLES:
                raise ValueError(f"schema entry {name!r} is a {role!r}; expected one of {', '.join(ROLES)}")
            entry = Entry(str(name), role, tuple(int(dim) for dim in shape), self.size)
            if laid_out and ROLES.index(role) < ROLES.index(laid_out[-1].role):
                raise ValueError(f"schema entry {name!r} ({role}) comes after a {laid_out[-1].role}")
            if min(entry.shape, default=1) < 1 or entry.size > MAX_LAYER_SIZE:
                raise ValueError(f"schema entry {name!r} has shape {entry.shape}: no size in 1..2^28")
            if role == "weight" and len(entry.shape) < 2:
                raise ValueError(f"weight {name!r} has shape {entry.shape}; weights have two or more dimensions")
            laid_out.append(entry)
            self.size += entry.size
        if self.size > MAX_SIZE:
            raise ValueError(f"a network of {self.size:,} values: no message is for more than 2^29")
        if len({entry.name for entry in laid_out}) < len(laid_out):
            raise ValueError("two schema entries have the same name")
        self.entries = tuple(laid_out)
        self.layers = self.of_role("weight")
        self.num_weights, self.num_rest, self.num_buffers = (sum(e.size for e in self.of_role(r)) for r in ROLES)
        digest = hashlib.blake2b(digest_size=8)
        for entry in self.entries:
            dims = ",".join(map(str, entry.shape))
            digest.update(f"{entry.name}\0{entry.role}\0float32\0{dims}\n".encode())
        self.fingerprint = digest.digest()

    def of_role(self, role: str) -> list[Entry]:
        """Return the entries of one role, in order."""
        return [entry for entry in self.entries if entry.role == role]

    def weight_indices(self, deployed: np.ndarray | None = None) -> np.ndarray:
        """Return the indices of all weights, ascending int64; of a sparse network, those in `deployed` (I,) bool."""
        return np.arange(self.num_weights) if deployed is None else np.flatnonzero(deployed)

    def layer_sizes(self, deployed: np.ndarray | None = None) -> np.ndarray:
        """Return how many weights each layer has, int64; of a sparse network, how many are in `deployed` (I,) bool."""
        if deployed is None:
            return np.array([layer.size for layer in self.layers], dtype=np.int64)
        return np.array([np.count_nonzero(deployed[layer.part]) for layer in self.layers], dtype=np.int64)

    def state_fingerprint(self, state: np.ndarray) -> bytes:
        """Return 16 bytes: BLAKE2b over the schema's fingerprint and the state's little-endian bytes."""
        digest = hashlib.blake2b(self.fingerprint, digest_size=16)
        digest.update(memoryview(np.ascontiguousarray(state, dtype="<f4")).cast("B"))
        return digest.digest()

    def to_plain(self) -> list:
        """Return the entries as lists, ready for JSON; `Schema(plain)` reads them back."""
        return [[entry.name, entry.role, list(entry.shape)] for entry in self.entries]
