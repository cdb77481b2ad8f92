"""What a message may cost its reader: no encoder makes one that a reader refuses, and memory stays near its values."""

import tracemalloc
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.message.test_message import SCHEMA, patched, same
from utils.message import (
    Coding,
    Shared,
    UpdateFormatError,
    decode_update,
    draft_update,
    encode_update,
    streams,
    unpack_message,
)
from utils.message.body import Draft
from utils.message.numbers import code_floats
from utils.message.streams import StreamReader, StreamWriter, TooCheapError
from utils.message.update import sent_by_layer
from utils.message.values import VALUE_BITS
from utils.schema import Schema

LARGE = Schema([("fc.weight", "weight", (1000, 700))])


def sent(draft: Draft):
    """Send an update: what comes of it, and how it was sent."""
    update = decode_update(encode_update(draft, round=0), draft.shared)
    assert same(update.result, draft.result)
    return update


@pytest.mark.parametrize("bits", VALUE_BITS)
@pytest.mark.parametrize("changed", [0, 2])
@pytest.mark.parametrize("kind", ["dense", "random"])
def test_a_large_update_that_changes_next_to_nothing_arrives(kind, changed, bits):
    """It costs a reader seconds for a hundred bytes, if it is dense: more than a reader does."""
    line = np.full(LARGE.size, np.float32(0.01))
    shared, new = Shared(LARGE, line, line), line.copy()
    draft = draft_update(shared, new, Coding(kind, bits, updating_ratio=0.99), mask_seed=1)
    new[draft.selected[: 2 * changed : 2]] = [1e-30, 1e30][:changed]
    if not changed or bits > 8:  # the larger change decides on the step of all
        update = sent(draft_update(shared, new, Coding(kind, bits, updating_ratio=0.99), mask_seed=1))
        assert update.selected.size in (changed, LARGE.size, draft.selected.size)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["sparse", "dense", "random", "pruned"]), st.sampled_from(VALUE_BITS),
       st.integers(0, 2**32 - 1), st.sampled_from([0, 0.01, 0.3, 1]), st.integers(0, 30))  # fmt: skip
def test_what_an_encoder_makes_is_never_refused(kind, bits, seed, share, spread):
    """Under a far stricter bound, which these small networks reach: an update arrives, or is refused where it is made."""
    rng = np.random.RandomState(seed)
    line = rng.standard_normal(SCHEMA.size).astype(np.float32)
    factors = np.where(rng.random_sample(SCHEMA.size) < share, 2.0 ** rng.randint(-spread, spread + 1, SCHEMA.size), 1)
    shared, new, w = Shared(SCHEMA, line, line), (line * factors).astype(np.float32), SCHEMA.num_weights
    if kind == "random":
        chosen = draft_update(shared, line.copy(), Coding(kind, 32, 0.5), mask_seed=1).selected
        new[:w] = np.where(np.isin(np.arange(w), chosen), new[:w], line[:w])
    draft = draft_update(shared, new, Coding(kind, bits, 0.5), mask_seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_FREE_WORK", 100)
        patch.setattr(streams, "_WORK_OF_A_BYTE", 64)
        try:
            sent(draft)
        except TooCheapError:  # raised by the encoder; a reader's is another
            pass


@pytest.mark.parametrize(("count", "alphabet"), [(1 << 20, 64), (1 << 20, 81), (40_000, 551), (1 << 20, 551)])
def test_writer_and_reader_keep_the_same_bound(count, alphabet):
    """That of the format's description: whatever the length, both take it or neither does."""
    for words in {0, 1, 10, 16, 24, 37, 400, 486, 487, 488, 489}:
        writer = StreamWriter()
        writer.raw(np.full(max(2 * words - 2, 0), 16), np.full(max(2 * words - 2, 0), 0x8421))
        length = len(writer.finish())
        allowed = count * (alphabet - 64) <= 2**24 + 2**18 * length
        for coder, fault in ((writer, TooCheapError), (StreamReader(bytes(length), "values"), UpdateFormatError)):
            with nullcontext() if allowed else pytest.raises(fault):
                coder.afford(count, alphabet)
                if coder is writer:
                    coder.finish()


def test_decoding_takes_little_more_memory_than_the_values():
    """A few bytes can stand for all values of a large network: a hostile message must not fill a node's memory."""
    count = 1 << 20
    old, groups = np.full(count, np.float32(0.01)), np.zeros(count, np.int64)
    writer = StreamWriter()
    code_floats(writer, groups, old, old.copy())
    data = writer.finish()
    tracemalloc.start()
    try:
        decoded = code_floats(StreamReader(data, "values"), groups, old, None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert same(decoded, old)
    assert peak < 60 * count  # bytes


def test_a_dense_message_has_no_positions_section():
    """Neither for a node nor for who only looks at it."""
    line = np.ones(SCHEMA.size, dtype=np.float32)
    shared = Shared(SCHEMA, line, line)
    data = encode_update(draft_update(shared, line * np.float32(1.5), Coding("dense")), round=0)
    value_bytes = unpack_message(data).header.value_bytes
    data = patched(61, "<Q", 4 | value_bytes - 4 << 32)(data)  # the first word of the values as positions
    message = unpack_message(data)
    for read in (lambda: decode_update(data, shared), lambda: sent_by_layer(message, SCHEMA)):
        with pytest.raises(UpdateFormatError, match="a dense update has no positions section"):
            read()
