"""A run folder belongs to one process: only one that is busy is refused, and what killed ones left goes."""

import errno
import fcntl
import os

import pytest

from tests.made_up_runs import make_run
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


@pytest.mark.parametrize(
    "name",
    ["rounds.csv", "config.json", "summary.json", "checkpoint", "checkpoint_new", "model.pt", "accuracy.png", "updates"],
)
def test_a_planted_link_or_pipe_is_refused_and_overwriting_removes_it(tmp_path, name):
    """A run folder can come from anybody: a run that goes on in it must write nowhere else, and wait for nothing."""
    run, outside = make_run(tmp_path / "runs", "dpu", 1, [0.5]), tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("mine")
    planted = run / name
    for plant in (
        lambda: planted.symlink_to(outside / "victim"),
        lambda: planted.symlink_to(outside),
        lambda: planted.symlink_to(outside / "missing"),
        lambda: os.mkfifo(planted),
    ):
        planted.unlink(missing_ok=True)
        plant()
        with pytest.raises(UsageError, match=f"{planted} is (a link|no regular file): remove it, or .*--overwrite"):
            with RunFolder(run).claimed(overwrite=False):
                pass
        assert os.path.lexists(planted)
    with RunFolder(run).claimed(overwrite=True):
        assert os.listdir(run) == [".lock"]
    assert os.listdir(outside) == ["victim"] and (outside / "victim").read_text() == "mine"


def test_a_link_to_the_whole_folder_and_links_that_are_not_the_runs_are_followed_or_left(tmp_path):
    run = make_run(tmp_path / "elsewhere", "dpu", 1, [0.5])
    (run / "notes").symlink_to("/")
    (tmp_path / "run").symlink_to(run)
    with RunFolder(tmp_path / "run").claimed(overwrite=False):
        assert RunFolder(tmp_path / "run").read().summary["rounds"] == 1


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
