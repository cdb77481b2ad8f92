"""What names code of a user's on a command line: FILE.py:NAME. Knows nothing of what is in the file."""

import difflib
import os
from pathlib import Path


def split_reference(text: str) -> tuple[Path, str] | None:
    """Return file and name of a FILE.py:NAME; None for any other text."""
    file, colon, name = text.rpartition(":")
    return (Path(os.path.expanduser(file)), name) if colon and file.endswith(".py") and name else None


def label_of(reference: str) -> str:
    """Return what a FILE.py:NAME is called in headers, tables and identities: without the folder."""
    found = split_reference(reference)
    return f"{found[0].name}:{found[1]}" if found else reference


def name_in(reference: str) -> str:
    """Return NAME alone, as it can stand in a folder's name."""
    name = reference.rpartition(":")[2]
    return "".join(letter if letter.isascii() and letter.isalnum() else "_" for letter in name)[:40]


def no_file_for(reference: str) -> str | None:
    """Return in words that a FILE.py:NAME has no file, and what is like it; None if it has one."""
    path, _ = split_reference(reference)
    if path.is_file():
        return None
    try:
        names = [other.name for other in path.parent.iterdir() if other.suffix == ".py"]
    except OSError:
        names = []
    near = difflib.get_close_matches(path.name, names, 1)
    return f"there is no file {path}" + (f"; did you mean {path.with_name(near[0])}?" if near else "")
