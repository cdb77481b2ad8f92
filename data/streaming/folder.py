"""A folder of images that is read while the network trains: which files there are, their classes, and that all decode.

Every file is decoded once before it is first used, which takes as long as an epoch of reading, and never again while
its name, size and modification time stay what they are.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.errors import DatasetError, answering, differing_classes
from data.image_folder import split_folders
from data.image_walk import LOOSE, LeftOut
from data.streaming.file_list import FileList, list_files, save
from data.streaming.image_files import ImageFiles, why_broken
from data.streaming.imagenet import validation_classes

_AT_ONCE = 64  # files that a worker checks before it reports
_SAVE_EVERY = 30.0  # seconds


@dataclass(frozen=True)
class Streaming:
    """How a folder of images is read.

    watch  passes on an iterable and shows how far it is, of how many
    """

    image_size: int = 224
    num_workers: int = 0
    skip_broken: bool = False
    watch: Callable[[Iterable[int], int], Iterator[int]] = lambda done, total: iter(done)


def list_streamed(root: Path, streaming: Streaming, imagenet: bool = False) -> tuple[dict, list[str]]:
    """Return the files and labels of each split, in MedMNIST's layout of names, and the class names.

    root      has train/CLASS/... and test/CLASS/... or val/CLASS/... or both
    imagenet  test/ is left alone, as its labels are not published, and val/ may be flat, with the devkit beside it
    Raises DatasetError if a split is missing, classes differ or a file does not decode.
    """
    folders = split_folders(root, ("train", "val") if imagenet else ("train", "test", "val"))
    tops = [folder.name for folder in folders.values()]
    with answering(f"{root}: cannot be listed", "see that every folder and file can be read"):
        files = list_files(root, tops)
    classes = sorted(_class_folders(files, "train"))
    labels = _labels(root, files, folders, classes, imagenet)
    used = labels >= 0
    left_out = LeftOut(str(files.left_out))
    if not used.all():
        left_out.add(LOOSE, os.path.join(root, os.fsdecode(files.paths[~used][0])), int((~used).sum()))
    left_out.warn(root)
    _check(root, tops, files, np.flatnonzero(used & ~files.whole), streaming)
    broken = np.flatnonzero(used & ~files.whole)
    if len(broken):
        _report_broken(root, files, broken, streaming.skip_broken)
        used &= files.whole

    arrays = {}
    for split, folder in folders.items():
        chosen = np.flatnonzero(_below(files, folder.name) & used)
        if not len(chosen):
            raise DatasetError(f"{folder}: holds no images; put some in a folder for each class")
        arrays[f"{split}_images"] = ImageFiles(str(root), files.paths[chosen], files.sizes[chosen])
        arrays[f"{split}_labels"] = labels[chosen]
    return arrays, [os.fsdecode(name) for name in classes]


def _below(files: FileList, top: str) -> np.ndarray:
    return np.char.startswith(files.paths, top.encode() + b"/") if len(files.paths) else np.zeros(0, bool)


def _class_folders(files: FileList, top: str) -> set[bytes]:
    parts = [folder.split(b"/") for folder in files.folders.tolist()]
    return {names[1] for names in parts if len(names) == 2 and names[0] == top.encode()}


def _labels(root: Path, files: FileList, folders: dict, classes: Sequence[bytes], imagenet: bool) -> np.ndarray:
    """Return each file's place in `classes`, by its folder or by ImageNet's devkit; -1 outside class folders."""
    index = {name: label for label, name in enumerate(classes)}
    labels = np.full(len(files.paths), -1, dtype=np.int64)
    for folder in folders.values():
        here = np.flatnonzero(_below(files, folder.name))
        paths = files.paths[here].tolist()
        found = _class_folders(files, folder.name)
        if imagenet and folder.name == "val" and not found and paths:
            names = validation_classes(root, paths)
            if unknown := sorted(set(names) - set(classes)):
                problem = f"holds images of class {os.fsdecode(unknown[0])}, for which train/ has no folder"
                raise DatasetError(f"{folder}: {problem}; add it, or remove those images")
        else:
            if differing := found ^ set(classes):
                raise differing_classes(folder, folders["train"], map(os.fsdecode, differing))
            names = [path.split(b"/", 2)[1] for path in paths]
            if empty := sorted(found - set(names)):
                raise DatasetError(f"{folder / os.fsdecode(empty[0])}: holds no images; put some in or remove it")
        labels[here] = [index.get(name, -1) for name in names]
    return labels


def _check(root: Path, tops: Sequence[str], files: FileList, unknown: np.ndarray, streaming: Streaming) -> None:
    """Decode the files `unknown`, note in `files.whole` which of them do, and write that down."""
    if not len(unknown):
        return
    from data.streaming.workers import Pool  # torch's loader, where there is something to do

    parts = [unknown[start : start + _AT_ONCE] for start in range(0, len(unknown), _AT_ONCE)]
    requests = (ImageFiles(str(root), files.paths[part], files.sizes[part]) for part in parts)
    results = Pool(which_are_whole, streaming.num_workers).map(requests)

    def progress() -> Iterator[int]:
        saved = time.monotonic()
        for part, whole in zip(parts, results, strict=True):
            files.whole[part] = whole
            if time.monotonic() - saved >= _SAVE_EVERY:  # so that a check that is cut off goes on
                save(root, tops, files)
                saved = time.monotonic()
            yield len(part)

    for _ in streaming.watch(progress(), len(unknown)):
        pass
    save(root, tops, files)


def which_are_whole(files: ImageFiles) -> list[bool]:
    """Return for each file whether it decodes."""
    return [why_broken(files.path(index)) is None for index in range(len(files))]


def _report_broken(root: Path, files: FileList, broken: np.ndarray, skip: bool) -> None:
    first = os.path.join(root, os.fsdecode(files.paths[broken[0]]))
    problem = f"{first}: a broken image ({why_broken(first)})"
    if not skip:
        others = f", and {len(broken) - 1:,} more" if len(broken) > 1 else ""
        raise DatasetError(f"{problem}{others}; replace or remove it, or leave such files out with --skip_broken")
    one = len(broken) == 1
    counted = "1 broken image is left out" if one else f"{len(broken):,} broken images are left out, the first"
    warnings.warn(f"{counted}: {problem}", stacklevel=2)
