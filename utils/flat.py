"""A network as one flat vector: the weights, the rest and the buffers, of which the parameters are views.

    vector = [ weights (I,) | rest (J,) | buffers (B,) ]

weights  conv/fc weights: parameters with two or more dimensions, in model order
rest     all other parameters: biases, BatchNorm scale and shift
buffers  BatchNorm running statistics

Optimizers, contributions and snapshots work on whole vectors; the network sees its own tensors.
"""

import hashlib

import torch
from torch import Tensor, nn

from utils.schema import Schema


class FlatParameters:
    """Moves the tensors of `model` into one float32 vector on its device; the model goes on as before.

    .schema                             the layout; layers are the tensors in `weights`
    .vector (I+J+B,)                    everything; a clone of it is a snapshot of the network
    .weights (I,), .rest (J,), .buffers (B,)   views of it
    .weight_grad (I,), .rest_grad (J,)  views of one gradient vector, into which autograd accumulates

    Raises ValueError for tensors that are not float32, empty, or shared between modules.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        _drop_batch_counters(model)
        parameters = list(model.named_parameters(remove_duplicate=False))
        if len({id(p) for _, p in parameters}) < len(parameters):
            raise ValueError("the model shares a parameter between modules, which a flat vector cannot hold")
        tensors = [("weight", n, p) for n, p in parameters if p.dim() >= 2]
        tensors += [("rest", n, p) for n, p in parameters if p.dim() < 2]
        tensors += [("buffer", n, b) for n, b in model.named_buffers()]
        for _, name, tensor in tensors:
            if tensor.dtype != torch.float32:
                raise ValueError(f"{name} is {tensor.dtype}; a flat vector holds float32 tensors only")

        self.schema = Schema((name, role, tensor.shape) for role, name, tensor in tensors)
        self.num_weights, self.num_rest = self.schema.num_weights, self.schema.num_rest
        self.num_buffers = self.schema.num_buffers
        self.layer_names = [layer.name for layer in self.schema.layers]
        self.layer_sizes = [layer.size for layer in self.schema.layers]

        device = parameters[0][1].device
        num_trainable = self.num_weights + self.num_rest
        self.vector = torch.empty(self.schema.size, device=device)
        self.gradient = torch.zeros(num_trainable, device=device)
        self.weights = self.vector[: self.num_weights]
        self.rest = self.vector[self.num_weights : num_trainable]
        self.buffers = self.vector[num_trainable:]
        self.weight_grad = self.gradient[: self.num_weights]
        self.rest_grad = self.gradient[self.num_weights :]

        for entry, (role, _, tensor) in zip(self.schema.entries, tensors, strict=True):
            view = self.vector[entry.part].view(entry.shape)
            view.copy_(tensor.data)
            tensor.data = view
            if role != "buffer":
                tensor.grad = self.gradient[entry.part].view(entry.shape)

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
