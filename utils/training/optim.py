"""torch.optim on flat vectors: on all weights, or on the selected ones alone.

An optimizer that works on the selected weights as one compact vector does exactly what a dense one with a
mask does, at the cost of what it updates: its state is proportional to k*I, not to I.
"""

import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from utils.flat import FlatParameters
from utils.training.linear import WeightGradients
from utils.training.recipes import Recipe


class FlatOptimizer:
    """A torch.optim optimizer over the weights of `flat` (all, or those `selected`) and all of the rest.

    selected  (S,) int64 ascending, or None for all weights
    carried   the optimizer of the step before, over all weights or over a selection that includes this one: the
              state of the selected weights and of the rest goes on from it (in the paper, too,
              fine-tuning continues the first step)

    .weights   what it updates, (S,) or (I,); their `.grad` is the loss's gradient
    """

    def __init__(
        self, flat: FlatParameters, recipe: Recipe, selected: Tensor | None = None,
        carried: "FlatOptimizer | None" = None,
    ):  # fmt: skip
        self.flat = flat
        self.recipe = recipe
        self.selected = selected
        if selected is None:
            self.weights = flat.weights.detach()
            self.weights.grad = flat.weight_grad
        else:
            self.weights = flat.weights[selected]
            self.weights.grad = torch.zeros_like(self.weights)
        self.gradients = WeightGradients(flat, selected, self.weights.grad)
        self._rest = flat.rest.detach()
        self._rest.grad = flat.rest_grad
        self._optimizer = _build(recipe, [self.weights, self._rest])
        self._step = torch.no_grad()(inspect.unwrap(type(self._optimizer).step))  # see _leave_compiler_out
        if carried is not None:
            self._take_over(carried)

    def set_epoch(self, epoch: int) -> None:
        """Set the learning rate of `epoch`, counted from 0 in each step."""
        lr = self.recipe.learning_rate(epoch)
        for group in self._optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def step(self, direct: bool = False, sum_: Callable[..., None] | None = None) -> None:
        """Update the network from the gradients in `flat`, which stay as they are.

        direct  the backward pass was one within `self.gradients.direct()`
        sum_    called with the gradients that count, before they are used, to sum them over processes in place
        """
        if self.selected is not None:
            self.gradients.gather(everything=not direct)
        if sum_ is not None:
            sum_(*((self.flat.gradient,) if self.selected is None else (self.weights.grad, self._rest.grad)))
        self._step(self._optimizer)
        if self.selected is not None:
            self.flat.weights.index_copy_(0, self.selected, self.weights)

    def state_dict(self) -> dict:
        """Return the optimizer's state: tensors and plain values only."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state of `state_dict`; the weights are taken from `flat` as it is now."""
        self._optimizer.load_state_dict(state)
        if self.selected is not None:
            torch.index_select(self.flat.weights, 0, self.selected, out=self.weights)

    def _take_over(self, carried: "FlatOptimizer") -> None:
        source, kept = carried._optimizer.state, self.selected
        if carried.selected is not None and kept is not None:
            kept = torch.searchsorted(carried.selected, kept)  # where they are in the earlier selection
        for name, value in source[carried.weights].items() if self.weights.numel() else ():
            dense = value.shape == carried.weights.shape  # else the step count, the same for all weights
            self._optimizer.state[self.weights][name] = value[kept] if dense else value.clone()
        for name, value in source[carried._rest].items():
            self._optimizer.state[self._rest][name] = value.clone()


def _leave_compiler_out() -> None:
    """Keep torch.optim from importing torch's compiler, which takes longer than importing torch itself.

    These methods import it only to exempt themselves from compilation, and nothing here is compiled. `step` imports
    it, too, in what is wrapped around it.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict"):
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None:
            plain.__dynamo_disable = plain


_leave_compiler_out()


def _build(recipe: Recipe, vectors: list[Tensor]) -> torch.optim.Optimizer:
    device = vectors[0].device
    vectors = [vector for vector in vectors if vector.numel() > 0] or vectors[:1]
    options = {"fused": device.type in ("cpu", "cuda"), "weight_decay": recipe.weight_decay, "lr": recipe.lr}
    if device.type == "cuda":  # a CUDA graph would keep a plain number as it was recorded
        options["lr"] = torch.tensor(recipe.lr, device=device)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(vectors, capturable=device.type == "cuda", **options)
    return torch.optim.SGD(vectors, momentum=recipe.momentum, nesterov=recipe.momentum > 0, **options)
