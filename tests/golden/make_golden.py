"""Small messages that hold the format still across machines and versions: `python -m tests.golden.make_golden`.

NAME.dpu is the message of a case, NAME.f32 the state that it decodes to. They are made once; the tests decode them.
Making them anew means that the format has changed: raise its version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from utils.message import Base, Coding, Shared, decode_update, draft_update, encode_update
from utils.message.base import pruned as pruned_to
from utils.message.base import shrink_and_perturb
from utils.message.masks import random_mask
from utils.schema import Schema

GOLDEN = Path(__file__).parent


def _number(i: np.ndarray, salt: int) -> np.ndarray:
    """Pseudo-random float32 in [-1, 1), from integers alone: the same everywhere."""
    return ((i * 2654435761 + salt * 40503 + (i * i % 9973) * 7919) % 65536).astype(np.float32) / 32768 - 1


class Case(NamedTuple):
    """What a message is made of: see `draft_update` and `encode_update`."""

    shared: Shared
    new: np.ndarray
    coding: Coding
    base: Base = Base()
    selected: np.ndarray | None = None
    mask_seed: int | None = None
    options: dict[str, Any] = {}


def cases() -> dict[str, Case]:
    """All cases by name."""
    schema = Schema([
        ("conv1.weight", "weight", (8, 3, 3, 3)), ("conv2.weight", "weight", (12, 8, 3, 3)),
        ("fc1.weight", "weight", (20, 48)), ("fc2.weight", "weight", (5, 20)),
        ("conv1.bias", "rest", (8,)), ("bn.weight", "rest", (12,)), ("fc2.bias", "rest", (5,)),
        ("bn.running_mean", "buffer", (12,)), ("bn.running_var", "buffer", (12,)),
    ])  # fmt: skip
    i, w = np.arange(schema.size), schema.num_weights
    initial = _number(i, 1)
    initial[-12:] = np.abs(initial[-12:])  # variances
    line = np.where(_number(i, 2) > 0.7, initial + np.float32(0.125) * _number(i, 3), initial)
    wanted = line + np.float32(0.25) * _number(i, 4)
    wanted[-12:] = np.abs(wanted[-12:])
    rows = np.concatenate([np.repeat(np.arange(s.shape[0]), s.size // s.shape[0]) for s in schema.layers])
    chosen = (_number(i[:w], 5) > 0.6) & (rows % 3 == 0)
    sparse = wanted.copy()
    sparse[:w] = np.where(chosen, wanted[:w], line[:w])
    pruned = wanted.copy()
    pruned[:w] = np.where(chosen, wanted[:w], 0)
    mask = np.zeros(w, dtype=bool)
    mask[random_mask([layer.size for layer in schema.layers], 0.1, 2022)] = True
    random = wanted.copy()
    random[:w] = np.where(mask, wanted[:w], line[:w])
    reinitialized = wanted.copy()
    reinitialized[:w] = np.where(chosen, wanted[:w], initial[:w])
    dense = Shared(schema, initial, line)
    out = {f"sparse{bits}": Case(dense, sparse, Coding("sparse", bits)) for bits in (32, 16, 8, 6, 5, 4)}
    out["random6"] = Case(dense, random, Coding("random", 6, 0.1), mask_seed=2022)
    out["dense32"] = Case(dense, wanted, Coding("dense"))
    out["dense4"] = Case(dense, wanted, Coding("dense", 4))
    fresh, again = Shared(schema, initial, initial), Base(reinitialize=True)
    out["pruned32"] = Case(fresh, pruned, Coding("pruned"), again)
    out["standby"] = Case(fresh, reinitialized, Coding("sparse"), again, options={"serve": False})
    mixed = Base(shrink_perturb=(0.4, 0.1))
    shrunk = shrink_and_perturb(line, initial, mixed.shrink_perturb, schema.num_buffers)
    shrunk[:w] = np.where(chosen, wanted[:w], shrunk[:w])
    for bits in (32, 6):
        out[f"shrunk{bits}"] = Case(dense, shrunk, Coding("sparse", bits), mixed)
    out["signed"] = Case(dense, sparse, Coding("sparse"), options={"sign_key": b"golden"})
    deployed = np.abs(line[:w]) > 0.5
    whole = pruned_to(wanted, deployed)
    out["deployed32"] = Case(dense, whole, Coding("pruned", deploys=True), selected=np.flatnonzero(deployed))
    held, start = pruned_to(line, deployed), pruned_to(initial, deployed)
    some, other, random = whole.copy(), whole.copy(), whole.copy()
    some[:w] = np.where(chosen, whole[:w], held[:w])
    within = Shared(schema, initial, held, deployed)
    out["within32"] = Case(within, some, Coding("sparse"))
    out["within6"] = Case(within, some, Coding("sparse", 6))
    other[:w] = np.where(chosen, whole[:w], start[:w])
    out["within_again"] = Case(Shared(schema, initial, start, deployed), other, Coding("sparse"), again)
    drawn = np.zeros(w, dtype=bool)
    drawn[random_mask([layer.size for layer in schema.layers], 0.1, 2022, deployed)] = True
    random[:w] = np.where(drawn, whole[:w], held[:w])
    images = Schema([("fc1.weight", "weight", (20, 3 * 36)), ("fc2.weight", "weight", (5, 20)), ("fc2.bias", "rest", (5,))])
    at_image, moved = _number(np.arange(images.size), 1), 0.25 * _number(np.arange(images.size), 4)
    moved[np.arange(images.size) % 36 > 12] = 0  # neighbours are alike
    seen = Shared(images, at_image, at_image)
    out["pixels6"] = Case(seen, at_image + moved.astype(np.float32), Coding("sparse", 6))
    out["within_random32"] = Case(within, random, Coding("random", updating_ratio=0.1), mask_seed=2022)
    return out


def main() -> None:
    for name, (shared, new, coding, base, selected, mask_seed, options) in cases().items():
        draft = draft_update(shared, new, coding, base, selected, mask_seed)
        data = encode_update(draft, **{"round": 3, **options})
        (GOLDEN / f"{name}.dpu").write_bytes(data)
        (GOLDEN / f"{name}.f32").write_bytes(decode_update(data, shared).result.astype("<f4").tobytes())
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
