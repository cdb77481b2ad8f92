"""Folders of images: classes from folder names, one size, grey or RGB, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from data.datasets import load_dataset
from tests.made_up_data import refusal


def write_folder(root, splits=("train", "test"), classes=("cat", "dog"), size=(4, 5), mode="RGB"):
    """Write two images per split and class, all pixels of each 100 * split + 10 * class + index."""
    for split in splits:
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for index in range(2):
                grey = 100 * splits.index(split) + 10 * label + index
                Image.new("L", size, grey).convert(mode).save(root / split / name / f"{index}.png")
    return root


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("L", 1), ("RGBA", 3)])
def test_folder(tmp_path, mode, channels):
    dataset = load_dataset(write_folder(tmp_path / "pets", mode=mode), "unused")
    assert (dataset.name, dataset.classes, dataset.input_shape) == ("pets", ["cat", "dog"], (channels, 5, 4))
    assert dataset.train_images[:, -1, 4, 3].tolist() == [0, 1, 10, 11]
    assert dataset.test_images[:, 0, 0, 0].tolist() == [100, 101, 110, 111]
    assert dataset.train_labels.tolist() == dataset.test_labels.tolist() == [0, 0, 1, 1]


def test_one_colour_image_makes_all_rgb(tmp_path):
    write_folder(tmp_path, mode="L")
    Image.new("RGB", (4, 5), (1, 2, 3)).save(tmp_path / "test" / "dog" / "1.png")
    dataset = load_dataset(tmp_path, "unused")
    assert dataset.input_shape == (3, 5, 4) and dataset.test_images[3, :, 0, 0].tolist() == [1, 2, 3]


def test_validation_folder_is_the_test_set_where_there_is_no_other(tmp_path):
    alone = load_dataset(write_folder(tmp_path / "a", ("train", "val")), "unused")
    assert alone.val_images is None and alone.test_images[0, 0, 0, 0] == 100
    both = load_dataset(write_folder(tmp_path / "b", ("train", "val", "test")), "unused")
    assert (both.val_images[0, 0, 0, 0], both.test_images[0, 0, 0, 0]) == (100, 200)


def damage_size(root):
    Image.new("RGB", (7, 5)).save(root / "test" / "cat" / "1.png")


def damage_truncate(root):
    picture = io.BytesIO()
    Image.fromarray(np.random.RandomState(0).randint(0, 256, (5, 4, 3)).astype(np.uint8)).save(picture, "PNG")
    (root / "test" / "cat" / "1.png").write_bytes(picture.getvalue()[:60])


@pytest.mark.parametrize(
    "damage, reasons",
    [
        (damage_size, ["test/cat/1.png: 7x5 pixels, but", "train/cat/0.png has 4x5"]),
        (damage_truncate, ["test/cat/1.png: a damaged image"]),
        (lambda root: (root / "test/cat/1.png").write_bytes(b""), ["test/cat/1.png: not a readable image"]),
        (lambda root: (root / "test/cat/1.png").write_text("no"), ["test/cat/1.png: not a readable image"]),
        (lambda root: Image.new("I;16", (4, 5)).save(root / "test/cat/1.png"), ["cat/1.png: more than 8 bits"]),
        (lambda root: (root / "test").rename(root / "exam"), ["has no train/ with a test/ or val/"]),
        (lambda root: (root / "train").rename(root / "practice"), ["has no train/ with a test/ or val/"]),
        (lambda root: (root / "test/dog").rename(root / "test/fox"), ["test: its class folders", "(dog, fox)"]),
        (lambda root: (root / "train/empty").mkdir(), ["train: cannot be listed", "empty"]),
    ],
)
def test_damaged_folder_is_refused(tmp_path, damage, reasons):
    damage(write_folder(tmp_path))
    message = refusal(tmp_path)
    assert str(tmp_path) in message and all(reason in message for reason in reasons)
