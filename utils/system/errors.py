"""Errors that the user can put right. Their text is one line that names flag or file, value and way out."""

import argparse
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """Something outside the program is not as it must be; scripts show the text and exit with status 2."""

    advice = ""  # behind the text, where a script shows it; {again} is the command that goes on
    of_one_process = False  # of several processes of a run, one alone may meet it: a file in its share of the data


class UsageError(UserError):
    """A flag's value, or flags that contradict each other."""


class MachineError(UsageError):
    """What this machine lacks, and another one of the run may have."""

    of_one_process = True


def filled(text: str) -> str:
    """Return a flag's value, any text but none: that is what a variable of a shell leaves that is not set."""
    if not text:
        raise argparse.ArgumentTypeError("'' names nothing")
    return text


def path(text: str) -> Path:
    """Return the path that is a flag's value."""
    return Path(filled(text))


def lacks_memory(error: BaseException) -> bool:
    """Return whether memory did not suffice, of the machine or, by what torch says then, of a device."""
    words = r"out of memory|not enough memory|allocate memory"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(re.search(words, str(error))))


@contextmanager
def packages_needed(program: str, requirements: str = "-r requirements.txt") -> Iterator[None]:
    """Within, an import of a package that is not installed ends `program` with one line and status 2."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "utils").split(".")[0] in ("benchmarks", "data", "models", "utils"):
            raise  # no package is missing but a part of this project
        ways = f"activate the environment that has it (. .venv/bin/activate), or pip install {requirements}"
        print(f"{program}: error: {error.name} is not installed for {sys.executable}: {ways}", file=sys.stderr)
        sys.exit(2)
