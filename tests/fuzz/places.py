"""Tensors placed in buffers that end at a page that nobody may touch: a fault is a signal."""

from __future__ import annotations

import ctypes
import mmap
from random import Random

import numpy as np

from kancompress.errors import KancompressError
from kancompress.formats.arrays import NAMED, Array
from kancompress.formats.foreign import placement
from kancompress.formats.foreign.records import Storage, TensorRecord
from tests.fuzz import limits
from tests.fuzz.engine import Case, Slot, Verdict

_PAGES = 4
_NO_ACCESS, _ACCESS = 0, mmap.PROT_READ | mmap.PROT_WRITE
_TOUCHED = 1 << 20
_TYPES = tuple(
    NAMED[name]
    for name in (
        "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
        "bool", "float8_e4m3fn", "uint16",
    )
)  # fmt: skip
_STEPS = (0, 1, 2, 3, 7, 64, 4096, 2**31, 2**40, 2**61, 2**62 - 1, 2**62, 2**63 - 1)


class Guarded:
    """Memory between two pages that cannot be touched."""

    def __init__(self) -> None:
        page = mmap.PAGESIZE
        private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # workers have each their own
        self.memory = mmap.mmap(-1, (_PAGES + 2) * page, flags=private)
        whole = ctypes.c_char.from_buffer(self.memory)
        begin = ctypes.addressof(whole)
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        for place in (begin, begin + (_PAGES + 1) * page):
            if protect(ctypes.c_void_p(place), ctypes.c_size_t(page), _NO_ACCESS):
                raise OSError(ctypes.get_errno(), "mprotect")
        self.begin, self.end = page, (_PAGES + 1) * page

    def buffer(self, size: int, *, at_end: bool) -> np.ndarray:
        """`size` bytes that touch the guarded page behind them, or the one before."""
        start = self.end - size if at_end else self.begin
        return np.frombuffer(self.memory, np.uint8, size, start)


class Places:
    """`kancompress.formats.foreign.placement`, which says where a record's numbers lie."""

    name = "places"

    def __init__(self) -> None:
        limits.prepare()
        self.guarded = Guarded()

    def make(self, draw: Random) -> Case:
        dtype, other = draw.choice(_TYPES), draw.choice(_TYPES)
        size = draw.choice((0, 1, 2, 7, 8, 64, 4096, draw.randrange(_PAGES * mmap.PAGESIZE)))
        rank = draw.choice((0, 1, 1, 2, 2, 3, 4, 8, 63, 64))
        small = rank > 8
        shape = [draw.choice((1, 1, 1, 2, 0) if small else (0, 1, 2, 3, 5, 64, 2**31, 2**62))
                 for _ in range(rank)]  # fmt: skip
        if draw.random() < 0.5:  # one that fits, or nearly
            shape = [min(length, 5) or 1 for length in shape] if not small else [1] * rank
            strides, step = [], 1
            for length in reversed(shape):
                strides.append(draw.choice((step, step, step, 0, 1, step + 1)))
                step *= length
            strides.reverse()
        else:
            strides = [draw.choice(_STEPS) for _ in range(rank)]
        item = other.itemsize
        count = draw.choice((size // item, size // item, size // item + 1, 0, 2**40, 2**62 - 1))
        start = draw.choice((0, 0, 0, 1, 3, size // item, 2**40, 2**62 - 1))
        offset = draw.choice((0, 0, 1, 2, max(0, size // dtype.itemsize - 1), 2**31, 2**62 - 1))
        storage = Storage("0", other if draw.random() < 0.3 else dtype, count, start, start + count)
        record = TensorRecord(storage, dtype, offset, tuple(shape), tuple(strides))
        story = [f"{size} bytes", f"{dtype.torch} of {storage.dtype.torch} [{start}:+{count}]",
                 f"offset {offset}", f"shape {shape}", f"strides {strides}"]  # fmt: skip
        return Case(repr(story).encode(), story, (size, draw.random() < 0.7, record))

    def judge(self, case: Case, slot: Slot | None) -> Verdict:
        verdict = Verdict()
        if slot:
            slot.stage("run")
        size, at_end, record = case.extra
        buffer = self.guarded.buffer(size, at_end=at_end)
        buffer[:] = np.arange(size, dtype=np.uint32).astype(np.uint8)
        if record.dtype.kind == "bool":
            buffer[:] &= 1
        expected = _expected(buffer, record)
        seconds = slot.seconds if slot else 60.0
        result, error = limits.attempt(lambda: _read(buffer, record), 200_000_000, seconds)
        if error is not None:
            verdict.outcome = "refused"
            if not isinstance(error, KancompressError | ValueError):
                verdict.fault(limits.kind_of(error, "place"), limits.brief(error))
            elif expected is not None and _is_plain(record, buffer.ctypes.data):
                verdict.fault("place: refused, though it fits", limits.brief(error))
            return verdict
        verdict.outcome = "placed"
        if expected is None:
            if 0 not in record.shape:
                verdict.fault("place: accepted, though it does not fit")
        elif result is not None and result.data.tobytes() != expected:
            verdict.fault("place: other numbers than lie there")
        elif result is not None:
            self._write(buffer, record, result, verdict)
        self._check_extent(record, verdict)
        return verdict

    def _write(
        self, buffer: np.ndarray, record: TensorRecord, array: Array, verdict: Verdict
    ) -> None:
        """What is written lies in its places, and nothing elsewhere."""
        expected = np.zeros_like(buffer)
        places = _places(record)
        expected[places] = buffer[places]
        buffer[:] = 0
        placement.write(buffer, record, array)
        if buffer.tobytes() != expected.tobytes():
            verdict.fault("write: other bytes than the tensor's, or in other places")

    def _check_extent(self, record: TensorRecord, verdict: Verdict) -> None:
        begin, end = placement.extent(record)
        first, last = _span(record)
        if 0 not in record.shape and (begin, end) != (first, last):
            detail = f"{begin} {end}, not {first} {last}"
            verdict.fault("extent: another than the sums of strides", detail)


def _span(record: TensorRecord) -> tuple[int, int]:
    """First byte and the one behind the last, in whole numbers that do not wrap."""
    item = record.dtype.itemsize
    base = record.storage.start * record.storage.dtype.itemsize + record.offset * item
    steps = zip(record.shape, record.stride, strict=True)
    return base, base + sum((length - 1) * step for length, step in steps) * item + item


def _is_plain(record: TensorRecord, address: int) -> bool:
    """Whether nothing speaks against it: an even place, lengths whose product torch can count."""
    product = 1
    for length in record.shape:
        product *= max(length, 1)
    item = record.dtype.itemsize
    return _span(record)[0] % item == address % item == 0 and product * 8 < 1 << 63


def _expected(buffer: np.ndarray, record: TensorRecord) -> bytes | None:
    """The numbers' bytes, picked one by one; None where one of them lies outside.

    None may lie outside of what the record's storage is said to be either.
    """
    if 0 in record.shape:
        return b""
    begin, end = _span(record)
    first = record.storage.start * record.storage.dtype.itemsize
    last = first + record.storage.count * record.storage.dtype.itemsize
    if begin < first or end > min(last, len(buffer)):
        return None
    if record.size >= 1 << 63:
        return None
    if record.size > _TOUCHED:
        return b""
    return buffer[_places(record)].tobytes()


def _places(record: TensorRecord) -> np.ndarray:
    """The bytes of each element, (elements, bytes)."""
    item = record.dtype.itemsize
    places = np.full(1, _span(record)[0], np.int64)
    for length, step in zip(record.shape, record.stride, strict=True):
        steps = np.arange(length, dtype=np.int64) * (step if length > 1 else 0) * item
        places = (places[:, None] + steps).reshape(-1)
    return places[:, None] + np.arange(item)


def _read(buffer: np.ndarray, record: TensorRecord) -> Array | None:
    """The tensor in memory of its own; None where it has no numbers or too many."""
    if not 0 < placement.place(buffer, record).nbytes <= _TOUCHED:
        return None
    found = placement.read(buffer, record)
    return Array(found.dtype, found.shape, found.data.copy())
