"""Quantised levels against a plain coder that works value by value; by hand; and the steps and variances around them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.message.geometry import Geometry
from utils.message.levels import Sites, _Counts, _LevelModel, balance, code_levels, half_octaves
from utils.message.streams import StreamReader, StreamWriter, UpdateFormatError, log2_fixed
from utils.message.values import CodedValues, Place, code_values, draft_values


class Recorder:
    """A coder that keeps what it is given: a number below A and its frequencies, or a bit and its log odds."""

    def __init__(self):
        self.numbers, self.bits_ = [], []

    def symbols(self, frequencies, symbols):
        self.numbers += [(row.astype(int).tolist(), int(s)) for row, s in zip(frequencies, symbols, strict=True)]
        return symbols

    def bits(self, logits, bits):
        self.bits_ += list(zip(logits.tolist(), bits.tolist(), strict=True))
        return bits


def plain_frequencies(past, alphabet, subgroups, context):
    """adaptive(A, G, S) of docs/update_format.md, from the pairs (context, number) of the blocks before."""
    parts = [past, [p for p in past if p[0] // subgroups == context // subgroups], [p for p in past if p[0] == context]]
    f = [2**20 // alphabet] * alphabet
    for part in parts:
        numbers = [number for _, number in part]
        f = [(2**22 * numbers.count(s) + 256 * f[s]) // (4 * len(part) + 256) for s in range(alphabet)]
    return [x + 1 for x in f]


def plain_levels(sites, old, levels, q):
    """What goes through the coder: numbers with frequencies, and bits with log odds, value by value."""

    def log(x):
        return int(log2_fixed(np.array([x]))[0])

    def balance_of(values, signs):
        n, d = len(values), sum(signs[v] for v in values)
        return log(2 * (n + d) + 2) - log(2 * (n - d) + 2)

    classes = [[0], [1], [2], [3]]
    while classes[-1][-1] < levels:
        size, first = 2 ** (len(classes) // 2 - 1), classes[-1][-1] + 1
        classes.append(list(range(first, first + size)))
    class_of = {m: k for k, members in enumerate(classes) for m in members}
    k = [class_of[abs(int(v))] for v in q]
    sign, n = np.sign(q).tolist(), len(q)
    old_sign = [-1 if np.signbit(v) else 1 for v in old]
    against_old = [s * o for s, o in zip(sign, old_sign, strict=True)]
    groups = max(sites.group.tolist()) + 1

    def place(i):
        g = sites.geometries[sites.tensor[i]]
        r, j = divmod(int(sites.index[i]), g.width)
        return r, j, j // g.kernel, g.kernel

    def neighbours(i, visited):  # the sum of their signs
        g = sites.geometries[sites.tensor[i]]
        if not g.pixels:
            return 0
        side = {9: 3, 12: 2}.get(g.columns)
        distances = (1, -1) if side is None else (1, -1, side, -side)
        first = [v for v in visited if sites.tensor[v] == 0]
        return sum(sign[v] for v in first if sites.index[v] - sites.index[i] in distances)

    def class_in_order(i):
        r, j = place(i)[:2]
        return (23 * j + 37 * r) % 64

    order = sorted(range(n), key=lambda i: (class_in_order(i), i))
    numbers, bits, past, past_places, near = [], [], [], {}, {}
    start, size = 0, 16
    while start < n:
        block, visited = order[start : start + size], order[:start]
        start, size = start + size, size * 3 // 2
        new, new_places, terms = [], {}, {}
        for i in block:
            (r, _, c, kernel), t = place(i), sites.tensor[i]
            tensor = [v for v in visited if sites.tensor[v] == t]
            row, column = ([v for v in tensor if place(v)[axis] == x] for axis, x in ((0, r), (2, c)))
            sets = [(12, row), (8, column)] + [(14, [v for v in row if v in column])] * (kernel > 1)
            mean = (64 * sum(k[v] for v in visited) + 192) // (len(visited) + 1)
            scale = l_ = (64 * sum(k[v] for v in tensor) + 4 * mean) // (len(tensor) + 4)
            scale += sum((64 * sum(k[v] for v in s) - len(s) * l_) // (len(s) + 2) for _, s in sets)
            context = min(max(scale // 32, 0), 8 * len(classes) - 1)
            numbers.append((plain_frequencies(past, len(classes), 4, context), k[i]))
            new.append((context, k[i]))
            group = [v for v in visited if sites.group[v] == sites.group[i]]
            terms[i] = sum(w * balance_of(s, sign) for w, s in sets) + 6 * old_sign[i] * balance_of(group, against_old)
            near[i] = neighbours(i, visited)
            if near[i]:
                like = [v for v in visited if abs(near[v]) == abs(near[i])]
                against = {v: sign[v] * np.sign(near[v]) for v in like}
                terms[i] += 12 * int(np.sign(near[i])) * balance_of(like, against)
        for width in range(1, len(classes) // 2 - 1):
            for i in block:
                if len(classes[k[i]]) == 2**width:
                    context = k[i] % 2 * groups + int(sites.group[i])
                    member = abs(int(q[i])) - classes[k[i]][0]
                    seen = past_places.get(width, [])
                    numbers.append((plain_frequencies(seen, 2**width, groups, context), member))
                    new_places.setdefault(width, []).append((context, member))
        bits += [(terms[i] // 16, sign[i] > 0) for i in block if sign[i]]
        past += new
        past_places = {w: past_places.get(w, []) + new_places.get(w, []) for w in past_places | new_places}
    return numbers, bits


@st.composite
def coded_levels(draw):
    """Sites in some layers, old values and levels."""
    dims = st.integers(1, 4)
    geometries = [Geometry(draw(dims), draw(dims), draw(st.sampled_from([1, 1, 3]))) for _ in range(draw(dims))]
    if draw(st.booleans()):
        geometries[0] = Geometry(draw(dims), draw(st.sampled_from([9, 12, 10, 1])), 1, pixels=True)
    rng = np.random.RandomState(draw(st.integers(0, 2**31)))
    sizes = [g.size for g in geometries]
    kept = np.flatnonzero(rng.random_sample(sum(sizes)) < draw(st.sampled_from([0.3, 1.0])))
    tensor = np.repeat(np.arange(len(sizes)), sizes)[kept]
    index = np.concatenate([np.arange(size) for size in sizes])[kept]
    group = tensor % draw(dims)
    levels = 2 ** (draw(st.sampled_from([4, 5, 6, 8])) - 1) - 1
    scale = draw(st.sampled_from([0.3, 2, levels / 2, 9 * levels]))
    q = np.clip(np.rint(rng.standard_normal(len(kept)) * scale + draw(st.sampled_from([0, scale]))), -levels, levels)
    old = rng.standard_normal(len(kept)).astype(np.float32)
    return Sites(tensor, index, group, geometries), old, levels, q.astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(coded_levels())
def test_levels_go_through_as_the_plain_coder_says_and_come_back(case):
    sites, old, levels, q = case
    recorder, writer = Recorder(), StreamWriter()
    assert np.array_equal(code_levels(recorder, sites, old, levels, q), q)
    if len(q):
        numbers, bits = plain_levels(sites, old, levels, q)
        assert recorder.numbers == numbers and recorder.bits_ == bits
    code_levels(writer, sites, old, levels, q)
    reader = StreamReader(writer.finish(), "test")
    assert np.array_equal(code_levels(reader, sites, old, levels, None), q)
    reader.finish()


def test_classes_are_half_octaves():
    class_, first, width = half_octaves(31)
    assert class_[:13].tolist() == [0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7] and class_[-1] == 9
    assert first.tolist() == [0, 1, 2, 3, 4, 6, 8, 12, 16, 24] and width.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert [len(half_octaves(2 ** (bits - 1) - 1)[1]) for bits in (4, 5, 6, 8)] == [6, 8, 10, 14]


def test_level_model_by_hand():
    """The example of docs/update_format.md: 30 values seen, 6 of them in the row, 5 positive."""
    assert balance(np.array([6]), np.array([4])).tolist() == [480]
    row, column = _Counts(12, np.array([0])), _Counts(8, np.array([0]))
    row.seen[0], row.signs[0], row.classes[0] = 6, 4, 18
    zero = np.array([0])
    model = _LevelModel(31, Sites(zero, zero, zero, [Geometry(1, 40, 1)]), [row, column])
    model._tensors.seen[0], model._tensors.classes[0] = 30, 60
    model._by_group.seen[0] = 30
    recorder = Recorder()
    model._classes._counts[2][5] = 7  # so that context 5 shows in the frequencies
    assert model.code_block(recorder, zero, zero, np.array([1]), None, [zero, zero], np.array([2])).tolist() == [2]
    ((frequencies, class_),) = recorder.numbers
    base = 2**20 // 10  # as far as all and the group know
    assert class_ == 2 and frequencies == [(2**22 * 7 + 256 * base) // (4 * 70 + 256) + 1] * 10
    assert recorder.bits_ == [(360, True)]


def test_neurons_that_move_one_way_cost_less_than_a_bit_a_sign():
    """64 rows of 100 levels of one size each, with random signs by row: 6,400 signs would take 800 bytes."""
    rng, sign = np.random.RandomState(0), np.repeat(np.random.RandomState(1).choice([-1, 1], 64), 100)
    tensor, writer = np.zeros(6400, dtype=np.int64), StreamWriter()
    sites = Sites(tensor, np.arange(6400), tensor, [Geometry(64, 100, 1)])
    code_levels(writer, sites, rng.standard_normal(6400).astype(np.float32), 7, 3 * sign)
    assert len(writer.finish()) < 250


def variances(old):
    zeros = np.zeros(len(old), dtype=np.int64)
    sites = Sites(zeros, np.arange(len(old)), zeros, [Geometry(1, len(old), 1)])
    return Place(np.float32(old), sites, np.ones(len(old), dtype=bool))


def test_a_variance_changes_by_hand():
    """1.0 is 127 * 2^23 in bits; one level of 2^20 is an eighth of an octave, nearly: 1.125, and 8 are a factor of 2.

    127 less are 15.875 octaves: 2^-16 and seven eighths of the way down from 2^-15, that is 1.125 * 2^-16.
    """
    place, coder = variances([1, 1, 1, 1]), StreamWriter()
    step = np.float32(2**20).view(np.uint32) >> 16
    decoded = code_values(coder, 8, place, CodedValues(np.array([1, 8, -8, -127]), np.array([step], dtype=np.int64)))
    assert decoded[:3].tolist() == [1.125, 2.0, 0.5] and decoded[3] == 1.125 * 2.0**-16


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 2.0**100, width=32)] * 2), min_size=1, max_size=30))
def test_variances_stay_finite_and_not_negative(pairs):
    old, new = np.array(pairs, dtype=np.float32).T.copy()
    place = variances(old)
    coded, decoded = draft_values(8, place, new)
    assert np.isfinite(decoded).all() and not np.signbit(decoded).any()
    writer = StreamWriter()
    assert np.array_equal(code_values(writer, 8, place, coded), decoded)
    reader = StreamReader(writer.finish(), "rest")
    assert np.array_equal(code_values(reader, 8, place, None), decoded)


def test_a_usual_variance_is_near():
    """From 1 to between 1/16 and 16, 4 octaves in 127 levels: a relative error of at most half a level, 1.2 %."""
    new = np.float32(2) ** np.linspace(-4, 4, 101, dtype=np.float32)
    _, decoded = draft_values(8, variances(np.ones(101)), new)
    np.testing.assert_allclose(decoded, new, rtol=0.017)


@pytest.mark.parametrize("step", [0x7F80, 0x7FFF])
def test_a_step_that_is_not_finite_is_refused(step):
    writer = StreamWriter()
    writer.raw(np.array([15]), np.array([step]))
    with pytest.raises(UpdateFormatError, match="step is not finite"):
        code_values(StreamReader(writer.finish(), "rest"), 8, variances([1, 2]), None)
