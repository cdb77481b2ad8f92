"""Re-initialization: what the flags mean, when a round starts again, and the same base, bit for bit, on both sides."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.message.test_message import SCHEMA, encode, patched, reseal, same, schemas, states
from tests.run.test_folder_names import TINY, name_of
from tests.script_runs import RUNS, SMALL
from utils.edge import EdgeNode
from utils.edge.program import main as edge_main
from utils.link import Link, Outgoing
from utils.message import Base, Coding, Shared, UpdateFormatError, decode_update, unpack_message
from utils.message.base import shrink_and_perturb
from utils.reinit import Reinit, choose
from utils.training.device import denormals

NONE = {"reinit_every": None, "shrink": None, "perturb": None}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"without_reinit": False}, Reinit("doubling")),  # multiround_dpu.py
        ({"without_reinit": True}, Reinit("never")),
        ({"without_reinit": True, "reinit_strategy": "never"}, Reinit("never")),
        ({"reinit": False}, Reinit("never")),  # multiround_rpu.py
        ({"reinit": True}, Reinit("doubling")),
        ({"reinit": True, "reinit_strategy": "doubling"}, Reinit("doubling")),
        ({}, Reinit("never")),  # multiround_fu.py
        ({"reinit": False, "reinit_strategy": "every"}, Reinit("every", reinit_every=1)),
        ({"without_reinit": False, "reinit_strategy": "every", "reinit_every": 5}, Reinit("every", reinit_every=5)),
        ({"reinit": False, "reinit_strategy": "shrink_perturb"}, Reinit("shrink_perturb", shrink=0.4, perturb=0.1)),
        (
            {"without_reinit": False, "reinit_strategy": "shrink_perturb", "shrink": 0.0, "perturb": 1.0},
            Reinit("shrink_perturb", shrink=0.0, perturb=1.0),
        ),
    ],
)
def test_what_flags_mean(flags, expected):
    given_flags = NONE | flags
    assert choose(given_flags) == expected
    assert not {"reinit", "without_reinit"} & set(given_flags), "what stands for another flag is no setting"


def test_when_a_round_starts_again():
    """Samples, samples at the last start, rounds since."""
    assert [Reinit("doubling").is_due(n, 1000, 9) for n in (2000, 2001)] == [False, True]
    assert [Reinit("shrink_perturb", None, 0.4, 0.1).is_due(n, 1000, 9) for n in (2000, 2001)] == [False, True]
    assert not Reinit("never").is_due(10**6, 1, 10**3)
    assert [Reinit("every", 3).is_due(10**6, 1, rounds) for rounds in (1, 2, 3, 4)] == [False, False, True, True]


def test_shrink_and_perturb_by_hand():
    line, initial = np.float32([2, -4, 0, 8, 5]), np.float32([1, 2, -3, 0.5, 7])
    # 0.5 * line + 0.25 * initial, and the last two, statistics, as they are
    mixed = shrink_and_perturb(line, initial, (0.5, 0.25), num_buffers=2)
    assert mixed.tolist() == [1.25, -1.5, -0.75, 8, 5] and mixed.dtype == np.float32
    assert shrink_and_perturb(line, initial, (0, 1), 0).tolist() == initial.tolist()
    assert shrink_and_perturb(line, initial, (1, 0), 0).tolist() == line.tolist()
    assert line.tolist() == [2, -4, 0, 8, 5]


def rounded(x: float) -> float:
    """To float32, which is right even where float64 has rounded before: it has more than twice the digits."""
    return struct.unpack("<f", struct.pack("<f", x))[0]


FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
FACTOR = st.floats(0, 1)


@settings(deadline=None)
@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=1, max_size=30), FACTOR, FACTOR)
def test_base_is_rounded_three_times_on_every_machine(pairs, shrink, perturb):
    """Against Python's arithmetic, a number at a time, and torch's: no processor may fuse or flush anything."""
    line, initial = np.float32(pairs).T.copy()
    with denormals(flushed=False):
        mixed = shrink_and_perturb(line, initial, (shrink, perturb), 0)
        s, p = rounded(shrink), rounded(perturb)
        expected = [rounded(rounded(s * a) + rounded(p * b)) for a, b in zip(line.tolist(), initial.tolist())]
        assert same(mixed, np.float32(expected))
        in_torch = s * torch.from_numpy(line) + (p * torch.from_numpy(initial))
        assert same(mixed, in_torch.numpy())


# The message.


def shrunk_message(schema=SCHEMA, factors=(0.4, 0.1), seed=0, bits=32, **options):
    initial, line, _ = states(schema, 0.0, seed)
    shared, mixed = Shared(schema, initial, line), Base(shrink_perturb=factors)
    base = shared.state(mixed)
    w, rng = schema.num_weights, np.random.RandomState(seed)
    new = base + np.float32(0.1) * rng.standard_normal(schema.size).astype(np.float32)
    kept = rng.random_sample(w) < 0.8
    new[:w][kept] = base[:w][kept]
    return encode(shared, new, Coding("sparse", bits), mixed, round=4, **options)[0], shared, new


@settings(max_examples=60, deadline=None)
@given(schemas(), FACTOR, FACTOR, st.integers(0, 2**31), st.sampled_from([32, 16, 6, 4]), st.booleans(), st.booleans())
def test_message_on_a_shrunk_base_comes_back(schema, shrink, perturb, seed, bits, serve, signed):
    key = b"key" if signed else None
    how = {"serve": serve, "sign_key": key}
    data, shared, new = shrunk_message(schema, (shrink, perturb), seed, bits, **how)
    update = decode_update(data, shared, key)
    assert bits < 32 or same(update.result, new)
    header = update.header
    assert header.base.shrink_perturb == (rounded(shrink), rounded(perturb))
    assert (header.base.reinitialize, header.serve, header.signed) == (False, serve, signed)
    assert sum(update.header.sizes.values()) == len(data) == header.message_bytes
    assert header.header_bytes == 69 + 8 + 16 * (1 + signed)


def test_message_without_factors_has_no_bytes_for_them():
    data, shared, _ = shrunk_message()
    header, _ = unpack_message(data)
    plain, _ = encode(shared, shared.line, Coding("sparse"), round=4)
    assert unpack_message(plain)[0].header_bytes == header.header_bytes - 8
    assert unpack_message(plain)[0].base.shrink_perturb is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (patched(69, "<f", 1.5), "impossible base"),
        (patched(73, "<f", -0.1), "impossible base"),
        (patched(69, "<f", float("nan")), "impossible base"),
        (patched(73, "<f", float("inf")), "impossible base"),
        (patched(69, "<f", 0.5), "another base: the fingerprint is not that of this node's state"),
        (patched(8, "B", 1 | 2 | 8), "impossible base"),
        (patched(8, "B", 2), "wrong length"),  # eight bytes more than announced
        (lambda data: reseal(data[:69] + data[-16:]), "wrong length"),
    ],
)  # fmt: skip
def test_node_refuses_and_stays(change, reason):
    data, shared, _ = shrunk_message()
    node, line = EdgeNode(SCHEMA, shared.initial), shared.line
    node.line = node.serving = line
    with pytest.raises(UpdateFormatError, match=reason):
        node.receive(change(data))
    assert node.line is line and node.serving is line and node.round == -1
    node.receive(data)


@pytest.mark.parametrize("factors", [(1.1, 0.1), (0.1, float("nan"))])
def test_encoder_refuses_impossible_factors(factors):
    with pytest.raises(ValueError, match="shrink and perturb"):
        shrunk_message(factors=factors)


def test_encoder_refuses_two_bases_at_once():
    with pytest.raises(ValueError, match="not on the initial state"):
        Base(reinitialize=True, shrink_perturb=(1, 0))


@pytest.mark.parametrize("bits", [32, 6])
def test_link_makes_the_base_that_the_node_makes(bits, tmp_path):
    """With denormals flushed, as in training: a line of 1e-38 would shrink to 0 instead of 4e-39."""
    initial = torch.full((SCHEMA.size,), 1e-38)
    link = Link(SCHEMA, initial, tmp_path)
    link.open([], [])
    with denormals(flushed=True):
        outgoing = Outgoing(link, 0, Coding("sparse", bits), Base(shrink_perturb=(0.4, 0.0)))
        network = outgoing.start.clone()
        network[3] = 0.25
        expected = outgoing.candidate(network, selected=None)
        delivery = outgoing.send(expected, serve=True)
    assert 3e-39 < outgoing.start[0] < 5e-39
    assert link.node.line.tobytes() == expected.network.numpy().tobytes() and delivery.selected.size == 1


# The scripts.


@pytest.mark.parametrize(
    ("name", "rounds", "factors"),
    [
        ("dpu", [0, 0, 1], None), ("every", [0, 1, 1], None), ("shrink_perturb", [0, 0, 1], (0.4, 0.1)),
        ("rpu_shrink", [0, 0, 1], (0.5, 0.2)), ("gcpu", [0, 0, 0], None),
    ],
)  # fmt: skip
def test_strategies_in_a_run(results, name, rounds, factors, capsys):
    result = results[name]
    assert [row["reinitialized"] for row in result.rows] == rounds
    for row in result.rows:
        if row["sent"]:
            path = result.folder / "updates" / f"round_{row['round']:03d}.dpu"
            header, _ = unpack_message(path.read_bytes())
            mixed = row["reinitialized"] and factors is not None
            assert header.base.shrink_perturb == (tuple(map(rounded, factors)) if mixed else None)
            assert header.base.reinitialize == (bool(row["reinitialized"]) and not mixed)
    assert edge_main(["replay", str(result.folder)]) == 0
    assert edge_main(["show", str(result.folder / "updates" / "round_002.dpu")]) == 0
    out = capsys.readouterr().out
    assert ("shrunk and perturbed" in out) == (factors is not None)
    if factors:
        assert "{:g} x the state of the last message + {:g} x the initial weights".format(*factors) in out


def test_a_node_file_follows_a_shrunk_run(results, tmp_path):
    folder, node = results["shrink_perturb"].folder, tmp_path / "node.safetensors"
    assert edge_main(["init", "--initial", str(folder / "initial.safetensors"), "--out", str(node)]) == 0
    updates = sorted(str(path) for path in (folder / "updates").iterdir())
    assert edge_main(["apply", "--node", str(node), *updates]) == 0


def test_folders_of_strategies(monkeypatch):
    """What says the same as before has the folder of before; what is new has one of its own."""

    def dpu(flags=""):
        return name_of(RUNS["dpu"][0], [*TINY.split(), *flags.split()], monkeypatch)

    def rpu(flags=""):
        return name_of(RUNS["rpu"][0], [*TINY.split(), *flags.split()], monkeypatch)

    assert dpu() == dpu("--reinit_strategy doubling")
    assert dpu("--without_reinit") == dpu("--reinit_strategy never") == dpu("--without_reinit --reinit_strategy never")
    assert rpu() == rpu("--reinit_strategy never")
    assert rpu("--reinit") == rpu("--reinit_strategy doubling") == rpu("--reinit --reinit_strategy doubling")
    every, shrink = "--reinit_strategy every", "--reinit_strategy shrink_perturb"
    assert dpu(every) == dpu(f"{every} --reinit_every 1")
    assert dpu(shrink) == dpu(f"{shrink} --shrink 0.40 --perturb 0.1")
    new = [every, f"{every} --reinit_every 2", shrink, f"{shrink} --shrink 0.5", f"{shrink} --perturb 0.4", ""]
    assert len({dpu(flags) for flags in new}) == len(new)


def test_shrinking_by_nothing_is_never_starting_again(tmp_path):
    """shrink 1 and perturb 0 leave the line as it is: the same networks, with other headers."""
    script, _ = RUNS["dpu"]
    flags = [*SMALL, "--updating_ratio", "0.1", "--output_dir", str(tmp_path)]
    never = script.main([*flags, "--without_reinit"])
    same_line = script.main([*flags, "--reinit_strategy", "shrink_perturb", "--shrink", "1", "--perturb", "0"])
    assert same_line.summary["line_sha256"] == never.summary["line_sha256"]
    assert [row["reinitialized"] for row in same_line.rows] == [0, 0, 1]
