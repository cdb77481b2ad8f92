"""Finished runs as tables need them, found and read in run folders or in what `--export` made of them; no torch."""

import glob
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from utils.modes import MODES
from utils.rewinding import num_steps
from utils.run.folder import ResultsError, RunFolder
from utils.system.files import read_regular
from utils.system.own_code import LAYOUT
from utils.system.terminal import printable
from utils.table.checks import check_run, is_whole
from utils.training.recipes import defaults_of

_RUN_FILES = {"config.json", "rounds.csv"}  # a folder with one of them is a run's
_MOST_BYTES = {"config.json": 4 << 20, "rounds.csv": 16 << 20, "summary.json": 4 << 20}  # for 100,000 rounds


class NotUsable(Exception):
    """What holds no finished run, or not all of it; the message says why in one line."""

    def __init__(self, reason: str):
        super().__init__(printable(reason))


@dataclass(frozen=True)
class Record:
    """A finished run: its settings, its rounds (a dict a row of rounds.csv) and its summary."""

    folder: Path
    config: dict[str, Any]
    rows: list[dict[str, Any]]
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        return folder_label(self.folder)

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
        return printable(Path(self.settings["dataset"]).stem)

    @property
    def fingerprints(self) -> dict[str, str]:
        return self.summary["fingerprints"]

    @property
    def commits(self) -> set[str | None]:
        """The commits that the run was started at, None for one that is not known."""
        starts = self.config.get("starts") or [self.config]
        return {start.get("git_commit") for start in starts}

    @property
    def codes(self) -> set[str] | None:
        """Which code of this project the run was made by, at each of its starts; None in old runs."""
        return {str(code).partition("+")[0] for code in self.summary["code"]} if self.summary.get("code") else None

    @property
    def own_sources(self) -> tuple[tuple[str, str], ...]:
        """The user's files that the run was made by, with their digests."""
        own = self.config.get("own_sources")
        files = own.items() if isinstance(own, dict) else ()
        return tuple(sorted((str(name), str(digest)) for name, digest in files if name != LAYOUT))

    @property
    def ratio(self) -> str:
        """The updating ratio, or "-" where a byte budget decides on it."""
        if self.settings.get("byte_budget"):
            return "-"
        return plain_number(self.settings["updating_ratio"])

    @property
    def lossless(self) -> bool:
        """Whether its values are sent as they are."""
        return self.settings.get("value_bits", 32) == 32

    @property
    def num_values(self) -> int | None:
        """Weights and others of the network; None in old runs."""
        counts = [self.summary.get(name) for name in ("num_weights", "num_rest", "num_buffers")]
        return None if None in counts else sum(counts)

    @cached_property
    def steps(self) -> int:
        """Training steps of a round."""
        num_weights = 1
        if self.settings.get("rewind_fixing_ratio", 1.0) != 1:  # one rewinding is one; old runs do not tell the number
            num_weights = self.summary.get("num_deployed") or self.summary["num_weights"]
        return num_steps(MODES[self.mode].two_steps, num_weights, self.settings)

    @property
    def epochs(self) -> int:
        """Epochs of a round, in all its steps."""
        return self.settings.get("total_epochs") or self.steps * self.config["recipe"]["num_epochs"]

    @property
    def share_of_recipe(self) -> float:
        """Epochs of a step, in units of those that the paper's recipe has for this model and number of steps."""
        two, one = defaults_of(self.settings["model"])[1:3]
        return self.epochs / self.steps / (two if self.steps > 1 else one)

    def column(self, name: str) -> list[Any]:
        return [row[name] for row in self.rows]

    def total(self, name: str) -> int:
        return sum(self.column(name))


def plain_number(value: float) -> str:
    """Return a number in six digits, or in as many as tell it from all others."""
    text = f"{value:g}"
    return text if float(text) == value else repr(value)


def folder_label(folder: Path) -> str:
    """Return what a run folder is called in tables."""
    return printable(folder.resolve().name)


def find_run_folders(paths: Sequence[str], onerror: Callable[[OSError], None] | None = None) -> list[Path]:
    """Return the run folders that `paths` (folders, folders of folders, glob patterns) name, each once.

    `onerror` is called for a folder in them that cannot be listed. Raises NotUsable for a path that is not there or
    holds no run folder. Links are followed only if a run folder is behind them: others may lead anywhere, in circles
    even.
    """
    found = {}
    for path in paths:
        # A shell expands patterns; this is for quoted ones.
        places = [path] if os.path.lexists(path) or not glob.has_magic(path) else sorted(glob.glob(path))
        if not places or not os.path.lexists(places[0]):
            raise NotUsable(f"{path}: no such folder")
        errors: list[OSError] = []
        folders = [folder for place in places for folder in _search(place, errors.append)]
        if not folders:
            reason = "no run folder here; a run folder holds config.json and rounds.csv"
            raise NotUsable(f"{path}: {f'cannot be listed ({errors[0].strerror})' if errors else reason}")
        for error in errors if onerror else ():
            onerror(error)
        found.update((folder.resolve(), folder) for folder in folders)
    return list(found.values())


def _search(place: str, onerror: Callable[[OSError], None]) -> list[Path]:
    folders, waiting = [], [place]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(path) as entries:
                entries = sorted(entries, key=lambda entry: entry.name, reverse=True)
            if _RUN_FILES & {entry.name for entry in entries}:
                folders.append(Path(path))
                continue
            waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False) or _is_linked_run(entry)]
        except NotADirectoryError:
            pass
        except OSError as error:
            onerror(error)
    return folders


def _is_linked_run(entry: os.DirEntry) -> bool:
    return entry.is_symlink() and any(os.path.lexists(os.path.join(entry.path, name)) for name in _RUN_FILES)


def read_record(folder: Path) -> Record:
    """Read a finished run. Raises NotUsable if it is not finished, damaged, or lacks what tables need."""
    run = RunFolder(folder)
    try:
        config = json.loads(read_bytes(run.config))
        total = config["num_rounds"]
    except FileNotFoundError:
        raise NotUsable("it has no config.json, so its settings are not known") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotUsable(f"config.json cannot be read ({_reason(error)})") from error
    if not run.finished:
        raise NotUsable(f"not finished: {rounds_done(folder)} of {total if is_whole(total) else '?'} rounds")
    try:
        for path in (run.rounds, run.summary):
            read_bytes(path)  # so that what follows meets no pipe and no gigabytes
        result = run.read()
        check_run(config, result.rows, result.summary)
        run.check_config(config, result.summary)
    except ResultsError as error:
        reason = str(error).removesuffix(": start anew with --overwrite")
        raise NotUsable(reason.replace(f"{folder}{os.sep}", "")) from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise NotUsable(f"its files do not serve ({_reason(error)})") from error
    return Record(folder, config, result.rows, result.summary)


def _reason(error: Exception) -> str:
    """Return what an error says, without the folder, which stands before it."""
    if isinstance(error, OSError) and error.filename:
        return f"{os.path.basename(error.filename)}: {error.strerror}"
    return str(error)


def read_bytes(path: Path) -> bytes:
    """Return what is in a file of a run folder. Raises OSError, or ValueError if it is none or too long for one."""
    return read_regular(path, _MOST_BYTES[path.name])


def rounds_done(folder: Path) -> int:
    """Return the number of rounds in the rounds.csv of a run, finished or under way."""
    try:
        return max(0, read_bytes(folder / "rounds.csv").count(b"\n") - 1)
    except (OSError, ValueError):
        return 0
