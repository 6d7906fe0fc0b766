"""Tensors of files without torch: what they are called, their bytes, and their numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Generic, Literal, Protocol, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt

from kancompress.frozen import dataclass

U8 = npt.NDArray[np.uint8]
Numbers = npt.NDArray[Any]

_BLOCK = 1 << 18  # elements that are looked at or converted at a time


def element_count(shape: tuple[int, ...]) -> int:
    """Product of a shape in Python integers, which cannot wrap."""
    count = 1
    for length in shape:
        count *= length
    return count


def is_countable(shape: tuple[int, ...]) -> bool:
    """Whether the lengths other than 0 have a product below 2^63, so that strides exist."""
    count = 1
    for length in shape:
        count *= length or 1
        if count >= 1 << 63:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Dtype:
    """The type of a tensor's elements.

    name   : in safetensors files; empty for a type that they cannot hold
    torch  : what torch calls it
    native : numpy's type, None where numpy has none
    bad    : of floating point, the bits that only NaN and infinity have at this place or above,
             the sign left out
    """

    name: str
    torch: str
    itemsize: int
    kind: Literal["float", "int", "bool", "complex", ""]
    native: str | None = None
    bad: int = 0

    @property
    def bits(self) -> str:
        """numpy's type of whole numbers of the same size."""
        return f"<u{self.itemsize}"


_ALL = (
    Dtype("F64", "float64", 8, "float", "<f8", 0x7FF0000000000000),
    Dtype("F32", "float32", 4, "float", "<f4", 0x7F800000),
    Dtype("F16", "float16", 2, "float", "<f2", 0x7C00),
    Dtype("BF16", "bfloat16", 2, "float", None, 0x7F80),
    Dtype("I64", "int64", 8, "int", "<i8"),
    Dtype("I32", "int32", 4, "int", "<i4"),
    Dtype("I16", "int16", 2, "int", "<i2"),
    Dtype("I8", "int8", 1, "int", "|i1"),
    Dtype("U64", "uint64", 8, "int", "<u8"),
    Dtype("U32", "uint32", 4, "int", "<u4"),
    Dtype("U16", "uint16", 2, "int", "<u2"),
    Dtype("U8", "uint8", 1, "int", "|u1"),
    Dtype("BOOL", "bool", 1, "bool", "|b1"),
    Dtype("F8_E4M3", "float8_e4m3fn", 1, "float", None, 0x7F),
    Dtype("F8_E5M2", "float8_e5m2", 1, "float", None, 0x7C),
    Dtype("F8_E8M0", "float8_e8m0fnu", 1, "float", None, 0xFF),
    Dtype("F8_E4M3FNUZ", "float8_e4m3fnuz", 1, "float", None, 0x80),
    Dtype("F8_E5M2FNUZ", "float8_e5m2fnuz", 1, "float", None, 0x80),
    Dtype("C64", "complex64", 8, "complex", "<c8"),
)
DTYPES: dict[str, Dtype] = {dtype.name: dtype for dtype in _ALL}
# By what torch calls them.
NAMED: dict[str, Dtype] = {dtype.torch: dtype for dtype in _ALL}

# Types whose numbers a computation can be made of.
REAL = ("F64", "F32", "F16", "BF16")


class Described(Protocol):
    """What has a type and a shape: an outline, a tensor of torch's."""

    @property
    def dtype(self) -> object:
        """The type, by its name in safetensors files or as torch has it."""

    @property
    def shape(self) -> Sequence[int]:
        """Length of each axis."""


def dtype_name(dtype: object) -> str:
    """The name of a type that has one already, or of torch's; empty for any other."""
    if isinstance(dtype, str) and dtype in DTYPES:
        return dtype
    known = NAMED.get(str(dtype).removeprefix("torch."))
    return known.name if known else ""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Outline:
    """Type and shape of a tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return DTYPES[self.dtype].itemsize

    @property
    def count(self) -> int:
        """Number of elements."""
        return element_count(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.count * self.itemsize

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class Array(Outline):
    """A tensor: its type, its shape and its bytes, row-major and little-endian.

    data : (nbytes,) uint8, often a part of a file's bytes, which is not copied
    """

    data: U8

    @property
    def flat(self) -> Numbers:
        """The elements, (count,), as numpy's type or, where it has none, as their bits."""
        dtype = DTYPES[self.dtype]
        return self.data.view(dtype.native or dtype.bits)

    def numpy(self) -> Numbers:
        """The elements in their shape and in numpy's type, which numpy must have; no copy."""
        native = DTYPES[self.dtype].native
        assert native is not None
        return self.data.view(native).reshape(self.shape)

    def values(self) -> Numbers:
        """The elements in their shape as numbers to compute with: bfloat16 and types of 8 bits as
        float32, which holds them exactly."""
        return widened(self.flat, self.dtype).reshape(self.shape)

    def to(self, dtype: str) -> Array:
        """The same numbers in another type, each rounded to the nearest, as torch does."""
        if dtype == self.dtype:
            return self
        return array_of(converted(self.flat, self.dtype, dtype), dtype, self.shape)

    def count_bad(self) -> int:
        """How many elements are NaN or infinite."""
        return sum(int(np.count_nonzero(bad)) for bad in self._bad_blocks())

    def is_finite(self) -> bool:
        """Whether no element is NaN or infinite."""
        if self.dtype in ("F64", "F32"):  # as below, and faster
            flat = self.flat
            blocks = (flat[at : at + _BLOCK] for at in range(0, len(flat), _BLOCK))
            return all(np.isfinite(block).all() for block in blocks)
        return not any(bad.any() for bad in self._bad_blocks())

    def _bad_blocks(self) -> Iterator[npt.NDArray[np.bool_]]:
        dtype = DTYPES[self.dtype]
        if dtype.kind != "float":
            return
        bits = self.data.view(dtype.bits)
        for start in range(0, len(bits), _BLOCK):
            yield is_bad(bits[start : start + _BLOCK], self.dtype)


def is_bad(bits: Numbers, dtype: str) -> npt.NDArray[np.bool_]:
    """Which elements of floating point are NaN or infinite, by their bits."""
    known = DTYPES[dtype]
    limit = bits.dtype.type(known.bad)
    if known.bad >> (8 * known.itemsize - 1):  # a type without a sign, or with one NaN in its place
        alone: npt.NDArray[np.bool_] = bits == limit
        return alone
    unsigned = bits & bits.dtype.type((1 << (8 * known.itemsize - 1)) - 1)
    above: npt.NDArray[np.bool_] = unsigned >= limit
    return above


def array_of(flat: Numbers, dtype: str, shape: tuple[int, ...]) -> Array:
    """An array of elements as `Array.flat` gives them, in whatever shape; copied where they do not
    lie one after another."""
    data = np.ascontiguousarray(flat).reshape(-1).view(np.uint8)
    return Array(dtype, shape, data)


def from_bytes(raw: bytes | bytearray | memoryview, dtype: str, shape: tuple[int, ...]) -> Array:
    """An array over bytes, which are not copied."""
    return Array(dtype, shape, np.frombuffer(raw, np.uint8) if len(raw) else np.zeros(0, np.uint8))


def from_numpy(values: Numbers) -> Array:
    """An array of numpy's numbers, not copied where they lie one after another."""
    return array_of(values, dtype_name(values.dtype.name), values.shape)


# --- types ----------------------------------------------------------------------------------


def promoted(one: str, other: str) -> str:
    """The narrowest of the real types that holds the numbers of two exactly."""
    if one == other:
        return one
    if {one, other} == {"F16", "BF16"}:
        return "F32"
    return min(one, other, key=REAL.index)


def widened(flat: Numbers, dtype: str) -> Numbers:
    """Elements as numbers to compute with (see `Array.values`); no copy where numpy has it."""
    if dtype == "BF16":
        return (flat.astype(np.uint32) << 16).view(np.float32)
    if DTYPES[dtype].native is None:
        return _numbers_of_8_bits(dtype)[flat]
    return flat


def converted(flat: Numbers, dtype: str, to: str) -> Numbers:
    """Elements, in any shape, of one real type in another, as torch converts them: halves are
    rounded from float32, ties go to the even neighbour. Beyond the range is infinity."""
    if dtype == to:
        return flat
    with np.errstate(over="ignore", invalid="ignore"):
        wide = widened(flat, dtype)
        if to == "F64":
            return wide.astype(np.float64)
        single = wide.astype(np.float32, copy=False)
        if to == "F16":
            return single.astype(np.float16)
        return _to_bfloat16(single) if to == "BF16" else single


def _to_bfloat16(single: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    bits = np.ascontiguousarray(single).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16
    return np.where(np.isnan(single), np.uint16(0x7FC0), rounded.astype(np.uint16))


def rounded(number: int | float, dtype: str) -> float:
    """A number as a real type holds it: the nearest one."""
    flat = converted(np.array([number], np.float64), "F64", dtype)
    return float(widened(flat, dtype)[0])


@cache
def _numbers_of_8_bits(dtype: str) -> npt.NDArray[np.float32]:
    """The float32 of each of the 256 patterns of a type of 8 bits."""
    return np.array([_OF_8_BITS[dtype](bits) for bits in range(256)], np.float32)


def _small(bits: int, mantissa: int, bias: int) -> float:
    """A number of 8 bits with a sign, an exponent and a mantissa of so many bits."""
    exponent, fraction = (bits & 0x7F) >> mantissa, bits & ((1 << mantissa) - 1)
    if exponent:
        fraction += 1 << mantissa
    value = math.ldexp(fraction, max(exponent, 1) - bias - mantissa)
    return -value if bits >> 7 else value


def _e4m3(bits: int) -> float:
    return math.nan if bits & 0x7F == 0x7F else _small(bits, 3, 7)


def _e5m2(bits: int) -> float:
    if bits & 0x7F > 0x7C:
        return math.nan
    if bits & 0x7F == 0x7C:
        return -math.inf if bits >> 7 else math.inf
    return _small(bits, 2, 15)


def _e8m0(bits: int) -> float:
    return math.nan if bits == 0xFF else math.ldexp(1, bits - 127)


def _e4m3fnuz(bits: int) -> float:
    return math.nan if bits == 0x80 else _small(bits, 3, 8)


def _e5m2fnuz(bits: int) -> float:
    return math.nan if bits == 0x80 else _small(bits, 2, 16)


_OF_8_BITS: dict[str, Callable[[int], float]] = {
    "F8_E4M3": _e4m3,
    "F8_E5M2": _e5m2,
    "F8_E8M0": _e8m0,
    "F8_E4M3FNUZ": _e4m3fnuz,
    "F8_E5M2FNUZ": _e5m2fnuz,
}


# --- arithmetic -----------------------------------------------------------------------------


def steps(base: int | float, step: int | float, first: int, count: int, dtype: str) -> Numbers:
    """`base + step * t` for `count` values of t from `first`, each operation rounded to a type, as
    elements (count,). The type is a real one, I64 or I32."""
    return stepped(base, step, np.arange(first, first + count, dtype=np.int64), dtype)


def stepped(
    base: int | float, step: int | float, times: npt.NDArray[np.int64], dtype: str
) -> Numbers:
    """`base + step * t` for the values of t, as `steps`."""
    if dtype in ("I64", "I32"):
        whole = np.dtype(DTYPES[dtype].native)
        with np.errstate(over="ignore"):
            return times.astype(whole) * whole.type(step) + whole.type(base)
    by, start = rounded(step, dtype), rounded(base, dtype)
    if dtype == "F64":
        with np.errstate(over="ignore", invalid="ignore"):
            return times.astype(np.float64) * by + start
    single = np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        t = _again(times.astype(single), dtype)
        products = _again(t * single(by), dtype)
        return converted(products + single(start), "F32", dtype)


def _again(single: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[np.float32]:
    """float32 rounded to a narrower type and back."""
    return widened(converted(single, "F32", dtype), dtype).astype(np.float32, copy=False)


def filled(number: int | float, dtype: str, shape: tuple[int, ...]) -> Array:
    """An array of one number, which is one of the type."""
    whole = DTYPES[dtype].kind == "int"
    one = np.array([number], DTYPES[dtype].native if whole else np.float64)
    return repeated(one if whole else converted(one, "F64", dtype), dtype, shape)


def repeated(row: Numbers, dtype: str, shape: tuple[int, ...]) -> Array:
    """An array of a row, its elements, again and again: the last axes of `shape`."""
    count = element_count(shape)
    times = count // len(row) if len(row) else 0
    return array_of(np.broadcast_to(row, (times, len(row))), dtype, shape)


NUMBERS = ("F64", "F32", "F16", "BF16", "I64", "I32")
_EXACT = 1 << 53


def is_number_of(value: int | float, dtype: str) -> bool:
    """Whether this is a number of a type exactly, which is one of `NUMBERS`."""
    if dtype not in NUMBERS:
        return False
    if DTYPES[dtype].kind == "int":
        info = np.iinfo(str(DTYPES[dtype].native))
        return type(value) is int and info.min <= value <= info.max
    if isinstance(value, int) and abs(value) > _EXACT:
        return False
    nearest = rounded(float(value), dtype)
    return math.isfinite(nearest) and nearest == value


def steps_stay_in_range(
    base: int | float, step: int | float, first: int, count: int, dtype: str
) -> bool:
    """Whether `base + step * t` stays in the range of a type for `count` values of t from `first`.

    The values are monotonic in t, so the first and the last tell. The type is one of `NUMBERS`.
    """
    if dtype not in NUMBERS:
        return False
    if abs(first) > _EXACT or abs(first + count) > _EXACT:
        return False
    ends = (first, first + count - 1) if count else ()
    if DTYPES[dtype].kind == "int":
        info = np.iinfo(str(DTYPES[dtype].native))
        if not (type(base) is type(step) is int):
            return False
        made = [base, step, *ends, *(step * t for t in ends), *(base + step * t for t in ends)]
        return all(info.min <= value <= info.max for value in made)
    if any(isinstance(value, int) and abs(value) > _EXACT for value in (base, step)):
        return False
    # Each operation is rounded, so its parts are made as `stepped` makes them.
    times = np.array(ends, np.int64)
    parts = [
        stepped(0.0, 1.0, times, dtype),
        stepped(0.0, step, times, dtype),
        stepped(base, step, times, dtype),
    ]
    return (
        math.isfinite(rounded(step, dtype))
        and math.isfinite(rounded(base, dtype))
        and all(bool(np.isfinite(widened(part, dtype)).all()) for part in parts)
    )


T = TypeVar("T")  # what a tensor is
Shape = TypeVar("Shape")  # what tells its shape and type alone


class Stored(Mapping[str, T], Generic[T, Shape]):
    """Tensors by name, each read when it is asked for, and again once nobody holds it any more.

    outline : their shapes and types, in the order of the file
    read    : gives one of them, in memory of its own
    ties    : name to the earlier name of which it is the same tensor
    parts   : gives elements of one, row-major, from the first to the one behind the last; None of
              one that does not lie in one piece
    """

    def __init__(
        self,
        outline: Mapping[str, Shape],
        read: Callable[[str], T],
        ties: Mapping[str, str] | None = None,
        parts: Callable[[str, int, int], T | None] | None = None,
    ) -> None:
        self.outline = dict(outline)
        self.ties = ties or {}
        self._read = read
        self._parts = parts
        self._held: WeakValueDictionary[str, T] = WeakValueDictionary()

    def __getitem__(self, name: str) -> T:
        if name not in self.outline:
            raise KeyError(name)
        name = self.ties.get(name, name)
        found = self._held.get(name)
        if found is None:
            found = self._held[name] = self._read(name)
        return found

    def part(self, name: str, start: int, stop: int) -> T | None:
        """Elements `start ... stop - 1` of one of them, row-major and in one axis; None where they
        cannot be read by themselves."""
        if self._parts is None:
            return None
        return self._parts(self.ties.get(name, name), start, stop)

    def __contains__(self, name: object) -> bool:
        return name in self.outline

    def __iter__(self) -> Iterator[str]:
        return iter(self.outline)

    def __len__(self) -> int:
        return len(self.outline)

    def __or__(self, others: Mapping[str, T]) -> dict[str, T]:
        """A dictionary of all of them, read, and of others."""
        return {**self, **others}


StoredArrays = Stored[Array, Outline]
