"""A run folder belongs to one process at a time."""

import contextlib
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

from utils.run.folder import LOCK, RunFolder
from utils.system.errors import UsageError


@contextlib.contextmanager
def claimed(folder: RunFolder, overwrite: bool) -> Iterator[None]:
    """Make the run folder this process's own while the run lasts; with `overwrite` what is in it goes first."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = open(folder.path / LOCK, "w")
    except OSError as error:
        what = f"{folder.path} cannot be written ({error.strerror})"
        raise UsageError(f"--output_dir: {what}: name another") from error
    with lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            what = f"another process runs this in {folder.path}"
            raise UsageError(f"--output_dir: {what}: wait for it") from error
        if overwrite:
            folder.clear()
        yield
