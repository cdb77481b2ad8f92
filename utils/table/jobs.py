"""Several runs of the scripts at once, each a process with a log file, under one progress bar."""

import csv
import io
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from tqdm import tqdm

from utils.modes import MODES
from utils.rewinding import num_steps
from utils.system.files import unlinked
from utils.system.processes import end_with_parent, stop_request, time_of_all
from utils.system.terminal import printable
from utils.table.commands import Command
from utils.table.records import read_bytes
from utils.training.recipes import recipe_for

ROOT = Path(__file__).resolve().parents[2]
_POLL = 0.2  # seconds between looks at the processes
_PATIENCE = 10  # seconds that runs have to end when they are told to


@dataclass(frozen=True)
class Job:
    """A run to be made: its command, its folder, the samples of every round."""

    command: Command
    folder: Path
    num_samples: list[int]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def log(self) -> Path:
        return self.folder.parent / "logs" / f"{self.name}.log"

    @property
    def finished(self) -> bool:
        return (self.folder / "summary.json").exists()

    @cached_property
    def work(self) -> list[float]:
        """What every round costs, in samples trained on."""
        given, two_steps = self.command.settings, MODES[self.command.settings.mode].two_steps
        # The number of weights is not known here. That of rewindings hardly depends on it, unless bytes have a budget.
        steps = num_steps(two_steps, 1_000_000, vars(given))
        recipe = recipe_for(given.model, two_steps, num_epochs=given.num_epochs)
        epochs = given.total_epochs or steps * recipe.num_epochs
        return [samples * epochs for samples in self.num_samples]

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """What runs of the same pace have in common, the closest first."""
        return self.command.label, self.command.settings.mode

    def seconds(self) -> list[float]:
        """The duration of every round that is done."""
        try:
            rows = csv.DictReader(io.StringIO(read_bytes(self.folder / "rounds.csv").decode()))
            return [float(row["seconds"]) for row in rows]
        except (OSError, ValueError, KeyError, TypeError, csv.Error):
            return []


@dataclass(frozen=True)
class Failure:
    """A run that ended without a result."""

    job: Job
    status: int

    def __str__(self) -> str:
        ended = f"killed by signal {-self.status}" if self.status < 0 else f"exit status {self.status}"
        return f"{self.job.name} failed ({ended}): {_last_line(self.job.log)} (log: {self.job.log})"


def run_all(jobs: Sequence[Job], missing: Sequence[Job], num_parallel: int, quiet: bool) -> list[Failure]:
    """Run what is `missing` among `jobs`, `num_parallel` at a time, and return what failed.

    On Ctrl-C, or another signal that asks to stop, all runs are ended, and StopAsked is raised once they have ended:
    the same call goes on from their last checkpoints.
    """
    waiting, running, failures = list(missing), {}, []
    progress = Progress(jobs, missing, num_parallel, quiet)
    with stop_request() as request:
        try:
            while (waiting or running) and request.number is None:
                while waiting and len(running) < num_parallel:
                    job = waiting.pop(0)
                    running[_start(job)] = job
                    progress.started(job)
                time.sleep(_POLL)
                ended = [process for process in running if process.poll() is not None]
                progress.look([running[process] for process in ended])
                for process in ended:
                    job = running.pop(process)
                    if process.returncode != 0 or not job.finished:
                        failures.append(Failure(job, process.returncode))
                        tqdm.write(str(failures[-1]), file=sys.stderr)
                    elif not quiet:
                        tqdm.write(f"finished: {job.name}", file=sys.stderr)
                progress.show(list(running.values()), waiting)
        except KeyboardInterrupt:
            request.number = signal.SIGINT
        finally:
            _stop(list(running))
            progress.close(leave=request.number is None)
    request.check()
    return failures


class Progress:
    """One bar over the rounds of all runs, with the time left; lines in its place where there is no terminal."""

    def __init__(self, jobs: Sequence[Job], missing: Sequence[Job], num_parallel: int, quiet: bool):
        self._jobs, self._num_parallel = jobs, num_parallel
        # What is run anew or not at all has no rounds yet, whatever its folder holds from before.
        self._seconds = {job.folder: job.seconds() for job in jobs if job not in missing or not job.finished}
        self._since: dict[Path, float] = {}  # when each running run began its round, or its process
        self._found: dict[Path, int] = {}  # how many rounds it had then
        self._starting: list[float] = []  # how long processes took before their first round
        self._bar = tqdm(
            total=sum(len(job.num_samples) for job in jobs),
            initial=self.rounds_done,
            disable=quiet or not sys.stderr.isatty(),
            dynamic_ncols=True,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} rounds [{elapsed}{postfix}]",
        )

    @property
    def rounds_done(self) -> int:
        return sum(map(len, self._seconds.values()))

    def started(self, job: Job) -> None:
        """Note that the process of a run has just begun."""
        self._since[job.folder] = time.monotonic()
        self._found[job.folder] = len(self._seconds.get(job.folder, []))

    def look(self, ended: Sequence[Job]) -> None:
        """Look how far the runs are; those that have just `ended` once more."""
        if self._bar.disable:
            return
        for job in self._jobs:
            if job.finished and job not in ended:
                continue
            before, now = self._seconds.get(job.folder, []), job.seconds()
            if len(now) > len(before) and job.folder in self._since:
                if len(before) == self._found[job.folder]:
                    passed = time.monotonic() - self._since[job.folder]
                    self._starting.append(max(0, passed - sum(now[len(before) :])))
                self._since[job.folder] = time.monotonic()
            self._seconds[job.folder] = now

    def show(self, running: Sequence[Job], waiting: Sequence[Job]) -> None:
        """Draw the bar."""
        seconds = None if self._bar.disable else self.left(running, waiting)
        left = "?" if seconds is None else tqdm.format_interval(seconds)
        self._bar.n = self.rounds_done
        self._bar.set_postfix_str(f"{left} left, {len(running)} running, {len(waiting)} waiting")

    def close(self, leave: bool = True) -> None:
        """End the bar; what it shows stays if the runs have ended."""
        self._bar.n, self._bar.leave = self.rounds_done, leave
        self._bar.close()

    def left(self, running: Sequence[Job], waiting: Sequence[Job]) -> float | None:
        """Return the seconds until all runs have ended, each at the pace of its kind; None: no round is done yet."""
        paces = self._paces()
        if not paces:
            return None
        starting = sum(self._starting) / len(self._starting) if self._starting else 0.0
        going = []
        for job in running:
            this, *later = self._rounds_left(job, paces) or [0.0]
            passed = time.monotonic() - self._since[job.folder]
            if len(self._seconds.get(job.folder, [])) == self._found[job.folder]:
                passed -= starting
            slower = max(1, passed / this) if this else 1  # a round that takes longer than expected
            going.append(max(0, this - passed) + slower * sum(later))
        later = [starting + sum(self._rounds_left(job, paces)) for job in waiting]
        return time_of_all(going, later, self._num_parallel)

    def _rounds_left(self, job: Job, paces: dict[str, float]) -> list[float]:
        """Return how long each round takes that a run has before it."""
        pace = next(paces[kind] for kind in (*job.kinds, "") if kind in paces)
        return [pace * work for work in job.work[len(self._seconds.get(job.folder, [])) :]]

    def _paces(self) -> dict[str, float]:
        """Return the seconds that a sample takes, by kind of run; those of all runs under the empty name."""
        spent, done = defaultdict(float), defaultdict(float)
        for job in self._jobs:
            seconds = self._seconds.get(job.folder, [])
            for kind in (*job.kinds, "") if seconds else ():
                spent[kind] += sum(seconds)
                done[kind] += sum(job.work[: len(seconds)])
        return {kind: spent[kind] / done[kind] for kind in done}


def _start(job: Job) -> subprocess.Popen:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with open(job.log, "a", encoding="utf-8", errors="surrogateescape", opener=unlinked) as log:
        log.write(f"$ {job.command}\n")
        log.flush()
        return subprocess.Popen(
            [sys.executable, str(ROOT / job.command.script), *job.command.flags, "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},  # so that the last line of the log is the last one written
            start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on
            preexec_fn=partial(end_with_parent, signal.SIGTERM) if sys.platform == "linux" else None,
        )


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    """End runs at once: whatever the moment, the next start goes on from their last checkpoints."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").split("\n")
    except OSError as error:
        return str(error)
    return next((printable(line.strip()) for line in reversed(lines) if line.strip()), "no output")
