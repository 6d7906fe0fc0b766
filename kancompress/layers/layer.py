"""KAN layers: what one computes is a form, where its coefficients come from is a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from kancompress.layers import forms, window
from kancompress.layers.edges import CodebookEdges
from kancompress.layers.expansions import ACTIVATIONS, INVERSES, expansion_of, roles_of
from kancompress.layers.forms import LayerForm, Points, Step
from kancompress.layers.stored import straight_through

# What a batch adds to the running statistics of a normalisation; torch's default.
MOMENTUM = 0.1
# Numbers of features on the grid, 16 MB in float32.
_NUMBERS = 1 << 22


class EdgeLayer(nn.Module):
    """A layer that is linear in its coefficients: after(sum over edges + bias).

    form    : what it computes
    edges   : module whose forward() gives the coefficients (out, in, coefficient), or (out, in,
              rows, columns, coefficient) of a convolution, the base weight last
    tensors : that the form names, by role, None where one is not there; those of `learnt` learn
    bias    : (out,) added to the sum over the edges, or None
    name    : of the layer in another library's file
    dtype   : that it computes in; of its input where None
    shape   : of the edges, where it is to be known without them
    seen    : a module in place of the steps before the basis
    names   : of another library's layer: the file's names of the roles that learn

    `drops` says whether dropout takes place in training. `stored` has the types (`layers.stored`)
    of the bias and of a normalisation's rows, by role, where they learn rounded to these.
    """

    def __init__(
        self,
        form: LayerForm,
        edges: nn.Module,
        tensors: Mapping[str, Tensor | None] | None = None,
        *,
        bias: Tensor | None = None,
        learnt: Sequence[str] = (),
        name: str | None = None,
        shape: tuple[int, ...] = (),
        dtype: torch.dtype | None = None,
        seen: nn.Module | None = None,
        names: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        there = {role: t for role, t in (tensors or {}).items() if t is not None}
        self.form, self.window = form, form.window
        self.edges = edges
        self.bias = bias if bias is None or isinstance(bias, nn.Parameter) else nn.Parameter(bias)
        self.name, self.shape, self.dtype, self.seen = name, shape, dtype, seen
        self.roles = tuple(role for role in there if role in learnt)
        for role in tensors or {}:
            if role in learnt:
                self.register_parameter(role, _parameter(there.get(role)))
            elif role not in roles_of(form.basis):
                self.register_buffer(role, there.get(role))
        self.expansion = expansion_of(form.basis, there)
        self._names = None if names is None else dict(names)
        self._momentum, self.drops = MOMENTUM, True
        self.stored: Mapping[str, torch.dtype] = {}

    def features(self, x: Tensor) -> Tensor:
        """Input to what the coefficients multiply: (batch, in) -> (batch, coefficient, in).

        Of a convolution (batch, in, rows, columns) -> (batch, rows, columns, coefficient, in).
        """
        x = x if self.dtype is None else x.to(self.dtype)
        z = self._seen(x)
        x = z if self.form.inner else x
        if self.window is None:
            return self.expanded(x, z)
        x, z = x.permute(0, 2, 3, 1), z.permute(0, 2, 3, 1)
        return window.expand_map(self._expanded, x, z, self._learnt())

    def expanded(self, x: Tensor, z: Tensor) -> Tensor:
        """Basis of z and base branch of x, each (batch, in) -> (batch, coefficient, in)."""
        return self._expanded(x, z, self._learnt())

    def _expanded(self, x: Tensor, z: Tensor, learnt: Tensor | None) -> Tensor:
        return self.expansion.features(x, z, learnt, self.form.base)

    def places(self, x: Tensor) -> int:
        """Sums that a row of `x` gives for each output: 1, or the pixels of the output map."""
        if self.window is None:
            return 1
        rows, columns = self.window.places(*x.shape[2:])
        return rows * columns

    @property
    def maps(self) -> bool:
        """Whether a row is a map, at whose places the layer has sums."""
        return self.window is not None

    def beside(self, x: Tensor, places: Tensor) -> Tensor | None:
        """What no coefficient makes of the sums beside the bias: nothing."""
        return None

    def columns(self, x: Tensor, places: Tensor) -> Tensor:
        """Features as the sum over the edges takes them, one row for each sum.

        places  : (batch, p) numbers of the sums of each row of `x`, below `places(x)`
        returns : (batch * p, coefficient, edges of an output), the edges in the order of `edges`
        """
        features = self.features(x)
        return features if self.window is None else window.columns(self.window, features, places)

    def features_on_grid(self, count: int) -> Tensor:
        """Features of at most `count` values of an input, evenly on the span of the basis.

        (count, coefficient, in), or (count, coefficient, 1) where all inputs have the same grid.
        The base branch sees what the basis sees, behind a tanh or sigmoid what it undoes to.
        """
        spans = self.expansion.spans
        if self.form.points is Points.MIDDLES:
            coefficients = self.edges()
            inputs, width = coefficients.shape[1], coefficients.shape[-1]
            count = min(count, max(256, _NUMBERS // (width * inputs)))
            low, high = spans.to(self.dtype).expand(inputs, 2).T
            # Between the ends, where inverses are finite.
            steps = (torch.arange(count, dtype=self.dtype)[:, None] + 0.5) / count
            z = low + (high - low) * steps
        else:
            low, high = self.expansion.span
            inside = self.form.points is Points.INSIDE
            z = torch.linspace(low, high, count + 2 * inside)
            z = (z[1:-1] if inside else z)[:, None]
        features = self.expanded(self._unseen(z), z)
        first = features[:, :, :1]
        return first if torch.equal(first.expand_as(features), features) else features

    def finish(self, y: Tensor) -> Tensor:
        """What the layer does to the sums over its edges; the shape stays."""
        for step in self.form.after:
            y = self.applied(step, y)
        return y

    def sides(self) -> Mapping[str, Tensor]:
        """What the layer has beside the edges, by the name that files give it."""
        if self._names is not None:
            return self.learnt_sides()
        found: dict[str, Tensor] = {} if self.bias is None else {"bias": self.bias}
        for role in self.roles:
            tensor: Tensor = getattr(self, role)
            running = getattr(self, "statistics", None) if role == "norm" else None
            found[role] = tensor if running is None else torch.cat([tensor, running])
        return found

    def learnt_sides(self) -> dict[str, nn.Parameter]:
        """What learns beside the edges of another library's layer, by the names of its tensors."""
        return {name: getattr(self, role) for role, name in (self._names or {}).items()}

    def norms(self) -> list[nn.Parameter]:
        """What fine-tuning may train with the norms: of our own layers scale and shift, betas and
        slope; of another library's all that learns beside the edges."""
        if self._names is not None:
            return list(self.learnt_sides().values())
        return [getattr(self, role) for role in self.roles]

    @property
    def has_statistics(self) -> bool:
        """Whether a batch normalisation keeps running statistics."""
        return getattr(self, "statistics", None) is not None

    def sums(self, x: Tensor, coefficients: Tensor, bias: Tensor | None) -> Tensor:
        """Sums over edges with these coefficients: (batch, out), or (batch, out, rows, columns).

        Features of a convolution exist for a few images at a time.
        """
        if self.window is not None:
            x = x if self.dtype is None else x.to(self.dtype)
            z = self._seen(x)
            x = z if self.form.inner else x
            found = window.sums(self.window, self._expanded, coefficients, x, z, self._learnt())
            return found if bias is None else found + bias[:, None, None]
        features = self.features(x).to(coefficients.dtype)
        if coefficients.is_contiguous() and len(x) < len(coefficients):
            rows = features.transpose(1, 2).flatten(1)  # fewer to write anew than coefficients
            return functional.linear(rows, coefficients.flatten(1), bias)
        matrix = coefficients.movedim(-1, 1).flatten(1)  # (out, coefficient * in)
        return functional.linear(features.flatten(1), matrix, bias)

    def run(self, x: Tensor, coefficients: Tensor, bias: Tensor | None) -> Tensor:
        """The whole layer with other coefficients and another bias."""
        return self.finish(self.sums(x, coefficients, bias))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in) -> (batch, out), or (batch, in, rows, columns) -> (batch, out, ...)."""
        edges, linear = self.edges, self.window is None
        bias = None if self.bias is None else self._as_stored(self.bias, "bias")
        if linear and isinstance(edges, CodebookEdges) and edges.prefers_products(len(x)):
            y = edges.row_sums(self.features(x))
            return self.finish(y if bias is None else y + bias)
        return self.run(x, edges(), bias)

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Within it a training pass has no dropout, and its batch alone makes the statistics."""
        before = self.drops, self._momentum
        self.drops, self._momentum = False, 1.0
        try:
            yield
        finally:
            self.drops, self._momentum = before

    def _as_stored(self, tensor: Tensor, role: str) -> Tensor:
        """A side as it is, or as it will be stored."""
        dtype = self.stored.get(role)
        return tensor if dtype is None else straight_through(tensor, dtype, role)

    def _learnt(self) -> Tensor | None:
        """What learns with the basis."""
        role = self.expansion.learns
        tensor: Tensor | None = getattr(self, role) if role else None
        return tensor

    def _seen(self, x: Tensor) -> Tensor:
        """What the basis sees of the input."""
        if self.seen is not None:
            found: Tensor = self.seen(x)
            return found
        for step in self.form.before:
            x = self.applied(step, x)
        return x

    def _unseen(self, z: Tensor) -> Tensor:
        """What the base branch sees where the basis sees z."""
        if not self.form.inner and self.seen is None:
            for step in reversed(self.form.before):
                if isinstance(step, forms.Act) and step.name in INVERSES:
                    return INVERSES[step.name](z)
        return z

    def applied(self, step: Step, y: Tensor) -> Tensor:
        """What a step before or after the sum makes of all inputs, or of all sums."""
        match step:
            case forms.Act(name):
                return ACTIVATIONS[name](y)
            case forms.Norm(rows, running):
                weights = self._as_stored(getattr(self, rows), rows)
                return self._normalised(y, weights, getattr(self, running, None))
            case forms.LayerNorm(weight, bias):
                shift = getattr(self, bias, None) if bias else None
                return functional.layer_norm(y, y.shape[-1:], getattr(self, weight), shift)
            case forms.Slope(weight):
                return functional.prelu(y, getattr(self, weight))
            case forms.Affine(scale, shift):
                times, plus = getattr(self, scale, None), getattr(self, shift, None)
                y = y if times is None else y * times
                return y if plus is None else y + plus
            case forms.MinMax():
                low, high = y.min(), y.max()
                return 2 * (y - low) / (high - low) - 1
            case forms.Dropout(share):
                if not share or not self.training or not self.drops:
                    return y
                return functional.dropout2d(y, share)

    def _normalised(self, values: Tensor, rows: Tensor, running: Tensor | None) -> Tensor:
        if running is None:
            return functional.layer_norm(values, values.shape[-1:], rows[0], rows[1])
        mean, variance = running[0], running[1]
        return functional.batch_norm(
            values, mean, variance, rows[0], rows[1], self.training, self._momentum
        )


def _parameter(tensor: Tensor | None) -> nn.Parameter | None:
    if tensor is None or isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor)


class ScaledEdges(nn.Module):
    """Edge vectors times factors that the file keeps apart: gains of their splines, and masks.

    gains : each the first and last coefficient that it multiplies, and its factors (out, in)
    """

    def __init__(self, edges: nn.Module, gains: Sequence[tuple[int, int, Tensor]]) -> None:
        super().__init__()
        self.edges = edges
        self.spans = [(first, last) for first, last, _ in gains]
        for number, (_, _, factors) in enumerate(gains):
            self.register_buffer(f"factors{number}", factors)

    def forward(self) -> Tensor:
        """Coefficients (out, in, coefficient)."""
        vectors: Tensor = self.edges()
        for number, (first, last) in enumerate(self.spans):
            factors = getattr(self, f"factors{number}")[..., None]
            pieces = (vectors[..., :first], vectors[..., first:last] * factors, vectors[..., last:])
            vectors = torch.cat(pieces, dim=-1)
        return vectors


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
