"""The container of an update message: header, sections, signature, checksum. See docs/update_format.md."""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from pathlib import Path

from utils.message.streams import UpdateFormatError
from utils.message.values import VALUE_BITS

MAGIC = b"DPU\x1a"
VERSION, CODEC = 1, 1
MODES = ("sparse", "random", "dense", "pruned")
_REINITIALIZE, _SERVE, _SIGNED, _SHRINK_PERTURB, _SPARSE_NETWORK = 1, 2, 4, 8, 16
_HEADER = struct.Struct("<4sBBBBBI8s16s16sQII")
_FACTORS = struct.Struct("<ff")
_DIGEST = 16


@dataclass(frozen=True)
class Header:
    """What a message says about itself."""

    mode: str
    value_bits: int
    reinitialize: bool
    serve: bool
    signed: bool
    round: int
    schema_fingerprint: bytes
    base_fingerprint: bytes
    result_fingerprint: bytes
    index_bytes: int
    value_bytes: int
    rest_bytes: int
    shrink_perturb: tuple[float, float] | None = None  # factors of line and initial state; excludes reinitialize
    sparse_network: bool = False  # for, or making, a network of which only some weights are deployed

    @property
    def deploys(self) -> bool:
        """Whether the weights sent are from now on the only ones of the network."""
        return self.sparse_network and self.mode == "pruned"

    @property
    def header_bytes(self) -> int:
        """Header, factors, signature and checksum."""
        return _HEADER.size + len(_factors(self.shrink_perturb)) + _DIGEST * (1 + self.signed)

    @property
    def message_bytes(self) -> int:
        return self.header_bytes + self.index_bytes + self.value_bytes + self.rest_bytes

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by part; they add up to the length of the message."""
        return {
            name: getattr(self, name) for name in ("header_bytes", "index_bytes", "value_bytes", "rest_bytes")
        }


def pack_message(header: Header, sections: tuple[bytes, bytes, bytes], key: bytes | None) -> bytes:
    """The finished message. `header` must hold the sections' lengths."""
    flags = _REINITIALIZE * header.reinitialize | _SERVE * header.serve | _SIGNED * header.signed
    flags |= _SHRINK_PERTURB * (header.shrink_perturb is not None) | _SPARSE_NETWORK * header.sparse_network
    body = b"".join(sections)
    message = _HEADER.pack(
        MAGIC, VERSION, CODEC, MODES.index(header.mode), header.value_bits, flags, header.round,
        header.schema_fingerprint, header.base_fingerprint, header.result_fingerprint,
        len(body), header.index_bytes, header.value_bytes,
    ) + _factors(header.shrink_perturb) + body  # fmt: skip
    if key is not None:
        message += _digest(message, key)
    return message + _digest(message)


def unpack_message(data: bytes, key: bytes | None = None) -> tuple[Header, tuple[bytes, bytes, bytes]]:
    """Check a message as far as it goes without a network; return its header and three sections.

    With a `key`, a message that is not signed with it is refused. Raises UpdateFormatError naming what is
    wrong.
    """
    if data[:4] != MAGIC[: len(data[:4])] or not data:
        raise UpdateFormatError("not an update message: wrong magic bytes")
    if len(data) < _HEADER.size + _DIGEST:
        raise UpdateFormatError(f"truncated: {len(data)} bytes are less than a header and a checksum")
    (_, version, codec, mode, value_bits, flags, round_, schema, base, result, body, index, value) = (
        _HEADER.unpack_from(data)
    )
    if version != VERSION:
        raise UpdateFormatError(f"format version {version}; this program reads version {VERSION}")
    if codec != CODEC:
        raise UpdateFormatError(f"unknown codec {codec}")
    signed = bool(flags & _SIGNED)
    start = _HEADER.size + (_FACTORS.size if flags & _SHRINK_PERTURB else 0)
    expected = start + body + _DIGEST * (1 + signed)
    if len(data) != expected:
        raise UpdateFormatError(f"wrong length: {len(data)} bytes where the header announces {expected}")
    if not hmac.compare_digest(_digest(data[:-_DIGEST]), data[-_DIGEST:]):
        raise UpdateFormatError("checksum does not match: the message was altered on its way")
    if key is not None and not signed:
        raise UpdateFormatError("not signed, and this node accepts signed messages only")
    if key is not None and not hmac.compare_digest(
        _digest(data[: -2 * _DIGEST], key), data[-2 * _DIGEST : -_DIGEST]
    ):
        raise UpdateFormatError("signature does not match: signed with another key")
    if mode >= len(MODES):
        raise UpdateFormatError(f"unknown mode {mode}")
    if value_bits not in VALUE_BITS:
        raise UpdateFormatError(f"unknown value mode: {value_bits} bits")
    if flags & ~(_REINITIALIZE | _SERVE | _SIGNED | _SHRINK_PERTURB | _SPARSE_NETWORK):
        raise UpdateFormatError(f"unknown flags {flags:#04x}")
    factors = _FACTORS.unpack_from(data, _HEADER.size) if flags & _SHRINK_PERTURB else None
    if factors is not None and (flags & _REINITIALIZE or not possible(factors)):
        raise UpdateFormatError(f"impossible base: shrink and perturb {factors}, flags {flags:#04x}")
    if index + value > body:
        raise UpdateFormatError(f"sections of {index} + {value} bytes in a body of {body}")
    header = Header(
        MODES[mode], value_bits, bool(flags & _REINITIALIZE), bool(flags & _SERVE), signed, round_,
        schema, base, result, index, value, body - index - value, factors, bool(flags & _SPARSE_NETWORK),
    )  # fmt: skip
    rest = data[start : start + body]
    return header, (rest[:index], rest[index : index + value], rest[index + value :])


def possible(factors: tuple[float, float]) -> bool:
    """Whether shrink and perturb are both between 0 and 1."""
    return all(0 <= factor <= 1 for factor in factors)


def _factors(factors: tuple[float, float] | None) -> bytes:
    return b"" if factors is None else _FACTORS.pack(*factors)


def checksum(message: bytes) -> bytes:
    """The 16 bytes that identify a message."""
    return message[-_DIGEST:]


def _digest(data: bytes, key: bytes | None = None) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST, key=key or b"").digest()


def read_sign_key(path: str | Path) -> bytes:
    """The key in a file: 32 bytes that BLAKE2b makes of its content. Raises ValueError if it is empty."""
    content = Path(path).read_bytes()
    if not content.strip():
        raise ValueError(f"{path}: an empty file is no key")
    return hashlib.blake2b(content, digest_size=32).digest()
