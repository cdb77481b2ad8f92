"""The share of each layer's weights that a round sent, a panel a method."""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from utils.modes import MODES
from utils.table.collate import Group, Row, row_labels
from utils.table.pictures import style as looks
from utils.table.pictures.layers import LayerCounts, read_layer_counts
from utils.table.records import NotUsable
from utils.table.render import describe_group

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Panel = tuple[Row, list[LayerCounts]]


def read_panels(group: Group) -> tuple[list[Panel], dict[str, list[str]], list[str]]:
    """Return the rows with a panel; why others have none, and which these are; and what could not be read, in full."""
    panels: list[Panel] = []
    without: dict[str, list[str]] = {}
    problems = []
    for row, name in zip(group.rows, row_labels(group.rows)):
        if row.runs[0].ratio == "1":
            without.setdefault("sends all weights of every layer", []).append(name)
            continue
        if MODES[row.runs[0].mode].kind == "random":
            without.setdefault("sends the same share of every layer", []).append(name)
            continue
        try:
            counts = [read_layer_counts(run) for run in row.counted]
            first = panels[0][1][0] if panels else counts[0]
            if any((run.layers, run.weights) != (first.layers, first.weights) for run in counts):
                raise NotUsable("its layers are not those of the other runs")
        except NotUsable as reason:
            problems.append(f"{row.name}: no shares by layer: {reason}")
            without.setdefault("its messages cannot be read, or do not fit", []).append(name)
        else:
            panels.append((row, counts))
    return panels, without, problems


def layers_figure(group: Group, panels: Sequence[Panel], without: dict[str, list[str]]) -> "Figure":
    """The share of each layer's weights that a round updated, a panel a method, means over seeds."""
    from matplotlib.colors import LogNorm

    names = panels[0][1][0].layers
    height = 1.4 + len(panels) * (0.6 + 0.25 * min(len(names), 16)) + 0.15 * len(without)
    figure = looks.new_figure(8, height)
    mean = ", mean over seeds" if any(row.n > 1 for row, _ in panels) else ""
    title = f"weights sent, % of each layer's{mean}\n{looks.wrapped(describe_group(group), 90)}"
    figure.suptitle(title, fontsize=10, parse_math=False)
    shares = [_shares(counts) for _, counts in panels]
    positive = [share for panel in shares for layer in panel for share in layer if share > 0] or [1.0]
    # Layers differ by orders of magnitude; a third below the least, as the map's light end cannot be told from white.
    norm = LogNorm(min(positive) / 3, max(positive))
    all_axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
    for axes, (row, _), panel in zip(all_axes, panels, shares, strict=True):
        sent = [[share or math.nan for share in layer] for layer in panel]
        image = axes.imshow(sent, aspect="auto", cmap="Greys", norm=norm, interpolation="nearest")
        axes.set_title(looks.label(row, group.rows).replace("\n", " "), fontsize=9)
        step = -(-len(names) // 16)
        axes.set_yticks(range(0, len(names), step), [name.removesuffix(".weight") for name in names[::step]])
    axes.set_xlabel("round")
    axes.xaxis.get_major_locator().set_params(integer=True)
    bar = figure.colorbar(image, ax=list(all_axes), label="% (logarithmic,\nwhite: none)")
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if without:
        lines = [f"No panel for {', '.join(rows)}: {reason}." for reason, rows in without.items()]
        text = "\n".join(looks.wrapped(line, 105) for line in lines)
        figure.supxlabel(text, x=0.01, ha="left", fontsize=8, parse_math=False)
    return figure


def _shares(counts: Sequence[LayerCounts]) -> list[list[float]]:
    """Return the percentage of each layer's weights that each round sent, the mean of several runs."""
    rounds = range(len(counts[0].updated))
    return [
        [100 * statistics.fmean(run.updated[number][i] for run in counts) / weights for number in rounds]
        for i, weights in enumerate(counts[0].weights)
    ]
