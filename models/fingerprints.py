"""What tells a network that was given from Python from others made by the same code: no flag says what it was given."""

import hashlib
import inspect
import re
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from utils.system.own_code import source_file
from utils.system.tensors import add_tensors, raw_bytes

_OF_EVERY_MODULE = vars(nn.Module()).keys()
_DEEPEST = 50  # things within things


def fingerprint_of(module: nn.Module) -> str:
    """Return what tells the parameters and buffers of a module from any others."""
    digest = hashlib.blake2b(digest_size=16)
    named = [*module.named_parameters(), *module.named_buffers()]
    add_tensors(digest, ((name, tensor) for name, tensor in named if _has_values(tensor)))
    return digest.hexdigest()


def _has_values(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and tensor.device.type != "meta" and tensor.layout == torch.strided


def structure_of(network: nn.Module, maker: Any) -> str:
    """Return what tells the modules of `network` and their settings from any others, as far as can be seen.

    These are the modules as they describe themselves, the numbers, texts and arrays in their attributes, and what
    `maker`, the function that made the network, was bound to.
    """
    seen: dict[int, tuple[int, Any]] = {}
    lines = [repr(network), _in_words(maker, seen)]
    for name, module in network.named_modules():
        own = {key: value for key, value in vars(module).items() if key not in _OF_EVERY_MODULE}
        lines.append(f"{name}: {_in_words(own, seen)}")
    text = re.sub(r"0x[0-9a-f]+", "", "\n".join(lines))  # without addresses in memory
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _in_words(value: Any, seen: dict[int, tuple[int, Any]], depth: int = 0) -> str:
    """Return what a value is, the same in every process; of an object of a library its kind alone.

    seen  what was put in words before, by its id: it is not done again, so that what refers to one another has an end
    """
    if depth == _DEEPEST or isinstance(value, nn.Module):
        return type(value).__qualname__
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic, torch.dtype)):
        return repr(value)
    if isinstance(value, Tensor):
        values = raw_bytes(value.detach().cpu()).numpy().tobytes() if _has_values(value) else b""
        return f"{value.dtype}{tuple(value.shape)}{hashlib.blake2b(values, digest_size=8).hexdigest()}"
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return f"{value.dtype.str}{value.shape}{hashlib.blake2b(value.tobytes(), digest_size=8).hexdigest()}"
    if id(value) in seen:
        return f"#{seen[id(value)][0]}"
    seen[id(value)] = len(seen), value

    def words(*parts: Any) -> list[str]:
        return [_in_words(part, seen, depth + 1) for part in parts]

    if isinstance(value, np.ndarray):
        parts = words(value.tolist())
    elif isinstance(value, dict):
        parts = [": ".join(words(*pair)) for pair in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = words(*value)
    elif isinstance(value, (set, frozenset)):  # whose order differs from process to process
        parts = sorted(_in_words(item, {**seen}, depth + 1) for item in value)
    elif isinstance(value, partial):
        parts = words(value.func, value.args, value.keywords)
    elif inspect.isfunction(value):
        held = inspect.getclosurevars(value).nonlocals
        parts = [value.__qualname__, *words(held, value.__defaults__, value.__kwdefaults__)]
    elif inspect.ismethod(value):
        parts = words(value.__func__, value.__self__)
    elif isinstance(value, type):
        parts = [value.__qualname__]
    else:
        of_user = isinstance(value, SimpleNamespace) or source_file(value) is not None
        parts = words(vars(value)) if of_user and hasattr(value, "__dict__") else []
    return f"{type(value).__qualname__}({', '.join(parts)})"
