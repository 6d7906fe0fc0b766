"""Checkpoints to packed models and back (stage 2 of the MetaCluster paper)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kancompress.clustering import kmeans
from kancompress.clustering.magnitudes import relative_distortion
from kancompress.clustering.nearest import one_thread
from kancompress.config import ClusterConfig, StoredDtype
from kancompress.errors import KancompressError, UsageError, shortened, together
from kancompress.formats.checkpoint import side_shapes
from kancompress.formats.packed.encodings import bits, index_type
from kancompress.formats.safetensors import shown
from kancompress.models.native import build
from kancompress.models.records import Checkpoint, PackedLayer, PackedModel, dense_twin_sizes
from kancompress.specs import MAX_CLUSTERS, SourceSizes
from kancompress.system import distributed


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerClustering:
    """What clustering did to one layer; `clusters` is None where it stays dense.

    distortion : squared distance of the edge vectors to their centroids, relative to their
                 squared distance to the layer's mean vector
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


_DTYPES = {
    StoredDtype.FLOAT32: torch.float32,
    StoredDtype.FLOAT16: torch.float16,
    StoredDtype.BFLOAT16: torch.bfloat16,
}

Report = Callable[[LayerClustering], None]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Given:
    """A clustering that was found elsewhere, and the bias (out,) that goes with it.

    bias_name : the tensor of another library's checkpoint that holds the layer's bias
    """

    clustering: kmeans.Clustering
    bias: Tensor | None = None
    bias_name: str | None = None


def compress(
    checkpoint: Checkpoint,
    config: ClusterConfig,
    *,
    source_file_bytes: int,
    given: Mapping[str, Given | None] | None = None,
    report: Report | None = None,
) -> tuple[PackedModel, list[LayerClustering]]:
    """Cluster every layer in coefficient space (eqs. 7 to 9) and pack the result.

    given : clusterings by layer name in place of k-means'; layers with None stay dense

    Raises UsageError when `config` names a layer that is not there or a number out of range.
    """
    names = [str(number) for number in range(len(checkpoint.shapes))]
    check_numbers(config, names)
    ready: Mapping[str, kmeans.Clustering] = {}
    if given is None:
        sizes = {
            name: math.prod(shape) for name, shape in zip(names, checkpoint.shapes, strict=True)
        }
        flat = (part.reshape(-1, part.shape[-1]) for part in dense_coefficients(checkpoint))
        ready = divided(sizes, zip(names, flat, strict=True), config)
    layers, results = [], []
    for number, coefficients in enumerate(dense_coefficients(checkpoint)):
        name = names[number]
        k = config.of(name)
        own = given[name] if given is not None else None
        if given is not None and own is None:
            layer, result = _kept(name, coefficients, k)
        else:
            layer, result = _pack_layer(name, coefficients, k, config, own, ready.get(name))
        sides = side_tensors(checkpoint, number, config)
        if own is not None and own.bias is not None and result.clusters is not None:
            sides["bias"] = stored_side(own.bias, f"{name}.bias", config)
        layers.append(replace(layer, sides=sides))
        results.append(result)
        if report:
            report(result)
    model = PackedModel(
        layers=tuple(layers),
        source=source_sizes(checkpoint, source_file_bytes),
        basis=checkpoint.basis,
        data=checkpoint.data,
        tensors={name: tensor.clone() for name, tensor in checkpoint.beside.items()},
        conv=checkpoint.conv,
    )
    return model, results


def side_tensors(checkpoint: Checkpoint, number: int, config: ClusterConfig) -> dict[str, Tensor]:
    """What a layer has beside its coefficients, by role, copied into the type it is stored in.

    Raises KancompressError where that is too narrow.
    """
    return {
        role: stored_side(checkpoint.tensors[f"{number}.{role}"], f"{number}.{role}", config)
        for role in side_shapes(checkpoint.basis, checkpoint.shapes[number])
        if f"{number}.{role}" in checkpoint.tensors
    }


def stored_side(tensor: Tensor, name: str, config: ClusterConfig) -> Tensor:
    """A copy of a tensor beside the edges in its stored type. Raises as `side_tensors`."""
    narrow = tensor.to(_DTYPES.get(config.side_dtype, tensor.dtype), copy=True)
    if not narrow.isfinite().all():
        raise KancompressError(
            f"{name} has numbers up to {float(tensor.abs().max()):.3g}, too large for"
            f" {config.side_dtype}; use --side-dtype float32."
        )
    return narrow


def with_stored_sides(checkpoint: Checkpoint, config: ClusterConfig) -> Checkpoint:
    """The checkpoint as its packed file will have it beside the edges."""
    sides = {
        f"{number}.{role}": tensor
        for number in range(len(checkpoint.shapes))
        for role, tensor in side_tensors(checkpoint, number, config).items()
    }
    return replace(checkpoint, tensors={**checkpoint.tensors, **sides})


def source_sizes(checkpoint: Checkpoint, file_bytes: int) -> SourceSizes:
    """What the packed file says of its source."""
    return SourceSizes(
        tensors=checkpoint.tensor_bytes,
        file=file_bytes,
        dense=dense_twin_sizes(checkpoint) if checkpoint.kind == "meta" else None,
    )


def check_numbers(config: ClusterConfig, names: list[str]) -> None:
    """Refuse numbers of clusters out of range, and for layers that are not there."""
    if wrong := wrong_numbers(config, names):
        raise together(wrong)


def wrong_numbers(config: ClusterConfig, names: list[str]) -> list[UsageError]:
    """What is wrong with the numbers of clusters for layers of these names."""
    wrong = [
        UsageError(
            f"There is no layer {shown(name)} to give a number of clusters; the layers are"
            f" {listed(names)}."
        )
        for name in config.layers
        if name not in names
    ]
    return wrong + [
        UsageError(f"{k} clusters are out of range: 1 to {MAX_CLUSTERS}.")
        for k in (config.common, *config.layers.values())
        if not 1 <= k <= MAX_CLUSTERS
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


def dense_coefficients(checkpoint: Checkpoint) -> Iterator[Tensor]:
    """Coefficients (*shape, coefficient) of each layer, generated where the source is meta."""
    if checkpoint.kind == "dense":
        for number in range(len(checkpoint.shapes)):
            yield checkpoint.tensors[f"{number}.coefficients"]
        return
    network = build(checkpoint)
    for layer in network.kan_layers():
        with one_thread(), torch.no_grad():
            yield layer.edges().contiguous()


def _kept(name: str, coefficients: Tensor, clusters: int) -> tuple[PackedLayer, LayerClustering]:
    """A layer that was chosen to stay dense."""
    result = LayerClustering(
        name=name,
        edges=coefficients.shape[:-1].numel(),
        coefficients=coefficients.shape[-1],
        clusters=None,
        requested=clusters,
        iterations=0,
        repaired=0,
        exact=False,
        distortion=0.0,
        packed_bytes=coefficients.nbytes,
        dense_bytes=coefficients.nbytes,
    )
    return (
        PackedLayer(
            name=name,
            shape=tuple(coefficients.shape[:-1]),
            coefficients=coefficients.contiguous(),
        ),
        result,
    )


def _pack_layer(
    name: str,
    coefficients: Tensor,
    clusters: int,
    config: ClusterConfig,
    given: Given | None,
    ready: kmeans.Clustering | None,
) -> tuple[PackedLayer, LayerClustering]:
    shape = tuple(coefficients.shape[:-1])
    vectors = coefficients.reshape(-1, coefficients.shape[-1])
    dtype = codebook_dtype(config, torch.float32)
    result, codebook, labels = pack_vectors(name, vectors, clusters, config, dtype, given, ready)
    if result.clusters is None:
        layer = PackedLayer(name=name, shape=shape, coefficients=coefficients.clone())
        return layer, result
    index = labels.astype(index_type(len(codebook)))
    return PackedLayer(name=name, shape=shape, codebook=codebook, index=index), result


def codebook_dtype(config: ClusterConfig, source: torch.dtype) -> torch.dtype:
    """The type of stored centroids; `source` is what StoredDtype.SOURCE (the default) means."""
    return _DTYPES.get(config.codebook_dtype, source)


def pack_vectors(
    name: str,
    vectors: Tensor,
    clusters: int,
    config: ClusterConfig,
    dtype: torch.dtype,
    given: Given | None = None,
    ready: kmeans.Clustering | None = None,
) -> tuple[LayerClustering, Tensor, np.ndarray]:
    """Cluster vectors (n, d): what was done, the codebook (k, d) in `dtype`, and labels (n,).

    given : a clustering to take in place of k-means'
    ready : what k-means gives, where it has run already (`divided`)

    `LayerClustering.clusters` is None where the packed form would be no smaller.
    """
    points = _points(vectors)
    if given is None:
        found = ready or _fit(points, clusters, config)
        codebook, labels = _store(points, found, dtype, name, vectors.dtype)
    else:
        found = given.clustering
        codebook, labels = _stored(found, dtype, name, vectors.dtype), found.labels
    width = bits.width_of(len(codebook))
    packed_bytes = codebook.numel() * codebook.element_size() + bits.packed_size(len(labels), width)
    dense_bytes = vectors.numel() * vectors.element_size()
    stays = packed_bytes >= dense_bytes and not config.force_pack
    result = LayerClustering(
        name=name,
        edges=len(points),
        coefficients=points.shape[1],
        clusters=None if stays else len(codebook),
        requested=clusters,
        iterations=found.iterations,
        repaired=found.repaired,
        exact=found.exact,
        distortion=0.0 if stays else relative_distortion(points, codebook.double().numpy(), labels),
        packed_bytes=packed_bytes,
        dense_bytes=dense_bytes,
    )
    return result, codebook, labels


def _points(vectors: Tensor) -> np.ndarray:
    half = vectors.dtype in (torch.float16, torch.bfloat16)
    return (vectors.float() if half else vectors).numpy()


def plainly(vectors: Tensor, clusters: int, config: ClusterConfig) -> kmeans.Clustering:
    """k-means over coefficients of any type, (n, d), as `config` wants it."""
    return _fit(_points(vectors), clusters, config)


def _fit(points: np.ndarray, clusters: int, config: ClusterConfig) -> kmeans.Clustering:
    return kmeans.fit(
        points,
        clusters,
        seed=config.seed,
        max_iterations=config.max_iterations,
        by=config.kmeans,
    )


def divided(
    sizes: Mapping[str, int], layers: Iterable[tuple[str, Tensor]], config: ClusterConfig
) -> dict[str, kmeans.Clustering]:
    """k-means of each layer, the layers divided among the processes; nothing in a single one.

    sizes  : number of vectors of each layer
    layers : name and vectors (n, d) of those that have any, in the same order everywhere
    """
    if distributed.count() == 1:
        return {}
    owner = dict(zip(sizes, distributed.owners(list(sizes.values())), strict=True))
    found: dict[str, kmeans.Clustering | None] = {}
    for name, vectors in layers:
        if len(vectors):
            own = owner[name] == distributed.number()
            found[name] = plainly(vectors, config.of(name), config) if own else None
    return {name: _told(own, owner[name]) for name, own in found.items()}


def _told(found: kmeans.Clustering | None, owner: int) -> kmeans.Clustering:
    """A clustering that one process has found, everywhere."""
    facts = torch.zeros(7, dtype=torch.float64)
    if found is not None:
        numbers = (found.iterations, found.exact, found.repaired, found.inertia)
        facts[:] = torch.tensor([*found.centroids.shape, len(found.labels), *numbers])
    k, d, rows, iterations, exact, repaired, inertia = distributed.from_owner(facts, owner).tolist()
    centroids = torch.empty(int(k), int(d), dtype=torch.float64)
    labels = torch.empty(int(rows), dtype=torch.int64)
    if found is not None:
        centroids.copy_(torch.from_numpy(found.centroids))
        labels.copy_(torch.from_numpy(found.labels))
    return kmeans.Clustering(
        centroids=distributed.from_owner(centroids, owner).numpy(),
        labels=distributed.from_owner(labels, owner).numpy(),
        inertia=inertia,
        iterations=int(iterations),
        exact=bool(exact),
        repaired=int(repaired),
    )


def _store(
    vectors: np.ndarray,
    found: kmeans.Clustering,
    dtype: torch.dtype,
    name: str,
    source: torch.dtype,
) -> tuple[Tensor, np.ndarray]:
    """The codebook in its stored type, and the labels nearest to what is stored."""
    codebook = _stored(found, dtype, name, source)
    if found.exact or dtype in (torch.float32, torch.float64):
        return codebook, found.labels
    labels = kmeans.assign(vectors, codebook.double().numpy())
    used, labels = np.unique(labels, return_inverse=True)
    return codebook[torch.from_numpy(used)], labels


def _stored(found: kmeans.Clustering, dtype: torch.dtype, name: str, source: torch.dtype) -> Tensor:
    """The codebook in its stored type. Raises KancompressError where that is too narrow."""
    codebook = torch.from_numpy(found.centroids).to(dtype)
    lost = dtype != source and bool(found.centroids.any()) and not codebook.any()
    if lost or not torch.isfinite(codebook).all():
        largest = float(np.abs(found.centroids).max())
        wider = "float32" if _LEAST < largest < torch.finfo(torch.float32).max else "source"
        raise KancompressError(
            f"Layer {shown(name)} has coefficients of {'at most' if lost else 'up to'}"
            f" {largest:.3g}, too {'small' if lost else 'large'} for"
            f" {str(dtype).removeprefix('torch.')}; use --codebook-dtype {wider}."
        )
    return codebook


# What float32 holds without losing digits begins here.
_LEAST = torch.finfo(torch.float32).smallest_normal


def expand(model: PackedModel) -> Checkpoint:
    """The dense checkpoint of a packed native network; codebooks are widened to float32."""
    if model.basis is None:
        raise UsageError("This packed file holds no native network; it cannot be expanded yet.")
    return Checkpoint(
        kind="dense",
        basis=model.basis,
        shapes=tuple(layer.shape for layer in model.layers),
        data=model.data,
        tensors=model.state_dict(),
        conv=model.conv,
    )
