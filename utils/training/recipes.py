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

    @property
    def schedule(self) -> str:
        return "cosine" if self.step_factor is None else "step"

    def in_words(self) -> str:
        """Return optimizer, learning rate and schedule in a few words."""
        every = max(1, self.num_epochs // 3)
        span = f"{every} epochs" if every > 1 else "epoch"
        how = "cosine to 0" if self.step_factor is None else f"x{self.step_factor:g} every {span}"
        decay = f", weight decay {self.weight_decay:g}" if self.weight_decay else ""
        return f"{self.optimizer}, learning rate {self.lr:g}, {how}{decay}"

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate in `epoch`, counted from 0."""
        if self.step_factor is None:
            return self.lr * 0.5 * (1.0 + math.cos(math.pi * epoch / self.num_epochs))
        return self.lr * self.step_factor ** (epoch // max(1, self.num_epochs // 3))


_ADAM = {"optimizer": "adam", "lr": 5e-3}
_SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 1e-4, "step_factor": None}

# Model -> settings, epochs in two steps (DPU, ways to prune: each step) and in one (FU, RPU), updating ratio.
DEFAULTS = {
    "mlp": ({**_ADAM, "step_factor": 0.1}, 30, 60, 0.005),
    "vgg": ({**_ADAM, "step_factor": 0.2}, 30, 60, 0.01),
    "resnet56": ({**_SGD, "lr": 0.1}, 100, 100, 0.1),
    "mobilenetv1": ({**_SGD, "lr": 0.5}, 150, 150, 0.01),
}
OPTIMIZERS, SCHEDULES = ("adam", "sgd"), ("step", "cosine")


def defaults_of(model: str) -> tuple[dict, int, int, float]:
    """Return the entry of `model` in DEFAULTS; a network that is not ours is trained as vgg is."""
    return DEFAULTS.get(model, DEFAULTS["vgg"])


def overrides_of(
    model: str, optimizer: str | None, schedule: str | None, weight_decay: float | None
) -> dict[str, str | float | None]:
    """Return which of these differ from the recipe of `model`; None for those that do not, or are not given."""
    usual = Recipe(**defaults_of(model)[0], num_epochs=1)
    given = {"optimizer": optimizer, "schedule": schedule, "weight_decay": weight_decay}
    return {name: None if value == getattr(usual, name) else value for name, value in given.items()}


def recipe_for(
    model: str, two_steps: bool, lr: float | None = None, num_epochs: int | None = None,
    optimizer: str | None = None, schedule: str | None = None, weight_decay: float | None = None,
) -> Recipe:  # fmt: skip
    """Return the paper's recipe for `model`, changed where an argument is not None.

    Another optimizer than the recipe's brings its momentum, a stepped schedule its factor, 0.1.
    """
    settings, epochs_of_two, epochs_of_one, _ = defaults_of(model)
    settings = {**settings, "num_epochs": epochs_of_two if two_steps else epochs_of_one}
    overrides = {"lr": lr, "num_epochs": num_epochs, "weight_decay": weight_decay, "optimizer": optimizer}
    settings |= {name: value for name, value in overrides.items() if value is not None}
    if optimizer not in (None, defaults_of(model)[0]["optimizer"]):
        settings["momentum"] = 0.9 if optimizer == "sgd" else 0.0
    if schedule is not None:
        settings["step_factor"] = (settings["step_factor"] or 0.1) if schedule == "step" else None
    return Recipe(**settings)
