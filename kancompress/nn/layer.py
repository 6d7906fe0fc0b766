"""KAN layers: the basis is an argument, the source of the coefficients is an argument."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress import bases
from kancompress.specs import BasisSpec, Family


class EdgeLayer(nn.Module):
    """A fully connected layer, linear in its coefficients: finish(sum over edges + bias).

    Kinds of layers say what their features are and what follows the sum; how the sum is taken,
    and where the coefficients come from, is the same for all of them.

    edges : module whose forward() gives the coefficients (out, in, coefficient)
    bias  : (out,) added to the sum over the edges, or None
    """

    def __init__(self, edges: nn.Module, bias: Tensor | None = None) -> None:
        super().__init__()
        self.edges = edges
        self.bias = bias if bias is None or isinstance(bias, nn.Parameter) else nn.Parameter(bias)

    def features(self, x: Tensor) -> Tensor:
        """Input (batch, in) to what the coefficients multiply, (batch, coefficient, in)."""
        raise NotImplementedError

    def finish(self, y: Tensor) -> Tensor:
        """What the layer does to the sum over its edges, (batch, out) -> (batch, out)."""
        return y

    def sides(self) -> dict[str, nn.Parameter]:
        """What learns beside the edges, by the name that files give it."""
        return {} if self.bias is None else {"bias": self.bias}

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in) -> (batch, out)."""
        matrix = self.edges().transpose(1, 2).flatten(1)  # (out, coefficient * in)
        features = self.features(x).flatten(1)
        return self.finish(functional.linear(features, matrix, self.bias))


class KanLayer(EdgeLayer):
    """A layer of our own networks (docs/packed-format.md, section 5.1).

    edges : module whose forward() gives the coefficients (out, in, coefficient)
    norm  : (2, features) scale and shift of the layer normalisation, or None
    beta  : (degree + 1,) recurrence weights of the Gram basis, or None
    bias  : (out,) added to the sum over the edges, or None
    """

    def __init__(
        self,
        spec: BasisSpec,
        edges: nn.Module,
        *,
        norm: Tensor | None = None,
        beta: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        super().__init__(edges, bias)
        self.spec = spec
        self.norm = None if norm is None else nn.Parameter(norm)
        self.beta = None if beta is None else nn.Parameter(beta)

    def features(self, x: Tensor) -> Tensor:
        """(batch, in) -> (batch, coefficient, in), the base branch last."""
        z = self._normalise(x) if self.spec.family is Family.FASTKAN else x
        return bases.expand(self.spec, x, z, self.beta)

    def features_on_grid(self, count: int) -> Tensor:
        """Features of `count` inputs of the basis, spaced evenly on its grid, (count, coefficient).

        Gram polynomials are taken evenly on (-1, 1), behind their tanh; the base branch sees what
        the basis sees.
        """
        if self.spec.grid is not None:
            z = torch.linspace(self.spec.grid[0], self.spec.grid[1], count)
        else:
            z = torch.atanh(torch.linspace(-1, 1, count + 2)[1:-1])
        return bases.expand(self.spec, z[:, None], z[:, None], self.beta)[:, :, 0]

    def finish(self, y: Tensor) -> Tensor:
        """Normalisation and SiLU after the sum, in networks of Gram polynomials."""
        return functional.silu(self._normalise(y)) if self.spec.family is Family.GRAMKAN else y

    def sides(self) -> dict[str, nn.Parameter]:
        """`bias`, `norm` and `beta`, where the layer has them."""
        found = {"bias": self.bias, "norm": self.norm, "beta": self.beta}
        return {role: parameter for role, parameter in found.items() if parameter is not None}

    def _normalise(self, values: Tensor) -> Tensor:
        assert self.norm is not None
        return functional.layer_norm(values, values.shape[-1:], self.norm[0], self.norm[1])


def norm_features(family: Family, out: int, inputs: int) -> int | None:
    """Features that a layer of `family` normalises; None where it has no normalisation."""
    return {Family.KAN: None, Family.FASTKAN: inputs, Family.GRAMKAN: out}[family]
