"""The settings of one run, all of them, under the names of the flags. Needs no torch.

`utils.run.flags` says of each flag whether it can change a result. Nothing below `utils.run` sees these settings:
`utils.run.plan` makes of them what the rounds need.
"""

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

_PATHS = ("dataset_dir", "sign_key", "output_dir")


@dataclass(frozen=True)
class Settings:
    """Checked values of every flag, and what follows from several of them; None: not known before the data is read.

    A method that lacks a flag has the value that changes nothing.
    """

    # data
    dataset: str
    dataset_dir: Path
    dataset_size_init: int | None
    dataset_size_subseq: int | None
    max_rounds: int | None
    val_dataset_size: int | None
    augment: str | bool  # as given, then whether training images are augmented
    stream: bool
    image_size: int | None
    skip_broken: bool
    # model
    model: str
    hidden_sizes: tuple[int, ...]
    batch_norm: bool
    width: float
    # method
    mode: str
    criterion: str | None
    updating_ratio: float  # where weights are pruned, the share that stays; 1 for full updating
    byte_budget: int | None
    rewind_fixing_ratio: float
    lamda: float | None
    reinitialize: bool  # whether the run ever starts again
    reinit_strategy: str
    reinit_every: int | None
    shrink: float | None
    perturb: float | None
    deploy: str
    deploy_sparsity: float
    # messages
    value_bits: int | str  # or "auto"
    sign_key: Path | None
    signed: str | None  # a fingerprint of the key
    # training
    num_epochs: int | None  # of each step; with total_epochs, of the shortest one
    total_epochs: int | None  # of a round
    deploy_epochs: int | None
    lr: float | None
    optimizer: str | None  # this and the next two: None for the recipe's
    schedule: str | None
    weight_decay: float | None
    train_batch_size: int
    val_batch_size: int | None
    test_batch_size: int | None
    seed: int
    # machine
    device: str
    precision: str
    threads: int | None
    num_workers: int
    # output
    output_dir: Path
    overwrite: bool
    resume_changed: bool
    checkpoint_interval: float
    quiet: bool

    @property
    def has_batch_norm(self) -> bool:
        """Whether a model of ours has BatchNorm layers, which cannot train on a batch of one sample."""
        return self.batch_norm if self.model == "mlp" else self.model_is_ours

    @property
    def model_is_ours(self) -> bool:
        """Whether it is one of those in `models`; a user's, or torchvision's, has a colon in its name."""
        return ":" not in self.model

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Settings":
        """Return what `as_plain` wrote; settings that were not known then are None."""
        values = {field.name: plain.get(field.name) for field in fields(cls)}
        values["hidden_sizes"] = tuple(values["hidden_sizes"] or ())
        paths = {name: Path(values[name]) for name in _PATHS if values[name] is not None}
        return cls(**values | paths)

    def as_plain(self) -> dict[str, Any]:
        """Return the settings for config.json, paths as text."""
        return {
            name: os.fspath(value) if isinstance(value, Path) else value
            for name, value in vars(self).items()
            if name not in ("overwrite", "resume_changed")
        }
