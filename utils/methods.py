"""One round's update by each method: how the weights to update are scored or chosen is all that differs.

    partial_update   DPU, its variants by other scores, pruning: two steps, between them a score selects weights
    random_update    RPU: random weights, one step
    full_update      FU: all weights, one step
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np
import torch
from torch import Tensor

from data.seeding import derive_seed
from utils.contribution import (
    Accumulator,
    LocalContribution,
    Movement,
    combined_contribution,
    fisher,
    global_contribution,
    magnitude,
    rewind_,
    rewinding_sizes,
    select_largest,
    select_random,
    snip,
)
from utils.training.round import FULL_UPDATING, SPARSE_FINE_TUNING, RoundTraining

# (the round after step 1, what was accumulated in it) -> score of each weight that may change; the largest are selected
Score = Callable[[RoundTraining, Tensor | None], Tensor]


@dataclass(frozen=True)
class Method:
    """What a mode does each round, and what its rounds start from."""

    start: str  # "line": what the edge was sent last; "initial"; "fresh": new random weights each round
    coding: str  # how its messages name the weights: see utils.link.Coding
    score: str | None = None  # how step 1 ranks the weights; None: there is one step only
    accumulates: type[Accumulator] | None = None  # what the score needs of step 1's optimizer steps

    @property
    def two_steps(self) -> bool:
        return self.score is not None

    @property
    def restarts(self) -> bool:
        """True if its messages do not build on the last one."""
        return self.start != "line"


METHODS = {
    "dpu": Method("line", "sparse", score="combined", accumulates=LocalContribution),
    "gcpu": Method("line", "sparse", score="global"),
    "lcpu": Method("line", "sparse", score="accumulated", accumulates=LocalContribution),
    "magnitude": Method("line", "sparse", score="magnitude"),
    "fisher": Method("line", "sparse", score="fisher"),
    "movement": Method("line", "sparse", score="accumulated", accumulates=Movement),
    "snip": Method("line", "sparse", score="snip"),
    "rpu": Method("line", "random"),
    "same_init": Method("initial", "dense"),
    "last_round": Method("line", "dense"),
    "diff_init": Method("fresh", "dense"),
    "pruning": Method("initial", "pruned", score="magnitude"),
}


def score_function(name: str, lamda: float | None = None) -> Score:
    """Return the score called `name`; `lamda` weighs the global contribution in "combined"."""

    def of_change(work: RoundTraining) -> Tensor:
        return global_contribution(work.of_selected(work.flat.weights), work.of_selected(work.start_weights))

    scores: dict[str, Score] = {
        "combined": lambda work, local: combined_contribution(of_change(work), local, lamda),
        "global": lambda work, _: of_change(work),
        "accumulated": lambda work, accumulated: accumulated,
        "magnitude": lambda work, _: magnitude(work.of_selected(work.flat.weights)),
        "fisher": lambda work, _: work.of_selected(work.at_start(fisher)),
        "snip": lambda work, _: work.of_selected(work.at_start(partial(snip, work.start_weights))),
    }
    return scores[name]


def partial_update(
    work: RoundTraining,
    method: Method,
    updating_ratio: float | Fraction,
    lamda: float | None = None,
    fixing_ratio: float = 1.0,
) -> None:
    """Update the `int(k*I)` weights with the largest score of `method` (Algorithm 1 of the paper).

    In a sparse network only the deployed weights take part, and I is their number. In pruning the other weights
    become zero instead of returning to the start point.
    fixing_ratio  below 1, rewinding is iterative: train, rewind this share of the weights still selected, train on,
                  until `int(k*I)` are left; what was accumulated and the optimizer's state go on for those
    """
    flat, score = work.flat, score_function(method.score, lamda)
    background = torch.zeros_like(work.start_weights) if method.coding == "pruned" else work.start_weights
    num_candidates = flat.num_weights if work.candidates is None else work.candidates.numel()
    sizes = rewinding_sizes(num_candidates, updating_ratio, fixing_ratio)
    last = FULL_UPDATING + len(sizes)
    accumulated = method.accumulates and method.accumulates(work.num_selected, flat.vector.device)
    for step, size in enumerate(sizes, FULL_UPDATING):
        if work.reached(step + 1):
            continue
        # Step 1: full updating, which measures what each weight contributes to the loss reduction.
        work.train(step, accumulated)
        if step == FULL_UPDATING:
            work.full_val_acc = work.validate()

        # Select the weights of largest score over the whole network, rewind all others.
        chosen = select_largest(score(work, accumulated and accumulated.value), size)
        if accumulated:
            accumulated.keep(chosen)
        work.select(chosen if work.selected is None else work.selected[chosen])
        rewind_(flat.weights, background, work.selected)
        if step + 1 == last:
            work.rewound_val_acc = work.validate_as_received()
            work.offer(work.rewound_val_acc, at_least=True)
    # Step 2: sparse fine-tuning of the selected weights and the rest.
    work.train(last, choose=True)


def random_update(work: RoundTraining, updating_ratio: float, seed: int) -> None:
    """Update `round(k*n_l)` random weights of each layer l, trained from the start point (RPU).

    In a sparse network n_l counts the deployed weights of the layer.
    """
    work.mask_seed = mask_seed(seed, work.number)
    if not work.reached(SPARSE_FINE_TUNING):
        generator = np.random.RandomState(work.mask_seed)
        selected = select_random(work.flat.layer_sizes, updating_ratio, generator, work.candidates)
        if len(selected) == 0:
            warnings.warn(f"round {work.number}: no layer has enough deployed weights for one update", stacklevel=2)
        work.select(selected.to(work.flat.vector.device))
    work.train(SPARSE_FINE_TUNING, choose=True)


def mask_seed(seed: int, number: int) -> int:
    """Return the 32-bit seed of the random mask of round `number`, which its message carries."""
    return derive_seed(seed, "selection", number) % 2**32


def full_update(work: RoundTraining) -> None:
    """Update all weights, of a sparse network all that it has, trained from the start point (FU)."""
    work.train(FULL_UPDATING, choose=True)
