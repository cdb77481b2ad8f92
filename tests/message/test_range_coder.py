"""The range coder against a plain one, written as docs/update_format.md says it."""

import constriction
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.message.streams import StreamWriter


def interval_ends(frequencies):
    """The end of each number's interval, in 2^24 parts; float32 in the order of the document."""
    ends, before = [], np.float32(0)
    scale = np.float32(2**24 - len(frequencies)) / np.cumsum(frequencies, dtype=np.float32)[-1]
    for number, frequency in enumerate(frequencies):
        before += frequency
        ends.append(int(before * scale) + number + 1)
    return [*ends[:-1], 2**24]


def write(numbers, intervals):
    """The words of a stream, with the ends of the intervals of each number; `low` is exact, however long it becomes."""
    if not numbers:
        return []
    low, span, words = 0, 2**64 - 1, 2
    for number, ends in zip(numbers, intervals, strict=True):
        ends = [0, *ends]
        part = span // 2**24
        low, span = low + part * ends[number], part * (ends[number + 1] - ends[number])
        if span < 2**32:
            low, span, words = low << 32, span << 32, words + 1
    last = (low + 2**32 - 1) >> 32
    stream = [last >> 32 * place & 0xFFFFFFFF for place in reversed(range(words - 1))]
    return [*stream, 0] if (low + span) >> 32 == last else stream


def read(words, intervals):
    """The numbers of a stream."""
    words = iter([*words, *[0] * (len(intervals) + 2)])
    numbers, low, span, point = [], 0, 2**64 - 1, next(words) << 32 | next(words)
    for ends in intervals:
        ends = [0, *ends]
        part = span // 2**24
        place = (point - low) // part
        number = next(i for i, end in enumerate(ends[1:]) if place < end)
        numbers.append(number)
        low, span = low + part * ends[number], part * (ends[number + 1] - ends[number])
        if span < 2**32:
            low, span, point = low << 32, span << 32, point << 32 | next(words)
    return numbers


@given(st.data(), st.integers(0, 60), st.sampled_from([2, 3, 14, 64]), st.integers(0, 2**32 - 1))
def test_streams_are_those_of_the_document(data, count, alphabet, seed):
    rng = np.random.RandomState(seed)
    # From nearly even to very uneven: one of many numbers may have nearly all of the probability.
    tables = np.floor(2.0 ** (rng.rand(count, alphabet) * rng.randint(1, 23))).astype(np.float32)
    likely = tables.argmax(axis=1) if count else np.zeros(0, dtype=np.int64)
    numbers = np.where(rng.rand(count) < data.draw(st.sampled_from([0.0, 0.5, 1.0])), likely, rng.randint(0, alphabet, count))
    encoder = constriction.stream.queue.RangeEncoder()
    if count:
        encoder.encode(numbers.astype(np.int32), constriction.stream.model.Categorical(perfect=False), tables)
    words = encoder.get_compressed().tolist()
    intervals = [interval_ends(table) for table in tables]
    assert write(numbers.tolist(), intervals) == words
    assert read(words, intervals) == numbers.tolist()


@pytest.mark.parametrize("width", [1, 5, 8, 15, 16])
def test_raw_numbers_are_categoricals_of_equal_intervals(width):
    numbers, coder = np.array([0, 1, 2**width - 1, 2 ** (width - 1)]), StreamWriter()
    coder.raw(np.full(len(numbers), width), numbers)
    equal = [range(2 ** (24 - width), 2**24 + 1, 2 ** (24 - width))] * len(numbers)
    words = write(numbers.tolist(), equal)
    assert words == np.frombuffer(coder.finish(), dtype="<u4").tolist()
    assert read(words, equal) == numbers.tolist()


@pytest.mark.parametrize("logit", [-5120, -700, -1, 0, 1, 256, 5120])
def test_bits_are_categoricals_of_two_numbers(logit):
    bits, coder = np.array([0, 1, 1, 0, 0, 0, 1], dtype=bool), StreamWriter()
    coder.bits(np.full(len(bits), logit), bits)
    likelier = round(2**24 / (1 + 2 ** (-abs(logit) / 256)))
    table = np.array([2**24 - likelier, likelier][:: 1 if logit >= 0 else -1], dtype=np.float32)
    assert write(bits.astype(int).tolist(), [interval_ends(table)] * len(bits)) == np.frombuffer(coder.finish(), dtype="<u4").tolist()
