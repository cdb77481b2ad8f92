"""The house keeps its order: imports run one way, without circles, and the edge node needs no torch."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "data", "utils")
# Each part of the house, and the parts that it may import. The longest name that fits a module is its part.
MAY_IMPORT = {
    "multiround": {"utils.run"},
    "utils.table": {"utils.run", "utils.rounds", "utils.modes", "utils.edge", "utils.message", "utils.schema",
                    "utils.training.recipes", "utils.training.device", "utils.rewinding", "utils.system", "data"},
    "utils.run": {"utils.rounds", "utils.methods", "utils.link", "utils.training", "utils.contribution", "utils.criterion",
                  "utils.own_network", "utils.flat",
                  "utils.message", "utils.modes", "utils.reinit", "utils.rewinding", "utils.schema", "utils.system", "data",
                  "models"},
    "utils.rounds": {"utils.methods", "utils.link", "utils.training", "utils.message", "utils.modes", "utils.reinit",
                     "utils.system", "data"},
    "utils.methods": {"utils.training", "utils.contribution", "utils.modes", "utils.rewinding", "data"},
    "utils.training": {"utils.contribution", "utils.flat", "utils.system", "data"},
    "utils.link": {"utils.edge", "utils.message", "utils.reinit", "utils.schema", "utils.training.device",
                   "utils.system"},
    "utils.pruning_scores": set(),
    "utils.own_network": {"utils.flat", "utils.system", "data", "models"},
    "utils.criterion": {"utils.contribution", "utils.pruning_scores", "utils.flat", "utils.system", "data"},
    "utils.contribution": {"utils.pruning_scores", "utils.message.masks", "utils.rewinding"},  # which RPU's masks are drawn by, and which imports nothing here
    "utils.flat": {"utils.schema", "utils.system"},
    "utils.edge.program": {"utils.edge", "utils.predict", "utils.system"},
    "utils.edge": {"utils.edge.program", "utils.message", "utils.schema", "utils.system"},
    "utils.predict": {"utils.run", "utils.edge", "utils.training", "utils.system", "data"},
    "utils.message": {"utils.schema", "utils.reinit", "utils.system"},
    "utils.schema": set(),
    "utils.modes": set(),
    "utils.rewinding": {"utils.message.values"},  # how many bits a value can have
    "utils.reinit": set(),
    "utils.system": set(),
    "data": {"utils.system"},
    "models": {"utils.system"},
}  # fmt: skip
TORCH_FREE = (
    "utils.message", "utils.edge", "utils.edge.program", "utils.schema", "utils.modes", "utils.reinit",
    "utils.rewinding", "utils.training.recipes", "utils.run.options", "utils.run.checks", "utils.table.program",
)  # fmt: skip


@cache
def modules() -> dict[str, Path]:
    """Every module of the project that is no test and no benchmark, by name."""
    found = {path.stem: path for path in ROOT.glob("multiround_*.py")}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of the project that `module` imports anywhere in its code, but not for type checkers alone."""
    tree = ast.parse(modules()[module].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return frozenset(names & modules().keys()) - {module, module.rpartition(".")[0]}


def part_of(module: str) -> str:
    if module.startswith("multiround_"):
        return "multiround"
    fitting = [part for part in MAY_IMPORT if module == part or module.startswith(f"{part}.")]
    return max(fitting, key=len, default=module)


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_run_one_way(module):
    part = part_of(module)
    if module in PACKAGES + ("utils",):
        return
    for imported in imports(module):
        if imported == "utils" or part_of(imported) == part:
            continue
        allowed = MAY_IMPORT[part]
        fits = any(imported == name or imported.startswith(f"{name}.") for name in allowed)
        assert fits, f"{module} imports {imported}, but {part} may import only {sorted(allowed)}"


def test_nothing_is_imported_in_a_circle_and_floors_are_few():
    floors: dict[str, int] = {}

    def floor(module: str, above: tuple[str, ...] = ()) -> int:
        assert module not in above, " -> ".join((*above, module))
        if module not in floors:
            below = [floor(imported, (*above, module)) for imported in imports(module)]
            floors[module] = 1 + max(below, default=0)
        return floors[module]

    assert max(map(floor, modules())) <= 14


def test_folders_and_files_can_be_read_in_one_sitting():
    for folder in {path.parent for path in modules().values()} | {ROOT / "benchmarks"}:
        files = list(folder.glob("*.py"))
        assert len([path for path in files if path.name not in ("__init__.py", "__main__.py")]) <= 14, folder
        for path in files:
            assert len(path.read_text().splitlines()) <= 250, path


def test_an_installation_has_every_package():
    listed = (ROOT / "pyproject.toml").read_text()
    packages = {module.rpartition(".")[0] for module in modules() if "." in module}
    assert [package for package in sorted(packages) if f'"{package}"' not in listed] == []


@pytest.mark.parametrize("module", TORCH_FREE)
def test_torch_is_not_needed(module):
    code = f"import sys; sys.modules['torch'] = None; import {module}"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
