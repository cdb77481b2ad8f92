"""The encoder's side of the position model: choose the effect weights that suit a layer.

Only the encoder runs this; what it chooses travels in the message. So it may use floating point freely.
"""

from __future__ import annotations

import numpy as np

from utils.message.position_model import (
    CLASSES,
    DEFAULT_WEIGHTS,
    NUM_EFFECTS,
    WEIGHT_ONE,
    LayerState,
    make_pass,
)  # fmt: skip
from utils.message.streams import LOGIT_MAX, LOGIT_ONE, PROBABILITIES

SAMPLE = 1000  # selected, and unselected, weights that the fit looks at
PRIOR_PRECISION = 8.0
_ENDS = (1, 2, 4, 7, 12, 22, 37, 64)  # the fit walks in fewer passes than the coder
_COSTS = -np.log2(PROBABILITIES / 2.0**24)


def code_length(logits: np.ndarray, bits: np.ndarray) -> float:
    """Bits that coding takes."""
    return float(_COSTS[np.clip(logits, -LOGIT_MAX, LOGIT_MAX) + LOGIT_MAX, bits.astype(np.intp)].sum())


def fit_effect_weights(state: LayerState, mask: np.ndarray) -> tuple[np.ndarray, float]:
    """Logistic regression of the layer's mask on the effects, by Newton steps; rounded to signed sixteenths.

    Also returns how many bits they are likely to save against the default weights.
    """
    effects, bits, importance = _sample_effects(state, mask)
    prior = DEFAULT_WEIGHTS / WEIGHT_ONE
    weights, best, step, losses = prior.copy(), np.inf, np.zeros(NUM_EFFECTS), []
    for _ in range(10):
        trial = weights + step
        logits = (state.level / LOGIT_ONE + effects @ trial) * np.log(2)
        penalty = PRIOR_PRECISION / 2 * np.sum((trial - prior) ** 2)
        loss = importance @ (np.logaddexp(0, logits) - bits * logits) + penalty
        if loss >= best:  # overshot
            step /= 4
            continue
        weights, best = trial, loss
        losses.append(loss - penalty)
        p = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
        slope = np.log(2) * effects
        gradient = slope.T @ (importance * (bits - p)) - PRIOR_PRECISION * (weights - prior)
        curvature = (slope * (importance * p * (1 - p))[:, None]).T @ slope + PRIOR_PRECISION * np.eye(
            NUM_EFFECTS
        )
        step = np.linalg.solve(curvature, gradient)
        if np.abs(step).max() < 0.03:
            break
    rounded = np.clip(np.round(weights * WEIGHT_ONE), -128, 127).astype(np.int64)
    return rounded, (losses[0] - losses[-1]) / np.log(2)


def _sample_effects(state: LayerState, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effects (m, 7) at sampled weights as the coder will see them, their bits, and what each stands for."""
    width, generator = state.geometry.width, np.random.RandomState(0)
    ones = np.flatnonzero(mask)
    zeros = generator.randint(0, state.size, 2 * SAMPLE)
    if state.deployed is not None:
        zeros = state.deployed.flat[zeros]
    zeros = zeros[~mask[zeros]]
    some = ones if len(ones) <= SAMPLE else ones[:: -(-len(ones) // SAMPLE)]
    flat = np.concatenate([some, zeros])
    sizes = [len(some), len(zeros)]
    importance = np.repeat([len(ones) / len(some), (state.size - len(ones)) / max(len(zeros), 1)], sizes)
    bits = np.repeat([1.0, 0.0], sizes)

    def pass_of(i):
        return np.searchsorted(_ENDS, (23 * (i % width) + 37 * (i // width)) % CLASSES, side="right")

    ones_pass, flat_pass = pass_of(ones), pass_of(flat)
    changed_share = 0
    if state.changed is not None:
        changed_share = (state.changed if state.deployed is None else state.changed[state.deployed.mask]).mean()
    effects = np.zeros((len(flat), NUM_EFFECTS))
    for number, start in enumerate((0,) + _ENDS[:-1]):
        here = flat_pass == number
        p = make_pass(state.geometry, start, flat[here] // width, flat[here] % width, state.deployed)
        for effect, (values, which) in state.effects(p).items():
            effects[here, effect] = values[which]
        seen = ones[ones_pass == number]
        state.learn(
            make_pass(state.geometry, start, seen // width, seen % width), np.ones(len(seen), dtype=bool)
        )
        state.changed_seen[:] = (
            np.array([1 - changed_share, changed_share]) * state.size * _ENDS[number] / CLASSES
        )
    effects /= LOGIT_ONE
    effects[:, 0] = 1
    return effects, bits, importance
