"""Other libraries' checkpoints: their KAN layers packed, the rest kept as it was.

docs/packed-format.md, section 8.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kancompress.clustering import kmeans
from kancompress.config import ClusterConfig, StoredDtype
from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError, together
from kancompress.formats.edges.found import FoundLayer, Part
from kancompress.formats.packed.encodings import index_type
from kancompress.formats.packed.restore import (
    Edges,
    Fill,
    Origin,
    Piece,
    Restore,
    SourceTensor,
    Tie,
)
from kancompress.formats.safetensors import shown
from kancompress.libraries import Recognition
from kancompress.libraries.recognition import cut
from kancompress.models.records import ForeignCheckpoint, PackedLayer, PackedModel, check_finite
from kancompress.models.remainder import rebuilt, store
from kancompress.models.tensors import NAMES
from kancompress.models.vectors import gather, packable, scatter
from kancompress.packing.generated import twin_sizes, write_out
from kancompress.packing.native import (
    Given,
    LayerClustering,
    Report,
    codebook_dtype,
    divided,
    pack_vectors,
    wrong_numbers,
)
from kancompress.specs import SourceSizes
from kancompress.system import distributed

_MAX_LINES = 20


def repack(
    source: ForeignCheckpoint,
    found: Recognition,
    config: ClusterConfig,
    *,
    keep_scaler: bool = False,
    unfit: Sequence[str] = (),
    given: Mapping[str, Given | None] | None = None,
    report: Report | None = None,
) -> tuple[PackedModel, list[LayerClustering]]:
    """Pack the layers in `found`, keep all other tensors; `restore` gives the source back.

    given       : clusterings by layer name in place of k-means'; a layer with None stays dense
    keep_scaler : leave factors of whole edges as tensors of their own instead of folding them
    unfit       : what is wrong with the layouts that the user chose
    Raises one error with all that is wrong with file and options, before any work:
    InvalidFileError where a layer holds NaN or infinity, else UsageError; and KancompressError when
    no layer would shrink.
    """
    check_all(source, found, config, unfit)
    before = source
    source, found = write_out(source, found)
    groups: list[PackedGroup] = []
    results: list[LayerClustering] = []
    packed: list[PackedLayer] = []
    made = list(group_layers(source, found, keep_scaler=keep_scaler))
    plain = {
        group.name: group
        for group in made
        if group.name not in (given or {}) and distributed.count() > 1
    }
    sizes = {name: sum(layer.edges for layer in group.layers) for name, group in plain.items()}
    vectors = ((name, group.vectors()) for name, group in plain.items())
    ready = divided(sizes, vectors, config)
    for group in made:
        if given and group.name in given and given[group.name] is None:
            continue
        result, described, layers = _cluster(
            group, config, (given or {}).get(group.name), ready.get(group.name)
        )
        if described:
            groups.append(described)
            packed += layers
        if result:
            results.append(result)
            if report:
                report(result)
    if not packed:
        raise KancompressError(
            f"{source.where}: every KAN layer would grow at this number of clusters, so nothing was"
            " packed. Take fewer clusters, or pack all the same with --force-pack."
        )
    return assemble(before, source, packed, *rest(source, groups)), results


def assemble(
    given: ForeignCheckpoint,
    source: ForeignCheckpoint,
    packed: Iterable[PackedLayer],
    tensors: Mapping[str, Tensor],
    entries: tuple[SourceTensor, ...],
) -> PackedModel:
    """The packed model of a source: its packed layers, and what `rest` made of all tensors.

    given : the source before its layers were written out
    """
    restore = Restore(
        container=source.container,
        path=source.path,
        tensors=entries,
        metadata=source.metadata or None,
    )
    sizes = SourceSizes(
        tensors=given.tensor_bytes,
        file=given.file_bytes,
        dense=None if source is given else twin_sizes(source),
    )
    return PackedModel(layers=tuple(packed), source=sizes, tensors=tensors, restore=restore)


def check_all(
    source: ForeignCheckpoint, found: Recognition, config: ClusterConfig, unfit: Sequence[str] = ()
) -> None:
    """Refuse a source that cannot be packed so, with all reasons in one error."""
    open_questions = (*unfit, *found.ambiguous)
    wrong: list[KancompressError] = [UsageError(text) for text in open_questions]
    if not found.layers and not wrong:
        wrong.append(UsageError(_nothing_found(source, found)))
    # the number of a layer that is still open is not wrong
    numbers = {
        name: k
        for name, k in config.layers.items()
        if not any(
            text.startswith((f"{name} ", f"{cut(name)} ")) or repr(name) in text
            for text in open_questions
        )
    }
    wrong += wrong_numbers(
        replace(config, layers=numbers),
        [layer.name for layer in found.layers if not _is_tied(layer, source)],
    )
    if config.side_dtype is not StoredDtype.SOURCE:
        wrong.append(
            UsageError(
                f"--side-dtype {config.side_dtype} is for networks of kancompress's own; another"
                " library's tensors come back in their own types. Leave it out."
            )
        )
    broken: list[KancompressError] = []
    for name in dict.fromkeys(name for layer in found.layers for name in layer.tensors):
        try:
            check_finite(source.tensors[name], name, source.where)
        except InvalidFileError as error:
            broken.append(error)
    if len(broken) > _MAX_LINES:
        broken[_MAX_LINES:] = [
            InvalidFileError(
                Flaw.NOT_FINITE,
                f"{source.where}: {len(broken) - _MAX_LINES:,} more tensors hold such numbers.",
            )
        ]
    if wrong or broken:
        raise together([*wrong, *broken])


def _nothing_found(source: ForeignCheckpoint, found: Recognition) -> str:
    reasons = " ".join(found.problems)
    return (
        f"{source.where}: no KAN layer was recognised among {len(source.tensors)} tensors."
        + (f" {reasons}" if reasons else "")
        + " Describe the layers with --layout."
    )


def _is_tied(layer: FoundLayer, source: ForeignCheckpoint) -> bool:
    """Whether the layer is an earlier one once more, with all its tensors tied to those."""
    return bool(layer.parts) and all(part.tensor in source.ties for part in layer.parts)


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

    origins  : of the tensors that the layers' edges give back, and of folded factors
    replaced : factors that are stored because they are folded into some edges only
    """

    name: str
    layers: tuple[PackedLayer, ...]
    origins: Mapping[str, Origin]
    replaced: Mapping[str, Tensor]

    def filled(
        self,
        codebook: Tensor,
        index_of: Callable[[PackedLayer], npt.NDArray[np.integer[Any]] | None],
    ) -> list[PackedLayer]:
        """The layers with a codebook, the first one's, and their indices."""
        first, *others = self.layers
        return [
            replace(first, codebook=codebook, index=index_of(first)),
            *(replace(layer, shares=first.name, index=index_of(layer)) for layer in others),
        ]


@dataclass(slots=True, eq=False)
class LayerGroup:
    """Layers that share a codebook, in their source."""

    source: ForeignCheckpoint
    layers: list[FoundLayer]
    names: Mapping[str, str]

    @property
    def name(self) -> str:
        """Name of the first layer, by which the user gives the group its number of clusters."""
        return self.layers[0].name

    def vectors(self) -> Tensor:
        """Vectors of all edges that can be packed, layer after layer, (edges, coefficients)."""
        found: list[Tensor] = []
        for layer in self.layers:
            mask = packable(layer, self.source.tensors)
            vectors = gather(layer, self.source.tensors).cpu()
            if layer.gains and not vectors.isfinite().all():
                raise KancompressError(
                    f"{self.source.where}: in layer {shown(layer.name)} coefficients times the"
                    " scale of their edge are too large for their type. Leave the scales apart"
                    " with --keep-scaler."
                )
            found.append(vectors if mask.all() else vectors[mask])
        return found[0] if len(found) == 1 else torch.cat(found)

    def described(self) -> PackedGroup:
        """What the packed file says of them apart from codebook and index."""
        layers: list[PackedLayer] = []
        replaced: dict[str, Tensor] = {}
        origins: dict[str, Origin] = {}
        for layer in self.layers:
            mask = packable(layer, self.source.tensors)
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
            if layer.gains and len(kept_at):
                replaced |= _partly_folded(layer, self.source, mask)
        return PackedGroup(name=self.name, layers=tuple(layers), origins=origins, replaced=replaced)


def group_layers(
    source: ForeignCheckpoint, found: Recognition, *, keep_scaler: bool = False
) -> Iterator[LayerGroup]:
    """The groups of a source's layers, in the order of their first."""
    untied = tuple(layer for layer in found.layers if not _is_tied(layer, source))
    names = _safe_names(untied)
    for group in _groups(untied):
        layers = [replace(layer, gains=()) if keep_scaler else layer for layer in group]
        yield LayerGroup(source, layers, names)


def whole_vectors(source: ForeignCheckpoint, found: Recognition) -> dict[str, Tensor]:
    """Vectors (edges, coefficients) of the layers whose edges all have indices into a codebook
    that is theirs alone."""
    groups = {group.name: group for group in group_layers(source, found) if len(group.layers) == 1}
    vectors = {name: group.vectors() for name, group in groups.items()}
    return {name: t for name, t in vectors.items() if len(t) == groups[name].layers[0].edges}


def _cluster(
    group: LayerGroup,
    config: ClusterConfig,
    given: Given | None,
    ready: kmeans.Clustering | None,
) -> tuple[LayerClustering | None, PackedGroup | None, list[PackedLayer]]:
    """What was done to a group, and its layers; nothing of the latter where it stays dense."""
    vectors = group.vectors()
    if not len(vectors):
        return None, None, []
    clusters = config.of(group.name)
    dtype = codebook_dtype(config, vectors.dtype)
    result, codebook, labels = pack_vectors(
        group.name, vectors, clusters, config, dtype, given, ready
    )
    if result.clusters is None:
        return result, None, []
    described = group.described()
    if given is not None and given.bias is not None and given.bias_name is not None:
        bias = given.bias.to(group.source.tensors[given.bias_name].dtype)
        bias = bias.reshape(group.source.tensors[given.bias_name].shape)
        described = replace(described, replaced={**described.replaced, given.bias_name: bias})
    numbers = labels.astype(index_type(len(codebook)))
    ends = iter(np.cumsum([layer.packed_edges for layer in described.layers]))

    def index_of(layer: PackedLayer) -> npt.NDArray[np.integer[Any]]:
        end = int(next(ends))
        return numbers[end - layer.packed_edges : end]

    return result, described, described.filled(codebook, index_of)


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


def rest(
    source: ForeignCheckpoint, groups: Iterable[PackedGroup]
) -> tuple[dict[str, Tensor], tuple[SourceTensor, ...]]:
    """Tensors to store beside the packed groups, and the entry of every tensor of the source."""
    origins: dict[str, Origin] = {}
    replaced: dict[str, Tensor] = {}
    layers: set[str] = set()
    for group in groups:
        origins |= group.origins
        replaced |= group.replaced
        layers |= {layer.name for layer in group.layers}
    stored: dict[str, Tensor] = {}
    entries: list[SourceTensor] = []
    for name, tensor in source.tensors.items():
        origin: Origin
        if name in source.ties:
            origin = Tie(source.ties[name])
        elif name in replaced:
            origin = store(name, replaced[name], stored, layers)
        elif name in origins:
            origin = origins[name]
        else:
            origin = rebuilt(name, tensor, stored, layers)
        entries.append(SourceTensor(name, NAMES[tensor.dtype], tuple(tensor.shape), origin))
    return stored, tuple(entries)
