"""What inference must know of the images that a network takes, and images of one's own that are brought to it."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.arrays import checked_images, checked_labels
from data.datasets import Dataset
from data.errors import DatasetError, answering
from data.image_walk import LeftOut, walk_images
from data.limits import check_size, huge_images_refused
from data.sources import read_arrays
from data.streaming.image_files import ImageFiles


@dataclass(frozen=True)
class Inputs:
    """How images become inputs: the shape (C, H, W), mean and std (C,) in units of [0, 1], and the names of classes.

    streamed  images have any size, and are resized and cut as those of a streamed data set
    """

    input_shape: tuple[int, int, int]
    mean: torch.Tensor
    std: torch.Tensor
    classes: list[str]
    streamed: bool = False

    @classmethod
    def of(cls, dataset: Dataset) -> "Inputs":
        """Return those of a data set."""
        return cls(dataset.input_shape, dataset.mean, dataset.std, dataset.classes, dataset.streamed)

    @classmethod
    def from_text(cls, text: str) -> "Inputs":
        """Read what `to_text` returned. Raises ValueError if it is something else."""
        try:
            plain = json.loads(text)
            shape, classes = plain["input_shape"], plain["classes"]
            mean, std = (torch.tensor(plain[name], dtype=torch.float32) for name in ("mean", "std"))
            right = len(shape) == 3 and all(type(size) is int and size > 0 for size in shape)
            right = right and mean.shape == std.shape == (shape[0],)
            right = right and type(classes) is list and all(type(name) is str for name in classes)
            if not right or not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
                raise ValueError("shapes or values are impossible")
            return cls(tuple(shape), mean, std, classes, bool(plain["streamed"]))
        except (ArithmeticError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(f"what it says of its inputs cannot be read ({error})") from None

    def to_text(self) -> str:
        """Return them as JSON; a float32 reads back as it is."""
        plain = {**vars(self), "mean": self.mean.tolist(), "std": self.std.tolist()}
        return json.dumps(plain, separators=(",", ":"))

    @property
    def num_classes(self) -> int:
        return len(self.classes)


@dataclass(frozen=True, eq=False)
class Queries:
    """Images to classify, uint8 (N,C,H,W) or files, their names, and their labels, int64 (N,), if they are known."""

    images: torch.Tensor | ImageFiles
    names: list[str]
    labels: torch.Tensor | None = None


def read_queries(path: Path, inputs: Inputs) -> Queries:
    """Return the images in an .npz file (`images`, or else `test_images`) or in a folder, whatever lies below it.

    Labels are `labels` or `test_labels`; those of a folder follow from its class folders, if all images lie in such.
    Raises DatasetError if there are none, or they are not what `inputs` says.
    """
    if path.is_dir():
        return _read_folder(path, inputs)
    arrays = read_arrays(path, ("images", "labels", "test_images", "test_labels"))
    prefix = next((prefix for prefix in ("", "test_") if f"{prefix}images" in arrays), None)
    if prefix is None:
        raise DatasetError(f"{path}: has neither images nor test_images; store them as uint8 (N,H,W) or (N,H,W,C)")
    images = checked_images(arrays[f"{prefix}images"], f"{path}: {prefix}images")
    if tuple(images.shape[1:]) != inputs.input_shape:
        found, wanted = ("x".join(map(str, shape)) for shape in (images.shape[1:], inputs.input_shape))
        raise DatasetError(f"{path}: {prefix}images are {found}; the network takes {wanted}")
    labels = arrays.get(f"{prefix}labels")
    if labels is not None:
        labels = checked_labels(labels, len(images), f"{path}: {prefix}labels")
    return Queries(images, [str(index) for index in range(len(images))], labels)


def _read_folder(top: Path, inputs: Inputs) -> Queries:
    left_out, paths = LeftOut(), []
    for _, _, entries in walk_images(top, left_out):
        paths += [os.path.relpath(entry.path, top) for entry in entries]
    left_out.warn(top)
    if not paths:
        raise DatasetError(f"{top}: holds no images; give an .npz file or a folder of images")
    tops = [os.path.dirname(path).split(os.sep)[0] for path in paths]
    labels = torch.tensor([inputs.classes.index(name) for name in tops]) if set(tops) <= set(inputs.classes) else None
    if inputs.streamed:
        names = np.array([os.fsencode(path) for path in paths], dtype=object)
        return Queries(ImageFiles(os.fspath(top), names, np.zeros(len(paths), np.int64)), paths, labels)
    return Queries(_pixels(top, paths, inputs.input_shape), paths, labels)


def _pixels(top: Path, paths: list[str], shape: tuple[int, int, int]) -> torch.Tensor:
    from PIL import Image

    channels, height, width = shape
    if channels not in (1, 3):
        problem = f"the network takes {channels} channels, which image files do not have"
        raise DatasetError(f"{top}: {problem}; give an .npz file")
    check_size(top, len(paths) * math.prod(shape), "give fewer images")
    images = np.empty((len(paths), height, width, channels), np.uint8)
    with huge_images_refused():
        for index, file in enumerate(top / path for path in paths):
            with answering(f"{file}: not a readable image", "replace or remove it"), Image.open(file) as image:
                if image.mode.startswith(("I", "F")) or image.size != (width, height):
                    found = f"{image.size[0]}x{image.size[1]}, mode {image.mode}"
                    raise DatasetError(f"{file}: {found}; the network takes {width}x{height} of 8 bits a channel")
                pixels = image.convert("L" if channels == 1 else "RGB")
                images[index] = np.asarray(pixels).reshape(height, width, channels)
    return checked_images(images, str(top))
