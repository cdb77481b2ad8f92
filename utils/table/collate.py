"""Runs collated into the paper's table: means and standard deviations over seeds, and what is left out."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.modes import REFERENCE
from utils.system.terminal import printable
from utils.table.names import common, name_parts, published, rank, row_key
from utils.table.pairing import Pair, describe_model, find_pair
from utils.table.records import Record


@dataclass(frozen=True)
class Stat:
    """Mean and sample standard deviation (n - 1) over seeds; the latter is None for one seed.

    The mean is NaN, without a deviation, if a value is: a ratio to bytes that full updating never sent.
    """

    mean: float
    std: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Stat":
        if not all(map(math.isfinite, values)):
            return cls(math.nan, None)
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclass
class Row:
    """A method's runs, one a seed, and how they compare with full updating."""

    name: str
    runs: list[Record]
    pairs: list[Pair] = field(default_factory=list)
    unpaired: dict[int, str] = field(default_factory=dict)  # seed -> why
    published: float | None = None
    values: tuple[str, ...] = ()  # of a sweep: of each swept flag

    @property
    def counted(self) -> list[Record]:
        """The runs that the row's figures are over: those with a pair, or all if none has one."""
        return [pair.run for pair in self.pairs] or self.runs

    @property
    def n(self) -> int:
        return len(self.counted)

    @property
    def is_full(self) -> bool:
        """Whether it is full updating and its own reference, as there is no lossless run to compare it with."""
        return self.runs[0].mode == REFERENCE and all(pair.full is pair.run for pair in self.pairs)

    @property
    def difference(self) -> Stat | None:
        return Stat.of([pair.difference for pair in self.pairs]) if self.pairs else None

    @property
    def served(self) -> Stat:
        """Served test accuracy, average over all rounds, percent."""
        return Stat.of([100 * statistics.fmean(run.column("served_test_acc")) for run in self.counted])

    def ratio(self, kind: str) -> Stat | None:
        return Stat.of([pair.ratio(kind) for pair in self.pairs]) if self.pairs else None

    def sent(self, kind: str, factor: float = 1) -> Stat:
        """Bytes of a whole run, times `factor`."""
        return Stat.of([factor * run.total(kind) for run in self.counted])


@dataclass
class Group:
    """Runs of one model on one data set with the same sizes and rounds: one table."""

    rows: list[Row]
    notes: list[str]
    shared: Sequence[str] = ()  # settings that are not usual and that all rows have: no row's name says them

    @property
    def example(self) -> Record:
        return self.rows[0].runs[0]


@dataclass
class Sweep:
    """A row for each combination of the values of `flags`, and those of full updating beside them."""

    flags: tuple[str, ...]
    rows: list[Row]
    full: list[Row]
    notes: list[str]
    epochs: str | None = None  # what --num_epochs comes to for each method, where it is given

    @property
    def all_rows(self) -> list[Row]:
        return [*self.rows, *self.full]


def collate(records: Sequence[Record]) -> tuple[list[Group], list[str]]:
    """Return a table for each data set, model and sizes among `records`, and which runs are left out and why."""
    tables, left_out = defaultdict(dict), []
    for record in records:
        runs = tables[_table_key(record)].setdefault(row_key(record), {})
        if record.seed in runs:
            one, other = record, runs[record.seed]
            names = (one.name, other.name) if one.name != other.name else (one.folder, other.folder)
            left_out.append("{}: the same method and seed as {}".format(*names))
        else:
            runs[record.seed] = record
    kept = [run for methods in tables.values() for runs in methods.values() for run in runs.values()]
    fulls, groups = [run for run in kept if run.mode == REFERENCE], []
    for methods in tables.values():
        rows, same = [], [list(methods[key].values()) for key in sorted(methods, key=rank)]
        firsts = [runs[0] for runs in same]
        comparable = len(firsts) > 1 and any(run.mode == REFERENCE for run in firsts)
        shared = common([name_parts(run)[1:] for run in firsts]) if comparable else []
        for runs in same:
            name = ", ".join(part for part in name_parts(runs[0]) if part not in shared)
            rows.append(make_row(name, runs, fulls, published=published(runs[0])))
        groups.append(Group(rows, notes_on(rows), shared))
    return groups, left_out


def make_row(name: str, runs: list[Record], fulls: Sequence[Record], **more: Any) -> Row:
    """Return the row of `runs`, each paired with one of `fulls` where one fits; `more` are its other fields."""
    row = Row(name, sorted(runs, key=lambda run: run.seed), **more)
    for run in row.runs:
        full, reason = find_pair(run, fulls)
        if full is None:
            row.unpaired[run.seed] = reason
        else:
            row.pairs.append(Pair(run, full))
    return row


def row_labels(rows: Sequence[Row], says_k: Callable[[Row], bool] | None = None, as_k: str = "k {}") -> list[str]:
    """Return names of `rows` that differ: with k where `says_k`, else where others have the same name, and with epochs
    where others have the same k, too.
    """
    count = Counter(row.name for row in rows)
    says_k = says_k or (lambda row: count[row.name] > 1)
    names = [f"{row.name}, {as_k.format(row.runs[0].ratio)}" if says_k(row) else row.name for row in rows]
    alike = Counter((row.name, row.runs[0].ratio) for row in rows)
    return [
        f"{name}, {row.runs[0].epochs} epochs" if alike[row.name, row.runs[0].ratio] > 1 else name
        for name, row in zip(names, rows)
    ]


def notes_on(rows: Sequence[Row]) -> list[str]:
    """Return which rows lack seeds that others have, or pairs, and why; and which mix commits."""
    expected = {run.seed for row in rows for run in row.runs}
    lacking, mixing = defaultdict(list), defaultdict(list)
    versions = defaultdict(lambda: defaultdict(list))  # of a user's file: which rows are of which
    for row, label in zip(rows, row_labels(rows)):
        missing = sorted(expected - {run.seed for run in row.runs})
        reasons = [f"{_seeds(missing)} missing"] if missing else []
        by_reason = defaultdict(list)
        for seed, reason in row.unpaired.items():
            by_reason[reason].append(seed)
        reasons += [f"{_seeds(seeds)}: {reason}" for reason, seeds in by_reason.items()]
        if reasons:
            counted = f"n = {row.n}" if row.pairs else "no pair"
            lacking[f"{counted}: {'; '.join(reasons)}"].append(label)
        rounded = defaultdict(list)
        for pair in row.pairs:
            if not pair.full.lossless and not row.is_full:
                rounded[pair.full.settings["value_bits"]].append(pair.run.seed)
        for bits, seeds in rounded.items():
            which = "" if len(seeds) == row.n else f"{_seeds(seeds)}: "
            lacking[f"{which}compared with full updating of {bits} bits a value"].append(label)
        runs = [*row.counted, *(pair.full for pair in row.pairs)]
        commits, codes = set().union(*(run.commits for run in runs)), [run.codes for run in runs]
        # Commits that changed nothing in the code that makes results are no mixture.
        if len(set().union(*codes) if None not in codes else commits) > 1:
            mixing[f"made by several commits: {', '.join(sorted(map(_short, commits)))}"].append(label)
        own = {run.own_sources for run in row.counted}
        if len(own) > 1:
            some = {name for sources in own for name, digest in sources if any((name, digest) not in o for o in own)}
            mixing[printable(f"made by several versions of {', '.join(sorted(some))}")].append(label)
        for name, digest in sorted({source for run in row.counted for source in run.own_sources}):
            if name.endswith(".py"):
                versions[name][digest].append(label)
    for name, by_digest in versions.items():
        if len({tuple(labels) for labels in by_digest.values()}) > 1:  # else one row has them all, and says so
            apart = " against ".join(map(" / ".join, by_digest.values()))
            mixing[printable(f"made by different versions of {name}")].append(apart)
    return [
        f"{'all rows' if 1 < len(rows) == len(labels) else ' / '.join(labels)}: {note}"
        for note, labels in [*lacking.items(), *mixing.items()]
    ]


def _table_key(record: Record) -> tuple:
    settings = record.settings
    sizes = (settings["dataset_size_init"], settings["dataset_size_subseq"], settings["val_dataset_size"])
    network = describe_model(record), record.num_values, settings.get("precision", "fp32")
    return record.dataset, record.fingerprints["dataset"], network, sizes, len(record.rows)


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _short(commit: str | None) -> str:
    """Return a commit as git shortens it, with a mark if files differed from it."""
    name, plus, _ = (commit or "not known").partition("+")
    return printable(name[:10] + plus)
