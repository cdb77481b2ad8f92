"""The three scripts as people run them, on digits: every mode, the run folder, and going on after a kill."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import multiround_dpu
import multiround_fu
import multiround_rpu
from data.datasets import load_dataset, split_validation
from models import build_model
from utils.device import set_up_device
from utils.edge import main as edge_main
from utils.edge_node import EdgeNode
from utils.state_file import read_state
from utils.update_header import unpack_message

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "--dataset digits --hidden_sizes 24 --num_epochs 3 --dataset_size_init 200 --dataset_size_subseq 200 "
    "--max_rounds 3 --seed 3 --threads 1"
).split()
RUNS = {
    "dpu": (multiround_dpu, "--mode dpu --updating_ratio 0.1 --lamda 0.25"),
    "gcpu": (multiround_dpu, "--mode gcpu --without_reinit --updating_ratio 0.1"),
    "lcpu": (multiround_dpu, "--mode lcpu --updating_ratio 0.1"),
    "rpu": (multiround_rpu, "--mode rpu --updating_ratio 0.5"),
    "rpu_reinit": (multiround_rpu, "--mode rpu --reinit --updating_ratio 0.5"),
    "same_init": (multiround_fu, "--mode same_init"),
    "last_round": (multiround_fu, "--mode last_round"),
    "diff_init": (multiround_fu, "--mode diff_init"),
    "pruning": (multiround_fu, "--mode pruning --pruning_ratio 0.2"),
}
NUM_WEIGHTS = 64 * 24 + 24 * 10


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Every run above, once."""
    out = tmp_path_factory.mktemp("runs")
    return {
        name: script.main([*flags.split(), *SMALL, "--output_dir", str(out)])
        for name, (script, flags) in RUNS.items()
    }


def without_time(folder: Path) -> list[dict]:
    with open(folder / "rounds.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def weights_of(folder: Path) -> tuple:
    """Hashes of the final networks and of every message."""
    summary = json.loads((folder / "summary.json").read_text())
    messages = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder / "updates").iterdir()}
    return summary["line_sha256"], summary["served_sha256"], messages


@pytest.mark.parametrize("name", RUNS)
def test_every_mode_runs_learns_and_leaves_its_files(results, name):
    result = results[name]
    assert [row["num_samples"] for row in result.rows] == [200, 400, 600]
    assert result.rows[-1]["served_test_acc"] > 0.25, "chance is 0.1"
    assert result.summary["rounds"] == 3
    for file in ("config.json", "rounds.csv", "summary.json", "accuracy.png", "model.pt", "checkpoint"):
        assert (result.folder / file).stat().st_size > 0
    assert not list(result.folder.glob("*.tmp"))
    mode = RUNS[name][1].split()[1]
    assert result.folder.name.startswith(f"digits-mlp-{mode}-k")


def test_counts_of_updated_weights(results):
    counts = {name: {row["updated_weights"] for row in run.rows if row["sent"]} for name, run in results.items()}
    assert counts["dpu"] == counts["gcpu"] == counts["lcpu"] == {int(0.1 * NUM_WEIGHTS)}
    assert counts["rpu"] == {round(0.5 * 64 * 24) + round(0.5 * 240)}
    assert counts["same_init"] == {NUM_WEIGHTS}
    assert counts["pruning"] == {int(0.2 * NUM_WEIGHTS)}


@pytest.mark.parametrize("name", RUNS)
def test_messages_alone_lead_the_edge_to_the_served_network(results, name, capsys):
    result = results[name]
    for row in result.rows:
        parts = [row[part] for part in ("index_bytes", "value_bytes", "rest_bytes", "header_bytes")]
        path = result.folder / "updates" / f"round_{row['round']:03d}.dpu"
        assert path.exists() == bool(row["sent"])
        assert row["message_bytes"] == sum(parts) == (path.stat().st_size if row["sent"] else 0)
    node = EdgeNode(*read_state(result.folder / "initial.safetensors"))
    for path in sorted((result.folder / "updates").iterdir()):
        node.receive(path.read_bytes())
    assert hashlib.sha256(node.serving.tobytes()).hexdigest() == result.summary["served_sha256"]
    assert edge_main(["replay", str(result.folder)]) == 0
    assert "all fingerprints right" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["dpu", "rpu", "last_round", "pruning"])
@pytest.mark.parametrize("bits", ["16", "8", "4"])
def test_coarser_values_close_the_loop(results, tmp_path, name, bits):
    """Accuracies are those of the decoded network, and each round starts from what the edge holds."""
    script, mode = RUNS[name]
    result = script.main([*mode.split(), *SMALL, "--value_bits", bits, "--output_dir", str(tmp_path)])
    node = EdgeNode(*read_state(result.folder / "initial.safetensors"))
    for path in sorted((result.folder / "updates").iterdir()):
        node.receive(path.read_bytes())
    assert hashlib.sha256(node.serving.tobytes()).hexdigest() == result.summary["served_sha256"]
    exact = results[name].rows[0]
    assert result.rows[0]["value_bytes"] < exact["value_bytes"] * (0.8 if bits == "16" else 0.5)
    served = torch.load(result.folder / "model.pt", weights_only=True)
    digits = load_dataset("digits", "unused")
    split = split_validation(digits, 179, 3)
    model = build_model("mlp", digits.input_shape, 10, hidden_sizes=(24,))
    model.load_state_dict(served)
    for part in ("val", "test"):
        images = getattr(split, f"{part}_images") / 255
        images = (images - digits.mean.view(-1, 1, 1)) / digits.std.view(-1, 1, 1)
        accuracy = (model(images).argmax(1) == getattr(split, f"{part}_labels")).double().mean().item()
        assert accuracy == pytest.approx(result.rows[-1][f"served_{part}_acc"], abs=1e-6)


def test_signed_messages(tmp_path, capsys):
    key = tmp_path / "key"
    key.write_bytes(b"secret")
    flags = [*SMALL, "--updating_ratio", "0.1", "--num_epochs", "1", "--output_dir", str(tmp_path / "out")]
    result = multiround_dpu.main([*flags, "--sign_key", str(key)])
    assert edge_main(["replay", str(result.folder), "--sign_key", str(key)]) == 0
    key.write_bytes(b"other")
    assert multiround_dpu.main([*flags, "--sign_key", str(key)]).folder != result.folder
    assert edge_main(["replay", str(result.folder), "--sign_key", str(key)]) == 2
    assert "signature" in capsys.readouterr().err
    assert multiround_dpu.main(flags).folder != result.folder


def test_reinitialization_defaults(results):
    # 600 samples are more than twice 200 in round 2.
    flags = {name: [row["reinitialized"] for row in run.rows] for name, run in results.items()}
    assert flags["dpu"] == flags["lcpu"] == flags["rpu_reinit"] == [0, 0, 1]
    assert flags["gcpu"] == flags["rpu"] == flags["same_init"] == [0, 0, 0]


def test_all_methods_see_the_same_data(results):
    fingerprints = [result.summary["fingerprints"] for result in results.values()]
    assert all(fingerprint == fingerprints[0] for fingerprint in fingerprints)
    configs = [json.loads((result.folder / "config.json").read_text()) for result in results.values()]
    assert all(config["fingerprints"] == fingerprints[0] for config in configs)


def test_other_epochs_see_the_same_data_and_another_seed_does_not(results, tmp_path):
    out = ["--output_dir", str(tmp_path)]
    epochs = multiround_dpu.main([*SMALL, "--num_epochs", "1", "--max_rounds", "1", *out])
    seed = multiround_dpu.main([*SMALL, "--seed", "4", "--num_epochs", "1", "--max_rounds", "1", *out])
    fingerprints = results["dpu"].summary["fingerprints"]
    assert epochs.summary["fingerprints"] == fingerprints
    assert seed.summary["fingerprints"]["arrival"] != fingerprints["arrival"]
    assert seed.summary["fingerprints"]["dataset"] == fingerprints["dataset"]


def test_config_holds_every_setting(results):
    config = json.loads((results["dpu"].folder / "config.json").read_text())
    assert config["settings"]["lamda"] == 0.25
    assert config["settings"]["val_dataset_size"] == 179  # 30% of 599
    assert config["recipe"]["num_epochs"] == 3
    assert config["command"][:3] == ["multiround_dpu.py", "--mode", "dpu"]
    assert config["versions"]["torch"] == torch.__version__
    assert config["layers"][0] == ["fc1.weight", "weight", [24, 64]]


def test_model_file_holds_the_served_network(results):
    result = results["dpu"]
    state = torch.load(result.folder / "model.pt", weights_only=True)
    assert state["fc1.weight"].shape == (24, 64)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())


def test_finished_run_is_read_back_and_not_run_again(results, capsys):
    result = results["dpu"]
    before = {path: path.stat().st_mtime_ns for path in result.folder.iterdir() if path.name != ".lock"}
    again = multiround_dpu.main([*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(result.folder.parent)])
    assert again == result
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "finished" in capsys.readouterr().out


def test_same_command_gives_the_same_bytes(results, tmp_path):
    again = multiround_dpu.main([*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path)])
    assert again.folder.name == results["dpu"].folder.name
    assert without_time(again.folder) == without_time(results["dpu"].folder)
    assert weights_of(again.folder) == weights_of(results["dpu"].folder)


def test_overwrite_starts_anew(results, tmp_path):
    flags = [*RUNS["rpu"][1].split(), *SMALL, "--output_dir", str(tmp_path)]
    first = multiround_rpu.main(flags)
    (first.folder / "stray").touch()
    again = multiround_rpu.main([*flags, "--overwrite"])
    assert not (again.folder / "stray").exists()
    assert weights_of(again.folder) == weights_of(results["rpu"].folder)


@pytest.mark.parametrize(
    "flags", ["--augment on", "--precision bf16", "--batch_norm", "--lr 0.001", "--train_batch_size 199"]
)
def test_flags_that_change_the_training(results, tmp_path, flags):
    """Each has an effect and a folder of its own; 200 samples in batches of 199 leave a last batch of one."""
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), *flags.split(), "--max_rounds", "1"]
    result = multiround_dpu.main([*flags, "--batch_norm"])
    assert result.rows[0]["full_val_acc"] != results["dpu"].rows[0]["full_val_acc"]
    assert result.folder.name != results["dpu"].folder.name


def test_spelled_out_defaults_are_the_same_run(tmp_path):
    flags = [*SMALL[:-8], "--num_epochs", "30", "--max_rounds", "1", "--output_dir", str(tmp_path)]
    first = multiround_dpu.main(["--updating_ratio", "0.1", *flags])
    again = multiround_dpu.main(["--updating_ratio", "0.1", *flags, "--lr", "0.005", "--augment", "off"])
    assert again.folder == first.folder


def test_random_masks_and_fresh_networks_differ_between_rounds(results):
    masks = []
    for path in sorted((results["rpu"].folder / "updates").iterdir()):
        header, (positions, _, _) = unpack_message(path.read_bytes())
        assert header.mode == "random"
        masks.append(positions)
    assert len(set(masks)) == len(masks) > 1
    starts = [row["start_val_acc"] for row in results["diff_init"].rows]
    assert len(set(starts)) > 1
    same = [row["start_val_acc"] for row in results["same_init"].rows]
    assert len(set(same)) == 1 and same[0] == starts[0]


def test_global_random_state_is_not_touched(tmp_path):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    multiround_rpu.main([*SMALL, "--updating_ratio", "0.5", "--num_epochs", "1", "--output_dir", str(tmp_path)])
    assert torch.equal(torch.get_rng_state(), state)


def start_process(*flags, code=None, cwd=ROOT) -> subprocess.Popen:
    command = [sys.executable, *(["-c", code] if code else []), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.parametrize("script", ["multiround_dpu.py", "multiround_rpu.py", "multiround_fu.py"])
def test_script_as_a_process(script, tmp_path):
    flags = ["--model_dir", str(tmp_path / "out"), "--num_epochs", "1", "--max_rounds", "2"]
    process = start_process(str(ROOT / script), *SMALL, *flags, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == "", "no progress bar where stderr is no terminal"
    lines = out.splitlines()
    assert lines[0] == "digits: 1,198 training, 179 validation and 420 test images of 1x8x8, 10 classes"
    assert lines[1] == "mlp: 1,776 weights, 34 others"
    assert lines[3].startswith("run folder: ")
    assert lines[4].startswith("round 0 of 0-1 ") and lines[5].startswith("round 1 of 0-1 ")
    assert any(line.split()[:3] == ["round", "samples", "reinit"] for line in lines)
    assert os.listdir(tmp_path) == ["out"]


# The process kills itself with SIGKILL right after (or in the middle of) its n-th checkpoint.
SUICIDE = """
import os, signal, sys
from utils.checkpoint import Checkpoints
import utils.checkpoint, multiround_dpu
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
    ("moment", "number"),
    [
        ("before", 1),  # nothing saved yet
        ("after", 2),  # in step 1 of round 0
        ("after", 3),  # at its end
        ("between renames", 5),  # in step 2 of round 0
        ("after", 7),  # between rounds, before rounds.csv is written
        ("before", 9),  # in step 1 of round 1
        ("after", 20),  # in step 2 of round 2, re-initialised
    ],
)
def test_killed_run_goes_on_to_the_same_bytes(results, tmp_path, moment, number):
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), "--checkpoint_interval", "0"]
    process = start_process(moment, str(number), *flags, code=SUICIDE)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    assert not (folder / "summary.json").exists()
    result = multiround_dpu.main(flags)
    assert result.folder == folder
    assert without_time(folder) == without_time(results["dpu"].folder)
    assert weights_of(folder) == weights_of(results["dpu"].folder)


def wait_for_progress(folder: Path, process: subprocess.Popen) -> None:
    """Wait until the process has saved another checkpoint in a run folder in `folder`, or has ended."""

    def newest():
        return max((path.stat().st_mtime_ns for path in folder.glob("*/checkpoint")), default=0)

    before, deadline = newest(), time.monotonic() + 60
    while newest() == before and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [("dpu", "--value_bits 6 --batch_norm"), ("rpu_reinit", "--value_bits 8"), ("diff_init", ""), ("pruning", "")],
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


def test_damaged_checkpoint_falls_back_to_the_one_before(results, tmp_path, capsys):
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), "--checkpoint_interval", "0"]
    start_process("after", "10", *flags, code=SUICIDE).communicate(timeout=120)
    (folder,) = tmp_path.iterdir()
    with open(folder / "checkpoint", "r+b") as file:
        file.truncate(1000)
    multiround_dpu.main(flags)
    assert f"warning: checkpoint {folder / 'checkpoint'} is damaged" in capsys.readouterr().err
    assert without_time(folder) == without_time(results["dpu"].folder)


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_lost_message_of_a_saved_round_is_named(tmp_path, capsys, damage):
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), "--checkpoint_interval", "0"]
    start_process("after", "9", *flags, code=SUICIDE).communicate(timeout=120)
    (message,) = tmp_path.glob("*/updates/round_000.dpu")
    if damage == "missing":
        message.unlink()
    else:
        message.write_bytes(message.read_bytes()[:-1] + b"x")
    with pytest.raises(SystemExit) as stop:
        multiround_dpu.main(flags)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert str(message) in err and "--overwrite" in err and len(err.splitlines()) == 1


def test_checkpoint_of_another_version_is_named(tmp_path, capsys, monkeypatch):
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), "--checkpoint_interval", "0"]
    start_process("after", "9", *flags, code=SUICIDE).communicate(timeout=120)
    monkeypatch.setattr("utils.checkpoint.FORMAT", 99)
    with pytest.raises(SystemExit):
        multiround_dpu.main(flags)
    assert "another version" in capsys.readouterr().err


def test_interrupt_says_how_to_go_on(tmp_path):
    flags = [*RUNS["dpu"][1].split(), *SMALL, "--output_dir", str(tmp_path), "--num_epochs", "2000"]
    process = start_process(str(ROOT / "multiround_dpu.py"), *flags, "--checkpoint_interval", "0")
    wait_for_progress(tmp_path, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.strip() == "interrupted: the same command goes on from the last checkpoint, if there is one yet"


def test_cuda_is_found_and_named_with_its_number(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    for name, index in (("auto", 0), ("cuda", 0), ("cuda:1", 1)):
        assert set_up_device(name, "fp32", None) == torch.device("cuda", index)
    assert [device.index for device in chosen] == [0, 0, 1]


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
