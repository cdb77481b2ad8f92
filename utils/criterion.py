"""A criterion of your own: a function in a file of yours that scores weights, for `--criterion FILE.py:NAME`.

    from utils.criterion import criterion

    @criterion
    def relative_change(weights, start):
        return (weights - start).abs() / (start.abs() + 0.01)

It is asked when a training step is over, about the S weights that may still change, and returns their scores, (S,):
the larger, the sooner a weight is updated. The names of its arguments say what it gets; see OFFERED.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from data.seeding import global_stream
from utils.contribution import Accumulator, Criterion, Evidence, LocalContribution
from utils.flat import FlatParameters
from utils.pruning_scores import fisher
from utils.system import own_code
from utils.system.errors import UsageError
from utils.system.references import label_of

# What a criterion can ask for, each a tensor (S,); docs/algorithm.md says it in words.
OFFERED: dict[str, Callable[[Evidence], Tensor]] = {
    "weights": lambda e: e.weights.clone(),  # after the training step
    "start": lambda e: e.start.clone(),  # at the start point of the round
    "gradient": lambda e: e.at_start(lambda gradients: gradients.mean()),  # of the samples' mean loss, at the start
    "squared_gradients": lambda e: e.at_start(fisher),  # of each sample's loss, at the start, summed over samples
    "accumulated": lambda e: e.accumulated.clone(),  # over the optimizer steps: the local contribution, or by `step`
    "layer": lambda e: e.layer(),  # int64: the number of the layer that a weight is in
}


def criterion(function: Callable[..., Tensor] | None = None, *, step: Callable[..., Tensor] | None = None) -> Any:
    """Make `function` a criterion; used as `@criterion`, or as `@criterion(step=...)`.

    step  step(gradient, before, after), each (S,), is (S,): what an optimizer step adds to `accumulated`, in place of
          minus gradient times change; `gradient` is that of the loss alone

    Raises TypeError, naming it, for an argument that is not offered.
    """
    if function is None:
        return partial(criterion, step=step)
    what, parameters = f"criterion {_name(function)}", inspect.signature(function).parameters
    bound = function.keywords if isinstance(function, partial) else {}
    asked = [name for name in parameters if name not in bound]
    for name in asked:
        if name not in OFFERED:
            raise TypeError(f"{what} asks for {name}: it can have {', '.join(OFFERED)}")
    if step is not None and "accumulated" not in asked:
        raise TypeError(f"{what} has a step, but no argument that is called accumulated")

    def score(e: Evidence) -> Tensor:
        return function(**{name: OFFERED[name](e) for name in asked})

    accumulates = partial(_StepSum, step) if step else LocalContribution if "accumulated" in asked else None
    try:
        function.criterion = Criterion(score, accumulates)
    except AttributeError:  # such as a method of an object
        raise TypeError(f"{what} cannot be marked: write a function that calls it") from None
    return function


class _StepSum(Accumulator):
    """Sums up what a user's `step` returns."""

    graphable = False  # nobody knows what else it does

    def __init__(self, step: Callable[..., Tensor], num_weights: int, device: torch.device | str = "cpu"):
        super().__init__(num_weights, device)
        self._step, self._name = step, _name(step)
        self.begin(0, ())

    def begin(self, seed: int, place: tuple[int, ...]) -> None:
        self._streams, self._number = partial(global_stream, seed, "criterion's step", *place), 0

    def update(self, grad: Tensor, before: Tensor, after: Tensor) -> None:
        what = f"--criterion: step, called as {self._name}(gradient, before, after)"
        # A stream for each step: not that of the network's own draws, which differ from process to process.
        with own_code.faults_named(what), self._streams(self._number, device=grad.device):
            added = self._step(grad, before, after)
        if not isinstance(added, Tensor) or added.shape != self.value.shape:
            raise _wrong_kind(what, added, grad)
        self.value.add_(added)
        self._number += 1


def load_criterion(reference: str, flat: FlatParameters) -> Criterion:
    """Return the criterion FILE.py:NAME, tried on made-up numbers for the network in `flat`.

    Raises UsageError, before any work, for what is no criterion, fails, or gives other scores than it must.
    """
    found, what = own_code.load("criterion", reference), f"--criterion {label_of(reference)}"
    plain = getattr(found, "criterion", None)
    if not isinstance(plain, Criterion):
        raise UsageError(f"{what} is no criterion: write @criterion, from utils.criterion, above it")
    checked = replace(plain, score=partial(_checked_score, plain, what))
    with own_code.faults_named(what):
        _try_out(checked, flat, what)
    return checked


def _checked_score(plain: Criterion, what: str, e: Evidence) -> Tensor:
    with global_stream(e.seed, "scores", device=e.weights.device):
        score = plain.score(e)
    if not isinstance(score, Tensor) or score.shape != e.weights.shape or score.is_complex():
        raise _wrong_kind(what, score, e.weights)
    score = score.detach().to(e.weights.device, torch.promote_types(score.dtype, torch.float32))
    if wrong := int((~score.isfinite()).sum()):
        raise UsageError(f"{what} gave {wrong:,} of {len(score):,} weights a score that is no finite number")
    return score


def _try_out(checked: Criterion, flat: FlatParameters, what: str) -> None:
    """Ask for scores once. The weights are the initial ones, all else is random."""
    count, device = flat.num_weights, flat.vector.device
    generator = torch.Generator().manual_seed(0)

    def drawn() -> Tensor:
        return torch.randn(count, generator=generator).mul_(0.01).to(device)

    start = flat.weights.clone()
    given = {"gradient": drawn(), "before": start, "after": start + drawn()}
    kept = {name: tensor.clone() for name, tensor in given.items()}
    accumulator = checked.accumulates and checked.accumulates(count, device)
    if accumulator:
        accumulator.update(*given.values())
        for name, tensor in given.items():
            if not torch.equal(tensor, kept[name]):
                raise UsageError(f"{what}: step changes {name} in place: make a new tensor")
    evidence = Evidence(
        weights=given["after"], start=start, accumulated=accumulator and accumulator.value,
        at_start=lambda measure: drawn().square_(), layer=flat.layer_of_weight,
    )  # fmt: skip
    checked.score(evidence)


def _name(thing: Callable) -> str:
    return own_code.describe(thing).rpartition(":")[2]


def _wrong_kind(what: str, value: object, weights: Tensor) -> UsageError:
    kind = f"a value of type {type(value).__name__}"
    if isinstance(value, Tensor):
        kind = f"{value.dtype} of shape {tuple(value.shape)}"
    wanted = f"it must return a number for each, shape ({len(weights)},)"
    return UsageError(f"{what} returned {kind} for {len(weights):,} weights: {wanted}")
