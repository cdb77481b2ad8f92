"""Other codecs that messages are held against. Two of them are optional: `pip install pcodec`, `pip install nncodec`.

nncodec is the reference software of ISO/IEC 15938-17, neural network coding. Only its entropy coder is used, and only
its payload counted: no header of a layer, no parameter sets. Nothing but this benchmark imports either.
"""

from __future__ import annotations

import lzma

import numpy as np

try:
    from pcodec import ChunkConfig, standalone
except ImportError:
    standalone = None
try:
    from nncodec.extensions import deepCABAC
except ImportError:
    deepCABAC = None

_UNARY_LENGTH = 11  # nncodec's default


def byte_planes(values: np.ndarray) -> int:
    """Bytes of float32 values as four planes, all first bytes, all second ones, ..., each with lzma."""
    planes = np.ascontiguousarray(values).view(np.uint8).reshape(-1, 4).T
    return sum(len(lzma.compress(plane.tobytes(), format=lzma.FORMAT_ALONE)) for plane in planes)


def pcodec_bytes(values: np.ndarray) -> int:
    """Bytes of float32 values or integers by pcodec."""
    return len(standalone.simple_compress(np.ascontiguousarray(values), ChunkConfig()))


def nncodec_bytes(levels: list[np.ndarray]) -> int:
    """Bytes of the levels of some layers, each (outputs, ...) with zeros where nothing changes, by nncodec.

    Each layer is coded with and without its flag for empty rows, and the shorter one counts.
    """
    return sum(min(_layer_bytes(layer, skip) for skip in (0, 1)) for layer in levels)


def _layer_bytes(levels: np.ndarray, row_skip: int) -> int:
    encoder = deepCABAC.Encoder()
    encoder.initCtxModels(_UNARY_LENGTH, 1)
    levels = np.ascontiguousarray(levels.reshape(len(levels), -1), dtype=np.int32)
    empty = (~levels.any(axis=1)).astype(np.int32) if row_skip else np.zeros(len(levels), dtype=np.int32)
    off = deepCABAC.HdspMode.AlwaysOff, np.zeros(2, dtype=np.int8)
    encoder.encodeLayer(levels, 0, 0, 1, 0, row_skip, empty, *off, 0, 0)
    return len(encoder.finish())
