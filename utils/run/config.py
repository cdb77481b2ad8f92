"""What a run's config.json says, and what is printed before its first round."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.datasets import Dataset, EvaluationSplit
from utils.flat import FlatParameters
from utils.rounds import Plan
from utils.run.checks import num_deployed
from utils.run.settings import Settings
from utils.training.device import describe_device


def make_config(
    settings: Settings,
    command: list[str],
    fingerprints: dict[str, str],
    device: torch.device,
    flat: FlatParameters,
    plan: Plan,
    processes: int = 1,
) -> dict[str, Any]:
    """Return the content of config.json."""
    ratio = "" if plan.way.updating_ratio == 1 else f", k = {settings.updating_ratio:g}"
    dataset = Path(settings.dataset).stem
    return {
        "title": f"{settings.mode} on {dataset}, {settings.model}{ratio}, seed {settings.seed}",
        "settings": settings.as_plain(),
        "recipe": vars(plan.way.recipe),
        **({"deployment_recipe": vars(plan.deployment.recipe)} if plan.deployment else {}),
        "num_rounds": plan.num_rounds,
        "fingerprints": fingerprints,
        "layers": flat.schema.to_plain(),
        "device": describe_device(device) + (f", {processes} processes" if processes > 1 else ""),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "command": command,
    }


def headline(
    dataset: Dataset,
    split: EvaluationSplit,
    settings: Settings,
    flat: FlatParameters,
    plan: Plan,
    device: str,
    folder: Path,
) -> str:
    """Return what is printed before the first round."""
    shape = "x".join(map(str, dataset.input_shape))
    counts = [len(labels) for labels in (dataset.train_labels, split.val_labels, split.test_labels)]
    train, val, test = (f"{count:,}" for count in counts)
    rounds = f"{plan.num_rounds} round{'s' if plan.num_rounds > 1 else ''}"
    ratio = "" if plan.way.updating_ratio == 1 else f" k = {plan.way.updating_ratio:g},"
    if settings.deploy_sparsity:
        deployed = num_deployed(flat.num_weights, settings.deploy_sparsity)
        ratio += f" {deployed:,} weights deployed,"
    return "\n".join(
        [
            f"{dataset.name}: {train} training, {val} validation and {test} test images of {shape}, "
            f"{dataset.num_classes} classes",
            f"{settings.model}: {flat.num_weights:,} weights, {flat.num_rest + flat.num_buffers:,} others",
            f"{settings.mode}: {rounds},{ratio} seed {settings.seed}, on {device}",
            f"run folder: {folder}",
        ]
    )


def _git_commit() -> str | None:
    """Return the commit that this code is at, "+changes" behind it if files differ; None outside git."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        status = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
