"""Packed coefficients in place on the user's own module, with torch's parametrizations.

Every tensor that a packed layer gives back is computed when the module reads it: rows of the
codebook gathered by the edges' indices, brought into the tensor's order of axes. So forward,
gradients and training work on any architecture, with the codebooks as parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize as torch_parametrize

from kancompress.errors import KancompressError, UsageError
from kancompress.formats import recorded
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.safetensors import shown
from kancompress.layers import stored
from kancompress.layers.edges import Codebook
from kancompress.models.files import Input, sized
from kancompress.models.records import PackedLayer, PackedModel
from kancompress.models.remainder import rebuilt
from kancompress.models.tensors import DTYPES
from kancompress.models.user_module import load_into
from kancompress.models.vectors import join, scatter
from kancompress.values import article


class PackedEdges(nn.Module):
    """Vectors of a layer's edges: rows of a codebook, and of vectors that are not trained.

    codebook : its centroids, shared with the layers that use the same, or None
    index    : (edges * parts,) row of each part of each edge in the codebook followed by `kept`,
               which is cut into parts, too
    kept     : (r, d) vectors of the edges that were not packed, or None
    parts    : vectors that the coefficients of an edge are cut into
    """

    def __init__(
        self, codebook: Codebook | None, index: Tensor, kept: Tensor | None, parts: int = 1
    ) -> None:
        super().__init__()
        self.codebook = codebook
        self.parts = parts
        self.index: Tensor
        self.kept: Tensor | None
        self.register_buffer("index", index, persistent=False)
        self.register_buffer("kept", kept, persistent=False)

    def columns(self, first: int, last: int) -> Tensor:
        """Coefficients `first ... last - 1` of every edge, (edges, last - first)."""
        if self.parts > 1:
            return self._joined()[:, first:last]
        table = self.kept if self.codebook is None else self.codebook()
        assert table is not None
        table = table[:, first:last].to(self.index.device)  # a codebook may serve several devices
        if self.codebook is not None and self.kept is not None:
            table = torch.cat([table, self.kept[:, first:last]])  # in the wider of their dtypes
        return nn.functional.embedding(self.index, table)

    def _joined(self) -> Tensor:
        """All coefficients of every edge, (edges, d), its parts one behind the other."""
        assert self.codebook is not None
        table: Tensor = self.codebook().to(self.index.device)
        if self.kept is not None:
            table = torch.cat([table, self.kept.reshape(-1, table.shape[1])])
        return nn.functional.embedding(self.index.view(-1, self.parts), table).flatten(1)


class PackedTensor(nn.Module):
    """The parametrization of one tensor: what it was before is not read.

    name  : of the tensor in the packed file
    parts : layers that it holds ranges of, with only the parts that lie in it
    """

    def __init__(self, name: str, parts: list[tuple[FoundLayer, PackedEdges]]) -> None:
        super().__init__()
        self.name = name
        self.edges = nn.ModuleList(edges for _, edges in parts)
        self._layers = [_narrowed(layer) for layer, _ in parts]

    def forward(self, original: Tensor) -> Tensor:
        """The tensor in the dtype that it has in the module."""
        made: dict[str, Tensor] = {}
        for (layer, first), edges in zip(self._layers, self.edges, strict=True):
            assert isinstance(edges, PackedEdges)
            vectors = edges.columns(first, first + layer.coefficients)
            join(made, layer, scatter(layer, vectors))
        return made[self.name].to(original.dtype)


def _narrowed(layer: FoundLayer) -> tuple[FoundLayer, int]:
    """The layer as if its vectors held no more than its parts, and where these begin."""
    first = min(part.first for part in layer.parts)
    parts = tuple(
        replace(part, first=part.first - first, last=part.last - first) for part in layer.parts
    )
    return replace(layer, parts=parts, coefficients=max(part.last for part in parts)), first


@dataclass(frozen=True, slots=True)
class _Place:
    """A parametrized tensor of the model: its module and name there, whether it learnt, and the
    order of the module's parameters."""

    owner: nn.Module
    name: str
    learnt: bool
    order: tuple[str, ...]


class Parametrization:
    """Packed coefficients in place on a module, until `remove` or the end of the `with` block.

    codebooks : for each packed layer that has a codebook of its own, its centroids
                (k, d / parts), a parameter of float32, or of float64 where the stored one is
    names     : name of each of the packed file's tensors in the module

    >>> import kancompress, torch
    >>> class Layer(torch.nn.Module):  # as efficient-kan names its tensors
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.spline_weight = torch.nn.Parameter(torch.randn(20, 30, 8))
    ...         self.base_weight = torch.nn.Parameter(torch.randn(20, 30))
    ...         self.register_buffer("grid", (torch.arange(-3, 9) * 0.4 - 1).repeat(30, 1))
    >>> model = torch.nn.Sequential(Layer())
    >>> with kancompress.parametrize(model, kancompress.compress(model, clusters=8)) as packed:
    ...     [tuple(codebook.shape) for codebook in packed.parameters()]
    [(8, 9)]
    """

    def __init__(self, model: nn.Module, packed: PackedModel) -> None:
        """Load `packed` into `model` and put its coefficients in place.

        Raises UsageError for a native network's file and for one that does not fit the model.
        """
        if packed.restore is None:
            raise UsageError(
                "This packed file holds a network of kancompress's own, which runs without a model."
            )
        self.packed = packed
        self.names = load_into(model, packed.state_dict(), "The packed file")
        self._model = model
        self._edges: dict[str, PackedEdges] = {}
        self._codebooks: dict[str, Codebook] = {}
        self._places: list[_Place] = []
        try:
            self._put_in_place(packed.found_layers())
        except BaseException:
            self.remove()
            raise

    @property
    def codebooks(self) -> dict[str, nn.Parameter]:
        """Centroids by the name of the layer that stores them."""
        return {name: codebook.centroids for name, codebook in self._codebooks.items()}

    def parameters(self) -> list[nn.Parameter]:
        """The codebooks, for an optimizer."""
        return list(self.codebooks.values())

    def __enter__(self) -> Parametrization:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Leave ordinary parameters in the module, the same objects as before, with the values that
        the packed model (`to_packed`) gives."""
        with torch.no_grad(), self.as_stored():
            for place in self._places:
                value = getattr(place.owner, place.name)
                torch_parametrize.remove_parametrizations(
                    place.owner, place.name, leave_parametrized=False
                )
                original = getattr(place.owner, place.name)
                original.copy_(value)
                original.requires_grad_(place.learnt)
        for place in reversed(self._places):
            own = place.owner._parameters
            for name in [name for name in place.order if name in own]:
                own[name] = own.pop(name)
        self._places = []

    @contextmanager
    def as_stored(self, tensors: Mapping[str, Tensor] = MappingProxyType({})) -> Iterator[None]:
        """The codebooks rounded to their stored types for a while, and the module's `tensors`,
        which are named as in the packed file."""
        assert self.packed.restore is not None
        narrow = {one.name: DTYPES[one.dtype] for one in self.packed.restore.tensors}
        types: list[tuple[Tensor, torch.dtype]] = [
            (p, self.packed.layer(name).stored("codebook")) for name, p in self.codebooks.items()
        ]
        types += [(tensor, narrow[name]) for name, tensor in tensors.items()]
        masters = [tensor.detach().clone() for tensor, _ in types]
        with torch.no_grad():
            for tensor, dtype in types:
                tensor.copy_(stored.rounded(tensor, dtype))
        try:
            yield
        finally:
            with torch.no_grad():
                for (tensor, _), master in zip(types, masters, strict=True):
                    tensor.copy_(master)

    def to_packed(self, tensors: Mapping[str, Tensor] = MappingProxyType({})) -> PackedModel:
        """The packed model with the codebooks as they now are, rounded to their stored types.

        tensors : new values of other tensors, by their names in the packed file
        Raises KancompressError when a number has left the range of its type.
        """
        layers = [
            layer
            if layer.name not in self._codebooks
            else replace(
                layer,
                codebook=rounded(self.codebooks[layer.name], layer.stored("codebook")),
            )
            for layer in self.packed.layers
        ]
        return with_tensors(replace(self.packed, layers=tuple(layers)), tensors)

    def _stored_codebook(self, name: str) -> Tensor:
        codebook = self.packed.layer(name).codebook
        assert codebook is not None
        return codebook

    def _put_in_place(self, layers: list[FoundLayer]) -> None:
        assert self.packed.restore is not None
        for tensor in self.packed.restore.tensors:
            source = tensor.owner
            holding = [
                replace(layer, parts=parts)
                for layer in layers
                if (parts := tuple(part for part in layer.parts if part.tensor == source))
            ]
            if holding:
                self._parametrize(self.names[tensor.name], source, holding)

    def _parametrize(self, target: str, source: str, layers: list[FoundLayer]) -> None:
        path, _, name = target.rpartition(".")
        try:
            owner = self._model.get_submodule(path)
            original = getattr(owner, name)
        except AttributeError:
            raise UsageError(
                f"The model's state dict has {shown(target)}, but the model itself has no tensor"
                " there, so its coefficients cannot be put in place."
            ) from None
        if any(place.owner is owner and place.name == name for place in self._places):
            return  # a module that stands in the model twice
        parts = [(layer, self._edges_of(layer.name, original.device)) for layer in layers]
        learnt, order = bool(original.requires_grad), tuple(owner._parameters)
        original.requires_grad_(False)
        try:
            torch_parametrize.register_parametrization(owner, name, PackedTensor(source, parts))
        except Exception as error:
            original.requires_grad_(learnt)
            raise KancompressError(
                f"torch cannot parametrize {shown(target)} of a {type(owner).__name__}:"
                f" {' '.join(str(error).split())}"
            ) from error
        self._places.append(_Place(owner, name, learnt, order))

    def _edges_of(self, name: str, device: torch.device) -> PackedEdges:
        if name not in self._edges:
            layer = self.packed.layer(name)
            codebook = None
            if layer.coefficients is None:
                store = layer.shares or name
                if store not in self._codebooks:
                    master = _master(self._stored_codebook(store))
                    made = self._codebooks[store] = Codebook(master.to(device, copy=True))
                    dtype = self.packed.layer(store).stored("codebook")
                    made.stored = dtype if dtype == torch.int8 else None
                codebook = self._codebooks[store]
            index, kept = _rows(self.packed, layer)
            self._edges[name] = PackedEdges(
                codebook,
                index.to(device),
                None if kept is None else kept.to(device),
                layer.parts,
            )
        return self._edges[name]


def parametrize(model: nn.Module, packed: Input) -> Parametrization:
    """Load a packed checkpoint into a module and let its codebooks be parameters there.

    model  : of the architecture whose state dict was packed; it is changed in place
    packed : a `PackedModel`, a result that has one, a packed file, or its bytes
    Raises UsageError for a native network's file and for one that does not fit the model.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"`model` is {article(model)}; a torch.nn.Module was expected.", fields=("model",)
        )
    record = sized(recorded.source(packed, "parametrize"), None)[1]
    if not isinstance(record, PackedModel):
        raise UsageError(
            f"parametrize takes a packed network, and this one is {record.kind}. Pack it with"
            " kancompress.cluster."
        )
    return Parametrization(model, record)


def rounded(value: Tensor, dtype: torch.dtype, role: str = "codebook") -> Tensor:
    """A copy of `value` on the CPU, rounded to a stored type as of `layers.stored`.

    Raises KancompressError beyond its range.
    """
    result = stored.rounded(value.detach().to("cpu", copy=True), dtype, role)
    if result.is_floating_point() and not result.isfinite().all():
        raise KancompressError(
            f"Fine-tuning left the range of {str(dtype).removeprefix('torch.')};"
            " try a lower learning rate (`lr`).",
            fields=("lr",),
        )
    return result


def _master(codebook: Tensor) -> Tensor:
    return codebook if codebook.dtype == torch.float64 else codebook.float()


def _rows(model: PackedModel, layer: PackedLayer) -> tuple[Tensor, Tensor | None]:
    """Index of each part of each edge, int32, into the codebook followed by the kept vectors, and
    these."""
    if layer.coefficients is not None:
        values = layer.coefficients.reshape(layer.edges, -1)
        return torch.arange(layer.edges, dtype=torch.int32), values
    return torch.from_numpy(model.rows_of(layer)), layer.kept


def with_tensors(model: PackedModel, values: Mapping[str, Tensor]) -> PackedModel:
    """`model` with other values of tensors that hold no edges, by their names in the source."""
    if not values:
        return model
    assert model.restore is not None
    entries = list(model.restore.tensors)
    stored = dict(model.tensors)
    layers = {layer.name for layer in model.layers}
    changes: dict[str, Tensor] = {}
    for entry in entries:
        if entry.name in values:
            changes[entry.owner] = rounded(values[entry.name], DTYPES[entry.dtype])
    for number, entry in enumerate(entries):
        if entry.name not in changes:
            continue
        if entry.stored is not None:
            del stored[entry.stored]
        origin = rebuilt(entry.name, changes[entry.name], stored, layers)
        entries[number] = replace(entry, origin=origin)
    restore = replace(model.restore, tensors=tuple(entries))
    return replace(model, tensors=stored, restore=restore)
