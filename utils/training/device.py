"""The machine that a run works on: its device, its arithmetic and its threads."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from utils.system.errors import UsageError


def set_up_device(name: str, precision: str, threads: int | None) -> torch.device:
    """Return the device called `name` ("auto": CUDA where it is, else the CPU), arithmetic set for it.

    Deterministic kernels are chosen on CUDA. Raises UsageError if the device or precision is not there.
    """
    device = find_device(name)
    if precision == "tf32" and device.type != "cuda":
        needs = f"needs CUDA, but the device is {device.type}"
        raise UsageError(f"--precision is tf32, which {needs}: use fp32 or bf16")
    if threads is not None:
        torch.set_num_threads(threads)
    with denormals(flushed=True):
        torch.ones(2**20).add_(1)  # starts PyTorch's threads, which take the flag over now and keep it
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic cuBLAS asks for
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    return device


@contextmanager
def denormals(flushed: bool) -> Iterator[None]:
    """Within, let the CPU flush denormal numbers to zero, or not; afterwards it does as before.

    Training flushes them: shrinking gradients would make a step three times slower. What an edge node computes,
    too, must not: no flag of the processor may decide what a message means. It computes in numpy, so on the
    calling thread; PyTorch's other threads always flush once `set_up_device` has started them.
    """
    before = (torch.tensor(1e-40) * 1).item() == 0
    torch.set_flush_denormal(flushed)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def describe_device(device: torch.device) -> str:
    """Return the device in words, for config.json."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"


def cpu_facts() -> str:
    """Return what the system says of the first processor, in lines `name : value`; elsewhere than on Linux its name."""
    try:
        return Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return platform.processor()


def cpu_name() -> str:
    """Return the processor's name, for records and benchmarks."""
    facts = dict(line.split(":", 1) for line in cpu_facts().splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in facts.items()}
    numbers = [f"{name.split()[-1]} {facts[name]}" for name in ("cpu family", "model") if name in facts]
    name = facts.get("model name") or platform.processor() or platform.machine()
    return f"{name} ({', '.join(numbers)})" if numbers else name


def find_device(name: str) -> torch.device:
    """Return the device called `name` (auto: CUDA where it is, else the CPU). Raises UsageError if it is not there."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda", 0) if cuda else torch.device("cpu")
    names = ["auto", "cpu", *(["cuda"] if cuda else []), *(["mps"] if mps else [])]
    names += [f"cuda:{i}" for i in range(torch.cuda.device_count())] if cuda else []
    if name not in names:
        raise UsageError(f"--device is {name!r}, which this machine does not have: use {', '.join(names)}")
    return torch.device(name, 0) if name == "cuda" else torch.device(name)
