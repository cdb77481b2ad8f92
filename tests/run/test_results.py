"""The run folder's files and the numbers and tables made of rows."""

import json
import os

import pytest
import torch

from utils.run.folder import RunFolder
from utils.run.results import COLUMNS, describe_round, describe_run, formula_bytes, summarize
from utils.system.files import write_atomic

ROWS = [
    {
        "round": 0, "num_samples": 1000, "reinitialized": 0, "start_val_acc": 0.1, "full_val_acc": None,
        "rewound_val_acc": None, "val_acc": 0.5, "test_acc": 0.4, "served_val_acc": 0.5, "served_test_acc": 0.4,
        "updated_weights": 10, "sent": 1, "message_bytes": 60, "index_bytes": 5, "value_bytes": 35,
        "rest_bytes": 8, "header_bytes": 12, "formula_bytes": 50, "seconds": 1.25,
    },
    {
        "round": 1, "num_samples": 3000, "reinitialized": 1, "start_val_acc": 0.1, "full_val_acc": 0.9,
        "rewound_val_acc": 0.2, "val_acc": 0.3, "test_acc": 0.2, "served_val_acc": 0.5, "served_test_acc": 0.4,
        "updated_weights": 0, "sent": 0, "message_bytes": 0, "index_bytes": 0, "value_bytes": 0,
        "rest_bytes": 0, "header_bytes": 0, "formula_bytes": 0, "seconds": 2.0,
    },
]  # fmt: skip


@pytest.mark.parametrize(
    ("k", "num_weights", "expected"),
    [
        (1.0, 100, 400),  # no mask to describe
        (0.5, 800, 1700),  # (32 * 400 + 1 * 800) / 8
        (0.25, 1000, 1101),  # H = 0.25*2 + 0.75*0.415037 = 0.811278: (8000 + 811.278) / 8 = 1101.41
        (0.005, 668_672, 17_169),  # H = 0.005*7.643856 + 0.995*0.007232 = 0.045415
    ],
)
def test_formula_bytes_by_hand(k, num_weights, expected):
    assert formula_bytes(k, num_weights) == expected


def test_columns_are_those_of_the_design():
    assert COLUMNS == [
        "round", "num_samples", "reinitialized", "start_val_acc", "full_val_acc", "rewound_val_acc", "val_acc",
        "test_acc", "served_val_acc", "served_test_acc", "updated_weights", "sent", "message_bytes", "index_bytes",
        "value_bytes", "rest_bytes", "header_bytes", "formula_bytes", "seconds",
    ]  # fmt: skip


def test_summary_by_hand():
    summary = summarize(ROWS, num_weights=100, num_values=120)
    assert summary["average_test_acc"] == pytest.approx(0.3)
    assert summary["average_served_test_acc"] == pytest.approx(0.4)
    assert (summary["rounds"], summary["rounds_sent"]) == (2, 1)
    assert summary["formula_bytes"] == 50
    assert summary["formula_ratio_to_full_updating"] == pytest.approx(50 / 800)
    assert summary["message_bytes"] == 60
    assert summary["message_bytes"] == sum(summary[p + "_bytes"] for p in ("index", "value", "rest", "header"))
    assert summary["ratio_to_full_updating"] == pytest.approx(60 / (4 * 120 * 2))
    assert summary["rounds_nothing_sent"] == [1]


def test_rounds_come_back_as_written(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_rounds(ROWS)
    folder.write_summary(summarize(ROWS, 100, 120))
    assert folder.finished
    result = folder.read()
    assert folder.rounds.read_text().splitlines()[0] == ",".join(COLUMNS)
    for row, read in zip(ROWS, result.rows, strict=True):
        assert {name: value for name, value in read.items() if name in row} == row
        assert all(read[name] is None for name in read if name not in row)
    folder.write_rounds(ROWS[:1])
    folder.append_round(ROWS[1])
    assert folder.read().rows == result.rows


def test_lines_that_are_printed(tmp_path):
    assert describe_round(ROWS[0], 12) == "round  0 of 12, n=1,000: 40.00 % served, 0.1 kB, 1.2 s"
    own = "round 1 of 2, n=3,000: 40.00 % served, 20.00 % own, nothing sent, re-init, 2.0 s"
    assert describe_round(ROWS[1], 2) == own
    folder = RunFolder(tmp_path)
    folder.write_rounds(ROWS)
    folder.write_summary(summarize(ROWS, 100, 120))
    text = describe_run(folder.read())
    table = text.split("\n\n")[0].splitlines()
    assert len(table) == 5 and len({len(line) for line in table[1:]}) == 1
    assert "average test accuracy   30.00 %, as served 40.00 %" in text
    assert str(tmp_path) in text and "accuracy.png" not in text
    (tmp_path / "accuracy.png").touch()
    assert describe_run(folder.read()).endswith("\n  rounds.csv, summary.json, accuracy.png")


@pytest.mark.parametrize("values, weights, rounds, again", [
    (668_672, 3_343, 60, 1), (14_022_016, 140_220, 50, 1), (14_022_016, 14_022_016, 50, 0),
])  # fmt: skip
def test_what_is_printed_fits_80_columns(tmp_path, values, weights, rounds, again):
    row = {**ROWS[1], "reinitialized": again, "round": rounds - 1, "num_samples": 60_000, "sent": 1, "updated_weights": weights, "seconds": 12345.6,
           "message_bytes": 4 * weights, "formula_bytes": 4 * weights}  # fmt: skip
    folder = RunFolder(tmp_path)
    folder.write_rounds([row])
    folder.write_summary(summarize([row], values, values))
    lines = [describe_round({**row, "seconds": 123.4}, rounds), *describe_run(folder.read()).splitlines()]
    lines = [line for line in lines if str(tmp_path) not in line]
    assert max(map(len, lines)) <= 80, max(lines, key=len)


def test_plot_is_a_png(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.draw(ROWS, "title") is None
    assert folder.plot.read_bytes().startswith(b"\x89PNG")


def test_model_is_a_state_dict_of_plain_tensors(tmp_path):
    folder = RunFolder(tmp_path)
    network = torch.nn.Linear(2, 3)
    folder.write_model(network.state_dict())
    assert torch.equal(torch.load(folder.model, weights_only=True)["weight"], network.weight)


def test_clear_leaves_the_lock(tmp_path):
    folder = RunFolder(tmp_path)
    for name in (".lock", "config.json", "checkpoint"):
        (tmp_path / name).touch()
    (tmp_path / "updates").mkdir()
    (tmp_path / "updates" / "round_000.dpu").touch()
    folder.clear()
    assert os.listdir(tmp_path) == [".lock"]


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_atomic(path, json.dumps({"old": 1}))

    def power_cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", power_cut)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, json.dumps({"new": 2}))
    assert json.loads(path.read_text()) == {"old": 1}
