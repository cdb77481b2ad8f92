"""Calls of the three scripts, and those that make the paper's table. Needs no torch."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from utils.modes import MODES
from utils.run.flags import ALIASES, FLAGS, Flag
from utils.run.options import build_parser, parse
from utils.run.settings import Settings
from utils.system.errors import UsageError
from utils.table import paper
from utils.training.recipes import defaults_of

parser_of = cache(build_parser)  # a script's own


@dataclass(frozen=True)
class Command:
    """One call of a script.

    label   what its runs have in common over seeds: a method, or the swept values in words
    values  of a sweep: what each swept flag is here
    """

    label: str
    script: str
    flags: tuple[str, ...]
    values: tuple[str, ...] = ()

    def __str__(self) -> str:
        return shlex.join(["python", self.script, *self.flags])

    @property
    def settings(self) -> Settings:
        """The checked values of all flags; exits with the script's own line and status 2 if it refuses them."""
        return parse(parser_of(self.script), self.flags)


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
    refuse(rest, {"mode": "--run chooses it", "model": "give it to --run"})
    refuse(rest, {"seed": "give --seeds"})
    own = [flag.name for flag in FLAGS.values() if flag.group == "method" and len(flag.scripts) < 3]
    ways = "--run makes the paper's rows, each with its own flags; --ablate takes others"
    refuse(rest, dict.fromkeys([*own, "byte_budget"], ways))
    common = ["--model", model]
    if all(flag_of(piece) != "dataset" for piece in rest):
        common += ["--dataset", paper.DATASETS[model]]
    commands = []
    for seed in seeds:
        for label, (script, method) in paper.ROWS.items():
            flags = method.replace(" K", f" {paper.updating_ratio(model)}").split()
            # What all others are compared with is lossless.
            given = [piece for piece in rest if label != "FU" or flag_of(piece) != "value_bits"]
            flags += [*common, *joined(scaled(given, flags[1], model))]
            commands.append(Command(label, script, (*flags, "--seed", str(seed))))
    return commands


def known_flag(flag: str) -> Flag | None:
    """Return what the scripts know of a flag, by any of its names; None if none has it."""
    names = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
    return FLAGS.get(names.get(flag, flag))


def number_in(text: str) -> int | None:
    """Return the whole number in a text; None if it is none, or one that the scripts refuse as too large."""
    return int(text) if text.isdecimal() and len(text) < 20 else None


def scaled(pieces: list[list[str]], mode: str, model: str) -> list[list[str]]:
    """Return `pieces` with --num_epochs, meant for each of two steps, in the recipe's proportion for one step."""
    two, one = defaults_of(model)[1:3]
    if MODES[mode].two_steps or one == two:
        return pieces
    scaled = []
    for piece in pieces:
        if flag_of(piece) == "num_epochs":
            number = number_in(value_of(piece))
            piece = piece if number is None else ["--num_epochs", str(number * one // two)]
        scaled.append(piece)
    return scaled


def model_of(pieces: list[list[str]], script: str) -> str:
    """Return the model that a call of `script` trains; of those that it refuses, its default."""
    given = [value_of(piece) for piece in pieces if flag_of(piece) == "model"]
    return given[-1] if given else parser_of(script).get_default("model")


def joined(pieces: list[list[str]]) -> list[str]:
    """Return the pieces as the words of a command."""
    return [word for piece in pieces for word in piece]


def refuse(pieces: list[list[str]], reasons: dict[str, str]) -> None:
    """Raise UsageError if one of the flags that `reasons` names is among the pieces."""
    for piece in pieces:
        if flag_of(piece) in reasons:
            raise UsageError(f"--{flag_of(piece)}: {reasons[flag_of(piece)]}")
