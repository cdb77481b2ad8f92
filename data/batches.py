"""Batches on the training device: shuffled, augmented on pixels, then normalised.

Images stay uint8 on the device. All randomness of an epoch is drawn beforehand on the CPU, so every device
sees the same batches, and nothing in an epoch waits for the device.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F

PADDING = 4  # pixels of zeros on each side before the random crop, as usual for CIFAR

Batch = tuple[torch.Tensor, torch.Tensor]


class BatchSource:
    """What all batches have in common: labels, how samples make up batches, and how pixels are normalised.

    labels       int64 (N,)
    mean, std    (C,), in units of [0, 1]
    batch_size   samples a batch; the last, smaller batch is kept
    smallest_batch  a last batch of an epoch below this size joins the one before it: 2 where a network has BatchNorm,
                 which cannot train on a single sample
    augment      change samples at random in an epoch
    device       where batches are wanted
    channels_last  lay x out with the channels of a pixel together, which convolutions take faster; for networks
                 that begin with one
    Raises ValueError for a batch size below 1.
    """

    streamed = False  # True: batches come from files, so no CUDA graph can hold a step

    def __init__(
        self,
        labels: torch.Tensor,
        mean: torch.Tensor,
        std: torch.Tensor,
        batch_size: int,
        augment: bool = False,
        device: torch.device | str = "cpu",
        smallest_batch: int = 1,
        channels_last: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size}: must be at least 1")
        self.device = torch.device(device)
        self.labels = labels.to(self.device)
        self.batch_size = batch_size
        self.augment = augment
        self.smallest_batch = smallest_batch
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        # (x / 255 - mean) / std == x * scale + shift
        mean, std = mean.double().view(-1, 1, 1), std.double().view(-1, 1, 1)
        self._scale = (1 / (255 * std)).to(self.device, torch.float32)
        self._shift = (-mean / std).to(self.device, torch.float32)

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self, num_samples: int) -> list[slice]:
        """Return which of an epoch's `num_samples` samples, in its order, make up each batch."""
        starts = list(range(0, num_samples, self.batch_size))
        if len(starts) > 1 and num_samples - starts[-1] < self.smallest_batch:
            starts.pop()
        return [slice(start, end) for start, end in zip(starts, [*starts[1:], num_samples])]

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        # In place on the float copy: on the CPU four times as fast as torch.addcmul, which broadcasts slowly.
        return images.to(torch.float32, memory_format=self._layout).mul_(self._scale).add_(self._shift)


class Batches(BatchSource):
    """Images and labels on a device, and ways to go through them.

    images       uint8 (N,C,H,W); moved to the device once, not copied if they are on it already
    augment      zero-pad, random crop and random horizontal flip, per sample, in an epoch
    The others are those of `BatchSource`. Raises ValueError for a wrong dtype or shape.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, *more, **options) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(f"images are {images.dtype} {tuple(images.shape)}: must be uint8 (N,C,H,W)")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)}: must be int64 ({len(images)},)")
        super().__init__(labels, *more, **options)
        self.images = images.to(self.device).contiguous()

    def draw(self, indices: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Draw an epoch over the samples `indices` (int64, CPU) from the CPU `generator`.

        Returns, on the device, the samples in random order, int64 (N,), and how each is augmented, int64 (3,N),
        or None if this object does not augment.
        """
        order = indices[torch.randperm(len(indices), generator=generator)].to(self.device)
        draws = draw_augmentation(len(indices), generator).to(self.device) if self.augment else None
        return order, draws

    def batch(self, chosen: torch.Tensor, draws: torch.Tensor | None = None) -> Batch:
        """Return the samples `chosen` (B,), augmented by `draws` (3,B), both on the device.

        x is float32 (B,C,H,W), normalised, and y int64 (B,).
        """
        images = self.images.index_select(0, chosen)
        if draws is not None:
            images = crop_and_flip(images, *draws)
        return self._normalised(images), self.labels.index_select(0, chosen)

    def along(self, order: torch.Tensor, draws: torch.Tensor | None, parts: Sequence[slice]) -> Iterator[Batch]:
        """Iterate over `parts` of an epoch that `draw` has drawn."""
        return (self.batch(order[part], None if draws is None else draws[:, part]) for part in parts)

    def in_order(self, indices: torch.Tensor | None = None) -> Iterator[Batch]:
        """Iterate over the samples `indices`, or all, in this order and without augmentation: for evaluation.

        Yields x and y as `batch`.
        """
        if indices is not None:
            return (self.batch(chosen) for chosen in indices.to(self.device).split(self.batch_size) if len(chosen))
        parts = zip(self.images.split(self.batch_size), self.labels.split(self.batch_size), strict=True)
        return ((self._normalised(images), labels) for images, labels in parts)


def draw_augmentation(num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """Draw each sample's top and left in the padded image, 0..2*PADDING, and flip, 0 or 1: int64 (3,N)."""
    crops = torch.randint(0, 2 * PADDING + 1, (2, num_samples), generator=generator)
    flips = torch.randint(0, 2, (1, num_samples), generator=generator)
    return torch.cat([crops, flips])


def crop_and_flip(images: torch.Tensor, top: torch.Tensor, left: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
    """Zero-pad each image of (B,C,H,W), cut H x W at its `top`, `left`, and mirror it where `flip` is 1.

    `top`, `left` and `flip` are int64 (B,), on the device of the images; mirrored is left to right.
    One gather does the whole batch: on the CPU twice as fast as indexing unfolded views.
    """
    batch, channels, height, width = images.shape
    row, column = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    rows = top[:, None] + row  # (B,H) in the padded image
    columns = left[:, None] + torch.where(flip[:, None] == 1, width - 1 - column, column)  # (B,W)
    pixels = rows[:, :, None] * (width + 2 * PADDING) + columns[:, None, :]
    padded = F.pad(images, (PADDING,) * 4).flatten(2)
    pixels = pixels.view(batch, 1, -1).expand(-1, channels, -1)
    return padded.gather(2, pixels).view(batch, channels, height, width)
