"""A network as data: what its layers compute and the arrays that they compute it with, no torch.

All that runs or writes networks without torch reads this: the numpy runtime and the exporters.
Coefficients stay packed: a codebook, and of every edge the row that it points to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.errors import UsageError
from kancompress.formats import storage
from kancompress.formats.arrays import Array
from kancompress.formats.checkpoint import HEAD, CheckpointRecord
from kancompress.formats.packed import LayerRecord, PackedRecord, state
from kancompress.formats.storage import Source
from kancompress.forward import RunOptions
from kancompress.frozen import dataclass
from kancompress.layers.families import form_of, place_of
from kancompress.layers.forms import LayerForm
from kancompress.specs import DataSpec, ModelSpec

# Loaded for other libraries' files alone.
_FOREIGN, _TOLD = "kancompress.runtime.foreign", "kancompress.libraries.told"
_NOTHING = RunOptions()

# float32, or float64 where coefficients are stored in it.
Numbers = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Gain:
    """Factors (*shape) that multiply the coefficients from `first` to below `last`."""

    first: int
    last: int
    factors: Numbers


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Edges:
    """The coefficients of a layer's edges, packed or dense.

    shape : (out, in), or (out, in, rows, columns) of a convolution
    size  : coefficients of an edge, the base weight last
    table : (rows, size / parts): the codebook, followed by the vectors of edges that are kept; or
            (edges, size) where the layer is dense
    rows  : (edges * parts,) which row of the table each part of each edge is, row-major over the
            shape, in the fewest bytes; None where the layer is dense: then each edge has its own
    parts : vectors that the coefficients of an edge are cut into, one after another
    clusters : k of the codebook; the rows of the table behind it are kept; 0 where it is dense
    owner : name of the layer whose codebook this is, None where it is its own
    encoding : how the file has the indices, "" where it has none
    gains : factors that the file keeps apart: of splines, and of masks
    """

    shape: tuple[int, ...]
    size: int
    table: Numbers
    rows: Rows | None = None
    parts: int = 1
    clusters: int = 0
    owner: str | None = None
    encoding: str = ""
    gains: tuple[Gain, ...] = ()

    def coefficients(self) -> Numbers:
        """(*shape, size), gains included."""
        vectors = self.table if self.rows is None else self.table[self.rows]
        found = vectors.reshape(*self.shape, self.size)
        for number, gain in enumerate(self.gains):
            found = found.copy() if not number and self.rows is None else found
            found[..., gain.first : gain.last] *= gain.factors[..., None]
        return found


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Layer:
    """One layer: after(sum over edges + bias), as `LayerForm` has it.

    arrays : that the form names, by role
    bias   : (out,), or None
    """

    name: str
    form: LayerForm
    edges: Edges
    arrays: Mapping[str, Numbers] = field(default_factory=dict)
    bias: Numbers | None = None

    @property
    def inputs(self) -> int:
        """Inputs, or channels of the input map."""
        return self.edges.shape[1]

    @property
    def outputs(self) -> int:
        """Outputs, or channels of the output map."""
        return self.edges.shape[0]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Head:
    """The dense linear layer behind convolutions, of the mean of each channel.

    weight : (outputs, channels); bias : (outputs,)
    """

    weight: Numbers
    bias: Numbers


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Program:
    """A network: layer after layer, and the head of convolutions.

    data  : what it was trained on, None where the file does not say
    notes : what was taken for granted
    where : what messages call its file; file_bytes : of that file
    """

    layers: tuple[Layer, ...]
    head: Head | None = None
    data: DataSpec | None = None
    notes: tuple[str, ...] = ()
    where: str = "The input"
    file_bytes: int = 0

    @property
    def inputs(self) -> int:
        """Numbers of a row, or channels of an image."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Numbers that the network puts out for a row."""
        return self.layers[-1].outputs if self.head is None else len(self.head.bias)

    @property
    def is_conv(self) -> bool:
        """Whether it takes images (channels, height, width)."""
        return self.layers[0].form.window is not None


def read(
    source: Source,
    name: str | None = None,
    *,
    any_size: bool = False,
    options: RunOptions | None = None,
) -> Program:
    """The network in a packed or dense file that kancompress wrote.

    source   : a path, or the bytes of the file; `name` is what messages call it
    any_size : as of `kancompress.load`
    options  : what another library's packed file does not tell of its network
    Raises InvalidFileError for a file that is none of these, or damaged; UsageError for one whose
    network cannot be run, and for options that mean nothing for it.
    """
    container = storage.open_container(source, name)
    record = storage.read_record(container, any_size=any_size)
    return program_of(record, container.where, container.file_size, options)


def program_of(
    record: CheckpointRecord[Array] | PackedRecord[Array],
    where: str,
    file_bytes: int,
    options: RunOptions | None = None,
) -> Program:
    """The network of a record; the arrays are parts of the record's where they can be."""
    options = options or RunOptions()
    if isinstance(record, PackedRecord) and record.restore is not None:
        found: Program = import_module(_FOREIGN).program_of(record, where, file_bytes, options)
        return found
    if options != _NOTHING:
        import_module(_TOLD).refuse_options(options)
    if isinstance(record, CheckpointRecord):
        layers, others, model = _dense(record, where), record.tensors, record.model
    else:
        assert record.model is not None
        layers, others, model = _packed(record), record.tensors, record.model
    named = tuple(_layer(*layer, model, number, len(layers)) for number, layer in enumerate(layers))
    head = None
    if model.conv is not None:
        weight, bias = (_wide(others[name]) for name in HEAD)
        head = Head(weight=weight, bias=bias)
    return Program(layers=named, head=head, data=record.data, where=where, file_bytes=file_bytes)


# A layer's name, its edges and what it has beside them, by role.
_Parts = tuple[str, Edges, dict[str, Numbers]]


def _layer(
    name: str,
    edges: Edges,
    sides: dict[str, Numbers],
    model: ModelSpec,
    number: int,
    count: int,
) -> Layer:
    window, last, dropout = place_of(model, edges.shape, number, count)
    bias, norm = sides.pop("bias", None), sides.pop("norm", None)
    if norm is not None:
        sides["norm"] = norm[:2]
        if len(norm) > 2:
            sides["statistics"] = norm[2:]
    form = form_of(model.basis, window=window, last=last, dropout=dropout)
    return Layer(name=name, form=form, edges=edges, arrays=sides, bias=bias)


def _dense(record: CheckpointRecord[Array], where: str) -> list[_Parts]:
    if record.kind == "meta":
        raise UsageError(
            f"{where} has a meta-learner, which only torch runs; pack it first, or `expand` it."
        )
    found: list[_Parts] = []
    for number, shape in enumerate(record.shapes):
        stem = f"{number}."
        own = {
            key.removeprefix(stem): _wide(array)
            for key, array in record.tensors.items()
            if key.startswith(stem)
        }
        values = own.pop("coefficients")
        size = values.shape[-1]
        table = np.ascontiguousarray(values.reshape(-1, size))
        found.append((str(number), Edges(shape=shape, size=size, table=table), own))
    return found


def _packed(record: PackedRecord[Array]) -> list[_Parts]:
    return [
        (
            layer.name,
            packed_edges(record, layer),
            {role: _wide(array) for role, array in layer.sides.items()},
        )
        for layer in record.layers
    ]


def packed_edges(
    record: PackedRecord[Array],
    layer: LayerRecord[Array],
    dtype: type[np.floating[Any]] = np.float32,
    gains: tuple[Gain, ...] = (),
) -> Edges:
    """The edges of a layer of a packed file, in the type of the computation."""
    codebook, size = record.codebook_of(layer), record.vector_size_of(layer)
    if codebook is None:
        assert layer.coefficients is not None
        table = _wide(layer.coefficients, dtype).reshape(-1, size)
        return Edges(shape=layer.shape, size=size, table=table, gains=gains)
    table, clusters = _wide(codebook, dtype), len(codebook)
    if layer.kept is not None:
        kept = _wide(layer.kept, dtype).reshape(-1, table.shape[1])
        table = np.concatenate([table, kept])
    rows = state.rows_of(layer, clusters)
    return Edges(
        shape=layer.shape,
        size=size,
        table=table,
        rows=rows.astype(np.min_scalar_type(max(len(table) - 1, 0))),
        parts=layer.parts,
        clusters=clusters,
        owner=layer.shares,
        encoding=layer.encoding,
        gains=gains,
    )


def _wide(array: Array, dtype: type[np.floating[Any]] = np.float32) -> Numbers:
    values: Numbers = array.values().astype(dtype, copy=False)
    return values
