"""The files of a run's folder: each is whole or not there. Needs torch only to write the model."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.run.results import COLUMNS, TOP5_COLUMNS
from utils.system.errors import UsageError, UserError
from utils.system.files import remove_leftovers, write_atomic
from utils.system.locks import BusyError, locked

LOCK = ".lock"


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

    @property
    def finished(self) -> bool:
        return self.summary.exists()

    @contextmanager
    def claimed(self, overwrite: bool) -> Iterator[None]:
        """Make the folder this process's own while the block runs; with `overwrite` what is in it goes first.

        Raises UsageError if another process has it, or it cannot be written.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.path / LOCK))
            except BusyError as error:
                raise UsageError(f"--output_dir: another process runs this in {self.path}: wait for it") from error
            except OSError as error:
                reason = f"{self.path} cannot be written ({error.strerror})"
                raise UsageError(f"--output_dir: {reason}: name another") from error
            remove_leftovers(self.path)
            if overwrite:
                self.clear()
            yield

    def clear(self) -> None:
        """Delete every file of the run, but for the lock.

        In an order in which a kill at any moment leaves a folder that can go on: without the summary the run is not
        finished, its checkpoints still fit the messages; without checkpoints it begins anew.
        """
        first = [self.summary.name, "checkpoint", "checkpoint_new", "checkpoint_previous"]
        entries = [path for path in self.path.iterdir() if path.name != LOCK]
        for path in sorted(entries, key=lambda path: first.index(path.name) if path.name in first else len(first)):
            if path.is_dir() and not path.is_symlink():  # what a link leads to is not the run's
                shutil.rmtree(path)
            else:
                path.unlink()

    def write_config(self, config: dict[str, Any]) -> None:
        write_atomic(self.config, json.dumps(config, indent=2) + "\n")

    def write_rounds(self, rows: list[dict[str, Any]]) -> None:
        """Write all rounds so far; a resumed run thereby drops what was never saved."""
        text = io.StringIO()
        top5 = [name for name in TOP5_COLUMNS if any(name in row for row in rows)]
        writer = csv.DictWriter(text, [*COLUMNS, *top5], restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _as_text(name, value) for name, value in row.items()} for row in rows)
        write_atomic(self.rounds, text.getvalue())

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json, the last file of a run: where it is, the run is finished."""
        write_atomic(self.summary, json.dumps(summary, indent=2) + "\n")

    def read(self) -> RunResult:
        """Return the finished run in this folder. Raises ResultsError if its files do not read back."""
        return RunResult(self.path, _read(self.rounds, _parse_rounds), _read(self.summary, json.loads))

    def write_model(self, state_dict: dict[str, Any]) -> None:
        """Write the served network as a state dict that `torch.load(..., weights_only=True)` reads."""
        import torch  # here alone, so that tables can be made without it

        data = io.BytesIO()
        torch.save({name: tensor.detach().cpu().clone() for name, tensor in state_dict.items()}, data)
        write_atomic(self.model, data.getvalue())

    def write_plot(self, rows: list[dict[str, Any]], title: str) -> None:
        """Draw test accuracy against the number of samples: of the line and as served."""
        image = io.BytesIO()
        _accuracy_figure(rows, title).savefig(image, format="png", dpi=150)
        write_atomic(self.plot, image.getvalue())


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
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise ResultsError(f"{path} cannot be read ({error}): start anew with --overwrite") from error


def _parse_rounds(text: str) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text))
    names = [*COLUMNS, *(name for name in TOP5_COLUMNS if name in (reader.fieldnames or ()))]
    rows = [{name: _as_value(name, row[name]) for name in names} for row in reader]
    if not rows:
        raise ValueError("it has no rows")
    return rows


def _accuracy_figure(rows: list[dict[str, Any]], title: str):
    from matplotlib.figure import Figure  # slow to import, needed only here

    samples = [row["num_samples"] for row in rows]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, label, style in (
        ("test_acc", "network of the round", {"color": "0.55", "linestyle": "--", "marker": "o"}),
        ("served_test_acc", "served by the edge", {"color": "black", "linestyle": "-", "marker": "."}),
    ):
        axes.plot(samples, [100 * row[name] for row in rows], label=label, **style)
    for row in rows:
        if row["reinitialized"]:
            axes.axvline(row["num_samples"], color="0.8", linestyle=":", zorder=0)
    if any(row["reinitialized"] for row in rows):
        axes.plot([], [], color="0.8", linestyle=":", label="re-initialized")
    axes.set_xlabel("number of training samples")
    axes.set_ylabel("test accuracy (%)")
    # A title can hold a file's name, which is no formula and need not be Unicode.
    axes.set_title(title.encode(errors="replace").decode(), fontsize=10, parse_math=False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color="0.92")
    axes.legend(frameon=False, loc="lower right")
    return figure
