"""The command line of the three scripts: arguments in groups, their defaults, the check of every value."""

import argparse
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from utils.modes import modes_of
from utils.reinit import PARAMETERS, STRATEGIES, choose
from utils.run import argument_types, deployment
from utils.run.argument_types import whole
from utils.run.deployment import WAYS
from utils.training.recipes import DEFAULTS

MODELS = tuple(DEFAULTS)
DATASETS = ("mnist", "cifar10", "cifar100", "imagenet", "digits")
IMAGE_SIZE = 224  # of streamed images
MOST_WORKERS = 16  # by default; more than a GPU can use, or a disk serve


class UsageError(Exception):
    """Something that the user gave cannot be used; the message names flag, value and way out in one line."""


def speaks() -> bool:
    """Return True unless this is one of several processes started by torchrun and not their first."""
    return os.environ.get("RANK", "0") == "0"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line on stderr."""

    def error(self, message: str) -> NoReturn:
        hint = f"; {self.prog} -h lists what it takes" if message.startswith("unrecognized") else ""
        message = " ".join(message.splitlines())  # what it quotes, such as a path, can have line breaks
        self.exit(2, f"{self.prog}: error: {message}{hint}\n")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """End the process with `message` on stderr; of several under torchrun, rank 0 alone speaks."""
        super().exit(status, message if speaks() else None)


class _HelpFormatter(argparse.HelpFormatter):
    """Shows a default behind each help text that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        plain = any(action.default is nothing for nothing in (None, False, argparse.SUPPRESS))
        return action.help if plain else f"{action.help} (default: %(default)s)"


def build_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of the script `prog`."""
    modes = modes_of(prog)
    parser = Parser(
        prog=prog,
        description=description,
        allow_abbrev=False,
        usage="%(prog)s [flags]",
        formatter_class=lambda prog: _HelpFormatter(prog, max_help_position=28, width=110),
    )

    def flag(group, name, kind=None, default=None, **more):
        what = {int: "N", Path: "PATH"}.get(kind, "X") if "choices" not in more else None
        group.add_argument(name, type=kind, default=default, **{"metavar": what, **more})

    def switch(group, name, text):
        group.add_argument(name, action="store_true", default=False, help=text)

    g = parser.add_argument_group("data")
    sources = f"{', '.join(DATASETS)}, or the path of a .npz file or an image folder"
    flag(g, "--dataset", default="mnist", metavar="NAME", help=sources)
    flag(g, "--dataset_dir", Path, Path("data/downloads"), help="folder of the named data sets' files")
    size = "(default: 1000, or a sixth of a small training set)"
    flag(g, "--dataset_size_init", whole(1), metavar="N", help=f"samples in round 0 {size}")
    added = f"samples that each further round adds {size}"
    flag(g, "--dataset_size_subseq", whole(1), metavar="N", help=added)
    stop = "stop after N rounds (default: when all samples are there)"
    flag(g, "--max_rounds", whole(1), metavar="N", help=stop)
    size = "(default: 3000, or 30%% of a small test set)"
    flag(g, "--val_dataset_size", whole(1), metavar="N", help=f"test images held out for validation {size}")
    augment = "random crops and flips; auto: for CIFAR and streamed images"
    flag(g, "--augment", default="auto", choices=("auto", "on", "off"), help=augment)
    switch(g, "--stream", "read the images of a folder while training, not into memory; imagenet always is")
    size = f"streamed images: pixels of a side (default: {IMAGE_SIZE})"
    flag(g, "--image_size", whole(1, 2**14), metavar="N", help=size)
    switch(g, "--skip_broken", "streamed images: leave out files that do not decode, do not stop")

    g = parser.add_argument_group("model")
    flag(g, "--model", default="mlp", choices=MODELS, help="network")
    hidden = "mlp: units of each hidden layer (default: 512 512)"
    flag(g, "--hidden_sizes", whole(1, 2**20), nargs="*", metavar="N", help=hidden)
    switch(g, "--batch_norm", "mlp: BatchNorm before each ReLU")
    width = "mobilenetv1: factor of each layer's channels (default: 1)"
    flag(g, "--width", argument_types.width, metavar="X", help=width)

    g = parser.add_argument_group("method")
    flag(g, "--mode", default=modes[0], choices=modes, help="updating method")
    by_model = "(default: " + ", ".join(f"{name} {row[3]}" for name, row in DEFAULTS.items()) + ")"
    if "pruning" in modes:
        ratio = f"pruning: share of the weights that stay and are sent {by_model}"
        flag(g, "--pruning_ratio", argument_types.ratio, metavar="K", help=ratio)
    else:
        ratio = f"share of the weights that a round updates {by_model}"
        flag(g, "--updating_ratio", argument_types.ratio, metavar="K", help=ratio)
    if "dpu" in modes:
        rewound = "share of the weights still selected that each rewinding fixes; below 1, a round trains and rewinds "
        rewound += "in turn, E epochs each time, until as many as the updating ratio says are left"
        flag(g, "--rewind_fixing_ratio", argument_types.ratio, 1.0, help=rewound)
        lamda = "dpu: weight of the global contribution, 0 to 1 (default: 0.5)"
        flag(g, "--lamda", argument_types.share, help=lamda)
        switch(g, "--without_reinit", "the same as --reinit_strategy never")
    if "rpu" in modes:
        switch(g, "--reinit", "the same as --reinit_strategy doubling")
    if "dpu" in modes or "rpu" in modes:
        strategy = "start again when the samples have doubled, never, or every N rounds, from the initial weights; "
        strategy += "shrink_perturb: when they have doubled, from shrink * last network + perturb * initial one "
        strategy += f"(default: {'doubling' if 'dpu' in modes else 'never'})"
        flag(g, "--reinit_strategy", choices=STRATEGIES, help=strategy)
        defaults = {name: value for own in PARAMETERS.values() for name, value in own.items()}
        flag(g, "--reinit_every", whole(1), metavar="N", help=f"every: rounds (default: {defaults['reinit_every']})")
        for name in ("shrink", "perturb"):
            factor = f"shrink_perturb: factor, 0 to 1 (default: {defaults[name]})"
            flag(g, f"--{name}", argument_types.share, help=factor)
        how = "round 0: a partial update of the initial network, or all weights (default: partial, when sparse full)"
        flag(g, "--deploy", choices=WAYS, help=how)
    sparsity = "share of the weights that round 0 prunes, the smallest ones; they stay zero, and k counts the others"
    flag(g, "--deploy_sparsity", argument_types.below_one, 0.0, help=sparsity)

    g = parser.add_argument_group("messages")
    bits = "of a weight's value: 32 is lossless, 16 is bfloat16, fewer are quantised changes"
    flag(g, "--value_bits", int, 32, choices=(32, 16, 8, 6, 5, 4), help=bits)
    flag(g, "--sign_key", Path, metavar="FILE", help="sign messages with the key in this file")

    g = parser.add_argument_group("training")
    one, two = ("/".join(str(row[i]) for row in DEFAULTS.values()) for i in (2, 1))
    epochs = {"rpu": one, "dpu": two}.get(modes[0], f"{one}, pruning {two}")
    epochs = f"epochs of each step of a round (default: {epochs} for {'/'.join(DEFAULTS)})"
    flag(g, "--num_epochs", whole(1), metavar="N", help=epochs)
    lrs = "/".join(str(row[0]["lr"]) for row in DEFAULTS.values())
    flag(g, "--lr", argument_types.learning_rate, help=f"initial learning rate (default: {lrs})")
    flag(g, "--train_batch_size", whole(1), 128, metavar="N", help="samples in a training step")
    size = "(default: 500, on the CPU 128 but for mlp)"
    flag(g, "--val_batch_size", whole(1), metavar="N", help=f"samples in a validation batch {size}")
    flag(g, "--test_batch_size", whole(1), metavar="N", help=f"samples in a test batch {size}")
    flag(g, "--seed", whole(0, 2**63 - 1), 0, metavar="N", help="seed of all randomness")

    g = parser.add_argument_group("machine")
    flag(g, "--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps")
    precision = "tf32 needs CUDA; bf16 is bfloat16 autocast"
    flag(g, "--precision", default="fp32", choices=("fp32", "tf32", "bf16"), help=precision)
    flag(g, "--threads", whole(1, 1024), metavar="N", help="CPU threads (default: PyTorch's choice)")
    workers = f"processes that read streamed images (default: one a core, up to {MOST_WORKERS})"
    flag(g, "--num_workers", whole(0, 1024), metavar="N", help=workers)

    g = parser.add_argument_group("output")
    folders = ("--output_dir", "--model_dir")
    where = "folder in which run folders are made"
    g.add_argument(*folders, type=Path, default=Path("runs"), metavar="PATH", help=where)
    switch(g, "--overwrite", "start anew even if the run is there, finished or not")
    interval = "seconds between checkpoints within a round; 0: one every epoch"
    flag(g, "--checkpoint_interval", argument_types.at_least_zero, 60.0, metavar="S", help=interval)
    switch(g, "--quiet", "no progress bars")
    return parser


def parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse `argv` and check all that can be checked without the data; exits with status 2 on an error.

    Afterwards every script's namespace has the same names: `updating_ratio` (1 for full updating), `lamda`
    (None but for dpu), and `reinitialize` and the names in `utils.reinit.Reinit`.
    """
    for word in argv:
        if word.startswith("--") and word.endswith("=--"):  # argparse may take it for no value
            parser.error(f"argument {word[:-3]}: '--' is not a value")
    args = parser.parse_args(argv)
    try:
        _check(args)
    except UsageError as error:
        parser.error(str(error))
    return args


def _check(args: argparse.Namespace) -> None:
    given = vars(args)
    if args.model != "mlp":
        for name in ("hidden_sizes", "batch_norm"):
            if given[name] not in (None, False):
                raise UsageError(f"--{name} is for --model mlp, not {args.model}: leave it out")
    if args.model != "mobilenetv1" and args.width is not None:
        raise UsageError(f"--width is for --model mobilenetv1, not {args.model}: leave it out")
    args.width = args.width or 1.0
    args.hidden_sizes = (512, 512) if args.hidden_sizes is None else tuple(args.hidden_sizes)

    default_ratio = DEFAULTS[args.model][3]
    if "pruning_ratio" in given:
        if args.mode != "pruning" and args.pruning_ratio is not None:
            raise UsageError(f"--pruning_ratio is for --mode pruning, not {args.mode}: leave it out")
        ratio = given.pop("pruning_ratio") or default_ratio
        args.updating_ratio = ratio if args.mode == "pruning" else 1.0
    args.updating_ratio = args.updating_ratio or default_ratio

    if given.get("lamda") is not None and args.mode != "dpu":
        raise UsageError(f"--lamda is for --mode dpu; {args.mode} ignores it: leave it out")
    args.lamda = (0.5 if args.lamda is None else args.lamda) if args.mode == "dpu" else None
    try:
        given.update(deployment.choose(given))
        reinit = choose(given)
    except ValueError as error:
        raise UsageError(str(error)) from error
    given.update(vars(reinit), reinitialize=reinit.reinit_strategy != "never")

    _check_streaming(args)
    if uses_batch_norm(args.model, args.batch_norm) and args.train_batch_size < 2:
        raise UsageError("--train_batch_size is 1: BatchNorm needs batches of 2 or more")
    check_folder("--dataset_dir", args.dataset_dir)
    check_folder("--output_dir", args.output_dir)


def _check_streaming(args: argparse.Namespace) -> None:
    if args.stream and args.dataset in DATASETS and args.dataset != "imagenet":
        raise UsageError(f"--stream is for a folder of images, not {args.dataset}: leave it out")
    args.stream = args.stream or args.dataset == "imagenet"
    if args.stream:
        args.image_size = args.image_size or IMAGE_SIZE
        if args.num_workers is None:
            args.num_workers = _default_workers()
        return
    for name in ("image_size", "skip_broken"):
        if vars(args)[name] not in (None, False):
            raise UsageError(f"--{name} is for streamed images (--dataset imagenet, or --stream): leave it out")
    args.num_workers = args.num_workers or 0


def _default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")  # of this run on this machine, as torchrun says
    return max(1, min(MOST_WORKERS, cores // (int(processes) if processes.isdecimal() else 1)))


def interrupted(overwrite: bool) -> str:
    """Return the line that answers Ctrl-C."""
    how = "the same command without --overwrite" if overwrite else "the same command"
    return f"\ninterrupted: {how} goes on from the last checkpoint, if there is one yet\n"


def uses_batch_norm(model: str, batch_norm: bool) -> bool:
    """Return True if the model has BatchNorm layers, which cannot train on a batch of one sample."""
    return model != "mlp" or batch_norm


def check_folder(name: str, path: Path) -> None:
    """Raise UsageError if `path` cannot be a folder because it, or a part of it, is a file."""
    for part in (path, *path.parents):
        if os.path.exists(part):  # unlike Path.exists, False for what may not be looked at
            if not os.path.isdir(part):
                raise UsageError(f"{name} is {path}, but {part} is a file: name a folder")
            return


def check_sizes(
    size_init: int | None, size_subseq: int | None, num_train: int, batch_norm: bool
) -> tuple[int, int]:
    """Return the sample counts of round 0 and of each further one, defaults filled in.

    Raises UsageError for a size above the training set, or too small for BatchNorm.
    """
    default = min(1000, max(math.ceil(num_train / 6), 2 if batch_norm else 1), num_train)
    sizes = []
    for name, size in (("dataset_size_init", size_init), ("dataset_size_subseq", size_subseq)):
        size = default if size is None else size
        if size > num_train:
            there = f"there are {num_train} training images"
            raise UsageError(f"--{name} is {size}, but {there}: give at most that")
        sizes.append(size)
    if batch_norm and sizes[0] < 2:
        raise UsageError("--dataset_size_init is 1: BatchNorm needs at least 2 samples")
    return sizes[0], sizes[1]
