"""CUDA graphs: a whole training step, or a whole evaluation, is recorded once and then launched as one.

Python launches the kernels of a small network more slowly than a GPU runs them. A graph replays them all with
one call; it reads and writes the very tensors of its recording, so its inputs have to be copied into place.
Elsewhere the same code runs as it stands, which is how machines without CUDA test it.
"""

import warnings
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

WARM_UP = 3  # eager calls before the recording, in which libraries and the optimizer set up what they keep

Work = Callable[[], None]


class Graphed:
    """Calls `work`, on CUDA as a graph from the call after `WARM_UP` on.

    work    reads and writes tensors that stay where they are, waits for nothing, takes and returns nothing
    Where recording fails, a warning says why and `work` goes on eagerly.
    """

    def __init__(self, work: Work, device: torch.device):
        self._work = work
        self._stream = _recording_stream(device)
        self._calls = 0
        self._graph = None

    def __call__(self) -> None:
        if self._graph is None and self._calls == WARM_UP and self._stream is not None:
            try:
                self._graph = _record(self._work, self._stream)
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
                text = f"no CUDA graph ({reason}): kernels are launched one by one, which is slower"
                warnings.warn(text, stacklevel=2)
        self._calls += 1
        if self._graph is not None:
            self._graph.replay()
        elif self._stream is None:
            self._work()
        else:
            # Recording needs a stream of its own, and the calls before it the same one.
            before = torch.cuda.current_stream()
            self._stream.wait_stream(before)
            with torch.cuda.stream(self._stream):
                self._work()
            before.wait_stream(self._stream)


@cache
def _recording_stream(device: torch.device):
    """Return the one stream on which everything is recorded; None where there are no graphs."""
    return torch.cuda.Stream(device) if device.type == "cuda" else None


def _record(work: Work, stream):
    """Return the graph of `work`, which records it and does not run it."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        work()
    return graph


class GraphedSteps:
    """The training steps of epochs over equally many samples, one graph for each size of batch.

    step    trains on the samples `order` (B,), augmented by `draws` (3,B) or None
    A cursor on the device says where in the epoch a step is, so a step needs nothing from the host.
    """

    def __init__(self, step: Callable[[Tensor, Tensor | None], None], order: Tensor, draws: Tensor | None):
        self._step = step
        self._order, self._draws = order.clone(), None if draws is None else draws.clone()
        self._cursor = torch.zeros(1, dtype=torch.int64, device=order.device)
        self._by_size: dict[int, Graphed] = {}

    def begin(self, order: Tensor, draws: Tensor | None) -> None:
        """Begin an epoch with the samples `order` (N,), augmented by `draws` (3,N) or None."""
        self._order.copy_(order)
        if draws is not None:
            self._draws.copy_(draws)
        self._cursor.zero_()

    def forget(self) -> None:
        """Let go of the graphs and their memory, now: they and this object hold each other."""
        self._by_size.clear()

    def run(self, size: int) -> None:
        """Train on the next `size` samples."""
        if size not in self._by_size:
            offsets = torch.arange(size, device=self._order.device)
            self._by_size[size] = Graphed(partial(self._next, offsets), self._order.device)
        self._by_size[size]()

    def _next(self, offsets: Tensor) -> None:
        places = self._cursor + offsets
        draws = None if self._draws is None else self._draws.index_select(1, places)
        self._step(self._order.index_select(0, places), draws)
        self._cursor.add_(len(offsets))
