"""Streamed images: which files, their labels, what is broken, and the list of both that is kept."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from data import image_walk
from data.datasets import load_dataset, split_validation
from data.errors import DatasetError
from data.streaming import folder as streamed
from data.streaming.file_list import CACHE
from data.streaming.folder import Streaming
from data.streaming.image_files import MEAN, STD
from data.streaming.imagenet import DEVKIT
from tests.image_trees import WNIDS, write_devkit

SMALL = Streaming(image_size=20)


def load(root, streaming=SMALL, name="imagenet"):
    return load_dataset(name, root, streaming=streaming)


def refusal(root, streaming=SMALL, name="imagenet"):
    with pytest.raises(DatasetError) as refused:
        load(root, streaming, name)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def age(root):
    """Make every folder old enough for its modification time to be trusted."""
    for folder, _, _ in os.walk(root):
        os.utime(folder, ns=(10**18, 10**18))


@pytest.fixture
def walks(monkeypatch):
    """Counts how often the folders are walked through, and collects the files that are checked."""
    import data.streaming.file_list as file_list

    seen = {"walks": 0, "checked": []}

    def walk(*arguments):
        seen["walks"] += 1
        return plain_walk(*arguments)

    def check(path):
        seen["checked"].append(os.path.basename(path))
        return plain_check(path)

    plain_walk, plain_check = file_list._walk, streamed.why_broken
    monkeypatch.setattr(file_list, "_walk", walk)
    monkeypatch.setattr(streamed, "why_broken", check)
    return seen


# Files and labels


def test_both_layouts_of_val_give_the_same_labels(trees):
    flat, classes = (load(trees[layout]) for layout in ("flat", "classes"))
    for dataset in (flat, classes):
        assert dataset.name == "imagenet" and dataset.classes == list(WNIDS) and dataset.input_shape == (3, 20, 20)
        assert dataset.train_labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 6
        assert dataset.val_images is None  # val/ is the test set, to be split
        assert torch.equal(dataset.mean, torch.tensor(MEAN)) and torch.equal(dataset.std, torch.tensor(STD))
    by_name = {os.path.basename(path): label for path, label in zip(classes.test_images.paths, classes.test_labels)}
    assert [by_name[os.path.basename(path)] for path in flat.test_images.paths] == flat.test_labels.tolist()
    assert len(set(flat.test_labels.tolist())) == 4 and sorted(flat.test_labels.tolist()) != flat.test_labels.tolist()
    assert flat.test_images.paths.tolist() == sorted(flat.test_images.paths.tolist())


def test_any_folder_streams_with_the_files_and_labels_of_image_folder(trees, tmp_path):
    from torchvision.datasets import ImageFolder

    root = shutil.copytree(trees["classes"], tmp_path / "pets")
    (root / "val").rename(root / "test")
    (root / "train" / WNIDS[1] / "more").mkdir()
    shutil.copy(
        root / "train" / WNIDS[0] / os.listdir(root / "train" / WNIDS[0])[0], root / "train" / WNIDS[1] / "more"
    )
    (root / "train" / WNIDS[1] / "notes.txt").write_text("no image")
    Image.new("RGB", (9, 9)).save(root / "train" / "loose.png")
    dataset = load("unused", name=root)
    for split, folder in (("train", "train"), ("test", "test")):
        plain = ImageFolder(root / folder)
        images, labels = getattr(dataset, f"{split}_images"), getattr(dataset, f"{split}_labels")
        assert [images.path(index) for index in range(len(images))] == [path for path, _ in plain.samples]
        assert labels.tolist() == plain.targets
    assert dataset.name == "pets"


def test_the_split_is_drawn_as_for_data_in_memory(trees):
    dataset = load(trees["flat"])
    split = split_validation(dataset, 8, seed=1)
    assert (len(split.val_images), len(split.test_images)) == (8, 12)
    together = sorted([*split.val_images.paths.tolist(), *split.test_images.paths.tolist()])
    assert together == dataset.test_images.paths.tolist()
    labels = dict(zip(dataset.test_images.paths.tolist(), dataset.test_labels.tolist()))
    assert [labels[path] for path in split.val_images.paths.tolist()] == split.val_labels.tolist()


def test_fingerprint_is_of_names_sizes_and_labels(trees, tree):
    before = load(trees["flat"]).fingerprint
    assert load(tree).fingerprint == before
    file = sorted((tree / "val").iterdir())[3]
    file.rename(file.with_suffix(".jpg"))
    renamed = load(tree).fingerprint
    file.with_suffix(".jpg").rename(file)
    with open(file, "ab") as end:
        end.write(b"longer")
    longer = load(tree).fingerprint
    assert len({before, renamed, longer, load(trees["classes"]).fingerprint}) == 4


def edit(damage, *words):
    return pytest.param(damage, words, id=words[0])


@pytest.mark.parametrize(
    "damage, words",
    [
        edit(lambda root: (root / DEVKIT).unlink(), "no such file, and val/ has no class folders", DEVKIT),
        edit(lambda root: (root / DEVKIT).write_bytes(b"junk"), "cannot be read", "get it again"),
        edit(lambda root: write_devkit(root, [449, 3]), "has labels for images 1 to 2"),
        edit(lambda root: write_devkit(root, [4000] * 20), "has no class 4000"),
        edit(lambda root: write_devkit(root, [7] * 20), "holds images of class n90000007"),
        edit(
            lambda root: next((root / "val").iterdir()).rename(root / "val" / "cat.JPEG"), "cat.JPEG: not called ILSVRC"
        ),
        edit(lambda root: (root / "val").rename(root / "exam"), "has no train/ with a val/ beside it"),
        edit(lambda root: (root / "val" / "n1").mkdir(), "val: its class folders are not those of"),
        edit(lambda root: (root / "train" / "n1").mkdir(), "n1: holds no images"),
    ],
)
def test_a_tree_that_does_not_serve_is_refused(tree, damage, words):
    damage(tree)
    message = refusal(tree)
    assert str(tree) in message and all(word in message for word in words)


def test_only_folders_stream(tmp_path):
    assert refusal("unused", name=tmp_path / "absent").startswith(f"--stream: {tmp_path / 'absent'} is no folder")


# Broken files and the cache


def test_a_start_neither_walks_nor_checks_again(tree, walks):
    for folder, _, _ in os.walk(tree):
        os.utime(folder)  # on a slow machine they are old by now
    first = load(tree).fingerprint
    assert walks["walks"] == 1 and len(walks["checked"]) == 44
    load(tree)  # folders as new as the list: they may have changed since
    assert walks["walks"] == 2
    age(tree)
    load(tree)
    assert walks["walks"] == 3 and load(tree).fingerprint == first
    assert walks["walks"] == 3 and len(walks["checked"]) == 44


def test_what_changes_is_listed_and_checked_again(tree, walks):
    load(tree)
    age(tree)
    load(tree)
    walks["checked"].clear()
    folder = tree / "train" / WNIDS[2]
    old, other = sorted(folder.iterdir())[:2]
    shutil.copy(old, folder / "new.JPEG")
    other.unlink()
    dataset = load(tree)
    assert walks["checked"] == ["new.JPEG"]
    names = [os.path.basename(path).decode() for path in dataset.train_images.paths]
    assert "new.JPEG" in names and other.name not in names


def test_a_file_that_is_added_while_the_folder_is_read_is_seen_next_time(tree, walks, monkeypatch):
    """Whatever the clock of the disk says: it may be behind that of this machine."""
    age(tree)
    folder, scan = tree / "train" / WNIDS[2], image_walk._scan

    def added_meanwhile(inside, left_out):
        found = scan(inside, left_out)
        if inside == str(folder):
            shutil.copy(found[1][0].path, folder / "new.JPEG")
            os.utime(folder, ns=(2 * 10**18, 10**18 + 1))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(image_walk, "_scan", added_meanwhile)
        before = len(load(tree).train_labels)
    assert len(load(tree).train_labels) == before + 1


def test_a_folder_whose_name_is_no_utf8(tree, tmp_path):
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    shutil.copytree(tree, odd)
    assert load(Path(odd)).fingerprint == load(tree).fingerprint


def test_a_broken_file_is_named_until_it_is_replaced(tree, walks):
    bad, good = sorted((tree / "train" / WNIDS[1]).iterdir())[:2]
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])
    age(tree)
    for _ in range(2):
        message = refusal(tree)
        assert message.startswith(f"{bad}: a broken image (image file is truncated") and "--skip_broken" in message
    with pytest.warns(UserWarning, match=f"1 broken image is left out: {bad}"):
        dataset = load(tree, Streaming(image_size=20, skip_broken=True))
    assert len(dataset.train_labels) == 23 and dataset.train_labels.tolist().count(1) == 5
    bad.write_bytes(content)  # in its place: the folder's time stays
    age(tree)
    assert len(load(tree).train_labels) == 24


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff"])
def test_whatever_does_not_decode_is_broken(tree, content):
    first, second = sorted((tree / "val").iterdir())[:2]
    first.write_bytes(content)
    second.write_bytes(content)
    assert refusal(tree).startswith(f"{first}: a broken image (") and ", and 1 more; " in refusal(tree)


def test_a_damaged_cache_is_no_cache(tree, walks):
    load(tree)
    whole = (tree / CACHE).read_bytes()
    for content in (b"", b"junk", whole[: len(whole) // 2]):
        (tree / CACHE).write_bytes(content)
        assert len(load(tree).train_labels) == 24
    assert len(walks["checked"]) == 4 * 44


def test_where_the_folder_cannot_be_written_the_cache_is_the_users(tree, walks, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tree / CACHE).mkdir()  # in the way, whoever runs the test
    load(tree)
    load(tree)
    assert len(walks["checked"]) == 44
    assert len(list((tmp_path / "cache").glob("deep-partial-updating/*.npz"))) == 1
