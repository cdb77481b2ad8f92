"""A network as one flat vector: the weights, the rest and the buffers, of which the parameters are views.

    vector = [ weights (I,) | rest (J,) | buffers (B,) ]

weights  conv/fc weights: parameters with two or more dimensions, in model order, of every module but norms
rest     all other parameters: biases, scale and shift of BatchNorm, LayerNorm and the like
buffers  BatchNorm running statistics, and whatever else training changes beside parameters

What training does not change are *constants*: frozen parameters, tables, masks, counters. They stay in the network
and are not in the vector. Optimizers, contributions and snapshots work on whole vectors; the network sees its own
tensors. A parameter that several modules share is in the vector once, under its first name.
"""

import hashlib
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from utils.schema import Schema
from utils.system.tensors import add_tensors, raw_bytes

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class FlatParameters:
    """Moves the tensors of `model` into one float32 vector on its device; the model goes on as before.

    .schema                             the layout; layers are the tensors in `weights`
    .vector (I+J+B,)                    everything; a clone of it is a snapshot of the network
    .weights (I,), .rest (J,), .buffers (B,)   views of it
    .weight_grad (I,), .rest_grad (J,)  views of one gradient vector, into which autograd accumulates

    changing  names of the buffers that training changes; None: all of them
    .constants  frozen parameters and the other buffers, by name

    Raises ValueError for tensors in the vector that are not float32, or empty.
    """

    def __init__(self, model: nn.Module, changing: Collection[str] | None = None):
        self.model = model
        for module in model.modules():
            # With a fixed momentum BatchNorm's counter changes nothing, yet it would have to be sent.
            if getattr(module, "num_batches_tracked", None) is not None and module.momentum is not None:
                module.num_batches_tracked = None
        parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        buffers = [(name, b) for name, b in model.named_buffers() if changing is None or name in changing]
        of_norms = {id(p) for module in model.modules() if isinstance(module, _NORMS) for p in module.parameters(False)}
        weights = {name for name, p in parameters if p.dim() >= 2 and id(p) not in of_norms}
        tensors = [("weight", n, p) for n, p in parameters if n in weights]
        tensors += [("rest", n, p) for n, p in parameters if n not in weights]
        tensors += [("buffer", n, b) for n, b in buffers]
        held = {name for _, name, _ in tensors}
        everything = [*model.named_parameters(), *model.named_buffers()]
        self.constants = {name: tensor.detach() for name, tensor in everything if name not in held}
        self._constants_before = {name: tensor.clone() for name, tensor in self.constants.items()}
        for _, name, tensor in tensors:
            if tensor.dtype != torch.float32:
                raise ValueError(f"{name} is {tensor.dtype}; a flat vector holds float32 tensors only")

        self.schema = Schema((name, role, tensor.shape) for role, name, tensor in tensors)
        counts = self.schema.num_weights, self.schema.num_rest, self.schema.num_buffers
        self.num_weights, self.num_rest, self.num_buffers = counts
        self.layer_names = [layer.name for layer in self.schema.layers]
        self.layer_sizes = [layer.size for layer in self.schema.layers]

        device = parameters[0][1].device
        self.vector = torch.empty(self.schema.size, device=device)
        self.weights, self.rest, self.buffers = self.vector.split(counts)
        self.gradient = torch.zeros(self.num_weights + self.num_rest, device=device)
        self.weight_grad, self.rest_grad = self.gradient.split(counts[:2])

        for entry, (role, _, tensor) in zip(self.schema.entries, tensors, strict=True):
            view = self.vector[entry.part].view(entry.shape)
            view.copy_(tensor.data)
            tensor.data = view
            if role != "buffer":
                tensor.grad = self.gradient[entry.part].view(entry.shape)

    @property
    def layout(self) -> str:
        """What tells names, shapes and constants of this network from those of any other."""
        digest = hashlib.blake2b(self.schema.fingerprint, digest_size=8)
        add_tensors(digest, self.constants.items())
        return digest.hexdigest()

    def layer_of_weight(self) -> Tensor:
        """Return the number of the layer that each weight is in, (I,) int64."""
        sizes = torch.tensor(self.layer_sizes, device=self.vector.device)
        return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)

    def broken(self, selected: Tensor | None, before: Tensor | None) -> str | None:
        """Return in words what passes of the model did to a tensor that they may not; None: nothing.

        before    the weights (I,) before training; None: which of them changed is not looked at
        selected  (S,) those that may change; None: all
        """
        for name, now in self.constants.items():
            if not torch.equal(raw_bytes(now), raw_bytes(self._constants_before[name])):
                reason = "training changed it, but not in the pass that tried the network"
                return f"{name}: {reason}: make it change in every pass, or in none"
        for name, parameter in self.model.named_parameters():
            if name in self.constants and parameter.requires_grad:
                return f"{name}: a pass made it need a gradient, but it was frozen when the network was tried"
        held = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        for entry in self.schema.entries:
            tensor, place = held.get(entry.name), self.vector[entry.part]
            if tensor is None or tensor.data_ptr() != place.data_ptr():
                return f"{entry.name}: a pass put another tensor in its place: change it by {entry.name}.copy_(...)"
            if entry.role == "buffer":
                continue
            if tensor.grad is None or tensor.grad.data_ptr() != self.gradient[entry.part].data_ptr():
                return f"{entry.name}: a pass removed its gradient: torch.autograd.grad leaves it alone"
        if before is not None and selected is not None:
            strayed = (self.weights != before).index_fill_(0, selected, False)
            if strayed.any():
                name = self.layer_names[int(self.layer_of_weight()[strayed][0])]
                return f"{name}: a pass in training changed it: leave that to the optimizer"
        return None

    def zero_grad(self) -> None:
        """Set all gradients to zero: one memset."""
        self.gradient.zero_()

    def snapshot(self) -> Tensor:
        """Return a copy of the whole network, (I+J+B,)."""
        return self.vector.clone()

    def load(self, vector: Tensor) -> None:
        """Set the whole network to `vector` (I+J+B,)."""
        self.vector.copy_(vector)


def sha256(vector: Tensor) -> str:
    """Return the SHA-256 of a tensor's little-endian bytes, to compare runs and processes."""
    array = vector.detach().cpu().numpy()
    return hashlib.sha256(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()).hexdigest()
