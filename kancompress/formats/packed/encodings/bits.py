"""Indices to bytes and back, at any width from 0 to 16 bits (docs/packed-format.md, section 4).

Index number e occupies bits e*b ... e*b + b - 1 of one little-endian bit stream, so n indices
take exactly ceil(n * b / 8) bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

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


def layer_bytes(edges: int, coefficients: int, itemsize: int, clusters: int) -> int:
    """Bytes of a packed layer: the indices of its edges, and a codebook of its own."""
    return packed_size(edges, width_of(clusters)) + clusters * coefficients * itemsize


def entropy(counts: npt.NDArray[np.integer]) -> float:
    """Shannon entropy in bits of indices that occur `counts` times."""
    shares = counts[counts > 0] / counts.sum()
    return abs(float(-(shares * np.log2(shares)).sum()))


def pack(indices: npt.NDArray[np.integer], width: int) -> U8:
    """Pack `indices`, shape (n,), each below 2**width, into ceil(n * width / 8) bytes."""
    count = len(indices)
    out = np.zeros(packed_size(count, width), dtype=np.uint8)
    if width == 0:
        return out
    shifts = np.arange(width, dtype=np.uint16)
    for start in range(0, count, _BLOCK):
        block = np.ascontiguousarray(indices[start : start + _BLOCK], dtype=np.uint16)
        bits = ((block[:, None] >> shifts) & 1).astype(np.uint8)  # (index, bit)
        packed = np.packbits(bits.reshape(-1), bitorder="little")
        first = start * width // 8
        out[first : first + len(packed)] = packed
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
    shifts = np.arange(width, dtype=np.uint16)
    for start in range(0, count, _BLOCK):
        size = min(_BLOCK, count - start)
        if width == 0:
            yield start, np.zeros(size, np.uint16)
            continue
        first = start * width // 8
        block = data[first : first + packed_size(size, width)]
        bits = np.unpackbits(block, count=size * width, bitorder="little").reshape(size, width)
        yield start, (bits.astype(np.uint16) << shifts).sum(axis=1, dtype=np.uint16)


def padding_is_zero(data: U8, count: int, width: int) -> bool:
    """Whether the bits after the last index, up to the end of its byte, are all zero."""
    used = count * width % 8
    return used == 0 or int(data[-1]) >> used == 0
