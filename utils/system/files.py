"""Files that are whole or not there: written beside their place under a name that nobody can guess, then renamed.

What keeps a file through a power cut is the order: its content to the disk, the new name, then the folder to the disk.
"""

import errno
import hashlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO

_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)
_NAME_LENGTH = 40  # of a name that is part of another: a file system takes 255 bytes, and UTF-8 up to 4 a character
_DIGEST_LENGTH = 16  # at the end of a name that was cut off, so that it stands for no other
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{16}\.tmp", re.DOTALL)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write; when the block ends without an error, it stands at `path`, on the disk.

    A reader, or a machine that loses power, sees the old file or the new one. The new file has the mode of the old
    one. Where `path` is a link, the link stays, and the file that it leads to is replaced.
    Raises OSError, which names `path`; nothing is left then but what was there before.
    """
    outer = sys.exc_info()[1]
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    beside = os.path.join(folder, f".{short_name(name)}.{secrets.token_hex(8)}.tmp")
    try:
        mode = _mode_of(target)
        with open(beside, "xb", opener=partial(os.open, mode=0o666 if mode is None else mode)) as file:
            yield file
            file.flush()
            if mode is not None:
                _set_mode(file.fileno(), mode)
            _sync(file.fileno())
        os.replace(beside, target)
        sync_folder(folder)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(beside)
        reason = _reason(error, outer)
        if isinstance(reason, OSError) and reason.filename in (None, beside, target, folder):
            reason.filename, reason.filename2 = os.fspath(path), None
        if reason is error:
            raise
        raise reason from None


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` to `path`, as a whole or not at all; see `replacing`."""
    with replacing(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


def append(path: Path, data: str) -> None:
    """Add `data` to the end of the file `path`, on the disk.

    Only a kill or a power cut leaves a part of it. Raises OSError, which names `path`; see `unlinked`.
    """
    rest = data.encode()
    with naming(path), open(path, "ab", buffering=0, opener=unlinked) as file:
        end = file.seek(0, os.SEEK_END)
        try:
            while rest:
                rest = rest[file.write(rest) :]
            _sync(file.fileno())
        except BaseException:
            with suppress(OSError):
                file.truncate(end)
            raise


def unlinked(name: str, flags: int) -> int:
    """Open a file whose name anybody can guess, as `opener` of `open`. Raises OSError if it is a link or a pipe."""
    try:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = "it is a link, which is not followed here"
        raise


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Within, an OSError that names no file names `path`: opening a file says which it is, reading it does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(path)
        raise


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Give a file to read that somebody else may have made.

    Raises ValueError for a pipe or device, on which reading could wait for ever; OSError for what cannot be read.
    """
    with naming(path), open(path, "rb", opener=_not_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(f"{path.name} is no regular file")
        yield file


def read_regular(path: Path, most: int) -> bytes:
    """Return what is in such a file. Raises ValueError for more than `most` bytes, too."""
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path.name} has more than {most:,} bytes")
    return data


def file_digest(path: str | Path) -> str:
    """Return the BLAKE2b digest, 16 bytes in hexadecimal, of what is in a file of any length. Raises OSError."""
    digest = hashlib.blake2b(digest_size=16)
    with naming(path), open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, on the disk. Raises OSError."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync_folder(folder.parent)


def sync_folder(folder: str | Path) -> None:
    """Wait until the disk has the names in `folder` as they are now, after one was added, changed or removed."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may be written but not read, and every folder on Windows
        return
    try:
        _sync(number)
    finally:
        os.close(number)


def remove_leftovers(path: Path) -> None:
    """Delete what killed writers of the file `path` left beside it, or those of all files in a folder and below.

    Only for the process that holds the lock of these files: what others are writing just now looks the same.
    """
    target = os.path.realpath(path)
    if os.path.isdir(target):
        found = ((folder, entry) for folder, _, entries in os.walk(target) for entry in entries)
        only = None
    else:
        beside, only = os.path.split(target)
        found = ((beside, entry) for entry in os.listdir(beside))
    for folder, entry in found:
        match = _LEFTOVER.fullmatch(entry)
        if match and (only is None or match["name"] == short_name(only)):
            with suppress(OSError):
                os.unlink(os.path.join(folder, entry))


def is_leftover(name: str) -> bool:
    """Return whether `name` is that of a file which a killed writer left."""
    return _LEFTOVER.fullmatch(name) is not None


def short_name(name: str) -> str:
    """Return a name, of a long one its beginning and a digest: a fleet's nodes may differ in the last letters alone."""
    if len(name) <= _NAME_LENGTH:
        return name
    digest = hashlib.blake2b(os.fsencode(name), digest_size=_DIGEST_LENGTH // 2).hexdigest()
    return f"{name[: _NAME_LENGTH - _DIGEST_LENGTH - 1]}-{digest}"


def _not_waiting(name: str, flags: int) -> int:
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _mode_of(target: str) -> int | None:
    """Return the permissions of the file that is there; None if there is none. Raises OSError if it is no file."""
    try:
        state = os.stat(target)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(state.st_mode):  # a file in the place of /dev/null would be worse than no file
        raise OSError(errno.EISDIR if stat.S_ISDIR(state.st_mode) else errno.EINVAL, "not a regular file", target)
    return stat.S_IMODE(state.st_mode)


def _set_mode(number: int, mode: int) -> None:
    if hasattr(os, "fchmod") and stat.S_IMODE(os.fstat(number).st_mode) != mode:
        with suppress(PermissionError):  # FAT, as on SD cards, has no modes; the content matters more
            os.fchmod(number, mode)


def _sync(number: int) -> None:
    try:
        os.fsync(number)
    except OSError as error:  # some network and user-space file systems have no fsync
        if error.errno not in _NOT_SUPPORTED:
            raise


def _reason(error: BaseException, outer: BaseException | None) -> BaseException:
    """Return why a block failed. `outer` is the error that was being handled before it began.

    A library that cleans up after a failed write may raise an error of its own in the place of "disk full" or of
    Ctrl-C: torch does.
    """
    first = error
    while not first.__suppress_context__ and first.__context__ not in (None, outer):
        first = first.__context__
    hidden = isinstance(error, Exception) and (isinstance(first, OSError) or not isinstance(first, Exception))
    return first if hidden else error
