"""The short header of packed files: one tensor for all, and a document that tells them.

docs/packed-format.md, section 12. A short document is made of the ordinary one, and read back into
it, so that all else knows ordinary files only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats import document as documents
from kancompress.formats import safetensors as containers
from kancompress.formats.arrays import REAL, Outline, element_count, is_countable
from kancompress.formats.checkpoint import HEAD, side_shapes
from kancompress.formats.packed.encodings import BITS, PLAIN, RANS, Indices
from kancompress.formats.packed.encodings.claims import told_encodings
from kancompress.formats.packed.header import Shape, layer_claim, model_of, without_codebook
from kancompress.formats.packed.restore import Repeat, read_restore, stored_names
from kancompress.formats.safetensors import Container, Entry, shown
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
_COUNTS = ("rans", "kept", "coefficients")
_OPTIONAL = {*_COUNTS, "head", "opaque", "model", "data", "restore", "forms", *REAL}
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
    tensors, 0 where it has none; `used` are the clusters of the codebook that it uses."""

    name: str
    shape: Shape
    groups: int
    shares: str | None
    clusters: int
    used: int
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
        return Outline("U8", (BITS.size(claim).nbytes,))

    def numbers(self, model: ModelSpec | None) -> Iterator[tuple[str, Shape]]:
        """Role and shape of the tensors of numbers that it may have."""
        d = self.coefficients
        if self.clusters:
            yield "codebook", (self.clusters, d)
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
    records = _records(document["layers"], model, where)
    layers = _layers(document, records, model, where)
    head = 0
    if model is not None and model.conv is not None:
        head = _count(document, "head", where)
    elif "head" in document:
        raise _fail(where, Flaw.BAD_VALUE, "head goes with a network of convolutions.")
    own = _typed(document, _numbers(layers, model, head), where)
    encodings = dict.fromkeys((name for name in own if name not in HEAD), PLAIN.name)
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
    left = {"layers", "source", "data", KEY, *_COUNTS, "head", "opaque", *REAL}
    ordinary: Document = {key: value for key, value in document.items() if key not in left}
    ordinary |= {"layers": records, "source": _source(document["source"], where)}
    if "data" in document:
        ordinary["data"] = _with_statistics(document["data"])
        documents.data(ordinary, where)
    return ordinary | told_encodings(encodings), own


def _records(layers: object, model: ModelSpec | None, where: str) -> dict[str, Any]:
    """The ordinary records of layers."""
    if model is None and isinstance(layers, dict):
        given = layers
    elif model is not None and isinstance(layers, list):
        given = {str(number): record for number, record in enumerate(layers)}
    else:
        form = "an object" if model is None else "a list"
        raise _fail(where, Flaw.BAD_VALUE, f"layers should be {form} in a short header.")
    if not given:
        raise _fail(where, Flaw.BAD_VALUE, "layers should not be empty.")
    return {
        name: {"shape": record} if isinstance(record, list) else record
        for name, record in given.items()
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
            rans=rans[at],
            kept=kept[at],
            coefficients=width[at],
        )
        for at, (name, claim) in enumerate(claims.items())
    ]


def _shared(owner: object, clusters: Mapping[str, int]) -> int:
    """Clusters of the codebook of another layer, 0 where there is none."""
    return clusters.get(owner, 0) if isinstance(owner, str) else 0


def _counts(document: Mapping[str, Any], key: str, layers: int, where: str) -> list[int]:
    """A number for each layer; one number stands for equal ones, none for zeros."""
    value = document.get(key, 0)
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
) -> dict[str, Outline]:
    """The tensors of numbers, of which the document tells the types.

    may_be : their names and shapes, by role
    """
    alone = {name: {name: shape} for of_role in may_be.values() for name, shape in of_role.items()}
    found: dict[str, Outline] = {}
    for dtype in REAL:
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
                found[tensor] = Outline(dtype, shape)
    untold = [name for role, names in may_be.items() if role != "bias" for name in names]
    if missing := [name for name in untold if name not in found]:
        raise _fail(where, Flaw.MISSING_TENSOR, f"tensor {shown(missing[0])} has no type.")
    return found


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
    layers = [_found(name, records[name], document, outlines) for name in names]
    given = [
        record["shape"] if record.keys() == {"shape"} else record
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
    if "data" in document:
        short["data"] = _without_statistics(document["data"])
    head = outlines.get(HEAD[0]) if native else None
    if head is not None and head.shape:
        short["head"] = head.shape[0]
    opaque: str | None = None if native else document["restore"].get("opaque")
    if opaque is not None and opaque in outlines:
        short["opaque"] = outlines[opaque].nbytes
    return short | _types(_numbers(layers, model, short.get("head", 0)), outlines)


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
    width = (shape(shares, "codebook") if shares else own)[-1] or shape(name, "coefficients")[-1]
    coded = document.get("exceptions", {}).get(f"{name}.index")
    in_rans = coded == RANS.name or (
        coded is None and "index" in document["encodings"].get(RANS.name, ())
    )
    return _Layer(
        name=name,
        shape=tuple(record["shape"]),
        groups=record.get("groups", 1),
        shares=shares,
        clusters=own[0],
        used=0,
        rans=index[0] if in_rans else 0,
        kept=shape(name, "kept_at")[0],
        coefficients=width,
    )


def _types(
    may_be: Mapping[str, Mapping[str, Shape]], outlines: Mapping[str, Outline]
) -> dict[str, list[str]]:
    """Roles, and tensors whose role has no one type, by their types."""
    found: dict[str, list[str]] = {}
    for role, tensors in may_be.items():
        types = {name: outlines[name].dtype for name in tensors if name in outlines}
        whole = len(types) == len(tensors) and len({*types.values()}) == 1
        for name, dtype in types.items():
            named = found.setdefault(dtype, [])
            if not whole:
                named.append(name)
            elif role not in named:
                named.append(role)
    return {dtype: sorted(names) for dtype, names in found.items()}


def _shortest(counts: Sequence[int]) -> int | list[int]:
    """One number for equal ones."""
    return counts[0] if len({*counts}) == 1 else [*counts]


def _sizes(source: Mapping[str, Any]) -> list[int]:
    return [source["tensors"], source["file"], *source.get("dense", ())]


def _without_statistics(data: Mapping[str, Any]) -> Mapping[str, Any]:
    if STATISTICS.get(data["name"]) != (data.get("mean"), data.get("std")):
        return data
    return {key: value for key, value in data.items() if key not in ("mean", "std")}
