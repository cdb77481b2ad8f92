"""The image files below some folders, kept in a cache with what is known of them, so that a start need not look again.

The list is taken from the cache while every folder has the modification time it was listed with: a file that is
added, removed or renamed changes it. Otherwise all is listed anew. That a file decodes is known by its name, size
and modification time. A file that is overwritten in its place is noticed once its folder is listed again.
"""

import hashlib
import os
import time
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from data.streaming.image_files import SUFFIXES
from utils.system.files import replacing

CACHE = "dpu_files.npz"  # in the folder of the images
FORMAT = 1
# A change within this many nanoseconds of another can leave the modification time as it is.
_TICK = 2 * 10**9


@dataclass(frozen=True)
class FileList:
    """Files in the order of their names, class by class; paths are bytes, relative, with "/"."""

    folders: np.ndarray  # every folder that was looked into
    folder_times: np.ndarray  # when each was last modified, in nanoseconds
    listed: np.ndarray  # when that was, ()
    paths: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    whole: np.ndarray  # bool: it decodes; False: not known, or it does not

    @property
    def is_fresh(self) -> bool:
        """True if no folder has changed since, as far as its modification time tells."""
        return bool((self.folder_times < self.listed - _TICK).all())


def list_files(root: Path, tops: Sequence[str]) -> FileList:
    """Return the image files below the folders `tops` of `root`, from the cache if that still holds."""
    cached = _read_cache(root, tops)
    if cached is not None and cached.is_fresh and _times(root, cached.folders) == cached.folder_times.tolist():
        return _look_again(root, cached)
    found = _walk(root, tops)
    if cached is not None and len(cached.paths):
        order = np.argsort(cached.paths)
        at = np.minimum(np.searchsorted(cached.paths, found.paths, sorter=order), len(order) - 1)
        at = order[at]
        same = cached.paths[at] == found.paths
        for name in ("sizes", "times"):
            same &= getattr(cached, name)[at] == getattr(found, name)
        found.whole[:] = same & cached.whole[at]
    save(root, tops, found)
    return found


def save(root: Path, tops: Sequence[str], files: FileList) -> None:
    """Write the cache, beside the images or, where that is not allowed, where the user's caches are."""
    arrays = {field.name: getattr(files, field.name) for field in fields(FileList)}
    for path in _places(root, tops):
        own = path.with_name(f"{path.stem}.{os.getpid()}.npz")  # other runs may write theirs
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(own) as file:
                np.savez(file, format=FORMAT, tops=np.array(tops), **arrays)
            os.replace(own, path)
            return
        except OSError:
            for left in (own, own.with_name(own.name + ".tmp")):
                with suppress(OSError):
                    left.unlink()


def _places(root: Path, tops: Sequence[str]) -> list[Path]:
    name = hashlib.blake2b("\0".join([str(root.resolve()), *tops]).encode(), digest_size=8).hexdigest()
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return [root / CACHE, Path(caches, "deep-partial-updating", f"{name}.npz")]


def _read_cache(root: Path, tops: Sequence[str]) -> FileList | None:
    """Return the newest list that reads back; a damaged one, or one of another version, counts as none."""
    lists = []
    for path in _places(root, tops):
        with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            with np.load(path, allow_pickle=False) as saved:
                if saved["format"] == FORMAT and saved["tops"].tolist() == list(tops):
                    lists.append(FileList(**{field.name: saved[field.name] for field in fields(FileList)}))
    return max(lists, key=lambda one: int(one.listed), default=None)


def _times(root: Path, folders: np.ndarray) -> list[int] | None:
    """Return when the folders were last modified; None if one is gone."""
    try:
        return [os.stat(os.path.join(root, os.fsdecode(folder))).st_mtime_ns for folder in folders]
    except OSError:
        return None


def _look_again(root: Path, files: FileList) -> FileList:
    """Return `files` with what those that did not decode are now: they may have been replaced since."""
    for index in np.flatnonzero(~files.whole).tolist():
        with suppress(OSError):
            state = os.stat(os.path.join(root, os.fsdecode(files.paths[index])))
            files.sizes[index], files.times[index] = state.st_size, state.st_mtime_ns
    return files


def _walk(root: Path, tops: Sequence[str]) -> FileList:
    listed = time.time_ns()
    folders, folder_times, files = [], [], []
    for top in tops:
        for folder, inside, names in os.walk(root / top, followlinks=True):
            inside.sort()
            folders.append(_relative(folder, root))
            folder_times.append(os.stat(folder).st_mtime_ns)
            for name in sorted(names):
                if name.lower().endswith(SUFFIXES):
                    path = os.path.join(folder, name)
                    state = os.stat(path)
                    files.append((_relative(path, root), state.st_size, state.st_mtime_ns))
    paths, sizes, times = zip(*files) if files else ((), (), ())
    return FileList(
        np.array(folders, dtype=bytes),
        np.array(folder_times, dtype=np.int64),
        np.array(listed, dtype=np.int64),
        np.array(paths, dtype=bytes),
        np.array(sizes, dtype=np.int64),
        np.array(times, dtype=np.int64),
        np.zeros(len(paths), dtype=bool),
    )


def _relative(path: str, root: Path) -> bytes:
    return os.fsencode(os.path.relpath(path, root).replace(os.sep, "/"))
