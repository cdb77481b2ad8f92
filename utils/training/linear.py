"""Fully connected layers on a CPU: their matrix products, and their gradients written where they are needed.

PyTorch multiplies float32 matrices by MKL and computes convolutions by oneDNN. On AMD's processors with AVX-512
MKL reaches about half of what oneDNN does (`python -m benchmarks.overheads products`); there fully connected layers
use oneDNN, elsewhere MKL stays.

Autograd would allocate the gradient of each weight matrix and add it to the flat vector. Here the matrix product
goes straight into the vector; and where few of a layer's weights may change, only their gradients are computed:
for weight (r, c) that is the sum over the batch of output gradient r times input c.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.flat import FlatParameters
from utils.training.device import cpu_facts

AT_ONCE = 2**20  # numbers of a product that are held before they are written: memory that is in use anyway
# A sampled gradient moves 2 numbers for each product, a dense one hardly any: below this share it is faster.
SAMPLED_BELOW = 0.04


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a b^T + bias, (M, N), of `a` (M, K), `b` (N, K), either of them perhaps transposed, and `bias` (N,).

    No gradient flows through it.
    """
    if _by_onednn(a):
        return _onednn_linear(a, b, bias)
    return F.linear(a, b, bias)


def product_into(place: Tensor, a: Tensor, b: Tensor) -> None:
    """Write a b^T, of `a` (M, K) and `b` (N, K), into `place` (M, N), float32."""
    if _by_onednn(a):
        rows = max(1, AT_ONCE // max(1, place.shape[1]))
        for part, some in zip(place.split(rows), a.split(rows), strict=True):
            part.copy_(product(some, b))
    elif a.dtype == place.dtype:
        torch.mm(a, b.t(), out=place)
    else:
        place.copy_(torch.mm(a, b.t()))


def _by_onednn(a: Tensor) -> bool:
    return a.device.type == "cpu" and a.dtype == torch.float32 and by_onednn()


@contextmanager
def replaced(forwards: dict[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Within, the modules compute by these functions."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


def by_product(model: nn.Module) -> dict[nn.Module, Callable[[Tensor], Tensor]]:
    """Return for `replaced` what computes the fully connected layers of `model` by `product`: for evaluation only."""
    layers = [module for module in model.modules() if type(module) is nn.Linear]
    return {layer: lambda x, layer=layer: product(x, layer.weight, layer.bias) for layer in layers}


@cache
def by_onednn() -> bool:
    """Return whether oneDNN multiplies here. A rule, no measurement: the same machine must give the same bytes."""
    amd = "AuthenticAMD" in cpu_facts()
    if not (amd and torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()):
        return False
    a = torch.arange(6.0).view(2, 3)
    try:  # the call that PyTorch's compiler makes is not documented: a version without it, or another, must not hurt
        return torch.equal(_onednn_linear(a, a, torch.ones(2)), torch.tensor([[6.0, 15.0], [15.0, 51.0]]))
    except (AttributeError, RuntimeError, TypeError):
        return False


def _onednn_linear(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")


class _Into(torch.autograd.Function):
    """A linear layer whose weight gradient goes into `place`: dense (out, in), or (S,) at rows and columns `where`.

    It computes in `dtype`, as autocast would, but `weight` is cast once for both directions; `place` is float32.
    """

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, x: Tensor, weight: Tensor, bias: Tensor | None, place: Tensor, where: tuple | None
    ) -> Tensor:
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
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
        _, needs_input, _, needs_bias, *_ = ctx.needs_input_grad
        to_input = product(grad, weight.t()) if needs_input else None
        return None, to_input, None, grad.sum(0) if needs_bias else None, None, None


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

    def direct(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Within, backward passes through fully connected layers write their weights' gradients directly.

        The layers compute in `dtype`, float32 or bfloat16. Each must be used once a pass.
        """
        return replaced({module: _forward(dtype, module, *goes) for module, goes in self._linear.items()})

    def gather(self, everything: bool) -> None:
        """Bring into `compact` what a backward pass left in the flat vector; `everything` if it was not `direct`."""
        parts = [slice(None)] if everything else self._gathered
        for part in parts:
            torch.index_select(self._flat.weight_grad, 0, self._selected[part], out=self._compact[part])

    def _place(self, layer, module: nn.Module | None, part: slice) -> None:
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


def _forward(dtype: torch.dtype, module: nn.Linear, place: Tensor, where: tuple | None):
    return lambda x: _Into.apply(dtype, x, module.weight, module.bias, place, where)
