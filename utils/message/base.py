"""What server and edge both know before a message, and the network that a message builds on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.schema import Schema


@dataclass(frozen=True)
class Base:
    """Which network a message builds on: the node's line, unless one of these is set.

    reinitialize    the initial network
    shrink_perturb  the line and the initial network, mixed by these two factors: see `shrink_and_perturb`
    Raises ValueError for a factor outside [0, 1], or both at once.
    """

    reinitialize: bool = False
    shrink_perturb: tuple[float, float] | None = None

    def __post_init__(self):
        factors = self.shrink_perturb
        if factors is not None and (self.reinitialize or not all(0 <= factor <= 1 for factor in factors)):
            raise ValueError(f"shrink and perturb {factors}: from 0 to 1, and not on the initial state")


@dataclass(frozen=True)
class Shared:
    """What server and edge both know before a message, and which therefore never travels in one.

    schema    the layout of a network state; states are float32 (schema.size,)
    initial   the state that the node was shipped with, all its weights
    line      the state that the last message led to; before the first, the initial one
    deployed  (I,) bool, the weights of a sparse network; None: all weights
    run       names the run whose messages these are: signatures hold for it alone
    """

    schema: Schema
    initial: np.ndarray
    line: np.ndarray
    deployed: np.ndarray | None = None
    run: str = ""

    @property
    def initial_deployed(self) -> np.ndarray:
        """The initial state as the node's network has it, with +0.0 for weights that are not deployed."""
        return pruned(self.initial, self.deployed)

    def state(self, base: Base) -> np.ndarray:
        """Return the state that a message with this base builds on."""
        if base.reinitialize:
            return self.initial_deployed
        if base.shrink_perturb is None:
            return self.line
        return shrink_and_perturb(self.line, self.initial_deployed, base.shrink_perturb, self.schema.num_buffers)


def pruned(state: np.ndarray, deployed: np.ndarray | None) -> np.ndarray:
    """Return a state with +0.0 for each weight that is not in `deployed` (I,) bool; None: all weights are."""
    if deployed is None:
        return state
    state = state.copy()
    state[: len(deployed)][~deployed] = 0
    return state


def shrink_and_perturb(
    line: np.ndarray, initial: np.ndarray, factors: tuple[float, float], num_buffers: int
) -> np.ndarray:
    """Return `shrink * line + perturb * initial`, float32, the same bits on server and edge.

    Ash and Adams, "On Warm-Starting Neural Network Training", NeurIPS 2020, who perturb with fresh random weights;
    the initial ones, which both sides hold, cost no bytes. Weights, biases and BatchNorm scale and shift are mixed
    alike. The last `num_buffers` values, BatchNorm's running statistics, stay those of `line`: they are measured,
    not trained, no mixture describes the mixed network, and training measures them anew within an epoch.
    """
    shrink, perturb = map(np.float32, factors)
    mixed = shrink * line + perturb * initial  # three float32 operations, each rounded by itself
    kept = len(line) - num_buffers
    mixed[kept:] = line[kept:]
    return mixed
