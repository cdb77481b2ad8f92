"""Files that are whole or not there: written beside their place, then renamed."""

import os
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
