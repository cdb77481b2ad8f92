"""What the three scripts share: from their arguments to a finished run, and every error as one line."""

import os
import signal
import sys
import warnings
from typing import TYPE_CHECKING, Any

from utils.system import own_code
from utils.system.errors import UserError, lacks_memory, packages_needed
from utils.system.processes import Interrupted, StopAsked, interrupts_wait, is_rank0
from utils.system.streams import forgiving_streams

if TYPE_CHECKING:
    from utils.run.folder import RunResult
    from utils.run.settings import Settings


def run(prog: str, description: str, argv: list[str] | None, model: Any = None, dataset: Any = None) -> "RunResult":
    """Run the whole experiment of the script `prog` with the arguments `argv` (None: those of the process).

    model, dataset  in place of the flags: a module or what makes one, and a Dataset

    Exits with status 2 and one line on stderr for what the user can put right, with 128 plus its number on a signal.
    """
    argv = sys.argv[1:] if argv is None else argv
    with forgiving_streams(), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        with packages_needed(prog):
            from utils.run.options import build_parser, end, parse
        parser = build_parser(prog, description)
        if dataset is not None and not isinstance(getattr(dataset, "name", None), str):
            parser.error(f"dataset= is a {type(dataset).__name__}: give what data.datasets.from_arrays makes")
        given = {} if model is None else {"model": own_code.describe(model), "model_given": True}
        settings = parse(parser, argv, given if dataset is None else {**given, "dataset": dataset.name})
        # Threads that spin while they wait take the processor from other processes (docs/performance.md).
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        try:
            with interrupts_wait(), packages_needed(prog):  # torch only once the command line is right
                from utils.run.experiment import run_experiment

            return run_experiment(settings, [prog, *argv], model, dataset)
        except UserError as error:
            end(parser, f"{error}{error.advice.format(again=_again(settings))}", error.of_one_process)
        except OSError as error:
            end(parser, f"{error.filename or 'a file'} cannot be used ({error.strerror or error})")
        except StopAsked as asked:
            name = signal.Signals(asked.number).name
            parser.exit(128 + asked.number, f"\nstopped by {name}: a checkpoint is saved, {_again(settings)} goes on\n")
        except KeyboardInterrupt as interrupt:
            parser.exit(130, f"\ninterrupted: {_way_on(interrupt, _again(settings))}\n")
        except Exception as error:
            if lacks_memory(error):
                ways = "fewer or smaller images, --stream, a smaller network or a smaller --train_batch_size"
                end(parser, f"the memory of this machine, or of its --device, does not suffice: take {ways}")
            fault = own_code.fault_in(error)
            if fault is None:  # it is ours, or a package is missing that is needed only now
                with packages_needed(prog):
                    raise
            end(parser, fault)


def _again(settings: "Settings") -> str:
    """Return what makes the same run go on."""
    return "the same command" + (" without --overwrite" if settings.overwrite else "")


def _way_on(interrupt: KeyboardInterrupt, again: str) -> str:
    """Return what becomes of an interrupted run; `again` is what goes on with it."""
    if not isinstance(interrupt, Interrupted):
        return f"{again} goes on from the last checkpoint, if there is one yet"
    if interrupt.checkpoint is None:
        return "there is no checkpoint yet, so the same command begins anew"
    return f"{again} goes on from {interrupt.checkpoint}"


def _show_warning(message, category, *_) -> None:
    """Print a warning as one line that does not break the progress bars."""
    if issubclass(category, UserWarning) and is_rank0():
        from tqdm import tqdm

        tqdm.write(f"warning: {message}", file=sys.stderr)
