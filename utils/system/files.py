"""Files that are whole or not there: written beside their place, then renamed."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write; afterwards it stands at `path`.

    A reader, or a machine that loses power, sees the old file or the new.
    """
    beside = path.with_name(path.name + ".tmp")
    with open(beside, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` to `path`, as a whole or not at all."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def read_regular(path: Path, most: int) -> bytes:
    """Return what is in a file that somebody else may have made.

    Raises ValueError for more than `most` bytes, and for a pipe or device, on which reading could wait for ever;
    OSError for what cannot be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path.name} is no regular file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path.name} has more than {most:,} bytes")
    return data
