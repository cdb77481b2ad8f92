"""What a device needs of this project: the files that the edge node imports, found by their import statements."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_BEGIN = "utils.edge.__main__"
_PACKAGES = "numpy", "constriction"


def device_files() -> list[Path]:
    """Return the files of the edge node's program, relative to the project's folder.

    What a function imports for itself is left out: it is for one command alone, `predict`, which needs torch.
    """
    found, waiting = set(), [_BEGIN]
    while waiting:
        file = _file_of(waiting.pop())
        if file is None or file in found:
            continue
        found.add(file)
        waiting += _imported(ast.parse((_ROOT / file).read_text()))
    return sorted(found)


def device_contents() -> dict[Path, bytes]:
    """Return what a bundle holds: the edge node's program, the licence and a requirements.txt."""
    contents = {file: (_ROOT / file).read_bytes() for file in [*device_files(), Path("LICENSE")]}
    lines = (_ROOT / "requirements.txt").read_text().splitlines()
    needed = [line for line in lines if re.split(r"[<>=!~ ]", line)[0] in _PACKAGES]
    return {**contents, Path("requirements.txt"): "".join(f"{line}\n" for line in needed).encode()}


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield the modules that are imported when the code of a file runs, and the packages that they lie in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom) and child.module:
            names = [child.module, *(f"{child.module}.{alias.name}" for alias in child.names)]
            parents = [child.module.rsplit(".", depth)[0] for depth in range(1, child.module.count(".") + 1)]
            yield from [*names, *parents]
        elif not isinstance(child, (ast.FunctionDef, ast.Lambda)):
            yield from _imported(child)


def _file_of(module: str) -> Path | None:
    path = Path(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if (_ROOT / file).is_file():
            return file
    return None
