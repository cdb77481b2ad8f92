"""Processes that end with the one that started them, or that belong together. The standard library is enough."""

import ctypes
import os
import sys


def end_with_parent(number: int) -> None:
    """Have the kernel send this process signal `number` when its parent dies, however it dies.

    Otherwise it would go on for a while and hold what it inherited, such as the lock of a run folder.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, number)  # PR_SET_PDEATHSIG


def is_rank0() -> bool:
    """Return True unless this is one of several processes started by torchrun and not their first."""
    return os.environ.get("RANK", "0") == "0"
