"""The three scripts as people run them, on digits: every mode, the run folder, and what every flag does."""

import hashlib
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import multiround_dpu
import multiround_rpu
from data.datasets import load_dataset, split_validation
from models import build_model
from tests.script_runs import NUM_WEIGHTS, ROOT, RUNS, SMALL, start_process, weights_of, without_time
from utils.contribution import CRITERIA, Criterion
from utils.edge import EdgeNode
from utils.edge.program import main as edge_main
from utils.edge.state_file import read_state
from utils.message import unpack_message
from utils.modes import DPU, MODES, Mode


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
    assert result.folder.name.startswith(f"digits-mlp-{mode}-{'700bytes' if name.startswith('budget') else 'k'}")


def test_counts_of_updated_weights(results):
    counts = {name: {row["updated_weights"] for row in run.rows if row["sent"]} for name, run in results.items()}
    assert counts["dpu"] == counts["gcpu"] == counts["lcpu"] == {int(0.1 * NUM_WEIGHTS)}
    for name in ("magnitude", "fisher", "movement", "snip"):
        assert counts[name] == {int(0.25 * NUM_WEIGHTS)}
    assert counts["rpu"] == {round(0.5 * 64 * 24) + round(0.5 * 240)}
    assert counts["same_init"] == {NUM_WEIGHTS}
    assert counts["pruning"] == counts["lamp"] == {int(0.2 * NUM_WEIGHTS)}


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


@pytest.mark.parametrize("name", ["dpu", "rpu", "last_round", "pruning", "shrink_perturb", "rpu_shrink"])
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
    key.write_bytes(b"a secret of enough bytes")
    flags = [*SMALL, "--updating_ratio", "0.1", "--num_epochs", "1", "--output_dir", str(tmp_path / "out")]
    result = multiround_dpu.main([*flags, "--sign_key", str(key)])
    assert edge_main(["replay", str(result.folder), "--sign_key", str(key)]) == 0
    key.write_bytes(b"another secret of enough bytes")
    assert multiround_dpu.main([*flags, "--sign_key", str(key)]).folder != result.folder
    assert edge_main(["replay", str(result.folder), "--sign_key", str(key)]) == 2
    assert "signature" in capsys.readouterr().err
    assert multiround_dpu.main(flags).folder != result.folder


def test_reinitialization_defaults(results):
    # 600 samples are more than twice 200 in round 2.
    flags = {name: [row["reinitialized"] for row in run.rows] for name, run in results.items()}
    assert flags["dpu"] == flags["lcpu"] == flags["rpu_reinit"] == [0, 0, 1]
    assert flags["gcpu"] == flags["rpu"] == flags["same_init"] == [0, 0, 0]


def test_every_criterion_trains_alike_and_selects_otherwise(results):
    """Step 1 of round 0 is the same for all; what is sent after it is not."""
    criteria = [results[name] for name in ("dpu", "gcpu", "lcpu", "magnitude", "fisher", "movement", "snip")]
    assert len({run.rows[0]["full_val_acc"] for run in criteria}) == 1
    assert len({(run.folder / "updates" / "round_000.dpu").read_bytes() for run in criteria}) == 7


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


@pytest.mark.parametrize("model", ["vgg", "resnet56"])
def test_convolutional_models(tmp_path, model):
    """33 samples in batches of 16: the last one of a single sample joins the one before, for BatchNorm's sake."""
    sizes = "--dataset digits --dataset_size_init 33 --train_batch_size 16 --max_rounds 1 --num_epochs 1".split()
    flags = ["--model", model, "--updating_ratio", "0.1", "--output_dir", str(tmp_path), "--threads", "1"]
    result = multiround_rpu.main([*sizes, *flags])
    row = result.rows[0]
    assert row["start_val_acc"] <= row["val_acc"] <= 1
    config = json.loads((result.folder / "config.json").read_text())
    weights = sum(math.prod(shape) for _, kind, shape in config["layers"] if kind == "weight")
    assert result.summary["num_weights"] == weights and result.summary["num_buffers"] > 0
    assert not row["sent"] or abs(row["updated_weights"] - 0.1 * weights) < 60


def test_spelled_out_defaults_are_the_same_run(tmp_path):
    flags = [*SMALL[:-8], "--num_epochs", "30", "--max_rounds", "1", "--output_dir", str(tmp_path)]
    first = multiround_dpu.main(["--updating_ratio", "0.1", *flags])
    again = multiround_dpu.main(["--updating_ratio", "0.1", *flags, "--lr", "0.005", "--augment", "off"])
    assert again.folder == first.folder


def test_random_masks_and_fresh_networks_differ_between_rounds(results):
    masks = []
    for path in sorted((results["rpu"].folder / "updates").iterdir()):
        header, (positions, _, _) = unpack_message(path.read_bytes())
        assert header.kind == "random"
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


@pytest.mark.parametrize("script", ["multiround_dpu.py", "multiround_rpu.py", "multiround_fu.py"])
def test_script_as_a_process(script, tmp_path):
    flags = ["--model_dir", str(tmp_path / "out"), "--num_epochs", "1", "--max_rounds", "2"]
    process = start_process(str(ROOT / script), *SMALL, *flags, cwd=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == "", "no progress bar where stderr is no terminal"
    lines = out.splitlines()
    assert lines[0] == "digits: 1,198 training, 179 validation and 420 test images of 1x8x8, 10 classes"
    assert lines[1] == "mlp: 1,776 weights, 34 values of the rest"
    assert lines[3].startswith("run folder: ")
    assert lines[4].startswith("round 0 of 2, n=") and lines[5].startswith("round 1 of 2, n=")
    assert any(line.split()[:3] == ["round", "samples", "init"] for line in lines)
    assert os.listdir(tmp_path) == ["out"]


def test_a_criterion_of_ones_own_is_an_entry_and_a_function(tmp_path, monkeypatch):
    """As docs/algorithm.md describes it: nothing else has to know of it. This one prefers the last weights."""
    monkeypatch.setitem(CRITERIA, "last", Criterion(lambda e: torch.arange(float(len(e.weights)))))
    monkeypatch.setitem(MODES, "last", Mode(DPU, "line", "sparse", score="last"))
    flags = ["--mode", "last", "--updating_ratio", "0.05", *SMALL, "--max_rounds", "1", "--output_dir", str(tmp_path)]
    result = multiround_dpu.main(flags)
    assert result.folder.name.startswith("digits-mlp-last-k0.05-")
    _, before = read_state(result.folder / "initial.safetensors")
    served = torch.load(result.folder / "model.pt", weights_only=True)
    weights = torch.cat([served["fc1.weight"].flatten(), served["fc2.weight"].flatten()]).numpy()
    changed = np.flatnonzero(weights != before[:NUM_WEIGHTS])
    assert len(changed) and changed.min() >= NUM_WEIGHTS - int(0.05 * NUM_WEIGHTS)


@pytest.mark.parametrize(
    "command", ["multiround_dpu.py", "multiround_fu.py -h", "-m utils.table x", "-m utils.edge -h"]
)
def test_without_its_packages_a_program_says_so_in_one_line(command):
    """-S hides what is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [sys.executable, "-S", *command.split()]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "numpy is not installed for" in line and ".venv/bin/activate" in line and "pip install" in line


@pytest.mark.parametrize("missing, command", [
    ("torch", "utils.table --ablate lamda 0 1 --dataset digits --dry_run"),
    ("torchvision", "multiround_dpu --dataset cifar10 --dataset_dir {tmp}"),
    ("PIL", "utils.edge predict --node {tmp}/node --model-from {run} {tmp}"),
])  # fmt: skip
def test_a_package_that_is_needed_late_is_missing(missing, command, results, tmp_path):
    run = results["dpu"].folder
    EdgeNode.shipped(run / "initial.safetensors").save(tmp_path / "node")
    (tmp_path / "a.png").write_bytes(b"")
    code = f"""
import runpy, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
    words = command.format(tmp=tmp_path, run=run).split()
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert f"{missing} is not installed for" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
