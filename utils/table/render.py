"""Tables of collated runs as text, Markdown and CSV."""

import csv
import io
import math
from collections.abc import Sequence

from utils.system.terminal import aligned
from utils.table import paper
from utils.table.collate import Group, Row, Stat
from utils.table.names import row_name
from utils.table.pairing import describe_model
from utils.table.records import Record

HEADER = ("method", "k", "epochs", "n", "to FU, points", "paper", "served, %", "bytes / FU", "formula / FU")
ALIGN = "<" + ">" * (len(HEADER) - 1)
LEGEND = (
    "served: test accuracy of what the edge serves, average over rounds; to FU: less that of full updating (same_init)",
    "bytes / FU: all bytes sent over those of full updating; formula / FU: the same by the paper's formula",
    "mean ± standard deviation (n - 1) over n seeds; epochs: of a round, in one step or two",
)


def render(groups: Sequence[Group], left_out: Sequence[str], form: str) -> str:
    """Return the tables in one of the forms text, markdown and csv; csv has all groups in one table and no notes."""
    if form == "csv":
        return _csv(groups)
    parts = []
    for group in groups:
        rows = [cells(row) for row in group.rows]
        table = aligned(HEADER, rows, align=ALIGN) if form == "text" else markdown(HEADER, rows)
        parts.append(_part(describe_group(group), table, [*paper_notes(group), *group.notes], form))
    notes = [*LEGEND, *(f"left out: {line}" for line in left_out)]
    return "\n\n".join([*parts, _notes(notes, form)])


def render_sweep(flag: str, rows: Sequence[Row], notes: Sequence[str], form: str) -> str:
    """Return the table of a sweep, a row a value; `rows` are named by value."""
    header = (flag, *HEADER[2:5], *HEADER[6:])
    lines = [(row.name, *cells(row)[2:5], *cells(row)[6:]) for row in rows]
    if form == "csv":
        return _csv([Group(list(rows), [])])
    table = aligned(header, lines, align="<" + ">" * (len(header) - 1)) if form == "text" else markdown(header, lines)
    return f"{_part(sweep_title(flag, rows), table, notes, form)}\n\n{_notes(LEGEND, form)}"


def sweep_title(flag: str, rows: Sequence[Row]) -> str:
    """Return in words what a sweep varies and what all its runs share."""
    runs = [row.runs[0] for row in rows]
    names = {row_name(run) for run in runs}
    facts = [
        {name.split(",")[0] for name in names} if len(names) > 1 else names,
        {f"k {run.settings['updating_ratio']:g}" for run in runs},
        {run.dataset for run in runs},
        {describe_model(run) for run in runs},
        {describe_rounds(run) for run in runs},
    ]
    return f"{flag}: {', '.join(fact.pop() for fact in facts if len(fact) == 1)}"


def render_rounds(group: Group) -> str:
    """Return the served test accuracy round by round, a column a row of the table, means over seeds, as text."""
    rows = group.rows
    accuracies = [_mean_by_round(row, "served_test_acc") for row in rows]
    lines = [
        [str(number), f"{samples:,}", *(f"{100 * accuracy[number]:.2f}" for accuracy in accuracies)]
        for number, samples in enumerate(group.example.column("num_samples"))
    ]
    num_rounds = len(lines)
    footer = [
        ["average", "", *(f"{row.served.mean:.2f}" for row in rows)],
        ["to FU", "", *(f"{row.difference.mean:+.2f}" if row.difference else "-" for row in rows)],
        ["rounds sent", "", *(f"{row.sent('sent').mean:.3g} of {num_rounds}" for row in rows)],
        ["sent kB", "", *(f"{row.sent('message_bytes').mean / 1000:,.1f}" for row in rows)],
        ["formula kB", "", *(f"{row.sent('formula_bytes').mean / 1000:,.1f}" for row in rows)],
    ]
    title = f"served test accuracy, %, mean over seeds: {describe_group(group)}"
    return f"{title}\n\n{aligned(['round', 'samples', *(row.name for row in rows)], lines, footer)}"


def cells(row: Row) -> tuple[str, ...]:
    """Return the table's cells of a row, in the order of HEADER."""
    run = row.runs[0]
    difference = "" if row.is_full else "-" if row.difference is None else _points(row.difference)
    return (
        row.name,
        f"{run.settings['updating_ratio']:g}",
        f"2 x {run.num_epochs}" if run.steps == 2 else str(run.num_epochs),
        str(row.n),
        difference,
        "" if row.published is None else f"{row.published:+.2f}",
        _with_std(row.served, 2),
        *(_ratio(row, kind) for kind in ("message_bytes", "formula_bytes")),
    )


def describe_group(group: Group) -> str:
    """Return data, model, sizes and rounds in words."""
    run = group.example
    return f"{run.dataset}, {describe_model(run)}: {describe_rounds(run)}"


def describe_rounds(run: Record) -> str:
    """Return sizes and rounds in words."""
    first, more = (f"{run.settings[f'dataset_size_{name}']:,}" for name in ("init", "subseq"))
    return f"{first} samples, {more} more each round, {len(run.rows)} round{'s' if len(run.rows) > 1 else ''}"


def paper_notes(group: Group) -> list[str]:
    """Return what tells the published setting from that of the runs beside it; nothing without such figures."""
    if all(row.published is None for row in group.rows):
        return []
    run, differing = group.example, []
    if run.dataset != paper.DATASETS[run.settings["model"]]:
        differing.append(f"data {paper.DATASETS[run.settings['model']]} there, {run.dataset} here")
    sizes = (run.settings["dataset_size_init"], run.settings["dataset_size_subseq"])
    if sizes != paper.SIZES:
        differing.append("samples {}/{} there, {}/{} here".format(*paper.SIZES, *sizes))
    if run.settings["max_rounds"]:
        differing.append(f"all rounds there, the first {len(run.rows)} here")
    note = "paper: the difference to FU that it publishes"
    return [f"{note}; {', '.join(differing)}" if differing else note]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, all columns but the first aligned to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, rule, *rows])


def _part(title: str, table: str, notes: Sequence[str], form: str) -> str:
    heading = f"### {title}" if form == "markdown" else title
    return "\n\n".join([heading, table, *([_notes(notes, form)] if notes else [])])


def _notes(notes: Sequence[str], form: str) -> str:
    return "\n".join(f"- {note}" if form == "markdown" else note for note in notes)


def _csv(groups: Sequence[Group]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        "data model size_init size_subseq rounds method k epochs n seeds difference_mean difference_std published "
        "served_mean served_std bytes_ratio_mean bytes_ratio_std formula_ratio_mean formula_ratio_std "
        "message_bytes_mean formula_bytes_mean".split()
    )
    for group in groups:
        for row in group.rows:
            run = row.runs[0]
            sizes = (run.settings["dataset_size_init"], run.settings["dataset_size_subseq"], len(run.rows))
            seeds = " ".join(str(counted.seed) for counted in row.counted)
            writer.writerow([
                run.dataset, describe_model(run), *sizes, row.name, run.settings["updating_ratio"],
                run.steps * run.num_epochs, row.n, seeds, *_numbers(row.difference),
                "" if row.published is None else row.published, *_numbers(row.served),
                *_numbers(row.ratio("message_bytes")), *_numbers(row.ratio("formula_bytes")),
                *(round(row.sent(kind).mean) for kind in ("message_bytes", "formula_bytes")),
            ])  # fmt: skip
    return text.getvalue().rstrip("\n")


def _numbers(stat: Stat | None) -> list[str]:
    if stat is None or math.isnan(stat.mean):
        return ["", ""]
    return ["" if value is None else f"{value:.6g}" for value in (stat.mean, stat.std)]


def _mean_by_round(row: Row, column: str) -> list[float]:
    return [sum(values) / row.n for values in zip(*(run.column(column) for run in row.counted))]


def _points(stat: Stat) -> str:
    return f"{stat.mean:+.2f}" + ("" if stat.std is None else f" ± {stat.std:.2f}")


def _with_std(stat: Stat, decimals: int) -> str:
    return f"{stat.mean:.{decimals}f}" + ("" if stat.std is None else f" ± {stat.std:.{decimals}f}")


def _ratio(row: Row, kind: str) -> str:
    """Return a ratio of bytes to three significant digits."""
    stat = row.ratio(kind)
    if row.is_full:
        return "1"
    if stat is None or not math.isfinite(stat.mean):
        return "-"
    decimals = 2 - math.floor(math.log10(stat.mean)) if stat.mean > 0 else 0
    return _with_std(stat, min(max(decimals, 0), 6))
