"""From settings and data to what a run does: the network, the plan of its rounds, the trainer."""

from collections.abc import Callable, Collection
from dataclasses import fields, replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch

from data.arrival import Arrival
from data.batches import Batches, BatchSource
from data.datasets import Dataset, EvaluationSplit
from data.inputs import Inputs
from data.seeding import derive_seed
from data.streaming.batches import StreamedBatches, reading_pool
from models import build_model
from models.trial import has_batch_norm
from utils.criterion import load_criterion
from utils.flat import FlatParameters
from utils.link import to_numpy
from utils.message.base import Shared
from utils.message.body import Coding
from utils.message.budget import fitting_ratio, smallest_budget
from utils.message.values import VALUE_BITS, fewest_bits
from utils.methods import full_update, partial_update, random_update
from utils.modes import MODES
from utils.own_network import own_network_maker
from utils.reinit import Reinit
from utils.rewinding import epochs_of_steps, num_selected, num_steps, ratio_in_budget
from utils.rounds import Plan, Way
from utils.run.checks import check_batch_norm, num_deployed
from utils.run.settings import Settings
from utils.system.errors import UsageError, lacks_memory
from utils.system.references import label_of
from utils.training.distributed import Group
from utils.training.loop import Trainer
from utils.training.recipes import Recipe, recipe_for
from utils.training.round import RoundTraining

MakeNetwork = Callable[[int], FlatParameters]


def recipe_of(settings: Settings) -> Recipe:
    """Return how each step of a round trains."""
    two_steps = MODES[settings.mode].two_steps
    num_epochs = settings.num_epochs if two_steps else settings.total_epochs or settings.num_epochs
    changes = settings.optimizer, settings.schedule, settings.weight_decay
    return recipe_for(settings.model, two_steps, settings.lr, num_epochs, *changes)


def network_maker(
    settings: Settings, inputs: Dataset | Inputs, device: torch.device, model: Any = None,
    changing: Collection[str] | None = None,
) -> MakeNetwork:  # fmt: skip
    """Return a function that makes the initial network of the run (0), or another one, flat and on the device.

    model     a module, or what makes one, given from Python; None: the settings name it
    changing  of a network that is not ours, the names of the buffers that training changes; None: it is tried out
    Raises UsageError for a network of a user's that cannot be used.
    """
    if not settings.model_is_ours:
        model = settings.model if model is None else model
        return own_network_maker(model, settings.model, settings.seed, inputs, device, changing)

    def make_network(number: int) -> FlatParameters:
        seed = derive_seed(settings.seed, "initial weights", number)
        sizes = {name: getattr(settings, name) for name in ("hidden_sizes", "batch_norm", "width")}
        model = build_model(settings.model, inputs.input_shape, inputs.num_classes, seed=seed, **sizes)
        return FlatParameters(model.to(device))

    return make_network


def make_networks(
    settings: Settings, dataset: Dataset, device: torch.device, model: Any = None
) -> tuple[MakeNetwork, FlatParameters]:
    """Return what makes networks, and the initial one; `model` as for `network_maker`.

    Raises UsageError if the model cannot take the input, or the machine the model.
    """
    try:
        if isinstance(model, torch.nn.Module) and settings.mode == "diff_init":
            needs = "needs new networks: give the function or class that makes them, no module"
            raise UsageError(f"--mode diff_init {needs}")
        make_network = network_maker(settings, dataset, device, model)
        flat = make_network(0)
        if settings.mode == "diff_init" and torch.equal(make_network(1).vector, flat.vector):
            raise UsageError("--mode diff_init needs new networks, but this one always has the same weights")
        if has_batch_norm(flat.model):
            check_batch_norm(settings)
        return make_network, flat
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"--model: {error}") from error
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        reason = str(error).splitlines()[0]
        raise UsageError(f"--model: {label_of(settings.model)} is too large for this machine ({reason})") from error


def make_plan(
    settings: Settings, flat: FlatParameters, arrival: Arrival, make_network: MakeNetwork, sign_key: bytes | None = None
) -> Plan:
    """Return what the run does each round; with a key its messages are signed.

    Raises UsageError if no weight is selected, rounds are too many or a byte budget is too small.
    """
    mode, ratio = MODES[settings.mode], settings.updating_ratio
    if settings.byte_budget is not None:
        ratio = _ratio_of_budget(settings, flat, sign_key)
    auto = settings.value_bits == "auto"
    coding = Coding(mode.kind, 32 if auto else settings.value_bits, ratio, most_bytes=settings.byte_budget)
    update, count = _update(settings, flat, ratio)
    deployed = num_deployed(flat.num_weights, settings.deploy_sparsity)
    if count == 0 and settings.byte_budget is not None:
        raise UsageError(f"--byte_budget is {settings.byte_budget:,}, in which no weight fits: give more")
    if count == 0:
        flag = "pruning_ratio" if mode.prunes else "updating_ratio"
        weights = f"{deployed:,} weights" if deployed == flat.num_weights else f"{deployed:,} deployed weights"
        raise UsageError(f"--{flag} is {ratio}, which selects none of {weights}: give more")
    return Plan(
        mode=mode,
        way=Way(update, _step_recipe(settings, deployed), coding, bits_vary=auto),
        arrival=arrival,
        num_rounds=count_rounds(settings, arrival),
        reinit=Reinit(**{field.name: getattr(settings, field.name) for field in fields(Reinit)}),
        initial=flat.snapshot(),
        fresh=lambda number: make_network(number).vector,
        deployment=_deployment(settings, flat.num_weights, deployed),
    )


def _step_recipe(settings: Settings, deployed: int) -> Recipe:
    """Return the recipe of a round's steps, of the shortest where --total_epochs cannot be shared equally."""
    recipe, total = recipe_of(settings), settings.total_epochs
    if total is None or not MODES[settings.mode].two_steps:
        return recipe
    steps = num_steps(True, deployed, vars(settings))
    if total < steps:
        raise UsageError(f"--total_epochs is {total}, but a round has {steps} steps: give at least that")
    return replace(recipe, num_epochs=epochs_of_steps(total, steps)[0])


def _ratio_of_budget(settings: Settings, flat: FlatParameters, sign_key: bytes | None) -> float:
    """Return the updating ratio that goes with --byte_budget: of random masks; others select what fits."""
    initial, budget = to_numpy(flat.vector), settings.byte_budget
    value_bits = fewest_bits(settings.value_bits)
    shared = Shared(flat.schema, initial, initial)
    least = smallest_budget(shared, value_bits, sign_key)
    if budget < least:
        rest = "biases alone take" if flat.num_rest else "a message without weights takes"
        rest = f"BatchNorm and {rest}" if flat.num_buffers else rest
        reason = f"{rest} up to {least:,} bytes with --value_bits {value_bits}"
        way = "more than" if MODES[settings.mode].kind == "random" else "at least"
        raise UsageError(f"--byte_budget is {budget:,}, but {reason}: give {way} that")
    if MODES[settings.mode].kind != "random":
        return ratio_in_budget(flat.num_weights, budget, settings.value_bits)
    return fitting_ratio(shared, value_bits, budget, sign_key)


def _update(settings: Settings, flat: FlatParameters, ratio: float) -> tuple[Callable[[RoundTraining], None], int]:
    """Return the method with its settings, and how many weights it updates at most."""
    mode = MODES[settings.mode]
    deployed = num_deployed(flat.num_weights, settings.deploy_sparsity)
    if mode.two_steps:
        update = partial(
            partial_update,
            mode=mode,
            updating_ratio=ratio,
            lamda=settings.lamda,
            fixing_ratio=settings.rewind_fixing_ratio,
            total_epochs=settings.total_epochs,
            bits_to_try=sorted(VALUE_BITS) if settings.value_bits == "auto" else (),
            own=load_criterion(settings.criterion, flat) if settings.criterion else None,
        )
        return update, num_selected(deployed, ratio)
    if mode.kind == "random":
        update = partial(random_update, updating_ratio=ratio, seed=settings.seed)
        return update, sum(round(ratio * min(size, deployed)) for size in flat.layer_sizes)
    return full_update, deployed


def _deployment(settings: Settings, num_weights: int, deployed: int) -> Way | None:
    """Return how the network is deployed, `deployed` of its weights; None: by a round like all others.

    It trains as many epochs as the steps of a round have together that rewinds once; a sparse one shares them between
    its two steps, which are those of pruning.
    """
    recipe = recipe_of(settings)
    epochs = recipe.num_epochs * (2 if MODES[settings.mode].two_steps else 1)
    epochs = settings.deploy_epochs or settings.total_epochs or epochs
    if deployed < num_weights:
        pruning, kept = MODES["pruning"], Fraction(deployed, num_weights)
        epochs = max(2, epochs)
        update = partial(partial_update, mode=pruning, updating_ratio=kept, total_epochs=epochs)
        shorter = replace(recipe, num_epochs=epochs // 2)
        return Way(update, shorter, Coding(pruning.kind, settings.value_bits, float(kept), deploys=True))
    if settings.deploy == "full" or settings.deploy_epochs:  # full updating always deploys fully
        return Way(full_update, replace(recipe, num_epochs=epochs), Coding("dense", settings.value_bits, 1.0))
    return None


def count_rounds(settings: Settings, arrival: Arrival) -> int:
    """Return the number of rounds of the run. Raises UsageError if more are asked for than there are."""
    max_rounds = settings.max_rounds or arrival.num_rounds
    if max_rounds > arrival.num_rounds:
        reason = f"all the data is there after {arrival.num_rounds}"
        raise UsageError(f"--max_rounds is {max_rounds}, but {reason}: give at most that")
    return max_rounds


def batches_of(settings: Settings, inputs: Dataset | Inputs, device: torch.device) -> Callable[..., BatchSource]:
    """Return what makes batches of (images, labels), normalised and laid out as the network takes them."""
    kind = Batches
    if inputs.streamed:
        kind = partial(StreamedBatches, pool=reading_pool(inputs.input_shape[1], settings.num_workers, device))
    convolutional = settings.model_is_ours and settings.model != "mlp"  # others may ask for plain memory
    return partial(kind, mean=inputs.mean, std=inputs.std, device=device, channels_last=convolutional)


def make_trainer(
    settings: Settings, dataset: Dataset, split: EvaluationSplit, flat: FlatParameters, device: torch.device,
    group: Group | None = None,
) -> Trainer:  # fmt: skip
    """Return what trains and evaluates the network in `flat`, with its samples to be had on the device."""
    batches = batches_of(settings, dataset, device)
    train = batches(
        dataset.train_images,
        dataset.train_labels,
        batch_size=settings.train_batch_size,
        augment=settings.augment,
        smallest_batch=2 if settings.has_batch_norm or has_batch_norm(flat.model) else 1,
    )
    validation = batches(split.val_images, split.val_labels, batch_size=settings.val_batch_size)
    test = batches(split.test_images, split.test_labels, batch_size=settings.test_batch_size)
    bfloat16, foreign = settings.precision == "bf16", not settings.model_is_ours
    return Trainer(flat, train, settings.seed, validation, test, bfloat16, group=group, foreign=foreign)
