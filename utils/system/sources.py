"""Which code it is: a digest of each source file, of what it says and not of how it is laid out."""

import ast
import hashlib
from collections.abc import Sequence
from pathlib import Path


def source_digests(root: Path, folders: Sequence[str], left_out: Sequence[str] = ()) -> dict[str, str]:
    """Return a digest of every Python file below the `folders` of `root`, by its path there.

    Files whose path begins with one of `left_out` are left out. Comments, docstrings and layout change nothing, nor
    does the version of Python.
    """
    paths = sorted(path for folder in folders for path in (root / folder).rglob("*.py"))
    names = {path.relative_to(root).as_posix(): path for path in paths}
    return {
        name: digest_of_source(path.read_text(encoding="utf-8"))
        for name, path in names.items()
        if not name.startswith(tuple(left_out))
    }


def differing(recorded: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return the files that are not the same in both, or only in one."""
    return sorted(name for name in recorded.keys() | now.keys() if recorded.get(name) != now.get(name))


def digest_of_source(text: str | bytes) -> str:
    """Return a digest of a Python source's syntax tree."""
    tree = repr(_plain(ast.parse(text)))
    return hashlib.blake2b(tree.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _plain(node) -> object:
    """Return a syntax tree as nested tuples, without docstrings and empty fields: newer versions have more of these."""
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, ast.AST):
        return node
    fields = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            value = value[1:] if ast.get_docstring(node, clean=False) is not None else value
        if value not in (None, []):
            fields.append((name, _plain(value)))
    return type(node).__name__, fields
