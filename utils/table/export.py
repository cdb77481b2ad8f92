"""Runs in the form in which results are committed: settings, figures and counts, without weights or paths."""

import json
from pathlib import Path
from typing import Any

from utils.run.flags import ALIASES, FLAGS
from utils.system.files import write_atomic
from utils.table.commands import flag_of, split_flags
from utils.table.layers import FILE, as_csv, read_layer_counts
from utils.table.records import Record

_PLACES = {name for flag in FLAGS.values() if flag.place for name in (flag.name, *ALIASES.get(flag.name, ()))}
_MACHINE = ("platform",)


def export(record: Record, to: Path) -> Path:
    """Write config.json, rounds.csv, summary.json and layers.csv of a run below `to`; returns the new folder.

    Raises NotUsable if the messages cannot be read, OSError if a file cannot be written.
    """
    folder = to / record.name
    layers = as_csv(read_layer_counts(record))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "config.json", json.dumps(without_paths(record.config), indent=2) + "\n")
    for name in ("rounds.csv", "summary.json"):
        write_atomic(folder / name, (record.folder / name).read_bytes())
    write_atomic(folder / FILE, layers)
    return folder


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config.json that does not tell where files lay; of a data set's path its name stays."""
    settings = {name: value for name, value in config["settings"].items() if name not in _PLACES}
    settings["dataset"] = Path(settings["dataset"]).name
    kept = {name: value for name, value in config.items() if name not in _MACHINE}
    return {**kept, "settings": settings, "command": _command(config.get("command", []))}


def _command(words: list[str]) -> list[str]:
    pieces = [words[:1]]
    for piece in split_flags(words[1:]):
        if flag_of(piece) == "dataset":
            piece = ["--dataset", Path(piece[0].partition("=")[2] or piece[-1]).name]
        if flag_of(piece) not in _PLACES:
            pieces.append(piece)
    return [word for piece in pieces for word in piece]
