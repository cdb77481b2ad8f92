"""A short DPU run whose losses and accuracies were recorded once: what makes it faster must not change it."""

import json
from pathlib import Path

import pytest

import multiround_dpu
from utils.training import Trainer

RECORDED = Path(__file__).parent / "golden" / "trace.json"
FLAGS = (
    "--dataset digits --hidden_sizes 32 32 --updating_ratio 0.02 --num_epochs 4 --dataset_size_init 300 "
    "--dataset_size_subseq 400 --max_rounds 2 --seed 9 --threads 1 --device cpu"
).split()


def trace(folder, monkeypatch) -> dict:
    """Run and return the loss of every epoch and the accuracies of every round."""
    losses, epoch = [], Trainer.epoch

    def recorded(*arguments, **more):
        losses.append(epoch(*arguments, **more))
        return losses[-1]

    monkeypatch.setattr(Trainer, "epoch", recorded)
    result = multiround_dpu.main([*FLAGS, "--output_dir", str(folder)])
    names = ("start_val_acc", "full_val_acc", "rewound_val_acc", "val_acc", "served_test_acc")
    return {"losses": losses, "accuracies": [[row[name] for name in names] for row in result.rows]}


def test_trace_is_as_recorded(tmp_path, monkeypatch):
    recorded, now = json.loads(RECORDED.read_text()), trace(tmp_path, monkeypatch)
    assert len(now["losses"]) == 2 * 2 * 4
    # Another processor or version rounds otherwise, and training amplifies that a little.
    assert now["losses"] == pytest.approx(recorded["losses"], rel=2e-3)
    for row, old in zip(now["accuracies"], recorded["accuracies"], strict=True):
        assert row == pytest.approx(old, abs=0.012)  # 5 of 420 test images, 2 of 179 validation images
