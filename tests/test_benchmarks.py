"""What benchmarks report beside times."""

import json
import shutil

import pytest
import torch
from torch import nn

import multiround_dpu
import multiround_fu
import utils.training.device
from benchmarks import loader, overheads, throughput, unsent, whole_run
from benchmarks.loops import layer_products
from models import build_model
from tests.script_runs import ROOT, SMALL
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


def test_candidates_that_were_not_sent_are_those_of_the_run(tmp_path, capsys):
    """With 20 validation images no candidate is better than the line from some round on."""
    flags = [*SMALL, "--num_epochs", "8", "--val_dataset_size", "20", "--max_rounds", "6", "--output_dir", str(tmp_path)]
    run = multiround_dpu.main(["--mode", "dpu", "--updating_ratio", "0.3", *flags])
    epochs = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    after = list(range(1 + max(row["round"] for row in run.rows if row["sent"]), len(run.rows)))
    assert after
    found = unsent.tried_again(run.folder, None, None)
    assert list(found) == after
    for number, (line, *tried) in found.items():
        assert line.val == pytest.approx(100 * run.rows[number]["start_val_acc"], abs=1e-3)
        assert line.test == pytest.approx(100 * run.rows[number]["test_acc"], abs=1e-3)
        inside = [each["val_acc"] for each in epochs if each["round"] == number and each["val_acc"] is not None]
        assert [each.val for each in tried] == pytest.approx([100 * val_acc for val_acc in inside], abs=1e-3)
    capsys.readouterr()
    unsent.main([str(run.folder), "--rounds", str(after[-1])])
    assert capsys.readouterr().out.splitlines()[-1].split()[0] == str(after[-1])
    full = multiround_fu.main(["--mode", "same_init", *flags])
    damaged = tmp_path / "damaged"
    shutil.copytree(run.folder, damaged)
    (damaged / "updates" / "round_000.dpu").write_bytes(b"DPU")
    for arguments, words in (
        ([run.folder, "--rounds", "0"], "after the last message"), ([full.folder], "build on each other"),
        ([tmp_path], "no folder of a finished run"), ([damaged], "its messages cannot be read"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            unsent.main(list(map(str, arguments)))
        assert words in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("benchmark, flags, words", [
    (throughput, "--threads 0", "--threads: '0' is not a whole number from 1"),
    (throughput, "--dataset nowhere.npz", "nowhere.npz"), (throughput, "--device cuda:99", "cuda:99"),
    (throughput, "--precision tf32", "--precision is tf32, which needs CUDA"),
    (overheads, "nothing", "nothing is not one of"), (overheads, "drift --dataset_dir {damaged}", "mnist.npz"),
    (loader, "--folder tests/golden", "--folder is tests/golden, which holds no images"),
    (whole_run, "--measured_rounds 2", "'2' is not a whole number from 3"),
])  # fmt: skip
def test_a_wrong_flag_of_a_benchmark_is_one_line(benchmark, flags, words, tmp_path, capsys, monkeypatch):
    (tmp_path / "mnist.npz").write_text("no archive")
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        benchmark.main(flags.format(damaged=tmp_path).split())
    assert stop.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
