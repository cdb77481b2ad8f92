"""A run folder is believed only where it is what its run left: checkpoints, rows, messages, records of each start."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import multiround_dpu
import multiround_fu
from tests.damage import damage_json
from tests.script_runs import ROOT, SMALL, start_process, weights_of, without_time
from utils.run.checkpoint import Checkpoints
from utils.run.config import git_commit
from utils.run.folder import RunFolder
from utils.table.program import main as table

FLAGS = [*SMALL, "--updating_ratio", "0.1", "--max_rounds", "2", "--num_epochs", "2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return multiround_dpu.main([*FLAGS, "--output_dir", str(tmp_path_factory.mktemp("finished"))]).folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of a finished run, to be damaged."""
    return shutil.copytree(finished, tmp_path / finished.name)


def again(folder, *flags):
    return multiround_dpu.main([*FLAGS, *flags, "--output_dir", str(folder.parent)])


def refused(folder, capsys) -> str:
    """Run the same command again, which must be refused in one line; returns the line."""
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as stop:
        again(folder)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 1 and "--overwrite" in err, err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    return err


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("damage", ["row", "figure", "message", "altered message", "model", "summary"])
def test_a_finished_run_that_was_changed_is_not_read_back(damage, folder, capsys):
    rounds, message = folder / "rounds.csv", folder / "updates" / "round_000.dpu"
    if damage == "row":
        rounds.write_text("".join(rounds.read_text().splitlines(keepends=True)[:-1]))
    elif damage == "figure":
        rows = rounds.read_text().splitlines()
        edit(rounds, rows[1], rows[1].replace("0,200,0,", "0,201,0,"))
    elif damage == "message":
        message.unlink()
    elif damage == "altered message":
        message.write_bytes(message.read_bytes()[:-1] + b"x")
    elif damage == "model":
        (folder / "model.pt").unlink()
    else:
        (folder / "summary.json").write_text("{}")
    assert str(folder) in refused(folder, capsys)


def test_a_checkpoint_of_another_run_is_refused(folder, tmp_path, capsys):
    other = multiround_dpu.main([*FLAGS, "--seed", "4", "--output_dir", str(tmp_path / "other")]).folder
    shutil.copy(other / "checkpoint", folder / "checkpoint")
    (folder / "summary.json").unlink()
    assert f"is of another run ({other.name})" in refused(folder, capsys)


@pytest.mark.parametrize("lacking", ["edge", "training", "line", "shape"])
def test_a_checkpoint_that_lacks_something_is_refused(lacking, folder, capsys):
    checkpoints = Checkpoints(folder)
    state = checkpoints.load("cpu")
    if lacking in ("edge", "training"):
        del state[lacking]
    elif lacking == "line":
        del state["edge"]["line"]
    else:
        state["edge"]["line"] = torch.zeros(3)
    checkpoints.save(state)
    (folder / "summary.json").unlink()
    assert "lacks what this run needs" in refused(folder, capsys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("line", torch.zeros(1778, dtype=torch.float64)), ("served", None), ("weights", True), ("line_acc", 0.5),
        ("weights", torch.zeros(5, dtype=torch.bool)), ("next_round", True), ("next_round", -1), ("applied", 7),
        ("applied", [None]), ("num_samples_at_last_init", torch.zeros(3)), ("more", 1),
    ],
)  # fmt: skip
def test_a_checkpoint_with_values_of_other_kinds_is_refused(name, value, folder, capsys):
    """Its checksum is right, so somebody made it so."""
    checkpoints = Checkpoints(folder)
    state = checkpoints.load("cpu")
    state["edge"][name] = value
    checkpoints.save(state)
    (folder / "summary.json").unlink()
    assert "lacks what this run needs" in refused(folder, capsys)


@pytest.mark.parametrize("value", [torch.zeros(3), [], {"number": 0}, 7])
def test_an_interrupted_round_of_another_kind_is_refused(value, folder, capsys):
    checkpoints = Checkpoints(folder)
    checkpoints.save({**checkpoints.load("cpu"), "training": value})
    (folder / "summary.json").unlink()
    assert "lacks what this run needs" in refused(folder, capsys)


def test_a_checkpoint_with_fewer_messages_than_rounds_sent_is_refused(folder, capsys):
    checkpoints = Checkpoints(folder)
    state = checkpoints.load("cpu")
    state["edge"]["applied"].pop()
    checkpoints.save(state)
    (folder / "summary.json").unlink()
    with pytest.raises(SystemExit):
        again(folder)
    assert "rounds.csv has 2 messages, the checkpoint 1: start anew with --overwrite" in capsys.readouterr().err


def test_rows_that_are_not_those_of_the_checkpoint_are_refused(folder, capsys):
    (folder / "summary.json").unlink()
    lines = (folder / "rounds.csv").read_text().splitlines(keepends=True)
    (folder / "rounds.csv").write_text("".join(lines[:-1]))
    assert "does not have the rows that the checkpoint knows" in refused(folder, capsys)


def test_a_lost_config_is_written_again(folder, capsys):
    kept = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    again(folder)
    config = json.loads((folder / "config.json").read_text())
    for settings in (config["settings"], kept["settings"]):
        settings.pop("output_dir")  # the run was copied
    assert config["settings"] == kept["settings"] and config["layers"] == kept["layers"]
    table([str(folder)])
    assert "DPU" in capsys.readouterr().out


ALTERED = {
    "lamda": lambda config: config["settings"].update(lamda=0.25),
    "lr": lambda config: config["settings"].update(lr=0.01),
    "dataset": lambda config: config["settings"].update(dataset="mnist"),
    "epochs": lambda config: config["recipe"].update(num_epochs=30),
    "layers": lambda config: config["layers"][0][2].reverse(),
}


@pytest.mark.parametrize("altered", ALTERED)
def test_an_altered_setting_is_not_shown_as_true(altered, folder, tmp_path, capsys):
    """Not by the script, not by a table, not in an export, until the same command has written it anew."""
    config = json.loads((folder / "config.json").read_text())
    ALTERED[altered](config)
    (folder / "config.json").write_text(json.dumps(config))
    for show in (lambda: again(folder), lambda: table([str(folder)])):
        with pytest.raises(SystemExit) as stop:
            show()
        lines = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2 and "config.json does not say what summary.json promises: delete it" in lines[-1]
    (folder / "config.json").unlink()
    again(folder, "--checkpoint_interval", "7")
    table([str(folder), "--export", str(tmp_path / "export")])
    shown = capsys.readouterr().out
    table([str(tmp_path / "export")])
    for lines in (shown, capsys.readouterr().out):
        assert [line for line in lines.splitlines() if line.startswith("DPU")], lines


def test_a_run_that_goes_on_records_its_true_settings(folder, capsys):
    """What an unfinished run's config.json says of them may be altered, too; the history of its starts stays."""
    config = json.loads((folder / "config.json").read_text())
    true, history = dict(config["settings"]), config["starts"]
    ALTERED["lamda"](config)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").unlink()
    again(folder)
    config = json.loads((folder / "config.json").read_text())
    assert {**config["settings"], "output_dir": ""} == {**true, "output_dir": ""}
    assert config["starts"][:1] == history and len(config["starts"]) == 2
    for starts in (7, [None], [{"code": []}], [{"git_commit": {}}]):
        (folder / "config.json").write_text(json.dumps({**config, "starts": starts}))
        (folder / "summary.json").unlink()
        again(folder)
        assert len(json.loads((folder / "config.json").read_text())["starts"]) == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_records_end_no_script_in_a_traceback(seed, folder, capsys):
    """Any value of the records is deleted or another: the same command shows the run, or refuses in one line."""
    rng, refusals = random.Random(seed), 0
    kept = {name: (folder / name).read_text() for name in ("config.json", "summary.json")}
    for _ in range(25):
        for name, text in kept.items():
            (folder / name).write_text(text)
        damage_json(folder / rng.choice([*kept]), rng)
        try:
            assert again(folder).summary["rounds"] == 2
        except SystemExit as stop:
            refusals += 1
            assert stop.code == 2 and len(capsys.readouterr().err.splitlines()) == 1
    assert refusals > 2


def test_a_config_without_a_data_set_is_a_lost_one(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["settings"]["dataset"]
    (folder / "config.json").write_text(json.dumps(config))
    again(folder)
    assert json.loads((folder / "config.json").read_text())["settings"]["dataset"] == "digits"


@pytest.mark.parametrize("name", ["formula_bytes", "average_test_acc", "average_served_test_acc", "rounds_sent", "fingerprints"])
@pytest.mark.parametrize("value", [None, "7", 10**400, "deleted"], ids=["null", "text", "huge", "deleted"])
def test_a_summary_that_lacks_what_is_printed_is_refused(name, value, folder, capsys):
    summary = json.loads((folder / "summary.json").read_text())
    if value == "deleted":
        del summary[name]
    else:
        summary[name] = value
    (folder / "summary.json").write_text(json.dumps(summary))
    if name == "fingerprints":  # is not printed
        assert again(folder).summary["rounds"] == 2
    else:
        line = refused(folder, capsys)
        assert name in line or "changed" in line or "lacks what is printed" in line or "do not go together" in line


def test_lost_rows_of_an_unfinished_run_are_named_in_one_line(folder, capsys):
    (folder / "summary.json").unlink()
    (folder / "rounds.csv").unlink()
    assert f"{folder / 'rounds.csv'} is missing: start anew" in refused(folder, capsys)


def test_a_lost_plot_is_drawn_again_and_one_that_fails_costs_nothing(folder, monkeypatch):
    (folder / "accuracy.png").unlink()
    again(folder)
    assert (folder / "accuracy.png").stat().st_size > 1000
    (folder / "accuracy.png").unlink()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert again(folder).summary["rounds"] == 2
    assert not (folder / "accuracy.png").exists()


def test_the_settings_of_a_notebook_do_not_end_a_run(tmp_path):
    environment = {**os.environ, "MPLBACKEND": "module://not_there", "MPLCONFIGDIR": str(tmp_path)}
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    command = [sys.executable, "multiround_dpu.py", *FLAGS, "--output_dir", str(tmp_path / "runs")]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "accuracy.png").stat().st_size > 1000 and (folder / "summary.json").exists()


def test_every_start_is_recorded(finished, tmp_path):
    flags = [*FLAGS, "--output_dir", str(tmp_path), "--checkpoint_interval", "0"]
    process = start_process(str(ROOT / "multiround_dpu.py"), *flags, "--num_epochs", "300")
    (folder,) = wait_for(lambda: [path.parent for path in tmp_path.glob("*/checkpoint")], process)
    process.kill()
    process.communicate()
    result = multiround_dpu.main([*flags, "--num_epochs", "300"])
    config = json.loads((folder / "config.json").read_text())
    assert result.folder == folder and len(config["starts"]) == 2
    for start in config["starts"]:
        assert start["git_commit"] == git_commit() and {"date", "versions", "device", "command"} <= start.keys()
    assert len(json.loads((finished / "config.json").read_text())["starts"]) == 1


def wait_for(found, process):
    while process.poll() is None:
        if result := found():
            return result
        time.sleep(0.05)
    pytest.fail(f"the run ended before anything was saved: {process.communicate()}")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_saves_a_checkpoint_and_says_so(name, tmp_path):
    """Batch systems send one some time before they kill. The run ends where an epoch does, and loses nothing."""
    if signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        pytest.skip(f"{name} is ignored by what started the tests, such as nohup")
    flags = [*FLAGS, "--output_dir", str(tmp_path), "--num_epochs", "100"]
    process = start_process(str(ROOT / "multiround_dpu.py"), *flags)  # whose usual checkpoints are a minute apart
    (folder,) = wait_for(lambda: [path.parent for path in tmp_path.glob("*/rounds.csv")], process)
    process.send_signal(getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + getattr(signal, name)
    assert err.strip() == f"stopped by {name}: a checkpoint is saved, the same command goes on"
    assert Checkpoints(folder).load("cpu")["run"] == folder.name
    result = multiround_dpu.main(flags)
    whole = multiround_dpu.main([*flags, "--output_dir", str(tmp_path / "whole")])
    assert without_time(result.folder) == without_time(whole.folder) and weights_of(result.folder) == weights_of(whole.folder)


def test_the_commit_of_another_repository_is_not_recorded(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-C", str(mine)]
    subprocess.run(["git", "init", "-q", str(mine)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "mine"], check=True)
    here = git_commit()
    monkeypatch.setenv("GIT_DIR", str(mine / ".git"))
    assert git_commit() == here
    monkeypatch.delenv("GIT_DIR")
    unpacked = mine / "dpu" / "utils" / "run"
    unpacked.mkdir(parents=True)
    monkeypatch.setattr("utils.run.config.__file__", str(unpacked / "config.py"))
    assert git_commit() is None


class Killed(BaseException):
    pass


def test_overwriting_that_is_killed_leaves_what_can_go_on(finished, tmp_path, monkeypatch):
    """After any number of deletions the same command, without --overwrite, ends with the same run."""
    entries = len([path for path in finished.iterdir() if path.name != ".lock"])
    for deletions in range(entries + 1):
        folder = shutil.copytree(finished, tmp_path / str(deletions) / finished.name)
        (folder / "accuracy.png").write_bytes(b"of the run before")
        left = [deletions]

        def dying(plain, left=left):
            def delete(path, *rest, **more):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
                return plain(path, *rest, **more)

            return delete

        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.unlink", dying(type(folder).unlink))
            patch.setattr(shutil, "rmtree", dying(shutil.rmtree))
            try:
                RunFolder(folder).clear()
            except Killed:
                pass
        assert again(folder).summary["rounds"] == 2
        assert (folder / "accuracy.png").stat().st_size > 1000 or deletions < 2  # with what it shows
        assert without_time(folder) == without_time(finished) and weights_of(folder) == weights_of(finished)


def test_overwriting_leaves_what_a_link_leads_to(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    (folder / "more").symlink_to(elsewhere)
    RunFolder(folder).clear()
    assert (elsewhere / "mine").read_text() == "mine" and [path.name for path in folder.iterdir()] in ([], [".lock"])


def test_rounds_are_appended(finished):
    """Each round costs as much to write as the last one: nothing is written anew."""
    rows = RunFolder(finished).read_rounds()
    copy = RunFolder(finished.parent)
    for row in rows:
        copy.append_round(row)
    inode = copy.rounds.stat().st_ino
    copy.append_round({**rows[-1], "round": 2})
    assert copy.rounds.stat().st_ino == inode
    assert copy.read_rounds()[:2] == rows and copy.read_rounds()[2]["round"] == 2


def test_full_updating_too_keeps_its_promises(tmp_path):
    flags = [*SMALL, "--max_rounds", "2", "--num_epochs", "2", "--output_dir", str(tmp_path)]
    folder = multiround_fu.main([*flags, "--mode", "last_round"]).folder
    promised = json.loads((folder / "summary.json").read_text())["files"]
    sent = {f"updates/{path.name}" for path in (folder / "updates").iterdir()}
    assert promised.keys() == {"rounds.csv", "model.pt", "initial.safetensors"} | sent and sent
