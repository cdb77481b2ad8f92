"""Other views of a table's runs: several tables side by side, the accuracy of every round, messages on a link."""

import math
import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import chain, pairwise
from statistics import fmean

from utils.system.terminal import aligned
from utils.table import paper
from utils.table.collate import Group, Row, row_labels
from utils.table.names import published, rank
from utils.table.pairing import describe_model
from utils.table.pictures.style import by_round
from utils.table.render import (
    WIDTH,
    as_notes,
    describe_group,
    heading,
    left_aligned,
    markdown_table,
    render,
    with_std,
    with_wrapped_names,
)

_TITLE = "served test accuracy less that of full updating, points, average over rounds"
_NAME = 26  # characters of a row's name in a line, if that brings all tables into one down to _NARROW_NAME
_SERVES = " serves, %"  # what the row of full updating shows
_AGREEMENT = ("in the paper's order", "with the paper's sign")
_NARROW_NAME = max(map(len, _AGREEMENT))


def render_side_by_side(groups: Sequence[Group], left_out: Sequence[str], form: str) -> str:
    """Return `groups` as the columns of one table, with their settings and notes below it; csv is that of `render`."""
    if form == "csv":
        return render(groups, left_out, form)
    columns = [_by_label(group) for group in groups]
    full = {label: row.is_full for column in columns for label, row in column.items()}
    labels = sorted(full, key=lambda label: (full[label], rank((label.removesuffix(_SERVES),))))
    blocks, notes, models = [], [], set()
    for group, number, column in zip(groups, _numbers(groups), columns):
        rows = [column.get(label) for label in labels]
        papers = [None if row is None else published(row.runs[0], any_data=True) for row in rows]
        data, model = group.example.dataset, describe_model(group.example)
        head = f"{data} {model}" if form == "markdown" else "\n".join([data, *_wrapped(model)])
        block = [[number + head, *map(_ours, rows), *_agreement(rows, papers)]]
        if any(figure is not None for figure in papers):
            kind = group.example.settings["model"]
            source = "paper" if data == paper.DATASETS[kind] else f"paper,\n{paper.DATASETS[kind]}"
            figures = ["" if figure is None else f"{figure:+.2f}" for figure in papers]
            block.append([source, *figures, "", ""])
            models.add(kind)
        blocks.append(block)
        notes.append(f"{number}{_setting(group)}")
        notes += [f"{number.strip() or f'{data} {model}'}: {note}" for note in group.notes]
    notes += [paper.what_is_known(*models)] if models else []
    notes += [f"left out: {line}" for line in left_out]
    labels += _AGREEMENT
    if not any(any(ours[-2:]) for ours, *_ in blocks):
        labels, blocks = labels[:-2], [[column[:-2] for column in block] for block in blocks]
    return "\n\n".join([heading(_TITLE, form), *_tables(["method", *labels], blocks, form), as_notes(notes, form)])


def _tables(first: Sequence[str], blocks: Sequence[list[Sequence[str]]], form: str) -> list[str]:
    """Return one table of all `blocks` of columns, or as text as many as it takes; a block is not divided."""
    if form == "markdown":
        header, *lines = zip(first, *chain(*blocks))
        return [markdown_table(header, lines)]

    def lines_of(part: Sequence[list[Sequence[str]]], name: int) -> tuple[Sequence[str], list[list[str]]]:
        header, *lines = zip(first, *chain(*part))
        return header, with_wrapped_names(lines, name)

    def fits(part: Sequence[list[Sequence[str]]], name: int) -> bool:
        return max(map(len, aligned(*lines_of(part, name)).split("\n"))) <= WIDTH

    for name in range(_NAME, _NARROW_NAME - 1, -1):
        if fits(blocks, name):
            return [left_aligned(*lines_of(blocks, name))]
    parts = [[]]
    for block in blocks:
        if parts[-1] and not fits([*parts[-1], block], _NAME):
            parts.append([])
        parts[-1].append(block)
    return [left_aligned(*lines_of(part, _NAME)) for part in parts]


def _numbers(groups: Sequence[Group]) -> list[str]:
    """Return of each table a number, if two have the same data and model; else nothing."""
    names = [(group.example.dataset, describe_model(group.example)) for group in groups]
    alike = len(set(names)) < len(names)
    return [f"({number}) " if alike else "" for number in range(1, len(names) + 1)]


def _wrapped(model: str) -> list[str]:
    """Return a model's name in lines for the head of a column; a user's may be FILE.py:NAME."""
    lines = textwrap.wrap(model.replace(":", ": "), 10, break_long_words=False)
    return [part for line in lines for part in textwrap.wrap(line, 20)]


def _by_label(group: Group) -> dict[str, Row]:
    """Return a table's rows by name, with k where it is not the usual one, with epochs where names are the same."""
    usual, rows = {"-", "1", _usual_k(group)}, {}
    for row, label in zip(group.rows, row_labels(group.rows, lambda row: row.runs[0].ratio not in usual)):
        label += _SERVES if row.is_full else ""
        rows[f"{label} ({len(rows)})" if label in rows else label] = row  # two k may be written alike
    return rows


def _usual_k(group: Group) -> str | None:
    """Return the paper's k if a row of the table has it, else that of most rows; of methods that update a share."""
    count = Counter(row.runs[0].ratio for row in group.rows if row.runs[0].ratio not in ("-", "1"))
    model = group.example.settings["model"]
    papers = f"{paper.updating_ratio(model):g}" if model in paper.PUBLISHED else None
    return papers if papers in count else max(count, key=count.get, default=None)


def _ours(row: Row | None) -> str:
    if row is None:
        return ""
    if row.is_full:
        return with_std(row.served, ".2f")
    return with_std(row.difference, "+.2f") if row.difference else "-"


def _agreement(rows: Sequence[Row | None], papers: Sequence[float | None]) -> tuple[str, str]:
    """Return whether all rows with one of the paper's figures, `papers`, are in its order, and how many have its sign.

    As far as the table's digits tell: what is written alike is in no order, and a zero has no sign.
    """
    ours: dict[float, float] = {}
    for row, figure in zip(rows, papers):
        if figure is not None and row.difference:
            ours.setdefault(figure, round(row.difference.mean, 2))  # of a method's rows the first, which is the paper's
    same = all(ours[low] < ours[high] for low, high in pairwise(sorted(ours)))
    signs = sum(figure * mean > 0 for figure, mean in ours.items())
    order = ("yes" if same else "no") if len(ours) > 1 else ""
    return order, f"{signs} of {len(ours)}" if ours else ""


def _setting(group: Group) -> str:
    k, seeds = _usual_k(group), sorted({row.n for row in group.rows})
    n = " to ".join(map(str, dict.fromkeys((seeds[0], seeds[-1]))))
    return f"{describe_group(group)}{f', k {k}' if k else ''}, {n} seed{'s' if seeds[-1] > 1 else ''}"


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
    accuracies = [by_round(row, "served_test_acc", 100)[0] for row in rows]
    lines = [
        [str(number), f"{count:,}", *(f"{accuracy[number]:.2f}" for accuracy in accuracies)]
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
        if not sizes:
            lines.append([label, *["-"] * 4])
            continue
        seconds = [seconds_on_air(size, link) for size in sizes]
        facts = f"{fmean(sizes):,.0f}", f"{max(sizes):,}", f"{fmean(seconds):,.1f}", f"{max(seconds):,.1f}"
        lines.append([label, *facts])
    rate, payload, overhead = link
    frames = f", frames of {payload} bytes and {overhead} more" if payload else ""
    title = as_notes([f"messages on a link of {rate:,g} bit/s{frames}: {title}"], "text")
    return f"{title}\n\n{left_aligned(['method', 'mean bytes', 'largest', 'mean s', 'largest s'], lines)}"


def seconds_on_air(size: int, link: tuple[float, int | None, int]) -> float:
    """Return how long a message of `size` bytes takes by (bits a second, payload of a frame or None, its overhead)."""
    rate, payload, overhead = link
    return 8 * (size + (math.ceil(size / payload) * overhead if payload else 0)) / rate
