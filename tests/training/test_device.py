"""The processor's flags, and the device that a name stands for."""

import numpy as np
import pytest
import torch

import multiround_rpu
from tests.script_runs import SMALL, start_process
from utils.link import Link, Outgoing
from utils.message import Base, Coding
from utils.schema import Schema
from utils.training.device import denormals, set_up_device


def flushing() -> bool:
    return (torch.tensor(1e-40) * 1).item() == 0


def test_denormals_are_flushed_within_alone():
    assert not flushing()
    with pytest.raises(KeyboardInterrupt), denormals(flushed=True):
        assert flushing()
        with denormals(flushed=False):
            assert not flushing()
        assert flushing()
        raise KeyboardInterrupt
    assert not flushing()


def test_a_run_flushes_while_it_trains_and_not_afterwards(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("utils.rounds.evaluate_new", lambda edge, *_: seen.append(flushing()) or known(edge))

    def known(edge):
        edge.line_acc, edge.served_acc = (edge.line_acc[0], 0.5), (edge.served_acc[0], 0.5)

    flags = [*SMALL, "--updating_ratio", "0.5", "--num_epochs", "1", "--max_rounds", "1"]
    multiround_rpu.main([*flags, "--output_dir", str(tmp_path)])
    assert seen == [True]
    assert not flushing()


def test_a_run_leaves_the_threads_as_they_were(tmp_path):
    """The next run in this process may take what it finds, and its results depend on it."""
    before = torch.get_num_threads()
    flags = [*SMALL, "--updating_ratio", "0.5", "--num_epochs", "1", "--max_rounds", "1", "--threads", str(before + 1)]
    multiround_rpu.main([*flags, "--output_dir", str(tmp_path)])
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("value_bits", [32, 16])
def test_tiny_values_reach_the_edge_though_training_flushes(tmp_path, value_bits):
    schema = Schema([("fc.weight", "weight", (1, 2)), ("fc.bias", "rest", (1,))])
    initial, tiny = torch.zeros(3), torch.from_numpy(np.array([1e-40, 1.0, 0.0], np.float32))
    link = Link(schema, initial, tmp_path)
    link.open([], [])
    with denormals(flushed=True):
        outgoing = Outgoing(link, 0, Coding("dense", value_bits), Base(reinitialize=True))
        expected = outgoing.candidate(tiny, selected=None)
        outgoing.send(expected, serve=True)
    assert link.node.line.tobytes() == expected.network.numpy().tobytes()
    assert value_bits == 16 or link.node.line.tobytes() == tiny.numpy().tobytes()


def test_all_threads_flush_while_training():
    """In a process of its own: the flag reaches PyTorch's other threads only when they start."""
    code = """
import numpy, torch
from utils.training.device import denormals, set_up_device
set_up_device("cpu", "fp32", 4)
tiny = torch.from_numpy(numpy.full(2**22, 1e-40, numpy.float32))
tiny.abs().sum()  # as loading a data set does, before training begins
with denormals(flushed=True):
    print((tiny * 1).view(torch.int32).count_nonzero().item())
"""
    process = start_process(code=code)
    out, errors = process.communicate(timeout=60)
    assert (out.strip(), process.returncode) == ("0", 0), errors


def test_cuda_is_found_and_named_with_its_number(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    chosen = []
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    for name, index in (("auto", 0), ("cuda", 0), ("cuda:1", 1)):
        assert set_up_device(name, "fp32", None) == torch.device("cuda", index)
    assert [device.index for device in chosen] == [0, 0, 1]
