"""One round by each method, against the algorithm written plainly: dense optimizers, masks and sorts."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from data.batches import Batches
from data.datasets import load_dataset
from data.seeding import torch_generator
from models import build_model
from tests.epochs import epoch_of
from utils.contribution import CRITERIA, LocalContribution
from utils.flat import FlatParameters
from utils.link import Link, Outgoing
from utils.message.base import Base
from utils.message.body import Coding
from utils.methods import full_update, mask_seed, partial_update, random_update
from utils.modes import MODES
from utils.system.progress import Bars
from utils.training.loop import Trainer
from utils.training.optim import FlatOptimizer
from utils.training.recipes import Recipe
from utils.training.round import FULL_UPDATING, SPARSE_FINE_TUNING, RoundTraining, StartPoint

ADAM = Recipe("adam", lr=5e-3, num_epochs=4, step_factor=0.1)
SGD = Recipe("sgd", lr=0.1, num_epochs=4, step_factor=None, momentum=0.9, weight_decay=1e-2)
SEED, ROUND, RATIO = 5, 2, 0.1


def make_round(recipe, saved=None, on_epoch=lambda training: None, start=None, candidates=None) -> RoundTraining:
    """A round on 100 digits with a small network, with BatchNorm where the optimizer is SGD.

    (Before a BatchNorm, weights of pixels that never change have gradients of rounding noise alone, which Adam
    scales up: two correct computations then drift apart.)
    """
    digits = load_dataset("digits", "unused")
    model = build_model("mlp", digits.input_shape, 10, seed=1, hidden_sizes=(16, 12), batch_norm=recipe is SGD)
    flat = FlatParameters(model)
    train = Batches(digits.train_images, digits.train_labels, digits.mean, digits.std, 32)
    validation = Batches(digits.test_images[:200], digits.test_labels[:200], digits.mean, digits.std, 100)
    bars = Bars(1, 0, shown=False)
    samples = torch.arange(0, 300, 3)
    start = flat.snapshot() if start is None else start
    where = StartPoint(ROUND, samples, start, candidates)
    outgoing = Outgoing(Link(flat.schema, start, None), ROUND, Coding("sparse"), Base())  # lossless: all arrives as it is
    return RoundTraining(Trainer(flat, train, SEED, validation), recipe, where, bars, on_epoch, outgoing, saved)


class PlainRound:
    """The round as the README describes it, on the parameters of a copy of the network, one plain loop a step."""

    def __init__(self, training: RoundTraining):
        self.training = training
        self.model = copy.deepcopy(training.flat.model)
        self.weights = [p for p in self.model.parameters() if p.dim() >= 2]
        self.start = [w.detach().clone() for w in self.weights]
        for parameter in self.model.parameters():
            parameter.grad = None
        recipe = training.recipe
        if recipe.optimizer == "adam":
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=recipe.lr)
        else:
            self.optimizer = torch.optim.SGD(
                self.model.parameters(), lr=recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
            )
        self.local = [torch.zeros_like(w) for w in self.weights]
        self.movement = [torch.zeros_like(w) for w in self.weights]
        self.best_acc, self.best, self.improved = self.accuracy(), self.state(), False

    def state(self):
        return copy.deepcopy(self.model.state_dict())

    def accuracy(self):
        self.model.eval()
        right = sum((self.model(x).argmax(1) == y).sum() for x, y in self.training.trainer.validation.in_order())
        return right.item() / 200

    def epochs(self, step, masks=None, choose=False, num_epochs=None):
        recipe, training = self.training.recipe, self.training
        recipe = recipe if num_epochs is None else replace(recipe, num_epochs=num_epochs)
        for epoch in range(recipe.num_epochs):
            for group in self.optimizer.param_groups:
                group["lr"] = recipe.learning_rate(epoch)
            generator = torch_generator(SEED, "training", ROUND, step, epoch)
            self.model.train()
            for x, y in epoch_of(training.trainer.train, training.samples, generator):
                self.optimizer.zero_grad()
                F.cross_entropy(self.model(x), y).backward()
                before = [w.detach().clone() for w in self.weights]
                self.optimizer.step()
                with torch.no_grad():
                    for i, w in enumerate(self.weights):
                        if masks is not None:
                            w.copy_(torch.where(masks[i], w, before[i]))
                        self.local[i] -= w.grad * (w - before[i])
                        self.movement[i] -= w.grad * before[i]
            if choose:
                self.offer(strict=True)

    def offer(self, strict):
        acc = self.accuracy()
        if acc > self.best_acc or (not strict and acc == self.best_acc):
            self.best_acc, self.best, self.improved = acc, self.state(), True

    def masks_of(self, selected):
        mask = torch.zeros(sum(w.numel() for w in self.weights), dtype=torch.bool)
        mask[selected] = True
        return [part.view_as(w) for part, w in zip(mask.split([w.numel() for w in self.weights]), self.weights)]

    def gradients_at_start(self):
        """Of every sample, (N,I), with the BatchNorm statistics of the samples at the start point."""
        model, trainer = copy.deepcopy(self.model).train(), self.training.trainer
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d)]
        with torch.no_grad():
            parts = []
            for x, y in trainer.train.in_order(self.training.samples):
                for norm in norms:
                    norm.momentum = 1.0
                model(x)
                parts.append([len(y) / 100 * b for b in model.buffers()])
            for buffer, of_parts in zip(model.buffers(), zip(*parts)):
                buffer.copy_(sum(of_parts))
        model.eval()
        weights = [p for p in model.parameters() if p.dim() >= 2]
        gradients = []
        for index in self.training.samples:
            ((x, y),) = trainer.train.in_order(index.view(1))
            gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(F.cross_entropy(model(x), y), weights)]))
        return torch.stack(gradients)

    def lamp(self, w):
        """Each square over all in its layer that are as large or larger; no two are equal here."""
        return torch.stack([square / (w**2)[w**2 >= square].sum() for square in w**2])

    def partial(self, mode, lamda=0.5):
        at_start = self.gradients_at_start() if mode in ("fisher", "snip") else torch.zeros(1)
        self.epochs(FULL_UPDATING)
        w_f = torch.cat([w.detach().flatten() for w in self.weights])
        start = torch.cat([w.flatten() for w in self.start])
        c_global, c_local = (w_f - start) ** 2, torch.cat([c.flatten() for c in self.local])
        c = {
            "dpu": lamda * c_global / c_global.sum() + (1 - lamda) * c_local / c_local.sum(),
            "gcpu": c_global,
            "lcpu": c_local,
            "pruning": w_f.abs(),
            "magnitude": w_f.abs(),
            "lamp": torch.cat([self.lamp(w.detach().flatten()) for w in self.weights]),
            "movement": torch.cat([m.flatten() for m in self.movement]),
            "fisher": (at_start**2).sum(0),
            "snip": (at_start.mean(0) * start).abs(),
        }[mode].tolist()
        selected = sorted(sorted(range(len(c)), key=lambda i: (-c[i], i))[: int(RATIO * len(c))])
        masks = self.masks_of(selected)
        with torch.no_grad():
            for w, mask, old in zip(self.weights, masks, self.start, strict=True):
                w.copy_(torch.where(mask, w, torch.zeros_like(old) if MODES[mode].kind == "pruned" else old))
        self.offer(strict=False)
        self.epochs(SPARSE_FINE_TUNING, masks, choose=True)
        return selected


def assert_same(training: RoundTraining, plain: PlainRound):
    assert training.improved == plain.improved
    assert training.best_val_acc == pytest.approx(plain.best_acc, abs=0.011)  # at most 2 of 200 images differ
    training.flat.load(training.best)
    mine = training.flat.model.state_dict()
    for name, theirs in plain.best.items():
        if "num_batches" not in name:
            assert torch.allclose(mine[name], theirs, rtol=1e-3, atol=2e-4), name


@pytest.mark.parametrize("recipe", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("mode", [mode for mode in MODES if MODES[mode].score in CRITERIA])
def test_partial_update_equals_the_plain_algorithm(mode, recipe):
    training = make_round(recipe)
    plain = PlainRound(training)
    partial_update(training, MODES[mode], RATIO, lamda=0.5)
    selected = plain.partial(mode)
    assert training.selected.tolist() == selected
    assert_same(training, plain)
    assert training.full_val_acc is not None and training.rewound_val_acc is not None
    untouched = torch.ones(training.flat.num_weights, dtype=torch.bool)
    untouched[training.selected] = False
    now, start = training.best[: len(untouched)], training.start[: len(untouched)]
    expected = torch.zeros_like(start) if MODES[mode].kind == "pruned" else start
    assert torch.equal(now[untouched], expected[untouched])
    assert not torch.equal(now[~untouched], start[~untouched])


def test_random_update_equals_the_plain_algorithm():
    training = make_round(ADAM)
    plain = PlainRound(training)
    random_update(training, RATIO, SEED)
    generator, expected, offset = np.random.RandomState(mask_seed(SEED, ROUND)), [], 0
    for size in training.flat.layer_sizes:
        expected += sorted(offset + i for i in generator.permutation(size)[: round(RATIO * size)])
        offset += size
    assert training.selected.tolist() == expected
    plain.epochs(SPARSE_FINE_TUNING, plain.masks_of(expected), choose=True)
    assert_same(training, plain)
    assert training.full_val_acc is None and training.rewound_val_acc is None


def test_full_update_equals_the_plain_algorithm():
    training = make_round(SGD)
    plain = PlainRound(training)
    full_update(training)
    plain.epochs(FULL_UPDATING, choose=True)
    assert training.selected is None
    assert_same(training, plain)


UPDATES = {
    "dpu": lambda training: partial_update(training, MODES["dpu"], RATIO, 0.5),
    "movement": lambda training: partial_update(training, MODES["movement"], RATIO),
    "fisher": lambda training: partial_update(training, MODES["fisher"], RATIO),
    "rpu": lambda training: random_update(training, RATIO, SEED),
    "full": full_update,
}


@pytest.mark.parametrize("recipe", [ADAM, SGD], ids=["adam", "sgd"])
@pytest.mark.parametrize("update", UPDATES)
def test_round_saved_after_any_epoch_goes_on_bit_for_bit(update, recipe):
    states = []
    whole = make_round(recipe, on_epoch=lambda training: states.append(copy.deepcopy(training.state)))
    UPDATES[update](whole)
    assert len(states) == (4 if update in ("rpu", "full") else 8)
    for state in states:
        resumed = make_round(recipe, saved=copy.deepcopy(state))
        UPDATES[update](resumed)
        assert torch.equal(resumed.best, whole.best)
        assert torch.equal(resumed.flat.vector, whole.flat.vector)
        assert resumed.best_val_acc == whole.best_val_acc
        assert (resumed.start_val_acc, resumed.full_val_acc) == (whole.start_val_acc, whole.full_val_acc)


def test_candidate_rule_by_hand():
    """The rewound point counts if it is at least the start point's, each epoch only if strictly better."""
    training = make_round(ADAM)
    training.best_val_acc = 0.5

    def offered(val_acc, **how):
        training.flat.vector.fill_(len(seen))
        training.offer(val_acc, **how)
        seen.append(training.best[0].item())
        return training.improved, training.best_val_acc

    seen = [training.best[0].item()]
    assert offered(0.5) == (False, 0.5)
    assert offered(0.49, at_least=True) == (False, 0.5)
    assert seen[-1] == seen[0]
    assert offered(0.5, at_least=True) == (True, 0.5)
    assert seen[-1] == 3
    assert offered(0.5) == (True, 0.5)
    assert seen[-1] == 3
    assert offered(0.6) == (True, 0.6)
    assert seen[-1] == 5


def test_weight_decay_does_not_leak_into_the_local_contribution():
    """Where the loss gradient is zero, weight decay moves the weights, but contributes nothing."""
    flat = make_round(SGD).flat
    local, optimizer = LocalContribution(flat.num_weights), FlatOptimizer(flat, SGD)
    before = flat.weights.clone()
    flat.zero_grad()
    optimizer.step()
    local.update(flat.weight_grad, before, flat.weights)
    assert not torch.equal(flat.weights, before)
    assert local.value.abs().max() == 0
