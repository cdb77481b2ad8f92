"""Networks of users: a function or class of theirs that makes one, a network of torchvision, or a module as it is."""

import copy
import difflib
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from utils.system import own_code
from utils.system.errors import UsageError
from utils.system.references import label_of

TORCHVISION = "torchvision:"


def find_maker(model: Any) -> Callable[[Sequence[int], int], nn.Module]:
    """Return what makes the network `model`, on the CPU, from the shape of an input and the number of classes.

    model  FILE.py:NAME or torchvision:NAME, a function or class to be called with input_shape and num_classes or with
           num_classes alone, or a module, of which a copy is made
    Raises UsageError, naming what is wrong.
    """
    if isinstance(model, nn.Module):
        return lambda *_: _copied(model)
    function, what = model, "model="
    if isinstance(model, str):
        known = model.startswith(TORCHVISION)
        function = _of_torchvision(model.removeprefix(TORCHVISION)) if known else own_code.load("model", model)
        what = f"--model {label_of(model)}"
    if isinstance(function, nn.Module) or not callable(function):
        kind = "a network" if isinstance(function, nn.Module) else f"a {type(function).__name__}"
        raise UsageError(f"{what} is {kind}: it must be a function or class that makes a new network")

    def make(input_shape: Sequence[int], num_classes: int) -> nn.Module:
        offered = {"input_shape": tuple(input_shape), "num_classes": num_classes}
        network = own_code.call_with(function, what, offered, least="num_classes")
        if not isinstance(network, nn.Module):
            raise UsageError(f"{what} returned a {type(network).__name__}: it must return a torch.nn.Module")
        return network

    return make


def _copied(module: nn.Module) -> nn.Module:
    with own_code.faults_named("model=: this module cannot be copied; give the function or class that makes it"):
        return copy.deepcopy(module)


def _of_torchvision(name: str) -> Callable[..., nn.Module]:
    """Return the function of torchvision that makes a network of this name, its weights random."""
    try:
        from torchvision import models  # slow to import, needed only here
    except ImportError as error:
        raise UsageError(f"--model is {TORCHVISION}{name}, but torchvision cannot be imported ({error})") from error
    names = models.list_models(module=models)
    if name not in names:
        near = difflib.get_close_matches(name, names, 3, 0.5)
        ways = f"did you mean {' or '.join(near)}?" if near else "torchvision.models.list_models() has all names"
        raise UsageError(f"--model is {TORCHVISION}{name}, but torchvision has no network {name}: {ways}")
    builder = models.get_model_builder(name)
    return lambda num_classes: builder(weights=None, num_classes=num_classes)
