"""What a device needs of this project: the files that the edge node's program imports."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = "numpy", "constriction"
_LIST_FILES = """
import os, sys, utils.edge.__main__, utils.edge.program
files = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "utils"]
print(*map(os.path.relpath, files), sep="\\n")
"""


def device_files() -> list[Path]:
    """Return the files of the edge node's program, relative to the project's folder.

    They are those that a fresh interpreter has imported when the program starts. What a function imports for itself is
    left out: it is for one command alone, `predict`, which needs torch.
    """
    command = [sys.executable, "-c", _LIST_FILES]
    files = subprocess.run(command, cwd=_ROOT, capture_output=True, check=True, text=True).stdout.splitlines()
    return sorted(map(Path, files))


def device_contents() -> dict[Path, bytes]:
    """Return what a bundle holds: the edge node's program, the licence and a requirements.txt."""
    contents = {file: (_ROOT / file).read_bytes() for file in [*device_files(), Path("LICENSE")]}
    lines = (_ROOT / "requirements.txt").read_text().splitlines()
    needed = [line for line in lines if re.split(r"[<>=!~ ]", line)[0] in _PACKAGES]
    return {**contents, Path("requirements.txt"): "".join(f"{line}\n" for line in needed).encode()}
