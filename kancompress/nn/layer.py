"""One KAN layer: the basis is an argument, the source of its coefficients is an argument."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from kancompress import bases
from kancompress.specs import BasisSpec, Family


class KanLayer(nn.Module):
    """A fully connected layer (docs/packed-format.md, section 5.1).

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
        super().__init__()
        self.spec = spec
        self.edges = edges
        self.norm = None if norm is None else nn.Parameter(norm)
        self.beta = None if beta is None else nn.Parameter(beta)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in) -> (batch, out)."""
        z = self._normalise(x) if self.spec.family is Family.FASTKAN else x
        features = bases.expand(self.spec, x, z, self.beta)
        matrix = self.edges().transpose(1, 2).flatten(1)  # (out, coefficient * in)
        y = functional.linear(features.flatten(1), matrix, self.bias)
        if self.spec.family is Family.GRAMKAN:
            return functional.silu(self._normalise(y))
        return y

    def _normalise(self, values: Tensor) -> Tensor:
        assert self.norm is not None
        return functional.layer_norm(values, values.shape[-1:], self.norm[0], self.norm[1])


def norm_features(family: Family, out: int, inputs: int) -> int | None:
    """Features that a layer of `family` normalises; None where it has no normalisation."""
    return {Family.KAN: None, Family.FASTKAN: inputs, Family.GRAMKAN: out}[family]
