"""Optimizers on flat vectors against plain ones, step by step, and the learning-rate schedules."""

import copy
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.script_runs import ROOT, SMALL
from utils.flat import FlatParameters
from utils.training.optim import FlatOptimizer
from utils.training.recipes import Recipe, recipe_for

ADAM = Recipe("adam", lr=5e-3, num_epochs=9, step_factor=0.1)
SGD = Recipe("sgd", lr=0.05, num_epochs=9, step_factor=None, momentum=0.9, weight_decay=1e-2)


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))


class MaskedReference:
    """What the compact step must equal, written plainly: Adam and SGD by their formulas, with a dense mask."""

    def __init__(self, recipe: Recipe, vector: torch.Tensor, mask: torch.Tensor):
        self.recipe, self.vector, self.mask = recipe, vector.double(), mask
        self.first = torch.zeros_like(self.vector)
        self.second = torch.zeros_like(self.vector)
        self.steps = 0

    def step(self, grad: torch.Tensor, lr: float) -> None:
        self.steps += 1
        grad = grad.double() + self.recipe.weight_decay * self.vector
        if self.recipe.optimizer == "adam":
            self.first = 0.9 * self.first + 0.1 * grad
            self.second = 0.999 * self.second + 0.001 * grad**2
            mean = self.first / (1 - 0.9**self.steps)
            scale = (self.second / (1 - 0.999**self.steps)).sqrt() + 1e-8
            change = lr * mean / scale
        else:
            self.first = grad if self.steps == 1 else 0.9 * self.first + grad
            change = lr * (grad + 0.9 * self.first)
        self.vector -= torch.where(self.mask, change, 0.0)


@pytest.mark.parametrize("recipe", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_compact_step_equals_masked_dense_reference(recipe, share):
    """30 dense steps, then 100 compact ones that carry the state over, on random gradients; every step compared."""
    flat = FlatParameters(network())
    generator = torch.Generator().manual_seed(2)
    size = flat.num_weights + flat.num_rest
    reference = MaskedReference(recipe, flat.vector[:size].clone(), torch.ones(size, dtype=torch.bool))
    dense = FlatOptimizer(flat, recipe)

    def step_both(optimizer, epoch):
        flat.gradient.copy_(torch.randn(size, generator=generator))
        before = flat.gradient.clone()
        optimizer.set_epoch(epoch)
        optimizer.step()
        assert torch.equal(flat.gradient, before), "the step must leave the loss gradient as it is"
        reference.step(flat.gradient, recipe.learning_rate(epoch))
        return (flat.vector[:size].double() - reference.vector).abs().max().item()

    for number in range(30):
        assert step_both(dense, number // 10) < 1e-5

    order = torch.randperm(flat.num_weights, generator=generator)
    selected = order[: int(share * flat.num_weights)].sort().values
    reference.mask[: flat.num_weights] = False
    reference.mask[selected] = True
    compact = FlatOptimizer(flat, recipe, selected, carried=dense)
    frozen = ~reference.mask[: flat.num_weights]
    start = flat.weights[frozen].clone()
    for number in range(100):
        assert step_both(compact, number // 12) < 1e-5, f"step {number}"
        assert torch.equal(flat.weights[frozen], start), "unselected weights must not change by a bit"


@pytest.mark.parametrize("recipe", [ADAM, SGD], ids=["adam", "sgd"])
def test_compact_step_equals_torch_optim_on_the_network(recipe):
    """The same, on a real network's gradients, beside torch.optim on the parameters with weights put back."""
    flat, plain = FlatParameters(network()), network()
    parameters = list(plain.parameters())
    if recipe.optimizer == "adam":
        reference = torch.optim.Adam(parameters, lr=recipe.lr, fused=False)
    else:
        reference = torch.optim.SGD(parameters, lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=1e-2)
    selected = torch.arange(0, flat.num_weights, 7)
    mask = torch.zeros(flat.num_weights, dtype=torch.bool)
    mask[selected] = True
    masks, offset = [], 0
    for parameter in parameters:
        if parameter.dim() < 2:
            masks.append(torch.ones_like(parameter, dtype=torch.bool))
        else:
            masks.append(mask[offset : offset + parameter.numel()].view_as(parameter))
            offset += parameter.numel()
    optimizer = FlatOptimizer(flat, recipe, selected)
    start = flat.weights.clone()
    for step in range(100):
        images = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        labels = torch.arange(8) % 4
        flat.zero_grad()
        F.cross_entropy(flat.model(images), labels).backward()
        optimizer.step()
        reference.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        before = [parameter.detach().clone() for parameter in parameters]
        reference.step()
        with torch.no_grad():
            for parameter, old, allowed in zip(parameters, before, masks, strict=True):
                parameter.copy_(torch.where(allowed, parameter, old))
        for mine, theirs in zip(flat.model.parameters(), parameters, strict=True):
            assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-5), f"step {step}"
    assert torch.equal(flat.weights[~mask], start[~mask])


@pytest.mark.parametrize("recipe", [ADAM, SGD], ids=["adam", "sgd"])
def test_saved_state_goes_on_bit_for_bit(recipe):
    selected = torch.arange(0, 100, 3)

    def run(steps, flat, optimizer):
        for number in steps:
            flat.gradient.copy_(torch.randn(len(flat.gradient), generator=torch.Generator().manual_seed(number)))
            optimizer.step()

    whole = FlatParameters(network())
    optimizer = FlatOptimizer(whole, recipe, selected)
    run(range(5), whole, optimizer)
    vector, state = whole.snapshot(), copy.deepcopy(optimizer.state_dict())
    resumed = FlatParameters(network())
    resumed.load(vector)
    again = FlatOptimizer(resumed, recipe, selected)
    again.load_state_dict(state)
    run(range(5, 10), resumed, again)
    run(range(5, 10), whole, optimizer)
    assert torch.equal(whole.vector, resumed.vector)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_run_leaves_the_compiler_of_torch_out(optimizer, tmp_path):
    code = (
        "import sys, multiround_dpu, torch; from utils.flat import FlatParameters\n"
        "from utils.training.optim import FlatOptimizer; from utils.training.recipes import Recipe\n"
        "multiround_dpu.main(sys.argv[1:])\n"
        "flat = FlatParameters(torch.nn.Linear(2, 2)); optimizer = FlatOptimizer(flat, Recipe('adam', 1, 1, None))\n"
        "optimizer.step(); optimizer.load_state_dict(optimizer.state_dict()); optimizer.step()\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    options = [*SMALL, "--mode", "dpu", "--max_rounds", "1", "--optimizer", optimizer, "--output_dir", tmp_path]
    result = subprocess.run([sys.executable, "-c", code, *map(str, options)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_state_is_proportional_to_what_is_updated():
    flat = FlatParameters(network())
    optimizer = FlatOptimizer(flat, ADAM, torch.tensor([3, 5]))
    optimizer.step()
    sizes = [t.numel() for state in optimizer.state_dict()["state"].values() for t in state.values()]
    assert max(sizes) == flat.num_rest < flat.num_weights
    assert sizes.count(2) == 2  # the two moments of the two selected weights


def scheduled(torch_scheduler, epochs):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torch_scheduler(optimizer)
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 30, 60])
def test_schedules_equal_those_of_torch(epochs):
    step = Recipe("adam", lr=1.0, num_epochs=epochs, step_factor=0.2)
    every = max(1, epochs // 3)
    theirs = scheduled(lambda o: torch.optim.lr_scheduler.StepLR(o, every, 0.2), epochs)
    assert [step.learning_rate(e) for e in range(epochs)] == pytest.approx(theirs)
    cosine = Recipe("sgd", lr=1.0, num_epochs=epochs, step_factor=None)
    theirs = scheduled(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, epochs), epochs)
    assert [cosine.learning_rate(e) for e in range(epochs)] == pytest.approx(theirs, abs=1e-12)


def test_schedules_by_hand():
    mlp = recipe_for("mlp", two_steps=True)
    assert [mlp.learning_rate(e) for e in (0, 9, 10, 19, 20, 29)] == pytest.approx(
        [5e-3, 5e-3, 5e-4, 5e-4, 5e-5, 5e-5]
    )
    resnet = recipe_for("resnet56", two_steps=True)
    assert resnet.learning_rate(0) == 0.1
    assert resnet.learning_rate(50) == pytest.approx(0.05)
    assert resnet.learning_rate(25) == pytest.approx(0.1 * 0.5 * (1 + math.sqrt(0.5)))


@pytest.mark.parametrize(
    ("model", "two_steps", "expected"),
    [
        ("mlp", True, Recipe("adam", 5e-3, 30, 0.1)),
        ("mlp", False, Recipe("adam", 5e-3, 60, 0.1)),
        ("vgg", True, Recipe("adam", 5e-3, 30, 0.2)),
        ("vgg", False, Recipe("adam", 5e-3, 60, 0.2)),
        ("resnet56", False, Recipe("sgd", 0.1, 100, None, 0.9, 1e-4)),
        ("mobilenetv1", True, Recipe("sgd", 0.5, 150, None, 0.9, 1e-4)),
    ],
)
def test_recipes_of_the_paper(model, two_steps, expected):
    assert recipe_for(model, two_steps) == expected
    assert recipe_for(model, two_steps, lr=0.3, num_epochs=2).num_epochs == 2
    assert recipe_for(model, two_steps, lr=0.3).lr == 0.3
