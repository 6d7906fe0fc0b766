"""Numbers of the document against the types of tensors (docs/packed-format.md, 8.3)."""

from __future__ import annotations

import math

import numpy as np

from kancompress.formats.arrays import DTYPES, rounded, stepped, widened

NUMBERS = ("F64", "F32", "F16", "BF16", "I64", "I32")
_LIMIT = 1 << 53


def is_number_of(value: int | float, dtype: str) -> bool:
    """Whether this is a number of a type exactly, which is one of `NUMBERS`."""
    if dtype not in NUMBERS:
        return False
    if DTYPES[dtype].kind == "int":
        info = np.iinfo(str(DTYPES[dtype].native))
        return type(value) is int and info.min <= value <= info.max
    if isinstance(value, int) and abs(value) > _LIMIT:
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
    if abs(first) > _LIMIT or abs(first + count) > _LIMIT:
        return False
    ends = (first, first + count - 1) if count else ()
    if DTYPES[dtype].kind == "int":
        info = np.iinfo(str(DTYPES[dtype].native))
        if not (type(base) is type(step) is int):
            return False
        made = [base, step, *ends, *(step * t for t in ends), *(base + step * t for t in ends)]
        return all(info.min <= value <= info.max for value in made)
    if any(isinstance(value, int) and abs(value) > _LIMIT for value in (base, step)):
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
