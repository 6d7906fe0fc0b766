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

from kancompress import bits
from kancompress.checkpoint import check_finite, check_variance
from kancompress.container import Container, shown
from kancompress.errors import Flaw, InvalidFileError
from kancompress.packed.header import ROLES, Header
from kancompress.packed.model import SIDE_ROLES, PackedLayer, PackedModel
from kancompress.packed.writer import BLANK, CHECKSUM_PREFIX


def decode(container: Container, document: Mapping[str, Any]) -> PackedModel:
    """Check and read a file of kind `packed`. Raises InvalidFileError with the flaw it found."""
    header = Header(container, document)
    header.check()
    check_checksum(container, document["checksum"])
    layers = tuple(_read_layer(name, header) for name in header.layer_names())
    for layer in layers:
        _check_index(layer, header)
    others = {name: container.tensor(name) for name in container.entries if name in header.others}
    if header.model is not None:
        for name, tensor in others.items():
            check_finite(tensor, name, header.where)
    return PackedModel(
        layers=layers,
        source=header.source,
        basis=None if header.model is None else header.model.basis,
        data=header.data,
        tensors=others,
        restore=document.get("restore"),
        conv=None if header.model is None else header.model.conv,
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
