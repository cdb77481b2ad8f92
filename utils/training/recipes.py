"""How each model is trained: optimizer, learning rate, schedule and epochs, as the paper states them."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """A way to train a network; `num_epochs` is the length E of one step, over which the schedule runs."""

    optimizer: str  # "adam" or "sgd" (Nesterov)
    lr: float
    num_epochs: int
    step_factor: float | None  # the learning rate times this every max(1, E // 3) epochs; None: cosine to 0
    momentum: float = 0.0
    weight_decay: float = 0.0

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate in `epoch`, counted from 0."""
        if self.step_factor is None:
            return self.lr * 0.5 * (1.0 + math.cos(math.pi * epoch / self.num_epochs))
        return self.lr * self.step_factor ** (epoch // max(1, self.num_epochs // 3))


_ADAM = {"optimizer": "adam", "lr": 5e-3}
_SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "step_factor": None}

# Model -> settings, epochs in two steps (DPU, pruning: each step) and in one (FU, RPU), updating ratio.
DEFAULTS = {
    "mlp": ({**_ADAM, "step_factor": 0.1}, 30, 60, 0.005),
    "vgg": ({**_ADAM, "step_factor": 0.2}, 30, 60, 0.01),
    "resnet56": ({**_SGD, "lr": 0.1}, 100, 100, 0.1),
    "mobilenetv1": ({**_SGD, "lr": 0.5}, 150, 150, 0.01),
}


def recipe_for(model: str, two_steps: bool, lr: float | None = None, num_epochs: int | None = None) -> Recipe:
    """Return the paper's recipe for `model`, with the given learning rate and epochs where they are not None."""
    settings, epochs_of_two, epochs_of_one, _ = DEFAULTS[model]
    settings = {**settings, "num_epochs": epochs_of_two if two_steps else epochs_of_one}
    overrides = {"lr": lr, "num_epochs": num_epochs}
    return Recipe(**{**settings, **{name: value for name, value in overrides.items() if value is not None}})
