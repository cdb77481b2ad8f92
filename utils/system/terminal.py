"""Text for a terminal or a spreadsheet: aligned tables, CSV, and names that cannot harm it.

Needs nothing but the standard library: the edge node's reports use it, too.
"""

import csv
import io
from collections.abc import Iterable, Sequence


def columns(rows: Sequence[Sequence[object]], align: str, indent: str = "  ") -> str:
    """Return rows of cells as aligned text; `align` has < or > for each column."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)]
        lines.append((indent + "  ".join(padded)).rstrip())
    return "\n".join(lines)


def aligned(
    header: Sequence[str],
    lines: Sequence[Sequence[str]],
    footer: Sequence[Sequence[str]] = (),
    align: str | None = None,
    width: int | None = None,
) -> str:
    """Return a table with rules below the header and above the footer; columns go to the right by default.

    header  one cell a column, of one or more lines
    width  most characters of a line: columns that do not fit stand in further tables below, each of which begins
           with the first column
    """
    align = align or ">" * len(header)
    heads = [cell.split("\n") for cell in header]
    sizes = [max(map(len, column)) for column in zip(*_bottom(heads), *lines, *footer, strict=True)]
    parts, used = [[0]], sizes[0]
    for i, size in list(enumerate(sizes))[1:]:
        used += 2 + size
        if width is not None and used > width and len(parts[-1]) > 1:
            parts.append([0])
            used = sizes[0] + 2 + size
        parts[-1].append(i)
    rule = ["-" * size for size in sizes]
    body = [rule, *lines, *([rule] if footer else []), *footer]
    tables = []
    for part in parts:
        rows = [*_bottom([heads[i] for i in part]), *([row[i] for i in part] for row in body)]
        tables.append(columns(rows, "".join(align[i] for i in part), indent=""))
    return "\n\n".join(tables)


def _bottom(heads: Sequence[list[str]]) -> list[tuple[str, ...]]:
    """Return the lines of a header whose cells have several, the last ones level."""
    height = max(map(len, heads))
    return list(zip(*([""] * (height - len(cell)) + cell for cell in heads)))


def printable(text: str) -> str:
    """Return `text` in one line, each control character as its escape (`\\x1b`).

    Names of foreign files would otherwise move a terminal's cursor, colour it or forge lines.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows of cells as CSV, a line each."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def inert(text: str) -> str:
    """Return a name as a cell of a CSV file that no spreadsheet takes for a formula, nor runs."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
