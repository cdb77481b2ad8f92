"""Locks that processes hold on a file; the kernel frees one when its holder ends, however it ends.

Not the filelock library: it takes EACCES for a busy lock, and where flock is missing it falls back to a file that a
killed process leaves behind.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


class BusyError(Exception):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock on the file `path` while the block runs; the file is made if it is missing, and stays.

    Raises BusyError if another process holds the lock, or waits for it with `wait`, and OSError if the file cannot be
    opened. Where the system or its file system has no locks, a warning says so, and the block runs without.
    """
    number = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        _lock(number, path, wait)
        yield
    finally:
        if fcntl is not None:
            with suppress(OSError):  # for workers, too, which inherit the lock and may live a little longer
                fcntl.flock(number, fcntl.LOCK_UN)
        os.close(number)


def _lock(number: int, path: Path, wait: bool) -> None:
    try:
        if fcntl is None:
            raise OSError(0, "this system has no such locks")
        fcntl.flock(number, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:  # EWOULDBLOCK, and nothing else, says that another has it
        raise BusyError(f"{path}: another process holds this lock") from error
    except OSError as error:
        what = f"{path} cannot be locked here ({error.strerror})"
        warnings.warn(f"{what}: see that no other process uses its folder at the same time", stacklevel=4)
