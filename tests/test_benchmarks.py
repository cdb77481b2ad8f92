"""What benchmarks report beside times."""

import pytest
import torch
from torch import nn

import utils.training.device
from benchmarks.loops import layer_products
from models import build_model
from utils.training.device import cpu_name

CPU = torch.device("cpu")


def test_operations_by_hand():
    """128 samples; the first layer has no gradient for its inputs, the others have three products."""
    model = build_model("mlp", (1, 8, 8), 3, hidden_sizes=(4,))
    step, operations = layer_products(model, (1, 8, 8), CPU, False)
    step()
    assert operations == 2 * 128 * (2 * 4 * 64 + 3 * 3 * 4)
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 7, 3, stride=2, padding=1))
    step, operations = layer_products(model, (2, 6, 6), CPU, True)
    step()
    assert operations == 2 * 128 * (2 * 5 * 36 * 2 * 9 + 3 * 7 * 9 * 5 * 9)


@pytest.mark.parametrize("facts, name", [
    ("vendor_id\t: X\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC: 2\n", "AMD EPYC: 2 (family 25, model 17)"),
    ("processor\t: 0\nmodel name\t: Cortex", "Cortex"),
    ("", "x86_64"),
])  # fmt: skip
def test_processor_s_name(facts, name, monkeypatch):
    monkeypatch.setattr(utils.training.device, "cpu_facts", lambda: facts)
    monkeypatch.setattr(utils.training.device.platform, "processor", lambda: "")
    monkeypatch.setattr(utils.training.device.platform, "machine", lambda: "x86_64")
    assert cpu_name() == name
