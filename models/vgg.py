"""VGG as in the binary-network literature: 2x128C3-MP2-2x256C3-MP2-2x512C3-MP2-2x1024FC-C.

    input     classes   parameters      weights
    1x8x8          10    6,163,082    6,155,392
    1x28x28        10   10,357,386   10,349,696
    3x32x32        10   14,029,706   14,022,016
    3x32x32       100   14,121,956   14,114,176

Courbariaux et al., "BinaryConnect", NeurIPS 2015, and Hubara et al., "Binarized Neural Networks", NeurIPS
2016, give the layers; weights and activations are not binary here. 3x3 convolutions keep the size (padding
1), and 2x2 max pooling after the second of each pair halves it, rounding down: 28 -> 14 -> 7 -> 3.

Two copy errors to avoid: pooling after every convolution, and biases in the eight layers that a BatchNorm
follows (3,840 values that training cannot use). Only the last layer has a bias. Initial weights are PyTorch's
own: uniform within 1/sqrt(fan-in).
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

CONV_CHANNELS = (128, 128, 256, 256, 512, 512)
FC_SIZES = (1024, 1024)


class VGG(nn.Sequential):
    """(N, *input_shape) -> (N, num_classes); the height and width of `input_shape` are at least 8."""

    def __init__(self, input_shape: Sequence[int], num_classes: int):
        channels, height, width = input_shape
        layers = OrderedDict()
        for i, out_channels in enumerate(CONV_CHANNELS, start=1):
            layers[f"conv{i}"] = nn.Conv2d(channels, out_channels, kernel_size=3, padding=1, bias=False)
            layers[f"conv{i}_norm"] = nn.BatchNorm2d(out_channels)
            layers[f"conv{i}_relu"] = nn.ReLU(inplace=True)
            if i % 2 == 0:
                layers[f"pool{i // 2}"] = nn.MaxPool2d(2)
            channels = out_channels
        layers["flatten"] = nn.Flatten()
        size = channels * (height // 8) * (width // 8)
        for i, out_size in enumerate(FC_SIZES, start=1):
            layers[f"fc{i}"] = nn.Linear(size, out_size, bias=False)
            layers[f"fc{i}_norm"] = nn.BatchNorm1d(out_size)
            layers[f"fc{i}_relu"] = nn.ReLU(inplace=True)
            size = out_size
        layers[f"fc{len(FC_SIZES) + 1}"] = nn.Linear(size, num_classes)
        super().__init__(layers)
