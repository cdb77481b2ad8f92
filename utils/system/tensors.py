"""The bytes of tensors, of whatever type."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def raw_bytes(tensor: Tensor) -> Tensor:
    """Return what a strided tensor's values are in memory, uint8 (N,) on its device: equal where no bit differs."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.view(-1).view(torch.uint8)


def add_tensors(digest: Any, named: Iterable[tuple[str, Tensor]]) -> None:
    """Add names, types, shapes and values of strided tensors to a digest of hashlib's."""
    for name, tensor in named:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(raw_bytes(tensor.cpu()).numpy())
