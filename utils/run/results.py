"""The run folder: config.json, rounds.csv, summary.json and accuracy.png, and what is printed at the end."""

import csv
import io
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.system.files import write_atomic
from utils.system.terminal import aligned

COLUMNS = (
    "round num_samples reinitialized start_val_acc full_val_acc rewound_val_acc val_acc test_acc served_val_acc "
    "served_test_acc updated_weights sent message_bytes index_bytes value_bytes rest_bytes header_bytes "
    "formula_bytes seconds"
).split()

TOP5_COLUMNS = ("top5_test_acc", "served_top5_test_acc")  # at the end, where there are more than ten classes

LOCK = ".lock"


def binary_entropy(p: float) -> float:
    """Return the entropy, in bits, of a coin that shows heads with probability `p`."""
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def formula_bytes(updating_ratio: float, num_weights: int) -> int:
    """Return the paper's analytic cost of one update, `(32*k*I + H(k)*I) / 8` bytes, rounded.

    32 bits for each updated weight and the entropy H(k), in bits, of the mask for every weight; weights only.
    """
    k = updating_ratio
    return round((32 * k + binary_entropy(k)) * num_weights / 8)


@dataclass(frozen=True)
class RunResult:
    """A finished run: its folder, a dict a row of rounds.csv (absent values None), and summary.json."""

    folder: Path
    rows: list[dict[str, Any]]
    summary: dict[str, Any]


class ResultsError(ValueError):
    """A finished run whose files do not read back."""


class RunFolder:
    """The files of one run; each is whole or not there."""

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

    def clear(self) -> None:
        """Delete every file of the run, but for the lock."""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
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


def summarize(rows: list[dict[str, Any]], num_weights: int, num_values: int) -> dict[str, Any]:
    """Return the averages over all rounds, the last round and the totals.

    num_values  all values of the network: weights, the rest and buffers. Full updating would send each of them,
                or by the paper's formula each weight, with 32 bits in every round.
    """

    def mean(name: str) -> float:
        return sum(row[name] for row in rows) / len(rows)

    def total(name: str) -> int:
        return sum(row[name] for row in rows)

    return {
        "rounds": len(rows),
        "average_test_acc": mean("test_acc"),
        "average_served_test_acc": mean("served_test_acc"),
        "final_test_acc": rows[-1]["test_acc"],
        "final_served_test_acc": rows[-1]["served_test_acc"],
        **_summarize_top5(rows),
        "rounds_sent": total("sent"),
        "rounds_nothing_sent": [row["round"] for row in rows if not row["sent"]],
        **{name: total(name) for name in COLUMNS if name.endswith("_bytes")},
        "ratio_to_full_updating": total("message_bytes") / (4 * num_values * len(rows)),
        "formula_ratio_to_full_updating": total("formula_bytes") / (formula_bytes(1.0, num_weights) * len(rows)),
        "seconds": sum(row["seconds"] for row in rows),
    }


def _summarize_top5(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return average and final top-5 accuracies if every round has them: a run of an older version began without."""
    if any(row.get(name) is None for row in rows for name in TOP5_COLUMNS):
        return {}
    averages = {f"average_{name}": sum(row[name] for row in rows) / len(rows) for name in TOP5_COLUMNS}
    return {**averages, **{f"final_{name}": rows[-1][name] for name in TOP5_COLUMNS}}


def describe_round(row: dict[str, Any], num_rounds: int) -> str:
    """Return the line that is printed when a round is done."""
    sent = "nothing sent"
    if row["sent"]:
        sent = f"{row['updated_weights']:,} weights in {row['message_bytes'] / 1000:,.1f} kB"
    notes = ", re-initialized" if row["reinitialized"] else ""
    if row["served_val_acc"] != row["val_acc"] or row["served_test_acc"] != row["test_acc"]:
        notes += f", line {100 * row['test_acc']:.2f} %"
    return (
        f"round {row['round']:>{len(str(num_rounds - 1))}} of 0-{num_rounds - 1}  {row['num_samples']:>7,} samples  "
        f"test {100 * row['served_test_acc']:5.2f} %  {sent}{notes}  ({row['seconds']:.1f} s)"
    )


def describe_run(result: RunResult) -> str:
    """Return the table that a script prints at the end: all rounds, the averages and the files."""
    header = "round,samples,reinit,val %,test %,served %,weights,sent kB,formula kB,seconds".split(",")
    has_top5 = "served_top5_test_acc" in result.rows[0]
    if has_top5:
        header.insert(6, "top-5 %")
    lines = [
        (
            str(row["round"]),
            f"{row['num_samples']:,}",
            "yes" if row["reinitialized"] else "",
            f"{100 * row['val_acc']:.2f}",
            f"{100 * row['test_acc']:.2f}",
            f"{100 * row['served_test_acc']:.2f}",
            *([_percent(row["served_top5_test_acc"])] if has_top5 else []),
            f"{row['updated_weights']:,}" if row["sent"] else "-",
            f"{row['message_bytes'] / 1000:,.1f}" if row["sent"] else "-",
            f"{row['formula_bytes'] / 1000:,.1f}" if row["sent"] else "-",
            f"{row['seconds']:.1f}",
        )
        for row in result.rows
    ]
    s = result.summary
    return "\n".join(
        [
            aligned(header, lines),
            "",
            f"average test accuracy   {100 * s['average_test_acc']:.2f} %, "
            f"as served {100 * s['average_served_test_acc']:.2f} %",
            *_describe_top5(s),
            f"updates sent            in {s['rounds_sent']} of {s['rounds']} rounds",
            f"bytes sent, all counted {s['message_bytes']:,}: "
            f"{s['ratio_to_full_updating']:.4f} of sending the whole network in every round",
            f"by the paper's formula  {s['formula_bytes']:,}: "
            f"{s['formula_ratio_to_full_updating']:.4f} (weights and their mask only)",
            f"run folder              {result.folder}",
            "                        rounds.csv, summary.json, config.json, accuracy.png, model.pt, updates/",
        ]
    )


def _describe_top5(summary: dict[str, Any]) -> list[str]:
    if "average_top5_test_acc" not in summary:
        return []
    line, served = (_percent(summary[f"average_{name}"]) for name in TOP5_COLUMNS)
    return [f"average top-5 accuracy  {line} %, as served {served} %"]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


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
