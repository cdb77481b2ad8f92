"""The multi-round loop between the server and the edge node."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from data.arrival import Arrival
from utils.link import Link, Outgoing
from utils.message.base import Base
from utils.message.body import Coding
from utils.message.update import Update
from utils.modes import Mode
from utils.reinit import Reinit
from utils.system.progress import Bars
from utils.training.loop import Trainer
from utils.training.recipes import Recipe
from utils.training.round import RoundTraining, StartPoint


@dataclass(frozen=True)
class Way:
    """How a round makes its update: as the run's method does, or as its network is deployed."""

    update: Callable[[RoundTraining], None]
    recipe: Recipe
    coding: Coding  # how its message names the weights and codes their values
    bits_vary: bool = False  # each round chooses how many bits a value has


@dataclass(frozen=True)
class Plan:
    """What a run does in every round; it does not change while the run lasts."""

    mode: Mode
    way: Way
    arrival: Arrival
    num_rounds: int
    reinit: Reinit
    initial: Tensor  # the initial network, (I+J+B,)
    fresh: Callable[[int], Tensor]  # round -> another initial network
    deployment: Way | None = None  # how the first message is made; None: as all others


@dataclass
class EdgeCopy:
    """The server's copy of what the edge holds, and what came of the rounds so far.

    The line is what updates build on; the served network answers the edge's queries. They differ only while
    a re-initialised line has not caught up yet, or where nothing was sent.
    """

    line: Tensor
    served: Tensor
    line_acc: tuple[float, float | None] = (0.0, None)  # validation, test; None: not evaluated yet
    served_acc: tuple[float, float | None] = (0.0, None)
    next_round: int = 0
    num_samples_at_last_init: int = 0
    round_of_last_init: int = 0
    last_message: int = -1  # the round of the last message sent
    weights: Tensor | None = None  # (I,) bool, the deployed weights of a sparse network; None: all
    applied: list[str] = field(default_factory=list)  # the checksums of all messages
    rows: list[dict[str, Any]] = field(default_factory=list)
    line_top5: float | None = None  # top-5 accuracy on the test set; None for ten classes or fewer
    served_top5: float | None = None


@dataclass(frozen=True)
class Round:
    """What came of one round, for the books."""

    reinitialized: bool
    way: Way
    training: RoundTraining
    delivery: Update | None  # what the edge received; None: nothing was sent


def run_rounds(
    plan: Plan, trainer: Trainer, link: Link, edge: EdgeCopy, bars: Bars,
    on_epoch: Callable[[RoundTraining], None] = lambda training: None,
    interrupted: dict[str, Any] | None = None,
) -> Iterator[Round]:  # fmt: skip
    """Run the rounds that `edge` has not seen yet, giving each when it is done and `edge` is up to date.

    on_epoch     called with the training after each of its epochs, to save its state
    interrupted  the state of the round that was under way when it was saved
    """
    line = edge.served if plan.mode.restarts else edge.line  # a method that restarts has no line
    link.restore(line, edge.served, edge.last_message, edge.applied, edge.weights)
    for number in range(edge.next_round, plan.num_rounds):
        # The samples that have arrived, and the network from which this round starts.
        samples = plan.arrival.samples(number)
        reinitialize = number > 0 and plan.reinit.is_due(
            len(samples), edge.num_samples_at_last_init, number - edge.round_of_last_init
        )
        way = plan.deployment if plan.deployment is not None and edge.last_message < 0 else plan.way
        outgoing = Outgoing(link, number, way.coding, base_of(plan, reinitialize))
        network = link.pruned(plan.fresh(number)) if plan.mode.start == "fresh" and number > 0 else outgoing.start

        # The server's training: that of the method or, while nothing was sent, of the deployment.
        start = StartPoint(number, samples, network, link.candidates)
        training = RoundTraining(trainer, way.recipe, start, bars, on_epoch, outgoing, interrupted)
        interrupted = None
        way.update(training)
        if number == 0:  # the edge still holds the initial network
            edge.line_acc = edge.served_acc = (training.start_val_acc, None)

        # What is sent, and what the edge serves from now on.
        delivery = send(plan, link, edge, outgoing, training)
        reinitialized = reinitialize and delivery is not None
        if number == 0 or reinitialized:
            edge.num_samples_at_last_init, edge.round_of_last_init = len(samples), number
        with bars.busy("testing") as tick:
            evaluate_new(edge, trainer, tick)
        edge.next_round = number + 1
        yield Round(reinitialized, way, training, delivery)


def base_of(plan: Plan, reinitialize: bool) -> Base:
    """Return what the round's update builds on, which its training starts from but for fresh networks."""
    if plan.mode.restarts or (reinitialize and plan.reinit.factors is None):
        return Base(reinitialize=True)
    return Base(shrink_perturb=plan.reinit.factors if reinitialize else None)


def send(plan: Plan, link: Link, edge: EdgeCopy, outgoing: Outgoing, training: RoundTraining) -> Update | None:
    """Bring the round's candidate to the edge if it is worth its bytes; returns None, nothing sent, where it is not.

    Nothing is sent if training did not improve on the start point, or nothing changes. An update that builds on
    the line always goes out, and is served as soon as it is no worse on validation than what is served; one
    that stands alone goes out only then.
    """
    acc = (training.best_val_acc, None)
    no_worse = acc[0] >= edge.served_acc[0]
    network, changed = training.best, False
    if training.improved:
        candidate = outgoing.candidate(training.best, training.selected, training.mask_seed, training.ranking)
        network = candidate.network
        changed = not torch.equal(network, edge.served if plan.mode.restarts else edge.line)
    if not changed or (plan.mode.restarts and not no_worse):
        if plan.mode.restarts:  # it is shown as this round's network; no message builds on it
            edge.line, edge.line_acc = network, acc
        return None
    delivery = outgoing.send(candidate, serve=no_worse)
    edge.last_message, edge.applied = link.node.round, [*edge.applied, *link.node.applied]
    edge.weights = link.deployed
    edge.line, edge.line_acc = network, acc
    if no_worse:
        edge.served, edge.served_acc = edge.line, acc
    return delivery


def evaluate_new(edge: EdgeCopy, trainer: Trainer, on_batch: Callable[[], None]) -> None:
    """Evaluate the line and the served network on the test set where they are new."""
    if edge.line_acc[1] is None:
        trainer.flat.load(edge.line)
        top1, edge.line_top5 = trainer.accuracies(trainer.test, on_batch)
        edge.line_acc = (edge.line_acc[0], top1)
    if edge.served is edge.line:
        edge.served_acc, edge.served_top5 = edge.line_acc, edge.line_top5
    elif edge.served_acc[1] is None:
        trainer.flat.load(edge.served)
        top1, edge.served_top5 = trainer.accuracies(trainer.test, on_batch)
        edge.served_acc = (edge.served_acc[0], top1)
