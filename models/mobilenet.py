"""MobileNetV1: Howard et al., "MobileNets: Efficient Convolutional Neural Networks", 2017, table 1.

    width   parameters   published
     0.25      470,072        0.5M
     0.5     1,331,592        1.3M
     0.75    2,585,560        2.6M
     1.0     4,231,976        4.2M        (3 channels, 1,000 classes)

A 3x3 convolution, then thirteen depthwise-separable ones (3x3 on each channel by itself, then 1x1 across
channels), each convolution with BatchNorm and ReLU; global average pooling; one fully connected layer.

The copy errors to avoid: stride 2 in the last depthwise convolution, which table 1 prints although its
output stays 7x7 (the stride is 1); and initial weights by fan-out, which for a depthwise convolution PyTorch
counts as if every channel fed every other. Weights start He-normal by fan-in, the last bias at zero.
"""

import math

import torch
from torch import nn

from models.resnet import he_normal_

FIRST_CHANNELS = 32
# (output channels, stride) of each depthwise-separable convolution, at width 1
SEPARABLE = (
    (64, 1),
    (128, 2), (128, 1),
    (256, 2), (256, 1),
    (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
    (1024, 2), (1024, 1),
)  # fmt: skip


class MobileNetV1(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes); `width` scales each layer's channels, to 8 at least."""

    def __init__(self, in_channels: int, num_classes: int, width: float = 1.0):
        if not (math.isfinite(width) and width > 0):
            allowed = "it must be finite and above 0, as 0.25, 0.5 or 1.0"
            raise ValueError(f"model mobilenetv1: width {width} given: {allowed}")
        super().__init__()
        channels = scaled(FIRST_CHANNELS, width)
        layers = [conv_norm_relu(in_channels, channels, kernel_size=3, stride=2)]
        for out_channels, stride in SEPARABLE:
            out_channels = scaled(out_channels, width)
            depthwise = conv_norm_relu(channels, channels, kernel_size=3, stride=stride, groups=channels)
            pointwise = conv_norm_relu(channels, out_channels, kernel_size=1)
            layers.append(nn.Sequential(depthwise, pointwise))
            channels = out_channels
        self.features = nn.Sequential(*layers)
        self.fc = nn.Linear(channels, num_classes)
        he_normal_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x).mean(dim=(2, 3)))


def scaled(channels: int, width: float) -> int:
    return max(8, int(channels * width))


def conv_norm_relu(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    conv = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
