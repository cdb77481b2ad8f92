"""The matrix product of fully connected layers on a CPU, by the faster of the two libraries that PyTorch brings.

PyTorch multiplies float32 matrices by MKL and computes convolutions by oneDNN. On AMD's processors with AVX-512
MKL reaches about half of what oneDNN does (`python -m benchmarks.overheads products`); elsewhere MKL stays.
"""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AT_ONCE = 2**20  # numbers of a product that are held before they are written: memory that is in use anyway


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a b^T + bias, (M, N), of `a` (M, K), `b` (N, K), either of them perhaps transposed, and `bias` (N,).

    No gradient flows through it.
    """
    if _by_onednn(a):
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return F.linear(a, b, bias)


def product_into(place: Tensor, a: Tensor, b: Tensor) -> None:
    """Write a b^T, of `a` (M, K) and `b` (N, K), into `place` (M, N), float32."""
    if _by_onednn(a):
        rows = max(1, AT_ONCE // max(1, place.shape[1]))
        for part, some in zip(place.split(rows), a.split(rows), strict=True):
            part.copy_(product(some, b))
    else:
        torch.mm(a, b.t(), out=place)


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
    return {module: partial(_linear, module) for module in model.modules() if type(module) is nn.Linear}


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    return product(x, module.weight, module.bias)


@cache
def by_onednn() -> bool:
    """Return whether oneDNN multiplies here. A rule, no measurement: the same machine must give the same bytes."""
    amd = "AuthenticAMD" in _processor()
    if not (amd and torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()):
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")  # PyTorch's compiler calls it so; it is not documented


def _processor() -> str:
    try:
        return Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return platform.processor()
