"""From the values of the command line to a finished run folder."""

import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable
from typing import Any, NoReturn

from tqdm import tqdm

from data.batches import Batches
from data.datasets import DatasetError, load_dataset
from utils.checkpoint import CheckpointError, Checkpoints
from utils.device import denormals, set_up_device
from utils.identity import identify, read_key
from utils.link import Link
from utils.lock import claimed
from utils.options import UsageError
from utils.progress import Bars
from utils.results import ResultsError, RunFolder, RunResult, describe_run, summarize
from utils.round_training import RoundTraining
from utils.rounds import Deployment, Plan, network_sha256, pack, run_rounds, unpack
from utils.run_config import headline, make_config
from utils.schema import Schema
from utils.setup import first_network, make_batches, make_plan, network_maker
from utils.training import Trainer


def run_script(args: Namespace, command: list[str], fail: Callable[[str], NoReturn]) -> RunResult:
    """Run the experiment of a script's checked command line; `fail` reports one line and exits with status 2."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return run_experiment(vars(args), command)
        except (UsageError, DatasetError, CheckpointError, ResultsError) as error:
            fail(str(error))
        except BrokenPipeError:  # whoever read the output has left
            sys.stdout = None
            sys.exit(1)
        except OSError as error:
            fail(f"{error.filename or 'a file'} cannot be used ({error.strerror})")


def run_experiment(settings: dict[str, Any], command: list[str]) -> RunResult:
    """Run, resume or read back the experiment that `settings` describes, as `options.parse` leaves them.

    Raises UsageError or DatasetError, before any work, for what the user can put right.
    """
    device = set_up_device(settings["device"], settings["precision"], settings["threads"])
    sign_key = read_key(settings["sign_key"])
    dataset = load_dataset(settings["dataset"], settings["dataset_dir"])
    run = identify(settings, dataset, device, sign_key)
    settings, arrival, split, fingerprints = run.settings, run.arrival, run.split, run.fingerprints
    make_network = network_maker(settings, dataset, device)
    flat = first_network(make_network, settings["model"])
    plan = make_plan(settings, flat, arrival, make_network)

    folder = RunFolder(run.folder)
    config = make_config(settings, command, fingerprints, device, flat, plan)
    with claimed(folder, settings["overwrite"]):
        result = folder.read() if folder.finished else None
        saved = None if result else Checkpoints(folder.path).load(device)
        print(headline(dataset, split, settings, flat, plan, config["device"], folder.path), flush=True)
        if result is None:
            train, validation, test = make_batches(settings, dataset, split, device)
            trainer = Trainer(flat, train, settings["seed"], settings["precision"] == "bf16")
            link = Link(Schema(config["layers"]), plan.initial, folder.path, sign_key)
            with denormals(flushed=True):
                _run(folder, saved, config, plan, trainer, validation, test, link)
            result = folder.read()
        else:
            print("this run is finished; --overwrite starts it anew")
    print(f"\n{describe_run(result)}")
    return result


def _run(
    folder: RunFolder,
    saved: dict[str, Any] | None,
    config: dict[str, Any],
    plan: Plan,
    trainer: Trainer,
    validation: Batches,
    test: Batches,
    link: Link,
) -> None:
    """Run what is left of the rounds after the checkpoint `saved`, saving as they go, and write the results."""
    checkpoints = Checkpoints(folder.path)
    if saved is None:
        folder.write_config(config)
        edge, interrupted = Deployment(plan.initial, plan.initial), None
    else:
        edge, interrupted = unpack(saved)
        where = f"round {edge.next_round}" + (f", epoch {interrupted['epoch']}" if interrupted else "")
        print(f"resuming at {where}", flush=True)
    link.open([row["round"] for row in edge.rows if row["sent"]], edge.applied)
    folder.write_rounds(edge.rows)
    last_saved = time.monotonic()

    def save(edge: Deployment, training: RoundTraining | None) -> None:
        nonlocal last_saved
        if training is None or time.monotonic() - last_saved >= config["settings"]["checkpoint_interval"]:
            checkpoints.save(pack(edge, training))
            last_saved = time.monotonic()
        if training is None:
            folder.write_rounds(edge.rows)

    shown = not config["settings"]["quiet"] and sys.stderr.isatty()
    bars = Bars(plan.num_rounds, edge.next_round, shown)
    try:
        run_rounds(plan, trainer, validation, test, link, edge, bars, save, interrupted)
    finally:
        bars.close()
    flat = trainer.flat
    flat.load(edge.served)
    folder.write_model(flat.model.state_dict())
    folder.write_plot(edge.rows, config["title"])
    folder.write_summary(
        {
            **summarize(edge.rows, flat.num_weights, flat.vector.numel()),
            "num_weights": flat.num_weights,
            "num_rest": flat.num_rest,
            "num_buffers": flat.num_buffers,
            **({} if edge.weights is None else {"num_deployed": edge.weights.numel()}),
            "line_sha256": network_sha256(edge.line),
            "served_sha256": network_sha256(edge.served),
            "fingerprints": config["fingerprints"],
        }
    )
    checkpoints.keep_one()


def _show_warning(message, category, *_) -> None:
    """Print a warning as one line that does not break the progress bars."""
    if issubclass(category, UserWarning):
        tqdm.write(f"warning: {message}", file=sys.stderr)
