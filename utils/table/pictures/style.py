"""How figures look: every curve has a line style and a marker of its own, so all can be told apart without colour."""

import statistics
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.table.collate import Row, row_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

wrapped = textwrap.fill
WITH_COMMAS = "{x:,g}"  # how matplotlib writes the numbers of an axis
# The three lists have lengths without a common factor, so hundreds of curves would differ.
_COLORS = ("#000000", "#7b3294", "#1b7837", "#d95f02", "#2166ac", "#8c510a", "#e7298a")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")
_POINTS, _LINE, _BETWEEN = 9, 1.3, 0.5  # of a legend: the size of its letters, and in these a line and a space


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure of so many inches."""
    from matplotlib.figure import Figure  # takes a second, so only once something is drawn

    return Figure(figsize=(width, height), layout="constrained")


def add_grid(axes: "Axes") -> None:
    """Draw horizontal lines behind the curves."""
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)


def add_legend(figure: "Figure", title: str | None, *curves: list) -> None:
    """Name the curves (all, or those given) beside the axes: between them there is no place that is always free.

    The figure becomes as high as the names need.
    """
    looks = {"frameon": False, "fontsize": _POINTS, "title_fontsize": _POINTS, "handlelength": 4, "alignment": "left"}
    legend = figure.legend(*curves, loc="outside right upper", title=title, labelspacing=_BETWEEN, **looks)
    names = [text.get_text() for text in (legend.get_title(), *legend.get_texts())]
    lines = sum(name.count("\n") + 1 for name in names)
    inches = _POINTS / 72 * (_LINE * lines + _BETWEEN * len(names) + 2)
    figure.set_figheight(max(figure.get_figheight(), inches))


def style(number: int) -> dict:
    """Return how curve `number` looks."""
    looks = {"color": _COLORS, "linestyle": _LINES, "marker": _MARKERS}
    return {"markersize": 5, "linewidth": 1.4, **{name: ways[number % len(ways)] for name, ways in looks.items()}}


def label(row: Row, rows: Sequence[Row]) -> str:
    """Return what a legend calls a row, one of `rows`: with its epochs where another has the same name and k."""
    labels = row_labels(rows, lambda other: other.runs[0].ratio not in ("-", "1"), as_k="k_=_{}")
    lines = textwrap.wrap(f"{labels[rows.index(row)]} (n_=_{row.n})", 34)
    return plain("\n".join(line.replace("_=_", " = ") for line in lines))


def plain(text: str) -> str:
    """Return a name as it is written, where matplotlib would take what is between dollars for a formula."""
    return text.replace("$", r"\$")


def by_round(row: Row, column: str, factor: float) -> tuple[list[float], list[float] | None]:
    """Return mean and standard deviation of a column of rounds.csv over a row's seeds, round by round."""
    rounds = [[factor * value for value in values] for values in zip(*(run.column(column) for run in row.counted))]
    std = None if row.n < 2 else [statistics.stdev(values) for values in rounds]
    return [statistics.fmean(values) for values in rounds], std
