"""What the header and the document of a packed file claim, checked before a tensor is read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats import document as documents
from kancompress.formats import safetensors as containers
from kancompress.formats.arrays import DTYPES, Outline, element_count
from kancompress.formats.checkpoint import (
    HEAD,
    chain_shapes,
    check_floats,
    check_outputs,
    head_shapes,
    side_shapes,
    width_of,
)
from kancompress.formats.packed.encodings import BITS, OF_INDICES, OF_NUMBERS, RANS, Indices
from kancompress.formats.packed.encodings.claims import read_encodings
from kancompress.formats.packed.encodings.rans import EACH, FREE
from kancompress.formats.packed.forms import FormRecord, read_forms
from kancompress.formats.packed.origins import LayerClaim, check_origins
from kancompress.formats.packed.record import CODEBOOK_ROLES, ROLES, SIDE_ROLES
from kancompress.formats.packed.restore import Restore, read_restore, stored_names
from kancompress.formats.safetensors import Container, Entry, shown
from kancompress.frozen import dataclass
from kancompress.specs import MAX_CLUSTERS, DataSpec, ModelSpec, SourceSizes

_LAYER_NAME = re.compile(r"[A-Za-z0-9_.]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LayerHeader:
    """A layer as the document declares it; `shares` names the layer whose codebook it uses where
    it has none of its own, and `parts` is what its edges have where it has one."""

    shape: Shape
    groups: int
    shares: str | None
    parts: int = 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Header:
    """The claims of a packed file.

    layers    : by name; of native networks in the order in which they are applied
    others    : names of the tensors that only `restore`, or the model, explains
    encodings : name of each tensor's encoding
    forms     : what another library's layers compute, by the names of the source's layers
    """

    container: Container
    checksum: str
    layers: Mapping[str, LayerHeader]
    others: Set[str]
    encodings: Mapping[str, str]
    source: SourceSizes
    model: ModelSpec | None
    data: DataSpec | None
    restore: Restore | None
    forms: Mapping[str, FormRecord]

    @property
    def where(self) -> str:
        """The file in messages."""
        return self.container.where

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The tensors as the container declares them."""
        return self.container.entries

    def fail(self, flaw: Flaw, message: str) -> InvalidFileError:
        """The error for a flaw of this file."""
        return InvalidFileError(flaw, f"{self.where}: {message}")

    def shape(self, name: str) -> Shape | None:
        """Shape of a tensor's numbers, None where it is not there."""
        found = self.outline(name)
        return None if found is None else found.shape

    def outline(self, name: str) -> Outline | None:
        """Type and shape of a tensor's numbers, None where it is not there."""
        entry = self.entries.get(name)
        if entry is None:
            return None
        claim, encoding = Outline(entry.dtype, entry.shape), OF_NUMBERS.get(self.encodings[name])
        return claim if encoding is None else encoding.read(claim, name.rpartition(".")[2])

    def codebook_shape(self, name: str) -> tuple[int, int]:
        """(k, d / parts) of the codebook that a packed layer uses, its own or another layer's."""
        owner = self.layers[name].shares or name
        found = self.shape(f"{owner}.codebook")
        if found is None or len(found) != 2 or not found[0] or not found[1]:
            raise self.fail(
                Flaw.WRONG_SHAPE,
                f"tensor {shown(f'{owner}.codebook')} has the shape {shown(list(found or ()))};"
                " [clusters, coefficients] was expected.",
            )
        if found[0] > MAX_CLUSTERS:
            raise self.fail(
                Flaw.TOO_MANY_CENTROIDS,
                f"tensor {shown(f'{owner}.codebook')} has {found[0]} centroids; at most"
                f" {MAX_CLUSTERS} are allowed.",
            )
        return found[0], found[1]

    def coefficients(self, name: str) -> int:
        """Coefficients of each edge of a layer."""
        dense = self.shape(f"{name}.coefficients")
        return dense[-1] if dense else self.codebook_shape(name)[1] * self.parts(name)

    def parts(self, name: str) -> int:
        """Vectors that the coefficients of each edge of a layer are cut into."""
        return self.layers[self.layers[name].shares or name].parts

    def indices(self, name: str, kept_at: npt.NDArray[np.integer[Any]] | None = None) -> Indices:
        """What is claimed of a packed layer's indices.

        kept_at : positions of the edges without an index, once they are read
        """
        kept = self.shape(f"{name}.kept_at")
        edges = element_count(self.layers[name].shape)
        clusters, _ = self.codebook_shape(name)
        layer = self.layers[name]
        count = edges - (kept[0] if kept else 0)
        claim = Indices(f"{name}.index", count, clusters, layer.shape, layer.groups, kept_at)
        return claim.cut(self.parts(name))


def read_header(
    container: Container, document: Mapping[str, Any], *, any_size: bool = False
) -> Header:
    """The claims of a file, checked by every rule that the payload's bytes have no part in.

    any_size : whether what the file stands for may be of any size
    Raises InvalidFileError with the flaw that was found first.
    """
    where = container.where
    documents.check_keys(
        document,
        {"version", "kind", "checksum", "layers", "encodings", "source"},
        {"exceptions", "model", "data", "restore", "forms"},
        where,
        "the document",
    )
    if not isinstance(document["checksum"], str):
        raise _fail(where, Flaw.BAD_CHECKSUM_FORM, "the checksum should be a string.")
    _check_container(container)
    source = documents.spec(SourceSizes.from_json, document["source"], where)
    model = model_of(document, where)
    data = documents.data(document, where)
    layers = _layers(document["layers"], container)
    restore = None
    forms: Mapping[str, FormRecord] = {}
    named: set[str] = set()
    if "restore" in document:
        restore = read_restore(document["restore"], layers, where)
        named = stored_names(restore, where)
        forms = _forms(document, restore, where)
    if model is not None and model.conv is not None:
        named |= set(HEAD)
    others = _others(container, layers, named)
    header = Header(
        container=container,
        checksum=document["checksum"],
        layers=layers if model is None else _in_order(layers),
        others=others,
        encodings=read_encodings(document, container.entries, others, where),
        source=source,
        model=model,
        data=data,
        restore=restore,
        forms=forms,
    )
    for name in layers:
        _check_numbers(header, name)
    for name in layers:
        _check_layer(header, name)
    if model is not None:
        _check_native(header, chain_shapes(document["layers"], model, where), model)
    else:
        _check_foreign_sides(header)
    _check_restored(header, any_size=any_size)
    return header


def _fail(where: str, flaw: Flaw, message: str) -> InvalidFileError:
    return InvalidFileError(flaw, f"{where}: {message}")


def _in_order(layers: Mapping[str, LayerHeader]) -> dict[str, LayerHeader]:
    """Layers `0`, `1`, ... by their numbers; others, which will be refused, behind them."""
    numbers = {str(number): number for number in range(len(layers))}
    return dict(sorted(layers.items(), key=lambda item: numbers.get(item[0], len(layers))))


# --- container and document ---


def _check_container(container: Container) -> None:
    where = container.where
    if container.header_size % 8:
        raise _fail(
            where,
            Flaw.MISALIGNED,
            f"the payload starts at byte {container.header_size}, not at a multiple of 8.",
        )
    header = bytes(container.data[: container.header_size])
    if not header.rstrip(b" ").endswith(b"}"):
        raise _fail(
            where, Flaw.MISALIGNED, "the header should be padded with spaces and nothing else."
        )
    if containers.layout_order(container.outline()) != list(container.entries):
        raise _fail(
            where,
            Flaw.TENSOR_ORDER,
            "the tensors are not in the order of the format (element size, then name)."
            " Another tool has rewritten the file.",
        )
    for name in container.entries:
        if not name or _CONTROL.search(name):
            raise _fail(
                where,
                Flaw.BAD_TENSOR_NAME,
                f"the tensor name {shown(name)} is empty or not printable.",
            )


def model_of(document: Mapping[str, Any], where: str) -> ModelSpec | None:
    """What a native network computes; None where the document has `restore` in its place."""
    if "model" in document:
        model = documents.spec(ModelSpec.from_json, document["model"], where)
        for key in ("restore", "forms"):
            if key in document:
                raise _fail(where, Flaw.BAD_VALUE, f"the document has both 'model' and '{key}'.")
        return model
    if "restore" not in document:
        raise _fail(where, Flaw.MISSING_KEY, "the document has neither 'model' nor 'restore'.")
    return None


def _forms(document: Mapping[str, Any], restore: Restore, where: str) -> Mapping[str, FormRecord]:
    if "forms" not in document:
        return {}
    return read_forms(document["forms"], [tensor.name for tensor in restore.tensors], where)


def _layers(records: object, container: Container) -> dict[str, LayerHeader]:
    where = container.where
    if not isinstance(records, dict) or not records:
        raise _fail(where, Flaw.BAD_VALUE, "layers should be a non-empty object.")
    layers: dict[str, LayerHeader] = {}
    for name, record in records.items():
        layers[name] = layer_claim(name, record, where)
    for name, record in records.items():
        target = record.get("codebook")
        if "codebook" in record and (
            not isinstance(target, str)
            or f"{target}.codebook" not in container.entries
            or target not in layers
            or "codebook" in records[target]
        ):
            raise without_codebook(name, target, where)
    return layers


def without_codebook(name: str, target: object, where: str) -> InvalidFileError:
    """The error for a layer that uses the codebook of a layer which has none."""
    return _fail(
        where,
        Flaw.BAD_CODEBOOK_REFERENCE,
        f"layer {shown(name)} uses the codebook of {shown(target)}, which has none of its own.",
    )


def layer_claim(name: str, record: object, where: str) -> LayerHeader:
    """A layer's record, checked as far as it goes alone. Raises InvalidFileError."""
    what = f"layer {shown(name)}"
    if not _LAYER_NAME.fullmatch(name):
        raise _fail(where, Flaw.BAD_VALUE, f"{shown(name)} is not a layer name.")
    if not isinstance(record, dict):
        raise _fail(where, Flaw.BAD_VALUE, f"{what} should be an object.")
    documents.check_keys(record, {"shape"}, {"codebook", "groups", "parts"}, where, what)
    shape = record["shape"]
    if (
        not isinstance(shape, list)
        or len(shape) not in (2, 4, 5)
        or not all(type(size) is int and 0 < size < 1 << 31 for size in shape)
        or element_count(tuple(shape)) >= 1 << 63
    ):
        raise _fail(
            where,
            Flaw.BAD_VALUE,
            f"{what} has the shape {shown(shape)}; [out, in], [out, in, rows, columns] or"
            " [out, in, depth, rows, columns] was expected.",
        )
    groups = record.get("groups", 1)
    if "groups" in record and (type(groups) is not int or groups < 2 or shape[0] % groups):
        raise _fail(
            where,
            Flaw.BAD_VALUE,
            f"{what} has {shown(groups)} groups; a divisor of its outputs was expected.",
        )
    return LayerHeader(
        shape=tuple(shape),
        groups=groups,
        shares=record.get("codebook"),
        parts=_parts(what, record, where),
    )


def _parts(what: str, record: Mapping[str, Any], where: str) -> int:
    """Vectors that the coefficients of an edge are cut into, checked."""
    parts = record.get("parts", 1)
    if "parts" in record and (
        type(parts) is not int
        or parts < 2
        or element_count(tuple(record["shape"])) * parts >= 1 << 63
    ):
        raise _fail(
            where,
            Flaw.BAD_VALUE,
            f"{what} has edges of {shown(parts)} parts; 2 or more were expected, and fewer than"
            " 2^63 in all.",
        )
    if "parts" in record and "codebook" in record:
        raise _fail(
            where,
            Flaw.BAD_VALUE,
            f"{what} uses another layer's codebook, and so its parts; its own were not expected.",
        )
    return int(parts)


def _others(container: Container, layers: Mapping[str, LayerHeader], named: set[str]) -> set[str]:
    """Names of the tensors that belong to no layer; `named` are those that something explains."""
    where = container.where
    others: set[str] = set()
    for name in container.entries:
        layer, _, role = name.rpartition(".")
        if layer in layers and role in ROLES:
            if name in named:
                raise _fail(
                    where,
                    Flaw.BAD_VALUE,
                    f"restore names the tensor {shown(name)}, which belongs to a layer.",
                )
            continue
        if name in named:
            others.add(name)
        elif layer in layers:
            raise _fail(
                where,
                Flaw.UNKNOWN_ROLE,
                f"tensor {shown(name)} has the unknown role {shown(role)};"
                f" known are {', '.join(ROLES)}.",
            )
        else:
            raise _fail(
                where, Flaw.UNEXPLAINED_TENSOR, f"tensor {shown(name)} belongs to no layer."
            )
    if missing := sorted(named - container.entries.keys()):
        cause = "the model" if missing[0] in HEAD else "restore"
        raise _fail(
            where,
            Flaw.MISSING_TENSOR,
            f"tensor {shown(missing[0])}, which {cause} needs, is missing.",
        )
    return others


# --- layers ---


def _expect(header: Header, name: str, shape: Shape) -> None:
    found = header.shape(name)
    if found is None:
        raise header.fail(Flaw.MISSING_TENSOR, f"tensor {shown(name)} is missing.")
    if found != shape:
        raise header.fail(
            Flaw.WRONG_SHAPE,
            f"tensor {shown(name)} has the shape {shown(list(found))};"
            f" {shown(list(shape))} was expected.",
        )


def _check_numbers(header: Header, name: str) -> None:
    """Refuse tensors that do not fit their encoding, before anything asks for their shapes."""
    for role in sorted(role for role in ROLES if role != "index"):
        entry = header.entries.get(f"{name}.{role}")
        if entry is not None:
            OF_NUMBERS[header.encodings[entry.name]].check(entry, role, header.where)


def _check_layer(header: Header, name: str) -> None:
    layer = header.layers[name]
    roles = {role for role in ROLES if f"{name}.{role}" in header.entries}
    packed = "codebook" in roles or layer.shares is not None
    if "coefficients" in roles:
        if packed or layer.parts > 1 or roles & set(CODEBOOK_ROLES):
            raise header.fail(
                Flaw.CONFLICTING_TENSORS, f"layer {shown(name)} is both dense and packed."
            )
        found = header.shape(f"{name}.coefficients")
        if found is None or len(found) != len(layer.shape) + 1 or found[-1] < 1:
            raise header.fail(
                Flaw.WRONG_SHAPE, f"tensor {shown(f'{name}.coefficients')} has a wrong rank."
            )
        _expect(header, f"{name}.coefficients", (*layer.shape, found[-1]))
        return
    if not packed:
        raise header.fail(
            Flaw.MISSING_TENSOR, f"layer {shown(name)} has neither a codebook nor coefficients."
        )
    if "codebook" in roles and layer.shares is not None:
        raise header.fail(Flaw.CONFLICTING_TENSORS, f"layer {shown(name)} has two codebooks.")
    _check_kept(header, name, roles, header.coefficients(name))
    claim = header.indices(name)
    entry = header.entries.get(claim.name)
    encoding = OF_INDICES[header.encodings[claim.name]] if entry else BITS
    encoding.check(entry, claim, header.where)


def _check_kept(header: Header, name: str, roles: set[str], d: int) -> None:
    if not roles & {"kept_at", "kept"}:
        return
    found = header.shape(f"{name}.kept_at")
    if found is None or "kept" not in roles:
        raise header.fail(
            Flaw.MISSING_TENSOR, f"layer {shown(name)} has only one of 'kept_at' and 'kept'."
        )
    if header.entries[f"{name}.kept_at"].dtype != "I64":
        raise header.fail(Flaw.WRONG_DTYPE, f"tensor {shown(f'{name}.kept_at')} should be I64.")
    if len(found) != 1 or not 0 < found[0] < element_count(header.layers[name].shape):
        shape = shown(list(found))
        raise header.fail(
            Flaw.WRONG_SHAPE, f"tensor {shown(f'{name}.kept_at')} has the shape {shape}."
        )
    _expect(header, f"{name}.kept", (found[0], d))


def _check_restored(header: Header, *, any_size: bool) -> None:
    claims = {
        name: LayerClaim(
            shape=layer.shape,
            coefficients=header.coefficients(name),
            groups=layer.groups,
            packed=f"{name}.coefficients" not in header.entries,
            kept=(header.shape(f"{name}.kept_at") or (0,))[0],
        )
        for name, layer in header.layers.items()
    }
    restored = 0
    if header.restore is not None:
        restored = check_origins(header.restore, header.entries, claims, header.where)
    if not any_size:
        layers = ((claim, _written_as(header, name)) for name, claim in claims.items())
        _check_bounds(layers, restored, header.container.file_size, header.where)
        _check_rans(header)


def _check_rans(header: Header) -> None:
    """Refuse entropy-coded indices that would take memory without measure once they are decoded."""
    beyond = sum(
        RANS.beyond(header.indices(name), header.entries[f"{name}.index"].shape[0])
        for name in header.layers
        if header.encodings.get(f"{name}.index") == RANS.name
    )
    if beyond > FREE:
        raise InvalidFileError(
            Flaw.TOO_LARGE,
            f"{header.where}: its indices in {RANS.name} are {shown(beyond)} more than {EACH} for"
            f" each byte of their tensors; at most {FREE:,} were expected. Where that is meant,"
            " read it with any_size=True, or expand it with `any_size`.",
            where=header.where,
            fields=("any_size",),
        )


def _written_as(header: Header, name: str) -> str:
    """Type of a layer's coefficients when they are written out."""
    dense = header.outline(f"{name}.coefficients")
    found = dense or header.outline(f"{header.layers[name].shares or name}.codebook")
    assert found is not None
    return "F32" if header.model is not None and found.dtype != "F64" else found.dtype


def _check_native(header: Header, shapes: tuple[Shape, ...], model: ModelSpec) -> None:
    basis = model.basis
    for number, shape in enumerate(shapes):
        name = str(number)
        if header.layers[name].groups > 1:
            raise header.fail(Flaw.BAD_VALUE, f"layer {shown(name)} should have no groups.")
        if (d := header.coefficients(name)) != basis.coefficients:
            raise header.fail(
                Flaw.WRONG_SHAPE,
                f"layer {shown(name)} has {d} coefficients an edge; model needs"
                f" {basis.coefficients}.",
            )
        sides = side_shapes(basis, shape)
        for role in SIDE_ROLES:
            present = f"{name}.{role}" in header.entries
            if role in sides and (present or role != "bias"):
                _expect(header, f"{name}.{role}", sides[role])
            elif present:
                raise header.fail(
                    Flaw.UNEXPLAINED_TENSOR,
                    f"tensor {shown(f'{name}.{role}')} has no place in a layer of"
                    f" {model.to_json()['name']}.",
                )
    head = head_shapes(header.container, shapes) if model.conv is not None else {}
    for name, expected in head.items():
        check_floats(header.container, name)
        _expect(header, name, expected)
    check_outputs(header.data, width_of(shapes, head), header.where)


def _check_foreign_sides(header: Header) -> None:
    for name, layer in header.layers.items():
        if f"{name}.bias" in header.entries:
            _expect(header, f"{name}.bias", (layer.shape[0],))
        if f"{name}.slope" in header.entries:
            _expect(header, f"{name}.slope", (1,))
        norm, beta = header.shape(f"{name}.norm"), header.shape(f"{name}.beta")
        if norm is not None and (len(norm) != 2 or norm[0] not in (2, 4) or not norm[1]):
            raise header.fail(
                Flaw.WRONG_SHAPE,
                f"tensor {shown(f'{name}.norm')} has the shape {shown(list(norm))};"
                " [2, features] or [4, features] was expected.",
            )
        if beta is not None and (len(beta) != 1 or not beta[0]):
            raise header.fail(
                Flaw.WRONG_SHAPE,
                f"tensor {shown(f'{name}.beta')} has the shape {shown(list(beta))};"
                " [degree + 1] was expected.",
            )


# What a file may stand for: for each of its bytes, and beside that.
_EACH, _FREE = 10_000, 1_000_000_000


def _check_bounds(
    layers: Iterable[tuple[LayerClaim, str]], restored: int, file_size: int, where: str
) -> None:
    """Refuse what would take memory without measure once it is written out.

    layers   : what the header claims of each layer, and the type of its coefficients
    restored : bytes of the tensors that `restore` gives back
    Raises InvalidFileError (too-large).
    """
    written_out = sum(
        claim.edges * claim.coefficients * DTYPES[dtype].itemsize for claim, dtype in layers
    )
    totals = {
        "its layers' coefficients": written_out,
        "the tensors that it restores": restored,
    }
    for what, total in totals.items():
        if total > _EACH * file_size + _FREE:
            raise InvalidFileError(
                Flaw.TOO_LARGE,
                f"{where}: {what} would have {shown(total)} bytes, more than {_EACH:,} times the"
                f" file's {file_size:,} and {_FREE:,} more. Where that is meant, read it with"
                " any_size=True, or expand it with `any_size`.",
                where=where,
                fields=("any_size",),
            )
