"""Batches that are read from image files while the network trains, with the interface of data.batches.

All randomness of an epoch is drawn beforehand: the order, and a seed for each place in it, from which that place's
crop and flip follow. So neither the number of workers nor their pace changes a batch. Pixels travel as uint8 and are
normalised on the device.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import default_collate

from data.batches import Batch, BatchSource
from data.errors import DatasetError
from data.streaming.image_files import ImageFiles, pixels_or_reason
from data.streaming.workers import Pool

Request = tuple[ImageFiles, Tensor | None]  # files, and a seed for each, int64 (B,); None: not augmented

_STRIP = 32  # times as long as wide: more of an image is not resized


class Reader:
    """Reads image files and cuts them to `image_size`: uint8 (B,3,S,S); a string if one does not decode.

    With seeds a random part of 8 to 100 % of the area is resized and mirrored half the time; else the shorter edge
    is resized to 256/224 of the size and the centre cut out. These are the usual ways for ImageNet.
    """

    def __init__(self, image_size: int):
        from torchvision.transforms import v2  # takes a second, so only for streamed data

        self._crop, self._flip = v2.RandomResizedCrop(image_size), v2.RandomHorizontalFlip()
        self._resize, self._cut = v2.functional.resized_crop_image, v2.functional.center_crop
        self._plain = v2.Compose([v2.Resize(round(image_size * 256 / 224)), v2.CenterCrop(image_size)])

    def __call__(self, request: Request) -> Tensor | str:
        files, seeds = request
        images = []
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            for place in range(len(files)):
                image = pixels_or_reason(files.path(place))
                if isinstance(image, str):
                    return f"{files.path(place)}: cannot be read ({image})"
                images.append(self._centre(image) if seeds is None else self._augmented(image, int(seeds[place])))
        return default_collate(images)  # in a worker it writes to shared memory at once

    def _centre(self, image: Tensor) -> Tensor:
        # Of a strip, a resized copy could take many times the memory of the file; only its middle is shown.
        most = [min(size, _STRIP * min(image.shape[1:])) for size in image.shape[1:]]
        return self._plain(self._cut(image, most) if most != list(image.shape[1:]) else image)

    def _augmented(self, image: Tensor, seed: int) -> Tensor:
        torch.default_generator.manual_seed(seed)
        # The same as self._crop(image), whose way through torchvision's dispatcher takes as long as the resizing.
        part = self._crop.make_params([image])
        return self._flip(self._resize(image, **part, size=self._crop.size, antialias=True))


def reading_pool(image_size: int, num_workers: int, device: torch.device) -> Pool:
    """Return worker processes that read image files; those of training, validation and test share one."""
    return Pool(Reader(image_size), num_workers, pin_memory=device.type == "cuda")


class StreamedBatches(BatchSource):
    """Image files and labels int64 (N,), and ways to go through them, which are those of `Batches`.

    pool  reads the files: see `reading_pool`. It serves one iteration at a time
    The others are those of `BatchSource`. A file that no longer decodes raises DatasetError when its batch is due.
    """

    streamed = True

    def __init__(self, files: ImageFiles, labels: Tensor, *more, pool: Pool, **options):
        super().__init__(labels, *more, **options)
        self.files, self._pool = files, pool
        self.labels = labels.cpu()  # where the files' names are

    def draw(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Draw an epoch: the samples in random order, int64 (N,), and a seed for each place, int64 (1,N), or None."""
        order = indices[torch.randperm(len(indices), generator=generator)]
        seeds = torch.randint(2**63 - 1, (1, len(indices)), generator=generator) if self.augment else None
        return order, seeds

    def along(self, order: Tensor, draws: Tensor | None, parts: Sequence[slice]) -> Iterator[Batch]:
        return self._read((order[part], None if draws is None else draws[0, part]) for part in parts)

    def in_order(self, indices: Tensor | None = None) -> Iterator[Batch]:
        indices = torch.arange(len(self)) if indices is None else indices
        return self._read((chosen, None) for chosen in indices.split(self.batch_size) if len(chosen))

    def _read(self, wanted: Iterable[tuple[Tensor, Tensor | None]]) -> Iterator[Batch]:
        labels = []  # of the batches under way, in their order

        def requests() -> Iterator[Request]:
            for chosen, seeds in wanted:
                labels.append(self.labels[chosen])
                yield self.files[chosen.numpy()], seeds

        for images in self._pool.map(requests()):
            if isinstance(images, str):
                raise DatasetError(f"{images}; replace it, then the same command goes on")
            x = self._normalised(images.to(self.device, non_blocking=True))
            yield x, labels.pop(0).to(self.device, non_blocking=True)
