"""Every flag of the three scripts, once, with all that the program knows of it. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.modes import DPU, FU, PRUNING, RPU
from utils.reinit import PARAMETERS, STRATEGIES
from utils.run import argument_types as types
from utils.run.checks import DEPLOYMENTS
from utils.training.recipes import DEFAULTS, OPTIMIZERS, SCHEDULES

MODELS = tuple(DEFAULTS)
DATASETS = ("mnist", "cifar10", "cifar100", "imagenet", "digits")


GROUPS = ("data", "model", "method", "messages", "training", "machine", "output")
# The flags of these are what a table's rows are named by; others are in its columns, or shared by all rows.
NAMING_ROWS = ("method", "messages", "training")


@dataclass(frozen=True)
class Flag:
    """A flag of the scripts, and the setting of its name.

    kind     turns a word into a value; bool: a switch
    help     the same for all scripts, or by script
    scripts  those that have it
    hashed   it can change a result, and counts in the hash of the run folder's name; None: if not of the group "output"
    named    a table's row says so where it is not the default; None: if of a group of NAMING_ROWS
    before   values that say what every run did before the flag came: they do not count in the hash, so that older
             runs keep their folders
    place    it says where something lies on this machine, which exported results do not tell
    """

    name: str
    group: str
    kind: Any
    help: str | dict[str, str]
    default: Any = None
    metavar: str | None = None
    choices: Sequence | None = None
    nargs: str | None = None
    scripts: tuple[str, ...] = (DPU, RPU, FU)
    hashed: bool | None = None
    named: bool | None = None
    before: tuple = ()
    place: bool = False

    @property
    def changes_results(self) -> bool:
        return self.group != "output" if self.hashed is None else self.hashed

    @property
    def names_rows(self) -> bool:
        return self.group in NAMING_ROWS if self.named is None else self.named


def _listed(column: int) -> str:
    return "/".join(str(row[column]) for row in DEFAULTS.values())


_SIZE = "(default: 1000, or a sixth of a small training set)"
_RATIOS = "(default: " + ", ".join(f"{name} {row[3]}" for name, row in DEFAULTS.items()) + ")"
_EPOCHS = {DPU: _listed(1), RPU: _listed(2), FU: f"{_listed(2)}, {PRUNING} {_listed(1)}"}
_RATES = f"{'/'.join(str(row[0]['lr']) for row in DEFAULTS.values())} for {'/'.join(DEFAULTS)}"
_BATCH = "(default: 500, on the CPU 128 but for mlp)"
_START_AGAIN = (
    "start again when the samples have doubled, never, or every N rounds, from the initial weights; "
    "shrink_perturb: when they have doubled, from shrink * last network + perturb * initial one (default: {})"
)
_REWOUND = (
    "share of the weights still selected that each rewinding rewinds; below 1, a round trains and rewinds in turn, "
    "E epochs each time, until as many as the updating ratio says are left"
)
_PRUNED = (
    f"{PRUNING}: share of the weights still left that each pruning removes; below 1, a round trains and prunes in "
    "turn, E epochs each time, until as many as the pruning ratio says are left"
)
_DEFAULT_OF = {name: value for parameters in PARAMETERS.values() for name, value in parameters.items()}

_FLAGS = (
    Flag("dataset", "data", types.filled, f"{', '.join(DATASETS)}, or the path of a .npz file or an image folder",
         "mnist", "NAME", hashed=False),  # the fingerprint of what is read counts instead
    Flag("dataset_dir", "data", types.path, "folder of the named data sets' files", Path("data/downloads"),
         "PATH", hashed=False, place=True),
    Flag("dataset_size_init", "data", types.whole(1), f"samples in round 0 {_SIZE}", metavar="N"),
    Flag("dataset_size_subseq", "data", types.whole(1), f"samples that each further round adds {_SIZE}", metavar="N"),
    Flag("max_rounds", "data", types.whole(1), "stop after N rounds (default: when all samples are there)",
         metavar="N"),
    Flag("val_dataset_size", "data", types.whole(1),
         "test images held out for validation (default: 3000, or 30%% of a small test set)", metavar="N"),
    Flag("augment", "data", str, "random crops and flips; auto: for CIFAR and streamed images", "auto",
         choices=("auto", "on", "off"), named=True),
    Flag("stream", "data", bool, "read the images of a folder while training, not into memory; imagenet always is",
         hashed=False),
    Flag("image_size", "data", types.whole(1, 2**14), "streamed images: pixels of a side (default: 224)", metavar="N",
         before=(None,)),
    Flag("skip_broken", "data", bool, "streamed images: leave out files that do not decode, do not stop",
         hashed=False),

    Flag("model", "model", types.network(MODELS),
         f"network: {', '.join(MODELS)}, torchvision:NAME, or FILE.py:NAME, a function or class of yours", "mlp",
         "NAME"),
    Flag("hidden_sizes", "model", types.whole(1, 2**20), "mlp: units of each hidden layer (default: 512 512)",
         metavar="N", nargs="*"),
    Flag("batch_norm", "model", bool, "mlp: BatchNorm before each ReLU"),
    Flag("width", "model", types.width, "factor of each layer's channels, but for mlp (default: 1)", metavar="X",
         before=(1.0,)),

    Flag("mode", "method", str, "updating method", named=False),
    Flag("criterion", "method", types.in_file,
         "score weights by a function of yours (docs/algorithm.md); in place of --mode", metavar="FILE.py:NAME",
         scripts=(DPU,), named=False, before=(None,)),
    Flag("updating_ratio", "method", types.ratio, f"share of the weights that a round updates {_RATIOS}", metavar="K",
         scripts=(DPU, RPU), named=False),
    Flag("pruning_ratio", "method", types.ratio,
         f"{PRUNING}: share of the weights that stay and are sent {_RATIOS}", metavar="K", scripts=(FU,),
         named=False),
    Flag("byte_budget", "method", types.byte_count,
         {script: f"most bytes of a message, such as 16000, 16k or 16KiB, in place of --{name}_ratio"
          for script, name in ((DPU, "updating"), (RPU, "updating"), (FU, "pruning"))}, metavar="N", before=(None,)),
    Flag("rewind_fixing_ratio", "method", types.ratio, {DPU: _REWOUND, FU: _PRUNED}, 1.0, "X", scripts=(DPU, FU),
         before=(1.0,)),
    Flag("lamda", "method", types.share, "dpu: weight of the global contribution, 0 to 1 (default: 0.5)", metavar="X",
         scripts=(DPU,)),
    Flag("without_reinit", "method", bool, "the same as --reinit_strategy never", scripts=(DPU,)),
    Flag("reinit", "method", bool, "the same as --reinit_strategy doubling", scripts=(RPU,)),
    Flag("reinit_strategy", "method", str,
         {DPU: _START_AGAIN.format("doubling"), RPU: _START_AGAIN.format("never")}, choices=STRATEGIES,
         scripts=(DPU, RPU), before=("doubling", "never")),  # the setting "reinitialize" tells these apart
    Flag("reinit_every", "method", types.whole(1), f"every: rounds (default: {_DEFAULT_OF['reinit_every']})",
         metavar="N", scripts=(DPU, RPU), before=(None,)),
    Flag("shrink", "method", types.share, f"shrink_perturb: factor, 0 to 1 (default: {_DEFAULT_OF['shrink']})",
         metavar="X", scripts=(DPU, RPU), before=(None,)),
    Flag("perturb", "method", types.share, f"shrink_perturb: factor, 0 to 1 (default: {_DEFAULT_OF['perturb']})",
         metavar="X", scripts=(DPU, RPU), before=(None,)),
    Flag("deploy", "method", str,
         "round 0: a partial update of the initial network, or all weights (default: partial, when sparse full)",
         choices=DEPLOYMENTS, scripts=(DPU, RPU), before=("partial",)),
    Flag("deploy_sparsity", "method", types.below_one,
         "share of the weights that round 0 prunes, the smallest ones; they stay zero, and k counts the others", 0.0,
         "X", before=(0.0,)),

    Flag("value_bits", "messages", types.whole_or_word,
         "of a weight's value: 32 is lossless, 16 is bfloat16, fewer are quantised changes; auto, for methods of two "
         "steps with --byte_budget: each round takes what validates best", 32, choices=(32, 16, 8, 6, 5, 4, "auto")),
    Flag("sign_key", "messages", types.path, "sign messages, by a keyed MAC, with the key in this file", metavar="FILE",
         hashed=False, named=False, place=True),  # the setting "signed" counts instead

    Flag("num_epochs", "training", types.whole(1),
         {script: f"epochs of each step of a round (default: {text} for {'/'.join(DEFAULTS)})"
          for script, text in _EPOCHS.items()}, metavar="N", named=False),
    Flag("total_epochs", "training", types.whole(1),
         "epochs of a whole round, shared equally by its steps, in place of --num_epochs", metavar="N", named=False,
         before=(None,)),
    Flag("deploy_epochs", "training", types.whole(1),
         "epochs of a full or sparse deployment in round 0 (default: those of a round of at most two steps)",
         metavar="N", before=(None,)),
    Flag("lr", "training", types.learning_rate, f"initial learning rate (default: {_RATES})", metavar="X"),
    Flag("optimizer", "training", str, "sgd is Nesterov's, momentum 0.9 (default: the model's)", choices=OPTIMIZERS,
         before=(None,)),
    Flag("schedule", "training", str,
         "of the learning rate, in each step: falls every third of the epochs, or as a cosine (default: the model's)",
         choices=SCHEDULES, before=(None,)),
    Flag("weight_decay", "training", types.at_least_zero, "(default: the model's, 0 or 0.0001)", metavar="X",
         before=(None,)),
    Flag("train_batch_size", "training", types.whole(1), "samples in a training step", 128, "N"),
    Flag("val_batch_size", "training", types.whole(1), f"samples in a validation batch {_BATCH}", metavar="N",
         named=False),
    Flag("test_batch_size", "training", types.whole(1), f"samples in a test batch {_BATCH}", metavar="N",
         named=False),
    Flag("seed", "training", types.whole(0, 2**63 - 1), "seed of all randomness", 0, "N", named=False),

    Flag("device", "machine", str, "auto, cpu, cuda, cuda:N or mps", "auto", "NAME"),
    Flag("precision", "machine", str, "tf32 needs CUDA; bf16 is bfloat16 autocast", "fp32",
         choices=("fp32", "tf32", "bf16")),
    Flag("threads", "machine", types.whole(1, 1024), "CPU threads (default: 1 for a small mlp, else PyTorch's choice)",
         metavar="N"),
    Flag("num_workers", "machine", types.whole(0, 1024),
         "processes that read streamed images (default: one a core, up to 16)", metavar="N", hashed=False),

    Flag("output_dir", "output", types.path, "folder in which run folders are made", Path("runs"), "PATH", place=True),
    Flag("overwrite", "output", bool, "start anew even if the run is there, finished or not"),
    Flag("resume_changed", "output", bool, "go on with an unfinished run although other code began it"),
    Flag("checkpoint_interval", "output", types.at_least_zero,
         "seconds between checkpoints within a round; 0: one every epoch", 60.0, "S"),
    Flag("quiet", "output", bool, "no progress bars"),
)  # fmt: skip
FLAGS = {flag.name: flag for flag in _FLAGS}
ALIASES = {"output_dir": ["model_dir"]}  # what the published scripts call it


def changes_results(name: str) -> bool:
    """Return whether the setting `name` can change a result; those that are no flags follow from flags."""
    return name not in FLAGS or FLAGS[name].changes_results
