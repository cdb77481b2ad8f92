"""Gradients of single samples: by hand, and against autograd on one sample at a time."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import utils.training.sample_gradients
from data.batches import Batches
from models import build_model
from models.mobilenet import MobileNetV1
from models.resnet import ResNet
from utils.contribution import fisher, snip
from utils.flat import FlatParameters
from utils.training.sample_gradients import SampleGradients

MEAN, STD = torch.tensor([0.4]), torch.tensor([0.3])


def samples(count, size=8, batch_size=4, classes=4):
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    return Batches(images, torch.arange(count) % classes, MEAN, STD, batch_size, augment=True)


def one_by_one(flat, batches, chosen):
    """The plain way: a backward pass a sample, its gradients squared and added in float64; and their mean."""
    squares = torch.zeros(flat.num_weights, dtype=torch.float64)
    mean = torch.zeros_like(squares)
    for index in chosen:
        ((image, label),) = batches.in_order(index.view(1))
        flat.zero_grad()
        F.cross_entropy(flat.model(image), label).backward()
        squares += flat.weight_grad.double() ** 2
        mean += flat.weight_grad.double() / len(chosen)
    flat.zero_grad()
    return squares, mean


def networks():
    yield "mlp", lambda: build_model("mlp", (1, 8, 8), 4, hidden_sizes=(7, 5))
    yield "mlp with BatchNorm", lambda: build_model("mlp", (1, 8, 8), 4, hidden_sizes=(7, 5), batch_norm=True)
    yield "resnet8", lambda: ResNet(1, 4, depth=8)
    yield "mobilenet", lambda: MobileNetV1(1, 4, width=0.25)  # depthwise: as many groups as channels
    strided = nn.Conv2d(1, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    layers = (strided, nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3, groups=2), nn.Flatten(), nn.LazyLinear(4))
    yield "odd convolutions", lambda: nn.Sequential(*layers)


NETWORKS = dict(networks())


@pytest.mark.parametrize("at_once", [1, 2**24], ids=["sample by sample", "whole batches"])
@pytest.mark.parametrize("name", NETWORKS)
def test_sums_are_those_of_one_sample_at_a_time(name, at_once, monkeypatch):
    monkeypatch.setattr(utils.training.sample_gradients, "AT_ONCE", at_once)
    torch.manual_seed(3)
    model = NETWORKS[name]()
    batches = samples(11, size=17 if name == "mobilenet" else 8)
    with torch.no_grad():
        model(next(batches.in_order())[0])  # draws a lazy layer's weights
    flat, chosen = FlatParameters(model), torch.tensor([10, 2, 3, 5, 7, 0])
    gradients = SampleGradients(flat, batches, chosen)
    squares, mean = one_by_one(flat, batches, chosen)
    assert squares.min() >= 0 and squares.max() > 0
    assert torch.allclose(gradients.sum_of_squares().double(), squares, rtol=1e-4, atol=1e-6 * squares.max().item())
    assert torch.allclose(gradients.mean().double(), mean, rtol=1e-4, atol=1e-5 * mean.abs().max().item())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 9), st.integers(0, 2**31))
def test_any_batch_size_gives_the_same_sums(count, batch_size, seed):
    flat = FlatParameters(build_model("mlp", (1, 4, 4), 3, seed=seed, hidden_sizes=(6,)))
    batches = samples(count, size=4, batch_size=batch_size, classes=3)
    squares, mean = one_by_one(flat, batches, torch.arange(count))
    gradients = SampleGradients(flat, batches, torch.arange(count))
    assert torch.allclose(gradients.sum_of_squares().double(), squares, rtol=1e-4, atol=1e-9)
    assert torch.allclose(gradients.mean().double(), mean, rtol=1e-4, atol=1e-7)


def linear_classifier():
    """Two pixels, two classes, weights [[1, 2], [3, 0]] and no bias; samples (0, 255), class 0, and (255, 0), class 1.

    Normalised with mean 0 and deviation 1/2 the pixels are 0 and 2. Outputs: sample 0: (4, 0), sample 1: (2, 6).
    Both differ by 4: with q = 1/(1+e^4) the gradients of the outputs are (-q, q) and (q, -q), for class 0 of sample
    0 and class 1 of sample 1 are the larger ones. So the weight gradients are [[0, -2q], [0, 2q]] and [[2q, 0], [-2q, 0]].
    """
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False))
    model[1].weight.data.copy_(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    images = torch.tensor([[[[0, 255]]], [[[255, 0]]]], dtype=torch.uint8)
    batches = Batches(images, torch.tensor([0, 1]), torch.tensor([0.0]), torch.tensor([0.5]), 2)
    return FlatParameters(model), batches


def test_fisher_by_hand():
    flat, batches = linear_classifier()
    q = 1 / (1 + torch.e**4)
    gradients = SampleGradients(flat, batches, torch.tensor([0, 1]))
    # each weight has a gradient of 2q or -2q in one of the samples: (2q)^2 everywhere
    assert fisher(gradients).tolist() == pytest.approx([4 * q * q] * 4, rel=1e-5)
    # sample 0 alone
    assert fisher(SampleGradients(flat, batches, torch.tensor([0]))).tolist() == pytest.approx([0, 4 * q * q] * 2, rel=1e-5)


def test_fisher_sums_squares_and_does_not_square_sums():
    flat, batches = linear_classifier()
    flat.weights.zero_()  # outputs (0, 0), p = 1/2, whatever the image: d = (-1/2, 1/2) for class 0
    twice = SampleGradients(flat, batches, torch.tensor([0, 0]))
    # 2 * (2 * 1/2)^2 = 2; the squared gradient of the sum would be 4, of the mean 1
    assert fisher(twice).tolist() == pytest.approx([0, 2, 0, 2])
    batches.labels[0] = 1
    other = SampleGradients(flat, batches, torch.tensor([0]))
    assert other.mean().tolist() == pytest.approx([0, 1, 0, -1]), "true labels, not the network's"


def test_snip_by_hand():
    flat, batches = linear_classifier()
    q = 1 / (1 + torch.e**4)
    gradients = SampleGradients(flat, batches, torch.tensor([0, 1]))
    # mean gradients: [[q, -q], [-q, q]], times the weights [[1, 2], [3, 0]]
    assert gradients.mean().tolist() == pytest.approx([q, -q, -q, q], rel=1e-5)
    assert snip(flat.weights, gradients.mean()).tolist() == pytest.approx([q, 2 * q, 3 * q, 0], rel=1e-5)


def test_statistics_are_those_of_the_samples():
    """Batches of 4, 4 and 1: the last one is left out, and every other sample counts the same."""
    flat = FlatParameters(build_model("mlp", (1, 8, 8), 4, hidden_sizes=(5,), batch_norm=True))
    norm, batches = flat.model.norm1, samples(9)
    norm.running_mean.fill_(1e6)  # nothing of what was there may remain
    momentum = norm.momentum
    SampleGradients(flat, batches, torch.arange(9))
    x = [flat.model.fc1(images.flatten(1)) for images, _ in batches.in_order()][:2]
    assert torch.allclose(norm.running_mean, torch.cat(x).mean(0), rtol=1e-4, atol=1e-6)
    assert torch.allclose(norm.running_var, (x[0].var(0) + x[1].var(0)) / 2, rtol=1e-4, atol=1e-6)
    assert norm.momentum == momentum and not norm.training


def test_weights_gradients_and_random_streams_stay():
    flat, batches = FlatParameters(build_model("mlp", (1, 8, 8), 4, hidden_sizes=(5,), batch_norm=True)), samples(9)
    trainable, state = flat.vector[: len(flat.gradient)].clone(), torch.get_rng_state()
    results = [
        (gradients.sum_of_squares(), gradients.mean())
        for gradients in (SampleGradients(flat, batches, torch.arange(9)) for _ in range(2))
    ]
    assert all(map(torch.equal, *results))
    assert torch.equal(flat.vector[: len(flat.gradient)], trainable)
    assert not flat.gradient.any() and torch.equal(torch.get_rng_state(), state)
    assert all(not module._forward_hooks for module in flat.model.modules())


def test_another_kind_of_layer_is_named():
    flat = FlatParameters(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Bilinear(4, 4, 4)))
    with pytest.raises(ValueError, match=r"2\.weight: gradients of single samples are there for Linear and Conv2d"):
        SampleGradients(flat, samples(4), torch.arange(4)).sum_of_squares()
