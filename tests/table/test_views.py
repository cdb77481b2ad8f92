"""Several tables as the columns of one, worked out by hand, and the titles of sweeps."""

import pytest

from tests.made_up_runs import make_run
from tests.table.test_table import rows_of, table_of
from utils.table.collate import Row, Sweep
from utils.table.records import read_record
from utils.table.render import sweep_title


@pytest.fixture
def three_tables(tmp_path):
    """MNIST with two seeds, VGG with one, ResNet56 on data that are not the paper's, at another learning rate."""
    mnist, vgg, resnet = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    for seed, served in ((1, 0.5), (2, 0.625)):
        make_run(mnist, "dpu", seed, [served])  # 25 and 15 points below
        make_run(mnist, "dpu", seed, [served + 0.125], value_bits=4, updating_ratio=0.032)
        make_run(mnist, "same_init", seed, [0.75 + (seed - 1) / 40])
    make_run(mnist, "rpu", 2, [0.75])
    common = {"dataset": "cifar10", "model": "vgg", "augment": True, "precision": "bf16"}
    make_run(vgg, "dpu", 1, [0.625], updating_ratio=0.01, **common)
    make_run(vgg, "pruning", 1, [0.5], updating_ratio=0.01, **common)
    make_run(vgg, "same_init", 1, [0.5], **common)
    common |= {"model": "resnet56", "lr": 0.02, "num_epochs": 100}
    make_run(resnet, "dpu", 1, [0.5], updating_ratio=0.1, **common)
    make_run(resnet, "gcpu", 1, [0.25], updating_ratio=0.1, **{**common, "num_epochs": 30})
    make_run(resnet, "same_init", 1, [0.5], **common)
    return mnist, vgg, resnet


def test_columns_by_hand(three_tables, capsys):
    # -25 and -15: mean -20, deviation 10 / sqrt(2) = 7.07. GCPU of ResNet56 has fewer epochs: no pair.
    title, table, notes = table_of(capsys, *three_tables, "--side_by_side").split("\n\n")
    assert title == "served test accuracy less that of full updating, points, average over rounds"
    assert table.splitlines() == [  # with the long name in a single line it would be wider than 80
        "                               mnist",
        "                                 mlp         cifar10          cifar10    paper,",
        "method                       512-512  paper      vgg  paper  resnet56  cifar100",
        "---------------------  -------------  -----  -------  -----  --------  --------",
        "DPU                    -20.00 ± 7.07  -0.17   +12.50  +0.33     +0.00     -0.42",
        "DPU, value_bits 4, k    -7.50 ± 7.07",
        "0.032",
        "GCPU                                                                -",
        "RPU                            -2.50  -4.04",
        "Pruning                                        +0.00  -4.35",
        "FU serves, %            76.25 ± 1.77           50.00            50.00",
        "in the paper's order              no             yes",
        "with the paper's sign         2 of 2          1 of 2           0 of 1",
    ]
    lines = notes.replace("\n  ", " ").splitlines()
    assert lines[0] == "mnist, mlp 512-512: 1,000 samples, 1,000 more each round, 1 round, k 0.005, 1 to 2 seeds"
    assert lines[1] == "mnist mlp 512-512: RPU: n = 1: seed 1 missing"
    assert lines[3].startswith("cifar10, resnet56, bf16, lr 0.02: ") and lines[3].endswith(", k 0.1, 1 seed")
    assert "for VGG in its authors' README), layers of the MLP" in lines[5]
    markdown = table_of(capsys, *three_tables, "--side_by_side", "--format", "markdown").splitlines()
    assert "| RPU | -2.50 | -4.04 |  |  |  |  |" in markdown
    assert rows_of(capsys, *three_tables, "--side_by_side") == rows_of(capsys, *three_tables)


@pytest.mark.parametrize("dpu, gcpu, order, sign", [
    (0.5, 0.4, "yes", "2 of 2"), (0.4, 0.5, "no", "2 of 2"),  # 0.6 is full updating's
    (0.7, 0.5, "yes", "1 of 2"), (0.6, 0.7, "no", "0 of 2"),
    (0.5, 0.50001, "no", "2 of 2"), (0.59999, 0.5, "yes", "1 of 2"),  # which is written +0.00 or -0.00
])  # fmt: skip
def test_agreement_with_the_paper_by_hand(tmp_path, capsys, dpu, gcpu, order, sign):
    make_run(tmp_path, "dpu", 1, [dpu])  # the paper: -0.17
    make_run(tmp_path, "gcpu", 1, [gcpu])  # -0.72
    make_run(tmp_path, "dpu", 1, [0.1], value_bits=4)  # which it does not have
    make_run(tmp_path, "same_init", 1, [0.6])
    lines = table_of(capsys, tmp_path, "--side_by_side").splitlines()
    assert [" ".join(line.split()) for line in lines if "the paper's" in line] == [
        f"in the paper's order {order}", f"with the paper's sign {sign}",
    ]  # fmt: skip


def test_without_figures_of_the_paper_s_or_pairs_there_is_no_agreement(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5], value_bits=4)
    make_run(tmp_path, "same_init", 1, [0.6])
    assert "paper" not in table_of(capsys, tmp_path, "--side_by_side")
    make_run(tmp_path / "alone", "dpu", 1, [0.5])
    assert "the paper's order" not in table_of(capsys, tmp_path / "alone", "--side_by_side")


def test_of_a_method_s_rows_one_agrees(tmp_path, capsys):
    common = {"dataset": "cifar10", "model": "resnet56", "augment": True, "num_epochs": 100, "updating_ratio": 0.1}
    for lr in (0.1, 0.02):  # on other data the learning rate may differ
        make_run(tmp_path, "dpu", 1, [0.5], lr=lr, **common)
        make_run(tmp_path, "same_init", 1, [0.6], lr=lr, **{**common, "updating_ratio": 1.0})
    text = table_of(capsys, tmp_path, "--side_by_side")
    assert text.count("-0.42") == 2 and "with the paper's sign" in text and "1 of 1" in text


def test_tables_of_the_same_data_and_model_are_numbered(tmp_path, capsys):
    for sizes in (1000, 5000):
        for epochs in (30, 10):
            make_run(tmp_path, "dpu", 1, [0.5], dataset_size_subseq=sizes, num_epochs=epochs)
        make_run(tmp_path, "same_init", 1, [0.6], dataset_size_subseq=sizes)
    lines = table_of(capsys, tmp_path, "--side_by_side").splitlines()
    assert lines[2].split() == ["(1)", "mnist", "(2)", "mnist"]
    assert [line.split("  ")[0] for line in lines[6:9]] == ["DPU, 20 epochs", "DPU, 60 epochs", "FU serves, %"]
    assert [line[:4] for line in lines if "more each round" in line] == ["(1) ", "(2) "]


def test_the_row_of_lossless_full_updating_is_an_accuracy_and_comes_last(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5], value_bits=4)
    make_run(tmp_path, "last_round", 1, [0.7])  # k = 1, as full updating, but of these there is one
    make_run(tmp_path, "lcpu", 1, [0.5], reinitialize=True)
    make_run(tmp_path, "same_init", 1, [0.6], value_bits=4)
    make_run(tmp_path, "same_init", 1, [0.625])
    lines = table_of(capsys, tmp_path, "--side_by_side").splitlines()
    assert [line.split("  ")[0] for line in lines[6:11]] == [
        "DPU, value_bits 4", "FU, value_bits 4", "FU last_round", "LCPU", "FU serves, %",
    ]  # fmt: skip
    assert [line.split()[-1] for line in lines[6:11]] == ["-12.50", "-2.50", "+7.50", "-12.50", "62.50"]
    assert "1 round, k 0.005, 1 seed" in " ".join(map(str.strip, lines))


def test_the_paper_s_k_is_the_usual_one(tmp_path, capsys):
    for ratio in (0.01, 0.02, 0.01, 0.005):
        make_run(tmp_path, "dpu", 1, [0.5], updating_ratio=ratio)
    make_run(tmp_path, "rpu", 1, [0.5], updating_ratio=0.01)
    make_run(tmp_path, "same_init", 1, [0.5])
    names = [line.split("  ")[0] for line in table_of(capsys, tmp_path, "--side_by_side").splitlines()]
    assert names[6:11] == ["DPU", "DPU, k 0.01", "DPU, k 0.02", "RPU, k 0.01", "FU serves, %"]


@pytest.mark.parametrize("other, shown", [
    ({}, True), ({"lr": 0.02}, True), ({"value_bits": 4}, False), ({"train_batch_size": 32}, False),
    ({"num_epochs": 7}, False), ({"width": 0.5}, False),
])  # fmt: skip
def test_on_other_data_the_paper_s_figures_stand_beside_its_method_and_model(tmp_path, capsys, other, shown):
    common = {"dataset": "cifar10", "model": "resnet56", "augment": True, "num_epochs": 100, **other}
    make_run(tmp_path, "dpu", 1, [0.5], updating_ratio=0.1, **common)
    make_run(tmp_path, "same_init", 1, [0.5], **common)
    text = table_of(capsys, tmp_path, "--side_by_side")
    assert ("cifar100" in text, "-0.42" in text) == (shown, shown)


def test_a_user_s_network_keeps_its_name(tmp_path, capsys):
    make_run(tmp_path, "dpu", 1, [0.5], dataset="digits", model="examples/own_network.py:SmallNet")
    lines = table_of(capsys, tmp_path, "--side_by_side").splitlines()
    assert [line.split()[-1] for line in lines[2:5]] == ["digits", "own_network.py:", "SmallNet"]
    name = "digits own_network.py:SmallNet"
    assert any(line.startswith(f"{name}: DPU: no pair") for line in lines)
    assert f"| method | {name} |" in table_of(capsys, tmp_path, "--side_by_side", "--format", "markdown")


def test_heads_of_odd_names_do_nothing(tmp_path, capsys):
    for epochs in (1, 2):  # of one length, told apart by their rounds
        make_run(tmp_path, "dpu", 1, [0.5] * epochs, dataset="my (small) set.npz", model="/some/where/a\x1b[31m|.py:Net")
    text = table_of(capsys, tmp_path, "--side_by_side")
    assert "\x1b" not in text and "/some" not in text and "(1) my (small) set, a" in text


def test_many_tables_fit_80_columns(three_tables, capsys, tmp_path):
    for width in (0.25, 0.5, 0.75):
        for seed in (1, 2):
            make_run(tmp_path / "4", "dpu", seed, [0.5 + seed / 70], dataset="cifar10", model="vgg", width=width)
            make_run(tmp_path / "4", "same_init", seed, [0.6], dataset="cifar10", model="vgg", width=width)
    text = table_of(capsys, *three_tables, tmp_path / "4", "--side_by_side")
    assert max(map(len, text.splitlines())) <= 80 and text.count("\nmethod  ") > 1
    assert "\nDPU, value_bits 4, k 0.032  " in text  # narrower names would not bring them together


def test_a_sweep_s_title_says_what_all_its_runs_share(tmp_path):
    def title(*runs):
        rows = [Row("", [read_record(make_run(tmp_path, mode, 1, [0.5], **settings))]) for mode, settings in runs]
        return sweep_title(Sweep(("flag",), rows, [], []))

    end = "mnist, mlp 512-512, 1,000 samples, 1,000 more each round, 1 round"
    four, five = ({"updating_ratio": k, "value_bits": 4} for k in (0.01, 0.02))
    assert title(("dpu", four), ("dpu", five)) == f"flag: DPU, value_bits 4, {end}"
    assert title(("dpu", four), ("rpu", five)) == f"flag: value_bits 4, {end}"
    assert title(("dpu", {"lamda": 0.1}), ("dpu", {"lamda": 0.2})) == f"flag: DPU, k 0.005, {end}"
    budget = {"updating_ratio": 1.0, "byte_budget": 2000}
    assert title(("dpu", budget), ("same_init", {})) == f"flag: {end}"
    assert title(("dpu", budget), ("rpu", budget)) == f"flag: byte_budget 2000, {end}"
