"""New values of weights, biases and BatchNorm entries, given the old ones: lossless, bfloat16, or quantised.

`draft_values` makes the coded form on the server and says what it decodes to; `code_values` passes it through a coder.
Below 32 bits the *change* is coded, so that a value that hardly moves costs little, and so that the loop is closed:
what rounding left out of one update is part of the next one's change. BatchNorm statistics are the exception at 16
bits, where their bfloat16 is that of the value itself; with fewer bits the change of a variance is that of its
logarithm, so that it does not become negative by rounding. See docs/update_format.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from utils.message.levels import Sites, code_levels
from utils.message.numbers import code_bfloat16, code_floats, from_bfloat16, to_bfloat16
from utils.message.streams import StreamWriter, UpdateFormatError

VALUE_BITS = (32, 16, 8, 6, 5, 4)
MIN_STATISTICS_BITS = 8
_CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.25)  # shares of the largest change; a few outliers may be cut
_LARGEST = 0x7F7FFFFF  # the bits of the largest float32
_SMALLEST = np.float32(2.0**-126)  # normal
_STEP_BITS = 15  # a bfloat16 without its sign
_STEP_SAMPLE = 1 << 16  # changes of a tensor by which its step is chosen


def fewest_bits(value_bits: int | str) -> int:
    """Return how many bits a value has at least, where `value_bits` may be "auto"."""
    return min(VALUE_BITS) if value_bits == "auto" else value_bits


@dataclass
class Place:
    """What both sides know of the values in a section.

    old       float32
    sites     where each is; those of a tensor share a quantisation step
    variance  which of BatchNorm's running statistics are variances, (len(old),) bool; None: these are no statistics
    """

    old: np.ndarray
    sites: Sites
    variance: np.ndarray | None = None


@dataclass
class CodedValues:
    """float32 values, or bfloat16 numbers, or levels; with the bfloat16 steps of the tensors' levels."""

    numbers: np.ndarray
    steps: np.ndarray | None = None


def draft_values(bits: int, place: Place, new: np.ndarray) -> tuple[CodedValues, np.ndarray]:
    """Return the coded form of `new`, and what it decodes to. Raises ValueError if a change overflows float32."""
    if bits == 32:
        return CodedValues(new), new
    with np.errstate(over="ignore"):
        change = new if place.variance is not None and bits == 16 else new - place.old
    if place.variance is not None and bits < 16:
        change[place.variance] = (_log2_bits(new) - _log2_bits(place.old))[place.variance]
    if not np.isfinite(change).all():
        raise ValueError("a change is too large for float32")
    if bits == 16:
        coded = CodedValues(to_bfloat16(change))
    else:
        levels, of_tensor = _levels(bits), place.sites.tensor
        steps = np.zeros(len(place.sites.geometries), dtype=np.int64)
        numbers = np.zeros(len(new), dtype=np.int64)
        ends = np.searchsorted(of_tensor, np.arange(len(steps) + 1))  # values come tensor by tensor
        for tensor in np.flatnonzero(np.diff(ends)):
            inside = slice(ends[tensor], ends[tensor + 1])
            steps[tensor] = choose_step(change[inside], levels)
            numbers[inside] = quantise(change[inside], steps[tensor], levels)
        coded = CodedValues(numbers, steps)
    return coded, _decoded(bits, place, coded)


def code_values(coder: StreamWriter, bits: int, place: Place, coded: CodedValues | None) -> np.ndarray:
    """Pass values through `coder`; return what they decode to."""
    numbers = None if coded is None else coded.numbers
    if bits == 32:
        return code_floats(coder, place.sites.group, place.old, numbers)
    if bits == 16:
        return _decoded(bits, place, CodedValues(code_bfloat16(coder, place.sites.group, place.old, numbers)))
    steps = np.zeros(len(place.sites.geometries), dtype=np.int64)
    present = np.flatnonzero(np.bincount(place.sites.tensor))
    given = None if coded is None else coded.steps[present]
    steps[present] = coder.raw(np.full(len(present), _STEP_BITS), given)
    if (steps >= 0x7F80).any():
        raise UpdateFormatError("a quantisation step is not finite")
    numbers = code_levels(coder, place.sites, place.old, _levels(bits), numbers)
    return _decoded(bits, place, CodedValues(numbers, steps))


def choose_step(change: np.ndarray, levels: int) -> int:
    """Return the bfloat16 step that quantises a tensor's change to -levels..levels with the least squared error."""
    largest = float(np.abs(change).max(initial=0))
    change = change[:: 1 + len(change) // _STEP_SAMPLE]
    candidates = to_bfloat16(np.array(_CLIPS, dtype=np.float32) * np.float32(largest / levels))
    steps = np.maximum(from_bfloat16(candidates), _SMALLEST).astype(np.float64)[:, None]
    errors = np.clip(np.rint(change / steps), -levels, levels) * steps - change
    return int(candidates[np.argmin(np.sum(errors**2, axis=1))])


def quantise(change: np.ndarray, step: int, levels: int) -> np.ndarray:
    """Return the nearest multiples of a bfloat16 step, -levels..levels; all zero when the step is."""
    if step == 0:
        return np.zeros(len(change), dtype=np.int64)
    return np.clip(np.rint(change / np.float64(from_bfloat16(np.int64(step)))), -levels, levels).astype(np.int64)


def _decoded(bits: int, place: Place, coded: CodedValues) -> np.ndarray:
    """Return what both sides make of coded values; in float32, each operation rounded by itself."""
    if bits == 16:
        values = from_bfloat16(coded.numbers)
        return values if place.variance is not None else place.old + values
    steps = from_bfloat16(coded.steps)[place.sites.tensor]
    values = place.old + coded.numbers.astype(np.float32) * steps
    if place.variance is not None:
        some = place.variance
        moved = _log2_bits(place.old[some]) + coded.numbers[some] * np.minimum(steps[some], _LARGEST).astype(np.int64)
        values[some] = np.clip(moved, 0, _LARGEST).astype(np.int32).view(np.float32)
    return values


def _log2_bits(x: np.ndarray) -> np.ndarray:
    """Return the bits of float32 values as integers, 0 for negative ones: 2^23 times their log2, nearly, plus 127."""
    return np.maximum(x.view(np.int32).astype(np.int64), 0)


def _levels(bits: int) -> int:
    return (1 << bits - 1) - 1
