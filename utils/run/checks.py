"""From the flags that were given to settings: defaults, and flags that contradict each other. Needs no torch."""

import math
import os
from pathlib import Path
from typing import Any

from utils import reinit
from utils.modes import MODES, PRUNING
from utils.run.settings import Settings
from utils.system.errors import MachineError, UsageError
from utils.system.references import no_file_for, split_reference
from utils.training.recipes import DEFAULTS, defaults_of, overrides_of

IMAGE_SIZE = 224  # of streamed images
# How a network comes to the edge, in round 0: "partial", by an update of the initial network like all others (the
# paper's multi-round experiment), or "full", by all weights (as in its single-round experiment). A sparse
# deployment trains all weights, keeps the largest, sets the others to zero, and trains on; from then on the network
# consists of the weights that were kept, whatever values they take.
DEPLOYMENTS = ("partial", "full")
_ONE_SAMPLE = "--dataset_size_init is 1: BatchNorm needs at least 2 samples"
MOST_WORKERS = 16  # by default; more than a GPU can use, or a disk serve


def settle(flags: dict[str, Any]) -> Settings:
    """Return the settings that `flags`, a script's parsed command line, stand for.

    Raises UsageError, in one line, for what contradicts itself or has no effect.
    """
    settings = {"rewind_fixing_ratio": 1.0, "deploy": "partial", "signed": None, "criterion": None, **flags}
    if Path(settings["dataset"]).name in ("", ".."):  # as of `.`: the folder's own name is to be shown
        settings["dataset"] = os.path.abspath(settings["dataset"])
    _check_model(settings)
    _check_criterion(settings)
    _check_ratio(settings)
    if settings.get("lamda") is None:
        settings["lamda"] = 0.5 if settings["mode"] == "dpu" else None
    elif settings["mode"] != "dpu":
        raise UsageError(f"--lamda is for --mode dpu; {settings['mode']} ignores it: leave it out")
    check_deployment(settings, flags)
    try:
        start_again = reinit.choose(flags)
    except ValueError as error:
        raise UsageError(str(error)) from error
    settings.update(vars(start_again), reinitialize=start_again.reinit_strategy != "never")
    _check_epochs(settings)
    _check_streaming(settings)
    for name in ("without_reinit", "reinit", "pruning_ratio"):
        settings.pop(name, None)
    settled = Settings(**settings)
    if settled.has_batch_norm:
        check_batch_norm(settled)
    check_folder("--dataset_dir", settled.dataset_dir)
    check_folder("--output_dir", settled.output_dir)
    return settled


def _check_model(settings: dict[str, Any]) -> None:
    model = settings["model"]
    if not settings.pop("model_given", False) and split_reference(model):
        _check_file("model", model)
    if model not in DEFAULTS and settings["width"] is not None:
        raise UsageError(f"--width is for networks of this project, not {model}: leave it out")
    if model != "mlp":
        for name in ("hidden_sizes", "batch_norm"):
            if settings[name] not in (None, False):
                raise UsageError(f"--{name} is for --model mlp, not {model}: leave it out")
    elif settings["width"] is not None:
        raise UsageError("--width is for convolutional networks, not mlp: leave it out, or give --hidden_sizes")
    settings["width"] = settings["width"] or 1.0
    sizes = settings["hidden_sizes"]
    settings["hidden_sizes"] = (512, 512) if sizes is None else tuple(sizes)
    settings |= overrides_of(model, *(settings[name] for name in ("optimizer", "schedule", "weight_decay")))


def _check_file(flag: str, reference: str) -> None:
    if problem := no_file_for(reference):
        raise MachineError(f"--{flag} is {reference}, but {problem}")


def _check_criterion(settings: dict[str, Any]) -> None:
    criterion, mode = settings["criterion"], settings["mode"]
    if criterion is None:
        if mode == "criterion":
            raise UsageError("--mode is criterion, but there is none: give --criterion FILE.py:NAME")
        return
    if mode not in ("dpu", "criterion"):
        raise UsageError(f"--criterion and --mode {mode} both say how weights are scored: leave one out")
    _check_file("criterion", criterion)
    settings["mode"] = "criterion"


def _check_ratio(settings: dict[str, Any]) -> None:
    if settings["value_bits"] == "auto" and not (settings["byte_budget"] and MODES[settings["mode"]].two_steps):
        raise UsageError("--value_bits is auto, which is for --byte_budget and methods of two steps: give a number")
    if settings["byte_budget"] is not None:
        _check_budget(settings)
        return
    default = defaults_of(settings["model"])[3]
    if "pruning_ratio" not in settings:
        settings["updating_ratio"] = settings["updating_ratio"] or default
        return
    mode, ratio = settings["mode"], settings["pruning_ratio"]
    prunes = MODES[mode].prunes
    if ratio is not None and not prunes:
        raise UsageError(f"--pruning_ratio is for --mode {PRUNING}, not {mode}: leave it out")
    settings["updating_ratio"] = (ratio or default) if prunes else 1.0


def _check_budget(settings: dict[str, Any]) -> None:
    mode = settings["mode"]
    if MODES[mode].kind == "dense":
        raise UsageError(f"--byte_budget is for partial updates, not --mode {mode}: leave it out")
    for name in ("updating_ratio", "pruning_ratio"):
        if settings.get(name) is not None:
            raise UsageError(f"--byte_budget and --{name} both say how much is sent: leave one out")
    if settings["deploy"] == "full" or settings["deploy_sparsity"]:
        raise UsageError("--byte_budget is for every message, a deployment's, too: leave it out, or --deploy...")
    settings["updating_ratio"] = 1.0  # as far as the bytes go


def _check_epochs(settings: dict[str, Any]) -> None:
    mode = MODES[settings["mode"]]
    if settings["total_epochs"] is not None and settings["num_epochs"] is not None:
        raise UsageError("--total_epochs and --num_epochs both say how long a round trains: leave one out")
    if settings["rewind_fixing_ratio"] != 1 and not mode.two_steps:
        raise UsageError(f"--rewind_fixing_ratio is not for --mode {settings['mode']}: leave it out")
    fully = settings["deploy"] == "full" or settings["deploy_sparsity"] or mode.kind == "dense"
    if settings["deploy_epochs"] is not None and not fully:
        raise UsageError("--deploy_epochs is for --deploy full or --deploy_sparsity: leave it out, or give one of them")
    name = "deploy_epochs" if settings["deploy_epochs"] is not None else "total_epochs"
    if settings["deploy_sparsity"] and settings[name] == 1:
        raise UsageError(f"--{name} is 1, but a sparse deployment has 2 steps: give at least that")


def _check_streaming(settings: dict[str, Any]) -> None:
    dataset = settings["dataset"]
    if settings["stream"] and dataset in ("mnist", "cifar10", "cifar100", "digits"):
        raise UsageError(f"--stream is for a folder of images, not {dataset}: leave it out")
    settings["stream"] = settings["stream"] or dataset == "imagenet"
    if settings["stream"]:
        settings["image_size"] = settings["image_size"] or IMAGE_SIZE
        if settings["num_workers"] is None:
            settings["num_workers"] = _default_workers()
        return
    for name in ("image_size", "skip_broken", "num_workers"):
        if settings[name] not in (None, False):
            raise UsageError(f"--{name} is for streamed images (--dataset imagenet, or --stream): leave it out")
    settings["num_workers"] = settings["num_workers"] or 0


def _default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")  # of this run on this machine, as torchrun says
    return max(1, min(MOST_WORKERS, cores // (max(1, int(processes)) if processes.isdecimal() else 1)))


def check_deployment(settings: dict[str, Any], flags: dict[str, Any]) -> None:
    """Choose `deploy`, where the script has it. Raises UsageError for flags that contradict one another."""
    sparsity, how = flags["deploy_sparsity"], flags.get("deploy")
    if sparsity and MODES[flags["mode"]].prunes:
        chosen = f"--mode {flags['mode']}, which chooses its own nonzero weights in every round"
        raise UsageError(f"--deploy_sparsity is not for {chosen}: leave it out")
    if sparsity and how == "partial":
        whole = "a sparse network is trained and sent as a whole"
        raise UsageError(f"--deploy is partial, but --deploy_sparsity is {sparsity:g}, and {whole}: leave one out")
    if "deploy" in flags:
        settings["deploy"] = how or ("full" if sparsity else "partial")


def num_deployed(num_weights: int, sparsity: float) -> int:
    """Return how many weights a network keeps of which `int(sparsity * I)` are pruned."""
    return num_weights - int(sparsity * num_weights)


def check_folder(name: str, path: Path) -> None:
    """Raise UsageError if `path` cannot be a folder because it, or a part of it, is a file."""
    for part in (path, *path.parents):
        if os.path.exists(part):  # unlike Path.exists, False for what may not be looked at
            if not os.path.isdir(part):
                raise MachineError(f"{name} is {path}, but {part} is a file: name a folder")
            return


def check_sizes(settings: Settings, num_train: int) -> dict[str, int]:
    """Return the settings that are sample counts, of round 0 and of each further one, defaults filled in.

    Raises UsageError for a size above the training set, or too small for BatchNorm.
    """
    least = 2 if settings.has_batch_norm else 1
    default = min(1000, max(math.ceil(num_train / 6), least), num_train)
    sizes = {name: getattr(settings, name) or default for name in ("dataset_size_init", "dataset_size_subseq")}
    for name, size in sizes.items():
        if size > num_train:
            raise UsageError(f"--{name} is {size}, but there are {num_train} training images: give at most that")
    if sizes["dataset_size_init"] < least:
        raise UsageError(_ONE_SAMPLE)
    return sizes


def check_batch_norm(settings: Settings) -> None:
    """Raise UsageError for batches of one sample, as far as they are known: BatchNorm cannot train on them."""
    if settings.train_batch_size < 2:
        raise UsageError("--train_batch_size is 1: BatchNorm needs batches of 2 or more")
    if settings.dataset_size_init == 1:
        raise UsageError(_ONE_SAMPLE)
