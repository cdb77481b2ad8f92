"""Which run settings stand for: completed by what the data says, the data it sees, its folder. Trains nothing."""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from data.arrival import Arrival
from data.datasets import Dataset, EvaluationSplit, Streaming, default_validation_size, load_dataset, split_validation
from utils.message.container import key_fingerprint, read_sign_key
from utils.modes import MODES
from utils.run.checks import check_sizes, settle
from utils.run.flags import FLAGS, changes_results
from utils.run.plan import count_rounds, recipe_of
from utils.run.settings import Settings
from utils.system.errors import MachineError, UsageError
from utils.system.files import short_name
from utils.system.references import label_of, name_in
from utils.training.device import find_device

# Fully connected networks of fewer weights train on one thread: a second gains a fifth or less, and is lost as soon
# as another process wants its core (`docs/performance.md`).
_ONE_THREAD_BELOW = 4_000_000
# Settings that a folder's name has anyway, and those that say where data lies or which run of a sweep this is.
_SHOWN_ANYWAY = {
    "dataset", "dataset_dir", "stream", "model", "mode", "criterion", "updating_ratio", "byte_budget", "seed",
    "device", "output_dir", "checkpoint_interval",
}  # fmt: skip
_SHORT = {  # than the flag, as names stand in lines of 80 columns
    "dataset_size_init": "init", "dataset_size_subseq": "subseq", "max_rounds": "rounds", "num_epochs": "epochs",
    "hidden_sizes": "hidden", "train_batch_size": "batch", "rewind_fixing_ratio": "fixing", "value_bits": "bits",
    "deploy_sparsity": "sparsity", "reinit_strategy": "reinit",
}  # fmt: skip
_MOST_SHOWN = 100  # characters


@dataclass(frozen=True)
class Identity:
    """A run, told apart from all others."""

    settings: Settings  # with the defaults that depend on the data
    arrival: Arrival
    split: EvaluationSplit
    fingerprints: dict[str, str]
    folder: Path


def identify(
    settings: Settings, dataset: Dataset, device: torch.device, sign_key: bytes | None,
    further: dict[str, str] | None = None,
) -> Identity:  # fmt: skip
    """Return which run `settings` stand for; `further` fingerprints tell it apart, too. Raises UsageError."""
    signed = None if sign_key is None else key_fingerprint(sign_key)
    settings = replace(_with_data_defaults(settings, dataset, device), signed=signed)
    sizes = settings.dataset_size_init, settings.dataset_size_subseq
    arrival = Arrival(len(dataset.train_labels), *sizes, settings.seed)
    split = split_validation(dataset, settings.val_dataset_size, settings.seed)
    parts = {"dataset": dataset, "arrival": arrival, "validation_split": split}
    fingerprints = {name: part.fingerprint for name, part in parts.items()} | (further or {})
    shown = _shown(settings, _usual(settings, dataset, device))
    folder = settings.output_dir / folder_name(settings, dataset.name, fingerprints, shown)
    older = settings.output_dir / folder_name(settings, dataset.name, fingerprints)  # before names showed so much
    folder = older if os.path.isdir(older) and not os.path.isdir(folder) else folder
    return Identity(settings, arrival, split, fingerprints, folder)


def find_runs(runs: Sequence[Settings], download: bool) -> list[tuple[Path, list[int]]]:
    """Return folder and samples of every round of the runs that settings stand for; each data set is read once.

    Raises UsageError or DatasetError; without `download` the latter also if a data set is not on this machine.
    """
    datasets, found, codes = {}, [], {}
    for settings in runs:
        device, sign_key = find_device(settings.device), read_key(settings.sign_key)
        source = settings.dataset, settings.dataset_dir, settings.stream, settings.image_size, settings.skip_broken
        if source not in datasets:
            datasets[source] = read_dataset(settings, download)
        run = identify(settings, datasets[source], device, sign_key)
        code = tuple(os.path.abspath(name) for name in (settings.model, settings.criterion or ""))
        if codes.setdefault(run.folder, code) != code:
            both = " and ".join(sorted({*codes[run.folder]} ^ {*code}))
            raise UsageError(f"{both} would have the same run folder, {run.folder}: rename one of them")
        rounds = range(count_rounds(run.settings, run.arrival))
        found.append((run.folder, [run.arrival.num_samples(number) for number in rounds]))
    return found


def folder_name(settings: Settings, dataset: str, fingerprints: dict[str, str], shown: Sequence[str] = ()) -> str:
    """Return `DATASET-MODEL-MODE-kK-SHOWN-seedS-HASH`; the hash is over all that can change a result."""
    relevant = {
        name: value
        for name, value in vars(settings).items()
        if changes_results(name) and not (name in FLAGS and value in FLAGS[name].before)
    }
    relevant["model"] = label_of(settings.model)  # and its code is known apart: see utils/run/results.py
    if settings.criterion is not None:
        relevant["criterion"] = label_of(settings.criterion)
    if settings.model == "vgg":
        relevant["vgg"] = 2  # since its convolutions have biases; runs of the network before keep their folders
    text = json.dumps([relevant, fingerprints], sort_keys=True)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    much = f"k{settings.updating_ratio:g}" if settings.byte_budget is None else f"{settings.byte_budget}bytes"
    names = name_in(settings.model), name_in(settings.criterion or settings.mode)
    parts = (dataset, *names, much, *shown, f"seed{settings.seed}", digest)
    name = "-".join(parts)
    return name if len(os.fsencode(name)) <= 255 else f"{short_name(name)}-{digest}"


def _usual(settings: Settings, dataset: Dataset, device: torch.device) -> Settings:
    """Return the settings of a run of the same method, network and data that is given no further flags."""
    script = MODES[settings.mode].script
    known = [flag for flag in FLAGS.values() if script in flag.scripts]
    flags = {flag.name: False if flag.kind is bool else flag.default for flag in known}
    flags |= {name: getattr(settings, name) for name in _SHOWN_ANYWAY if name in flags and name != "updating_ratio"}
    return _with_data_defaults(settle({**flags, "model_given": True}), dataset, device)  # it is known to be there


def _shown(settings: Settings, usual: Settings) -> list[str]:
    """Return in words what a run's folder shows: the flags that are not as usual, a method's first."""
    words: list[str] = []
    for group in ("method", "messages", "training", "model", "data", "machine"):
        for name in (flag.name for flag in FLAGS.values() if flag.group == group and flag.changes_results):
            value = getattr(settings, name, None)
            known = value is None or value == getattr(usual, name) or (name == "deploy" and settings.deploy_sparsity)
            if name not in _SHOWN_ANYWAY and not known:
                words.append(_in_a_name(_SHORT.get(name, name), value))
    while len("-".join(words)) > _MOST_SHOWN:
        words.pop()
    return words


def _in_a_name(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"{name}_off"
    if isinstance(value, float):
        return f"{name}{value:g}"
    if isinstance(value, tuple):
        return name + ("x".join(map(str, value)) or "_none")
    if isinstance(value, int):
        return f"{name}{value}"
    return f"{name}_" + re.sub(r"[^\w.]+", "_", Path(value).name)


def read_dataset(settings: Settings, download: bool = True, **watch: Callable) -> Dataset:
    """Return the data set that `settings` name; `watch`, where it is given, sees image files being checked."""
    streaming = None
    if settings.stream:
        streaming = Streaming(settings.image_size, settings.num_workers, settings.skip_broken, **watch)
    return load_dataset(settings.dataset, settings.dataset_dir, download, streaming)


def _with_data_defaults(settings: Settings, dataset: Dataset, device: torch.device) -> Settings:
    """Return `settings` with the sizes that follow from the data filled in, and the kind of device."""
    sizes = check_sizes(settings, len(dataset.train_labels))
    num_test = len(dataset.test_labels)
    val_size = settings.val_dataset_size
    if dataset.val_images is not None:
        if val_size is not None:
            reason = f"{dataset.name} has validation images"
            raise UsageError(f"--val_dataset_size is {val_size}, but {reason}: leave it out")
    elif val_size is None:
        val_size = default_validation_size(num_test)
    elif val_size >= num_test:
        reason = f"which leaves none of the {num_test} test images"
        raise UsageError(f"--val_dataset_size is {val_size}, {reason}: give less")
    usual = dataset.streamed or dataset.name in ("cifar10", "cifar100")
    recipe = recipe_of(settings)
    # Convolutions of large batches leave the processor's cache: slower there, and half a gigabyte for VGG.
    evaluated_at_once = 128 if device.type == "cpu" and settings.model != "mlp" else 500
    return replace(
        settings,
        augment={"auto": usual, "on": True, "off": False}[settings.augment],
        lr=recipe.lr,
        num_epochs=None if settings.total_epochs else recipe.num_epochs,
        device=device.type,
        **sizes,
        val_dataset_size=val_size,
        val_batch_size=settings.val_batch_size or evaluated_at_once,
        test_batch_size=settings.test_batch_size or evaluated_at_once,
        threads=settings.threads or _default_threads(settings, dataset, device),
    )


def _default_threads(settings: Settings, dataset: Dataset, device: torch.device) -> int | None:
    """Return 1 for a small network on the CPU, None for PyTorch's choice: never by how busy the machine is."""
    sizes = (math.prod(dataset.input_shape), *settings.hidden_sizes, dataset.num_classes)
    small = settings.model == "mlp" and sum(a * b for a, b in zip(sizes, sizes[1:], strict=False)) < _ONE_THREAD_BELOW
    return 1 if small and device.type == "cpu" else None


def read_key(path: Path | None) -> bytes | None:
    """Return the key in a file, or None for no file. Raises MachineError."""
    try:
        return None if path is None else read_sign_key(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise MachineError(f"--sign_key is {path}, which cannot be used ({reason}): name a file with a key") from error
