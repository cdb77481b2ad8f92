"""Runs that are killed, interrupted or damaged, and what the same command makes of them."""

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

import multiround_dpu
from models import build_model
from tests.script_runs import ROOT, RUNS, SMALL, metrics_of, start_process, weights_of, without_time
from utils.edge import program as edge

# The process kills itself with SIGKILL right after (or in the middle of) its n-th checkpoint.
SUICIDE = """
import os, signal, sys
from utils.run.checkpoint import Checkpoints
import utils.run.checkpoint, multiround_dpu
moment, number = sys.argv[1], int(sys.argv[2])
save, count = Checkpoints.save, 0
def dying_save(self, state):
    global count
    count += 1
    if count == number and moment == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    if count == number and moment == "between renames":
        def dying_replace(*paths):
            replace(*paths)
            os.kill(os.getpid(), signal.SIGKILL)
        replace, os.replace = os.replace, dying_replace
    save(self, state)
    if count == number and moment == "after":
        os.kill(os.getpid(), signal.SIGKILL)
Checkpoints.save = dying_save
multiround_dpu.main(sys.argv[3:])
"""


# With --checkpoint_interval 0 and 3 epochs, a DPU round saves 3 times in step 1, 3 times in step 2, once done.
@pytest.mark.parametrize(
    ("name", "moment", "number"),
    [
        ("dpu", "before", 1),  # nothing saved yet
        ("dpu", "after", 2),  # in step 1 of round 0
        ("dpu", "after", 3),  # at its end
        ("dpu", "between renames", 5),  # in step 2 of round 0
        ("dpu", "after", 7),  # between rounds, before rounds.csv is written
        ("dpu", "before", 9),  # in step 1 of round 1
        ("dpu", "after", 20),  # in step 2 of round 2, re-initialised
        ("movement", "after", 9),  # what was accumulated is saved
        ("fisher", "after", 9),  # what is measured at the start point is measured when step 1 is over
        ("every", "after", 14),  # the round of the last start is saved
        ("shrink_perturb", "after", 16),  # in step 1 of round 2, shrunk and perturbed
        ("shrink_perturb", "after", 20),  # in step 2
        ("sparse", "after", 5),  # in the second step of the sparse deployment
        ("sparse", "after", 9),  # in step 1 of round 1, on the deployed weights alone
        ("budget", "after", 4),  # in step 2 of round 0: the order of the selected weights is saved
        ("budget_in_steps", "after", 5),  # in the second of four steps: how many bits were chosen before
        ("budget_in_steps", "after", 24),  # in the last step of round 1
        ("rewinding", "after", 5),  # 888 weights are left: in the second of five steps of round 0
        ("rewinding", "between renames", 27),  # in the fourth step of round 1
    ],
)
def test_killed_run_goes_on_to_the_same_bytes(results, tmp_path, name, moment, number):
    flags = [*RUNS[name][1].split(), *SMALL, "--output_dir", str(tmp_path), "--checkpoint_interval", "0"]
    process = start_process(moment, str(number), *flags, code=SUICIDE)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    assert not (folder / "summary.json").exists()
    result = multiround_dpu.main(flags)
    assert result.folder == folder
    assert without_time(folder) == without_time(results[name].folder)
    assert weights_of(folder) == weights_of(results[name].folder)
    assert metrics_of(folder) == metrics_of(results[name].folder), "no line twice, none missing"


@pytest.fixture
def elsewhere(monkeypatch):
    """From here on other initial weights are drawn, by a bit or two, as on another kind of processor."""

    def build(*args, **more):
        model = build_model(*args, **more)
        for parameter in model.parameters():
            parameter.data *= 1 + 1e-6
        return model

    return lambda: monkeypatch.setattr("utils.run.plan.build_model", build)


@pytest.mark.parametrize(
    ("name", "number"), [("dpu", 2), ("dpu", 7), ("dpu", 20), ("shrink_perturb", 16), ("budget", 4), ("same_init", 5)]
)
def test_a_run_goes_on_from_the_network_that_was_shipped(results, tmp_path, elsewhere, name, number):
    script, mode = RUNS[name]
    flags = [*mode.split(), *SMALL, "--output_dir", str(tmp_path), "--checkpoint_interval", "0"]
    code = SUICIDE.replace("multiround_dpu", script.__name__)
    start_process("after", str(number), *flags, code=code).communicate(timeout=120)
    elsewhere()
    folder, expected = script.main(flags).folder, results[name].folder
    assert without_time(folder) == without_time(expected) and weights_of(folder) == weights_of(expected)
    assert (folder / "initial.safetensors").read_bytes() == (expected / "initial.safetensors").read_bytes()
    assert edge.main(["replay", str(folder)]) == 0


def test_without_that_network_a_run_goes_on_only_where_it_is_drawn_alike(results, tmp_path, capsys, elsewhere):
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), "--checkpoint_interval", "0"]
    for number in ("7", "4"):  # the second goes on where the first was killed
        start_process("after", number, *flags, code=SUICIDE).communicate(timeout=120)
        (shipped,) = tmp_path.glob("*/initial.safetensors")
        shipped.unlink()
    assert len(metrics_of(shipped.parent)) == 7 + 3, "epochs"
    elsewhere()
    with pytest.raises(SystemExit) as stop:
        multiround_dpu.main(flags)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.count("\n") == 1
    assert f"{shipped} is missing or damaged, and another initial network is drawn here" in err


def wait_for_progress(folder: Path, process: subprocess.Popen) -> None:
    """Wait until the process has saved another checkpoint in a run folder in `folder`, or has ended."""

    def newest():
        try:
            return max((path.stat().st_mtime_ns for path in folder.glob("*/checkpoint")), default=0)
        except FileNotFoundError:  # between the renames of a checkpoint
            return before

    before, deadline = 0, time.monotonic() + 60
    before = newest()
    while newest() == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("dpu", "--value_bits 6 --batch_norm"), ("rpu_reinit", "--value_bits 8"), ("diff_init", ""), ("pruning", ""),
        ("fisher", "--batch_norm"), ("every", "--value_bits 6"), ("shrink_perturb", "--value_bits 6 --batch_norm"),
        ("sparse_rpu", "--value_bits 6 --batch_norm"), ("rewinding", "--value_bits 6"),
    ],
)
def test_run_killed_again_and_again_at_odd_moments(tmp_path, name, more):
    script, mode = RUNS[name]
    flags = [*mode.split(), *SMALL, *more.split(), "--checkpoint_interval", "0"]
    expected = script.main([*flags, "--output_dir", str(tmp_path / "never killed")]).folder
    flags += ["--output_dir", str(tmp_path / "killed")]
    codes = []
    for attempt in range(3):
        process = start_process(str(Path(script.__file__)), *flags)
        wait_for_progress(tmp_path / "killed", process)
        time.sleep(0.013 * attempt)
        process.kill()
        process.communicate()
        codes.append(process.returncode)
    assert codes[0] == -signal.SIGKILL
    result = script.main(flags)
    assert without_time(result.folder) == without_time(expected)
    assert weights_of(result.folder) == weights_of(expected)
    assert metrics_of(result.folder) == metrics_of(expected)


def test_damaged_checkpoint_falls_back_to_the_one_before(results, tmp_path, capsys):
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), "--checkpoint_interval", "0"]
    start_process("after", "10", *flags, code=SUICIDE).communicate(timeout=120)
    (folder,) = tmp_path.iterdir()
    with open(folder / "checkpoint", "r+b") as file:
        file.truncate(1000)
    multiround_dpu.main(flags)
    assert f"warning: checkpoint {folder / 'checkpoint'} is damaged" in capsys.readouterr().err
    assert without_time(folder) == without_time(results["dpu"].folder)


@pytest.mark.parametrize("damage", ["missing", "altered", "altered at its end"])
def test_lost_message_of_a_saved_round_is_named(tmp_path, capsys, damage):
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), "--checkpoint_interval", "0"]
    start_process("after", "9", *flags, code=SUICIDE).communicate(timeout=120)
    (message,) = tmp_path.glob("*/updates/round_000.dpu")
    if damage == "missing":
        message.unlink()
    else:
        data, place = bytearray(message.read_bytes()), -1 if "end" in damage else 70
        data[place] ^= 1
        message.write_bytes(data)
    with pytest.raises(SystemExit) as stop:
        multiround_dpu.main(flags)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert str(message) in err and "--overwrite" in err and len(err.splitlines()) == 1


def test_checkpoint_of_another_version_is_named(tmp_path, capsys, monkeypatch):
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), "--checkpoint_interval", "0"]
    start_process("after", "9", *flags, code=SUICIDE).communicate(timeout=120)
    monkeypatch.setattr("utils.run.checkpoint.FORMAT", 99)
    with pytest.raises(SystemExit):
        multiround_dpu.main(flags)
    assert "another version" in capsys.readouterr().err


def test_a_torn_last_row_costs_nothing(results, tmp_path):
    """As a power cut leaves it while a row is added: the checkpoint knows the rows before."""
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path)]
    start_process("after", "14", *flags, "--checkpoint_interval", "0", code=SUICIDE).communicate(timeout=120)
    (folder,) = tmp_path.iterdir()
    with open(folder / "rounds.csv", "a") as file:
        file.write("2,600,0,0.08")
    assert multiround_dpu.main(flags).folder == folder
    assert without_time(folder) == without_time(results["dpu"].folder)


@pytest.mark.parametrize("more, how", [([], ""), (["--overwrite"], " without --overwrite")])
def test_interrupt_says_how_to_go_on(tmp_path, more, how):
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), "--num_epochs", "2000", *more]
    process = start_process(str(ROOT / "multiround_dpu.py"), *flags, "--checkpoint_interval", "0")
    wait_for_progress(tmp_path, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    place = r"(round 0, epoch \d+ of step 1|its first checkpoint)"
    assert re.fullmatch(f"interrupted: the same command{how} goes on from {place}", err.strip()), err


def test_second_process_in_the_same_folder_is_refused(results, tmp_path):
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), "--num_epochs", "2000"]
    first = start_process(str(ROOT / "multiround_dpu.py"), *flags)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("*/config.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        second = start_process(str(ROOT / "multiround_dpu.py"), *flags)
        _, err = second.communicate(timeout=60)
        assert second.returncode == 2
        assert "another process" in err and len(err.splitlines()) == 1
    finally:
        first.kill()
        first.communicate()
