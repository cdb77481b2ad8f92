"""The readers of .npz files and of digits: each turns its source into numpy arrays in MedMNIST's layout.

That layout is a dictionary of `train_images`, `train_labels`, `test_images`, `test_labels` and, where the
source has a validation split of its own, `val_images` and `val_labels`; images are (N,H,W) or (N,H,W,C).
Readers answer for files that cannot be read; `data.datasets` checks what was read, once for all sources.
"""

import importlib.util
import os
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from data.errors import DatasetError, answering
from data.limits import check_size

REQUIRED = ("train_images", "train_labels", "test_images", "test_labels")
OPTIONAL = ("val_images", "val_labels")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file in MedMNIST's layout; other arrays in it are not read.

    Raises DatasetError if it is missing, no zip archive, damaged, or lacks an array.
    """
    arrays = read_arrays(path, (*REQUIRED, *OPTIONAL))
    if missing := missing_from(arrays):
        with answering(f"{path}: cannot be read", "get it again"), np.load(path, allow_pickle=False) as archive:
            found = ", ".join(archive.files) or "nothing"
        layout = f"it must hold {', '.join(REQUIRED)} and may hold {', '.join(OPTIONAL)}"
        raise DatasetError(f"{path}: lacks {', '.join(missing)} (it has {found}); {layout}")
    return arrays


def missing_from(arrays: Collection[str]) -> list[str]:
    """Return which arrays are missing beside those that are there."""
    return [key for key in REQUIRED + OPTIONAL * any(key in arrays for key in OPTIONAL) if key not in arrays]


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Return those of the named arrays that an .npz file has. Raises DatasetError if it is none, or is damaged."""
    if not os.path.exists(path):
        raise DatasetError(f"{path}: no such file; check the path")
    if os.path.isfile(path) and not os.access(path, os.R_OK):
        raise DatasetError(f"{path}: may not be read; give it the permission")
    if not os.path.isfile(path) or not zipfile.is_zipfile(path):
        raise DatasetError(f"{path}: not an .npz archive (empty, truncated or another format); get it again")
    with answering(f"{path}: cannot be read", "get it again"), np.load(path, allow_pickle=False) as archive:
        wanted = [name for name in names if name in archive]
        stated = {member.filename.removesuffix(".npy"): member.file_size for member in archive.zip.infolist()}
        check_size(path, sum(stated[name] for name in wanted), "leave images out")
        arrays = {name: _read_array(archive, name, path) for name in wanted}
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _read_array(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> np.ndarray:
    try:
        return archive[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        way_out = f"save {key} as an array of integers: objects, which can run code, are never loaded"
        raise DatasetError(f"{path}: cannot be read ({error}); {way_out}") from error


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
