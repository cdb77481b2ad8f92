"""Code that users bring: functions and classes in files of their own, named as FILE.py:NAME, or given from Python.

Whatever goes wrong in it becomes one line that names file and line. Its sources are told apart by digests, so that
results know them. Needs torch to load, and for nothing else.
"""

import ast
import difflib
import inspect
import linecache
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from utils.system.errors import MachineError, UsageError, lacks_memory
from utils.system.processes import process_kept
from utils.system.references import no_file_for, split_reference
from utils.system.sources import digest_of_source

_folders: list[str] = []  # of users' files, the last one first
_files: set[str] = set()  # of users, as tracebacks name them
_loaded: set[str] = set()  # those among them that were imported here, and what they import from beside them
LAYOUT = "the network's layout"  # among a user's sources: names and shapes, and what training does not change
STRUCTURE = "the network's modules"  # and these, of a network from Python: modules and what they say of themselves
_LONGEST = 300  # characters of an error's text
_ROOT = Path(__file__).resolve().parents[2]


def load(flag: str, text: str) -> Any:
    """Return what a FILE.py:NAME names. Raises UsageError if it cannot be had."""
    path, name = split_reference(text)
    if problem := no_file_for(text):
        raise MachineError(f"--{flag} is {text}, but {problem}")
    with faults_named(f"--{flag}"):
        module = _import(path.resolve())
    try:
        return getattr(module, name)
    except AttributeError:
        names = [
            other for other, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__ and not other.startswith("_")
        ]  # fmt: skip
        near = difflib.get_close_matches(name, names, 1, 0.5)
        ways = f"did you mean {near[0]}?" if near else f"it has {', '.join(names) or 'no function or class'}"
        raise UsageError(f"--{flag} is {text}, but {path.name} has no {name}: {ways}") from None


def _import(path: Path) -> ModuleType:
    """Return the module in a file, read anew with all that it imports from beside it: it may have been edited."""
    folder = str(path.parent)
    if folder in _folders or folder not in sys.path:
        # Behind all others: no file beside it shall take the place of a library's. Before other users' files.
        _folders[:] = [folder, *(other for other in _folders if other != folder)]
        sys.path[:] = [*(place for place in sys.path if place not in _folders), *_folders]
    for name, module in list(sys.modules.items()):
        if getattr(module, "__file__", None) in _loaded:
            del sys.modules[name]
    _loaded.update(map(str, files_of(path)))
    _files.update(_loaded)
    module = sys.modules[f"own_{path.stem}"] = ModuleType(f"own_{path.stem}")  # dataclasses look themselves up there
    module.__file__ = str(path)
    with process_kept():
        exec(compile(path.read_bytes(), path, "exec"), vars(module))  # not what Python has compiled before
    return module


def describe(thing: Any) -> str:
    """Return what an object given from Python is called: FILE.py:NAME without a folder, as far as it has one."""
    kind = _definition(thing)
    name = getattr(kind, "__qualname__", type(kind).__name__).rpartition(".")[2].strip("<>")
    file = source_file(thing)
    if file is not None:
        _files.add(os.path.abspath(file))
    return f"{file.name}:{name}" if file else f"{(getattr(kind, '__module__', '') or '').partition('.')[0]}:{name}"


def _definition(thing: Any) -> Any:
    """Return the function or class that an object is, calls, or is one of."""
    thing = thing.func if isinstance(thing, partial) else thing
    return thing if isinstance(thing, type) or inspect.isroutine(thing) else type(thing)


def source_file(thing: Any) -> Path | None:
    """Return the user's file in which an object, or its class, is defined; None if it is a library's or none."""
    kind = _definition(thing)
    try:
        file = Path(inspect.getsourcefile(kind) or "")
    except (TypeError, OSError):
        return None
    libraries = {"site-packages", "dist-packages"} & set(file.parts)
    return file if file.is_file() and not libraries else None


@contextmanager
def faults_named(what: str, where: Callable[[Exception], str] = lambda error: "") -> Iterator[None]:
    """Within, an error becomes a UsageError: `what`, file and line of the user's code, and the error's first line.

    where  what to say in the place of file and line if the error came from none of the user's
    Errors of memory pass: they are nobody's code.
    """
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        if lacks_memory(error):
            raise
        raise UsageError(f"{what}: {fault_in(error) or where(error) + in_words(error)}") from error


def fault_in(error: BaseException) -> str | None:
    """Return where in a user's file an error came from, and what it says, in one line; None if in no such file."""
    if isinstance(error, SyntaxError) and error.filename in _files:
        return f"{Path(error.filename).name}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if os.path.abspath(frame.filename) in _files]
    if not frames:
        return None
    frame = frames[-1]
    line = linecache.getline(frame.filename, frame.lineno).strip()[:80]
    place = f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"
    return f"{place}: {in_words(error)}{f' (the line is: {line})' if line else ''}"


def in_words(error: BaseException) -> str:
    """Return the kind of an error and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:_LONGEST]}" if lines else type(error).__name__


def call_with(function: Callable, what: str, offered: dict[str, Any], least: str) -> Any:
    """Call a user's `function` with those of the `offered` arguments that its signature names.

    least  the argument that it must take, by name or among **arguments of any name
    Raises UsageError, beginning with `what`, if it does not take these, and for errors inside of it.
    """
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise UsageError(f"{what}: its arguments are not known: wrap it in a function") from None
    any_name = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    named = {name for name, each in parameters.items() if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)}
    arguments = {name: value for name, value in offered.items() if name in named or (any_name and name == least)}
    lacking = [
        name for name, each in parameters.items()
        if each.default is each.empty and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
        and name not in arguments
    ]  # fmt: skip
    if least not in arguments or lacking:
        takes = ", ".join(parameters) or "nothing"
        raise UsageError(f"{what} takes {takes}: it must take {' and '.join(offered)}, or {least} alone")
    with faults_named(what):
        return function(**arguments)


def digests_of(things: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Return a digest of each user's file behind `things`, pairs of a flag and a FILE.py:NAME or an object, by name.

    Files beside it that such a file imports count, too. What is no user's, or in no file, has none.
    """
    digests: dict[str, str] = {}
    for flag, thing in things:
        if thing is None:
            continue
        found = split_reference(thing) if isinstance(thing, str) else None
        file = found[0] if found else None if isinstance(thing, str) else source_file(thing)
        if file is None and getattr(thing, "__module__", None) == "__main__":  # typed into a notebook
            with suppress(OSError, TypeError, SyntaxError):
                digests[describe(thing)] = digest_of_source(textwrap.dedent(inspect.getsource(thing)))
        for path in files_of(file.resolve()) if file and file.is_file() else ():
            try:
                digest = digest_of_source(path.read_bytes())
            except (OSError, ValueError, SyntaxError):
                continue  # loading it says so
            name = path.relative_to(file.resolve().parent).as_posix()
            name = name if digests.get(name, digest) == digest else f"{name} of --{flag}"
            digests[name] = digest
    return digests


def recorded_sources(config: dict[str, Any]) -> dict[str, str] | None:
    """Return the digests of all sources at the last start of a run, by its config.json; None if it has none."""
    ours, own = config.get("sources"), config.get("own_sources", {})
    return {**ours, **own} if isinstance(ours, dict) and isinstance(own, dict) else None


def own_sources(config: dict[str, Any]) -> dict[str, str]:
    """Return digests of a run's user's sources as they are now; of what is not to be had, those that it recorded."""
    recorded, settings = config.get("own_sources"), config["settings"]
    if not isinstance(recorded, dict):
        return {}
    return recorded | digests_of((name, settings.get(name)) for name in ("model", "criterion"))


def files_of(path: Path) -> list[Path]:
    """Return a Python file and the files in its folder, and below, that it imports, and these in turn."""
    found, waiting = {path: None}, [path]
    ours = [_ROOT / package for package in ("data", "models", "utils")]
    while waiting:
        importer = waiting.pop()
        try:
            tree = ast.parse(importer.read_bytes())
        except (OSError, ValueError, SyntaxError):
            continue
        for level, name in _imported(tree):
            folder = path.parent if level == 0 else importer.parents[min(level, len(importer.parents)) - 1]
            parts = [part for part in name.split(".") if part]
            for end in range(1, len(parts) + 1):
                base = folder.joinpath(*parts[:end])
                for file in (base.with_suffix(".py"), base / "__init__.py"):
                    of_user = file.is_relative_to(path.parent) and not any(map(file.is_relative_to, ours))
                    if of_user and file.is_file() and file not in found:
                        found[file] = None
                        waiting.append(file)
    return list(found)


def _imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Give what is imported, and by how many folders up a relative import begins; 0: it is absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, f"{node.module or ''}.{alias.name}") for alias in node.names)
