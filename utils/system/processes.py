"""Processes that end with the one that started them, belong together, are asked to stop, or stay as they were."""

import ctypes
import heapq
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

_ASKS_TO_STOP = ("SIGTERM", "SIGHUP", "SIGUSR1")  # what batch systems send before they kill


def end_with_parent(number: int) -> None:
    """Have the kernel send this process signal `number` when its parent dies, however it dies.

    Otherwise it would go on for a while and hold what it inherited, such as the lock of a run folder.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


def time_of_all(running: Sequence[float], waiting: Sequence[float], num_parallel: int) -> float:
    """Return when all processes have ended, of which each takes so long, and those that wait begin in their order."""
    places = [*running, *[0.0] * (num_parallel - len(running))]
    heapq.heapify(places)
    for seconds in waiting:
        heapq.heapreplace(places, places[0] + seconds)
    return max(places)


def launched_as() -> tuple[int, int]:
    """Return this process's rank among those that torchrun started, and their number; (0, 1) without torchrun.

    Job scripts export RANK or WORLD_SIZE for purposes of their own, so all of torchrun's variables have to be there.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR")
    values = [os.environ.get(name, "") for name in names]
    if not all(values) or not all(value.isdecimal() for value in values[:4]):
        return 0, 1
    rank, size = int(values[0]), int(values[1])
    return (rank, size) if rank < size else (0, 1)


def is_rank0() -> bool:
    """Return True unless this is one of several processes started by torchrun and not their first."""
    return launched_as()[0] == 0


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Within, Ctrl-C is only noted, and acts at the end: libraries such as PyTorch abort if it comes as they load."""
    before, noted = signal.getsignal(signal.SIGINT), []
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: noted.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if noted:
        raise KeyboardInterrupt


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a run; `checkpoint` says where it would go on, None: at its beginning."""

    def __init__(self, checkpoint: str | None):
        super().__init__(checkpoint)
        self.checkpoint = checkpoint


class StopAsked(Exception):  # noqa: N818 - it is no error
    """The process was asked to end by signal `number`, and has saved what it can."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class StopRequest:
    """Whether a signal has asked this process to stop; `number` is the signal's."""

    number: int | None = None

    def check(self) -> None:
        """Raise StopAsked if a signal has come."""
        if self.number is not None:
            raise StopAsked(self.number)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Within, signals that ask to stop are only noted, each once: a second one of the same kind acts as ever.

    Signals that are ignored (nohup) or have a handler keep it. Elsewhere than in the main thread nothing is noted.
    """
    request, noted = StopRequest(), []

    def note(number: int, _) -> None:
        request.number = number
        signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in _ASKS_TO_STOP if hasattr(signal, name)]
        noted = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in noted:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number in noted:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def process_kept() -> Iterator[None]:
    """Afterwards torch's gradient mode, default type and threads, and the working folder, are what they were before.

    Code of users may change them, by which all other code would compute otherwise, or write elsewhere.
    """
    import torch  # here alone, for programs without it

    states = [
        (torch.is_grad_enabled, torch.set_grad_enabled), (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_num_threads, torch.set_num_threads),
    ]  # fmt: skip
    before, folder = [get() for get, _ in states], None
    with suppress(OSError):
        folder = os.open(".", os.O_RDONLY)  # which leads back, however it is called by then
    try:
        yield
    finally:
        for (get, restore), value in zip(states, before, strict=True):
            if get() != value:
                restore(value)
        if folder is not None:
            with suppress(OSError):
                os.fchdir(folder)
            os.close(folder)
