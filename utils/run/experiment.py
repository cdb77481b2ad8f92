"""From the values of the command line to a finished run folder."""

import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from tqdm import tqdm

from data.batches import BatchSource
from data.sources import DatasetError
from utils.flat import sha256
from utils.link import Link
from utils.rounds import Deployment, Plan, pack, run_rounds, unpack
from utils.run.checkpoint import CheckpointError, Checkpoints, state_from_bytes, state_to_bytes
from utils.run.config import headline, make_config
from utils.run.identity import identify, read_key
from utils.run.lock import claimed
from utils.run.options import UsageError, speaks
from utils.run.plan import first_network, make_batches, make_plan, network_maker, read_dataset
from utils.run.results import ResultsError, RunFolder, RunResult, describe_run, summarize
from utils.system.pipes import reader_left
from utils.system.progress import Bars, watched_check
from utils.training.device import denormals, set_up_device
from utils.training.distributed import Group, ProcessLostError, join
from utils.training.loop import Trainer
from utils.training.round import RoundTraining


def run_script(args: Namespace, command: list[str], fail: Callable[[str], NoReturn]) -> RunResult:
    """Run the experiment of a script's checked command line; `fail` reports one line and exits with status 2."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return run_experiment(vars(args), command)
        except (UsageError, DatasetError, CheckpointError, ResultsError) as error:
            if isinstance(error, DatasetError) and not speaks():  # a file in this process's share: rank 0 knows nothing
                print(f"{command[0]}: error: {error}", file=sys.stderr)
            fail(str(error))
        except ProcessLostError as error:
            fail(f"{error}; the same command goes on from the last checkpoint, with any number of processes")
        except BrokenPipeError:
            reader_left()
            sys.exit(1)
        except OSError as error:
            fail(f"{error.filename or 'a file'} cannot be used ({error.strerror})")


def run_experiment(settings: dict[str, Any], command: list[str]) -> RunResult:
    """Run, resume or read back the experiment that `settings` describes, as `options.parse` leaves them.

    Under torchrun every process of the run comes here; rank 0 has the run folder and tells the others where to begin.
    Raises UsageError or DatasetError, before any work, for what the user can put right.
    """
    group, device_name = join(settings["device"])
    device = set_up_device(device_name, settings["precision"], settings["threads"])
    sign_key = read_key(settings["sign_key"])
    if not group.leads:
        group.told()  # that rank 0 has downloaded or checked what was missing
    dataset = read_dataset(settings, watch=partial(watched_check, shown=_shows_bars(settings) and group.leads))
    if group.leads:
        group.told("the data is there")
    run = identify(settings, dataset, device, sign_key)
    make_network = network_maker(run.settings, dataset, device)
    flat = first_network(make_network, run.settings["model"])
    plan = make_plan(run.settings, flat, run.arrival, make_network)
    config = make_config(run.settings, command, run.fingerprints, device, flat, plan, group.size)

    def start(folder: Path | None, saved: dict[str, Any] | None) -> Start:
        train, validation, test = make_batches(run.settings, dataset, run.split, device)
        trainer = Trainer(flat, train, run.settings["seed"], run.settings["precision"] == "bf16", group=group)
        link = Link(flat.schema, plan.initial, folder, sign_key)
        edge, interrupted = (Deployment(plan.initial, plan.initial), None) if saved is None else unpack(saved)
        return Start(plan, trainer, validation, test, link, edge, interrupted)

    if group.leads:
        about = partial(headline, dataset, run.split, run.settings, flat, plan, config["device"])
        result = _lead(RunFolder(run.folder), config, settings["overwrite"], device, group, start, about)
    else:
        result = _follow(device, group, start)
    group.leave()
    return result


@dataclass(frozen=True)
class Start:
    """All that the rounds of a run need to begin, or to go on."""

    plan: Plan
    trainer: Trainer
    validation: BatchSource
    test: BatchSource
    link: Link
    edge: Deployment
    interrupted: dict[str, Any] | None

    def run(self, bars: Bars, save: Callable[[Deployment, RoundTraining | None], None]) -> None:
        """Run what is left of the rounds."""
        try:
            with denormals(flushed=True):
                run_rounds(
                    self.plan,
                    self.trainer,
                    self.validation,
                    self.test,
                    self.link,
                    self.edge,
                    bars,
                    save,
                    self.interrupted,
                )
        finally:
            bars.close()


MakeStart = Callable[[Path | None, dict[str, Any] | None], Start]


def _follow(device: torch.device, group: Group, start: MakeStart) -> RunResult:
    """Run the rounds with rank 0, which writes and prints; returns its result."""
    saved = group.told()  # None: the run is finished; b"": it begins
    if saved is not None:
        begun = start(None, state_from_bytes(saved, device) if saved else None)
        begun.run(Bars(0, 0, shown=False, silent=True), save=lambda *_: None)
    return group.told()


def _lead(
    folder: RunFolder,
    config: dict[str, Any],
    overwrite: bool,
    device: torch.device,
    group: Group,
    start: MakeStart,
    about: Callable[[Path], str],
) -> RunResult:
    """Run the rounds, or what a checkpoint leaves of them, and write the results; or read back a finished run."""
    with claimed(folder, overwrite):
        result = folder.read() if folder.finished else None
        checkpoints = Checkpoints(folder.path)
        saved = None if result else checkpoints.load(device)
        print(about(folder.path), flush=True)
        if group.size > 1:
            group.told(None if result else state_to_bytes(saved) if saved else b"")
        if result is None:
            begun = start(folder.path, saved)
            _run(folder, checkpoints, config, begun, resumed=saved is not None)
            result = folder.read()
        else:
            print("this run is finished; --overwrite starts it anew")
    print(f"\n{describe_run(result)}")
    return group.told(result)


def _run(folder: RunFolder, checkpoints: Checkpoints, config: dict[str, Any], begun: Start, resumed: bool) -> None:
    """Run what is left of the rounds, saving as they go, and write the results."""
    edge, interrupted = begun.edge, begun.interrupted
    if resumed:
        where = f"round {edge.next_round}" + (f", epoch {interrupted['epoch']}" if interrupted else "")
        print(f"resuming at {where}", flush=True)
    else:
        folder.write_config(config)
    begun.link.open([row["round"] for row in edge.rows if row["sent"]], edge.applied)
    folder.write_rounds(edge.rows)
    last_saved = time.monotonic()

    def save(edge: Deployment, training: RoundTraining | None) -> None:
        nonlocal last_saved
        if training is None or time.monotonic() - last_saved >= config["settings"]["checkpoint_interval"]:
            checkpoints.save(pack(edge, training))
            last_saved = time.monotonic()
        if training is None:
            folder.write_rounds(edge.rows)

    shown = _shows_bars(config["settings"])
    begun.run(Bars(begun.plan.num_rounds, edge.next_round, shown), save)
    flat = begun.trainer.flat
    flat.load(edge.served)
    folder.write_model(flat.model.state_dict())
    folder.write_plot(edge.rows, config["title"])
    folder.write_summary(
        {
            **summarize(edge.rows, flat.num_weights, flat.vector.numel()),
            "num_weights": flat.num_weights,
            "num_rest": flat.num_rest,
            "num_buffers": flat.num_buffers,
            **({} if edge.weights is None else {"num_deployed": int(edge.weights.sum())}),
            "line_sha256": sha256(edge.line),
            "served_sha256": sha256(edge.served),
            "fingerprints": config["fingerprints"],
        }
    )
    checkpoints.keep_one()


def _shows_bars(settings: dict[str, Any]) -> bool:
    return not settings["quiet"] and sys.stderr.isatty()


def _show_warning(message, category, *_) -> None:
    """Print a warning as one line that does not break the progress bars."""
    if issubclass(category, UserWarning) and speaks():
        tqdm.write(f"warning: {message}", file=sys.stderr)
