"""Several tables as the columns of one: a row for each method, and the paper's figures beside ours."""

from collections import Counter
from collections.abc import Sequence
from itertools import chain

from utils.system.terminal import aligned
from utils.table import paper
from utils.table.collate import Group, Row, row_labels
from utils.table.names import published_of, rank
from utils.table.render import WIDTH, as_notes, describe_group, heading, left_aligned, markdown_table, render, with_std

_TITLE = "served test accuracy less that of full updating, points, average over rounds"
_FULL = "FU serves, %"


def render_side_by_side(groups: Sequence[Group], left_out: Sequence[str], form: str) -> str:
    """Return `groups` as the columns of one table, with their settings and notes below it; csv is that of `render`."""
    if form == "csv":
        return render(groups, left_out, form)
    columns = [_by_label(group) for group in groups]
    labels = sorted({label for column in columns for label in column} - {_FULL}, key=lambda label: rank((label,)))
    labels += [_FULL] if any(_FULL in column for column in columns) else []
    blocks, notes, models = [], [], set()
    for group, head, column in zip(groups, _heads(groups), columns):
        block = [[head, *(_ours(column[label]) if label in column else "" for label in labels)]]
        figures = [_papers(column[label]) if label in column else "" for label in labels]
        model, number = group.example.settings["model"], head[: head.find(")") + 1]
        if any(figures):
            data = paper.DATASETS[model]
            block.append(["paper" if group.example.dataset == data else f"paper,\n{data}", *figures])
            models.add(model)
        blocks.append(block)
        notes.append(f"{number} {_setting(group)}".lstrip())
        notes += [f"{number or head}: {note}".replace("\n", " ") for note in group.notes]
    notes += [paper.what_is_known(*models)] if models else []
    notes += [f"left out: {line}" for line in left_out]
    return "\n\n".join([heading(_TITLE, form), *_tables(["method", *labels], blocks, form), as_notes(notes, form)])


def _tables(first: Sequence[str], blocks: Sequence[list[Sequence[str]]], form: str) -> list[str]:
    """Return one table of all `blocks` of columns, or as text as many as it takes; a block is not divided."""
    if form == "markdown":
        header, *lines = zip(first, *chain(*blocks))
        return [markdown_table(header, lines)]
    parts = [[]]
    for block in blocks:
        header, *lines = zip(first, *chain(*parts[-1]), *block)
        if parts[-1] and len(aligned(header, lines).partition("\n")[0]) > WIDTH:
            parts.append([])
        parts[-1].append(block)
    return [left_aligned(header, lines) for header, *lines in (zip(first, *chain(*part)) for part in parts)]


def _heads(groups: Sequence[Group]) -> list[str]:
    """Return data and model of each table, after a number where others have the same."""
    heads = [f"{group.example.dataset}\n{group.example.settings['model']}" for group in groups]
    count = Counter(heads)
    return [f"({number}) {head}" if count[head] > 1 else head for number, head in enumerate(heads, start=1)]


def _by_label(group: Group) -> dict[str, Row]:
    """Return a table's rows by name, with k where most rows have another, with epochs where names are the same."""
    usual = {"-", _usual_k(group)}
    labels = row_labels(group.rows, lambda row: not row.is_full and row.runs[0].ratio not in usual)
    return {_FULL if label == "FU" else label: row for label, row in zip(labels, group.rows)}


def _usual_k(group: Group) -> str | None:
    """Return the k that most rows of a table have."""
    count = Counter(row.runs[0].ratio for row in group.rows if row.runs[0].ratio != "-" and not row.is_full)
    return count.most_common(1)[0][0] if count else None


def _ours(row: Row) -> str:
    if row.is_full:
        return with_std(row.served, ".2f")
    return with_std(row.difference, "+.2f") if row.difference else "-"


def _papers(row: Row) -> str:
    run = row.runs[0]
    on_its_data = run.dataset == paper.DATASETS.get(run.settings["model"])
    figure = row.published if on_its_data else published_of(row.name, run)
    return "" if figure is None else f"{figure:+.2f}"


def _setting(group: Group) -> str:
    k, seeds = _usual_k(group), sorted({row.n for row in group.rows})
    n = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    return f"{describe_group(group)}{f', k {k}' if k else ''}, {n} seed{'s' if seeds[-1] > 1 else ''}"
