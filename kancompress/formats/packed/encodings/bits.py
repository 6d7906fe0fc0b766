"""Indices to bytes and back, at any width from 0 to 16 bits (docs/packed-format.md, section 4).

Index number e occupies bits e*b ... e*b + b - 1 of one little-endian bit stream, so n indices
take exactly ceil(n * b / 8) bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.arrays import Array, from_numpy
from kancompress.formats.packed.encodings.protocol import Indices, Size, index_type
from kancompress.formats.safetensors import Entry, shown

# A multiple of 8 indices fills whole bytes at every width, so blocks can be packed one by one.
_BLOCK = 1 << 16

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]


def width_of(clusters: int) -> int:
    """Bits an index needs for `clusters` centroids: ceil(log2 k), 0 for a single one."""
    return (clusters - 1).bit_length()


def packed_size(count: int, width: int) -> int:
    """Bytes of `count` indices of `width` bits: ceil(count * width / 8)."""
    return -(-count * width // 8)


def entropy(counts: npt.NDArray[np.integer]) -> float:
    """Shannon entropy in bits of indices that occur `counts` times."""
    shares = counts[counts > 0] / counts.sum()
    return abs(float(-(shares * np.log2(shares)).sum()))


def pack(indices: npt.NDArray[np.integer[Any]], width: int) -> U8:
    """Pack `indices`, shape (n,), each below 2**width, into ceil(n * width / 8) bytes."""
    count = len(indices)
    out = np.zeros(packed_size(count, width), dtype=np.uint8)
    if width == 0:
        return out
    for start in range(0, count, _BLOCK):
        block = indices[start : start + _BLOCK]
        rows = np.zeros((-(-len(block) // 8), 8), np.uint16)
        rows.reshape(-1)[: len(block)] = block
        packed = np.zeros((len(rows), width), np.uint8)
        for place, byte, shift in _steps(width):
            part = rows[:, place] << shift if shift >= 0 else rows[:, place] >> -shift
            packed[:, byte] |= part.astype(np.uint8)
        first = start * width // 8
        size = packed_size(len(block), width)
        out[first : first + size] = packed.reshape(-1)[:size]
    return out


def unpack(data: U8, count: int, width: int) -> U16:
    """Unpack `count` indices of `width` bits; the inverse of `pack`. `data` must be long enough."""
    out = np.zeros(count, dtype=np.uint16)
    if width:
        for start, block in unpacked(data, count, width):
            out[start : start + len(block)] = block
    return out


def unpacked(data: U8, count: int, width: int) -> Iterator[tuple[int, U16]]:
    """The indices of `unpack`, a block at a time, each with the number of its first."""
    mask = np.uint16((1 << width) - 1)
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        if width == 0:
            yield start, np.zeros(size, np.uint16)
            continue
        first = start * width // 8
        block = data[first : first + packed_size(size, width)]
        packed = np.zeros((-(-size // 8), width), np.uint8)
        packed.reshape(-1)[: len(block)] = block
        rows = np.zeros((len(packed), 8), np.uint16)
        for place, byte, shift in _steps(width):
            part = packed[:, byte].astype(np.uint16)
            rows[:, place] |= part >> shift if shift >= 0 else part << -shift
        yield start, (rows & mask).reshape(-1)[:size]


def _steps(width: int) -> Iterator[tuple[int, int, int]]:
    """Eight indices fill `width` bytes: which index reaches into which byte, and by how many bits
    it is moved up to be written there."""
    for place in range(8):
        begin = place * width
        for byte in range(begin // 8, (begin + width - 1) // 8 + 1):
            yield place, byte, begin - 8 * byte


def padding_is_zero(data: U8, count: int, width: int) -> bool:
    """Whether the bits after the last index, up to the end of its byte, are all zero."""
    used = count * width % 8
    return used == 0 or int(data[-1]) >> used == 0


class Bits:
    """Indices of one width, as few bits as the number of centroids needs."""

    name = "bits"

    def fits(self, claim: Indices) -> bool:
        """All indices do."""
        return True

    def size(self, claim: Indices) -> Size:
        """Bytes of the indices, exactly."""
        return Size(packed_size(claim.count, width_of(claim.clusters)))

    def check(self, entry: Entry | None, claim: Indices, where: str) -> None:
        """Refuse a tensor that cannot be these indices. Raises InvalidFileError."""
        width = width_of(claim.clusters)
        if entry is None:
            if width:
                raise InvalidFileError(
                    Flaw.MISSING_TENSOR, f"{where}: tensor {shown(claim.name)} is missing."
                )
            return
        if entry.dtype != "U8":
            raise InvalidFileError(
                Flaw.WRONG_DTYPE,
                f"{where}: tensor {shown(claim.name)} has the dtype {entry.dtype}, not U8.",
            )
        needed = packed_size(claim.count, width)
        if entry.shape != (needed,) or width == 0:
            raise InvalidFileError(
                Flaw.INDEX_LENGTH,
                f"{where}: tensor {shown(claim.name)} has the shape {shown(list(entry.shape))};"
                f" {claim.count} indices of {width} bits take [{needed}]"
                + (" (no tensor)." if width == 0 else "."),
            )

    def encode(self, indices: npt.NDArray[np.integer[Any]], claim: Indices) -> Array | None:
        """The bytes of indices; None where there is but one centroid."""
        width = width_of(claim.clusters)
        return from_numpy(pack(indices, width)) if width else None

    def decode(
        self, array: Array | None, claim: Indices, where: str
    ) -> npt.NDArray[np.integer[Any]] | None:
        """The indices of bytes that `check` has let pass. Raises InvalidFileError."""
        if array is None:
            return None
        width = width_of(claim.clusters)
        if not padding_is_zero(array.data, claim.count, width):
            raise InvalidFileError(
                Flaw.INDEX_PADDING,
                f"{where}: tensor {shown(claim.name)} has bits set after its last index.",
            )
        indices = np.empty(claim.count, index_type(claim.clusters))
        largest = 0
        for start, block in unpacked(array.data, claim.count, width):
            largest = max(largest, int(block.max()))
            indices[start : start + len(block)] = block
        if largest >= claim.clusters:
            raise InvalidFileError(
                Flaw.INDEX_RANGE,
                f"{where}: tensor {shown(claim.name)} holds {largest}; the codebook has"
                f" {claim.clusters} centroids.",
            )
        return indices
