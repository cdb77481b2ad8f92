"""From a node's file to answers: the network that it serves classifies images. Needs torch.

`python -m utils.edge predict` calls this; nothing else of the edge node needs more than numpy and constriction.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from data.datasets import split_validation
from data.inputs import Inputs, Queries, read_queries
from utils.edge.node import EdgeNode
from utils.run.folder import RunFolder
from utils.run.identity import read_dataset
from utils.run.plan import batches_of, network_maker
from utils.run.settings import Settings
from utils.system.errors import UsageError, UserError, lacks_memory
from utils.system.own_code import LAYOUT, digests_of, in_words
from utils.system.processes import process_kept
from utils.system.references import label_of
from utils.training.device import denormals, find_device, set_up_device
from utils.training.loop import Trainer


@dataclass(frozen=True)
class Answers:
    """What a node's network makes of images: the name of each, of its class, and the share that is right, if known."""

    names: Sequence[str]
    classes: Sequence[str]
    accuracy: float | None


@process_kept()
def predict(node: EdgeNode, run: Path, images: Path | None, model: str | None = None) -> Answers:
    """Classify images with the network that `node` serves, built as `config.json` of the run folder `run` says.

    images  an .npz file or a folder, see `read_queries`; None: the run's own test images
    model   FILE.py:NAME of a network of a user's: its code is run, so a run folder, which may be anybody's, cannot say
    Precision and threads are those of the run, as far as this machine has them; the device is CUDA, or else the CPU.
    Raises UserError.
    """
    torch.set_default_dtype(torch.float32)
    config = RunFolder(run).read_config()
    if config is None:
        raise UserError(f"{run}: has no config.json, which says how its network is built; give a run folder")
    try:
        inputs = Inputs.from_text(node.inputs)
    except ValueError as error:
        reason = error if node.inputs else "the node is of a run that did not say yet what its inputs are"
        raise UserError(f"{reason}: make the node anew from an initial.safetensors of today's code") from None
    changing = [entry.name for entry in node.schema.of_role("buffer")]
    with _config_read(run):
        settings = _with_own_file(Settings.from_plain(config["settings"]), run, model)
        device = find_device("auto")
        precision = "fp32" if settings.precision == "tf32" and device.type != "cuda" else settings.precision
        device = set_up_device(device.type, precision, settings.threads)
        flat = network_maker(settings, inputs, device, changing=changing)(0)
    if flat.schema.fingerprint != node.schema.fingerprint:
        raise UserError(f"{run}: its network is not the node's: give the run that the node's messages are from")
    recorded, now = config.get("own_sources"), {LAYOUT: flat.layout, **digests_of([("model", settings.model)])}
    for name, digest in now.items() if isinstance(recorded, dict) else ():
        if recorded.get(name, digest) != digest:
            reason = "is not what it was when the run was made, so the network may compute otherwise"
            raise UserError(f"{run}: {name} {reason}: take the file of then")
    flat.load(torch.from_numpy(np.array(node.serving)).to(device))
    if images is None:
        _check_run(node, run)
        with _config_read(run):
            queries = _test_images(settings, config, run)
    else:
        queries = read_queries(images, inputs)
    labels = queries.labels if queries.labels is not None else torch.zeros(len(queries.images), dtype=torch.int64)
    if (largest := int(labels.max())) >= inputs.num_classes:
        raise UserError(f"{images}: labels go up to {largest}, but the network has {inputs.num_classes} classes")
    taken = replace(inputs, streamed=not isinstance(queries.images, torch.Tensor))  # an .npz file holds pixels
    with _config_read(run):
        batches = batches_of(settings, taken, device)(queries.images, labels, batch_size=settings.test_batch_size)
    with denormals(flushed=True):  # as in a run
        foreign = not settings.model_is_ours
        trainer = Trainer(flat, batches, settings.seed, bfloat16=precision == "bf16", foreign=foreign)
        classes = trainer.classes(batches).cpu()
    right = None if queries.labels is None else (classes == queries.labels).double().mean().item()
    return Answers(queries.names, [inputs.classes[number] for number in classes.tolist()], right)


def _check_run(node: EdgeNode, run: Path) -> None:
    """Raise UserError if another run than `run` shipped the node: what that is tested on, the node may know."""
    initial = run / "initial.safetensors"
    if initial.is_file() and EdgeNode.shipped(initial).fingerprint != node.schema.state_fingerprint(node.initial):
        raise UserError(f"{run}: the node began with another network: give the run that it is from, or images")


@contextmanager
def _config_read(run: Path) -> Iterator[None]:
    """Within, config.json is put to use, which may be anybody's: what comes of odd values in it is a UserError."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if lacks_memory(error):
            raise
        reason = f"cannot be put to use ({in_words(error)}): give a folder as a run of today's code writes it"
        raise UserError(f"{run}: config.json {reason}") from error


def _with_own_file(settings: Settings, run: Path, model: str | None) -> Settings:
    """Return the settings with the user's file for a network that is one of theirs. Raises UsageError."""
    name = label_of(settings.model)
    if settings.model_is_ours or settings.model.startswith("torchvision:"):
        if model is not None:
            raise UsageError(f"--model is for networks of one's own, but that of {run} is {name}: leave it out")
        return settings
    if model is None or label_of(model) != name:
        raise UsageError(f"the network of {run} is {name}: give --model with the path of that file, as PATH/{name}")
    return replace(settings, model=model)


def _test_images(settings: Settings, config: dict, run: Path) -> Queries:
    """Return the images that a run is tested on."""
    dataset = read_dataset(settings, download=False)
    if dataset.fingerprint != config["fingerprints"]["dataset"]:
        raise UserError(f"{settings.dataset} is no longer the data that {run} was made from: give images")
    split = split_validation(dataset, settings.val_dataset_size, settings.seed)
    return Queries(split.test_images, [str(index) for index in range(len(split.test_labels))], split.test_labels)
