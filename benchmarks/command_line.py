"""How the benchmarks answer what a user can put right."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from utils.system.errors import UserError


@contextmanager
def one_line(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Within, an error of the user ends the program with its line and status 2."""
    try:
        yield
    except UserError as error:
        parser.error(str(error))
