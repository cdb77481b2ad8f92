"""Gradients written directly, against those that autograd accumulates."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import utils.training.linear
from models import build_model
from utils.flat import FlatParameters
from utils.training.linear import SAMPLED_BELOW, WeightGradients


def backward(flat: FlatParameters, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(16, 1, 8, 8, generator=generator)
    flat.zero_grad()
    F.cross_entropy(flat.model(images), torch.arange(16) % 4).backward()


@pytest.mark.parametrize("name", ["mlp", "vgg", "resnet56"])
@pytest.mark.parametrize("onednn", [False, True])
def test_dense_gradients_are_those_of_autograd(name, onednn, monkeypatch):
    monkeypatch.setattr(utils.training.linear, "by_onednn", lambda: onednn)
    flat = FlatParameters(build_model(name, (1, 8, 8), 4))
    flat.model.eval()
    backward(flat, 1)
    expected = flat.gradient.clone()
    with WeightGradients(flat).direct(torch.float32):
        backward(flat, 1)
    if onednn:  # another order of additions
        assert torch.allclose(flat.gradient, expected, rtol=1e-4, atol=1e-6)
    else:
        assert torch.equal(flat.gradient, expected)


@pytest.mark.parametrize("name", ["mlp", "vgg", "resnet56"])
def test_dense_gradients_in_bfloat16_are_those_of_autocast(name):
    flat = FlatParameters(build_model(name, (1, 8, 8), 4))
    flat.model.eval()
    with torch.autocast("cpu", torch.bfloat16):
        backward(flat, 1)
        expected = flat.gradient.clone()
        with WeightGradients(flat).direct(torch.bfloat16):
            backward(flat, 1)
    assert torch.equal(flat.gradient, expected)


def test_sampled_gradients_in_bfloat16_are_those_of_autocast_to_rounding():
    flat = FlatParameters(build_model("mlp", (1, 8, 8), 4, hidden_sizes=(64, 32)))
    selected = torch.arange(0, flat.num_weights, 50)
    compact = torch.full((len(selected),), torch.nan)
    gradients = WeightGradients(flat, selected, compact)
    with torch.autocast("cpu", torch.bfloat16):
        backward(flat, 1)
        expected = flat.weight_grad[selected]
        with gradients.direct(torch.bfloat16):
            backward(flat, 1)
    gradients.gather(everything=False)
    # Each of 16 products is rounded to 8 bits, and so is the sum that autograd gives.
    assert torch.allclose(compact, expected, rtol=2**-6, atol=2**-7 * expected.abs().max().item())
    assert compact.abs().sum() > 0


@given(st.integers(1, 400), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_sampled_gradients_are_those_of_autograd(count, seed):
    flat = FlatParameters(build_model("mlp", (1, 8, 8), 4, hidden_sizes=(64, 32), seed=seed))
    selected = torch.randperm(flat.num_weights, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    compact = torch.full((count,), torch.nan)
    gradients = WeightGradients(flat, selected, compact)
    backward(flat, seed)
    expected = flat.weight_grad[selected]
    gradients.gather(everything=True)
    assert torch.equal(compact, expected)
    rest = flat.rest_grad.clone()
    compact.fill_(torch.nan)
    with gradients.direct(torch.float32):
        backward(flat, seed)
    gradients.gather(everything=False)
    assert torch.allclose(compact, expected, rtol=1e-4, atol=1e-6)
    assert torch.allclose(flat.rest_grad, rest)


def test_few_weights_of_a_layer_are_sampled_and_many_gathered():
    flat = FlatParameters(build_model("mlp", (1, 8, 8), 4, hidden_sizes=(64, 32)))
    few = torch.arange(int(SAMPLED_BELOW * 64 * 64) - 1)
    many = torch.arange(64 * 64, 64 * 64 + 1500)
    selected = torch.cat([few, many])
    gradients = WeightGradients(flat, selected, torch.zeros(len(selected)))
    with gradients.direct(torch.float32):
        backward(flat, 3)
    assert flat.weight_grad[: 64 * 64].abs().sum() == 0, "no dense gradient where a layer is sampled"
    assert flat.weight_grad[many].abs().sum() > 0


def test_sampled_gradient_by_hand():
    model = nn.Sequential(nn.Linear(40, 3, bias=False))
    flat = FlatParameters(model)
    compact = torch.zeros(2)
    gradients = WeightGradients(flat, torch.tensor([2, 41]), compact)
    images = torch.zeros(2, 40)
    images[:, 1:3] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    with gradients.direct(torch.float32):
        # d/dw of sum(output * [[1, 2, 3], [4, 5, 6]]): weight (0, 2) gets 1*2 + 4*4, weight (1, 1) gets 2*1 + 5*3
        (model(images) * torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])).sum().backward()
    assert compact.tolist() == [18.0, 17.0]


def test_layers_are_as_they_were_afterwards():
    flat = FlatParameters(build_model("mlp", (1, 8, 8), 4))
    with pytest.raises(KeyboardInterrupt), WeightGradients(flat).direct(torch.float32):
        raise KeyboardInterrupt
    assert all("forward" not in vars(module) for module in flat.model.modules())
