"""The bytes of tensors, of whatever type."""

import torch
from torch import Tensor


def raw_bytes(tensor: Tensor) -> Tensor:
    """Return what a strided tensor's values are in memory, uint8 (N,) on its device: equal where no bit differs."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.view(-1).view(torch.uint8)
