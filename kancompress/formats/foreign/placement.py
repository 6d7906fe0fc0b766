"""Where a tensor lies in the bytes of its storage; the only place that makes views by strides.

What a file says of offsets, shapes and strides is computed in Python's integers, which do not wrap,
and compared with the buffer that is there before a view is made of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.formats.arrays import U8, Array, Numbers, array_of
from kancompress.formats.foreign.records import TensorRecord


def extent(record: TensorRecord) -> tuple[int, int]:
    """Begin and end of the bytes that a tensor touches, counted from its storage's first byte.

    Both are 0 for a tensor without elements.
    """
    if 0 in record.shape:
        return 0, 0
    item = record.dtype.itemsize
    begin = record.storage.start * record.storage.dtype.itemsize + record.offset * item
    steps = zip(record.shape, record.stride, strict=True)
    return begin, begin + (1 + sum((length - 1) * step for length, step in steps)) * item


def is_countable(record: TensorRecord) -> bool:
    """Whether the lengths other than 0 have a product of bytes below 2^63, so that torch counts."""
    count = record.dtype.itemsize
    for length in record.shape:
        count *= length or 1
    return count < 1 << 63


def is_contiguous(record: TensorRecord) -> bool:
    """Whether the elements lie one after another, in the order of the shape."""
    expected = 1
    for length, step in zip(reversed(record.shape), reversed(record.stride), strict=True):
        if length != 1 and step != expected:
            return 0 in record.shape
        expected *= length
    return True


def place(buffer: U8, record: TensorRecord, start: int = 0) -> Numbers:
    """A tensor's elements, in its shape without the axes of length 1, as a view of a buffer that
    holds its storage's bytes from byte `start` on.

    buffer : (bytes,) uint8, contiguous, whose memory begins at a multiple of the element's size
    Raises ValueError where the tensor does not lie in the buffer and in what its storage is said to
    be, not at a multiple of its element's size, or has more elements than can be counted.
    """
    item, storage = record.dtype.itemsize, record.storage
    if not is_countable(record):
        raise ValueError("more elements than can be counted")
    if 0 in record.shape:
        return np.empty(0, record.dtype.bits)
    first, end = (byte - start for byte in extent(record))
    claimed = (storage.start + storage.count) * storage.dtype.itemsize - start
    if first < 0 or end > min(len(buffer), claimed):
        raise ValueError(f"bytes {first} to {end} of a buffer of {len(buffer)}")
    if first % item or buffer.ctypes.data % item or not buffer.flags.c_contiguous:
        raise ValueError(f"elements of {item} bytes at byte {first}")
    # the steps of axes of length 1 are never taken, whatever the file says
    axes = [axis for axis in zip(record.shape, record.stride, strict=True) if axis[0] > 1]
    return np.lib.stride_tricks.as_strided(
        buffer[first : len(buffer) // item * item].view(record.dtype.bits),
        shape=tuple(length for length, _ in axes),
        strides=tuple(step * item for _, step in axes),
    )


def read(buffer: U8, record: TensorRecord, start: int = 0) -> Array:
    """A tensor, a part of the buffer where its elements lie one after another, else a copy.

    Raises ValueError where the tensor does not lie in the buffer, as of `place`.
    """
    return array_of(place(buffer, record, start), record.dtype.name, record.shape)


def write(buffer: U8, record: TensorRecord, array: Array) -> None:
    """Write a tensor's numbers to its place.

    Where elements share their bytes, one of them is written; whoever wants all of them to be there
    compares afterwards.

    array : of the record's shape and type
    Raises ValueError where the tensor does not lie in the buffer, as of `place`.
    """
    target = place(buffer, record)
    if 0 not in record.shape:
        target[...] = array.data.view(record.dtype.bits).reshape(target.shape)


# --- what lies where -----------------------------------------------------------------------


def covered(records: Iterable[TensorRecord], size: int) -> int:
    """How many of a storage's bytes tensors cover, at least.

    Tensors that are one piece are counted by where they begin and end; the others are looked at
    byte by byte, in storages of at most 64 million elements.

    size : bytes of the storage; every tensor lies inside
    """
    found = [record for record in records if 0 not in record.shape]
    total = union([extent(record) for record in found if _is_piece(record)])
    if total == size or all(map(_is_piece, found)):
        return total
    unit = min(record.dtype.itemsize for record in found)
    if size // unit > _MOST_CELLS:
        return total
    marks = np.zeros(size // unit, np.bool_)
    for record in found:
        _cells(marks, record, unit)[...] = True
    return int(np.count_nonzero(marks)) * unit


def unused_bytes(records: Iterable[TensorRecord]) -> int:
    """How many bytes of their storages no tensor uses, at least; quick, whatever a file says."""
    places: dict[str, list[tuple[int, int]]] = {}
    elements: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for record in records:
        if 0 not in record.shape:
            key = record.storage.key
            places.setdefault(key, []).append(extent(record))
            elements[key] = elements.get(key, 0) + record.size
            sizes[key] = record.storage.size
    return sum(size - min(union(places[key]), elements[key]) for key, size in sizes.items())


def union(places: list[tuple[int, int]]) -> int:
    """Bytes that lie in any of some ranges."""
    total = reach = 0
    for begin, end in sorted(places):
        total += max(0, end - max(begin, reach))
        reach = max(reach, end)
    return total


def overlapping(records: Mapping[str, TensorRecord], size: int) -> set[str]:
    """Tensors that lie over others, or over themselves: they cannot be given numbers of their own.

    records : tensors in one storage, none of them twice; size : bytes of the storage
    """
    found = {name: record for name, record in records.items() if 0 not in record.shape}
    twice = {name for name, record in found.items() if _lies_over_itself(record)}
    if all(map(_is_piece, found.values())):
        reach, farthest = 0, ""
        places = sorted((extent(record), name) for name, record in found.items())
        for (begin, end), name in places:
            if begin < reach:
                twice |= {name, farthest}
            if end > reach:
                reach, farthest = end, name
        return twice
    unit = min(record.dtype.itemsize for record in found.values())
    owner = np.zeros(size // unit, np.int32)  # 0: nobody, else 1 + number of the tensor
    names = list(found)
    for number, (name, record) in enumerate(found.items(), start=1):
        cells = _cells(owner, record, unit)
        others = [names[other - 1] for other in np.unique(cells) if other]
        cells[...] = number
        if others:
            twice |= {name, *others}
    return twice


_MOST_CELLS = 1 << 26


def _repeats(record: TensorRecord) -> bool:
    """Whether an axis repeats the same elements."""
    return any(
        length > 1 and step == 0 for length, step in zip(record.shape, record.stride, strict=True)
    )


def _axes(record: TensorRecord) -> list[tuple[int, int]]:
    """Length and step of the axes that lead to other elements, the longest steps first."""
    axes = zip(record.stride, record.shape, strict=True)
    return [(length, step) for step, length in sorted(axes, reverse=True) if length > 1 and step]


def _is_piece(record: TensorRecord) -> bool:
    """Whether the elements fill one piece of the storage, in whatever order."""
    expected = 1
    for length, step in reversed(_axes(record)):
        if step != expected:
            return False
        expected *= length
    return True


def _lies_over_itself(record: TensorRecord) -> bool:
    """Whether two elements lie in the same place."""
    axes = _axes(record)
    reach = 0
    for length, step in reversed(axes):
        if step <= reach:
            break
        reach += (length - 1) * step
    else:
        return _repeats(record)  # each axis goes beyond all that the shorter ones reach
    places = np.zeros(1, np.int64)
    for length, step in axes:
        places = (places[:, None] + np.arange(length, dtype=np.int64) * step).reshape(-1)
    return _repeats(record) or len(np.unique(places)) < len(places)


def _cells(array: npt.NDArray[Any], record: TensorRecord, unit: int) -> npt.NDArray[Any]:
    """The entries for a tensor's elements in an array with one for each `unit` bytes of a storage.

    Raises ValueError where they are not all in the array.
    """
    begin, end = extent(record)
    each, size = record.dtype.itemsize // unit, array.itemsize
    if not each or begin % unit or end > len(array) * unit:
        raise ValueError(f"bytes {begin} to {end} of {len(array)} parts of {unit}")
    axes = _axes(record)
    return np.lib.stride_tricks.as_strided(
        array[begin // unit :],
        shape=(*(length for length, _ in axes), each),
        strides=(*(step * each * size for _, step in axes), size),
    )
