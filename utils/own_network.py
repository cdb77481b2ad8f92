"""A user's network: tried out before any work, then made as often as a run needs it, always with the run's seed."""

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn

from data.batches import Batches
from data.datasets import Dataset
from data.inputs import Inputs
from data.seeding import global_stream, torch_generator
from models.own import find_maker
from models.trial import try_out
from utils.flat import FlatParameters
from utils.system.errors import UsageError
from utils.system.references import label_of


def own_network_maker(
    model: Any, name: str, seed: int, inputs: Dataset | Inputs, device: torch.device, changing: Collection[str] | None
) -> Callable[[int], FlatParameters]:
    """Return a function that makes the user's initial network of the run (0), or another one, flat and on the device.

    model     as for `models.own.find_maker`; `name` is what it is called
    changing  the names of the buffers that training changes; None: found out, on two training images
    Raises UsageError for a network that cannot be used.
    """
    make, name = find_maker(model), label_of(name)

    def make_plain(number: int) -> nn.Module:
        with global_stream(seed, "initial weights", number), torch.device("cpu"):
            return make(inputs.input_shape, inputs.num_classes)

    if changing is None:
        with global_stream(seed, "trial"):
            changing = try_out(lambda: make_plain(0), _two_images(inputs), inputs.num_classes, name)

    def make_network(number: int) -> FlatParameters:
        flat = FlatParameters(make_plain(number).to(device), changing)
        if flat.num_weights == 0:
            raise UsageError(f"--model {name} has no weights: parameters of two or more dimensions, but for norms")
        return flat

    return make_network


def _two_images(dataset: Dataset) -> Tensor:
    """Return two training images as a network gets them; noise in their place if they are streamed."""
    if dataset.streamed:
        images = torch.randint(0, 256, (2, *dataset.input_shape), generator=torch_generator(0, "trial")).byte()
    else:
        images = dataset.train_images[[0, -1]]
    batches = Batches(images, torch.zeros(2, dtype=torch.int64), dataset.mean, dataset.std, 2)
    return batches.batch(torch.arange(2))[0]
