"""Networks as users bring them; tests name this file on command lines."""

import torch
from torch import nn


class GroupNormNet(nn.Sequential):
    """Convolutions, GroupNorm and dropout; no BatchNorm."""

    def __init__(self, input_shape, num_classes, width=8):
        super().__init__(
            nn.Conv2d(input_shape[0], width, 3, padding=1), nn.GroupNorm(2, width), nn.ReLU(), nn.Dropout2d(0.1),
            nn.Conv2d(width, width, 3, stride=2), nn.GroupNorm(2, width), nn.ReLU(),
            nn.Flatten(), nn.Dropout(0.2), nn.Linear(9 * width, num_classes),
        )  # fmt: skip


class PatchTransformer(nn.Module):
    """A vision transformer on 2x2 patches of 8x8 images, with a class token, positions and dropout."""

    def __init__(self, input_shape, num_classes, dim=16):
        super().__init__()
        self.patches = nn.Conv2d(input_shape[0], dim, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(0.02 * torch.randn(1, 17, dim))
        layer = nn.TransformerEncoderLayer(dim, 2, 2 * dim, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, num_classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        return self.head(self.norm(self.layers(x)[:, 0]))


class Zoo(nn.Module):
    """Tied weights, a layer used twice, embeddings, 1- and 3-dimensional convolutions, a norm over two dimensions,
    a scalar, an unused and a frozen parameter, constant, integer and changing buffers, a branch not always taken."""

    def __init__(self, num_classes):
        super().__init__()
        self.shades = nn.Embedding(17, 4)
        self.conv1 = nn.Conv1d(32, 8, 3, padding=1)
        self.conv3 = nn.Conv3d(1, 2, 3, padding=1)
        self.norm = nn.LayerNorm((8, 8))
        self.batch_norm = nn.BatchNorm1d(8)
        self.inner = nn.Linear(8, 8)
        self.out = nn.Linear(8, 8)
        self.out.weight = self.inner.weight
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.unused = nn.Linear(3, 5)
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)
        self.now_and_then = nn.Linear(8, 8)
        self.head = nn.Linear(16, num_classes)
        self.register_buffer("order", torch.arange(7, -1, -1))
        self.register_buffer("mask", torch.eye(8) > 0)
        self.register_buffer("table", torch.sin(torch.arange(8.0)), persistent=False)
        self.register_buffer("average", torch.zeros(8))

    def forward(self, x):  # (N, 1, 8, 8)
        shades = ((x - x.amin()) / (x.amax() - x.amin() + 1e-6) * 16).long()
        x = self.shades(shades).permute(0, 4, 1, 2, 3).reshape(len(x), 32, 8)
        x = self.norm(self.conv1(x)[:, :, self.order]) + self.table
        x = x.masked_fill(self.mask, 0.5)
        y = self.conv3(x.view(len(x), 1, 8, 2, 4)).amax(dim=(3, 4)).mean(dim=1)
        y = self.batch_norm(y + x.mean(2))
        y = self.out(torch.relu(self.inner(torch.relu(self.inner(y))))) + self.frozen(y)
        if self.training:
            self.average.lerp_(y.detach().mean(0), 0.1)
            if torch.rand(()) < 0.5:
                y = y + self.now_and_then(y)
        return self.scale * self.head(torch.cat([y, y - self.average], dim=1))


def with_batch_norm(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, num_classes))


def bare(num_classes):
    """No biases: nothing but weights."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32, bias=False), nn.ReLU(), nn.Linear(32, num_classes, bias=False))
