"""The campaigns against runs: a disk that forgets what was not synced, and each campaign for a few stops."""

import os
import random
import subprocess
import sys

import pytest

from tests.run.campaign import start
from tests.run.power_cut import ForgetfulDisk
from tests.script_runs import ROOT
from utils.run.folder import RunFolder
from utils.system.files import append, make_folder, write_atomic


def after_cuts(tmp_path, work, events=0):
    """All that the disk may have, over many cuts, after a process did `work` in a folder and lost its power."""
    found = set()
    for seed in range(20):
        place = tmp_path / str(seed)
        (place / "disk").mkdir(parents=True)
        disk = ForgetfulDisk(place / "disk", place / "beside")
        process = start(place, disk, events, lambda _, disk=disk: work(disk.root))
        process.join(30)
        assert not (place / "log").read_text()
        disk.cut(random.Random(seed))
        files = {path.relative_to(disk.root): path.read_bytes() for path in disk.root.rglob("*") if path.is_file()}
        found.add(" ".join(f"{path}={data.decode()}" for path, data in sorted(files.items())))
    return found


def test_the_disk_forgets_what_was_not_synced(tmp_path):
    def renamed_without_sync(root):
        (root / "new").write_text("ab")
        os.replace(root / "new", root / "a")

    def appended_without_sync(root):
        write_atomic(root / "a", "ab")
        with open(root / "a", "a") as file:
            file.write("c")

    assert after_cuts(tmp_path / "1", renamed_without_sync) == {"", "a=", "a=a", "a=ab"}
    assert after_cuts(tmp_path / "2", appended_without_sync) == {"a=ab", "a=abc"}


def test_the_disk_keeps_what_was_synced(tmp_path):
    def work(root):
        make_folder(root / "b" / "c")
        write_atomic(root / "b" / "c" / "a", "ab")
        append(root / "b" / "c" / "a", "c")

    assert after_cuts(tmp_path, work) == {"b/c/a=abc"}


def test_a_new_run_folder_is_on_the_disk_with_its_first_file(tmp_path):
    """Else a power cut could lose the whole folder, whatever its files had been synced."""

    def work(root):
        folder = RunFolder(root / "runs" / "run")
        with folder.claimed(overwrite=False):
            folder.write_config({"settings": {}})

    assert all("runs/run/config.json={" in files for files in after_cuts(tmp_path, work))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("kills", 3), ("signals", 2), ("power_cuts", 2)])
def test_a_short_campaign(kind, count):
    command = [sys.executable, "-m", "tests.run.campaign", kind, "--count", str(count), "--seed", "5"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0 and f"{count} {kind} in " in result.stdout, result.stderr
