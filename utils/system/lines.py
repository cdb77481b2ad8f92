"""A file of one JSON object a line, written while a program runs: an ornament, so no error of the disk ends anything.

Each line is whole on the disk, or cut off when the file is opened again.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from utils.system.files import unlinked


class JsonLines:
    """The file at `path`. `warn` is called once, with the reason, if the disk refuses it.

    What is refused is kept, and tried again with the next line.
    """

    def __init__(self, path: Path, warn: Callable[[str], None]):
        self.path, self._warn, self._warned = path, warn, False
        self._file: BinaryIO | None = None
        self._waiting = b""

    def open_after(self, belongs: Callable[[dict[str, Any]], bool]) -> None:
        """Open the file for more lines: those from the first on that is not whole, or does not belong, go."""
        with self._harmless():
            self._file = open(self.path, "a+b", buffering=0, opener=unlinked)
            self._file.seek(0)
            end = 0
            for line in self._file.readall().splitlines(keepends=True):
                if not (line.endswith(b"\n") and _is_such(line, belongs)):
                    break
                end += len(line)
            self._file.truncate(end)

    def add(self, values: dict[str, Any]) -> None:
        """Write a line; numbers that are not finite, which JSON lacks, become null."""
        if self._file is None:
            return
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        self._waiting += (json.dumps(plain) + "\n").encode()
        with self._harmless():
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]

    def sync(self) -> None:
        """Wait until the disk has all lines."""
        if self._file is not None:
            with suppress(OSError):
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; lines that are added from here on are dropped."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._warn(f"{self.path} cannot be written ({error.strerror or error}); the run goes on")


def _is_such(line: bytes, belongs: Callable[[dict[str, Any]], bool]) -> bool:
    try:
        values = json.loads(line)
        return isinstance(values, dict) and belongs(values)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
