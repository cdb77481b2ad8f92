"""Results know their code: what counts as other code, and what a run made by other code does."""

import ast
import json

import pytest

import multiround_dpu
import utils.run.books
import utils.run.results
import utils.system.sources
from tests.script_runs import SMALL, one_line
from utils.run.results import code_digests, code_fingerprint, made_by_other_code
from utils.system.sources import differing, digest_of_source
from utils.table import program as table_program

FUNCTION = '''
def score(weights, start):
    """The squared change."""
    return (weights - start) ** 2
'''


@pytest.mark.parametrize("same", [
    FUNCTION + "\n\n# a comment\n",
    FUNCTION.replace("The squared change.", "Another text."),
    FUNCTION.replace('    """The squared change."""\n', ""),
    FUNCTION.replace("(weights - start) ** 2", "((weights\n        - start)\n        ** 2)"),
    '"""A module."""' + FUNCTION,
])  # fmt: skip
def test_comments_docstrings_and_layout_are_no_other_code(same):
    assert digest_of_source(same) == digest_of_source(FUNCTION)


@pytest.mark.parametrize("other", [
    FUNCTION.replace("** 2", "** 3"),
    FUNCTION.replace("** 2", "** 2.0"),
    FUNCTION.replace("weights - start", "start - weights"),
    FUNCTION.replace("start):", "start=None):"),
    FUNCTION + "\nlimit = 3\n",
    FUNCTION.replace("return", "'a string that is no docstring'\n    return") .replace('    """The squared change."""\n', "    pass\n"),
])  # fmt: skip
def test_what_computes_otherwise_is_other_code(other):
    assert digest_of_source(other) != digest_of_source(FUNCTION)


def test_a_digest_holds_for_every_version_of_python():
    """The tree is gone through by hand: newer versions add empty fields, which must not count."""
    tree = ast.parse("def f(x): return x")
    plain = repr(utils.system.sources._plain(tree))
    tree.body[0].type_params = []
    tree.body[0].something_new = None
    assert repr(utils.system.sources._plain(tree)) == plain
    assert digest_of_source("def f(x): return x") == "f1c8eb97af335d6a"


def test_what_can_change_a_result_is_covered_and_what_shows_it_is_not():
    names = code_digests().keys()
    for needed in ("models/mlp.py", "data/arrival.py", "utils/contribution.py", "utils/methods.py", "utils/rounds.py",
                   "utils/training/loop.py", "utils/message/body.py", "utils/edge/node.py", "utils/run/plan.py"):  # fmt: skip
        assert needed in names
    assert not [name for name in names if name.startswith(("utils/table/", "utils/system/", "tests/", "docs/"))]


def test_differing_names_changed_new_and_lost_files():
    recorded = dict(code_digests())
    assert differing(recorded, code_digests()) == []
    recorded["models/mlp.py"] = "0"
    recorded["models/gone.py"] = "1"
    del recorded["utils/flat.py"]
    assert differing(recorded, code_digests()) == ["models/gone.py", "models/mlp.py", "utils/flat.py"]


def test_in_words():
    now, recorded = code_fingerprint(), dict(code_digests())
    assert made_by_other_code([now], recorded) is made_by_other_code(None, None) is made_by_other_code([], {}) is None
    assert made_by_other_code(["0"], None) == "other code"
    recorded["models/mlp.py"] = "0"
    assert made_by_other_code([now, "0"], recorded) == "other code (models/mlp.py differs)"
    del recorded["utils/flat.py"]
    assert made_by_other_code(["0"], recorded) == "other code (models/mlp.py, utils/flat.py differ)"
    recorded |= {"a.py": "1", "b.py": "2"}
    assert made_by_other_code(["0"], recorded) == "other code (a.py, b.py, models/mlp.py and 1 more differ)"


@pytest.fixture
def edit(monkeypatch):
    """Makes the code that runs from now on another one, by its digest."""

    def edit(name="utils/contribution.py"):
        digests = {**code_digests(), name: "another"}
        monkeypatch.setattr(utils.run.results, "code_digests", lambda: digests)
        monkeypatch.setattr("utils.run.config.code_digests", lambda: digests)

    return edit


FLAGS = ["--mode", "dpu", "--updating_ratio", "0.1", *SMALL, "--max_rounds", "2", "--num_epochs", "1"]


def test_a_finished_run_of_other_code_is_read_back_with_a_word(tmp_path, edit, capsys):
    flags = [*FLAGS, "--output_dir", str(tmp_path)]
    summary = multiround_dpu.main(flags).summary
    assert summary["code"] == [code_fingerprint()] and len(summary["git_commits"]) == 1
    assert json.loads((next(tmp_path.iterdir()) / "config.json").read_text())["sources"] == code_digests()
    multiround_dpu.main(flags)
    assert "this run is finished; --overwrite starts it anew" in one_line(capsys)
    edit()
    multiround_dpu.main(flags)
    words = "this run is finished, by other code (utils/contribution.py differs); --overwrite starts it anew"
    assert words in one_line(capsys)
    assert multiround_dpu.main([*flags, "--overwrite"]).summary["code"] == [code_fingerprint()]
    multiround_dpu.main(flags)
    assert "this run is finished; --overwrite" in one_line(capsys)


@pytest.mark.parametrize("lost", [False, True], ids=["", "config.json lost"])
def test_an_unfinished_run_of_other_code_goes_on_only_if_told_to(tmp_path, edit, capsys, monkeypatch, lost):
    flags = [*FLAGS, "--output_dir", str(tmp_path)]
    finish = utils.run.books.Books.finish
    monkeypatch.setattr(utils.run.books.Books, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        multiround_dpu.main(flags)
    monkeypatch.setattr(utils.run.books.Books, "finish", finish)
    before, (run,) = code_fingerprint(), tmp_path.iterdir()
    if lost:
        (run / "config.json").unlink()
    edit("models/mlp.py")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        multiround_dpu.main(flags)
    err = capsys.readouterr().err
    files = "" if lost else " (models/mlp.py differs)"
    ways = "start anew with --overwrite, or go on with --resume_changed"
    assert (stop.value.code, err) == (2, f"multiround_dpu.py: error: {run} was begun by other code{files}: {ways}\n")
    summary = multiround_dpu.main([*flags, "--resume_changed"]).summary
    assert summary["code"] == ([] if lost else [before]) + [code_fingerprint()]
    capsys.readouterr()
    multiround_dpu.main(flags)
    assert ("this run is finished, by other code;" in one_line(capsys)) is not lost


def test_a_sweep_says_which_of_its_runs_are_of_other_code(tmp_path, edit, capsys):
    small = "--dataset digits --hidden_sizes 24 --num_epochs 1 --max_rounds 1 --updating_ratio 0.1 --quiet --seeds 1"
    sweep = ["--ablate", "lamda", "0.5", *small.split(), "--output_dir", str(tmp_path)]
    table_program.main(sweep)
    assert "other code" not in capsys.readouterr().err
    edit()
    table_program.main(sweep)
    words = "2 of 2 runs were made by other code (utils/contribution.py differs): --overwrite makes the swept ones anew"
    assert words in capsys.readouterr().err.replace("\n  ", " ")
    dpu, full = sorted(tmp_path.glob("digits-*/summary.json"))
    before = [path.stat().st_mtime_ns for path in (dpu, full)]
    table_program.main([*sweep, "--overwrite"])
    assert dpu.stat().st_mtime_ns > before[0], "made anew"
    assert full.stat().st_mtime_ns == before[1], "other sweeps use it, too"
