"""Sweeps: the calls of the scripts that vary one flag or several, and those of full updating to compare them with.

Needs no torch.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from utils.modes import MODES, REFERENCE
from utils.system.errors import UsageError
from utils.system.references import label_of
from utils.table import paper
from utils.table.commands import Command, flag_of, joined, known_flag, model_of, refuse, scaled, value_of
from utils.table.pairing import SHARED

NOT_ITS_OWN = "-"  # in the place of a value: the method has no such flag
# Flags that a method's script has, and it ignores or refuses: which modes they are for (`utils.run.checks`).
_FOR = {
    "lamda": lambda mode: mode == "dpu",
    "criterion": lambda mode: mode == "criterion",  # dpu with a criterion is that
    "pruning_ratio": lambda mode: MODES[mode].prunes,
    "byte_budget": lambda mode: MODES[mode].kind != "dense",
    "rewind_fixing_ratio": lambda mode: MODES[mode].two_steps,
    "deploy_sparsity": lambda mode: not MODES[mode].prunes,
    "deploy_epochs": lambda mode: not MODES[mode].prunes,
}
# Full updating does not get these: other sweeps share its runs, and it is the lossless reference.
_SWEPT_ONLY = ("overwrite", "value_bits")


@dataclass(frozen=True)
class Ablation:
    """The calls of a sweep of `flags`, those of full updating, and which flags are left out for which methods."""

    flags: tuple[str, ...]
    swept: list[Command]
    full: list[Command]
    notes: list[str]


def ablation_commands(
    sweeps: Sequence[tuple[str, Sequence[str]]], mode: str, seeds: Sequence[str], rest: list[list[str]]
) -> Ablation:
    """Return the calls for every combination of the values of `sweeps` (flag, its values), with the flags `rest`.

    Methods that are swept leave out flags that are not theirs, if another of them has them. --num_epochs is that of
    each of two steps; methods with one step get it in the proportion of the recipe. Full updating gets the flags
    that are not for a method, and a swept one if it changes the data, the model, the epochs or what else a pair must
    share. Raises UsageError for a flag that is no script's or cannot be swept.
    """
    flags = tuple(flag for flag, _ in sweeps)
    refuse(rest, {"seed": "give --seeds", **dict.fromkeys(flags, "it is what --ablate varies")})
    for flag in flags:
        _check_flag(flag, flags)
    modes = dict(sweeps).get("mode", [mode])
    if unknown := [method for method in modes if method not in MODES]:
        raise UsageError(f"--mode is {unknown[0]!r}: give one of {', '.join(MODES)}")
    left_out: dict[str, dict[str, None]] = defaultdict(dict)

    def lacks(method: str, flag: str, value: str) -> bool:
        if _takes(method, flag, value) or not any(_takes(other, flag, value) for other in modes):
            return False  # if none has it, the script's own error says so
        left_out[flag][method] = None
        return True

    shown = _labels([value for _, values in sweeps for value in values])
    swept, full = {}, {}
    for seed in seeds:
        for combination in product(*(values for _, values in sweeps)):
            chosen = dict(zip(flags, combination))
            method = chosen.get("mode", mode)
            script = MODES[method].script
            given = [piece for piece in rest if not lacks(method, flag_of(piece), value_of(piece))]
            values = []
            for flag, value in chosen.items():
                known = flag != "mode" and lacks(method, flag, value)
                values.append(NOT_ITS_OWN if known else value)
                if flag != "mode" and not known:
                    given.append(_piece(script, flag, value))
            given = [piece for piece in given if piece]
            model, tail = model_of(given, script), ("--seed", str(seed))
            words = ("--mode", method, *joined(scaled(given, method, model)), *tail)
            values = [shown.get(value, value) for value in values]
            swept[words] = Command(_label(flags, values), script, words, tuple(values))
            full_script, full_flags = paper.ROWS["FU"]
            shared = [piece for piece in given if _is_for_full(piece, flag_of(piece) in flags)]
            words = (*full_flags.split(), *joined(scaled(shared, REFERENCE, model)), *tail)
            values = [shown[v] if _is_for_full([flag, v], True) else "" for flag, v in chosen.items()]
            full[words] = Command(", ".join(["FU", *filter(None, values)]), full_script, words, tuple(values))
    notes = [f"{flag}: not a flag of {_and(methods)}, left out there" for flag, methods in left_out.items()]
    return Ablation(flags, list(swept.values()), list(full.values()), notes)


def describe_epochs(commands: Iterable[Command]) -> str | None:
    """Return which epochs each method gets where --num_epochs is given or swept, else None."""
    epochs: dict[str, dict[int, None]] = defaultdict(dict)
    for command in commands:
        if any(word.split("=")[0] == "--num_epochs" for word in command.flags):
            settings = command.settings
            epochs[settings.mode][settings.num_epochs] = None
    methods = defaultdict(list)
    for mode, numbers in epochs.items():
        each = " in each step" if MODES[mode].two_steps else ""
        methods[f"{' / '.join(map(str, numbers))}{each}"].append(mode)
    return f"epochs a round: {'; '.join(f'{_and(m)} {text}' for text, m in methods.items())}" if methods else None


def _check_flag(flag: str, flags: Sequence[str]) -> None:
    if flag == "seed":
        raise UsageError("--ablate seed: give --seeds")
    if flags.count(flag) > 1:
        raise UsageError(f"--ablate {flag} is given more than once: give all its values behind the first")
    known = known_flag(flag)
    if known and (known.place or known.group == "output"):
        raise UsageError(f"--ablate {flag}: it changes no result")


def _takes(mode: str, flag: str, value: str) -> bool:
    """Return whether a method has a flag, as far as that does not depend on other flags; True for unknown flags."""
    known = known_flag(flag)
    if known is None:
        return True
    if known.name == "value_bits" and value == "auto":
        return MODES[mode].two_steps
    return MODES[mode].script in known.scripts and _FOR.get(known.name, lambda _: True)(mode)


def _piece(script: str, flag: str, value: str) -> list[str]:
    """Return `flag` with a swept value as words: on and off for switches, several numbers in one word."""
    known = known_flag(flag)
    if known is None or script not in known.scripts:
        raise UsageError(f"--ablate {flag}: {script} has no such flag; its -h lists them")
    if known.kind is bool:
        if value not in ("on", "off"):
            raise UsageError(f"--ablate {flag} is a switch, but {value!r} is neither on nor off")
        return [f"--{flag}"] if value == "on" else []
    return [f"--{flag}", *(value.split() if known.nargs else [value])]


def _is_for_full(piece: Sequence[str], swept: bool) -> bool:
    """Return True if full updating gets a flag as the swept runs do, so that they can be compared with it."""
    flag = flag_of(piece)
    known = known_flag(flag)
    if known is None or known.name in (*_SWEPT_ONLY, "mode") or not _takes(REFERENCE, flag, value_of(piece)):
        return False
    if swept:
        return known.group in ("data", "model") or flag in ("num_epochs", "total_epochs", *SHARED)
    return known.group != "method" or flag in SHARED


def _labels(values: Sequence[str]) -> dict[str, str]:
    """Return what values are called: of FILE.py:NAME without the folder, if that tells them apart."""
    labels = {value: label_of(value) for value in values}
    return labels if len(set(labels.values())) == len(labels) else dict(zip(values, values))


def _label(flags: Sequence[str], values: Sequence[str]) -> str:
    """Return the swept values in words, of a single flag the value."""
    if len(flags) == 1:
        return values[0]
    pairs = [(flag, value) for flag, value in zip(flags, values) if value != NOT_ITS_OWN]
    return ", ".join(value if flag == "mode" else f"{flag} {value}" for flag, value in pairs)


def _and(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
