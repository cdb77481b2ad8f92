"""Runs side by side, with numbers worked out by hand."""

import json

import pytest

from utils.results import RunFolder, aligned, summarize
from utils.table import main

ROW = {
    "reinitialized": 0, "start_val_acc": 0.1, "full_val_acc": None, "rewound_val_acc": None, "val_acc": 0.5,
    "test_acc": 0.5, "served_val_acc": 0.5, "updated_weights": 10, "sent": 1, "message_bytes": 1200,
    "index_bytes": 0, "value_bytes": 0, "rest_bytes": 0, "header_bytes": 1200, "formula_bytes": 1500, "seconds": 1.0,
}  # fmt: skip


def make_run(path, mode, accuracies, data="same"):
    path.mkdir()
    folder = RunFolder(path)
    rows = [
        {**ROW, "round": i, "num_samples": 1000 * (i + 1), "served_test_acc": accuracy}
        for i, accuracy in enumerate(accuracies)
    ]
    folder.write_config({"settings": {"mode": mode}})
    folder.write_rounds(rows)
    folder.write_summary({**summarize(rows, 100, 110), "fingerprints": {"dataset": data}})
    return str(path)


def test_comparison_by_hand(tmp_path, capsys):
    dpu = make_run(tmp_path / "a", "dpu", [0.5, 0.75])
    full = make_run(tmp_path / "b", "same_init", [0.75, 0.8])
    main([dpu, full])
    assert capsys.readouterr().out.splitlines() == [
        "served test accuracy, %",
        "       round  samples     dpu  same_init",
        "------------  -------  ------  ---------",
        "           0    1,000   50.00      75.00",
        "           1    2,000   75.00      80.00",
        "------------  -------  ------  ---------",
        "     average            62.50      77.50",
        "to same_init           -15.00      +0.00",
        " rounds sent           2 of 2     2 of 2",
        "     sent kB              2.4        2.4",
        "  formula kB              3.0        3.0",
    ]


def test_other_data_and_unfinished_runs_are_left_out_by_name(tmp_path, capsys):
    dpu = make_run(tmp_path / "a", "dpu", [0.5, 0.75])
    other = make_run(tmp_path / "b", "rpu", [0.5, 0.75], data="other")
    shorter = make_run(tmp_path / "c", "rpu", [0.5])
    (tmp_path / "d").mkdir()
    main([dpu, other, shorter, str(tmp_path / "d")])
    captured = capsys.readouterr()
    assert "rpu" not in captured.out
    assert [line.split(":")[1].strip() for line in captured.err.splitlines()] == [other, shorter, str(tmp_path / "d")]
    with pytest.raises(SystemExit, match="no finished run"):
        main([str(tmp_path / "d")])


def test_aligned_by_hand():
    assert aligned(["a", "bb"], [["1", "2"], ["100", "3"]]) == "  a  bb\n---  --\n  1   2\n100   3"
    assert json.dumps(aligned(["a"], [["1"]], [["sum"]])) == '"  a\\n---\\n  1\\n---\\nsum"'
