"""What becomes of collated runs: text on stdout, files and figures in a folder."""

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from utils.system.files import write_atomic
from utils.table.collate import Row, collate
from utils.table.records import NotUsable, Record
from utils.table.render import render, render_rounds, render_sweep, sweep_title

FORMATS = {"text": "table.txt", "markdown": "table.md", "csv": "table.csv"}  # and the files that hold them


def present(args: Namespace, records: Sequence[Record], left_out: Sequence[str]) -> None:
    """Print the tables of `records`, and write what --out and --export ask for."""
    groups, doubles = collate(records)
    left_out = [*left_out, *doubles]
    if args.format == "csv":  # which has no place for them
        for line in left_out:
            print(f"left out: {line}", file=sys.stderr)

    def rendered(form: str) -> str:
        return render(groups, left_out, form)

    print(rendered(args.format))
    if args.rounds:
        for group in groups:
            print(f"\n{render_rounds(group)}")
    if args.export:
        _export(records, args.export)
    if args.out:
        from utils.table.plots import save_plots  # with matplotlib, which takes a second

        _write_tables(args.out, rendered)
        for number, group in enumerate(groups, start=1):
            paths, problems = save_plots(group, args.out, f"-{number}" if len(groups) > 1 else "")
            _say_written(paths)
            for problem in problems:
                print(problem, file=sys.stderr)


def present_sweep(args: Namespace, flag: str, rows: Sequence[Row], notes: Sequence[str]) -> None:
    """Print the table of a sweep, and write it with its plot into --out."""
    from utils.table.plots import sweep_figure

    def rendered(form: str) -> str:
        return render_sweep(flag, rows, notes, form)

    print(rendered(args.format))
    _write_tables(args.out, rendered)
    path = args.out / "ablation.png"
    sweep_figure(flag, rows, sweep_title(flag, rows)).savefig(path, dpi=150)
    _say_written([path])
    if args.export:
        _export([run for row in rows for run in [*row.runs, *(pair.full for pair in row.pairs)]], args.export)


def _write_tables(folder: Path, rendered: Callable[[str], str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for form, name in FORMATS.items():
        write_atomic(folder / name, rendered(form) + "\n")
    _say_written([folder / name for name in FORMATS.values()])


def _export(records: Sequence[Record], to: Path) -> None:
    from utils.table.export import export

    for record in {record.folder: record for record in records}.values():
        try:
            _say_written([export(record, to)])
        except NotUsable as reason:
            print(f"not exported: {reason}", file=sys.stderr)


def _say_written(paths: Sequence[Path]) -> None:
    for path in paths:
        print(f"written: {path}", file=sys.stderr)
