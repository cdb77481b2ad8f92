"""Streams of entropy-coded numbers, and the integer probability tables that encoder and decoder share.

A `StreamWriter` and a `StreamReader` have the same methods; each returns the numbers that went through. So one
function describes both directions: the writer is handed the numbers, the reader None. One wrong probability would turn
all that follows into noise, so they are integers, looked up in tables that are made with exactly rounded decimal
arithmetic and hence the same on every machine. See docs/update_format.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, Decimal

import constriction
import numpy as np

LOGIT_ONE = 256  # one unit of log2 odds
_LOGIT_MAX = 20 * LOGIT_ONE
_SMALL_ALPHABET, _FREE_WORK, _WORK_OF_A_BYTE = 64, 1 << 24, 1 << 18  # see `StreamReader.afford`

_range_coder = constriction.stream.queue
_uniform = constriction.stream.model.Uniform()
_categorical = constriction.stream.model.Categorical(perfect=False)


class UpdateFormatError(ValueError):
    """A message that cannot be applied; the text names the reason. The node is what it was before."""


class NothingNewError(UpdateFormatError):
    """A message of a round that is not after the last one applied."""


class TooCheapError(ValueError):
    """An update that costs a reader so much work for so few bytes that it would refuse the message."""


class BaseMissingError(UpdateFormatError):
    """A message that builds on a state which the node does not hold: one before it may be missing."""


def _probability_table() -> np.ndarray:
    """Return (2 * _LOGIT_MAX + 1, 2) frequencies of 0 and 1, out of 2^24, by log2 odds in 1/256."""
    exact = Context(prec=40)
    ln2 = exact.ln(Decimal(2))
    powers = [exact.exp(exact.multiply(ln2, Decimal(i) / LOGIT_ONE)) for i in range(LOGIT_ONE)]
    ones = []
    for logit in range(_LOGIT_MAX + 1):
        odds = powers[logit % LOGIT_ONE] * 2 ** (logit // LOGIT_ONE)
        ones.append(int(exact.divide(odds * 2**24, 1 + odds).to_integral_value()))
    upper = np.array(ones)
    p = np.concatenate([2**24 - upper[:0:-1], upper])
    return np.stack([2**24 - p, p], axis=1).astype(np.float32)


def _log2_table() -> np.ndarray:
    """Return round(256 * log2(1 + (i + 0.5) / 256)) for i in 0..255."""
    exact = Context(prec=40)
    ln2 = exact.ln(Decimal(2))
    logs = [exact.ln(1 + (Decimal(i) + Decimal("0.5")) / 256) / ln2 for i in range(256)]
    return np.array([int((LOGIT_ONE * log).to_integral_value()) for log in logs])


PROBABILITIES = _probability_table()
_COSTS = -np.log2(PROBABILITIES / 2.0**24)
_LOG2 = _log2_table()


def log2_fixed(x: np.ndarray | int) -> np.ndarray:
    """Return log2 of positive integers in 1/256, by table: no rounding that could differ between machines."""
    mantissa, exponent = np.frexp(np.asarray(x, dtype=np.float64))
    return LOGIT_ONE * (exponent.astype(np.int64) - 1) + _LOG2[(mantissa * 512).astype(np.int64) - 256]


def code_lengths(logits: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Return in how many bits each of `bits` is coded: for choices of the encoder, in floating point."""
    return _COSTS[np.clip(logits, -_LOGIT_MAX, _LOGIT_MAX) + _LOGIT_MAX, bits.astype(np.intp)]


class StreamWriter:
    """Collects numbers into a range-coder stream."""

    def __init__(self):
        self._encoder = _range_coder.RangeEncoder()
        self._least_bytes = 0

    def bits(self, logits: np.ndarray, bits: np.ndarray | None) -> np.ndarray:
        """Code bits whose log2 odds of being 1 are logits / 256."""
        return self.symbols(PROBABILITIES.take(logits + _LOGIT_MAX, axis=0, mode="clip"), bits).astype(bool)

    def symbols(self, frequencies: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """Code numbers below A; `frequencies` is (len(symbols), A) float32, positive."""
        if not len(frequencies):
            return np.zeros(0, dtype=np.int32)
        return self._through(_categorical, frequencies, symbols)

    def raw(self, widths: np.ndarray, values: np.ndarray | None) -> np.ndarray:
        """Code numbers of the given widths, 0 to 32 bits, as they are."""
        coded = np.zeros(len(widths), dtype=np.int64)
        for low in (0, 16):
            part = np.clip(widths - low, 0, 16)
            some = np.flatnonzero(part)
            if len(some):
                size = np.int32(1) << part[some].astype(np.int32)
                given = None if values is None else values[some] >> low & size - 1
                coded[some] |= self._through(_uniform, size, given).astype(np.int64) << low
        return coded

    def afford(self, count: int, alphabet: int) -> None:
        """Say that `count` numbers below `alphabet` follow; a reader refuses what costs too much for its bytes."""
        self._least_bytes = max(self._least_bytes, _least_bytes(count, alphabet))

    def _through(self, model, parameters: np.ndarray, numbers: np.ndarray | None) -> np.ndarray:
        numbers = numbers.astype(np.int32)
        self._encoder.encode(numbers, model, parameters)
        return numbers

    def mark(self):
        """Return what `back_to` needs to take back all that is coded from here on."""
        return self._encoder.clone()

    def back_to(self, mark) -> None:
        """Take back what was coded since `mark`."""
        self._encoder = mark

    def finish(self) -> bytes:
        """Return the stream: the encoder's 32-bit words, little-endian. Raises TooCheapError; see `afford`."""
        data = self._encoder.get_compressed().astype("<u4").tobytes()
        if len(data) < self._least_bytes:
            raise TooCheapError(f"{len(data)} bytes are fewer than the {self._least_bytes} that its work needs")
        return data


class StreamReader(StreamWriter):
    """Reads back what a StreamWriter wrote. Raises UpdateFormatError where the stream cannot be right.

    It writes what it reads, too: a stream is right if, and only if, the same bytes come out. Nothing less tells that it
    ends early or late: a range decoder makes numbers of any bytes, and of zeros behind the last one.
    """

    def __init__(self, data: bytes, name: str):
        super().__init__()
        self._data, self._name = data, name
        if len(data) % 4:
            raise UpdateFormatError(f"the {name} section has {len(data)} bytes, not a multiple of 4")
        self._decoder = _range_coder.RangeDecoder(np.frombuffer(data, dtype="<u4").astype(np.uint32))

    def afford(self, count: int, alphabet: int) -> None:
        """Refuse a stream whose bytes are too few for so many numbers of so many kinds.

        The time for a number grows with the alphabet, but one that is always the same costs next to no bytes: 1.7 kB
        could keep a node busy for half a minute. A network that trained is far from this bound.
        """
        if len(self._data) < _least_bytes(count, alphabet):
            sizes = f"{count:,} values with an alphabet of {alphabet}"
            raise UpdateFormatError(f"the {self._name} section has {len(self._data)} bytes, too few for {sizes}")

    def _through(self, model, parameters: np.ndarray, numbers: None) -> np.ndarray:
        try:
            numbers = self._decoder.decode(model, parameters)
        except AssertionError:
            raise UpdateFormatError(f"the {self._name} section holds an invalid code") from None
        numbers = super()._through(model, parameters, numbers)
        if self._encoder.num_words() > len(self._data) // 4 + 2:  # at once: the numbers that follow could be millions
            self.finish()
        return numbers

    def finish(self) -> None:
        """Check that the stream ends here."""
        if super().finish() != self._data:
            raise UpdateFormatError(f"the {self._name} section ends early or late")


def _least_bytes(count: int, alphabet: int) -> int:
    return -((_FREE_WORK - count * (alphabet - _SMALL_ALPHABET)) // _WORK_OF_A_BYTE)


class SymbolModel:
    """Adaptive frequencies of numbers below `alphabet`, in contexts that borrow from their group and from all.

    A context is `group * subgroups + subgroup`.
    """

    BORROW = 256  # a parent's frequencies count as 64 observations, so that a rare context starts from its parent's

    def __init__(self, alphabet: int, groups: int = 1, subgroups: int = 1):
        self._counts = [np.zeros((n, alphabet), dtype=np.int64) for n in (1, groups, groups * subgroups)]

    def _frequencies(self) -> np.ndarray:
        """Return (contexts, alphabet) positive integers; every step divides integers, rounding down."""
        alphabet = self._counts[0].shape[1]
        frequencies = np.full((1, alphabet), (1 << 20) // alphabet)
        for counts in self._counts:
            parent = np.repeat(frequencies, len(counts) // len(frequencies), axis=0)
            totals = counts.sum(axis=1, keepdims=True)
            frequencies = ((counts << 22) + self.BORROW * parent) // (4 * totals + self.BORROW)
        return (frequencies + 1).astype(np.float32)

    def code_block(self, coder: StreamWriter, contexts: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """Pass one number for each context through `coder`, all by what the blocks before have shown; return them."""
        seen = coder.symbols(self._frequencies().take(contexts, axis=0), symbols).astype(np.int64)
        of_all, of_groups, of_contexts = self._counts
        found = np.bincount(contexts * of_all.size + seen, minlength=of_contexts.size)
        of_contexts += found.reshape(of_contexts.shape)
        found = found.reshape(len(of_groups), -1, of_all.size).sum(axis=1)
        of_groups += found
        of_all += found.sum(axis=0)
        return seen

    def code(self, coder: StreamWriter, contexts: np.ndarray, symbols: np.ndarray | None) -> np.ndarray:
        """Pass one number for each context through `coder`, block by block; return the numbers."""
        coded = [np.zeros(0, dtype=np.int64)]
        for block in blocks(len(contexts)):
            coded.append(self.code_block(coder, contexts[block], None if symbols is None else symbols[block]))
        return np.concatenate(coded)


def blocks(count: int) -> Iterator[slice]:
    """Yield slices of 16, 24, 36, ... numbers, until `count` are covered.

    Frequencies stand still within a block, so that encoder and decoder work on whole arrays.
    """
    start, size = 0, 16
    while start < count:
        yield slice(start, min(start + size, count))
        start, size = start + size, min(size * 3 // 2, 1 << 15)
