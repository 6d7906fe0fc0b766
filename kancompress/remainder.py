"""Tensors that hold no edges, in the fewest bytes that give them back bit for bit.

What cannot be rebuilt from less is stored as it is: constant tensors, equal rows and uniform
grids can (docs/packed-format.md, section 8).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kancompress.packed.state import rebuild_arange


def store(name: str, tensor: Tensor, stored: dict[str, Tensor], layers: set[str]) -> Any:
    """Store a tensor, under its own name where no layer could claim it."""
    own = name.rpartition(".")[0] not in layers and name.isprintable() and bool(name)
    target = name if own else f"tensor {len(stored)}"
    while target in stored:
        target += "'"
    stored[target] = tensor.clone(memory_format=torch.contiguous_format)
    return None if target == name else {"as": target}


def rebuilt(name: str, tensor: Tensor, stored: dict[str, Tensor], layers: set[str]) -> Any:
    """The cheapest origin that gives the tensor back bit for bit."""
    if tensor.numel() > 1 and tensor.dtype in _NUMBERS:
        flat = tensor.contiguous().reshape(-1)
        if _same_bits(flat, flat[:1].expand_as(flat)) and flat[0].isfinite():
            return {"fill": flat[0].item()}
        rows = tensor.reshape(-1, tensor.shape[-1])
        row = rows[0]
        if len(rows) == 1 or _same_bits(rows, row.expand_as(rows)):
            steps = _arange(row)
            if steps is not None:
                return {"arange": steps}
        if (
            tensor.dim() > 1
            and len(tensor) > 1
            and _same_bits(tensor, tensor[:1].expand_as(tensor))
        ):
            target = store(name, tensor[0], stored, layers)
            return {"repeat": name if target is None else target["as"]}
    return store(name, tensor, stored, layers)


_NUMBERS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    left, right = one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8)
    return torch.equal(left, right)


def _arange(row: Tensor) -> list[Any] | None:
    """base, step, first, count that rebuild a uniform row bit for bit, or None."""
    count = len(row)
    if count < 4:
        return None
    wide = row.double()
    step = float((wide[-1] - wide[0]) / (count - 1))
    if not row.is_floating_point():
        candidates: set[float] = {int(step)} if step == int(step) else set()
    else:
        short = {float(f"{step:.{digits}g}") for digits in (3, 5, 7)}
        candidates = {step, *short, float(torch.tensor(step, dtype=row.dtype))}
    for guess in sorted(candidates):
        for first in range(count):
            base: float = wide[first].item() if row.is_floating_point() else int(row[first])
            for start in {base, float(f"{base:.6g}")} if row.is_floating_point() else {base}:
                made = [start, guess, -first, count]
                if _same_bits(rebuild_arange(made, row.dtype), row):
                    return made
    return None
