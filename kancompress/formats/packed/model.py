"""The record that a packed file holds, in memory as on disk: codebooks and indices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kancompress.formats.packed import state
from kancompress.formats.packed.encodings import bits
from kancompress.formats.packed.forms import FormRecord
from kancompress.specs import BasisSpec, ConvSpec, DataSpec, ModelSpec, SourceSizes

# Roles of tensors named <layer>.<role>, section 3.3.
CODEBOOK_ROLES = ("codebook", "index", "kept_at", "kept")
SIDE_ROLES = ("bias", "norm", "beta", "slope")
ROLES = (*CODEBOOK_ROLES, "coefficients", *SIDE_ROLES)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PackedLayer:
    """One layer. Either `coefficients` is set (it stays dense) or `index` with a codebook.

    shape        : (out, in) or (out, in, rows, columns)
    codebook     : (k, d), or None where `shares` names the layer whose codebook is used
    groups       : of a grouped convolution, whose outputs are numbered group by group
    index        : packed indices of the packed edges, `bits.packed_size` bytes
    kept_at      : (r,) int64 positions of edges that are not packed; `kept` : (r, d) their vectors
    coefficients : (*shape, d) of a layer that stays dense
    sides        : `bias`, `norm`, `beta`, `slope`, where the layer has them
    """

    name: str
    shape: tuple[int, ...]
    codebook: Tensor | None = None
    shares: str | None = None
    groups: int = 1
    index: npt.NDArray[np.uint8] | None = None
    kept_at: Tensor | None = None
    kept: Tensor | None = None
    coefficients: Tensor | None = None
    sides: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def edges(self) -> int:
        """Number of edges, packed or not."""
        return math.prod(self.shape)

    @property
    def packed_edges(self) -> int:
        """Number of edges that have an index."""
        return self.edges - (0 if self.kept_at is None else len(self.kept_at))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PackedModel:
    """A packed network.

    basis, data : what a native network computes and was trained for; basis is None for
                  checkpoints of other libraries, which `restore` gives back
    tensors     : tensors stored as they are, beside those of the layers
    restore     : section 8 of docs/packed-format.md, or None
    forms       : what the layers of another library's checkpoint compute, by their names there
    conv        : of a native network of convolutions, whose head is in `tensors`
    """

    layers: tuple[PackedLayer, ...]
    source: SourceSizes
    basis: BasisSpec | None = None
    data: DataSpec | None = None
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    restore: Mapping[str, Any] | None = None
    forms: Mapping[str, FormRecord] = field(default_factory=dict)
    conv: ConvSpec | None = None
    _by_name: Mapping[str, PackedLayer] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {layer.name: layer for layer in self.layers})

    @property
    def model(self) -> ModelSpec | None:
        """What a native network computes."""
        return None if self.basis is None else ModelSpec(basis=self.basis, conv=self.conv)

    def layer(self, name: str) -> PackedLayer:
        """The layer called `name`."""
        return self._by_name[name]

    def codebook_of(self, layer: PackedLayer) -> Tensor | None:
        """The codebook that `layer` uses, its own or another layer's; None where it stays dense."""
        return self.layer(layer.shares).codebook if layer.shares else layer.codebook

    def clusters_of(self, layer: PackedLayer) -> int | None:
        """k of the codebook that `layer` uses; None where it stays dense."""
        codebook = self.codebook_of(layer)
        return None if codebook is None else len(codebook)

    def indices_of(self, layer: PackedLayer) -> npt.NDArray[np.uint16]:
        """Index of each packed edge, (packed_edges,)."""
        clusters = self.clusters_of(layer)
        assert clusters is not None
        data = np.zeros(0, np.uint8) if layer.index is None else layer.index
        return bits.unpack(data, layer.packed_edges, bits.width_of(clusters))

    def coefficients_of(self, layer: PackedLayer) -> Tensor:
        """Dense coefficients of a layer, (*shape, d), in a dtype that holds all of them exactly."""
        codebook = self.codebook_of(layer)
        if codebook is None:
            assert layer.coefficients is not None
            return layer.coefficients
        packed = self._packed_vectors(layer, codebook)
        if layer.kept_at is None or layer.kept is None:
            return packed.reshape(*layer.shape, -1)
        dtype = torch.promote_types(codebook.dtype, layer.kept.dtype)
        result = torch.empty(layer.edges, codebook.shape[1], dtype=dtype)
        rest = torch.ones(layer.edges, dtype=torch.bool)
        rest[layer.kept_at] = False
        result[rest] = packed.to(dtype)
        result[layer.kept_at] = layer.kept.to(dtype)
        return result.reshape(*layer.shape, -1)

    def _packed_vectors(self, layer: PackedLayer, codebook: Tensor) -> Tensor:
        """Centroids of the edges that have an index, (packed_edges, d), a block at a time."""
        width = bits.width_of(len(codebook))
        data = np.zeros(0, np.uint8) if layer.index is None else layer.index
        result = torch.empty(layer.packed_edges, codebook.shape[1], dtype=codebook.dtype)
        for start, indices in bits.unpacked(data, layer.packed_edges, width):
            wanted = torch.from_numpy(indices.astype(np.int64))
            torch.index_select(codebook, 0, wanted, out=result[start : start + len(indices)])
        return result

    def named_tensors(self) -> dict[str, Tensor]:
        """All tensors as the file names them."""
        named = dict(self.tensors)
        for layer in self.layers:
            fields = {role: getattr(layer, role) for role in (*CODEBOOK_ROLES, "coefficients")}
            for role, tensor in (fields | dict(layer.sides)).items():
                if tensor is None or (role == "index" and not len(tensor)):
                    continue
                name = f"{layer.name}.{role}"
                named[name] = torch.from_numpy(tensor) if role == "index" else tensor
        return named

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors that this model stands for, for `torch.nn.Module.load_state_dict`.

        Of another library's checkpoint: its state dict, names in the source's order and as they
        were there, tensors that were tied one tensor, the packed ones made of their centroids.
        Of a native network: for each layer `<number>.coefficients` (*shape, d), at least float32,
        and what it has beside them (`bias`, `norm`, `beta`, `slope`), and the head. The values are
        not copies where they are stored as they are.
        """
        native = self.restore is None
        return state.native_tensors(self) if native else state.source_tensors(self)
