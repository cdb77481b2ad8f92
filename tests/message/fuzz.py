"""Give an edge node mutated and random messages: `python -m tests.message.fuzz --count 100000`.

Half of the messages get a right checksum. The node must refuse each, or end with the state whose
fingerprint the message promises; a refusal must leave it bit for bit what it was. No other exception may
come out.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import dataclass, field

import numpy as np

from utils.edge import EdgeNode
from utils.message import Base, Coding, Shared, UpdateFormatError, draft_update, encode_update, unpack_message
from utils.message.base import pruned
from utils.message.container import KINDS
from utils.message.masks import random_mask
from utils.message.values import VALUE_BITS
from utils.schema import Schema

HEADER = 69


@dataclass
class Outcome:
    refused: int = 0
    applied: int = 0
    slowest: float = 0.0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass
class Target:
    """What a node holds before a message comes, and valid messages for it."""

    shared: Shared
    messages: list[bytes]

    def node(self) -> EdgeNode:
        node = EdgeNode(self.shared.schema, self.shared.initial)
        node.line = node.serving = self.shared.line
        node.deployed = self.shared.deployed
        return node


def material() -> list[Target]:
    """A node with all weights and one with a sparse network, with a valid message of every kind and number of bits."""
    schema = Schema([
        ("conv.weight", "weight", (6, 4, 3, 3)), ("fc.weight", "weight", (8, 24)),
        ("out.weight", "weight", (3, 8)),
        ("conv.bias", "rest", (6,)), ("bn.running_var", "buffer", (6,)),
    ])  # fmt: skip
    rng, w = np.random.RandomState(0), schema.num_weights
    initial = rng.standard_normal(schema.size).astype(np.float32)
    line = np.where(rng.random_sample(schema.size) < 0.2, initial + np.float32(0.1), initial)
    dense = Shared(schema, initial, line)
    messages = some_messages(dense, KINDS, rng)
    mixed = Base(shrink_perturb=(0.5, 0.25))
    new = dense.state(mixed) + np.float32(0.1)
    messages.append(encode_update(draft_update(dense, new, Coding("dense"), mixed), round=1))
    deployed = np.abs(line[:w]) > 0.7
    new = pruned(line + np.float32(0.1), deployed)
    deployment = draft_update(dense, new, Coding("pruned", deploys=True), selected=np.flatnonzero(deployed))
    messages.append(encode_update(deployment, round=1))
    sparse = Shared(schema, initial, new, deployed)
    return [Target(dense, messages), Target(sparse, some_messages(sparse, ("sparse", "random", "dense"), rng))]


def some_messages(shared: Shared, kinds, rng: np.random.RandomState) -> list[bytes]:
    """A valid message of every kind and number of value bits."""
    schema, w, line = shared.schema, shared.schema.num_weights, shared.line
    there, messages = schema.weight_indices(shared.deployed), []
    for kind in kinds:
        for bits in VALUE_BITS:
            new = line + np.float32(0.1) * rng.standard_normal(schema.size).astype(np.float32)
            chosen = np.zeros(w, dtype=bool)
            chosen[there] = (rng.random_sample(w) < 0.2)[there]
            if kind == "random":
                chosen = np.isin(np.arange(w), random_mask(schema.layer_sizes(), 0.2, 5, shared.deployed))
            if kind == "dense":
                chosen[there] = True
            new[:w] = np.where(chosen, new[:w], 0 if kind == "pruned" else line[:w])
            draft = draft_update(shared, new, Coding(kind, bits, updating_ratio=0.2), mask_seed=5)
            messages.append(encode_update(draft, round=1))
    return messages


def mutate(data: bytes, others: list[bytes], rng: np.random.RandomState) -> bytes:
    """A message with bits flipped, bytes changed, removed or exchanged, or one made of random bytes."""
    raw, kind = bytearray(data), rng.randint(8)
    body = HEADER + rng.randint(max(len(raw) - HEADER - 16, 1))
    if kind == 0:  # random bytes behind a right or a random header
        return bytes(raw[: HEADER * rng.randint(2)]) + rng.bytes(rng.randint(400))
    if kind <= 3:
        for _ in range(1 + rng.randint(3)):
            raw[rng.randint(len(raw)) if kind == 1 else HEADER + rng.randint(len(raw) - HEADER - 16)] ^= (
                1 << rng.randint(8)
            )
    elif kind == 4:
        raw[body : body + rng.randint(40)] = rng.bytes(rng.randint(40))
    elif kind == 5:  # another value in the header
        field_ = [(4, 5), (5, 6), (6, 7), (7, 8), (8, 9), (9, 13), (53, 61), (61, 65), (65, 69)][
            rng.randint(9)
        ]
        raw[slice(*field_)] = (
            rng.bytes(field_[1] - field_[0])
            if rng.randint(2)
            else int(rng.randint(9)).to_bytes(field_[1] - field_[0], "little")
        )
    elif kind == 6:  # the end of another message
        other = others[rng.randint(len(others))]
        raw[body:] = other[min(body, len(other)) :]
    else:
        raw[HEADER:] = rng.bytes(len(raw) - HEADER)
    return bytes(raw)


def seal(data: bytes, rng: np.random.RandomState) -> bytes:
    """Make checksum and, mostly, body length right, so that the decoder itself must find what is wrong."""
    raw = bytearray(data)
    if len(raw) < HEADER + 16:
        return data
    if rng.randint(4):
        raw[53:61] = (len(raw) - HEADER - 16).to_bytes(8, "little")
    return bytes(raw[:-16]) + hashlib.blake2b(raw[:-16], digest_size=16).digest()


def fuzz(count: int, seed: int = 0) -> Outcome:
    """Raises AssertionError if a message has an effect that it must not have."""
    targets = material()
    every = [message for target in targets for message in target.messages]
    rng, outcome = np.random.RandomState(seed), Outcome()
    for i in range(count):
        target = targets[rng.randint(len(targets))]
        messages = target.messages if rng.randint(8) else every  # now and then one that is for the other node
        data = mutate(messages[rng.randint(len(messages))], every, rng)
        if i % 2:
            data = seal(data, rng)
        node = target.node()
        start = time.perf_counter()
        try:
            node.receive(data)
            promised = unpack_message(data)[0].result_fingerprint
            assert node.fingerprint == promised, f"message {i}: another state than promised"
            outcome.applied += 1
        except UpdateFormatError as error:
            held = target.shared
            assert node.line is held.line and node.serving is held.line and node.deployed is held.deployed
            assert node.round == -1 and not node.applied
            reason = str(error).translate({ord(digit): None for digit in "0123456789"})
            outcome.reasons[reason] = outcome.reasons.get(reason, 0) + 1
            outcome.refused += 1
        outcome.slowest = max(outcome.slowest, time.perf_counter() - start)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    outcome = fuzz(args.count, args.seed)
    seconds = time.perf_counter() - start
    print(f"{args.count:,} messages in {seconds:.0f} s, the slowest in {outcome.slowest * 1000:.0f} ms:")
    print(f"  {outcome.refused:,} refused, {outcome.applied:,} applied with the promised result")
    for reason, number in sorted(outcome.reasons.items(), key=lambda item: -item[1]):
        print(f"  {number:7,}  {reason}")


if __name__ == "__main__":
    main()
