"""Bytes to PackedModel. Everything the header claims is checked before a tensor is read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kancompress import bits
from kancompress import container as containers
from kancompress import document as documents
from kancompress.checkpoint import chain_shapes, check_finite, check_floats, side_shapes
from kancompress.container import Container, element_count
from kancompress.errors import Flaw, InvalidFileError
from kancompress.kmeans import MAX_CLUSTERS
from kancompress.packed.model import CODEBOOK_ROLES, SIDE_ROLES, PackedLayer, PackedModel
from kancompress.packed.restore import check_restore
from kancompress.packed.writer import BLANK, CHECKSUM_PREFIX, ENCODING_OF_ROLE
from kancompress.specs import BasisSpec, DataSpec, SourceSizes

ROLES = (*CODEBOOK_ROLES, "coefficients", *SIDE_ROLES)
_LAYER_NAME = re.compile(r"[A-Za-z0-9_.]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

Shape = tuple[int, ...]


def decode(container: Container, document: Mapping[str, Any]) -> PackedModel:
    """Check and read a file of kind `packed`. Raises InvalidFileError with the flaw it found."""
    header = _Header(container, document)
    header.check()
    check_checksum(container, document["checksum"])
    layers = tuple(header.read_layer(name) for name in header.shapes)
    for layer in layers:
        _check_index(layer, header)
    others = {name: container.tensor(name) for name in container.entries if name in header.others}
    return PackedModel(
        layers=layers,
        source=header.source,
        basis=header.basis,
        data=header.data,
        tensors=others,
        restore=document.get("restore"),
    )


def check_checksum(container: Container, checksum: str) -> None:
    """Compare the checksum of the whole file (section 7)."""
    where = container.where
    value = checksum.removeprefix(CHECKSUM_PREFIX)
    try:
        expected = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        expected = b""
    raw = bytes(container.data[: container.header_size])
    if (
        not checksum.startswith(CHECKSUM_PREFIX)
        or len(expected) != 32
        or raw.count(value.encode()) != 1
    ):
        raise InvalidFileError(
            Flaw.BAD_CHECKSUM_FORM,
            f"{where}: the checksum {checksum!r} is not 'sha256-' and 44 base64 characters"
            " that occur once.",
        )
    digest = hashlib.sha256(raw.replace(value.encode(), BLANK.encode()))
    digest.update(container.data[container.header_size :])
    if digest.digest() != expected:
        raise InvalidFileError(
            Flaw.CHECKSUM_MISMATCH,
            f"{where}: the checksum does not match; the file was damaged or edited."
            " Copy it again from its source.",
        )


class _Header:
    """What the header and the document claim, checked before any tensor is read."""

    def __init__(self, container: Container, document: Mapping[str, Any]) -> None:
        self.container = container
        self.document = document
        self.where = container.where
        self.entries = container.entries
        self.shapes: dict[str, Shape] = {}
        self.shares: dict[str, str] = {}
        self.others: set[str] = set()
        self.basis: BasisSpec | None = None
        self.data: DataSpec | None = None
        self.source: SourceSizes

    def fail(self, flaw: Flaw, message: str) -> InvalidFileError:
        return InvalidFileError(flaw, f"{self.where}: {message}")

    def check(self) -> None:
        documents.check_keys(
            self.document,
            {"version", "kind", "checksum", "layers", "encodings", "source"},
            {"exceptions", "model", "data", "restore"},
            self.where,
            "the document",
        )
        if not isinstance(self.document["checksum"], str):
            raise self.fail(Flaw.BAD_CHECKSUM_FORM, "the checksum should be a string.")
        self._check_container()
        self._check_specs()
        self._check_layer_records()
        self._check_names()
        self._check_encodings()
        for name in self.shapes:
            self._check_layer(name)
        if self.basis is not None:
            self._check_native(self.basis)

    # --- container and document ---

    def _check_container(self) -> None:
        if self.container.header_size % 8:
            raise self.fail(
                Flaw.MISALIGNED,
                f"the payload starts at byte {self.container.header_size}, not at a multiple of 8.",
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
                    Flaw.BAD_TENSOR_NAME, f"the tensor name {name!r} is empty or not printable."
                )

    def _check_specs(self) -> None:
        document, where = self.document, self.where
        self.source = documents.spec(SourceSizes.from_json, document["source"], where)
        if "model" in document:
            self.basis = documents.spec(BasisSpec.from_json, document["model"], where)
        elif "restore" not in document:
            raise self.fail(Flaw.MISSING_KEY, "the document has neither 'model' nor 'restore'.")
        if "data" in document:
            self.data = documents.spec(DataSpec.from_json, document["data"], where)

    def _check_layer_records(self) -> None:
        layers = self.document["layers"]
        if not isinstance(layers, dict) or not layers:
            raise self.fail(Flaw.BAD_VALUE, "layers should be a non-empty object.")
        for name, record in layers.items():
            if not _LAYER_NAME.fullmatch(name):
                raise self.fail(Flaw.BAD_VALUE, f"{name!r} is not a layer name.")
            if not isinstance(record, dict):
                raise self.fail(Flaw.BAD_VALUE, f"layer {name!r} should be an object.")
            documents.check_keys(record, {"shape"}, {"codebook"}, self.where, f"layer {name!r}")
            shape = record["shape"]
            if (
                not isinstance(shape, list)
                or len(shape) not in (2, 4)
                or not all(type(size) is int and 0 < size < 1 << 31 for size in shape)
            ):
                raise self.fail(
                    Flaw.BAD_VALUE,
                    f"layer {name!r} has the shape {shape!r}; [out, in] or"
                    " [out, in, rows, columns] was expected.",
                )
            self.shapes[name] = tuple(shape)
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
                    f"layer {name!r} uses the codebook of {target!r}, which has none of its own.",
                )

    def _check_names(self) -> None:
        named: set[str] = set()
        if "restore" in self.document:
            named = check_restore(self.document["restore"], set(self.shapes), self.where)
        for name in self.entries:
            layer, _, role = name.rpartition(".")
            if layer in self.shapes and role in ROLES:
                continue
            if name in named:
                self.others.add(name)
            elif layer in self.shapes:
                raise self.fail(
                    Flaw.UNKNOWN_ROLE,
                    f"tensor {name!r} has the unknown role {role!r}; known are {', '.join(ROLES)}.",
                )
            else:
                raise self.fail(Flaw.UNEXPLAINED_TENSOR, f"tensor {name!r} belongs to no layer.")
        if missing := sorted(named - self.others):
            raise self.fail(Flaw.MISSING_TENSOR, f"tensor {missing[0]!r} is missing.")

    def _check_encodings(self) -> None:
        encodings, exceptions = self.document["encodings"], self.document.get("exceptions", {})
        if not isinstance(encodings, dict) or not isinstance(exceptions, dict):
            raise self.fail(Flaw.BAD_VALUE, "encodings and exceptions should be objects.")
        of_role: dict[str, str] = {}
        for encoding, roles in encodings.items():
            for role in roles if isinstance(roles, list) else [roles]:
                if not isinstance(role, str) or role in of_role:
                    raise self.fail(
                        Flaw.BAD_VALUE, f"encodings names {role!r} twice, or as no role at all."
                    )
                of_role[role] = encoding
        if strangers := sorted(exceptions.keys() - self.entries.keys()):
            raise self.fail(
                Flaw.BAD_VALUE, f"exceptions names {strangers[0]!r}, which is no tensor."
            )
        present = {
            name: name.rpartition(".")[2] for name in self.entries if name not in self.others
        }
        if idle := sorted(of_role.keys() - set(present.values())):
            raise self.fail(
                Flaw.UNKNOWN_ROLE, f"encodings names the role {idle[0]!r}, used nowhere."
            )
        for name, role in present.items():
            encoding = exceptions.get(name, of_role.get(role))
            if encoding is None:
                raise self.fail(Flaw.MISSING_KEY, f"tensor {name!r} has no encoding.")
            known = ENCODING_OF_ROLE.get(role, "plain")
            if encoding != known:
                raise self.fail(
                    Flaw.UNKNOWN_ENCODING,
                    f"tensor {name!r} has the encoding {encoding!r}, which this kancompress does"
                    f" not read ({known!r} is known). Upgrade it with:"
                    " pip install --upgrade kancompress",
                )

    # --- layers ---

    def _shape(self, name: str) -> Shape | None:
        entry = self.entries.get(name)
        return None if entry is None else entry.shape

    def _expect(self, name: str, shape: Shape) -> None:
        found = self._shape(name)
        if found != shape:
            raise self.fail(
                Flaw.WRONG_SHAPE,
                f"tensor {name!r} has the shape {list(found or ())}; {list(shape)} was expected.",
            )

    def _check_layer(self, name: str) -> None:
        roles = {role for role in ROLES if f"{name}.{role}" in self.entries}
        for role in roles - {"index", "kept_at"}:
            check_floats(self.container, f"{name}.{role}")
        packed = "codebook" in roles or name in self.shares
        if "coefficients" in roles:
            if packed or roles & set(CODEBOOK_ROLES):
                raise self.fail(
                    Flaw.CONFLICTING_TENSORS, f"layer {name!r} is both dense and packed."
                )
            found = self._shape(f"{name}.coefficients")
            if found is None or len(found) != len(self.shapes[name]) + 1 or found[-1] < 1:
                raise self.fail(Flaw.WRONG_SHAPE, f"tensor '{name}.coefficients' has a wrong rank.")
            self._expect(f"{name}.coefficients", (*self.shapes[name], found[-1]))
            return
        if not packed:
            raise self.fail(
                Flaw.MISSING_TENSOR, f"layer {name!r} has neither a codebook nor coefficients."
            )
        if "codebook" in roles and name in self.shares:
            raise self.fail(Flaw.CONFLICTING_TENSORS, f"layer {name!r} has two codebooks.")
        k, d = self.codebook_shape(name)
        kept = self._check_kept(name, roles, d)
        self._check_index_entry(name, k, element_count(self.shapes[name]) - kept)

    def codebook_shape(self, name: str) -> tuple[int, int]:
        owner = self.shares.get(name, name)
        found = self._shape(f"{owner}.codebook")
        if found is None or len(found) != 2 or not found[0] or not found[1]:
            raise self.fail(
                Flaw.WRONG_SHAPE,
                f"tensor '{owner}.codebook' has the shape {list(found or ())};"
                " [clusters, coefficients] was expected.",
            )
        if found[0] > MAX_CLUSTERS:
            raise self.fail(
                Flaw.TOO_MANY_CENTROIDS,
                f"tensor '{owner}.codebook' has {found[0]} centroids; at most {MAX_CLUSTERS}"
                " are allowed.",
            )
        return found[0], found[1]

    def _check_kept(self, name: str, roles: set[str], d: int) -> int:
        if not roles & {"kept_at", "kept"}:
            return 0
        found = self._shape(f"{name}.kept_at")
        if found is None or "kept" not in roles:
            raise self.fail(
                Flaw.MISSING_TENSOR, f"layer {name!r} has only one of 'kept_at' and 'kept'."
            )
        if self.entries[f"{name}.kept_at"].dtype != "I64":
            raise self.fail(Flaw.WRONG_DTYPE, f"tensor '{name}.kept_at' should be I64.")
        if len(found) != 1 or not 0 < found[0] < element_count(self.shapes[name]):
            raise self.fail(
                Flaw.WRONG_SHAPE, f"tensor '{name}.kept_at' has the shape {list(found)}."
            )
        self._expect(f"{name}.kept", (found[0], d))
        return found[0]

    def _check_index_entry(self, name: str, k: int, count: int) -> None:
        entry = self.entries.get(f"{name}.index")
        width = bits.width_of(k)
        if entry is None:
            if width:
                raise self.fail(Flaw.MISSING_TENSOR, f"tensor '{name}.index' is missing.")
            return
        if entry.dtype != "U8":
            raise self.fail(
                Flaw.WRONG_DTYPE, f"tensor '{name}.index' has the dtype {entry.dtype}, not U8."
            )
        needed = bits.packed_size(count, width)
        if entry.shape != (needed,) or width == 0:
            raise self.fail(
                Flaw.INDEX_LENGTH,
                f"tensor '{name}.index' has the shape {list(entry.shape)}; {count} indices of"
                f" {width} bits take [{needed}]" + (" (no tensor)." if width == 0 else "."),
            )

    def _check_native(self, basis: BasisSpec) -> None:
        shapes = chain_shapes(self.document["layers"], self.where)
        for number, shape in enumerate(shapes):
            name = str(number)
            dense = self._shape(f"{name}.coefficients")
            d = dense[-1] if dense else self.codebook_shape(name)[1]
            if d != basis.coefficients:
                raise self.fail(
                    Flaw.WRONG_SHAPE,
                    f"layer {name!r} has {d} coefficients an edge; model needs"
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
                        f"tensor '{name}.{role}' has no place in a {basis.family.value} layer.",
                    )
        if self.data is not None and self.data.outputs not in (0, shapes[-1][0]):
            raise self.fail(
                Flaw.BAD_VALUE,
                f"the last layer has {shapes[-1][0]} outputs, data names {self.data.outputs}.",
            )

    # --- payload ---

    def read_layer(self, name: str) -> PackedLayer:
        tensors: dict[str, Tensor] = {}
        for role in ROLES:
            full = f"{name}.{role}"
            if full in self.entries:
                tensors[role] = self.container.tensor(full)
                check_finite(tensors[role], full, self.where)
        index: npt.NDArray[np.uint8] | None = None
        if "index" in tensors:
            index = tensors["index"].numpy()
        return PackedLayer(
            name=name,
            shape=self.shapes[name],
            codebook=tensors.get("codebook"),
            shares=self.shares.get(name),
            index=index,
            kept_at=tensors.get("kept_at"),
            kept=tensors.get("kept"),
            coefficients=tensors.get("coefficients"),
            sides={role: tensors[role] for role in SIDE_ROLES if role in tensors},
        )


def _check_index(layer: PackedLayer, header: _Header) -> None:
    if layer.kept_at is not None:
        positions = layer.kept_at
        inside = bool((positions >= 0).all()) and bool((positions < math.prod(layer.shape)).all())
        if not inside or not bool((torch.diff(positions) > 0).all()):
            raise header.fail(
                Flaw.KEPT_POSITIONS,
                f"tensor '{layer.name}.kept_at' should ascend strictly within the layer's edges.",
            )
    if layer.index is None:
        return
    k, _ = header.codebook_shape(layer.name)
    width = bits.width_of(k)
    if not bits.padding_is_zero(layer.index, layer.packed_edges, width):
        raise header.fail(
            Flaw.INDEX_PADDING, f"tensor '{layer.name}.index' has bits set after its last index."
        )
    if k == 1 << width:
        return
    largest = int(bits.unpack(layer.index, layer.packed_edges, width).max(initial=0))
    if largest >= k:
        raise header.fail(
            Flaw.INDEX_RANGE,
            f"tensor '{layer.name}.index' holds {largest}; the codebook has {k} centroids.",
        )
