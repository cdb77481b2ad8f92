"""Samples per second of training and evaluation, against a bare loop and a conventional one, in one run.

    python -m benchmarks.throughput --model mlp --dataset mnist --dataset_dir DIR [--device cuda --precision bf16]

bare          the same network on preloaded, normalised tensors with torch.optim (fused), nothing else;
              without augmentation; on CUDA one graph of the whole loop
step 1        this project's full updating with local contribution
step 2        this project's sparse fine-tuning
evaluation    this project's evaluation
products      the matrix products of the layers alone, forwards and backwards: no loop with all gradients is faster
conventional  as most people write it: DataLoader over PIL images, `.item()` metrics, dense masked optimizer;
              once for each `--workers` and `--conventional_threads`, the best of which counts

The loops take turns, `--repeats` times; ratios are taken within a turn; median and range are printed.
"""

import argparse
import resource
import statistics
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.command_line import one_line
from benchmarks.loops import BATCH, Loop, bare_loop, conventional_loop, layer_products, project_loops
from benchmarks.targets import STEPS_PER_SECOND, THROUGHPUT
from data.datasets import load_dataset
from models import build_model
from utils.run.argument_types import ratio, whole
from utils.training.device import cpu_name, describe_device, set_up_device
from utils.training.graphs import WARM_UP
from utils.training.recipes import DEFAULTS, recipe_for

Rates = dict[str, list[float]]


def time_turns(loops: dict[str, tuple[Loop, int]], repeats: int, warm_up: int, samples: int, device) -> Rates:
    """Return samples per second of each loop in each turn; a loop comes with its number of threads."""
    rates: Rates = {name: [] for name in loops}
    for turn in range(-warm_up, repeats):
        for name, (run, threads) in loops.items():
            torch.set_num_threads(threads)
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 0:
                rates[name].append(samples / (time.perf_counter() - start))
    return rates


def describe(values: list[float], digits: str) -> str:
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mlp", choices=list(DEFAULTS))
    parser.add_argument("--dataset", default="digits", help="as in the scripts (default: digits)")
    parser.add_argument("--dataset_dir", type=Path, default=Path("data/downloads"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"))
    parser.add_argument("--threads", type=whole(1), default=1, help="CPU threads (default: 1)")
    parser.add_argument("--updating_ratio", type=ratio, help="default: the paper's for the model")
    parser.add_argument("--samples", type=whole(1), default=5000, help="of a turn of each loop (default: 5000)")
    parser.add_argument("--repeats", type=whole(1), default=7, help="turns (default: 7)")
    parser.add_argument("--steps_before", type=whole(0), default=0, help="of each loop, before (default: 0)")
    parser.add_argument("--workers", type=whole(0), nargs="*", default=[1], help="of the conventional one (default: 1)")
    parser.add_argument("--conventional_threads", type=whole(1), nargs="*", help="of that loop (default: as --threads)")
    return parser


def main(argv: list[str] | None = None) -> None:
    parser = build_parser()
    args = parser.parse_args(argv)
    with one_line(parser):
        device = set_up_device(args.device, args.precision, max([args.threads, *(args.conventional_threads or [])]))
        data, recipe = load_dataset(args.dataset, args.dataset_dir), recipe_for(args.model, two_steps=True)
    k = args.updating_ratio or DEFAULTS[args.model][3]
    samples = min(args.samples, len(data.train_labels))
    augment, bfloat16 = data.name in ("cifar10", "cifar100"), args.precision == "bf16"
    network = partial(build_model, args.model, data.input_shape, data.num_classes)

    loops = {
        "bare": bare_loop(data, network(), recipe, samples, device, bfloat16),
        **project_loops(data, network(), recipe, samples, device, k, augment, bfloat16),
    }
    loops = {name: (loop, args.threads) for name, loop in loops.items()}
    products, operations = layer_products(network(), data.input_shape, device, bfloat16)
    steps = -(-samples // BATCH)
    loops["products"] = (lambda: [products() for _ in range(steps)], args.threads)
    slow = [(workers, threads) for workers in args.workers for threads in args.conventional_threads or [args.threads]]
    for workers, threads in slow:
        loop = conventional_loop(data, network(), recipe, samples, device, k, augment, workers)
        loops[f"conventional, {workers} workers, {threads} threads"] = loop, threads
    warm_up = max(WARM_UP + 1 if device.type == "cuda" else 1, -(-args.steps_before // steps))
    rates = time_turns(loops, args.repeats, warm_up, samples, device)
    rates["products"] = [value * steps * BATCH / samples for value in rates["products"]]  # its last batch is whole

    torch.set_num_threads(args.threads)
    machine = f"{describe_device(device)}, {args.precision}"
    print(f"processor: {cpu_name()}; torch {torch.__version__}")
    print(f"{args.model} on {data.name}, k = {k:g}, batches of {BATCH}, {machine}")
    print(f"samples per second, median (range) of {args.repeats} turns of {samples:,} samples")
    if args.steps_before:
        print(f"after {warm_up * steps:,} steps of each loop")
    for name, values in rates.items():
        print(f"  {name:<36} {describe(values, ',.0f')}")
    rate = statistics.median(rates["products"]) / BATCH * operations
    print(f"products: {rate / 1e9:,.0f} GFLOP/s for these shapes")
    report_ratios(rates, args.model, data.name, device.type)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak
    print(f"peak memory {peak / 2**20:,.0f} MiB, all loops together")


def report_ratios(rates: Rates, model: str, dataset: str, device: str) -> None:
    """Print what the project's steps reach of the other loops, beside the target where there is one."""
    slow = [name for name in rates if name.startswith("conventional")]
    rates = dict(rates)
    if slow:
        rates["conventional"] = rates[max(slow, key=lambda name: statistics.median(rates[name]))]
    print("ratios within a turn, median (range)" + (", against the best conventional loop" if len(slow) > 1 else ""))
    for other in ("bare", "products", "conventional"):
        for step in ("step 1", "step 2"):
            if other in rates:
                ratios = [a / b for a, b in zip(rates[step], rates[other], strict=True)]
                target = THROUGHPUT.get((model, dataset, device, step, other))
                said = f"; target: at least {target}" if target else ""
                print(f"  {step + ' / ' + other:<36} {describe(ratios, '.2f')}{said}")
    target = STEPS_PER_SECOND.get((model, dataset, device))
    if target:
        steps = statistics.median(rates["step 1"]) / BATCH
        print(f"  {'step 1, steps per second':<36} {steps:,.0f}; target: at least {target:,}")


if __name__ == "__main__":
    main()
