"""Served test accuracy, a curve a method: over the samples on the server, and over all bytes sent so far."""

import statistics
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from utils.table.collate import Group, Row
from utils.table.pictures import style as looks
from utils.table.render import describe_group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_MARKERS = 30  # of a curve; of more points some have none
_NEAR = 10  # points below the best method of a round that are never cut off
_FAR = 5  # nor are so many times the usual distance to it
_WORTH = 1.5  # nor is anything if the picture without it would show less than so many times as much


def accuracy_figure(group: Group) -> "Figure":
    """Served test accuracy against the number of samples: mean over seeds, a band of one standard deviation."""
    figure, axes = _new(describe_group(group))
    _draw(axes, group.rows, [row.runs[0].column("num_samples") for row in group.rows])
    axes.set_xlabel("training samples on the server")
    axes.xaxis.set_major_formatter(looks.WITH_COMMAS)
    _legend(figure, group.rows)
    return figure


def bytes_figure(group: Group) -> "Figure":
    """Served test accuracy against all bytes sent so far, a point a round, means over seeds."""
    figure, axes = _new(describe_group(group))
    sent = [list(accumulate(looks.by_round(row, "message_bytes", 1e-3)[0])) for row in group.rows]
    # Before the first message nothing has been sent, and a logarithmic axis has no place for that.
    _draw(axes, group.rows, sent, [sum(size == 0 for size in sizes) for sizes in sent])
    set_logarithmic(axes)
    axes.set_xlabel("sent since the first round, all bytes counted (kB, logarithmic)")
    _legend(figure, group.rows)
    return figure


def set_logarithmic(axes: "Axes") -> None:
    """Make the horizontal axis logarithmic, with numbers as they are written elsewhere."""
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high < 50 * low else (1,)))
    axes.xaxis.set_major_formatter(looks.WITH_COMMAS)
    axes.xaxis.set_minor_formatter("")


def _draw(axes: "Axes", rows: Sequence[Row], places: Sequence[Sequence[float]], starts: Sequence[int] = ()) -> None:
    """Draw the accuracy of each row at its places, from round `starts` on; what collapses is cut off with a mark."""
    curves = [looks.by_round(row, "served_test_acc", 100) for row in rows]
    far = collapsed([mean for mean, _ in curves])
    low = min(m for (mean, _), cut in zip(curves, far) for m, is_far in zip(mean, cut) if not is_far)
    high = max(m for mean, _ in curves for m in mean)
    bottom = low - 0.06 * max(high - low, 1)
    for number, (row, (mean, std), cut, x) in enumerate(zip(rows, curves, far, places, strict=True)):
        start, name = starts[number] if starts else 0, looks.label(row, rows)
        look = looks.style(number)
        if any(cut):
            ends = sorted({f"{m:.1f}" for m, is_far in zip(mean, cut) if is_far}, key=float)
            name += f"\n▼ cut off: {' to '.join(dict.fromkeys([ends[0], ends[-1]]))} %"
            at = [place for place, is_far in zip(x[start:], cut[start:]) if is_far]
            axes.plot(at, [bottom] * len(at), color=look["color"], linestyle="none", marker=7, markersize=7,
                      clip_on=False)  # fmt: skip
        axes.plot(x[start:], mean[start:], label=name, markevery=-(-len(x) // _MOST_MARKERS), **look)
        if std is not None:
            edges = ([m + sign * s for m, s in zip(mean, std)][start:] for sign in (-1, 1))
            shown = [not is_far for is_far in cut[start:]]
            axes.fill_between(x[start:], *edges, where=shown, color=look["color"], alpha=0.15, linewidth=0)
    if any(map(any, far)):
        axes.set_ylim(bottom, high + 0.04 * (high - bottom))


def collapsed(curves: Sequence[Sequence[float]]) -> list[list[bool]]:
    """Return which points, of each curve, are so far below the best one of their round that they would hide the rest.

    That is more than 10 points, and more than 5 times the median distance of all other points; and only if without
    them the others have half as much room again.
    """
    best = [max(values) for values in zip(*curves)]
    below = [[top - value for top, value in zip(best, curve)] for curve in curves]
    usual = statistics.median([distance for curve in below for distance in curve if distance > 0] or [0])
    most = max(_NEAR, _FAR * usual)
    far = [[distance > most for distance in curve] for curve in below]
    top, least = max(best), min(map(min, curves))
    low = min(value for curve, cut in zip(curves, far) for value, is_far in zip(curve, cut) if not is_far)
    return far if top - least >= _WORTH * (top - low) else [[False] * len(curve) for curve in curves]


def _new(title: str) -> tuple["Figure", "Axes"]:
    figure = looks.new_figure(9, 4.8)
    axes = figure.add_subplot()
    axes.set_title(looks.wrapped(title, 68), fontsize=10, parse_math=False)  # so that it ends before the legend
    axes.set_ylabel("served test accuracy (%)")
    looks.add_grid(axes)
    return figure, axes


def _legend(figure: "Figure", rows: Sequence[Row]) -> None:
    looks.add_legend(figure, "mean over seeds,\nband: ± 1 std" if any(row.n > 1 for row in rows) else None)
