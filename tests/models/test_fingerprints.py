"""Networks that one function makes are told apart by what they hold, and are the same whenever they hold the same."""

import copy
import os
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from models.fingerprints import fingerprint_of, structure_of
from tests.script_runs import ROOT


class Holder(nn.Linear):
    def __init__(self, held=None):
        super().__init__(2, 2)
        self.held = held


class Config:
    def __init__(self, value):
        self.value = value


def bound_to(value):
    return lambda: value


def structure(held):
    return structure_of(nn.Sequential(nn.ReLU(), Holder(held)), Holder)


@pytest.mark.parametrize(("one", "other"), [
    (1, 1.0), ("a", "b"), ([1, [2]], [1, [3]]), ({"a": 1}, {"a": 2}), ({1, 2}, {1, 3}), (None, False),
    (torch.zeros(2), torch.ones(2)), (np.zeros(2), np.zeros(3)), (SimpleNamespace(a=1), SimpleNamespace(a=2)),
    (bound_to(1), bound_to(2)), (partial(min, 1), partial(min, 2)), (torch.float32, torch.float64), (nn.ReLU, nn.GELU),
    (torch.zeros(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16)), (torch.ones(2), torch.ones(2, 1)),
    (torch.zeros(2, device="meta"), torch.zeros(3, device="meta")), (np.array([1, "a"], object), np.array([2, "a"], object)),
    (torch.ones(2).conj(), torch.zeros(2).conj()), (torch.eye(2).to_sparse(), torch.eye(3).to_sparse()),
    (Config(1), Config(2)), ({("a", "b"), ("b",)}, {("a",), ("b", "a")}), (Config([Config(1)]), Config([Config(2)])), (Config(1).__init__, Config(2).__init__),
])  # fmt: skip
def test_what_a_network_holds_tells_it_from_others(one, other):
    assert structure(one) != structure(other)
    assert structure(one) == structure(copy.deepcopy(one))


def test_what_its_maker_is_bound_to_tells_it_from_others():
    network = Holder()
    makers = partial(Holder, 1), partial(Holder, 2), bound_to(1), bound_to(2), Holder, Config(1), Config(2)
    digests = [structure_of(network, maker) for maker in makers]
    assert len(set(digests)) == len(makers)
    assert structure_of(network, partial(Holder, 1)) == digests[0]


def test_what_has_no_end_or_no_words_has_a_digest():
    loop = []
    loop.append(loop)
    assert structure(loop) == structure(loop)
    everybody = [Config(number) for number in range(100)]
    for one in everybody:
        one.others = everybody
    assert structure(everybody) == structure(copy.deepcopy(everybody))
    everybody[99].value = 0
    assert structure(everybody) != structure([Config(number) for number in range(100)])
    chain = None
    for _ in range(10_000):
        chain = [chain]
    assert structure(chain) == structure(copy.copy(chain))
    assert structure(torch.Generator()) == structure(torch.Generator())
    assert structure(open) == structure(open)  # of a library: its kind alone


def test_of_another_process_it_is_the_same():
    """Neither addresses nor the order of a set, which differ from process to process, count."""
    code = "from tests.models.test_fingerprints import *; print(structure([{'a', 'b', 'c'}, bound_to, Config(nn.ReLU())]))"
    run = partial(subprocess.run, [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    first, second = (run(env={**os.environ, "PYTHONHASHSEED": seed}).stdout for seed in "12")
    assert first == second and len(first) > 8


def test_one_changed_weight_is_another_network():
    one = nn.Linear(2, 2)
    other = copy.deepcopy(one)
    assert fingerprint_of(one) == fingerprint_of(other)
    with torch.no_grad():
        other.bias[0] += 1
    assert fingerprint_of(one) != fingerprint_of(other)
