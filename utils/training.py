"""The training loop: one epoch, and evaluation. Nothing returns to the host but totals per epoch."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from data.batches import Batches
from data.seeding import torch_generator
from utils.contribution import Accumulator
from utils.flat import FlatParameters
from utils.graphs import Graphed, GraphedSteps
from utils.optim import FlatOptimizer


class Trainer:
    """Trains and evaluates one network, always the one that lies in `flat.vector`.

    seed      the run's seed; shuffling and augmentation of an epoch depend on it and on the epoch's place alone
    bfloat16  run the network under bfloat16 autocast; weights, gradients and optimizer stay float32
    graphs    replay steps and evaluations as CUDA graphs; None: on CUDA
    """

    def __init__(
        self, flat: FlatParameters, train: Batches, seed: int, bfloat16: bool = False, graphs: bool | None = None
    ):
        self.flat = flat
        self.train = train
        self.seed = seed
        self.device = flat.vector.device
        self.bfloat16 = bfloat16
        self.graphs = self.device.type == "cuda" if graphs is None else graphs
        self._loss = torch.zeros((), device=self.device)
        self._correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self._steps: tuple[tuple, GraphedSteps] | None = None  # what they are for, the graphs
        self._evaluations: dict[Batches, Graphed] = {}

    def epoch(
        self,
        optimizer: FlatOptimizer,
        samples: Tensor,
        place: tuple[int, ...],
        local: Accumulator | None = None,
        on_batch: Callable[[], None] = lambda: None,
    ) -> float:
        """Train once over `samples` (indices, int64) and return the mean loss.

        place     where in the run this epoch stands (round, step, epoch): names its random stream
        local     accumulates what every optimizer step contributes
        on_batch  called after each batch
        """
        self.flat.model.train()
        optimizer.set_epoch(place[-1])
        self._loss.zero_()
        order, draws = self.train.draw(samples, torch_generator(self.seed, "training", *place))
        parts = self.train.parts(len(order))
        with nullcontext() if self.bfloat16 else optimizer.gradients.direct():
            if self.graphs:
                steps = self._graphed_steps(optimizer, local, order, draws)
                steps.begin(order, draws)
                for part in parts:
                    steps.run(part.stop - part.start)
                    on_batch()
            else:
                for part in parts:
                    self._step(optimizer, local, order[part], None if draws is None else draws[:, part])
                    on_batch()
        return self._loss.item() / samples.numel()

    def _step(
        self, optimizer: FlatOptimizer, local: Accumulator | None, order: Tensor, draws: Tensor | None
    ) -> None:
        """Train on one batch: the samples `order` (B,), augmented by `draws` (3,B)."""
        flat = self.flat
        images, labels = self.train.batch(order, draws)
        flat.zero_grad()
        with self._precision():
            loss = F.cross_entropy(flat.model(images), labels)
        loss.backward()
        direct = not self.bfloat16
        if local is None:
            optimizer.step(direct)
        else:
            before = optimizer.weights.clone()  # made anew each time: at the backward pass, the peak, it is not there
            optimizer.step(direct)
            local.update(optimizer.weight_grad, before, optimizer.weights)
        self._loss += loss.detach() * labels.numel()

    def _graphed_steps(self, optimizer, local, order: Tensor, draws: Tensor | None) -> GraphedSteps:
        """Return the graphs of these steps: those of the epoch before, unless they were for something else."""
        about = (optimizer, local, len(order))
        if self._steps is None or any(a is not b and a != b for a, b in zip(self._steps[0], about, strict=True)):
            self._steps = None  # frees the memory of the graphs before
            self._steps = about, GraphedSteps(partial(self._step, optimizer, local), order, draws)
        return self._steps[1]

    def accuracy(self, batches: Batches, on_batch: Callable[[], None] = lambda: None) -> float:
        """Return the share of samples in `batches` that the network classifies rightly, 0 to 1."""
        if not self.graphs:
            self._count_correct(batches, on_batch)
        else:
            if batches not in self._evaluations:
                self._evaluations[batches] = Graphed(partial(self._count_correct, batches, lambda: None), self.device)
            self._evaluations[batches]()
            on_batch()
        return self._correct.item() / len(batches)

    def _count_correct(self, batches: Batches, on_batch: Callable[[], None]) -> None:
        model = self.flat.model
        model.eval()
        self._correct.zero_()
        with torch.inference_mode(), self._precision():
            for images, labels in batches.in_order():
                self._correct += (model(images).argmax(dim=1) == labels).sum()
                on_batch()

    def _precision(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
