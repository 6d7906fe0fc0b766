"""The short header of packed files: one tensor for all, and a document that tells them.

docs/packed-format.md, section 12. A short document is made of the ordinary one, and read back into
it, so that all else knows ordinary files only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats import document as documents
from kancompress.formats import safetensors as containers
from kancompress.formats.arrays import REAL, Outline, element_count, is_countable
from kancompress.formats.checkpoint import HEAD, side_shapes
from kancompress.formats.packed.encodings import BITS, OF_NUMBERS, PLAIN, RANS, Indices
from kancompress.formats.packed.encodings.claims import told_encodings
from kancompress.formats.packed.header import Shape, layer_claim, model_of, without_codebook
from kancompress.formats.packed.restore import Repeat, read_restore, stored_names
from kancompress.formats.safetensors import Container, Entry, shown
from kancompress.frozen import dataclass
from kancompress.specs import ModelSpec

# Name of the one tensor.
TENSOR = "packed"
# Present in every short document, and in no other.
KEY = "clusters"
# Mean and deviation of the colour channels of data sets, which the document need not tell.
STATISTICS: Mapping[str, tuple[list[float], list[float]]] = {
    "digits": ([0.0], [1.0]),
    "mnist": ([0.1307], [0.3081]),
    "fashion-mnist": ([0.286], [0.353]),
    "cifar10": ([0.4914, 0.4822, 0.4465], [0.247, 0.2435, 0.2616]),
    "cifar100": ([0.5071, 0.4865, 0.4409], [0.2673, 0.2564, 0.2762]),
}
_REQUIRED = {"version", "kind", "checksum", "layers", "source", KEY}
_COUNTS = ("rans", "kept", "coefficients", "parts")
# Encodings of numbers that a list of the document may name in the place of a type.
_CODED = tuple(name for name in OF_NUMBERS if name != PLAIN.name)
_KINDS = (*REAL, *_CODED)
_OPTIONAL = {*_COUNTS, "head", "opaque", "model", "data", "restore", "forms", *_KINDS}
_MOST = 1 << 31  # lengths of axes are below

Document = dict[str, Any]


def is_short(document: Mapping[str, Any]) -> bool:
    """Whether a document is that of a short header."""
    return KEY in document


def unfolded(container: Container, document: Mapping[str, Any]) -> tuple[Container, Document]:
    """The container and the document as the ordinary header would have them.

    Only what the short header itself says is checked here. Raises InvalidFileError.
    """
    where = container.where
    payload = _payload(container)
    ordinary, outlines = _expanded(document, where)
    entries: dict[str, Entry] = {}
    end = 0
    for name in containers.layout_order(outlines):
        begin, end = end, end + outlines[name].nbytes
        entries[name] = Entry(name, outlines[name].dtype, outlines[name].shape, begin, end)
    if end != payload:
        raise _fail(
            where,
            Flaw.SIZE_MISMATCH,
            f"its tensors need {shown(end)} bytes, and the tensor {TENSOR!r} has {payload:,}.",
        )
    if _folded(ordinary, outlines) != document:
        raise _fail(
            where,
            Flaw.DOCUMENT_NOT_CANONICAL,
            "the kancompress document is not in its canonical form (docs/packed-format.md,"
            " section 12). Another tool has rewritten it.",
        )
    return replace(container, entries=entries), ordinary


def folded(document: Mapping[str, Any], outlines: Mapping[str, Outline]) -> Document | None:
    """The short document of an ordinary one; None where it cannot tell all.

    outlines : of the file's tensors
    """
    try:
        short = _folded(document, outlines)
        again, told = _expanded(short, "")
    except (InvalidFileError, _UntoldError):
        return None
    plain = {name: Outline(one.dtype, one.shape) for name, one in outlines.items()}
    return short if again == document and told == plain else None


def container_of(outlines: Mapping[str, Outline]) -> dict[str, Outline]:
    """The tensors of a short header: one, for all of these."""
    return {TENSOR: Outline("U8", (sum(one.nbytes for one in outlines.values()),))}


class _UntoldError(Exception):
    """An ordinary header that a short one cannot stand for."""


def _fail(where: str, flaw: Flaw, message: str) -> InvalidFileError:
    return InvalidFileError(flaw, f"{where}: {message}")


def _payload(container: Container) -> int:
    """Bytes of the one tensor."""
    where = container.where
    entry = container.entries.get(TENSOR)
    if entry is None:
        raise _fail(where, Flaw.MISSING_TENSOR, f"tensor {TENSOR!r} is missing.")
    if strangers := sorted(container.entries.keys() - {TENSOR}):
        raise _fail(
            where,
            Flaw.UNEXPLAINED_TENSOR,
            f"tensor {shown(strangers[0])} stands beside {TENSOR!r}, which holds all tensors.",
        )
    if entry.dtype != "U8":
        raise _fail(
            where, Flaw.WRONG_DTYPE, f"tensor {TENSOR!r} has the dtype {entry.dtype}, not U8."
        )
    if len(entry.shape) != 1:
        raise _fail(
            where,
            Flaw.WRONG_SHAPE,
            f"tensor {TENSOR!r} has the shape {shown(list(entry.shape))}; [bytes] was expected.",
        )
    return entry.size


# --- the tensors that the layers have -------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What a short document says of a layer. `clusters` and `coefficients` are those of its own
    tensors, 0 where it has none; `used` and `parts` are clusters and parts of an edge of the
    codebook that it uses."""

    name: str
    shape: Shape
    groups: int
    shares: str | None
    clusters: int
    used: int
    parts: int
    rans: int
    kept: int
    coefficients: int

    @property
    def index(self) -> Outline | None:
        """Its indices; None where one centroid leaves nothing to say."""
        if self.used < 2:
            return None
        if self.rans:
            return Outline("U8", (self.rans,))
        count = max(element_count(self.shape) - self.kept, 0)
        claim = Indices(f"{self.name}.index", count, self.used, self.shape, self.groups)
        return Outline("U8", (BITS.size(claim.cut(self.parts)).nbytes,))

    def numbers(self, model: ModelSpec | None) -> Iterator[tuple[str, Shape]]:
        """Role and shape of the tensors of numbers that it may have."""
        d = self.coefficients
        if self.clusters:
            yield "codebook", (self.clusters, d // self.parts)
        elif self.shares is None:
            yield "coefficients", (*self.shape, d)
        if self.kept:
            yield "kept", (self.kept, d)
        if model is not None:
            yield from side_shapes(model.basis, self.shape).items()


def _numbers(
    layers: Iterable[_Layer], model: ModelSpec | None, head: int
) -> dict[str, dict[str, Shape]]:
    """Names and shapes of the tensors of numbers that may be there, by role; those of the head are
    each a role of their own."""
    found: dict[str, dict[str, Shape]] = {}
    last: Shape = (0,)
    for layer in layers:
        for role, shape in layer.numbers(model):
            found.setdefault(role, {})[f"{layer.name}.{role}"] = shape
        last = layer.shape
    if head:
        for name, shape in zip(HEAD, ((head, last[0]), (head,)), strict=True):
            found[name] = {name: shape}
    return found


# --- short to ordinary ----------------------------------------------------------------------


def _expanded(document: Mapping[str, Any], where: str) -> tuple[Document, dict[str, Outline]]:
    """The ordinary document, and the tensors that it goes with."""
    documents.check_keys(document, _REQUIRED, _OPTIONAL, where, "the document")
    model = model_of(document, where)
    records = _records(document, model, where)
    layers = _layers(document, records, model, where)
    head = 0
    if model is not None and model.conv is not None:
        head = _count(document, "head", where)
    elif "head" in document:
        raise _fail(where, Flaw.BAD_VALUE, "head goes with a network of convolutions.")
    kinds = _typed(document, _numbers(layers, model, head), where)
    own = {name: _stored(name, kind, shape) for name, (kind, shape) in kinds.items()}
    encodings = {
        name: kind if kind in _CODED else PLAIN.name
        for name, (kind, _) in kinds.items()
        if name not in HEAD
    }
    for layer in layers:
        if layer.kept:
            own[f"{layer.name}.kept_at"] = Outline("I64", (layer.kept,))
            encodings[f"{layer.name}.kept_at"] = PLAIN.name
        if layer.index is not None:
            own[f"{layer.name}.index"] = layer.index
            encodings[f"{layer.name}.index"] = RANS.name if layer.rans else BITS.name
    others = _others(document, records, where)
    for name, one in others.items():
        if name in own:
            raise _fail(
                where,
                Flaw.BAD_VALUE,
                f"restore names the tensor {shown(name)}, which belongs to a layer.",
            )
        if not is_countable(one.shape):
            raise _fail(where, Flaw.BAD_SHAPE, f"tensor {shown(name)} has 2^63 numbers or more.")
        own[name] = one
    left = {"layers", "source", "data", KEY, *_COUNTS, "head", "opaque", *_KINDS}
    ordinary: Document = {key: value for key, value in document.items() if key not in left}
    ordinary |= {"layers": records, "source": _source(document["source"], where)}
    if "data" in document:
        ordinary["data"] = _with_statistics(document["data"])
        documents.data(ordinary, where)
    return ordinary | told_encodings(encodings), own


def _records(document: Mapping[str, Any], model: ModelSpec | None, where: str) -> dict[str, Any]:
    """The ordinary records of layers."""
    layers = document["layers"]
    if model is None and isinstance(layers, dict):
        given = layers
    elif model is not None and isinstance(layers, list):
        given = {str(number): record for number, record in enumerate(layers)}
    else:
        form = "an object" if model is None else "a list"
        raise _fail(where, Flaw.BAD_VALUE, f"layers should be {form} in a short header.")
    if not given:
        raise _fail(where, Flaw.BAD_VALUE, "layers should not be empty.")
    parts = dict(
        zip(
            sorted(given) if model is None else given,
            _counts(document, "parts", len(given), where, usual=1),
            strict=True,
        )
    )
    made = {
        name: {"shape": record} if isinstance(record, list) else record
        for name, record in given.items()
    }
    return {
        name: record | {"parts": parts[name]}
        if isinstance(record, dict) and parts[name] != 1
        else record
        for name, record in made.items()
    }


def _layers(
    document: Mapping[str, Any], records: Mapping[str, Any], model: ModelSpec | None, where: str
) -> list[_Layer]:
    claims = {name: layer_claim(name, record, where) for name, record in records.items()}
    clusters = dict(zip(claims, _counts(document, KEY, len(claims), where), strict=True))
    for name, claim in claims.items():
        if claim.shares is not None and not _shared(claim.shares, clusters):
            raise without_codebook(name, claim.shares, where)
    rans, kept = (_counts(document, key, len(claims), where) for key in ("rans", "kept"))
    if model is None:
        width = _counts(document, "coefficients", len(claims), where)
    elif "coefficients" in document:
        raise _fail(where, Flaw.BAD_VALUE, "coefficients follow from the model.")
    else:
        width = [model.basis.coefficients] * len(claims)
    return [
        _Layer(
            name=name,
            shape=claim.shape,
            groups=claim.groups,
            shares=claim.shares,
            clusters=clusters[name],
            used=clusters[name] or _shared(claim.shares, clusters),
            parts=claims[claim.shares or name].parts,
            rans=rans[at],
            kept=kept[at],
            coefficients=width[at],
        )
        for at, (name, claim) in enumerate(claims.items())
    ]


def _shared(owner: object, clusters: Mapping[str, int]) -> int:
    """Clusters of the codebook of another layer, 0 where there is none."""
    return clusters.get(owner, 0) if isinstance(owner, str) else 0


def _counts(
    document: Mapping[str, Any], key: str, layers: int, where: str, *, usual: int = 0
) -> list[int]:
    """A number for each layer; one number stands for equal ones, none for the usual one."""
    value = document.get(key, usual)
    values = value if isinstance(value, list) else [value] * layers
    if len(values) != layers or not all(
        type(one) is int and 0 <= one < (1 << 63 if key == "rans" else _MOST) for one in values
    ):
        raise _fail(
            where,
            Flaw.BAD_VALUE,
            f"{key} is {shown(value)}; a whole number, or one for each of {layers} layers, was"
            " expected.",
        )
    return values


def _count(document: Mapping[str, Any], key: str, where: str) -> int:
    documents.check_keys(document, {key}, set(document), where, "the document")
    value = document[key]
    if type(value) is not int or not 0 < value < _MOST:
        raise _fail(
            where, Flaw.BAD_VALUE, f"{key} is {shown(value)}; a positive number was expected."
        )
    return value


def _typed(
    document: Mapping[str, Any], may_be: Mapping[str, Mapping[str, Shape]], where: str
) -> dict[str, tuple[str, Shape]]:
    """The tensors of numbers, of which the document tells types or encodings, and their shapes.

    may_be : their names and shapes, by role
    """
    alone = {name: {name: shape} for of_role in may_be.values() for name, shape in of_role.items()}
    found: dict[str, tuple[str, Shape]] = {}
    for dtype in _KINDS:
        names = document.get(dtype, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _fail(where, Flaw.BAD_VALUE, f"{dtype} should be a list of roles and tensors.")
        for name in names:
            tensors = may_be.get(name) or alone.get(name)
            if tensors is None:
                flaw = Flaw.UNEXPLAINED_TENSOR if "." in name else Flaw.UNKNOWN_ROLE
                raise _fail(
                    where, flaw, f"{dtype} names {shown(name)}, which no layer of the file has."
                )
            for tensor, shape in tensors.items():
                if tensor in found:
                    raise _fail(where, Flaw.BAD_VALUE, f"tensor {shown(tensor)} has two types.")
                if not is_countable(shape):
                    raise _fail(
                        where, Flaw.BAD_SHAPE, f"tensor {shown(tensor)} has 2^63 numbers or more."
                    )
                if dtype in _CODED and tensor.rpartition(".")[2] not in OF_NUMBERS[dtype].roles:
                    raise _fail(
                        where,
                        Flaw.UNKNOWN_ENCODING,
                        f"tensor {shown(tensor)} has the encoding {dtype!r}, which is for"
                        f" {', '.join(OF_NUMBERS[dtype].roles)}.",
                    )
                found[tensor] = dtype, shape
    untold = [name for role, names in may_be.items() if role != "bias" for name in names]
    if missing := [name for name in untold if name not in found]:
        raise _fail(where, Flaw.MISSING_TENSOR, f"tensor {shown(missing[0])} has no type.")
    return found


def _stored(name: str, kind: str, shape: Shape) -> Outline:
    """The tensor in the file of numbers with a type, or of F32 with an encoding."""
    if kind in _CODED:
        return OF_NUMBERS[kind].written(Outline("F32", shape), name.rpartition(".")[2])
    return Outline(kind, shape)


def _others(document: Mapping[str, Any], layers: Iterable[str], where: str) -> dict[str, Outline]:
    """The tensors of the source that are stored as they are, of which `restore` tells all but the
    bytes of what is kept beside them."""
    if "restore" not in document:
        if "opaque" in document:
            raise _fail(where, Flaw.BAD_VALUE, "opaque goes with restore.opaque.")
        return {}
    restore = read_restore(document["restore"], [*layers], where)
    stored_names(restore, where)
    found: dict[str, Outline] = {}
    for tensor in restore.tensors:
        if tensor.stored is not None:
            repeated = isinstance(tensor.origin, Repeat)
            shape = tensor.shape[1:] if repeated else tensor.shape
            found[tensor.stored] = Outline(tensor.dtype, shape)
    if restore.opaque is not None:
        found[restore.opaque] = Outline("U8", (_count(document, "opaque", where),))
    elif "opaque" in document:
        raise _fail(where, Flaw.BAD_VALUE, "opaque goes with restore.opaque.")
    if "__metadata__" in found:
        raise _fail(where, Flaw.BAD_TENSOR_NAME, "no tensor may be called '__metadata__'.")
    return found


def _source(value: object, where: str) -> Document:
    if not isinstance(value, list) or len(value) not in (2, 4):
        raise _fail(
            where,
            Flaw.BAD_VALUE,
            f"source is {shown(value)}; [tensors, file] or [tensors, file, dense tensors, dense"
            " file] was expected.",
        )
    record: Document = {"tensors": value[0], "file": value[1]}
    return record | ({"dense": value[2:]} if len(value) == 4 else {})


def _with_statistics(data: object) -> object:
    """`data` with the mean and the deviation that its name stands for."""
    if not isinstance(data, dict) or "mean" in data or "std" in data:
        return data
    name = data.get("name")
    if not isinstance(name, str) or name not in STATISTICS:
        return data
    mean, std = STATISTICS[name]
    return data | {"mean": mean, "std": std}


# --- ordinary to short ----------------------------------------------------------------------


def _folded(document: Mapping[str, Any], outlines: Mapping[str, Outline]) -> Document:
    """The short document, where it can tell all. Raises _UntoldError where it is plain that not."""
    native = "model" in document
    records = document["layers"]
    names = [str(n) for n in range(len(records))] if native else sorted(records)
    if any(name not in records for name in names):
        raise _UntoldError
    model = model_of(document, "")
    coded = _coded(document, outlines)
    stored, outlines = (
        outlines,
        {
            name: OF_NUMBERS[coded[name]].read(one, name.rpartition(".")[2])
            if name in coded
            else one
            for name, one in outlines.items()
        },
    )
    layers = [_found(name, records[name], document, outlines) for name in names]
    given = [
        record["shape"] if record.keys() <= {"shape", "parts"} else _without_parts(record)
        for record in (records[name] for name in names)
    ]
    left = ("layers", "source", "data", "encodings", "exceptions")
    short: Document = {key: value for key, value in document.items() if key not in left}
    short |= {
        "layers": given if native else dict(zip(names, given, strict=True)),
        "source": _sizes(document["source"]),
        KEY: _shortest([layer.clusters for layer in layers]),
    }
    for key, counts in {
        "rans": [layer.rans for layer in layers],
        "kept": [layer.kept for layer in layers],
        "coefficients": [] if native else [layer.coefficients for layer in layers],
    }.items():
        if any(counts):
            short[key] = _shortest(counts)
    parts = [records[name].get("parts", 1) for name in names]
    if any(own != 1 for own in parts):
        short["parts"] = _shortest(parts)
    if "data" in document:
        short["data"] = _without_statistics(document["data"])
    head = outlines.get(HEAD[0]) if native else None
    if head is not None and head.shape:
        short["head"] = head.shape[0]
    opaque: str | None = None if native else document["restore"].get("opaque")
    if opaque is not None and opaque in stored:
        short["opaque"] = stored[opaque].nbytes
    kinds = {name: coded.get(name, one.dtype) for name, one in outlines.items()}
    return short | _types(_numbers(layers, model, short.get("head", 0)), kinds)


def _coded(document: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """The encoding of each tensor of numbers that is not written as it is."""
    roles = {role: name for name in _CODED for role in document["encodings"].get(name, ())}
    exceptions = document.get("exceptions", {})
    found = {
        name: exceptions.get(name, roles.get(name.rpartition(".")[2], PLAIN.name))
        for name in names
        if name.rpartition(".")[0] in document["layers"]
    }
    return {name: encoding for name, encoding in found.items() if encoding in _CODED}


def _found(
    name: str,
    record: Mapping[str, Any],
    document: Mapping[str, Any],
    outlines: Mapping[str, Outline],
) -> _Layer:
    """A layer as the short document tells it."""
    shares = record.get("codebook")

    def shape(owner: str, role: str) -> Shape:
        one = outlines.get(f"{owner}.{role}")
        return (0,) if one is None else one.shape or (0,)

    own, index = shape(name, "codebook"), shape(name, "index")
    table = shape(shares, "codebook") if shares else own
    width = table[-1] or shape(name, "coefficients")[-1]
    coded = document.get("exceptions", {}).get(f"{name}.index")
    in_rans = coded == RANS.name or (
        coded is None and "index" in document["encodings"].get(RANS.name, ())
    )
    owner = document["layers"].get(shares, record) if shares else record
    parts = owner.get("parts", 1)
    return _Layer(
        name=name,
        shape=tuple(record["shape"]),
        parts=parts,
        groups=record.get("groups", 1),
        shares=shares,
        clusters=own[0],
        used=0,
        rans=index[0] if in_rans else 0,
        kept=shape(name, "kept_at")[0],
        coefficients=width * parts,
    )


def _types(
    may_be: Mapping[str, Mapping[str, Shape]], kinds: Mapping[str, str]
) -> dict[str, list[str]]:
    """Roles, and tensors whose role has no one type or encoding, by their types and encodings."""
    found: dict[str, list[str]] = {}
    for role, tensors in may_be.items():
        types = {name: kinds[name] for name in tensors if name in kinds}
        whole = len(types) == len(tensors) and len({*types.values()}) == 1
        for name, dtype in types.items():
            named = found.setdefault(dtype, [])
            if not whole:
                named.append(name)
            elif role not in named:
                named.append(role)
    return {dtype: sorted(names) for dtype, names in found.items()}


def _without_parts(record: Mapping[str, Any]) -> Document:
    return {key: value for key, value in record.items() if key != "parts"}


def _shortest(counts: Sequence[int]) -> int | list[int]:
    """One number for equal ones."""
    return counts[0] if len({*counts}) == 1 else [*counts]


def _sizes(source: Mapping[str, Any]) -> list[int]:
    return [source["tensors"], source["file"], *source.get("dense", ())]


def _without_statistics(data: Mapping[str, Any]) -> Mapping[str, Any]:
    if STATISTICS.get(data["name"]) != (data.get("mean"), data.get("std")):
        return data
    return {key: value for key, value in data.items() if key not in ("mean", "std")}
