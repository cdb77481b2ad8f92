"""From the values of the command line to a finished run folder."""

import contextlib
import hashlib
import json
import platform
import subprocess
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None
from tqdm import tqdm

from data.arrival import Arrival
from data.batches import Batches
from data.datasets import (
    Dataset,
    DatasetError,
    EvaluationSplit,
    default_validation_size,
    load_dataset,
    split_validation,
)
from data.seeding import derive_seed
from models import build_model
from utils.checkpoint import CheckpointError, Checkpoints
from utils.contribution import num_selected
from utils.device import describe_device, set_up_device
from utils.flat import FlatParameters
from utils.methods import METHODS, full_update, partial_update, random_update, score_function
from utils.options import UsageError, check_sizes, uses_batch_norm
from utils.progress import Bars
from utils.recipes import recipe_for
from utils.results import LOCK, ResultsError, RunFolder, RunResult, describe_run, summarize
from utils.round_training import RoundTraining
from utils.rounds import Deployment, Plan, network_sha256, pack, run_rounds, unpack
from utils.training import Trainer

# Settings that say where files lie or what is shown; the same run with others has the same folder.
_NOT_IN_HASH = ("dataset", "dataset_dir", "output_dir", "overwrite", "quiet", "num_workers", "checkpoint_interval")


def run_script(args: Namespace, command: list[str], fail: Callable[[str], NoReturn]) -> RunResult:
    """Run the experiment of a script's checked command line; `fail` reports one line and exits with status 2."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return run_experiment(vars(args), command)
        except (UsageError, DatasetError, CheckpointError, ResultsError) as error:
            fail(str(error))
        except KeyboardInterrupt:
            print("\ninterrupted: the same command goes on from the last checkpoint", file=sys.stderr)
            sys.exit(130)


def run_experiment(settings: dict[str, Any], command: list[str]) -> RunResult:
    """Run, resume or read back the experiment that `settings` describes, as `options.parse` leaves them.

    Raises UsageError or DatasetError, before any work, for what the user can put right.
    """
    batch_norm = uses_batch_norm(settings["model"], settings["batch_norm"])
    device = set_up_device(settings["device"], settings["precision"], settings["threads"])
    dataset = load_dataset(settings["dataset"], settings["dataset_dir"])
    settings = _with_data_defaults(settings, dataset, device, batch_norm)
    arrival = Arrival(
        len(dataset.train_labels), settings["dataset_size_init"], settings["dataset_size_subseq"], settings["seed"]
    )
    split = split_validation(dataset, settings["val_dataset_size"], settings["seed"])
    make_network = partial(_make_network, settings, dataset, device)
    try:
        flat = make_network(0)
    except ValueError as error:
        raise UsageError(f"--model: {error}") from error
    except RuntimeError as error:  # what torch raises when memory does not suffice, on every device
        if "memory" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise UsageError(f"--model: {settings['model']} is too large for this machine ({reason})") from error
    plan = _make_plan(settings, flat, arrival, make_network)

    fingerprints = {
        "dataset": dataset.fingerprint,
        "arrival": arrival.fingerprint,
        "validation_split": split.fingerprint,
    }
    folder = RunFolder(settings["output_dir"] / _folder_name(settings, dataset.name, fingerprints))
    config = _config(settings, command, fingerprints, device, flat, plan)
    with _claimed(folder, settings["overwrite"]):
        finished = folder.read() if folder.finished else None
        saved = None if finished else Checkpoints(folder.path).load(device)
        print(_headline(dataset, split, settings, flat, plan, config["device"], folder), flush=True)
        if finished is None:
            augment = dataset.name in ("cifar10", "cifar100")
            augment = {"auto": augment, "on": True, "off": False}[settings["augment"]]
            batches = partial(Batches, mean=dataset.mean, std=dataset.std, device=device)
            train = batches(
                dataset.train_images,
                dataset.train_labels,
                batch_size=settings["train_batch_size"],
                augment=augment,
                smallest_batch=2 if batch_norm else 1,
            )
            validation = batches(split.val_images, split.val_labels, batch_size=settings["val_batch_size"])
            test = batches(split.test_images, split.test_labels, batch_size=settings["test_batch_size"])
            trainer = Trainer(flat, train, settings["seed"], settings["precision"] == "bf16")
            _run(folder, saved, config, settings, plan, trainer, validation, test)
            finished = folder.read()
        else:
            print("this run is finished; --overwrite starts it anew")
    print(f"\n{describe_run(finished)}")
    return finished


def _run(
    folder: RunFolder,
    saved: dict[str, Any] | None,
    config: dict[str, Any],
    settings: dict[str, Any],
    plan: Plan,
    trainer: Trainer,
    validation: Batches,
    test: Batches,
) -> None:
    """Run what is left of the rounds after the checkpoint `saved`, saving as they go, and write the results."""
    checkpoints = Checkpoints(folder.path)
    if saved is None:
        folder.write_config(config)
        edge, interrupted = Deployment(plan.initial, plan.initial), None
    else:
        edge, interrupted = unpack(saved)
        where = f"round {edge.next_round}" + (f", epoch {interrupted['epoch']}" if interrupted else "")
        print(f"resuming at {where}", flush=True)
    folder.write_rounds(edge.rows)
    last_saved = time.monotonic()

    def save(edge: Deployment, training: RoundTraining | None) -> None:
        nonlocal last_saved
        if training is None or time.monotonic() - last_saved >= settings["checkpoint_interval"]:
            checkpoints.save(pack(edge, training))
            last_saved = time.monotonic()
        if training is None:
            folder.write_rounds(edge.rows)

    bars = Bars(plan.num_rounds, edge.next_round, shown=not settings["quiet"] and sys.stderr.isatty())
    try:
        edge = run_rounds(plan, trainer, validation, test, edge, bars, save, interrupted)
    finally:
        bars.close()
    trainer.flat.load(edge.served)
    folder.write_model(trainer.flat.model.state_dict())
    folder.write_plot(edge.rows, config["title"])
    folder.write_summary(
        {
            **summarize(edge.rows, trainer.flat.num_weights),
            "num_weights": trainer.flat.num_weights,
            "num_rest": trainer.flat.num_rest,
            "num_buffers": trainer.flat.num_buffers,
            "line_sha256": network_sha256(edge.line),
            "served_sha256": network_sha256(edge.served),
            "fingerprints": config["fingerprints"],
        }
    )
    checkpoints.keep_one()


def _with_data_defaults(
    settings: dict[str, Any], dataset: Dataset, device: torch.device, batch_norm: bool
) -> dict[str, Any]:
    size_init, size_subseq = check_sizes(
        settings["dataset_size_init"], settings["dataset_size_subseq"], len(dataset.train_labels), batch_norm
    )
    num_test = len(dataset.test_labels)
    val_size = settings["val_dataset_size"]
    if dataset.val_images is not None:
        if val_size is not None:
            raise UsageError(f"--val_dataset_size is {val_size}, but {dataset.name} has validation images: leave it out")
    elif val_size is None:
        val_size = default_validation_size(num_test)
    elif val_size >= num_test:
        raise UsageError(
            f"--val_dataset_size is {val_size}, which leaves none of the {num_test} test images: give less"
        )
    return {
        **settings,
        "device": device.type,
        "dataset_size_init": size_init,
        "dataset_size_subseq": size_subseq,
        "val_dataset_size": val_size,
    }


def _make_network(settings: dict[str, Any], dataset: Dataset, device: torch.device, number: int) -> FlatParameters:
    """Return the initial network of the run (0), or another one, flat and on the device."""
    model = build_model(
        settings["model"],
        dataset.input_shape,
        dataset.num_classes,
        seed=derive_seed(settings["seed"], "initial weights", number),
        hidden_sizes=settings["hidden_sizes"],
        batch_norm=settings["batch_norm"],
    )
    return FlatParameters(model.to(device))


def _make_plan(settings: dict[str, Any], flat: FlatParameters, arrival: Arrival, make_network) -> Plan:
    mode, ratio = settings["mode"], settings["updating_ratio"]
    method = METHODS[mode]
    if method.score is not None:
        score = score_function(method.score, settings["lamda"])
        update = partial(partial_update, updating_ratio=ratio, score=score, prune=mode == "pruning")
        count = num_selected(flat.num_weights, ratio)
    elif mode == "rpu":
        update = partial(random_update, updating_ratio=ratio, seed=settings["seed"])
        count = sum(round(ratio * size) for size in flat.layer_sizes)
    else:
        update, count = full_update, flat.num_weights
    if count == 0:
        flag = "pruning_ratio" if mode == "pruning" else "updating_ratio"
        raise UsageError(f"--{flag} is {ratio}, which selects none of {flat.num_weights:,} weights: give more")
    max_rounds = settings["max_rounds"] or arrival.num_rounds
    if max_rounds > arrival.num_rounds:
        raise UsageError(f"--max_rounds is {max_rounds}, but all the data is there after {arrival.num_rounds}: give at most that")
    return Plan(
        method=method,
        update=update,
        recipe=recipe_for(settings["model"], method.two_steps, settings["lr"], settings["num_epochs"]),
        arrival=arrival,
        num_rounds=max_rounds,
        updating_ratio=ratio,
        reinitialize=settings["reinitialize"],
        initial=flat.snapshot(),
        fresh=lambda number: make_network(number).vector,
    )


def _folder_name(settings: dict[str, Any], dataset: str, fingerprints: dict[str, str]) -> str:
    relevant = {name: value for name, value in settings.items() if name not in _NOT_IN_HASH}
    text = json.dumps([relevant, fingerprints], sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    parts = (dataset, settings["model"], settings["mode"], f"k{settings['updating_ratio']:g}")
    return "-".join((*parts, f"seed{settings['seed']}", digest))


def _config(
    settings: dict[str, Any],
    command: list[str],
    fingerprints: dict[str, str],
    device: torch.device,
    flat: FlatParameters,
    plan: Plan,
) -> dict[str, Any]:
    ratio = "" if plan.updating_ratio == 1 else f", k = {settings['updating_ratio']:g}"
    dataset = Path(settings["dataset"]).stem
    return {
        "title": f"{settings['mode']} on {dataset}, {settings['model']}{ratio}, seed {settings['seed']}",
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in settings.items() if k != "overwrite"},
        "recipe": vars(plan.recipe),
        "num_rounds": plan.num_rounds,
        "fingerprints": fingerprints,
        "layers": [list(entry[:3]) for entry in flat.entries],
        "device": describe_device(device),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "platform": platform.platform(),
        "git_commit": _git_commit(),
        "command": command,
    }


def _headline(
    dataset: Dataset,
    split: EvaluationSplit,
    settings: dict[str, Any],
    flat: FlatParameters,
    plan: Plan,
    device: str,
    folder: RunFolder,
) -> str:
    """Return what is printed before the first round."""
    shape = "x".join(map(str, dataset.input_shape))
    counts = [len(labels) for labels in (dataset.train_labels, split.val_labels, split.test_labels)]
    train, val, test = (f"{count:,}" for count in counts)
    rounds = f"{plan.num_rounds} round{'s' if plan.num_rounds > 1 else ''}"
    ratio = "" if plan.updating_ratio == 1 else f" k = {plan.updating_ratio:g},"
    return "\n".join(
        [
            f"{dataset.name}: {train} training, {val} validation and {test} test images of {shape}, "
            f"{dataset.num_classes} classes",
            f"{settings['model']}: {flat.num_weights:,} weights, {flat.num_rest + flat.num_buffers:,} others",
            f"{settings['mode']}: {rounds},{ratio} seed {settings['seed']}, on {device}",
            f"run folder: {folder.path}",
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


@contextlib.contextmanager
def _claimed(folder: RunFolder, overwrite: bool) -> Iterator[None]:
    """Make the run folder this process's own while the run lasts; with `overwrite` what is in it goes first."""
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        lock = open(folder.path / LOCK, "w")
    except OSError as error:
        raise UsageError(f"--output_dir: {folder.path} cannot be written ({error.strerror}): name another") from error
    with lock:
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"--output_dir: another process runs this in {folder.path}: wait for it") from error
        if overwrite:
            folder.clear()
        yield



def _show_warning(message, category, *_) -> None:
    """Print a warning as one line that does not break the progress bars."""
    if issubclass(category, UserWarning):
        tqdm.write(f"warning: {message}", file=sys.stderr)
