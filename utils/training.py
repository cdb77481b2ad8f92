"""The training loop: one epoch, and evaluation. Nothing returns to the host but totals per epoch."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from data.batches import BatchSource
from data.seeding import torch_generator
from utils.contribution import Accumulator
from utils.flat import FlatParameters
from utils.graphs import Graphed, GraphedSteps
from utils.optim import FlatOptimizer


class Trainer:
    """Trains and evaluates one network, always the one that lies in `flat.vector`.

    seed      the run's seed; shuffling and augmentation of an epoch depend on it and on the epoch's place alone
    bfloat16  run the network under bfloat16 autocast; weights, gradients and optimizer stay float32
    graphs    replay steps and evaluations as CUDA graphs; None: on CUDA, unless batches are streamed
    """

    def __init__(
        self, flat: FlatParameters, train: BatchSource, seed: int, bfloat16: bool = False, graphs: bool | None = None
    ):
        self.flat = flat
        self.train = train
        self.seed = seed
        self.device = flat.vector.device
        self.bfloat16 = bfloat16
        self.graphs = self.device.type == "cuda" and not train.streamed if graphs is None else graphs
        self._before = torch.empty_like(flat.weights)
        self._loss = torch.zeros((), device=self.device)
        self._correct = torch.zeros(2, dtype=torch.int64, device=self.device)  # top-1, top-5
        self._has_top5 = False
        self._steps: tuple[tuple, GraphedSteps] | None = None  # what they are for, the graphs
        self._evaluations: dict[BatchSource, Graphed] = {}

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
                for images, labels in self.train.along(order, draws, parts):
                    self._step(optimizer, local, images, labels)
                    on_batch()
        return self._loss.item() / samples.numel()

    def _step(
        self, optimizer: FlatOptimizer, local: Accumulator | None, images: Tensor, labels: Tensor
    ) -> None:
        """Train on one batch."""
        flat = self.flat
        flat.zero_grad()
        with self._precision():
            loss = F.cross_entropy(flat.model(images), labels)
        loss.backward()
        direct = not self.bfloat16
        if local is None:
            optimizer.step(direct)
        else:
            self._before.copy_(flat.weights)
            optimizer.step(direct)
            local.update(flat.weight_grad, self._before, flat.weights)
        self._loss += loss.detach() * labels.numel()

    def _graphed_steps(self, optimizer, local, order: Tensor, draws: Tensor | None) -> GraphedSteps:
        """Return the graphs of these steps: those of the epoch before, unless they were for something else."""
        about = (optimizer, local, len(order))
        if self._steps is None or any(a is not b and a != b for a, b in zip(self._steps[0], about, strict=True)):
            self._steps = None  # frees the memory of the graphs before

            def step(order: Tensor, draws: Tensor | None) -> None:
                self._step(optimizer, local, *self.train.batch(order, draws))

            self._steps = about, GraphedSteps(step, order, draws)
        return self._steps[1]

    def accuracy(self, batches: BatchSource, on_batch: Callable[[], None] = lambda: None) -> float:
        """Return the share of samples in `batches` that the network classifies rightly, 0 to 1."""
        return self.accuracies(batches, on_batch)[0]

    def accuracies(
        self, batches: BatchSource, on_batch: Callable[[], None] = lambda: None
    ) -> tuple[float, float | None]:
        """Return the shares whose class has the largest output, and one of the five largest: top-1 and top-5.

        The second is None for ten classes or fewer.
        """
        if not self.graphs:
            self._count_correct(batches, on_batch)
        else:
            if batches not in self._evaluations:
                self._evaluations[batches] = Graphed(partial(self._count_correct, batches, lambda: None), self.device)
            self._evaluations[batches]()
            on_batch()
        top1, top5 = (count / len(batches) for count in self._correct.tolist())
        return top1, top5 if self._has_top5 else None

    def _count_correct(self, batches: BatchSource, on_batch: Callable[[], None]) -> None:
        model = self.flat.model
        model.eval()
        self._correct.zero_()
        with torch.inference_mode(), self._precision():
            for images, labels in batches.in_order():
                outputs = model(images)
                right = outputs.argmax(dim=1) == labels
                self._correct[0] += right.sum()
                self._has_top5 = outputs.shape[1] > 10
                if self._has_top5:  # among equal outputs, argmax and topk may choose differently
                    right |= (outputs.topk(5).indices == labels[:, None]).any(dim=1)
                    self._correct[1] += right.sum()
                on_batch()

    def _precision(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
