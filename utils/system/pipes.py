"""Output into a pipe, such as `| head`, whose reader leaves early."""

import os
import sys


def show(text: str) -> None:
    """Print `text`, or nothing any more: files that are to be written afterwards are written all the same."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        reader_left()


def reader_left() -> None:
    """Let all further output go nowhere; without this Python would complain when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
