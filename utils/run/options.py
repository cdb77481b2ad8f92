"""The command line of the three scripts: from the words of a command to checked settings. Needs no torch."""

import argparse
import difflib
import shutil
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from utils.modes import modes_of
from utils.run.argument_types import mode_of
from utils.run.checks import settle
from utils.run.flags import ALIASES, FLAGS, GROUPS
from utils.run.settings import Settings
from utils.system.errors import UsageError
from utils.system.processes import is_rank0, launched_as


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr."""

    def __init__(self, **more: Any):
        super().__init__(allow_abbrev=False, formatter_class=_HelpFormatter, **more)

    def error(self, message: str) -> NoReturn:
        hint = ""
        if message.startswith("unrecognized"):
            words = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
            flags = self._option_string_actions
            near = [flag for word in words for flag in difflib.get_close_matches(word, flags, 1, 0.75)]
            hint = f"; did you mean {', '.join(near)}?" if near else f"; {self.prog} -h lists what it takes"
        message = " ".join(message.splitlines())  # what it quotes, such as a path, can have line breaks
        self.exit(2, f"{self.prog}: error: {message}{hint}\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End the process with `message` on stderr; of several under torchrun, rank 0 alone prints it."""
        super().exit(status, message if is_rank0() else None)


class _HelpFormatter(argparse.HelpFormatter):
    """Shows a default behind each help text that has one; as wide as the terminal, and no wider than can be read."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28, width=min(110, shutil.get_terminal_size().columns))

    def _get_help_string(self, action: argparse.Action) -> str:
        plain = any(action.default is nothing for nothing in (None, False, argparse.SUPPRESS))
        return action.help if plain else f"{action.help} (default: %(default)s)"


def build_parser(script: str, description: str = "") -> argparse.ArgumentParser:
    """Return the parser of `script`, one of those in `utils.modes`."""
    parser = Parser(prog=script, description=description, usage="%(prog)s [flags]")
    groups = {title: parser.add_argument_group(title) for title in GROUPS}
    for flag in FLAGS.values():
        if script not in flag.scripts:
            continue
        names = [f"--{name}" for name in (flag.name, *ALIASES.get(flag.name, ()))]
        text = flag.help if isinstance(flag.help, str) else flag.help[script]
        if flag.kind is bool:
            groups[flag.group].add_argument(*names, action="store_true", help=text)
            continue
        kind, choices, default = flag.kind, flag.choices, flag.default
        if flag.name == "mode":
            kind, choices = mode_of(script), modes_of(script)
            default = choices[0]
        groups[flag.group].add_argument(
            *names, type=kind, default=default, choices=choices, metavar=flag.metavar, nargs=flag.nargs, help=text
        )
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str], given: dict[str, Any] | None = None) -> Settings:
    """Return the settings that `argv` stands for, checked as far as the data need not be known.

    given  values of settings that are not on the command line but come from Python

    Exits with status 2 and one line on an error.
    """
    for word in argv:
        flag, _, value = word.partition("=")
        if flag.startswith("--") and value == "--":  # argparse may take it for no value
            parser.error(f"argument {flag}: '--' is not a value")
    try:
        for name in given or ():
            if any(word.split("=")[0] == f"--{name}" for word in argv):
                raise UsageError(f"--{name} and {name}= both say which: leave one out")
        return settle({**vars(parser.parse_args(argv)), **(given or {})})
    except UsageError as error:
        end(parser, str(error), error.of_one_process)


def end(parser: argparse.ArgumentParser, text: str, of_one_process: bool = True) -> NoReturn:
    """End with one line on stderr: that of rank 0 and, where others may meet something else, theirs."""
    if of_one_process and not is_rank0():
        print(f"{parser.prog}: process {launched_as()[0]}: error: {' '.join(text.splitlines())}", file=sys.stderr)
    parser.error(text)
