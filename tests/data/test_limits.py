"""What unpacks to more than a data set may take, or than there is memory: refused by what the files state."""

import errno
import io
import os
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from data import sources
from data.datasets import load_dataset
from data.errors import DatasetError
from data.streaming.folder import Streaming
from data.streaming.image_files import decode
from data.streaming.workers import Pool
from tests.made_up_data import made_up_arrays, refusal, write_npz
from tests.script_runs import ROOT


def write_npz_bomb(path, gigabytes):
    """An archive of some megabytes at most whose training images are zeros of so many gigabytes."""
    header = io.BytesIO()
    pixels = gigabytes * 10**9
    shape = (pixels // 1000, 1000)
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (*shape, 1)})
    chunk = bytes(10**6)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("train_images.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(20):  # the rest is missing: what counts is what is stated
                member.write(chunk)
        for name, array in made_up_arrays(train_images=None).items():
            with archive.open(f"{name}.npy", "w") as member:
                np.save(member, array)
    return path


def state_size(path, member, size):
    """Let an archive's directory state another size of a member, as an honest one of that size would."""
    data = bytearray(path.read_bytes())
    at = data.rindex(member.encode())
    data[at - 46 + 24 : at - 46 + 28] = size.to_bytes(4, "little")
    path.write_bytes(data)


def test_an_npz_is_refused_by_the_sizes_that_it_states(tmp_path, monkeypatch):
    path = write_npz(tmp_path)
    state_size(path, "test_images.npy", 4_294_000_000)
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", None)  # nothing is unpacked
    monkeypatch.setenv("DPU_MAX_GIGABYTES", "4")
    message = refusal(path)
    assert message.startswith(f"{path}: takes 4.29 GB in memory, more than the limit of 4 GB; ")
    assert "DPU_MAX_GIGABYTES" in message


def test_the_limit_is_the_users(tmp_path, monkeypatch):
    path = write_npz(tmp_path)
    for text, words in (("0.0000001", "limit of 1e-07 GB"), ("much", "DPU_MAX_GIGABYTES is 'much'"), ("nan", "nan GB")):
        monkeypatch.setenv("DPU_MAX_GIGABYTES", text)
        assert words in refusal(path)
    for text in ("1", "", "inf"):
        monkeypatch.setenv("DPU_MAX_GIGABYTES", text)
        assert len(load_dataset(path).train_labels) == 6


def test_an_array_that_states_more_than_the_archive_holds_is_damaged(tmp_path):
    assert "cannot be read (" in refusal(write_npz_bomb(tmp_path / "bomb.npz", gigabytes=3))


def test_what_does_not_fit_into_memory_is_not_told_to_be_damaged(tmp_path, monkeypatch):
    path = write_npz_bomb(tmp_path / "bomb.npz", gigabytes=10**6)  # numpy asks for it all before it reads
    message = refusal(path)
    assert message.startswith(f"{path}: too large to hold in memory (Unable to allocate") and "--stream" in message
    assert "get it again" not in message

    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr("data.datasets.checked_images", no_memory)
    path = write_npz(tmp_path)
    assert f"{path}: too large to hold in memory (out of memory)" in refusal(path)


def test_labels_that_are_objects_are_never_loaded(tmp_path):
    path = write_npz(tmp_path, train_labels=np.array([None] * 6))
    message = refusal(path)
    assert "save train_labels as an array of integers: objects, which can run code, are never loaded" in message
    assert "get it again" not in message


def write_huge_png(path, side):
    """A black picture of side x side pixels in some kilobytes."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])  # one bit a pixel
    rows = zlib.compress(bytes((side // 8 + 2) * side), 9)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


@pytest.fixture
def pictures(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            for index in range(2):
                Image.new("RGB", (40, 50)).save(tmp_path / "pets" / split / name / f"{index}.png")
    return tmp_path / "pets"


@pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
def test_a_huge_picture_is_refused_by_what_its_header_states(pictures, side):
    huge = pictures / "test" / "b" / "1.png"
    write_huge_png(huge, min(side, 20_000))
    if side > 20_000:
        content = bytearray(huge.read_bytes())
        content[16:24] = side.to_bytes(4, "big") * 2
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        huge.write_bytes(content)
    for message in (refusal(pictures), streamed_refusal(pictures)):
        assert str(huge) in message and "exceeds limit of" in message
    with pytest.raises((Warning, Image.DecompressionBombError), match=f"{side * side} pixels"):
        decode(huge)


def streamed_refusal(root):
    with pytest.raises(DatasetError) as refused:
        load_dataset(root, streaming=Streaming(image_size=8))
    return str(refused.value)


def test_many_pictures_are_refused_by_what_their_headers_state(pictures, monkeypatch):
    monkeypatch.setenv("DPU_MAX_GIGABYTES", "4.7e-5")  # 8 pictures of 40 x 50 x 3 bytes are 48,000
    message = refusal(pictures)
    assert message.startswith(
        f"{pictures}: takes 4.8e-05 GB in memory, more than the limit of 4.7e-05 GB; give --stream"
    )
    monkeypatch.setenv("DPU_MAX_GIGABYTES", "4.8e-5")
    assert len(load_dataset(pictures).train_labels) == 4


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_npz(tmp_path)
    write_npz(tmp_path, "mnist.npz")
    assert load_dataset("~/made_up.npz").name == "made_up"
    assert load_dataset("mnist", "~").name == "mnist"
    assert "~/absent.npz" not in refusal("~/absent.npz")
    assert "~nobody-of-this-name/x: no such data set" in refusal("~nobody-of-this-name/x")


# Loader processes


def fail(request):
    raise KeyError(f"no request {request}")


def run_out(request):
    raise MemoryError


def test_the_last_line_of_a_worker_is_shown():
    with pytest.raises(DatasetError) as failed:
        list(Pool(fail, 1).map([7]))
    assert str(failed.value) == (
        "--num_workers: a loader process ended (KeyError: 'no request 7'); "
        "give fewer, or 0 to read without such processes"
    )
    with pytest.raises(DatasetError, match="--num_workers: a loader process ended .MemoryError.; give fewer"):
        list(Pool(run_out, 1).map([7]))


def test_without_workers_an_error_is_an_error():
    with pytest.raises(KeyError, match="no request 7"):
        list(Pool(fail, 0).map([7]))


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EAGAIN, errno.EMFILE])
def test_a_worker_that_cannot_be_started_is_the_fault_of_no_file(number, monkeypatch):
    def no_fork():
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fork", no_fork)
    with pytest.raises(DatasetError, match=f"--num_workers: {os.strerror(number)} for another loader process; give"):
        list(Pool(fail, 2).map([7]))


def test_half_of_the_workers_leave_one_line_alone():
    """Torch's loader, half started, would print a traceback when it is dropped."""
    code = (
        "import errno, os\nfrom data.streaming.workers import Pool\n"
        "fork, calls = os.fork, []\n"
        "def forks_twice():\n    calls.append(1)\n    if len(calls) > 2: raise OSError(errno.ENOMEM, 'No memory')\n"
        "    return fork()\n"
        "os.fork = forks_twice\n"
        "try:\n    list(Pool(print, 3).map([1]))\nexcept ValueError as error:\n    print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.stdout, ended.stderr) == ("--num_workers: No memory for another loader process; give fewer\n", "")


def test_a_lack_of_memory_makes_no_image_broken(pictures, monkeypatch):
    def no_memory(path):
        raise MemoryError

    monkeypatch.setattr("data.streaming.image_files.decode", no_memory)
    with pytest.raises(DatasetError, match="too large to hold in memory"):
        load_dataset(pictures, streaming=Streaming(image_size=8, skip_broken=True))


def test_published_npz_are_well_within_the_limit():
    """CIFAR-10 in an .npz, and ImageNet at 32x32 pixels."""
    for count, pixels in ((60_000, 3072), (1_331_167, 3072)):
        sources.check_size("x", count * (pixels + 8), "")
