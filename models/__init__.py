"""The networks of the paper: `build_model` makes each one from its name, the input's shape and a seed.

    name          publication               input       classes   parameters   conv/fc weights
    mlp           (sizes are ours)          1x28x28          10      669,706           668,672
    vgg           Courbariaux et al. 2015   3x32x32          10   14,031,498        14,022,016
    resnet56      He et al. 2016            3x32x32          10      853,018           848,944
    mobilenetv1   Howard et al. 2017        3x224x224     1,000    4,231,976         4,209,088

Parameters are those that an optimizer moves. Conv/fc weights, the ones with two or more dimensions, are what
an updating ratio counts; biases and BatchNorm scales and shifts are the rest. But for VGG's convolutions, which
have biases in the authors' code, no layer that a BatchNorm follows has a bias of its own: the norm would cancel it,
and every message would carry it for nothing.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from models.mlp import MLP
from models.mobilenet import MobileNetV1
from models.resnet import ResNet
from models.vgg import VGG


class _Model(NamedTuple):
    """How a network is made of (input shape, number of classes, options), and the images that it takes."""

    make: Callable[[Sequence[int], int, dict[str, Any]], nn.Module]
    smallest: int = 1  # height and width that leave every layer something to do
    why_smallest: str = ""
    largest: float = math.inf


_MODELS = {
    "mlp": _Model(lambda shape, classes, o: MLP(math.prod(shape), classes, o["hidden_sizes"], o["batch_norm"])),
    "vgg": _Model(
        lambda shape, classes, o: VGG(shape, classes, o["width"]),
        smallest=8,
        why_smallest="three 2x2 poolings have to leave a pixel",
        largest=128,  # here the first fully connected layer has 134 million weights already
    ),
    "resnet56": _Model(
        lambda shape, classes, o: ResNet(shape[0], classes, 56, o["width"]),
        smallest=8,
        why_smallest="two halvings have to leave 2x2 pixels",
    ),
    "mobilenetv1": _Model(
        lambda shape, classes, o: MobileNetV1(shape[0], classes, o["width"]),
        smallest=17,
        why_smallest="each of five halvings has to find two pixels",
    ),
}
MODEL_NAMES = tuple(_MODELS)


def build_model(
    name: str,
    input_shape: Sequence[int],
    num_classes: int,
    *,
    seed: int = 0,
    hidden_sizes: Sequence[int] = (512, 512),
    batch_norm: bool = False,
    width: float = 1.0,
) -> nn.Module:
    """Return the network `name`, on the CPU, for inputs (N, *input_shape) and outputs (N, num_classes).

    The initial weights depend on `seed` and the shapes alone, and torch's global generator is left as it was.
    `input_shape` is (channels, height, width). `hidden_sizes` and `batch_norm` shape the mlp, `width` the others.

    Raises ValueError, in one line, for an unknown name or a size that the model cannot work with.
    """
    _check(name, input_shape, num_classes)
    options = {"hidden_sizes": hidden_sizes, "batch_norm": batch_norm, "width": width}
    # torch.manual_seed would reseed the GPUs, too, which fork_rng(devices=[]) does not put back.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        return _MODELS[name].make(input_shape, num_classes, options)


def _check(name: str, input_shape: Sequence[int], num_classes: int) -> None:
    if name not in _MODELS:
        raise ValueError(f"model {name!r} is not known: choose one of {', '.join(_MODELS)}")
    if num_classes < 2:
        raise ValueError(f"model {name}: {num_classes} given as the number of classes: it takes at least 2")
    shape = "x".join(str(size) for size in input_shape)
    if len(input_shape) != 3 or min(input_shape) < 1:
        takes = "it takes (channels, height, width), each at least 1"
        raise ValueError(f"model {name}: input of shape {shape or '()'}: {takes}")
    model, size = _MODELS[name], min(input_shape[1:])
    if size < model.smallest:
        others = [other for other, its in _MODELS.items() if its.smallest <= size]
        reason = f"{model.why_smallest}, so height and width must be at least {model.smallest}"
        way_out = f"enlarge the images or choose {' or '.join(others)}"
        raise ValueError(f"model {name}: input {shape} is too small: {reason}; {way_out}")
    if max(input_shape[1:]) > model.largest:
        reason = "its first fully connected layer grows with the area"
        reason = f"{reason}, so height and width must be at most {model.largest}"
        way_out = "shrink the images or choose resnet56 or mobilenetv1"
        raise ValueError(f"model {name}: input {shape} is too large: {reason}; {way_out}")
