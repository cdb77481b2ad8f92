"""Finished runs as tables need them, read from run folders or from what `--export` made of them; no torch."""

import glob
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from utils.run.folder import ResultsError, RunFolder
from utils.training.recipes import DEFAULTS

# What tables count; older versions of the scripts left some of it empty.
_NEEDED = ("round", "num_samples", "served_test_acc", "sent", "message_bytes", "formula_bytes")
_SETTINGS = (
    "dataset dataset_size_init dataset_size_subseq val_dataset_size model hidden_sizes batch_norm mode "
    "updating_ratio lamda reinitialize lr seed"
).split()


class NotUsable(Exception):
    """A folder that holds no finished run; the message says why."""


@dataclass(frozen=True)
class Record:
    """A finished run: its settings, its rounds (a dict a row of rounds.csv) and its summary."""

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def settings(self) -> dict[str, Any]:
        return self.config["settings"]

    @property
    def mode(self) -> str:
        return self.settings["mode"]

    @property
    def seed(self) -> int:
        return self.settings["seed"]

    @property
    def dataset(self) -> str:
        """The data set's name; a path's last part without its suffix."""
        return Path(self.settings["dataset"]).stem

    @property
    def fingerprints(self) -> dict[str, str]:
        return self.summary["fingerprints"]

    @cached_property
    def steps(self) -> int:
        """Training steps a round: only methods with two of them rewind or prune in between.

        The last round tells: the first one can be a deployment, with steps of its own.
        """
        return 2 if self.rows[-1]["rewound_val_acc"] is not None else 1

    @property
    def num_epochs(self) -> int:
        """Epochs of one step."""
        return self.config["recipe"]["num_epochs"]

    @property
    def share_of_recipe(self) -> float:
        """Epochs, in units of those that the paper's recipe has for this model and number of steps."""
        two, one = DEFAULTS[self.settings["model"]][1:3]
        return self.num_epochs / (two if self.steps == 2 else one)

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    def total(self, name: str) -> int:
        return sum(self.column(name))


def find_run_folders(paths: Sequence[str]) -> list[Path]:
    """Return the run folders that `paths` (folders, folders of folders, glob patterns) name, each once.

    Raises NotUsable for a path that is not there or holds no run folder.
    """
    found = {}
    for path in paths:
        # A shell expands patterns; this is for quoted ones.
        places = [path] if os.path.exists(path) or not glob.has_magic(path) else sorted(glob.glob(path))
        if not places or not os.path.exists(places[0]):
            raise NotUsable(f"{path}: no such folder")
        folders = [folder for place in places for folder in _search(place)]
        if not folders:
            raise NotUsable(f"{path}: no run folder here; a run folder holds config.json and rounds.csv")
        found.update((folder.resolve(), folder) for folder in folders)
    return list(found.values())


def read_record(folder: Path) -> Record:
    """Read a finished run. Raises NotUsable if it is not finished, damaged, or lacks what tables need."""
    run = RunFolder(folder)
    try:
        config = json.loads(run.config.read_text())
        total = config["num_rounds"]
    except FileNotFoundError:
        raise NotUsable("it has no config.json, so its settings are not known") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotUsable(f"config.json cannot be read ({error})") from error
    if not run.finished:
        raise NotUsable(f"not finished: {rounds_done(folder)} of {total} rounds")
    try:
        result = run.read()
        record = Record(folder, config, result.rows, result.summary)
        _check(record)
    except ResultsError as error:
        raise NotUsable(str(error.__cause__) + f" in {folder}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise NotUsable(f"its files do not serve ({error})") from error
    return record


def rounds_done(folder: Path) -> int:
    """Return the number of rounds in the rounds.csv of a run, finished or under way."""
    try:
        with open(folder / "rounds.csv", "rb") as file:
            return max(0, sum(1 for _ in file) - 1)
    except OSError:
        return 0


def _search(place: str) -> list[Path]:
    folders = []
    for path, inside, files in os.walk(place):
        inside.sort()
        if {"config.json", "rounds.csv"} & set(files):
            folders.append(Path(path))
            inside.clear()
    return folders


def _check(record: Record) -> None:
    """Touch everything that tables use, so that no later code meets a half-written file."""
    for name in _NEEDED:
        for row in record.rows:
            if row[name] is None or not math.isfinite(row[name]):
                raise ValueError(f"rounds.csv has no {name} in round {row['round']}")
    if len(record.rows) != record.summary["rounds"]:
        raise ValueError(f"rounds.csv has {len(record.rows)} of {record.summary['rounds']} rounds")
    lacking = [name for name in _SETTINGS if name not in record.settings]
    lacking += [name for name in ("dataset", "arrival", "validation_split") if name not in record.fingerprints]
    if lacking:
        raise ValueError(f"no {', '.join(lacking)}")
    if not isinstance(record.seed, int) or not record.share_of_recipe > 0 or not record.dataset:
        raise ValueError("no seed, epochs or data set")
