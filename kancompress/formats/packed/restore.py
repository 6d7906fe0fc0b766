"""The `restore` object of a packed file as records (docs/packed-format.md, section 8).

Each tensor of another library's checkpoint has an origin: what it is given back from.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.arrays import DTYPES, is_countable
from kancompress.formats.document import check_keys, spec
from kancompress.formats.pykan_config import KEYS, PykanConfig
from kancompress.formats.safetensors import shown
from kancompress.frozen import dataclass

CONTAINERS = ("safetensors", "torch-zip", "torch-legacy", "torch-module")
_WITH_OPAQUE = ("torch-zip", "torch-module")
_WITH_PYKAN = ("torch-zip", "torch-legacy")
_MAX_PATH = 64
MAX_RANK = 64

# --- origins --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """The tensor is stored as it is, under its own name where `name` is None."""

    name: str | None = None

    def to_json(self) -> dict[str, Any] | None:
        """As the document has it."""
        return None if self.name is None else {"as": self.name}


@dataclass(frozen=True, slots=True)
class Fill:
    """All elements are this number."""

    number: int | float

    def to_json(self) -> dict[str, Any]:
        """As the document has it."""
        return {"fill": self.number}


@dataclass(frozen=True, slots=True)
class Repeat:
    """The rows along the first axis are all the same: the stored tensor `name`."""

    name: str

    def to_json(self) -> dict[str, Any]:
        """As the document has it."""
        return {"repeat": self.name}


@dataclass(frozen=True, slots=True)
class Arange:
    """The rows along the last axis are all `base + step * t` for `count` values of t from `first`,
    each operation rounded to the tensor's type."""

    base: int | float
    step: int | float
    first: int
    count: int

    def to_json(self) -> dict[str, Any]:
        """As the document has it."""
        return {"arange": [self.base, self.step, self.first, self.count]}


@dataclass(frozen=True, slots=True)
class Tie:
    """The tensor is the same as another one, which has storage of its own."""

    name: str

    def to_json(self) -> dict[str, Any]:
        """As the document has it."""
        return {"tie": self.name}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Coefficients `first ... last - 1` of a packed layer's edges.

    axes    : how they lie in the tensor, an einops pattern
    group   : the tensor holds only this group of the outputs (None: all of them)
    columns : begin and end in the tensor's last axis (None: all of it)
    """

    layer: str
    axes: str
    first: int
    last: int
    group: int | None = None
    columns: tuple[int, int] | None = None

    def to_json(self) -> dict[str, Any]:
        """As the document has it."""
        record: dict[str, Any] = {"axes": self.axes}
        if self.columns is not None:
            record["columns"] = list(self.columns)
        record["from"] = self.first
        if self.group is not None:
            record["group"] = self.group
        return record | {"layer": self.layer, "to": self.last}


@dataclass(frozen=True, slots=True)
class Edges:
    """The tensor holds edges' coefficients, one piece or several side by side."""

    pieces: tuple[Piece, ...]

    def to_json(self) -> dict[str, Any]:
        """As the document has it."""
        if len(self.pieces) == 1:
            return self.pieces[0].to_json()
        return {"parts": [piece.to_json() for piece in self.pieces]}


@dataclass(frozen=True, slots=True, kw_only=True)
class PerEdge:
    """One number for each edge of a packed layer, or several, by what becomes of the edge.

    axes   : how the edges lie in the tensor, an einops pattern
    live   : of edges that are packed
    silent : of those of them whose index is 0; None where these are live, too
    kept   : of edges that are not packed, or the stored tensor of their numbers; None where all are
    """

    layer: str
    axes: str
    live: int | float
    silent: int | float | None = None
    kept: int | float | str | None = None

    @property
    def numbers(self) -> list[int | float]:
        """All numbers that it names."""
        given = (self.live, self.silent, self.kept)
        return [one for one in given if one is not None and not isinstance(one, str)]

    def to_json(self) -> dict[str, Any]:
        """As the document has it."""
        record: dict[str, Any] = {"axes": self.axes, "layer": self.layer, "live": self.live}
        if self.kept is not None:
            record["kept"] = self.kept
        if self.silent is not None:
            record["silent"] = self.silent
        return record


Origin = Stored | Fill | Repeat | Arange | Tie | Edges | PerEdge


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of the source: its type and shape there, and what it is given back from."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    origin: Origin

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The ranges of coefficients that it holds, none where it holds no edges."""
        return self.origin.pieces if isinstance(self.origin, Edges) else ()

    @property
    def stored(self) -> str | None:
        """The stored tensor that it needs."""
        match self.origin:
            case Stored(None):
                return self.name
            case Stored(name) | Repeat(name):
                return name
            case PerEdge(kept=str(name)):
                return name
        return None

    @property
    def owner(self) -> str:
        """The tensor whose storage it has: its own name, unless it is tied."""
        return self.origin.name if isinstance(self.origin, Tie) else self.name

    def to_json(self) -> list[Any]:
        """As the document has it."""
        return [self.name, self.dtype, list(self.shape), self.origin.to_json()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """How another library's checkpoint is given back.

    container : `safetensors`, `torch-zip`, `torch-legacy` or `torch-module`, as the source was
    path      : dictionary keys under which the state dict lay
    tensors   : in the source's order
    metadata  : a safetensors source's own, None where none was kept
    opaque    : name of the stored bytes of what lay beside the tensors, where it was kept
    pykan     : the settings that pykan's `loadckpt` needs, of a state whose config was known
    """

    container: str
    path: tuple[str, ...]
    tensors: tuple[SourceTensor, ...]
    metadata: Mapping[str, str] | None = None
    opaque: str | None = None
    pykan: PykanConfig | None = None

    def owners(self) -> dict[str, SourceTensor]:
        """For each tensor of the source the one whose storage it has: itself, unless it is tied."""
        by_name = {tensor.name: tensor for tensor in self.tensors}
        return {tensor.name: by_name[tensor.owner] for tensor in self.tensors}

    def to_json(self) -> dict[str, Any]:
        """As the document has it."""
        record: dict[str, Any] = {
            "container": self.container,
            "path": list(self.path),
            "tensors": [tensor.to_json() for tensor in self.tensors],
        }
        if self.metadata is not None:
            record["metadata"] = dict(self.metadata)
        if self.opaque is not None:
            record["opaque"] = self.opaque
        if self.pykan is not None:
            record["pykan"] = self.pykan.to_json()
        return record


# --- from JSON ------------------------------------------------------------------------------


def read_restore(record: object, layers: Collection[str], where: str) -> Restore:
    """The records of a `restore` object. Raises InvalidFileError for another form.

    layers : names of the packed layers
    """
    if not isinstance(record, dict):
        raise bad(where, "restore should be an object")
    optional = {"metadata", "opaque", "pykan"}
    check_keys(record, {"container", "path", "tensors"}, optional, where, "restore")
    if record["container"] not in CONTAINERS:
        raise bad(where, f"restore.container is {shown(record['container'])}")
    if not _strings(record["path"]) or len(record["path"]) > _MAX_PATH:
        raise bad(where, f"restore.path should be a list of at most {_MAX_PATH} strings")
    metadata = record.get("metadata", {})
    if not isinstance(metadata, dict) or not _strings(list(metadata.values())):
        raise bad(where, "restore.metadata should map names to strings")
    if "kancompress" in metadata:
        raise bad(where, "restore.metadata has the key 'kancompress', which no such source has")
    tensors = tuple(_tensors(record["tensors"], layers, where))
    if "opaque" in record:
        if not isinstance(record["opaque"], str):
            raise bad(where, "restore.opaque should name a tensor")
        if record["container"] not in _WITH_OPAQUE:
            raise bad(where, f"restore.opaque does not go with {shown(record['container'])}")
    return Restore(
        container=record["container"],
        path=tuple(record["path"]),
        tensors=tensors,
        metadata=metadata if "metadata" in record else None,
        opaque=record.get("opaque"),
        pykan=_pykan(record, tensors, where) if "pykan" in record else None,
    )


def _pykan(record: Mapping[str, Any], tensors: Collection[SourceTensor], where: str) -> PykanConfig:
    """The settings for pykan's `loadckpt`, of the network that the tensors are."""
    if record["container"] not in _WITH_PYKAN or record["path"]:
        raise bad(where, "restore.pykan goes with a torch file's state dict at the top")
    if isinstance(record["pykan"], dict):
        check_keys(record["pykan"], {*KEYS}, {"symbolic"}, where, "restore.pykan")
    config = spec(PykanConfig.from_json, record["pykan"], where)
    if misfit := config.misfit({tensor.name: tensor.shape for tensor in tensors}):
        raise bad(where, f"restore.pykan is of another network: {misfit}")
    return config


def stored_names(restore: Restore, where: str) -> set[str]:
    """Names of the stored tensors that `restore` explains. Raises InvalidFileError where it names
    one twice."""
    named = [tensor.stored for tensor in restore.tensors if tensor.stored is not None]
    if restore.opaque is not None:
        named.append(restore.opaque)
    names: set[str] = set()
    for name in named:
        if name in names:
            raise bad(where, f"restore names the stored tensor {shown(name)} twice")
        names.add(name)
    return names


def _tensors(record: object, layers: Collection[str], where: str) -> Iterator[SourceTensor]:
    if not isinstance(record, list):
        raise bad(where, "restore.tensors should be a list")
    origins = {entry[0]: entry[3] for entry in record if _is_entry(entry)}
    if len(origins) != len(record):
        raise bad(where, "restore.tensors should list [name, dtype, shape, origin] once a tensor")
    if "__metadata__" in origins:
        raise bad(where, "restore.tensors names a tensor '__metadata__'")
    tied = {
        name for name, origin in origins.items() if isinstance(origin, dict) and "tie" in origin
    }
    for name, dtype, shape, given in record:
        origin = _origin(given)
        if origin is None:
            raise bad(
                where,
                f"the origin of {shown(name)} is {shown(given)}, which this version does not know",
            )
        tensor = SourceTensor(name, dtype, tuple(shape), origin)
        if isinstance(origin, Tie) and (origin.name in tied or origin.name not in origins):
            raise bad(
                where,
                f"{shown(name)} is tied to {shown(origin.name)}, which is no tensor that has"
                " storage of its own",
            )
        needed = [piece.layer for piece in tensor.pieces]
        needed += [origin.layer] if isinstance(origin, PerEdge) else []
        for layer in needed:
            if layer not in layers:
                raise InvalidFileError(
                    Flaw.UNKNOWN_LAYER,
                    f"{where}: {shown(name)} comes from layer {shown(layer)}, which is not there.",
                )
        yield tensor


def bad(where: str, message: str) -> InvalidFileError:
    """The error for a value that `restore` cannot have."""
    return InvalidFileError(Flaw.BAD_VALUE, f"{where}: {message}.")


def _strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_entry(entry: object) -> bool:
    return (
        isinstance(entry, list)
        and len(entry) == 4
        and isinstance(entry[0], str)
        and isinstance(entry[1], str)
        and entry[1] in DTYPES
        and entry[1] != "C64"
        and isinstance(entry[2], list)
        and len(entry[2]) <= MAX_RANK
        and all(type(size) is int and 0 <= size < 1 << 63 for size in entry[2])
        and is_countable(tuple(entry[2]))
    )


def _origin(record: Any) -> Origin | None:
    """The origin that this JSON is, or None where it is none."""
    if record is None:
        return Stored()
    if not isinstance(record, dict):
        return None
    if "live" in record:
        return _per_edge(record)
    if len(record) > 1:
        piece = _piece(record)
        return None if piece is None else Edges((piece,))
    match record:
        case {"as": str(name)}:
            return Stored(name)
        case {"tie": str(name)}:
            return Tie(name)
        case {"repeat": str(name)}:
            return Repeat(name)
        case {"fill": number} if _is_number(number):
            return Fill(number)
        case {"arange": [base, step, first, count]} if (
            _is_number(base) and _is_number(step) and type(first) is type(count) is int
        ):
            return Arange(base, step, first, count) if count >= 0 else None
        case {"parts": [_, _, *_] as parts}:
            pieces = tuple(piece for part in parts if (piece := _piece(part)) is not None)
            return Edges(pieces) if len(pieces) == len(parts) else None
    return None


def _per_edge(record: Any) -> PerEdge | None:
    """`{"layer", "axes", "live"}`, perhaps with `silent` and `kept`; None for any other."""
    match record:
        case {"layer": str(layer), "axes": str(axes), "live": live} if _is_number(live):
            silent, kept = record.get("silent", 0), record.get("kept", 0)
            extra = record.keys() - {"layer", "axes", "live", "silent", "kept"}
            if extra or not _is_number(silent) or not (_is_number(kept) or isinstance(kept, str)):
                return None
            return PerEdge(
                layer=layer,
                axes=axes,
                live=live,
                silent=record.get("silent"),
                kept=record.get("kept"),
            )
    return None


def _piece(record: Any) -> Piece | None:
    """`{"layer", "axes", "from", "to"}`, perhaps with `group` and `columns`; None for any other."""
    match record:
        case {"layer": str(layer), "axes": str(axes), "from": first, "to": last}:
            columns = record.get("columns", [0, 1])
            if not isinstance(columns, list) or len(columns) != 2:
                return None
            numbers = [first, last, *columns, record.get("group", 0)]
            whole = all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)
            extra = record.keys() - {"layer", "axes", "from", "to"}
            if not whole or first >= last or columns[0] >= columns[1]:
                return None
            if not extra <= {"group", "columns"}:
                return None
            return Piece(
                layer=layer,
                axes=axes,
                first=first,
                last=last,
                group=record.get("group"),
                columns=(columns[0], columns[1]) if "columns" in record else None,
            )
    return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
