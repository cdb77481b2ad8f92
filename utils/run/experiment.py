"""From settings to a finished run folder."""

import io
import sys
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from data.datasets import Dataset
from data.inputs import Inputs
from models.fingerprints import fingerprint_of, structure_of
from utils.flat import sha256
from utils.link import Link
from utils.message.streams import TooCheapError
from utils.rounds import EdgeCopy, run_rounds
from utils.run.books import Books, NoBooks
from utils.run.checkpoint import unpack
from utils.run.config import describe_start, headline, make_config
from utils.run.flags import changes_results
from utils.run.folder import RunFolder, RunResult
from utils.run.identity import Identity, identify, read_dataset, read_key
from utils.run.plan import make_networks, make_plan, make_trainer
from utils.run.results import round_row
from utils.run.settings import Settings
from utils.system.errors import UsageError, UserError
from utils.system.own_code import LAYOUT, STRUCTURE, digests_of
from utils.system.processes import Interrupted, StopRequest, process_kept, stop_request
from utils.system.progress import Bars, watched_check
from utils.system.references import label_of
from utils.training.device import denormals, set_up_device
from utils.training.distributed import Group, ProcessLostError, join


def run_experiment(settings: Settings, command: list[str], model: Any = None, dataset: Any = None) -> RunResult:
    """Run, resume or read back the experiment that `settings` describe.

    model, dataset  given from Python, in place of those that the settings name
    Under torchrun every process of the run comes here; rank 0 has the run folder and tells the others where to begin.
    Raises UserError, before any work, for what the user can put right.
    """
    group, device_name = join(settings.device)
    try:
        with process_kept(), torch.inference_mode(False):  # which turns gradients on, too, whatever the caller does
            torch.set_default_dtype(torch.float32)
            result = _run_in(group, device_name, settings, command, model, dataset)
    except UsageError:  # before any work, so no process is in the middle of a sum that would be waited for
        group.leave()
        raise
    except ProcessLostError:
        # At the interpreter's end gloo's threads, if they still run, may abort the process; NCCL could wait here.
        if not device_name.startswith("cuda"):
            with suppress(RuntimeError):
                group.leave()
        raise
    group.leave()
    return result


def _run_in(
    group: Group, device_name: str, settings: Settings, command: list[str], model: Any, dataset: Dataset | None
) -> RunResult:
    device = set_up_device(device_name, settings.precision, settings.threads)
    sign_key = read_key(settings.sign_key)
    if not group.is_rank0:
        group.broadcast()  # rank 0 has downloaded or checked what was missing
    shown = not settings.quiet and sys.stderr.isatty() and group.is_rank0
    if dataset is None:
        dataset = read_dataset(settings, watch=partial(watched_check, shown=shown))
    if group.is_rank0:
        group.broadcast("the data is there")
    identified = partial(identify, settings, dataset, device, sign_key)
    run = identified()
    settings = run.settings
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    _check_same_run(group, run)
    make_network, flat = make_networks(settings, dataset, device, model)
    given = {} if model is None else {"network": structure_of(flat.model, model)}
    given |= {"initial_network": fingerprint_of(model)} if isinstance(model, torch.nn.Module) else {}
    if given:
        run = identified(given)
        _check_same_run(group, run)
    own = digests_of([("model", settings.model if model is None else model), ("criterion", settings.criterion)])
    own |= {LAYOUT: flat.layout} if not settings.model_is_ours else {}
    own |= {STRUCTURE: given["network"]} if given else {}
    plan = make_plan(settings, flat, run.arrival, make_network, sign_key)
    start = describe_start(command, device, group.size, own)
    config = make_config(settings, run.fingerprints, flat, plan, start, own)
    about = headline(dataset, run.split, settings, flat, plan, config["device"], run.folder)

    folder = RunFolder(run.folder)
    claim = folder.claimed(settings.overwrite) if group.is_rank0 else nullcontext()
    # Of several processes torchrun itself ends the others when one is told to stop.
    with claim, stop_request() if group.size == 1 else nullcontext(StopRequest()) as stop:
        books = Books(folder, config, start, stop, settings.resume_changed) if group.is_rank0 else NoBooks()
        state = _where_to_begin(group, books, plan.initial)
        if state is not None:
            initial = state.pop("initial")
            if sha256(initial) != sha256(plan.initial):  # the run began on another processor, or with another torch
                flat.load(initial)
                plan = make_plan(settings, flat, run.arrival, make_network, sign_key)
            trainer = make_trainer(settings, dataset, run.split, flat, device, group)
            to = run.folder if group.is_rank0 else None
            link = Link(flat.schema, plan.initial, to, sign_key, Inputs.of(dataset).to_text())
            edge, interrupted = unpack(state) if "edge" in state else (EdgeCopy(plan.initial, plan.initial), None)
            books.begin(about, edge, interrupted, link)
            bars = Bars(plan.num_rounds, edge.next_round, shown)
            try:
                with denormals(flushed=True):
                    on_epoch = partial(books.epoch_done, edge)
                    for done in run_rounds(plan, trainer, link, edge, bars, on_epoch, interrupted):
                        edge.rows.append(round_row(done, edge))
                        books.round_done(edge, bars)
            except TooCheapError as error:
                problem = f"--model: large buffers of {label_of(settings.model)} hardly change, so of a message {error}"
                raise UserError(f"{problem}, and nodes would refuse it: keep them out of the network") from error
            except KeyboardInterrupt:
                raise Interrupted(books.checkpoint) from None
            finally:
                bars.close()
            books.finish(edge, flat)
        return group.broadcast(books.close(about, state is not None))


def _check_same_run(group: Group, run: Identity) -> None:
    """Raise UsageError, in every process, if the processes were started on other data or with other settings."""
    relevant = {name: value for name, value in vars(run.settings).items() if changes_results(name)}
    everyone = group.gather({**relevant, **run.fingerprints})
    for rank, other in enumerate(everyone):
        if differing := [name for name, value in everyone[0].items() if other[name] != value]:
            names = ", ".join(differing)
            raise UsageError(f"process {rank} differs from process 0 in {names}: start all alike, on the same data")


def _where_to_begin(group: Group, books: Books | NoBooks, drawn: Tensor) -> dict[str, Any] | None:
    """Return the state that all processes begin with or go on from; None: the run is finished."""
    if not group.is_rank0:
        data = group.broadcast()
        return data and torch.load(io.BytesIO(data), map_location=drawn.device, weights_only=True)
    state = books.where_to_begin(drawn)
    if group.size > 1:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        group.broadcast(state and buffer.getvalue())
    return state
