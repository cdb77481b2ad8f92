"""Standard output and error that cannot cost a result: printing may fail to be seen, but it ends nothing."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def forgiving_streams(program: str | None = None) -> Iterator[None]:
    """Within, prints are lost where nobody can take them: closed streams, a reader that left, a full disk.

    program  its name, where what it prints is its result: on a full disk it then ends with one line and status 2

    Characters that the stream's encoding lacks are written as their escapes.
    """
    before = sys.stdout, sys.stderr
    out, err = map(_Forgiving, before)
    sys.stdout, sys.stderr = out, err
    try:
        yield
        out.flush()
        if program is not None and out.lost is not None:
            print(f"{program}: error: standard output takes no more ({out.lost.strerror})", file=sys.stderr)
            sys.exit(2)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


class _Forgiving:
    """Passes on to a stream what it takes; None stands for one that was closed when the program began."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream
        self.lost: OSError | None = None  # why not everything was taken by a reader who is still there

    def write(self, text: str) -> int:
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError, AttributeError) as error:
            self._give_up(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError, AttributeError) as error:
            self._give_up(error)

    def isatty(self) -> bool:
        return self._stream is not None and not self._stream.closed and self._stream.isatty()

    def _give_up(self, error: Exception) -> None:
        """Let all further output go nowhere; without this Python would complain when it ends."""
        if isinstance(error, OSError) and error.errno not in (errno.EPIPE, errno.EBADF):
            self.lost = error
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        except (OSError, ValueError, AttributeError):
            self._stream = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
