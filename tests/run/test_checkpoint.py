"""Checkpoints: what is saved comes back, a damaged one is refused by name, and a kill loses at most the last."""

import os
from collections import OrderedDict

import pytest
import torch

from utils.run.checkpoint import CheckpointError, Checkpoints, read_checkpoint


def state(number):
    return {"number": number, "vector": torch.arange(4.0) * number, "rows": [{"acc": 0.5, "none": None}]}


def assert_is(loaded, number):
    assert loaded["number"] == number
    assert torch.equal(loaded["vector"], torch.arange(4.0) * number)
    assert loaded["rows"] == [{"acc": 0.5, "none": None}]


def test_latest_comes_back_and_the_one_before_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load("cpu") is None
    for number in (1, 2, 3):
        checkpoints.save(state(number))
    assert_is(checkpoints.load("cpu"), 3)
    assert_is(read_checkpoint(checkpoints.previous, "cpu"), 2)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "checkpoint_previous"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "grow"])
def test_damaged_checkpoint_is_refused_by_name_and_the_one_before_used(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    content = bytearray(checkpoints.latest.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    damaged = {"flip": content, "truncate": content[:-7], "empty": b"", "grow": content + b"x"}[damage]
    checkpoints.latest.write_bytes(damaged)
    with pytest.warns(UserWarning, match=f"{checkpoints.latest} is damaged.*using the one before it"):
        assert_is(checkpoints.load("cpu"), 1)
    assert (tmp_path / "checkpoint_damaged").read_bytes() == damaged
    checkpoints.save(state(3))
    assert_is(checkpoints.load("cpu"), 3)
    assert_is(read_checkpoint(checkpoints.previous, "cpu"), 1)
    for path in (checkpoints.latest, checkpoints.previous):
        path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=f"{checkpoints.latest} is damaged.*--overwrite"):
        checkpoints.load("cpu")


def test_objects_that_would_run_code_do_not_load(tmp_path):
    class Surprise:
        def __reduce__(self):
            return (os.system, ("true",))

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(OrderedDict(surprise=Surprise()))
    with pytest.raises(CheckpointError, match="does not load"):
        read_checkpoint(checkpoints.latest, "cpu")


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_kill_between_any_two_renames_leaves_a_good_checkpoint(tmp_path, monkeypatch, moment):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    replace, calls = os.replace, []

    def dying_replace(*paths):
        calls.append(paths)
        if len(calls) == moment:
            raise KeyboardInterrupt
        replace(*paths)

    monkeypatch.setattr("os.replace", dying_replace)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(state(3))
    monkeypatch.undo()
    assert_is(Checkpoints(tmp_path).load("cpu"), 3 if moment == 3 else 2)
    checkpoints.save(state(4))
    assert_is(checkpoints.load("cpu"), 4)
