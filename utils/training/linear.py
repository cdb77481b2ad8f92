"""Gradients of fully connected layers, written where they are needed.

Autograd would allocate the gradient of each weight matrix and add it to the flat vector. Here the matrix product
goes straight into the vector; and where few of a layer's weights may change, only their gradients are computed:
for weight (r, c) that is the sum over the batch of output gradient r times input c.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from utils.flat import FlatParameters
from utils.schema import Entry
from utils.training.products import product, product_into, replaced

# A sampled gradient moves 2 numbers for each product, a dense one hardly any: below this share it is faster.
SAMPLED_BELOW = 0.04


class _Into(torch.autograd.Function):
    """A linear layer whose weight gradient goes into `place`: dense (out, in), or (S,) at rows and columns `where`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, place: Tensor, where: tuple | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.place, ctx.where = place, where
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        if ctx.where is None:
            product_into(ctx.place, grad.t(), x.t())
        else:
            rows, columns = ctx.where
            products = grad.t().contiguous().index_select(0, rows).mul_(x.t().contiguous().index_select(0, columns))
            torch.sum(products, 1, out=ctx.place)
        needs_input, _, needs_bias, *_ = ctx.needs_input_grad
        return product(grad, weight.t()) if needs_input else None, None, grad.sum(0) if needs_bias else None, None, None


class WeightGradients:
    """Where the gradients of the weights of `flat` go in a training step.

    Without `selected` into `flat.weight_grad`; else those at `selected` (S,), ascending, into `compact` (S,).
    """

    def __init__(self, flat: FlatParameters, selected: Tensor | None = None, compact: Tensor | None = None):
        self._flat, self._selected, self._compact = flat, selected, compact
        self._linear: dict[nn.Linear, tuple[Tensor, tuple | None]] = {}
        self._gathered: list[slice] = []  # parts of `selected` whose gradients autograd leaves in flat.weight_grad
        modules = {f"{name}.weight": module for name, module in flat.model.named_modules()}
        start = 0
        for layer in flat.schema.layers:
            end = start
            if selected is not None:
                end = int(torch.searchsorted(selected, layer.part.stop))
            self._place(layer, modules.get(layer.name), slice(start, end))
            start = end

    def direct(self) -> AbstractContextManager[None]:
        """Within, backward passes through fully connected layers write their weights' gradients directly.

        Each layer must be used once a pass, and float32 throughout.
        """
        return replaced({module: _forward(module, *goes) for module, goes in self._linear.items()})

    def gather(self, everything: bool) -> None:
        """Bring into `compact` what a backward pass left in the flat vector; `everything` if it was not `direct`."""
        parts = [slice(None)] if everything else self._gathered
        for part in parts:
            torch.index_select(self._flat.weight_grad, 0, self._selected[part], out=self._compact[part])

    def _place(self, layer: Entry, module: nn.Module | None, part: slice) -> None:
        count = part.stop - part.start
        linear = type(module) is nn.Linear
        if self._selected is not None and linear and count < SAMPLED_BELOW * layer.size:
            index = self._selected[part] - layer.start
            where = index // layer.shape[1], index % layer.shape[1]
            self._linear[module] = self._compact[part], where
            return
        if linear:
            place = self._flat.weight_grad[layer.part].view(layer.shape)
            self._linear[module] = place, None
        if self._gathered and self._gathered[-1].stop == part.start:
            part = slice(self._gathered.pop().start, part.stop)
        self._gathered.append(part)


def _forward(module: nn.Linear, place: Tensor, where: tuple | None):
    return lambda x: _Into.apply(x, module.weight, module.bias, place, where)
