"""A network as one flat vector: the weights, the rest and the buffers, of which the parameters are views.

    vector = [ weights (I,) | rest (J,) | buffers (B,) ]

weights  conv/fc weights: parameters with two or more dimensions, in model order
rest     all other parameters: biases, BatchNorm scale and shift
buffers  BatchNorm running statistics

Optimizers, contributions and snapshots work on whole vectors; the network sees its own tensors.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Entry(NamedTuple):
    """One tensor of the network and where it lies in the vector."""

    name: str
    kind: str  # "weight", "rest" or "buffer"
    shape: tuple[int, ...]
    offset: int
    size: int


class FlatParameters:
    """Moves the tensors of `model` into one float32 vector on its device; the model goes on as before.

    .vector (I+J+B,)                    everything; a clone of it is a snapshot of the network
    .weights (I,), .rest (J,), .buffers (B,)   views of it
    .weight_grad (I,), .rest_grad (J,)  views of one gradient vector, into which autograd accumulates
    .entries, .layer_names, .layer_sizes       the layout; layers are the tensors in `weights`

    Raises ValueError for tensors that are not float32 or that are shared between modules.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        _drop_batch_counters(model)
        parameters = list(model.named_parameters(remove_duplicate=False))
        if len({id(p) for _, p in parameters}) < len(parameters):
            raise ValueError("the model shares a parameter between modules, which a flat vector cannot hold")
        groups = {
            "weight": [(n, p) for n, p in parameters if p.dim() >= 2],
            "rest": [(n, p) for n, p in parameters if p.dim() < 2],
            "buffer": list(model.named_buffers()),
        }
        tensors = [(kind, name, t) for kind, group in groups.items() for name, t in group]
        for _, name, tensor in tensors:
            if tensor.dtype != torch.float32:
                raise ValueError(f"{name} is {tensor.dtype}; a flat vector holds float32 tensors only")

        self.entries: list[Entry] = []
        offset = 0
        for kind, name, tensor in tensors:
            self.entries.append(Entry(name, kind, tuple(tensor.shape), offset, tensor.numel()))
            offset += tensor.numel()
        sizes = {kind: sum(t.numel() for _, t in group) for kind, group in groups.items()}
        self.num_weights, self.num_rest, self.num_buffers = sizes["weight"], sizes["rest"], sizes["buffer"]
        self.layer_names = [e.name for e in self.entries if e.kind == "weight"]
        self.layer_sizes = [e.size for e in self.entries if e.kind == "weight"]

        device = parameters[0][1].device
        num_trainable = self.num_weights + self.num_rest
        self.vector = torch.empty(offset, device=device)
        self.gradient = torch.zeros(num_trainable, device=device)
        self.weights = self.vector[: self.num_weights]
        self.rest = self.vector[self.num_weights : num_trainable]
        self.buffers = self.vector[num_trainable:]
        self.weight_grad = self.gradient[: self.num_weights]
        self.rest_grad = self.gradient[self.num_weights :]

        for entry, (kind, _, tensor) in zip(self.entries, tensors, strict=True):
            place = slice(entry.offset, entry.offset + entry.size)
            view = self.vector[place].view(entry.shape)
            view.copy_(tensor.data)
            tensor.data = view
            if kind != "buffer":
                tensor.grad = self.gradient[place].view(entry.shape)

    def zero_grad(self) -> None:
        """Set all gradients to zero: one memset."""
        self.gradient.zero_()

    def snapshot(self) -> Tensor:
        """Return a copy of the whole network, (I+J+B,)."""
        return self.vector.clone()

    def load(self, vector: Tensor) -> None:
        """Set the whole network to `vector` (I+J+B,)."""
        self.vector.copy_(vector)


def _drop_batch_counters(model: nn.Module) -> None:
    """Drop BatchNorm's batch counter: with a fixed momentum it changes nothing, yet it would have to be sent."""
    for module in model.modules():
        if getattr(module, "num_batches_tracked", None) is not None and module.momentum is not None:
            module.num_batches_tracked = None


def sha256(vector: Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes, to compare runs and processes."""
    return hashlib.sha256(vector.detach().cpu().numpy().tobytes()).hexdigest()
