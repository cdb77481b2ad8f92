"""Which runs may be compared: the same data, model, training and rounds, seed by seed."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from utils.modes import REFERENCE
from utils.run.flags import changes_results
from utils.system.references import label_of
from utils.system.terminal import printable
from utils.table.records import Record

# Settings that a run shares with the full updating that it is compared with: what they are called, and their value
# in runs that are older than the flag. Settings of messages may differ: they are what is compared.
SHARED = {
    "augment": ("augmentation", None),
    "train_batch_size": ("batch size", None),
    "lr": ("learning rate", None),
    "optimizer": ("optimizer", None),
    "schedule": ("schedule", None),
    "weight_decay": ("weight decay", None),
    "precision": ("precision", None),
    "deploy_sparsity": ("sparsity of the deployed network", 0.0),
    "deploy_epochs": ("epochs of the deployment", None),
}


@dataclass(frozen=True)
class Pair:
    """A run and the full-updating run on the same data that it is compared with."""

    run: Record
    full: Record

    @property
    def difference(self) -> float:
        """Served test accuracy less that of full updating, average over all rounds, percentage points."""
        pairs = zip(self.run.column("served_test_acc"), self.full.column("served_test_acc"), strict=True)
        return 100 * statistics.fmean(ours - theirs for ours, theirs in pairs)

    def ratio(self, kind: str) -> float:
        """All bytes that the run sent over those of full updating; `kind` is message_bytes or formula_bytes.

        A round in which a run sent nothing counts zero bytes in that run. NaN if full updating never sent any.
        """
        theirs = self.full.total(kind)
        return self.run.total(kind) / theirs if theirs else float("nan")


def find_pair(run: Record, fulls: Sequence[Record]) -> tuple[Record | None, str]:
    """Return the full-updating run to compare `run` with, or None and the reason why there is none.

    Of several that fit, it is a lossless one, and of these the one that shares most settings with `run`.
    """
    same_seed = [full for full in fulls if full.seed == run.seed]
    if not same_seed:
        return None, f"there is no {REFERENCE} run of this seed"
    fitting = [full for full in same_seed if not mismatches(run, full)]
    if fitting:
        return max(fitting, key=lambda full: _likeness(run, full)), ""
    nearest = min(same_seed, key=lambda full: len(mismatches(run, full)))
    reasons = mismatches(run, nearest)
    way = f"; run {REFERENCE} with --num_epochs {run.epochs}" if reasons == [_other_epochs(run, nearest)] else ""
    return None, f"not paired with {nearest.name}: {', '.join(reasons)}{way}"


def mismatches(run: Record, full: Record) -> list[str]:
    """Return what keeps two runs of a seed from being compared; empty if nothing does."""
    found = []

    def compare(fact: str, value_of: Callable[[Record], Any]) -> None:
        ours, theirs = value_of(run), value_of(full)
        if ours != theirs:
            found.append(printable(f"other {fact} ({ours} against {theirs})"))

    compare("data", lambda r: f"{r.dataset} {r.fingerprints['dataset'][:8]}")
    compare("samples in round 0", lambda r: r.settings["dataset_size_init"])
    compare("samples added a round", lambda r: r.settings["dataset_size_subseq"])
    compare("validation samples", lambda r: r.settings["val_dataset_size"])
    if not found:  # else these differ for the same reason
        compare("order of arrival", lambda r: r.fingerprints["arrival"][:8])
        compare("validation split", lambda r: r.fingerprints["validation_split"][:8])
    compare("number of rounds", lambda r: len(r.rows))
    compare("model", describe_model)
    if describe_model(run) == describe_model(full):  # of that name, but before and after its code was changed
        compare("size of the network", lambda r: r.num_values)
    # By the recipe of residual networks, each of two steps has as many epochs as the only step of other methods.
    if run.share_of_recipe != full.share_of_recipe and run.epochs != full.epochs:
        found.append(_other_epochs(run, full))
    for name, (fact, before) in SHARED.items():
        compare(fact, lambda r, name=name, before=before: r.settings.get(name, before))
    return found


def _other_epochs(run: Record, full: Record) -> str:
    return f"other epochs a round ({run.epochs} against {full.epochs})"


def describe_model(record: Record) -> str:
    """Return the model in words; equal if and only if the networks are, given the data."""
    settings = record.settings
    pixels, width = settings.get("image_size"), settings.get("width", 1)
    size = f" at {pixels} pixels" if pixels else ""
    if settings["model"] != "mlp":
        return printable(label_of(settings["model"])) + (f" x{width:g}" if width != 1 else "") + size
    sizes = "-".join(map(str, settings["hidden_sizes"])) or "without hidden layers"
    return f"mlp {sizes}" + (" with BatchNorm" if settings["batch_norm"] else "") + size


def _likeness(run: Record, full: Record) -> tuple:
    names = [name for name in run.settings if changes_results(name)]
    shared = sum(run.settings[name] == full.settings.get(name, ...) for name in names)
    return full.lossless, run.share_of_recipe == full.share_of_recipe, shared
