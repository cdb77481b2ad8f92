"""How data that cannot be used is refused: in one line that says what, where, and what to do."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.system.errors import UserError
from utils.system.terminal import printable


class DatasetError(UserError):
    """A data set that cannot be used as given; the message is one line: what, where, and what to do."""

    of_one_process = True

    def __init__(self, message: str):
        super().__init__(printable(message))


@contextmanager
def answering(problem: str, way_out: str) -> Iterator[None]:
    """Turn whatever a foreign file makes its reader raise into one line: the ways of failing have no list.

    Only a lack of memory passes: it is no fault of the file.
    """
    try:
        yield
    except (DatasetError, MemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DatasetError(f"{problem} ({reason}); {way_out}") from error


def differing_classes(folder: Path, train: Path, names: Iterable[str]) -> DatasetError:
    """Return the error for class folders `names` that only one of `folder` and `train` has."""
    names = sorted(names)
    spellings = defaultdict(list)
    for name in names:
        spellings[unicodedata.normalize("NFKC", name).casefold().strip()].append(name)
    alike = [ascii(name) for group in spellings.values() if len(group) > 1 for name in group]
    shown = ", ".join((alike or names)[:6]) + (", ..." if len(alike or names) > 6 else "")
    way_out = "these look alike: give them the same spelling" if alike else "make them the same"
    return DatasetError(f"{folder}: its class folders are not those of {train} ({shown}); {way_out}")
