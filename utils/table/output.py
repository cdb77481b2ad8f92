"""What becomes of collated runs: text on stdout, tables and plots in a folder, runs in the form to be committed."""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from utils.run.flags import ALIASES, FLAGS
from utils.run.folder import config_digest
from utils.system.errors import UsageError
from utils.system.figures import save_figure
from utils.system.files import write_atomic
from utils.system.references import label_of
from utils.system.terminal import printable
from utils.table.collate import Group, Row, Sweep, collate
from utils.table.commands import flag_of, joined, split_flags, value_of
from utils.table.pictures.curves import accuracy_figure, bytes_figure
from utils.table.pictures.layers import FILE, as_csv, read_layer_counts
from utils.table.pictures.shares import layers_figure, read_panels
from utils.table.pictures.sweeps import sweep_figure
from utils.table.records import NotUsable, Record, read_bytes
from utils.table.render import describe_group, render, render_sweep, sweep_title
from utils.table.views import render_link, render_rounds, render_side_by_side

FORMATS = {"text": "table.txt", "markdown": "table.md", "csv": "table.csv"}  # and the files that hold them
_PLACES = {name for flag in FLAGS.values() if flag.place for name in (flag.name, *ALIASES.get(flag.name, ()))}


def present(args: Namespace, records: Sequence[Record], left_out: Sequence[str]) -> bool:
    """Print the tables of `records`, write what --out and --export ask for; return whether all runs were exported."""
    groups, doubles = collate(records)
    left_out = [*left_out, *doubles]
    rendered = partial(render_side_by_side if args.side_by_side else render, groups, left_out)
    _print(args, rendered, [(describe_group(group), group.rows) for group in groups], left_out)
    exported = not args.export or _export_all(records, args.export)
    if args.out:
        _write_tables(args.out, rendered)
        for number, group in enumerate(groups, start=1):
            paths, problems = save_plots(group, args.out, f"-{number}" if len(groups) > 1 else "")
            _note([*(f"written: {path}" for path in paths), *problems])
    return exported


def present_sweep(args: Namespace, sweep: Sweep, left_out: Sequence[str]) -> bool:
    """Print the table of a sweep, and write it with its plot into --out; return whether all runs were exported."""
    sweep.notes += [f"left out: {line}" for line in left_out]
    rendered, title = partial(render_sweep, sweep), sweep_title(sweep)
    _print(args, rendered, [(title, sweep.all_rows)], left_out)
    _write_tables(args.out, rendered)
    path = args.out / "ablation.png"
    problem = save_figure(path, lambda: sweep_figure(sweep, title))
    _note([f"warning: {problem}" if problem else f"written: {path}"])
    runs = [run for row in sweep.all_rows for run in [*row.runs, *(pair.full for pair in row.pairs)]]
    return not args.export or _export_all(runs, args.export)


def _print(
    args: Namespace,
    rendered: Callable[[str], str],
    tables: Sequence[tuple[str, Sequence[Row]]],
    left_out: Sequence[str],
) -> None:
    """Print what --format, --rounds and --link ask for; `tables` are titles and rows."""
    if args.format == "csv":  # which has no place for them
        _note(f"left out: {line}" for line in left_out)
    print(rendered(args.format))
    views = [render_rounds] if args.rounds else []
    views += [partial(render_link, link=args.link)] if args.link else []
    for view in views:
        for title, rows in tables:
            print(f"\n{view(title, rows)}")


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
            problems.append(f"warning: {problem}")
        else:
            paths.append(path)
    return paths, problems


def export(record: Record, to: Path) -> Path:
    """Write config.json, rounds.csv, summary.json and layers.csv of a run below `to`; returns the new folder.

    Raises NotUsable if the messages cannot be read, UsageError in place of overwriting the run itself, OSError if a
    file cannot be written.
    """
    folder = to / record.folder.resolve().name
    if folder.resolve() == record.folder.resolve():
        raise UsageError(f"{folder} is the run itself: name another folder")
    config, files = without_paths(record.config), {FILE: as_csv(read_layer_counts(record))}
    for name in ("rounds.csv", "summary.json"):
        files[name] = read_bytes(record.folder / name)
    files["config.json"] = json.dumps(config, indent=2) + "\n"
    digest = config_digest(config)  # without the folders of a user's files it may be another one
    if record.summary.get("config_digest", digest) != digest:
        files["summary.json"] = json.dumps({**record.summary, "config_digest": digest}, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomic(folder / name, content)
    return folder


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json that does not tell where files lay; of a data set's path its name stays."""
    settings = {name: value for name, value in config["settings"].items() if name not in _PLACES}
    settings["dataset"] = Path(settings["dataset"]).name
    settings |= {name: label_of(settings[name]) for name in ("model", "criterion") if settings.get(name)}
    starts = [_start_without_paths(start) for start in config.get("starts") or []]
    return {**_start_without_paths(config), "settings": settings, **({"starts": starts} if starts else {})}


def _start_without_paths(start: dict[str, Any]) -> dict[str, Any]:
    """Return what is recorded of a start of a run, or the whole config.json, without what tells of this machine."""
    kept = {name: value for name, value in start.items() if name != "platform"}
    return {**kept, "command": _command(start.get("command", []))}


def _command(words: list[str]) -> list[str]:
    pieces = [words[:1]]
    for piece in split_flags(words[1:]):
        if flag_of(piece) == "dataset":
            piece = ["--dataset", Path(value_of(piece)).name]
        elif flag_of(piece) in ("model", "criterion"):
            piece = [f"--{flag_of(piece)}", label_of(value_of(piece))]
        if flag_of(piece) not in _PLACES:
            pieces.append(piece)
    return joined(pieces)


def _export_all(records: Sequence[Record], to: Path) -> bool:
    """Export each run once, say what becomes of it, and return whether all were written."""
    done: dict[str, Path] = {}
    different = {record.folder: record for record in records}.values()
    for record in different:
        if record.name in done:
            _note([f"not exported: {record.folder} has the name of {done[record.name]}"])
            continue
        try:
            _note([f"written: {export(record, to)}"])
            done[record.name] = record.folder
        except (NotUsable, UsageError, ValueError, RecursionError) as reason:
            named = str(reason).startswith(f"{record.name} ")
            _note([f"not exported: {reason}" if named else f"not exported: {record.name}: {reason}"])
    return len(done) == len(different)


def _write_tables(folder: Path, rendered: Callable[[str], str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for form, name in FORMATS.items():
        write_atomic(folder / name, rendered(form) + "\n")
        _note([f"written: {folder / name}"])


def _note(lines) -> None:
    for line in lines:
        print(printable(line), file=sys.stderr)
