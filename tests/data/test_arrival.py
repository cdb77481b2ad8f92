"""Data arrival: rounds are prefixes of one permutation, and nothing but seed and sizes decides them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.arrival import Arrival


def test_golden_rounds_never_change():
    """Published results rest on this order: a change here makes old and new runs incomparable."""
    arrival = Arrival(10, 3, 4, seed=0)
    assert [arrival.samples(r).tolist() for r in range(arrival.num_rounds)] == [
        [5, 9, 8],
        [5, 9, 8, 1, 6, 0, 4],
        [5, 9, 8, 1, 6, 0, 4, 7, 2, 3],
    ]
    assert arrival.fingerprint == "f3c2009a3782e57d00d4af482a02ee4e"


def test_number_of_rounds_of_the_paper():
    cifar, mnist = Arrival(50_000, 1000, 1000, seed=1), Arrival(60_000, 1000, 1000, seed=1)
    assert (cifar.num_rounds, mnist.num_rounds) == (50, 60)
    assert [cifar.num_samples(r) for r in (0, 1, 49)] == [1000, 2000, 50_000]


def test_last_round_holds_what_is_left():
    arrival = Arrival(11, 3, 4, seed=0)
    assert [arrival.num_samples(r) for r in range(arrival.num_rounds)] == [3, 7, 11]
    arrival = Arrival(12, 3, 4, seed=0)
    assert [arrival.num_samples(r) for r in range(arrival.num_rounds)] == [3, 7, 11, 12]


def test_all_samples_at_first_is_one_round():
    arrival = Arrival(10, 10, 1, seed=0)
    assert arrival.num_rounds == 1
    assert sorted(arrival.samples(0).tolist()) == list(range(10))


@given(num_train=st.integers(1, 300), data=st.data(), seed=st.integers(0, 2**40))
def test_rounds_are_growing_prefixes_of_one_permutation(num_train, data, seed):
    size_init, size_subseq = data.draw(st.integers(1, num_train)), data.draw(st.integers(1, num_train))
    arrival = Arrival(num_train, size_init, size_subseq, seed)
    last = arrival.samples(arrival.num_rounds - 1)
    assert sorted(last.tolist()) == list(range(num_train))
    previous = 0
    for r in range(arrival.num_rounds):
        held = arrival.samples(r)
        assert held.dtype == torch.int64
        assert len(held) == arrival.num_samples(r) == min(num_train, size_init + r * size_subseq) > previous
        assert torch.equal(held, last[: len(held)])
        previous = len(held)


def test_order_depends_on_the_seed_alone():
    order = Arrival(500, 500, 1, seed=3).samples(0)
    assert torch.equal(Arrival(500, 7, 100, seed=3).samples(5)[:500], order)
    assert not torch.equal(Arrival(500, 500, 1, seed=4).samples(0), order)


def test_global_random_state_is_neither_read_nor_changed():
    np.random.seed(1)
    torch.manual_seed(1)
    first = Arrival(100, 10, 10, seed=0)
    drawn = np.random.random(), torch.rand(1).item()
    np.random.seed(1)
    torch.manual_seed(1)
    assert drawn == (np.random.random(), torch.rand(1).item())
    np.random.seed(2)
    torch.manual_seed(2)
    assert Arrival(100, 10, 10, seed=0).fingerprint == first.fingerprint


def test_fingerprint_covers_order_and_sizes():
    all_sizes = (100, 10, 10), (100, 20, 10), (100, 10, 20), (99, 10, 10)
    fingerprints = {Arrival(*sizes, seed=seed).fingerprint for sizes in all_sizes for seed in (0, 1)}
    assert len(fingerprints) == 8


def test_caller_cannot_change_the_rounds():
    arrival = Arrival(10, 3, 4, seed=0)
    arrival.samples(2).zero_()
    assert arrival.fingerprint == Arrival(10, 3, 4, seed=0).fingerprint
    assert sorted(arrival.samples(2).tolist()) == list(range(10))


@pytest.mark.parametrize("sizes", [(0, 1, 1), (10, 0, 1), (10, -3, 1), (10, 11, 1), (10, 1, 0), (10, 1, 11)])
def test_sizes_outside_the_data_are_refused(sizes):
    with pytest.raises(ValueError, match="at least 1|must be 1 to 10") as refusal:
        Arrival(*sizes, seed=0)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("round_index", [-1, 3])
def test_rounds_that_do_not_exist_are_refused(round_index):
    with pytest.raises(ValueError, match=f"round {round_index}: must be 0 to 2"):
        Arrival(10, 3, 4, seed=0).samples(round_index)
