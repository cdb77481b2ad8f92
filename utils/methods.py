"""One round's update by each method; how the weights to update are chosen is all that differs.

    partial_update   DPU, its variants by other criteria, pruning: two steps, between them a score selects weights
    random_update    RPU: random weights, one step
    full_update      FU: all weights, one step
"""

import warnings
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch

from data.seeding import derive_seed
from utils.contribution import CRITERIA, Criterion, Evidence, ranked, rewind_, select_largest, select_random
from utils.modes import Mode
from utils.rewinding import epochs_of_steps, rewinding_sizes, size_in_budget
from utils.training.round import FULL_UPDATING, SPARSE_FINE_TUNING, RoundTraining


def partial_update(
    work: RoundTraining, mode: Mode, updating_ratio: float | Fraction,
    lamda: float | None = None, fixing_ratio: float = 1.0, total_epochs: int | None = None,
    bits_to_try: Sequence[int] = (), own: Criterion | None = None,
) -> None:  # fmt: skip
    """Update the `int(k*I)` weights that the mode's criterion, or the user's `own`, scores highest.

    In a sparse network only the deployed weights take part, and I is their number. In pruning the other weights
    become zero instead of returning to the start point.
    fixing_ratio  below 1, rewinding is iterative: train, rewind this share of the weights still selected, train on,
                  until `int(k*I)` are left; what was accumulated and the optimizer's state go on for those
    total_epochs  of all steps together; None: each has those of the recipe
    bits_to_try   the round's values have that many bits of these with which the network after the first step, were it
                  rewound at once, validates best
    Where the round's message has a byte budget, as many of the weights are left as fit into it; `updating_ratio` and
    `fixing_ratio` then say the number of rewindings alone.
    """
    flat, criterion = work.flat, own or CRITERIA[mode.score]
    background = torch.zeros_like(work.start_weights) if mode.prunes else work.start_weights
    num_candidates = flat.num_weights if work.candidates is None else work.candidates.numel()
    sizes = rewinding_sizes(num_candidates, updating_ratio, fixing_ratio)
    last = FULL_UPDATING + len(sizes)
    epochs = [None] * last if total_epochs is None else epochs_of_steps(total_epochs, last)
    accumulated = criterion.accumulates and criterion.accumulates(work.num_selected, flat.vector.device)
    for step, size in enumerate(sizes, FULL_UPDATING):
        if work.reached(step + 1):
            continue
        # First all weights, later those still selected; it measures what each contributes to the loss reduction.
        work.train(step, accumulated, num_epochs=epochs[step - 1])
        if step == FULL_UPDATING:
            work.full_val_acc = work.validate()

        # Over the whole network, not layer by layer: layers differ in how much they matter.
        evidence = Evidence(
            weights=work.of_selected(flat.weights),
            start=work.of_selected(work.start_weights),
            accumulated=accumulated and accumulated.value,
            at_start=lambda measure: work.of_selected(work.at_start(measure)),
            lamda=lamda,
            layer=lambda: work.of_selected(flat.layer_of_weight()),
            seed=derive_seed(work.trainer.seed, "criterion", work.number, step),
        )
        score = criterion.score(evidence)
        if work.outgoing.most_bytes is not None and work.finite:
            order = ranked(score)
            order = order if work.selected is None else work.selected[order]
            trained = flat.snapshot()
            if bits_to_try and step == FULL_UPDATING:
                work.outgoing.use_bits(work.outgoing.best_bits(trained, order, bits_to_try, work.accuracy_of))
            size = size_in_budget(len(order), work.outgoing.as_many_as_fit(trained, order), last - step)
        chosen = select_largest(score, size)
        if accumulated:
            accumulated.keep(chosen)
        work.select(chosen if work.selected is None else work.selected[chosen], score[chosen])
        rewind_(flat.weights, background, work.selected)
        if step + 1 == last:
            work.rewound_val_acc = work.validate_as_received()
            work.offer(work.rewound_val_acc, at_least=True)
    # Step 2: sparse fine-tuning of the selected weights and the rest.
    work.train(last, choose=True, num_epochs=epochs[-1])


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
