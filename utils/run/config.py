"""What a run's config.json says, and what is printed before its first round."""

import datetime
import os
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
from utils.run.results import code_digests, code_fingerprint
from utils.run.settings import Settings
from utils.system.references import label_of
from utils.training.device import cpu_name, describe_device


def make_config(
    settings: Settings, fingerprints: dict[str, str], flat: FlatParameters, plan: Plan, start: dict[str, Any],
    own: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Return the content of config.json for a run that begins now; `start` describes this start.

    own  digests of the user's sources, and of the layout of the user's network
    """
    ratio = "" if plan.way.coding.updating_ratio == 1 else f", k = {plan.way.coding.updating_ratio:.4g}"
    ratio += "" if settings.byte_budget is None else f", {settings.byte_budget:,} bytes"
    dataset, method = Path(settings.dataset).stem, label_of(settings.criterion or settings.mode)
    return {
        "title": f"{method} on {dataset}, {label_of(settings.model)}{ratio}, seed {settings.seed}",
        "settings": settings.as_plain(),
        "recipe": vars(plan.way.recipe),
        **({"deployment_recipe": vars(plan.deployment.recipe)} if plan.deployment else {}),
        "num_rounds": plan.num_rounds,
        "fingerprints": fingerprints,
        "layers": flat.schema.to_plain(),
        "sources": code_digests(),
        **({"own_sources": own} if own else {}),
        **start,
    }


def describe_start(command: list[str], device: torch.device, processes: int, own: dict[str, str]) -> dict[str, Any]:
    """Return what config.json keeps of each start of a run: machine, versions, code and command."""
    return {
        "device": describe_device(device) + (f", {processes} processes" if processes > 1 else ""),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "platform": platform.platform(),
        "processor": cpu_name(),
        "git_commit": git_commit(),
        "code": code_fingerprint(own),
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
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
    ratio = "" if plan.way.coding.updating_ratio == 1 else f" k = {plan.way.coding.updating_ratio:.4g},"
    ratio += "" if settings.byte_budget is None else f" at most {settings.byte_budget:,} bytes a message,"
    if settings.deploy_sparsity:
        deployed = num_deployed(flat.num_weights, settings.deploy_sparsity)
        ratio += f" {deployed:,} weights deployed,"
    unusual = any(value is not None for value in (settings.optimizer, settings.schedule, settings.weight_decay))
    return "\n".join(
        [
            f"{dataset.name}: {train} training, {val} validation and {test} test images of {shape}, "
            f"{dataset.num_classes} classes",
            f"{label_of(settings.model)}: {flat.num_weights:,} weights, "
            f"{flat.num_rest + flat.num_buffers:,} values of the rest",
            *([f"trained by {plan.way.recipe.in_words()}"] if unusual or not settings.model_is_ours else []),
            f"{label_of(settings.criterion or settings.mode)}: {rounds},{ratio} seed {settings.seed}, on {device}",
            f"run folder: {folder}",
        ]
    )


def git_commit() -> str | None:
    """Return the commit that this code is at, "+changes" behind it if files differ; None outside its own repository.

    An unpacked archive can lie inside another repository, and GIT_DIR, as git's hooks set it, can name any.
    """
    root = Path(__file__).resolve().parents[2]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return answer.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
