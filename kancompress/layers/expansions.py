"""Parts of a layer's forward: expansions into a basis, and steps before and after the sum."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress.config import Activation
from kancompress.layers.bases import bspline

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.SILU: functional.silu,
    Activation.GELU: functional.gelu,
    Activation.RELU: functional.relu,
    Activation.ELU: functional.elu,
    Activation.TANH: torch.tanh,
    Activation.SIGMOID: torch.sigmoid,
    Activation.IDENTITY: lambda x: x,
    Activation.ZERO: torch.zeros_like,
}


# Inverses of the activations that some layers put before their basis.
INVERSES: dict[Activation, Callable[[Tensor], Tensor]] = {
    Activation.TANH: torch.atanh,
    Activation.SIGMOID: torch.logit,
}


class Act(nn.Module):
    """An activation by its name."""

    def __init__(self, name: Activation) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        """Element by element."""
        return ACTIVATIONS[self.name](x)


# --- expansions: (batch, in) -> (batch, basis, in) ------------------------------------------


class Planes(nn.Module):
    """An expansion by a function of z and of tensors, which learn where they are parameters.

    span : where its functions live
    """

    def __init__(
        self,
        planes: Callable[..., Tensor],
        *tensors: Tensor,
        span: tuple[float, float] = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        self.planes = planes
        self.span = span
        self.count = len(tensors)
        for number, tensor in enumerate(tensors):
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(f"tensor{number}", tensor)
            else:
                self.register_buffer(f"tensor{number}", tensor)

    def forward(self, z: Tensor) -> Tensor:
        """(batch, in) -> (batch, basis, in)."""
        return self.planes(z, *(getattr(self, f"tensor{number}") for number in range(self.count)))


class BSplines(nn.Module):
    """B-splines of one degree on knots for each input, zero outside them.

    Knots that are equidistant up to the rounding of their type take the closed form of
    `bases.bspline`, each input on its own grid; other knots the recursion.

    knots : (in, t), ascending
    """

    def __init__(self, knots: Tensor, degree: int) -> None:
        super().__init__()
        self.degree = degree
        self.low: Tensor | None
        self.step: Tensor | None
        self.knots: Tensor | None
        self.size = knots.shape[1] - 2 * degree - 1
        uniform = _uniform(knots, degree) if degree and self.size > 0 else None
        self.register_buffer("low", None if uniform is None else uniform[0])
        self.register_buffer("step", None if uniform is None else uniform[1])
        self.register_buffer("knots", knots if uniform is None else None)

    def forward(self, z: Tensor) -> Tensor:
        """(batch, in) -> (batch, t - degree - 1, in)."""
        if self.knots is not None:
            return bspline.general_planes(z, self.knots, self.degree)
        return bspline.uniform_planes(self._scaled(z), self._grid, self.degree)

    def with_silu(self, z: Tensor, x: Tensor) -> Tensor:
        """The same, and silu(x) as the last plane, in one kernel where there is one."""
        if self.knots is not None:
            return torch.cat([self(z), functional.silu(x)[:, None]], dim=1)
        return bspline.uniform_features(x, self._scaled(z), self._grid, self.degree)

    @property
    def span(self) -> tuple[float, float]:
        """Ends of the first input's grid."""
        low, high = self.spans[0].tolist()
        return low, high

    @property
    def spans(self) -> Tensor:
        """Ends of every input's grid, (in, 2)."""
        if self.knots is not None:
            return self.knots[:, [self.degree, -1 - self.degree]]
        assert self.low is not None
        assert self.step is not None
        return torch.stack([self.low, self.low + self.size * self.step], dim=1)

    @property
    def _grid(self) -> tuple[float, float, int]:
        return 0.0, float(self.size), self.size

    def _scaled(self, z: Tensor) -> Tensor:
        assert self.low is not None
        assert self.step is not None
        return (z - self.low) / self.step


def _uniform(knots: Tensor, degree: int) -> tuple[Tensor, Tensor] | None:
    """Lower end of the grid and distance of the knots for each input, if they are equidistant."""
    wide = knots.double()
    step = (wide[:, -1:] - wide[:, :1]) / (wide.shape[1] - 1)
    even = wide[:, :1] + step * torch.arange(wide.shape[1], dtype=torch.float64)
    rounding = 4 * torch.finfo(knots.dtype).eps * wide.abs().amax(1, keepdim=True)
    if not ((wide - even).abs() <= torch.maximum(1e-5 * step, rounding)).all() or step.min() <= 0:
        return None
    low = wide[:, 0] + degree * step[:, 0]
    return low.to(knots.dtype), step[:, 0].to(knots.dtype)


class Sum(nn.Module):
    """Two bases that share their coefficients; `span` is the first one's."""

    def __init__(self, one: Expansion, other: Expansion) -> None:
        super().__init__()
        self.one = one
        self.other = other
        self.span: tuple[float, float] = one.span

    def forward(self, z: Tensor) -> Tensor:
        """(batch, in) -> (batch, basis, in)."""
        result: Tensor = self.one(z) + self.other(z)
        return result


Expansion = BSplines | Planes | Sum


# --- steps: (batch, width) -> (batch, width) ------------------------------------------------


class Norm(nn.Module):
    """Layer normalisation over the width, as torch.nn.LayerNorm with its default eps."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) -> (batch, width)."""
        return functional.layer_norm(x, x.shape[-1:], self.weight, self.bias)


class Slope(nn.Module):
    """x where it is positive, else weight x, as torch.nn.PReLU."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) -> (batch, width)."""
        return functional.prelu(x, self.weight)


class Affine(nn.Module):
    """scale x + shift, each (width,) and fixed, or absent."""

    def __init__(self, scale: Tensor | None, shift: Tensor | None) -> None:
        super().__init__()
        self.scale: Tensor | None
        self.shift: Tensor | None
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) -> (batch, width)."""
        scaled = x if self.scale is None else x * self.scale
        return scaled if self.shift is None else scaled + self.shift


class MinMax(nn.Module):
    """Scales the whole batch to -1 ... 1 by its least and greatest number."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width) -> (batch, width)."""
        low, high = x.min(), x.max()
        return 2 * (x - low) / (high - low) - 1
