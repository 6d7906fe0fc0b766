"""Layers applied one after another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from kancompress.formats.checkpoint import HEAD
from kancompress.formats.packed.forms import FormRecord
from kancompress.layers.edges import Codebook
from kancompress.layers.layer import EdgeLayer, Head


class Network(nn.Module):
    """Layers applied one after another.

    codebooks : name of a packed layer to the codebook that it stores
    head      : the dense layer behind convolutions
    """

    def __init__(
        self,
        layers: Sequence[EdgeLayer],
        codebooks: Mapping[str, Codebook] | None = None,
        head: Head | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.codebooks = dict(codebooks or {})
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in), or (batch, channels, rows, columns) -> (batch, out)."""
        for layer in self.layers:
            x = layer(x)
        return x if self.head is None else self.head(x)

    def kan_layers(self) -> Iterator[EdgeLayer]:
        """The layers, typed."""
        for layer in self.layers:
            assert isinstance(layer, EdgeLayer)
            yield layer

    def sides(self) -> Mapping[str, Tensor]:
        """What there is beside the edges, as files name it: biases, norms, the head and so on."""
        head = () if self.head is None else (self.head.weight, self.head.bias)
        return {
            f"{number}.{role}": tensor
            for number, layer in enumerate(self.kan_layers())
            for role, tensor in layer.sides().items()
        } | dict(zip(HEAD, head, strict=False))

    def norms(self) -> list[nn.Parameter]:
        """Scales, shifts, betas and slopes, which fine-tuning may train."""
        return [parameter for layer in self.kan_layers() for parameter in layer.norms()]

    def has_statistics(self) -> bool:
        """Whether batch normalisations keep running statistics."""
        return any(layer.has_statistics for layer in self.kan_layers())

    @torch.no_grad()
    def renew_statistics(self, x: Tensor) -> None:
        """Running statistics as these rows give them without dropout, which evaluation has."""
        for layer in self.kan_layers():
            with layer.renewing():
                x = layer.train()(x)


class ForeignNetwork(Network):
    """Layers of other libraries, applied in the order of the file; outputs are float32.

    notes  : what was taken for granted that the tensors do not tell
    forms  : what the layers compute beyond their tensors, by their names, as packed files say it
    widths : inputs and outputs
    silent : whether every edge is masked, so that the outputs are the same whatever the inputs
    """

    def __init__(
        self,
        layers: Sequence[EdgeLayer],
        codebooks: Mapping[str, Codebook] | None = None,
        notes: Sequence[str] = (),
        forms: Mapping[str, FormRecord] | None = None,
    ) -> None:
        super().__init__(layers, codebooks)
        self.notes = tuple(notes)
        self.forms = dict(forms or {})
        self.widths = (layers[0].shape[1], layers[-1].shape[0])
        self.silent = False

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in) -> (batch, out)."""
        return super().forward(x).float()

    def sides(self) -> dict[str, nn.Parameter]:
        """What learns beside the edges, by the names of the file's tensors."""
        return {
            name: parameter
            for layer in self.kan_layers()
            for name, parameter in layer.learnt_sides().items()
        }

    def norms(self) -> list[nn.Parameter]:
        """All sides: normalisations, slopes, recurrence weights and biases."""
        return list(self.sides().values())
