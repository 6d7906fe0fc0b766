"""In which types a packed file stores numbers, and numbers rounded to them.

A stored type is one of torch's that the file has as it is, or `torch.int8`, which stands for the
encoding `int8` (docs/packed-format.md, section 4.2): a byte for every number and a float16 scale
for each coefficient of a codebook, or each row of another tensor. In memory these are float32.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kancompress.formats.packed.encodings import INT8, PLAIN
from kancompress.formats.packed.encodings.int8 import MOST, REACHES, SCALE_BYTES, SCALES


def encoding_of(dtype: torch.dtype) -> str:
    """Name of the encoding in which numbers of a stored type are written."""
    return INT8.name if dtype == torch.int8 else PLAIN.name


def dtype_of(tensor: Tensor, encoding: str) -> torch.dtype:
    """The stored type of a tensor that has this encoding in its file."""
    return torch.int8 if encoding == INT8.name else tensor.dtype


def in_memory(dtype: torch.dtype) -> torch.dtype:
    """The type that numbers of a stored type have in memory."""
    return torch.float32 if dtype == torch.int8 else dtype


def scale_bytes(dtype: torch.dtype) -> int:
    """Bytes that each coefficient of a codebook has beside its numbers."""
    return SCALE_BYTES if dtype == torch.int8 else 0


def rounded(values: Tensor, dtype: torch.dtype, role: str = "codebook") -> Tensor:
    """Numbers rounded to a stored type, in the type that they have in memory.

    Those that the type is too narrow for are not finite. What is rounded once stays as it is.

    role : of the tensor; a codebook is (k, d)
    """
    if dtype != torch.int8:
        return values.to(dtype)
    if role == "codebook":
        return _in_rows(values.transpose(0, 1)).transpose(0, 1).contiguous()
    return _in_rows(values)


def straight_through(master: Tensor, dtype: torch.dtype, role: str = "codebook") -> Tensor:
    """Numbers rounded to a stored type, whose gradient is the gradient of `master`."""
    with torch.no_grad():
        stored = rounded(master, dtype, role).to(master.dtype)
    return stored + (master - master.detach())


def _in_rows(values: Tensor) -> Tensor:
    """Each row rounded to multiples, up to 127, of the smallest float16 that reaches its largest
    number so; in float32."""
    device = torch.device("cpu") if values.device.type == "mps" else values.device
    wide = values.detach().to(device, torch.float64)
    scales, reaches = _tables(device)
    found = torch.searchsorted(reaches, wide.abs().amax(-1, keepdim=True))
    whole = _whole(wide, scales[found])
    # Among the smallest float16 the next one below may reach what is left after rounding.
    below = (found - 1).clamp_min(0)
    over = (found > 0) & (whole.abs().amax(-1, keepdim=True) * scales[found] <= reaches[below])
    found = torch.where(over, below, found)
    whole = torch.where(over, _whole(wide, scales[found]), whole)
    return (whole * scales[found]).to(values.device, torch.float32)


def _whole(values: Tensor, scales: Tensor) -> Tensor:
    ratios = torch.where(scales > 0, values / scales, 0.0)
    return ratios.round().clamp(-MOST, MOST) + 0.0  # no negative zero


@cache
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """Every float16 from 0 on and what it reaches as a scale; infinite behind the last."""
    infinite = torch.tensor([torch.inf], dtype=torch.float64)
    tables = [torch.cat([torch.from_numpy(one), infinite]) for one in (SCALES, REACHES)]
    return tables[0].to(device), tables[1].to(device)
