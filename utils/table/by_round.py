"""What stands behind a table, as text: the accuracy of every round, and how long messages are on the air."""

import math
import statistics
import textwrap
from collections.abc import Sequence

from utils.system.terminal import aligned
from utils.table.collate import Row, row_labels
from utils.table.render import WIDTH, as_notes, left_aligned


def render_rounds(title: str, rows: Sequence[Row]) -> str:
    """Return the served test accuracy round by round, a column a row of the table, means over seeds, as text.

    Rows with other samples have a table of their own.
    """
    by_samples: dict[tuple, list[Row]] = {}
    for row in rows:
        by_samples.setdefault(tuple(row.runs[0].column("num_samples")), []).append(row)
    mean = ", mean over seeds" if any(row.n > 1 for row in rows) else ""
    title = as_notes([f"served test accuracy, %{mean}: {title}"], "text")
    return "\n\n".join([title, *(_by_round(samples, same) for samples, same in by_samples.items())])


def _by_round(samples: Sequence[int], rows: Sequence[Row]) -> str:
    accuracies = [_mean_by_round(row, "served_test_acc") for row in rows]
    lines = [
        [str(number), f"{count:,}", *(f"{100 * accuracy[number]:.2f}" for accuracy in accuracies)]
        for number, count in enumerate(samples)
    ]
    num_rounds = len(lines)
    footer = [
        ["average", "", *(f"{row.served.mean:.2f}" for row in rows)],
        ["to FU", "", *(f"{row.difference.mean:+.2f}" if row.difference else "-" for row in rows)],
        ["rounds sent", "", *(f"{row.sent('sent').mean:.3g} of {num_rounds}" for row in rows)],
        ["sent kB", "", *(f"{row.sent('message_bytes').mean / 1000:,.1f}" for row in rows)],
        ["formula kB", "", *(f"{row.sent('formula_bytes').mean / 1000:,.1f}" for row in rows)],
    ]
    names = ["\n".join(textwrap.wrap(label, 20, break_on_hyphens=False)) for label in row_labels(rows)]
    return aligned(["round", "samples", *names], lines, footer, width=WIDTH)


def render_link(title: str, rows: Sequence[Row], link: tuple[float, int | None, int]) -> str:
    """Return how long messages of each row are on the air by `link`, as text: see `seconds_on_air`."""
    lines = []
    for row, label in zip(rows, row_labels(rows)):
        sizes = [size for run in row.counted for size in run.column("message_bytes") if size]
        mean, most = (statistics.fmean(sizes), max(sizes)) if sizes else (0, 0)
        facts = [f"{mean:,.0f}", f"{most:,}", *(f"{seconds_on_air(size, link):,.1f}" for size in (mean, most))]
        lines.append([label, *facts] if sizes else [label, *["-"] * 4])
    rate, payload, overhead = link
    frames = f", frames of {payload} bytes and {overhead} more" if payload else ""
    title = as_notes([f"messages on a link of {rate:,g} bit/s{frames}: {title}"], "text")
    return f"{title}\n\n{left_aligned(['method', 'mean bytes', 'largest', 'mean s', 'largest s'], lines)}"


def seconds_on_air(size: float, link: tuple[float, int | None, int]) -> float:
    """Return how long a message of `size` bytes takes by (bits a second, payload of a frame or None, its overhead)."""
    rate, payload, overhead = link
    return 8 * (size + (math.ceil(size / payload) * overhead if payload else 0)) / rate


def _mean_by_round(row: Row, column: str) -> list[float]:
    return [sum(values) / row.n for values in zip(*(run.column(column) for run in row.counted))]
