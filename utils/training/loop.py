"""The training loop: one epoch, and evaluation. Nothing returns to the host but totals per epoch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.batches import BatchSource
from data.seeding import global_stream, torch_generator
from utils.contribution import Accumulator
from utils.flat import FlatParameters
from utils.system.processes import process_kept
from utils.training.distributed import Group
from utils.training.graphs import Graphed, GraphedSteps
from utils.training.linear import by_product, replaced
from utils.training.optim import FlatOptimizer


class Trainer:
    """Trains and evaluates one network, always the one that lies in `flat.vector`.

    train, validation, test   the samples of each
    seed      the run's seed; shuffling and augmentation of an epoch depend on it and on the epoch's place alone
    bfloat16  run the network under bfloat16 autocast; weights, gradients and optimizer stay float32
    graphs    replay steps and evaluations as CUDA graphs; None: on CUDA, if one process trains alone on data in memory
    group     the processes that train together; each takes a share of every batch and of every evaluation
    foreign   the network is none of ours: nothing is assumed of its layers, so no shortcut is taken and no graph made,
              and what it draws at random, as dropout does, comes from streams of the run
    """

    def __init__(
        self,
        flat: FlatParameters, train: BatchSource, seed: int,
        validation: BatchSource | None = None, test: BatchSource | None = None,
        bfloat16: bool = False, graphs: bool | None = None, group: Group | None = None, foreign: bool = False,
    ):  # fmt: skip
        self.flat, self.foreign = flat, foreign
        self.train, self.validation, self.test = train, validation, test
        self.seed = seed
        self.device = flat.vector.device
        self.bfloat16 = bfloat16
        self.group = group or Group()
        if graphs is None:
            graphs = self.device.type == "cuda" and self.group.size == 1 and not train.streamed and not foreign
        self.graphs = graphs
        self._loss = torch.zeros((), device=self.device)
        self._correct = torch.zeros(2, dtype=torch.int64, device=self.device)  # top-1, top-5
        self._has_top5 = False
        self._steps: tuple[tuple, GraphedSteps] | None = None  # what they are for, the graphs
        self._evaluations: dict[BatchSource, Graphed] = {}

    def epoch(
        self,
        optimizer: FlatOptimizer, samples: Tensor, place: tuple[int, ...],
        local: Accumulator | None = None, on_batch: Callable[[], None] = lambda: None,
    ) -> float:  # fmt: skip
        """Train once over `samples` (indices, int64) and return the mean loss.

        place     where in the run this epoch stands (round, step, epoch): names its random stream
        local     accumulates what every optimizer step contributes
        on_batch  called after each batch
        """
        self.flat.model.train()
        optimizer.set_epoch(place[-1])
        if local is not None:
            local.begin(self.seed, place)
        self._loss.zero_()
        order, draws = self.train.draw(samples, torch_generator(self.seed, "training", *place))
        parts = self.train.parts(len(order))
        with self._direct(optimizer), self._drawing(place):
            if self.graphs and (local is None or local.graphable):
                steps = self._graphed_steps(optimizer, local, order, draws)
                steps.begin(order, draws)
                for part in parts:
                    steps.run(part.stop - part.start)
                    on_batch()
            else:
                for images, labels, size in self._own_batches(order, draws, parts):
                    self._step(optimizer, local, images, labels, size)
                    on_batch()
        self.group.sum_(self._loss)
        return self._loss.item() / samples.numel()

    @property
    def _is_direct(self) -> bool:
        return not self.foreign and (not self.bfloat16 or self.device.type == "cpu")

    def _drawing(self, place: tuple[int, ...]):
        """Within, what the network itself draws depends on the run's seed, the epoch's place and the process."""
        if not self.foreign:
            return nullcontext()
        return global_stream(self.seed, "network", *place, self.group.rank, device=self.device)

    def _direct(self, optimizer: FlatOptimizer):
        """Within, fully connected layers write their gradients directly, if they do here."""
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        return optimizer.gradients.direct(dtype) if self._is_direct else nullcontext()

    def _own_batches(self, order: Tensor, draws: Tensor | None, parts: list[slice]):
        """Give this process's images and labels of each batch, None for none, and the size of the whole batch."""
        sizes = [part.stop - part.start for part in parts]
        shares = [self.group.share(size, self.train.smallest_batch) for size in sizes]
        mine = [slice(p.start + s.start, p.start + s.stop) for p, s in zip(parts, shares, strict=True)]
        batches = self.train.along(order, draws, [part for part in mine if part.stop > part.start])
        for part, size in zip(mine, sizes, strict=True):
            yield *(next(batches) if part.stop > part.start else (None, None)), size

    def _step(
        self,
        optimizer: FlatOptimizer, local: Accumulator | None,
        images: Tensor | None, labels: Tensor | None, size: int,
    ) -> None:  # fmt: skip
        """Train on one batch of `size` samples, of which `images` and `labels` are this process's, None for none."""
        flat, share = self.flat, 0.0 if images is None else len(labels) / size
        flat.zero_grad()
        if share > 0:
            with self._precision():
                loss = F.cross_entropy(flat.model(images), labels)
            if share < 1:
                loss = loss * share
            loss.backward()
            self._loss += loss.detach() * size
        if self.group.size > 1:  # each process's BatchNorm has seen its share
            self.group.sum_(flat.buffers.mul_(share))
        # Without a share there was no backward pass to write gradients directly: the zeros in `flat` count.
        step = partial(optimizer.step, self._is_direct and share > 0, self.group.sum_)
        if local is None:
            step()
        else:
            before = optimizer.weights.clone()  # made anew each time: at the backward pass, the peak, it is not there
            step()
            local.update(optimizer.weights.grad, before, optimizer.weights)

    def _graphed_steps(self, optimizer, local, order: Tensor, draws: Tensor | None) -> GraphedSteps:
        """Return the graphs of these steps: those of the epoch before, unless they were for something else."""
        about = (optimizer, local, len(order))
        if self._steps is None or self._steps[0] != about:
            if self._steps is not None:
                self._steps[1].forget()
                self._steps = None

            def step(order: Tensor, draws: Tensor | None) -> None:
                self._step(optimizer, local, *self.train.batch(order, draws), len(order))

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
        self.group.sum_(self._correct)
        top1, top5 = (count / len(batches) for count in self._correct.tolist())
        return top1, top5 if self._has_top5 else None

    def _count_correct(self, batches: BatchSource, on_batch: Callable[[], None]) -> None:
        mine = None
        if self.group.size > 1:
            part = self.group.share(len(batches))
            mine = torch.arange(part.start, part.stop)
        self._correct.zero_()
        with self._evaluating() as model:
            for images, labels in batches.in_order(mine):
                outputs = model(images)
                right = outputs.argmax(dim=1) == labels
                self._correct[0] += right.sum()
                self._has_top5 = outputs.shape[1] > 10
                if self._has_top5:  # among equal outputs, argmax and topk may choose differently
                    right |= (outputs.topk(5).indices == labels[:, None]).any(dim=1)
                    self._correct[1] += right.sum()
                on_batch()

    def classes(self, batches: BatchSource) -> Tensor:
        """Return the class of the largest output for each sample in `batches`, int64 (N,)."""
        with self._evaluating() as model:
            return torch.cat([model(images).argmax(dim=1) for images, _ in batches.in_order()])

    @contextmanager
    def _evaluating(self) -> Iterator[nn.Module]:
        model = self.flat.model.eval()
        plain = self.bfloat16 or self.foreign
        # What a user's network keeps of a pass, such as a table made at the first one, it may need in training.
        without_grad = torch.no_grad() if self.foreign else torch.inference_mode()
        kept = process_kept() if self.foreign else nullcontext()
        with kept, without_grad, self._precision(), replaced({} if plain else by_product(model)):
            yield model

    def _precision(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
