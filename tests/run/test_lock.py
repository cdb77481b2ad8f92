"""A run folder belongs to one process: only one that is busy is refused, and what killed ones left goes."""

import errno
import fcntl
import os

import pytest

from utils.run.folder import RunFolder
from utils.system.errors import UsageError
from utils.system.files import replacing


def test_a_busy_folder_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.claimed(overwrite=False):
        with pytest.raises(UsageError, match=f"--output_dir: another process runs this in {folder.path}: wait for it"):
            with folder.claimed(overwrite=True):
                pass


def test_a_file_system_without_locks_serves(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", fail)
    reached = []
    with pytest.warns(UserWarning, match="cannot be locked here"), RunFolder(tmp_path / "run").claimed(False):
        reached.append(1)
    assert reached == [1]


def test_a_planted_lock_leads_nowhere(tmp_path):
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(UsageError, match="run cannot be written .Too many levels of symbolic links.: name another"):
        with RunFolder(tmp_path / "run").claimed(True):
            pass
    assert (tmp_path / "victim").read_text() == "mine"


def test_what_a_killed_run_was_writing_goes(tmp_path, monkeypatch):
    (tmp_path / "updates").mkdir()
    with monkeypatch.context() as killed:
        killed.setattr(os, "unlink", lambda path: None)
        for name in ("checkpoint_new", "updates/round_000.dpu"):
            with pytest.raises(KeyboardInterrupt), replacing(tmp_path / name) as file:
                file.write(b"half")
                raise KeyboardInterrupt
    assert len(os.listdir(tmp_path)) == 2 and len(os.listdir(tmp_path / "updates")) == 1
    with RunFolder(tmp_path).claimed(overwrite=False):
        assert sorted(os.listdir(tmp_path)) == [".lock", "updates"] and not os.listdir(tmp_path / "updates")
