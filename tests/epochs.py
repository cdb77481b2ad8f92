"""An epoch over chosen samples, as training goes through it."""

from collections.abc import Iterator

import torch

from data.batches import Batch, BatchSource


def epoch_of(batches: BatchSource, indices: torch.Tensor, generator: torch.Generator) -> Iterator[Batch]:
    """Iterate over the batches of an epoch over the samples `indices`; draws at the call, not while iterating."""
    order, draws = batches.draw(indices, generator)
    return batches.along(order, draws, batches.parts(len(order)))
