"""The paper's table from run folders: statistics worked out by hand, what pairs, and what is left out and why."""

import csv
import io
import json
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.made_up_runs import make_run
from tests.script_runs import ROOT
from utils.table.collate import Stat, collate
from utils.table.program import main
from utils.table.records import find_run_folders, read_record


@pytest.fixture
def two_seeds(tmp_path):
    """DPU and full updating, two seeds, two rounds each.

    Seed 1: differences -25 and -5, so -15; 100 of 2,000 bytes, by the formula 80 of 800.
    Seed 2: differences -10 and -10, so -10; 200 of 1,000 bytes, by the formula 160 of 400.
    """
    make_run(tmp_path, "dpu", 1, [0.50, 0.75], [100, 0], [80, 0])
    make_run(tmp_path, "same_init", 1, [0.75, 0.80], [1000, 1000], [400, 400])
    make_run(tmp_path, "dpu", 2, [0.60, 0.80], [100, 100], [80, 80])
    make_run(tmp_path, "same_init", 2, [0.70, 0.90], [1000, 0], [400, 0])
    return tmp_path


def table_of(capsys, *argv):
    main([str(word) for word in argv])
    return capsys.readouterr().out


def notes_of(capsys, *argv):
    """The lines of a table, those that were wrapped in one again."""
    return table_of(capsys, *argv).replace("\n  ", " ").splitlines()


def rows_of(capsys, *argv):
    """The CSV form, a dict a row."""
    return list(csv.DictReader(io.StringIO(table_of(capsys, "--format", "csv", *argv))))


def test_table_by_hand(two_seeds, capsys):
    # Differences -15 and -10: mean -12.5, standard deviation 5 / sqrt(2) = 3.54; served 62.5 and 70.
    # Ratios of bytes 0.05 and 0.2, by the formula 0.1 and 0.4.
    assert table_of(capsys, two_seeds).splitlines()[:12] == [
        "mnist, mlp 512-512: 1,000 samples, 1,000 more each round, 2 rounds",
        "",
        "method      k  epochs  n  to FU, points  paper     served, %",
        "------  -----  ------  -  -------------  -----  ------------",
        "DPU     0.005  2 x 30  2  -12.50 ± 3.54  -0.17  66.25 ± 5.30",
        "FU          1      60  2                        78.75 ± 1.77",
        "",
        "method     bytes / FU   formula / FU",
        "------  -------------  -------------",
        "DPU     0.125 ± 0.106  0.250 ± 0.212",
        "FU                  1              1",
        "",
    ]


def test_csv_and_markdown_hold_the_same(two_seeds, capsys):
    dpu, full = rows_of(capsys, two_seeds)
    assert (dpu["method"], dpu["seeds"], dpu["n"], dpu["epochs"], full["k"]) == ("DPU", "1 2", "2", "60", "1.0")
    assert (dpu["difference_mean"], dpu["difference_std"]) == ("-12.5", "3.53553")
    assert (dpu["bytes_ratio_mean"], dpu["formula_ratio_mean"]) == ("0.125", "0.25")
    assert (dpu["message_bytes_mean"], full["message_bytes_mean"]) == ("150", "1500")
    markdown = table_of(capsys, "--format", "markdown", two_seeds)
    assert "| DPU | 0.005 | 2 x 30 | 2 | -12.50 ± 3.54 | -0.17 |" in markdown


def test_rounds_view_by_hand(two_seeds, capsys):
    assert table_of(capsys, two_seeds, "--rounds").splitlines()[-10:] == [
        "      round  samples       DPU        FU",
        "-----------  -------  --------  --------",
        "          0    1,000     55.00     72.50",
        "          1    2,000     77.50     85.00",
        "-----------  -------  --------  --------",
        "    average              66.25     78.75",
        "      to FU             -12.50     +0.00",
        "rounds sent           1.5 of 2  1.5 of 2",
        "    sent kB                0.1       1.5",
        " formula kB                0.1       0.6",
    ]


@pytest.mark.parametrize("lost, notes", [
    ("dpu-2*", ["DPU: n = 1: seed 2 missing"]),
    ("same_init-1*", ["DPU: n = 1: seed 1: there is no same_init run of this seed", "FU: n = 1: seed 1 missing"]),
])  # fmt: skip
def test_deleting_a_run_changes_n_and_says_so(two_seeds, capsys, lost, notes):
    (folder,) = two_seeds.glob(lost)
    shutil.rmtree(folder)
    assert set(notes) <= set(notes_of(capsys, two_seeds))
    dpu = rows_of(capsys, two_seeds)[0]
    assert (dpu["n"], dpu["difference_std"]) == ("1", "")
    assert dpu["difference_mean"] == ("-15" if lost == "dpu-2*" else "-10")


DIFFERENT = [
    ({"data": "d1"}, "other data (mnist d0 against mnist d1)"),
    ({"dataset_size_init": 500}, "other samples in round 0 (1000 against 500)"),
    ({"dataset_size_subseq": 500}, "other samples added a round (1000 against 500)"),
    ({"val_dataset_size": 100}, "other validation samples (3000 against 100)"),
    ({"batch_norm": True}, "other model (mlp 512-512 against mlp 512-512 with BatchNorm)"),
    ({"hidden_sizes": [24]}, "other model (mlp 512-512 against mlp 24)"),
    ({"model": "vgg"}, "other model (mlp 512-512 against vgg)"),
    ({"num_epochs": 30}, "other epochs a round (60 against 30); run same_init with --num_epochs 60"),
    ({"augment": True}, "other augmentation (False against True)"),
    ({"train_batch_size": 64}, "other batch size (128 against 64)"),
    ({"lr": 0.01}, "other learning rate (0.005 against 0.01)"),
    ({"precision": "bf16"}, "other precision (fp32 against bf16)"),
    ({"deploy_sparsity": 0.5}, "other sparsity of the deployed network (0.0 against 0.5)"),
    ({"deploy_epochs": 150}, "other epochs of the deployment (None against 150)"),
]


@pytest.mark.parametrize("other, reason", DIFFERENT)
def test_runs_of_different_data_model_sizes_or_epochs_are_no_pair(tmp_path, capsys, other, reason):
    make_run(tmp_path, "dpu", 1, [0.5, 0.5])
    full = make_run(tmp_path, "same_init", 1, [0.5, 0.5], **other)
    assert f"DPU: no pair: seed 1: not paired with {full.name}: {reason}" in notes_of(capsys, tmp_path)
    dpu = next(row for row in rows_of(capsys, tmp_path) if row["method"] == "DPU")
    assert dpu["difference_mean"] == dpu["bytes_ratio_mean"] == "" and dpu["served_mean"] == "50"


def test_other_order_of_arrival_or_rounds_is_no_pair(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5, 0.5])
    full = make_run(tmp_path, "same_init", 1, [0.5])
    assert "other number of rounds (2 against 1)" in "".join(notes_of(capsys, tmp_path))
    shutil.rmtree(full)
    full = make_run(tmp_path, "same_init", 1, [0.5, 0.5])
    summary = json.loads((full / "summary.json").read_text())
    summary["fingerprints"]["arrival"] = "another"
    (full / "summary.json").write_text(json.dumps(summary))
    assert "other order of arrival (a1 against another)" in "".join(notes_of(capsys, tmp_path))


def test_epochs_are_the_same_in_total_or_by_the_recipe(tmp_path, capsys):
    for mode, epochs in (("dpu", 5), ("same_init", 10)):  # 2 x 5 against 10
        make_run(tmp_path / "mlp", mode, 1, [0.5], num_epochs=epochs)
    residual = {"model": "resnet56", "lr": 0.1, "num_epochs": 100}  # 2 x 100 against 100, as the paper has it
    for mode in ("dpu", "same_init"):
        make_run(tmp_path / "resnet56", mode, 1, [0.5], **residual, **{"updating_ratio": 0.1} if mode == "dpu" else {})
    assert {row["difference_mean"] for row in rows_of(capsys, tmp_path)} == {"0"}
    assert "no pair" not in table_of(capsys, tmp_path)


@pytest.mark.parametrize("mode, settings, epochs", [
    ("dpu", {}, ("2 x 30", 60)),
    ("rpu", {}, ("60", 60)),
    ("dpu", {"rewind_fixing_ratio": 0.8}, ("5 x 30", 150)),  # of 90 weights 18, 4, 1 and none are left
    ("pruning", {"updating_ratio": 0.1}, ("3 x 30", 90)),  # of 90 weights 18 and 9 are left
    ("pruning", {"updating_ratio": 0.1, "rewind_fixing_ratio": 1.0}, ("2 x 30", 60)),
    ("dpu", {"rewind_fixing_ratio": 0.8, "total_epochs": 60, "num_epochs": 12}, ("5 x 12", 60)),
    ("dpu", {"rewind_fixing_ratio": 0.8, "total_epochs": 61, "num_epochs": 12}, ("61 in 5", 61)),
    ("rpu", {"total_epochs": 61}, ("61", 61)),
])  # fmt: skip
def test_epochs_are_those_of_every_step(tmp_path, capsys, mode, settings, epochs):
    make_run(tmp_path, mode, 1, [0.5], **settings)
    (row,) = rows_of(capsys, tmp_path)
    assert row["epochs"] == str(epochs[1])
    assert f"  {epochs[0]}  1  " in table_of(capsys, tmp_path)


def test_pruning_is_in_steps_and_one_shot_is_another_row(tmp_path, capsys):
    make_run(tmp_path, "same_init", 1, [0.5])
    for fixing_ratio in (0.8, 1.0, 0.5):
        make_run(tmp_path, "pruning", 1, [0.5], rewind_fixing_ratio=fixing_ratio)
    make_run(tmp_path, "lamp", 1, [0.5], rewind_fixing_ratio=0.8)
    rows = rows_of(capsys, tmp_path)
    assert [(row["method"], row["published"], row["difference_mean"]) for row in rows] == [
        ("Pruning", "-1.45", "0"), ("Pruning, LAMP", "", "0"), ("Pruning, one-shot", "", "0"),
        ("Pruning, rewind_fixing_ratio 0.5", "", "0"),
        ("FU", "", "0"),
    ]  # fmt: skip


def test_precision_is_in_the_title_and_messages_may_differ(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5], precision="bf16", value_bits=4)
    make_run(tmp_path, "same_init", 1, [0.75], precision="bf16")
    assert table_of(capsys, tmp_path).startswith("mnist, mlp 512-512, bf16: 1,000 samples")
    assert [row["method"] for row in rows_of(capsys, tmp_path)] == ["DPU, value_bits 4", "FU"]
    assert rows_of(capsys, tmp_path)[0]["difference_mean"] == "-25"


def test_what_all_rows_share_is_in_the_title(tmp_path, capsys):
    shared = {"lr": 0.02, "hidden_sizes": [8, 8], "train_batch_size": 32}
    make_run(tmp_path, "dpu", 1, [0.5], **shared, value_bits=4)
    make_run(tmp_path, "rpu", 1, [0.5], **shared)
    assert "RPU, lr 0.02, train_batch_size 32  " in table_of(capsys, tmp_path), "with nothing to compare"
    make_run(tmp_path, "same_init", 1, [0.75], **shared)
    lines = table_of(capsys, tmp_path).splitlines()
    assert " ".join(lines[:2]).startswith("mnist, mlp 8-8, lr 0.02, train_batch_size 32: 1,000 samples")
    assert [line.split("  ")[0] for line in lines[5:8]] == ["DPU, value_bits 4", "RPU", "FU"]
    assert [row["method"] for row in rows_of(capsys, tmp_path)] == [  # which has no titles
        f"{row}, lr 0.02, train_batch_size 32" for row in ("DPU, value_bits 4", "RPU", "FU")
    ]
    make_run(tmp_path, "same_init", 1, [0.75], hidden_sizes=[8, 8])
    assert "\nFU, lr 0.02" in table_of(capsys, tmp_path) and "\nFU  " in table_of(capsys, tmp_path)


def test_rows_say_which_commits_made_them(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5], commits=("a" * 40, "b" * 40 + "+changes"))
    make_run(tmp_path, "same_init", 1, [0.5], commits=("a" * 40,))
    make_run(tmp_path, "rpu", 1, [0.5], commits=("a" * 40,))
    assert "DPU: made by several commits: aaaaaaaaaa, bbbbbbbbbb+" in notes_of(capsys, tmp_path)
    make_run(tmp_path, "rpu", 2, [0.5], commits=("c" * 40,))
    make_run(tmp_path, "same_init", 2, [0.5], commits=("a" * 40,))
    assert "RPU: made by several commits: aaaaaaaaaa, cccccccccc" in notes_of(capsys, tmp_path)


def test_of_several_full_runs_a_lossless_one_is_the_pair(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5], value_bits=6)
    make_run(tmp_path, "same_init", 1, [0.9], [250], value_bits=6)
    assert "DPU: compared with full updating of 6 bits a value" in notes_of(capsys, tmp_path), "the title says FU's"
    assert rows_of(capsys, tmp_path)[0]["difference_mean"] == "-40"
    both = tmp_path / "both"
    for seed in (1, 2):
        make_run(both, "dpu", seed, [0.5], value_bits=6)
        make_run(both, "same_init", seed, [0.9], value_bits=6)
    make_run(both, "same_init", 1, [0.6])
    assert "DPU, value_bits 6 / FU, value_bits 6: seed 2: compared with full updating of 6 bits a value" in notes_of(capsys, both)
    make_run(tmp_path, "same_init", 1, [0.6], [1000])
    shutil.rmtree(both)
    rows = {row["method"]: row for row in rows_of(capsys, tmp_path)}
    assert [rows[name]["difference_mean"] for name in ("DPU, value_bits 6", "FU, value_bits 6", "FU")] == ["-10", "30", "0"]
    text = table_of(capsys, tmp_path)
    lines = [line.split() for line in text.splitlines() if line.startswith("FU, value_bits 6")]
    assert [words[6:] for words in lines] == [["+30.00", "90.00"], []] and lines[1][3] == "0.250"
    assert "compared with" not in text


def test_of_several_full_runs_the_likeliest_is_the_pair(tmp_path, capsys):
    """By what changes results: where a run's files lie says nothing."""
    places = {"output_dir": "a", "dataset_dir": "b", "quiet": True}
    make_run(tmp_path, "dpu", 1, [0.5], shrink=0.5, **places)
    make_run(tmp_path, "same_init", 1, [0.9], shrink=None, **places)
    make_run(tmp_path, "same_init", 1, [0.6], shrink=0.5)
    (row,) = [row for row in rows_of(capsys, tmp_path) if row["method"].startswith("DPU")]
    assert row["difference_mean"] == "-10"


def test_k_that_differ_are_written_differently(tmp_path, capsys):
    for k in (0.005, 0.0050000001):
        make_run(tmp_path, "dpu", 1, [0.5], updating_ratio=k)
    assert "0.0050000001" in table_of(capsys, tmp_path)


def test_rows_are_named_by_what_is_not_the_default(tmp_path, capsys):
    make_run(tmp_path, "gcpu", 1, [0.5], reinitialize=True)
    make_run(tmp_path, "gcpu", 1, [0.5])
    make_run(tmp_path, "dpu", 1, [0.5], lamda=0.25, reinitialize=False)
    make_run(tmp_path, "dpu", 1, [0.5], lr=0.01, threads=2)
    make_run(tmp_path, "rpu", 1, [0.5], reinitialize=True, augment=True)
    make_run(tmp_path, "pruning", 1, [0.5])
    make_run(tmp_path, "lcpu", 1, [0.5], reinitialize=True)
    make_run(tmp_path, "fisher", 1, [0.5], reinitialize=True, reinit_strategy="every", reinit_every=2)
    make_run(tmp_path, "fisher", 1, [0.5], reinitialize=True, reinit_strategy="doubling", reinit_every=None)
    names = [row["method"] for row in rows_of(capsys, tmp_path)]
    assert names == [
        "DPU, lr 0.01", "DPU, without re-init, lamda 0.25", "GCPU", "GCPU, with re-init",
        "RPU, with re-init, augment on", "Pruning", "LCPU", "fisher", "fisher, reinit_every 2, reinit_strategy every",
    ]  # fmt: skip


def test_rows_are_in_the_order_of_their_numbers(tmp_path, capsys):
    for budget in (16000, 2000, 4000, 32000, 8000):
        make_run(tmp_path, "dpu", 1, [0.5], byte_budget=budget, updating_ratio=1.0)
    for ratio, lr in ((0.5, 0.002), (0.5, 0.01), (0.05, 0.01), (0.1, 0.002)):
        make_run(tmp_path, "rpu", 1, [0.5], updating_ratio=ratio, lr=lr)
    rows = [(row["method"], row["k"]) for row in rows_of(capsys, tmp_path)]
    assert rows == [
        *((f"DPU, byte_budget {budget}", "") for budget in (2000, 4000, 8000, 16000, 32000)),
        ("RPU, lr 0.002", "0.1"), ("RPU, lr 0.002", "0.5"), ("RPU, lr 0.01", "0.05"), ("RPU, lr 0.01", "0.5"),
    ]  # fmt: skip


def test_published_figures_stand_only_beside_their_setting(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5], dataset_size_subseq=5000)
    make_run(tmp_path, "dpu", 1, [0.5], dataset_size_subseq=5000, updating_ratio=0.01)
    make_run(tmp_path, "dpu", 1, [0.5], dataset_size_subseq=5000, lamda=0.25)
    make_run(tmp_path, "gcpu", 1, [0.5], dataset_size_subseq=5000, num_epochs=5)
    make_run(tmp_path, "rpu", 1, [0.5], dataset_size_subseq=5000)
    rows = {(row["method"], row["k"]): row["published"] for row in rows_of(capsys, tmp_path)}
    assert rows == {
        ("DPU", "0.005"): "-0.17", ("DPU", "0.01"): "", ("DPU, lamda 0.25", "0.005"): "", ("GCPU", "0.005"): "",
        ("RPU", "0.005"): "-4.04",
    }  # fmt: skip
    (note,) = [line for line in notes_of(capsys, tmp_path) if line.startswith("paper: ")]
    assert "lambda 0.5" in note and "not known: sample sizes, rounds, seeds, layers of the MLP" in note


@pytest.mark.parametrize("other", [{"dataset": "digits"}, {"model": "vgg", "width": 0.25}, {"model": "mobilenetv1"}])
def test_without_the_paper_s_setting_there_is_no_column_for_it(tmp_path, capsys, other):
    make_run(tmp_path, "dpu", 1, [0.5], **other)
    assert "paper" not in table_of(capsys, tmp_path)
    assert "paper" not in table_of(capsys, "--format", "markdown", tmp_path)


def test_what_cannot_be_used_is_left_out_with_the_reason(two_seeds, capsys):
    cut = make_run(two_seeds, "rpu", 1, [0.5, 0.5])
    (cut / "summary.json").unlink()
    broken = make_run(two_seeds, "rpu", 2, [0.5, 0.5])
    (broken / "rounds.csv").write_text("round\n0\n")
    short = make_run(two_seeds, "rpu", 3, [0.5, 0.5])
    (short / "rounds.csv").write_text("".join((short / "rounds.csv").read_text().splitlines(True)[:2]))
    nameless = make_run(two_seeds, "rpu", 4, [0.5, 0.5])
    (nameless / "config.json").unlink()
    odd = make_run(two_seeds, "rpu", 5, [0.5, 0.5])
    (odd / "config.json").write_text("[]")
    again = make_run(two_seeds, "dpu", 2, [0.6, 0.8], threads=7)
    (two_seeds / "logs").mkdir()
    lines = [line.removeprefix("left out: ") for line in notes_of(capsys, two_seeds) if "left out" in line]
    reasons = dict(line.split(": ", 1) for line in lines)
    assert set(reasons) == {folder.name for folder in (cut, broken, short, nameless, odd, again)}
    assert reasons[cut.name] == "not finished: 2 of 2 rounds"
    assert reasons[short.name] == "rounds.csv has 1 of 2 rounds"
    assert reasons[nameless.name] == "it has no config.json, so its settings are not known"
    assert reasons[again.name].startswith("the same method and seed as dpu-2")


def test_runs_are_compared_with_a_full_updating_that_the_table_shows(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5, 0.7], threads=7)
    make_run(tmp_path, "same_init", 1, [0.6, 0.8])
    make_run(tmp_path, "same_init", 1, [0.1, 0.1], threads=7)  # left out: no row could tell it apart
    (dpu, full) = csv.DictReader(io.StringIO(table_of(capsys, "--format", "csv", tmp_path)))
    assert (float(dpu["difference_mean"]), float(full["served_mean"])) == pytest.approx((-10, 70))


def test_every_table_of_other_data_or_sizes_is_its_own(tmp_path, capsys):
    for sizes in (1000, 5000):
        make_run(tmp_path, "dpu", 1, [0.5], dataset_size_subseq=sizes)
        make_run(tmp_path, "same_init", 1, [0.6], dataset_size_subseq=sizes)
    text = table_of(capsys, tmp_path)
    assert text.count("1,000 more each round") == text.count("5,000 more each round") == 1
    assert [row["difference_mean"] for row in rows_of(capsys, tmp_path)] == ["-10", "0", "-10", "0"]


def test_paths_may_be_folders_patterns_and_said_twice(two_seeds, capsys):
    everything = table_of(capsys, two_seeds)
    assert table_of(capsys, *two_seeds.iterdir(), two_seeds) == everything
    assert table_of(capsys, f"{two_seeds}/dpu-*", f"{two_seeds}/same_*") == everything


def test_full_updating_that_never_sends_gives_no_ratio(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5], [100])
    make_run(tmp_path, "same_init", 1, [0.5], [0])
    assert "nan" not in table_of(capsys, tmp_path)
    assert rows_of(capsys, tmp_path)[0]["bytes_ratio_mean"] == ""


def test_lone_seeds_and_ratios_to_nothing(tmp_path, capsys):
    for seed in (1, 2):
        make_run(tmp_path, "dpu", seed, [0.5, 0.6], [100, 100])
        make_run(tmp_path, "same_init", seed, [0.5, 0.6], [0, 0] if seed == 1 else [100, 0])
    make_run(tmp_path, "rpu", 3, [0.5, 0.6])
    text = table_of(capsys, tmp_path, "--rounds")
    assert "nan" not in text.lower()
    rows = {row["method"]: row for row in rows_of(capsys, tmp_path)}
    assert rows["DPU"]["n"] == "2" and rows["DPU"]["bytes_ratio_mean"] == "" and rows["DPU"]["difference_mean"] == "0"
    assert rows["RPU"]["n"] == "1" and rows["RPU"]["difference_mean"] == rows["RPU"]["served_std"] == ""


def test_a_deviation_of_nothing_has_no_decimals_and_one_seed_none(tmp_path, capsys):
    for seed in (1, 2):
        make_run(tmp_path, "dpu", seed, [0.5])
        make_run(tmp_path, "same_init", seed, [0.75])
    assert "-25.00 ± 0  " in table_of(capsys, tmp_path) and "± 0.0" not in table_of(capsys, tmp_path)
    shutil.rmtree(next(tmp_path.glob("dpu-2*")))
    (line,) = [line for line in table_of(capsys, tmp_path).splitlines() if line.startswith("DPU ") and "2 x" in line]
    assert "±" not in line


def test_everything_fits_80_columns(tmp_path, capsys):
    for seed in (1, 2, 3):
        for number, mode in enumerate(("dpu", "gcpu", "lcpu", "rpu", "magnitude", "fisher", "pruning", "same_init")):
            make_run(tmp_path, mode, seed, [0.5 + seed / 70, 0.6 + number / 100], [1000 * seed, 2000])
    odd = {"value_bits": 4, "reinit_strategy": "shrink_perturb", "shrink": 0.5, "perturb": 0.25}
    make_run(tmp_path, "dpu", 1, [0.5, 0.6], commits=tuple("abcdefghijk"), **odd)
    (make_run(tmp_path, "rpu", 9, [0.5, 0.6]) / "summary.json").write_text("{}")
    text = table_of(capsys, tmp_path, "--rounds")
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("\nDPU, perturb 0.25,  ") == 2, "the beginning of the name, in both tables"
    assert "made by several commits: a, b, c" in text.replace("\n  ", " ") and "left out: rpu-9" in text


def test_names_are_quoted_where_they_would_act(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5], dataset='=HYPERLINK("x")|<b>', reinit_every="a\x1b[2J")
    (row,) = rows_of(capsys, tmp_path)
    assert row["data"] == """'=HYPERLINK("x")|<b>""" and row["method"] == r"DPU, reinit_every a\x1b[2J"
    markdown = table_of(capsys, "--format", "markdown", tmp_path)
    assert r"\|&lt;b>" in markdown and "\x1b" not in markdown


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=9))
def test_mean_and_sample_deviation(values):
    stat = Stat.of(values)
    assert stat.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    if len(values) == 1:
        assert stat.std is None
    else:
        squares = sum((value - stat.mean) ** 2 for value in values)
        assert stat.std == pytest.approx((squares / (len(values) - 1)) ** 0.5, abs=1e-6)


accuracies = st.lists(st.floats(0, 1), min_size=3, max_size=3)


@settings(max_examples=20, deadline=None)  # every example writes files
@given(st.lists(st.tuples(accuracies, accuracies), min_size=2, max_size=4))
def test_difference_is_that_of_the_averages_seed_by_seed(tmp_path_factory, seeds):
    folder = tmp_path_factory.mktemp("runs")
    expected = []
    for seed, (ours, theirs) in enumerate(seeds):
        make_run(folder, "rpu", seed, ours)
        make_run(folder, "same_init", seed, theirs)
        expected.append(100 * (statistics.fmean(ours) - statistics.fmean(theirs)))
    groups, left_out = collate([read_record(path) for path in find_run_folders([str(folder)])])
    row = groups[0].rows[0]
    assert (row.name, row.n, left_out) == ("RPU", len(seeds), [])
    assert row.difference.mean == pytest.approx(statistics.fmean(expected), abs=1e-3)  # of 6 digits in rounds.csv
    assert row.difference.std == pytest.approx(statistics.stdev(expected), abs=1e-3)


def test_link_shows_mean_and_largest_message(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5, 0.6, 0.7], [100, 0, 300])
    make_run(tmp_path, "same_init", 1, [0.5, 0.6, 0.7], [0, 0, 0])
    text = table_of(capsys, tmp_path, "--link", "800")
    lines = [line.split() for line in text.splitlines()[-2:]]
    assert lines == [["DPU", "200", "300", "2.0", "3.0"], ["FU", "-", "-", "-", "-"]]


def test_the_mean_time_is_that_of_messages_not_of_their_mean_size(tmp_path, capsys):
    # Frames of 100 bytes and 100 more. 1 byte takes one, 808 bits, 1.01 s; 101 take two, 2408 bits, 3.01 s; their mean
    # size, 51, would take one, 1.51 s. 100 bytes take one, 2 s; 300 take three, 6 s.
    make_run(tmp_path, "dpu", 1, [0.5, 0.6], [1, 101])
    make_run(tmp_path, "same_init", 1, [0.5, 0.6], [100, 300])
    text = table_of(capsys, tmp_path, "--link", "800/100/100")
    lines = [line.split() for line in text.splitlines()[-2:]]
    assert lines == [["DPU", "51", "101", "2.0", "3.0"], ["FU", "200", "300", "4.0", "6.0"]]


def test_a_copy_of_a_run_is_left_out_by_its_folder(tmp_path, capsys):
    made = make_run(tmp_path / "a", "dpu", 1, [0.5])
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    note = f"left out: {tmp_path}/b/{made.name}: the same method and seed as {made}"
    assert note in " ".join(notes_of(capsys, tmp_path / "a", tmp_path / "b"))


def test_a_model_s_name_is_no_formula_in_csv(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5], model="=HYPERLINK(1):x")
    (row,) = csv.DictReader(io.StringIO(table_of(capsys, tmp_path, "--format", "csv")))
    assert not any(cell.startswith("=") for cell in row.values())


COMMITTED = sorted(path.parent for path in ROOT.glob("results/*/table.txt"))


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_committed_tables_come_from_the_committed_runs(folder, capsys):
    for form, name in (("text", "table.txt"), ("markdown", "table.md"), ("csv", "table.csv")):
        if (folder / name).exists():
            assert table_of(capsys, "--format", form, folder) == (folder / name).read_text()


def test_there_is_a_committed_table():
    assert COMMITTED


def test_committed_runs_name_no_place_on_a_machine():
    for path in ROOT.glob("results/*/*/*.json"):
        assert '"/' not in path.read_text(), path


@pytest.mark.parametrize("flags, needed", [
    ("", "give run folders, --run or --ablate"),
    ("nowhere", "nowhere: no such folder"),
    ("empty", "empty: no run folder here"),
    ("cut", "no finished run to show (rpu-1-0: not finished: 1 of 1 rounds)"),
    ("runs --nosuch", "unrecognized arguments: --nosuch"),
    ("runs --format pdf", "argument --format: invalid choice: 'pdf'"),
    ("runs --seeds 1 2", "--seeds goes with --run or --ablate"),
    ("--ablate lamda 0 1 --side_by_side", "--side_by_side goes with run folders"),
    ("runs --jobs 2", "--jobs goes with --run or --ablate"),
    ("runs --out file", "--out is file, but file is a file: name a folder"),
    ("runs --export file/x", "--export is file/x, but file is a file: name a folder"),
    ("runs --out ''", "argument --out: '' names nothing"), ("runs --export ''", "argument --export: '' names nothing"),
    ("runs --format csv --rounds", "--rounds prints another table, which is no part of --format csv: leave one out"),
])  # fmt: skip
def test_bad_input_is_one_line(tmp_path, monkeypatch, capsys, flags, needed):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").write_text("in the way")
    make_run(Path("runs"), "dpu", 1, [0.5])
    (make_run(Path("cut"), "rpu", 1, [0.5]) / "summary.json").unlink()
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(flags))
    out, err = capsys.readouterr()
    assert (stop.value.code, out) == (2, "")
    assert err.startswith("python -m utils.table: error: ") and len(err.splitlines()) == 1
    assert needed in err


def test_tables_need_no_torch():
    code = "import sys, utils.table.program; sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
