"""Numbers of the document against the types of tensors (docs/packed-format.md, 8.3)."""

from __future__ import annotations

import math

import torch

from kancompress.formats.safetensors import DTYPES

NUMBERS = ("F64", "F32", "F16", "BF16", "I64", "I32")
_LIMIT = 1 << 53


def is_number_of(value: int | float, dtype: str) -> bool:
    """Whether this is a number of a type exactly, which is one of `NUMBERS`."""
    if dtype not in NUMBERS:
        return False
    kind = DTYPES[dtype][0]
    if not kind.is_floating_point:
        info = torch.iinfo(kind)
        return type(value) is int and info.min <= value <= info.max
    if isinstance(value, int) and abs(value) > _LIMIT:
        return False
    rounded = torch.tensor(float(value), dtype=kind).item()
    return math.isfinite(rounded) and rounded == value


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
    kind = DTYPES[dtype][0]
    ends = (first, first + count - 1) if count else ()
    if not kind.is_floating_point:
        info = torch.iinfo(kind)
        if not (type(base) is type(step) is int):
            return False
        made = [base, step, *ends, *(step * t for t in ends), *(base + step * t for t in ends)]
        return all(info.min <= value <= info.max for value in made)
    if any(isinstance(value, int) and abs(value) > _LIMIT for value in (base, step)):
        return False
    rounded = torch.tensor([float(base), float(step)], dtype=kind)
    times = torch.tensor(ends, dtype=torch.int64).to(kind)
    products = times * rounded[1]
    return all(bool(x.isfinite().all()) for x in (rounded, times, products, products + rounded[0]))
