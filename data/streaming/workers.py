"""Worker processes that do the reading while the network trains."""

import errno
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from data.errors import DatasetError
from utils.system.processes import end_with_parent

_OUT_OF = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)  # memory, processes, open files


class Pool:
    """Calls `function` on one request after another in worker processes, which stay for the next requests.

    function    takes a request and returns tensors or plain values; both must pickle
    pin_memory  put the tensors where a GPU fetches them without waiting

    Results come in the order of the requests, whichever worker has them first. Without workers it all happens in
    this process.
    """

    def __init__(self, function: Callable[[Any], Any], num_workers: int, pin_memory: bool = False):
        self._requests = _Requests()
        self._loader = DataLoader(
            _Calls(function),
            batch_size=None,  # a request is a whole batch
            sampler=self._requests,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=pin_memory,
            worker_init_fn=_set_up_worker,
            generator=torch.Generator(),  # it draws seeds for its workers, else from the global generator
        )

    def map(self, requests: Iterable[Any]) -> Iterator[Any]:
        """Iterate over the results of `requests`, a few of which are worked on in advance.

        Another call ends this one. Raises DatasetError if a worker cannot be started, fails or dies.
        """
        self._requests.waiting = requests
        try:
            yield from self._loader
        except DatasetError:
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _OUT_OF:
                _drop_half_started(error)
                raise DatasetError(f"--num_workers: {error.strerror} for another loader process; give fewer") from error
            if "worker" not in str(error):
                raise
            # Torch puts the worker's traceback into the message; its last line says what went wrong.
            reason = str(error).strip().splitlines()[-1].rstrip(".")
            way_out = "give fewer, or 0 to read without such processes"
            raise DatasetError(f"--num_workers: a loader process ended ({reason}); {way_out}") from error


def _drop_half_started(error: OSError) -> None:
    """Let go of the loader that could not start all workers; as it goes, torch would print an error of its own."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    error.with_traceback(None)
    sys.unraisablehook = hook


class _Requests:
    """What a DataLoader takes for the sampler: the requests of the moment."""

    waiting: Iterable[Any] = ()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.waiting)


class _Calls(Dataset):
    """What a DataLoader takes for the data: `function` of a request."""

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function

    def __getitem__(self, request: Any) -> Any:
        return self._function(request)


def _set_up_worker(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends the workers
    end_with_parent(getattr(signal, "SIGKILL", 0))  # which Windows lacks, as what it is for
