"""Tables as aligned text. Needs nothing but the standard library: the edge node's reports use it, too."""

from collections.abc import Sequence


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
) -> str:
    """Return a table with rules below the header and above the footer; columns go to the right by default."""
    rule = ["-" * max(map(len, column)) for column in zip(header, *lines, *footer, strict=True)]
    everything = [header, rule, *lines, *([rule] if footer else []), *footer]
    return columns(everything, align or ">" * len(header), indent="")
