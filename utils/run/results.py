"""The figures of a run, and which code they are of: rows, summary, what is printed and drawn. Needs no torch."""

import hashlib
import json
import math
import textwrap
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.system.sources import differing, digest_of_source, source_digests
from utils.system.terminal import aligned

if TYPE_CHECKING:
    from utils.rounds import EdgeCopy, Round
    from utils.run.folder import RunResult

COLUMNS = (
    "round num_samples reinitialized start_val_acc full_val_acc rewound_val_acc val_acc test_acc served_val_acc "
    "served_test_acc updated_weights sent message_bytes index_bytes value_bytes rest_bytes header_bytes "
    "formula_bytes seconds"
).split()

TOP5_COLUMNS = ("top5_test_acc", "served_top5_test_acc")  # at the end, where there are more than ten classes
FURTHER_COLUMNS = (*TOP5_COLUMNS, "value_bits")  # in runs that have them; the last with --value_bits auto


_ROOT = Path(__file__).resolve().parents[2]


@cache
def code_digests() -> dict[str, str]:
    """Return a digest of every source that can change a result: networks, data, training, selection, messages."""
    digests = source_digests(_ROOT, ("data", "models", "utils"), ("utils/table/", "utils/system/", "utils/run/"))
    plan = "utils/run/plan.py"  # the one file of its folder that says what the rounds do
    return {**digests, plan: digest_of_source((_ROOT / plan).read_text(encoding="utf-8"))}


def code_fingerprint(own: dict[str, str] | None = None) -> str:
    """Return what tells the code that can change a result from any other; behind a plus, if there are, a user's."""
    parts = [code_digests(), *([own] if own else [])]
    return "+".join(hashlib.blake2b(json.dumps(p, sort_keys=True).encode(), digest_size=8).hexdigest() for p in parts)


def made_by_other_code(fingerprints: Any, sources: Any, own: dict[str, str] | None = None) -> str | None:
    """Return in words that a run was made by other code than this, and which files differ; None if it was not.

    fingerprints  those of the code at each start of the run; empty or None in runs that did not record it
    sources       the digests at its last start, if config.json has them
    own           digests of a user's sources as they are now
    """
    if not isinstance(fingerprints, list) or all(each == code_fingerprint(own) for each in fingerprints):
        return None
    names = differing(sources, {**code_digests(), **(own or {})}) if isinstance(sources, dict) else []
    some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"other code{f' ({some} differ)' if len(names) > 1 else f' ({some} differs)' if names else ''}"


def binary_entropy(p: float) -> float:
    """Return the entropy, in bits, of a coin that shows heads with probability `p`."""
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def formula_bytes(updating_ratio: float, num_weights: int) -> int:
    """Return the usual analytic cost of one update, `(32*k*I + H(k)*I) / 8` bytes, rounded.

    32 bits for each updated weight and the entropy H(k), in bits, of the mask for every weight; weights only. Papers on
    partial updating count so; the source of this paper's figures could not be read.
    """
    k = updating_ratio
    return round((32 * k + binary_entropy(k)) * num_weights / 8)


def round_row(done: "Round", edge: "EdgeCopy") -> dict[str, Any]:
    """Return the row of rounds.csv of a round that is done."""
    training = done.training
    top5 = dict(zip(TOP5_COLUMNS, (edge.line_top5, edge.served_top5))) if edge.served_top5 is not None else {}
    update, sizes = done.delivery, dict.fromkeys((name for name in COLUMNS if name.endswith("_bytes")), 0)
    if update is not None:
        num_weights = training.flat.num_weights if training.candidates is None else training.candidates.numel()
        coding = done.way.coding  # where a byte budget decides on the number of weights, k is their share
        k = coding.updating_ratio if coding.most_bytes is None else update.selected.size / num_weights
        sizes |= {"message_bytes": update.header.message_bytes, **update.header.sizes}
        sizes["formula_bytes"] = formula_bytes(k, num_weights)
    row = {
        "round": training.number,
        "num_samples": len(training.samples),
        "reinitialized": int(done.reinitialized),
        "start_val_acc": training.start_val_acc,
        "full_val_acc": training.full_val_acc,
        "rewound_val_acc": training.rewound_val_acc,
        "val_acc": edge.line_acc[0],
        "test_acc": edge.line_acc[1],
        "served_val_acc": edge.served_acc[0],
        "served_test_acc": edge.served_acc[1],
        "updated_weights": 0 if update is None else update.selected.size,
        "sent": int(update is not None),
        **sizes,
        "seconds": training.seconds,
        **top5,
        **({"value_bits": training.outgoing.coding.value_bits} if done.way.bits_vary else {}),
    }
    # As rounds.csv has them, so that a run that is resumed has the same rows.
    return {
        name: round(value, 3 if name == "seconds" else 6) if isinstance(value, float) else value
        for name, value in row.items()
    }


def summarize(rows: list[dict[str, Any]], num_weights: int, num_values: int) -> dict[str, Any]:
    """Return the averages over all rounds, the last round and the totals.

    num_values  all values of the network: weights, the rest and buffers. Full updating would send each of them,
                or by the usual formula each weight, with 32 bits in every round.
    """

    def total(name: str) -> float:
        return sum(row[name] for row in rows)

    # A run that an older version began has rows without these.
    top5 = TOP5_COLUMNS if all(row.get(name) is not None for row in rows for name in TOP5_COLUMNS) else ()
    accuracies = ("test_acc", "served_test_acc", *top5)
    return {
        "rounds": len(rows),
        **{f"average_{name}": total(name) / len(rows) for name in accuracies},
        **{f"final_{name}": rows[-1][name] for name in accuracies},
        "rounds_sent": total("sent"),
        "rounds_nothing_sent": [row["round"] for row in rows if not row["sent"]],
        **{name: total(name) for name in COLUMNS if name.endswith("_bytes")},
        "ratio_to_full_updating": total("message_bytes") / (4 * num_values * len(rows)),
        "formula_ratio_to_full_updating": total("formula_bytes") / (formula_bytes(1.0, num_weights) * len(rows)),
        "seconds": round(total("seconds"), 3),
    }


def describe_round(row: dict[str, Any], num_rounds: int) -> str:
    """Return the line that is printed when a round is done, at most 80 characters."""
    facts = [f"{100 * row['served_test_acc']:.2f} % served"]
    if row["served_val_acc"] != row["val_acc"] or row["served_test_acc"] != row["test_acc"]:
        facts.append(f"{100 * row['test_acc']:.2f} % own")
    facts.append(f"{_kilo(row['message_bytes'])} kB" if row["sent"] else "nothing sent")
    facts += ["re-init"] if row["reinitialized"] else []
    number = f"{row['round']:>{len(str(num_rounds - 1))}} of {num_rounds}"
    return f"round {number}, n={row['num_samples']:,}: {', '.join(facts)}, {row['seconds']:.{row['seconds'] < 10:d}f} s"


def _kilo(count: float) -> str:
    return f"{count / 1000:,.{count < 1e5:d}f}"


def describe_run(result: "RunResult") -> str:
    """Return the table that a script prints at the end: all rounds, the averages and the files."""
    header = "round,samples,re-\ninit,val\n%,test\n%,served\n%,weights,sent\nkB,formula\nkB,seconds".split(",")
    accuracies = ["val_acc", "test_acc", "served_test_acc"]
    if "served_top5_test_acc" in result.rows[0]:
        header.insert(6, "top-5\n%")
        accuracies.append("served_top5_test_acc")
    lines = [
        (
            str(row["round"]),
            f"{row['num_samples']:,}",
            "yes" if row["reinitialized"] else "",
            *(_percent(row[name]) for name in accuracies),
            f"{row['updated_weights']:,}" if row["sent"] else "-",
            *(_kilo(row[name]) if row["sent"] else "-" for name in ("message_bytes", "formula_bytes")),
            f"{row['seconds']:.1f}",
        )
        for row in result.rows
    ]
    s = result.summary
    names = "rounds.csv", "summary.json", "config.json", "metrics.jsonl", "accuracy.png", "model.pt", "updates/"
    files = [name for name in names if (result.folder / name).exists()]  # a disk may have refused a plot
    top5 = [_percent(s[f"average_{name}"]) for name in TOP5_COLUMNS if f"average_{name}" in s]
    return "\n".join(
        [
            aligned(header, lines, width=80),
            "",
            f"average test accuracy   {100 * s['average_test_acc']:.2f} %, "
            f"as served {100 * s['average_served_test_acc']:.2f} %",
            *([f"average top-5 accuracy  {top5[0]} %, as served {top5[1]} %"] if top5 else []),
            f"updates sent            in {s['rounds_sent']} of {s['rounds']} rounds",
            f"bytes sent, all counted {s['message_bytes']:,}: "
            f"{s['ratio_to_full_updating']:.4f} of the whole network each round",
            f"by the usual formula    {s['formula_bytes']:,}: "
            f"{s['formula_ratio_to_full_updating']:.4f} (weights and their mask only)",
            f"run folder              {result.folder}",
            textwrap.fill(", ".join(files), 80, initial_indent="  ", subsequent_indent="  "),
        ]
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def accuracy_figure(rows: list[dict[str, Any]], title: str):
    """Return the matplotlib figure of a run's test accuracies against its samples."""
    from matplotlib.figure import Figure  # slow to import, needed only here

    samples = [row["num_samples"] for row in rows]
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(samples, [100 * row["test_acc"] for row in rows], "o--", color="0.55", label="network of the round")
    axes.plot(samples, [100 * row["served_test_acc"] for row in rows], "k.-", label="served by the edge")
    for i, place in enumerate(row["num_samples"] for row in rows if row["reinitialized"]):
        axes.axvline(place, color="0.8", linestyle=":", zorder=0, label=None if i else "re-initialized")
    axes.set_xlabel("number of training samples")
    axes.set_ylabel("test accuracy (%)")
    # A title can hold a file's name, which is no formula and need not be Unicode.
    axes.set_title(title.encode(errors="replace").decode(), fontsize=10, parse_math=False)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y", color="0.92")
    axes.legend(frameon=False, loc="lower right")
    return figure
