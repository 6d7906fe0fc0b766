"""The way from a checkpoint to its packed model, the same for all of them and all methods."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from kancompress.clustering import kmeans, price_search
from kancompress.clustering.clusterer import (
    ByCoefficients,
    ByFunctions,
    Clustered,
    Clusterer,
    shared,
)
from kancompress.clustering.magnitudes import relative_distortion
from kancompress.clustering.network import Calibrated
from kancompress.clustering.price_search import Tried
from kancompress.clustering.progress import TellShare
from kancompress.clustering.vectors import EdgeVectors
from kancompress.config import RUN_FIELDS, ClusterConfig, IndexCoding, Metric, RunOptions
from kancompress.errors import KancompressError, UsageError, shortened
from kancompress.formats.edges.masks import ALL_MASKED
from kancompress.formats.packed.encodings import layer_bytes
from kancompress.formats.safetensors import shown
from kancompress.layers.stored import encoding_of, rounded, scale_bytes
from kancompress.models import files, lines
from kancompress.models.parametrization import Parametrization
from kancompress.models.records import PackedModel, sizes, told_size
from kancompress.models.user_module import load_into
from kancompress.packing.encoded import encoded, index_bytes
from kancompress.packing.lossless import made, smallest, ways
from kancompress.packing.sizes import Plan, Size, largest_common
from kancompress.packing.source import (
    Coded,
    Source,
    SourceLayer,
    check,
    codebook_dtype,
    coded_for,
    coded_of,
    listed,
    most_clusters,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerClustering:
    """What clustering did to one layer; `clusters` is None where it stays dense.

    edges      : those that are clustered; `masked` are beside them and come back as zeros
    distortion : squared distance of the edge vectors to their centroids, relative to their
                 squared distance to the layer's mean vector; of their parts, where they are cut
    parts      : vectors that the coefficients of an edge are cut into
    foretold   : whether `packed_bytes` is about what the layer would take, as it was not clustered

    >>> import kancompress
    >>> layer = kancompress.cluster("digits.safetensors", clusters=4).layers[0]
    >>> layer.name, layer.edges, layer.clusters, layer.dense_bytes, layer.packed_bytes
    ('0', 2048, 4, 73728, 656)
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
    masked: int = 0
    parts: int = 1
    foretold: bool = False


Report = Callable[[LayerClustering], None]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Compression:
    """Result of `cluster` and `compress`.

    model      : the packed model
    layers     : what was done to each layer, in the order of the file
    notes      : what to know of the source
    calibrated : what was chosen and measured, where rows were given
    unused_bytes : of the source's file, that no tensor uses: no ratio divides them

    >>> import kancompress
    >>> packed = kancompress.cluster("digits.safetensors", clusters=4)
    >>> packed  # a notebook shows its layers
    <Compression: 2 layers, 2,544 bytes, 34.0 times smaller than the dense network (86,600)>
    >>> packed.save("small.safetensors")
    2544
    """

    model: PackedModel
    layers: list[LayerClustering]
    notes: tuple[str, ...] = ()
    calibrated: Calibrated | None = None
    unused_bytes: int = 0

    def __repr__(self) -> str:
        solved = self.calibrated and self.calibrated.solution
        lost = f"error of the outputs {solved.held_out:.3g}" if solved else None
        layers = lines.counted(len(self.layers), "layer")
        return lines.line("Compression", layers, *told_size(self.model, self.unused_bytes), lost)

    def _repr_html_(self) -> str:
        """For notebooks: layers, bytes, ratio, and what was lost."""
        head = (
            "layer",
            "edges",
            "coefficients",
            "centroids",
            "bytes, dense",
            "bytes",
            "distortion",
        )
        rows = [
            (
                layer.name,
                layer.edges,
                layer.coefficients,
                layer.clusters or "dense",
                layer.dense_bytes,
                layer.packed_bytes,
                layer.distortion,
            )
            for layer in self.layers
        ]
        return lines.table(repr(self)[1:-1], head, rows, self.notes)

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
    source: Source,
    clusterer: Clusterer,
    config: ClusterConfig,
    *,
    report: Report | None = None,
    growing: Collection[str] = (),
) -> Compression:
    """Cluster every layer and pack the result.

    With `config.target_bytes` the largest common number of clusters is taken whose file has at
    most so many bytes.

    A layer that would grow is packed without loss, in the way with which the file is smallest.

    growing : layers for which the clusterer has nothing because they would grow
    Raises one error with all that is wrong with the source and with `config`, before any work;
    and KancompressError when no number of clusters fits, and when every layer would grow and the
    whole file would, too.
    """
    check(source, config)
    config = coded_for(source, config)
    if config.target_bytes is None:
        return _pack(source, clusterer, config, report, growing)
    plan = Plan.of(source, config)
    k = largest_common(plan, config)
    while True:
        packed = _pack(source, clusterer, replace(config, clusters=k), report, growing)
        if sum(sizes(packed.model)) <= config.target_bytes:
            return packed
        # k-means left centroids unused, which as a rule makes the file smaller
        k = largest_common(plan, config, below=k)


# How many times as many bytes a file may have at one width, before a price brings it down.
_RICHER = (1.7, 2.6)


def pack_within(
    source: Source,
    clusterer: Clusterer,
    config: ClusterConfig,
    budget: int,
    *,
    report: Report | None = None,
) -> Compression:
    """What `pack` finds in at most so many bytes, or, where it has less distortion, more centroids
    whose indices have a price that brings them down to as many.

    Where `config` has a price there is no search. Raises what `pack` does.
    """
    unpriced = replace(config, target_bytes=budget)
    packed = pack(source, clusterer, unpriced)
    if config.searches_price:
        packed = _priced(source, clusterer, unpriced, budget, packed)
    if report is not None:
        for layer in packed.layers:
            report(layer)
    return packed


def _priced(
    source: Source, clusterer: Clusterer, config: ClusterConfig, budget: int, packed: Compression
) -> Compression:
    plan = Plan.of(source)
    numbers = {
        largest_common(plan, replace(config, target_bytes=int(times * budget))): 1 / times
        for times in _RICHER
    }

    def solve(clusters: int, price: float) -> Tried[Compression]:
        own = coded_for(source, replace(config, clusters=clusters, price=price))
        return _tried(_pack(source, clusterer.at(price), own, None, ()))

    richer = [(price_search.price_for(share), partial(solve, k)) for k, share in numbers.items()]
    found = price_search.least_error(budget, _tried(packed), richer)
    assert found is not None
    return found.found


def _tried(packed: Compression) -> Tried[Compression]:
    """With its error: the distortions of all layers together."""
    error = sum(layer.distortion for layer in packed.layers)
    return Tried(packed, sum(sizes(packed.model)), error)


def so_far(source: Source, clusterer: Clusterer, config: ClusterConfig) -> PackedModel | None:
    """The packed model of layers that are clustered already, the others as they are; None where it
    would have none."""
    config = coded_for(source, config)
    found = (_pack_layer(layer, clusterer, config) for layer in source.layers if _counts(layer))
    return source.assemble({one.result.name: one.coded for one in found if one.coded is not None})


def predict(source: Source, config: ClusterConfig) -> Size:
    """(header, payload) bytes of the file that plain k-means gives.

    What cannot be known is packed to see. Raises one error with all that is wrong with the source
    and with `config`; KancompressError where the file would be larger than the source.
    """
    check(source, config)
    config = coded_for(source, config)
    plan = Plan.of(source, config)
    size = plan.size(config) if plan.is_certain(config) else None
    return size or sizes(pack(source, ByCoefficients.of(config, source.layers), config).model)


def plain_clusterer(
    source: Source,
    config: ClusterConfig,
    options: RunOptions | None = None,
    tell: TellShare | None = None,
    device: torch.device | None = None,
) -> tuple[Clusterer, tuple[str, ...]]:
    """What clusters without rows, as `config.metric` says, and what to say of it.

    device : for large layers that are compared by coefficients; the CPU when None

    Layers whose basis is not known, those that keep some of their edges or share a codebook, and
    those whose edges are cut into parts, are compared by coefficients. Where functions are to be
    compared, raises one error with all that is wrong with the source and with `config`, and
    UsageError when the basis of no layer is known.
    """
    plain = ByCoefficients.of(config, source.layers, tell, device)
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
        price=config.price or 0.0,
    )
    return clusterer, tuple(map(shortened, notes))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Packed:
    """What was done to a layer, and how it is coded; None where it stays as it is, or grows."""

    layer: SourceLayer
    result: LayerClustering
    coded: Coded | None = None
    grows: bool = False


def _within_limits(source: Source, config: ClusterConfig) -> ClusterConfig:
    """The configuration with no more centroids than a codebook has room for beside a zero one."""
    most = {layer.name: most_clusters(layer) for layer in source.layers}
    beyond = {name: k for name, k in most.items() if k < config.of(name)}
    return replace(config, layers={**config.layers, **beyond})


def _counts(layer: SourceLayer) -> bool:
    """Whether there is anything to pack."""
    return layer.edges + layer.masked > 0


def _pack(
    source: Source,
    clusterer: Clusterer,
    config: ClusterConfig,
    report: Report | None,
    growing: Collection[str],
) -> Compression:
    clusterer = shared(clusterer, source.layers, _within_limits(source, config))
    packed: list[_Packed] = []
    for layer in source.layers:
        if _counts(layer):
            found = _pack_layer(layer, clusterer, config)
            if layer.name in growing:
                found = replace(found, grows=True, result=_as_asked(layer, found.result, config))
            packed.append(found)
            if report and not found.grows:
                report(found.result)
    if not packed:
        raise KancompressError(
            f"{source.where}: all edges of its KAN layers are masked or symbolic and keep their"
            " coefficients, so there is nothing to pack.",
            where=source.where,
            fields=("keep_masked",),
        )
    packed = _without_loss(source, packed, config, report)
    coded = {one.layer.name: one.coded for one in packed if one.coded is not None}
    model = source.assemble(coded)
    assert model is not None
    model = replace(model, header=config.header_form)
    if config.coding is not IndexCoding.BITS:
        model = encoded(model, config.coding)
    return Compression(
        model=model,
        layers=[one.result for one in packed],
        notes=_notes(source, model, packed, config),
        unused_bytes=source.file_bytes - source.used_bytes,
    )


def _pack_layer(layer: SourceLayer, clusterer: Clusterer, config: ClusterConfig) -> _Packed:
    """A layer as it was asked for; it stays dense where that was chosen."""
    clusters = config.of(layer.name)
    dense = (layer.edges + layer.masked) * layer.coefficients * layer.dtype.itemsize
    if not layer.edges:
        nothing = torch.zeros(0, layer.coefficients, dtype=layer.stored_dtype)
        coded = coded_of(layer, nothing, np.zeros(0, np.int64))
        size = coded.nbytes(layer.masked)
        result = replace(_dense(layer, clusters, dense), clusters=0, exact=True, packed_bytes=size)
        return _Packed(layer=layer, result=result, coded=coded)
    vectors = layer.in_parts()
    most = min(clusters, most_clusters(layer))
    found = clusterer.cluster(layer.name, vectors.cut(config.parts_of(layer.name)), most)
    if found is None:
        return _Packed(layer=layer, result=_dense(layer, clusters, dense))
    parts = layer.coefficients // found.clustering.centroids.shape[1]
    vectors = vectors.cut(parts)
    dtype = codebook_dtype(config, layer.stored_dtype)
    codebook, labels = _stored(found, vectors, layer, dtype)
    coded = coded_of(layer, codebook, labels, found.bias, numbers=encoding_of(dtype))
    assert coded.labels is not None
    packed_bytes = coded.nbytes(len(coded.labels))
    if config.coding is not IndexCoding.BITS:
        claims = [claim.cut(parts) for claim in layer.claims(len(coded.codebook))]
        packed_bytes = coded.codebook_bytes + index_bytes(coded.labels, claims, config.coding)
    grows = packed_bytes >= dense and not config.force_pack
    result = LayerClustering(
        name=layer.name,
        edges=layer.edges,
        masked=layer.masked,
        coefficients=layer.coefficients,
        clusters=None if grows else len(codebook),
        requested=clusters,
        iterations=found.clustering.iterations,
        repaired=found.clustering.repaired,
        exact=found.clustering.exact,
        distortion=0.0
        if grows
        else relative_distortion(vectors, codebook.double().numpy(), labels),
        packed_bytes=packed_bytes,
        dense_bytes=dense,
        parts=parts,
    )
    return _Packed(layer=layer, result=result, coded=None if grows else coded, grows=grows)


def _as_asked(
    layer: SourceLayer, result: LayerClustering, config: ClusterConfig
) -> LayerClustering:
    """What is told of a layer that nothing was found for, as it would be no smaller: about the
    bytes that it would have had, with all centroids and whole indices."""
    rows = min(result.requested, most_clusters(layer), layer.edges) + (1 if layer.masked else 0)
    dtype = codebook_dtype(config, layer.stored_dtype)
    size = layer_bytes(
        layer.edges + layer.masked,
        layer.coefficients,
        dtype.itemsize,
        rows,
        scale=scale_bytes(dtype),
        parts=config.parts_of(layer.name),
    )
    return replace(result, packed_bytes=max(size, result.dense_bytes), foretold=True)


def _without_loss(
    source: Source, packed: list[_Packed], config: ClusterConfig, report: Report | None
) -> list[_Packed]:
    """The same with layers that grow in the way without loss with which the file is smallest.

    Raises KancompressError where all grow, and so does the whole file.
    """
    asked = {one.layer.name: one.coded.like() for one in packed if one.coded is not None}
    if asked and not any(one.grows for one in packed):
        return packed
    outline = source.outline()
    nothing = not asked and outline.assemble({}) is None
    growing = [one for one in packed if one.grows or nothing]
    choices = {one.layer.name: ways(one.layer) for one in growing}
    found = smallest(outline, asked, choices)
    if found is None or (nothing and found[1] > source.file_bytes):
        raise would_grow(source, None if found is None else found[1])
    result: list[_Packed] = []
    for one in packed:
        way = found[0].get(one.layer.name)
        if one in growing:
            one = replace(one, grows=True)
            if way is not None:
                coded = made(one.layer, way, config)
                one = replace(one, coded=coded, result=_kept_whole(one, coded))
            if report:
                report(one.result)
        result.append(one)
    return result


def _kept_whole(one: _Packed, coded: Coded) -> LayerClustering:
    """What is told of a layer that is packed without loss."""
    if coded.plain or coded.labels is None:
        return one.result
    rows = len(coded.codebook) - (1 if one.layer.masked else 0)
    size = coded.nbytes(len(coded.labels))
    return replace(one.result, clusters=rows, exact=True, packed_bytes=size, foretold=False)


class GrowthError(KancompressError):
    """No layer would be packed, as the file would be larger than its source."""


def would_grow(source: Source, size: int | None) -> GrowthError:
    """The error for a file that would be larger than its source."""
    whole = (
        ""
        if size is None
        else (
            f", and kept without loss the whole file would have {size:,} bytes where the source has"
            f" {source.file_bytes:,}"
        )
    )
    return GrowthError(
        f"{source.where}: every KAN layer would grow at this number of clusters{whole}, so nothing"
        " was packed. Take fewer clusters, or pack all the same with `force_pack`.",
        where=source.where,
        fields=("force_pack",),
    )


def _notes(
    source: Source, model: PackedModel, packed: list[_Packed], config: ClusterConfig
) -> tuple[str, ...]:
    """What to know of edges that are not clustered, and of layers that are kept without loss."""
    coded = [one.layer.name for one in packed if one.coded is not None]
    notes: list[str] = list(source.folded(coded))
    if packed and not any(one.layer.edges + one.layer.kept for one in packed):
        notes.append(ALL_MASKED)
    if masked := sum(one.layer.masked for one in packed if one.coded is not None):
        notes.append(
            f"the coefficients of {masked:,} masked edges come back as zeros; `keep_masked` keeps"
            " them"
        )
    if kept := sum(one.layer.kept for one in packed if one.coded is not None):
        which = "masked or symbolic" if config.keep_masked else "symbolic"
        notes.append(f"{kept:,} {which} edges keep their coefficients")
    growing = [one.layer.name for one in packed if one.grows]
    folded = source.folded([name for name in growing if name in coded])
    exact = "without loss, the same function in other numbers" if folded else "without loss"
    if growing and len(growing) < len(packed):
        notes.append(
            f"kept {exact}, as with the codebook that was asked for they would be no smaller:"
            f" {listed(growing)}"
        )
    elif growing:
        times = source.used_bytes / sum(sizes(model))
        how = f"{times:.3g} times smaller" if times >= 1 else f"{1 / times:.3g} times larger"
        notes.append(
            f"packed {exact}, {how}: with the codebook that was asked for no layer would be smaller"
        )
    return tuple(map(shortened, notes))


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
        masked=layer.masked,
    )


def _stored(
    found: Clustered, vectors: EdgeVectors, layer: SourceLayer, dtype: torch.dtype
) -> tuple[Tensor, np.ndarray]:
    """The codebook in its stored type, and the labels nearest to what is stored."""
    clustering = found.clustering
    codebook = rounded_codebook(clustering.centroids, dtype, layer.name, source=vectors.source)
    if found.final or clustering.exact or dtype in (torch.float32, torch.float64):
        return codebook, clustering.labels
    labels = kmeans.assign(vectors, codebook.double().numpy())
    used, labels = np.unique(labels, return_inverse=True)
    if dtype == torch.int8 and len(used) < len(codebook):
        # What is left out may have set a scale of those that stay.
        fewer = replace(clustering, centroids=clustering.centroids[used])
        return _stored(replace(found, clustering=fewer), vectors, layer, dtype)
    return codebook[torch.from_numpy(used)], labels


def rounded_codebook(
    centroids: np.ndarray, dtype: torch.dtype, name: str, *, source: torch.dtype
) -> Tensor:
    """A layer's codebook rounded to its stored type.

    name   : of the layer
    source : type of the numbers that the centroids stand for
    Raises KancompressError where the stored type is too narrow.
    """
    codebook = rounded(torch.from_numpy(centroids), dtype)
    lost = dtype != source and bool(centroids.any()) and not codebook.any()
    # What is rounded up may leave the range of the source, in which it has to come back.
    if lost or not codebook.isfinite().all() or not codebook.to(source).isfinite().all():
        largest = float(np.abs(centroids).max())
        wider = "float32" if _LEAST < largest < torch.finfo(torch.float32).max else "source"
        raise KancompressError(
            f"Layer {shown(name)} has coefficients of {'at most' if lost else 'up to'}"
            f" {largest:.3g}, too {'small' if lost else 'large'} for"
            f' {str(dtype).removeprefix("torch.")}; use `codebook_dtype="{wider}"`.',
            layer=name,
            fields=("codebook_dtype",),
        )
    return codebook


# What float32 holds without losing digits begins here.
_LEAST = torch.finfo(torch.float32).smallest_normal
