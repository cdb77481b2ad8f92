"""The walk through folders of images: its order, links, what may not be read, and what is left out, in both readers."""

import errno
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.datasets import load_dataset
from data.errors import DatasetError
from data.image_walk import LeftOut
from data.streaming.file_list import CACHE
from data.streaming.folder import Streaming

READERS = pytest.mark.parametrize("streaming", [None, Streaming(image_size=8)], ids=["in memory", "streamed"])


def write_images(folder, count, value=0):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (3, 2), (value, index, 7)).save(folder / f"{index}.ppm")


@pytest.fixture
def root(tmp_path):
    """12 training and 8 test images of each of the classes a and b."""
    for split, count in (("train", 12), ("test", 8)):
        for value, name in enumerate("ab"):
            write_images(tmp_path / "pets" / split / name, count, value)
    return tmp_path / "pets"


def labels_of(root, streaming):
    dataset = load_dataset(root, streaming=streaming)
    return dataset.train_labels.bincount().tolist(), dataset.test_labels.bincount().tolist()


def refusal(root, streaming):
    with pytest.raises(DatasetError) as refused:
        load_dataset(root, streaming=streaming)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def left_out_of(root, streaming):
    """The labels and the line about what was left out."""
    with pytest.warns(UserWarning, match="left out") as seen:
        labels = labels_of(root, streaming)
    (line,) = [str(warning.message) for warning in seen]
    assert "\n" not in line
    return labels, line


# Order


def write_tricky_tree(root):
    """Proper folders whose order is easy to get wrong."""
    value = 0
    for split, count in (("train", 2), ("test", 1)):
        for name in ("dog", "Zebra", "cat", "cat-2", "café", "a b"):
            for inside in ("", "b", "a", "a/c", "a-b"):
                names = ("10.png.ppm", "2.PPM", "B.ppm", "b.ppm", "é.ppm")
                folder = root / split / name / inside
                folder.mkdir(parents=True, exist_ok=True)
                for file in names if inside in ("", "a/c") else names[:count]:
                    Image.new("RGB", (3, 2), (value % 256, value // 256, 7)).save(folder / file, "PPM")
                    value += 1
    return root


def test_classes_and_images_have_the_order_of_image_folder(tmp_path):
    from torchvision.datasets import ImageFolder

    dataset = load_dataset(write_tricky_tree(tmp_path))
    plain = ImageFolder(tmp_path / "train")
    assert dataset.classes == plain.classes and dataset.train_labels.tolist() == plain.targets
    assert np.array_equal(dataset.train_images, [np.asarray(image).transpose(2, 0, 1) for image, _ in plain])


def test_streamed_images_have_the_order_of_os_walk(tmp_path):
    streamed = load_dataset(write_tricky_tree(tmp_path), streaming=Streaming(image_size=8)).train_images
    expected = []
    for folder, inside, names in os.walk(tmp_path / "train"):
        inside.sort()
        expected += [os.path.join(folder, name) for name in sorted(names)]
    assert [streamed.path(index) for index in range(len(streamed))] == expected


def test_fingerprints_of_proper_folders_stay_what_they_were(tmp_path):
    """Runs rest on them: they are in folder names and checkpoints."""
    write_tricky_tree(tmp_path)
    assert load_dataset(tmp_path).fingerprint == "1bfbeb3969924bfdcfc7e46d6c859b92"
    assert load_dataset(tmp_path, streaming=Streaming(image_size=8)).fingerprint == "b306c49604dd619484c9bcd1b325096a"


# Links


@READERS
@pytest.mark.parametrize("target", ["..", "../..", ".", "../../..", "/", "../../train/a"])
def test_a_link_to_a_folder_above_counts_nothing(root, streaming, target):
    (root / "train" / "a" / "up").symlink_to(target)
    labels, line = left_out_of(root, streaming)
    assert labels == ([12, 12], [8, 8])
    assert "1 file or folder is left out (links to a folder they lie in: 1)" in line and line.endswith("train/a/up")


@READERS
def test_links_that_lead_to_each_other_end(root, streaming):
    for name in ("one", "two"):
        write_images(root / "train" / "a" / name, 2)
        (root / "train" / "a" / name / "back").symlink_to("..")
        (root / "train" / "a" / name / "across").symlink_to("../one" if name == "two" else "../two")
    labels, _ = left_out_of(root, streaming)
    assert labels == ([16, 12], [8, 8])


@READERS
def test_a_real_folder_counts_once_in_a_class(root, tmp_path, streaming):
    write_images(tmp_path / "store" / "deep", 5)
    for name in ("x", "y"):
        (root / "train" / "a" / name).symlink_to(tmp_path / "store")
    (root / "train" / "a" / "z").symlink_to(tmp_path / "store" / "deep")
    labels, line = left_out_of(root, streaming)
    assert labels == ([17, 12], [8, 8]) and "folders reached twice: 2" in line


@READERS
def test_a_loop_outside_the_tree_ends_and_leads_back_nowhere(root, tmp_path, streaming):
    write_images(tmp_path / "store" / "mine", 3)
    (tmp_path / "store" / "mine" / "up").symlink_to("..")
    (tmp_path / "store" / "mine" / "home").symlink_to(root)
    (root / "train" / "a" / "more").symlink_to(tmp_path / "store" / "mine")
    labels, line = left_out_of(root, streaming)
    assert labels == ([15, 12], [8, 8]) and "links to a folder they lie in: 2" in line


@READERS
def test_links_to_other_folders_and_files_count(root, tmp_path, streaming):
    """Also the same folder as two classes, and a split that is a link."""
    (root / "train" / "b" / "0.ppm").rename(tmp_path / "elsewhere.ppm")
    (root / "train" / "b" / "0.ppm").symlink_to(tmp_path / "elsewhere.ppm")
    (root / "train" / "a").rename(tmp_path / "far")
    (root / "train" / "a").symlink_to(tmp_path / "far")
    (root / "test").rename(tmp_path / "far test")
    (root / "test").symlink_to(tmp_path / "far test")
    for split in ("train", "test"):
        (root / split / "c").symlink_to("a")
    assert labels_of(root, streaming) == ([12, 12, 12], [8, 8, 8])


# What cannot be read


@READERS
@pytest.mark.parametrize("folder", ["train", "train/b", "train/b/more"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_folder_whose_listing_fails_is_named(root, streaming, folder, number, monkeypatch):
    write_images(root / "train" / "b" / "more", 2)
    plain = os.scandir

    def scandir(path):
        if Path(path) == root / folder:
            raise OSError(number, os.strerror(number), path)
        return plain(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert refusal(root, streaming).startswith(f"{root / folder}: cannot be read ({os.strerror(number)}); make it")


@READERS
@pytest.mark.parametrize("mode", [0o000, 0o300, 0o444])
def test_a_folder_that_may_not_be_read_is_named(root, streaming, mode):
    """As another user than root, for whom modes do not count."""
    place = Path(tempfile.mkdtemp())
    shutil.copytree(root, place / "pets")
    place.chmod(0o755)
    (place / "pets" / "train" / "b").chmod(mode)
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        message = refusal(place / "pets", streaming)
    finally:
        os.seteuid(user)
        (place / "pets" / "train" / "b").chmod(0o755)
        shutil.rmtree(place)
    assert message.startswith(f"{place}/pets/train/b") and "Permission denied" in message


# What is left out


@READERS
def test_what_is_no_image_is_left_out_and_counted(root, streaming):
    a = root / "train" / "a"
    for name in ("1.gif", "2.GIF", "x.jfif", "readme", "table.csv", ".DS_Store"):
        (a / name).write_bytes(b"")
    write_images(a / ".ipynb_checkpoints", 3)
    write_images(root / "train" / ".ipynb_checkpoints", 3)
    (a / "._0.ppm").write_bytes(b"")
    Image.new("RGB", (9, 9)).save(root / "train" / "loose.png")
    labels, line = left_out_of(root, streaming)
    assert labels == ([12, 12], [8, 8])
    assert line.startswith(f"{root}: 9 files or folders are left out (")
    for reason in ("hidden: 3", ".gif: 2", ".jfif: 1", "without a suffix: 1", ".csv: 1", "outside class folders: 1"):
        assert reason in line


@READERS
def test_a_named_pipe_is_left_out(root, streaming):
    os.mkfifo(root / "train" / "a" / "pipe.png")
    (root / "train" / "b" / "link.png").symlink_to(root / "train" / "a" / "pipe.png")
    (root / "train" / "b" / "null.png").symlink_to("/dev/null")
    labels, line = left_out_of(root, streaming)
    assert labels == ([12, 12], [8, 8]) and "(no regular files: 3)" in line


@READERS
def test_nothing_is_said_of_proper_folders(root, streaming, recwarn):
    assert labels_of(root, streaming) == ([12, 12], [8, 8]) and not recwarn.list


@READERS
def test_names_of_strangers_stay_on_one_line(root, streaming):
    (root / "train" / "a" / "\x1b[2J\nname\udcff.\x1bg").write_bytes(b"")
    _, line = left_out_of(root, streaming)
    assert "\x1b" not in line and "\\x1b[2J\\nname\\udcff" in line
    bad = root / "train" / "a" / "\x1b[2J\nname.png"
    bad.write_bytes(b"")
    with pytest.warns(UserWarning):
        message = refusal(root, streaming)
    assert "\x1b" not in message and "\\x1b[2J\\nname.png" in message


@READERS
def test_classes_that_look_alike_are_spelled_out(root, streaming):
    for split, name in (("train", "caf\xe9"), ("test", "cafe\u0301")):
        write_images(root / split / name, 2)
    message = refusal(root, streaming)
    assert "('caf\\xe9', 'cafe\\u0301'); these look alike" in message or "('cafe\\u0301', 'caf\\xe9')" in message


def test_many_reasons_fit_one_line():
    left_out = LeftOut()
    for number in range(20):
        left_out.add(f".{number}", f"/x/{number}", number + 1)
    again = LeftOut(str(left_out))
    with pytest.warns(UserWarning) as seen:
        again.warn(Path("/x"))
    (line,) = [str(warning.message) for warning in seen]
    assert line == (
        "/x: 210 files or folders are left out (.19: 20, .18: 19, .17: 18, .16: 17, .15: 16, .14: 15, others), "
        "the first is /x/0"
    )


# Links that lead nowhere


@pytest.mark.parametrize("target", ["/nowhere/x.png", "gone.png"])
def test_an_image_that_is_a_broken_link_is_a_broken_image(root, target):
    """`gone.png` leads to itself."""
    gone = root / "train" / "a" / "gone.png"
    gone.symlink_to(target)
    reason = os.strerror(errno.ELOOP if target == "gone.png" else errno.ENOENT)
    assert f"{gone}: not a readable image (" in refusal(root, None)
    assert f"{gone}: a broken image ({reason}); replace" in refusal(root, Streaming(image_size=8))
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"1 broken image is left out: {gone}"):
            assert labels_of(root, Streaming(image_size=8, skip_broken=True)) == ([12, 12], [8, 8])


@READERS
def test_a_broken_link_to_a_folder_is_counted_until_its_end_is_there(root, tmp_path, streaming):
    for split in ("train", "test"):
        (root / split / "c").symlink_to(tmp_path / "disk" / split)
    for folder, _, _ in os.walk(root):
        os.utime(folder, ns=(10**18, 10**18))  # old enough for the list of files to be trusted
    for _ in range(2):
        labels, line = left_out_of(root, streaming)
        assert labels == ([12, 12], [8, 8]) and "links that lead nowhere: 2" in line
    for split in ("train", "test"):
        write_images(tmp_path / "disk" / split, 4)
    assert labels_of(root, streaming) == ([12, 12, 4], [8, 8, 4])


# The list that is kept


def test_what_is_left_out_is_in_the_kept_list_too(root, monkeypatch):
    (root / "train" / "a" / "x.gif").write_bytes(b"")
    streaming = Streaming(image_size=8)
    first = left_out_of(root, streaming)
    for _ in range(2):
        for folder, _, _ in os.walk(root):
            os.utime(folder, ns=(10**18, 10**18))
        assert left_out_of(root, streaming) == first
    monkeypatch.setattr("data.streaming.file_list._walk", None)
    assert left_out_of(root, streaming) == first


@pytest.mark.parametrize("change", [
    {"paths": np.zeros(3)},
    {"sizes": np.zeros(1, dtype=np.int64)},
    {"left_out": np.array("no json")},
    {"left_out": np.array([1, 2])},
    {"left_out": np.array('[{"x": "y"}, ""]')},
    {"left_out": np.array('[{"x": null}, ""]')},
    {"whole": np.zeros((40, 40), dtype=bool)},
])  # fmt: skip
def test_a_kept_list_that_makes_no_sense_is_no_list(root, change):
    streaming = Streaming(image_size=8)
    load_dataset(root, streaming=streaming)
    with np.load(root / CACHE) as kept:
        arrays = dict(kept) | change
    np.savez(root / CACHE, **arrays)
    assert labels_of(root, streaming) == ([12, 12], [8, 8])
