"""Results know their code: what counts as other code, and what a run made by other code does."""

import ast

import pytest

import utils.system.sources
from utils.run.config import code_digests
from utils.system.sources import differing, digest_of_source

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
