"""What a row of the table is called: its method and every setting that is not the default."""

from functools import cache

from utils.modes import MODES
from utils.run.flags import FLAGS
from utils.table import paper
from utils.table.commands import parser_of
from utils.table.records import Record
from utils.training.recipes import DEFAULTS


def row_name(record: Record) -> str:
    """Return the name of the row that `record` belongs in; as the paper's where all settings are."""
    mode, settings = record.mode, record.settings
    parts = [MODES[mode].row or mode]
    usual = MODES[mode].reinitializes and mode != "gcpu"  # the paper's GCPU never starts again
    if settings["reinitialize"] != usual:
        parts.append("without re-init" if usual else "with re-init")
    defaults = {
        **_defaults(MODES[mode].script),
        "lamda": 0.5 if mode == "dpu" else None,
        "lr": DEFAULTS[settings["model"]][0]["lr"],
        "augment": record.dataset in ("cifar10", "cifar100") or settings.get("stream", False),
    }
    for name in sorted(name for name in settings if name in FLAGS and FLAGS[name].names_rows):
        if name == "deploy" and settings.get("deploy_sparsity"):
            continue  # which is always full
        if settings[name] != defaults.get(name) and settings[name] not in FLAGS[name].before:
            parts.append(f"{name} {shown(settings[name])}")
    return ", ".join(parts)


def row_key(record: Record) -> tuple:
    """Return what the runs of one row share."""
    return row_name(record), record.settings["updating_ratio"], record.steps, record.num_epochs


def rank(key: tuple) -> tuple:
    """Sort key for `row_key`s: rows as the paper's table has them, then others."""
    method = key[0].split(",")[0]
    methods = list(paper.ROWS)
    return methods.index(method) if method in methods else len(methods), method, key[0] != method, key


def published(record: Record) -> float | None:
    """Return the paper's figure where `record` has its method, model, updating ratio and epochs, else None."""
    model = record.settings["model"]
    theirs = record.settings["updating_ratio"] == paper.updating_ratio(model) and record.share_of_recipe == 1
    return paper.PUBLISHED.get(model, {}).get(row_name(record)) if theirs else None


def shown(value: object) -> object:
    """Return a setting as people write it."""
    return ("on" if value else "off") if isinstance(value, bool) else value


@cache
def _defaults(script: str) -> dict:
    return vars(parser_of(script).parse_args([]))
