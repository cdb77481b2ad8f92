"""The image files below some folders, kept in a cache with what is known of them, so that a start need not look again.

The list is taken from the cache while every folder has the modification time it was listed with: a file that is
added, removed or renamed changes it. Otherwise all is listed anew. That a file decodes is known by its name, size
and modification time. A file that is overwritten in its place is noticed once its folder is listed again.
"""

import errno
import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from data.image_walk import LEADS_NOWHERE, LeftOut, unreadable, walk_images
from utils.system.files import replacing

CACHE = "dpu_files.npz"  # in the folder of the images
FORMAT = 2
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
    left_out: np.ndarray  # a LeftOut as text, ()

    @property
    def is_sound(self) -> bool:
        """True if the arrays fit together: the cache is a file that anybody may have put there."""
        arrays = vars(self).values()
        kinds, shapes = "".join(array.dtype.kind for array in arrays), [array.shape for array in arrays]
        files, folders = self.paths.shape, self.folders.shape
        return kinds == "SiiSiibU" and shapes == [folders, folders, (), files, files, files, files, ()]

    @property
    def is_fresh(self) -> bool:
        """True if what is listed is all there is while the folders keep their modification times.

        The end of a link can come into being without changing them.
        """
        return bool((self.folder_times < self.listed - _TICK).all()) and LEADS_NOWHERE not in LeftOut(
            str(self.left_out)
        )


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
    for path in _places(root, tops):
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                np.savez(file, format=FORMAT, tops=np.array(tops), **vars(files))
            return


def _places(root: Path, tops: Sequence[str]) -> list[Path]:
    name = hashlib.blake2b(os.fsencode("\0".join([str(root.resolve()), *tops])), digest_size=8).hexdigest()
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return [root / CACHE, Path(caches, "deep-partial-updating", f"{name}.npz")]


def _read_cache(root: Path, tops: Sequence[str]) -> FileList | None:
    """Return the newest list that reads back; a damaged one, or one of another version, counts as none."""
    lists = []
    for path in _places(root, tops):
        with suppress(Exception):  # a file that was damaged, or that somebody else put there, can raise anything
            with np.load(path, allow_pickle=False) as saved:
                if saved["format"] == FORMAT and saved["tops"].tolist() == list(tops):
                    found = FileList(**{field.name: saved[field.name] for field in fields(FileList)})
                    LeftOut(str(found.left_out))
                    if found.is_sound:
                        lists.append(found)
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
    listed, left_out = time.time_ns(), LeftOut()
    folders, folder_times, files = [], [], []
    for top in tops:
        for folder, modified, images in walk_images(root / top, left_out):
            folders.append(_relative(folder, root))
            folder_times.append(modified)
            files += [(_relative(image.path, root), *_size_and_time(image)) for image in images]
    paths, sizes, times = zip(*files) if files else ((), (), ())
    return FileList(
        folders=np.array(folders, dtype=bytes),
        folder_times=np.array(folder_times, dtype=np.int64),
        listed=np.array(listed, dtype=np.int64),
        paths=np.array(paths, dtype=bytes),
        sizes=np.array(sizes, dtype=np.int64),
        times=np.array(times, dtype=np.int64),
        whole=np.zeros(len(paths), dtype=bool),
        left_out=np.array(str(left_out)),
    )


def _size_and_time(image: os.DirEntry) -> tuple[int, int]:
    """Return size and modification time in nanoseconds of an image file; 0, 0 of a link that leads nowhere."""
    try:
        state = image.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP):  # it does not decode: then it is a broken image like others
            return 0, 0
        raise unreadable(image.path, error) from error
    return state.st_size, state.st_mtime_ns


def _relative(path: str, root: Path) -> bytes:
    return os.fsencode(os.path.relpath(path, root).replace(os.sep, "/"))
