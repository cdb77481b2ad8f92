"""Arrays of a foreign source: images and labels are checked and become tensors."""

import numpy as np
import torch

from data.errors import DatasetError

MAX_CLASSES = 65_536  # a larger label is a damaged file, not a class


def checked_images(images: np.ndarray, name: str) -> torch.Tensor:
    """Return images as a tensor uint8 (N,C,H,W). Raises DatasetError, with their `name`, for another kind or shape."""
    allowed = "they must be uint8 (N,H,W) or (N,H,W,C), 1 to 4 channels last"
    if images.dtype != np.uint8:
        raise DatasetError(f"{name} are {images.dtype}; {allowed}")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not 1 <= images.shape[-1] <= 4:
        raise DatasetError(f"{name} have shape {images.shape}; {allowed}")
    if images.size == 0:
        raise DatasetError(f"{name} are empty, of shape {images.shape}; every split needs images")
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def checked_labels(labels: np.ndarray, num_images: int, name: str) -> torch.Tensor:
    """Return labels as a tensor int64 (N,). Raises DatasetError, with their `name`, for another kind or shape."""
    if labels.dtype.kind not in "iu":
        raise DatasetError(f"{name} are {labels.dtype}; they must be integers")
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise DatasetError(f"{name} have {labels.shape[1]} columns (multi-label); one class each is needed")
    if labels.shape not in ((num_images,), (num_images, 1)):
        raise DatasetError(f"{name} have shape {labels.shape} for {num_images} images; they must be (N,) or (N,1)")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MAX_CLASSES:
        raise DatasetError(f"{name} hold {low if low < 0 else high}; they must be 0 to {MAX_CLASSES - 1}")
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))
