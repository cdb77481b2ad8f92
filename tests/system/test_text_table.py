"""Aligned text, worked out by hand."""

from utils.system.terminal import aligned, columns


def test_aligned_by_hand():
    assert aligned(["a", "bb"], [["1", "2"], ["100", "3"]]) == "  a  bb\n---  --\n  1   2\n100   3"
    assert aligned(["a"], [["1"]], [["sum"]]) == "  a\n---\n  1\n---\nsum"
    assert aligned(["name", "x"], [["a", "10"]], align="<>") == "name   x\n----  --\na     10"


def test_columns_by_hand():
    assert columns([("a", 1), ("bbb", 22)], "<>") == "  a     1\n  bbb  22"
    assert columns([("a", ""), ("b", "c")], "<<", indent="") == "a\nb  c"
