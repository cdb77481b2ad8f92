"""The update message: round trips, sizes, refusals, golden vectors. Needs no torch."""

import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.golden.make_golden import GOLDEN, cases
from tests.message.fuzz import fuzz
from utils.message import (
    Base,
    Coding,
    Shared,
    UpdateFormatError,
    decode_update,
    draft_update,
    encode_update,
    unpack_message,
)
from utils.message.container import KINDS
from utils.message.masks import random_mask
from utils.message.numbers import code_floats, from_bfloat16, to_bfloat16
from utils.message.positions import code_counts
from utils.message.streams import PROBABILITIES, StreamReader, StreamWriter, SymbolModel, log2_fixed
from utils.message.update import sent_by_layer
from utils.message.values import VALUE_BITS
from utils.schema import Schema

SCHEMA = Schema([
    ("conv.weight", "weight", (8, 3, 3, 3)), ("fc.weight", "weight", (10, 32)),
    ("out.weight", "weight", (4, 10)),
    ("conv.bias", "rest", (8,)), ("bn.weight", "rest", (8,)), ("bn.running_var", "buffer", (8,)),
])  # fmt: skip


def states(schema, density, seed, scale=0.1):
    """Initial state, a line that has moved from it, and a new state with `density` of the weights changed."""
    rng = np.random.RandomState(seed)
    initial = rng.standard_normal(schema.size).astype(np.float32)
    line = np.where(rng.random_sample(schema.size) < 0.3, initial * np.float32(1.1), initial)
    new = line + scale * rng.standard_normal(schema.size).astype(np.float32)
    w = schema.num_weights
    chosen = rng.random_sample(w) < density if density != "one" else np.arange(w) == rng.randint(w)
    new[:w] = np.where(chosen, new[:w], line[:w])
    return initial, line, new


def encode(shared, new, coding, base=Base(), selected=None, mask_seed=None, **options):  # noqa: B008, frozen
    """The message of an update, and the state that the server expects of it."""
    draft = draft_update(shared, new, coding, base, selected, mask_seed)
    return encode_update(draft, **{"round": 1, **options}), draft.result


def message(coding=Coding("sparse"), **options):  # noqa: B008, frozen
    """A message, and what its receiver holds."""
    initial, line, new = states(SCHEMA, 0.2, 0)
    shared = Shared(SCHEMA, initial, line)
    return encode(shared, new, coding, **options)[0], shared


def same(a, b):
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))


@st.composite
def schemas(draw):
    dims = st.integers(1, 9)
    entries, rows = [], draw(dims)
    for i in range(draw(st.integers(0, 4))):
        kernel = draw(st.sampled_from([(), (1, 1), (3, 3), (5,)]))
        columns = rows * draw(st.integers(1, 3)) if draw(st.booleans()) else draw(st.integers(1, 80))
        rows = draw(dims)
        entries.append((f"l{i}.weight", "weight", (rows, columns, *kernel)))
    entries += [(f"l{i}.bias", "rest", (draw(dims),)) for i in range(draw(st.integers(0, 2)))]
    entries += [(f"l{i}.running_var", "buffer", (draw(dims),)) for i in range(draw(st.integers(0, 2)))]
    return Schema(entries)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    schema=schemas(), kind=st.sampled_from(KINDS), bits=st.sampled_from(VALUE_BITS),
    seed=st.integers(0, 2**31),
    density=st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.97, 1.0]), scale=st.sampled_from([1e-30, 1e-6, 0.1, 1e4]),
    reinitialize=st.booleans(), serve=st.booleans(), signed=st.booleans(),
)  # fmt: skip
def test_round_trip(schema, kind, bits, seed, density, scale, reinitialize, serve, signed):
    initial, line, new = states(schema, density, seed, scale)
    if reinitialize:
        w, moved = schema.num_weights, ~(line == initial)
        line, new = initial, new.copy()
        new[:w][moved[:w]] = initial[:w][moved[:w]]
    ratio = max(density, 0.001)
    if kind == "random":
        chosen = random_mask([layer.size for layer in schema.layers], ratio, seed)
        kept = np.setdiff1d(np.arange(schema.num_weights), chosen)
        new[kept] = line[kept]
    if kind == "pruned":
        new[: schema.num_weights] *= new[: schema.num_weights] != line[: schema.num_weights]
    key = b"a key" if signed else None
    shared = Shared(schema, initial, line)
    options = {"mask_seed": seed, "round": 7, "serve": serve, "sign_key": key}
    data, expected = encode(shared, new, Coding(kind, bits, ratio), Base(reinitialize), **options)
    update = decode_update(data, shared, key)
    assert same(update.result, expected)
    assert bits < 32 or same(update.result, new)
    header = update.header
    assert (header.kind, header.round, header.base.reinitialize) == (kind, 7, reinitialize)
    assert (header.serve, header.signed, header.value_bits) == (serve, signed, bits)
    assert sum(update.header.sizes.values()) == len(data)
    assert sent_by_layer(unpack_message(data), schema).sum() == update.selected.size


@pytest.mark.parametrize("bits", VALUE_BITS)
@pytest.mark.parametrize("count", [0, 1, "all"])
def test_nothing_one_and_all_weights(bits, count):
    initial, line, new = states(SCHEMA, {0: 0.0, 1: "one", "all": 1.0}[count], 3)
    shared = Shared(SCHEMA, initial, line)
    update = decode_update(encode(shared, new, Coding("sparse", bits))[0], shared)
    expected = SCHEMA.num_weights if count == "all" else count
    assert update.selected.size == expected if bits >= 16 else update.selected.size <= expected


def test_quantised_values_are_near_and_unchanged_weights_leave_the_mask():
    initial, line, new = states(SCHEMA, 0.5, 1)
    for state in (initial, line, new):  # no variance is negative
        state[-8:] = abs(state[-8:])
    shared, w, errors = Shared(SCHEMA, initial, line), SCHEMA.num_weights, []
    for bits in (4, 5, 6, 8, 16):
        decoded = draft_update(shared, new, Coding("sparse", bits)).result
        errors.append(np.abs(decoded - new)[:w].max())
        statistics = slice(w + SCHEMA.num_rest, None)
        np.testing.assert_allclose(decoded[statistics], new[statistics], rtol=2**-8 if bits == 16 else 0.01)
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3 and errors[0] < 0.2
    update = decode_update(encode(shared, new, Coding("sparse", 4))[0], shared)
    assert np.array_equal(update.selected, np.flatnonzero(update.result[:w] != line[:w]))
    assert update.selected.size < np.count_nonzero(new[:w] != line[:w])


def test_bfloat16_rounds_to_nearest_even_and_stays_finite():
    x = np.array([1.0, 1.00390625, 1.01171875, -2.5, 3.4e38, 1e-39, 0.0], dtype=np.float32)
    np.testing.assert_array_equal(
        from_bfloat16(to_bfloat16(x)), np.float32([1.0, 1.0, 1.015625, -2.5, 3.3895314e38, 0.0, 0.0])
    )


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(width=32, allow_nan=False, allow_infinity=False)] * 2), min_size=1, max_size=60
    )
)
def test_any_floats_code_bit_for_bit(pairs):
    old, new = np.array(pairs, dtype=np.float32).T.copy()
    groups, writer = np.arange(len(old)) % 3, StreamWriter()
    code_floats(writer, groups, old, new)
    reader = StreamReader(writer.finish(), "test")
    assert same(code_floats(reader, groups, old, None), new)
    reader.finish()


def entropy_bytes(schema, mask):
    total = 0.0
    for layer in schema.layers:
        p = mask[layer.part].mean()
        if 0 < p < 1:
            total -= layer.size * (p * np.log2(p) + (1 - p) * np.log2(1 - p))
    return total / 8


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0005, 0.005, 0.05, 0.3, 0.5, 0.8, 0.999]))
def test_positions_never_cost_much_more_than_the_layers_entropy(seed, density):
    schema = Schema([(f"w{i}", "weight", (32, 16, 3, 3)) for i in range(6)])
    initial, line, new = states(schema, density, seed)
    data, _ = encode(Shared(schema, initial, line), new, Coding("sparse"))
    index_bytes = unpack_message(data)[0].index_bytes
    assert index_bytes <= 1.01 * entropy_bytes(schema, new != line) + 64


def test_clustered_positions_cost_less_than_their_entropy():
    schema, rng = (
        Schema([("a", "weight", (64, 200)), ("b", "weight", (64, 32, 3, 3))]),
        np.random.RandomState(0),
    )
    line = rng.standard_normal(schema.size).astype(np.float32)
    new = line.copy()
    for layer in schema.layers:
        rows, columns = layer.shape[:2]
        rate = rng.gamma(0.3, 1, (rows, 1, 1)) * rng.gamma(0.3, 1, (1, columns, 1))
        hit = rng.random_sample((rows, columns, layer.size // rows // columns)) < rate
        new[layer.part][hit.reshape(-1)] += 1
    data, _ = encode(Shared(schema, line, line), new, Coding("sparse"))
    assert unpack_message(data)[0].index_bytes < 0.7 * entropy_bytes(schema, new != line)


def test_random_mask_is_the_same_everywhere():
    mask = random_mask([100, 7, 3], 0.1, 42)
    assert mask.tolist() == [0, 10, 22, 39, 44, 45, 53, 70, 80, 83, 101]


def test_random_kind_sends_a_seed_instead_of_positions():
    initial, line, new = states(SCHEMA, 0.0, 0)
    chosen = random_mask([layer.size for layer in SCHEMA.layers], 0.25, 9)
    new[chosen] += 0.5
    shared = Shared(SCHEMA, initial, line)
    data, _ = encode(shared, new, Coding("random", updating_ratio=0.25), mask_seed=9)
    update = decode_update(data, shared)
    assert np.array_equal(update.selected, chosen) and update.header.sizes["index_bytes"] == 12


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: message(selected=np.arange(3)), "outside the selection"),
        (lambda: message(base=Base(reinitialize=True), selected=np.arange(3)), "outside the selection"),
        (lambda: Coding("lossy"), "kind 'lossy'"),
        (lambda: Coding("sparse", value_bits=7), "value_bits 7"),
    ],
)
def test_encoder_refuses(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()


def test_encoder_refuses_values_that_are_not_finite():
    initial, line, new = states(SCHEMA, 0.5, 0)
    new[5] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        draft_update(Shared(SCHEMA, initial, line), new, Coding("dense"))


def reseal(data):
    """The message with its checksum made right again."""
    import hashlib

    return data[:-16] + hashlib.blake2b(data[:-16], digest_size=16).digest()


def patched(offset, layout, value):
    def change(data):
        raw = bytearray(data)
        struct.pack_into(layout, raw, offset, value)
        return reseal(bytes(raw))

    return change


def cut_body(data):
    """One word less in the last section, with the length put right."""
    body = struct.unpack_from("<Q", data, 53)[0]
    shorter = bytearray(data[: 69 + body - 4] + data[-16:])
    struct.pack_into("<Q", shorter, 53, body - 4)
    return reseal(bytes(shorter))


def longer_body(data):
    body = struct.unpack_from("<Q", data, 53)[0]
    longer = bytearray(data[: 69 + body] + b"\1\2\3\4" + data[-16:])
    struct.pack_into("<Q", longer, 53, body + 4)
    return reseal(bytes(longer))


REFUSALS = {
    "magic": (lambda data: b"ELF" + data[3:], "magic"),
    "empty": (lambda data: b"", "magic"),
    "short": (lambda data: data[:50], "truncated"),
    "version": (patched(4, "B", 1), "format version 1; this program reads version 2"),
    "codec": (patched(5, "B", 9), "unknown codec 9"),
    "kind": (patched(6, "B", 4), "unknown kind 4"),
    "value bits": (patched(7, "B", 7), "7 bits"),
    "flags": (patched(8, "B", 0x80), "unknown flags"),
    "schema": (patched(13, "B", 0), "another network"),
    "base": (patched(21, "<Q", 0), "another base"),
    "base on re-initialisation": (patched(8, "B", 1), "initial weights"),
    "result": (patched(37, "<Q", 0), "promised fingerprint"),
    "length": (lambda data: data[:-20] + data[-16:], "wrong length"),
    "longer": (lambda data: data + b"x", "wrong length"),
    "body length": (patched(53, "<Q", 2**63), "wrong length"),
    "sections": (patched(61, "<I", 2**31), "sections of"),
    "section lengths": (patched(61, "<I", 1), "section"),
    "checksum": (lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:], "checksum"),
    "stream ends early": (cut_body, "rest section"),
    "stream ends late": (longer_body, "rest section ends early or late"),
    "dense": (patched(6, "B", 2), "no positions section"),
    "random": (patched(6, "B", 1), "12 bytes"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_decoder_refuses(name):
    change, reason = REFUSALS[name]
    data, shared = message()
    with pytest.raises(UpdateFormatError, match=reason):
        decode_update(change(data), shared)


def test_every_truncation_is_refused():
    data, shared = message()
    for length in range(len(data)):
        with pytest.raises(UpdateFormatError):
            decode_update(data[:length], shared)


def counts_of(symbol, low):
    """What is read as the counts of three layers of 216, 320 and 40 weights, the last one's coded as these numbers."""
    writer = StreamWriter()
    SymbolModel(64).code(writer, np.zeros(3, dtype=np.int64), np.array([2 * 2, 2 * 0 + 1, symbol]))
    writer.raw(np.array([1, 0, symbol // 2 - 1]), np.array([1, 0, low]))
    return code_counts(StreamReader(writer.finish(), "positions"), SCHEMA.layer_sizes(), None).tolist()


def test_counts_by_hand():
    assert counts_of(2 * 5, 4) == [3, 320, 20] and counts_of(2 * 5 + 1, 3) == [3, 320, 21]


@pytest.mark.parametrize("symbol, low", [
    (2 * 31, 5), (2 * 5, 5), (2 * 5 + 1, 5),
    (2 * 5 + 1, 4),  # of two equal halves the selected one is counted: else there are two messages that mean the same
])  # fmt: skip
def test_counts_that_no_writer_makes_are_refused(symbol, low):
    with pytest.raises(UpdateFormatError, match="than a layer has"):
        counts_of(symbol, low)


def test_values_that_are_not_finite_are_refused():
    writer = StreamWriter()
    writer.raw(np.array([5, 8, 8]), np.array([0, 255, 255]))
    with pytest.raises(UpdateFormatError, match="impossible value range"):
        code_floats(
            StreamReader(writer.finish(), "values"), np.zeros(1, np.int64), np.ones(1, np.float32), None
        )


def test_signatures():
    data, shared = message(sign_key=b"right")
    decode_update(data, shared, key=b"right")
    decode_update(data, shared)  # a node without a key cannot check
    with pytest.raises(UpdateFormatError, match="another key"):
        decode_update(data, shared, key=b"wrong")
    with pytest.raises(UpdateFormatError, match="another key"):
        decode_update(patched(9, "<I", 77)(data), shared, key=b"right")
    with pytest.raises(UpdateFormatError, match="not signed"):
        decode_update(message()[0], shared, key=b"right")


@pytest.mark.parametrize(
    "entries",
    [
        [("a", "bias", (3,))],
        [("a", "rest", (3,)), ("b", "weight", (3, 3))],
        [("a", "weight", (3,))],
        [("a", "rest", (3,)), ("a", "rest", (3,))],
        [("a", "rest", (0,))],
    ],
)
def test_schema_refuses(entries):
    with pytest.raises(ValueError):
        Schema(entries)


def test_schema_plain_form_and_fingerprint():
    assert Schema(SCHEMA.to_plain()).fingerprint == SCHEMA.fingerprint == bytes.fromhex("4fa9e988084d8694")
    assert (SCHEMA.num_weights, SCHEMA.num_rest, SCHEMA.num_buffers) == (576, 16, 8)
    assert [layer.start for layer in SCHEMA.layers] == [0, 216, 536]


def test_probabilities_come_from_a_fixed_table():
    import hashlib

    digest = hashlib.blake2b(PROBABILITIES.astype("<f4").tobytes(), digest_size=8).hexdigest()
    logs = hashlib.blake2b(log2_fixed(np.arange(1, 3000)).astype("<i4").tobytes(), digest_size=8).hexdigest()
    assert (digest, logs) == ("d3cfde377331676d", "8622a776b7bccd0c")


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.dpu")), ids=lambda path: path.stem)
def test_golden_vectors(path):
    """Messages made once decode today, here, to what they decoded to then."""
    key = b"golden" if path.stem == "signed" else None
    update = decode_update(path.read_bytes(), cases()[path.stem].shared, key)
    expected = np.frombuffer((path.with_suffix(".f32")).read_bytes(), dtype="<f4")
    assert same(update.result, expected.astype(np.float32))


def test_there_are_golden_vectors():
    assert sorted(path.stem for path in GOLDEN.glob("*.dpu")) == sorted(cases())


def test_mutated_messages_leave_a_node_untouched():
    outcome = fuzz(400, seed=1)
    assert outcome.refused + outcome.applied == 400 and outcome.refused > 350


@pytest.mark.slow
def test_many_mutated_messages_leave_a_node_untouched():
    outcome = fuzz(10_000, seed=2)
    assert outcome.refused + outcome.applied == 10_000
