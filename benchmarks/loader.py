"""Images per second that a core reads for training, against decoding them and nothing else, in one run.

    python -m benchmarks.loader [--folder DIR] [--images 512] [--repeats 7] [--workers 1]

decoding    Pillow opens and decodes each file to RGB, one process: the floor
training    this project's reading for training in one process: decoding, random crop, resize, flip, one batch tensor
evaluation  likewise with resize and center crop
loader      likewise for training in worker processes, up to uint8 batches in the training process, per worker; what
            comes then, the way to the device and normalising, is the device's work
checking    what a start does once with every file

The ways take turns; ratios are taken within a turn; median and range are printed. Without --folder, JPEGs of the size
of ImageNet's are made up: 500x375, 375x500 and 500x333 pixels, quality 85 to 95, 60 to 150 kB.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.command_line import one_line
from benchmarks.throughput import describe, time_turns
from data.image_walk import SUFFIXES
from data.streaming.batches import Reader, reading_pool
from data.streaming.folder import which_are_whole
from data.streaming.image_files import ImageFiles
from utils.run.argument_types import whole
from utils.system.errors import UsageError
from utils.training.device import describe_device, set_up_device

BATCH = 128


def make_up(folder: Path, count: int) -> None:
    """Write JPEGs with coarse shapes, finer ones on them, and noise."""
    draw = np.random.RandomState(0)
    for index in range(count):
        width, height = [(500, 375), (375, 500), (500, 333)][index % 3]
        picture = np.zeros((height, width, 3))
        for cell, strength in ((60, 0.6), (12, 0.3)):
            coarse = draw.randint(0, 256, (height // cell + 1, width // cell + 1, 3)).astype(np.uint8)
            picture += strength * np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
        picture += draw.randint(-10, 26, picture.shape)
        quality = 85 + index % 11
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{index:05d}.jpg", quality=quality)


def find(folder: Path, count: int) -> ImageFiles:
    """Return `count` of the images below `folder`, evenly spread over them."""
    paths = sorted(p for p in folder.rglob("*") if p.name.lower().endswith(SUFFIXES))
    if not paths:
        raise UsageError(f"--folder is {folder}, which holds no images: name another")
    paths = [paths[place] for place in np.linspace(0, len(paths) - 1, min(count, len(paths))).astype(int)]
    names = np.array([os.fsencode(path.relative_to(folder)) for path in paths])
    return ImageFiles(str(folder), names, np.array([path.stat().st_size for path in paths]))


def decode_alone(files: ImageFiles) -> None:
    for index in range(len(files)):
        with Image.open(files.path(index)) as image:
            image.load() if image.mode == "RGB" else image.convert("RGB")


def ways(files: ImageFiles, image_size: int, workers: int) -> dict[str, Callable[[], object]]:
    """Return ways to go once through `files`."""
    reader, pool = Reader(image_size), reading_pool(image_size, workers, torch.device("cpu"))
    seeds = torch.arange(len(files))
    parts = [slice(start, start + BATCH) for start in range(0, len(files), BATCH)]
    plain, augmented = ([(files[part], seeds[part] if drawn else None) for part in parts] for drawn in (False, True))
    return {
        "decoding": lambda: decode_alone(files),
        "training": lambda: [reader(request) for request in augmented],
        "evaluation": lambda: [reader(request) for request in plain],
        "loader": lambda: [images.shape for images in pool.map(augmented)],
        "checking": lambda: which_are_whole(files),
    }


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loader", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="JPEGs to read (default: made-up ones)")
    parser.add_argument("--images", type=whole(1), default=512, help="how many (default: 512)")
    parser.add_argument("--image_size", type=whole(1), default=224, help="pixels of a side (default: 224)")
    parser.add_argument("--workers", type=whole(1), default=1, help="loader processes (default: 1)")
    parser.add_argument("--repeats", type=whole(1), default=7, help="turns (default: 7)")
    args = parser.parse_args(argv)
    device = set_up_device("cpu", "fp32", 1)
    with tempfile.TemporaryDirectory() as made:
        if args.folder is None:
            make_up(Path(made), args.images)
        with one_line(parser):
            files = find(args.folder or Path(made), args.images)
        todo = ways(files, args.image_size, args.workers)
        loops = {name: (run, 1) for name, run in todo.items()}
        rates = time_turns(loops, args.repeats, 1, len(files), device)  # before, the cache is filled, workers start
        rates["loader"] = [rate / args.workers for rate in rates["loader"]]
    size = files.sizes.mean() / 1000
    print(f"{len(files)} files of {size:,.0f} kB, cut to {args.image_size} pixels, {describe_device(device)}")
    print(f"images per second and process, median (range) of {args.repeats} turns")
    for name, values in rates.items():
        ratios = [a / b for a, b in zip(values, rates["decoding"], strict=True)]
        said = "" if name == "decoding" else f"{describe(ratios, '.2f')} of decoding"
        label = f"loader, {args.workers} workers" if name == "loader" else name
        print(f"  {label:<20} {describe(values, ',.0f'):<22} {said}")


if __name__ == "__main__":
    main()
