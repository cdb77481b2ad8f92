"""Samples per second of training and evaluation, against a bare loop and a conventional one, in one run.

    python -m benchmarks.throughput --model mlp --dataset mnist [--device cpu] [--threads 1] [--updating_ratio 0.005]

bare          the same network on preloaded, normalised tensors with torch.optim (fused), nothing else
step 1        this project's full updating with local contribution
step 2        this project's sparse fine-tuning
evaluation    this project's evaluation
conventional  as most people write it: DataLoader over PIL images, `.item()` metrics, dense masked optimizer

The loops take turns, `--repeats` times; ratios are taken within a turn; median and range are printed.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.targets import THROUGHPUT
from data.batches import Batches
from data.datasets import load_dataset
from models import build_model
from utils.contribution import LocalContribution
from utils.device import denormals, describe_device, set_up_device
from utils.flat import FlatParameters
from utils.optim import FlatOptimizer
from utils.recipes import DEFAULTS, recipe_for
from utils.training import Trainer


def torch_optimizer(recipe, parameters, fused: bool) -> torch.optim.Optimizer:
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=recipe.lr, fused=fused)
    options = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay, "nesterov": True, "fused": fused}
    return torch.optim.SGD(parameters, lr=recipe.lr, **options)


def bare_loop(data, model, recipe, samples: int, batch: int, device) -> Callable[[], None]:
    """Return a function that trains `samples` samples and does nothing else."""
    images = data.train_images[:samples].to(device) / 255
    images = (images - data.mean.to(device).view(-1, 1, 1)) / data.std.to(device).view(-1, 1, 1)
    parts = list(zip(images.split(batch), data.train_labels[:samples].to(device).split(batch), strict=True))
    optimizer = torch_optimizer(recipe, model.to(device).parameters(), fused=device.type in ("cpu", "cuda"))

    def run() -> None:
        model.train()
        for x, y in parts:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return run


class PilImages(Dataset):
    """One PIL image at a time, through torchvision's transforms."""

    def __init__(self, data, samples: int, augment: bool):
        from PIL import Image
        from torchvision import transforms as t

        pixels = data.train_images[:samples].permute(0, 2, 3, 1).numpy()
        self.images = [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in pixels]
        self.labels = data.train_labels[:samples].tolist()
        crop = [t.RandomCrop(pixels.shape[1], padding=4), t.RandomHorizontalFlip()] if augment else []
        self.transform = t.Compose([*crop, t.ToTensor(), t.Normalize(data.mean.tolist(), data.std.tolist())])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(self.images[index]), self.labels[index]


def conventional_loop(
    data, model, recipe, samples: int, batch: int, device, ratio: float, workers: int, augment: bool
) -> Callable[[], None]:
    """Return a function that fine-tunes a share `ratio` of the weights as most people write it."""
    loader = DataLoader(PilImages(data, samples, augment), batch, shuffle=True, num_workers=workers)
    model = model.to(device)
    optimizer = torch_optimizer(recipe, model.parameters(), fused=False)
    masks = {p: torch.rand_like(p) < ratio for p in model.parameters() if p.dim() >= 2}

    def run() -> None:
        model.train()
        total = correct = 0
        for x, y in loader:
            x, y = x.to(device), y.to(device)
            before = {p: p.detach().clone() for p in masks}
            optimizer.zero_grad()
            output = model(x)
            loss = F.cross_entropy(output, y)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for p, mask in masks.items():
                    p.copy_(torch.where(mask, p, before[p]))
            total += loss.item()
            correct += (output.argmax(1) == y).sum().item()

    return run


def project_loops(data, model, recipe, samples: int, batch: int, device, ratio: float, augment: bool) -> dict:
    """Return this project's step 1, step 2 and evaluation, each over `samples` samples."""
    flat = FlatParameters(model.to(device))
    batches = Batches(data.train_images, data.train_labels, data.mean, data.std, batch, augment, device)
    some = data.train_images[:samples], data.train_labels[:samples]
    held_out = Batches(*some, data.mean, data.std, 500, device=device)
    trainer, chosen = Trainer(flat, batches, seed=0), torch.arange(samples)
    local, dense = LocalContribution(flat.num_weights, device), FlatOptimizer(flat, recipe)
    trainer.epoch(dense, chosen, (0, 0, 0), local)
    selected = torch.topk(local.value, max(1, int(ratio * flat.num_weights))).indices.sort().values
    sparse = FlatOptimizer(flat, recipe, selected, dense)
    return {
        "step 1": lambda: trainer.epoch(dense, chosen, (0, 1, 0), local),
        "step 2": lambda: trainer.epoch(sparse, chosen, (0, 2, 0)),
        "evaluation": lambda: trainer.accuracy(held_out),
    }


def time_turns(loops: dict[str, Callable[[], None]], repeats: int, samples: int, device) -> dict[str, list[float]]:
    """Return samples per second of each loop in each turn, after one turn to warm up."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(repeats + 1):
        for name, run in loops.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn > 0:
                rates[name].append(samples / (time.perf_counter() - start))
    return rates


def describe(values: list[float], digits: str) -> str:
    return f"{statistics.median(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="mlp", choices=list(DEFAULTS))
    parser.add_argument("--dataset", default="digits", help="as in the scripts (default: digits)")
    parser.add_argument("--dataset_dir", type=Path, default=Path("data/downloads"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--updating_ratio", type=float, help="default: the paper's for the model")
    parser.add_argument("--samples", type=int, default=5000, help="samples in a turn of each loop (default: 5000)")
    parser.add_argument("--repeats", type=int, default=7, help="turns (default: 7)")
    parser.add_argument("--workers", type=int, default=0, help="of the conventional loop's loader (default: 0)")
    args = parser.parse_args(argv)

    device = set_up_device(args.device, "fp32", args.threads)
    data, recipe = load_dataset(args.dataset, args.dataset_dir), recipe_for(args.model, two_steps=True)
    ratio = args.updating_ratio or DEFAULTS[args.model][3]
    samples, batch = min(args.samples, len(data.train_labels)), 128
    augment = data.name in ("cifar10", "cifar100")

    def network():
        return build_model(args.model, data.input_shape, data.num_classes)

    loops = {
        "bare": bare_loop(data, network(), recipe, samples, batch, device),
        **project_loops(data, network(), recipe, samples, batch, device, ratio, augment),
        "conventional": conventional_loop(
            data, network(), recipe, samples, batch, device, ratio, args.workers, augment
        ),
    }
    with denormals(flushed=True):
        rates = time_turns(loops, args.repeats, samples, device)
    print(f"{args.model} on {data.name}, k = {ratio:g}, batches of {batch}, {describe_device(device)}")
    print(f"samples per second, median (range) of {args.repeats} turns of {samples:,} samples")
    for name, values in rates.items():
        print(f"  {name:<13} {describe(values, ',.0f')}")
    print("ratios within a turn, median (range); target")
    for step, other in (("step 1", "bare"), ("step 2", "bare"), ("step 1", "conventional"), ("step 2", "conventional")):
        ratios = [a / b for a, b in zip(rates[step], rates[other], strict=True)]
        target = THROUGHPUT.get((args.model, device.type, step, other))
        print(f"  {step + ' / ' + other:<21} {describe(ratios, '.2f')}" + (f"; at least {target}" if target else ""))
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 1024 * _peak_kib()
    print(f"peak memory {peak / 2**20:,.0f} MiB, of which the images {_size(data.train_images) / 2**20:,.0f} MiB")


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _size(images: torch.Tensor) -> int:
    return int(np.prod(images.shape))


if __name__ == "__main__":
    main()
