"""Tensors that hold no edges, in the fewest bytes that give them back bit for bit.

What cannot be rebuilt from less is stored as it is: constant tensors, equal rows and uniform
grids can, where they are finite (docs/packed-format.md, section 8).
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from kancompress.formats.arrays import array_of, steps_stay_in_range
from kancompress.formats.packed.restore import Arange, Fill, Origin, Repeat, Stored
from kancompress.formats.packed.state import arange_row
from kancompress.models.tensors import NAMES, to_torch


def store(name: str, tensor: Tensor, stored: dict[str, Tensor], layers: set[str]) -> Stored:
    """Store a tensor, under its own name where no layer could claim it."""
    own = name.rpartition(".")[0] not in layers and name.isprintable() and bool(name)
    target = name if own else f"tensor {len(stored)}"
    while target in stored:
        target += "'"
    stored[target] = tensor.clone(memory_format=torch.contiguous_format)
    return Stored(None if target == name else target)


def rebuilt(name: str, tensor: Tensor, stored: dict[str, Tensor], layers: set[str]) -> Origin:
    """The cheapest origin that gives the tensor back bit for bit."""
    if tensor.numel() > 1 and is_number(tensor.dtype):
        flat = tensor.contiguous().reshape(-1)
        if _same_bits(flat, flat[:1].expand_as(flat)) and flat[0].isfinite():
            return Fill(flat[0].item())
        rows = tensor.reshape(-1, tensor.shape[-1])
        row = rows[0]
        if len(rows) == 1 or _same_bits(rows, row.expand_as(rows)):
            steps = _arange(row)
            if steps is not None:
                return steps
        if (
            tensor.dim() > 1
            and len(tensor) > 1
            and _same_bits(tensor, tensor[:1].expand_as(tensor))
        ):
            return Repeat(store(name, tensor[0], stored, layers).name or name)
    return store(name, tensor, stored, layers)


def is_number(dtype: torch.dtype) -> bool:
    """Whether an origin may name numbers of a type (docs/packed-format.md, 8.3)."""
    return dtype in _NUMBERS


_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    left, right = one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    return torch.equal(left, right)


def _arange(row: Tensor) -> Arange | None:
    """base, step, first, count that rebuild a uniform row bit for bit, or None."""
    if len(row) > _LONG:
        return _steps(row)
    # equal layers have equal grids
    return _known_steps(row.contiguous().view(torch.uint8).numpy().tobytes(), row.dtype)


@lru_cache(maxsize=64)
def _known_steps(raw: bytes, dtype: torch.dtype) -> Arange | None:
    return _steps(torch.frombuffer(bytearray(raw), dtype=dtype))


def _steps(row: Tensor) -> Arange | None:
    count = len(row)
    if count < 4 or not row.isfinite().all():
        return None
    wide = row.double()
    step = float((wide[-1] - wide[0]) / (count - 1))
    if not math.isfinite(step):
        return None
    if not row.is_floating_point():
        # Integers are exact, so that one element serves as well as any other.
        made = Arange(int(row[0]), int(step), 0, count)
        return made if step == int(step) and _gives(made, row) else None
    rounded = {float(f"{step:.{digits}g}") for digits in (3, 5, 7)}
    steps = sorted({step, *rounded, float(torch.tensor(step, dtype=row.dtype))})
    near = _nearly_uniform(row, steps)
    if not near:
        return None
    exact: list[float] = row.tolist()
    short = [float(f"{base:.6g}") for base in exact]
    found = (_from_an_element(row, guess, exact, short) for guess in near)
    return next((made for made in found if made), None)


def _gives(made: Arange, row: Tensor) -> bool:
    return _may_be_read(made, row) and _same_bits(rebuild_arange(made, row.dtype), row)


def _may_be_read(made: Arange, row: Tensor) -> bool:
    """Whether readers take these steps for the row's type (docs/packed-format.md, 8.3)."""
    return steps_stay_in_range(made.base, made.step, made.first, made.count, NAMES[row.dtype])


def rebuild_arange(made: Arange, dtype: torch.dtype) -> Tensor:
    """The row that steps stand for, as readers make it."""
    name = NAMES[dtype]
    return to_torch(array_of(arange_row(made, name), name, (made.count,)))


def _nearly_uniform(row: Tensor, steps: list[float]) -> list[float]:
    """The steps with which, each operation rounded, a row could be this one."""
    wide = row.double().numpy()
    narrow = torch.tensor(steps, dtype=row.dtype).double().numpy()
    finite = [(step, by) for step, by in zip(steps, narrow, strict=True) if math.isfinite(by)]
    largest = max([float(np.abs(wide).max()), *(abs(by) for _, by in finite)])
    # The largest numbers would overflow in the check; a power of two changes nothing else.
    _, exponent = math.frexp(largest)
    scaled, places = np.ldexp(wide, -exponent), np.arange(len(row))
    info = torch.finfo(row.dtype)
    least = math.ldexp(info.smallest_normal * info.eps, -exponent)
    near = []
    for step, by in finite:
        small = math.ldexp(by, -exponent)
        apart = scaled - small * places
        rounding = _ROUNDINGS * (info.eps * (1 + abs(small) * len(row)) + least)
        if apart.max() - apart.min() <= rounding:
            near.append(step)
    return near


# Roundings that a rebuilt row may differ by from an exact one; more than there can be.
_ROUNDINGS = 32
# Elements that are tried in a row which is longer than `_LONG`; no grid has needed ten.
_MOST_TRIED, _LONG = 64, 4096
_BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def _from_an_element(
    row: Tensor, step: float, exact: list[float], short: list[float]
) -> Arange | None:
    """The row as steps from the first of its elements that gives all others, or None.

    exact, short : the elements, and the same rounded to six digits; either may be the base

    Where the steps from one element miss another one, all that miss the latter as well are left
    out at once.
    """
    count = len(row)
    bases = torch.tensor([exact, short], dtype=torch.float64).to(row.dtype)
    places = torch.arange(count)
    bits = row.contiguous().view(_BITS[row.element_size()])
    alive = torch.ones(2, count, dtype=torch.bool)
    for _ in range(count if count <= _LONG else _MOST_TRIED):
        left = alive.any(0).byte()
        first = int(left.argmax())
        if not left[first]:
            return None
        for start in {exact[first], short[first]}:
            made = Arange(start, step, -first, count)
            again = rebuild_arange(made, row.dtype).view(bits.dtype)
            if torch.equal(again, bits) and _may_be_read(made, row):
                return made
            missed = int((again != bits).byte().argmax())
            reached = (missed - places).to(row.dtype) * torch.tensor(step, dtype=row.dtype) + bases
            alive &= reached.view(bits.dtype) == bits[missed]
        alive[:, first] = False
    return None
