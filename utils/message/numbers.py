"""How numbers are coded given old ones: float32 bit for bit, and bfloat16.

Each function passes numbers through a coder and returns them; the encoder gives them, the decoder gives None.
Contexts are a *group* (a layer, or a kind of parameter) and the magnitude of the old value.
See docs/update_format.md.
"""

from __future__ import annotations

import numpy as np

from utils.message.streams import StreamWriter, SymbolModel, UpdateFormatError

MAX_DELTA_CLASS = 20  # differences below 2^20 units in the last place may be coded as such
_EXPONENTS = 255  # 255 itself stands for infinities and NaN, which no network holds
_MAGNITUDES = 9
_BLOCK = 1 << 18  # values put together at a time


def _code_symbols(
    coder: StreamWriter, alphabet: int, groups: np.ndarray, old: np.ndarray, symbols: np.ndarray | None
) -> np.ndarray:
    """Pass through a number for each value, by its group and the old value's exponent, from 2^-10 to 2^-2."""
    coder.afford(len(old), alphabet)
    exponent = old.view(np.uint32).astype(np.int64) >> 23 & 255
    contexts = groups * _MAGNITUDES + np.clip(exponent - 117, 0, _MAGNITUDES - 1)
    return SymbolModel(alphabet, int(groups.max()) + 1, _MAGNITUDES).code(coder, contexts, symbols)


def code_floats(coder: StreamWriter, groups: np.ndarray, old: np.ndarray, new: np.ndarray | None) -> np.ndarray:
    """float32 values, bit for bit.

    A symbol says: unchanged; or a difference of so many bits to the old value, counted in representable numbers; or a
    new sign (against the old one) and exponent. The remaining bits follow raw: mantissas of trained weights have no
    pattern that a model could find.
    """
    if not len(old):
        return np.zeros(0, dtype=np.float32)
    span = mantissa = None
    if new is not None:
        old_bits = old.view(np.uint32).astype(np.int64)
        new_bits = new.view(np.uint32).astype(np.int64)
        span, symbols = _choose_symbols(old_bits, new_bits)
    max_class, low, high = (int(n) for n in coder.raw(np.array([5, 8, 8]), span))
    if max_class > MAX_DELTA_CLASS or not low <= high < _EXPONENTS:
        raise UpdateFormatError(f"impossible value range {max_class}, {low}, {high}")

    if new is not None:
        offset = np.where(symbols > 2 * MAX_DELTA_CLASS, 2 * (MAX_DELTA_CLASS - max_class) + 2 * low, 0)
        symbols = symbols - offset
        direct = symbols > 2 * max_class
        mantissa = np.where(direct, new_bits & 0x7FFFFF, np.abs(_ordered(new_bits) - _ordered(old_bits)))
    alphabet = 1 + 2 * max_class + 2 * (high - low + 1)
    symbols = _code_symbols(coder, alphabet, groups, old, None if new is None else symbols)

    widths = np.where(symbols > 2 * max_class, 23, np.maximum((symbols - 1) // 2, 0))
    mantissa = coder.raw(widths, None if new is None else mantissa & (1 << widths) - 1)
    decoded = np.empty(len(old), dtype=np.float32)
    for start in range(0, len(old), _BLOCK):  # a dozen arrays of all values at once would take a node's memory
        part = slice(start, start + _BLOCK)
        decoded[part] = _floats(symbols[part], mantissa[part], old[part], max_class, low)
    return decoded


def _floats(symbols: np.ndarray, mantissa: np.ndarray, old: np.ndarray, max_class: int, low: int) -> np.ndarray:
    """Return the values of symbols and raw bits, given the old values."""
    old_bits = old.view(np.uint32).astype(np.int64)
    rank = symbols - 1 - 2 * max_class
    sign = rank & 1 ^ old_bits >> 31
    new_bits = sign << 31 | (rank // 2 + low) << 23 | mantissa
    delta_class = np.where(rank >= 0, 0, (symbols + 1) // 2)
    size = np.where(delta_class > 0, mantissa + (1 << np.maximum(delta_class - 1, 0)), 0)
    ordered = _ordered(old_bits) + np.where(symbols & 1, size, -size)
    return np.where(rank >= 0, new_bits, _unordered(ordered)).astype(np.uint32).view(np.float32)


def _ordered(bits: np.ndarray) -> np.ndarray:
    """Return integers in the order of the floats of these bits; -0.0 comes just below +0.0."""
    return np.where(bits >> 31, (1 << 31) - 1 - bits, bits)


def _unordered(ordered: np.ndarray) -> np.ndarray:
    return np.where(ordered < 0, (1 << 31) - 1 - ordered, ordered) & 0xFFFFFFFF


def _choose_symbols(old: np.ndarray, new: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the encoder's choice: (max class, exponent range), and symbols as if these were 20 and 0..

    It tries two: no differences at all, which suits large changes, and all that the format has.
    """
    difference = _ordered(new) - _ordered(old)
    delta_class = np.frexp(np.abs(difference).astype(np.float64))[1]
    exponent, sign = new >> 23 & 255, (new ^ old) >> 31 & 1
    direct = 1 + 2 * MAX_DELTA_CLASS + 2 * exponent + sign
    near = np.where(difference == 0, 0, 2 * delta_class - (difference > 0))
    choices = []
    for max_class in (0, MAX_DELTA_CLASS):
        symbols = np.where(delta_class <= max_class, near, direct)
        p = np.bincount(symbols) / len(symbols)
        raw = np.where(delta_class <= max_class, np.maximum(delta_class - 1, 0), 23).sum()
        cost = raw - len(symbols) * (p[p > 0] @ np.log2(p[p > 0])) + 4 * np.count_nonzero(p)
        used = exponent[delta_class > max_class]
        span = np.array([max_class, used.min(initial=0 if not len(used) else 255), used.max(initial=0)])
        choices.append((cost, span, symbols))
    return min(choices, key=lambda choice: choice[0])[1:]


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Return the upper 16 bits of float32, to nearest even; no subnormals, and no infinity by rounding up."""
    bits = x.view(np.uint32).astype(np.int64)
    rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    sign, magnitude = rounded & 0x8000, np.minimum(rounded & 0x7FFF, 0x7F7F)
    return np.where(magnitude < 0x80, 0, sign | magnitude)


def from_bfloat16(half: np.ndarray) -> np.ndarray:
    """Return the float32 values of bfloat16 numbers."""
    return (half << 16).astype(np.uint32).view(np.float32)


def code_bfloat16(coder: StreamWriter, groups: np.ndarray, old: np.ndarray, half: np.ndarray | None) -> np.ndarray:
    """bfloat16 numbers, as integers: zero, or exponent and sign against the old value's and 7 raw bits."""
    if not len(old):
        return np.zeros(0, dtype=np.int64)
    span = symbols = mantissa = None
    old_sign = old.view(np.uint32).astype(np.int64) >> 31
    if half is not None:
        exponent = half >> 7 & 255
        used = exponent[half > 0]
        span = np.array([used.min(), used.max()]) if len(used) else np.array([1, 1])
        symbols = np.where(half > 0, 1 + 2 * (exponent - span[0]) + (half >> 15 ^ old_sign), 0)
        mantissa = np.where(half > 0, half & 0x7F, 0)
    low, high = (int(n) for n in coder.raw(np.array([8, 8]), span))
    if not 1 <= low <= high < _EXPONENTS:
        raise UpdateFormatError(f"impossible value range {low}, {high}")
    symbols = _code_symbols(coder, 1 + 2 * (high - low + 1), groups, old, symbols)
    mantissa = coder.raw(np.where(symbols > 0, 7, 0), mantissa)
    sign = symbols - 1 & 1 ^ old_sign
    return np.where(symbols > 0, sign << 15 | ((symbols - 1) // 2 + low) << 7 | mantissa, 0)
