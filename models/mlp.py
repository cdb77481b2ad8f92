"""The multilayer perceptron: flatten, then fully connected layers with ReLU between them.

    hidden sizes   BatchNorm   input     classes   parameters   weights
    512 512        no          1x28x28        10      669,706   668,672
    512 512        yes         1x28x28        10      670,730   668,672
    (none)         no          1x28x28        10        7,850     7,840

The paper prints no layer sizes; 784-512-512-10 without BatchNorm is our choice. Initial weights and biases
are PyTorch's own for nn.Linear: uniform within 1/sqrt(inputs).
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


class MLP(nn.Sequential):
    """(N, ...), `num_inputs` values a sample, -> (N, num_classes); no hidden sizes: a linear classifier."""

    def __init__(
        self,
        num_inputs: int,
        num_classes: int,
        hidden_sizes: Sequence[int] = (512, 512),
        batch_norm: bool = False,
    ):
        if any(size < 1 for size in hidden_sizes):
            given = " ".join(str(size) for size in hidden_sizes)
            raise ValueError(f"model mlp: hidden sizes {given} given: each must be at least 1")
        layers = OrderedDict(flatten=nn.Flatten())
        for i, size in enumerate(hidden_sizes, start=1):
            # A BatchNorm subtracts whatever bias comes before it and adds its own shift.
            layers[f"fc{i}"] = nn.Linear(num_inputs, size, bias=not batch_norm)
            if batch_norm:
                layers[f"norm{i}"] = nn.BatchNorm1d(size)
            layers[f"relu{i}"] = nn.ReLU(inplace=True)
            num_inputs = size
        layers[f"fc{len(hidden_sizes) + 1}"] = nn.Linear(num_inputs, num_classes)
        super().__init__(layers)
