"""The one walk through folders of images, for data in memory and for data that is streamed.

Folders and files come by name, all of a folder before what is beside it: a/b before a-b, unlike in torchvision's
ImageFolder. Nothing is left out in silence: a folder that cannot be read is an error, and what is no image is counted.
"""

import errno
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.errors import DatasetError
from utils.system.terminal import printable

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # those of ImageFolder

LOOSE = "outside class folders"
LEADS_NOWHERE = "links that lead nowhere"
_MOST_REASONS = 6  # in one line


class LeftOut:
    """What lies in folders of images and was left out: how many for which reason, and the first of them."""

    def __init__(self, text: str = '[{}, ""]'):
        """`text` is what `str` returned."""
        counts, self._first = json.loads(text)
        self._counts = Counter({reason: int(number) for reason, number in counts.items()})

    def __str__(self) -> str:
        return json.dumps([self._counts, self._first])

    def __contains__(self, reason: str) -> bool:
        return reason in self._counts

    def add(self, reason: str, path: str, number: int = 1) -> None:
        self._first = self._first or path
        self._counts[reason] += number

    def warn(self, root: Path) -> None:
        """Say in one line what was left out below `root`, if anything was."""
        total = self._counts.total()
        if not total:
            return
        reasons = [f"{reason}: {number:,}" for reason, number in self._counts.most_common(_MOST_REASONS)]
        if len(self._counts) > _MOST_REASONS:
            reasons.append("others")
        number = "1 file or folder is" if total == 1 else f"{total:,} files or folders are"
        text = f"{root}: {number} left out ({', '.join(reasons)}), the first is {self._first}"
        warnings.warn(printable(text), stacklevel=2)


def walk_images(top: str | os.PathLike, left_out: LeftOut) -> Iterator[tuple[str, int, list[os.DirEntry]]]:
    """Go through the folder `top` and all below; yield each, its modification time, and its images, in order of names.

    The time, in nanoseconds, is read before the entries are, so that a file which is added meanwhile makes it another.

    A link to a folder is followed, but within each folder of `top`, which is a class, no real folder is visited twice,
    and none that the link lies in: its images would count again, as another class or without end. An image may be a
    link that leads nowhere: who reads it finds out. Hidden files and folders, and what is no regular file or no image
    by its name, go to `left_out`. Raises DatasetError for a folder or link that cannot be read.
    """
    top = os.fspath(top)
    # Folder, its real path, the real paths of the folders that links led out of, what its class has seen.
    waiting = [(top, os.path.realpath(top), (), None)]
    while waiting:
        folder, real, outer, seen = waiting.pop()
        if seen is not None:
            if real in seen:
                left_out.add("folders reached twice", folder)
                continue
            seen.add(real)
        try:
            modified = os.stat(folder).st_mtime_ns
        except OSError as error:
            raise unreadable(folder, error) from error
        below, images = _scan(folder, left_out)
        yield folder, modified, images
        found = []
        for entry in below:
            target, around = os.path.join(real, entry.name), outer
            if entry.is_symlink():
                target, around = os.path.realpath(entry.path), (real, *outer)
                if any(path == target or path.startswith(os.path.join(target, "")) for path in around):
                    left_out.add("links to a folder they lie in", entry.path)
                    continue
            found.append((entry.path, target, around, set() if seen is None else seen))
        waiting += reversed(found)


def _scan(folder: str, left_out: LeftOut) -> tuple[list[os.DirEntry], list[os.DirEntry]]:
    """Return the folders and the images in a folder, by name."""
    try:
        with os.scandir(folder) as content:
            entries = sorted(content, key=lambda entry: entry.name)
    except OSError as error:
        raise unreadable(folder, error) from error
    folders, images = [], []
    for entry in entries:
        kind, is_image = _kind(entry), entry.name.lower().endswith(SUFFIXES)
        wanted = kind == "folder" or is_image and kind in ("file", LEADS_NOWHERE)
        if wanted and entry.name.startswith("."):
            left_out.add("hidden", entry.path)
        elif wanted:
            (folders if kind == "folder" else images).append(entry)
        elif kind != "file":
            left_out.add(kind, entry.path)
        elif not entry.name.startswith("."):  # what desktops hide in every folder is nobody's image
            left_out.add(os.path.splitext(entry.name)[1].lower()[:12] or "without a suffix", entry.path)
    return folders, images


def _kind(entry: os.DirEntry) -> str:
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
        missing = entry.is_symlink() and not os.path.exists(entry.path)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise unreadable(entry.path, error) from error
        missing = True
    return LEADS_NOWHERE if missing else "no regular files"


def unreadable(path: str, error: OSError) -> DatasetError:
    """Return the error for a file or folder that the system does not let us look at."""
    return DatasetError(f"{path}: cannot be read ({error.strerror}); make it readable, or remove it")
