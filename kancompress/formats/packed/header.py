"""What the header and the document of a packed file claim, checked before a tensor is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats import document as documents
from kancompress.formats import safetensors as containers
from kancompress.formats.checkpoint import (
    HEAD,
    chain_shapes,
    check_floats,
    check_outputs,
    head_shapes,
    side_shapes,
    width_of,
)
from kancompress.formats.packed.bounds import check_bounds
from kancompress.formats.packed.encodings import bits
from kancompress.formats.packed.encodings.claims import check_encodings
from kancompress.formats.packed.forms import FormRecord, read_forms
from kancompress.formats.packed.model import CODEBOOK_ROLES, ROLES, SIDE_ROLES
from kancompress.formats.packed.restore import LayerClaim, check_origins, check_restore
from kancompress.formats.safetensors import Container, shown
from kancompress.formats.shapes import element_count
from kancompress.specs import MAX_CLUSTERS, DataSpec, ModelSpec, SourceSizes

_LAYER_NAME = re.compile(r"[A-Za-z0-9_.]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Shape = tuple[int, ...]


class Header:
    """The claims of one file; `check` fills in the fields, or raises InvalidFileError.

    any_size      : whether what the file stands for may be of any size
    shapes        : shape of each layer, by name
    shares        : layers without a codebook of their own, with the layer whose codebook they use
    others        : names of the tensors that only `restore`, or the model, explains
    forms         : what another library's layers compute, by the names of the source's layers
    """

    def __init__(
        self, container: Container, document: Mapping[str, Any], *, any_size: bool = False
    ) -> None:
        self.container = container
        self.any_size = any_size
        self.document = document
        self.where = container.where
        self.entries = container.entries
        self.shapes: dict[str, Shape] = {}
        self.groups: dict[str, int] = {}
        self.shares: dict[str, str] = {}
        self.others: set[str] = set()
        self.forms: dict[str, FormRecord] = {}
        self.model: ModelSpec | None = None
        self.data: DataSpec | None = None
        self.source: SourceSizes

    def fail(self, flaw: Flaw, message: str) -> InvalidFileError:
        """The error for a flaw of this file."""
        return InvalidFileError(flaw, f"{self.where}: {message}")

    def layer_names(self) -> list[str]:
        """Names of the layers, those of native networks in the order in which they are applied."""
        if self.model is None:
            return list(self.shapes)
        return [str(number) for number in range(len(self.shapes))]

    def check(self) -> None:
        """Check every rule that the payload's bytes have no part in."""
        documents.check_keys(
            self.document,
            {"version", "kind", "checksum", "layers", "encodings", "source"},
            {"exceptions", "model", "data", "restore", "forms"},
            self.where,
            "the document",
        )
        if not isinstance(self.document["checksum"], str):
            raise self.fail(Flaw.BAD_CHECKSUM_FORM, "the checksum should be a string.")
        self._check_container()
        self._check_specs()
        self._check_layer_records()
        self._check_names()
        check_encodings(self.document, self.entries, self.others, self.where)
        for name in self.shapes:
            self._check_layer(name)
        if self.model is not None:
            self._check_native(self.model)
        else:
            self._check_foreign_sides()
        self._check_restored()

    # --- container and document ---

    def _check_container(self) -> None:
        if self.container.header_size % 8:
            raise self.fail(
                Flaw.MISALIGNED,
                f"the payload starts at byte {self.container.header_size}, not at a multiple of 8.",
            )
        header = bytes(self.container.data[: self.container.header_size])
        if not header.rstrip(b" ").endswith(b"}"):
            raise self.fail(
                Flaw.MISALIGNED, "the header should be padded with spaces and nothing else."
            )
        declared = {
            name: containers.Declared(entry.dtype, entry.shape)
            for name, entry in self.entries.items()
        }
        if containers.layout_order(declared) != list(self.entries):
            raise self.fail(
                Flaw.TENSOR_ORDER,
                "the tensors are not in the order of the format (element size, then name)."
                " Another tool has rewritten the file.",
            )
        for name in self.entries:
            if not name or _CONTROL.search(name):
                raise self.fail(
                    Flaw.BAD_TENSOR_NAME,
                    f"the tensor name {shown(name)} is empty or not printable.",
                )

    def _check_specs(self) -> None:
        document, where = self.document, self.where
        self.source = documents.spec(SourceSizes.from_json, document["source"], where)
        if "model" in document:
            self.model = documents.spec(ModelSpec.from_json, document["model"], where)
            for key in ("restore", "forms"):
                if key in document:
                    raise self.fail(Flaw.BAD_VALUE, f"the document has both 'model' and '{key}'.")
        elif "restore" not in document:
            raise self.fail(Flaw.MISSING_KEY, "the document has neither 'model' nor 'restore'.")
        self.data = documents.data(document, where)

    def _check_layer_records(self) -> None:
        layers = self.document["layers"]
        if not isinstance(layers, dict) or not layers:
            raise self.fail(Flaw.BAD_VALUE, "layers should be a non-empty object.")
        for name, record in layers.items():
            if not _LAYER_NAME.fullmatch(name):
                raise self.fail(Flaw.BAD_VALUE, f"{shown(name)} is not a layer name.")
            if not isinstance(record, dict):
                raise self.fail(Flaw.BAD_VALUE, f"layer {shown(name)} should be an object.")
            what = f"layer {shown(name)}"
            documents.check_keys(record, {"shape"}, {"codebook", "groups"}, self.where, what)
            shape = record["shape"]
            if (
                not isinstance(shape, list)
                or len(shape) not in (2, 4)
                or not all(type(size) is int and 0 < size < 1 << 31 for size in shape)
                or element_count(tuple(shape)) >= 1 << 63
            ):
                raise self.fail(
                    Flaw.BAD_VALUE,
                    f"layer {shown(name)} has the shape {shown(shape)}; [out, in] or"
                    " [out, in, rows, columns] was expected.",
                )
            self.shapes[name] = tuple(shape)
            self.groups[name] = self._groups(record, what)
            if "codebook" in record:
                self.shares[name] = record["codebook"]
        for name, target in self.shares.items():
            if (
                not isinstance(target, str)
                or f"{target}.codebook" not in self.entries
                or target not in self.shapes
                or target in self.shares
            ):
                raise self.fail(
                    Flaw.BAD_CODEBOOK_REFERENCE,
                    f"layer {shown(name)} uses the codebook of {shown(target)}, which has none of"
                    " its own.",
                )

    def _groups(self, record: Mapping[str, Any], what: str) -> int:
        groups = record.get("groups", 1)
        if "groups" in record and (
            type(groups) is not int or groups < 2 or record["shape"][0] % groups
        ):
            raise self.fail(
                Flaw.BAD_VALUE,
                f"{what} has {shown(groups)} groups; a divisor of its outputs was expected.",
            )
        count: int = groups
        return count

    def _check_names(self) -> None:
        named: set[str] = set()
        if "restore" in self.document:
            named = check_restore(self.document["restore"], set(self.shapes), self.where)
            self._check_forms(self.document["restore"])
        if self.model is not None and self.model.conv is not None:
            named |= set(HEAD)
        for name in self.entries:
            layer, _, role = name.rpartition(".")
            if layer in self.shapes and role in ROLES:
                if name in named:
                    raise self.fail(
                        Flaw.BAD_VALUE,
                        f"restore names the tensor {shown(name)}, which belongs to a layer.",
                    )
                continue
            if name in named:
                self.others.add(name)
            elif layer in self.shapes:
                raise self.fail(
                    Flaw.UNKNOWN_ROLE,
                    f"tensor {shown(name)} has the unknown role {shown(role)};"
                    f" known are {', '.join(ROLES)}.",
                )
            else:
                raise self.fail(
                    Flaw.UNEXPLAINED_TENSOR, f"tensor {shown(name)} belongs to no layer."
                )
        if missing := sorted(named - self.entries.keys()):
            cause = "the model" if missing[0] in HEAD else "restore"
            raise self.fail(
                Flaw.MISSING_TENSOR, f"tensor {shown(missing[0])}, which {cause} needs, is missing."
            )

    def _check_forms(self, restore: Mapping[str, Any]) -> None:
        if "forms" in self.document:
            names = [name for name, _, _, _ in restore["tensors"]]
            self.forms = read_forms(self.document["forms"], names, self.where)

    # --- layers ---

    def _shape(self, name: str) -> Shape | None:
        entry = self.entries.get(name)
        return None if entry is None else entry.shape

    def _expect(self, name: str, shape: Shape) -> None:
        found = self._shape(name)
        if found is None:
            raise self.fail(Flaw.MISSING_TENSOR, f"tensor {shown(name)} is missing.")
        if found != shape:
            raise self.fail(
                Flaw.WRONG_SHAPE,
                f"tensor {shown(name)} has the shape {shown(list(found))};"
                f" {shown(list(shape))} was expected.",
            )

    def _check_layer(self, name: str) -> None:
        roles = {role for role in ROLES if f"{name}.{role}" in self.entries}
        for role in sorted(roles - {"index", "kept_at"}):
            check_floats(self.container, f"{name}.{role}")
        packed = "codebook" in roles or name in self.shares
        if "coefficients" in roles:
            if packed or roles & set(CODEBOOK_ROLES):
                raise self.fail(
                    Flaw.CONFLICTING_TENSORS, f"layer {shown(name)} is both dense and packed."
                )
            found = self._shape(f"{name}.coefficients")
            if found is None or len(found) != len(self.shapes[name]) + 1 or found[-1] < 1:
                raise self.fail(
                    Flaw.WRONG_SHAPE, f"tensor {shown(f'{name}.coefficients')} has a wrong rank."
                )
            self._expect(f"{name}.coefficients", (*self.shapes[name], found[-1]))
            return
        if not packed:
            raise self.fail(
                Flaw.MISSING_TENSOR, f"layer {shown(name)} has neither a codebook nor coefficients."
            )
        if "codebook" in roles and name in self.shares:
            raise self.fail(Flaw.CONFLICTING_TENSORS, f"layer {shown(name)} has two codebooks.")
        k, d = self.codebook_shape(name)
        kept = self._check_kept(name, roles, d)
        self._check_index_entry(name, k, element_count(self.shapes[name]) - kept)

    def codebook_shape(self, name: str) -> tuple[int, int]:
        """(k, d) of the codebook that a packed layer uses, its own or another layer's."""
        owner = self.shares.get(name, name)
        found = self._shape(f"{owner}.codebook")
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

    def _check_kept(self, name: str, roles: set[str], d: int) -> int:
        if not roles & {"kept_at", "kept"}:
            return 0
        found = self._shape(f"{name}.kept_at")
        if found is None or "kept" not in roles:
            raise self.fail(
                Flaw.MISSING_TENSOR, f"layer {shown(name)} has only one of 'kept_at' and 'kept'."
            )
        if self.entries[f"{name}.kept_at"].dtype != "I64":
            raise self.fail(Flaw.WRONG_DTYPE, f"tensor {shown(f'{name}.kept_at')} should be I64.")
        if len(found) != 1 or not 0 < found[0] < element_count(self.shapes[name]):
            shape = shown(list(found))
            raise self.fail(
                Flaw.WRONG_SHAPE, f"tensor {shown(f'{name}.kept_at')} has the shape {shape}."
            )
        self._expect(f"{name}.kept", (found[0], d))
        return found[0]

    def _check_index_entry(self, name: str, k: int, count: int) -> None:
        entry = self.entries.get(f"{name}.index")
        width = bits.width_of(k)
        if entry is None:
            if width:
                raise self.fail(Flaw.MISSING_TENSOR, f"tensor {shown(f'{name}.index')} is missing.")
            return
        if entry.dtype != "U8":
            raise self.fail(
                Flaw.WRONG_DTYPE,
                f"tensor {shown(f'{name}.index')} has the dtype {entry.dtype}, not U8.",
            )
        needed = bits.packed_size(count, width)
        if entry.shape != (needed,) or width == 0:
            raise self.fail(
                Flaw.INDEX_LENGTH,
                f"tensor {shown(f'{name}.index')} has the shape {shown(list(entry.shape))};"
                f" {count} indices of {width} bits take [{needed}]"
                + (" (no tensor)." if width == 0 else "."),
            )

    def _check_restored(self) -> None:
        claims = {
            name: LayerClaim(
                shape=shape, coefficients=self._coefficients(name), groups=self.groups[name]
            )
            for name, shape in self.shapes.items()
        }
        restored = 0
        if "restore" in self.document:
            restored = check_origins(self.document["restore"], self.entries, claims, self.where)
        if not self.any_size:
            layers = ((claim, self._written_as(name)) for name, claim in claims.items())
            check_bounds(layers, restored, self.container.file_size, self.where)

    def _written_as(self, name: str) -> str:
        """Type of a layer's coefficients when they are written out."""
        dense = self.entries.get(f"{name}.coefficients")
        entry = dense or self.entries[f"{self.shares.get(name, name)}.codebook"]
        return "F32" if self.model is not None and entry.dtype != "F64" else entry.dtype

    def _coefficients(self, name: str) -> int:
        dense = self._shape(f"{name}.coefficients")
        return dense[-1] if dense else self.codebook_shape(name)[1]

    def _check_native(self, model: ModelSpec) -> None:
        basis = model.basis
        shapes = chain_shapes(self.document["layers"], model, self.where)
        for number, shape in enumerate(shapes):
            name = str(number)
            if self.groups[name] > 1:
                raise self.fail(Flaw.BAD_VALUE, f"layer {shown(name)} should have no groups.")
            if (d := self._coefficients(name)) != basis.coefficients:
                raise self.fail(
                    Flaw.WRONG_SHAPE,
                    f"layer {shown(name)} has {d} coefficients an edge; model needs"
                    f" {basis.coefficients}.",
                )
            sides = side_shapes(basis, shape)
            for role in SIDE_ROLES:
                present = f"{name}.{role}" in self.entries
                if role in sides and (present or role != "bias"):
                    self._expect(f"{name}.{role}", sides[role])
                elif present:
                    raise self.fail(
                        Flaw.UNEXPLAINED_TENSOR,
                        f"tensor {shown(f'{name}.{role}')} has no place in a layer of"
                        f" {model.to_json()['name']}.",
                    )
        head = head_shapes(self.container, shapes) if model.conv is not None else {}
        for name, expected in head.items():
            check_floats(self.container, name)
            self._expect(name, expected)
        check_outputs(self.data, width_of(shapes, head), self.where)

    def _check_foreign_sides(self) -> None:
        for name, layer in self.shapes.items():
            if f"{name}.bias" in self.entries:
                self._expect(f"{name}.bias", (layer[0],))
            if f"{name}.slope" in self.entries:
                self._expect(f"{name}.slope", (1,))
            norm, beta = self._shape(f"{name}.norm"), self._shape(f"{name}.beta")
            if norm is not None and (len(norm) != 2 or norm[0] not in (2, 4) or not norm[1]):
                raise self.fail(
                    Flaw.WRONG_SHAPE,
                    f"tensor {shown(f'{name}.norm')} has the shape {shown(list(norm))};"
                    " [2, features] or [4, features] was expected.",
                )
            if beta is not None and (len(beta) != 1 or not beta[0]):
                raise self.fail(
                    Flaw.WRONG_SHAPE,
                    f"tensor {shown(f'{name}.beta')} has the shape {shown(list(beta))};"
                    " [degree + 1] was expected.",
                )
