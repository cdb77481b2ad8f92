"""The training loop: one epoch, and evaluation. Nothing returns to the host but totals per epoch."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor

from data.batches import Batches
from data.seeding import torch_generator
from utils.contribution import LocalContribution
from utils.flat import FlatParameters
from utils.optim import FlatOptimizer


class Trainer:
    """Trains and evaluates one network, always the one that lies in `flat.vector`.

    seed      the run's seed; shuffling and augmentation of an epoch depend on it and on the epoch's place alone
    bfloat16  run the network under bfloat16 autocast; weights, gradients and optimizer stay float32
    """

    def __init__(self, flat: FlatParameters, train: Batches, seed: int, bfloat16: bool = False):
        self.flat = flat
        self.train = train
        self.seed = seed
        self.device = flat.vector.device
        self.bfloat16 = bfloat16
        self._before = torch.empty_like(flat.weights)

    def epoch(
        self,
        optimizer: FlatOptimizer,
        samples: Tensor,
        place: tuple[int, ...],
        local: LocalContribution | None = None,
        on_batch: Callable[[], None] = lambda: None,
    ) -> float:
        """Train once over `samples` (indices, int64) and return the mean loss.

        place     where in the run this epoch stands (round, step, epoch): names its random stream
        local     accumulates the local contribution of every optimizer step
        on_batch  called after each batch
        """
        flat, model = self.flat, self.flat.model
        model.train()
        optimizer.set_epoch(place[-1])
        total = torch.zeros((), device=self.device)
        direct = not self.bfloat16
        with optimizer.gradients.direct() if direct else nullcontext():
            for images, labels in self.train.epoch(samples, torch_generator(self.seed, "training", *place)):
                flat.zero_grad()
                with self._precision():
                    loss = F.cross_entropy(model(images), labels)
                loss.backward()
                if local is None:
                    optimizer.step(direct)
                else:
                    self._before.copy_(flat.weights)
                    optimizer.step(direct)
                    local.update(flat.weight_grad, self._before, flat.weights)
                total += loss.detach() * labels.numel()
                on_batch()
        return total.item() / samples.numel()

    def accuracy(self, batches: Batches, on_batch: Callable[[], None] = lambda: None) -> float:
        """Return the share of samples in `batches` that the network classifies rightly, 0 to 1."""
        model = self.flat.model
        model.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        with torch.inference_mode(), self._precision():
            for images, labels in batches.in_order():
                correct += (model(images).argmax(dim=1) == labels).sum()
                on_batch()
        return correct.item() / len(batches)

    def _precision(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.bfloat16 else nullcontext()
