"""Standard output and error that cannot cost a result: printing may fail to be seen, but it ends nothing."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Within, prints are lost where nobody can take them: closed streams, a reader that left, a full disk.

    Characters that the stream's encoding lacks are written as their escapes.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_Forgiving, before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Forgiving:
    """Passes on to a stream what it takes; None stands for one that was closed when the program began."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError, AttributeError):
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError, AttributeError):
            self._give_up()

    def isatty(self) -> bool:
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def _give_up(self) -> None:
        """Let all further output go nowhere; without this Python would complain when it ends."""
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        except (OSError, ValueError, AttributeError):
            self._stream = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
