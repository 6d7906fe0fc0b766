"""KAN layers: the basis, the window of a convolution and the source of the coefficients are
arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress.layers import bases
from kancompress.layers.edges import CodebookEdges
from kancompress.layers.window import Window, expand_map
from kancompress.specs import BasisSpec, Family

# What a batch adds to the running statistics of a normalisation; torch's default.
MOMENTUM = 0.1


class EdgeLayer(nn.Module):
    """A layer that is linear in its coefficients: finish(sum over edges + bias).

    Kinds of layers say what their features are and what follows the sum; how the sum is taken,
    and where the coefficients come from, is the same for all of them.

    edges  : module whose forward() gives the coefficients (out, in, coefficient), or (out, in,
             rows, columns, coefficient) of a convolution
    bias   : (out,) added to the sum over the edges, or None
    window : how the edges of a convolution lie over a map, None where the layer is fully connected
    """

    def __init__(
        self, edges: nn.Module, bias: Tensor | None = None, window: Window | None = None
    ) -> None:
        super().__init__()
        self.edges = edges
        self.bias = bias if bias is None or isinstance(bias, nn.Parameter) else nn.Parameter(bias)
        self.window = window

    def features(self, x: Tensor) -> Tensor:
        """Input to what the coefficients multiply: (batch, in) -> (batch, coefficient, in).

        Of a convolution (batch, in, rows, columns) -> (batch, rows, columns, coefficient, in).
        """
        raise NotImplementedError

    def places(self, x: Tensor) -> int:
        """Sums that a row of `x` gives for each output: 1, or the pixels of the output map."""
        if self.window is None:
            return 1
        rows, columns = self.window.places(*x.shape[2:])
        return rows * columns

    def columns(self, x: Tensor, places: Tensor) -> Tensor:
        """Features as the sum over the edges takes them, one row for each sum.

        places  : (batch, p) numbers of the sums of each row of `x`, below `places(x)`
        returns : (batch * p, coefficient, edges of an output), the edges in the order of `edges`
        """
        features = self.features(x)
        return features if self.window is None else self.window.columns(features, places)

    def features_on_grid(self, count: int) -> Tensor:
        """Features of at most `count` values of an input, spaced evenly on the grid of the basis.

        (count, coefficient, in), or (count, coefficient, 1) where all inputs have the same grid.
        The base branch sees what the basis sees.
        """
        raise NotImplementedError

    def finish(self, y: Tensor) -> Tensor:
        """What the layer does to the sums over its edges; the shape stays."""
        return y

    def sides(self) -> Mapping[str, Tensor]:
        """What the layer has beside the edges, by the name that files give it."""
        return {} if self.bias is None else {"bias": self.bias}

    def sums(self, x: Tensor, coefficients: Tensor, bias: Tensor | None) -> Tensor:
        """Sums over edges with these coefficients: (batch, out), or (batch, out, rows, columns)."""
        features = self.features(x).to(coefficients.dtype)
        if self.window is None:
            if coefficients.is_contiguous() and len(x) < len(coefficients):
                rows = features.transpose(1, 2).flatten(1)  # fewer to write anew than coefficients
                return functional.linear(rows, coefficients.flatten(1), bias)
            matrix = coefficients.movedim(-1, 1).flatten(1)  # (out, coefficient * in)
            return functional.linear(features.flatten(1), matrix, bias)
        weight = coefficients.movedim(-1, 1).flatten(1, 2)
        planes = features.flatten(3).permute(0, 3, 1, 2)
        return functional.conv2d(planes, weight, bias, self.window.stride, self.window.padding)

    def run(self, x: Tensor, coefficients: Tensor, bias: Tensor | None) -> Tensor:
        """The whole layer with other coefficients and another bias."""
        return self.finish(self.sums(x, coefficients, bias))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in) -> (batch, out), or (batch, in, rows, columns) -> (batch, out, ...)."""
        edges, linear = self.edges, self.window is None
        if linear and isinstance(edges, CodebookEdges) and edges.prefers_products(len(x)):
            y = edges.row_sums(self.features(x))
            return self.finish(y if self.bias is None else y + self.bias)
        return self.run(x, edges(), self.bias)


class KanLayer(EdgeLayer):
    """A layer of our own networks (docs/packed-format.md, section 5).

    edges, bias, window : as of `EdgeLayer`
    norm    : (2, features) scale and shift of the layer normalisation; in convolutions (4,
              features) with running mean and variance of the batch normalisation; or None
    beta    : (degree + 1,) recurrence weights of the Gram basis, or None
    slope   : (1,) of the PReLU behind convolutions of B-splines, or None
    last    : whether this is the last layer, behind which an MLP has no activation
    dropout : share of channels of a convolution that are dropped in training
    """

    def __init__(
        self,
        spec: BasisSpec,
        edges: nn.Module,
        *,
        norm: Tensor | None = None,
        beta: Tensor | None = None,
        bias: Tensor | None = None,
        slope: Tensor | None = None,
        window: Window | None = None,
        last: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(edges, bias, window)
        self.spec = spec
        self.last = last
        self.dropout = dropout
        self._momentum = MOMENTUM
        self.norm = None if norm is None else nn.Parameter(norm[:2].clone())
        self.beta = None if beta is None else nn.Parameter(beta)
        self.slope = None if slope is None else nn.Parameter(slope)
        self.statistics: Tensor | None
        running = None if norm is None or len(norm) == 2 else norm[2:].clone()
        self.register_buffer("statistics", running)

    def features(self, x: Tensor) -> Tensor:
        """As of `EdgeLayer`, the base branch last."""
        z = self._seen(x)
        if self.window is None:
            return bases.expand(self.spec, x, z, self.beta)
        x, z = x.permute(0, 2, 3, 1), z.permute(0, 2, 3, 1)
        return expand_map(partial(bases.expand, self.spec), x, z, self.beta)

    def features_on_grid(self, count: int) -> Tensor:
        """As of `EdgeLayer`; Gram polynomials, and the one weight of an MLP, are taken evenly on
        (-1, 1), polynomials behind their tanh."""
        low, high = (-1.0, 1.0) if self.spec.grid is None else self.spec.grid[:2]
        z = torch.linspace(low, high, count)
        x = z
        if self.spec.family is Family.GRAMKAN:
            z = torch.linspace(low, high, count + 2)[1:-1]
            x = torch.atanh(z)
        return bases.expand(self.spec, x[:, None], z[:, None], self.beta)

    def sums(self, x: Tensor, coefficients: Tensor, bias: Tensor | None) -> Tensor:
        """As of `EdgeLayer`; features of a convolution exist for a few images at a time."""
        if self.window is None:
            return super().sums(x, coefficients, bias)
        expand = partial(bases.expand, self.spec)
        found = self.window.sums(expand, coefficients, x, self._seen(x), self.beta)
        return found if bias is None else found + bias[:, None, None]

    def finish(self, y: Tensor) -> Tensor:
        """What follows the sum: normalisation, activation and dropout, as the family has them."""
        family = self.spec.family
        if family is Family.GRAMKAN:
            return functional.silu(self._normalise(y))
        if family is Family.MLP and not self.last:
            return functional.relu(y)
        if family is Family.KAN and self.slope is not None:
            return self._drop(functional.prelu(self._normalise(y), self.slope))
        return y

    def sides(self) -> Mapping[str, Tensor]:
        """`bias`, `norm`, `beta` and `slope`, where the layer has them."""
        norm: Tensor | None = self.norm
        if norm is not None and self.statistics is not None:
            norm = torch.cat([norm, self.statistics])
        found = {"bias": self.bias, "norm": norm, "beta": self.beta, "slope": self.slope}
        return {role: tensor for role, tensor in found.items() if tensor is not None}

    def norms(self) -> list[nn.Parameter]:
        """What fine-tuning may train with the norms: scale and shift, betas, slope."""
        return [p for p in (self.norm, self.beta, self.slope) if p is not None]

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Within it a training pass has no dropout, and its batch alone makes the statistics."""
        before = self.dropout, self._momentum
        self.dropout, self._momentum = 0.0, 1.0
        try:
            yield
        finally:
            self.dropout, self._momentum = before

    def _seen(self, x: Tensor) -> Tensor:
        """What the basis sees of the input."""
        if self.spec.family is Family.FASTKAN:
            return self._normalise(self._drop(x))
        if self.spec.family is Family.GRAMKAN:
            return self._drop(torch.tanh(x))
        return x

    def _drop(self, x: Tensor) -> Tensor:
        if not self.dropout or not self.training:
            return x
        return functional.dropout2d(x, self.dropout)

    def _normalise(self, values: Tensor) -> Tensor:
        assert self.norm is not None
        if self.statistics is None:
            return functional.layer_norm(values, values.shape[-1:], self.norm[0], self.norm[1])
        return functional.batch_norm(
            values,
            self.statistics[0],
            self.statistics[1],
            self.norm[0],
            self.norm[1],
            self.training,
            self._momentum,
        )


class Head(nn.Module):
    """The dense linear layer behind convolutions: mean of each channel, dropout, linear.

    weight  : (outputs, channels); bias : (outputs,)
    dropout : share of channels that are dropped in training
    """

    def __init__(self, weight: Tensor, bias: Tensor, dropout: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, rows, columns) -> (batch, outputs)."""
        pooled = functional.dropout(x.mean((2, 3)), self.dropout, self.training)
        return functional.linear(pooled, self.weight, self.bias)
