"""One way to write a file: whole or not there, whoever else writes, reads, plants links, kills or fills the disk."""

import errno
import os
import signal
import stat
import subprocess
import sys

import pytest
import torch

from tests.script_runs import ROOT
from utils.system import files
from utils.system.files import append, read_regular, remove_leftovers, replacing, sync_folder, write_atomic


def test_what_was_written_stands_there_alone(tmp_path):
    path = tmp_path / "a.txt"
    for content in ("one", b"two", "thrée"):
        write_atomic(path, content)
        assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    with replacing(path) as file:
        file.write(b"....rest")
        file.seek(0)
        file.write(b"head")
    assert path.read_text() == "headrest" and os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "\U0001f600" * 63, "name\nof two lines"])
def test_a_name_may_be_as_long_as_the_file_system_takes(tmp_path, name):
    write_atomic(tmp_path / name, "content")
    assert os.listdir(tmp_path) == [name]


# Links, modes and what is no file


def test_planted_links_lead_nowhere(tmp_path, monkeypatch):
    """The temporary name is not to be guessed; and where it is, nothing is written through it."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "a.txt.tmp").symlink_to(victim)
    write_atomic(tmp_path / "a.txt", "theirs")
    assert victim.read_text() == "mine" and (tmp_path / "a.txt.tmp").is_symlink()

    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "0" * 16)
    planted = tmp_path / ".b.txt.0000000000000000.tmp"
    planted.symlink_to(victim)
    with pytest.raises(FileExistsError) as refused:
        write_atomic(tmp_path / "b.txt", "theirs")
    assert refused.value.filename == str(tmp_path / "b.txt")
    assert victim.read_text() == "mine" and not (tmp_path / "b.txt").exists()


def test_temporary_names_are_random(tmp_path):
    def name():
        with replacing(tmp_path / "a.txt") as file:
            return os.path.basename(file.name)

    names = {name() for _ in range(50)}
    assert len(names) == 50 and "a.txt.tmp" not in names


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_replaced(tmp_path, there):
    (tmp_path / "far").mkdir()
    target, link, chain = tmp_path / "far" / "node.st", tmp_path / "node.st", tmp_path / "chain"
    if there:
        target.write_text("old")
    link.symlink_to("far/node.st")
    chain.symlink_to("node.st")
    write_atomic(chain, "new")
    assert target.read_text() == "new" and link.is_symlink() and chain.is_symlink()
    assert os.listdir(tmp_path / "far") == ["node.st"]


def test_a_link_that_leads_to_itself_is_refused(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError) as refused:
        write_atomic(tmp_path / "a", "new")
    assert refused.value.errno == errno.ELOOP and (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755, 0o444])
def test_the_mode_of_the_file_it_replaces_is_kept(tmp_path, mode):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(mode)
    before = os.umask(0o077)
    try:
        write_atomic(path, "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_text() == "new"


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a.txt", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        with pytest.raises(OSError, match="not a regular file"):
            write_atomic(tmp_path / name, "new")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode) and sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_reading_what_somebody_else_made_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("twelve bytes")
    (tmp_path / "link").symlink_to("a.txt")
    assert read_regular(path, 12) == read_regular(tmp_path / "link", 12) == b"twelve bytes"
    with pytest.raises(ValueError, match="a.txt has more than 11 bytes"):
        read_regular(path, 11)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "itself").symlink_to("itself")
    for name, error in (
        ("pipe", ValueError),
        ("device", ValueError),
        ("itself", OSError),
        ("", OSError),
        ("no", OSError),
    ):
        with pytest.raises(error):
            read_regular(tmp_path / name, 12)


def test_appending_follows_no_link_and_waits_for_no_pipe(tmp_path):
    append(tmp_path / "a.txt", "one,")
    append(tmp_path / "a.txt", "two")
    assert (tmp_path / "a.txt").read_text() == "one,two"
    (tmp_path / "link").symlink_to("a.txt")
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("link", "it is a link"), ("pipe", "No such device")):
        with pytest.raises(OSError, match=reason) as error:
            append(tmp_path / name, "three")
        assert error.value.filename == str(tmp_path / name)
    assert (tmp_path / "a.txt").read_text() == "one,two"


# Failures


@pytest.mark.parametrize("failure", [ValueError("why"), KeyboardInterrupt(), SystemExit(3), OSError(errno.EIO, "disk")])
def test_a_failure_leaves_the_old_file_alone(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(failure)) as raised, replacing(path) as file:
        file.write(b"half")
        raise failure
    assert raised.value is failure and path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_a_folder_that_is_missing_is_named_by_the_file(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        write_atomic(tmp_path / "no" / "a.txt", "new")
    assert missing.value.filename == str(tmp_path / "no" / "a.txt")


FULL = """
import errno, os, resource, signal, sys
from pathlib import Path
import numpy as np, pytest, torch
from utils.run.checkpoint import Checkpoints
from utils.system.files import append, replacing

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
folder = Path(sys.argv[1])
ways = {
    "plain": lambda file: [file.write(bytes(4000)) for _ in range(400)],
    "numpy": lambda file: np.savez(file, zeros=np.zeros(200_000)),
    "torch": lambda file: torch.save({"zeros": torch.zeros(200_000)}, file),
}
for name, write in ways.items():
    path = folder / name
    path.write_text("old")
    with pytest.raises(OSError) as full, replacing(path) as file:
        write(file)
    assert (full.value.errno, full.value.filename) == (errno.EFBIG, str(path)), (name, full.value)
    assert path.read_text() == "old"
rows = folder / "rounds.csv"
rows.write_bytes(b"x" * 99_990)
with pytest.raises(OSError) as full:
    append(rows, "a row of twenty bytes")
assert (full.value.errno, full.value.filename) == (errno.EFBIG, str(rows)) and rows.stat().st_size == 99_990
append(rows, "ten bytes\\n")
assert rows.read_bytes()[-11:] == b"xten bytes\\n"
rows.unlink()
checkpoints = Checkpoints(folder)
checkpoints.save({"small": torch.zeros(3)})
with pytest.raises(OSError) as full:
    checkpoints.save({"large": torch.zeros(10**6)})
assert (full.value.errno, full.value.filename) == (errno.EFBIG, str(folder / "checkpoint_new"))
assert checkpoints.load("cpu")["small"].tolist() == [0, 0, 0]
assert sorted(os.listdir(folder)) == ["checkpoint", *sorted(ways)]
"""


def test_a_full_disk_is_named_with_the_file_whatever_the_library_makes_of_it(tmp_path):
    """Torch tells of an unexpected position in its archive where the disk is full."""
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], cwd=ROOT, check=True)


def test_a_disk_that_is_full(tmp_path):
    if os.geteuid() or subprocess.call(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], stderr=-3):
        pytest.skip("no right to mount a small file system")
    try:
        write_atomic(tmp_path / "a.txt", bytes(20_000))
        for size in (60_000, 10**6):
            with pytest.raises(OSError) as full:
                write_atomic(tmp_path / "a.txt", bytes(size))
            assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(tmp_path / "a.txt"))
        assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").stat().st_size == 20_000
        write_atomic(tmp_path / "a.txt", bytes(30_000))
    finally:
        subprocess.check_call(["umount", tmp_path])


def test_ctrl_c_inside_a_library_stays_ctrl_c(tmp_path):
    """Torch tells of an unexpected position in its archive where it is interrupted."""
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "state") as file:

        class Interrupted:
            def write(self, data):
                if len(data) > 10_000:
                    raise KeyboardInterrupt
                return file.write(data)

            def flush(self):
                file.flush()

        torch.save({"zeros": torch.zeros(200_000)}, Interrupted())
    assert not os.listdir(tmp_path)


def test_an_error_that_was_being_handled_before_is_not_the_reason(tmp_path):
    def fail():
        raise ValueError("why")

    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(ValueError, match="why"), replacing(tmp_path / "a.txt"):
            fail()
        with pytest.raises(ValueError, match="chosen"), replacing(tmp_path / "a.txt"):
            try:
                raise OSError(errno.EIO, "disk")
            except OSError as error:
                raise ValueError("chosen") from error


# Power cuts and kills


@pytest.fixture
def steps(monkeypatch):
    """What reaches the disk, in its order: ("sync", path) and ("rename", target)."""
    seen, fsync, replace = [], os.fsync, os.replace

    def watched_fsync(number):
        seen.append(("sync", os.readlink(f"/proc/self/fd/{number}")))
        fsync(number)

    def watched_replace(source, target):
        seen.append(("rename", os.fspath(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    return seen


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_content_then_name_then_folder_reach_the_disk(tmp_path, steps):
    with replacing(tmp_path / "a.txt") as file:
        file.write(b"content")
        name = file.name
    assert steps == [("sync", name), ("rename", str(tmp_path / "a.txt")), ("sync", str(tmp_path))]
    steps.clear()
    (tmp_path / "link").symlink_to("far/b.txt")
    (tmp_path / "far").mkdir()
    write_atomic(tmp_path / "link", "content")
    assert steps[1:] == [("rename", str(tmp_path / "far" / "b.txt")), ("sync", str(tmp_path / "far"))]


@pytest.mark.parametrize("number, raised", [(errno.EINVAL, False), (errno.ENOSYS, False), (errno.EIO, True)])
def test_a_file_system_without_fsync_serves_and_a_failing_disk_does_not(tmp_path, monkeypatch, number, raised):
    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    if raised:
        with pytest.raises(OSError, match=str(tmp_path / "a.txt")):
            write_atomic(tmp_path / "a.txt", "new")
        assert not os.listdir(tmp_path)
    else:
        write_atomic(tmp_path / "a.txt", "new")
        sync_folder(tmp_path)
        assert (tmp_path / "a.txt").read_text() == "new"


KILLED = """
import os, signal, sys
from pathlib import Path
from utils.system.files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(bytes(100_000))
    file.flush()
    if sys.argv[2] == "early":
        os.kill(os.getpid(), signal.SIGKILL)
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["early", "late"])
def test_a_killed_writer_leaves_no_half_file(tmp_path, moment):
    path = tmp_path / "node.st"
    path.write_text("old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL and path.read_text() == "old"
    write_atomic(path, "new")
    assert path.read_text() == "new" and len(os.listdir(tmp_path)) == 2
    remove_leftovers(tmp_path / "another")
    assert len(os.listdir(tmp_path)) == 2
    remove_leftovers(path)
    assert os.listdir(tmp_path) == ["node.st"]


def test_leftovers_of_a_folder_go_and_nothing_else(tmp_path):
    (tmp_path / "updates").mkdir()
    keep = ["notes.tmp", ".hidden", ".a.tmp", ".a.0123.tmp", ".lock", "x.0123456789abcdef.tmp"]
    for name in [*keep, ".a.0123456789abcdef.tmp", "updates/.b.0123456789abcdef.tmp", "updates/b"]:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*keep, "updates"]) and os.listdir(tmp_path / "updates") == ["b"]


WRITER = """
import sys
from pathlib import Path
from utils.system.files import write_atomic
for number in range(60):
    write_atomic(Path(sys.argv[1]), sys.argv[2] * 300_000)
"""


def test_two_writers_at_once_and_a_reader(tmp_path):
    path = tmp_path / "node.st"
    write_atomic(path, "a" * 300_000)
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, letter], cwd=ROOT, stderr=subprocess.PIPE) for letter in "ab"]
    reads = 0
    while any(writer.poll() is None for writer in writers):
        content = path.read_text()
        assert content in ("a" * 300_000, "b" * 300_000)
        reads += 1
    assert [writer.communicate()[1] for writer in writers] == [b"", b""] and reads > 10
    assert os.listdir(tmp_path) == ["node.st"]


def test_the_lock_of_one_long_name_leaves_the_writers_of_another_alone(tmp_path):
    one, other = (tmp_path / f"edge-node-in-the-basement-of-building-north-{n:03}.safetensors" for n in (1, 2))
    with replacing(one) as file:
        file.write(b"x")
        remove_leftovers(other)
    assert one.read_bytes() == b"x" and len(list(tmp_path.iterdir())) == 1
