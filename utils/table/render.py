"""Tables of collated runs as text in 80 columns, as Markdown and as CSV."""

import csv
import io
import math
import statistics
import textwrap
from collections.abc import Iterable, Sequence

from utils.system.terminal import aligned, inert, printable
from utils.table import paper
from utils.table.collate import Group, Row, Stat, row_labels
from utils.table.names import row_name
from utils.table.pairing import describe_model
from utils.table.records import Record

_WIDTH = 80
_HEADER = ("method", "k", "epochs", "n", "to FU, points", "paper", "served, %", "bytes / FU", "formula / FU")
_LEGEND = (
    "served: test accuracy of what the edge serves, average over rounds; to FU: less that of full updating (same_init)",
    "bytes / FU: all bytes sent over those of full updating; formula / FU: the same for 32 bits a weight and the "
    "entropy of the mask",
    "mean ± standard deviation (n - 1) over n seeds; epochs: steps of a round x epochs of each",
)


def render(groups: Sequence[Group], left_out: Sequence[str], form: str) -> str:
    """Return the tables in one of the forms text, markdown and csv; csv has all groups in one table and no notes."""
    if form == "csv":
        return _csv(groups)
    parts = []
    for group in groups:
        notes = list(group.notes)
        if any(row.published is not None for row in group.rows):
            notes.insert(0, paper.what_is_known(group.example.settings["model"]))
        parts.append(_part(describe_group(group), _table(_HEADER, map(_cells, group.rows), form), notes, form))
    notes = [*_LEGEND, *(f"left out: {line}" for line in left_out)]
    return "\n\n".join([*parts, _notes(notes, form)])


def render_sweep(flag: str, rows: Sequence[Row], notes: Sequence[str], form: str) -> str:
    """Return the table of a sweep, a row a value; `rows` are named by value."""
    if form == "csv":
        return _csv([Group(list(rows), [])])
    lines = [(cells[0], *cells[2:]) for cells in map(_cells, rows)]
    table = _table((flag, *_HEADER[2:]), lines, form)
    return f"{_part(sweep_title(flag, rows), table, notes, form)}\n\n{_notes(_LEGEND, form)}"


def sweep_title(flag: str, rows: Sequence[Row]) -> str:
    """Return in words what a sweep varies and what all its runs share."""
    runs = [row.runs[0] for row in rows]
    names = {row_name(run) for run in runs}
    facts = [
        {name.split(",")[0] for name in names} if len(names) > 1 else names,
        {f"k {run.ratio}" for run in runs if run.ratio != "-"},
        *map(set, zip(*map(_describe_data, runs))),
        {_describe_rounds(run) for run in runs},
    ]
    return f"{flag}: {_joined(fact.pop() for fact in facts if len(fact) == 1)}"


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
    title = _notes([f"served test accuracy, %, mean over seeds: {describe_group(group)}"], "text")
    names = ["\n".join(textwrap.wrap(label, 20, break_on_hyphens=False)) for label in row_labels(rows)]
    return f"{title}\n\n{aligned(['round', 'samples', *names], lines, footer, width=_WIDTH)}"


def render_link(group: Group, link: tuple[float, int | None, int]) -> str:
    """Return how long messages of each row are on the air by `link`, as text: see `seconds_on_air`."""
    lines = []
    for row, label in zip(group.rows, row_labels(group.rows)):
        sizes = [size for run in row.counted for size in run.column("message_bytes") if size]
        mean, most = (statistics.fmean(sizes), max(sizes)) if sizes else (0, 0)
        facts = [f"{mean:,.0f}", f"{most:,}", *(f"{seconds_on_air(size, link):,.1f}" for size in (mean, most))]
        lines.append([label, *facts] if sizes else [label, *["-"] * 4])
    rate, payload, overhead = link
    frames = f", frames of {payload} bytes and {overhead} more" if payload else ""
    title = _notes([f"messages on a link of {rate:,g} bit/s{frames}: {describe_group(group)}"], "text")
    return f"{title}\n\n{_aligned(['method', 'mean bytes', 'largest', 'mean s', 'largest s'], lines)}"


def seconds_on_air(size: float, link: tuple[float, int | None, int]) -> float:
    """Return how long a message of `size` bytes takes by (bits a second, payload of a frame or None, its overhead)."""
    rate, payload, overhead = link
    return 8 * (size + (math.ceil(size / payload) * overhead if payload else 0)) / rate


def describe_group(group: Group) -> str:
    """Return data, model, sizes and rounds in words."""
    return f"{_joined(_describe_data(group.example))}: {_describe_rounds(group.example)}"


def _describe_rounds(run: Record) -> str:
    """Return sizes and rounds in words."""
    first, more = (f"{run.settings[f'dataset_size_{name}']:,}" for name in ("init", "subseq"))
    return f"{first} samples, {more} more each round, {len(run.rows)} round{'s' if len(run.rows) > 1 else ''}"


def _describe_data(run: Record) -> tuple[str, str, str]:
    """Return data, model and, where it is not the usual one, precision."""
    precision = run.settings.get("precision", "fp32")
    return run.dataset, describe_model(run), "" if precision == "fp32" else printable(precision)


def _joined(facts: Iterable[str]) -> str:
    return ", ".join(filter(None, facts))


def _cells(row: Row) -> tuple[str, ...]:
    """Return the table's cells of a row, in the order of _HEADER."""
    difference = "" if row.is_full else "-"
    if row.difference and not row.is_full:
        difference = _with_std(row.difference, "+.2f")
    return (
        row.name,
        row.runs[0].ratio,
        _epochs(row.runs[0]),
        str(row.n),
        difference,
        "" if row.published is None else f"{row.published:+.2f}",
        _with_std(row.served, ".2f"),
        *(_ratio(row, kind) for kind in ("message_bytes", "formula_bytes")),
    )


def _epochs(run: Record) -> str:
    if run.steps == 1:
        return str(run.epochs)
    each, rest = divmod(run.epochs, run.steps)
    return f"{run.epochs} in {run.steps}" if rest else f"{run.steps} x {each}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], form: str) -> str:
    """Return a table without the columns in which no row has anything."""
    columns = [column for column in zip(header, *rows) if any(column[1:])]
    header, *rows = zip(*columns)
    if form == "markdown":
        rule = ["---", *["---:"] * (len(header) - 1)]
        lines = [header, rule, *([_escaped(cell) for cell in row] for row in rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    cut = header.index("bytes / FU")  # where the table is divided if it is too wide
    sizes = [max(map(len, column)) + 2 for column in columns]
    lines = []
    for name, *cells in rows:  # a long name takes several lines
        first, *more = textwrap.wrap(name, max(20, _WIDTH - sum(sizes[1:cut])), break_on_hyphens=False) or [""]
        lines += [[first, *cells], *([part, *[""] * len(cells)] for part in more)]
    if sum(sizes) - 2 <= _WIDTH:
        return _aligned(header, lines)
    accuracies, costs = [0, *range(1, cut)], [0, *range(cut, len(header))]
    return "\n\n".join(
        _aligned([header[i] for i in part], [[line[i] for i in part] for line in lines]) for part in (accuracies, costs)
    )


def _aligned(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return aligned(header, lines, align="<" + ">" * (len(header) - 1), width=_WIDTH)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


def _part(title: str, table: str, notes: Sequence[str], form: str) -> str:
    heading = f"### {_escaped(title)}" if form == "markdown" else _notes([title], form)
    return "\n\n".join([heading, table, *([_notes(notes, form)] if notes else [])])


def _notes(notes: Sequence[str], form: str) -> str:
    if form == "markdown":
        return "\n".join(f"- {_escaped(note)}" for note in notes)
    wrapped = textwrap.TextWrapper(_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(wrapped.fill, notes))


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
                inert(run.dataset), describe_model(run), *sizes, inert(row.name),
                "" if run.ratio == "-" else run.settings["updating_ratio"],
                run.epochs, row.n, seeds, *_numbers(row.difference),
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


def _with_std(stat: Stat, form: str) -> str:
    """Return mean and deviation; one that rounds to zero is 0, without decimals that it does not have."""
    if stat.std is None:
        return f"{stat.mean:{form}}"
    std = f"{stat.std:{form.removeprefix('+')}}"
    return f"{stat.mean:{form}} ± {std if float(std) else 0}"


def _ratio(row: Row, kind: str) -> str:
    """Return a ratio of bytes to three significant digits."""
    stat = row.ratio(kind)
    if row.is_full:
        return "1"
    if stat is None or not math.isfinite(stat.mean):
        return "-"
    decimals = 2 - math.floor(math.log10(stat.mean)) if stat.mean > 0 else 0
    return _with_std(stat, f".{min(max(decimals, 0), 6)}f")
