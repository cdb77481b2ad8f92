"""Run folders keep their names: a command of yesterday finds the run that it began yesterday.

Names say which flags are not as usual. Folders from before they did so are found, too: the names below were recorded at commit 19c03a4, before there were other criteria and re-initializations; those of
RECORDED_PARTIAL again when small networks were given one thread by default, which changes results.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.datasets import load_dataset
from tests.script_runs import RUNS, SMALL
from utils.run.checks import settle
from utils.run.identity import identify
from utils.run.options import build_parser

ROOT = Path(__file__).resolve().parents[2]

TINY = "--dataset digits --device cpu --hidden_sizes 24 --updating_ratio 0.1"


def test_a_folder_named_by_dots_is_shown_by_its_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, name in ((".", tmp_path.name), ("..", tmp_path.parent.name), ("digits", "digits")):
        settings = settle(vars(build_parser("multiround_dpu.py").parse_args(["--dataset", words])))
        assert Path(settings.dataset).name == name


def name_of(script, flags, monkeypatch) -> str:
    """The name of the folder that a command would work in; nothing is run and nothing written."""

    class Found(Exception):
        pass

    def claimed(folder, overwrite):
        raise Found(folder.path.name)

    monkeypatch.setattr("utils.run.folder.RunFolder.claimed", claimed)
    with pytest.raises(Found) as found:
        script.main(flags)
    return str(found.value)


RECORDED = {
    "dpu": "digits-mlp-dpu-k0.1-seed3-b73051f2",
    "gcpu": "digits-mlp-gcpu-k0.1-seed3-7673429c",
    "lcpu": "digits-mlp-lcpu-k0.1-seed3-0a4d87c9",
    "rpu": "digits-mlp-rpu-k0.5-seed3-2c841a1f",
    "rpu_reinit": "digits-mlp-rpu-k0.5-seed3-ddac6839",
    "same_init": "digits-mlp-same_init-k1-seed3-72c60419",
    "last_round": "digits-mlp-last_round-k1-seed3-e7c88e40",
    "diff_init": "digits-mlp-diff_init-k1-seed3-c5157c23",
    "pruning": "digits-mlp-pruning-k0.2-seed3-e09bd2fd",
}
RECORDED_PARTIAL = [
    ("dpu", "", "digits-mlp-dpu-k0.1-seed0-67c393b5"),
    ("dpu", "--without_reinit", "digits-mlp-dpu-k0.1-seed0-5e8d7af6"),
    ("dpu", "--mode gcpu", "digits-mlp-gcpu-k0.1-seed0-24dae15e"),
    ("dpu", "--mode gcpu --without_reinit", "digits-mlp-gcpu-k0.1-seed0-2567213d"),
    ("dpu", "--mode lcpu", "digits-mlp-lcpu-k0.1-seed0-b08e97fb"),
    ("dpu", "--mode lcpu --without_reinit --value_bits 6 --seed 7", "digits-mlp-lcpu-k0.1-seed7-f349700b"),
    ("rpu", "", "digits-mlp-rpu-k0.1-seed0-7c92a74f"),
    ("rpu", "--reinit", "digits-mlp-rpu-k0.1-seed0-71c19ec0"),
    ("rpu", "--reinit --value_bits 4 --batch_norm", "digits-mlp-rpu-k0.1-seed0-059ebeb4"),
]


def check_name(script, flags, recorded, tmp_path, monkeypatch):
    """The folder of that name is found; where it is not there, the name is longer, with the same beginning and hash."""
    flags = [*flags, "--output_dir", str(tmp_path)]
    new = name_of(script, flags, monkeypatch)
    *_, seed, digest = recorded.split("-")
    assert new.endswith(f"-{seed}-{digest}") and new.startswith(recorded.removesuffix(f"-{seed}-{digest}"))
    (tmp_path / recorded).mkdir()
    assert name_of(script, flags, monkeypatch) == recorded
    (tmp_path / new).mkdir(exist_ok=True)
    assert name_of(script, flags, monkeypatch) == new


@pytest.mark.parametrize("name", RECORDED)
def test_names_of_the_scripts_runs(name, tmp_path, monkeypatch):
    script, flags = RUNS[name]
    check_name(script, [*flags.split(), *SMALL, "--device", "cpu"], RECORDED[name], tmp_path, monkeypatch)


@pytest.mark.parametrize(("script", "flags", "name"), RECORDED_PARTIAL, ids=[" ".join(row[:2]) for row in RECORDED_PARTIAL])
def test_names_of_partial_updating(script, flags, name, tmp_path, monkeypatch):
    check_name(RUNS[script][0], [*TINY.split(), *flags.split()], name, tmp_path, monkeypatch)


@pytest.mark.parametrize("script, flags, shown", [
    ("dpu", "", ""),
    ("dpu", "--lamda 0.5 --num_epochs 30 --hidden_sizes 512 512 --max_rounds 6 --updating_ratio 0.005", "rounds6-"),
    ("dpu", "--lamda 0.25 --num_epochs 3 --hidden_sizes 24 8", "lamda0.25-epochs3-hidden24x8-"),
    ("dpu", "--without_reinit --batch_norm --augment on", "reinit_never-batch_norm-augment-"),
    ("rpu", "--deploy_sparsity 0.5 --lr 1e-3 --hidden_sizes", "sparsity0.5-lr0.001-hidden_none-"),
    ("same_init", "--model vgg --width 0.25 --dataset_size_subseq 100", "width0.25-subseq100-"),
])  # fmt: skip
def test_names_show_what_is_not_as_usual(script, flags, shown, tmp_path, monkeypatch):
    flags = ["--dataset", "digits", "--device", "cpu", "--output_dir", str(tmp_path), "--mode", script, *flags.split()]
    name = name_of(RUNS[script][0], flags, monkeypatch)
    method, much = ("same_init", "k1") if script == "same_init" else (script, "k0.005")
    assert name.startswith(f"digits-{'vgg' if 'vgg' in flags else 'mlp'}-{method}-{much}-{shown}seed0-")


def test_zero_with_a_sign_is_zero(tmp_path, monkeypatch):
    flags = ["--dataset", "digits", "--output_dir", str(tmp_path)]
    names = {name_of(RUNS["dpu"][0], [*flags, "--lamda", lamda], monkeypatch) for lamda in ("0", "-0", "-0.0")}
    assert len(names) == 1


def test_the_longest_name_is_one_that_file_systems_take(tmp_path, monkeypatch):
    flags = "--mode gcpu --deploy_sparsity 0.5 --value_bits 6 --lr 0.01 --batch_norm --max_rounds 2 --num_epochs 2 --threads 2"
    more = "--dataset_size_init 100 --dataset_size_subseq 500 --val_dataset_size 7 --train_batch_size 9 --test_batch_size 9 "
    more += "--deploy_epochs 70 --hidden_sizes 1234 5678 9012"
    flags = [*flags.split(), *more.split(), "--dataset", "digits", "--output_dir", str(tmp_path)]
    assert 100 < len(name_of(RUNS["gcpu"][0], flags, monkeypatch)) < 200


@pytest.mark.parametrize("flags, threads", [
    ("--hidden_sizes 24", 1), ("--hidden_sizes 512 512", 1), ("--hidden_sizes 1990 1990", None),
    ("--hidden_sizes 24 --threads 2", 2), ("--model vgg", None), ("--hidden_sizes 24 --device cuda", None),
])  # fmt: skip
def test_a_small_network_has_one_thread_by_default(flags, threads, monkeypatch):
    """64 * 1990 + 1990 * 1990 + 1990 * 10 weights are 4,107,360. The name says so: other threads, other bits."""
    settings = settle(vars(build_parser("multiround_dpu.py").parse_args(["--dataset", "digits", *flags.split()])))
    device = torch.device(settings.device if settings.device == "cuda" else "cpu")
    run = identify(settings, load_dataset("digits", Path()), device, None)
    assert run.settings.threads == threads
    explicit = identify(replace(settings, threads=threads), load_dataset("digits", Path()), device, None)
    assert explicit.folder == run.folder


def test_small_networks_run_on_one_thread_that_does_not_spin(tmp_path):
    """In a process of its own: OpenMP reads its settings when PyTorch is loaded."""
    code = f"""
import os, sys, multiround_fu
assert "torch" not in sys.modules
multiround_fu.main("--dataset digits --hidden_sizes 8 --max_rounds 1 --num_epochs 1 --output_dir {tmp_path}".split())
import torch
print("threads", torch.get_num_threads(), os.environ["OMP_WAIT_POLICY"])
"""
    several = {**os.environ, "OMP_NUM_THREADS": "2"}
    several.pop("OMP_WAIT_POLICY", None)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=several)
    assert done.stdout.splitlines()[-1] == "threads 2 passive", done.stderr  # given back when the run is over
    (config,) = tmp_path.glob("*/config.json")
    assert json.loads(config.read_text())["device"] == "cpu, 1 thread"


@pytest.mark.parametrize("script", ["dpu", "rpu", "fu"])
def test_deployment_and_rewinding(script, monkeypatch):
    """What says the same as before has the folder of before; what is new has one of its own."""
    module, tiny = (RUNS["same_init"][0], TINY.replace("--updating_ratio 0.1", "")) if script == "fu" else (RUNS[script][0], TINY)

    def name(flags=""):
        return name_of(module, [*tiny.split(), *flags.split()], monkeypatch)

    assert name() == name("--deploy_sparsity 0") == name("--deploy_sparsity 0.0")
    new = ["", "--deploy_sparsity 0.5", "--deploy_sparsity 0.25"]
    if script != "fu":
        assert name() == name("--deploy partial") == name("--deploy partial --deploy_sparsity 0")
        assert name("--deploy full --deploy_sparsity 0.5") == name("--deploy_sparsity 0.5")
        new.append("--deploy full")
    if script == "dpu":
        assert name() == name("--rewind_fixing_ratio 1")
        new.append("--rewind_fixing_ratio 0.2")
    assert len({name(flags) for flags in new}) == len(new)
