"""One round's training: its two steps, its best candidate, and how it goes on after an interruption."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from utils.contribution import Accumulator, ranked
from utils.system.errors import UserError
from utils.system.progress import Bars
from utils.training.loop import Trainer
from utils.training.optim import FlatOptimizer
from utils.training.recipes import Recipe
from utils.training.sample_gradients import SampleGradients

if TYPE_CHECKING:
    from utils.link import Outgoing

# The two steps of a round; each names a random stream of its own. Iterative rewinding has more steps between them.
FULL_UPDATING, SPARSE_FINE_TUNING = 1, 2
_ACCURACIES = ("start_val_acc", "full_val_acc", "rewound_val_acc", "best_val_acc")


@dataclass(frozen=True)
class StartPoint:
    """From where a round trains, and on what."""

    number: int  # of the round
    samples: Tensor  # int64, indices
    network: Tensor  # (I+J+B,)
    candidates: Tensor | None = None  # (D,) the weights of a sparse network, which alone may be selected; None: all


@dataclass(frozen=True)
class Epoch:
    """What came of one epoch; numbers count from 1."""

    step: int
    epoch: int
    loss: float  # mean over the samples
    val_acc: float | None  # None: not measured
    lr: float
    samples_per_s: float  # of training alone
    seconds: float  # with validation


class RoundTraining:
    """Trains the network from its start point on the samples of one round and keeps the best candidate.

    on_epoch         called after each epoch with this object, to save its `state`
    outgoing         the round's message, which says what the edge would hold if a network were sent now
    saved            the `state` of an interrupted round, to go on from it

    .selected        (S,) the weights that may change; None: all
    .ranking         (S,) the same, the most important first; None: their order is not known
    .mask_seed       the seed of a random selection, else None
    .best, .best_val_acc, .improved   the best candidate so far, and whether it beats the start point
    .start_val_acc, .full_val_acc, .rewound_val_acc   validation accuracies, None where a method has none
    .last_epoch      what came of the last epoch; None before the first one
    """

    def __init__(
        self,
        trainer: Trainer, recipe: Recipe, start: StartPoint, bars: Bars,
        on_epoch: Callable[["RoundTraining"], None],
        outgoing: "Outgoing", saved: dict[str, Any] | None = None,
    ):  # fmt: skip
        self.trainer, self.flat, self.recipe = trainer, trainer.flat, recipe
        self.number, self.samples, self.start = start.number, start.samples, start.network
        self.candidates = self.selected = start.candidates
        self.bars, self.on_epoch, self.outgoing = bars, on_epoch, outgoing
        self.mask_seed: int | None = None
        self.ranking: Tensor | None = None
        self.full_val_acc: float | None = None
        self.rewound_val_acc: float | None = None
        self.last_epoch: Epoch | None = None
        self._step, self._epoch = 0, 0  # epochs done in the step
        self._optimizer: FlatOptimizer | None = None
        self._local: Accumulator | None = None
        self._began, self._seconds_before = time.perf_counter(), 0.0
        self._saved = saved
        if saved is not None:
            self._restore(saved)
        else:
            self.flat.load(self.start)
            self.start_val_acc = self.validate()
            self.best, self.best_val_acc, self.improved = self.start, self.start_val_acc, False

    def reached(self, step: int) -> bool:
        """Return True if an interrupted round had already begun `step`."""
        return self._step >= step

    @property
    def num_selected(self) -> int:
        """How many weights may change."""
        return self.flat.num_weights if self.selected is None else self.selected.numel()

    def of_selected(self, vector: Tensor) -> Tensor:
        """Return the values of `vector` (I,) at the weights that may change, (S,)."""
        return vector if self.selected is None else vector[self.selected]

    def select(self, selected: Tensor, score: Tensor | None = None) -> None:
        """Let only the weights at `selected` (S,) change from here on; `score` (S,) says how important each is."""
        self.selected = selected
        self.ranking = None if score is None else selected[ranked(score)]
        self.trainer.group.assert_same(f"the weights selected in round {self.number}", selected)

    def train(
        self, step: int, local: Accumulator | None = None, choose: bool = False, num_epochs: int | None = None
    ) -> None:
        """Train for E epochs, the learning-rate schedule from its beginning, the optimizer state carried over.

        local   accumulates the local contribution, or what else the method's score needs of the optimizer steps
        choose  after each epoch, make the network the best candidate if it is strictly better
        num_epochs  E, if it is not the recipe's
        """
        self._local = local
        recipe = self.recipe if num_epochs is None else replace(self.recipe, num_epochs=num_epochs)
        self._optimizer = FlatOptimizer(self.flat, recipe, self.selected, carried=self._optimizer)
        if self._step == step:  # resumed within this step: the epochs before the checkpoint are done
            self._optimizer.load_state_dict(self._saved["optimizer"])
            if local is not None:
                local.value.copy_(self._saved["local"])
        else:
            self._step, self._epoch = step, 0
        self._saved, before = None, self.flat.weights.clone() if self.trainer.foreign else None
        last = recipe.num_epochs
        num_samples = self.samples.numel()
        batches = len(self.trainer.train.parts(num_samples))
        with self.bars.step(self.number, step, last, self._epoch, batches, num_samples) as bar:
            for epoch in range(self._epoch, last):
                place, began = (self.number, step, epoch), time.perf_counter()
                loss = self.trainer.epoch(self._optimizer, self.samples, place, local, bar.advance)
                rate, val_acc = num_samples / (time.perf_counter() - began), None
                self._epoch = epoch + 1
                if not math.isfinite(loss):
                    warnings.warn(f"round {self.number}: the loss is {loss}: try a smaller --lr", stacklevel=2)
                if choose:
                    val_acc = self.validate_as_received()
                    self.offer(val_acc)
                seconds = time.perf_counter() - began
                self.last_epoch = Epoch(step, epoch + 1, loss, val_acc, recipe.learning_rate(epoch), rate, seconds)
                bar.show(epoch + 1, loss, val_acc)
                if broken := self.flat.broken(self.selected, before):  # before a checkpoint saves it
                    raise UserError(f"--model: {broken}")
                self.on_epoch(self)
        self.trainer.group.assert_same(f"the networks after step {step} of round {self.number}", self.flat.vector)

    def validate(self) -> float:
        """Return the network's validation accuracy, 0 to 1."""
        with self.bars.busy("validating") as tick:
            return self.trainer.accuracy(self.trainer.validation, tick)

    def validate_as_received(self) -> float:
        """Return the validation accuracy of what the edge would hold if the network were sent now."""
        as_it_is = self.outgoing.lossless and self.outgoing.most_bytes is None
        if as_it_is or not self.finite:
            return self.validate()
        candidate = self.outgoing.candidate(self.flat.snapshot(), self.selected, self.mask_seed, self.ranking)
        if candidate is None:
            warnings.warn(f"round {self.number}: biases and the like alone are over the byte budget", stacklevel=2)
            return math.nan  # better than nothing else
        return self.accuracy_of(candidate.network)

    def accuracy_of(self, network: Tensor) -> float:
        """Return the validation accuracy of another network; this one stays what it is."""
        trained = self.flat.snapshot()
        self.flat.load(network)
        val_acc = self.validate()
        self.flat.load(trained)
        return val_acc

    @property
    def start_weights(self) -> Tensor:
        """The weights of the start point, (I,)."""
        return self.start[: self.flat.num_weights]

    def at_start(self, measure: Callable[[SampleGradients], Tensor]) -> Tensor:
        """Return what `measure` makes of the round's samples at the start point; the network stays what it is.

        It depends on start point and samples alone, so a resumed round measures the same again.
        """
        network = self.flat.snapshot()
        self.flat.load(self.start)
        with self.bars.busy("measuring gradients") as tick:
            measured = measure(SampleGradients(self.flat, self.trainer.train, self.samples, tick, self.trainer.foreign))
        self.flat.load(network)
        return measured

    def offer(self, val_acc: float, at_least: bool = False) -> None:
        """Make the network the best candidate if it is strictly better, or `at_least` as good, and finite."""
        better = val_acc > self.best_val_acc or (at_least and val_acc == self.best_val_acc)
        if better and self.finite:
            self.best, self.best_val_acc, self.improved = self.flat.snapshot(), val_acc, True

    @property
    def finite(self) -> bool:
        """Whether all of the network is finite, and at the edge node, too; else it cannot be sent."""
        return self.outgoing.is_finite(self.flat.vector)

    @property
    def seconds(self) -> float:
        """Time spent in this round, before and after interruptions."""
        return self._seconds_before + time.perf_counter() - self._began

    @property
    def state(self) -> dict[str, Any]:
        """Everything that another process needs to go on: tensors and plain values."""
        return {
            "number": self.number,
            "step": self._step, "epoch": self._epoch,
            "vector": self.flat.vector,
            "optimizer": self._optimizer.state_dict(),
            "local": None if self._local is None else self._local.value,
            "selected": self.selected, "ranking": self.ranking,
            "value_bits": self.outgoing.coding.value_bits,
            "best": self.best if self.improved else None,
            "seconds": self.seconds,
            **{name: getattr(self, name) for name in _ACCURACIES},
        }  # fmt: skip

    def _restore(self, saved: dict[str, Any]) -> None:
        self.flat.load(saved["vector"])
        self._step, self._epoch = saved["step"], saved["epoch"]
        self.selected, self.ranking = saved["selected"], saved["ranking"]
        self.outgoing.use_bits(saved["value_bits"])
        self.improved = saved["best"] is not None
        self.best = saved["best"] if self.improved else self.start
        self._seconds_before = saved["seconds"]
        for name in _ACCURACIES:
            setattr(self, name, saved[name])
