"""Figures of collated runs: accuracy over rounds and over bytes, where weights are updated, and sweeps.

Every curve has a line style and a marker of its own, so that all can be told apart without colour.
"""

import math
import statistics
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from utils.system.figures import save_figure
from utils.table.collate import Group, Row
from utils.table.layers import LayerCounts, read_layer_counts
from utils.table.records import NotUsable
from utils.table.render import describe_group

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panel = tuple[Row, list[LayerCounts]]

# The three lists have lengths without a common factor, so hundreds of curves would differ.
_COLORS = ("#000000", "#7b3294", "#1b7837", "#d95f02", "#2166ac", "#8c510a", "#e7298a")
_LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*")


def save_plots(group: Group, folder: Path, suffix: str = "") -> tuple[list[Path], list[str]]:
    """Draw a group's figures into `folder`; returns the paths of those that are there, and why others are not."""
    panels, problems = read_panels(group)
    figures = {"accuracy": partial(accuracy_figure, group), "bytes": partial(bytes_figure, group)}
    if panels:
        figures["layers"] = partial(layers_figure, group, panels)
    paths = []
    for name, draw in figures.items():
        path = folder / f"{name}{suffix}.png"
        if problem := save_figure(path, draw):
            problems.append(problem)
        else:
            paths.append(path)
    return paths, problems


def accuracy_figure(group: Group) -> "Figure":
    """Served test accuracy against the number of samples: mean over seeds, a band of one standard deviation."""
    figure, axes = _new(describe_group(group))
    for number, row in enumerate(group.rows):
        style = _style(number)
        samples = row.runs[0].column("num_samples")
        mean, std = _by_round(row, "served_test_acc", 100)
        axes.plot(samples, mean, label=_label(row), **style)
        _band(axes, samples, mean, std, style)
    axes.set_xlabel("training samples on the server")
    axes.xaxis.set_major_formatter(_with_commas)
    _legend(figure, group.rows)
    return figure


def bytes_figure(group: Group) -> "Figure":
    """Served test accuracy against all bytes sent so far, a marker a round, means over seeds."""
    figure, axes = _new(describe_group(group))
    for number, row in enumerate(group.rows):
        style = _style(number)
        sent, _ = _by_round(row, "message_bytes", 1e-3)
        total, so_far = [], 0.0
        for size in sent:
            so_far += size
            total.append(so_far)
        mean, std = _by_round(row, "served_test_acc", 100)
        # Before the first message nothing has been sent, and a logarithmic axis has no place for that.
        start = next((i for i, size in enumerate(total) if size > 0), len(total))
        axes.plot(total[start:], mean[start:], label=_label(row), **style)
        _band(axes, total[start:], mean[start:], None if std is None else std[start:], style)
    from matplotlib.ticker import LogLocator

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high < 50 * low else (1,)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("sent since the first round, all bytes counted (kB, logarithmic)")
    _legend(figure, group.rows)
    return figure


def read_panels(group: Group) -> tuple[list[Panel], list[str]]:
    """Return what `layers_figure` draws of a group, and why rows are missing that it could show.

    Methods that send all weights, or the same share of every layer, are left out: there is nothing to see.
    """
    panels, problems = [], []
    for row in group.rows:
        if row.runs[0].ratio == "1" or row.runs[0].mode == "rpu":
            continue
        try:
            counts = [read_layer_counts(run) for run in row.counted]
        except NotUsable as reason:
            problems.append(f"{row.name}: no shares by layer: {reason}")
            continue
        expected = panels[0][1][0] if panels else counts[0]
        if all((run.layers, run.weights) == (expected.layers, expected.weights) for run in counts):
            panels.append((row, counts))
        else:
            problems.append(f"{row.name}: no shares by layer: its layers are not those of the other runs")
    return panels, problems


def layers_figure(group: Group, panels: Sequence[Panel]) -> "Figure":
    """The share of each layer's weights that a round updated, a panel a method, means over seeds."""
    from matplotlib.colors import LogNorm

    names = panels[0][1][0].layers
    height = 1.2 + len(panels) * (0.6 + 0.25 * min(len(names), 16))
    figure = _new_figure(8, height)
    title = f"weights sent, % of each layer's, mean over seeds\n{_wrapped(describe_group(group), 90)}"
    figure.suptitle(title, fontsize=10, parse_math=False)
    shares = [_shares(counts) for _, counts in panels]
    positive = [share for panel in shares for layer in panel for share in layer if share > 0] or [1.0]
    # Layers differ by orders of magnitude; a third below the least, as the map's light end cannot be told from white.
    norm = LogNorm(min(positive) / 3, max(positive))
    all_axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (row, _), panel in zip(all_axes, panels, shares, strict=True):
        sent = [[share or math.nan for share in layer] for layer in panel]
        image = axes.imshow(sent, aspect="auto", cmap="Greys", norm=norm, interpolation="nearest")
        axes.set_title(_label(row).replace("\n", " "), fontsize=9)
        step = -(-len(names) // 16)
        axes.set_yticks(range(0, len(names), step), [name.removesuffix(".weight") for name in names[::step]])
    axes.set_xlabel("round")
    axes.xaxis.get_major_locator().set_params(integer=True)
    bar = figure.colorbar(image, ax=list(all_axes), label="% (logarithmic; white: none)")
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return figure


def sweep_figure(flag: str, rows: Sequence[Row], title: str) -> "Figure":
    """Difference to full updating, and bytes sent, against the values of a flag; bars are a standard deviation."""
    figure = _new_figure(7.2, 5.6)
    figure.suptitle(_wrapped(title, 90), fontsize=10, parse_math=False)
    above, below = figure.subplots(2, 1, sharex=True)
    places, are_numbers = _places([row.name for row in rows])
    order = sorted(range(len(rows)), key=places.__getitem__)
    for axes, stats, factor, style in (
        (above, [row.difference for row in rows], 1, _style(0)),
        (below, [row.sent("message_bytes") for row in rows], 1e-3, _style(1)),
    ):
        shown = [(places[i], stats[i]) for i in order if stats[i] is not None]
        axes.errorbar(
            [place for place, _ in shown],
            [factor * stat.mean for _, stat in shown],
            [math.nan if stat.std is None else factor * stat.std for _, stat in shown],  # one seed has no bar
            capsize=4,
            **(style if are_numbers else {**style, "linestyle": "none"}),
        )
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    above.axhline(0, color="0.6", linewidth=0.8)
    above.set_ylabel("served test accuracy,\ndifference to full updating (points)")
    below.set_ylabel("sent in all rounds (kB)")
    below.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    below.set_ylim(0, 1.15 * max(below.get_ylim()[1], 1e-3))
    if are_numbers and min(places) > 0 and max(places) > 20 * min(places):
        below.set_xscale("log")
    below.set_xticks(places, [_plain(row.name) for row in rows])
    below.set_xticks([], minor=True)
    numbers = sorted({row.n for row in rows})
    spread = f"mean and standard deviation, n = {' or '.join(map(str, numbers))} seeds"
    below.set_xlabel(f"{flag}   ({'one seed' if numbers == [1] else spread})")
    below.margins(x=0.1)
    return figure


def _new_figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # takes a second, so only once something is drawn

    return Figure(figsize=(width, height), layout="constrained")


def _new(title: str) -> tuple["Figure", "Axes"]:
    figure = _new_figure(9, 4.8)
    axes = figure.add_subplot()
    axes.set_title(_wrapped(title, 68), fontsize=10, parse_math=False)  # so that it ends before the legend
    axes.set_ylabel("served test accuracy (%)")
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    return figure, axes


def _legend(figure: "Figure", rows: Sequence[Row]) -> None:
    """Name the curves beside the axes: between them there is no place that is always free."""
    title = "mean over seeds,\nband: ± 1 std" if any(row.n > 1 for row in rows) else None
    looks = {"frameon": False, "fontsize": 9, "title_fontsize": 9, "handlelength": 4, "alignment": "left"}
    figure.legend(loc="outside right upper", title=title, **looks)


def _style(number: int) -> dict:
    looks = {"color": _COLORS, "linestyle": _LINES, "marker": _MARKERS}
    return {"markersize": 5, "linewidth": 1.4, **{name: ways[number % len(ways)] for name, ways in looks.items()}}


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width))


def _with_commas(value: float, _: int) -> str:
    return f"{value:,.0f}"


def _label(row: Row) -> str:
    ratio = row.runs[0].settings["updating_ratio"]
    words = f"{row.name}{'' if ratio == 1 else f', k_=_{ratio:g}'} (n_=_{row.n})"
    return _plain("\n".join(line.replace("_=_", " = ") for line in textwrap.wrap(words, 34)))


def _plain(text: str) -> str:
    """Return a name as it is written, where matplotlib would take what is between dollars for a formula."""
    return text.replace("$", r"\$")


def _band(axes: "Axes", x: Sequence[float], mean: Sequence[float], std: Sequence[float] | None, style: dict) -> None:
    if std is not None:
        low, high = ([m + sign * s for m, s in zip(mean, std)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _by_round(row: Row, column: str, factor: float) -> tuple[list[float], list[float] | None]:
    by_round = [[factor * value for value in values] for values in zip(*(run.column(column) for run in row.counted))]
    std = None if row.n < 2 else [statistics.stdev(values) for values in by_round]
    return [statistics.fmean(values) for values in by_round], std


def _shares(counts: Sequence[LayerCounts]) -> list[list[float]]:
    """Return the percentage of each layer's weights that each round sent, the mean of several runs."""
    rounds = range(len(counts[0].updated))
    return [
        [100 * statistics.fmean(run.updated[number][i] for run in counts) / weights for number in rounds]
        for i, weights in enumerate(counts[0].weights)
    ]


def _places(values: Sequence[str]) -> tuple[list[float], bool]:
    """Return where values go on an axis, and whether they are numbers; other values go side by side."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return list(map(float, range(len(values)))), False
    return numbers, True
