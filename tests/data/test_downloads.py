"""First runs that download at the same time, and ones that are killed meanwhile: made-up files, no network."""

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torchvision

from data import published
from data.datasets import load_dataset
from tests.data.test_sources import MNIST_FILES, md5, write_cifar, write_mnist
from tests.made_up_data import made_up_arrays, refusal
from tests.script_runs import ROOT


@pytest.fixture
def server(tmp_path):
    """The files of MNIST as they are published, compressed, and their checksums."""
    folder, _ = write_mnist(tmp_path / "server")
    for file in MNIST_FILES:
        (folder / f"{file}.gz").write_bytes(gzip.compress((folder / file).read_bytes()))
        (folder / file).unlink()
    resources = [(f"{file}.gz", md5(folder / f"{file}.gz")) for file in MNIST_FILES]
    (tmp_path / "server" / "resources.json").write_text(json.dumps(resources))
    return tmp_path / "server"


# A first run without a network: the server's files are beside. With "wait" it stops while it unpacks the last file, half
# of which is written then, until it reads a line.
FIRST_RUN = """
import gzip, io, json, sys, urllib.request
from pathlib import Path
import torchvision
from torchvision.datasets import utils

server, root = Path(sys.argv[1]), sys.argv[2]
torchvision.datasets.MNIST.resources = json.loads((server / "resources.json").read_text())

def urlopen(request, *args, **kwargs):
    url = request if isinstance(request, str) else request.full_url
    response = io.BytesIO((server / "MNIST" / "raw" / url.rpartition("/")[2]).read_bytes())
    response.length, response.url, response.headers, response.info = None, url, {}, lambda: {}
    return response

def unpack(from_path, to_path=None, remove_finished=False):
    content = gzip.decompress(Path(from_path).read_bytes())
    target = Path(to_path or Path(from_path).with_suffix(""))
    with open(target, "wb") as file:
        file.write(content[: len(content) // 2])
        file.flush()
        if target.name == "t10k-labels-idx1-ubyte" and sys.argv[3] == "wait":
            print("half", flush=True)
            sys.stdin.readline()
        file.write(content[len(content) // 2 :])
    return str(target)

urllib.request.urlopen = urlopen
utils._decompress = unpack
from data.datasets import load_dataset
print(load_dataset("mnist", root).fingerprint)
"""


def start(server, root, mode):
    command = [sys.executable, "-c", FIRST_RUN, str(server), str(root), mode]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, cwd=ROOT, text=True, **pipes)


def finish(run):
    out, err = run.communicate("go on\n", timeout=120)
    assert run.returncode == 0, err
    return out.splitlines()[-1]


def assert_whole(root):
    """The files of MNIST are there, whole, and nothing else."""
    made = made_up_arrays()
    dataset = load_dataset("mnist", root, download=False)
    assert np.array_equal(dataset.train_images[:, 0], made["train_images"][..., 0])
    expected = sorted(name for file in MNIST_FILES for name in (file, f"{file}.gz"))
    assert sorted(os.listdir(root / "MNIST" / "raw")) == expected


@pytest.mark.slow
def test_first_runs_at_once_do_not_spoil_each_others_files(tmp_path, server):
    root = tmp_path / "downloads"
    first = start(server, root, "wait")
    assert first.stdout.readline() == "half\n"
    second = finish(start(server, root, "at once"))
    assert_whole(root)
    assert finish(first) == second
    assert_whole(root)
    assert os.listdir(root) == ["MNIST"]


def test_what_another_run_puts_into_place_or_takes_away_meanwhile(tmp_path, monkeypatch):
    root = tmp_path / "downloads"
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    (folder / ".file.0a1b.tmp").write_bytes(b"half")
    (folder / "file").write_bytes(b"whole")
    (root / ".download-gone").symlink_to(root / "nowhere")  # listed, and gone when it is looked at

    class Reader:
        def __init__(self, aside, train, download):
            assert sorted(os.listdir(Path(aside) / "MNIST" / "raw")) == ["file"]

    published._download(Reader, root, folder)
    assert sorted(os.listdir(folder)) == [".file.0a1b.tmp", "file"]


@pytest.mark.slow
def test_a_first_run_that_is_killed_leaves_no_half_file(tmp_path, server):
    root = tmp_path / "downloads"
    first = start(server, root, "wait")
    assert first.stdout.readline() == "half\n"
    first.send_signal(signal.SIGKILL)
    first.communicate()
    finish(start(server, root, "at once"))
    assert_whole(root)
    (left,) = root.glob(".download-*")
    os.utime(left, (1, 1))
    shutil.rmtree(root / "MNIST")
    finish(start(server, root, "at once"))
    assert os.listdir(root) == ["MNIST"]


@pytest.fixture
def broken_network(monkeypatch):
    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("made-up: network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)


def test_a_download_that_fails_leaves_what_was_there(tmp_path, monkeypatch, broken_network):
    folder, _, _ = write_cifar(tmp_path, monkeypatch, "cifar10")
    (folder / "data_batch_2").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    refusal("cifar10", tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert os.listdir(tmp_path) == [folder.name]


def test_an_archive_that_the_user_put_there_needs_no_network(tmp_path, monkeypatch, broken_network):
    import tarfile

    folder, images, _ = write_cifar(tmp_path / "made", monkeypatch, "cifar10")
    reader = torchvision.datasets.CIFAR10
    (tmp_path / "downloads").mkdir()
    archive = tmp_path / "downloads" / reader.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, arcname=reader.base_folder)
    monkeypatch.setattr(reader, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    dataset = load_dataset("cifar10", tmp_path / "downloads")
    assert np.array_equal(dataset.train_images, images[: len(dataset.train_images)])
    assert sorted(os.listdir(tmp_path / "downloads")) == sorted([reader.filename, reader.base_folder])


def test_without_leave_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(b"no"))
    with pytest.raises(ValueError, match="mnist: cannot be read or downloaded .Dataset not found"):
        load_dataset("mnist", tmp_path, download=False)
    assert not os.listdir(tmp_path)
