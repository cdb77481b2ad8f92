"""A run folder belongs to one process at a time."""

import contextlib
from collections.abc import Iterator

from utils.run.folder import LOCK, RunFolder
from utils.system.errors import UsageError
from utils.system.files import remove_leftovers
from utils.system.locks import BusyError, locked


@contextlib.contextmanager
def claimed(folder: RunFolder, overwrite: bool) -> Iterator[None]:
    """Make the run folder this process's own while the run lasts; with `overwrite` what is in it goes first."""
    with contextlib.ExitStack() as stack:
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder.path / LOCK))
        except BusyError as error:
            raise UsageError(f"--output_dir: another process runs this in {folder.path}: wait for it") from error
        except OSError as error:
            reason = f"{folder.path} cannot be written ({error.strerror})"
            raise UsageError(f"--output_dir: {reason}: name another") from error
        remove_leftovers(folder.path)
        if overwrite:
            folder.clear()
        yield
