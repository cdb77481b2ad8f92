"""The types and sizes of all that tables use of a run.

A run folder can come from anybody. What passes here can be added, divided, drawn and printed without further care.
"""

import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.message.values import VALUE_BITS
from utils.modes import MODES
from utils.system.terminal import printable
from utils.training.recipes import DEFAULTS

Kind = Callable[[object], bool]


def is_whole(value: object) -> bool:
    """Return True for a number from 0 that fits 64 bits; for no bool, which Python takes for one."""
    return type(value) is int and 0 <= value < 1 << 63


def _count(value: object) -> bool:
    return is_whole(value) and value < 1 << 53  # which is exact as a float


def _positive(value: object) -> bool:
    return _count(value) and value > 0


def _number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e15  # neither NaN nor infinity


def _share(least: float = 0) -> Kind:
    return lambda value: _number(value) and least <= value <= 1


def _text(value: object) -> bool:
    return type(value) is str and len(value) <= 4096


def _switch(value: object) -> bool:
    return type(value) is bool


def _plain(value: object) -> bool:
    return value is None or any(kind(value) for kind in (_switch, is_whole, _number, _text))


def _list(kind: Kind) -> Kind:
    return lambda value: type(value) in (list, tuple) and len(value) <= 1000 and all(map(kind, value))


def _or_none(kind: Kind) -> Kind:
    return lambda value: value is None or kind(value)


_SETTINGS = {
    "dataset": lambda value: _text(value) and Path(value).stem,
    "dataset_size_init": _count,
    "dataset_size_subseq": _count,
    "val_dataset_size": _or_none(_count),
    "model": lambda value: _text(value) and (value in DEFAULTS or ":" in value),
    "hidden_sizes": _list(_count),
    "batch_norm": _switch,
    "mode": lambda value: _text(value) and value in MODES,
    "updating_ratio": _share(1e-12),
    "lamda": _or_none(_share()),
    "reinitialize": _switch,
    "lr": _number,
    "seed": is_whole,
}
_LATER_SETTINGS = {  # older runs lack them
    "image_size": _or_none(_count),
    "width": _number,
    "precision": _text,
    "rewind_fixing_ratio": _share(1e-3),  # less would be thousands of steps a round
    "total_epochs": _or_none(_positive),
    "byte_budget": _or_none(_positive),
    "value_bits": lambda value: value == "auto" or type(value) is int and value in VALUE_BITS,
    "criterion": _or_none(_text),
}
_ROW = {
    **dict.fromkeys(("num_samples", "message_bytes", "formula_bytes"), _count),
    "served_test_acc": _share(),
    "sent": lambda value: value in (0, 1),
}


def check_run(config: dict[str, Any], rows: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Raise an error that names what is wrong: ValueError, or KeyError, TypeError, AttributeError from the look-up."""
    settings, fingerprints = config["settings"], summary["fingerprints"]
    needed = [*_SETTINGS, *(["value_bits"] if settings.get("byte_budget") else [])]
    lacking = [name for name in needed if name not in settings]
    lacking += [name for name in ("dataset", "arrival", "validation_split") if name not in fingerprints]
    if lacking:
        raise ValueError(f"no {', '.join(lacking)}")
    for name, value in settings.items():
        # Settings that tables do not know are shown as they are.
        known = _SETTINGS.get(name) or _LATER_SETTINGS.get(name)
        _demand(known or (lambda value: _plain(value) or _list(_plain)(value)), value, printable(name[:40]))
    _demand(_list(_text), list(fingerprints.values()), "fingerprints")
    _demand(_or_none(_list(_or_none(_text))), summary.get("code"), "code")
    for start in [config, *(config.get("starts") or [])]:
        _demand(_or_none(_text), start.get("git_commit"), "git_commit")
        _demand(_list(_text), start.get("command", []), "command")
    for name in ("num_weights", "num_rest", "num_buffers", "num_deployed"):
        _demand(_or_none(_count), summary.get(name), name)
    if settings.get("rewind_fixing_ratio", 1) != 1:  # then they decide on the number of steps
        _demand(_positive, summary.get("num_weights"), "num_weights")
    _demand(_positive, config["recipe"]["num_epochs"], "num_epochs")
    for number, row in enumerate(rows):
        if row["round"] != number:
            raise ValueError(f"rounds.csv has round {reprlib.repr(row['round'])} in the place of {number}")
        for name, kind in _ROW.items():
            _demand(kind, row[name], f"{name} of round {number}")


def _demand(kind: Kind, value: object, place: str) -> None:
    if not kind(value):
        raise ValueError(f"{place} is {reprlib.repr(value)}")
