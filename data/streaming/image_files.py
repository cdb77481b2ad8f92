"""Image files that stay on the disk: where they are, and their pixels when they are asked for."""

import os
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.limits import huge_images_refused

# What networks for ImageNet are usually normalised with; the pixels of a streamed set are never all at hand.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Files of images below the folder `root`; takes the place of a tensor of images, and is indexed as one.

    paths  relative to `root`, with "/", as the file system spells them: bytes (N,)
    sizes  of the files, int64 (N,)
    """

    root: str
    paths: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: np.ndarray | Tensor | slice) -> "ImageFiles":
        return ImageFiles(self.root, self.paths[chosen], self.sizes[chosen])

    def path(self, index: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[index]))

    def described(self) -> bytes:
        """Return names and sizes, for a fingerprint."""
        return b"\n".join([*self.paths.tolist(), self.sizes.astype("<i8").tobytes()])


def decode(path: str) -> Tensor:
    """Return an image file's pixels, RGB, uint8 (3,H,W), the channels of a pixel together in memory; not to be changed.

    Raises whatever Pillow raises for a file that is missing, broken or huge, and ValueError for more than 8 bits a
    channel.
    """
    from PIL import Image  # only where files are read

    with huge_images_refused():
        # About metadata, palettes and arrays that are not writable, thousands of times.
        warnings.simplefilter("ignore", UserWarning)
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"more than 8 bits a channel ({image.mode})")
            pixels = image if image.mode == "RGB" else image.convert("RGB")
            return torch.from_numpy(np.asarray(pixels)).permute(2, 0, 1)


def pixels_or_reason(path: str) -> Tensor | str:
    """Return what `decode` does, or why the file does not decode, on one line and without its name."""
    try:
        return decode(path)
    except MemoryError:  # no fault of the file
        raise
    except Exception as error:  # what a foreign file makes its reader raise has no list
        text = getattr(error, "strerror", None) or str(error).split(" file '")[0]
        return " ".join(text.split())[:200] or type(error).__name__


def why_broken(path: str) -> str | None:
    """Return why a file does not decode, in a few words; None if it does."""
    found = pixels_or_reason(path)
    return found if isinstance(found, str) else None
