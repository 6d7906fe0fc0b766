"""Other libraries' checkpoints: their KAN layers packed, the rest kept as it was.

docs/packed-format.md, section 8.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import numpy as np
import torch
from torch import Tensor

from kancompress.clustering.coding import Coding
from kancompress.clustering.vectors import EdgeVectors
from kancompress.config import ClusterConfig, Metric, RunOptions, StoredDtype
from kancompress.errors import (
    MOST_CHARACTERS,
    Flaw,
    InvalidFileError,
    KancompressError,
    UsageError,
    shortened,
)
from kancompress.formats.edges.found import FoundLayer, Part
from kancompress.formats.foreign import Skeleton, read_skeleton
from kancompress.formats.packed.encodings import Indices
from kancompress.formats.packed.restore import (
    Edges,
    Fill,
    Origin,
    PerEdge,
    Piece,
    Restore,
    SourceTensor,
    Tie,
)
from kancompress.formats.safetensors import shown
from kancompress.layers.edges import DenseEdges
from kancompress.libraries import Recognition, recognise, way_on
from kancompress.libraries.known.pykan import UNTOLD
from kancompress.libraries.matching import fold_notes
from kancompress.libraries.told import Forms
from kancompress.models.by_edge import Fates
from kancompress.models.convolutions import FindModule
from kancompress.models.foreign import KnownLayers, known_forms, known_layers
from kancompress.models.records import ForeignCheckpoint, PackedLayer, PackedModel, check_finite
from kancompress.models.remainder import rebuilt, store
from kancompress.models.tensors import DTYPES, NAMES
from kancompress.models.vectors import (
    edges_in_parts,
    gain_factors,
    gather,
    mask_factors,
    packable,
    scatter,
    silent,
)
from kancompress.packing.generated import twin_sizes, write_out
from kancompress.packing.source import (
    Coded,
    Computed,
    blank,
    index_of,
    inputs_of,
    like,
    own_types_only,
    with_codebook,
    wrong_numbers,
)
from kancompress.specs import SourceSizes

_MAX_LINES = 20

# Tensors to store beside packed groups, and the entry of every tensor of the source.
Rest = tuple[dict[str, Tensor], tuple[SourceTensor, ...]]


def open_foreign(
    checkpoint: ForeignCheckpoint,
    layouts: Mapping[str, str] | None = None,
    *,
    keep_scaler: bool = False,
    keep_extra: bool = False,
    keep_masked: bool = False,
) -> ForeignSource:
    """A checkpoint whose layers are recognised, with what is to be kept beside them.

    What is wrong with layouts or cannot be kept is told by `ForeignSource.problems`.
    """
    unfit: list[UsageError] = []
    found = recognise(checkpoint.tensors, layouts, unfit=unfit)
    extra = _find_extra(checkpoint, found, unfit) if keep_extra else None
    return ForeignSource(
        checkpoint=checkpoint,
        found=found,
        keep_scaler=keep_scaler,
        keep_masked=keep_masked,
        extra=extra,
        unfit=tuple(unfit),
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class ForeignSource:
    """Another library's checkpoint, as a `Source`; `restore` gives it back.

    keep_scaler : leave factors of whole edges as tensors of their own instead of folding them
    keep_masked : keep coefficients of masked edges, which else come back as zeros
    extra       : what the file holds beside the model, where that is to be kept
    unfit       : what is wrong with the layouts that the user chose, and with what is to be kept
    bias_names  : tensors that take the biases of layers that get one, by layer name
    forms       : what its layers compute, as far as it is known, for the packed file to say
    """

    checkpoint: ForeignCheckpoint
    found: Recognition
    keep_scaler: bool = False
    keep_masked: bool = False
    extra: Skeleton | None = None
    unfit: tuple[UsageError, ...] = ()
    bias_names: Mapping[str, str] = field(default_factory=dict)
    forms: Forms = field(default_factory=dict)

    def saying(self, options: RunOptions) -> ForeignSource:
        """The source whose packed file says what the layers compute.

        Raises UsageError where an option means nothing for all layers of which that is known.
        """
        return replace(self, forms=known_forms(self.checkpoint, self.found, options))

    @property
    def where(self) -> str:
        """As of `Source`."""
        return self.checkpoint.where

    @property
    def file_bytes(self) -> int:
        """As of `Source`."""
        return self.checkpoint.file_bytes

    @property
    def used_bytes(self) -> int:
        """As of `Source`."""
        return self.checkpoint.used_bytes

    @property
    def names(self) -> Sequence[str]:
        """As of `Source`."""
        return [layer.name for layer in self.found.layers]

    @cached_property
    def _written(self) -> tuple[ForeignCheckpoint, Recognition]:
        """The checkpoint with layers that are generated written out."""
        return write_out(self.checkpoint, self.found)

    @cached_property
    def layers(self) -> Sequence[LayerGroup]:
        """As of `Source`: layers that share a codebook together, in the order of their first."""
        source, found = self._written
        untied = tuple(layer for layer in found.layers if not _is_tied(layer, source))
        names = _safe_names(untied)
        sharing = _sharing(found, source)
        return [
            LayerGroup(
                source,
                [replace(layer, gains=()) if self.keep_scaler else layer for layer in group],
                names,
                {} if self.keep_masked else {x.name: _silent(x, sharing, source) for x in group},
            )
            for group in _groups(untied)
        ]

    @property
    def notes(self) -> tuple[str, ...]:
        """As of `Source`: layouts, what is dropped or kept, what was not recognised."""
        source, found = self.checkpoint, self.found
        by_layout: dict[str, int] = {}
        for layer in found.layers:
            by_layout[layer.layout] = by_layout.get(layer.layout, 0) + 1
        known = ", ".join(f"{count} x {layout}" for layout, count in by_layout.items())
        notes = [f"recognised {known}"]
        told: tuple[str, ...] = UNTOLD if source.settings else ()
        told += tuple(n for layer in found.layers for n in fold_notes(layer.gains))
        notes += dict.fromkeys(n for layer in found.layers for n in layer.notes if n not in told)
        notes += source.notes
        if source.unused_bytes:
            notes.append(
                f"{source.unused_bytes:,} bytes of its storages belong to no tensor; they are in no"
                " ratio"
            )
        fate = "left out" if self.extra is None else "kept beside the model"
        notes += [f"{fate}: {what}" for what in source.dropped]
        if self.extra is None and _LIGHTNING in source.dropped:
            notes.append(
                "a checkpoint of Lightning, whose load_from_checkpoint needs more than the state"
                " dict that comes back; `keep_extra` keeps all of it"
            )
        notes += [f"not recognised: {problem}" for problem in (*found.problems, *found.hints)]
        return tuple(map(shortened, notes))

    def folded(self, names: Collection[str]) -> tuple[str, ...]:
        """As of `Source`."""
        groups = [group for group in self.layers if group.name in names]
        notes = (n for group in groups for x in group.layers for n in fold_notes(x.gains))
        return tuple(map(shortened, dict.fromkeys(notes)))

    def known(self, options: RunOptions) -> Computed:
        """As of `Source`."""
        known = self.known_layers(options)
        return Computed(layers=known.layers, refused=known.refused, notes=known.notes)

    def known_layers(
        self, options: RunOptions, find: FindModule = lambda name: None
    ) -> KnownLayers:
        """The forms of its layers, and where they are in a module whose layers `find` gives."""
        return known_layers(self.checkpoint, self.found, options, find)

    @cached_property
    def _by_name(self) -> dict[str, FoundLayer]:
        return {layer.name: layer for layer in reversed(self._written[1].layers)}

    @cached_property
    def _groups_by_name(self) -> dict[str, LayerGroup]:
        return {group.name: group for group in reversed(self.layers)}

    @cached_property
    def alone(self) -> frozenset[str]:
        """Layers whose codebook is theirs alone."""
        return frozenset(group.name for group in self.layers if len(group.layers) == 1)

    def coding(self, name: str) -> Coding | None:
        """How the edges of a layer follow from centroids; None where they are the centroids."""
        source, _ = self._written
        layer = self._by_name[name]
        if not layer.masks and not (self.keep_scaler and layer.gains):
            return None
        mask = packable(layer, source.tensors)
        factors = mask_factors(layer, source.tensors).to(torch.float32)[:, None]
        factors = factors.repeat(1, layer.coefficients)
        if self.keep_scaler:
            for gain in layer.gains:
                own = gain_factors(layer, gain, source.tensors).float().cpu()
                factors[:, gain.first : gain.last] *= own[:, None]
        if mask.all() and (factors == 1).all():
            return None
        factors[~mask] = 0
        group = self._groups_by_name[name]
        out = layer.shape[0]
        return Coding(
            packed=mask.view(out, -1),
            factors=factors.view(out, -1, layer.coefficients),
            vectors=group.vectors(),
            masked=group.masked,
        )

    def dense_edges(self, name: str) -> DenseEdges | None:
        """The coefficients of a layer that is stored and has a codebook of its own, as packed edges
        come back: whole, masked ones zero, float32; None of others."""
        source, _ = self._written
        layer = self._by_name.get(name)
        if layer is None or layer.generator is not None or name not in self.alone:
            return None
        vectors = gather(layer, source.tensors).float()
        vectors = vectors * mask_factors(layer, source.tensors)[:, None]
        return DenseEdges(vectors.reshape(*layer.shape, -1))

    # --- what is wrong -----------------------------------------------------------------------

    def problems(self, config: ClusterConfig) -> list[KancompressError]:
        """As of `Source`: InvalidFileErrors where layers hold NaN or infinity, UsageErrors else."""
        wrong: list[KancompressError] = [*self.unfit, *self.found.ambiguous]
        # the number of a layer that is still open is not wrong
        still_open = {*self.found.undecided, *(problem.layer for problem in self.unfit)}
        config = replace(
            config,
            layers={name: k for name, k in config.layers.items() if name not in still_open},
            layer_parts={n: s for n, s in config.layer_parts.items() if n not in still_open},
        )
        if not self.found.layers and not wrong:
            wrong.append(self._nothing_found())
        untied = [x for x in self.found.layers if not _is_tied(x, self.checkpoint)]
        wrong += wrong_numbers(config, {layer.name: layer.coefficients for layer in untied})
        if config.side_dtype is not StoredDtype.SOURCE:
            wrong.append(own_types_only(config.side_dtype, self.where))
        if self.keep_scaler and config.metric is Metric.GRID:
            wrong.append(
                UsageError(
                    "`metric=grid` measures whole edges; leave `keep_scaler` out.",
                    where=self.where,
                    fields=("metric", "keep_scaler"),
                )
            )
        return [*wrong, *self._not_finite]

    def _nothing_found(self) -> UsageError:
        tensors = self.checkpoint.tensors
        head = f"{self.where}: no KAN layer was recognised among {len(tensors)} tensors."
        others = "".join(
            f" {note[0].upper()}{note[1:]}." for note in self.checkpoint.notes if "`state" in note
        )
        way = way_on(tensors, self.found) + others
        room = MOST_CHARACTERS - len(head) - len(way) - 2
        reasons = shortened(" ".join(self.found.problems), max(room, 3))
        return UsageError(
            " ".join(filter(None, (head, reasons, way))),
            where=self.where,
            fields=("layouts", "print_layouts", "state", "drop"),
        )

    @cached_property
    def _not_finite(self) -> list[KancompressError]:
        """Tensors of layers that hold NaN or infinity, a sentence for each of the first."""
        broken: list[KancompressError] = []
        for name in dict.fromkeys(name for layer in self.found.layers for name in layer.tensors):
            try:
                check_finite(self.checkpoint.tensors[name], name, self.where)
            except InvalidFileError as error:
                broken.append(error)
        if len(broken) > _MAX_LINES:
            broken[_MAX_LINES:] = [
                InvalidFileError(
                    Flaw.NOT_FINITE,
                    f"{self.where}: {len(broken) - _MAX_LINES:,} more tensors hold such numbers.",
                )
            ]
        return broken

    # --- the packed model --------------------------------------------------------------------

    def assemble(self, coded: Mapping[str, Coded]) -> PackedModel | None:
        """As of `Source`."""
        groups = [
            self._with_bias(self.described(group), coded[group.name].bias)
            for group in self.layers
            if group.name in coded
        ]
        if not groups:
            return None
        tensors, entries = self.rest(groups)
        source = self._written[0]
        restore = Restore(
            container=source.container,
            path=source.path,
            tensors=entries,
            metadata=source.metadata or None,
            pykan=source.pykan if source is self.checkpoint else None,
        )
        layers = (layer for group in groups for layer in group.filled(coded[group.name]))
        return self._with_extra(
            PackedModel(
                layers=tuple(layers),
                source=self._sizes,
                tensors=tensors,
                restore=restore,
                forms=self.forms,
            )
        )

    def described(self, group: LayerGroup) -> PackedGroup:
        """A group as the packed file describes it."""
        return group.described()

    def rest(self, groups: Sequence[PackedGroup]) -> Rest:
        """Tensors to store beside packed groups, and the entry of every tensor of the source."""
        return _rest(self._written[0], groups)

    def outline(self) -> ForeignSource:
        """As of `Source`."""
        return _Outline(**{name: getattr(self, name) for name in self.__dataclass_fields__})

    @cached_property
    def _sizes(self) -> SourceSizes:
        given, source = self.checkpoint, self._written[0]
        return SourceSizes(
            tensors=given.tensor_bytes,
            file=given.used_bytes,
            dense=None if source is given else twin_sizes(source),
        )

    def _with_bias(self, group: PackedGroup, bias: Tensor | None) -> PackedGroup:
        name = self.bias_names.get(group.name)
        if bias is None or name is None:
            return group
        own = self.checkpoint.tensors[name]
        stored = bias.to(own.dtype).reshape(own.shape)
        by_edge = {other: origin for other, origin in group.by_edge.items() if other != name}
        return replace(group, replaced={**group.replaced, name: stored}, by_edge=by_edge)

    def _with_extra(self, model: PackedModel) -> PackedModel:
        """The packed model with the rest of its source (docs/packed-format.md, section 8).

        Raises UsageError where a packed tensor shares its numbers with another: the source's
        structure could not hold different ones.
        """
        if self.extra is None or model.restore is None:
            return model
        # folded factors come back in other numbers as packed tensors may
        gains = {gain.tensor for layer in self.found.layers for gain in layer.gains}
        for tensor in model.restore.tensors:
            if tensor.name in self.extra.shared and (tensor.pieces or tensor.name in gains):
                raise UsageError(
                    f"{self.where}: tensor {shown(tensor.name)} is packed and lies over another"
                    " tensor, or over itself, in the same storage; `keep_extra` cannot give both"
                    " their own numbers. Leave it out, or save copies of the tensors.",
                    where=self.where,
                    tensor=tensor.name,
                    fields=("keep_extra",),
                )
        target = "extra"
        while target in model.tensors:
            target += "'"
        return replace(
            model,
            tensors={**model.tensors, target: self.extra_data(self.extra)},
            restore=replace(model.restore, opaque=target),
        )

    def extra_data(self, extra: Skeleton) -> Tensor:
        """What is kept beside the model, as a tensor of bytes."""
        return torch.frombuffer(bytearray(extra.data), dtype=torch.uint8)


class _Outline(ForeignSource):
    """A source whose stored tensors have types and shapes, but no numbers."""

    @cached_property
    def _groups(self) -> dict[str, PackedGroup]:
        return {group.name: _without_numbers(group.described()) for group in self.layers}

    @cached_property
    def _rests(self) -> dict[tuple[str, ...], Rest]:
        """By the groups that are packed, and the tensors that are replaced."""
        return {}

    def described(self, group: LayerGroup) -> PackedGroup:
        """As of `ForeignSource`."""
        return self._groups[group.name]

    def rest(self, groups: Sequence[PackedGroup]) -> Rest:
        """As of `ForeignSource`."""
        key = tuple(name for group in groups for name in (group.name, "", *group.replaced, ""))
        if key not in self._rests:
            tensors, entries = super().rest(groups)
            self._rests[key] = {name: like(tensor) for name, tensor in tensors.items()}, entries
        return self._rests[key]

    def extra_data(self, extra: Skeleton) -> Tensor:
        """As of `ForeignSource`."""
        return blank((len(extra.data),), torch.uint8)


def _find_extra(
    foreign: ForeignCheckpoint, found: Recognition, unfit: list[UsageError]
) -> Skeleton | None:
    """What is kept beside the model; where that cannot be, the reason is added to `unfit`."""
    if any(layer.generator for layer in found.layers):
        unfit.append(
            _not_kept(
                foreign,
                "has generated layers, which come back as other tensors; `keep_extra` cannot put"
                " those into the source's structure.",
            )
        )
        return None
    try:
        skeleton = read_skeleton(foreign)
    except UsageError as error:
        unfit.append(error)
        return None
    if skeleton is None and foreign.dropped:
        unfit.append(
            _not_kept(
                foreign,
                "is an index of shards, of which only the model's tensors can be kept. Leave"
                " `keep_extra` out.",
            )
        )
    return skeleton


def _not_kept(foreign: ForeignCheckpoint, why: str) -> UsageError:
    where = foreign.where
    return UsageError(f"{where} {why}", where=where, fields=("keep_extra",))


def _sharing(found: Recognition, source: ForeignCheckpoint) -> dict[str, list[FoundLayer]]:
    """The layers that have edges in a tensor's storage, by the tensor's name."""
    layers: dict[str, list[FoundLayer]] = {}
    for layer in found.layers:
        for owner in _owners(layer, source):
            layers.setdefault(owner, []).append(layer)
    return layers


def _silent(
    layer: FoundLayer, sharing: Mapping[str, list[FoundLayer]], source: ForeignCheckpoint
) -> Tensor | None:
    """Which edges compute nothing, in no layer that shares tensors with this one; None if none.

    sharing : as of `_sharing`
    """
    if not layer.masks:
        return None
    result = silent(layer, source.tensors)
    own = _owners(layer, source)
    others = {id(other): other for owner in own for other in sharing[owner] if other is not layer}
    for other in others.values():
        same = other.shape == layer.shape and other.groups == layer.groups
        result &= silent(other, source.tensors) if same else torch.zeros_like(result)
    return result if result.any() else None


def _owners(layer: FoundLayer, source: ForeignCheckpoint) -> set[str]:
    """Names of the tensors whose storage holds the edges of a layer."""
    return {source.ties.get(part.tensor, part.tensor) for part in layer.parts}


def _is_tied(layer: FoundLayer, source: ForeignCheckpoint) -> bool:
    """Whether the layer is an earlier one once more, with all its tensors tied to those."""
    return bool(layer.parts) and all(part.tensor in source.ties for part in layer.parts)


# What Lightning's `load_from_checkpoint` asks for first, and no other trainer writes.
_LIGHTNING = "pytorch-lightning_version"
_UNSAFE = re.compile(r"[^A-Za-z0-9_.]")


def _safe_names(layers: tuple[FoundLayer, ...]) -> dict[str, str]:
    """The name of each layer in the packed file: its own, as far as the format allows it."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    lengths: dict[str, int] = {}  # of the last name that was made of the same one
    for layer in layers:
        plain = _UNSAFE.sub("_", layer.name) or "layer"
        name = plain.ljust(lengths.get(plain, 0), "_")
        while name in taken:
            name += "_"
        taken.add(name)
        lengths[plain] = len(name)
        names[layer.name] = name
    return names


def _groups(layers: tuple[FoundLayer, ...]) -> Iterator[list[FoundLayer]]:
    """Layers that share a codebook together, in the order of their first."""
    groups: dict[str, list[FoundLayer]] = {}
    for layer in layers:
        key = layer.name if layer.codebook_group is None else f"\0{layer.codebook_group}"
        groups.setdefault(key, []).append(layer)
    yield from groups.values()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PackedGroup:
    """Layers that share a codebook as the packed file describes them, but for codebook and index.

    coefficients : of each edge
    origins      : of the tensors that the layers' edges give back, and of folded factors
    replaced     : factors that are stored because they are folded into some edges only
    by_edge      : tensors whose numbers follow from what becomes of edges, each with the numbers of
                   edges that are kept, where they are stored
    """

    name: str
    coefficients: int
    layers: tuple[PackedLayer, ...]
    origins: Mapping[str, Origin]
    replaced: Mapping[str, Tensor]
    by_edge: Mapping[str, tuple[PerEdge, Tensor | None]] = field(default_factory=dict)

    def filled(self, coded: Coded) -> Iterator[PackedLayer]:
        """The layers with a codebook, the first one's, and their indices; or with all vectors."""
        first = self.layers[0]
        if coded.plain:
            whole = torch.split(coded.codebook, [layer.edges for layer in self.layers])
            for layer, vectors in zip(self.layers, whole, strict=True):
                yield replace(layer, coefficients=vectors.reshape(*layer.shape, -1))
            return
        parts = self.coefficients // coded.codebook.shape[1]
        end = 0
        for layer in self.layers:
            packed = replace(layer, encoding=coded.encoding, parts=parts)
            begin, end = end, end + packed.index_count
            own = None if coded.labels is None else coded.labels[begin:end]
            packed = replace(packed, index=index_of(len(coded.codebook), own))
            if layer is first:
                yield with_codebook(packed, coded.codebook, coded.numbers)
            else:
                yield replace(packed, shares=first.name)


@dataclass(frozen=True, eq=False)
class LayerGroup:
    """Layers that share a codebook, in their source; a `SourceLayer`.

    silent : by name, which edges of a layer are masked, (edges,) of bool; no key, or None: none
    """

    source: ForeignCheckpoint
    layers: list[FoundLayer]
    names: Mapping[str, str]
    silent: Mapping[str, Tensor | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the first layer, by which the user gives the group its number of clusters."""
        return self.layers[0].name

    @cached_property
    def edges(self) -> int:
        """As of `Edges`: those that can be clustered."""
        return sum(int(packable(layer, self.source.tensors).sum()) for layer in self.layers)

    @cached_property
    def masked(self) -> int:
        """As of `SourceLayer`."""
        return sum(int(mask.sum()) for mask in self.silent.values() if mask is not None)

    @property
    def kept(self) -> int:
        """As of `SourceLayer`."""
        return sum(layer.edges for layer in self.layers) - self.edges - self.masked

    @property
    def scattered(self) -> bool:
        """As of `SourceLayer`."""
        return True

    def _indexed(self, layer: FoundLayer) -> tuple[Tensor, Tensor]:
        """Which edges of a layer have an index, and which of them are clustered."""
        live = packable(layer, self.source.tensors)
        masked = self.silent.get(layer.name)
        return (live if masked is None else live | masked), live

    @property
    def coefficients(self) -> int:
        """As of `SourceLayer`."""
        return self.layers[0].coefficients

    @property
    def dtype(self) -> torch.dtype:
        """As of `SourceLayer`: one that holds all tensors of the layers."""
        types = [part.dtype for layer in self.layers for part in layer.parts]
        types += [gain.dtype for layer in self.layers for gain in layer.gains]
        return reduce(torch.promote_types, (DTYPES[name] for name in types))

    @property
    def stored_dtype(self) -> torch.dtype:
        """As of `SourceLayer`."""
        return self.dtype

    @property
    def whole(self) -> bool:
        """As of `SourceLayer`."""
        return len(self.layers) == 1 and self.edges == self.layers[0].edges

    def inputs(self) -> np.ndarray:
        """As of `Edges`."""
        return inputs_of(self)

    def claims(self, clusters: int) -> Sequence[Indices]:
        """As of `SourceLayer`."""
        found: list[Indices] = []
        for layer in self.layers:
            kept_at = torch.nonzero(~self._indexed(layer)[0]).reshape(-1).numpy()
            name = f"{self.names[layer.name]}.index"
            count = layer.edges - len(kept_at)
            found.append(Indices(name, count, clusters, layer.shape, layer.groups, kept_at))
        return found

    def with_masked(self, labels: np.ndarray) -> np.ndarray:
        """As of `SourceLayer`."""
        if not self.masked:
            return labels
        live = torch.cat([own[indexed] for indexed, own in map(self._indexed, self.layers)]).numpy()
        whole = np.zeros((len(live), *labels.shape[1:]), labels.dtype)
        whole[live] = labels + 1
        return whole

    def vectors(self) -> Tensor:
        """Vectors of all edges that can be packed, layer after layer, (edges, coefficients)."""
        found: list[Tensor] = []
        for layer in self.layers:
            mask = packable(layer, self.source.tensors)
            vectors = gather(layer, self.source.tensors).cpu()
            self._check_folded(layer, vectors)
            found.append(vectors if mask.all() else vectors[mask])
        return found[0] if len(found) == 1 else torch.cat(found)

    def _check_folded(self, layer: FoundLayer, vectors: Tensor) -> None:
        """Refuse coefficients that factors have made too large."""
        if layer.gains and not vectors.isfinite().all():
            raise KancompressError(
                f"{self.source.where}: in layer {shown(layer.name)} coefficients times the"
                " scale of their edge are too large for their type. Leave the scales apart"
                " with `keep_scaler`.",
                where=self.source.where,
                layer=layer.name,
                fields=("keep_scaler",),
            )

    def in_parts(self) -> EdgeVectors:
        """As of `Edges`: of one layer whose edges lie one after another in its tensors, none of
        them kept or masked."""
        layer = self.layers[0]
        whole = self.whole and not layer.masks
        read = edges_in_parts(layer, self.source.tensors) if whole else None
        if read is None:
            return EdgeVectors.of(self.vectors())

        def checked(start: int, stop: int) -> Tensor:
            vectors = read(start, stop).cpu()
            self._check_folded(layer, vectors)
            return vectors

        return EdgeVectors(
            edges=layer.edges, coefficients=layer.coefficients, source=self.dtype, read=checked
        )

    def described(self) -> PackedGroup:
        """What the packed file says of them apart from codebook and index."""
        layers: list[PackedLayer] = []
        replaced: dict[str, Tensor] = {}
        origins: dict[str, Origin] = {}
        by_edge: dict[str, tuple[PerEdge, Tensor | None]] = {}
        for layer in self.layers:
            mask, live = self._indexed(layer)
            kept_at = torch.nonzero(~mask).reshape(-1)
            layers.append(
                PackedLayer(
                    name=self.names[layer.name],
                    shape=layer.shape,
                    groups=layer.groups,
                    kept_at=kept_at if len(kept_at) else None,
                    kept=_unfolded(layer, self.source)[kept_at] if len(kept_at) else None,
                )
            )
            origins |= _origins(layer, self.names[layer.name])
            if not torch.equal(mask, live):
                by_edge |= _by_edge(layer, self.names[layer.name], self.source, live, mask)
            if layer.gains and len(kept_at):
                replaced |= _partly_folded(layer, self.source, mask)
        return PackedGroup(
            name=self.name,
            coefficients=self.coefficients,
            layers=tuple(layers),
            origins=origins,
            replaced=replaced,
            by_edge=by_edge,
        )


def _without_numbers(group: PackedGroup) -> PackedGroup:
    layers = [
        layer
        if layer.kept is None or layer.kept_at is None
        else replace(layer, kept=like(layer.kept), kept_at=like(layer.kept_at))
        for layer in group.layers
    ]
    replaced = {name: like(tensor) for name, tensor in group.replaced.items()}
    by_edge = {
        name: (origin, None if kept is None else like(kept))
        for name, (origin, kept) in group.by_edge.items()
    }
    return replace(group, layers=tuple(layers), replaced=replaced, by_edge=by_edge)


def _unfolded(layer: FoundLayer, source: ForeignCheckpoint) -> Tensor:
    """Edge vectors as the tensors have them, factors left apart."""
    return gather(replace(layer, gains=()), source.tensors).cpu()


def _partly_folded(layer: FoundLayer, source: ForeignCheckpoint, mask: Tensor) -> dict[str, Tensor]:
    """Factors that are one where the edge is packed, and as they were where it is kept."""
    result: dict[str, Tensor] = {}
    for gain in layer.gains:
        alone = Part(
            tensor=gain.tensor,
            axes=gain.axes,
            first=0,
            last=1,
            shape=gain.shape,
            dtype=gain.dtype,
        )
        bare = replace(layer, parts=(alone,), gains=(), coefficients=1)
        factors = gather(bare, source.tensors).cpu()
        factors[mask] = 1
        result |= scatter(bare, factors)
    return result


def _by_edge(
    layer: FoundLayer, name: str, source: ForeignCheckpoint, live: Tensor, indexed: Tensor
) -> dict[str, tuple[PerEdge, Tensor | None]]:
    """Tensors of a layer whose numbers follow from what becomes of its edges, masks first of all.

    name : of the layer in the packed file
    """
    fates = Fates(name=name, layer=layer, live=live, silent=indexed & ~live, kept=~indexed)
    found: dict[str, tuple[PerEdge, Tensor | None]] = {}
    for tensor in layer.untouched:
        origin = fates.origin(source.tensors[tensor].detach().cpu())
        if origin is not None:
            found[tensor] = origin
    if fates.kept.any():
        for gain in layer.gains:
            factors = source.tensors[gain.tensor].detach().cpu()
            origin = fates.factors(factors, gain.axes)
            if origin is not None:
                found[gain.tensor] = origin
    return found


def _origins(layer: FoundLayer, name: str) -> dict[str, Origin]:
    """Origins of the tensors that a layer's edges give back, and of its folded factors."""
    pieces: dict[str, list[Piece]] = {}
    for part in layer.parts:
        piece = Piece(
            layer=name,
            axes=part.axes,
            first=part.first,
            last=part.last,
            group=part.group,
            columns=part.columns,
        )
        pieces.setdefault(part.tensor, []).append(piece)
    origins: dict[str, Origin] = {tensor: Edges(tuple(found)) for tensor, found in pieces.items()}
    return origins | {gain.tensor: Fill(1.0) for gain in layer.gains}


# --- tensors that hold no edges ------------------------------------------------------------


def _rest(source: ForeignCheckpoint, groups: Iterable[PackedGroup]) -> Rest:
    """Tensors to store beside the packed groups, and the entry of every tensor of the source."""
    origins: dict[str, Origin] = {}
    replaced: dict[str, Tensor] = {}
    by_edge: dict[str, tuple[PerEdge, Tensor | None]] = {}
    layers: set[str] = set()
    for group in groups:
        by_edge |= group.by_edge
        origins |= group.origins
        replaced |= group.replaced
        layers |= {layer.name for layer in group.layers}
    stored: dict[str, Tensor] = {}
    entries: list[SourceTensor] = []
    for name, tensor in source.tensors.items():
        origin: Origin
        if name in source.ties:
            origin = Tie(source.ties[name])
        elif name in by_edge:
            origin, kept = by_edge[name]
            if kept is not None:
                origin = replace(origin, kept=store(name, kept, stored, layers).name or name)
        elif name in replaced:
            origin = store(name, replaced[name], stored, layers)
        elif name in origins:
            origin = origins[name]
        else:
            origin = rebuilt(name, tensor, stored, layers)
        entries.append(SourceTensor(name, NAMES[tensor.dtype], tuple(tensor.shape), origin))
    return stored, tuple(entries)
