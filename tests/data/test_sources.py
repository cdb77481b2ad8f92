"""Sources in their true formats on disk: torchvision's files, damaged archives, no network."""

import gzip
import hashlib
import io
import pickle
import socket
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.datasets import NAMES, load_dataset
from data.errors import DatasetError
from data.published import PUBLISHED_CLASSES
from data.sources import read_digits, read_npz
from tests.made_up_data import made_up_arrays, refusal, write_npz


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Downloads fail as they do without a network; tests that read files on disk must not get this far."""

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("made-up: network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


# torchvision's files

MNIST_FILES = {
    f"{file}-{kind}": f"{split}_{key}"
    for file, split in (("train", "train"), ("t10k", "test"))
    for kind, key in (("images-idx3-ubyte", "images"), ("labels-idx1-ubyte", "labels"))
}


def write_mnist(root):
    """Write made-up data as MNIST is published, inflated: big-endian header, then bytes."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    made = made_up_arrays()
    made |= {key: array[..., 0] for key, array in made.items() if key.endswith("images")}
    for file, key in MNIST_FILES.items():
        header = bytes([0, 0, 8, made[key].ndim]) + np.array(made[key].shape, ">i4").tobytes()
        (folder / file).write_bytes(header + made[key].tobytes())
    return folder, made


def test_mnist_as_published(tmp_path):
    _, made = write_mnist(tmp_path)
    dataset = load_dataset("mnist", tmp_path)
    assert dataset.input_shape == (1, 5, 4)
    assert np.array_equal(dataset.train_images[:, 0], made["train_images"])
    assert np.array_equal(dataset.test_images[:, 0], made["test_images"])
    assert dataset.test_labels.tolist() == made["test_labels"].tolist()
    assert dataset.classes == torchvision.datasets.MNIST.classes


def test_mnist_as_published_compressed(tmp_path, monkeypatch):
    folder, made = write_mnist(tmp_path)
    for file in MNIST_FILES:
        (folder / f"{file}.gz").write_bytes(gzip.compress((folder / file).read_bytes()))
        (folder / file).unlink()
    # The checksums are of the published files; these are made up.
    monkeypatch.setattr(
        torchvision.datasets.MNIST, "resources", [(f"{file}.gz", md5(folder / f"{file}.gz")) for file in MNIST_FILES]
    )
    assert load_dataset("mnist", tmp_path).train_labels.tolist() == made["train_labels"].tolist()


@pytest.mark.parametrize("damage", [lambda raw: raw[:-7], lambda raw: b"", lambda raw: b"<html>no</html>"])
@pytest.mark.parametrize("file", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_damaged_mnist_is_refused(tmp_path, file, damage):
    folder, _ = write_mnist(tmp_path)
    (folder / file).write_bytes(damage((folder / file).read_bytes()))
    message = refusal("mnist", tmp_path)
    assert message.startswith("mnist: cannot be read or downloaded") and str(folder) in message


def write_cifar(root, monkeypatch, name):
    """Write made-up data as CIFAR is published: pickles of rows of 3,072 bytes, red, green, blue planes."""
    reader = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[name]
    label_key = "labels" if name == "cifar10" else "fine_labels"
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    images = np.random.RandomState(0).randint(0, 256, (12, 3, 32, 32)).astype(np.uint8)
    parts = np.array_split(np.arange(12), len(reader.train_list) + 1)
    for (file, _), part in zip(reader.train_list + reader.test_list, parts, strict=True):
        content = {"data": images[part].reshape(len(part), -1), label_key: [int(i) % 10 for i in part]}
        (folder / file).write_bytes(pickle.dumps(content))
    meta = reader.meta["filename"]
    (folder / meta).write_bytes(pickle.dumps({reader.meta["key"]: PUBLISHED_CLASSES[name]}))
    # The checksums are of the published files; these are made up.
    for files in ("train_list", "test_list"):
        made = [[file, md5(folder / file)] for file, _ in getattr(reader, files)]
        monkeypatch.setattr(reader, files, made)
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": md5(folder / meta)})
    return folder, images, len(parts[-1])


@pytest.mark.parametrize("name, num_classes", [("cifar10", 10), ("cifar100", 100)])
def test_cifar_as_published(tmp_path, monkeypatch, name, num_classes):
    _, images, num_test = write_cifar(tmp_path, monkeypatch, name)
    dataset = load_dataset(name, tmp_path)
    assert np.array_equal(dataset.train_images, images[:-num_test])
    assert np.array_equal(dataset.test_images, images[-num_test:])
    assert dataset.train_labels.tolist() == [i % 10 for i in range(12 - num_test)]
    assert dataset.num_classes == num_classes and dataset.train_images.is_contiguous()


def test_damaged_cifar_is_not_unpickled(tmp_path, monkeypatch):
    folder, _, _ = write_cifar(tmp_path, monkeypatch, "cifar10")
    (folder / "data_batch_2").write_bytes(b"cposix\nsystem\n(S'false'\ntR.")
    message = refusal("cifar10", tmp_path)
    assert "made-up: network is unreachable" in message and "in place of damaged ones" in message


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_no_network_is_one_line_that_tells_what_to_do(tmp_path, name):
    before = socket.getdefaulttimeout()
    message = refusal(name, tmp_path)
    assert "made-up: network is unreachable" in message and f"put {name}.npz in {tmp_path}" in message
    assert socket.getdefaulttimeout() == before


def test_folder_for_downloads_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cannot be read or downloaded" in refusal("mnist", tmp_path / "file")


# scikit-learn's digits, .npz archives and names


def test_digits_are_the_same_through_scikit_learn(monkeypatch):
    """Where its table is not where it was, scikit-learn itself reads the digits."""
    beside = read_digits()
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    through = read_digits()
    assert all(np.array_equal(through[key], array) for key, array in beside.items())


def test_missing_npz_and_unknown_names_are_refused(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.npz")
    (tmp_path / "notes.txt").write_text("no data")
    assert "neither an .npz file nor a folder" in refusal(tmp_path / "notes.txt")
    message = refusal("cifar11")
    assert message.startswith("cifar11: no such") and all(name in message for name in NAMES)
    assert "has no train/" in refusal("imagenet", tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"<html></html>", pickle.dumps([1])])
def test_files_that_are_no_archive_are_refused(tmp_path, content):
    path = tmp_path / "cifar10.npz"
    path.write_bytes(content)
    assert f"{path}: not an .npz archive" in refusal(path)
    assert f"{path}: not an .npz archive" in refusal("cifar10", tmp_path)


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(test_labels=None), "lacks test_labels (it has train_images, train_labels, test_images)"),
        (dict(val_images=np.zeros((1, 5, 4, 3), np.uint8)), "lacks val_labels"),
        (dict(train_labels=np.array([None] * 6)), "cannot be read (Object arrays cannot be loaded"),
    ],
)
def test_npz_without_what_is_needed_is_refused(tmp_path, changes, reason):
    path = write_npz(tmp_path, **changes)
    assert f"{path}: {reason}" in refusal(path)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_altered_npz_is_refused_or_harmless(tmp_path, data):
    """Cut it or flip a byte anywhere: either one line, or the very arrays that were written."""
    packed = io.BytesIO()
    data.draw(st.sampled_from([np.savez, np.savez_compressed]))(packed, **made_up_arrays())
    altered = bytearray(packed.getvalue())
    position = data.draw(st.integers(0, len(altered) - 1))
    if data.draw(st.booleans()):
        del altered[position:]
    else:
        altered[position] ^= data.draw(st.integers(1, 255))
    (tmp_path / "altered.npz").write_bytes(altered)
    try:
        read = read_npz(tmp_path / "altered.npz")
    except DatasetError as refused:
        assert "\n" not in str(refused)
    else:
        assert all(np.array_equal(read[key], array) for key, array in made_up_arrays().items())
