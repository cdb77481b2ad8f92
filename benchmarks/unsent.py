"""What rounds that sent nothing could have sent: `python -m benchmarks.unsent RUN_FOLDER [--rounds N ...]`.

After a run's last message each round starts at the line, the network that the messages make. Here it is trained as in
the run, and each candidate, the network after an epoch of the last step, is tested, too, which no run does.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.command_line import one_line
from data.arrival import Arrival
from data.datasets import split_validation
from utils.edge import EdgeNode
from utils.edge.run_files import message_files
from utils.link import Link, Outgoing
from utils.message.base import Base
from utils.modes import MODES
from utils.run.argument_types import whole
from utils.run.folder import RunFolder
from utils.run.identity import read_dataset
from utils.run.plan import make_networks, make_plan, make_trainer
from utils.run.settings import Settings
from utils.system.errors import UserError
from utils.system.progress import Bars
from utils.system.terminal import aligned
from utils.training.device import denormals, set_up_device
from utils.training.round import RoundTraining, StartPoint


class Tried(NamedTuple):
    """Validation and test accuracy, in percent, of the line or of a candidate."""

    val: float
    test: float


@denormals(flushed=True)  # as in a run
def tried_again(run: Path, data: Path | None, rounds: list[int] | None) -> dict[int, list[Tried]]:
    """Return for each of `rounds`, by default all after the last message: the line, then every candidate."""
    folder = RunFolder(run)
    config = folder.read_config()
    if config is None or not folder.finished:
        raise UserError(f"{run}: no folder of a finished run")
    rows = folder.read().rows
    settings = Settings.from_plain(config["settings"])
    lossless = settings.value_bits == 32 and not settings.byte_budget
    if MODES[settings.mode].restarts or settings.deploy_sparsity or not lossless:
        raise UserError(f"{run}: only for whole networks whose rounds build on each other, and lossless messages")
    after = range(1 + max((row["round"] for row in rows if row["sent"]), default=-1), len(rows))
    if not after:
        raise UserError(f"{run}: its last round sent a message, so there is none to try again")
    if wrong := set(rounds or ()) - set(after):
        raise UserError(f"--rounds has {min(wrong)}, but those after the last message are {after[0]} to {after[-1]}")
    settings = replace(settings, dataset_dir=data or settings.dataset_dir)
    device = set_up_device(settings.device, settings.precision, settings.threads)
    dataset = read_dataset(settings, download=False)
    sizes = settings.dataset_size_init, settings.dataset_size_subseq
    arrival = Arrival(len(dataset.train_labels), *sizes, settings.seed)
    split = split_validation(dataset, settings.val_dataset_size, settings.seed)
    make_network, flat = make_networks(settings, dataset, device)
    plan = make_plan(settings, flat, arrival, make_network)
    try:
        node = EdgeNode.shipped(run / "initial.safetensors")
        for message in message_files(run):
            node.receive(message.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{run}: its messages cannot be read ({error})") from error
    line = torch.from_numpy(np.array(node.line)).to(device)
    trainer, link = make_trainer(settings, dataset, split, flat, device), Link(flat.schema, plan.initial, None)

    def test_accuracy() -> float:
        return 100 * trainer.accuracy(trainer.test)

    found = {}
    for number in rounds or after:
        start = StartPoint(number, arrival.samples(number), line)
        flat.load(line)
        found[number] = [Tried(100 * rows[number]["start_val_acc"], test_accuracy())]

        def on_epoch(training: RoundTraining, tried: list[Tried] = found[number]) -> None:
            if training.last_epoch.val_acc is not None:
                tried.append(Tried(100 * training.last_epoch.val_acc, test_accuracy()))

        bars, outgoing = Bars(len(rows), number, shown=False), Outgoing(link, number, plan.way.coding, Base())
        training = RoundTraining(trainer, plan.way.recipe, start, bars, on_epoch, outgoing)
        if abs(training.start_val_acc - rows[number]["start_val_acc"]) > 1e-5:
            raise UserError(f"{run}: its messages do not lead to the network at which round {number} starts")
        plan.way.update(training)
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.unsent", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("--rounds", nargs="+", type=whole(0), metavar="N", help="(default: all after the last message)")
    parser.add_argument("--dataset_dir", type=Path, metavar="PATH", help="(default: that of the run)")
    args = parser.parse_args(argv)
    with one_line(parser):
        found = tried_again(args.run, args.dataset_dir, args.rounds)
    lines = []
    for number, (line, *tried) in found.items():
        best = max(tried, key=lambda candidate: candidate.val)
        shown = line, best, tried[-1], Tried(*map(fmean, zip(*tried)))
        better = " / ".join(str(sum(candidate[kind] > line[kind] for candidate in tried)) for kind in (0, 1))
        lines.append([str(number), *(f"{each.val:.2f} / {each.test:.2f}" for each in shown), better])
    print("validation / test accuracy, %, of the line and of candidates; how many are better")
    print(aligned(["round", "line", "best on\nvalidation", "last", "mean", "better"], lines))


if __name__ == "__main__":
    main()
