"""Small made-up data sets for tests, and how a data set is refused."""

import numpy as np
import pytest

from data.datasets import load_dataset
from data.errors import DatasetError


def made_up_arrays(**changes):
    """Arrays in MedMNIST's layout: 6 training and 4 test images of 5x4 RGB pixels in 3 classes.

    `changes` replace arrays; None leaves one out.
    """
    draw = np.random.RandomState(0)
    made = (
        dict(
            train_images=draw.randint(0, 256, (6, 5, 4, 3)).astype(np.uint8),
            train_labels=np.array([0, 1, 2, 0, 1, 2], np.uint8),
            test_images=draw.randint(0, 256, (4, 5, 4, 3)).astype(np.uint8),
            test_labels=np.array([2, 1, 0, 0], np.uint8),
        )
        | changes
    )
    return {key: array for key, array in made.items() if array is not None}


def write_npz(folder, name="made_up.npz", **changes):
    """Write these arrays to an .npz file and return its path."""
    np.savez(folder / name, **made_up_arrays(**changes))
    return folder / name


def refusal(name_or_path, root="unused"):
    """The message with which a data set is refused: one line."""
    with pytest.raises(DatasetError) as refused:
        load_dataset(name_or_path, root)
    assert "\n" not in str(refused.value)
    return str(refused.value)
