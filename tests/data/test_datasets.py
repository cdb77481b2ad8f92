"""Data sets: what comes out of a source, statistics by hand, the validation split, what is refused."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from data.datasets import channel_statistics, default_validation_size, from_arrays, load_dataset, split_validation
from data.errors import DatasetError
from tests.made_up_data import made_up_arrays, refusal, write_npz

ROOT = Path(__file__).resolve().parents[2]


def test_npz_comes_out_as_it_was_written(tmp_path):
    path = write_npz(tmp_path)
    dataset, made = load_dataset(path, "unused"), made_up_arrays()
    assert dataset.train_images.shape == (6, 3, 5, 4) and dataset.train_images.dtype == torch.uint8
    assert dataset.train_images.is_contiguous()
    assert np.array_equal(dataset.train_images.permute(0, 2, 3, 1), made["train_images"])
    assert np.array_equal(dataset.test_images.permute(0, 2, 3, 1), made["test_images"])
    assert dataset.train_labels.dtype == torch.int64 and dataset.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.test_labels.tolist() == [2, 1, 0, 0]
    assert (dataset.input_shape, dataset.num_classes, dataset.classes) == ((3, 5, 4), 3, ["0", "1", "2"])
    assert dataset.name == "made_up" and dataset.val_images is None and dataset.val_labels is None


def test_medmnist_labels_in_a_column_and_validation_split(tmp_path):
    made = made_up_arrays()
    path = write_npz(
        tmp_path,
        train_labels=made["train_labels"][:, None],
        test_labels=made["test_labels"][:, None],
        val_images=made["test_images"][:2],
        val_labels=np.array([[1], [2]]),
    )
    dataset = load_dataset(str(path), "unused")
    assert dataset.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert dataset.val_images.shape == (2, 3, 5, 4) and dataset.val_labels.tolist() == [1, 2]
    split = split_validation(dataset, 1, seed=0)
    assert split.val_labels.tolist() == [1, 2] and torch.equal(split.test_images, dataset.test_images)


def test_grey_images_have_one_channel(tmp_path):
    made = made_up_arrays()
    grey = dict(train_images=made["train_images"][..., 0], test_images=made["test_images"][..., 0])
    flat = load_dataset(write_npz(tmp_path, **grey), "unused")
    assert flat.input_shape == (1, 5, 4) and np.array_equal(flat.train_images[:, 0], grey["train_images"])
    column = {key: images[..., None] for key, images in grey.items()}
    assert load_dataset(write_npz(tmp_path, "other.npz", **column), "unused").fingerprint == flat.fingerprint


def test_named_npz_has_the_published_classes(tmp_path):
    write_npz(tmp_path, "cifar10.npz")
    write_npz(tmp_path, "cifar100.npz", train_labels=np.array([0, 99, 2, 0, 1, 2]))
    write_npz(tmp_path, "mnist.npz", test_labels=np.array([10, 0, 0, 0]))
    cifar10, cifar100 = load_dataset("cifar10", tmp_path), load_dataset("cifar100", tmp_path)
    assert cifar10.name == "cifar10" and (cifar10.classes[0], cifar10.classes[9]) == ("airplane", "truck")
    assert cifar100.num_classes == 100 and cifar100.classes == sorted(set(cifar100.classes))
    assert "test_labels holds 10, outside the 10 classes" in refusal("mnist", tmp_path)


def test_torchvision_and_scikit_learn_stay_out_of_the_start_up(tmp_path):
    write_npz(tmp_path, "cifar10.npz")
    code = (
        "import sys; from data.datasets import load_dataset; load_dataset('digits', '.')\n"
        f"load_dataset('cifar10', {str(tmp_path)!r})\n"
        "assert not {'torchvision', 'sklearn', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_statistics_by_hand():
    """Channel 0 holds 0, 255, 255, 0; channel 1 0.2, 0.2, 0.4, 0 (times 255); channel 2 is constant."""
    images = torch.tensor([[[[0, 255]], [[51, 51]], [[9, 9]]], [[[255, 0]], [[102, 0]], [[9, 9]]]], dtype=torch.uint8)
    mean, std = channel_statistics(images)
    assert mean.dtype == std.dtype == torch.float32
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.2, 9 / 255]))
    torch.testing.assert_close(std, torch.tensor([0.5, 0.02**0.5, 1.0]))


@settings(deadline=None, max_examples=50)
@given(arrays(np.uint8, array_shapes(min_dims=4, max_dims=4, max_side=6)))
def test_statistics_equal_numpys(images):
    mean, std = channel_statistics(torch.from_numpy(images))
    pixels = images / 255
    expected = pixels.std((0, 2, 3))
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, np.where(expected < 1e-9, 1, expected), rtol=1e-6)


def test_fingerprint_covers_every_pixel_label_and_split(tmp_path):
    made = made_up_arrays()
    pixel, label = made["test_images"].copy(), made["test_labels"].copy()
    pixel[3, 4, 3, 2] ^= 1
    label[3] = 1
    variants = [
        {},
        dict(test_images=pixel),
        dict(test_labels=label),
        dict(train_images=made["train_images"][::-1]),
        dict(val_images=made["test_images"], val_labels=made["test_labels"]),
        dict(
            train_images=made["train_images"].reshape(6, 4, 5, 3), test_images=made["test_images"].reshape(4, 4, 5, 3)
        ),
    ]
    paths = [write_npz(tmp_path, f"{index}.npz", **changes) for index, changes in enumerate(variants)]
    prints = [load_dataset(path, "unused").fingerprint for path in paths]
    assert len(set(prints)) == len(prints) and all(len(bytes.fromhex(p)) == 16 for p in prints)
    assert load_dataset(write_npz(tmp_path, "again.npz"), "unused").fingerprint == prints[0]


def test_digits():
    from sklearn.datasets import load_digits

    dataset, source = load_dataset("digits", "unused"), load_digits()
    assert dataset.train_images.shape == (1198, 1, 8, 8) and dataset.test_images.shape == (599, 1, 8, 8)
    assert dataset.num_classes == 10 and dataset.val_images is None
    assert dataset.test_labels.tolist() == source.target[2::3].tolist()
    scaled = torch.from_numpy(source.images[2::3] * 255 / 16)
    assert (dataset.test_images[:, 0] - scaled).abs().max() <= 0.5
    assert dataset.train_labels[:4].tolist() == source.target[[0, 1, 3, 4]].tolist()
    assert dataset.train_images.max() == 255 and min(dataset.test_labels.bincount()) >= 54
    assert dataset.fingerprint == "2707844ed9b757a8e1b9f61b5f3f9f8a"  # results rest on it: it must not change


def test_validation_split_is_a_seeded_partition_of_the_test_set():
    dataset = load_dataset("digits", "unused")
    np.random.seed(0)
    split = split_validation(dataset, 179, seed=0)
    np.random.seed(1)
    again, other = split_validation(dataset, 179, seed=0), split_validation(dataset, 179, seed=1)
    assert len(split.val_labels) == len(split.val_images) == 179
    assert len(split.test_labels) == len(split.test_images) == 420
    samples = [*split.val_images, *split.test_images]
    assert sorted(image.numpy().tobytes() for image in samples) == sorted(
        image.numpy().tobytes() for image in dataset.test_images
    )
    labels = torch.cat([split.val_labels, split.test_labels])
    assert torch.equal(labels.bincount(), dataset.test_labels.bincount())
    assert torch.equal(split.val_images, again.val_images)
    assert split.fingerprint == again.fingerprint == "6dfdbbed5fc8efb80651fee68cc6718d"
    assert split.fingerprint != other.fingerprint and not torch.equal(split.val_images, other.val_images)


def test_default_validation_size():
    assert [default_validation_size(n) for n in (10_000, 50_000, 9_999, 599)] == [3000, 3000, 2999, 179]


@pytest.mark.parametrize("size", [-1, 0, 599, 600])
def test_validation_size_that_leaves_no_test_is_refused(size):
    with pytest.raises(DatasetError, match=f"validation size {size}: must be 1 to 598, as digits has 599"):
        split_validation(load_dataset("digits", "unused"), size, seed=0)


IMAGES, LABELS = made_up_arrays()["train_images"], made_up_arrays()["train_labels"]


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(train_images=IMAGES.astype(np.float32)), "train_images are float32; they must be uint8"),
        (dict(train_images=IMAGES[0]), r"train_labels have shape (6,) for 5 images"),
        (dict(train_images=IMAGES[..., None]), "train_images have shape (6, 5, 4, 3, 1)"),
        (dict(train_images=IMAGES.transpose(0, 3, 1, 2).repeat(2, 3)), "train_images have shape (6, 3, 5, 8)"),
        (dict(train_images=IMAGES[:0], train_labels=LABELS[:0]), "train_images are empty"),
        (dict(test_images=IMAGES[:4, :, :3]), "test_images are (3, 5, 3) (C,H,W), but train_images (3, 5, 4)"),
        (dict(test_images=IMAGES[:4, ..., 0]), "test_images are (1, 5, 4) (C,H,W), but train_images (3, 5, 4)"),
        (dict(train_labels=LABELS[:5]), "train_labels have shape (5,) for 6 images"),
        (dict(train_labels=LABELS.astype(float)), "train_labels are float64; they must be integers"),
        (dict(train_labels=np.zeros((6, 14), np.uint8)), "train_labels have 14 columns (multi-label)"),
        (dict(test_labels=np.array([0, 1, 3, 2])), "test_labels holds 3, outside the 3 classes 0 to 2"),
        (dict(test_labels=np.array([0, 1, -1, 2])), "test_labels hold -1"),
        (dict(train_labels=np.array([0, 1, 2, 0, 1, 2**63], np.uint64)), "train_labels hold 9223372036854775808"),
        (dict(val_images=IMAGES[:2], val_labels=np.array([0, 7])), "val_labels holds 7, outside the 3 classes"),
    ],
)
def test_npz_of_a_wrong_kind_is_refused(tmp_path, changes, reason):
    path = write_npz(tmp_path, **changes)
    message = refusal(path)
    assert str(path) in message and reason in message


def test_real_mnist(real_data):
    if not (real_data / "mnist.npz").is_file():
        pytest.skip(f"no mnist.npz in {real_data}")
    dataset = load_dataset("mnist", real_data)
    assert dataset.train_images.shape == (60_000, 1, 28, 28)
    assert dataset.test_images.shape == (10_000, 1, 28, 28)
    assert dataset.train_labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert dataset.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert (round(dataset.mean.item(), 4), round(dataset.std.item(), 4)) == (0.1307, 0.3081)


def test_real_cifar10(real_cifar10):
    dataset = load_dataset("cifar10", real_cifar10)
    assert dataset.train_images.shape == (2000, 3, 32, 32) and dataset.test_images.shape == (1000, 3, 32, 32)
    assert min(dataset.train_labels.bincount(minlength=10)) > 150 and dataset.num_classes == 10
    assert (dataset.mean - torch.tensor([0.4914, 0.4822, 0.4465])).abs().max() < 0.02
    assert (dataset.std - torch.tensor([0.2470, 0.2435, 0.2616])).abs().max() < 0.02


def test_arrays_from_python_are_what_numpy_makes_of_them():
    digits = {name: np.arange(24).reshape(6, 2, 2).astype(np.uint8) for name in ("train_images", "test_images")}
    digits |= {name: np.array([0, 1, 2, 0, 1, 2]) for name in ("train_labels", "test_labels")}
    plain = from_arrays(digits, "mine").fingerprint
    tensors = {name: torch.from_numpy(array) for name, array in digits.items()}
    lists = {name: array.tolist() if "labels" in name else array for name, array in digits.items()}
    assert from_arrays(tensors, "mine").fingerprint == from_arrays(lists, "mine").fingerprint == plain


def test_arrays_from_python_are_the_runs_own():
    arrays = {name: np.zeros((6, 2, 2), np.uint8) for name in ("train_images", "test_images")}
    arrays |= {name: np.array([0, 1, 2, 0, 1, 2]) for name in ("train_labels", "test_labels")}
    dataset = from_arrays(arrays, "mine")
    for array in arrays.values():
        array[:] = 1
    assert not dataset.train_images.any() and dataset.train_labels.tolist() == [0, 1, 2, 0, 1, 2]
    for name in ("", "..", "a/b", "a\\b"):
        with pytest.raises(DatasetError, match="begins the names of run folders"):
            from_arrays(arrays, name)


@pytest.mark.parametrize("change, words", [
    ({"val_images": np.zeros((2, 2, 2), np.uint8)}, "val_labels is missing"),
    ({"train_labels": np.full(6, 2), "test_labels": np.full(6, 2)}, "train_labels hold one class"),
])
def test_arrays_from_python_that_cannot_be_used(change, words):
    arrays = {name: np.zeros((6, 2, 2), np.uint8) for name in ("train_images", "test_images")}
    arrays |= {name: np.array([0, 1, 2, 0, 1, 2]) for name in ("train_labels", "test_labels")}
    with pytest.raises(DatasetError, match=words):
        from_arrays({**arrays, **change}, "mine")
