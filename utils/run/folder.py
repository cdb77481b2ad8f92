"""The files of a run's folder: each is whole or not there. Needs torch only to write the model."""

import csv
import hashlib
import io
import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.run.flags import changes_results
from utils.run.results import COLUMNS, FURTHER_COLUMNS, accuracy_figure
from utils.system.errors import UsageError, UserError
from utils.system.figures import save_figure
from utils.system.files import append, file_digest, make_folder, remove_leftovers, write_atomic
from utils.system.locks import BusyError, locked

LOCK = ".lock"
_WRITTEN = {  # what a run reads and writes; it looks at nothing else in its folder
    "config.json", "rounds.csv", "summary.json", "accuracy.png", "model.pt", "initial.safetensors", "updates",
    "checkpoint", "checkpoint_new", "checkpoint_previous", "metrics.jsonl",
}  # fmt: skip


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, a dict a row of rounds.csv (absent values None), and summary.json."""

    folder: Path
    rows: list[dict[str, Any]]
    summary: dict[str, Any]


class ResultsError(UserError):
    """A finished run whose files do not read back."""


class RunFolder:
    """The files of one run, by name."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.rounds = path / "rounds.csv"
        self.summary = path / "summary.json"
        self.plot = path / "accuracy.png"
        self.model = path / "model.pt"
        self.metrics = path / "metrics.jsonl"
        self.initial = path / "initial.safetensors"  # what the edge is shipped with

    @property
    def finished(self) -> bool:
        return os.path.exists(self.summary)  # False, too, where nobody may look

    @contextmanager
    def claimed(self, overwrite: bool) -> Iterator[None]:
        """Make the folder this process's own while the block runs; with `overwrite` what is in it goes first.

        Raises UsageError if another process has it, or it cannot be written; a finished run need not be.
        """
        with ExitStack() as stack:
            try:
                make_folder(self.path)
                stack.enter_context(locked(self.path / LOCK))
            except BusyError as error:
                raise UsageError(f"--output_dir: another process runs this in {self.path}: wait for it") from error
            except OSError as error:
                if overwrite or not self.finished:
                    reason = f"{self.path} cannot be written ({error.strerror})"
                    raise UsageError(f"--output_dir: {reason}: name another") from error
            else:
                remove_leftovers(self.path)
                if overwrite:
                    self.clear()
            self._check_kinds()
            yield

    def _check_kinds(self) -> None:
        """Raise UsageError for a link, pipe or device where the run reads or writes: a folder can come from anybody."""
        entries = [path for path in self.path.iterdir() if path.name in _WRITTEN]
        for path in [*entries, *self.path.glob("updates/*.dpu")]:
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                kind = "a link" if stat.S_ISLNK(mode) else "no regular file"
                raise UsageError(f"--output_dir: {path} is {kind}: remove it, or start anew with --overwrite")

    def clear(self) -> None:
        """Delete every file of the run, but for the lock.

        In an order in which a kill at any moment leaves a folder that can go on: without the summary the run is not
        finished, and has no plot of other rounds; its checkpoints still fit the messages; without them it begins anew.
        """
        first = [self.summary.name, self.plot.name, "checkpoint", "checkpoint_new", "checkpoint_previous"]
        entries = [path for path in self.path.iterdir() if path.name != LOCK]
        for path in sorted(entries, key=lambda path: first.index(path.name) if path.name in first else len(first)):
            if path.is_dir() and not path.is_symlink():  # what a link leads to is not the run's
                shutil.rmtree(path)
            else:
                path.unlink()

    def write_config(self, config: dict[str, Any]) -> None:
        write_atomic(self.config, json.dumps(config, indent=2) + "\n")

    def read_config(self) -> dict[str, Any] | None:
        """Return config.json, or None if it is lost or damaged."""
        try:
            config = json.loads(self.config.read_text())
            starts = config.get("starts", [])
            whole = isinstance(config["settings"]["dataset"], str) and isinstance(starts, list)
            codes = [start.get(name) for start in starts for name in ("code", "git_commit")]
            return config if whole and all(code is None or isinstance(code, str) for code in codes) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def check_config(self, config: dict[str, Any], summary: dict[str, Any]) -> None:
        """Raise ResultsError if config.json is not what summary.json promises. Older runs promise nothing of it."""
        if summary.get("config_digest") not in (None, config_digest(config)):
            problem = "does not say what summary.json promises"
            raise ResultsError(f"{self.config} {problem}: delete it, and the same command writes it anew")

    def write_rounds(self, rows: list[dict[str, Any]]) -> None:
        """Write all rounds so far; a resumed run thereby drops what was never saved."""
        write_atomic(self.rounds, ",".join(_columns(rows)) + "\n" + "".join(map(_line, rows)))

    def append_round(self, row: dict[str, Any]) -> None:
        """Add a round to those written, at the cost of this one alone."""
        if row["round"] == 0:  # the first row says which columns there are
            self.write_rounds([row])
            return
        append(self.rounds, _line(row))

    def read_rounds(self, most: int | None = None) -> list[dict[str, Any]]:
        """Return the rows of rounds.csv, or the first `most`: what is behind them need not be whole.

        Raises ResultsError if they do not read back.
        """
        end = None if most is None else most + 1  # and the header
        return _read(self.rounds, lambda text: _parse_rounds("".join(text.splitlines(keepends=True)[:end])))

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json with the checksums of the other files; where it is, the run is finished."""
        files = [self.rounds, self.model, self.initial, *self.path.glob("updates/*.dpu")]
        files = [path for path in sorted(files) if path.is_file()]
        digests = {path.relative_to(self.path).as_posix(): file_digest(path) for path in files}
        write_atomic(self.summary, json.dumps({**summary, "files": digests}, indent=2) + "\n")

    def read(self) -> RunResult:
        """Return the finished run in this folder. Raises ResultsError if rows and summary are not those of one run."""
        rows, summary = self.read_rounds(), _read(self.summary, json.loads)
        try:
            totals = {"rounds_sent": "sent", **{name: name for name in COLUMNS if name.endswith("_bytes")}}
            if len(rows) != summary["rounds"]:
                reason = f"has {len(rows)} of {summary['rounds']} rounds"
                raise ResultsError(f"{self.rounds} {reason}: start anew with --overwrite")
            kept = all(summary[name] == sum(row[column] for row in rows) for name, column in totals.items())
            mean = sum(row["served_test_acc"] for row in rows) / len(rows)
            kept = kept and math.isclose(mean, summary["average_served_test_acc"], abs_tol=2e-6)
            digest = summary.get("files", {}).get(self.rounds.name)
        except KeyError as error:
            raise ResultsError(f"{self.summary} lacks {error}: start anew with --overwrite") from error
        except (ArithmeticError, TypeError, AttributeError) as error:
            reason = f"and {self.rounds.name} do not go together ({error})"
            raise ResultsError(f"{self.summary} {reason}: start anew with --overwrite") from error
        if not kept or (digest is not None and digest != file_digest(self.rounds)):
            raise ResultsError(f"{self.rounds} was changed since the run finished: start anew with --overwrite")
        return RunResult(self.path, rows, summary)

    def check_files(self, summary: dict[str, Any]) -> None:
        """Raise ResultsError if a file of the finished run is missing or changed. Older runs promise no files."""
        for name, digest in summary.get("files", {}).items():
            path = self.path / name
            if not path.is_file():
                raise ResultsError(f"{path} is missing: name another --output_dir, or start anew with --overwrite")
            if file_digest(path) != digest:
                raise ResultsError(f"{path} was changed since the run finished: start anew with --overwrite")

    def write_model(self, state_dict: dict[str, Any]) -> None:
        """Write the served network as a state dict that `torch.load(..., weights_only=True)` reads."""
        import torch  # here alone, so that tables can be made without it

        data = io.BytesIO()
        tensors = {name: tensor for name, tensor in state_dict.items() if isinstance(tensor, torch.Tensor)}
        torch.save({name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}, data)
        write_atomic(self.model, data.getvalue())

    def draw(self, rows: list[dict[str, Any]], title: str) -> str | None:
        """Draw accuracy.png if it is not there; returns in one line why it cannot be."""
        return None if self.plot.exists() else save_figure(self.plot, lambda: accuracy_figure(rows, title))


def config_digest(config: dict[str, Any]) -> str:
    """Return what tells the facts of a run in config.json from others: all but its starts, and where files lay."""
    settings = {name: value for name, value in config["settings"].items() if changes_results(name)}
    facts = {name: config.get(name) for name in ("recipe", "deployment_recipe", "num_rounds", "fingerprints", "layers")}
    facts |= {"settings": settings, "dataset": Path(config["settings"]["dataset"]).stem}
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def digest_of(rows: list[dict[str, Any]]) -> str:
    """Return what tells these rows of rounds.csv from any others."""
    return hashlib.blake2b("".join(map(_line, rows)).encode(), digest_size=16).hexdigest()


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    return [*COLUMNS, *(name for name in FURTHER_COLUMNS if any(name in row for row in rows))]


def _line(row: dict[str, Any]) -> str:
    return ",".join(_as_text(name, row.get(name)) for name in _columns([row])) + "\n"  # numbers alone: none is quoted


def _as_text(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "seconds":
        return f"{value:.3f}"
    return f"{value:.6f}" if name.endswith("_acc") else str(value)


def _as_value(name: str, text: str) -> Any:
    if text == "":
        return None
    return float(text) if name == "seconds" or name.endswith("_acc") else int(text)


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(path.read_text())
    except FileNotFoundError:
        raise ResultsError(f"{path} is missing: start anew with --overwrite") from None
    except OSError as error:
        raise ResultsError(f"{path} cannot be read ({error.strerror}): see to that") from error
    except (ValueError, KeyError, TypeError, csv.Error, RecursionError) as error:
        raise ResultsError(f"{path} cannot be read ({error}): start anew with --overwrite") from error


def _parse_rounds(text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text))
    names = [*COLUMNS, *(name for name in FURTHER_COLUMNS if name in (reader.fieldnames or ()))]
    rows = [{name: _as_value(name, row[name]) for name in names} for row in reader]
    if not rows:
        raise ValueError("it has no rows")
    return rows
