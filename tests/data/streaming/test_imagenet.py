"""The three scripts on ImageNet in small, streamed: results, interruptions, workers, broken files, top-5."""

import csv
import os
import shutil
import signal

import numpy as np
import pytest
import torch

import multiround_dpu
import multiround_fu
import multiround_rpu
from data.streaming.file_list import CACHE
from models import build_model
from tests.image_trees import made_up_images, write_tree
from tests.run.test_resume import SUICIDE
from tests.script_runs import start_process, weights_of, without_time
from utils.edge.program import main as edge_main
from utils.rounds import EdgeCopy
from utils.run.checkpoint import Checkpoints, unpack

FLAGS = (
    "--model mobilenetv1 --width 0.25 --image_size 32 --lr 0.05 --num_epochs 2 --dataset_size_init 40 "
    "--dataset_size_subseq 40 --max_rounds 2 --train_batch_size 13 --val_dataset_size 12 --threads 1 --seed 4 "
    "--checkpoint_interval 0 --num_workers 0"
).split()
DPU = ["--mode", "dpu", "--updating_ratio", "0.1"]


@pytest.fixture(scope="session")
def trees(request, tmp_path_factory):
    """Four classes of real CIFAR-10 images as JPEGs, where they are at hand, else made-up ones; both layouts of val/."""
    if os.environ.get("DPU_REAL_DATA"):
        with np.load(request.getfixturevalue("real_cifar10") / "cifar10.npz") as real:
            chosen = np.concatenate([np.flatnonzero(real["train_labels"] == label)[:30] for label in range(4)])
            chosen.sort()
            images, labels = real["train_images"][chosen], real["train_labels"][chosen].reshape(-1)
    else:
        labels = np.random.RandomState(1).permutation(np.arange(120) % 4)
        images = made_up_images(labels)
    layouts = {layout: tmp_path_factory.mktemp(f"imagenet_{layout}") for layout in ("flat", "classes")}
    return {layout: write_tree(root, images, labels, 20, layout) for layout, root in layouts.items()}


def imagenet(root, out):
    return ["--dataset", "imagenet", "--dataset_dir", str(root), *FLAGS, "--output_dir", str(out)]


@pytest.fixture(scope="session")
def dpu(trees, tmp_path_factory):
    """The folder of a finished DPU run on the flat tree, never interrupted."""
    return multiround_dpu.main([*DPU, *imagenet(trees["flat"], tmp_path_factory.mktemp("runs"))]).folder


@pytest.fixture
def tree(trees, tmp_path):
    """A flat tree of its own for a test to change."""
    return shutil.copytree(trees["flat"], tmp_path / "imagenet", ignore=shutil.ignore_patterns(CACHE))


def refused(script, flags, capsys):
    """The line with which a script ends; exit status 2."""
    with pytest.raises(SystemExit) as stop:
        script.main(flags)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    return err


@pytest.mark.parametrize("script, flags, layout", [
    (multiround_rpu, "--mode rpu --updating_ratio 0.2", "classes"),
    (multiround_fu, "--mode same_init", "flat"),
    (multiround_dpu, "--mode fisher --updating_ratio 0.1", "classes"),
])  # fmt: skip
def test_scripts(trees, tmp_path, script, flags, layout):
    result = script.main([*flags.split(), *imagenet(trees[layout], tmp_path)])
    assert [row["num_samples"] for row in result.rows] == [40, 80]
    assert result.folder.name.startswith("imagenet-mobilenetv1-")
    assert "top5_test_acc" not in result.rows[0] and "average_top5_test_acc" not in result.summary
    assert result.summary["num_weights"] == sum(
        p.numel() for p in build_model("mobilenetv1", (3, 32, 32), 4, width=0.25).parameters() if p.dim() > 1
    )


def test_neither_workers_nor_a_kill_change_a_byte(trees, dpu, tmp_path):
    """Killed in step 2 of round 0 with two workers, gone on without: the same folder, results, messages, weights."""
    flags = [*DPU, *imagenet(trees["flat"], tmp_path)]
    process = start_process("after", "4", *flags, "--num_workers", "2", code=SUICIDE)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    assert folder.name == dpu.name and not (folder / "summary.json").exists()
    multiround_dpu.main(flags)
    assert without_time(folder) == without_time(dpu)
    assert weights_of(folder) == weights_of(dpu)


def test_two_workers_make_the_same_run(trees, dpu, tmp_path):
    folder = multiround_dpu.main([*DPU, *imagenet(trees["flat"], tmp_path), "--num_workers", "2"]).folder
    assert (folder.name, without_time(folder), weights_of(folder)) == (dpu.name, without_time(dpu), weights_of(dpu))


def test_a_broken_jpeg_stops_the_run_before_it_begins_or_is_left_out(tree, tmp_path, capsys):
    bad = sorted((tree / "train" / "n02084071").iterdir())[3]
    bad.write_bytes(bad.read_bytes()[:-40])
    flags = [*DPU, *imagenet(tree, tmp_path / "out")]
    assert f"error: {bad}: a broken image (" in refused(multiround_dpu, flags, capsys)
    assert not (tmp_path / "out").exists()
    multiround_dpu.main([*flags, "--skip_broken", "--max_rounds", "1", "--num_epochs", "1"])
    out, err = capsys.readouterr()
    assert f"warning: 1 broken image is left out: {bad}" in err and "79 training" in out


def test_a_file_that_breaks_while_training_is_named_and_the_run_goes_on_once_it_is_replaced(
    tree, dpu, tmp_path, capsys, monkeypatch
):
    flags = [*DPU, *imagenet(tree, tmp_path / "out")]
    victim = sorted((tree / "train" / "n02121808").iterdir())[0]
    content, save, count = victim.read_bytes(), Checkpoints.save, []

    def breaking_save(self, state):
        save(self, state)
        count.append(1)
        if len(count) == 6:  # in round 1, in which all samples are there
            victim.write_bytes(content[:100])

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", breaking_save)
        assert f"error: {victim}: cannot be read (" in refused(multiround_dpu, flags, capsys)
    victim.write_bytes(content)
    folder = multiround_dpu.main(flags).folder
    assert "resuming at round 1, epoch 1" in capsys.readouterr().out
    assert (folder.name, without_time(folder), weights_of(folder)) == (dpu.name, without_time(dpu), weights_of(dpu))


@pytest.mark.parametrize("flags, words", [
    ("--dataset digits --image_size 32", "--image_size is for streamed images"),
    ("--dataset digits --skip_broken", "--skip_broken is for streamed images"),
    ("--dataset digits --stream", "--stream is for a folder of images, not digits"),
    ("--dataset nowhere --stream", "--stream: nowhere is no folder"),
    ("--dataset imagenet --dataset_dir nowhere", "nowhere: has no train/"),
    ("--dataset digits --width 0.5", "--width is for convolutional networks, not mlp"),
    ("--dataset digits --model mobilenetv1 --width 0", "'0' is not a number above 0"),
    ("--dataset imagenet --image_size 0", "'0' is not a whole number"),
])  # fmt: skip
def test_bad_input(tmp_path, monkeypatch, capsys, flags, words):
    monkeypatch.chdir(tmp_path)
    for script in (multiround_dpu, multiround_rpu, multiround_fu):
        assert words in refused(script, flags.split(), capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags, words", [
    ("--model vgg --image_size 224", "--model: model vgg: input 3x224x224 is too large"),
    ("--model mobilenetv1 --image_size 16", "--model: model mobilenetv1: input 3x16x16 is too small"),
    ("--dataset_size_init 81", "--dataset_size_init is 81, but there are 80 training images"),
])  # fmt: skip
def test_bad_input_with_data(trees, tmp_path, capsys, flags, words):
    data = ["--dataset", "imagenet", "--dataset_dir", str(trees["flat"]), "--output_dir", str(tmp_path / "out")]
    assert words in refused(multiround_dpu, [*data, *flags.split()], capsys)


def test_any_folder_of_pictures_of_all_sizes_streams(trees, tmp_path, capsys):
    root = shutil.copytree(trees["classes"], tmp_path / "pets", ignore=shutil.ignore_patterns(CACHE))
    flags = ["--dataset", str(root), "--output_dir", str(tmp_path / "out"), "--num_epochs", "1", "--max_rounds", "1"]
    assert "make all images one size, or give --stream" in refused(multiround_rpu, flags, capsys)
    flags += ["--stream", "--image_size", "10", "--hidden_sizes", "8", "--updating_ratio", "0.5", "--num_workers", "1"]
    result = multiround_rpu.main(flags)
    assert result.folder.name.startswith("pets-mlp-rpu-")
    node = tmp_path / "node.safetensors"
    assert edge_main(["replay", str(result.folder), "--out", str(node)]) == 0
    right = f"{result.rows[-1]['served_test_acc'] * 100:.2f} % right"
    words = ["predict", "--node", str(node), "--model-from", str(result.folder)]
    assert edge_main(words) == 0 and right in capsys.readouterr().out
    assert edge_main([*words, str(root / "val")]) == 0  # a folder of class folders, whose images all validate here
    assert "% right" in capsys.readouterr().out
    np.savez(tmp_path / "pixels.npz", images=np.zeros((5, 10, 10, 3), np.uint8))
    assert edge_main([*words, str(tmp_path / "pixels.npz")]) == 0 and "5 images" in capsys.readouterr().out


# Top-5


def test_more_than_ten_classes_have_top_5(tmp_path, capsys):
    draw = np.random.RandomState(0)
    labels = np.arange(240) % 12
    images = np.clip(draw.randint(0, 90, (240, 6, 6)) + 13 * labels[:, None, None], 0, 255).astype(np.uint8)
    path = tmp_path / "twelve.npz"
    np.savez(path, train_images=images, train_labels=labels, test_images=images[:120], test_labels=labels[:120])
    flags = f"--dataset {path} --hidden_sizes 16 --num_epochs 4 --dataset_size_init 120 --dataset_size_subseq 120"
    flags += f" --val_dataset_size 30 --threads 1 --updating_ratio 0.5 --output_dir {tmp_path / 'out'}"
    result = multiround_dpu.main(flags.split())
    printed = capsys.readouterr().out
    assert "top-5" in printed.split("average")[0] and "average top-5 accuracy" in printed
    with open(result.folder / "rounds.csv", newline="") as file:
        columns = csv.DictReader(file).fieldnames
    assert columns[-3:] == ["seconds", "top5_test_acc", "served_top5_test_acc"]
    row = result.rows[-1]
    assert row["served_test_acc"] < row["served_top5_test_acc"] <= 1

    # The same once more, from the network that the run left.
    from data.datasets import load_dataset, split_validation

    dataset = load_dataset(path)
    split = split_validation(dataset, 30, seed=0)
    model = build_model("mlp", dataset.input_shape, 12, hidden_sizes=[16]).eval()
    model.load_state_dict(torch.load(result.folder / "model.pt", weights_only=True))
    pixels = (split.test_images.float() / 255 - dataset.mean.view(-1, 1, 1)) / dataset.std.view(-1, 1, 1)
    with torch.no_grad():
        ranked = model(pixels).argsort(dim=1, descending=True)[:, :5]
    top5 = (ranked == split.test_labels[:, None]).any(dim=1).double().mean().item()
    assert row["served_top5_test_acc"] == pytest.approx(top5, abs=1e-6)
    served = [row["served_top5_test_acc"] for row in result.rows]
    assert result.summary["average_served_top5_test_acc"] == pytest.approx(np.mean(served), abs=1e-6)


def test_checkpoints_of_before_load():
    older = vars(EdgeCopy(torch.zeros(1), torch.zeros(1))).copy()
    del older["line_top5"], older["served_top5"]
    edge, _ = unpack({"edge": older, "training": None})
    assert edge.served_top5 is None


# Models for ImageNet


def test_width_of_one_is_the_network_of_1000_classes_and_changes_no_name(trees, tmp_path, monkeypatch):
    from tests.run.test_folder_names import name_of

    model = build_model("mobilenetv1", (3, 224, 224), 1000)
    assert sum(p.numel() for p in model.parameters()) == 4_231_976
    for other in ("resnet56", "mlp"):
        build_model(other, (3, 224, 224), 1000)
    pictures = [
        "--dataset",
        "imagenet",
        "--dataset_dir",
        str(trees["flat"]),
        "--model",
        "mobilenetv1",
        "--image_size",
        "32",
    ]
    names = [
        name_of(multiround_dpu, [*pictures, *more], monkeypatch)
        for more in ([], ["--width", "1"], ["--num_workers", "3"], ["--width", "0.5"], ["--image_size", "40"])
    ]
    assert names[0] == names[1] == names[2] and len({*names}) == 3
