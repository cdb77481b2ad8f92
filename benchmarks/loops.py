"""The loops that benchmarks.throughput compares; each is a function that goes once over some samples."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from data.batches import Batches
from models.mlp import MLP
from utils.contribution import LocalContribution
from utils.flat import FlatParameters
from utils.training.device import denormals
from utils.training.graphs import Graphed
from utils.training.linear import product, product_into
from utils.training.loop import Trainer
from utils.training.optim import FlatOptimizer

BATCH = 128
Loop = Callable[[], None]
flushing = denormals(flushed=True)  # as a decorator: denormals are flushed while a loop runs


def torch_optimizer(recipe, parameters, **options) -> torch.optim.Optimizer:
    """Return the recipe's optimizer, as torch.optim has it."""
    if recipe.optimizer == "adam":
        if options.get("fused") and torch.cuda.is_available():
            options["capturable"] = True
        return torch.optim.Adam(parameters, lr=recipe.lr, **options)
    return torch.optim.SGD(
        parameters, lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True, **options
    )


def bare_loop(data, model, recipe, samples: int, device, bfloat16: bool) -> Loop:
    """Return a loop that trains and does nothing else; on CUDA the whole of it is one graph.

    Its data is normalised and in its batches beforehand, and laid out as is best for the network.
    """
    layout = torch.contiguous_format if isinstance(model, MLP) else torch.channels_last
    model = model.to(device, memory_format=layout)
    images = data.train_images[:samples].to(device) / 255
    images = (images - data.mean.to(device).view(-1, 1, 1)) / data.std.to(device).view(-1, 1, 1)
    images = [part.contiguous(memory_format=layout) for part in images.split(BATCH)]
    parts = list(zip(images, data.train_labels[:samples].to(device).split(BATCH), strict=True))
    optimizer = torch_optimizer(recipe, model.parameters(), fused=True)

    def run() -> None:
        model.train()
        for x, y in parts:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext():
                loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

    return flushing(Graphed(run, device))


def layer_products(model, input_shape, device, bfloat16: bool) -> tuple[Loop, float]:
    """Return what computes the matrix products of one training step's layers alone, and its floating-point operations.

    Forwards, and backwards to the weights and, but for the first layer, the inputs: no step with all of it is faster.
    """
    dtype, seen = torch.bfloat16 if bfloat16 else torch.float32, []
    layers = [module for module in model.to(device).modules() if type(module) in (nn.Linear, nn.Conv2d)]
    for layer in layers:
        layer.register_forward_hook(lambda layer, inputs, output: seen.append((layer, inputs[0], output)))
    with torch.no_grad():
        model(torch.rand(BATCH, *input_shape, device=device))
    work, operations = [], 0.0
    for number, (layer, x, output) in enumerate(seen):
        layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
        x, grad = (t.detach().to(dtype, memory_format=layout) for t in (x, torch.randn_like(output)))
        weight = layer.weight.detach().to(dtype, memory_format=layout)
        first = number == 0
        work.append(partial(_products_of, layer, x, weight, grad, torch.empty_like(layer.weight), not first))
        operations += 2.0 * (2 if first else 3) * output.numel() * weight[0].numel()
    step = flushing(Graphed(lambda: [products() for products in work], device))
    return step, operations


@torch.no_grad()
def _products_of(layer, x, weight, grad, place, to_input: bool) -> None:
    if type(layer) is nn.Linear:
        product(x, weight)
        product_into(place, grad.t(), x.t())
        if to_input:
            product(grad, weight.t())
    else:
        shape = layer.stride, layer.padding, layer.dilation
        torch.convolution(x, weight, None, *shape, False, (0, 0), layer.groups)
        which = (to_input, True, False)
        torch.ops.aten.convolution_backward(grad, x, weight, None, *shape, False, (0, 0), layer.groups, which)


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


def conventional_loop(data, model, recipe, samples, device, ratio: float, augment: bool, workers: int) -> Loop:
    """Return a loop that fine-tunes a share `ratio` of the weights as most people write it."""
    loader = DataLoader(PilImages(data, samples, augment), BATCH, shuffle=True, num_workers=workers)
    model = model.to(device)
    optimizer = torch_optimizer(recipe, model.parameters())
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


def project_loops(data, model, recipe, samples, device, ratio: float, augment: bool, bfloat16: bool) -> dict[str, Loop]:
    """Return this project's step 1, step 2 and evaluation."""
    flat = FlatParameters(model.to(device))
    channels_last = not isinstance(model, MLP)
    options = {"mean": data.mean, "std": data.std, "device": device, "channels_last": channels_last}
    batches = Batches(data.train_images, data.train_labels, batch_size=BATCH, augment=augment, **options)
    held_out = Batches(data.train_images[:samples], data.train_labels[:samples], batch_size=500, **options)
    trainer, chosen = Trainer(flat, batches, seed=0, bfloat16=bfloat16), torch.arange(samples)
    local, dense = LocalContribution(flat.num_weights, device), FlatOptimizer(flat, recipe)
    trainer.epoch(dense, chosen, (0, 0, 0), local)
    selected = torch.topk(local.value, max(1, int(ratio * flat.num_weights))).indices.sort().values
    sparse = FlatOptimizer(flat, recipe, selected, dense)
    # Each step has a trainer of its own, so that each keeps its graphs.
    other = Trainer(flat, batches, seed=0, bfloat16=bfloat16)
    loops = {
        "step 1": lambda: trainer.epoch(dense, chosen, (0, 1, 0), local),
        "step 2": lambda: other.epoch(sparse, chosen, (0, 2, 0)),
        "evaluation": lambda: trainer.accuracy(held_out),
    }
    return {name: flushing(loop) for name, loop in loops.items()}


