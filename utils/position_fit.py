"""The encoder's side of the position model: choose the effect weights that suit a layer.

Only the encoder runs this; what it chooses travels in the message. So it may use floating point freely.
"""

from __future__ import annotations

import numpy as np

from utils.entropy_coding import LOGIT_MAX, LOGIT_ONE, PROBABILITIES
from utils.position_model import CLASSES, DEFAULT_WEIGHTS, NUM_EFFECTS, PASS_ENDS, WEIGHT_ONE, LayerWalk

SAMPLE = 2000  # selected, and unselected, weights that the fit looks at
PRIOR_PRECISION = 8.0
_COSTS = -np.log2(PROBABILITIES / 2.0**24)


def code_length(logits: np.ndarray, bits: np.ndarray) -> float:
    """Bits that coding takes."""
    return float(_COSTS[np.clip(logits, -LOGIT_MAX, LOGIT_MAX) + LOGIT_MAX, bits.astype(np.intp)].sum())


def fit_effect_weights(walk: LayerWalk, mask: np.ndarray) -> tuple[np.ndarray, float]:
    """Logistic regression of the layer's mask on the effects, by Newton steps; rounded to signed sixteenths.

    Also returns how many bits they are likely to save against the default weights.
    """
    effects, bits, importance = _sample_effects(walk, mask)
    prior = DEFAULT_WEIGHTS / WEIGHT_ONE
    weights, best, step, losses = prior.copy(), np.inf, np.zeros(NUM_EFFECTS), []
    for _ in range(10):
        trial = weights + step
        logits = (walk.level / LOGIT_ONE + effects @ trial) * np.log(2)
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
        curvature = (slope * (importance * p * (1 - p))[:, None]).T @ slope + PRIOR_PRECISION * np.eye(NUM_EFFECTS)
        step = np.linalg.solve(curvature, gradient)
        if np.abs(step).max() < 0.03:
            break
    rounded = np.clip(np.round(weights * WEIGHT_ONE), -128, 127).astype(np.int64)
    return rounded, (losses[0] - losses[-1]) / np.log(2)


def _sample_effects(walk: LayerWalk, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Effects (m, 7) at sampled weights as the coder will see them, their bits, and what each stands for."""
    width, generator = walk.geometry.width, np.random.RandomState(0)
    ones = np.flatnonzero(mask)
    zeros = generator.randint(0, mask.size, 2 * SAMPLE)
    zeros = zeros[~mask[zeros]]
    some = ones if len(ones) <= SAMPLE else ones[:: -(-len(ones) // SAMPLE)]
    flat = np.concatenate([some, zeros])
    sizes = [len(some), len(zeros)]
    importance = np.repeat([len(ones) / len(some), (mask.size - len(ones)) / max(len(zeros), 1)], sizes)
    bits = np.repeat([1.0, 0.0], sizes)

    def pass_of(i):
        return np.searchsorted(PASS_ENDS, (23 * (i % width) + 37 * (i // width)) % CLASSES, side="right")

    ones_pass, flat_pass = pass_of(ones), pass_of(flat)
    num_changed = 0 if walk.changed is None else int(walk.changed.sum())
    effects = np.zeros((len(flat), NUM_EFFECTS))
    for number, end in enumerate((0,) + PASS_ENDS[:-1]):
        here = flat_pass == number
        row, j = flat[here] // width, flat[here] % width
        column = walk.j_column[j]
        indices = [row, column, row * walk.geometry.columns + column, walk.j_kernel[j], column, None]
        indices[5] = 0 * row if walk.changed is None else walk.changed[flat[here]].astype(np.intp)
        for k, (effect, index) in enumerate(zip(walk.effects(end), indices)):
            effects[here, k + 1] = effect[index] if len(effect) > 1 else 0
        seen = ones[ones_pass == number]
        walk.learn(seen // width, seen % width, np.ones(len(seen), dtype=bool))
        done = PASS_ENDS[number] / CLASSES
        walk.seen_changed[:] = ((walk.size - num_changed) * done, num_changed * done)
    effects /= LOGIT_ONE
    effects[:, 0] = 1
    return effects, bits, importance
