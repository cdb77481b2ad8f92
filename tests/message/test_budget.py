"""Byte budgets: the search for what fits, and that no message of a run is larger."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import build_model
from tests.script_runs import RUNS, SMALL
from utils.flat import FlatParameters
from utils.link import Link, Outgoing
from utils.message.base import Base, Shared
from utils.message.body import Coding, draft_update
from utils.message.budget import fitting_ratio, message_size, most_that_fit, smallest_budget
from utils.message.update import unpack_message
from utils.run.argument_types import byte_count

KEY = bytes(range(16))


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 100), st.integers(0, 80))
def test_the_search_finds_what_looking_at_every_number_finds(steps, budget, guess):
    sizes = np.cumsum([0, *steps])
    expected = max(n for n, size in enumerate(sizes) if size <= budget)
    assert most_that_fit(lambda n: sizes[n], budget, len(steps), guess) == expected


@given(st.lists(st.integers(0, 99), max_size=60), st.integers(0, 100), st.integers(0, 80))
def test_where_sizes_fall_again_it_ends_at_a_number_that_fits_before_one_that_does_not(sizes, budget, guess):
    sizes, most = [0, *sizes], len(sizes)
    found = most_that_fit(lambda n: sizes[n], budget, most, guess)
    assert sizes[found] <= budget and (found == most or sizes[found + 1] > budget)


def test_the_search_asks_seldom():
    asked = []
    assert most_that_fit(lambda n: asked.append(n) or 4 * n, 40_001, 14_000_000, 10_000) == 10_000
    assert len(asked) < 20


@pytest.mark.parametrize("text, count", [
    ("16000", 16000), ("16k", 16000), ("16kB", 16000), ("16KiB", 16384), ("16Ki", 16384), ("1.5k", 1500), ("2M", 2_000_000),
    ("2MiB", 2 << 20), ("300B", 300), ("1", 1), ("16.1k", 16100), ("1.001k", 1001), ("8.2M", 8_200_000),
])  # fmt: skip
def test_numbers_of_bytes(text, count):
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "-5", "16x", "k", "1.5", "0.0001k", "1.0001k", "1.1KiB", "5G", "1e3", "nan", "9" * 20])
def test_what_is_no_number_of_bytes(text):
    with pytest.raises(Exception, match="is not a number of bytes"):
        byte_count(text)


def link_and_network(budget, value_bits=32, kind="sparse"):
    """A link to a small network, and that network with every value moved."""
    flat = FlatParameters(build_model("mlp", (1, 8, 8), 10, hidden_sizes=(24,)))
    moved = flat.vector + torch.randn(flat.vector.shape, generator=torch.Generator().manual_seed(1)) / 10
    link = Link(flat.schema, flat.snapshot(), None)
    return link, Outgoing(link, 0, Coding(kind, value_bits, most_bytes=budget), Base()), moved


@pytest.mark.parametrize("kind", ["sparse", "pruned"])
@pytest.mark.parametrize("value_bits", [32, 6])
def test_a_candidate_gives_up_its_last_weights_until_it_fits(value_bits, kind):
    link, outgoing, moved = link_and_network(700, value_bits, kind)
    ranking = torch.randperm(1776, generator=torch.Generator().manual_seed(2))
    network = moved.clone()
    if kind == "sparse":
        network[:1776] = outgoing.start[:1776]
        network[ranking[:600]] = moved[ranking[:600]]
    candidate = outgoing.candidate(network, ranking[:600].sort().values, None, ranking[:600])
    assert message_size(candidate.draft, None) <= 700
    unchanged = outgoing.start if kind == "sparse" else torch.zeros_like(outgoing.start)
    sent = (candidate.network != unchanged)[:1776]
    count, last = int(sent.sum()), int(sent[ranking].nonzero().max())
    assert last < 599 and count > 0.7 * (last + 1), "the first of the ranking are kept"
    if value_bits == 32:  # with fewer, some are rounded to what they were, and need not be sent
        assert count == last + 1
        assert torch.equal(candidate.network[1776:], moved[1776:])
    delivery = outgoing.send(candidate, serve=True)
    assert delivery.header.message_bytes <= 700


@pytest.mark.parametrize("value_bits", [32, 8, 4])
def test_as_many_as_fit_and_not_one_more(value_bits):
    link, outgoing, moved = link_and_network(700, value_bits)
    ranking = torch.randperm(1776, generator=torch.Generator().manual_seed(2))

    def size(count):
        network = moved.clone()
        network[:1776] = outgoing.start[:1776]
        network[ranking[:count]] = moved[ranking[:count]]
        selected = ranking[:count].sort().values.numpy()
        draft = draft_update(link.node.shared, network.numpy(), Coding("sparse", value_bits), selected=selected)
        return message_size(draft, None)

    count = outgoing.as_many_as_fit(moved, ranking)
    assert size(count) <= 700 < size(count + 1)
    every = [size(n) for n in range(count + 40)]
    slack = 2 if value_bits == 32 else 20  # sizes can fall by a few bytes, with other steps of levels by more
    assert count >= max(n for n, each in enumerate(every) if each <= 700) - slack


def test_a_selection_in_another_order_is_refused():
    """Values are coded tensor by tensor, so that in another order they would be others."""
    link, _, moved = link_and_network(700)
    for selected in ([3, 2], [2, 2]):
        network = link.node.line.copy()
        network[selected] = moved.numpy()[selected]
        with pytest.raises(ValueError, match="ascending order"):
            draft_update(link.node.shared, network, Coding("sparse", 8), selected=np.array(selected))


@pytest.mark.parametrize("value_bits", [32, 16, 8, 6, 5, 4])
def test_what_rounding_would_make_infinite_is_not_sent(value_bits):
    _, outgoing, network = link_and_network(None, value_bits)
    for place in (7, 1780):  # a weight and a bias
        for value in (1.999 * 2.0**125, -1.999 * 2.0**125):
            network[place] = value
            assert outgoing.is_finite(network)
            assert outgoing.candidate(network, torch.arange(1776)).network.isfinite().all()
        for value in (torch.finfo(torch.float32).max, torch.inf, torch.nan):
            network[place] = value
            with warnings.catch_warnings(record=True) as warned:
                assert outgoing.is_finite(network) is (value_bits == 32 and value < torch.inf)
            assert len(warned) == (value_bits < 32 and value < torch.inf)
        network[place] = 0


def test_a_candidate_whose_rest_is_too_large_is_none():
    _, outgoing, moved = link_and_network(150)
    assert outgoing.candidate(moved, torch.arange(1776)) is None
    assert outgoing.as_many_as_fit(moved, torch.arange(1776)) == 0


@pytest.mark.parametrize("value_bits", [32, 8, 4])
def test_the_smallest_budget_has_room_for_the_rest(value_bits):
    flat = FlatParameters(build_model("mlp", (1, 8, 8), 10, hidden_sizes=(24,), batch_norm=True))
    initial = flat.vector.numpy()
    shared = Shared(flat.schema, initial, initial)
    least, signed = (smallest_budget(shared, value_bits, key) for key in (None, KEY))
    assert 16 <= signed - least <= 17
    for seed in range(20):
        generator = np.random.default_rng(seed)
        moved = initial.copy()
        moved[flat.num_weights :] += generator.normal(0, 0.03, initial.size - flat.num_weights).astype(np.float32)
        assert message_size(draft_update(shared, moved, Coding("sparse", value_bits)), None) <= least


def test_random_masks_fill_the_budget():
    flat = FlatParameters(build_model("mlp", (1, 8, 8), 10, hidden_sizes=(64, 64)))
    initial = flat.vector.numpy()
    ratio = fitting_ratio(Shared(flat.schema, initial, initial), 32, 4000, None)
    assert 3.0 < (4000 - 700) / (ratio * flat.num_weights) < 4.5  # bytes a value


@pytest.mark.parametrize("script, more", [
    ("dpu", "--mode dpu"), ("dpu", "--mode gcpu --value_bits 4 --batch_norm"), ("rpu", "--mode rpu"),
    ("rpu", "--mode rpu --reinit --value_bits 8"), ("pruning", "--mode pruning"), ("dpu", "--mode snip --sign_key KEY"),
    ("dpu", "--mode dpu --reinit_strategy shrink_perturb --value_bits 16"), ("lamp", "--mode lamp --rewind_fixing_ratio 0.2"),
])  # fmt: skip
def test_no_message_of_a_run_is_larger(script, more, tmp_path):
    (tmp_path / "key").write_bytes(KEY)
    (tmp_path / "key").chmod(0o600)
    more = more.replace("KEY", str(tmp_path / "key"))
    result = RUNS[script][0].main([*more.split(), *SMALL, "--byte_budget", "0.9k", "--output_dir", str(tmp_path / "out")])
    sizes = [path.stat().st_size for path in sorted((result.folder / "updates").iterdir())]
    assert sizes and max(sizes) <= 900 and max(sizes) > 700, sizes
    assert sizes == [row["message_bytes"] for row in result.rows if row["sent"]]
    assert "-900bytes-" in result.folder.name


def test_each_round_says_how_many_bits_it_chose(results):
    rows, folder = results["budget"].rows, results["budget"].folder
    header = (folder / "rounds.csv").read_text().splitlines()[0]
    assert header.endswith(",seconds,value_bits")
    messages = {int(path.stem[-3:]): unpack_message(path.read_bytes())[0] for path in (folder / "updates").iterdir()}
    assert messages and {number: header.value_bits for number, header in messages.items()} == {
        row["round"]: row["value_bits"] for row in rows if row["sent"]
    }


def test_the_bits_are_those_that_validate_best():
    """With 32, 8, 4 bits more and more weights fit; validation is made up."""
    link, outgoing, moved = link_and_network(700)
    seen = {}

    def accuracy(network):
        seen[outgoing.coding.value_bits] = int((network != outgoing.start)[:1776].sum())
        return {32: 0.5, 8: 0.75, 4: 0.75}[outgoing.coding.value_bits]

    assert outgoing.best_bits(moved, torch.arange(1776), [4, 8, 32], accuracy) == 4, "of equals the first"
    assert seen[4] > seen[8] > seen[32] > 0


@pytest.mark.parametrize("script, more", [
    ("dpu", "--mode dpu"), ("dpu", "--mode gcpu --value_bits auto"), ("pruning", "--mode pruning"), ("rpu", "--mode rpu"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:round")
def test_training_that_diverges_sends_nothing(script, more, tmp_path):
    flags = [*more.split(), *SMALL, "--max_rounds", "2", "--optimizer", "sgd", "--lr", "1e6", "--weight_decay", "10"]
    rows = RUNS[script][0].main([*flags, "--byte_budget", "0.9k", "--output_dir", str(tmp_path)]).rows
    assert [row["sent"] for row in rows] == [0, 0]


@pytest.mark.parametrize("flags", [
    "--hidden_sizes 64 --value_bits 4 --byte_budget 136", "--model tests/own_networks.py:bare --byte_budget 95",
])  # fmt: skip
def test_a_budget_in_which_no_weight_fits_ends_no_run(flags, tmp_path):
    more = "--dataset digits --num_epochs 3 --max_rounds 2 --threads 1 --checkpoint_interval 0 --quiet"
    rows = RUNS["dpu"][0].main([*flags.split(), *more.split(), "--output_dir", str(tmp_path)]).rows
    assert len(rows) == 2 and 0 in [row["updated_weights"] for row in rows]
