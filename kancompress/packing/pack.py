"""The way from a checkpoint to its packed model, the same for all of them and all methods."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from kancompress.clustering import kmeans
from kancompress.clustering.clusterer import (
    ByCoefficients,
    ByFunctions,
    Clustered,
    Clusterer,
    points,
    shared,
)
from kancompress.clustering.cuts import cut
from kancompress.clustering.magnitudes import relative_distortion
from kancompress.clustering.network import Calibrated
from kancompress.config import RUN_FIELDS, ClusterConfig, IndexCoding, Metric, RunOptions
from kancompress.errors import KancompressError, UsageError, shortened
from kancompress.formats.safetensors import shown
from kancompress.models import files
from kancompress.models.parametrization import Parametrization
from kancompress.models.records import PackedModel, sizes
from kancompress.models.user_module import load_into
from kancompress.packing.encoded import encoded, index_bytes
from kancompress.packing.sizes import Plan, Size, largest_common
from kancompress.packing.source import Coded, Source, SourceLayer, check, codebook_dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerClustering:
    """What clustering did to one layer; `clusters` is None where it stays dense.

    distortion : squared distance of the edge vectors to their centroids, relative to their
                 squared distance to the layer's mean vector; of their parts, where they are cut
    parts      : vectors that the coefficients of an edge are cut into
    """

    name: str
    edges: int
    coefficients: int
    clusters: int | None
    requested: int
    iterations: int
    repaired: int
    exact: bool
    distortion: float
    packed_bytes: int
    dense_bytes: int
    parts: int = 1


Report = Callable[[LayerClustering], None]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Compression:
    """Result of `cluster` and `compress`.

    model      : the packed model
    layers     : what was done to each layer, in the order of the file
    notes      : what to know of the source
    calibrated : what was chosen and measured, where rows were given
    """

    model: PackedModel
    layers: list[LayerClustering]
    notes: tuple[str, ...] = ()
    calibrated: Calibrated | None = None

    def state_dict(self) -> dict[str, Tensor]:
        """The state dict with the packed coefficients; all else is bit-identical."""
        return self.model.state_dict()

    def apply_to(self, model: nn.Module) -> None:
        """Copy the whole state dict into a module of the same architecture, in place.

        The module keeps its dtypes and devices. It may be the one that was compressed; prefixes of
        wrappers (DistributedDataParallel, torch.compile, FSDP) and one that all names begin with
        may differ. Raises UsageError naming the tensors that do not fit; the module is then
        unchanged.
        """
        load_into(model, self.state_dict(), "The compressed model")

    def parametrize(self, model: nn.Module) -> Parametrization:
        """As `apply_to`, but the codebooks become parameters: see `kancompress.parametrize`."""
        return Parametrization(model, self.model)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> int:
        """Write the packed file; returns its bytes.

        Raises UsageError when the file exists and `force` is not given, KancompressError when it
        cannot be written.
        """
        return files.save(self.model, path, force=force)


def pack(
    source: Source, clusterer: Clusterer, config: ClusterConfig, *, report: Report | None = None
) -> Compression:
    """Cluster every layer and pack the result.

    With `config.target_bytes` the largest common number of clusters is taken whose file has at
    most so many bytes.

    Raises one error with all that is wrong with the source and with `config`, before any work;
    UsageError when no number of clusters fits; and KancompressError when no layer would shrink.
    """
    check(source, config)
    if config.target_bytes is None:
        return _pack(source, clusterer, config, report)
    plan = Plan.of(source, config)
    k = largest_common(plan, config)
    while True:
        packed = _pack(source, clusterer, replace(config, clusters=k), report)
        if sum(sizes(packed.model)) <= config.target_bytes:
            return packed
        # k-means left centroids unused, which as a rule makes the file smaller
        k = largest_common(plan, config, below=k)


def predict(source: Source, config: ClusterConfig) -> Size:
    """(header, payload) bytes of the file that plain k-means gives.

    What cannot be known is packed to see. Raises one error with all that is wrong with the source
    and with `config`; KancompressError when no layer would shrink.
    """
    check(source, config)
    plan = Plan.of(source, config)
    size = plan.size(config) if plan.is_certain(config) else None
    return size or sizes(pack(source, ByCoefficients.of(config), config).model)


def plain_clusterer(
    source: Source, config: ClusterConfig, options: RunOptions | None = None
) -> tuple[Clusterer, tuple[str, ...]]:
    """What clusters without rows, as `config.metric` says, and what to say of it.

    Layers whose basis is not known, those that keep some of their edges or share a codebook, and
    those whose edges are cut into parts, are compared by coefficients. Where functions are to be
    compared, raises one error with all that is wrong with the source and with `config`, and
    UsageError when the basis of no layer is known.
    """
    plain = ByCoefficients.of(config)
    if config.metric is not Metric.GRID:
        return plain, ()
    check(source, config)
    known = source.known(options or RunOptions())
    if not known.layers:
        raise UsageError(
            "`metric=grid` needs a layer whose basis is known."
            f" {next(iter(known.refused.values()))}",
            where=source.where,
            layer=next(iter(known.refused)),
            fields=("metric", *RUN_FIELDS),
        )
    dtypes = {layer.name: layer.stored_dtype for layer in source.layers if layer.whole}
    layers = {
        name: layer
        for name, layer in known.layers.items()
        if name in dtypes and config.parts_of(name) == 1
    }
    notes = [f"assumed {note}" for note in known.notes]
    notes += [
        f"compared by coefficients: {name}"
        + (f"; {known.refused[name]}" if name in known.refused else "")
        for name in source.names
        if name not in layers
    ]
    clusterer = ByFunctions(
        layers=layers,
        dtypes={name: codebook_dtype(config, dtypes[name]) for name in layers},
        otherwise=plain,
        seed=config.seed,
        max_iterations=config.max_iterations,
    )
    return clusterer, tuple(map(shortened, notes))


def _pack(
    source: Source, clusterer: Clusterer, config: ClusterConfig, report: Report | None
) -> Compression:
    clusterer = shared(clusterer, source.layers, config)
    coded: dict[str, Coded] = {}
    results: list[LayerClustering] = []
    for layer in source.layers:
        if not layer.edges:
            continue
        result, own = _pack_layer(layer, clusterer, config)
        if own is not None:
            coded[layer.name] = own
        results.append(result)
        if report:
            report(result)
    model = source.assemble(coded)
    if model is None:
        raise KancompressError(
            f"{source.where}: every KAN layer would grow at this number of clusters, so nothing was"
            " packed. Take fewer clusters, or pack all the same with `force_pack`.",
            where=source.where,
            fields=("force_pack",),
        )
    if config.coding is not IndexCoding.BITS:
        model = encoded(model, config.coding)
    return Compression(model=model, layers=results)


def _pack_layer(
    layer: SourceLayer, clusterer: Clusterer, config: ClusterConfig
) -> tuple[LayerClustering, Coded | None]:
    """What was done to a layer, and its codebook and labels; None where it stays dense.

    It does where that was chosen, and where its packed form would be no smaller.
    """
    clusters = config.of(layer.name)
    vectors = layer.vectors()
    found = clusterer.cluster(layer.name, cut(vectors, config.parts_of(layer.name)), clusters)
    if found is None:
        return _dense(
            layer, clusters, layer.edges * layer.coefficients * layer.dtype.itemsize
        ), None
    parts = layer.coefficients // found.clustering.centroids.shape[1]
    vectors = cut(vectors, parts)
    codebook, labels = _stored(found, vectors, layer, codebook_dtype(config, layer.stored_dtype))
    coded = Coded(codebook=codebook, labels=labels, bias=found.bias)
    packed_bytes = coded.nbytes(len(vectors))
    if config.coding is not IndexCoding.BITS:
        claims = [claim.cut(parts) for claim in layer.claims(len(codebook))]
        packed_bytes = codebook.nbytes + index_bytes(labels, claims, config.coding)
    stays = packed_bytes >= vectors.nbytes and not config.force_pack
    result = LayerClustering(
        name=layer.name,
        edges=layer.edges,
        coefficients=layer.coefficients,
        clusters=None if stays else len(codebook),
        requested=clusters,
        iterations=found.clustering.iterations,
        repaired=found.clustering.repaired,
        exact=found.clustering.exact,
        distortion=0.0
        if stays
        else relative_distortion(points(vectors), codebook.double().numpy(), labels),
        packed_bytes=packed_bytes,
        dense_bytes=vectors.nbytes,
        parts=parts,
    )
    return result, None if stays else coded


def _dense(layer: SourceLayer, clusters: int, size: int) -> LayerClustering:
    """A layer that was chosen to stay dense."""
    return LayerClustering(
        name=layer.name,
        edges=layer.edges,
        coefficients=layer.coefficients,
        clusters=None,
        requested=clusters,
        iterations=0,
        repaired=0,
        exact=False,
        distortion=0.0,
        packed_bytes=size,
        dense_bytes=size,
    )


def _stored(
    found: Clustered, vectors: Tensor, layer: SourceLayer, dtype: torch.dtype
) -> tuple[Tensor, np.ndarray]:
    """The codebook in its stored type, and the labels nearest to what is stored."""
    clustering = found.clustering
    codebook = _rounded(clustering, dtype, layer.name, vectors.dtype)
    if found.final or clustering.exact or dtype in (torch.float32, torch.float64):
        return codebook, clustering.labels
    labels = kmeans.assign(points(vectors), codebook.double().numpy())
    used, labels = np.unique(labels, return_inverse=True)
    return codebook[torch.from_numpy(used)], labels


def _rounded(
    found: kmeans.Clustering, dtype: torch.dtype, name: str, source: torch.dtype
) -> Tensor:
    """The codebook in its stored type. Raises KancompressError where that is too narrow."""
    codebook = torch.from_numpy(found.centroids).to(dtype)
    lost = dtype != source and bool(found.centroids.any()) and not codebook.any()
    if lost or not torch.isfinite(codebook).all():
        largest = float(np.abs(found.centroids).max())
        wider = "float32" if _LEAST < largest < torch.finfo(torch.float32).max else "source"
        raise KancompressError(
            f"Layer {shown(name)} has coefficients of {'at most' if lost else 'up to'}"
            f" {largest:.3g}, too {'small' if lost else 'large'} for"
            f" {str(dtype).removeprefix('torch.')}; use `codebook_dtype={wider}`.",
            layer=name,
            fields=("codebook_dtype",),
        )
    return codebook


# What float32 holds without losing digits begins here.
_LEAST = torch.finfo(torch.float32).smallest_normal
