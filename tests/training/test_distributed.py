"""Several processes against one: shares of batches, the same selections, a process that is lost, another number of them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import multiround_dpu
from data.datasets import load_dataset
from tests.script_runs import ROOT, SMALL, weights_of, without_time
from utils.edge import EdgeNode
from utils.edge.state_file import read_state
from utils.system.errors import UsageError
from utils.system.processes import is_rank0
from utils.training.distributed import Group, join

FLAGS = (
    "--dataset digits --hidden_sizes 24 --num_epochs 3 --dataset_size_init 200 --dataset_size_subseq 210 "
    "--max_rounds 3 --seed 3 --threads 1 --updating_ratio 0.1 --train_batch_size 64"
).split()


@given(st.integers(0, 500), st.integers(1, 9), st.integers(1, 3))
def test_shares_cover_the_batch_once_in_near_equal_parts(count, size, least):
    shares = [Group(rank, size).share(count, least) for rank in range(size)]
    assert [i for share in shares for i in range(count)[share]] == list(range(count))
    sizes = [len(range(count)[share]) for share in shares]
    used = [n for n in sizes if n]
    assert not used or (max(used) - min(used) <= 1 and (min(used) >= least or len(used) == 1))
    assert len(used) == min(size, max(count // least, min(count, 1)))


def test_a_group_of_one_does_nothing():
    group, tensor = Group(), torch.ones(3)
    group.sum_(tensor)
    group.assert_same("ones", tensor)
    assert (group.share(7), group.broadcast("word"), tensor.tolist()) == (slice(0, 7), "word", [1, 1, 1])


def as_launched(monkeypatch, size):
    """Let this process be the first of `size` that torchrun has started."""
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize(
    "variables", [{"RANK": "1"}, {"WORLD_SIZE": "2"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "0"}, {"RANK": "1", "WORLD_SIZE": "x"}]
)
def test_a_group_needs_all_variables_of_torchrun(variables, monkeypatch):
    """Job scripts export some of them for purposes of their own."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    group, device = join("cpu")
    assert (group.rank, group.size, device, is_rank0()) == (0, 1, "cpu", True)


@pytest.mark.parametrize("name", ["cuda:1", "mps"])
def test_a_device_that_processes_cannot_share_is_refused(name, monkeypatch):
    as_launched(monkeypatch, 2)
    with pytest.raises(UsageError, match=f"^--device is '{name}', which 2 processes cannot share: give cuda"):
        join(name)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    as_launched(monkeypatch, 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="^--nproc_per_node is 4, but this node has 2 CUDA devices"):
        join("cuda")


def start(number, *flags, more=None, code=None):
    """Start the processes of a run by the variables that torchrun sets; returns them by rank.

    more, code  of rank 1: further flags, and what it runs in place of the script
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    script = ["multiround_dpu.py"]
    return [
        subprocess.Popen(
            [sys.executable, *(["-c", code] if code and rank == 1 else script), *flags, *(more or []) * (rank == 1)],
            cwd=ROOT,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(number)
    ]


def finish(processes, seconds=120):
    return [(p.communicate(timeout=seconds), p.returncode) for p in processes]


def the_run(folder):
    (run,) = folder.iterdir()
    return run


def selections(folder):
    """Replay a run's messages; returns the selected weights of every round."""
    schema, initial = read_state(folder / "initial.safetensors")
    node = EdgeNode(schema, initial)
    return [node.receive(path.read_bytes()).selected for path in sorted((folder / "updates").iterdir())]


@pytest.mark.parametrize("flags", [[], ["--batch_norm", "--dataset_size_init", "193"]], ids=["plain", "batch_norm"])
def test_two_processes_train_as_one_does(tmp_path, flags):
    """The last batch of 193 holds a single sample: without BatchNorm one process has no share of it."""
    one = multiround_dpu.main([*FLAGS, *flags, "--output_dir", str(tmp_path / "one")])
    (out, errors), status = finish(start(2, *FLAGS, *flags, "--output_dir", str(tmp_path / "two")))[0]
    assert status == 0, errors
    assert "2 processes" in out
    folder = the_run(tmp_path / "two")
    assert folder.name == one.folder.name
    summaries = [json.loads((run / "summary.json").read_text()) for run in (one.folder, folder)]
    assert summaries[0]["fingerprints"] == summaries[1]["fingerprints"]
    if flags:  # each process's BatchNorm sees its share alone, so training differs a little
        rows = without_time(folder)
        assert [row["num_samples"] for row in rows] == ["193", "403", "613"]
        assert float(rows[-1]["test_acc"]) > 0.25
        return
    for got, expected in zip(without_time(folder), without_time(one.folder), strict=True):
        assert float(got["test_acc"]) == pytest.approx(float(expected["test_acc"]), abs=0.012)
        assert got["updated_weights"] == expected["updated_weights"]
    for got, expected in zip(selections(folder), selections(one.folder), strict=True):
        assert np.isin(got, expected).mean() > 0.97


def test_all_begin_with_the_network_of_rank_0(tmp_path):
    """Another kind of processor, or version of torch, may draw another."""
    code = """
import sys
import multiround_dpu, utils.run.plan
build = utils.run.plan.build_model
def drawn_elsewhere(*args, **more):
    model = build(*args, **more)
    for parameter in model.parameters():
        parameter.data *= 1 + 1e-6
    return model
utils.run.plan.build_model = drawn_elsewhere
multiround_dpu.main(sys.argv[1:])
"""
    (_, errors), status = finish(start(2, *FLAGS, "--max_rounds", "1", "--output_dir", str(tmp_path / "a")))[0]
    assert status == 0, errors
    for (_, errors), status in finish(start(2, *FLAGS, "--max_rounds", "1", "--output_dir", str(tmp_path / "b"), code=code)):
        assert status == 0, errors
    one, other = (the_run(tmp_path / name) for name in "ab")
    assert weights_of(one) == weights_of(other)


def test_the_others_are_silent_and_write_nothing(tmp_path):
    results = finish(start(3, *FLAGS, "--max_rounds", "1", "--output_dir", str(tmp_path)))
    assert [status for _, status in results] == [0, 0, 0]
    assert [(out, errors) for (out, errors), _ in results[1:]] == [("", "")] * 2
    finished = finish(start(2, *FLAGS, "--max_rounds", "1", "--output_dir", str(tmp_path)))
    assert "this run is finished" in finished[0][0][0]
    assert [status for _, status in finished] == [0, 0]


def test_bad_input_is_said_once(tmp_path):
    results = finish(start(2, *FLAGS, "--updating_ratio", "0.00001", "--output_dir", str(tmp_path)))
    assert "selects none" in results[0][0][1]
    assert results[1][0] == ("", "")
    assert [status for _, status in results] == [2, 2]


def test_what_one_process_alone_meets_it_says_itself(tmp_path):
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    (tmp_path / "key").chmod(0o600)
    flags = [*FLAGS, "--sign_key", str(tmp_path / "key"), "--output_dir", str(tmp_path / "runs")]
    (first, second) = finish(start(2, *flags, more=["--sign_key", str(tmp_path / "missing")]))
    assert second[1] == 2 and first[1] == 2
    assert re.match(rf"multiround_dpu.py: process 1: error: --sign_key is {tmp_path}/missing, which", second[0][1])


@pytest.mark.parametrize("flags, words", [
    ("--model {}/net.py:Net", "process 1: error: --model is {}/net.py:Net, but there is no file"),
    ("--output_dir {}/file/runs", "process 1: error: --output_dir is {}/file/runs, but {}/file is a file"),
    ("--updating_ratio 2", ""),
])  # fmt: skip
def test_what_flags_say_of_one_machine_its_process_says(flags, words, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    torchrun = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        multiround_dpu.main(["--dataset", "digits", *flags.replace("{}", str(tmp_path)).split()])
    err = capsys.readouterr().err
    assert words.replace("{}", str(tmp_path)) in err and err.count("\n") == bool(words)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_run_and_another_number_goes_on(tmp_path, lost):
    expected = multiround_dpu.main([*FLAGS, "--num_epochs", "40", "--output_dir", str(tmp_path / "whole")])
    flags = [*FLAGS, "--num_epochs", "40", "--checkpoint_interval", "0", "--output_dir", str(tmp_path / "cut")]
    processes = start(2, *flags)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("cut/*/checkpoint_previous")) and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[lost].send_signal(signal.SIGKILL)
    began = time.monotonic()
    (_, errors), status = finish([processes[1 - lost]], seconds=60)[0]
    processes[lost].communicate()
    assert time.monotonic() - began < 60
    assert status == 2, errors
    if lost == 1:
        assert errors.count("\n") == 1 and "the same command goes on from the last checkpoint" in errors
    assert not (the_run(tmp_path / "cut") / "summary.json").exists()
    result = multiround_dpu.main(flags)  # one process now
    assert result.folder.name == expected.folder.name
    assert result.rows[-1]["test_acc"] == pytest.approx(expected.rows[-1]["test_acc"], abs=0.02)


@pytest.mark.slow
def test_torchrun_starts_the_script_as_it_is(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    flags = [*FLAGS, "--max_rounds", "1", "--output_dir", str(tmp_path)]
    process = subprocess.run([*command, "multiround_dpu.py", *flags], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("average test accuracy") == 1


def test_differing_processes_are_noticed(tmp_path):
    """Two processes of one group that hold different tensors."""
    code = (
        "import sys, torch; from utils.training.distributed import *; group, _ = join('cpu')\n"
        "try: group.assert_same('numbers', torch.full((2,), float(group.rank)))\n"
        "except ProcessLostError as error: print(error)\n"
        "tensor = torch.ones(2) * (group.rank + 1); group.sum_(tensor); print(tensor.tolist())"
    )
    processes = []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    for rank in "01":
        environment = {**os.environ, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
        environment |= {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(ROOT)}
        processes.append(
            subprocess.Popen([sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE)
        )
    outs = [out for (out, _), _ in finish(processes)]
    assert outs == ["numbers differ between the processes of this run\n[3.0, 3.0]\n"] * 2


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--num_epochs", "3"], "num_epochs"),
        (["--hidden_sizes", "16"], "hidden_sizes"),
        (["--val_dataset_size", "100"], "val_dataset_size, validation_split"),
        (["--seed", "7"], "seed, arrival, validation_split"),
        ("other pixels", "dataset"),
    ],
)
def test_processes_that_would_not_make_one_run_are_refused(more, named, tmp_path):
    """Other data or other settings on one rank trained on with a wrong accuracy, hung, or aborted."""
    flags = [*SMALL, "--updating_ratio", "0.1", "--max_rounds", "1", "--num_epochs", "1", "--output_dir", str(tmp_path / "runs")]
    if more == "other pixels":
        digits = load_dataset("digits", "unused")
        arrays = {"train_images": digits.train_images, "train_labels": digits.train_labels}
        arrays |= {"test_images": digits.test_images, "test_labels": digits.test_labels}
        arrays = {name: tensor.squeeze(1).numpy() if tensor.dim() == 4 else tensor.numpy() for name, tensor in arrays.items()}
        np.savez(tmp_path / "a.npz", **arrays)
        (tmp_path / "b").mkdir()
        np.savez(tmp_path / "b" / "a.npz", **{**arrays, "train_images": arrays["train_images"] ^ 1})
        flags += ["--dataset", str(tmp_path / "a.npz")]
        more = ["--dataset", str(tmp_path / "b" / "a.npz")]
    outs = finish(start(2, *flags, more=more))
    assert [status for _, status in outs] == [2, 2]
    assert outs[0][0][1].strip() == (
        f"multiround_dpu.py: error: process 1 differs from process 0 in {named}: start all alike, on the same data"
    )
    assert not (tmp_path / "runs").exists()
