"""Stop runs at random moments, again and again, and compare what the same command ends with; needs Linux.

python -m tests.run.campaign kills --count 100      SIGKILL
python -m tests.run.campaign signals --count 40     SIGTERM, SIGHUP, SIGUSR1, SIGINT
python -m tests.run.campaign power_cuts --count 50  and what was not synced is lost; of edge nodes, too

Methods and settings change from run to run. Every run must end with the rounds, messages, networks and
metrics of one that was never stopped; no round that was printed, and no message that was said to be applied, may be lost.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.run.power_cut import ForgetfulDisk
from tests.script_runs import RUNS, SMALL, metrics_of, weights_of, without_time
from utils.edge import EdgeNode
from utils.edge import program as edge

MORE = ("", "--value_bits 6", "--batch_norm", "--value_bits 8 --batch_norm", "--value_bits 16")
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGINT)
MOST_STOPS = 5  # of one run, which then ends in peace
_context = multiprocessing.get_context("fork")  # so that torch is loaded once


@dataclass(frozen=True)
class Expected:
    """What a run comes to that is never stopped, how long it takes, and how often it asks something of the disk."""

    folder: Path
    seconds: float
    events: int


def start(work: Path, disk: ForgetfulDisk | None, last: int, main, *argv: str):
    """Return a process, just started, that runs a program, with what it prints in work/log."""

    def child():
        number = os.open(work / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(number, 1)
        os.dup2(number, 2)
        if disk is not None:
            disk.watch(last)
        main(list(argv))

    process = _context.Process(target=child)
    process.start()
    return process


def program(name: str, more: str, work: Path, disk: ForgetfulDisk | None = None, last: int = 0):
    """Start the run `name` with `more` flags in work/disk/runs."""
    script, mode = RUNS[name]
    argv = [*mode.split(), *SMALL, *more.split(), "--output_dir", str(work / "disk" / "runs"), "--quiet"]
    return start(work, disk, last, script.main, *argv, "--checkpoint_interval", "0")


@cache
def expected(name: str, more: str) -> Expected:
    work = Path(tempfile.mkdtemp(dir=_scratch()))
    (work / "disk").mkdir()
    disk, began = ForgetfulDisk(work / "disk", work / "beside"), time.monotonic()
    process = program(name, more, work, disk)
    process.join()
    assert process.exitcode == 0, (work / "log").read_text()
    (folder,) = (work / "disk" / "runs").iterdir()
    return Expected(folder, time.monotonic() - began, disk.events)


@cache
def _scratch() -> str:
    return tempfile.mkdtemp(prefix="campaign-")


def rounds_in(log: str) -> int:
    """Return how many rounds a log says are done, over all starts of a run; infinite for all and the results."""
    if "average test accuracy" in log:
        return math.inf
    return 1 + max(map(int, re.findall(r"^round +(\d+) of", log, re.MULTILINE)), default=-1)


def check_nothing_lost(log: str, done: int) -> None:
    """Raise AssertionError if a start of a run knows less than an earlier one, which said that `done` rounds are."""
    resumed = re.search(r"^resuming at round (\d+)", log, re.MULTILINE)
    if resumed or rounds_in(log):
        began = math.inf if "this run is finished" in log else int(resumed[1]) if resumed else 0
        assert began >= done, f"{done} rounds were done"


def one_run(kind: str, rng: random.Random, stops: Counter, most: int) -> None:
    """Stop a run up to `most` times, and compare it in the end. Raises AssertionError."""
    name, more = rng.choice(sorted(RUNS)), rng.choice(MORE)
    whole, work = expected(name, more), Path(tempfile.mkdtemp(dir=_scratch()))
    (work / "disk").mkdir()
    disk = ForgetfulDisk(work / "disk", work / "beside") if kind == "power_cuts" else None
    stopped, done = 0, 0
    while True:
        calm = stopped >= most
        last = 0 if calm or disk is None else rng.randint(1, whole.events)
        process = program(name, more, work, disk, last)
        if disk is None and not calm:
            process.join(rng.uniform(0, whole.seconds))
            number = signal.SIGKILL if kind == "kills" else rng.choice(SIGNALS)
            if process.exitcode is None:
                os.kill(process.pid, number)
        process.join(300)
        log, status = (work / "log").read_text(), process.exitcode
        where = f"{kind}: {name} {more}, stopped {stopped} times, status {status}, in {work}:\n{log}"
        assert status is not None and "Traceback" not in log, where
        check_nothing_lost(log, done)
        if status == 0:
            break
        stopped += 1
        if kind == "signals":
            ways = {-number: "before it began", 128 + number: "in one line"}
            assert status in ways, where
            stops[f"{number.name}, {ways[status]}"] += 1
            says = "interrupted: " if number == signal.SIGINT else f"stopped by {number.name}: a checkpoint is saved"
            assert status < 0 or log.splitlines()[-1].startswith(says), where
        else:
            assert status == -signal.SIGKILL, where
            stops[name] += 1
        done = max(done, rounds_in(log))
        if disk is not None:
            disk.cut(rng)
    (folder,) = (work / "disk" / "runs").iterdir()
    assert without_time(folder) == without_time(whole.folder), where
    assert weights_of(folder) == weights_of(whole.folder), where
    assert metrics_of(folder) == metrics_of(whole.folder), where
    assert json.loads((folder / "config.json").read_text())["starts"], where
    shutil.rmtree(work)


def one_node(rng: random.Random, stops: Counter, most: int) -> None:
    """Cut an edge node's power while it applies the messages of a run, up to `most` times. Raises AssertionError."""
    run, work = expected(rng.choice(sorted(RUNS)), "").folder, Path(tempfile.mkdtemp(dir=_scratch()))
    node, messages = work / "disk" / "node.safetensors", sorted(map(str, (run / "updates").iterdir()))
    EdgeNode.shipped(run / "initial.safetensors").save(work / "whole.safetensors")
    (work / "disk").mkdir()
    shutil.copyfile(work / "whole.safetensors", node)
    start(work, None, 0, edge.main, "apply", "--node", str(work / "whole.safetensors"), *messages).join()
    disk, stopped = ForgetfulDisk(work / "disk", work / "beside"), 0
    while True:
        last = 0 if stopped >= most else rng.randint(1, 8 * len(messages))
        process = start(work, disk, last, edge.main, "apply", "--node", str(node), *messages)
        process.join(60)
        log = (work / "log").read_text()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL and "Traceback" not in log, log
        stopped += 1
        stops["edge node"] += 1
        disk.cut(rng)
        applied = [int(number) for number in re.findall(r"applied, round (\d+)", log)]
        assert EdgeNode.load(node).round >= max(applied, default=-1), f"lost what was said to be applied: {log}"
    assert node.read_bytes() == (work / "whole.safetensors").read_bytes(), run
    shutil.rmtree(work)


def campaign(kind: str, count: int, seed: int = 0) -> Counter:
    """Stop runs `count` times; return how often which. Raises AssertionError for a run that ends otherwise."""
    rng, stops = random.Random(seed), Counter()
    while (left := count - stops.total()) > 0:
        most = min(rng.randint(1, MOST_STOPS), left)
        if kind == "power_cuts" and rng.random() < 0.25:
            one_node(rng, stops, most)
        else:
            one_run(kind, rng, stops, most)
    return stops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("kills", "signals", "power_cuts"))
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    began = time.monotonic()
    stops = campaign(args.kind, args.count, args.seed)
    print(f"{stops.total()} {args.kind} in {time.monotonic() - began:.0f} s, every run ended with the same bytes:")
    for name, number in sorted(stops.items()):
        print(f"  {number:4}  {name}")
    shutil.rmtree(_scratch())


if __name__ == "__main__":
    main()
