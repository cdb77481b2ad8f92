"""Networks of users: tensors of any number of dimensions, names and sizes travel like those of ours."""

import numpy as np
import pytest

from tests.message.test_message import encode, same, states
from utils.message import Coding, Shared, decode_update
from utils.message.geometry import LARGEST_KERNEL, Geometry, geometries
from utils.message.masks import random_mask
from utils.message.values import VALUE_BITS
from utils.schema import Schema

TRANSFORMER = Schema([
    ("token", "weight", (1, 1, 16)), ("positions", "weight", (1, 17, 16)), ("conv1.weight", "weight", (6, 3, 5)),
    ("conv3.weight", "weight", (4, 2, 3, 3, 3)), ("a.in_proj_weight", "weight", (48, 16)),
    ("embedding.weight", "weight", (40, 1)), ("größe", "weight", (1, 3)), ("table", "weight", (2, 1, 2000)),
    ("scale", "rest", ()), ("norm.weight", "rest", (8, 8)), ("norm.bias", "rest", (8, 8)), ("a.bias_k", "rest", (1, 1, 8)),
    ("average", "buffer", (3, 2)), ("count", "buffer", ()),
])  # fmt: skip
NOTHING_BUT_ONE = Schema([("w", "weight", (1, 1))])


def test_a_network_may_have_so_many_values_and_no_more():
    largest = [("w0", "weight", (1 << 14, 1 << 14)), ("w1", "weight", (1 << 14, 1 << 14))]
    assert Schema(largest).size == 1 << 29
    with pytest.raises(ValueError, match=r"536,870,913 values: no message is for more than 2\^29"):
        Schema([*largest, ("b", "rest", (1,))])


@pytest.mark.parametrize("bits", VALUE_BITS)
@pytest.mark.parametrize("kind", ["sparse", "random", "dense", "pruned"])
def test_round_trip(kind, bits):
    initial, line, new = states(TRANSFORMER, 0.2, 4)
    shared, selected, seed = Shared(TRANSFORMER, initial, line), None, None
    if kind == "random":
        seed = 5
        selected = random_mask([layer.size for layer in TRANSFORMER.layers], 0.2, seed)
    if kind == "pruned":
        new[: TRANSFORMER.num_weights][np.arange(TRANSFORMER.num_weights) % 5 > 0] = 0
    if kind == "sparse":
        selected = np.flatnonzero(new[: TRANSFORMER.num_weights] != line[: TRANSFORMER.num_weights])
    if seed is not None:
        kept = line[: TRANSFORMER.num_weights].copy()
        kept[selected] = new[selected]
        new[: TRANSFORMER.num_weights] = kept
    data, expected = encode(shared, new, Coding(kind, bits, 0.2), selected=selected, mask_seed=seed)
    result = decode_update(data, shared).result
    assert same(result, expected) and (bits < 32 or same(result, new))


@pytest.mark.parametrize("selected", [[], [0]])
def test_a_network_of_one_weight(selected):
    line = np.float32([0.5])
    shared, new = Shared(NOTHING_BUT_ONE, line, line), np.float32([0.75 if selected else 0.5])
    data, _ = encode(shared, new, Coding("sparse"), selected=np.array(selected, dtype=np.int64))
    assert same(decode_update(data, shared).result, new)


def test_large_kernels_are_columns_and_a_single_row_before_says_nothing():
    shapes = [(3, 2, LARGEST_KERNEL), (3, 2, LARGEST_KERNEL + 1), (1, 1, 64), (10, 64)]
    assert geometries(shapes) == [
        Geometry(3, 2, LARGEST_KERNEL), Geometry(3, 2 * (LARGEST_KERNEL + 1), 1), Geometry(1, 1, 64), Geometry(10, 64, 1),
    ]  # fmt: skip
