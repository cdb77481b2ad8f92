"""Messages of a sparse network: positions among its weights against a plain coder, round trips, what is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.message.test_message import SCHEMA, encode, patched, same, schemas
from utils.edge import EdgeNode
from utils.message import Base, Coding, Shared, UpdateFormatError, decode_update, draft_update, unpack_message
from utils.message.base import pruned
from utils.message.geometry import Geometry, geometries
from utils.message.masks import random_mask, sizes_within
from utils.message.position_model import LayerState, Pass, mask_passes, pass_ranges
from utils.message.positions import code_mask
from utils.message.streams import StreamReader, StreamWriter, log2_fixed
from utils.message.update import sent_by_layer
from utils.message.values import VALUE_BITS
from utils.schema import Schema

SHARES = st.sampled_from([0.0, 0.02, 0.3, 0.6, 1.0])


def sparse_states(schema, share, density, seed):
    """Initial state, deployed weights, a line that consists of them, and a new state."""
    rng, w = np.random.RandomState(seed), schema.num_weights
    initial = rng.standard_normal(schema.size).astype(np.float32)
    deployed = rng.random_sample(w) < share
    start = pruned(initial, deployed)
    line = np.where(rng.random_sample(schema.size) < 0.3, start * np.float32(1.1), start)
    new = line + np.float32(0.1) * rng.standard_normal(schema.size).astype(np.float32)
    chosen = deployed & (rng.random_sample(w) < density)
    new[:w] = np.where(chosen, new[:w], line[:w])
    return initial, deployed, line, new


# Positions.


class Recorder:
    """A coder that keeps the log odds that it is given."""

    def __init__(self):
        self.logits = []

    def bits(self, logits, bits):
        self.logits += logits.tolist()
        return bits


def plain_logits(geometry, mask, deployed, changed):
    """Log odds of every deployed weight in coding order, worked out one by one as docs/update_format.md says."""
    rows, columns, kernel = geometry.rows, geometry.columns, geometry.kernel
    width, size, m = geometry.width, int(deployed.sum()), int(mask.sum())
    side = next((s for s in range(2, columns + 1) if columns in (s * s, 3 * s * s)), None)
    distances = [] if not geometry.pixels else [-1, 1] if side is None else [-1, 1, -side, side]

    def log(x):
        return int(log2_fixed(np.array([x]))[0])

    def effect(like):  # of weights that were visited
        return log((4 * sum(mask[k] for k in like) + 1) * size) - log(4 * len(like) * m + size)

    def class_of(i):
        return (23 * (i % width) + 37 * (i // width)) % 64

    def places(i):  # row, column, kernel, kernel position
        row, j = divmod(i, width)
        return row, j // kernel, (row, j // kernel), j % kernel

    present = [i for i in range(rows * width) if deployed[i]]
    both = len({bool(changed[i]) for i in present}) == 2
    found, visited = [], []
    for start, end in pass_ranges(rows * width):
        now = sorted((i for i in present if start <= class_of(i) < end), key=lambda i: (class_of(i), i))
        for i in now:
            row, column, kernel_, position = places(i)
            effects = [(10 if kernel > 1 else 16, effect([k for k in visited if places(k)[0] == row]))]
            effects += [(9 if distances else 15, effect([k for k in visited if places(k)[1] == column]))]
            if kernel > 1:
                effects += [(14, effect([k for k in visited if places(k)[2] == kernel_]))]
                effects += [(10, effect([k for k in visited if (places(k)[0], places(k)[3]) == (row, position)]))]
            if both:
                effects += [(6, effect([k for k in visited if changed[k] == changed[i]]))]
            if distances:
                effects += [(20, effect([k for k in visited if k - i in distances]))]
                effects += [(9, effect([k for k in visited if places(k)[1] - column in distances]))]
            found.append(log(m) - log(size - m) + sum(weight * e // 16 for weight, e in effects))
        visited += now
    return found


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(9, 13, 1), Geometry(7, 5, 9), Geometry(1, 40, 1), Geometry(4, 16, 1, pixels=True),
        Geometry(3, 27, 1, pixels=True), Geometry(3, 13, 1, pixels=True),
    ],
)  # fmt: skip
@pytest.mark.parametrize("share", [0.1, 0.6, 1.0])
def test_log_odds_equal_the_plain_model(geometry, share):
    rng = np.random.RandomState(geometry.size)
    deployed = rng.random_sample(geometry.size) < share
    mask, changed = deployed & (rng.random_sample(geometry.size) < 0.3), rng.random_sample(geometry.size) < 0.4
    mask[np.flatnonzero(deployed)[0]] = True
    recorder = Recorder()
    state = LayerState(geometry, int(mask.sum()), changed, deployed)
    assert np.array_equal(mask_passes(state, recorder, mask), mask)
    assert recorder.logits == plain_logits(geometry, mask, deployed, changed)
    if share == 1.0:  # where everything is deployed, the model is the one without
        dense = Recorder()
        mask_passes(LayerState(geometry, int(mask.sum()), changed), dense, mask)
        assert dense.logits == recorder.logits


def test_log_odds_of_a_large_layer_equal_the_plain_model(monkeypatch):
    """Where each class is a pass of its own; what is large is lowered, for the plain model is slow."""
    monkeypatch.setattr("utils.message.position_model.LARGE_LAYER", 100)
    assert pass_ranges(100)[-1] == (51, 64) and pass_ranges(101) == [(i, i + 1) for i in range(64)]
    test_log_odds_equal_the_plain_model(Geometry(7, 5, 9), 0.6)
    test_log_odds_equal_the_plain_model(Geometry(9, 16, 1, pixels=True), 1.0)


def test_log_odds_by_hand():
    """The example of docs/update_format.md: odds of 10 in 100, a row with 1 of 3 and a column with 2 of 17."""
    geometry = Geometry(20, 5, 1)
    state = LayerState(geometry, 10, np.zeros(100, dtype=bool))
    zero, seen = np.array([0]), np.zeros(25, dtype=np.int64)
    seen[[0, 20]] = 3, 17
    state.selected[[0, 20]] = 1, 2
    assert state.logits(Pass(zero, zero, zero, zero, zero, seen)).tolist() == [-458]


def test_neighbours_are_those_of_a_square_image():
    assert Geometry(2, 784, 1, pixels=True).neighbours == (-1, 1, -28, 28)
    assert Geometry(2, 3072, 1, pixels=True).neighbours == (-1, 1, -32, 32)
    assert Geometry(2, 12, 1, pixels=True).neighbours == (-1, 1, -2, 2)
    assert Geometry(2, 28 * 27, 1, pixels=True).neighbours == Geometry(2, 1, 1, pixels=True).neighbours == (-1, 1)
    seen = geometries([(8, 784), (4, 8), (4, 4, 3, 3)])
    assert [g.pixels for g in seen] == [True, False, False] and seen[1].neighbours == ()
    assert not geometries([(4, 3, 3, 3)])[0].pixels


@settings(max_examples=80, deadline=None)
@given(schemas(), SHARES, SHARES, st.integers(0, 2**31), st.booleans())
def test_positions_among_deployed_weights_come_back(schema, share, density, seed, clustered):
    rng, w = np.random.RandomState(seed), schema.num_weights
    deployed, changed = rng.random_sample(w) < share, rng.random_sample(w) < 0.3
    mask = deployed & (rng.random_sample(w) < density)
    if clustered:
        mask &= np.arange(w) % 7 < 3
    writer = StreamWriter()
    code_mask(writer, schema, changed, mask, deployed)
    reader = StreamReader(writer.finish(), "positions")
    assert np.array_equal(code_mask(reader, schema, changed, None, deployed), mask)
    reader.finish()


def test_positions_cost_the_entropy_among_the_deployed_alone():
    """1,000 of 10,000 deployed weights of 100,000: 10,000 * H(0.1) / 8 = 586 bytes, not 100,000 * H(0.01) / 8 = 1,010."""
    schema = Schema([("w", "weight", (250, 400))])
    initial, deployed, line, new = sparse_states(schema, 0.1, 0.1, 5)
    data, _ = encode(Shared(schema, initial, line, deployed), new, Coding("sparse"))
    assert 560 < unpack_message(data)[0].index_bytes < 610


def test_random_mask_by_hand():
    """Of 4 and 6 weights 3 and 2 are there; the generator draws permutations of 3 and 2, of which it takes 2 and 1."""
    deployed = np.array([True, False, True, True, False, True, False, False, True, False])
    assert sizes_within([4, 6], np.flatnonzero(deployed)) == [3, 2]
    generator, places = np.random.RandomState(3), np.flatnonzero(deployed)
    expected = sorted([*places[generator.permutation(3)[:2]], *places[3 + generator.permutation(2)[:1]]])
    assert random_mask([4, 6], 0.5, 3, deployed).tolist() == expected
    assert sizes_within([2, 0, 3], np.array([], int)) == [0, 0, 0]


# Messages.


@settings(max_examples=120, deadline=None)
@given(
    schemas(), st.sampled_from(["sparse", "random", "dense"]), st.sampled_from(VALUE_BITS), SHARES, SHARES,
    st.integers(0, 2**31), st.booleans(),
)  # fmt: skip
def test_updates_of_a_sparse_network_come_back(schema, kind, bits, share, density, seed, reinitialize):
    initial, deployed, line, new = sparse_states(schema, share, density, seed)
    w, base = schema.num_weights, pruned(initial, deployed) if reinitialize else line
    ratio = max(density, 0.01)
    chosen = new[:w] != line[:w]
    if kind == "random":
        chosen[:] = False
        chosen[random_mask([layer.size for layer in schema.layers], ratio, seed, deployed)] = True
    new[:w] = np.where(chosen, new[:w], base[:w])
    shared = Shared(schema, initial, line, deployed)
    data, expected = encode(shared, new, Coding(kind, bits, ratio), Base(reinitialize), mask_seed=seed, round=4)
    update = decode_update(data, shared)
    assert same(update.result, expected)
    assert bits < 32 or same(update.result, new)
    assert not update.result[:w][~deployed].tobytes().strip(b"\0")
    assert deployed[update.selected].all() and update.deployed is deployed
    assert update.header.header_bytes == 85 and update.header.sparse_network and not update.header.deploys
    assert sent_by_layer(unpack_message(data), schema, deployed).sum() == update.selected.size


@settings(max_examples=40, deadline=None)
@given(schemas(), st.sampled_from(VALUE_BITS), SHARES, st.integers(0, 2**31))
def test_deployments_come_back(schema, bits, share, seed):
    initial, deployed, _, _ = sparse_states(schema, share, 0.5, seed)
    new = pruned(initial + np.float32(0.1), deployed)
    new[: schema.num_weights][deployed][:1] = 0  # among those that are there, a zero is a value
    shared, coding = Shared(schema, initial, initial), Coding("pruned", bits, deploys=True)
    data, expected = encode(shared, new, coding, selected=np.flatnonzero(deployed))
    update = decode_update(data, shared)
    assert np.array_equal(update.deployed, deployed) and update.header.deploys
    assert same(update.result, expected)


def deployment(new_values=(0.5, -1.0, 2.0)):
    """A network of 6 weights of which 3 are deployed: its initial state and the message."""
    schema = Schema([("w", "weight", (2, 3))])
    initial, new = np.arange(1, 7, dtype=np.float32), np.zeros(6, dtype=np.float32)
    new[[0, 2, 5]] = new_values
    shared, kept = Shared(schema, initial, initial), np.array([0, 2, 5])
    return schema, initial, encode(shared, new, Coding("pruned", deploys=True), selected=kept, round=0)[0]


def test_a_weight_that_becomes_zero_is_still_there(tmp_path):
    """Weight 2 is sent as 0.0 at once, weight 5 becomes 0.0 in round 1; both change again, also after a restart."""
    schema, initial, first = deployment((0.5, 0.0, 2.0))
    node = EdgeNode(schema, initial, path=tmp_path / "node")
    node.receive(first)
    wished = [[0.5, 0, 0, 0, 0, 0.0], [0.5, 0, 7, 0, 0, 3], [0.5, 0, 7, 0, 0, 4]]
    for number, new in enumerate(wished, 1):
        node = EdgeNode.load(tmp_path / "node")
        assert node.deployed.tolist() == [True, False, True, False, False, True]
        node.receive(encode(node.shared, np.float32(new), Coding("sparse"), round=number)[0])
        assert node.line.tolist() == new
    # A re-initialization takes the initial weights of what is there: 1, 3 and 6; weight 0 becomes 9.
    data, _ = encode(node.shared, np.float32([9, 0, 3, 0, 0, 6]), Coding("sparse"), Base(reinitialize=True), round=4)
    update = node.receive(data)
    assert node.line.tolist() == [9, 0, 3, 0, 0, 6] and update.selected.tolist() == [0]


def test_messages_for_another_kind_of_network_are_refused():
    schema, initial, first = deployment()
    dense, _ = encode(Shared(schema, initial, initial), initial + 1, Coding("dense"))
    node = EdgeNode(schema, initial)
    node.receive(first)
    line, there = node.line, node.deployed
    for data, reason in (
        (dense, "but this node has a sparse one"),
        (patched(9, "<I", 7)(first), "but this node has one already"),
        (patched(8, "B", 2)(patched(9, "<I", 7)(first)), "but this node has a sparse one"),
    ):
        with pytest.raises(UpdateFormatError, match=reason):
            node.receive(data)
        assert node.line is line and node.deployed is there and node.round == 0
    new = line + np.float32([1, 0, 0, 0, 0, 0])
    later, _ = encode(node.shared, new, Coding("sparse"))
    with pytest.raises(UpdateFormatError, match="which this node does not have"):
        EdgeNode(schema, initial).receive(later)
    with pytest.raises(UpdateFormatError, match="which this node does not have"):
        sent_by_layer(unpack_message(later), schema)
    with pytest.raises(UpdateFormatError, match="but this node has a sparse one"):
        node.receive(patched(8, "B", 2)(later))
    node.receive(later)
    assert node.line.tolist() == new.tolist()


@pytest.mark.parametrize(
    ("kind", "how", "reason"),
    [
        ("pruned", {}, "which keeps its nonzero weights"),
        ("pruned", {"deploys": True}, "deployed once"),
        ("sparse", {"deploys": True}, "by a pruned update"),
        ("sparse", {"selected": np.arange(SCHEMA.num_weights)}, "selected weights are not deployed"),
    ],
)
def test_encoder_refuses(kind, how, reason):
    initial, deployed, line, new = sparse_states(SCHEMA, 0.5, 0.2, 1)
    with pytest.raises(ValueError, match=reason):
        coding = Coding(kind, deploys=how.get("deploys", False))
        draft_update(Shared(SCHEMA, initial, line, deployed), new, coding, selected=how.get("selected"))


def test_encoder_refuses_a_weight_that_is_not_there():
    initial, deployed, line, new = sparse_states(SCHEMA, 0.5, 0.2, 1)
    new[np.flatnonzero(~deployed)[0]] = 1
    with pytest.raises(ValueError, match="not deployed"):
        draft_update(Shared(SCHEMA, initial, line, deployed), new, Coding("sparse"))
    with pytest.raises(ValueError, match="outside the selection"):
        draft_update(Shared(SCHEMA, initial, line, deployed), new, Coding("dense"))
