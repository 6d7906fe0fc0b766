"""The record that a packed file holds: codebooks, and the index of every edge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import field, fields
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from kancompress.errors import UsageError
from kancompress.formats.packed import encodings
from kancompress.formats.packed.forms import FormRecord
from kancompress.formats.packed.restore import Restore
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass
from kancompress.specs import BasisSpec, ConvSpec, DataSpec, HeaderForm, ModelSpec, SourceSizes

# Roles of tensors named <layer>.<role>, section 3.3.
CODEBOOK_ROLES = ("codebook", "index", "kept_at", "kept")
SIDE_ROLES = ("bias", "norm", "beta", "slope")
ROLES = (*CODEBOOK_ROLES, "coefficients", *SIDE_ROLES)
_TENSOR_ROLES = ("codebook", "kept_at", "kept", "coefficients")

T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LayerRecord(Generic[T_co]):
    """One layer. Either `coefficients` is set (it stays dense) or it uses a codebook.

    shape        : (out, in) or (out, in, rows, columns)
    codebook     : (k, d / parts), or None where `shares` names the layer whose codebook is used
    groups       : of a grouped convolution, whose outputs are numbered group by group
    parts        : vectors that the coefficients of an edge are cut into, each with its own index
    index        : (packed_edges * parts,) the centroid of each part of each packed edge, uint8
                   where k is at most 256, else uint16; None will do where k is 1
    encoding     : name of the way in which `index` is written to a file
    numbers      : the same of tensors that are not written as they are, by role
    kept_at      : (r,) int64 positions of edges that are not packed; `kept` : (r, d) their vectors
    coefficients : (*shape, d) of a layer that stays dense
    sides        : `bias`, `norm`, `beta`, `slope`, where the layer has them
    """

    name: str
    shape: tuple[int, ...]
    codebook: T_co | None = None
    shares: str | None = None
    groups: int = 1
    parts: int = 1
    index: npt.NDArray[np.integer[Any]] | None = None
    encoding: str = encodings.USUAL.name
    numbers: Mapping[str, str] = field(default_factory=dict)
    kept_at: T_co | None = None
    kept: T_co | None = None
    coefficients: T_co | None = None
    sides: Mapping[str, T_co] = field(default_factory=dict)

    @property
    def edges(self) -> int:
        """Number of edges, packed or not."""
        return math.prod(self.shape)

    @property
    def kept_edges(self) -> int:
        """Number of edges that have no index."""
        kept_at: Any = self.kept_at
        return 0 if kept_at is None else kept_at.shape[0]

    @property
    def packed_edges(self) -> int:
        """Number of edges that have an index."""
        return self.edges - self.kept_edges

    @property
    def index_count(self) -> int:
        """Number of indices: one for each part of each packed edge."""
        return self.packed_edges * self.parts

    def indices(self) -> npt.NDArray[np.integer[Any]]:
        """Index of each part of each packed edge, (packed_edges * parts,)."""
        return np.zeros(self.index_count, np.uint8) if self.index is None else self.index

    def tensors(self) -> dict[str, T_co]:
        """All tensors but the index, by role."""
        found = {role: getattr(self, role) for role in _TENSOR_ROLES}
        return {role: tensor for role, tensor in found.items() if tensor is not None} | dict(
            self.sides
        )


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PackedRecord(Generic[T_co]):
    """A packed network.

    basis, data : what a native network computes and was trained for; basis is None for
                  checkpoints of other libraries, which `restore` gives back
    tensors     : tensors stored as they are, beside those of the layers
    restore     : what the tensors of another library's checkpoint come from, or None
    conv        : of a native network of convolutions, whose head is in `tensors`
    forms       : what another library's layers compute, by their names in the source
    header      : how the header of the file is written
    """

    layers: tuple[LayerRecord[T_co], ...]
    source: SourceSizes
    basis: BasisSpec | None = None
    data: DataSpec | None = None
    tensors: Mapping[str, T_co] = field(default_factory=dict)
    restore: Restore | None = None
    conv: ConvSpec | None = None
    forms: Mapping[str, FormRecord] = field(default_factory=dict)
    header: HeaderForm = HeaderForm.AUTO
    _by_name: Mapping[str, LayerRecord[T_co]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {layer.name: layer for layer in self.layers})

    @property
    def model(self) -> ModelSpec | None:
        """What a native network computes."""
        return None if self.basis is None else ModelSpec(basis=self.basis, conv=self.conv)

    def layer(self, name: str) -> LayerRecord[T_co]:
        """The layer called `name`."""
        return self._by_name[name]

    def codebook_of(self, layer: LayerRecord[Any]) -> T_co | None:
        """The codebook that `layer` uses, its own or another layer's; None where it stays dense."""
        return self.layer(layer.shares).codebook if layer.shares else layer.codebook

    def clusters_of(self, layer: LayerRecord[Any]) -> int | None:
        """k of the codebook that `layer` uses; None where it stays dense."""
        codebook: Any = self.codebook_of(layer)
        return None if codebook is None else int(codebook.shape[0])

    def vector_size_of(self, layer: LayerRecord[Any]) -> int:
        """Coefficients of each edge of `layer`."""
        codebook: Any = self.codebook_of(layer)
        values: Any = layer.coefficients if codebook is None else codebook
        return int(values.shape[-1]) * layer.parts

    def indices_of(self, layer: LayerRecord[Any]) -> npt.NDArray[np.uint16]:
        """Index of each part of each packed edge, (packed_edges * parts,), uint16 whatever k is.

        Raises UsageError for a layer that stays dense.
        """
        if self.codebook_of(layer) is None:
            raise UsageError(
                f"Layer {shown(layer.name)} stays dense; only packed layers have indices.",
                layer=layer.name,
            )
        # torch takes uint8 for a mask where it stands for positions, and arithmetic in it wraps.
        return layer.indices().astype(np.uint16, copy=False)


def with_layer_tensors(
    layer: LayerRecord[Any], made: type[LayerRecord[U]], change: Callable[[Any], U]
) -> LayerRecord[U]:
    """A layer of the class `made` with each of its tensors changed."""
    given: dict[str, Any] = {one.name: getattr(layer, one.name) for one in fields(layer)}
    for role in _TENSOR_ROLES:
        if given[role] is not None:
            given[role] = change(given[role])
    given["sides"] = {role: change(tensor) for role, tensor in layer.sides.items()}
    return made(**given)


def with_tensors(
    record: PackedRecord[Any],
    layers: tuple[LayerRecord[U], ...],
    made: type[PackedRecord[U]],
    change: Callable[[Any], U],
) -> PackedRecord[U]:
    """A packed network of the class `made`, of layers whose tensors are changed already."""
    given: dict[str, Any] = {
        one.name: getattr(record, one.name) for one in fields(record) if one.init
    }
    given["layers"] = layers
    given["tensors"] = {name: change(tensor) for name, tensor in record.tensors.items()}
    return made(**given)
