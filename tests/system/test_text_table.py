"""Aligned text, worked out by hand."""

from utils.system.terminal import aligned, columns, inert, printable


def test_aligned_by_hand():
    assert aligned(["a", "bb"], [["1", "2"], ["100", "3"]]) == "  a  bb\n---  --\n  1   2\n100   3"
    assert aligned(["a"], [["1"]], [["sum"]]) == "  a\n---\n  1\n---\nsum"
    assert aligned(["name", "x"], [["a", "10"]], align="<>") == "name   x\n----  --\na     10"


def test_a_header_of_two_lines_by_hand():
    assert aligned(["a", "long\nname"], [["1", "2"]]) == "   long\na  name\n-  ----\n1     2"


def test_columns_by_hand():
    assert columns([("a", 1), ("bbb", 22)], "<>") == "  a     1\n  bbb  22"
    assert columns([("a", ""), ("b", "c")], "<<", indent="") == "a\nb  c"


def test_columns_that_do_not_fit_stand_below_by_hand():
    header, lines = ["name", "one", "two", "three"], [["a", "1", "2", "3"], ["b", "4", "5", "6"]]
    assert aligned(header, lines, align="<>>>", width=21) == aligned(header, lines, align="<>>>")
    assert aligned(header, lines, align="<>>>", width=14) == (
        "name  one  two\n----  ---  ---\na       1    2\nb       4    5\n\n"
        "name  three\n----  -----\na         3\nb         6"
    )
    assert aligned(header, lines, [["sum", "5", "7", "9"]], width=1).count("sum") == 3, "a column at least"


def test_names_cannot_move_the_cursor_or_forge_lines():
    assert printable("a b\x1b[2J\n\u202e\udcffé") == r"a b\x1b[2J\n\u202e\udcffé"
    assert [inert(text) for text in ("=1+1", "+1", "-x", "@x", "a=1", "")] == ["'=1+1", "'+1", "'-x", "'@x", "a=1", ""]
