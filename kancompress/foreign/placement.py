"""Where a tensor lies in the bytes of its storage; the only place that makes views by strides.

What a file says of offsets, shapes and strides is computed in Python's integers, which do not wrap,
and compared with the buffer that is there before a view is made of it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kancompress.foreign.records import TensorRecord

_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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


def place(buffer: npt.NDArray[np.uint8], record: TensorRecord, start: int = 0) -> Tensor:
    """A tensor as a view of a buffer that holds its storage's bytes from byte `start` on.

    buffer : (bytes,) uint8, contiguous, whose memory begins at a multiple of the element's size
    Raises ValueError where the tensor does not lie in the buffer and in what its storage is said to
    be, not at a multiple of its element's size, or has more elements than can be counted.
    """
    item, storage = record.dtype.itemsize, record.storage
    if not is_countable(record):
        raise ValueError("more elements than can be counted")
    if 0 in record.shape:
        return torch.empty(record.shape, dtype=record.dtype)
    first, end = (byte - start for byte in extent(record))
    claimed = (storage.start + storage.count) * storage.dtype.itemsize - start
    if first < 0 or end > min(len(buffer), claimed):
        raise ValueError(f"bytes {first} to {end} of a buffer of {len(buffer)}")
    if first % item or buffer.ctypes.data % item or not buffer.flags.c_contiguous:
        raise ValueError(f"elements of {item} bytes at byte {first}")
    numbers = torch.from_numpy(buffer[: len(buffer) // item * item]).view(record.dtype)
    # the steps of axes of length 1 are never taken, whatever the file says
    steps = [
        step if length > 1 else 1 for length, step in zip(record.shape, record.stride, strict=True)
    ]
    return numbers.as_strided(record.shape, steps, first // item)


def write(buffer: npt.NDArray[np.uint8], record: TensorRecord, tensor: Tensor) -> None:
    """Write a tensor's numbers to its place, also where elements of it share their bytes; the last
    of those then counts.

    tensor : of the record's shape and type
    Raises as `place`.
    """
    there = place(buffer, record)
    if is_contiguous(record):
        there.copy_(tensor)
        return
    item = record.dtype.itemsize
    kind = _WHOLE[item]  # NaNs are copied bit by bit
    cells = torch.from_numpy(buffer[: len(buffer) // item * item]).view(kind)
    values = tensor.detach().cpu().contiguous().view(kind).reshape(-1)
    cells[torch.from_numpy(_cells(record, item))] = values


def covered(records: dict[str, TensorRecord], size: int) -> tuple[int, set[str]]:
    """How many of a storage's bytes tensors cover, and the tensors that cover some of them twice.

    records : tensors that lie in the storage, each place once
    size    : bytes of the storage; every tensor lies inside
    """
    if not all(is_contiguous(record) for record in records.values()):
        return _covered_by_steps(records, size)
    total = reach = 0
    farthest = ""
    twice: set[str] = set()
    for (begin, end), name in sorted((extent(record), name) for name, record in records.items()):
        if begin < min(reach, end):
            twice |= {name, farthest}
        total += max(0, end - max(begin, reach))
        if end > reach:
            reach, farthest = end, name
    return total, twice


def _covered_by_steps(records: dict[str, TensorRecord], size: int) -> tuple[int, set[str]]:
    unit = min(record.dtype.itemsize for record in records.values())
    owner = np.zeros(size // unit, np.int32)  # 0: nobody, else 1 + number of the tensor
    names = list(records)
    twice: set[str] = set()
    for number, name in enumerate(names, start=1):
        cells = _cells(records[name], unit)
        others = [names[other - 1] for other in np.unique(owner[cells]) if other]
        if others or len(np.unique(cells)) < len(cells):
            twice |= {name, *others}
        owner[cells] = number
    return int(np.count_nonzero(owner)) * unit, twice


def _cells(record: TensorRecord, unit: int) -> npt.NDArray[np.int64]:
    """The cells of `unit` bytes that a tensor's elements take, (cells,)."""
    if 0 in record.shape:
        return np.zeros(0, np.int64)
    each = record.dtype.itemsize // unit
    cells = np.arange(each, dtype=np.int64) + extent(record)[0] // unit
    for length, step in zip(record.shape, record.stride, strict=True):
        if length > 1:
            cells = (cells[:, None] + np.arange(length, dtype=np.int64) * (step * each)).reshape(-1)
    return cells
