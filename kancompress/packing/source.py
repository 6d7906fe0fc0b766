"""A checkpoint to be packed: what `pack` asks of it, whatever wrote it.

`kancompress.packing.native` is one of kancompress's own, `kancompress.packing.foreign` another
library's, from its file, its state dict or the live module.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kancompress.clustering.clusterer import Edges
from kancompress.clustering.cuts import divisors
from kancompress.clustering.prices import of_claims
from kancompress.config import ClusterConfig, IndexCoding, KMeans, RunOptions, StoredDtype
from kancompress.errors import KancompressError, UsageError, shortened, together
from kancompress.formats.packed.encodings import (
    PLAIN,
    USUAL,
    Indices,
    index_bytes,
    index_type,
    number_bytes,
)
from kancompress.formats.safetensors import shown
from kancompress.layers.layer import EdgeLayer
from kancompress.models.records import PackedLayer, PackedModel
from kancompress.models.tensors import outline_of
from kancompress.specs import MAX_CLUSTERS


class SourceLayer(Edges, Protocol):
    """Edges that share a codebook; those that stay as they are, or are masked, do not count.

    `edges` and `coefficients` are known before any vector is read.
    """

    @property
    def masked(self) -> int:
        """Edges that compute nothing, whose coefficients come back as zeros."""

    @property
    def kept(self) -> int:
        """Edges that stay as they are."""

    @property
    def coefficients(self) -> int:
        """Numbers of a vector."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of the vectors."""

    @property
    def stored_dtype(self) -> torch.dtype:
        """Type of the centroids where the configuration names none."""

    @property
    def whole(self) -> bool:
        """Whether the vectors are all edges of one layer of the network."""

    @property
    def scattered(self) -> bool:
        """Whether what stays dense is several tensors, or has factors beside it."""

    def claims(self, clusters: int) -> Sequence[Indices]:
        """What a packed file says of the indices of its layers, in the order of the vectors, where
        edges have one part.

        clusters : of the whole codebook, with what masked edges have
        """

    def with_masked(self, labels: np.ndarray) -> np.ndarray:
        """Labels (n, ...) of all edges with an index, 0 of masked ones, from those of the
        vectors."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Coded:
    """A layer's codebook (k, c) as it is stored, the labels (n,) of its vectors, and its bias.

    The vectors are the edges, or their parts where they are cut into vectors of c coefficients.
    encoding : name of the way in which the labels are written
    numbers  : the same of the codebook
    plain    : the codebook is the vectors themselves (n, d), and there are no labels

    Of a file that is only weighed the codebook and the bias have no numbers, and labels are None.
    """

    codebook: Tensor
    labels: np.ndarray | None
    bias: Tensor | None = None
    encoding: str = USUAL.name
    numbers: str = PLAIN.name
    plain: bool = False

    def nbytes(self, edges: int) -> int:
        """Bytes of codebook and labels, of so many edges with an index."""
        return self.codebook_bytes + index_bytes(edges, len(self.codebook), self.encoding)

    @property
    def codebook_bytes(self) -> int:
        """Bytes of the codebook in the file."""
        return number_bytes(outline_of(self.codebook), "codebook", self.numbers)

    def like(self) -> Coded:
        """The same without numbers."""
        bias = None if self.bias is None else like(self.bias)
        return replace(self, codebook=like(self.codebook), labels=None, bias=bias)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Computed:
    """What layers of a network compute, by name.

    refused : other layers, to why that is not known; notes : what was taken for granted
    """

    layers: Mapping[str, EdgeLayer]
    refused: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Assembly(Protocol):
    """What makes a packed model of coded layers."""

    def assemble(self, coded: Mapping[str, Coded]) -> PackedModel | None:
        """The packed model; layers that are not in `coded` stay dense.

        None where that cannot be packed: another library's checkpoint without any coded layer.
        """


class Source(Assembly, Protocol):
    """A checkpoint to be packed."""

    @property
    def where(self) -> str:
        """What messages call it."""

    @property
    def file_bytes(self) -> int:
        """Bytes of its file."""

    @property
    def used_bytes(self) -> int:
        """The same without bytes that no tensor uses: what ratios divide."""

    @property
    def layers(self) -> Sequence[SourceLayer]:
        """By the names under which the user gives numbers of clusters."""

    @property
    def names(self) -> Sequence[str]:
        """Of all layers of the network, whether they share a codebook or not."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of it, each at most 500 characters."""

    def folded(self, names: Collection[str]) -> tuple[str, ...]:
        """What the user should know of factors that are folded into the edges of these layers, by
        their names in `layers`."""

    def known(self, options: RunOptions) -> Computed:
        """What its layers compute, as far as that is known, by name.

        Raises UsageError where an option means nothing for all of them.
        """

    def problems(self, config: ClusterConfig) -> list[KancompressError]:
        """All that is wrong with it and with what is asked for, before any work."""

    def outline(self) -> Assembly:
        """The same without numbers, to weigh files that are never made."""


def check(source: Source, config: ClusterConfig) -> None:
    """Refuse what cannot be packed so, with all reasons in one error."""
    if wrong := source.problems(config):
        raise together(wrong)
    if config.kmeans is KMeans.SCIKIT_LEARN:
        for layer in source.layers:
            held = layer.edges * layer.coefficients * torch.float32.itemsize
            if held > config.memory:
                raise UsageError(
                    f"Layer {shown(layer.name)} takes {held:,} bytes as k-means compares it, more"
                    f" than `memory` ({config.memory:,}), and scikit-learn's k-means has all of it"
                    ' in memory. Give more, or take `kmeans="own"`.',
                    where=source.where,
                    layer=layer.name,
                    fields=("memory", "kmeans"),
                )


def most_clusters(layer: SourceLayer) -> int:
    """Most centroids that the vectors of a layer can have; masked edges have one more."""
    return MAX_CLUSTERS - (1 if layer.masked else 0)


def coded_of(
    layer: SourceLayer,
    codebook: Tensor,
    labels: np.ndarray,
    bias: Tensor | None = None,
    *,
    numbers: str = PLAIN.name,
) -> Coded:
    """A layer with these centroids and labels of its vectors; masked edges point to zeros, which
    are the first row of the codebook then.

    numbers : name of the way in which the codebook is written
    """
    if layer.masked:
        width = codebook.shape[1]
        codebook = torch.cat([codebook.new_zeros(1, width), codebook])
        labels = layer.with_masked(labels.reshape(-1, layer.coefficients // width)).reshape(-1)
    return Coded(codebook=codebook, labels=labels, bias=bias, numbers=numbers)


def inputs_of(layer: SourceLayer) -> np.ndarray:
    """Number of the input of each vector of a layer, (n,)."""
    inputs = of_claims(layer.claims(2))
    if layer.masked:
        return inputs[layer.with_masked(np.zeros(layer.edges, np.int64)) > 0]
    return inputs


def coded_for(source: Source, config: ClusterConfig) -> ClusterConfig:
    """The configuration with the encoding of indices that a source has where none is asked for: the
    smaller of each layer where edges are masked."""
    if config.indices is None and any(layer.masked for layer in source.layers):
        return replace(config, indices=IndexCoding.AUTO)
    return config


def wrong_numbers(config: ClusterConfig, coefficients: Mapping[str, int]) -> list[KancompressError]:
    """What is wrong with the names of layers, and with the numbers of parts.

    coefficients : of each edge of the layers, by their names
    """
    wrong: list[KancompressError] = [
        UsageError(
            f"There is no layer {shown(name)} to give a number of {what}; the layers are"
            f" {listed(list(coefficients))}.",
            layer=name,
        )
        for what, given in (("clusters", config.layers), ("parts", config.layer_parts))
        for name in given
        if name not in coefficients
    ]
    return wrong + [
        UsageError(
            f"Layer {shown(name)} has edges of {d} coefficients, which cannot be cut into {parts}"
            f" parts of one size. Possible numbers: {listed(list(map(str, divisors(d))))}.",
            layer=name,
            fields=("parts", "layer_parts"),
        )
        for name, d in coefficients.items()
        if (parts := config.given_parts(name)) is not None and (parts < 1 or d % parts)
    ]


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names with commas, cut, and the first of them where there are very many."""
    shorter = [shortened(name, _NAME) for name in names[:most]]
    while sum(map(len, shorter)) > _NAMES and len(shorter) > 1:
        del shorter[-1]
    rest = len(names) - len(shorter)
    return ", ".join(shorter) + (f" and {rest:,} more" if rest > 0 else "")


# Most characters of one name in a message, and of all.
_NAME, _NAMES = 80, 300


# --- types and shapes ------------------------------------------------------------------------

DTYPES = {
    StoredDtype.FLOAT32: torch.float32,
    StoredDtype.FLOAT16: torch.float16,
    StoredDtype.BFLOAT16: torch.bfloat16,
    StoredDtype.INT8: torch.int8,
}


def own_types_only(stored: StoredDtype, where: str) -> UsageError:
    """The error for a type of sides where they are another library's."""
    return UsageError(
        f"`side_dtype={stored}` is for networks of kancompress's own; another library's tensors"
        " come back in their own types. Leave it out.",
        where=where,
        fields=("side_dtype",),
    )


def codebook_dtype(config: ClusterConfig, source: torch.dtype) -> torch.dtype:
    """The stored type of centroids, as of `layers.stored`.

    source : what StoredDtype.SOURCE (the default) means
    """
    return DTYPES.get(config.codebook_dtype, source)


def with_codebook(layer: PackedLayer, codebook: Tensor, encoding: str) -> PackedLayer:
    """A layer that stores a codebook, whose numbers are written so."""
    numbers = {role: name for role, name in layer.numbers.items() if role != "codebook"}
    if encoding != PLAIN.name:
        numbers["codebook"] = encoding
    return replace(layer, codebook=codebook, numbers=numbers)


def blank(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor without numbers."""
    return torch.empty(tuple(shape), dtype=dtype, device="meta")


def like(tensor: Tensor) -> Tensor:
    """A tensor's shape and type."""
    return blank(tensor.shape, tensor.dtype)


def index_of(clusters: int, labels: np.ndarray | None) -> np.ndarray | None:
    """The index of a layer's packed edges into a codebook of so many centroids.

    labels : None for an index that is only weighed
    """
    return None if labels is None else labels.astype(index_type(clusters))
