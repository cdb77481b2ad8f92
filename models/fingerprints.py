"""What tells a network that was given from Python from others made by the same code: no flag says what it was given."""

import hashlib
import inspect
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from utils.system.own_code import digest_of_text, source_file
from utils.system.tensors import raw_bytes

_OF_EVERY_MODULE = vars(nn.Module()).keys()
_DEEPEST = 8  # things within things; a cycle ends there, too


def fingerprint_of(module: nn.Module) -> str:
    """Return what tells the parameters and buffers of a module from any others."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if _has_values(tensor):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(raw_bytes(tensor.cpu()).numpy())
    return digest.hexdigest()


def _has_values(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and tensor.device.type != "meta" and tensor.layout == torch.strided


def structure_of(network: nn.Module, maker: Any) -> str:
    """Return what tells the modules of `network` and their settings from any others, as far as can be seen.

    These are the modules as they describe themselves, the numbers, texts and arrays in their attributes, and what
    `maker`, the function that made the network, was bound to.
    """
    lines = [repr(network), _in_words(maker)]
    for name, module in network.named_modules():
        own = {key: value for key, value in vars(module).items() if key not in _OF_EVERY_MODULE}
        lines.append(f"{name}: {_in_words(own)}")
    return digest_of_text("\n".join(lines))


def _in_words(value: Any, depth: int = 0) -> str:
    """Return what a value is, the same in every process; of an object of a library its kind alone."""
    if depth == _DEEPEST or isinstance(value, nn.Module):
        return type(value).__qualname__
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, np.generic, torch.dtype)):
        return repr(value)
    if isinstance(value, Tensor):
        values = raw_bytes(value.detach().cpu()).numpy().tobytes() if _has_values(value) else b""
        return f"{value.dtype}{tuple(value.shape)}{hashlib.blake2b(values, digest_size=8).hexdigest()}"
    if isinstance(value, np.ndarray):
        value = [value.dtype.str, value.shape, value.tolist() if value.dtype.hasobject else value.tobytes()]
    if isinstance(value, dict):
        parts = [f"{_in_words(key, depth + 1)}={_in_words(item, depth + 1)}" for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        parts = [_in_words(item, depth + 1) for item in value]
    elif isinstance(value, (set, frozenset)):
        parts = sorted(_in_words(item, depth + 1) for item in value)
    elif isinstance(value, partial):
        parts = [_in_words(part, depth + 1) for part in (value.func, value.args, value.keywords)]
    elif inspect.isfunction(value):
        held = inspect.getclosurevars(value).nonlocals
        parts = [value.__qualname__, _in_words([held, value.__defaults__, value.__kwdefaults__], depth + 1)]
    elif inspect.ismethod(value):
        parts = [_in_words(part, depth + 1) for part in (value.__func__, value.__self__)]
    elif isinstance(value, type):
        parts = [value.__qualname__]
    else:
        of_user = isinstance(value, SimpleNamespace) or source_file(value) is not None
        parts = [_in_words(vars(value), depth + 1)] if of_user and hasattr(value, "__dict__") else []
    return f"{type(value).__qualname__}({', '.join(parts)})"
