"""MNIST, CIFAR-10 and CIFAR-100 as they are published, read with torchvision and downloaded where they are missing."""

import io
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from data.errors import answering
from utils.system.files import replacing

_ASIDE = ".download-"
_DAY = 86_400  # seconds
_TIMEOUT = 30  # seconds without an answer; without it a filtered network looks like a hang

PUBLISHED_CLASSES = {  # in the order of the published labels, so that an .npz needs no torchvision
    "mnist": "0 - zero,1 - one,2 - two,3 - three,4 - four,5 - five,6 - six,7 - seven,8 - eight,9 - nine".split(","),
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


def load_published(name: str, root: Path, download: bool = True) -> dict[str, np.ndarray]:
    """Return mnist, cifar10 or cifar100 from torchvision's files under `root`, in MedMNIST's layout.

    Files that are missing are downloaded if `download`. Raises DatasetError if a file is damaged or the download fails.
    """
    import torchvision.datasets as published  # takes seconds, and is not needed beside an .npz

    reader = {"mnist": published.MNIST, "cifar10": published.CIFAR10, "cifar100": published.CIFAR100}[name]
    folder = root / ("MNIST/raw" if name == "mnist" else reader.base_folder)
    way_out = f"put {name}.npz in {root} or the published files in {folder}, in place of damaged ones"
    with answering(f"{name}: cannot be read or downloaded", way_out):
        try:
            train, test = (reader(str(root), train=split) for split in (True, False))
        except RuntimeError:  # torchvision's word for files that are missing or have another checksum
            if not download:
                raise
            with _without_empty_folders(folder), _patient_and_quiet():
                _download(reader, root, folder)
            train, test = (reader(str(root), train=split) for split in (True, False))
    return dict(
        train_images=np.asarray(train.data),
        train_labels=np.asarray(train.targets),
        test_images=np.asarray(test.data),
        test_labels=np.asarray(test.targets),
    )


def _download(reader: type, root: Path, folder: Path) -> None:
    """Download into a folder aside, then put file by file into place.

    Other runs may be doing the same just now, and torchvision takes the half of a file that a killed run was
    unpacking for a whole one.
    """
    root.mkdir(parents=True, exist_ok=True)
    for left in root.glob(f"{_ASIDE}*"):  # by a run that was killed: nothing downloads for so long
        with suppress(FileNotFoundError):  # whoever made it is done
            if time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=_ASIDE, dir=root, ignore_cleanup_errors=True) as aside:
        if folder.is_dir():  # files that the user put there need not come over the network
            # Not what another run is putting into place just now.
            shutil.copytree(folder, aside / folder.relative_to(root), ignore=shutil.ignore_patterns(".*.tmp"))
        archive = root / getattr(reader, "filename", "")
        if archive.is_file():
            shutil.copy(archive, aside)
        reader(aside, train=True, download=True)  # both splits
        for file in Path(aside).rglob("*"):
            if file.is_file():
                place = root / file.relative_to(aside)
                place.parent.mkdir(parents=True, exist_ok=True)
                with open(file, "rb") as content, replacing(place) as copy:
                    shutil.copyfileobj(content, copy)


@contextmanager
def _patient_and_quiet() -> Iterator[None]:
    """Wait for the network only so long, and show torchvision's bars on a terminal alone."""
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        with nullcontext() if sys.stderr.isatty() else redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(timeout)


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
