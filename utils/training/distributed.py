"""Several processes that train one network together, started by torchrun: on CUDA by NCCL, on the CPU by gloo.

Every process runs the same rounds on its share of each batch. Gradients are summed before anything uses them, so
weights, contributions and selections stay the same in all; fingerprints assert it. Rank 0 alone writes and prints.
"""

import datetime
import os
import re
import signal
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from utils.flat import sha256
from utils.system.errors import MachineError, UsageError, UserError
from utils.system.processes import launched_as

# How long one process may keep the others waiting, as rank 0 does while it writes. By gloo a dead one is noticed at
# once; NCCL does not notice, there torchrun stops the others.
PATIENCE = datetime.timedelta(minutes=10)
PATIENCE_WITH_RANK0 = datetime.timedelta(days=1)  # rank 0 may download or check files first


class ProcessLostError(UserError):
    """Another process of the run died, was stopped or differs; nothing can go on without it."""

    advice = "; {again} goes on from the last checkpoint, with any number of processes"


class Group:
    """This process among those of the run; a single process is a group of one."""

    def __init__(self, rank: int = 0, size: int = 1, plain: Any = None):
        self.rank, self.size = rank, size
        self._plain = plain  # the group by which plain values travel

    @property
    def is_rank0(self) -> bool:
        return self.rank == 0

    def share(self, count: int, least: int = 1) -> slice:
        """Return which of `count` samples are this process's: near equal parts, each of `least` or more, or empty."""
        parts = max(1, min(self.size, count // least))
        if self.rank >= parts:
            return slice(count, count)
        return slice(count * self.rank // parts, count * (self.rank + 1) // parts)

    def sum_(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes, the same bits in each of them."""
        if self.size > 1:
            for tensor in tensors:
                _answered(dist.all_reduce, tensor)

    def broadcast(self, value: Any = None) -> Any:
        """Return the `value` that rank 0 gives, in every process: plain values, or bytes."""
        if self.size == 1:
            return value
        values = [value]
        _answered(dist.broadcast_object_list, values, src=0, group=self._plain, device=torch.device("cpu"))
        return values[0]

    def gather(self, value: Any) -> list[Any]:
        """Return the plain `value` of every process, by rank, in every process."""
        values = [value] * self.size
        if self.size > 1:
            _answered(dist.all_gather_object, values, value, group=self._plain)
        return values

    def assert_same(self, name: str, tensor: Tensor) -> None:
        """Raise ProcessLostError if `tensor` is not the same, bit for bit, in every process."""
        if self.size == 1:
            return
        mine, digests = sha256(tensor), [None] * self.size
        _answered(dist.all_gather_object, digests, mine)
        if len(set(digests)) > 1:
            raise ProcessLostError(f"{name} differ between the processes of this run")

    def leave(self) -> None:
        """Take leave of the other processes at the end of a run."""
        if self.size > 1:
            dist.destroy_process_group()


def join(device_name: str) -> tuple[Group, str]:
    """Return the group that torchrun started this process in, and the device that is this process's part of it.

    Without torchrun that is a group of one, and the device as it was named.
    """
    _, size = launched_as()
    if size == 1:
        return Group(), device_name
    if device_name not in ("auto", "cpu", "cuda"):
        instead = "give cuda, by which each takes one of its own, or cpu"
        raise UsageError(f"--device is {device_name!r}, which {size} processes cannot share: {instead}")
    cuda = device_name == "cuda" or (device_name == "auto" and torch.cuda.is_available())
    if cuda:
        devices, asked = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        if devices < asked:
            count = f"this node has {devices} CUDA devices"
            raise MachineError(f"--nproc_per_node is {asked}, but {count}: start at most that")
        device_name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(torch.device(device_name))
    if not dist.is_initialized():
        # Plain values travel by gloo on CUDA, too.
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
        if not cuda:  # torchrun stops the others when one is lost; inside NCCL Python would not come to hear of it
            signal.signal(signal.SIGTERM, _stopped)
    return Group(dist.get_rank(), size, dist.new_group(backend="gloo", timeout=PATIENCE_WITH_RANK0)), device_name


def _stopped(*_) -> None:
    raise ProcessLostError("it was told to stop")


def _answered(ask: Callable, *given, **options) -> None:
    try:
        ask(*given, **options)
    except RuntimeError as error:
        where_and_why = str(error).strip().splitlines()[0]
        reason = re.sub(r"^\[[^]]*\] *", "", where_and_why).split(". ")[0]  # gloo begins with its source file
        raise ProcessLostError(f"another process of this run does not answer ({reason})") from error
