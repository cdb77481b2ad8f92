"""The messages in a run folder, and what the run's records promise of them."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.edge.state_file import parse_json, read_state
from utils.message.base import Shared
from utils.message.container import most_bytes, unpack_message
from utils.message.update import decode_message
from utils.system.files import file_digest, read_regular

_MESSAGE = re.compile(r"round_(\d+)\.dpu", re.ASCII)
_MOST_BYTES = 64 << 20  # of rounds.csv or summary.json


def message_files(run: Path) -> list[Path]:
    """Return the messages of a run, by round: round_1000.dpu comes after round_999.dpu."""
    found = [path for path in (run / "updates").glob("round_*.dpu") if _MESSAGE.fullmatch(path.name)]
    return sorted(found, key=lambda path: (round_of(path), path.name))


def deployed_in_run(run: Path) -> np.ndarray | None:
    """Return the weights of a run's sparse network, (I,) bool, by the message that deployed it; None: all weights."""
    for path in message_files(run)[:1]:
        schema, initial = read_state(run / "initial.safetensors")
        message = unpack_message(read_regular(path, most_bytes(schema.size)))
        if message.header.deploys:
            return decode_message(message, Shared(schema, initial, initial)).deployed
    return None


@dataclass(frozen=True)
class Promises:
    """What a run's records say of its messages.

    sent      the rounds in which one was sent, by rounds.csv; None: that file is not there
    digests   checksums of the run's files by name, by summary.json; empty for an unfinished or an old run
    served    SHA-256 of the network that the edge serves in the end; None for an unfinished run
    """

    run: Path
    sent: tuple[int, ...] | None
    digests: dict[str, str]
    served: str | None

    @classmethod
    def of(cls, run: Path) -> Promises:
        """Read them. Raises ValueError, naming the file, if one is there that cannot be read."""
        rounds, summary = _read(run / "rounds.csv", _parse_rounds), _read(run / "summary.json", _parse_summary)
        return cls(run, rounds, *(summary or ({}, None)))

    def check_kinds(self, messages: Sequence[Path]) -> None:
        """Raise ValueError, naming them, for pipes and devices, of which reading might not end."""
        files = [self.run / "initial.safetensors", *messages]
        self._refuse("no regular file", [path.name for path in files if path.exists() and not path.is_file()])

    def check_files(self, messages: Sequence[Path], most: int) -> None:
        """Raise ValueError, naming them, for messages that are missing, changed, or of no round of the run.

        most  bytes that a message can have
        """
        names = {path.name for path in messages}
        promised = {name.removeprefix("updates/") for name in self.digests}
        promised = {name for name in promised if _MESSAGE.fullmatch(name)}
        promised |= {f"round_{number:03d}.dpu" for number in self.sent or ()}
        self._refuse("missing", promised - names)
        self._refuse(f"more than {most:,} bytes", [path.name for path in messages if path.stat().st_size > most])
        if self.digests and self.sent is None:
            self._refuse("missing", {"rounds.csv"})
        files = [self.run / "initial.safetensors", self.run / "rounds.csv", *messages]
        digests = [self.digests.get(path.relative_to(self.run).as_posix()) for path in files]
        changed = [path.name for path, digest in zip(files, digests) if digest and digest != file_digest(path)]
        self._refuse("changed since the run finished", changed)
        if self.served is not None and promised:
            self._refuse("of no round of this run", names - promised)

    def check_served(self, serving: np.ndarray) -> None:
        """Raise ValueError if the messages led to another network than the run says that the edge serves."""
        if self.served not in (None, hashlib.sha256(serving.astype("<f4").tobytes()).hexdigest()):
            raise ValueError(f"{self.run}: the messages lead to another network than summary.json says is served")

    def note(self, messages: Sequence[Path]) -> str:
        """Return what the records leave open; an empty text if nothing."""
        if self.sent is None:
            return "rounds.csv is not there: nothing says whether these are all messages"
        if self.served is None:
            late = [path.name for path in messages if round_of(path) not in self.sent]
            more = f"; not yet in rounds.csv: {_some(late)}" if late else ""
            return f"the run has no summary.json, so it has not finished{more}"
        return ""

    def _refuse(self, fault: str, names: Collection[str]) -> None:
        if names:
            raise ValueError(f"{self.run}: {fault}: {_some(sorted(names, key=round_of))}")


def round_of(file: Path | str) -> int:
    """Return the round in the name of a message's file; -1 for another file."""
    match = _MESSAGE.fullmatch(Path(file).name)
    return int(match[1]) if match else -1


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    """Return what `parse` makes of a file; None if it is not there."""
    try:
        return parse(read_regular(path, _MOST_BYTES).decode())
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise ValueError(f"{path}: cannot be read ({error})") from None


def _parse_rounds(text: str) -> tuple[int, ...]:
    whole = text[: text.rfind("\n") + 1]  # a killed run may leave the beginning of a row
    return tuple(int(row["round"]) for row in csv.DictReader(io.StringIO(whole)) if int(row["sent"]))


def _parse_summary(text: str) -> tuple[dict[str, str], str]:
    summary = parse_json(text)
    return dict(summary.get("files", {}).items()), str(summary["served_sha256"])
