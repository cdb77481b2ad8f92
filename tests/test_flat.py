"""The flat vector: layout, views, gradients, and a network that computes what it did before."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import build_model
from utils.flat import FlatParameters


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def test_layout_by_hand():
    flat = FlatParameters(small_network())
    assert flat.layer_names == ["0.weight", "3.weight"]
    assert flat.layer_sizes == [2 * 1 * 3 * 3, 3 * 8]
    assert [(e.name, e.role, e.shape, e.start, e.size) for e in flat.schema.entries] == [
        ("0.weight", "weight", (2, 1, 3, 3), 0, 18),
        ("3.weight", "weight", (3, 8), 18, 24),
        ("0.bias", "rest", (2,), 42, 2),
        ("1.weight", "rest", (2,), 44, 2),
        ("1.bias", "rest", (2,), 46, 2),
        ("3.bias", "rest", (3,), 48, 3),
        ("1.running_mean", "buffer", (2,), 51, 2),
        ("1.running_var", "buffer", (2,), 53, 2),
    ]
    assert (flat.num_weights, flat.num_rest, flat.num_buffers) == (42, 9, 4)
    assert flat.weight_grad.shape == (42,) and flat.rest_grad.shape == (9,)


@pytest.mark.parametrize("name", ["mlp", "vgg", "resnet56"])
def test_model_computes_the_same_before_and_after(name):
    model = build_model(name, (1, 8, 8), 4, seed=3)
    plain = copy.deepcopy(model)
    flat = FlatParameters(model)
    images = torch.randn(6, 1, 8, 8)
    for network in (model, plain):
        network.train()
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    losses = [F.cross_entropy(network(images), labels) for network in (model, plain)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for loss in losses:
        loss.backward()
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(mine.grad, theirs.grad, atol=1e-6), name
    buffers = dict(plain.named_buffers())
    for name, mine in model.named_buffers():
        assert torch.allclose(mine, buffers[name]), name
    assert len(flat.vector) == sum(p.numel() for p in plain.parameters()) + flat.num_buffers


def test_vector_and_parameters_are_the_same_memory():
    flat = FlatParameters(small_network())
    model = flat.model
    flat.weights.zero_()
    assert model[3].weight.abs().sum() == 0
    with torch.no_grad():
        model[0].bias.fill_(5.0)
    assert flat.rest[:2].tolist() == [5.0, 5.0]
    model.train()(torch.randn(4, 1, 4, 4)).sum().backward()
    assert torch.equal(flat.buffers[:2], model[1].running_mean)
    assert flat.buffers[:2].abs().sum() > 0
    assert torch.equal(flat.rest_grad[-3:], torch.full((3,), 4.0))
    flat.zero_grad()
    assert model[3].bias.grad.tolist() == [0.0, 0.0, 0.0]


def test_snapshot_and_load():
    flat = FlatParameters(small_network())
    before = flat.snapshot()
    flat.vector.add_(1.0)
    assert not torch.equal(flat.vector, before)
    flat.load(before)
    assert torch.equal(flat.vector, before)
    assert flat.model[0].weight.data_ptr() == flat.vector.data_ptr()


def test_batch_counters_are_dropped():
    flat = FlatParameters(small_network())
    assert all("num_batches_tracked" not in name for name in flat.model.state_dict())


def test_a_shared_parameter_is_there_once_and_gathers_all_its_gradients():
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    plain = copy.deepcopy(tied)
    flat = FlatParameters(tied)
    assert flat.layer_names == ["0.weight"] and flat.num_weights == 4 and flat.num_rest == 4
    for network in (tied, plain):
        network(torch.ones(1, 2)).sum().backward()
    assert torch.equal(flat.weight_grad.view(2, 2), plain[0].weight.grad)
    flat.weights.zero_()
    assert tied[1].weight.count_nonzero() == 0


def test_scales_of_norms_are_no_weights_whatever_their_shape():
    flat = FlatParameters(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm((2, 4)), nn.Embedding(3, 2), nn.RMSNorm((2, 4))))
    assert flat.layer_names == ["0.weight", "2.weight"]


def test_odd_tensors_are_refused():
    with pytest.raises(ValueError, match="float64"):
        FlatParameters(nn.Linear(2, 2).double())
