"""Calls of the three scripts: the methods of the paper's table, and sweeps of one flag. Needs no torch."""

import shlex
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from utils.modes import DPU, FU, MODES, REFERENCE, RPU, modes_of
from utils.run.flags import ALIASES, FLAGS, Flag
from utils.run.options import build_parser, parse
from utils.run.settings import Settings
from utils.system.errors import UsageError
from utils.system.references import label_of
from utils.table import paper
from utils.table.pairing import SHARED
from utils.training.recipes import defaults_of


@dataclass(frozen=True)
class Command:
    """One call of a script. `label` names what its runs have in common over seeds: a method, or a swept value."""

    label: str
    script: str
    flags: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["python", self.script, *self.flags])

    @property
    def settings(self) -> Settings:
        """The checked values of all flags; exits with the script's own line and status 2 if it refuses them."""
        return parse(parser_of(self.script), self.flags)


@cache
def parser_of(script: str) -> ArgumentParser:
    """Return a script's own parser."""
    return build_parser(script)


def script_of(mode: str) -> str:
    """Return the script that runs a mode. Raises UsageError for an unknown one."""
    if mode not in MODES:
        known = ", ".join(name for script in (DPU, RPU, FU) for name in modes_of(script))
        raise UsageError(f"--mode is {mode!r}: give one of {known}")
    return MODES[mode].script


def split_flags(words: Sequence[str]) -> list[list[str]]:
    """Return `words` in pieces, each a flag with its values; no flag of the scripts has a short form.

    Raises UsageError for a value in front of all flags.
    """
    pieces = []
    for word in words:
        if word.startswith("--"):
            pieces.append([word])
        elif pieces:
            pieces[-1].append(word)
        else:
            raise UsageError(f"unrecognized argument {word}: run folders do not go with --run or --ablate")
    return pieces


def flag_of(piece: Sequence[str]) -> str:
    """Return the name, without dashes, of a piece of `split_flags`."""
    return piece[0].split("=")[0].removeprefix("--")


def value_of(piece: Sequence[str]) -> str:
    """Return the last value of a piece of `split_flags`."""
    return piece[0].partition("=")[2] or piece[-1]


def paper_commands(model: str, seeds: Sequence[int], rest: list[list[str]]) -> list[Command]:
    """Return the calls that make the paper's table for `model`, with the flags `rest` for each.

    --num_epochs counts for each of two steps; methods with one step get it in the proportion of the recipe.
    """
    _refuse(rest, {"mode": "--run chooses it", "model": "give it to --run"})
    _refuse(rest, {"seed": "give --seeds"})
    common = ["--model", model]
    if not _has(rest, "dataset"):
        common += ["--dataset", paper.DATASETS[model]]
    commands = []
    for seed in seeds:
        for label, (script, method) in paper.ROWS.items():
            flags = method.replace(" K", f" {paper.updating_ratio(model)}").split()
            flags += [*common, *_joined(_scaled(rest, flags[1], model))]
            commands.append(Command(label, script, (*flags, "--seed", str(seed))))
    return commands


def ablation_commands(
    flag: str, values: Sequence[str], mode: str, seeds: Sequence[int], rest: list[list[str]]
) -> tuple[list[Command], list[Command]]:
    """Return the calls that sweep `flag` over `values`, labelled by value, and those of full updating to pair.

    Full updating gets the flags that are not for a method, and the swept one if it changes the data, the model, the
    epochs or what else a pair must share; --num_epochs, if the method has two steps, scaled as by `paper_commands`.
    A swept --mode has it scaled in all calls. Raises UsageError for a flag that is no script's or cannot be swept.
    """
    _refuse(rest, {"seed": "give --seeds", flag: "it is what --ablate varies"})
    if flag == "seed":
        raise UsageError("--ablate seed: give --seeds")
    known = _known(flag)
    if known and (known.place or known.group == "output"):
        raise UsageError(f"--ablate {flag}: it changes no result")
    sweeps_mode = flag == "mode"
    full_script, full_flags = paper.ROWS["FU"]
    swept, full = [], {}
    labels = {value: label_of(value) for value in values}
    if len(set(labels.values())) < len(labels):
        labels = dict(zip(values, values))
    for seed in seeds:
        for value in values:
            method = value if sweeps_mode else mode
            script = script_of(method)
            changed = [] if sweeps_mode else [_piece(script, flag, value)]
            given = [piece for piece in [*rest, *changed] if piece]
            model = _model(given, script)
            flags = _joined(_scaled(given, method, model) if sweeps_mode else given)
            tail = ("--seed", str(seed))
            swept.append(Command(labels[value], script, ("--mode", method, *flags, *tail)))
            shared = [piece for piece in given if _is_for_full(flag_of(piece), swept=flag_of(piece) == flag)]
            if sweeps_mode or MODES[method].two_steps:
                shared = _scaled(shared, REFERENCE, model)
            command = Command("FU", full_script, (*full_flags.split(), *_joined(shared), *tail))
            full[command.flags] = command
    return swept, list(full.values())


def _piece(script: str, flag: str, value: str) -> list[str]:
    """Return `flag` with a swept value as words: on and off for switches, several numbers in one word."""
    known = _known(flag)
    if known is None or script not in known.scripts:
        raise UsageError(f"--ablate {flag}: {script} has no such flag; its -h lists them")
    if known.kind is bool:
        if value not in ("on", "off"):
            raise UsageError(f"--ablate {flag} is a switch, but {value!r} is neither on nor off")
        return [f"--{flag}"] if value == "on" else []
    return [f"--{flag}", *(value.split() if known.nargs else [value])]


def _is_for_full(flag: str, swept: bool) -> bool:
    """Return True if full updating gets `flag` as the swept runs do, so that they can be compared with it."""
    known = _known(flag)
    if known is None or paper.ROWS["FU"][0] not in known.scripts:
        return False
    if swept:
        return known.group in ("data", "model") or flag in ("num_epochs", "total_epochs", *SHARED)
    return known.group != "method" or flag in SHARED


def _known(flag: str) -> Flag | None:
    """Return what the scripts know of a flag, by any of its names; None if none has it."""
    names = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
    return FLAGS.get(names.get(flag, flag))


def _scaled(pieces: list[list[str]], mode: str, model: str) -> list[list[str]]:
    """Return `pieces` with --num_epochs, meant for each of two steps, in the recipe's proportion for one step."""
    two, one = defaults_of(model)[1:3]
    if MODES[mode].two_steps or one == two:
        return pieces
    scaled = []
    for piece in pieces:
        if flag_of(piece) == "num_epochs":
            number = value_of(piece)
            piece = ["--num_epochs", str(int(number) * one // two)] if number.isdecimal() else piece
        scaled.append(piece)
    return scaled


def _model(pieces: list[list[str]], script: str) -> str:
    model = parser_of(script).get_default("model")
    for piece in pieces:
        if flag_of(piece) == "model":
            model = value_of(piece)
    return model


def _has(pieces: list[list[str]], flag: str) -> bool:
    return any(flag_of(piece) == flag for piece in pieces)


def _joined(pieces: list[list[str]]) -> list[str]:
    return [word for piece in pieces for word in piece]


def _refuse(pieces: list[list[str]], reasons: dict[str, str]) -> None:
    for piece in pieces:
        if flag_of(piece) in reasons:
            raise UsageError(f"--{flag_of(piece)}: {reasons[flag_of(piece)]}")
