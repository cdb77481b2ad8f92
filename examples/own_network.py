"""A network of one's own: python multiround_dpu.py --model examples/own_network.py:SmallNet ..."""

from torch import nn


class SmallNet(nn.Sequential):
    """Two convolutions with GroupNorm, dropout, and a classifier on the mean over all pixels."""

    def __init__(self, input_shape, num_classes, width=16):
        super().__init__(
            nn.Conv2d(input_shape[0], width, kernel_size=3, padding=1),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, kernel_size=3, padding=1, stride=2),
            nn.GroupNorm(4, 2 * width),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, num_classes),
        )
