"""The scripts on real MNIST and CIFAR-10, where they are at hand: short runs that learn and send."""

import pytest

import multiround_dpu
import multiround_fu
import multiround_rpu

SCRIPTS = {
    "dpu": (multiround_dpu, ["--updating_ratio", "0.02"]),
    "rpu": (multiround_rpu, ["--updating_ratio", "0.2"]),
    "fu": (multiround_fu, ["--mode", "same_init"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_mnist(real_data, tmp_path, name):
    script, flags = SCRIPTS[name]
    data = ["--dataset", "mnist", "--dataset_dir", str(real_data), "--max_rounds", "2"]
    result = script.main([*data, *flags, "--num_epochs", "4", "--output_dir", str(tmp_path)])
    assert [row["num_samples"] for row in result.rows] == [1000, 2000]
    assert result.rows[0]["served_test_acc"] > 0.7
    assert result.rows[1]["served_val_acc"] >= result.rows[0]["served_val_acc"]
    assert result.rows[0]["message_bytes"] > 0


@pytest.mark.slow
def test_cifar10(real_cifar10, tmp_path):
    data = ["--dataset", "cifar10", "--dataset_dir", str(real_cifar10), "--val_dataset_size", "100"]
    sizes = ["--dataset_size_init", "150", "--max_rounds", "1", "--train_batch_size", "16"]
    flags = ["--model", "resnet56", "--num_epochs", "1", "--output_dir", str(tmp_path)]
    result = multiround_dpu.main([*data, *sizes, *flags])
    row = result.rows[0]
    assert 0 < row["full_val_acc"] < 1
    assert row["sent"] == (row["val_acc"] > row["start_val_acc"] or row["rewound_val_acc"] == row["start_val_acc"])
    assert len(list((result.folder / "updates").iterdir())) == row["sent"]
