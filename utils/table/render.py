"""Tables of collated runs as text in 80 columns, as Markdown and as CSV."""

import math
import textwrap
from collections.abc import Iterable, Sequence

from utils.system.terminal import aligned, csv_text, inert, printable
from utils.table import paper
from utils.table.collate import Group, Row, Stat, Sweep
from utils.table.names import common, name_parts
from utils.table.pairing import describe_model
from utils.table.records import Record

WIDTH = 80
_HEADER = ("method", "k", "epochs", "n", "to FU, points", "paper", "served, %", "bytes / FU", "formula / FU")
_LEGEND = (
    "served: test accuracy of what the edge serves, average over rounds; to FU: less that of full updating (same_init)",
    "bytes / FU: all bytes sent over those of full updating; formula / FU: the same for 32 bits a weight and the "
    "entropy of the mask",
)
_SPREAD = "mean ± standard deviation (n - 1) over n seeds; "
_EPOCHS = "epochs: steps of a round x epochs of each"
_SAY_K = {"updating_ratio", "pruning_ratio", "byte_budget"}


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
    notes = [*_legend([row for group in groups for row in group.rows]), *(f"left out: {line}" for line in left_out)]
    return "\n\n".join([*parts, as_notes(notes, form)])


def render_sweep(sweep: Sweep, form: str) -> str:
    """Return the table of a sweep, a row for each combination of values, then full updating."""
    if form == "csv":
        return _csv([Group(sweep.all_rows, [])], sweep.flags if len(sweep.flags) > 1 else ())
    rows, lead = sweep.all_rows, len(sweep.flags)
    ks = {row.runs[0].ratio for row in sweep.rows}
    first = 2 if len(ks) == 1 or _SAY_K & set(sweep.flags) else 1  # what k is, if neither title nor values say it
    lines = [(*row.values, *_cells(row)[first:]) for row in sweep.rows]
    # Full updating has the values that change it, too.
    lines += [(_joined(["FU", row.values[0]]), *row.values[1:], *_cells(row)[first:]) for row in sweep.full]
    table = _table((*sweep.flags, *_HEADER[first:]), lines, form, lead)
    title = _part(sweep_title(sweep), table, sweep.notes, form, sweep.epochs)
    return f"{title}\n\n{as_notes(_legend(rows), form)}"


def sweep_title(sweep: Sweep) -> str:
    """Return in words what a sweep varies and what all its runs share."""
    runs = [row.runs[0] for row in sweep.rows]
    facts = [
        {_joined(common([name_parts(run) for run in runs]))},
        {"" if run.ratio == "-" else f"k {run.ratio}" for run in runs},
        *map(set, zip(*map(_describe_data, runs))),
        {_describe_rounds(run) for run in runs},
    ]
    return f"{' x '.join(sweep.flags)}: {_joined(fact.pop() for fact in facts if len(fact) == 1)}"


def describe_group(group: Group) -> str:
    """Return data, model, what else all rows share, sizes and rounds in words."""
    return f"{_joined([*_describe_data(group.example), *group.shared])}: {_describe_rounds(group.example)}"


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
        difference = with_std(row.difference, "+.2f")
    return (
        row.name,
        row.runs[0].ratio,
        _epochs(row.runs[0]),
        str(row.n),
        difference,
        "" if row.published is None else f"{row.published:+.2f}",
        with_std(row.served, ".2f"),
        *(_ratio(row, kind) for kind in ("message_bytes", "formula_bytes")),
    )


def _epochs(run: Record) -> str:
    if run.steps == 1:
        return str(run.epochs)
    each, rest = divmod(run.epochs, run.steps)
    return f"{run.epochs} in {run.steps}" if rest else f"{run.steps} x {each}"


def _legend(rows: Sequence[Row]) -> list[str]:
    return [*_LEGEND, (_SPREAD if any(row.n > 1 for row in rows) else "") + _EPOCHS]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], form: str, lead: int = 1) -> str:
    """Return a table without the columns in which no row has anything; the first `lead` ones name its rows."""
    columns = [column for column in zip(header, *rows) if any(column[1:])]
    header, *rows = zip(*columns)
    if form == "markdown":
        return markdown_table(header, rows)
    cut = header.index("bytes / FU")  # where the table is divided if it is too wide
    sizes = [max(map(len, column)) + 2 for column in columns]
    lines = with_wrapped_names(rows, max(20, WIDTH - sum(sizes[1:cut])))
    if sum(sizes) - 2 <= WIDTH:
        return left_aligned(header, lines, lead)
    accuracies, costs = list(range(cut)), [*range(lead), *range(cut, len(header))]
    return "\n\n".join(
        left_aligned([header[i] for i in part], [[line[i] for i in part] for line in lines], lead)
        for part in (accuracies, costs)
    )


def with_wrapped_names(lines: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Return the lines of a table with a first cell that is longer than `width` on several of them."""
    wrapped = []
    for name, *cells in lines:
        first, *more = textwrap.wrap(name, width, break_on_hyphens=False) or [""]
        wrapped += [[first, *cells], *([part, *[""] * len(cells)] for part in more)]
    return wrapped


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    body = [[_escaped(cell.replace("\n", " ")) for cell in line] for line in (header, *lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (body[0], rule, *body[1:]))


def left_aligned(header: Sequence[str], lines: Sequence[Sequence[str]], lead: int = 1) -> str:
    """Return a table whose first `lead` columns go to the left."""
    return aligned(header, lines, align="<" * lead + ">" * (len(header) - lead), width=WIDTH)


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


def _part(title: str, table: str, notes: Sequence[str], form: str, more: str | None = None) -> str:
    """Return a table between its title, with `more` below it, and its notes."""
    return "\n\n".join([heading(title, form, more), table, *([as_notes(notes, form)] if notes else [])])


def heading(title: str, form: str, more: str | None = None) -> str:
    """Return a table's title, with `more` below it."""
    more = [more] if more else []
    if form == "markdown":
        return "\n\n".join([f"### {_escaped(title)}", *([as_notes(more, form)] if more else [])])
    return as_notes([title, *more], form)


def as_notes(notes: Sequence[str], form: str) -> str:
    """Return lines of text, wrapped, or a list in Markdown."""
    if form == "markdown":
        return "\n".join(f"- {_escaped(note)}" for note in notes)
    wrapped = textwrap.TextWrapper(WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(map(wrapped.fill, notes))


def _csv(groups: Sequence[Group], flags: Sequence[str] = ()) -> str:
    """Return rows as CSV; those of a sweep of several flags end with the values of these."""
    lines = [
        "data model size_init size_subseq rounds method k epochs n seeds difference_mean difference_std published "
        "served_mean served_std bytes_ratio_mean bytes_ratio_std formula_ratio_mean formula_ratio_std "
        "message_bytes_mean formula_bytes_mean".split() + list(flags)
    ]
    for group in groups:
        for row in group.rows:
            run = row.runs[0]
            sizes = (run.settings["dataset_size_init"], run.settings["dataset_size_subseq"], len(run.rows))
            seeds = " ".join(str(counted.seed) for counted in row.counted)
            lines.append([
                inert(run.dataset), inert(describe_model(run)), *sizes, inert(", ".join([row.name, *group.shared])),
                "" if run.ratio == "-" else run.settings["updating_ratio"],
                run.epochs, row.n, seeds, *_numbers(row.difference),
                "" if row.published is None else row.published, *_numbers(row.served),
                *_numbers(row.ratio("message_bytes")), *_numbers(row.ratio("formula_bytes")),
                *(round(row.sent(kind).mean) for kind in ("message_bytes", "formula_bytes")),
                *(map(inert, row.values) if flags else ()),
            ])  # fmt: skip
    return csv_text(lines).rstrip("\n")


def _numbers(stat: Stat | None) -> list[str]:
    if stat is None or math.isnan(stat.mean):
        return ["", ""]
    return ["" if value is None else f"{value:.6g}" for value in (stat.mean, stat.std)]


def with_std(stat: Stat, form: str) -> str:
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
    return with_std(stat, f".{min(max(decimals, 0), 6)}f")
