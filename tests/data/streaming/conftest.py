"""ImageNet in small, in both layouts, for the tests of streamed images."""

import shutil

import numpy as np
import pytest

from data.streaming.file_list import CACHE
from tests.image_trees import made_up_images, write_tree


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """The same 6 training and 5 validation images a class, val/ flat and in class folders."""
    labels = np.random.RandomState(5).permutation(np.arange(44) % 4)
    roots = {layout: tmp_path_factory.mktemp(layout) for layout in ("flat", "classes")}
    for layout, root in roots.items():
        write_tree(root, made_up_images(labels), labels, 6, layout)
    return roots


@pytest.fixture
def tree(trees, tmp_path):
    """A flat tree of its own for a test to change."""
    return shutil.copytree(trees["flat"], tmp_path / "imagenet", ignore=shutil.ignore_patterns(CACHE))
