"""Data sets: a name or a path becomes uint8 images (or their files), labels and the statistics to normalise them.

Also here: the one split of the official test set into validation and test samples.
"""

import difflib
import hashlib
import math
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.arrays import checked_images, checked_labels
from data.errors import DatasetError
from data.image_folder import read_folder
from data.published import PUBLISHED_CLASSES, load_published
from data.seeding import frozen_generator
from data.sources import missing_from, read_digits, read_npz
from data.streaming.folder import Streaming, list_streamed
from data.streaming.image_files import MEAN, STD, ImageFiles

NAMES = (*PUBLISHED_CLASSES, "digits", "imagenet")


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Images uint8 (N,C,H,W) and labels int64 (N,) of each split, all on the CPU.

    Of a streamed data set the images are ImageFiles, cut to `image_size` pixels of a side when they are read.
    `mean` and `std` are float32 (C,), of the training images' pixels in units of [0, 1].
    `val_images` and `val_labels` are None unless the source has a validation split of its own.
    """

    train_images: torch.Tensor | ImageFiles
    train_labels: torch.Tensor
    test_images: torch.Tensor | ImageFiles
    test_labels: torch.Tensor
    val_images: torch.Tensor | ImageFiles | None = None
    val_labels: torch.Tensor | None = None
    mean: torch.Tensor
    std: torch.Tensor
    classes: list[str]
    name: str
    image_size: int | None = None

    @property
    def streamed(self) -> bool:
        """True if images are read from their files as they are needed."""
        return self.image_size is not None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return (3, self.image_size, self.image_size) if self.streamed else tuple(self.train_images.shape[1:])

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are 0 .. num_classes - 1."""
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """BLAKE2b (16 bytes, hex) over shape, pixels and labels of every split, whatever their source.

        Of a streamed data set, whose pixels would take an epoch to read, over names and sizes of files, and labels.
        """
        digest = hashlib.blake2b(digest_size=16)
        for split in ("train", "val", "test"):
            images, labels = getattr(self, f"{split}_images"), getattr(self, f"{split}_labels")
            shape = images if images is None else len(images) if self.streamed else tuple(images.shape)
            digest.update(f"{split} {shape}\n".encode())
            if images is not None:
                digest.update(images.described() if self.streamed else images.contiguous().numpy())
                digest.update(np.ascontiguousarray(labels.numpy(), dtype="<i8"))
        return digest.hexdigest()


class EvaluationSplit(NamedTuple):
    """Validation and test samples: uint8 (N,C,H,W) or files, int64 (N,). `fingerprint` tells which went where."""

    val_images: torch.Tensor | ImageFiles
    val_labels: torch.Tensor
    test_images: torch.Tensor | ImageFiles
    test_labels: torch.Tensor
    fingerprint: str


def load_dataset(
    name_or_path: str | os.PathLike,
    root: str | os.PathLike = "./data/downloads",
    download: bool = True,
    streaming: Streaming | None = None,
) -> Dataset:
    """Load a data set whole into memory, or list the files of one that is streamed.

    `name_or_path` is mnist, cifar10, cifar100 (`root/NAME.npz`, else torchvision's files under `root`,
    downloaded when missing if `download`), digits (scikit-learn's), an .npz file in MedMNIST's layout, or a folder as
    ImageFolder reads it, streamed with `streaming`; imagenet (`root/train` and `root/val`) always is. Raises
    DatasetError (one line) for an unknown name and for files that are missing, damaged or of a wrong kind.
    """
    name = str(name_or_path)
    path, root = (Path(os.path.expanduser(given)) for given in (name, root))  # a shell leaves --dataset=~/x as it is
    try:
        return _load(name, path, root, download, streaming)
    except MemoryError as error:
        reason = " ".join(str(error).split()) or "out of memory"
        way_out = "use fewer or smaller images, or a folder of images with --stream"
        raise DatasetError(f"{name}: too large to hold in memory ({reason}); {way_out}") from error


def _load(name: str, path: Path, root: Path, download: bool, streaming: Streaming | None) -> Dataset:
    if name == "imagenet":
        streaming = streaming or Streaming()
        return _checked(*list_streamed(root, streaming, imagenet=True), name, f"{name} in {root}", streaming)
    if name in PUBLISHED_CLASSES:
        beside = root / f"{name}.npz"
        arrays = read_npz(beside) if os.path.exists(beside) else load_published(name, root, download)
        return _checked(arrays, PUBLISHED_CLASSES[name], name, f"{name} in {root}")
    if name == "digits":
        return _checked(read_digits(), [str(digit) for digit in range(10)], name, name)
    if streaming is not None:
        if not os.path.isdir(path):
            raise DatasetError(f"--stream: {name} is no folder; give one with train/ and test/ or val/")
        return _checked(*list_streamed(path, streaming), path.resolve().name, str(path), streaming)
    if os.path.isdir(path):
        return _checked(*read_folder(path), path.resolve().name, str(path))
    if path.suffix == ".npz":
        return _checked(read_npz(path), None, path.stem, str(path))
    problem = "neither an .npz file nor a folder" if os.path.exists(path) else "no such data set or folder"
    near = difflib.get_close_matches(name.lower(), NAMES, 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    ways = f"give {', '.join(NAMES)}, an .npz file, or a folder with train/ and test/ or val/"
    raise DatasetError(f"{name}: {problem}{hint}; {ways}")


def from_arrays(arrays: dict[str, np.ndarray], name: str, classes: list[str] | None = None) -> Dataset:
    """Return the Dataset of `arrays` in MedMNIST's layout, as an .npz file would hold them.

    arrays  train_images, train_labels, test_images, test_labels, and perhaps val_images, val_labels; images uint8
            (N,H,W) or (N,H,W,C)
    classes  their names; None: 0, 1, ... up to the largest training label
    Raises DatasetError for arrays that cannot be used, and for a name that cannot begin that of a run folder.
    """
    if name in ("", ".", "..") or re.search(r"[/\\\0]", name):
        raise DatasetError(f"the data set's name is {name!r}: it begins the names of run folders: give a word")
    if missing := missing_from(arrays):
        raise DatasetError(f"{name}: {missing[0]} is missing; give uint8 images and their labels")
    # Copies: whoever goes on working in these arrays does not change the data of a run.
    return _checked({key: np.asarray(value).copy() for key, value in arrays.items()}, classes, name, name)


def channel_statistics(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation, float32 (C,), of uint8 images (N,C,H,W) in units of [0, 1].

    Sums are exact integers, so neither depends on the order of images or on the number of threads.
    A constant channel gets std 1: normalised it is zero, not a division by zero.
    """
    mean, std = [], []
    for channel in images.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256).tolist()
        total = sum(counts)
        first = sum(value * count for value, count in enumerate(counts))
        second = sum(value * value * count for value, count in enumerate(counts))
        mean.append(first / (255 * total))
        std.append(math.sqrt(total * second - first * first) / (255 * total) or 1.0)
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)


def default_validation_size(num_test: int) -> int:
    """Return how many of `num_test` test samples validate by default: 3000, or 30% of a small test set."""
    return min(3000, max(1, num_test * 3 // 10))


def split_validation(dataset: Dataset, size: int, seed: int) -> EvaluationSplit:
    """Split the official test set, once for all rounds, into `size` validation samples and test samples.

    Samples stay in the order of the test set. A data set with a validation split of its own keeps that and
    its whole test set; `size` then has no effect. Raises DatasetError if `size` is below 1 or leaves no test.
    """
    images, labels, num_test = dataset.test_images, dataset.test_labels, len(dataset.test_labels)
    if dataset.val_images is not None:
        fingerprint = _fingerprint_of(np.arange(0), np.arange(num_test))
        return EvaluationSplit(dataset.val_images, dataset.val_labels, images, labels, fingerprint)
    if not 1 <= size < num_test:
        reason = f"{dataset.name} has {num_test} test samples and some must remain for testing"
        raise DatasetError(f"validation size {size}: must be 1 to {num_test - 1}, as {reason}")
    order = frozen_generator(seed, "validation split").permutation(num_test)
    val, test = np.sort(order[:size]), np.sort(order[size:])
    return EvaluationSplit(images[val], labels[val], images[test], labels[test], _fingerprint_of(val, test))


def _fingerprint_of(val: np.ndarray, test: np.ndarray) -> str:
    digest = hashlib.blake2b(f"{len(val)} {len(test)}\n".encode(), digest_size=16)
    digest.update(np.concatenate([val, test]).astype("<i8"))
    return digest.hexdigest()


def _checked(
    arrays: dict[str, np.ndarray], classes: list[str] | None, name: str, source: str, streaming: Streaming | None = None
) -> Dataset:
    """Return the Dataset of arrays in MedMNIST's layout; no `classes` stand for max training label + 1."""
    tensors = {}
    for split in ("train", "val", "test"):
        if f"{split}_images" not in arrays:
            continue
        images = arrays[f"{split}_images"]
        if streaming is None:
            images = checked_images(images, f"{source}: {split}_images")
        labels = checked_labels(arrays[f"{split}_labels"], len(images), f"{source}: {split}_labels")
        if classes is None:
            classes = [str(label) for label in range(int(labels.max()) + 1)]
        if labels.max() >= len(classes):
            problem = f"holds {labels.max()}, outside the {len(classes)} classes 0 to {len(classes) - 1}"
            raise DatasetError(f"{source}: {split}_labels {problem}; correct the labels")
        if streaming is None and images.shape[1:] != tensors.get("train_images", images).shape[1:]:
            shape, of_training = tuple(images.shape[1:]), tuple(tensors["train_images"].shape[1:])
            problem = f"{split}_images are {shape} (C,H,W), but train_images {of_training}"
            raise DatasetError(f"{source}: {problem}; make all one shape")
        tensors[f"{split}_images"], tensors[f"{split}_labels"] = images, labels
    if len(classes) < 2 or tensors["train_labels"].min() == tensors["train_labels"].max():
        raise DatasetError(f"{source}: train_labels hold one class; there must be 2 or more to tell apart")
    if "val_images" not in tensors and len(tensors["test_images"]) < 2:
        raise DatasetError(f"{source}: test_images hold one image; give 2 or more, to validate and to test")
    usual = torch.tensor(MEAN), torch.tensor(STD)
    mean, std = usual if streaming else channel_statistics(tensors["train_images"])
    image_size = streaming and streaming.image_size
    return Dataset(**tensors, mean=mean, std=std, classes=list(classes), name=name, image_size=image_size)
