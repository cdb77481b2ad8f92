"""Short DPU runs whose losses and accuracies were recorded once: what makes them faster must not change them."""

import json
from pathlib import Path

import numpy as np
import pytest

import multiround_dpu
from data.datasets import load_dataset
from utils.training.loop import Trainer

GOLDEN = Path(__file__).parent / "golden"
SIZES = "--dataset_size_init 300 --dataset_size_subseq 400 --max_rounds 2 --num_epochs 4"
FLAGS = {
    "mlp": f"--dataset digits --hidden_sizes 32 32 --updating_ratio 0.02 {SIZES}",
    # Convolutions are recorded on colour images with augmentation, two optimizer steps an epoch.
    "vgg": "--model vgg --augment on --dataset_size_init 256 --max_rounds 1 --num_epochs 2 --lr 0.0001",
    "resnet56": "--model resnet56 --augment on --dataset_size_init 256 --max_rounds 1 --num_epochs 2 --lr 0.0005",
}


def colour_digits(folder: Path) -> str:
    """Write the digits as 16 x 16 colour images and return the file's name."""
    digits = load_dataset("digits", folder)
    shades = np.array([1.0, 0.6, 0.3])

    def coloured(images):
        large = images.numpy()[:, 0].repeat(2, axis=1).repeat(2, axis=2)
        return (large[..., None] * shades).astype(np.uint8)

    arrays = {"train_images": coloured(digits.train_images), "test_images": coloured(digits.test_images)}
    arrays |= {"train_labels": digits.train_labels.numpy(), "test_labels": digits.test_labels.numpy()}
    np.savez(folder / "colour.npz", **arrays)
    return str(folder / "colour.npz")


def trace(model, folder, monkeypatch) -> dict:
    """Run and return the loss of every epoch and the accuracies of every round."""
    losses, epoch = [], Trainer.epoch

    def recorded(*arguments, **more):
        losses.append(epoch(*arguments, **more))
        return losses[-1]

    monkeypatch.setattr(Trainer, "epoch", recorded)
    flags = [*FLAGS[model].split(), "--seed", "9", "--threads", "1", "--device", "cpu"]
    if model != "mlp":
        flags += ["--dataset", colour_digits(folder)]
    result = multiround_dpu.main([*flags, "--output_dir", str(folder / "runs")])
    names = ("start_val_acc", "full_val_acc", "rewound_val_acc", "val_acc", "served_test_acc")
    return {"losses": losses, "accuracies": [[row[name] for name in names] for row in result.rows]}


@pytest.mark.parametrize("model", FLAGS)
def test_trace_is_as_recorded(model, tmp_path, monkeypatch):
    recorded, now = json.loads((GOLDEN / f"trace_{model}.json").read_text()), trace(model, tmp_path, monkeypatch)
    assert len(now["losses"]) == len(recorded["losses"])
    # Another processor or version rounds otherwise, and training amplifies that a little.
    assert now["losses"] == pytest.approx(recorded["losses"], rel=2e-3)
    for row, old in zip(now["accuracies"], recorded["accuracies"], strict=True):
        assert row == pytest.approx(old, abs=0.012)  # 5 of 420 test images, 2 of 179 validation images
