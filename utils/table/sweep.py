"""The runs behind a table: which are there, which are missing, and the tables and plots of what comes of them."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import fill

from data.errors import DatasetError
from utils.run.results import made_by_other_code
from utils.system.own_code import own_sources, recorded_sources
from utils.system.processes import StopAsked, interrupts_wait
from utils.system.terminal import printable
from utils.table.ablation import Ablation, describe_epochs
from utils.table.collate import Row, Sweep, make_row, notes_on
from utils.table.commands import Command
from utils.table.jobs import Failure, Job, run_all
from utils.table.records import NotUsable, Record, read_record


def find_jobs(commands: Sequence[Command], download: bool = True) -> list[Job]:
    """Return the runs that `commands` make, in their folders. Exits, or raises UserError, for what they refuse."""
    settings = [command.settings for command in commands]
    with interrupts_wait():  # torch takes seconds to load, so only once all flags are right
        from utils.run.identity import find_runs

    return [Job(command, *run) for command, run in zip(commands, find_runs(settings, download), strict=True)]


def missing_among(jobs: Sequence[Job]) -> list[Job]:
    """Return what has to be run, each folder once."""
    return [job for job in _unique(jobs) if not job.finished or job.command.settings.overwrite]


def _unique(jobs: Sequence[Job]) -> list[Job]:
    """Return the first job of each folder: of a swept run and full updating, which may be the same, the swept one."""
    first: dict[Path, Job] = {}
    for job in jobs:
        first.setdefault(job.folder, job)
    return list(first.values())


def list_commands(commands: Sequence[Command]) -> None:
    """Print the commands that are missing, one a line; all of them where the data is not on this machine."""
    try:
        jobs = find_jobs(commands, download=False)
    except DatasetError as error:
        print(f"all {len(commands)} commands, as the data cannot be read here: {error}", file=sys.stderr)
        print(*commands, sep="\n")
        return
    missing = missing_among(jobs)
    total = len({job.folder for job in jobs})
    print(f"{total} runs, {total - len(missing)} of them finished", file=sys.stderr)
    for job in missing:
        print(job.command)


def run_missing(jobs: Sequence[Job], num_parallel: int, quiet: bool) -> list[Failure]:
    """Run what is missing; on an interrupt, end all runs and exit with the signal's status."""
    unique = _unique(jobs)
    try:
        return run_all(unique, missing_among(unique), num_parallel, quiet)
    except StopAsked as stop:
        again = " without --overwrite" if any(job.command.settings.overwrite for job in jobs) else ""
        print(f"interrupted: the same command{again} goes on from the runs' last checkpoints", file=sys.stderr)
        sys.exit(128 + stop.number)


def read_finished(
    jobs: Sequence[Job], failures: Sequence[Failure], anew: str
) -> tuple[dict[Path, Record], list[str]]:
    """Return the records of the runs that finished, by folder, and what is left out and why.

    anew  which runs --overwrite makes anew, for a line on those that other code made
    """
    failed = {failure.job.folder: failure for failure in failures}
    records, left_out = {}, []
    for job in _unique(jobs):
        failure = failed.get(job.folder)
        if failure is not None and job.command.settings.overwrite:  # what is there is not what was asked for
            left_out.append(str(failure))
            continue
        try:
            records[job.folder] = read_record(job.folder)
        except NotUsable as reason:
            left_out.append(str(failure or f"{job.name}: {reason}"))
    codes = [
        made_by_other_code(run.summary.get("code"), recorded_sources(run.config), own_sources(run.config))
        for run in records.values()
    ]
    for other, count in Counter(filter(None, codes)).items():
        runs = f"{count} of {len(codes)} runs {'were' if count > 1 else 'was'} made by {printable(other)}"
        print(fill(f"{runs}: --overwrite makes {anew} anew", 80, subsequent_indent="  "), file=sys.stderr)
    return records, left_out


def collect(ablation: Ablation, jobs: Sequence[Job], records: dict[Path, Record]) -> Sweep:
    """Return a row for each combination of values with finished runs, and for full updating; `jobs` are all runs."""
    swept, full = jobs[: len(ablation.swept)], jobs[len(ablation.swept) :]
    fulls = [records[job.folder] for job in full if job.folder in records]
    rows, already = _rows(swept, records, fulls), {job.folder for job in swept}
    beside = _rows([job for job in full if job.folder not in already], records, fulls)
    notes = [*ablation.notes, *_twins(swept), *notes_on([*rows, *beside])]
    return Sweep(ablation.flags, rows, beside, notes, describe_epochs(job.command for job in jobs))


def _rows(jobs: Sequence[Job], records: dict[Path, Record], fulls: Sequence[Record]) -> list[Row]:
    by_label: dict[str, list[Job]] = {}
    for job in _unique(jobs):  # a value may be given twice, as 0 and 0.0
        if job.folder in records:
            by_label.setdefault(job.command.label, []).append(job)
    return [
        make_row(label, [records[job.folder] for job in same], fulls, values=same[0].command.values)
        for label, same in by_label.items()
    ]


def _twins(jobs: Sequence[Job]) -> list[str]:
    """Return lines on swept values that stand for the runs of earlier ones, and so have no row of their own."""
    first = {job.folder: job.command.label for job in _unique(jobs)}
    pairs = dict.fromkeys((job.command.label, first[job.folder]) for job in jobs)
    return [f"{label}: the same runs as {other}" for label, other in pairs if label != other]
