"""How the edges of a convolution lie over a map, one edge for each (out, in, row, column).

The sums over the edges are a convolution of the expanded map, in which every basis function of
every input is a channel. Around the map the basis functions count as zero; they are not evaluated
there. Maps are channels-last in memory, so the channels of a pixel are a row as
`kancompress.layers.bases` takes them, and the expansion is channels-last, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from kancompress.layers.forms import Window

# Rows of x and z, (rows, in) each, and what all rows share, to features (rows, coefficient, in).
Expand = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# Numbers of features that exist at a time, 16 MB in float32 on a CPU: they stay in its caches.
_CHUNK = 1 << 22
_CHUNK_ON_DEVICE = 1 << 28


def columns(window: Window, planes: Tensor, places: Tensor) -> Tensor:
    """What the edges' coefficients multiply at some places of the output map.

    planes  : (batch, rows, columns, coefficient, in) features of every pixel
    places  : (batch, p) numbers of output pixels, row by row
    returns : (batch * p, coefficient, in * taps)
    """
    batch, height, width, size = planes.shape[:4]
    pad = window.padding
    padded = functional.pad(planes, (0, 0, 0, 0, pad, pad, pad, pad))
    wide = window.places(height, width)[1]
    down, right = (torch.arange(taps, device=planes.device) for taps in window.kernel)
    rows = (places // wide * window.stride)[..., None, None] + down[:, None]
    columns = (places % wide * window.stride)[..., None, None] + right
    image = torch.arange(batch, device=planes.device)[:, None, None, None]
    taps = padded[image, rows, columns]  # (batch, p, row, column, coefficient, in)
    return taps.permute(0, 1, 4, 5, 2, 3).reshape(places.numel(), size, -1)


def sums(
    window: Window,
    expand: Expand,
    coefficients: Tensor,
    x: Tensor,
    z: Tensor,
    shared: Tensor | None,
) -> Tensor:
    """Sums over the edges at every place of the output map.

    coefficients : (out, in, rows, columns, coefficient)
    x, z         : (batch, in, rows, columns), as `expand` takes them pixel by pixel
    returns      : (batch, out, rows, columns), channels-last in memory

    Features exist for a few images at a time, in the backward pass as well, where they are
    computed again: of a whole batch they would take coefficient times the memory of x.
    """
    window.places(*x.shape[2:])
    weight = coefficients.movedim(-1, 1).flatten(1, 2)
    if torch.compiler.is_compiling():
        planes = _channels(expand_map(expand, _last(x), _last(z), shared))
        return functional.conv2d(planes, weight, None, window.stride, window.padding)
    found: Tensor = _Sums.apply(window, expand, weight, _last(x), _last(z), shared)
    return found.permute(0, 3, 1, 2).to(x.dtype)


def _last(x: Tensor) -> Tensor:
    """(batch, in, rows, columns) to (batch, rows, columns, in), a view of a channels-last map."""
    return x.permute(0, 2, 3, 1).contiguous()


def expand_map(expand: Expand, x: Tensor, z: Tensor, shared: Tensor | None) -> Tensor:
    """Maps (batch, rows, columns, in) to features (batch, rows, columns, coefficient, in)."""
    *pixels, inputs = x.shape
    planes = expand(x.reshape(-1, inputs), z.reshape(-1, inputs), shared)
    return planes.view(*pixels, *planes.shape[1:])


class _Sums(torch.autograd.Function):
    """`sums` a few images at a time; saves the maps, not their features."""

    @staticmethod
    def forward(
        ctx: Any,
        window: Window,
        expand: Expand,
        weight: Tensor,
        x: Tensor,
        z: Tensor,
        shared: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(weight, x, z, shared)
        ctx.window, ctx.expand = window, expand
        parts = []
        for part in _parts(weight, x):
            planes = _channels(expand_map(expand, x[part], z[part], shared))
            sums = functional.conv2d(planes, weight, None, window.stride, window.padding)
            parts.append(_last(sums))
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradient = grads[0].permute(0, 3, 1, 2)
        weight, *inputs = ctx.saved_tensors
        needs = ctx.needs_input_grad[2:]
        totals = [
            torch.zeros_like(t) if need else None
            for t, need in zip(ctx.saved_tensors, needs, strict=True)
        ]
        taps = weight.to(gradient.dtype)
        for part in _parts(weight, inputs[0]):
            own = [inputs[0][part], inputs[1][part], inputs[2]]
            copies: list[Any] = [
                t if t is None else t.detach().requires_grad_(need)
                for t, need in zip(own, needs[1:], strict=True)
            ]
            with torch.enable_grad():
                planes = _channels(expand_map(ctx.expand, *copies))
            into_planes, into_weight, _ = torch.ops.aten.convolution_backward(
                gradient[part], planes.detach().to(gradient.dtype), taps, None,
                [ctx.window.stride] * 2, [ctx.window.padding] * 2, [1, 1], False, [0, 0], 1,
                [any(needs[1:]), needs[0], False],
            )  # fmt: skip
            found = [into_weight, None, None, None]
            wanted = [number for number, need in enumerate(needs[1:]) if need]
            if wanted:
                slopes = torch.autograd.grad(
                    planes, [copies[number] for number in wanted], into_planes.to(planes.dtype)
                )
                for number, slope in zip(wanted, slopes, strict=True):
                    found[number + 1] = slope
            places = (slice(None), part, part, slice(None))
            for total, place, piece in zip(totals, places, found, strict=True):
                if total is not None:
                    total[place] += piece
        return None, None, *totals


def _channels(planes: Tensor) -> Tensor:
    """(batch, rows, columns, coefficient, in) as a channels-last map (batch, coefficient * in,
    rows, columns)."""
    return planes.flatten(3).permute(0, 3, 1, 2)


def _parts(weight: Tensor, x: Tensor) -> list[slice]:
    """Images of x (batch, rows, columns, in), as many at a time as the chunk has features for."""
    most = _CHUNK if x.device.type == "cpu" else _CHUNK_ON_DEVICE
    features = x[0, ..., 0].numel() * weight.shape[1]
    images = max(1, most // max(1, features))
    return [slice(start, start + images) for start in range(0, len(x), images)]
