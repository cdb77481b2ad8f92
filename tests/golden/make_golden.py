"""Small messages that hold the format still across machines and versions: `python -m
tests.golden.make_golden`.

Each case is (schema, line, initial, new, options). NAME.dpu is the message, NAME.f32 the state that it
decodes to. They are made once; the tests decode them. Making them anew means that the format has changed:
raise its version.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from utils.message.base import pruned as pruned_to
from utils.message.update import Schema, decode_update, encode_update, random_mask
from utils.reinit import shrink_and_perturb

GOLDEN = Path(__file__).parent


def _number(i: np.ndarray, salt: int) -> np.ndarray:
    """Pseudo-random float32 in [-1, 1), from integers alone: the same everywhere."""
    return ((i * 2654435761 + salt * 40503 + (i * i % 9973) * 7919) % 65536).astype(np.float32) / 32768 - 1


def cases() -> dict[str, tuple]:
    """By name: schema, line, initial state, new state, options of encode_update."""
    schema = Schema([
        ("conv1.weight", "weight", (8, 3, 3, 3)), ("conv2.weight", "weight", (12, 8, 3, 3)),
        ("fc1.weight", "weight", (20, 48)), ("fc2.weight", "weight", (5, 20)),
        ("conv1.bias", "rest", (8,)), ("bn.weight", "rest", (12,)), ("fc2.bias", "rest", (5,)),
        ("bn.running_mean", "buffer", (12,)), ("bn.running_var", "buffer", (12,)),
    ])  # fmt: skip
    i, w = np.arange(schema.size), schema.num_weights
    initial = _number(i, 1)
    line = np.where(_number(i, 2) > 0.7, initial + np.float32(0.125) * _number(i, 3), initial)
    wanted = line + np.float32(0.25) * _number(i, 4)
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
    common = {"round": 3, "initial": initial}
    out = {
        f"sparse{bits}": (schema, line, initial, sparse, common | {"mode": "sparse", "value_bits": bits})
        for bits in (32, 16, 8, 6, 5, 4)
    }
    seed = {"mode": "random", "mask_seed": 2022, "updating_ratio": 0.1}
    out["random6"] = (schema, line, initial, random, common | seed | {"value_bits": 6})
    out["dense32"] = (schema, line, initial, wanted, common | {"mode": "dense"})
    out["dense4"] = (schema, line, initial, wanted, common | {"mode": "dense", "value_bits": 4})
    out["pruned32"] = (schema, initial, initial, pruned, common | {"mode": "pruned", "reinitialize": True})
    standby = {"mode": "sparse", "reinitialize": True, "serve": False}
    out["standby"] = (schema, initial, initial, reinitialized, common | standby)
    factors = 0.4, 0.1
    shrunk = shrink_and_perturb(line, initial, factors, schema.num_buffers)
    shrunk[:w] = np.where(chosen, wanted[:w], shrunk[:w])
    for bits in (32, 6):
        options = common | {"mode": "sparse", "value_bits": bits, "shrink_perturb": factors}
        out[f"shrunk{bits}"] = (schema, line, initial, shrunk, options)
    out["signed"] = (schema, line, initial, sparse, common | {"mode": "sparse", "sign_key": b"golden"})
    deployed = np.abs(line[:w]) > 0.5
    whole = pruned_to(wanted, deployed)
    options = common | {"mode": "pruned", "deploys": True, "selected": np.flatnonzero(deployed)}
    out["deployed32"] = (schema, line, initial, whole, options)
    held, options = pruned_to(line, deployed), common | {"deployed": deployed}
    some = whole.copy()
    some[:w] = np.where(chosen, whole[:w], held[:w])
    out["within32"] = (schema, held, initial, some, options | {"mode": "sparse"})
    out["within6"] = (schema, held, initial, some, options | {"mode": "sparse", "value_bits": 6})
    again, start = options | {"mode": "sparse", "reinitialize": True}, pruned_to(initial, deployed)
    fresh = whole.copy()
    fresh[:w] = np.where(chosen, whole[:w], start[:w])
    out["within_again"] = (schema, start, initial, fresh, again)
    drawn = np.zeros(w, dtype=bool)
    drawn[random_mask([layer.size for layer in schema.layers], 0.1, 2022, deployed)] = True
    random = whole.copy()
    random[:w] = np.where(drawn, whole[:w], held[:w])
    out["within_random32"] = (schema, held, initial, random, options | seed)
    return out


def main() -> None:
    for name, (schema, line, initial, new, options) in cases().items():
        factors = options.get("shrink_perturb")
        base = shrink_and_perturb(line, initial, factors, schema.num_buffers) if factors else line
        data = encode_update(base, new, schema, **options)
        (GOLDEN / f"{name}.dpu").write_bytes(data)
        result = decode_update(data, schema, base=line, initial=initial, deployed=options.get("deployed")).result
        (GOLDEN / f"{name}.f32").write_bytes(result.astype("<f4").tobytes())
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
