"""One seed, many independent streams: every use of randomness has a generator of its own.

A stream is named by its purpose and by counters such as the round and the epoch, never by what was drawn
before it. So no method can change the data of another, and a resumed run draws what it would have drawn.
"""

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from utils.system.processes import process_kept


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """Return the 63-bit seed of the stream `purpose` at `counters` of a run with `seed`."""
    name = "/".join(str(part) for part in (seed, purpose, *counters))
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def torch_generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """Return a CPU generator at the start of its stream: the CPU draws, so every device sees the same."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *counters))


@contextmanager
def global_stream(seed: int, purpose: str, *counters: int, device: torch.device | None = None) -> Iterator[None]:
    """Within, torch (on the CPU and `device`), numpy and random draw from the stream; afterwards from where they were.

    For code of users, which does not take a generator; see `process_kept` for what else is restored.
    """
    derived = derive_seed(seed, purpose, *counters)
    before = random.getstate(), np.random.get_state()
    forked = [device] if device is not None and device.type == "cuda" else []
    with process_kept(), torch.random.fork_rng(devices=forked):
        if device is not None and device.type != "cpu":
            torch.manual_seed(derived)
        else:  # which leaves the GPUs alone
            torch.default_generator.manual_seed(derived)
        random.seed(derived)
        np.random.seed(derived % 2**32)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


def frozen_generator(seed: int, purpose: str, *counters: int) -> np.random.RandomState:
    """Return a generator whose stream numpy keeps the same across versions (data order, validation split)."""
    derived = derive_seed(seed, purpose, *counters)
    return np.random.RandomState([derived & 0xFFFFFFFF, derived >> 32])
