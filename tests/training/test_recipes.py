"""Recipes: the paper's, changed by flags, and which changes make another run."""

import pytest

from tests.run.test_folder_names import TINY, name_of
from tests.script_runs import RUNS
from utils.training.recipes import DEFAULTS, Recipe, recipe_for


@pytest.mark.parametrize("model", DEFAULTS)
def test_nothing_given_is_the_papers_recipe(model):
    settings, two, one, _ = DEFAULTS[model]
    assert recipe_for(model, True) == Recipe(**settings, num_epochs=two)
    assert recipe_for(model, False) == Recipe(**settings, num_epochs=one)


def test_changes_by_hand():
    assert recipe_for("own.py:Net", True) == recipe_for("vgg", True) == Recipe("adam", 5e-3, 30, 0.2)
    assert recipe_for("vgg", True, optimizer="sgd", lr=0.1) == Recipe("sgd", 0.1, 30, 0.2, momentum=0.9)
    assert recipe_for("resnet56", True, optimizer="adam") == Recipe("adam", 0.1, 100, None, 0.0, 1e-4)
    assert recipe_for("resnet56", True, optimizer="sgd", weight_decay=0.0) == Recipe("sgd", 0.1, 100, None, 0.9, 0.0)
    assert recipe_for("resnet56", True, schedule="step").step_factor == 0.1
    assert recipe_for("vgg", True, schedule="step").step_factor == 0.2
    assert recipe_for("mlp", True, schedule="cosine").learning_rate(15) == pytest.approx(2.5e-3)


def test_in_words():
    assert recipe_for("vgg", True).in_words() == "adam, learning rate 0.005, x0.2 every 10 epochs"
    assert recipe_for("resnet56", True).in_words() == "sgd, learning rate 0.1, cosine to 0, weight decay 0.0001"
    assert recipe_for("vgg", True, num_epochs=2).in_words() == "adam, learning rate 0.005, x0.2 every epoch"


def test_what_a_recipe_says_anyway_is_no_other_run(monkeypatch):
    def name(more=""):
        return name_of(RUNS["dpu"][0], [*TINY.split(), *more.split()], monkeypatch)

    same = ["", "--optimizer adam", "--schedule step", "--weight_decay 0", "--optimizer adam --schedule step --lr 0.005"]
    others = ["--optimizer sgd", "--schedule cosine", "--weight_decay 0.01", "--optimizer sgd --schedule cosine"]
    assert len({name(flags) for flags in same}) == 1
    assert len({name(flags) for flags in ["", *others]}) == 1 + len(others)
