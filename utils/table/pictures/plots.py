"""The figures of a table, as files."""

from functools import partial
from pathlib import Path

from utils.system.figures import save_figure
from utils.table.collate import Group
from utils.table.pictures.curves import accuracy_figure, bytes_figure
from utils.table.pictures.shares import layers_figure, read_panels


def save_plots(group: Group, folder: Path, suffix: str = "") -> tuple[list[Path], list[str]]:
    """Draw a group's figures into `folder`; returns the paths of those that are there, and why others are not."""
    panels, without, problems = read_panels(group)
    figures = {"accuracy": partial(accuracy_figure, group), "bytes": partial(bytes_figure, group)}
    if panels:
        figures["layers"] = partial(layers_figure, group, panels, without)
    paths = []
    for name, draw in figures.items():
        path = folder / f"{name}{suffix}.png"
        if problem := save_figure(path, draw):
            problems.append(problem)
        else:
            paths.append(path)
    return paths, problems
