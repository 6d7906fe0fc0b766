"""Checkpoints of kancompress's own, to packed models and back."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kancompress.clustering.nearest import one_thread
from kancompress.clustering.vectors import EdgeVectors
from kancompress.config import ClusterConfig, RunOptions, StoredDtype
from kancompress.errors import KancompressError
from kancompress.formats.checkpoint import side_shapes
from kancompress.formats.packed.encodings import PLAIN, Indices
from kancompress.layers.layer import EdgeLayer
from kancompress.layers.network import Network
from kancompress.layers.stored import encoding_of, rounded
from kancompress.models.native import build
from kancompress.models.records import Checkpoint, PackedLayer, PackedModel, dense_twin_sizes
from kancompress.models.tensors import part_of
from kancompress.packing.source import (
    DTYPES,
    Coded,
    Computed,
    blank,
    index_of,
    inputs_of,
    like,
    with_codebook,
    wrong_numbers,
)
from kancompress.specs import SourceSizes


@dataclass(frozen=True, eq=False, kw_only=True)
class NativeSource:
    """A dense or meta checkpoint of kancompress's own, as a `Source`.

    file_bytes : of its file, or of the one that it would have
    side_dtype : in which what is beside the edges is stored
    """

    checkpoint: Checkpoint
    file_bytes: int
    side_dtype: StoredDtype = StoredDtype.SOURCE
    where: str = "The input"

    @cached_property
    def layers(self) -> Sequence[NativeLayer]:
        """As of `Source`."""
        return [NativeLayer(self, number) for number in range(len(self.checkpoint.shapes))]

    @property
    def used_bytes(self) -> int:
        """As of `Source`: our own files hold nothing else."""
        return self.file_bytes

    @property
    def names(self) -> Sequence[str]:
        """As of `Source`."""
        return [layer.name for layer in self.layers]

    @property
    def notes(self) -> tuple[str, ...]:
        """As of `Source`: a checkpoint of ours leaves nothing to be told."""
        return ()

    def folded(self, names: Collection[str]) -> tuple[str, ...]:
        """As of `Source`: edges of ours have no factors."""
        return ()

    def problems(self, config: ClusterConfig) -> list[KancompressError]:
        """As of `Source`."""
        return wrong_numbers(config, {layer.name: layer.coefficients for layer in self.layers})

    def known(self, options: RunOptions) -> Computed:
        """As of `Source`; the checkpoint tells all that there is to know."""
        layers: dict[str, EdgeLayer] = dict(zip(self.names, self.network.kan_layers(), strict=True))
        return Computed(layers=layers)

    @cached_property
    def network(self) -> Network:
        """The network, which generates the edges where the checkpoint is meta."""
        return build(self.checkpoint)

    def coefficients(self, number: int) -> Tensor:
        """Coefficients (*shape, coefficient) of a layer, generated where the checkpoint is meta."""
        if self.checkpoint.kind == "dense":
            return self.checkpoint.tensors[f"{number}.coefficients"]
        with one_thread(), torch.no_grad():
            edges: Tensor = list(self.network.kan_layers())[number].edges()
            return edges.contiguous()

    def sides(self, number: int) -> dict[str, Tensor]:
        """What a layer has beside its coefficients, by role, copied into its stored type.

        Raises KancompressError where that is too narrow.
        """
        checkpoint = self.checkpoint
        return {
            role: stored_side(
                checkpoint.tensors[f"{number}.{role}"], f"{number}.{role}", self.side_dtype
            )
            for role in side_shapes(checkpoint.basis, checkpoint.shapes[number])
            if f"{number}.{role}" in checkpoint.tensors
        }

    def with_stored_sides(self) -> Checkpoint:
        """The checkpoint as its packed file will have it beside the edges."""
        sides = {
            f"{number}.{role}": tensor
            for number in range(len(self.checkpoint.shapes))
            for role, tensor in self.sides(number).items()
        }
        return replace(self.checkpoint, tensors={**self.checkpoint.tensors, **sides})

    def beside(self) -> dict[str, Tensor]:
        """Copies of the tensors that are no layer's."""
        return {name: tensor.clone() for name, tensor in self.checkpoint.beside.items()}

    def assemble(self, coded: Mapping[str, Coded]) -> PackedModel:
        """As of `Source`. Raises KancompressError where a side's type is too narrow for it."""
        layers = []
        for layer in self.layers:
            sides = self.sides(layer.number)
            own = coded.get(layer.name)
            if own is not None and own.bias is not None:
                sides["bias"] = stored_side(own.bias, f"{layer.name}.bias", self.side_dtype)
            numbers = {
                role: encoding
                for role, side in sides.items()
                if (encoding := encoding_of(side_dtype_of(side, role, self.side_dtype)))
                != PLAIN.name
            }
            made = PackedLayer(name=layer.name, shape=layer.shape, sides=sides, numbers=numbers)
            if own is None:
                dense = self.coefficients(layer.number).clone()
                layers.append(replace(made, coefficients=dense))
            else:
                index = index_of(len(own.codebook), own.labels)
                made = with_codebook(made, own.codebook, own.numbers)
                parts = layer.coefficients // own.codebook.shape[1]
                layers.append(replace(made, index=index, encoding=own.encoding, parts=parts))
        return self._model(layers)

    def outline(self) -> NativeSource:
        """As of `Source`."""
        return _Outline(
            checkpoint=self.checkpoint,
            file_bytes=self.file_bytes,
            side_dtype=self.side_dtype,
            where=self.where,
        )

    @property
    def dense_bytes(self) -> int:
        """Of the file of the network with all coefficients written out."""
        return self.file_bytes if self._sizes.dense is None else self._sizes.dense[1]

    @cached_property
    def _sizes(self) -> SourceSizes:
        dense = dense_twin_sizes(self.checkpoint) if self.checkpoint.kind == "meta" else None
        return SourceSizes(tensors=self.checkpoint.tensor_bytes, file=self.file_bytes, dense=dense)

    def _model(self, layers: Sequence[PackedLayer]) -> PackedModel:
        checkpoint = self.checkpoint
        return PackedModel(
            layers=tuple(layers),
            source=self._sizes,
            basis=checkpoint.basis,
            data=checkpoint.data,
            tensors=self.beside(),
            conv=checkpoint.conv,
        )


@dataclass(frozen=True, slots=True, eq=False)
class NativeLayer:
    """A layer of a `NativeSource`, as a `SourceLayer`."""

    source: NativeSource
    number: int

    @property
    def name(self) -> str:
        """As of `Edges`: its number."""
        return str(self.number)

    @property
    def shape(self) -> tuple[int, ...]:
        """(out, in) or (out, in, rows, columns)."""
        return tuple(self.source.checkpoint.shapes[self.number])

    @property
    def edges(self) -> int:
        """As of `Edges`."""
        return math.prod(self.shape)

    @property
    def coefficients(self) -> int:
        """As of `SourceLayer`."""
        return self.source.checkpoint.basis.coefficients

    @property
    def dtype(self) -> torch.dtype:
        """As of `SourceLayer`."""
        return torch.float32

    @property
    def stored_dtype(self) -> torch.dtype:
        """As of `SourceLayer`."""
        return torch.float32

    @property
    def whole(self) -> bool:
        """As of `SourceLayer`."""
        return True

    @property
    def masked(self) -> int:
        """As of `SourceLayer`."""
        return 0

    @property
    def kept(self) -> int:
        """As of `SourceLayer`."""
        return 0

    @property
    def scattered(self) -> bool:
        """As of `SourceLayer`: they are one tensor."""
        return False

    def inputs(self) -> np.ndarray:
        """As of `Edges`."""
        return inputs_of(self)

    def claims(self, clusters: int) -> Sequence[Indices]:
        """As of `SourceLayer`."""
        return [Indices(f"{self.name}.index", self.edges, clusters, self.shape)]

    def with_masked(self, labels: np.ndarray) -> np.ndarray:
        """As of `SourceLayer`."""
        return labels

    def vectors(self) -> Tensor:
        """As of `Edges`."""
        coefficients = self.source.coefficients(self.number)
        return coefficients.reshape(-1, coefficients.shape[-1])

    def in_parts(self) -> EdgeVectors:
        """As of `Edges`: generated ones are made whole."""
        checkpoint, name, d = self.source.checkpoint, f"{self.name}.coefficients", self.coefficients
        first = part_of(checkpoint.tensors, name, 0, 1) if checkpoint.kind == "dense" else None
        if first is None:
            return EdgeVectors.of(self.vectors())

        def read(start: int, stop: int) -> Tensor:
            found = part_of(checkpoint.tensors, name, start * d, stop * d)
            assert found is not None
            return found.reshape(-1, d)

        return EdgeVectors(edges=self.edges, coefficients=d, source=first.dtype, read=read)


class _Outline(NativeSource):
    """A source whose tensors have types and shapes, but no numbers."""

    def coefficients(self, number: int) -> Tensor:
        """As of `NativeSource`."""
        layer = self.layers[number]
        return blank((*layer.shape, layer.coefficients), layer.dtype)

    @cached_property
    def _sides(self) -> list[dict[str, Tensor]]:
        numbers = range(len(self.layers))
        return [{r: like(t) for r, t in super(_Outline, self).sides(n).items()} for n in numbers]

    def sides(self, number: int) -> dict[str, Tensor]:
        """As of `NativeSource`."""
        return dict(self._sides[number])

    def beside(self) -> dict[str, Tensor]:
        """As of `NativeSource`."""
        return {name: like(tensor) for name, tensor in self.checkpoint.beside.items()}


def side_dtype_of(tensor: Tensor, role: str, stored: StoredDtype) -> torch.dtype:
    """The stored type of a tensor beside the edges, as of `layers.stored`.

    Of what would be `int8`, biases are, and normalisations without running statistics.
    """
    if stored == StoredDtype.INT8 and not (role == "bias" or (role, len(tensor)) == ("norm", 2)):
        return torch.float16
    return DTYPES.get(stored, tensor.dtype)


def stored_side(tensor: Tensor, name: str, stored: StoredDtype) -> Tensor:
    """A copy of a tensor beside the edges in its stored type.

    Raises KancompressError where that is too narrow.
    """
    role = name.rpartition(".")[2]
    narrow = rounded(tensor.clone(), side_dtype_of(tensor, role, stored), role)
    if not narrow.is_meta and not narrow.isfinite().all():
        raise KancompressError(
            f"{name} has numbers up to {float(tensor.abs().max()):.3g}, too large for {stored};"
            ' use `side_dtype="float32"`.',
            tensor=name,
            fields=("side_dtype",),
        )
    return narrow


def dense_coefficients(checkpoint: Checkpoint) -> Iterator[Tensor]:
    """Coefficients (*shape, coefficient) of each layer, generated where the source is meta."""
    source = NativeSource(checkpoint=checkpoint, file_bytes=0)
    for number in range(len(source.layers)):
        yield source.coefficients(number)
