"""The container of an update message: header, sections, signature, checksum. See docs/update_format.md."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from utils.message.base import Base
from utils.message.streams import UpdateFormatError
from utils.message.values import VALUE_BITS

KINDS = ("sparse", "random", "dense", "pruned")  # how a message names its weights; a header holds the place in here
_MAGIC = b"DPU\x1a"
_VERSION, _CODEC = 2, 1
_REINITIALIZE, _SERVE, _SIGNED, _SHRINK_PERTURB, _SPARSE_NETWORK = 1, 2, 4, 8, 16
_HEADER = struct.Struct("<4sBBBBBI8s16s16sQII")
_FACTORS = struct.Struct("<ff")
_DIGEST = 16
_MOST_MESSAGES = 1000  # in one file
_LEAST_KEY, _MOST_KEY = 16, 1 << 20  # bytes of a key file


@dataclass(frozen=True)
class Header:
    """What a message says about itself."""

    kind: str
    value_bits: int
    base: Base
    serve: bool  # whether the edge answers queries with the result; else it stands by
    signed: bool
    round: int
    schema_fingerprint: bytes
    base_fingerprint: bytes
    result_fingerprint: bytes
    index_bytes: int
    value_bytes: int
    rest_bytes: int
    sparse_network: bool  # for, or making, a network of which only some weights are deployed

    @property
    def deploys(self) -> bool:
        """Whether the weights sent are from now on the only ones of the network."""
        return self.sparse_network and self.kind == "pruned"

    @property
    def header_bytes(self) -> int:
        """Header, factors, signature and checksum."""
        return _HEADER.size + len(_factors(self.base)) + _DIGEST * (1 + self.signed)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by part; they add up to the length of the message."""
        names = ("header_bytes", "index_bytes", "value_bytes", "rest_bytes")
        return {name: getattr(self, name) for name in names}

    @property
    def message_bytes(self) -> int:
        """Length of the message."""
        return sum(self.sizes.values())


class Message(NamedTuple):
    """A message taken apart; its sections, positions, values and rest, are still coded."""

    header: Header
    sections: tuple[bytes, bytes, bytes]


def pack_message(header: Header, sections: tuple[bytes, bytes, bytes], key: bytes | None, run: str = "") -> bytes:
    """Return the finished message, signed for `run` if there is a key. `header` must hold the sections' lengths."""
    flags = _REINITIALIZE * header.base.reinitialize | _SERVE * header.serve | _SIGNED * header.signed
    flags |= _SHRINK_PERTURB * (header.base.shrink_perturb is not None) | _SPARSE_NETWORK * header.sparse_network
    body = b"".join(sections)
    message = _HEADER.pack(
        _MAGIC, _VERSION, _CODEC, KINDS.index(header.kind), header.value_bits, flags, header.round,
        header.schema_fingerprint, header.base_fingerprint, header.result_fingerprint,
        len(body), header.index_bytes, header.value_bytes,
    ) + _factors(header.base) + body  # fmt: skip
    if key is not None:
        message += _signature(message, key, run)
    return message + _digest(message)


def unpack_message(data: bytes, key: bytes | None = None, run: str = "") -> Message:
    """Check a message as far as it goes without a network, and take it apart.

    With a `key`, a message that is not signed with it, and for this `run`, is refused. Raises UpdateFormatError naming
    what is wrong.
    """
    data = memoryview(data)  # whose parts are no copies
    if data[:4] != _MAGIC[: len(data[:4])] or not data:
        raise UpdateFormatError("not an update message: wrong magic bytes")
    if len(data) < _HEADER.size + _DIGEST:
        raise UpdateFormatError(f"truncated: {len(data)} bytes are less than a header and a checksum")
    _, version, codec, kind, bits, flags, round_, schema, base, result, body, index, value = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise UpdateFormatError(f"format version {version}; this program reads version {_VERSION}")
    if codec != _CODEC:
        raise UpdateFormatError(f"unknown codec {codec}")
    signed = bool(flags & _SIGNED)
    start = _start_of_body(flags)
    expected = start + body + _DIGEST * (1 + signed)
    if len(data) != expected:
        raise UpdateFormatError(f"wrong length: {len(data)} bytes where the header announces {expected}")
    # Before any other field is believed: what was altered on its way is not to be told apart from what is new.
    if not hmac.compare_digest(_digest(data[:-_DIGEST]), checksum(data)):
        raise UpdateFormatError("checksum does not match: the message was altered on its way")
    if key is not None and not signed:
        raise UpdateFormatError("not signed, and this node accepts signed messages only")
    signature = data[-2 * _DIGEST : -_DIGEST]
    if key is not None and not hmac.compare_digest(_signature(data[: -2 * _DIGEST], key, run), signature):
        raise UpdateFormatError("signature does not match: signed with another key, or for another run")
    if kind >= len(KINDS):
        raise UpdateFormatError(f"unknown kind {kind}")
    if bits not in VALUE_BITS:
        raise UpdateFormatError(f"unknown values: {bits} bits")
    if flags & ~(_REINITIALIZE | _SERVE | _SIGNED | _SHRINK_PERTURB | _SPARSE_NETWORK):
        raise UpdateFormatError(f"unknown flags {flags:#04x}")
    factors = _FACTORS.unpack_from(data, _HEADER.size) if flags & _SHRINK_PERTURB else None
    try:
        builds_on = Base(bool(flags & _REINITIALIZE), factors)
    except ValueError as error:
        raise UpdateFormatError(f"impossible base: {error}") from None
    if index + value > body:
        raise UpdateFormatError(f"sections of {index} + {value} bytes in a body of {body}")
    header = Header(
        KINDS[kind], bits, builds_on, bool(flags & _SERVE), signed, round_,
        schema, base, result, index, value, body - index - value, bool(flags & _SPARSE_NETWORK),
    )  # fmt: skip
    content = data[start : start + body]
    sections = content[:index], content[index : index + value], content[index + value :]
    return Message(header, tuple(map(bytes, sections)))


def split_messages(data: bytes) -> list[memoryview]:
    """Return the messages that lie one behind another in `data`, as their headers say where each ends.

    What follows the last one that is followed by another's first bytes comes whole, for `unpack_message` to refuse.
    Raises UpdateFormatError for more than 1,000.
    """
    messages, data = [], memoryview(data)  # whose parts are no copies
    while len(data) > _HEADER.size and data[:4] == _MAGIC:
        flags, body = data[8], _HEADER.unpack_from(data)[-3]
        end = _start_of_body(flags) + body + _DIGEST * (1 + bool(flags & _SIGNED))
        if data[end : end + 4] != _MAGIC:
            break
        messages.append(data[:end])
        data = data[end:]
        if len(messages) == _MOST_MESSAGES:
            raise UpdateFormatError(f"more than {_MOST_MESSAGES:,} messages in one")
    return [*messages, data]


def _start_of_body(flags: int) -> int:
    return _HEADER.size + (_FACTORS.size if flags & _SHRINK_PERTURB else 0)


def most_bytes(num_values: int) -> int:
    """Return a length that no message exceeds which is for a network of so many values.

    A value takes at most 24 bits for its symbol and 23 for its mantissa, a position 24: eight bytes leave room for all
    but streams that no encoder makes. What is added is for the smallest networks.
    """
    return 8 * num_values + (1 << 20)


def checksum(message: bytes) -> bytes:
    """Return the 16 bytes that identify a message."""
    return message[-_DIGEST:]


def is_message(data: bytes, digest: str) -> bool:
    """Return whether `data` is, to the last byte, the message with this checksum, in hexadecimal."""
    return data[-_DIGEST:] == _digest(data[:-_DIGEST]) == bytes.fromhex(digest)


def _factors(base: Base) -> bytes:
    return b"" if base.shrink_perturb is None else _FACTORS.pack(*base.shrink_perturb)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _signature(data: bytes, key: bytes, run: str) -> bytes:
    """Return the keyed MAC of a message; the run's name is BLAKE2b's personalisation, and adds no byte."""
    person = _digest(run.encode()) if run else b""
    return hashlib.blake2b(data, digest_size=_DIGEST, key=key, person=person).digest()


def read_sign_key(path: str | Path) -> bytes:
    """Return the key in a file: 32 bytes that BLAKE2b makes of its content.

    Warns where others than its owner may read the file. Raises ValueError if it has fewer than 16 bytes, or a million.
    """
    with open(path, "rb") as file:
        content, mode = file.read(_MOST_KEY + 1), os.fstat(file.fileno()).st_mode
    if len(content) > _MOST_KEY:
        raise ValueError(f"{path}: more than {_MOST_KEY:,} bytes are no key")
    if len(content.strip()) < _LEAST_KEY:
        reason = f"an empty file is no key, nor are fewer than {_LEAST_KEY} bytes"
        raise ValueError(f"{path}: {reason}: openssl rand -hex 32 makes one")
    if os.name == "posix" and stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH):
        warnings.warn(f"{path}: others can read this key: chmod 600 mends that", stacklevel=2)
    return hashlib.blake2b(content, digest_size=32).digest()


def key_fingerprint(key: bytes) -> str:
    """Return what tells keys apart without giving them away."""
    return hashlib.blake2b(b"run", key=key, digest_size=8).hexdigest()
