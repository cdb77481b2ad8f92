"""Scores of weights from the literature on pruning; `utils.contribution` names them beside the paper's.

Each is a vector over the I weights of the network; the larger, the more a weight matters.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from utils.training.sample_gradients import SampleGradients


def magnitude(weights: Tensor) -> Tensor:
    """Return `|w_f|`, (I,): the largest weights after step 1, wherever they started.

    Han et al., "Learning both Weights and Connections for Efficient Neural Networks", NeurIPS 2015.
    """
    return weights.abs()


def lamp(weights: Tensor, layer: Tensor) -> Tensor:
    """Return `w_f**2` over the sum of the squares in its layer that are as large or larger, (I,).

    So the largest of each layer has 1, whatever its size. Of equals the first counts as the largest.

    layer  (I,) int64 ascending, which layer each weight is of

    Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021.
    """
    scores = []
    for squares in weights.square().cpu().split(torch.bincount(layer).tolist()):  # a GPU sums in any order
        largest_first, order = squares.nan_to_num(nan=0.0).sort(descending=True, stable=True)
        of_sum = (largest_first / largest_first.cumsum(0)).nan_to_num(nan=0.0)  # of a layer of zeros alone, 0
        scores.append(torch.empty_like(squares).scatter_(0, order, of_sum))
    return torch.cat(scores).to(weights.device)


def fisher(at_start: "SampleGradients") -> Tensor:
    """Return the sum over samples of `g_i**2`, (I,), `g_i` the gradient of one sample's loss at the start point.

    The diagonal of the empirical Fisher information (true labels, none drawn from the network) times the number of
    samples: Sung et al., "Training Neural Networks with Fixed Sparse Masks", NeurIPS 2021.
    """
    return at_start.sum_of_squares()


def snip(start: Tensor, mean_gradient: Tensor) -> Tensor:
    """Return `|g * w|`, (I,), `g` the gradient of the samples' mean loss at the start point.

    Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity", ICLR 2019, without its
    normalisation, which changes no rank; over all samples of the round instead of one batch.
    """
    return (mean_gradient * start).abs_()
