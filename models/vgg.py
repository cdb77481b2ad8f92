"""VGG as in the binary-network literature: 2x128C3-MP2-2x256C3-MP2-2x512C3-MP2-2x1024FC-C.

    input     classes   width   parameters      weights
    1x8x8          10       1    6,164,874    6,155,392
    1x28x28        10       1   10,359,178   10,349,696
    3x32x32        10       1   14,031,498   14,022,016
    3x32x32       100       1   14,123,748   14,114,176
    3x32x32        10    0.25      881,322      878,944

Courbariaux et al., "BinaryConnect", NeurIPS 2015, and Hubara et al., "Binarized Neural Networks", NeurIPS
2016, give the layers; weights and activations are not binary here. 3x3 convolutions keep the size (padding
1), and 2x2 max pooling in the second of each pair halves it, rounding down: 28 -> 14 -> 7 -> 3.

The order is that of the paper's authors in their earlier code: the second convolution of each pair is pooled before
its BatchNorm and ReLU, and convolutions have biases (1,792 values that the BatchNorm behind them cancels; they are
sent and counted like all others). Fully connected layers before a BatchNorm have none. A copy error to avoid is
pooling after every convolution. Initial weights are PyTorch's own: uniform within 1/sqrt(fan-in).
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

CONV_CHANNELS = (128, 128, 256, 256, 512, 512)
FC_SIZES = (1024, 1024)


class VGG(nn.Sequential):
    """(N, *input_shape) -> (N, num_classes); the height and width of `input_shape` are at least 8.

    width  scales the channels and units of each layer, rounded to multiples of 8
    """

    def __init__(self, input_shape: Sequence[int], num_classes: int, width: float = 1.0):
        channels, rows, columns = input_shape
        layers = OrderedDict()
        for i, out_channels in enumerate((narrowed(size, width) for size in CONV_CHANNELS), start=1):
            layers[f"conv{i}"] = nn.Conv2d(channels, out_channels, kernel_size=3, padding=1)
            if i % 2 == 0:
                layers[f"pool{i // 2}"] = nn.MaxPool2d(2)
            layers[f"conv{i}_norm"] = nn.BatchNorm2d(out_channels)
            layers[f"conv{i}_relu"] = nn.ReLU(inplace=True)
            channels = out_channels
        layers["flatten"] = nn.Flatten()
        size = channels * (rows // 8) * (columns // 8)
        for i, out_size in enumerate((narrowed(size, width) for size in FC_SIZES), start=1):
            layers[f"fc{i}"] = nn.Linear(size, out_size, bias=False)
            layers[f"fc{i}_norm"] = nn.BatchNorm1d(out_size)
            layers[f"fc{i}_relu"] = nn.ReLU(inplace=True)
            size = out_size
        layers[f"fc{len(FC_SIZES) + 1}"] = nn.Linear(size, num_classes)
        super().__init__(layers)


def narrowed(channels: int, width: float) -> int:
    """Return `width` times the channels, as the nearest multiple of 8, at least 8."""
    return max(8, 8 * round(channels * width / 8))
