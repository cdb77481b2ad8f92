"""Residual networks for CIFAR: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, 4.2.

    depth   blocks a stage   parameters   published
       20                3      269,722       0.27M
       32                5      464,154       0.46M
       44                7      658,586       0.66M
       56                9      853,018       0.85M      (214,546 at width 0.5)
      110               18    1,727,962        1.7M        (3 channels, 10 classes)

The copy errors to avoid: ImageNet's wider networks under a CIFAR name, and shortcuts with a 1x1 convolution
(option B, 855,770 parameters at depth 56). These are option A: where the map shrinks and the channels double,
the shortcut keeps every second pixel and pads the channels with zeros, half on either side, and so has no
parameters. Weights start He-normal (He et al., ICCV 2015), the last bias at zero.

Global average pooling lets every input size through, ImageNet's as well.
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.vgg import narrowed


class ResNet(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes), with depth = 6n + 2: three stages of n two-layer blocks.

    width  scales the channels of each stage, rounded to multiples of 8
    """

    def __init__(self, in_channels: int, num_classes: int, depth: int = 56, width: float = 1.0):
        super().__init__()
        blocks, left_over = divmod(depth - 2, 6)
        if blocks < 1 or left_over:
            raise ValueError(f"model resnet: depth {depth} given: it must be 6n + 2, n above 0, as 20 or 56")
        first, second, third = (narrowed(channels, width) for channels in (16, 32, 64))
        self.conv = conv3x3(in_channels, first)
        self.norm = nn.BatchNorm2d(first)
        self.relu = nn.ReLU(inplace=True)
        self.stage1 = make_stage(first, first, blocks, stride=1)
        self.stage2 = make_stage(first, second, blocks, stride=2)
        self.stage3 = make_stage(second, third, blocks, stride=2)
        self.fc = nn.Linear(third, num_classes)
        he_normal_(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.conv(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.fc(x.mean(dim=(2, 3)))


class BasicBlock(nn.Module):
    """relu(F(x) + shortcut(x)), F two 3x3 convolutions, the first of them with the stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Identity() if stride == 1 else OptionAShortcut(out_channels - in_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(out))
        out += self.shortcut(x)  # in place: a BatchNorm's backward pass does not need its output
        return self.relu(out)


class OptionAShortcut(nn.Module):
    """(N, C, H, W) -> (N, C + extra_channels, ceil(H/stride), ceil(W/stride)): subsample, pad with zeros."""

    def __init__(self, extra_channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.padding = (0, 0, 0, 0, extra_channels // 2, extra_channels - extra_channels // 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], self.padding)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def make_stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    others = (BasicBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


def he_normal_(model: nn.Module) -> None:
    """Draw every conv and fc weight from N(0, 2/fan-in), in place; their biases become zero."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
