"""Origins of tensors against what the header claims (docs/packed-format.md, 8.3, 8.4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.formats.arrays import (
    DTYPES,
    REAL,
    element_count,
    is_number_of,
    steps_stay_in_range,
)
from kancompress.formats.edges.axes import NAMES, Axes, Claim, Sizes, kernel_axes, parse_axes, solve
from kancompress.formats.packed.restore import (
    MAX_RANK,
    Arange,
    Edges,
    Fill,
    PerEdge,
    Piece,
    Repeat,
    Restore,
    SourceTensor,
    Stored,
    Tie,
    bad,
)
from kancompress.formats.safetensors import Entry, shown
from kancompress.frozen import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerClaim:
    """A layer as the header claims it; `shape` counts the outputs of all groups.

    packed : whether its edges have indices; kept : how many of them have none
    """

    shape: tuple[int, ...]
    coefficients: int
    groups: int
    packed: bool = True
    kept: int = 0

    @property
    def edges(self) -> int:
        """Number of edges."""
        return element_count(self.shape)

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the axes that number an edge."""
        return {
            "group": self.groups,
            "out": self.shape[0] // self.groups,
            "in": self.shape[1],
            **kernel_axes(self.shape),
        }


def check_origins(
    restore: Restore,
    entries: Mapping[str, Entry],
    layers: Mapping[str, LayerClaim],
    where: str,
) -> int:
    """Check every tensor of the source against what it comes from.

    entries : in which all stored tensors are that `restore` names
    Returns the bytes of all tensors of the source that are not tied. Raises InvalidFileError.
    """
    kinds = {tensor.name: (tensor.dtype, tensor.shape) for tensor in restore.tensors}
    total = 0
    for tensor in restore.tensors:
        if isinstance(tensor.origin, Tie):
            fits = kinds[tensor.origin.name] == (tensor.dtype, tensor.shape)
        else:
            fits = _fits(tensor, entries, layers, where)
        if not fits:
            raise InvalidFileError(
                Flaw.WRONG_SHAPE,
                f"{where}: restore gives {shown(tensor.name)} the type {tensor.dtype} and the shape"
                f" {shown(list(tensor.shape))}, which its origin {shown(tensor.origin.to_json())}"
                " has not.",
            )
        if not isinstance(tensor.origin, Tie):
            total += element_count(tensor.shape) * DTYPES[tensor.dtype].itemsize
    if restore.opaque is not None:
        entry = entries[restore.opaque]
        _check_dtype(entry, "U8", "restore.opaque", where)
        if len(entry.shape) != 1:
            raise InvalidFileError(
                Flaw.WRONG_SHAPE,
                f"{where}: restore.opaque has the shape {shown(list(entry.shape))}; [bytes] was"
                " expected.",
            )
    return total


def _fits(
    tensor: SourceTensor,
    entries: Mapping[str, Entry],
    layers: Mapping[str, LayerClaim],
    where: str,
) -> bool:
    """Whether an origin that is no tie has the tensor's shape."""
    shape, dtype = tensor.shape, tensor.dtype
    match tensor.origin:
        case Edges(pieces):
            _check_pieces(tensor, pieces, layers, where)
        case PerEdge() as origin:
            _check_per_edge(tensor, origin, entries, layers[origin.layer], where)
        case Fill(number):
            _check_number(is_number_of(number, dtype), tensor, where)
        case Arange(base, step, first, count):
            in_range = steps_stay_in_range(base, step, first, count, dtype)
            _check_number(in_range, tensor, where)
            return bool(shape) and shape[-1] == count
        case Repeat(row):
            _check_dtype(entries[row], dtype, tensor.name, where)
            return bool(shape) and entries[row].shape == shape[1:]
        case Stored():
            entry = entries[tensor.stored or tensor.name]
            _check_dtype(entry, dtype, tensor.name, where)
            return entry.shape == shape
    return True


def _check_number(is_right: bool, tensor: SourceTensor, where: str) -> None:
    """Refuse an origin whose numbers are none of the tensor's type."""
    if not is_right:
        raise bad(
            where,
            f"restore gives {shown(tensor.name)} the type {tensor.dtype}, and its origin"
            f" {shown(tensor.origin.to_json())} has numbers that are none of this type",
        )


def _check_per_edge(
    tensor: SourceTensor,
    origin: PerEdge,
    entries: Mapping[str, Entry],
    layer: LayerClaim,
    where: str,
) -> None:
    """Refuse a tensor that does not have a number, or as many for each, of a layer's edges."""
    right = all(is_number_of(number, tensor.dtype) for number in origin.numbers)
    _check_number(right, tensor, where)
    width, rest = divmod(element_count(tensor.shape), layer.edges)
    if rest or not width:
        reason = f"the layer has {layer.edges} edges"
    elif not layer.packed:
        reason = "the layer stays dense"
    elif (origin.kept is None) is (layer.kept > 0):
        reason = f"{layer.kept} edges of the layer are not packed"
    else:
        piece = Piece(layer=origin.layer, axes=origin.axes, first=0, last=width)
        reason = _axes_or_shape_misfit(piece, layer, tensor.shape)
    if isinstance(origin.kept, str) and not reason:
        entry, expected = entries[origin.kept], (layer.kept, width)
        _check_dtype(entry, tensor.dtype, tensor.name, where)
        if entry.shape != expected:
            reason = f"{shown(entry.name)} has the shape {shown(list(entry.shape))}"
    if reason:
        raise _misfit(tensor, reason, where)


def _misfit(tensor: SourceTensor, reason: str, where: str) -> InvalidFileError:
    return InvalidFileError(
        Flaw.WRONG_SHAPE,
        f"{where}: restore gives {shown(tensor.name)} the shape {shown(list(tensor.shape))}, which"
        f" its origin {shown(tensor.origin.to_json())} has not: {reason}.",
    )


def _check_pieces(
    tensor: SourceTensor,
    pieces: Sequence[Piece],
    layers: Mapping[str, LayerClaim],
    where: str,
) -> None:
    """Refuse a tensor that its layers' coefficients do not fill, all of it and once."""
    shape = tensor.shape
    if tensor.dtype not in REAL:
        raise InvalidFileError(
            Flaw.WRONG_DTYPE,
            f"{where}: {shown(tensor.name)} holds coefficients and has the dtype {tensor.dtype};"
            f" one of {', '.join(REAL)} was expected.",
        )
    reason = _columns_misfit(pieces, shape)
    for piece in pieces:
        part = shape
        if piece.columns is not None and not reason:
            part = (*shape[:-1], piece.columns[1] - piece.columns[0])
        reason = reason or _piece_misfit(piece, layers[piece.layer], part)
    if reason:
        raise _misfit(tensor, reason, where)


def _columns_misfit(pieces: Sequence[Piece], shape: tuple[int, ...]) -> str:
    """Why the columns of a tensor's pieces are not its last axis, each once; "" if they are."""
    given = sorted(piece.columns for piece in pieces if piece.columns is not None)
    if not given and len(pieces) == 1:
        return ""
    if len(given) != len(pieces) or not shape:
        return "several parts each need columns"
    ends = [0, *(end for _, end in given)]
    if [begin for begin, _ in given] != ends[:-1] or ends[-1] != shape[-1]:
        return "its columns are not the whole last axis, each once"
    return ""


def _piece_misfit(piece: Piece, layer: LayerClaim, shape: tuple[int, ...]) -> str:
    """Why a range of a layer's coefficients does not have this shape; "" where it has."""
    if piece.last > layer.coefficients:
        return f"the layer has {layer.coefficients} coefficients an edge"
    if piece.group is not None and (layer.groups < 2 or piece.group >= layer.groups):
        return f"the layer has {layer.groups} groups"
    return _axes_or_shape_misfit(piece, layer, shape)


def _axes_or_shape_misfit(piece: Piece, layer: LayerClaim, shape: tuple[int, ...]) -> str:
    """Why so many numbers of each edge do not lie so in a tensor of this shape."""
    width = piece.last - piece.first
    try:
        axes = parse_axes(piece.axes, only=NAMES)
    except UsageError as error:
        return error.clause
    sizes = layer.sizes
    if piece.group is not None:
        del sizes["group"]
    reason = _axes_misfit(axes, sizes, width)
    if reason:
        return reason
    if "half" not in axes.names and "coef" in axes.names:
        sizes["coef"] = width
    known = Sizes(sizes, dict.fromkeys(sizes, "the layer"))
    claim = Claim("it", shape, axes)
    if claim.has_rank:
        reason = solve([claim], known)
    elif "half" in axes.names:
        reason = "half needs a length for each dimension of the axes"
    if reason:
        return reason
    if "half" in axes.names and known.known["half"] * known.known["coef"] != width:
        return f"half and coef are not {width} together"
    held = math.prod(known.known[name] for name in axes.names)
    return "" if held == element_count(shape) else f"the layer gives {held} numbers"


def _axes_misfit(axes: Axes, sizes: Mapping[str, int], width: int) -> str:
    names = set(axes.names)
    needed = {name for name in sizes if name != "group" or sizes[name] > 1}
    if len(axes.dims) > MAX_RANK:
        return "the axes have too many dimensions"
    if width != 1:
        needed = needed | {"coef"}
    if missing := sorted(needed - names):
        return f"the axes lack {missing[0]}"
    allowed = {*sizes, "coef"} | ({"half"} if "coef" in names else set())
    if extra := sorted(names - allowed):
        return f"the axes name {extra[0]}, which the layer has not"
    return ""


def _check_dtype(entry: Entry, dtype: str, name: str, where: str) -> None:
    if entry.dtype != dtype:
        raise InvalidFileError(
            Flaw.WRONG_DTYPE,
            f"{where}: tensor {shown(entry.name)} has the dtype {entry.dtype};"
            f" {dtype} was expected for {shown(name)}.",
        )
