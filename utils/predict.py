"""From a node's file to answers: the network that it serves classifies images. Needs torch.

`python -m utils.edge predict` calls this; nothing else of the edge node needs more than numpy and constriction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
from utils.system.errors import UserError
from utils.training.device import denormals, find_device, set_up_device
from utils.training.loop import Trainer


@dataclass(frozen=True)
class Answers:
    """What a node's network makes of images: the name of each, of its class, and the share that is right, if known."""

    names: Sequence[str]
    classes: Sequence[str]
    accuracy: float | None


def predict(node: EdgeNode, run: Path, images: Path | None) -> Answers:
    """Classify images with the network that `node` serves, built as `config.json` of the run folder `run` says.

    images  an .npz file or a folder, see `read_queries`; None: the run's own test images
    Device, precision and threads are those of the run, as far as this machine has them. Raises UserError.
    """
    config = RunFolder(run).read_config()
    if config is None:
        raise UserError(f"{run}: has no config.json, which says how its network is built; give a run folder")
    settings = Settings.from_plain(config["settings"])
    try:
        inputs = Inputs.from_text(node.inputs)
    except ValueError as error:
        reason = error if node.inputs else "the node is of a run that did not say yet what its inputs are"
        raise UserError(f"{reason}: make the node anew from an initial.safetensors of today's code") from None
    device = find_device("auto")
    precision = "fp32" if settings.precision == "tf32" and device.type != "cuda" else settings.precision
    device = set_up_device(device.type, precision, settings.threads)
    flat = network_maker(settings, inputs, device)(0)
    if flat.schema.fingerprint != node.schema.fingerprint:
        raise UserError(f"{run}: its network is not the node's: give the run that the node's messages are from")
    flat.load(torch.from_numpy(np.array(node.serving)).to(device))
    queries = _test_images(settings, config, run) if images is None else read_queries(images, inputs)
    labels = queries.labels if queries.labels is not None else torch.zeros(len(queries.images), dtype=torch.int64)
    if (largest := int(labels.max())) >= inputs.num_classes:
        raise UserError(f"{images}: labels go up to {largest}, but the network has {inputs.num_classes} classes")
    batches = batches_of(settings, inputs, device)(queries.images, labels, batch_size=settings.test_batch_size)
    with denormals(flushed=True):  # as in a run
        classes = Trainer(flat, batches, settings.seed, bfloat16=precision == "bf16").classes(batches).cpu()
    right = None if queries.labels is None else (classes == queries.labels).double().mean().item()
    return Answers(queries.names, [inputs.classes[number] for number in classes.tolist()], right)


def _test_images(settings: Settings, config: dict, run: Path) -> Queries:
    """Return the images that a run is tested on."""
    dataset = read_dataset(settings, download=False)
    if dataset.fingerprint != config["fingerprints"]["dataset"]:
        raise UserError(f"{settings.dataset} is no longer the data that {run} was made from: give images")
    split = split_validation(dataset, settings.val_dataset_size, settings.seed)
    return Queries(split.test_images, [str(index) for index in range(len(split.test_labels))], split.test_labels)
