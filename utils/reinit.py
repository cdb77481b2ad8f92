"""When a round starts again, and from what: as in the paper, and strategies beyond it. Needs no torch.

    doubling        from the initial weights, when the samples have more than doubled (the paper)
    never
    every           from the initial weights, every so many rounds
    shrink_perturb  on the paper's condition, from the last network shrunk and perturbed

A round that starts again and then sends nothing does not count: the next one tries again.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

STRATEGIES = ("doubling", "never", "every", "shrink_perturb")
# The parameters of the strategies that have some, and their defaults.
PARAMETERS = {"every": {"reinit_every": 1}, "shrink_perturb": {"shrink": 0.4, "perturb": 0.1}}


@dataclass(frozen=True)
class Reinit:
    """A strategy with its parameters; those of others are None."""

    reinit_strategy: str
    reinit_every: int | None = None  # rounds
    shrink: float | None = None
    perturb: float | None = None

    def is_due(self, num_samples: int, num_samples_at_last_init: int, rounds_since: int) -> bool:
        """Return True if a round with `num_samples` samples, `rounds_since` the last start, starts again."""
        if self.reinit_strategy == "every":
            return rounds_since >= self.reinit_every
        return self.reinit_strategy != "never" and should_reinitialize(num_samples, num_samples_at_last_init)

    @property
    def factors(self) -> tuple[float, float] | None:
        """Shrink and perturb; None for a start from the initial weights."""
        return (self.shrink, self.perturb) if self.reinit_strategy == "shrink_perturb" else None


def choose(flags: dict[str, Any]) -> Reinit:
    """Return what a command's `flags` say, None where one was not given; takes out those that stand for others.

    Raises ValueError, in one line, for flags that contradict each other or that the strategy ignores.
    """
    strategy = flags.get("reinit_strategy")
    default = "doubling" if "without_reinit" in flags else "never"
    for short, meant in (("without_reinit", "never"), ("reinit", "doubling")):
        if flags.pop(short, False):
            if strategy not in (None, meant):
                meaning = f"--{short} means --reinit_strategy {meant}"
                raise ValueError(f"{meaning}, but --reinit_strategy is {strategy}: leave one out")
            default = meant
    reinit = Reinit(strategy or default)
    for user, defaults in PARAMETERS.items():
        for name, value in defaults.items():
            given = flags.get(name)
            if user == reinit.reinit_strategy:
                reinit = replace(reinit, **{name: value if given is None else given})
            elif given is not None:
                instead = f"not {reinit.reinit_strategy}: leave it out"
                raise ValueError(f"--{name} is for --reinit_strategy {user}, {instead}")
    if reinit.factors is not None and not any(map(np.float32, reinit.factors)):
        raise ValueError("--shrink and --perturb are 0, which leaves a network of zeros: raise one")
    return reinit


def should_reinitialize(num_samples: int, num_samples_at_last_init: int) -> bool:
    """Return True if the samples have more than doubled since the last (re-)initialization."""
    return num_samples > 2 * num_samples_at_last_init
