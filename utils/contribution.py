"""Which weights reduce the loss most, and which are therefore updated.

All contributions are vectors over the I weights of the network; the larger, the more a weight should be sent.
Global and local contribution and their combination are the paper's, the others are criteria of the pruning
literature (`utils.pruning_scores`). CRITERIA has each by its name; `utils.modes` says which mode selects by which.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from utils.message.masks import draw_mask, sizes_within
from utils.pruning_scores import fisher, lamp, magnitude, snip
from utils.rewinding import num_selected

if TYPE_CHECKING:
    from utils.training.sample_gradients import SampleGradients

_CACHED = 2**18  # numbers that a processor's cache holds: a vector is gone through in parts of this size


def global_contribution(weights: Tensor, start: Tensor) -> Tensor:
    """Return `(w_f - w)**2`, (I,): the bound on the loss that rewinding a weight to `start` gives back."""
    return (weights - start).square_()


class Accumulator:
    """Sums up over the optimizer steps of full updating what a criterion needs of them: `.value` (I,)."""

    graphable = True  # it may be part of a CUDA graph

    def __init__(self, num_weights: int, device: torch.device | str = "cpu"):
        self.value = torch.zeros(num_weights, device=device)

    def begin(self, seed: int, place: tuple[int, ...]) -> None:
        """An epoch begins, at `place` in the run with `seed`: what is drawn at random in it follows from these."""

    def update(self, grad: Tensor, before: Tensor, after: Tensor) -> None:
        """Add one optimizer step; `grad` (I,) is the gradient of the loss alone, without weight decay."""
        raise NotImplementedError

    def keep(self, chosen: Tensor) -> None:
        """Go on with the weights at `chosen` alone."""
        self.value = self.value[chosen]


class LocalContribution(Accumulator):
    """`-g * (after - before)`, summed: the loss that each weight reduced, in the unit of the loss."""

    _decrease: Tensor | None = None

    def update(self, grad: Tensor, before: Tensor, after: Tensor) -> None:
        # In parts that stay in the processor's cache: a vector is gone through once, not once an operation.
        size = _CACHED if self.value.device.type == "cpu" else max(1, self.value.numel())
        if self._decrease is None:  # kept: fresh memory costs as much as the arithmetic
            self._decrease = self.value.new_empty(min(size, self.value.numel()))
        for value, g, old, new in zip(*(v.split(size) for v in (self.value, grad, before, after)), strict=True):
            value.addcmul_(g, torch.sub(old, new, out=self._decrease[: value.numel()]))


class Movement(Accumulator):
    """`-g * before`, summed: weights that move away from zero.

    Sanh et al., "Movement Pruning: Adaptive Sparsity by Fine-Tuning", NeurIPS 2020.
    """

    def update(self, grad: Tensor, before: Tensor, after: Tensor) -> None:
        self.value.addcmul_(grad, before, value=-1.0)


def combined_contribution(global_c: Tensor, local_c: Tensor, lamda: float) -> Tensor:
    """Return `lamda * global_c / sum(global_c) + (1 - lamda) * local_c / sum(local_c)`, (I,).

    A term with weight zero is left out. The local contribution can sum to zero or less (and anything can
    overflow); dividing by such a sum would turn the ranking round. That term is then left out, with a warning,
    or stands unscaled if it is the only one.
    """
    terms = [("global", global_c, lamda), ("local", local_c, 1.0 - lamda)]
    terms = [term for term in terms if term[2] > 0]
    combined = torch.zeros_like(global_c)
    for name, term, share in terms:
        total = term.sum(dtype=torch.float32 if term.device.type == "mps" else torch.float64).item()  # MPS has no other
        if torch.finfo(torch.float32).tiny <= total < math.inf:  # anything less overflows as a divisor
            combined.add_(term, alpha=share / total)
        elif len(terms) > 1:
            warnings.warn(f"the {name} contribution sums to {total:.3g}: left out this round", stacklevel=2)
        else:
            combined.add_(term)
    return combined


@dataclass(frozen=True)
class Evidence:
    """What a criterion may look at, of the S weights that may still change when it is asked.

    weights, start  (S,) after the training step, and at the start point of the round
    accumulated     (S,) what the criterion's accumulator has summed up over the optimizer steps; None without one
    at_start        at_start(measure) is (S,) of what `measure` makes of the samples' gradients at the start point:
                    SampleGradients -> (I,)
    lamda           weight of the global contribution, for the paper's combination alone
    layer           layer() is (S,) int64, which layer each is of
    seed            of all that a criterion draws at random
    """

    weights: Tensor
    start: Tensor
    accumulated: Tensor | None
    at_start: Callable[[Callable[["SampleGradients"], Tensor]], Tensor]
    lamda: float | None = None
    layer: Callable[[], Tensor] | None = None
    seed: int = 0


@dataclass(frozen=True)
class Criterion:
    """A way to rank weights: `score` gives (S,), the larger the sooner selected."""

    score: Callable[[Evidence], Tensor]
    accumulates: Callable[..., Accumulator] | None = None  # what it needs of the optimizer steps


CRITERIA = {
    "combined": Criterion(
        lambda e: combined_contribution(global_contribution(e.weights, e.start), e.accumulated, e.lamda),
        accumulates=LocalContribution,
    ),
    "global": Criterion(lambda e: global_contribution(e.weights, e.start)),
    "local": Criterion(lambda e: e.accumulated, accumulates=LocalContribution),
    "magnitude": Criterion(lambda e: magnitude(e.weights)),
    "lamp": Criterion(lambda e: lamp(e.weights, e.layer())),
    "fisher": Criterion(lambda e: e.at_start(fisher)),
    "movement": Criterion(lambda e: e.accumulated, accumulates=Movement),
    "snip": Criterion(lambda e: snip(e.start, e.at_start(lambda gradients: gradients.mean()))),
}


def select_top(contribution: Tensor, updating_ratio: float) -> Tensor:
    """Return the indices of the `int(k * I)` largest contributions, ascending, int64.

    Exact over the whole network; ties go to the lower index, and NaN counts as the least of all.
    """
    return select_largest(contribution, num_selected(contribution.numel(), updating_ratio))


def select_largest(contribution: Tensor, count: int) -> Tensor:
    """Return the indices of the `count` largest contributions as `select_top` does."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64, device=contribution.device)
    # topk breaks ties as it likes, so it only gives the smallest contribution that is still selected.
    scores = _without_nan(contribution)
    threshold = scores.topk(count, sorted=False).values.min()
    above = (scores > threshold).nonzero().squeeze(1)
    ties = (scores == threshold).nonzero().squeeze(1)
    return torch.cat([above, ties[: count - above.numel()]]).sort().values


def ranked(contribution: Tensor) -> Tensor:
    """Return the indices of all contributions, int64, the largest first; ties and NaN as in `select_top`."""
    return _without_nan(contribution).sort(descending=True, stable=True).indices


def _without_nan(contribution: Tensor) -> Tensor:
    return contribution.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def select_random(
    layer_sizes: Sequence[int],
    updating_ratio: float,
    generator: np.random.RandomState,
    deployed: Tensor | None = None,
) -> Tensor:
    """Return the indices of `round(k * n_l)` random weights of every layer l, ascending, int64 (RPU).

    deployed  (D,) int64 ascending: choose among these weights alone, n_l of which are in layer l

    The generator is numpy's `RandomState`, whose stream never changes: an edge node can draw the same.
    """
    if deployed is None:
        return torch.from_numpy(draw_mask(layer_sizes, updating_ratio, generator))
    places = deployed.cpu().numpy()
    return torch.from_numpy(places[draw_mask(sizes_within(layer_sizes, places), updating_ratio, generator)])


def rewind_(weights: Tensor, start: Tensor, selected: Tensor) -> None:
    """Return every weight that is not selected to its value in `start`, in place; selected ones stay."""
    kept = weights[selected]
    weights.copy_(start)
    weights[selected] = kept
