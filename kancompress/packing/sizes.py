"""The packed file's size before anything is clustered, and the largest k that a size allows.

A layer's packed size follows from its shape, the type of its codebook and the number of its
distinct vectors, so one reading of the checkpoint tells the size of the file at every number of
clusters, to the byte, header included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from kancompress.clustering.kmeans import count_distinct, count_separate
from kancompress.config import ClusterConfig, HeaderForm, IndexCoding, StoredDtype
from kancompress.errors import KancompressError, TooSmallError, UsageError
from kancompress.formats.packed.encodings import layer_bytes
from kancompress.layers.stored import encoding_of, in_memory, scale_bytes
from kancompress.models.records import sizes
from kancompress.packing.encoded import bounding
from kancompress.packing.lossless import Way, smallest, ways
from kancompress.packing.native import NativeSource
from kancompress.packing.source import (
    Assembly,
    Coded,
    Source,
    SourceLayer,
    blank,
    codebook_dtype,
)
from kancompress.specs import MAX_CLUSTERS

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """What the size of a codebook and of its indices depends on.

    edges, coefficients : of all layers that share the codebook, edges that are clustered; where
               edges are cut into parts, those and their coefficients
    masked   : edges, or parts, beside them that point to a centroid of their own, which is zero
    source   : type of the vectors
    default  : type of the codebook where the configuration names none
    distinct : number of distinct vectors, at most 65,537
    separate : those of them that k-means tells apart in float32
    ways     : to store the layer without loss, where it would grow
    """

    edges: int
    masked: int
    coefficients: int
    source: torch.dtype
    default: torch.dtype
    distinct: int
    separate: int
    ways: Sequence[Way]

    @property
    def dense_bytes(self) -> int:
        """Bytes of the vectors written out."""
        return (self.edges + self.masked) * self.coefficients * self.source.itemsize

    def rows(self, clusters: int) -> int:
        """Centroids that are stored, with the one of masked edges."""
        zero = 1 if self.masked else 0
        return min(clusters, self.distinct, MAX_CLUSTERS - zero) + zero

    def packed_bytes(self, clusters: int, dtype: torch.dtype) -> int:
        """Bytes of codebook and indices; never less for more clusters."""
        edges, rows = self.edges + self.masked, self.rows(clusters)
        scale = scale_bytes(dtype)
        return layer_bytes(edges, self.coefficients, dtype.itemsize, rows, scale=scale)

    def grows(self, clusters: int, config: ClusterConfig) -> bool:
        """Whether the vectors would take more bytes so than as they are."""
        if not self.edges or config.force_pack:
            return False
        return self.packed_bytes(clusters, self.dtype(config)) >= self.dense_bytes

    def dtype(self, config: ClusterConfig) -> torch.dtype:
        """Type of the codebook."""
        return codebook_dtype(config, self.default) if self.edges else self.default

    def is_certain(self, clusters: int, config: ClusterConfig) -> bool:
        """Whether k-means is bound to use every centroid: it may merge what rounds to the same."""
        dtype = codebook_dtype(config, self.default)
        return clusters >= self.distinct or (dtype.itemsize >= 4 and clusters < self.separate)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Plan:
    """A checkpoint as its packed file depends on numbers of clusters.

    vectors : by the name under which the user gives the layer its own number of clusters
    outline : makes the packed model without numbers
    source  : bytes of the source's file
    """

    vectors: Mapping[str, Vectors]
    outline: Assembly
    source: int

    @classmethod
    def of(cls, source: Source, config: ClusterConfig | None = None) -> Plan:
        """The plan of a source, each layer of which is read once.

        config : says into how many parts edges are cut
        """
        config = config or ClusterConfig()
        vectors = {
            layer.name: _measured(layer, config.parts_of(layer.name))
            for layer in source.layers
            if layer.edges + layer.masked
        }
        return cls(vectors=vectors, outline=source.outline(), source=source.file_bytes)

    def size(self, config: ClusterConfig) -> Size | None:
        """(header, payload) bytes of the file that `cluster` writes, or no less than they will be
        (`is_certain`); None where it refuses."""
        coded: dict[str, Coded] = {}
        growing: dict[str, Sequence[Way]] = {}
        for name, vectors in self.vectors.items():
            if vectors.grows(config.of(name), config):
                growing[name] = vectors.ways
                continue
            rows, dtype = vectors.rows(config.of(name)), vectors.dtype(config)
            coded[name] = Coded(
                codebook=blank((rows, vectors.coefficients), in_memory(dtype)),
                labels=None,
                encoding=bounding(config.coding),
                numbers=encoding_of(dtype),
            )
        model = self.outline.assemble(coded)
        if growing:
            found = smallest(self.outline, coded, growing)
            if found is None or (model is None and found[1] > self.source):
                return None
            ways = {name: way for name, way in found[0].items() if way is not None}
            model = self.outline.assemble(coded | ways)
        return None if model is None else sizes(replace(model, header=config.header_form))

    def is_certain(self, config: ClusterConfig) -> bool:
        """Whether `size` is bound to be what clustering gives."""
        return config.coding is IndexCoding.BITS and all(
            vectors.is_certain(config.of(name), config) for name, vectors in self.vectors.items()
        )


def _measured(layer: SourceLayer, parts: int) -> Vectors:
    vectors = layer.in_parts().cut(parts)
    distinct = count_distinct(vectors, MAX_CLUSTERS)
    return Vectors(
        edges=vectors.shape[0],
        masked=layer.masked * parts,
        coefficients=layer.coefficients // parts,
        source=layer.dtype,
        default=layer.stored_dtype,
        distinct=distinct,
        separate=count_separate(vectors, MAX_CLUSTERS),
        ways=ways(layer, distinct if parts == 1 else None),
    )


# --- the largest k ---------------------------------------------------------------------------


def largest_common(plan: Plan, config: ClusterConfig, *, below: int | None = None) -> int:
    """The largest common number of clusters with which the file has at most `target_bytes`.

    Layers that `config.layers` names keep their own number. `below` leaves out larger numbers.
    Raises KancompressError when no number fits, saying what the smallest file would be; UsageError
    where every layer has a number of its own.
    """
    free = [v for name, v in plan.vectors.items() if name not in config.layers and v.edges]
    if not free and not any(vectors.edges for vectors in plan.vectors.values()):
        raise UsageError(
            "Every edge of the network is masked, so there is no number of clusters to choose;"
            " leave `target_bytes` out.",
            fields=("target_bytes",),
        )
    if not free:
        raise UsageError(
            "`target_bytes` has no layer to choose a number of clusters for: every layer has its"
            " own.",
            fields=("target_bytes",),
        )
    last = min(MAX_CLUSTERS, max(vectors.distinct for vectors in free))
    if below is not None:
        last = min(last, below - 1)
    search = _Search(plan, config)
    starts = [k for k in _turning_points(free, config) if k <= last]
    for start, end in zip(reversed(starts), [last + 1, *reversed(starts)], strict=False):
        if search.fits(start):
            while end - start > 1:
                middle = (start + end) // 2
                start, end = (middle, end) if search.fits(middle) else (start, middle)
            return start
    raise _too_small(search, starts)


@dataclass(slots=True, eq=False)
class _Search:
    plan: Plan
    config: ClusterConfig
    known: dict[int, Size | None] = field(default_factory=dict)

    def size(self, clusters: int) -> Size | None:
        if clusters not in self.known:
            self.known[clusters] = self.plan.size(replace(self.config, clusters=clusters))
        return self.known[clusters]

    def fits(self, clusters: int) -> bool:
        size = self.size(clusters)
        target = self.config.target_bytes
        return size is not None and target is not None and sum(size) <= target


def _turning_points(free: list[Vectors], config: ClusterConfig) -> list[int]:
    """Where the file may become smaller with one more cluster; between them it only grows.

    Those are the numbers at which a layer ceases to be packed; those at which the index gets a
    bit wider cost nothing to look at, too.
    """
    points = {1} | {(1 << width) + 1 for width in range(16)}
    for vectors in free:
        low, high = 0, min(MAX_CLUSTERS, vectors.distinct)
        if not vectors.grows(high, config):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if vectors.grows(middle, config) else (middle, high)
        points.add(high)
    return sorted(points)


def _too_small(search: _Search, starts: list[int]) -> KancompressError:
    found = {k: size for k in starts if (size := search.size(k)) is not None}
    target = search.config.target_bytes
    if not found:
        return KancompressError(
            "Every layer would grow at any number of clusters, and so would the whole file without"
            " loss, so no packed file can be made. Pack all the same with `force_pack`.",
            fields=("force_pack",),
        )
    k = min(found, key=lambda number: (sum(found[number]), number))
    header, payload = found[k]
    config = replace(search.config, clusters=k)
    edges = sum(
        vectors.dense_bytes
        if vectors.grows(own, config)
        else vectors.packed_bytes(own, vectors.dtype(config))
        for name, vectors in search.plan.vectors.items()
        for own in [config.layers.get(name, k)]
    )
    bound = config.coding is not IndexCoding.BITS
    return TooSmallError(
        f"No packed file {'is sure to have' if bound else 'has'} at most {target:,} bytes: the"
        f" smallest, at k = {k}, has {'up to ' if bound else ''}{header + payload:,}, of which"
        f" {header:,} are its header, {edges:,} edges and {payload - edges:,} other tensors."
        + (
            " How far entropy-coded indices are below that is known once all is clustered: give"
            " `clusters`."
            if bound
            else ""
        ),
        fields=("clusters", "header", "side_dtype", "codebook_dtype"),
        hint=_smaller_with(search.plan, config, header + payload),
    )


def _smaller_with(plan: Plan, config: ClusterConfig, size: int) -> str:
    """The settings that would make the smallest file smaller, and how many bytes it would have;
    "" where there are none.

    size : of the file with the settings that it has
    """
    names: list[str] = []
    for setting, value in _SMALLER.items():
        tried, own = replace(config, **{setting: value}), plan
        if setting == "side_dtype":
            if not isinstance(plan.outline, NativeSource):
                continue
            own = replace(plan, outline=replace(plan.outline, side_dtype=StoredDtype(value)))
        found = own.size(tried)
        if found is not None and sum(found) < size:
            names.append(f'`{setting}="{value}"`')
            plan, config, size = own, tried, sum(found)
    if not names:
        return ""
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    bound = "at most " if config.coding is not IndexCoding.BITS else ""
    return f"With {listed} it has {bound}{size:,}."


# What makes a file smaller that has no fewer centroids.
_SMALLER: Mapping[str, Any] = {
    "header": HeaderForm.SHORT,
    "side_dtype": StoredDtype.INT8,
    "codebook_dtype": StoredDtype.INT8,
}
