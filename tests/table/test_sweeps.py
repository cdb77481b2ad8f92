"""`python -m utils.table --run` and `--ablate` as people run them, on digits with few epochs."""

import csv
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import multiround_dpu
from tests.made_up_runs import make_run
from tests.run.test_resume import wait_for_progress
from tests.script_runs import ROOT, start_process, weights_of, without_time
from utils.run.folder import LOCK
from utils.system.locks import locked
from utils.table.commands import Command
from utils.table.jobs import Failure, Job, Progress
from utils.table.program import main
from utils.table.sweep import find_jobs

SMALL = (
    "--dataset digits --hidden_sizes 24 --num_epochs 2 --dataset_size_init 200 --dataset_size_subseq 400 "
    "--max_rounds 2 --device cpu --quiet"
).split()


def table_process(*flags):
    return start_process("-m", "utils.table", *map(str, flags))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The paper's table of one seed, made by two jobs: the folder, and what the process said."""
    out = tmp_path_factory.mktemp("runs")
    process = table_process("--run", "mlp", "--seeds", "1", "--jobs", "2", *SMALL, "--output_dir", out / "runs",
                            "--out", out / "table")  # fmt: skip
    said = process.communicate(timeout=300)
    assert process.returncode == 0, said[1]
    return out, *said


@pytest.mark.parametrize("planted", ["link", "pipe"])
def test_a_planted_log_leads_nowhere_and_a_planted_pipe_holds_nothing_up(tmp_path, capsys, planted):
    flags = ["--ablate", "lamda", "0.5", "--seeds", "1", *SMALL, "--output_dir", str(tmp_path / "runs")]
    (job, *_) = find_jobs([Command("0.5", "multiround_dpu.py", ("--lamda", "0.5", *SMALL[:-1], "--threads", "1",
                                   "--mode", "dpu", "--seed", "1", "--output_dir", str(tmp_path / "runs")))])  # fmt: skip
    job.log.parent.mkdir(parents=True)
    job.folder.mkdir()
    os.mkfifo(job.folder / "rounds.csv")
    (tmp_path / "victim").write_text("mine")
    job.log.symlink_to(tmp_path / "victim") if planted == "link" else os.mkfifo(job.log)
    with pytest.raises(SystemExit) as stop:
        main(flags)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and f"{job.log} cannot be used (" in err.splitlines()[-1], err
    assert (tmp_path / "victim").read_text() == "mine"


def test_run_makes_every_row_and_the_table(finished):
    out, text, err = finished
    rows = [line.split()[0] for line in text.splitlines()[4:9]]
    assert rows == ["DPU", "GCPU", "RPU", "Pruning", "FU"]
    assert len(list((out / "runs").glob("*/summary.json"))) == 5
    assert "left out" not in text and "missing" not in text
    assert {path.name for path in (out / "table").iterdir()} == {
        "table.txt", "table.md", "table.csv", "accuracy.png", "bytes.png", "layers.png",
    }  # fmt: skip
    assert (out / "table" / "table.txt").read_text() == text
    assert len(list((out / "runs" / "logs").iterdir())) == 5
    assert all(line.startswith("written: ") for line in err.splitlines())


def test_what_is_there_is_not_run_again(finished, capsys, monkeypatch):
    out, text, _ = finished
    monkeypatch.setattr("utils.table.jobs._start", lambda _: pytest.fail("a run was started"))
    flags = ["--run", "mlp", "--seeds", "1", *SMALL, "--output_dir", str(out / "runs")]
    main(flags)
    assert capsys.readouterr().out == text
    main([*flags, "--dry_run"])
    assert capsys.readouterr() == ("", "5 runs, 5 of them finished\n")


def test_dry_run_commands_lead_to_the_same_runs(finished, tmp_path, capsys):
    out, _, _ = finished
    main(["--run", "mlp", "--seeds", "1", *SMALL, "--output_dir", str(tmp_path), "--dry_run"])
    commands = capsys.readouterr().out.splitlines()
    assert len(commands) == 5 and not list(tmp_path.iterdir())
    dpu = shlex.split(commands[0])
    assert dpu[:2] == ["python", "multiround_dpu.py"]
    folder = multiround_dpu.main(dpu[2:]).folder
    capsys.readouterr()
    same = out / "runs" / folder.name
    assert without_time(same) == without_time(folder) and weights_of(same) == weights_of(folder)
    main(["--run", "mlp", "--seeds", "1", *SMALL, "--output_dir", str(tmp_path), "--dry_run"])
    assert capsys.readouterr().out.splitlines() == commands[1:]


def test_dry_run_without_the_data_lists_everything(tmp_path, capsys):
    flags = ["--run", "vgg", "--seeds", "1", "2", "--dataset_dir", str(tmp_path / "nothing"), "--device", "cpu"]
    main([*flags, "--dry_run"])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 10
    assert "all 10 commands, as the data cannot be read here" in err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_interrupted_and_killed_and_repeated_it_ends_the_same(finished, tmp_path, capsys):
    out, text, _ = finished
    runs = tmp_path / "runs"
    shutil.copytree(out / "runs", runs)
    for name in ("dpu", "gcpu", "rpu", "pruning"):  # more than three stops can let through
        (folder,) = runs.glob(f"*-{name}-*")
        shutil.rmtree(folder)
    flags = ["--run", "mlp", "--seeds", "1", *SMALL, "--output_dir", str(runs), "--checkpoint_interval", "0"]
    for stop, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)):
        process = table_process(*flags)
        wait_for_progress(runs, process)
        children = children_of(process.pid)
        process.send_signal(stop)
        _, err = process.communicate(timeout=60)
        assert process.returncode == status
        if stop != signal.SIGKILL:
            assert "interrupted: the same command goes on" in err and "Traceback" not in err
        assert children
        wait_for_end(children)
    main(flags)
    assert capsys.readouterr().out == text
    for folder in (out / "runs").glob("digits-*"):
        assert without_time(runs / folder.name) == without_time(folder)
        assert weights_of(runs / folder.name) == weights_of(folder)


def children_of(pid):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in listed.split()]


def wait_for_end(pids):
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a run goes on by itself"
        time.sleep(0.05)


def test_a_run_that_fails_is_named_and_the_others_go_on(finished, tmp_path, capsys):
    out, text, _ = finished
    runs = tmp_path / "runs"
    shutil.copytree(out / "runs", runs)
    (broken,) = runs.glob("*-gcpu-*")
    (broken / "rounds.csv").unlink()
    (lost,) = runs.glob("*-rpu-*")
    shutil.rmtree(lost)
    (refused,) = runs.glob("*-pruning-*")
    shutil.rmtree(refused)
    refused.write_text("in the way")
    with pytest.raises(SystemExit) as stop:
        main(["--run", "mlp", "--seeds", "1", *SMALL, "--output_dir", str(runs)])
    text, err = capsys.readouterr()
    text = text.replace("\n  ", " ")  # lines that were wrapped in one again
    assert stop.value.code == 1
    (line,) = [line for line in err.splitlines() if "failed" in line]
    log = runs / "logs" / f"{refused.name}.log"
    assert line.startswith(f"{refused.name} failed (exit status 2): multiround_fu.py: error: --output_dir: ")
    assert line.endswith(f"(log: {log})") and log.exists()
    names = [line.split()[0] for line in text.splitlines()[4:7]]
    assert names == ["DPU", "RPU", "FU"], "the others went on"
    assert f"left out: {refused.name} failed (exit status 2)" in text
    assert f"left out: {broken.name}: " in text


def test_a_killed_run_says_so(tmp_path):
    job = Job(None, tmp_path / "a-run", [10])
    assert str(Failure(job, -9)).startswith("a-run failed (killed by signal 9): ")
    job.log.parent.mkdir()
    job.log.write_text("$ python\nround 1\nlast words\n\n")
    assert "last words (log: " in str(Failure(job, 1))


class Made:
    """A job of known work: what a Progress needs."""

    def __init__(self, folder, work, seconds, finished=False, kinds=()):
        self.folder, self.work, self.num_samples, self.finished, self.kinds = folder, work, work, finished, kinds
        self._seconds = seconds

    def seconds(self):
        return self._seconds


def test_time_left_by_hand():
    # 2 + 4 seconds for 10 + 20 samples: 0.2 seconds a sample. Left are 30 in one run and 60 in another.
    jobs = [Made("a", [10, 20, 30], [2.0, 4.0]), Made("b", [10, 20, 30], [])]
    assert Progress(jobs, jobs, 1, quiet=True).left([], jobs) == pytest.approx(0.2 * 90)
    assert Progress(jobs, jobs, 2, quiet=True).left([], jobs) == pytest.approx(0.2 * 60), "the longest run sets it"
    assert Progress(jobs, jobs, 1, quiet=True).rounds_done == 2
    assert Progress(jobs[1:], jobs[1:], 1, quiet=True).left([], jobs) is None
    # What is run anew has no rounds yet.
    again = [Made("a", [10], [2.0], finished=True)]
    assert Progress(again, again, 1, quiet=True).rounds_done == 0
    assert Progress(again, [], 1, quiet=True).rounds_done == 1


def test_time_left_by_hand_of_methods_of_another_pace_and_at_the_end(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("utils.table.jobs.time.monotonic", lambda: now[0])
    slow, fast = Made("a", [10, 20], [10.0], kinds=("one",)), Made("b", [10, 10], [1.0], kinds=("other",))
    more = [Made("c", [10, 10], [], kinds=("one",)), Made("d", [10], [], kinds=("third",))]
    progress = Progress([slow, fast, *more], [slow, fast, *more], 2, quiet=True)
    # 1 second a sample, 0.1, and for what is not known 11 seconds for 20 samples.
    progress.started(slow)
    progress.started(fast)
    assert progress.left([slow, fast], more) == pytest.approx(max(20 + 5.5, 1 + 20))
    now[0] += 15
    assert progress.left([slow, fast], more) == pytest.approx(max(5 + 5.5, 20)), "the second one, 10 late, is about to end"
    assert progress.left([slow], []) == pytest.approx(5), "at the end of a sweep"
    late = Made("e", [10, 10], [], kinds=("one",))
    progress.started(late)
    now[0] += 30
    assert progress.left([late], []) == pytest.approx(30), "its first round takes three times as long as others"


@pytest.mark.parametrize("script, flags, epochs", [
    ("multiround_dpu.py", "", 60), ("multiround_rpu.py", "", 60), ("multiround_rpu.py", "--num_epochs 7", 7),
    ("multiround_dpu.py", "--updating_ratio 0.005 --rewind_fixing_ratio 0.8 --num_epochs 12", 60),  # 5 steps
    ("multiround_dpu.py", "--updating_ratio 0.005 --rewind_fixing_ratio 0.8 --total_epochs 61", 61),
    ("multiround_fu.py", "--mode pruning --pruning_ratio 0.005 --rewind_fixing_ratio 0.8", 150),
])  # fmt: skip
def test_work_of_a_run_counts_every_step(tmp_path, script, flags, epochs):
    command = Command("a row", script, tuple(flags.split()))
    assert Job(command, tmp_path, [10, 30]).work == [10 * epochs, 30 * epochs]


def test_ablation_runs_and_tabulates_with_a_plot(tmp_path):
    process = table_process("--ablate", "lamda", "0", "1", "--seeds", "1", "--updating_ratio", "0.1", *SMALL,
                            "--max_rounds", "1", "--output_dir", tmp_path, "--jobs", "2")  # fmt: skip
    text, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    lines = text.splitlines()
    assert lines[1] == "epochs a round: dpu 2 in each step; same_init 4"
    assert [line.split()[0] for line in lines[5:8]] == ["0", "1", "FU"]
    out = tmp_path / "ablate-lamda"
    assert {path.name for path in out.iterdir()} == {"table.txt", "table.md", "table.csv", "ablation.png"}
    with open(out / "table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["n"]) for row in rows] == [("0", "1"), ("1", "1"), ("FU", "1")]
    assert all(row["difference_mean"] for row in rows)


def test_what_counts_once_and_what_is_left_out(tmp_path, capsys):
    flags = ["--ablate", "lamda", "0.5", "0.50", "1", *SMALL, "--output_dir", str(tmp_path), "--seeds"]
    main([*flags, "1"])
    assert "0.50: the same runs as 0.5\n" in capsys.readouterr().out, "a value given twice"
    flags[-1:] = ["--format", "csv", "--seeds"]
    main([*flags, "1", "01"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["method"] for row in rows] == ["0.5", "1", "FU"]
    assert [row["n"] for row in rows] == ["1"] * 3, "a seed given twice"
    (held,) = tmp_path.glob("*-dpu-*-lamda1-*")
    config = (held / "config.json").read_text()
    (held / "config.json").write_text("{")
    main([*flags, "1"])
    assert f"left out: {held.name}: " in capsys.readouterr().err, "damaged, which csv has no place for"
    (held / "config.json").write_text(config)
    with locked(held / LOCK), pytest.raises(SystemExit):
        main([*flags, "1", "--overwrite"])
    out, err = capsys.readouterr()
    assert len(list(csv.DictReader(io.StringIO(out)))) == 2, "lamda 0.5 and full updating"
    assert f"left out: {held.name} failed" in err and "another process runs this" in err, "not made anew"


def test_ctrl_c_before_any_run_is_one_line(tmp_path):
    process = table_process("--run", "mlp", *SMALL, "--output_dir", tmp_path)
    time.sleep(0.8)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)  # the latter while Python itself starts


@pytest.mark.skipif(os.name != "posix", reason="terminals differ")
def test_the_bar_shows_rounds_and_time_left_on_a_terminal(finished, tmp_path):
    pty = pytest.importorskip("pty")
    import fcntl
    import struct
    import termios

    out, _, _ = finished
    shutil.copytree(out / "runs", tmp_path / "runs")
    (gone,) = (tmp_path / "runs").glob("*-rpu-*")
    shutil.rmtree(gone)
    flags = [flag for flag in SMALL if flag != "--quiet"]
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    command = [sys.executable, "-m", "utils.table", "--run", "mlp", "--seeds", "1", *flags]
    process = subprocess.Popen([*command, "--output_dir", tmp_path / "runs"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=follower)
    os.close(follower)
    said = b""
    try:
        while chunk := os.read(leader, 4096):
            said += chunk
    except OSError:  # the terminal has closed
        pass
    assert process.wait() == 0
    text = said.decode()
    assert "8/10 rounds" in text and "10/10 rounds" in text and "left, 1 running, 0 waiting" in text


def test_made_up_runs_are_no_jobs(tmp_path):
    folder = make_run(tmp_path, "dpu", 1, [0.5, 0.6])
    assert Job(None, folder, [1, 2]).seconds() == [1.0, 1.0]
    assert Job(None, tmp_path / "nowhere", [1, 2]).seconds() == []
