"""A checkpoint to be packed: what `pack` asks of it, whatever wrote it.

`kancompress.packing.native` is one of kancompress's own, `kancompress.packing.foreign` another
library's, from its file, its state dict or the live module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kancompress.clustering.clusterer import Edges
from kancompress.clustering.cuts import divisors
from kancompress.config import ClusterConfig, RunOptions, StoredDtype
from kancompress.errors import KancompressError, UsageError, shortened, together
from kancompress.formats.packed.encodings import USUAL, Indices, index_bytes, index_type
from kancompress.formats.safetensors import shown
from kancompress.layers.layer import EdgeLayer
from kancompress.models.records import PackedModel
from kancompress.specs import MAX_CLUSTERS


class SourceLayer(Edges, Protocol):
    """Edges that share a codebook; those that stay as they are do not count.

    `edges` and `coefficients` are known before any vector is read.
    """

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

    def claims(self, clusters: int) -> Sequence[Indices]:
        """What a packed file says of the indices of its layers, in the order of the vectors, where
        edges have one part."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Coded:
    """A layer's codebook (k, c) as it is stored, the labels (n,) of its vectors, and its bias.

    The vectors are the edges, or their parts where they are cut into vectors of c coefficients.
    encoding : name of the way in which the labels are written

    Of a file that is only weighed the codebook and the bias have no numbers, and labels are None.
    """

    codebook: Tensor
    labels: np.ndarray | None
    bias: Tensor | None = None
    encoding: str = USUAL.name

    def nbytes(self, edges: int) -> int:
        """Bytes of codebook and labels, of so many vectors."""
        return self.codebook.nbytes + index_bytes(edges, len(self.codebook), self.encoding)


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
    def layers(self) -> Sequence[SourceLayer]:
        """By the names under which the user gives numbers of clusters."""

    @property
    def names(self) -> Sequence[str]:
        """Of all layers of the network, whether they share a codebook or not."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of it, each at most 500 characters."""

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


def wrong_numbers(config: ClusterConfig, coefficients: Mapping[str, int]) -> list[KancompressError]:
    """What is wrong with the numbers of clusters and of parts.

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
    wrong += [
        UsageError(f"{k} clusters are out of range: 1 to {MAX_CLUSTERS}.")
        for k in (config.common, *config.layers.values())
        if not 1 <= k <= MAX_CLUSTERS
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
}


def codebook_dtype(config: ClusterConfig, source: torch.dtype) -> torch.dtype:
    """The type of stored centroids; `source` is what StoredDtype.SOURCE (the default) means."""
    return DTYPES.get(config.codebook_dtype, source)


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
