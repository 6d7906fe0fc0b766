"""Bytes to packed records. Everything the header claims is checked before a tensor is read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.arrays import (
    DTYPES,
    Array,
    Numbers,
    Outline,
    converted,
    is_bad,
    promoted,
)
from kancompress.formats.checkpoint import check_finite, check_variance
from kancompress.formats.packed import short
from kancompress.formats.packed.encodings import BITS, OF_INDICES, OF_NUMBERS, PLAIN
from kancompress.formats.packed.header import Header, read_header
from kancompress.formats.packed.record import ROLES, SIDE_ROLES, LayerRecord, PackedRecord
from kancompress.formats.packed.restore import Restore
from kancompress.formats.packed.writer import BLANK, CHECKSUM_PREFIX
from kancompress.formats.safetensors import Container, shown
from kancompress.specs import HeaderForm
from kancompress.system.inputs import Data

_BLOCK = 1 << 16  # edges whose coefficients are converted at a time


def decode(
    container: Container, document: Mapping[str, Any], *, any_size: bool = False
) -> PackedRecord[Array]:
    """Check and read a file of kind `packed`. Raises InvalidFileError with the flaw it found.

    any_size : read a file that stands for more bytes than docs/packed-format.md, 8.3, allows
    """
    is_short = short.is_short(document)
    if is_short:
        container, document = short.unfolded(container, document)
    header = read_header(container, document, any_size=any_size)
    held = container.held()
    check_checksum(held, header.checksum)
    tensors = {name: _read_tensors(name, header, held) for name in header.layers}
    layers = tuple(_layer(name, found, header) for name, found in tensors.items())
    others = {name: held.array(name) for name in held.entries if name in header.others}
    if header.model is not None:
        for name, array in others.items():
            check_finite(array, name, header.where)
    record = PackedRecord(
        layers=layers,
        source=header.source,
        basis=None if header.model is None else header.model.basis,
        data=header.data,
        tensors=others,
        restore=header.restore,
        forms=header.forms,
        conv=None if header.model is None else header.model.conv,
        header=HeaderForm.SHORT if is_short else HeaderForm.PLAIN,
    )
    if record.restore is not None:
        _check_types(record, record.restore, header)
        _check_opaque(record, record.restore, header.where)
    return record


def _check_types(record: PackedRecord[Array], restore: Restore, header: Header) -> None:
    """Refuse coefficients that would be infinite in the type of the tensor that holds them."""
    known: dict[tuple[str, str], npt.NDArray[np.bool_]] = {}
    for tensor in restore.tensors:
        for piece in tensor.pieces:
            key = piece.layer, tensor.dtype
            if key not in known:
                known[key] = _finite_columns(record, record.layer(piece.layer), tensor.dtype)
            if not known[key][piece.first : piece.last].all():
                raise header.fail(
                    Flaw.NOT_FINITE,
                    f"layer {shown(piece.layer)} has coefficients that are infinite in the type"
                    f" {tensor.dtype} of {shown(tensor.name)}.",
                )


def _finite_columns(
    record: PackedRecord[Array], layer: LayerRecord[Array], dtype: str
) -> npt.NDArray[np.bool_]:
    """Which coefficients (d,) of a layer's edges are finite in a type."""
    found = [record.codebook_of(layer), layer.coefficients, layer.kept]
    finite = np.ones(record.vector_size_of(layer), np.bool_)
    for array in (array for array in found if array is not None):
        if promoted(array.dtype, dtype) != dtype:
            width = array.shape[-1]
            rows = array.flat.reshape(-1, width)
            columns = finite.reshape(-1, width)  # of each part, where centroids are that wide
            for start in range(0, len(rows), _BLOCK):
                columns &= ~_bad(rows[start : start + _BLOCK], array.dtype, dtype).any(axis=0)
    return finite


def _bad(rows: Numbers, dtype: str, to: str) -> npt.NDArray[np.bool_]:
    """Which elements are infinite once they have another type."""
    return is_bad(converted(rows, dtype, to).view(DTYPES[to].bits), to)


def _check_opaque(record: PackedRecord[Array], restore: Restore, where: str) -> None:
    """Refuse what is kept beside the tensors where it could not be filled with them (8.5)."""
    if restore.opaque is None:
        return
    claims = {tensor.name: Outline(tensor.dtype, tensor.shape) for tensor in restore.tensors}
    # The machine that reads pickles is loaded where there is one.
    skeletons = import_module("kancompress.formats.foreign.skeletons")
    data = Data(record.tensors[restore.opaque].data.data)
    skeletons.check(data, claims, restore.path, where)


def ordinary(container: Container, document: Mapping[str, Any]) -> Container:
    """The file with its tensors as an ordinary header has them. Raises InvalidFileError."""
    return short.unfolded(container, document)[0] if short.is_short(document) else container


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
        or base64.b64encode(expected).decode() != value  # unused bits of the last character
        or raw.count(value.encode()) != 1
    ):
        raise InvalidFileError(
            Flaw.BAD_CHECKSUM_FORM,
            f"{where}: the checksum {shown(checksum)} is not 'sha256-' and 44 base64 characters"
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


def _read_tensors(name: str, header: Header, held: Container) -> dict[str, Array]:
    """A layer's tensors by role, as they are written."""
    tensors: dict[str, Array] = {}
    for role in ROLES:
        full = f"{name}.{role}"
        if full in header.entries:
            array = held.array(full)
            if role != "index":
                array = OF_NUMBERS[header.encodings[full]].decode(array, full, header.where)
            check_finite(array, full, header.where)
            if header.model is not None:
                check_variance(array, full, header.where)
            tensors[role] = array
    return tensors


def _layer(name: str, tensors: Mapping[str, Array], header: Header) -> LayerRecord[Array]:
    if "kept_at" in tensors:
        _check_kept_at(name, tensors["kept_at"], header)
    index = None
    encoding = BITS.name
    if "index" in tensors:
        claim = header.indices(name)
        if "kept_at" in tensors:
            kept_at = tensors["kept_at"].numpy()
            claim = header.indices(name, kept_at)
        encoding = header.encodings[claim.name]
        index = OF_INDICES[encoding].decode(tensors["index"], claim, header.where)
    return LayerRecord(
        name=name,
        shape=header.layers[name].shape,
        codebook=tensors.get("codebook"),
        shares=header.layers[name].shares,
        groups=header.layers[name].groups,
        parts=header.parts(name),
        index=index,
        encoding=encoding,
        numbers={
            role: header.encodings[f"{name}.{role}"]
            for role in tensors
            if role != "index" and header.encodings[f"{name}.{role}"] != PLAIN.name
        },
        kept_at=tensors.get("kept_at"),
        kept=tensors.get("kept"),
        coefficients=tensors.get("coefficients"),
        sides={role: tensors[role] for role in SIDE_ROLES if role in tensors},
    )


def _check_kept_at(name: str, kept_at: Array, header: Header) -> None:
    positions = kept_at.numpy()
    edges = math.prod(header.layers[name].shape)
    inside = bool((positions >= 0).all()) and bool((positions < edges).all())
    if not inside or not bool((np.diff(positions) > 0).all()):
        raise header.fail(
            Flaw.KEPT_POSITIONS,
            f"tensor {shown(f'{name}.kept_at')} should ascend strictly within the layer's edges.",
        )
