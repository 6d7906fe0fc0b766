"""Forms run by torch: bases as planes, base branches, and steps before and after the sum.

An expansion holds the tensors that its basis names. What a basis learns is an argument: the custom
backward pass of convolutions needs to know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress.forward import Activation
from kancompress.layers import forms
from kancompress.layers import knots as grids
from kancompress.layers.bases import bspline, gaussian, gram, polynomials, radial
from kancompress.layers.forms import Basis, Series

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

# z, degree, and what is learnt where something is
_SERIES: dict[Series, Callable[..., Tensor]] = {
    Series.CHEBYSHEV: polynomials.chebyshev,
    Series.CHEBYSHEV2: polynomials.chebyshev2,
    Series.LEGENDRE: polynomials.legendre,
    Series.HERMITE: polynomials.hermite,
    Series.BESSEL: polynomials.bessel,
    Series.JACOBI: polynomials.jacobi,
    Series.BERNSTEIN: polynomials.bernstein,
    Series.GOTTLIEB: polynomials.gottlieb,
    Series.GRAM: gram.polynomials,
}


class Expansion(nn.Module):
    """A basis as torch runs it.

    learns : role of the tensor that learns with the basis, "" where none does
    """

    learns = ""

    def __init__(self, span: tuple[float, float]) -> None:
        super().__init__()
        self.span = span

    def planes(self, z: Tensor, learnt: Tensor | None) -> Tensor:
        """(batch, in) -> (batch, basis, in)."""
        raise NotImplementedError

    def features(
        self, x: Tensor, z: Tensor, learnt: Tensor | None, base: Activation | None
    ) -> Tensor:
        """Planes of z, and the base branch of x as the last one."""
        planes = self.planes(z, learnt)
        if base is None:
            return planes
        return torch.cat([planes, ACTIVATIONS[base](x)[:, None]], dim=1)

    @property
    def spans(self) -> Tensor:
        """Where the functions of each input live, (in, 2), or (1, 2) for all inputs."""
        return torch.tensor([self.span])


class _Alone(Expansion):
    """No basis."""

    def features(
        self, x: Tensor, z: Tensor, learnt: Tensor | None, base: Activation | None
    ) -> Tensor:
        assert base is not None
        return ACTIVATIONS[base](x)[:, None]


class _Uniform(Expansion):
    """A basis with one uniform grid for all inputs, in one kernel with silu.

    together : planes of z and silu of x; alone : planes of z
    """

    def __init__(
        self,
        span: tuple[float, float],
        together: Callable[[Tensor, Tensor], Tensor],
        alone: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__(span)
        self._together, self._alone = together, alone

    def planes(self, z: Tensor, learnt: Tensor | None) -> Tensor:
        return self._alone(z)

    def features(
        self, x: Tensor, z: Tensor, learnt: Tensor | None, base: Activation | None
    ) -> Tensor:
        if base is Activation.SILU:
            return self._together(x, z)
        return super().features(x, z, learnt, base)


class _Planes(Expansion):
    """A basis that is a function of z and of fixed tensors."""

    def __init__(
        self, span: tuple[float, float], function: Callable[..., Tensor], *tensors: Tensor
    ) -> None:
        super().__init__(span)
        self._function, self._count = function, len(tensors)
        for number, tensor in enumerate(tensors):
            self.register_buffer(f"tensor{number}", tensor)

    def planes(self, z: Tensor, learnt: Tensor | None) -> Tensor:
        return self._function(z, *(getattr(self, f"tensor{n}") for n in range(self._count)))


class _Polynomials(Expansion):
    """Polynomials up to a degree."""

    def __init__(self, basis: forms.Polynomials) -> None:
        super().__init__(basis.span)
        self._basis, self.learns = basis, basis.learnt

    def planes(self, z: Tensor, learnt: Tensor | None) -> Tensor:
        more = () if learnt is None else (learnt,)
        planes = _SERIES[self._basis.series](z, self._basis.degree, *more)
        return ACTIVATIONS[self._basis.act](planes)


class Splines(Expansion):
    """B-splines of one degree on knots for each input, zero outside them.

    Knots that are equidistant up to the rounding of their type take the closed form of
    `bases.bspline`, each input on its own grid; other knots the recursion.

    knots : (in, t), ascending
    """

    def __init__(self, knots: Tensor, degree: int) -> None:
        super().__init__((0.0, 0.0))
        self.degree = degree
        self.low: Tensor | None
        self.step: Tensor | None
        self.knots: Tensor | None
        self.size = knots.shape[1] - 2 * degree - 1
        uniform = _uniform(knots, degree) if degree and self.size > 0 else None
        self.register_buffer("low", None if uniform is None else uniform[0])
        self.register_buffer("step", None if uniform is None else uniform[1])
        self.register_buffer("knots", knots if uniform is None else None)
        low, high = self.spans[0].tolist()
        self.span = (low, high)

    def planes(self, z: Tensor, learnt: Tensor | None = None) -> Tensor:
        """(batch, in) -> (batch, t - degree - 1, in)."""
        if self.knots is not None:
            return bspline.general_planes(z, self.knots, self.degree)
        return bspline.uniform_planes(self._scaled(z), self._grid, self.degree)

    def features(
        self, x: Tensor, z: Tensor, learnt: Tensor | None, base: Activation | None
    ) -> Tensor:
        """In one kernel with silu where there is one."""
        if base is Activation.SILU and self.knots is None:
            return bspline.uniform_features(x, self._scaled(z), self._grid, self.degree)
        return super().features(x, z, learnt, base)

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
    found = grids.uniform(knots.detach().cpu().numpy(), degree)
    return None if found is None else (torch.from_numpy(found[0]), torch.from_numpy(found[1]))


class _Sum(Expansion):
    """Two bases that share their coefficients; the span is the first one's."""

    def __init__(self, one: Expansion, other: Expansion) -> None:
        super().__init__(one.span)
        self.one, self.other = one, other

    def planes(self, z: Tensor, learnt: Tensor | None) -> Tensor:
        return self.one.planes(z, None) + self.other.planes(z, None)


def expansion_of(basis: Basis, tensors: Mapping[str, Tensor]) -> Expansion:
    """The expansion of a basis.

    tensors : of the layer, by their roles
    """
    match basis:
        case forms.NoBasis():
            return _Alone(basis.span)
        case forms.UniformSplines(grid, degree):
            return _Uniform(
                basis.span,
                partial(bspline.uniform_features, grid=grid, degree=degree),
                partial(bspline.uniform_planes, grid=grid, degree=degree),
            )
        case forms.UniformGaussians(grid):
            return _Uniform(
                basis.span,
                partial(gaussian.features, grid=grid),
                partial(gaussian.planes, grid=grid),
            )
        case forms.Splines(degree, knots):
            return Splines(tensors[knots], degree)
        case forms.Gaussians(width, span, centres):
            return _Planes(span, partial(radial.gaussians, width=width), tensors[centres])
        case forms.Switches(span, centres, width):
            return _Planes(span, partial(radial.switches, width=width), tensors[centres])
        case forms.Sum(one, other):
            return _Sum(expansion_of(one, tensors), expansion_of(other, tensors))
        case forms.Polynomials():
            return _Polynomials(basis)
        case forms.Waves(count, span):
            return _Planes(span, partial(radial.waves, count=count))
        case forms.Bumps(factor, low, high, span):
            bumps = partial(radial.relu_bumps, factor=factor)
            return _Planes(span, bumps, tensors[low], tensors[high])


def roles_of(basis: Basis) -> set[str]:
    """Roles of the fixed tensors that an expansion of the basis keeps."""
    match basis:
        case forms.Splines(_, knots):
            return {knots}
        case forms.Gaussians(_, _, centres) | forms.Switches(_, centres):
            return {centres}
        case forms.Sum(one, other):
            return roles_of(one) | roles_of(other)
        case forms.Bumps(_, low, high, _):
            return {low, high}
    return set()
