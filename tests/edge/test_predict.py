"""From a node's file to answers: the accuracy is the run's, and what cannot be answered is said in one line."""

import csv
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import multiround_dpu
from data.datasets import load_dataset, split_validation
from data.inputs import Inputs
from models import build_model
from tests.edge.test_edge import INITIAL, ROOT, SCHEMA, WITHOUT_TORCH
from tests.script_runs import SMALL
from utils.edge import EdgeNode
from utils.edge import program as edge


@pytest.fixture
def node_of(results, tmp_path):
    """Returns a run's folder, and the file of a node that has all its messages."""

    def make(name):
        run, node = results[name].folder, tmp_path / f"{name}.safetensors"
        assert edge.main(["replay", str(run), "--out", str(node)]) == 0
        return run, node

    return make


def predict(node, run, *more):
    return edge.main(["predict", "--node", str(node), "--model-from", str(run), *map(str, more)])


@pytest.mark.parametrize("name", ["dpu", "sparse_gcpu", "same_init"])
def test_the_accuracy_is_that_of_the_run(results, node_of, tmp_path, capsys, name):
    """And every class is that of the served network, with pixels normalised by hand."""
    run, node = node_of(name)
    capsys.readouterr()
    assert predict(node, run, "--out", tmp_path / "classes.csv") == 0
    served = results[name].rows[-1]["served_test_acc"]
    assert f"420 images, {served * 100:.2f} % right" in capsys.readouterr().out
    with open(tmp_path / "classes.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["image", "class"] and len(rows) == 421
    digits = load_dataset("digits")
    split = split_validation(digits, 179, 3)
    model = build_model("mlp", (1, 8, 8), 10, hidden_sizes=(24,))
    model.load_state_dict(torch.load(run / "model.pt", weights_only=True))
    with torch.no_grad():
        x = (split.test_images.float() / 255 - digits.mean.view(1, -1, 1, 1)) / digits.std.view(1, -1, 1, 1)
        assert [int(name) for _, name in rows[1:]] == model(x).argmax(dim=1).tolist()


def test_images_of_ones_own(node_of, tmp_path, capsys):
    run, node = node_of("dpu")
    digits = load_dataset("digits")
    images, labels = digits.test_images[:30, 0].numpy(), digits.test_labels[:30].numpy()
    outputs = []
    np.savez(tmp_path / "named.npz", images=images, labels=labels)
    np.savez(tmp_path / "medmnist.npz", test_images=images[..., None], test_labels=labels[:, None])
    np.savez(tmp_path / "unlabelled.npz", images=images)
    for index, (image, label) in enumerate(zip(images, labels)):
        for path in (tmp_path / "classes" / str(label), tmp_path / "loose"):
            path.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path / f"{index:02}.png")
    for name in ("named.npz", "medmnist.npz", "unlabelled.npz", "classes", "loose"):
        capsys.readouterr()
        assert predict(node, run, tmp_path / name, "--out", (out := tmp_path / f"out{len(outputs)}.csv")) == 0
        classes = [line.split(",") for line in out.read_text().splitlines()[1:]]
        outputs.append((capsys.readouterr().out.splitlines()[-1], {name.split("/")[-1][:2]: c for name, c in classes}))
    right = outputs[0][0]
    assert re.fullmatch(r"30 images, \d+\.\d\d % right", right)
    assert [last for last, _ in outputs] == [right, right, "30 images", right, "30 images"]
    by_index = {f"{int(index):02}": c for index, c in outputs[0][1].items()}
    assert outputs[3][1] == outputs[4][1] == by_index


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("none.npz", "no such file"),
        ("large.npz", "images are 1x9x9; the network takes 1x8x8"),
        ("floats.npz", "images are float64"),
        ("labels.npz", "labels go up to 10, but the network has 10 classes"),
        ("other.npz", "neither images nor test_images"),
        ("empty", "holds no images"),
        ("sizes", "9x8, mode L; the network takes 8x8"),
    ],
)
def test_images_that_do_not_fit(node_of, tmp_path, capsys, images, words):
    run, node = node_of("dpu")
    np.savez(tmp_path / "large.npz", images=np.zeros((2, 9, 9), np.uint8))
    np.savez(tmp_path / "floats.npz", images=np.zeros((2, 8, 8)))
    np.savez(tmp_path / "labels.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.array([1, 10]))
    np.savez(tmp_path / "other.npz", x=np.zeros((2, 8, 8), np.uint8))
    for name in ("empty", "sizes"):
        (tmp_path / name).mkdir()
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "sizes" / "a.png")
    capsys.readouterr()
    assert predict(node, run, tmp_path / images) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and words in error


def test_the_images_of_another_run_are_not_the_node_s(node_of, results, tmp_path, capsys):
    _, node = node_of("dpu")
    flags = ["--updating_ratio", "0.1", *SMALL, "--seed", "8", "--max_rounds", "1", "--output_dir", str(tmp_path)]
    other = multiround_dpu.main(flags).folder
    capsys.readouterr()
    assert predict(node, other) == 2
    assert "the node began with another network" in capsys.readouterr().err
    assert predict(node, results["same_init"].folder) == 0, "of the same seed, so that the network is the same"


def test_a_node_that_cannot_answer(results, node_of, tmp_path, capsys):
    run, node = node_of("dpu")
    bare = tmp_path / "bare.safetensors"
    EdgeNode(SCHEMA, INITIAL).save(bare)
    for file, folder, words in (
        (bare, run, "did not say yet what its inputs are"),
        (node, tmp_path, "has no config.json"),
    ):
        capsys.readouterr()
        assert predict(file, folder) == 2
        assert words in capsys.readouterr().err
    config = json.loads((run / "config.json").read_text())
    config["settings"]["hidden_sizes"] = [25]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert predict(node, tmp_path) == 2
    assert "its network is not the node's" in capsys.readouterr().err
    for name, value in (("model", 5), ("threads", "x"), ("hidden_sizes", ["a"]), ("dataset_dir", 5), ("model", None),
                        ("test_batch_size", None), ("test_batch_size", "500")):
        config = json.loads((run / "config.json").read_text())
        config["settings"][name] = value
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert predict(node, tmp_path) == 2
        assert "config.json cannot be put to use" in capsys.readouterr().err
    config = json.loads((run / "config.json").read_text())
    config["fingerprints"]["dataset"] = "0" * 32
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert predict(node, tmp_path) == 2
    assert "no longer the data" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"mean": [10**400]}, {"mean": [1.0, 2.0]}, {"std": [0.0]}, {"input_shape": [1, 8]}, {"classes": [1, 2]}, {"classes": "ab"}, {"classes": {"a": 1}}])
def test_damaged_inputs_are_refused(change):
    inputs = Inputs((1, 8, 8), torch.tensor([0.1]), torch.tensor([0.3]), ["a", "b"])
    again = Inputs.from_text(inputs.to_text())
    assert again.to_text() == inputs.to_text() and again.mean.equal(inputs.mean) and again.num_classes == 2
    text = json.dumps({**json.loads(inputs.to_text()), **change})
    with pytest.raises(ValueError, match="cannot be read"):
        Inputs.from_text(text)


def test_a_bundle_runs_by_itself(results, tmp_path, capsys):
    device = tmp_path / "device"
    assert edge.main(["bundle", str(device)]) == 0
    (device / "LICENSE").unlink()
    (device / ".LICENSE.0123456789abcdef.tmp").write_text("ha")  # as a kill leaves it
    assert edge.main(["bundle", str(device)]) == 0, "one that was cut short is finished"
    (device / "LICENSE").write_text("another")
    assert edge.main(["bundle", str(device)]) == 2
    assert f"{device / 'LICENSE'} is no part of this bundle" in capsys.readouterr().err
    assert (device / "LICENSE").read_text() == "another"
    (device / "LICENSE").unlink()
    assert edge.main(["bundle", str(device)]) == 0
    assert {path.name for path in device.iterdir()} == {"utils", "requirements.txt", "LICENSE"}
    assert [line[:5] for line in (device / "requirements.txt").read_text().splitlines()] == ["numpy", "const"]

    def run(*words):
        return subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *map(str, words)], cwd=device,
                              capture_output=True, text=True, timeout=120)  # fmt: skip

    folder, node = results["dpu"].folder, tmp_path / "node.safetensors"
    assert run("init", "--initial", folder / "initial.safetensors", "--out", node).returncode == 0
    assert run("apply", "--node", node, *sorted((folder / "updates").iterdir())).returncode == 0
    answer = run("predict", "--node", node, "--model-from", folder)
    assert answer.returncode == 2 and answer.stderr.count("\n") == 1 and "whole project" in answer.stderr
    assert predict(node, folder) == 0
    assert not [path for path in device.rglob("*.py") if not (ROOT / path.relative_to(device)).is_file()]
