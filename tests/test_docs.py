"""README and docs are true as far as a program can tell: commands, flags, links, files, tables and examples."""

import argparse
import re
import shlex
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from utils import modes
from utils.edge import program as edge_program
from utils.run.options import build_parser, parse
from utils.table import program as table_program

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "results").glob("*/table.txt"))]
SCRIPTS = sorted(path.name for path in ROOT.glob("multiround_*.py"))
PROGRAMS = ("python ", "make ", "torchrun ")
MADE_BY_COMMANDS = {"data/downloads", "results/demo"}  # folders that a reader's commands make


def indented(page: Path) -> list[list[str]]:
    """The indented blocks of a page, line by line: commands, and what they print."""
    blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", page.read_text(), re.MULTILINE)
    return [[line[4:] for line in block.strip("\n").split("\n")] for block in blocks]


def commands() -> list[tuple[str, str]]:
    """Page and text of every command, from blocks with their variables filled in, and from running text."""
    found = []
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        variables = {}
        for line in (line for block in indented(page) for line in block):
            if match := re.match(r'([A-Z])="(.*)"$', line):
                variables[f"${match[1]}"] = match[2]
            elif line.startswith(PROGRAMS):
                for variable, value in variables.items():
                    line = line.replace(variable, value)
                found.append((name, line))
        running = re.sub(r"^    .*$", "", page.read_text(), flags=re.MULTILINE)
        for code in re.findall(r"`([^`]+)`", running):
            if code.startswith(PROGRAMS) and not code.startswith("torchrun --nproc"):
                found.append((name, " ".join(code.split())))
    return found


class Parsed(Exception):
    """A program has parsed its arguments, which is all that is asked of it here."""


def parse_benchmark(module: str, arguments: list[str], monkeypatch) -> None:
    """Let a benchmark's own parser read `arguments`, and stop it there."""
    known = argparse.ArgumentParser.parse_known_args

    def stop_after(self, args=None, namespace=None):
        namespace, rest = known(self, args, namespace)
        for flag in rest:  # of benchmarks.whole_run, which passes them on
            assert not flag.startswith("--") or flag in known_flags(), flag
        raise Parsed

    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", stop_after)
    with pytest.raises(Parsed):
        import_module(module).main()


@cache
def known_flags() -> frozenset[str]:
    """Every flag of every program of the project."""
    parsers = [*map(build_parser, SCRIPTS), table_program.build_parser(), edge_program.build_parser()]
    flags = {flag for parser in parsers for action in parser._actions for flag in action.option_strings}
    sources = [ROOT / "utils/edge/program.py", *(ROOT / "benchmarks").glob("*.py")]
    written = " ".join(path.read_text() for path in sources)
    subcommands = {"--initial", "--out", "--node", "--sign_key"}  # of python -m utils.edge
    return frozenset(flags | subcommands | set(re.findall(r"--[a-z_]+", written)) | {"--nproc_per_node"})


@pytest.mark.parametrize(("page", "command"), commands())
def test_every_command_parses(page, command, monkeypatch, capsys):
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        assert f"\n{arguments[0]}:" in (ROOT / "Makefile").read_text()
        return
    if program == "torchrun":
        arguments = [word for word in arguments if not word.startswith("--nproc_per_node")]
    if arguments[0] in SCRIPTS:
        parse(build_parser(arguments[0]), arguments[1:])
    elif arguments[:2] == ["-m", "utils.edge"]:
        edge_program.build_parser().parse_args(arguments[2:])
    elif arguments[:2] == ["-m", "utils.table"] and {"--run", "--ablate"} & set(arguments):
        table_program.main([*arguments[2:], "--dry_run", "--device", "cpu"])
    elif arguments == ["-m", "utils.table", "-h"]:
        pass
    elif arguments[:2] == ["-m", "utils.table"]:
        table_program.build_parser().parse_args(arguments[2:])
    else:
        assert arguments[0] == "-m" and arguments[1].startswith(("benchmarks.", "tests.")), command
        parse_benchmark(arguments[1], arguments[2:], monkeypatch)


def test_the_papers_commands_are_there():
    parsed = [command for page, command in commands() if page == "README.md"]
    sizes = "--model vgg --dataset cifar10 --dataset_size_init 1000 --dataset_size_subseq 1000"
    for start in (
        "python multiround_dpu.py --mode dpu --updating_ratio 0.01 --lamda 0.5",
        "python multiround_dpu.py --mode gcpu --without_reinit --updating_ratio 0.01",
        "python multiround_rpu.py --mode rpu --updating_ratio 0.01",
        "python multiround_fu.py --mode same_init",
    ):
        assert f"{start} {sizes}" in parsed


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_flags_links_and_files_exist(page):
    text = page.read_text()
    assert set(re.findall(r"(?<![\w-])--[a-z_]+", text)) <= known_flags()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (page.parent / link.split("#")[0]).exists(), link
    for path in re.findall(r"`((?:utils|models|data|tests|docs|results|benchmarks)/[\w./]+)`", text):
        assert (ROOT / path).exists() or path in MADE_BY_COMMANDS or "NAME" in path, path


def test_readme_names_every_mode_and_is_short():
    text = (ROOT / "README.md").read_text()
    assert [mode for mode in modes.MODES if f"`{mode}`" not in text] == []
    assert len(text.splitlines()) <= 200


def test_every_file_in_the_tree_exists():
    tree = next(block for block in indented(ROOT / "README.md") if block[0].startswith(SCRIPTS[0]))
    top = folder = ROOT  # of the entries that are indented, and of the files that an explanation names
    for line in tree:
        entry = line.lstrip(" 123456789")
        indent, text = len(line) - len(entry), entry
        if indent <= 8:  # else an explanation goes on
            names, _, text = entry.partition("  ")
            base = top if indent else ROOT
            places = names.split(", ")
            assert [place for place in places if not (base / place).exists()] == []
            folder = base / places[0] if places[0].endswith("/") else base
            top = top if indent else folder
        assert [name for name in re.findall(r"[\w/]+\.py", text) if not (folder / name).exists()] == []
    packages = {path.parent.name for path in (ROOT / "utils").glob("*/__init__.py")}
    assert [name for name in packages if f"    {name}/" not in "\n".join(tree)] == []


def test_the_map_names_what_is_there():
    text = import_module("utils").__doc__
    for name in re.findall(r"[\w/]+\.py|\b\w+/(?= )", text):
        assert (ROOT / "utils" / name).exists() or (ROOT / name).exists(), name
    at_the_top = {path.name for path in (ROOT / "utils").glob("*.py")} - {"__init__.py"}
    assert [name for name in sorted(at_the_top) if name not in text] == []


def test_tables_are_those_of_the_committed_runs(capsys):
    """A table whose title a folder of results has is, line by line, what the table program makes of that folder."""
    printed = {}
    for folder in sorted(path.parent for path in (ROOT / "results").glob("*/table.txt")):
        table_program.main([str(folder)])
        lines = capsys.readouterr().out.split("\n")
        printed[lines[0]] = lines
    (command,) = [command for page, command in commands() if page == "README.md" and "--side_by_side" in command]
    table_program.main(shlex.split(command, comments=True)[3:])
    columns = capsys.readouterr().out.split("\n")
    printed[columns[0]] = columns
    shown = {}
    for page in PAGES:
        for lines in indented(page):
            if lines[0] in printed:
                assert lines == printed[lines[0]][: len(lines)], page
                shown[page.name] = len(lines)
    assert shown.keys() >= {"README.md", "results.md"} and min(shown.values()) > 3


def test_the_examples_in_the_docs_are_those_that_run():
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "docs/algorithm.md").read_text(), re.DOTALL)
    files = [(ROOT / "examples" / name).read_text() for name in ("own_network.py", "own_criterion.py")]
    assert [text.partition("\n\n")[2] for text in files] == shown
