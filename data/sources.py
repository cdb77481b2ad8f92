"""The readers behind `--dataset`: each turns one kind of source into numpy arrays in MedMNIST's layout.

That layout is a dictionary of `train_images`, `train_labels`, `test_images`, `test_labels` and, where the
source has a validation split of its own, `val_images` and `val_labels`; images are (N,H,W) or (N,H,W,C).
Readers answer for files that cannot be read; `data.datasets` checks what was read, once for all sources.
"""

import importlib.util
import io
import os
import socket
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from pathlib import Path

import numpy as np

REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")
OPTIONAL = ("val_images", "val_labels")
DOWNLOAD_TIMEOUT = 30  # seconds without an answer; without it a filtered network looks like a hang

PUBLISHED_CLASSES = {  # in the order of the published labels, so that an .npz needs no torchvision
    "mnist": [
        "0 - zero",
        "1 - one",
        "2 - two",
        "3 - three",
        "4 - four",
        "5 - five",
        "6 - six",
        "7 - seven",
        "8 - eight",
        "9 - nine",
    ],
    "cifar10": "airplane automobile bird cat deer dog frog horse ship truck".split(),
    "cifar100": """
        apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
        camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
        dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
        leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
        otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road
        rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower
        sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
        willow_tree wolf woman worm""".split(),
}


class DatasetError(ValueError):
    """A data set that cannot be used as given; the message is one line: what, where, and what to do."""


@contextmanager
def answering(what: str, way_out: str) -> Iterator[None]:
    """Turn whatever a foreign file makes its reader raise into one line: the ways of failing have no list."""
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DatasetError(f"{what} ({reason}); {way_out}") from error


@contextmanager
def _without_empty_folders(folder: Path) -> Iterator[None]:
    """Remove `folder` and those above it afterwards if they were not there before and are still empty."""
    made = [part for part in (folder, *folder.parents) if not os.path.exists(part)]
    try:
        yield
    finally:
        for part in made:
            with suppress(OSError):  # not empty, or never made
                part.rmdir()


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file in MedMNIST's layout; other arrays in it are not read.

    Raises DatasetError if it is missing, no zip archive, damaged, or lacks an array.
    """
    if not os.path.exists(path):
        raise DatasetError(f"{path}: no such file; check the path")
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        raise DatasetError(f"{path}: not an .npz archive (empty, truncated or another format); get it again")
    with answering(f"{path}: cannot be read", "get it again"), np.load(path, allow_pickle=False) as archive:
        arrays = {key: archive[key] for key in (*REQUIRED, *OPTIONAL) if key in archive}
        found = ", ".join(archive.files) or "nothing"
    missing = [key for key in REQUIRED if key not in arrays]
    missing += [key for key in OPTIONAL if key not in arrays and any(other in arrays for other in OPTIONAL)]
    missing += [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]
    if missing:
        raise DatasetError(
            f"{path}: lacks {', '.join(missing)} (it has {found}); "
            f"it must hold {', '.join(REQUIRED)} and may hold {', '.join(OPTIONAL)}"
        )
    return arrays


def read_published(name: str, root: Path, download: bool = True) -> dict[str, np.ndarray]:
    """Return mnist, cifar10 or cifar100 from `root/NAME.npz`, else from torchvision's files under `root`.

    Files that are missing are downloaded if `download`. Raises DatasetError if a file is damaged or the download fails.
    """
    if os.path.exists(root / f"{name}.npz"):
        return read_npz(root / f"{name}.npz")
    import torchvision.datasets as published  # seconds to import, and not needed beside an .npz

    reader = {"mnist": published.MNIST, "cifar10": published.CIFAR10, "cifar100": published.CIFAR100}[name]
    folder = root / ("MNIST/raw" if name == "mnist" else reader.base_folder)
    way_out = f"put {name}.npz in {root} or the published files in {folder}, in place of damaged ones"
    no_bars = nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO())  # of the downloads
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        named = answering(f"{name}: cannot be read or downloaded", way_out)
        with _without_empty_folders(folder), no_bars, named:
            train, test = (reader(str(root), train=split, download=download) for split in (True, False))
    finally:
        socket.setdefaulttimeout(timeout)
    return dict(
        train_images=np.asarray(train.data),
        train_labels=np.asarray(train.targets),
        test_images=np.asarray(test.data),
        test_labels=np.asarray(test.targets),
    )


def read_digits() -> dict[str, np.ndarray]:
    """Return scikit-learn's 1,797 digits of 8x8 pixels, 0..16 there and round(x * 255 / 16) here.

    Samples 2, 5, 8, ... (599) are the test set, the others (1,198) the training set. The file is ordered by
    writer, so taking every third leaves every writer and every class in both.
    Raises DatasetError if scikit-learn is not installed.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None:
        raise DatasetError("digits: scikit-learn, which they come with, is missing; pip install scikit-learn")
    table_path = Path(package.submodule_search_locations[0], "datasets", "data", "digits.csv.gz")
    with answering("digits: cannot be read from scikit-learn", "install scikit-learn again"):
        if table_path.is_file():  # importing scikit-learn takes over a second, reading its table 10 ms
            table = np.loadtxt(table_path, delimiter=",", dtype=np.uint8)
            pixels, labels = table[:, :-1], table[:, -1]
        else:
            from sklearn.datasets import load_digits

            pixels, labels = load_digits(return_X_y=True)
    images = np.rint(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    is_test = np.arange(len(images)) % 3 == 2
    return dict(
        train_images=images[~is_test],
        train_labels=labels[~is_test],
        test_images=images[is_test],
        test_labels=labels[is_test],
    )


def split_folders(path: Path, splits: Sequence[str] = ("train", "test", "val")) -> dict[str, Path]:
    """Return which of the folders `splits` of `path` holds which split; val/ is the test set where there is no test/.

    Raises DatasetError if the training set or both others are missing.
    """
    folders = {split: path / split for split in splits if os.path.isdir(path / split)}
    if "train" not in folders or len(folders) == 1:
        either = " or ".join(f"{split}/" for split in splits if split != "train")
        raise DatasetError(
            f"{path}: has no train/ with a {either} beside it; put images in "
            f"train/<class>/ and in {either.replace('/', '/<class>/')}"
        )
    if "test" not in folders:
        folders["test"] = folders.pop("val")
    return folders


def read_folder(path: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the arrays and the class names of a folder with train/<class>/... and test/ or val/ likewise.

    With both, test/ is the test set and val/ the validation set. Images stay grey (N,H,W) if all of them are
    (Pillow's mode L), else they become RGB (N,H,W,3). The whole folder is held in memory.
    Raises DatasetError if a split is missing, class names differ between splits, a file is no image, or two
    images differ in size.
    """
    from PIL import Image
    from torchvision.datasets import ImageFolder

    folders = split_folders(path)
    listings = {}
    for split, folder in folders.items():
        with answering(f"{folder}: cannot be listed", "put images in a folder for each class"):
            listings[split] = ImageFolder(str(folder))
        differing = set(listings[split].classes) ^ set(listings["train"].classes)
        if differing:
            raise DatasetError(
                f"{folder}: its class folders are not those of {folders['train']} "
                f"({', '.join(sorted(differing))}); make them the same"
            )

    first_file = first_size = None
    all_grey = True
    for file, _ in (sample for listing in listings.values() for sample in listing.samples):
        with answering(f"{file}: not a readable image", "replace or remove it"), Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise DatasetError(f"{file}: more than 8 bits a channel ({image.mode}); convert it to 8 bits")
            all_grey = all_grey and image.mode == "L"
            size = image.size
        first_file, first_size = first_file or file, first_size or size
        if size != first_size:
            raise DatasetError(
                f"{file}: {size[0]}x{size[1]} pixels, but {first_file} has "
                f"{first_size[0]}x{first_size[1]}; make all images one size, or give --stream"
            )

    width, height = first_size
    arrays = {}
    for split, listing in listings.items():
        too_large = f"{folders[split]}: too large to hold in memory"
        with answering(too_large, "give --stream, or use fewer or smaller images"):
            images = np.empty((len(listing), height, width) + (() if all_grey else (3,)), np.uint8)
        for index, (file, _) in enumerate(listing.samples):
            with answering(f"{file}: a damaged image", "replace or remove it"), Image.open(file) as image:
                images[index] = np.asarray(image if all_grey else image.convert("RGB"))
        arrays[f"{split}_images"], arrays[f"{split}_labels"] = images, np.asarray(listing.targets)
    return arrays, listings["train"].classes
