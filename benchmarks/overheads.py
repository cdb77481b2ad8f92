"""What a run costs beside its training steps: start-up, selection, memory, messages and files, long training.

    python -m benchmarks.overheads --dataset_dir DIR [start products selection state drift round memory sharing]

start      a run's start to its first training step, against importing torch and reading the data
products   the matrix products of a fully connected layer, against PyTorch's own choice of library
selection  choosing k of VGG's 14 million weights, against sorting them
state      bytes of optimizer state in step 2 against step 1, VGG
drift      time of a step in the last epochs against the first, MNIST, 60 epochs of 5,000 samples
round      share of a run that is neither training nor evaluation, MNIST, 3 rounds
memory     peak memory of a VGG run on the CPU above its data, CIFAR-10
sharing    a short run on digits by default flags: alone, two at once, and beside a process that keeps a core busy

MNIST and CIFAR-10 are read from `--dataset_dir`.
"""

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F

import multiround_dpu
from benchmarks import targets
from benchmarks.command_line import one_line
from benchmarks.throughput import describe
from data.batches import Batches
from data.datasets import load_dataset
from models import build_model
from utils.contribution import LocalContribution, select_top
from utils.flat import FlatParameters
from utils.run import experiment
from utils.run.argument_types import whole
from utils.training.device import denormals, set_up_device
from utils.training.linear import by_onednn, product, product_into
from utils.training.loop import Trainer
from utils.training.optim import FlatOptimizer
from utils.training.recipes import recipe_for

ROOT = Path(__file__).resolve().parents[1]
FIRST_STEP = """
import os, sys, multiround_dpu, utils.training.loop
utils.training.loop.Trainer._step = lambda *_: os._exit(0)
multiround_dpu.main(sys.argv[1:])
"""
CPU = torch.device("cpu")


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def process(code: str, *flags: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, *flags], cwd=ROOT, env=environment, check=True, capture_output=True)


def start(folder: Path, repeats: int) -> None:
    ratios, runs = [], []
    with tempfile.TemporaryDirectory() as out:
        flags = ["--model", "mlp", "--dataset", "mnist", "--dataset_dir", str(folder), "--overwrite"]
        for _ in range(repeats + 1):  # the first turn fills the file cache
            imported = seconds(lambda: process("import torch"))
            read = seconds(lambda: load_dataset("mnist", folder))
            runs.append(seconds(lambda: process(FIRST_STEP, *flags, "--output_dir", out)))
            ratios.append(runs[-1] / (imported + read))
    print(f"start-up: {describe(runs[1:], '.2f')} s to the first step, {describe(ratios[1:], '.2f')} times")
    print(f"  importing torch and reading MNIST; target: at most {targets.START_UP}")


def products(folder: Path, repeats: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (torch.randn(*shape, generator=generator) for shape in ((128, 784), (512, 784), (128, 512)))
    place = torch.empty_like(weight)
    pairs = {
        "output": (lambda: product(x, weight), lambda: F.linear(x, weight)),
        "input gradient": (lambda: product(grad, weight.t()), lambda: grad.mm(weight)),
        "weight gradient": (
            lambda: product_into(place, grad.t(), x.t()),
            lambda: torch.mm(grad.t(), x, out=place),
        ),
    }
    print(f"128 samples, 784 -> 512, by {'oneDNN' if by_onednn() else 'PyTorch itself'}; GFLOP/s:")
    for name, (ours, plain) in pairs.items():
        turns = [(_gflops(ours), _gflops(plain)) for _ in range(repeats + 1)][1:]
        fast, slow = zip(*turns, strict=True)
        ratio = describe([a / b for a, b in turns], ".2f")
        print(f"  {name:<16} {describe(fast, '.0f')}; PyTorch {describe(slow, '.0f')}; ratio {ratio}")


def _gflops(work) -> float:
    times = 500
    return times * 2e-9 * 128 * 784 * 512 / seconds(lambda: [work() for _ in range(times)])


def selection(folder: Path, repeats: int) -> None:
    weights = FlatParameters(build_model("vgg", (3, 32, 32), 10)).num_weights
    scores = torch.rand(weights, generator=torch.Generator().manual_seed(0))
    ours = [seconds(lambda: select_top(scores, 0.01)) for _ in range(repeats)]
    sorting = [seconds(lambda: scores.sort()) for _ in range(repeats)]
    print(f"selection of 1 % of {weights:,} weights: {describe(ours, '.3f')} s; sorting: {describe(sorting, '.3f')} s")
    print(f"  target: less than {targets.SELECTION_SECONDS:g} s")


def state(folder: Path, repeats: int) -> None:
    flat, recipe, ratio = FlatParameters(build_model("vgg", (3, 32, 32), 10)), recipe_for("vgg", True), 0.01
    dense = FlatOptimizer(flat, recipe)
    dense.step()
    sparse = FlatOptimizer(flat, recipe, select_top(flat.weights.abs(), ratio), dense)
    sparse.step()
    sizes = []
    for optimizer in (dense, sparse):
        tensors = [t for one in optimizer.state_dict()["state"].values() for t in one.values()]
        sizes.append(sum(t.numel() * t.element_size() for t in tensors))
    print(f"optimizer state, VGG with Adam: {sizes[0]:,} bytes in step 1, {sizes[1]:,} in step 2 with k = {ratio:g}:")
    print(f"  {sizes[1] / sizes[0]:.4f} of it, the {flat.num_rest:,} biases and BatchNorm parameters included")


def drift(folder: Path, repeats: int) -> None:
    data, recipe = load_dataset("mnist", folder), recipe_for("mlp", False)
    flat = FlatParameters(build_model("mlp", data.input_shape, 10))
    trainer = Trainer(flat, Batches(data.train_images, data.train_labels, data.mean, data.std, 128), seed=0)
    optimizer, local, samples = FlatOptimizer(flat, recipe), LocalContribution(flat.num_weights), torch.arange(5000)
    with denormals(flushed=True):
        times = [
            seconds(lambda epoch=epoch: trainer.epoch(optimizer, samples, (0, 1, epoch), local))
            for epoch in range(recipe.num_epochs)
        ]
    early, late = statistics.median(times[1:11]), statistics.median(times[-10:])
    print(f"a step in the last 10 of {len(times)} epochs takes {late / early:.2f} times one in the first 10")
    print(f"  (medians of epochs, MNIST, 5,000 samples); target: at most {targets.LAST_EPOCH}")


def round_(folder: Path, repeats: int) -> None:
    spent = {"epoch": 0.0, "accuracies": 0.0}  # the latter also within `accuracy`
    plain = {name: getattr(Trainer, name) for name in spent}

    def timed(name):
        def method(*arguments, **more):
            began = time.perf_counter()
            try:
                return plain[name](*arguments, **more)
            finally:
                spent[name] += time.perf_counter() - began

        return method

    rounds, clock = experiment.run_rounds, {}

    def timed_rounds(*arguments):
        began = time.perf_counter()
        yield from rounds(*arguments)  # the books are kept between its rounds
        clock["rounds"] = time.perf_counter() - began

    flags = ["--dataset", "mnist", "--dataset_dir", str(folder), "--max_rounds", "3", "--threads", "1", "--quiet"]
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        methods = {name: timed(name) for name in spent}
        with patch.multiple(Trainer, **methods), patch.object(experiment, "run_rounds", timed_rounds):
            multiround_dpu.main([*flags, "--output_dir", out])
    share = 1 - sum(spent.values()) / clock["rounds"]
    print(f"3 rounds of DPU on MNIST (1,000 to 3,000 samples, 30 + 30 epochs): {clock['rounds']:.1f} s, of which")
    print(f"  training {spent['epoch']:.1f} s, evaluation {spent['accuracies']:.1f} s, all else {share:.1%};", end=" ")
    print(f"target: at most {targets.ROUND_OVERHEAD:.0%}")


def memory(folder: Path, repeats: int) -> None:
    data = load_dataset("cifar10", folder)
    held = sum(images.numel() for images in (data.train_images, data.test_images))
    flags = f"--model vgg --dataset cifar10 --dataset_dir {folder} --max_rounds 1 --num_epochs 1 --quiet"
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "multiround_dpu.py", *flags.split(), "--output_dir", out]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"the run failed: {' '.join(command)}")
    above = 1024 * usage.ru_maxrss - held
    print(f"a VGG run on CIFAR-10 takes {above / 2**20:,.0f} MiB above its images ({held / 2**20:,.0f} MiB);", end=" ")
    print(f"target: at most {targets.MEMORY / 2**20:,.0f}")


def sharing(folder: Path, repeats: int) -> None:
    flags = "--dataset digits --num_epochs 10 --max_rounds 4 --dataset_size_init 200 --quiet --overwrite --output_dir"
    command = [sys.executable, "multiround_dpu.py", *flags.split()]

    def at_once(number: int) -> float:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as out:
            runs = [
                subprocess.Popen([*command, f"{out}/{i}"], cwd=ROOT, stdout=subprocess.DEVNULL) for i in range(number)
            ]
            if any(run.wait() for run in runs):
                sys.exit(f"a run failed: {' '.join(command)}")
        return time.perf_counter() - began

    def beside_a_busy_process() -> float:
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            return at_once(1)
        finally:
            busy.kill()
            busy.wait()

    turns = [(at_once(1), at_once(2), beside_a_busy_process()) for _ in range(repeats)]
    alone, two, beside = (describe(values, ".2f") for values in zip(*turns, strict=True))
    of_both, of_one = (describe(v, ".2f") for v in zip(*((b / (2 * a), c / a) for a, b, c in turns), strict=True))
    print(f"a short run on digits: {alone} s; two at once: {two} s, of one after the other {of_both};")
    print(f"  target: at most {targets.TWO_AT_ONCE}; beside a busy process: {beside} s, {of_one} times;")
    print(f"  target: at most {targets.BESIDE_BUSY}; {os.cpu_count()} cores")


PARTS = {
    "start": start, "products": products, "selection": selection, "state": state, "drift": drift, "round": round_,
    "memory": memory, "sharing": sharing,
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overheads", description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--dataset_dir", type=Path, default=Path("data/downloads"), help="with MNIST and CIFAR-10")
    parser.add_argument("--repeats", type=whole(1), default=5)
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"{', '.join(sorted(unknown))} is not one of {', '.join(PARTS)}")
    set_up_device("cpu", "fp32", 1)
    for name in args.parts or PARTS:
        with one_line(parser):
            PARTS[name](args.dataset_dir.resolve(), args.repeats)


if __name__ == "__main__":
    main()
