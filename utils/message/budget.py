"""How many weights fit into a message of so many bytes, found with the real encoder.

A message's size hardly ever falls when a weight is added, but it can, by a byte or four: the searches here end at a
number that fits, of which the next one does not.
"""

import math
from collections.abc import Callable

import numpy as np

from utils.message.base import Shared
from utils.message.body import Coding, Draft, draft_update
from utils.message.masks import random_mask
from utils.message.update import encode_update


def message_size(draft: Draft, sign_key: bytes | None) -> int:
    """Return the bytes of an update's message; neither its round nor whether it is served changes them."""
    return len(encode_update(draft, round=0, serve=True, sign_key=sign_key))


def most_that_fit(size: Callable[[int], int], budget: int, most: int, guess: int) -> int:
    """Return a number n of 0 to `most` with `size(n) <= budget < size(n + 1)`, or `most` if that fits.

    `size(0) <= budget` is taken for granted. `guess` is where the search begins.
    """
    fits, too_many, step = 0, most + 1, max(1, min(guess, most))
    while fits < too_many - 1:
        number = min(step, most) if too_many > most else (fits + too_many) // 2
        if size(number) <= budget:
            fits, step = number, 2 * number
        else:
            too_many = number
    return fits


def smallest_budget(shared: Shared, value_bits: int, sign_key: bytes | None) -> int:
    """Return the bytes that a message without any weight takes, if its rest is as costly as in training or more.

    The largest of three messages whose rest moved at random, by little and by much; two in a hundred and a word more.
    """
    schema, generator = shared.schema, np.random.default_rng(0)
    rest = slice(schema.num_weights, schema.size)
    sizes = []
    for scale in (1e-3, 1e-1, 1.0):
        moved = shared.initial.copy()
        moved[rest] += (scale * generator.standard_normal(moved[rest].size)).astype(np.float32)
        sizes.append(message_size(draft_update(shared, moved, Coding("sparse", value_bits)), sign_key))
    return math.ceil(1.02 * max(sizes)) + 4


def fitting_ratio(shared: Shared, value_bits: int, budget: int, sign_key: bytes | None) -> float:
    """Return the updating ratio of random masks whose messages are about as large as `budget`.

    Measured on an update that moves every weight by as much, on average, as the weights of its layer are large: the
    values of a mask are those of any other.
    """
    schema, generator = shared.schema, np.random.default_rng(0)
    moved = shared.initial.copy()
    for layer in schema.layers:
        weights = moved[layer.part]
        weights += (weights.std() * generator.standard_normal(weights.size)).astype(np.float32)
    w = schema.num_weights
    moved[w:] += (0.1 * generator.standard_normal(schema.size - w)).astype(np.float32)

    def size(count: int) -> int:
        coding = Coding("random", value_bits, count / w)
        network = shared.initial.copy()
        network[w:] = moved[w:]
        chosen = random_mask(schema.layer_sizes(), coding.updating_ratio, 0)
        network[chosen] = moved[chosen]
        return message_size(draft_update(shared, network, coding, mask_seed=0), sign_key)

    return most_that_fit(size, budget, w, budget // 4) / w
