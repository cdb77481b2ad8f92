"""What the values of swept flags lead to: accuracy, bytes, and where a flag is about bytes one against the other."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.run.argument_types import byte_count
from utils.table.ablation import NOT_ITS_OWN
from utils.table.collate import Row, Stat, Sweep
from utils.table.pictures import style as looks
from utils.table.pictures.curves import set_logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ABOUT_BYTES = {"updating_ratio", "pruning_ratio", "byte_budget", "value_bits"}
_WIDE = 20  # the largest value over the smallest one above which the axis of values is logarithmic


def sweep_figure(sweep: Sweep, title: str) -> "Figure":
    """Difference to full updating, and bytes sent, against the values of a flag; bars are a standard deviation.

    Of several flags one is the horizontal axis, and there is a curve for each combination of the others.
    """
    number = _axis(sweep)
    flag, others = sweep.flags[number], [name for i, name in enumerate(sweep.flags) if i != number]
    places, are_numbers = _places(flag, sweep.rows, number)
    curves: dict[tuple, list[Row]] = {}
    for row in sweep.rows:
        curves.setdefault((*row.values[:number], *row.values[number + 1 :]), []).append(row)
    about_bytes = bool(_ABOUT_BYTES & set(sweep.flags))
    figure = looks.new_figure(9 if others else 7.2, 8.2 if about_bytes else 5.6)
    above, below, *more = figure.subplots(3 if about_bytes else 2, 1)
    above.sharex(below)
    # So that the title ends before a legend.
    above.set_title(looks.wrapped(title, 72), fontsize=10, parse_math=False)
    above.tick_params(labelbottom=False)
    for i, (values, rows) in enumerate(curves.items()):
        rows = sorted(rows, key=lambda row: places.get(row.values[number], 0))
        look = {"label": looks.plain(", ".join(v for v in values if v != NOT_ITS_OWN) or "none"), **looks.style(i)}
        for axes, stats in (
            (above, [row.difference for row in rows]),
            (below, [row.sent("message_bytes", 1e-3) for row in rows]),
        ):
            known = [(row.values[number], stat) for row, stat in zip(rows, stats) if stat is not None]
            between = {} if are_numbers else {"linestyle": "none"}  # between words there is nothing
            _bars(axes, [(places[v], stat) for v, stat in known if v in places], {**look, **between})
            for _, stat in (pair for pair in known if pair[0] not in places):  # a method without this flag
                plain = {name: look[name] for name in ("color", "linestyle", "linewidth", "label")}
                axes.axhline(stat.mean, **plain)
        for axes in more:
            over = bool(others) and i % 2 == 0  # curves that lie close do not write over one another
            _accuracy_against_bytes(axes, rows, [row.values[number] for row in rows], look, over)
    above.axhline(0, color="0.6", linewidth=0.8)
    above.set_ylabel("served test accuracy,\ndifference to full updating (points)")
    below.set_ylabel("sent in all rounds (kB)")
    below.yaxis.set_major_formatter(looks.WITH_COMMAS)
    below.set_ylim(0, 1.15 * max(below.get_ylim()[1], 1e-3))
    wide = are_numbers and min(places.values()) > 0 and max(places.values()) > _WIDE * min(places.values())
    if wide:
        below.set_xscale("log")
    below.set_xticks(list(places.values()), list(map(looks.plain, places)))
    below.set_xticks([], minor=True)
    numbers = sorted({row.n for row in sweep.rows})
    spread = f"mean and standard deviation, n = {' or '.join(map(str, numbers))} seeds"
    scale = ", logarithmic" if wide else ""
    below.set_xlabel(f"{flag}{scale}   ({'one seed' if numbers == [1] else spread})")
    below.margins(x=0.1)
    for axes in (above, below, *more):
        looks.add_grid(axes)
    for axes in more:
        _finish(axes, sweep.full)
    if others:
        handles = above.get_legend_handles_labels()
        looks.add_legend(figure, "\n".join(others), *handles)
    return figure


def _axis(sweep: Sweep) -> int:
    """Return which flag is the horizontal axis: of numbers before words, about bytes, then that of most values."""

    def worth(number: int) -> tuple[bool, bool, int]:
        places, are_numbers = _places(sweep.flags[number], sweep.rows, number)
        return are_numbers, sweep.flags[number] in _ABOUT_BYTES, len(places)

    return max(range(len(sweep.flags)), key=worth)


def _places(flag: str, rows: Sequence[Row], number: int) -> tuple[dict[str, float], bool]:
    """Return where values go on an axis, and whether they are numbers; other values go side by side."""
    values = list(dict.fromkeys(row.values[number] for row in rows if row.values[number] != NOT_ITS_OWN))
    try:
        return {value: float(byte_count(value) if flag == "byte_budget" else value) for value in values}, True
    except ValueError:
        return {value: float(place) for place, value in enumerate(values)}, False


def _bars(axes: "Axes", points: Sequence[tuple[float, Stat]], look: dict) -> None:
    if not points:
        return
    places, stats = zip(*points)
    bars = [stat.std or math.nan for stat in stats]  # one seed, or none that differ, have no bar
    axes.errorbar(places, [stat.mean for stat in stats], bars, capsize=4, **look)


def _accuracy_against_bytes(
    axes: "Axes", rows: Sequence[Row], names: Sequence[str], look: dict, over: bool = False
) -> None:
    """Draw what `rows` serve against what they send, each with its name below the point, or `over` it."""
    points = [(row.sent("message_bytes", 1e-3).mean, row.served, name) for row, name in zip(rows, names)]
    points = [point for point in points if point[0] > 0]  # for nothing there is no place on a logarithmic axis
    _bars(axes, [point[:2] for point in points], look)
    for place, stat, name in points:
        near = {"xytext": (5, 5 if over else -11), "textcoords": "offset points"}
        axes.annotate(looks.plain(name), (place, stat.mean), fontsize=8, color=look["color"], **near)


def _finish(axes: "Axes", full: Sequence[Row]) -> None:
    """Add full updating, with all that it sends, and the scales."""
    for row in full:
        look = {**looks.style(0), "color": "0.5", "marker": "*", "markersize": 9}
        _accuracy_against_bytes(axes, [row], [row.name], look)
    axes.margins(x=0.1, y=0.15)
    set_logarithmic(axes)
    axes.set_xlabel("sent in all rounds (kB, logarithmic); beside each point its value")
    axes.set_ylabel("served test accuracy (%)")
