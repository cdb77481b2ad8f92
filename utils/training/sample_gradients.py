"""Gradients of single samples at one point, summed up without ever being held for all samples.

BatchNorm is in eval mode: in training mode each sample's loss depends on the whole batch, and a sample has no
gradient of its own. Its statistics are those of the samples at this point, measured first: at the initial
weights, which rounds start from, the running ones are mean 0 and variance 1 and describe no network.

Samples come as they are stored, un-augmented, in the order of arrival; nothing random is drawn. All is computed
in float32: sums of squares cannot cancel, and rounding errors of some thousand additions are below what
training's own rounding does to a ranking.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from data.batches import Batch, BatchSource
from utils.flat import FlatParameters

# Numbers that a convolution's gradients of single samples may take at once: 64 MiB, and twice that to make them.
AT_ONCE = 2**24


class SampleGradients:
    """Gradients of the cross-entropy at the network in `flat`, over the `samples` (indices) of `batches`.

    It leaves weights and gradients as they are, and BatchNorm's statistics as it measured them.
    on_batch  called after each batch
    foreign   the network is none of ours, nothing is known of its layers: each sample goes through it alone
    """

    def __init__(
        self,
        flat: FlatParameters,
        batches: BatchSource,
        samples: Tensor,
        on_batch: Callable[[], None] = lambda: None,
        foreign: bool = False,
    ):
        self.flat, self.batches, self.samples, self.on_batch = flat, batches, samples, on_batch
        self._foreign = foreign
        self._measure_statistics()

    def mean(self) -> Tensor:
        """Return the gradient of the mean loss, (I,)."""
        self.flat.zero_grad()
        for images, labels in self._in_order():
            self._loss(images, labels).backward()
        mean = self.flat.weight_grad / self.samples.numel()
        self.flat.zero_grad()
        return mean

    def sum_of_squares(self) -> Tensor:
        """Return the sum over samples of each sample's squared gradient, (I,).

        Raises ValueError if a weight belongs to another layer than nn.Linear and nn.Conv2d.
        """
        total = torch.zeros_like(self.flat.weights)
        if self._foreign:
            return self._sum_one_by_one(total)
        with self._squares_into(total):
            for images, labels in self._in_order():
                # The way back to the images passes every layer, and leaves out the gradients of its parameters.
                torch.autograd.grad(self._loss(images.requires_grad_(), labels), images)
        return total

    def _sum_one_by_one(self, total: Tensor) -> Tensor:
        for images, labels in self._in_order():
            for image, label in zip(images.split(1), labels.split(1), strict=True):
                self.flat.zero_grad()
                self._loss(image, label).backward()
                total.addcmul_(self.flat.weight_grad, self.flat.weight_grad)
        self.flat.zero_grad()
        return total

    def _in_order(self) -> Iterator[Batch]:
        for batch in self.batches.in_order(self.samples):
            yield batch
            self.on_batch()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(self.flat.model(images), labels, reduction="sum")

    def _measure_statistics(self) -> None:
        model, seen = self.flat.model, 0
        norms = {module: module.momentum for module in model.modules() if isinstance(module, _BatchNorm)}
        model.eval()  # nothing else may do what it does in training, as dropout would
        for norm in norms:
            norm.train()
        with torch.no_grad():
            for images, labels in self._in_order() if norms else ():
                if len(labels) == 1:  # no variance; only the last batch can be that small
                    continue
                seen += len(labels)
                for norm in norms:
                    norm.momentum = len(labels) / seen  # the running mean of all batches so far
                model(images)
        for norm, momentum in norms.items():
            norm.momentum = momentum
        model.eval()

    @contextmanager
    def _squares_into(self, total: Tensor) -> Iterator[None]:
        """Within, a backward pass through a layer adds its samples' squared weight gradients to `total`."""
        modules = {f"{name}.weight": module for name, module in self.flat.model.named_modules()}
        with ExitStack() as hooks:
            for layer in self.flat.schema.layers:
                module = modules.get(layer.name)
                if type(module) not in _SQUARES:
                    raise ValueError(f"{layer.name}: gradients of single samples are there for Linear and Conv2d")
                place = total[layer.part].view(layer.shape)
                hooks.enter_context(module.register_forward_hook(_adder(_SQUARES[type(module)], place)))
            yield


def _adder(add_squares: Callable, place: Tensor) -> Callable:
    def forward_hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        # A tensor's hook sees the gradient of what it is now, whatever an in-place ReLU makes of it later.
        output.register_hook(lambda grad: add_squares(module, inputs[0].detach(), grad, place))

    return forward_hook


def _add_linear(module: nn.Linear, x: Tensor, grad: Tensor, place: Tensor) -> None:
    """Add sum_n (grad_nr x_nc)**2, which is a matrix product of squares: `x` (N,C), `grad` (N,R), `place` (R,C)."""
    place.addmm_(grad.square().t(), x.square())


def _add_conv2d(module: nn.Conv2d, x: Tensor, grad: Tensor, place: Tensor) -> None:
    """Add each sample's squared gradient, a product of output gradients and patches of `x`, chunk by chunk."""
    groups, pixels = module.groups, grad.shape[2] * grad.shape[3]
    patch = x.shape[1] * module.kernel_size[0] * module.kernel_size[1]
    chunk = max(1, AT_ONCE // max(place.numel(), patch * pixels))
    for some_x, some_grad in zip(x.split(chunk), grad.split(chunk), strict=True):
        patches = F.unfold(some_x, module.kernel_size, module.dilation, module.padding, module.stride)
        patches = patches.view(len(some_x), groups, patch // groups, pixels)
        some_grad = some_grad.reshape(len(some_x), groups, -1, pixels)
        place += (some_grad @ patches.transpose(2, 3)).square_().sum(0).view(place.shape)


_SQUARES = {nn.Linear: _add_linear, nn.Conv2d: _add_conv2d}
