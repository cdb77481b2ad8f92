"""A folder of images, train/<class>/... and test/ or val/ likewise, read into memory as a whole."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.errors import DatasetError, answering, differing_classes
from data.image_walk import LOOSE, LeftOut, walk_images
from data.limits import check_size, huge_images_refused


def split_folders(path: Path, splits: Sequence[str] = ("train", "test", "val")) -> dict[str, Path]:
    """Return which of the folders `splits` of `path` holds which split; val/ is the test set where there is no test/.

    Raises DatasetError if the training set or both others are missing.
    """
    folders = {split: path / split for split in splits if os.path.isdir(path / split)}
    if "train" not in folders or len(folders) == 1:
        either = " or ".join(f"{split}/" for split in splits if split != "train")
        way_out = f"put images in train/<class>/ and in {either.replace('/', '/<class>/')}"
        raise DatasetError(f"{path}: has no train/ with a {either} beside it; {way_out}")
    if "test" not in folders:
        folders["test"] = folders.pop("val")
    return folders


def read_folder(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays and the class names of a folder with train/<class>/... and test/ or val/ likewise.

    With both, test/ is the test set and val/ the validation set. Images stay grey (N,H,W) if all of them are
    (Pillow's mode L), else they become RGB (N,H,W,3). Classes and images have the order of torchvision's ImageFolder.
    Raises DatasetError if a split is missing, class names differ between splits, a file is no image, two images differ
    in size, or all together take more than a data set may.
    """
    from PIL import Image

    folders, listings, left_out = split_folders(path), {}, LeftOut()
    for split, folder in folders.items():
        listings[split] = _list_classes(folder, left_out)
        if differing := listings[split].keys() ^ listings["train"].keys():
            raise differing_classes(folder, folders["train"], differing)
    left_out.warn(path)

    files = {split: [file for paths in listing.values() for file in paths] for split, listing in listings.items()}
    with huge_images_refused():
        every_file = [file for paths in files.values() for file in paths]
        (width, height), all_grey = _common_size(every_file)
        shape = (height, width) if all_grey else (height, width, 3)
        check_size(path, len(every_file) * int(np.prod(shape)), "give --stream")
        arrays = {}
        for split, paths in files.items():
            counts = [len(paths) for paths in listings[split].values()]
            arrays[f"{split}_labels"] = np.repeat(np.arange(len(counts)), counts)
            arrays[f"{split}_images"] = images = np.empty((len(paths), *shape), np.uint8)
            for index, file in enumerate(paths):
                with answering(f"{file}: a damaged image", "replace or remove it"), Image.open(file) as image:
                    images[index] = np.asarray(image if all_grey else image.convert("RGB"))
    return arrays, list(listings["train"])


def _list_classes(folder: Path, left_out: LeftOut) -> dict[str, list[str]]:
    """Return the images of each class of a split, all in the order of torchvision's ImageFolder."""
    top, classes = str(folder), {}  # name -> folder -> paths of the images in it
    for inside, _, entries in walk_images(top, left_out):
        paths = [entry.path for entry in entries]
        if inside == top:
            if paths:
                left_out.add(LOOSE, paths[0], len(paths))
            continue
        classes.setdefault(os.path.relpath(inside, top).split(os.sep)[0], {})[inside] = paths
    empty = [name for name, found in classes.items() if not any(found.values())]
    if empty or not classes:
        reason = f"class {empty[0]} holds no images" if empty else "it has no class folders"
        raise DatasetError(f"{folder}: cannot be listed ({reason}); put images in a folder for each class")
    listing = {}
    for name, found in sorted(classes.items()):
        # Folders by their whole path, so that a-b comes before a/b: not the order of the walk.
        listing[name] = [path for _, paths in sorted(found.items()) for path in paths]
    return listing


def _common_size(files: Sequence[str]) -> tuple[tuple[int, int], bool]:
    """Return width and height of all images, by their headers, and whether all are grey."""
    from PIL import Image

    first_size, all_grey = None, True
    for file in files:
        with answering(f"{file}: not a readable image", "replace or remove it"), Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise DatasetError(f"{file}: more than 8 bits a channel ({image.mode}); convert it to 8 bits")
            all_grey = all_grey and image.mode == "L"
            size = image.size
        first_size = first_size or size
        if size != first_size:
            problem = f"{size[0]}x{size[1]} pixels, but {files[0]} has {first_size[0]}x{first_size[1]}"
            raise DatasetError(f"{file}: {problem}; make all images one size, or give --stream")
    return first_size, all_grey
