"""What a row of the table is called: its method, and every setting that is not that of the paper's row."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from utils.modes import MODES
from utils.run.flags import FLAGS
from utils.system.references import label_of
from utils.system.terminal import printable
from utils.table import paper
from utils.table.commands import parser_of
from utils.table.records import Record, plain_number
from utils.training.recipes import defaults_of

_NOT_AS_FLAGS = {"reinitialize", "signed", "rewind_fixing_ratio"}  # they have words of their own, or none


def name_parts(record: Record) -> list[str]:
    """Return the method of `record`, then every setting that is not that of the paper's row."""
    mode, settings = record.mode, record.settings
    criterion = settings.get("criterion")
    parts, usual = [printable(label_of(criterion)) if criterion else MODES[mode].row or mode], _usual(mode)
    reinitializes = MODES[mode].reinitializes and not usual.get("without_reinit")
    if settings["reinitialize"] != reinitializes:
        parts.append("without re-init" if reinitializes else "with re-init")
    fixing_ratio = settings.get("rewind_fixing_ratio", 1.0)
    if fixing_ratio != usual.get("rewind_fixing_ratio", 1.0):
        parts.append("one-shot" if fixing_ratio == 1 else f"rewind_fixing_ratio {plain_number(fixing_ratio)}")
    usual = {
        **usual,
        "lr": defaults_of(settings["model"])[0]["lr"],
        "augment": record.dataset in ("cifar10", "cifar100") or settings.get("stream", False),
    }
    for name in sorted(settings.keys() - _NOT_AS_FLAGS):
        flag = FLAGS.get(name)
        if flag and not flag.names_rows:
            continue
        if name == "deploy" and settings.get("deploy_sparsity"):
            continue  # which is always full
        if settings[name] != usual.get(name) and settings[name] not in (flag.before if flag else ()):
            parts.append(printable(f"{name} {_as_written(settings[name])}"))
    return parts


def common(parts: Sequence[Sequence[str]]) -> list[str]:
    """Return which parts of names all have, in the order of the first."""
    first, *others = parts
    return [part for part in first if all(part in other for other in others)]


def row_key(record: Record) -> tuple:
    """Return what the runs of one row share, first its name."""
    return ", ".join(name_parts(record)), record.settings["updating_ratio"], record.steps, record.epochs


def rank(key: tuple) -> tuple:
    """Sort key for `row_key`s: rows as the paper's table has them, then others; numbers in names by their size."""
    name, *others = key
    method = name.split(",")[0]
    methods = list(paper.ROWS)
    place = methods.index(method) if method in methods else len(methods)
    words = [float(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+(?:\.\d+)?)", name))]
    return place, method, name != method, words, name, others


def published(record: Record, any_data: bool = False) -> float | None:
    """Return the paper's figure beside `record` if all that is known of the paper's setting is as there, else None.

    any_data  also if the data are not the paper's; the learning rate may differ then, too
    """
    settings, model = record.settings, record.settings["model"]
    other_data = record.dataset != paper.DATASETS.get(model)
    name = ", ".join(part for part in name_parts(record) if not (other_data and part.startswith("lr ")))
    known = (
        (any_data or not other_data)
        and model in paper.PUBLISHED
        and settings.get("width", 1) == 1
        and not settings.get("image_size")
        and settings["updating_ratio"] == paper.updating_ratio(model)
        and record.share_of_recipe == 1
    )
    return paper.PUBLISHED[model].get(name) if known else None


def _as_written(value: Any) -> Any:
    return ("on" if value else "off") if isinstance(value, bool) else value


@cache
def _usual(mode: str) -> dict[str, Any]:
    """Return the flags of the paper's row for a mode, for other ways to prune those of pruning, else the defaults."""
    flags = (MODES["pruning" if MODES[mode].prunes else mode].paper or "").replace(" K", " 1").split()
    return vars(parser_of(MODES[mode].script).parse_args(flags))
