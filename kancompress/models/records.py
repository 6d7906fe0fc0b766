"""Checkpoints and packed models with torch's tensors: what `kancompress.load` gives."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from importlib import import_module
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kancompress.config import RunOptions
from kancompress.formats import checkpoint as checkpoints
from kancompress.formats.arrays import Array, Outline
from kancompress.formats.checkpoint import CheckpointRecord
from kancompress.formats.edges.found import FoundLayer
from kancompress.formats.foreign import ForeignRecord
from kancompress.formats.packed import LayerRecord, PackedRecord, state, writer
from kancompress.formats.packed.encodings import PLAIN
from kancompress.formats.packed.record import with_layer_tensors, with_tensors
from kancompress.frozen import dataclass
from kancompress.layers.stored import dtype_of
from kancompress.models import lines
from kancompress.models.tensors import (
    all_to_arrays,
    all_to_torch,
    outline_of,
    outlines,
    to_array,
    to_torch,
    without_numbers,
)
from kancompress.values import instance, maybe, settled

# What builds networks from these records, and so needs them first.
_RUNNABLE = "kancompress.models.runnable"
# Layers whose shapes one line shows.
_MOST_SHAPES = 4


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Checkpoint(CheckpointRecord[Tensor]):
    """A trained network, dense or with a meta-learner: kind, basis, shapes, data and tensors.

    shapes  : (out, in), or (out, in, rows, columns) of a convolution, of each layer
    tensors : named as in the file: `<number>.coefficients` (*shape, d) and what is beside them, or
              what generates them
    conv    : None where the layers are fully connected

    >>> import kancompress
    >>> kancompress.load("digits.safetensors")
    <Checkpoint: meta fastkan, layers 32 x 64, 10 x 32, 11,684 bytes of tensors>
    """

    def __repr__(self) -> str:
        name = f"{self.kind} {self.model.to_json()['name']}"
        shapes = ", ".join(map(lines.by, self.shapes[:_MOST_SHAPES]))
        more = len(self.shapes) - _MOST_SHAPES
        layers = f"layers {shapes}" + (f" and {more:,} more" if more > 0 else "")
        return lines.line("Checkpoint", name, layers, f"{self.tensor_bytes:,} bytes of tensors")

    def _repr_html_(self) -> str:
        """For notebooks: the layers and their bytes."""
        each = self.basis.coefficients
        rows = [
            (number, lines.by(shape), math.prod(shape), each, math.prod(shape) * each * 4)
            for number, shape in enumerate(self.shapes)
        ]
        head = ("layer", "shape", "edges", "coefficients", "dense bytes")
        return lines.table(repr(self)[1:-1], head, rows)

    @property
    def tensor_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(one.nbytes for one in outlines(self.tensors).values())

    def state_dict(self) -> dict[str, Tensor]:
        """The file's tensors by name: `<number>.coefficients` (out, in, d) of a dense network, of a
        meta network what generates them; `cluster` and `expand` make those dense."""
        return dict(self.tensors)

    def module(self) -> nn.Module:
        """The network as a torch module, in evaluation mode and on the CPU.

        It takes rows (rows, inputs), or images (rows, channels, height, width) of a network of
        convolutions, as float32, and gives (rows, outputs).

        >>> import kancompress
        >>> import torch
        >>> network = kancompress.load("digits.safetensors").module()
        >>> network(torch.zeros(3, 64)).shape
        torch.Size([3, 10])
        """
        return _module(self)

    def record(self) -> CheckpointRecord[Array]:
        """The same over the tensors' memory."""
        given = {one.name: getattr(self, one.name) for one in fields(self)}
        return CheckpointRecord(**given | {"tensors": all_to_arrays(self.tensors)})

    def encode(self) -> bytes:
        """The whole file."""
        return checkpoints.encode(self.record())


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PackedLayer(LayerRecord[Tensor]):
    """One layer. Either `coefficients` is set (it stays dense) or it uses a codebook.

    shape        : (out, in) or (out, in, rows, columns)
    codebook     : (k, d / parts), or None where `shares` names the layer whose codebook is used
    groups       : of a grouped convolution, whose outputs are numbered group by group
    parts        : vectors that the coefficients of an edge are cut into, each with its own index
    index        : (packed_edges * parts,) numpy array, the centroid of each part of each packed
                   edge, uint8 where k is at most 256, else uint16; None will do where k is 1
    encoding     : name of the way in which `index` is written to a file
    numbers      : the same of tensors that are not written as they are, by role
    kept_at      : (r,) int64 positions of edges that are not packed; `kept` : (r, d) their vectors
    coefficients : (*shape, d) of a layer that stays dense
    sides        : `bias`, `norm`, `beta`, `slope`, where the layer has them

    >>> import kancompress
    >>> layer = kancompress.load("packed.safetensors").layer("0")
    >>> layer
    <PackedLayer: '0', 32 x 64, codebook 16 x 9>
    >>> layer.indices().shape  # of every edge
    (2048,)
    """

    def __repr__(self) -> str:
        if self.coefficients is not None:
            what = "stays dense"
        elif self.shares:
            what = f"the codebook of layer {self.shares!r}"
        else:
            what = f"codebook {lines.by(self.codebook.shape) if self.codebook is not None else ''}"
        parts = f"edges in {self.parts} parts" if self.parts > 1 else None
        return lines.line("PackedLayer", repr(self.name), lines.by(self.shape), what, parts)

    def stored(self, role: str) -> torch.dtype:
        """The stored type of one of its tensors, as of `layers.stored`."""
        encoding = self.numbers.get(role, PLAIN.name)
        return dtype_of(self.tensors()[role], encoding)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PackedModel(PackedRecord[Tensor]):
    """A packed network.

    basis, data : what a native network computes and was trained for; basis is None for
                  checkpoints of other libraries, which `restore` gives back
    tensors     : tensors stored as they are, beside those of the layers
    restore     : what the tensors of another library's checkpoint come from, or None
    conv        : of a native network of convolutions, whose head is in `tensors`
    forms       : what another library's layers compute, by their names in the source
    header      : how the header of the file is written; one that is read keeps its own

    >>> import kancompress
    >>> model = kancompress.load("packed.safetensors")
    >>> print(str(model)[:64])
    <PackedModel: fastkan, 2 layers, 4,008 bytes, 21.6 times smaller
    >>> model.coefficients_of(model.layer("0")).shape
    torch.Size([32, 64, 9])
    """

    layers: tuple[PackedLayer, ...]

    def __repr__(self) -> str:
        own = self.model
        name = "another library's network" if own is None else str(own.to_json()["name"])
        layers = lines.counted(len(self.layers), "layer")
        return lines.line("PackedModel", name, layers, *told_size(self))

    def _repr_html_(self) -> str:
        """For notebooks: layers, bytes and ratio."""
        caption = repr(self)[1:-1]
        head = ("layer", "shape", "edges", "coefficients", "centroids", "bytes dense", "packed")
        known = outlines_of(self)
        rows = [
            (
                layer.name,
                lines.by(layer.shape),
                layer.edges,
                self.vector_size_of(layer),
                self.clusters_of(layer) or "dense",
                layer.edges * self.vector_size_of(layer) * _width(self, layer),
                sum(known[name].nbytes for name in _edge_tensors(layer) if name in known),
            )
            for layer in self.layers
        ]
        return lines.table(caption, head, rows)

    def layer(self, name: str) -> PackedLayer:
        """The layer called `name`."""
        return cast(PackedLayer, self._by_name[name])

    def coefficients_of(self, layer: PackedLayer) -> Tensor:
        """Dense coefficients of a layer, (*shape, d), in a dtype that holds all of them exactly."""
        codebook = self.codebook_of(layer)
        used = None if codebook is None else to_array(codebook)
        return to_torch(state.coefficients_of(_layer_record(layer), used))

    def rows_of(self, layer: PackedLayer) -> npt.NDArray[np.int32]:
        """Of each edge of a packed layer its row in the codebook followed by the kept vectors.

        Of a layer whose edges have several parts the row of each, (edges * parts,), where the kept
        vectors are cut into parts, too.
        """
        clusters = self.clusters_of(layer)
        assert clusters is not None
        return state.rows_of(_layer_record(layer), clusters)

    def named_tensors(self) -> dict[str, Tensor]:
        """All tensors as the file names them."""
        return dict(all_to_torch(writer.tensors(self.record())))

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors that this model stands for, for `torch.nn.Module.load_state_dict`.

        Of another library's checkpoint: its state dict, names in the source's order and as they
        were there, tensors that were tied one tensor, the packed ones made of their centroids.
        Of a native network: for each layer `<number>.coefficients` (*shape, d), at least float32,
        and what it has beside them (`bias`, `norm`, `beta`, `slope`), and the head. The values are
        not copies where they are stored as they are.
        """
        record = self.record()
        native = self.restore is None
        return dict(
            all_to_torch(state.native_tensors(record) if native else state.source_tensors(record))
        )

    def module(self, options: RunOptions | None = None) -> nn.Module:
        """The network as a torch module, in evaluation mode and on the CPU: it computes from
        codebooks and indices.

        options : what another library's packed file does not tell of its layers
        It takes rows (rows, inputs), or images (rows, channels, height, width) of a network of
        convolutions, as float32, and gives (rows, outputs). Raises UsageError where it is not known
        what another library's layers compute; `expand` gives the state dict for their own module.

        >>> import kancompress
        >>> import torch
        >>> network = kancompress.load("packed.safetensors").module()
        >>> network(torch.zeros(3, 64)).shape
        torch.Size([3, 10])
        """
        settled("options", options, maybe(instance(RunOptions)))
        return _module(self, options)

    def outline(self) -> dict[str, Tensor]:
        """Another library's state dict with meta tensors in place of those that hold packed edges.

        Names, shapes and types are all there, so layers can be recognised; nothing is gathered.
        """
        given = state.outline(self.record())
        arrays = {name: one for name, one in given.items() if isinstance(one, Array)}
        tensors = all_to_torch(arrays)
        return {
            name: tensors[name] if name in tensors else without_numbers(one)
            for name, one in given.items()
        }

    def found_layers(self) -> list[FoundLayer]:
        """The layers of another library's checkpoint, with the parts of tensors that hold them."""
        return state.found_layers(self)

    def record(self) -> PackedRecord[Array]:
        """The same over the tensors' memory."""
        layers = tuple(_layer_record(layer) for layer in self.layers)
        return with_tensors(self, layers, PackedRecord, to_array)


def _module(record: Checkpoint | PackedModel, options: RunOptions | None = None) -> nn.Module:
    network: Any = import_module(_RUNNABLE).run(record, options).network
    return cast(nn.Module, network.eval())


def _layer_record(layer: PackedLayer) -> LayerRecord[Array]:
    return with_layer_tensors(layer, LayerRecord, to_array)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ForeignCheckpoint(ForeignRecord[Tensor]):
    """A checkpoint of another library, whose tensors are torch's; see `ForeignRecord`."""


# --- from records ---------------------------------------------------------------------------


def checkpoint_of(record: CheckpointRecord[Array]) -> Checkpoint:
    """The checkpoint of a record, over its memory."""
    given = {one.name: getattr(record, one.name) for one in fields(record)}
    return Checkpoint(**given | {"tensors": all_to_torch(record.tensors)})


def packed_of(record: PackedRecord[Array]) -> PackedModel:
    """The packed model of a record, over its memory."""
    layers = tuple(with_layer_tensors(layer, PackedLayer, to_torch) for layer in record.layers)
    return cast(PackedModel, with_tensors(record, layers, PackedModel, to_torch))


def foreign_of(record: ForeignRecord[Array]) -> ForeignCheckpoint:
    """The checkpoint of another library over its record's tensors, which are read when they are
    asked for."""
    given = {one.name: getattr(record, one.name) for one in fields(record)}
    return ForeignCheckpoint(**given | {"tensors": all_to_torch(record.tensors)})


# --- sizes ----------------------------------------------------------------------------------


def sizes(model: PackedModel) -> tuple[int, int]:
    """(header, payload) bytes of a packed model's file, without making it; its tensors may be
    without numbers, and it needs no indices.

    Where it has none, and their encoding cannot tell their size before, it is the most they take.
    """
    return writer.sizes(_record_outline(model))


def outlines_of(model: PackedModel) -> dict[str, Outline]:
    """Type and shape of all tensors of a packed model's file, by name, as `sizes` counts them."""
    return writer.outlines(_record_outline(model))


def told_size(model: PackedModel, unused: int = 0) -> tuple[str | None, ...]:
    """The bytes of a packed model's file, and how many times smaller that is, in words.

    unused : bytes of the source's file that are not among those that are compared
    """
    size, source = sum(sizes(model)), model.source
    if source.dense is not None:
        ratio = lines.smaller(size, source.dense[1], "the dense network")
    else:
        ratio = lines.smaller(size, source.file, "its source", lines.without(unused))
    return f"{size:,} bytes", ratio


def _edge_tensors(layer: PackedLayer) -> tuple[str, ...]:
    """Names of the tensors of a packed file that hold a layer's edges."""
    roles = ("index", "codebook", "kept_at", "kept", "coefficients")
    return tuple(f"{layer.name}.{role}" for role in roles)


def _width(model: PackedModel, layer: PackedLayer) -> int:
    """Bytes of a number of the dense layer: as many as the type of its coefficients has."""
    values = layer.coefficients if layer.coefficients is not None else model.codebook_of(layer)
    wide = values is not None and values.dtype == torch.float64
    return 8 if wide else 4


def _record_outline(model: PackedModel) -> PackedRecord[Outline]:
    layers = tuple(map(_layer_outline, model.layers))
    return with_tensors(model, layers, PackedRecord, outline_of)


def _layer_outline(layer: PackedLayer) -> LayerRecord[Outline]:
    made = with_layer_tensors(layer, LayerRecord, outline_of)
    if layer.index is None or layer.kept_at is None:
        return made
    # Where the packed edges are decides how many bytes their indices take.
    return replace(made, kept_at=to_array(layer.kept_at))


def dense_twin_sizes(checkpoint: Checkpoint) -> tuple[int, int]:
    """Bytes of the tensors and of the file that hold the same network with dense coefficients."""
    return checkpoints.dense_twin_sizes(checkpoint, outlines(checkpoint.tensors))


def check_finite(tensor: Tensor, name: str, where: str) -> None:
    """Refuse NaN and infinity, saying how many there are. Raises InvalidFileError."""
    if tensor.is_floating_point():
        checkpoints.check_finite(to_array(tensor), name, where)


__all__ = [
    "Checkpoint",
    "ForeignCheckpoint",
    "PackedLayer",
    "PackedModel",
    "check_finite",
    "checkpoint_of",
    "dense_twin_sizes",
    "foreign_of",
    "outlines_of",
    "packed_of",
    "sizes",
    "told_size",
]
