"""Layers of other libraries as edge layers, and networks of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from kancompress.config import Activation
from kancompress.formats.packed.forms import FormRecord
from kancompress.layers.edges import Codebook
from kancompress.layers.expansions import ACTIVATIONS, INVERSES, Act, BSplines, Expansion
from kancompress.layers.layer import EdgeLayer
from kancompress.layers.network import Network
from kancompress.layers.window import Window

# Numbers of features on the grid, 16 MB in float32.
_NUMBERS = 1 << 22


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


class FormLayer(EdgeLayer):
    """A layer of another library: steps, basis and base branch, sum, steps.

    edges      : module whose forward() gives (out, in, coefficient), the base weight last
    name       : of the layer in the file
    shape      : (out, in)
    expansion  : (batch, in) -> (batch, basis, in)
    before     : what the basis sees of the input, or None
    base       : activation of the base branch, or None where the layer has none
    inner      : whether the base branch sees the input after `before`
    after      : steps after the sum
    side_names : names in the file of the parameters that learn beside the edges
    window     : how the edges of a convolution lie over a map
    """

    def __init__(
        self,
        edges: nn.Module,
        *,
        name: str,
        shape: tuple[int, int],
        dtype: torch.dtype,
        expansion: Expansion,
        before: nn.Module | None = None,
        base: Activation | None = None,
        inner: bool = False,
        after: Sequence[nn.Module] = (),
        bias: nn.Parameter | None = None,
        side_names: Mapping[str, nn.Parameter] | None = None,
        window: Window | None = None,
    ) -> None:
        super().__init__(edges, bias, window)
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self.expansion = expansion
        self.before = before
        self.base = base
        self.inner = inner
        self.after = nn.ModuleList(after)
        self.side_names = dict(side_names or {})

    def features(self, x: Tensor) -> Tensor:
        """As of `EdgeLayer`, the base branch last."""
        x = x.to(self.dtype)
        z = x if self.before is None else self.before(x)
        if self.window is None:
            return self.expanded(z, z if self.inner else x)
        z, x = z.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        planes = self.expanded(z.flatten(0, 2), (z if self.inner else x).flatten(0, 2))
        return planes.view(*x.shape[:3], *planes.shape[1:])

    def expanded(self, z: Tensor, x: Tensor) -> Tensor:
        """Basis of z and base branch of x, each (batch, in) -> (batch, coefficient, in)."""
        if self.base is Activation.SILU and isinstance(self.expansion, BSplines):
            return self.expansion.with_silu(z, x)
        planes: Tensor = self.expansion(z)
        if self.base is None:
            return planes
        return torch.cat([planes, ACTIVATIONS[self.base](x)[:, None]], dim=1)

    def features_on_grid(self, count: int) -> Tensor:
        """As of `EdgeLayer`; evenly on what the basis sees, behind a tanh or sigmoid."""
        inputs = self.shape[1]
        count = min(count, max(256, _NUMBERS // (self.edges().shape[-1] * inputs)))
        spans = torch.tensor([self.expansion.span])
        if isinstance(self.expansion, BSplines):
            spans = self.expansion.spans
        low, high = spans.to(self.dtype).expand(inputs, 2).T
        # Between the ends, where inverses are finite.
        steps = (torch.arange(count, dtype=self.dtype)[:, None] + 0.5) / count
        z = low + (high - low) * steps
        undo = INVERSES.get(self.before.name) if isinstance(self.before, Act) else None
        features = self.expanded(z, z if self.inner or undo is None else undo(z))
        first = features[:, :, :1]
        return first if torch.equal(first.expand_as(features), features) else features

    def finish(self, y: Tensor) -> Tensor:
        """Normalisation, activation and the like after the sum."""
        for step in self.after:
            y = step(y)
        return y

    def sides(self) -> dict[str, nn.Parameter]:
        """What learns beside the edges, by the names of the file's tensors."""
        return self.side_names


class FormNetwork(Network):
    """Layers of other libraries, applied in the order of the file; outputs are float32.

    notes  : what was taken for granted that the tensors do not tell
    forms  : what the layers compute beyond their tensors, by their names, as packed files say it
    widths : inputs and outputs
    """

    def __init__(
        self,
        layers: Sequence[FormLayer],
        codebooks: Mapping[str, Codebook] | None = None,
        notes: Sequence[str] = (),
        forms: Mapping[str, FormRecord] | None = None,
    ) -> None:
        super().__init__(layers, codebooks)
        self.notes = tuple(notes)
        self.forms = dict(forms or {})
        self.widths = (layers[0].shape[1], layers[-1].shape[0])

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in) -> (batch, out)."""
        return super().forward(x).float()

    def sides(self) -> dict[str, nn.Parameter]:
        """What learns beside the edges, by the names of the file's tensors."""
        return {
            name: parameter
            for layer in self.form_layers()
            for name, parameter in layer.sides().items()
        }

    def form_layers(self) -> Iterator[FormLayer]:
        """The layers, typed."""
        for layer in self.layers:
            assert isinstance(layer, FormLayer)
            yield layer

    def norms(self) -> list[nn.Parameter]:
        """All sides: normalisations, slopes, recurrence weights and biases."""
        return list(self.sides().values())
