"""The packed file's size before anything is clustered, and the largest k that a size allows.

A layer's packed size follows from its shape, the type of its codebook and the number of its
distinct vectors, so one reading of the checkpoint tells the size of the file at every number of
clusters, to the byte, header included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from kancompress.clustering.kmeans import count_distinct, count_separate
from kancompress.config import ClusterConfig
from kancompress.errors import KancompressError, UsageError
from kancompress.formats.packed.encodings import bits
from kancompress.formats.packed.restore import SourceTensor
from kancompress.libraries import Recognition
from kancompress.models.records import (
    Checkpoint,
    ForeignCheckpoint,
    PackedLayer,
    PackedModel,
    sizes,
)
from kancompress.packing.foreign import PackedGroup, assemble, check_all, group_layers, repack, rest
from kancompress.packing.generated import write_out
from kancompress.packing.native import (
    Given,
    LayerClustering,
    Report,
    check_numbers,
    codebook_dtype,
    compress,
    dense_coefficients,
    side_tensors,
    source_sizes,
)
from kancompress.specs import MAX_CLUSTERS

Size = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vectors:
    """What the size of a codebook and of its indices depends on.

    edges, coefficients : of all layers that share the codebook, edges that are packed
    source   : type of the vectors
    default  : type of the codebook where the configuration names none
    distinct : number of distinct vectors, at most 65,537
    separate : those of them that k-means tells apart in float32
    """

    edges: int
    coefficients: int
    source: torch.dtype
    default: torch.dtype
    distinct: int
    separate: int

    @property
    def dense_bytes(self) -> int:
        """Bytes of the vectors written out."""
        return self.edges * self.coefficients * self.source.itemsize

    def packed_bytes(self, clusters: int, dtype: torch.dtype) -> int:
        """Bytes of codebook and indices; never less for more clusters."""
        used = min(clusters, self.distinct)
        return bits.layer_bytes(self.edges, self.coefficients, dtype.itemsize, used)

    def stored(self, clusters: int, config: ClusterConfig) -> int | None:
        """Centroids that are stored, None where the vectors stay as they are."""
        size = self.packed_bytes(clusters, codebook_dtype(config, self.default))
        if not self.edges or (size >= self.dense_bytes and not config.force_pack):
            return None
        return min(clusters, self.distinct)

    def is_certain(self, clusters: int, config: ClusterConfig) -> bool:
        """Whether k-means is bound to use every centroid: it may merge what rounds to the same."""
        dtype = codebook_dtype(config, self.default)
        return clusters >= self.distinct or (dtype.itemsize >= 4 and clusters < self.separate)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Plan:
    """A checkpoint as its packed file depends on numbers of clusters.

    vectors : by the name under which the user gives the layer its own number of clusters
    build   : the packed model for centroids (None: stays dense) and codebook types, with tensors
              that have a shape and a type alone; None where no layer is packed but one has to be
    """

    vectors: Mapping[str, Vectors]
    build: Callable[[Mapping[str, Tensor | None]], PackedModel | None]

    def size(self, config: ClusterConfig) -> Size | None:
        """(header, payload) bytes of the file that `cluster` writes; None where it refuses."""
        codebooks: dict[str, Tensor | None] = {}
        for name, vectors in self.vectors.items():
            k = vectors.stored(config.of(name), config)
            dtype = codebook_dtype(config, vectors.default)
            codebooks[name] = None if k is None else _blank((k, vectors.coefficients), dtype)
        model = self.build(codebooks)
        return None if model is None else sizes(model)

    def is_certain(self, config: ClusterConfig) -> bool:
        """Whether `size` is bound to be what clustering gives."""
        return all(
            vectors.is_certain(config.of(name), config) for name, vectors in self.vectors.items()
        )


def _blank(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _like(tensor: Tensor) -> Tensor:
    return _blank(tuple(tensor.shape), tensor.dtype)


def _measured(vectors: Tensor, default: torch.dtype | None = None) -> Vectors:
    points = vectors.float() if vectors.dtype.itemsize < 4 else vectors
    return Vectors(
        edges=len(vectors),
        coefficients=vectors.shape[1],
        source=vectors.dtype,
        default=default or vectors.dtype,
        distinct=count_distinct(points.numpy(), MAX_CLUSTERS),
        separate=count_separate(points.numpy(), MAX_CLUSTERS),
    )


def plan_native(checkpoint: Checkpoint, config: ClusterConfig, *, source_file_bytes: int) -> Plan:
    """The plan of one of kancompress's own checkpoints, dense or meta; all numbers of clusters.

    config : tells the type of what is beside the edges
    """
    vectors: dict[str, Vectors] = {}
    layers: list[PackedLayer] = []
    for number, coefficients in enumerate(dense_coefficients(checkpoint)):
        flat = coefficients.reshape(-1, coefficients.shape[-1])
        vectors[str(number)] = _measured(flat, torch.float32)
        sides = side_tensors(checkpoint, number, config)
        layers.append(
            PackedLayer(
                name=str(number),
                shape=tuple(coefficients.shape[:-1]),
                coefficients=_like(coefficients),
                sides={role: _like(tensor) for role, tensor in sides.items()},
            )
        )
    source = source_sizes(checkpoint, source_file_bytes)

    def build(codebooks: Mapping[str, Tensor | None]) -> PackedModel:
        packed = [
            layer
            if (codebook := codebooks[layer.name]) is None
            else replace(layer, coefficients=None, codebook=codebook)
            for layer in layers
        ]
        return PackedModel(
            layers=tuple(packed),
            source=source,
            basis=checkpoint.basis,
            data=checkpoint.data,
            tensors={name: _like(tensor) for name, tensor in checkpoint.beside.items()},
            conv=checkpoint.conv,
        )

    return Plan(vectors=vectors, build=build)


def plan_foreign(
    source: ForeignCheckpoint,
    found: Recognition,
    *,
    keep_scaler: bool = False,
    finish: Callable[[PackedModel], PackedModel] = lambda model: model,
) -> Plan:
    """The plan of another library's checkpoint; `finish` adds to the model what is kept of it."""
    given = source
    source, found = write_out(source, found)
    vectors: dict[str, Vectors] = {}
    groups: dict[str, PackedGroup] = {}
    for group in group_layers(source, found, keep_scaler=keep_scaler):
        vectors[group.name] = _measured(group.vectors())
        groups[group.name] = _described(group.described())
    rests: dict[frozenset[str], tuple[dict[str, Tensor], tuple[SourceTensor, ...]]] = {}

    def build(codebooks: Mapping[str, Tensor | None]) -> PackedModel | None:
        packed: list[PackedLayer] = []
        chosen = [name for name in groups if codebooks[name] is not None]
        for name in chosen:
            codebook = codebooks[name]
            assert codebook is not None
            packed += groups[name].filled(codebook, lambda layer: None)
        if not packed:
            return None
        key = frozenset(chosen)
        if key not in rests:
            tensors, entries = rest(source, [groups[name] for name in chosen])
            rests[key] = {name: _like(t) for name, t in tensors.items()}, entries
        return finish(assemble(given, source, packed, *rests[key]))

    return Plan(vectors=vectors, build=build)


def _described(group: PackedGroup) -> PackedGroup:
    """A group without the numbers of its tensors."""
    layers = [
        layer
        if layer.kept is None or layer.kept_at is None
        else replace(layer, kept=_like(layer.kept), kept_at=_like(layer.kept_at))
        for layer in group.layers
    ]
    replaced = {name: _like(tensor) for name, tensor in group.replaced.items()}
    return replace(group, layers=tuple(layers), replaced=replaced)


# --- packing ---------------------------------------------------------------------------------

Packed = tuple[PackedModel, list[LayerClustering]]
Pack = Callable[[ClusterConfig], Packed]
GivenOf = Callable[[ClusterConfig], Mapping[str, Given | None] | None]


def pack_native(
    checkpoint: Checkpoint,
    config: ClusterConfig,
    *,
    source_file_bytes: int,
    report: Report | None = None,
    given_of: GivenOf | None = None,
) -> Packed:
    """`compress`, with the largest common k that `config.target_bytes` allows where it is given.

    given_of : clusterings in place of k-means' for a configuration
    Raises UsageError when no k fits.
    """
    config = config.settled(conv=checkpoint.conv is not None)

    def pack(chosen: ClusterConfig) -> Packed:
        check_numbers(chosen, [str(number) for number in range(len(checkpoint.shapes))])
        given = given_of(chosen) if given_of else None
        return compress(
            checkpoint, chosen, source_file_bytes=source_file_bytes, given=given, report=report
        )

    if config.target_bytes is None:
        return pack(config)
    check_numbers(config, [str(number) for number in range(len(checkpoint.shapes))])
    plan = plan_native(checkpoint, config, source_file_bytes=source_file_bytes)
    return _pack_within(plan, pack, config)


def pack_foreign(
    source: ForeignCheckpoint,
    found: Recognition,
    config: ClusterConfig,
    *,
    keep_scaler: bool = False,
    unfit: Sequence[str] = (),
    report: Report | None = None,
    finish: Callable[[PackedModel], PackedModel] = lambda model: model,
    given_of: GivenOf | None = None,
) -> Packed:
    """`repack`, with the largest common k that `config.target_bytes` allows where it is given.

    finish   : adds to the packed model what is kept beside it
    given_of : clusterings in place of k-means' for a configuration
    Raises UsageError when no k fits.
    """

    def pack(chosen: ClusterConfig) -> Packed:
        given = given_of(chosen) if given_of else None
        model, layers = repack(
            source, found, chosen, keep_scaler=keep_scaler, unfit=unfit, given=given, report=report
        )
        return finish(model), layers

    if config.target_bytes is None:
        return pack(config)
    check_all(source, found, config, unfit)
    plan = plan_foreign(source, found, keep_scaler=keep_scaler, finish=finish)
    return _pack_within(plan, pack, config)


def _pack_within(plan: Plan, pack: Pack, config: ClusterConfig) -> Packed:
    """k is chosen by prediction. Where k-means leaves centroids unused the file is another one, as
    a rule smaller; if it should not fit, fewer clusters are tried."""
    k = largest_common(plan, config)
    while True:
        packed = pack(replace(config, clusters=k))
        if config.target_bytes is None or sum(sizes(packed[0])) <= config.target_bytes:
            return packed
        k = largest_common(plan, config, below=k)


def predict_native(
    checkpoint: Checkpoint, config: ClusterConfig, *, source_file_bytes: int
) -> Size:
    """(header, payload) bytes of the file that `compress` gives."""
    plan = plan_native(checkpoint, config, source_file_bytes=source_file_bytes)
    pack = partial(compress, checkpoint, source_file_bytes=source_file_bytes)
    return _predict(plan, pack, config)


def predict_foreign(source: ForeignCheckpoint, found: Recognition, config: ClusterConfig) -> Size:
    """(header, payload) bytes of the file that `repack` gives; raises what that raises."""
    check_all(source, found, config)
    return _predict(plan_foreign(source, found), partial(repack, source, found), config)


def _predict(plan: Plan, pack: Pack, config: ClusterConfig) -> Size:
    """What cannot be known is packed to see; so is what `pack` refuses."""
    size = plan.size(config) if plan.is_certain(config) else None
    return size or sizes(pack(config)[0])


# --- the largest k ---------------------------------------------------------------------------


def largest_common(plan: Plan, config: ClusterConfig, *, below: int | None = None) -> int:
    """The largest common number of clusters with which the file has at most `target_bytes`.

    Layers that `config.layers` names keep their own number. `below` leaves out larger numbers.
    Raises UsageError when no number fits, saying what the smallest file would be.
    """
    free = [v for name, v in plan.vectors.items() if name not in config.layers and v.edges]
    if not free:
        raise UsageError(
            "--target-bytes has no layer to choose a number of clusters for: every layer has its"
            " own."
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
        if vectors.stored(high, config) is not None:
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if vectors.stored(middle, config) is None else (middle, high)
        points.add(high)
    return sorted(points)


def _too_small(search: _Search, starts: list[int]) -> KancompressError:
    found = {k: size for k in starts if (size := search.size(k)) is not None}
    target = search.config.target_bytes
    if not found:
        return KancompressError(
            "Every layer would grow at any number of clusters, so no packed file can be made."
            " Pack all the same with --force-pack."
        )
    k = min(found, key=lambda number: (sum(found[number]), number))
    header, payload = found[k]
    config = replace(search.config, clusters=k)
    edges = sum(
        vectors.packed_bytes(own, codebook_dtype(config, vectors.default))
        if vectors.stored(own, config)
        else vectors.dense_bytes
        for name, vectors in search.plan.vectors.items()
        for own in [config.layers.get(name, k)]
    )
    return UsageError(
        f"No packed file has at most {target:,} bytes: the smallest, at k = {k}, has"
        f" {header + payload:,}, of which {header:,} are its header, {edges:,} edges and"
        f" {payload - edges:,} other tensors."
    )
