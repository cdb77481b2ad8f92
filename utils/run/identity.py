"""Which run a command line stands for: its settings in full, the data it sees, its folder. Found without training."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.arrival import Arrival
from data.datasets import Dataset, EvaluationSplit, split_validation
from utils.message.container import read_sign_key
from utils.run.config import folder_name
from utils.run.options import UsageError
from utils.run.plan import DATA_SETTINGS, count_rounds, read_dataset, with_data_defaults
from utils.training.device import find_device


@dataclass(frozen=True)
class Identity:
    """A run, told apart from all others."""

    settings: dict[str, Any]  # with the defaults that depend on the data
    arrival: Arrival
    split: EvaluationSplit
    fingerprints: dict[str, str]
    folder: Path


def identify(
    settings: dict[str, Any], dataset: Dataset, device: torch.device, sign_key: bytes | None
) -> Identity:
    """Return which run `settings`, as `options.parse` leaves them, stand for. Raises UsageError."""
    settings = with_data_defaults(settings, dataset, device)
    settings["signed"] = None if sign_key is None else key_fingerprint(sign_key)
    seed, sizes = settings["seed"], (settings["dataset_size_init"], settings["dataset_size_subseq"])
    arrival = Arrival(len(dataset.train_labels), *sizes, seed)
    split = split_validation(dataset, settings["val_dataset_size"], seed)
    fingerprints = {
        "dataset": dataset.fingerprint,
        "arrival": arrival.fingerprint,
        "validation_split": split.fingerprint,
    }
    folder = settings["output_dir"] / folder_name(settings, dataset.name, fingerprints)
    return Identity(settings, arrival, split, fingerprints, folder)


def find_runs(runs: Sequence[dict[str, Any]], download: bool) -> list[tuple[Path, list[int]]]:
    """Return folder and samples of every round of the runs that settings stand for; each data set is read once.

    Raises UsageError or DatasetError; without `download` the latter also if a data set is not on this machine.
    """
    datasets, found = {}, []
    for settings in runs:
        device, sign_key = find_device(settings["device"]), read_key(settings["sign_key"])
        source = tuple(settings[name] for name in DATA_SETTINGS)
        if source not in datasets:
            datasets[source] = read_dataset(settings, download)
        run = identify(settings, datasets[source], device, sign_key)
        rounds = range(count_rounds(run.settings, run.arrival))
        found.append((run.folder, [run.arrival.num_samples(number) for number in rounds]))
    return found


def key_fingerprint(sign_key: bytes) -> str:
    """Return what tells keys apart without giving them away."""
    return hashlib.blake2b(b"run", key=sign_key, digest_size=8).hexdigest()


def read_key(path: Path | None) -> bytes | None:
    """Return the key in a file, or None for no file. Raises UsageError."""
    try:
        return None if path is None else read_sign_key(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--sign_key is {path}, which cannot be used ({reason}): name a file with a key") from error
