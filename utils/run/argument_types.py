"""The kinds of values that flags take: each turns a word into a value or says what is allowed."""

import argparse
import difflib
import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from fractions import Fraction

from utils.modes import MODES
from utils.system.errors import filled as filled  # two kinds that the edge node's flags have, too
from utils.system.errors import path as path
from utils.system.references import split_reference


def _number(kind: Callable, text: str, allowed: Callable, expected: str):
    with suppress(ValueError):
        if allowed(value := kind(text)):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    expected = f"a whole number from {least} to {most}"
    return lambda text: _number(int, text, lambda value: least <= value <= most, expected)


def network(names: Sequence[str]) -> Callable[[str], str]:
    """One of `names`, torchvision:NAME, or FILE.py:NAME."""

    def kind(text: str) -> str:
        if text in names or re.fullmatch(r"torchvision:\w+", text) or split_reference(text):
            return text
        near = difflib.get_close_matches(text, names, 1, 0.5)
        hint = f"; did you mean {near[0]}, or torchvision:{text}?" if near else ""
        if re.search(r"\.py$|:\w*$|[/\\]", text):
            path = text.partition(".py")[0].rpartition(":")[0] or text.removesuffix(".py")
            hint = f"; a network in a file of yours is {path}.py:NAME, with the name of its function or class"
        choices = ", ".join([*names, "torchvision:NAME", "FILE.py:NAME"])
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {choices}){hint}")

    return kind


def mode_of(script: str) -> Callable[[str], str]:
    """A mode; of another script's it says which."""

    def kind(text: str) -> str:
        if text in MODES and MODES[text].script != script:
            raise argparse.ArgumentTypeError(f"{text!r} is a mode of {MODES[text].script}")
        return text

    return kind


def in_file(text: str) -> str:
    """FILE.py:NAME."""
    if split_reference(text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not FILE.py:NAME, a function in a file")
    return text


def whole_or_word(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def byte_count(text: str) -> int:
    """A number of bytes: 16000, 16k or 16kB (1000), 16KiB (1024), 2M, 2MiB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kKmM])(i?)[bB]?|[bB])?", text.strip())
    unit, binary = (match[2] or "", match[3]) if match else ("", "")
    factor = (1024 if binary else 1000) ** " km".index(unit.lower() or " ")
    value = Fraction(match[1]) * factor if match else Fraction(0)  # 16.1k is 16100, and not nearly that
    if not 1 <= value < 2**31 or value.denominator > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes, such as 16000, 16k or 16KiB")
    return int(value)


def link(text: str) -> tuple[float, int | None, int]:
    """RATE or RATE/PAYLOAD/OVERHEAD: bits a second, a frame's bytes for the message (None: no frames) and beside it."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)(?:/(\d+)/(\d+))?", text.strip())
    if not parts or float(parts[1]) == 0 or parts[2] and int(parts[2]) == 0:
        expected = "RATE in bits a second, such as 5470, or RATE/PAYLOAD/OVERHEAD with the bytes of a frame"
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}, such as 5470/222/13")
    return float(parts[1]), int(parts[2]) if parts[2] else None, int(parts[3] or 0)


def _real(allowed: Callable[[float], bool], expected: str) -> Callable[[str], float]:
    return lambda text: _number(lambda word: float(word) + 0.0, text, allowed, f"a number {expected}")  # -0 is 0


ratio = _real(lambda value: 0 < value <= 1, "above 0 and at most 1")
share = _real(lambda value: 0 <= value <= 1, "from 0 to 1")
below_one = _real(lambda value: 0 <= value < 1, "of at least 0 and below 1")
width = _real(lambda value: 0 < value <= 8, "above 0 and at most 8")
learning_rate = _real(lambda value: 0 < value <= 1e6, "above 0 and at most 1000000")
at_least_zero = _real(lambda value: 0 <= value < math.inf, "of at least 0")
