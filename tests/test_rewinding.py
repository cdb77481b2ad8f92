"""Iterative rewinding: its sizes by hand, and rounds against the algorithm written plainly, also in a sparse network."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.test_methods import ADAM, RATIO, SEED, SGD, PlainRound, assert_same, make_round
from utils.contribution import select_random
from utils.message.body import Coding
from utils.methods import full_update, partial_update, random_update
from utils.modes import MODES
from utils.rewinding import epochs_of_steps, num_selected, num_steps, ratio_in_budget, rewinding_sizes, size_in_budget
from utils.training.optim import FlatOptimizer


@pytest.mark.parametrize(
    ("num_weights", "ratio", "fixing_ratio", "sizes"),
    [
        (1000, 0.01, 1.0, [10]),  # one shot
        (1000, 1.0, 1.0, [1000]),
        (1000, 1.0, 0.2, [1000]),
        # 1000 - 500, 500 - 250, ..., 31 - 15, and 16 - 8 would be too few
        (1000, 0.01, 0.5, [500, 250, 125, 63, 32, 16, 10]),
        # 100 - 20, 80 - 16, 64 - int(12.8), 52 - int(10.4), 42 - 8, 34 - 6, and 28 - 5 would be too few
        (100, 0.25, 0.2, [80, 64, 52, 42, 34, 28, 25]),
        (10, 0.7, 0.01, [9, 8, 7]),  # at least one each time
        (3, 0.1, 0.5, [2, 1, 0]),
    ],
)
def test_sizes_by_hand(num_weights, ratio, fixing_ratio, sizes):
    assert rewinding_sizes(num_weights, ratio, fixing_ratio) == sizes


def test_a_fifth_at_a_time_takes_about_twenty_rewindings():
    assert len(rewinding_sizes(668_672, 0.01, 0.2)) == 21  # 0.8**20 > 0.01 > 0.8**21
    assert len(rewinding_sizes(668_672, 0.005, 0.2)) == 24


@given(st.integers(1, 3000), st.floats(0, 1, exclude_min=True), st.floats(0.01, 1))
def test_sizes_shrink_to_exactly_the_updating_ratio(num_weights, ratio, fixing_ratio):
    target = num_selected(num_weights, ratio)
    sizes, before = rewinding_sizes(num_weights, ratio, fixing_ratio), num_weights
    assert sizes[-1] == target and len(rewinding_sizes(num_weights, ratio)) == 1
    for size in sizes:
        assert size == max(target, before - max(1, int(fixing_ratio * before)))
        before = size


@pytest.mark.parametrize(("size", "fits", "rewindings", "left"), [
    (1000, 8, 3, 200), (200, 8, 2, 40), (40, 8, 1, 8),  # a fifth stays each time
    (64, 0, 3, 16), (16, 0, 2, 4), (4, 0, 1, 0),  # as if one fitted, until the last
    (50, 50, 4, 50), (0, 0, 1, 0),
])  # fmt: skip
def test_sizes_in_a_budget_by_hand(size, fits, rewindings, left):
    assert size_in_budget(size, fits, rewindings) == left


@given(st.integers(1, 10**6), st.integers(0, 10**6), st.integers(1, 30))
def test_sizes_in_a_budget_fall_to_what_fits(size, fits, rewindings):
    fits, before = min(fits, size), size
    for left in range(rewindings, 0, -1):
        size = size_in_budget(before, fits, left)
        assert max(1, fits) <= size <= before or (left == 1 and size == fits)
        before = size
    assert size == fits


def test_the_steps_of_a_budget_by_hand():
    assert ratio_in_budget(668_672, 16_700, 4) == ratio_in_budget(668_672, 16_700, "auto") == 33_400 / 668_672
    assert ratio_in_budget(1000, 16_700, 32) == 1.0
    settings = {"updating_ratio": 1.0, "rewind_fixing_ratio": 0.5, "byte_budget": 16_700, "value_bits": "auto"}
    assert num_steps(True, 668_672, settings) == 6  # 0.5**5 < 0.04995 < 0.5**4
    assert num_steps(True, 668_672, settings | {"value_bits": 32}) == 9  # 0.5**8 < 0.00624 < 0.5**7
    assert num_steps(True, 668_672, {"updating_ratio": 0.005}) == 2 and num_steps(False, 668_672, settings) == 1


def iterate(plain: PlainRound, sizes, lamda=0.5, candidates=None, pruning=None, epochs=None):
    """DPU or pruning on dense tensors: train, score what is still selected, rewind or zero the others, train on."""
    epochs = epochs or [None] * (len(sizes) + 1)
    alive = list(range(sum(w.numel() for w in plain.weights))) if candidates is None else candidates.tolist()
    start = torch.cat([w.flatten() for w in plain.start])
    for step, size in enumerate(sizes, 1):
        plain.epochs(step, plain.masks_of(alive), num_epochs=epochs[step - 1])
        c_global = (torch.cat([w.detach().flatten() for w in plain.weights]) - start)[alive] ** 2
        c_local = torch.cat([c.flatten() for c in plain.local])[alive]
        score = lamda * c_global / c_global.sum() + (1 - lamda) * c_local / c_local.sum()
        if pruning:
            measure = plain.lamp if pruning == "lamp" else torch.abs  # zeros add nothing to sums of squares
            score = torch.cat([measure(w.detach().flatten()) for w in plain.weights])[alive]
        score = score.tolist()
        best = sorted(range(len(alive)), key=lambda i: (-score[i], i))[:size]
        alive = sorted(alive[i] for i in best)
        with torch.no_grad():
            for w, mask, old in zip(plain.weights, plain.masks_of(alive), plain.start, strict=True):
                w.copy_(torch.where(mask, w, old * (not pruning)))
    plain.offer(strict=False)
    plain.epochs(len(sizes) + 1, plain.masks_of(alive), choose=True, num_epochs=epochs[-1])
    return alive


def sparse_round(recipe, share=0.3, **more):
    """A round on a network of which only `share` of the weights are there, the others being zero."""
    whole = make_round(recipe)
    generator = torch.Generator().manual_seed(4)
    there = torch.rand(whole.flat.num_weights, generator=generator) < share
    start = whole.start.clone()
    start[: len(there)][~there] = 0
    return make_round(recipe, start=start, candidates=there.nonzero().squeeze(1), **more)


@pytest.mark.parametrize("recipe", [ADAM, SGD], ids=["adam", "sgd"])
def test_iterative_rewinding_equals_the_plain_algorithm(recipe):
    training = make_round(recipe)
    plain = PlainRound(training)
    partial_update(training, MODES["dpu"], RATIO, 0.5, fixing_ratio=0.6)
    sizes = rewinding_sizes(training.flat.num_weights, RATIO, 0.6)
    assert len(sizes) == 3
    assert training.selected.tolist() == iterate(plain, sizes)
    assert_same(training, plain)


@pytest.mark.parametrize(
    ("total", "steps", "epochs"), [(60, 5, [12] * 5), (60, 9, [6] * 3 + [7] * 6), (4, 4, [1] * 4), (61, 2, [30, 31])]
)
def test_epochs_are_shared_by_hand(total, steps, epochs):
    assert epochs_of_steps(total, steps) == epochs


def test_total_epochs_are_shared_by_the_steps():
    training = make_round(ADAM)
    plain = PlainRound(training)
    partial_update(training, MODES["dpu"], RATIO, 0.5, fixing_ratio=0.6, total_epochs=10)
    sizes = rewinding_sizes(training.flat.num_weights, RATIO, 0.6)
    assert training.selected.tolist() == iterate(plain, sizes, epochs=[2, 2, 3, 3])
    assert_same(training, plain)


def test_iterative_rewinding_to_what_fits_equals_the_plain_algorithm(monkeypatch):
    """The message has room for 37 weights with 8 bits and for 20 with 32, which is tried first."""
    training, chosen = make_round(ADAM), []
    outgoing, plain = training.outgoing, PlainRound(training)
    outgoing.coding = Coding("sparse", most_bytes=10**6)
    monkeypatch.setattr(outgoing, "best_bits", lambda network, order, *more: chosen.append(len(order)) or 8)
    monkeypatch.setattr(outgoing, "use_bits", lambda bits: chosen.append(bits))
    monkeypatch.setattr(outgoing, "as_many_as_fit", lambda network, order: 37 if chosen[1:] == [8] else 20)
    partial_update(training, MODES["dpu"], RATIO, 0.5, fixing_ratio=0.6, bits_to_try=(32, 8))
    # 1336 weights and three rewindings: 1336 x (37/1336)^(1/3) = 404.2, 404 x (37/404)^(1/2) = 122.3
    assert training.selected.tolist() == iterate(plain, [404, 122, 37])
    assert chosen == [1336, 8], "once, after the first step"
    assert_same(training, plain)


@pytest.mark.parametrize("mode", ["pruning", "lamp"])
def test_iterative_pruning_equals_the_plain_algorithm(mode):
    training = make_round(ADAM)
    plain = PlainRound(training)
    partial_update(training, MODES[mode], RATIO, fixing_ratio=0.6)
    sizes = rewinding_sizes(training.flat.num_weights, RATIO, 0.6)
    assert training.selected.tolist() == iterate(plain, sizes, pruning=mode)
    assert_same(training, plain)
    gone = torch.ones(training.flat.num_weights, dtype=torch.bool)
    gone[training.selected] = False
    assert not training.best[: len(gone)][gone].any() and len(training.selected) == sizes[-1]


@pytest.mark.parametrize("share", [0.3, 0.03], ids=["dense gradients", "sampled gradients"])
@pytest.mark.parametrize("fixing_ratio", [1.0, 0.6])
def test_sparse_network_takes_part_with_its_deployed_weights_alone(share, fixing_ratio):
    training = sparse_round(ADAM, share)
    plain, there = PlainRound(training), training.candidates
    partial_update(training, MODES["dpu"], RATIO, 0.5, fixing_ratio)
    sizes = rewinding_sizes(len(there), RATIO, fixing_ratio)
    assert sizes[-1] == int(RATIO * len(there))
    assert training.selected.tolist() == iterate(plain, sizes, candidates=there)
    assert_same(training, plain)
    assert_zeros_stay(training, there)


def assert_zeros_stay(training, there):
    gone = torch.ones(training.flat.num_weights, dtype=torch.bool)
    gone[there] = False
    assert not training.best[: len(gone)][gone].numpy().tobytes().strip(b"\0"), "+0.0, bit for bit"


def test_full_and_random_updates_of_a_sparse_network_equal_the_plain_algorithm():
    training = sparse_round(SGD)
    plain, there = PlainRound(training), training.candidates
    full_update(training)
    plain.epochs(1, plain.masks_of(there), choose=True)
    assert_same(training, plain)
    assert_zeros_stay(training, there)
    training = sparse_round(SGD)
    plain = PlainRound(training)
    random_update(training, RATIO, SEED)
    assert set(training.selected.tolist()) <= set(there.tolist())
    plain.epochs(2, plain.masks_of(training.selected), choose=True)
    assert_same(training, plain)
    assert_zeros_stay(training, there)


def test_random_weights_of_a_sparse_network_by_hand():
    """Layers of 4 and 6 weights keep 3 and 2: round(0.5 * 3) = 2 and round(0.5 * 2) = 1 are drawn among them."""

    class Generator:
        permutation = staticmethod(lambda n: np.arange(n)[::-1])

    deployed = torch.tensor([0, 2, 3, 5, 8])
    assert select_random([4, 6], 0.5, Generator, deployed).tolist() == [2, 3, 8]


@pytest.mark.parametrize("recipe", [ADAM, SGD], ids=["adam", "sgd"])
def test_round_saved_in_any_iteration_goes_on_bit_for_bit(recipe):
    states = []

    def update(training):
        partial_update(training, MODES["dpu"], RATIO, 0.5, fixing_ratio=0.6)
        return training

    whole = update(sparse_round(recipe, on_epoch=lambda training: states.append(copy.deepcopy(training.state))))
    assert len(states) == 16
    for state in states[1::5]:
        resumed = update(sparse_round(recipe, saved=copy.deepcopy(state)))
        assert torch.equal(resumed.best, whole.best) and torch.equal(resumed.flat.vector, whole.flat.vector)
        assert torch.equal(resumed.selected, whole.selected)


def test_optimizer_state_of_what_is_still_selected_goes_on():
    flat = make_round(ADAM).flat
    generator = torch.Generator().manual_seed(1)

    def steps(optimizer, count):
        for _ in range(count):
            flat.gradient.copy_(torch.randn(len(flat.gradient), generator=generator))
            optimizer.step()
        return optimizer

    def moments(optimizer):
        return {name: value for name, value in optimizer.state_dict()["state"][0].items() if name != "step"}

    first = steps(FlatOptimizer(flat, ADAM, torch.tensor([2, 5, 7, 11])), 3)
    then = FlatOptimizer(flat, ADAM, torch.tensor([5, 11]), carried=first)
    for name, value in moments(then).items():
        assert torch.equal(value, moments(first)[name][[1, 3]]), name
    assert then.state_dict()["state"][0]["step"] == 3
