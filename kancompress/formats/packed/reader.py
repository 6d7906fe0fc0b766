"""Bytes to PackedModel. Everything the header claims is checked before a tensor is read."""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kancompress.errors import Flaw, InvalidFileError
from kancompress.formats.checkpoint import check_finite, check_variance
from kancompress.formats.foreign import skeletons
from kancompress.formats.packed.encodings import bits
from kancompress.formats.packed.header import Header
from kancompress.formats.packed.model import ROLES, SIDE_ROLES, PackedLayer, PackedModel
from kancompress.formats.packed.restore import pieces_of
from kancompress.formats.packed.writer import BLANK, CHECKSUM_PREFIX
from kancompress.formats.safetensors import DTYPES, Container, shown
from kancompress.system.inputs import Data

_BLOCK = 1 << 16  # edges whose coefficients are converted at a time


def decode(
    container: Container, document: Mapping[str, Any], *, any_size: bool = False
) -> PackedModel:
    """Check and read a file of kind `packed`. Raises InvalidFileError with the flaw it found.

    any_size : read a file that stands for more bytes than docs/packed-format.md, 8.3, allows
    """
    header = Header(container, document, any_size=any_size)
    header.check()
    header.container = container = container.held()
    check_checksum(container, document["checksum"])
    layers = tuple(_read_layer(name, header) for name in header.layer_names())
    for layer in layers:
        _check_index(layer, header)
    others = {name: container.tensor(name) for name in container.entries if name in header.others}
    if header.model is not None:
        for name, tensor in others.items():
            check_finite(tensor, name, header.where)
    model = PackedModel(
        layers=layers,
        source=header.source,
        basis=None if header.model is None else header.model.basis,
        data=header.data,
        tensors=others,
        restore=document.get("restore"),
        forms=header.forms,
        conv=None if header.model is None else header.model.conv,
    )
    if model.restore is not None:
        _check_types(model, model.restore, header)
        _check_opaque(model, model.restore, header)
    return model


def _check_types(model: PackedModel, restore: Mapping[str, Any], header: Header) -> None:
    """Refuse coefficients that would be infinite in the type of the tensor that holds them."""
    known: dict[tuple[str, str], Tensor] = {}
    for name, dtype, _, origin in restore["tensors"]:
        for piece in pieces_of(origin):
            key = piece["layer"], dtype
            if key not in known:
                known[key] = _finite_columns(model, model.layer(key[0]), DTYPES[dtype][0])
            if not known[key][piece["from"] : piece["to"]].all():
                raise header.fail(
                    Flaw.NOT_FINITE,
                    f"layer {shown(key[0])} has coefficients that are infinite in the type {dtype}"
                    f" of {shown(name)}.",
                )


def _finite_columns(model: PackedModel, layer: PackedLayer, kind: torch.dtype) -> Tensor:
    """Which coefficients (d,) of a layer's edges are finite in a type."""
    found = [model.codebook_of(layer), layer.coefficients, layer.kept]
    values = [tensor.reshape(-1, tensor.shape[-1]) for tensor in found if tensor is not None]
    finite = torch.ones(values[0].shape[-1], dtype=torch.bool)
    for tensor in values:
        if torch.promote_types(tensor.dtype, kind) != kind:
            for start in range(0, len(tensor), _BLOCK):
                finite &= tensor[start : start + _BLOCK].to(kind).isfinite().all(dim=0)
    return finite


def _check_opaque(model: PackedModel, restore: Mapping[str, Any], header: Header) -> None:
    """Refuse what is kept beside the tensors where it could not be filled with them (8.5)."""
    if "opaque" not in restore:
        return
    claims = {
        name: skeletons.Claim(DTYPES[dtype][0], tuple(shape))
        for name, dtype, shape, _ in restore["tensors"]
    }
    data = Data(model.tensors[restore["opaque"]].numpy().data)
    skeletons.check(data, claims, tuple(restore["path"]), header.where)


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


def _read_layer(name: str, header: Header) -> PackedLayer:
    tensors: dict[str, Tensor] = {}
    for role in ROLES:
        full = f"{name}.{role}"
        if full in header.entries:
            tensors[role] = header.container.tensor(full)
            check_finite(tensors[role], full, header.where)
            if header.model is not None:
                check_variance(tensors[role], full, header.where)
    index: npt.NDArray[np.uint8] | None = None
    if "index" in tensors:
        index = tensors["index"].numpy()
    return PackedLayer(
        name=name,
        shape=header.shapes[name],
        codebook=tensors.get("codebook"),
        shares=header.shares.get(name),
        groups=header.groups[name],
        index=index,
        kept_at=tensors.get("kept_at"),
        kept=tensors.get("kept"),
        coefficients=tensors.get("coefficients"),
        sides={role: tensors[role] for role in SIDE_ROLES if role in tensors},
    )


def _check_index(layer: PackedLayer, header: Header) -> None:
    if layer.kept_at is not None:
        positions = layer.kept_at
        inside = bool((positions >= 0).all()) and bool((positions < math.prod(layer.shape)).all())
        if not inside or not bool((torch.diff(positions) > 0).all()):
            raise header.fail(
                Flaw.KEPT_POSITIONS,
                f"tensor {shown(f'{layer.name}.kept_at')} should ascend strictly within the layer's"
                " edges.",
            )
    if layer.index is None:
        return
    k, _ = header.codebook_shape(layer.name)
    width = bits.width_of(k)
    if not bits.padding_is_zero(layer.index, layer.packed_edges, width):
        raise header.fail(
            Flaw.INDEX_PADDING,
            f"tensor {shown(f'{layer.name}.index')} has bits set after its last index.",
        )
    if k == 1 << width:
        return
    blocks = bits.unpacked(layer.index, layer.packed_edges, width)
    largest = max((int(block.max()) for _, block in blocks), default=0)
    if largest >= k:
        raise header.fail(
            Flaw.INDEX_RANGE,
            f"tensor {shown(f'{layer.name}.index')} holds {largest}; the codebook has {k}"
            " centroids.",
        )
