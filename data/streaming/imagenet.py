"""ImageNet's validation labels (ILSVRC 2012): its images lie in one folder, and the devkit says what they show.

In the devkit line i of the ground truth has the ILSVRC id, 1 to 1000, of the i-th validation image, and meta.mat has
the WordNet id ("wnid") of each ILSVRC id; the wnid is the name of the class's folder in train/.
"""

import io
import os
import re
import tarfile
from pathlib import Path

import numpy as np

from data.errors import DatasetError, answering

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
_GROUND_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"
_IN_FOLDERS = "validation images in a folder for each class"
_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.jpe?g", re.IGNORECASE)


def validation_classes(root: Path, paths: list[bytes]) -> list[bytes]:
    """Return the wnid of each validation image, by the number in its name and the devkit in `root`.

    Raises DatasetError if the devkit is missing or damaged, or does not know an image.
    """
    wnid_of, truth = read_devkit(root / DEVKIT)
    classes = []
    for path in paths:
        name = os.fsdecode(path)
        match = _IMAGE.fullmatch(name.rpartition("/")[2])
        if match is None:
            problem = "not called ILSVRC2012_val_00000001.JPEG or alike, so its class is not known"
            raise DatasetError(f"{root / name}: {problem}; remove it, or put {_IN_FOLDERS}")
        number = int(match[1])
        if not 1 <= number <= len(truth):
            problem = f"{DEVKIT} has labels for images 1 to {len(truth)}"
            raise DatasetError(f"{root / name}: {problem}; get the devkit of these images")
        classes.append(wnid_of[truth[number - 1]])
    return classes


def read_devkit(path: Path) -> tuple[dict[int, bytes], list[int]]:
    """Return the wnid of each ILSVRC id, and the ids of all validation images in order."""
    if not os.path.isfile(path):
        problem = "no such file, and val/ has no class folders"
        raise DatasetError(f"{path}: {problem}; put ImageNet's devkit there, or {_IN_FOLDERS}")
    with answering(f"{path}: cannot be read", "get it again"), tarfile.open(path) as archive:
        members = {name: archive.extractfile(_find(archive, name)).read() for name in (_META, _GROUND_TRUTH)}
        truth = [int(line) for line in members[_GROUND_TRUTH].split()]
        wnid_of = _read_meta(members[_META])
    if unknown := set(truth) - set(wnid_of):
        problem = f"its meta.mat has no class {min(unknown)}, which the ground truth names"
        raise DatasetError(f"{path}: {problem}; get it again")
    return wnid_of, truth


def _find(archive: tarfile.TarFile, name: str) -> tarfile.TarInfo:
    for member in archive.getmembers():
        if member.isfile() and member.name.endswith(name):
            return member
    raise DatasetError(f"{archive.name}: holds no {name}; get it again")


def _read_meta(content: bytes) -> dict[int, bytes]:
    from scipy.io import loadmat  # scikit-learn brings it

    synsets = np.atleast_1d(loadmat(io.BytesIO(content), squeeze_me=True)["synsets"])
    # The others are groups of classes, with ids above 1000.
    leaves = synsets[[int(synset["num_children"]) == 0 for synset in synsets]]
    return {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]).encode() for synset in leaves}
