"""Runs of the three scripts on digits that several tests share."""

import csv
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import multiround_dpu
import multiround_fu
import multiround_rpu

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "--dataset digits --hidden_sizes 24 --num_epochs 3 --dataset_size_init 200 --dataset_size_subseq 200 "
    "--max_rounds 3 --seed 3 --threads 1"
).split()
RUNS = {
    "dpu": (multiround_dpu, "--mode dpu --updating_ratio 0.1 --lamda 0.25"),
    "gcpu": (multiround_dpu, "--mode gcpu --without_reinit --updating_ratio 0.1"),
    "lcpu": (multiround_dpu, "--mode lcpu --updating_ratio 0.1"),
    "magnitude": (multiround_dpu, "--mode magnitude --updating_ratio 0.25"),
    "fisher": (multiround_dpu, "--mode fisher --updating_ratio 0.25"),
    "movement": (multiround_dpu, "--mode movement --updating_ratio 0.25"),
    "snip": (multiround_dpu, "--mode snip --updating_ratio 0.25"),
    "every": (multiround_dpu, "--mode dpu --reinit_strategy every --updating_ratio 0.1"),
    "shrink_perturb": (multiround_dpu, "--mode dpu --reinit_strategy shrink_perturb --updating_ratio 0.1"),
    "rpu": (multiround_rpu, "--mode rpu --updating_ratio 0.5"),
    "rpu_reinit": (multiround_rpu, "--mode rpu --reinit --updating_ratio 0.5"),
    "rpu_shrink": (
        multiround_rpu,
        "--mode rpu --reinit_strategy shrink_perturb --shrink 0.5 --perturb 0.2 --updating_ratio 0.5",
    ),
    "rewinding": (multiround_dpu, "--mode dpu --rewind_fixing_ratio 0.5 --updating_ratio 0.1"),
    "budget": (multiround_dpu, "--mode dpu --byte_budget 700 --value_bits auto"),
    "budget_in_steps": (multiround_dpu, "--mode dpu --byte_budget 700 --value_bits auto --rewind_fixing_ratio 0.1"),
    "full": (multiround_dpu, "--mode dpu --deploy full --updating_ratio 0.1"),
    "sparse": (multiround_dpu, "--mode dpu --deploy_sparsity 0.5 --updating_ratio 0.2"),
    "sparse_gcpu": (
        multiround_dpu,
        "--mode gcpu --deploy_sparsity 0.5 --reinit_strategy shrink_perturb --updating_ratio 0.2 --value_bits 6",
    ),
    "sparse_rpu": (multiround_rpu, "--mode rpu --reinit --deploy_sparsity 0.5 --updating_ratio 0.5"),
    "sparse_fu": (multiround_fu, "--mode same_init --deploy_sparsity 0.5"),
    "same_init": (multiround_fu, "--mode same_init"),
    "last_round": (multiround_fu, "--mode last_round"),
    "diff_init": (multiround_fu, "--mode diff_init"),
    "pruning": (multiround_fu, "--mode pruning --pruning_ratio 0.2"),
    "lamp": (multiround_fu, "--mode lamp --pruning_ratio 0.2 --rewind_fixing_ratio 0.5"),
}
NUM_WEIGHTS = 64 * 24 + 24 * 10


def one_line(capsys) -> str:
    """What was printed, its lines joined: where they break depends on the words."""
    return " ".join(capsys.readouterr().out.split())


def without_time(folder: Path) -> list[dict]:
    with open(folder / "rounds.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def metrics_of(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what is measured by the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "samples_per_s")} for line in lines]


def weights_of(folder: Path) -> tuple:
    """Hashes of the final networks and of every message."""
    summary = json.loads((folder / "summary.json").read_text())
    messages = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (folder / "updates").iterdir()}
    return summary["line_sha256"], summary["served_sha256"], messages


def start_process(*flags, code=None, cwd=ROOT) -> subprocess.Popen:
    command = [sys.executable, *(["-c", code] if code else []), *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
