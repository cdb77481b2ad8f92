"""From settings and data to what a run does: defaults that depend on the data, the network, the plan."""

from collections.abc import Callable
from dataclasses import fields, replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch

from data.arrival import Arrival
from data.batches import Batches, BatchSource
from data.datasets import Dataset, EvaluationSplit, Streaming, default_validation_size, load_dataset
from data.seeding import derive_seed
from data.streaming.batches import StreamedBatches, reading_pool
from models import build_model
from utils.contribution import num_selected
from utils.flat import FlatParameters
from utils.methods import full_update, partial_update, random_update
from utils.modes import MODES
from utils.reinit import Reinit
from utils.rounds import Plan, Way
from utils.run.deployment import num_deployed
from utils.run.options import UsageError, check_sizes, uses_batch_norm
from utils.training.recipes import Recipe, recipe_for

MakeNetwork = Callable[[int], FlatParameters]
DATA_SETTINGS = ("dataset", "dataset_dir", "stream", "image_size", "skip_broken")  # what decides what is read


def read_dataset(settings: dict[str, Any], download: bool = True, **watch: Callable) -> Dataset:
    """Return the data set that `settings` name; `watch`, where it is given, sees image files being checked."""
    streaming = None
    if settings["stream"]:
        streaming = Streaming(settings["image_size"], settings["num_workers"], settings["skip_broken"], **watch)
    return load_dataset(settings["dataset"], settings["dataset_dir"], download, streaming)


def with_data_defaults(settings: dict[str, Any], dataset: Dataset, device: torch.device) -> dict[str, Any]:
    """Return `settings` with the sizes that follow from the data filled in, and the kind of device.

    Raises UsageError for a size that the data cannot serve.
    """
    batch_norm = uses_batch_norm(settings["model"], settings["batch_norm"])
    size_init, size_subseq = check_sizes(
        settings["dataset_size_init"], settings["dataset_size_subseq"], len(dataset.train_labels), batch_norm
    )
    num_test = len(dataset.test_labels)
    val_size = settings["val_dataset_size"]
    if dataset.val_images is not None:
        if val_size is not None:
            there = f"{dataset.name} has validation images"
            raise UsageError(f"--val_dataset_size is {val_size}, but {there}: leave it out")
    elif val_size is None:
        val_size = default_validation_size(num_test)
    elif val_size >= num_test:
        raise UsageError(
            f"--val_dataset_size is {val_size}, which leaves none of the {num_test} test images: give less"
        )
    usual = dataset.streamed or dataset.name in ("cifar10", "cifar100")
    augment = {"auto": usual, "on": True, "off": False}[settings["augment"]]
    recipe = _recipe(settings)
    # Convolutions of large batches leave the processor's cache: slower there, and half a gigabyte for VGG.
    evaluated_at_once = 128 if device.type == "cpu" and settings["model"] != "mlp" else 500
    return {
        **settings,
        "augment": augment,
        "lr": recipe.lr,
        "num_epochs": recipe.num_epochs,
        "device": device.type,
        "dataset_size_init": size_init,
        "dataset_size_subseq": size_subseq,
        "val_dataset_size": val_size,
        "val_batch_size": settings["val_batch_size"] or evaluated_at_once,
        "test_batch_size": settings["test_batch_size"] or evaluated_at_once,
    }


def _recipe(settings: dict[str, Any]) -> Recipe:
    two_steps = MODES[settings["mode"]].two_steps
    return recipe_for(settings["model"], two_steps, settings["lr"], settings["num_epochs"])


def network_maker(settings: dict[str, Any], dataset: Dataset, device: torch.device) -> MakeNetwork:
    """Return a function that makes the initial network of the run (0), or another one, flat and on the device."""
    return partial(_make_network, settings, dataset, device)


def first_network(make_network: MakeNetwork, name: str) -> FlatParameters:
    """Return the initial network; raises UsageError if the model cannot take the input or the machine the model."""
    try:
        return make_network(0)
    except ValueError as error:
        raise UsageError(f"--model: {error}") from error
    except RuntimeError as error:  # what torch raises when memory does not suffice, on every device
        if "memory" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise UsageError(f"--model: {name} is too large for this machine ({reason})") from error


def _make_network(settings: dict[str, Any], dataset: Dataset, device: torch.device, number: int) -> FlatParameters:
    model = build_model(
        settings["model"],
        dataset.input_shape,
        dataset.num_classes,
        seed=derive_seed(settings["seed"], "initial weights", number),
        hidden_sizes=settings["hidden_sizes"],
        batch_norm=settings["batch_norm"],
        width=settings["width"],
    )
    return FlatParameters(model.to(device))


def make_plan(
    settings: dict[str, Any], flat: FlatParameters, arrival: Arrival, make_network: MakeNetwork
) -> Plan:
    """Return what the run does each round. Raises UsageError if no weight is selected or rounds are too many."""
    mode, ratio = settings["mode"], settings["updating_ratio"]
    method, sizes = MODES[mode], flat.layer_sizes
    there = num_deployed(flat.num_weights, settings["deploy_sparsity"])
    if method.score is not None:
        fixing_ratio = settings.get("rewind_fixing_ratio", 1.0)
        update = partial(
            partial_update, mode=method, updating_ratio=ratio, lamda=settings["lamda"], fixing_ratio=fixing_ratio
        )
        count = num_selected(there, ratio)
    elif mode == "rpu":
        update = partial(random_update, updating_ratio=ratio, seed=settings["seed"])
        count = sum(round(ratio * min(size, there)) for size in sizes)  # at most, where a layer keeps what it can
    else:
        update, count = full_update, there
    if count == 0:
        flag = "pruning_ratio" if mode == "pruning" else "updating_ratio"
        what = f"{there:,} weights" if there == flat.num_weights else f"{there:,} deployed weights"
        raise UsageError(f"--{flag} is {ratio}, which selects none of {what}: give more")
    max_rounds = count_rounds(settings, arrival)
    return Plan(
        method=method,
        update=update,
        recipe=_recipe(settings),
        arrival=arrival,
        num_rounds=max_rounds,
        updating_ratio=ratio,
        reinit=Reinit(**{field.name: settings[field.name] for field in fields(Reinit)}),
        value_bits=settings["value_bits"],
        initial=flat.snapshot(),
        fresh=lambda number: make_network(number).vector,
        deployment=_deployment(settings, flat.num_weights, there),
    )


def _deployment(settings: dict[str, Any], num_weights: int, there: int) -> Way | None:
    """Return how the network is deployed, `there` of its weights; None: by a round like all others.

    A full deployment trains as many epochs as the steps of a round have together, a sparse one half of them in each
    of its two steps, which are those of pruning.
    """
    recipe = _recipe(settings)
    epochs = recipe.num_epochs * (2 if MODES[settings["mode"]].two_steps else 1)
    if there < num_weights:
        pruning, kept = MODES["pruning"], Fraction(there, num_weights)
        update = partial(partial_update, mode=pruning, updating_ratio=kept)
        half = replace(recipe, num_epochs=max(1, epochs // 2))
        return Way(update, half, pruning.kind, float(kept), sparsifies=True)
    if settings.get("deploy") == "full":
        return Way(full_update, replace(recipe, num_epochs=epochs), "dense", 1.0)
    return None


def count_rounds(settings: dict[str, Any], arrival: Arrival) -> int:
    """Return the number of rounds of the run. Raises UsageError if more are asked for than there are."""
    max_rounds = settings["max_rounds"] or arrival.num_rounds
    if max_rounds > arrival.num_rounds:
        there = f"all the data is there after {arrival.num_rounds}"
        raise UsageError(f"--max_rounds is {max_rounds}, but {there}: give at most that")
    return max_rounds


def make_batches(
    settings: dict[str, Any], dataset: Dataset, split: EvaluationSplit, device: torch.device
) -> tuple[BatchSource, BatchSource, BatchSource]:
    """Return the training, validation and test samples, to be had on the device."""
    kind = Batches
    if dataset.streamed:
        kind = partial(StreamedBatches, pool=reading_pool(dataset.image_size, settings["num_workers"], device))
    convolutional = settings["model"] != "mlp"
    batches = partial(kind, mean=dataset.mean, std=dataset.std, device=device, channels_last=convolutional)
    train = batches(
        dataset.train_images,
        dataset.train_labels,
        batch_size=settings["train_batch_size"],
        augment=settings["augment"],
        smallest_batch=2 if uses_batch_norm(settings["model"], settings["batch_norm"]) else 1,
    )
    validation = batches(split.val_images, split.val_labels, batch_size=settings["val_batch_size"])
    test = batches(split.test_images, split.test_labels, batch_size=settings["test_batch_size"])
    return train, validation, test
