"""Contributions, selection and rewinding: numbers worked out by hand, and exact selection against a plain sort."""

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from utils.contribution import (
    LocalContribution,
    Movement,
    combined_contribution,
    global_contribution,
    lamp,
    magnitude,
    rewind_,
    select_random,
    select_top,
)
from utils.reinit import should_reinitialize
from utils.rewinding import num_selected


def test_global_contribution_by_hand():
    weights, start = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.0, 1.0, 0.5])
    assert global_contribution(weights, start).tolist() == [1.0, 9.0, 0.0]


def test_local_contribution_by_hand():
    local = LocalContribution(3)
    # -g * (after - before): -2*(0.5-1) = 1, -(-1)*(3-2) = 1, -4*(0.25-0) = -1
    before, after = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.5, 3.0, 0.25])
    local.update(torch.tensor([2.0, -1.0, 4.0]), before, after)
    assert local.value.tolist() == [1.0, 1.0, -1.0]
    # second step: -1*(0-1) = 1, 0, -(-2)*(1-0) = 2
    local.update(torch.tensor([1.0, 5.0, -2.0]), torch.tensor([1.0, 7.0, 0.0]), torch.tensor([0.0, 7.0, 1.0]))
    assert local.value.tolist() == [2.0, 1.0, 1.0]
    assert before.tolist() == [1.0, 2.0, 0.0]


@pytest.mark.parametrize("size", [1, 2**18 - 1, 2**18, 2**18 + 1, 2**19 + 5])
def test_local_contribution_in_parts_equals_the_whole(size):
    generator = torch.Generator().manual_seed(size)
    grad, before, after = (torch.randn(size, generator=generator) for _ in range(3))
    local = LocalContribution(size)
    local.update(grad, before, after)
    assert torch.equal(local.value, grad * (before - after))


def test_movement_by_hand():
    movement = Movement(3)
    # -g * before: -2*1, -(-1)*2, -4*0; where the weight went does not matter
    movement.update(torch.tensor([2.0, -1.0, 4.0]), torch.tensor([1.0, 2.0, 0.0]), torch.tensor([0.5, 3.0, -9.0]))
    assert movement.value.tolist() == [-2.0, 2.0, 0.0]
    # second step: -1*0.5, -5*3, -(-2)*(-9)
    movement.update(torch.tensor([1.0, 5.0, -2.0]), torch.tensor([0.5, 3.0, -9.0]), torch.tensor([0.0, 0.0, 0.0]))
    assert movement.value.tolist() == [-2.5, -13.0, -18.0]


def test_magnitude_by_hand():
    weights = torch.tensor([1.0, -2.0, 0.5])
    assert magnitude(weights).tolist() == [1.0, 2.0, 0.5]
    assert weights.tolist() == [1.0, -2.0, 0.5]


def test_lamp_by_hand():
    # Squares 9 and 16: 9/25 and 16/16. Squares 4, 1 and 4, the first of the equal ones the largest: 4/4, 1/9 and 4/8.
    weights, layer = torch.tensor([3.0, -4.0, 2.0, 1.0, -2.0, 0.0]), torch.tensor([0, 0, 2, 2, 2, 3])
    assert lamp(weights, layer).tolist() == pytest.approx([9 / 25, 1.0, 1.0, 1 / 9, 0.5, 0.0])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-9, 9)), min_size=1, max_size=40))
def test_lamp_against_its_plain_formula(pairs):
    layer, weights = torch.tensor(sorted(pairs)).T
    scores = []
    for i, (number, weight) in enumerate(zip(layer, weights)):
        as_large = [w**2 for j, w in enumerate(weights) if layer[j] == number and (w**2, -j) >= (weight**2, -i)]
        scores.append(float(weight**2 / sum(as_large)) if weight else 0.0)
    assert lamp(weights.float(), layer).tolist() == pytest.approx(scores)


values_of_weights = st.lists(st.floats(-8, 8, width=16), min_size=1, max_size=40)


@given(values_of_weights, st.integers(0, 99), st.floats(0.1, 1))
def test_change_in_magnitude_ranks_as_the_global_contribution(weights, seed, ratio):
    """|w_f - w|, the criterion of Adaptive Model Streaming, is no mode of its own: gcpu selects the same."""
    weights = torch.tensor(weights)
    start = torch.randint(-8, 8, weights.shape, generator=torch.Generator().manual_seed(seed)).float()
    expected = select_top((weights - start).abs(), ratio)
    assert torch.equal(select_top(global_contribution(weights, start), ratio), expected)


def test_combined_contribution_by_hand():
    # 0.25 * [1, 3]/4 + 0.75 * [3, 2]/5 = [0.0625 + 0.45, 0.1875 + 0.3]
    combined = combined_contribution(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 2.0]), 0.25)
    assert combined.tolist() == pytest.approx([0.5125, 0.4875])


@pytest.mark.parametrize(
    ("lamda", "expected"), [(1.0, [0.25, 0.75]), (0.0, [0.6, 0.4])], ids=["global alone", "local alone"]
)
def test_combined_contribution_at_the_ends(lamda, expected):
    combined = combined_contribution(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 2.0]), lamda)
    assert combined.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("local", [[-3.0, 2.0], [-1.0, 1.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_local_sum_that_would_turn_the_ranking_round_is_dropped(local):
    with pytest.warns(UserWarning, match="local contribution sums to"):
        combined = combined_contribution(torch.tensor([1.0, 3.0]), torch.tensor(local), 0.5)
    assert combined.tolist() == pytest.approx([0.125, 0.375])


def test_only_term_keeps_its_ranking_whatever_its_sum():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        combined = combined_contribution(torch.tensor([1.0, 3.0]), torch.tensor([-3.0, 2.0]), 0.0)
    assert combined.tolist() == [-3.0, 2.0]


def test_select_top_by_hand():
    assert select_top(torch.tensor([0.1, 5.0, -1.0, 3.0, 4.0]), 0.6).tolist() == [1, 3, 4]


def test_ties_go_to_the_lower_index():
    assert select_top(torch.tensor([2.0, 1.0, 1.0, 2.0, 1.0, 1.0]), 0.5).tolist() == [0, 1, 3]


@pytest.mark.parametrize(("ratio", "count"), [(1.0, 7), (0.5, 3), (1 / 7, 1), (0.14, 0)])
def test_number_of_selected_weights(ratio, count):
    assert num_selected(7, ratio) == count
    selected = select_top(torch.arange(7.0), ratio)
    assert selected.dtype == torch.int64
    assert selected.tolist() == list(range(7 - count, 7))


values = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan]), st.floats(-2, 2, width=32)
)


@given(st.lists(values, min_size=1, max_size=60), st.floats(0, 1, exclude_min=True))
def test_select_top_agrees_with_a_plain_sort(contribution, ratio):
    plain = [-math.inf if math.isnan(value) else value for value in contribution]
    order = sorted(range(len(plain)), key=lambda i: (-plain[i], i))
    expected = sorted(order[: int(ratio * len(plain))])
    assert select_top(torch.tensor(contribution), ratio).tolist() == expected


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_select_random_takes_its_share_of_every_layer(sizes, ratio, seed):
    selected = select_random(sizes, ratio, np.random.RandomState(seed))
    assert selected.dtype == torch.int64
    assert selected.tolist() == sorted(set(selected.tolist()))
    edges = np.cumsum([0, *sizes])
    counts = np.histogram(selected.numpy(), bins=edges)[0] if len(selected) else np.zeros(len(sizes), int)
    # np.histogram counts the last edge in: no index lies there.
    assert counts.tolist() == [round(ratio * size) for size in sizes]
    again = select_random(sizes, ratio, np.random.RandomState(seed))
    assert torch.equal(selected, again)


def test_select_random_is_frozen():
    # A golden value: an edge node must draw the same mask in every version.
    assert select_random([10, 5], 0.4, np.random.RandomState(7)).tolist() == [0, 2, 5, 8, 11, 13]


def test_rewind_by_hand():
    weights, start = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([-1.0, -2.0, -3.0, -4.0])
    place = weights.data_ptr()
    rewind_(weights, start, torch.tensor([1, 3]))
    assert weights.tolist() == [-1.0, 2.0, -3.0, 4.0]
    assert weights.data_ptr() == place
    assert start.tolist() == [-1.0, -2.0, -3.0, -4.0]


def test_reinitialization_is_strictly_more_than_double():
    assert not should_reinitialize(2000, 1000)
    assert should_reinitialize(2001, 1000)


def test_reinitialization_rounds_of_the_paper():
    last, rounds = 1000, []
    for num_samples in range(2000, 50_001, 1000):
        if should_reinitialize(num_samples, last):
            last = num_samples
            rounds.append(num_samples)
    assert rounds == [3000, 7000, 15000, 31000]


def test_a_sum_too_small_to_divide_by_is_left_out():
    with pytest.warns(UserWarning, match="the local contribution sums to 1e-39: left out"):
        combined = combined_contribution(torch.tensor([1.0, 3.0]), torch.tensor([1e-39, 0.0]), 0.5)
    assert combined.tolist() == [0.125, 0.375]
