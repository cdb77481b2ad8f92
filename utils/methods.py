"""One round's update by each method: how the weights to update are scored or chosen is all that differs.

    partial_update   DPU, GCPU, LCPU and pruning: two steps, between them a score selects weights
    random_update    RPU: random weights, one step
    full_update      FU: all weights, one step
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.seeding import derive_seed
from utils.contribution import (
    LocalContribution,
    combined_contribution,
    global_contribution,
    rewind_,
    select_random,
    select_top,
)
from utils.round_training import FULL_UPDATING, SPARSE_FINE_TUNING, RoundTraining

# (weights after step 1, start weights, local contribution) -> score (I,); the largest are selected
Score = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Method:
    """What a mode does each round, and what its rounds start from."""

    start: str  # "line": what the edge was sent last; "initial"; "fresh": new random weights each round
    coding: str  # how its messages name the weights: see utils.link.Coding
    score: str | None = None  # how step 1 ranks the weights; None: there is one step only
    reinitialize: bool = False  # re-initialise by default when the samples have doubled

    @property
    def two_steps(self) -> bool:
        return self.score is not None

    @property
    def restarts(self) -> bool:
        """True if its messages do not build on the last one."""
        return self.start != "line"


METHODS = {
    "dpu": Method("line", "sparse", score="combined", reinitialize=True),
    "gcpu": Method("line", "sparse", score="global", reinitialize=True),
    "lcpu": Method("line", "sparse", score="local", reinitialize=True),
    "rpu": Method("line", "random"),
    "same_init": Method("initial", "dense"),
    "last_round": Method("line", "dense"),
    "diff_init": Method("fresh", "dense"),
    "pruning": Method("initial", "pruned", score="magnitude"),
}


def score_function(name: str, lamda: float | None = None) -> Score:
    """Return the score called `name`; `lamda` weighs the global contribution in "combined"."""
    scores: dict[str, Score] = {
        "combined": lambda w, start, local: combined_contribution(global_contribution(w, start), local, lamda),
        "global": lambda w, start, local: global_contribution(w, start),
        "local": lambda w, start, local: local,
        "magnitude": lambda w, start, local: w.abs(),
    }
    return scores[name]


def partial_update(work: RoundTraining, updating_ratio: float, score: Score, prune: bool = False) -> None:
    """Update the `int(k*I)` weights with the largest score (Algorithm 1 of the paper).

    prune  the other weights become zero instead of returning to the start point (magnitude pruning)
    """
    flat = work.flat
    if not work.reached(SPARSE_FINE_TUNING):
        # Step 1: full updating, which measures what each weight contributes to the loss reduction.
        local = LocalContribution(flat.num_weights, flat.vector.device)
        work.train(FULL_UPDATING, local=local)
        work.full_val_acc = work.validate()

        # Select the weights of largest score over the whole network, rewind all others.
        start_weights = work.start[: flat.num_weights]
        selected = select_top(score(flat.weights, start_weights, local.value), updating_ratio)
        rewind_(flat.weights, torch.zeros_like(start_weights) if prune else start_weights, selected)
        work.select(selected)
        work.rewound_val_acc = work.validate_as_received()
        work.offer(work.rewound_val_acc, at_least=True)
    # Step 2: sparse fine-tuning of the selected weights and the rest.
    work.train(SPARSE_FINE_TUNING, choose=True)


def random_update(work: RoundTraining, updating_ratio: float, seed: int) -> None:
    """Update `round(k*n_l)` random weights of each layer l, trained from the start point (RPU)."""
    work.mask_seed = mask_seed(seed, work.number)
    if not work.reached(SPARSE_FINE_TUNING):
        generator = np.random.RandomState(work.mask_seed)
        selected = select_random(work.flat.layer_sizes, updating_ratio, generator)
        work.select(selected.to(work.flat.vector.device))
    work.train(SPARSE_FINE_TUNING, choose=True)


def mask_seed(seed: int, number: int) -> int:
    """Return the 32-bit seed of the random mask of round `number`, which its message carries."""
    return derive_seed(seed, "selection", number) % 2**32


def full_update(work: RoundTraining) -> None:
    """Update all weights, trained from the start point (FU)."""
    work.train(FULL_UPDATING, choose=True)
