"""Packed records to bytes, and the exact size of a file before it exists."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from kancompress.formats import document as documents
from kancompress.formats import safetensors as containers
from kancompress.formats.arrays import Array, Outline
from kancompress.formats.packed import short
from kancompress.formats.packed.encodings import (
    OF_INDICES,
    OF_NUMBERS,
    PLAIN,
    RANS,
    Indices,
    measured,
)
from kancompress.formats.packed.encodings.claims import told_encodings
from kancompress.formats.packed.record import LayerRecord, PackedRecord
from kancompress.specs import HeaderForm

CHECKSUM_PREFIX = "sha256-"
BLANK = "A" * 44


def document(
    record: PackedRecord[Any], names: Mapping[str, object], checksum: str
) -> dict[str, Any]:
    """The document of an ordinary header for tensors with these names."""
    layers: dict[str, Any] = {}
    encoding: dict[str, str] = {}
    for layer in record.layers:
        described: dict[str, Any] = {"shape": list(layer.shape)}
        if layer.shares:
            described["codebook"] = layer.shares
        if layer.groups > 1:
            described["groups"] = layer.groups
        if layer.parts > 1 and not layer.shares:
            described["parts"] = layer.parts
        layers[layer.name] = described
        encoding[f"{layer.name}.index"] = layer.encoding
        encoding |= {f"{layer.name}.{role}": name for role, name in layer.numbers.items()}
    own = [
        name for name in names if name.rpartition(".")[0] in layers and name not in record.tensors
    ]
    result: dict[str, Any] = {
        "version": documents.VERSION,
        "kind": "packed",
        "checksum": CHECKSUM_PREFIX + checksum,
        "layers": layers,
        **told_encodings({name: encoding.get(name, PLAIN.name) for name in own}),
        "source": record.source.to_json(),
    }
    if record.model is not None:
        result["model"] = record.model.to_json()
    if record.data is not None:
        result["data"] = record.data.to_json()
    if record.restore is not None:
        result["restore"] = record.restore.to_json()
    if record.forms:
        result["forms"] = {name: form.to_json() for name, form in record.forms.items()}
    return result


def tensors(record: PackedRecord[Array]) -> dict[str, Array]:
    """All tensors as the file has them, by name."""
    named: dict[str, Array] = dict(record.tensors)
    for layer in record.layers:
        beside = layer.tensors()
        for role, encoding in layer.numbers.items():
            beside[role] = OF_NUMBERS[encoding].encode(beside[role], f"{layer.name}.{role}")
        if claim := claim_of(record, layer):
            encoded = OF_INDICES[layer.encoding].encode(layer.indices(), claim)
            if encoded is not None:
                beside["index"] = encoded
        named |= {f"{layer.name}.{role}": array for role, array in beside.items()}
    return named


def outlines(record: PackedRecord[Outline]) -> dict[str, Outline]:
    """Type and shape of all tensors of the file, by name.

    No number of them is looked at, but for indices whose encoding tells no size before they are
    encoded, and `kept_at` beside them. An index that is None has the most bytes that it can have.
    """
    named: dict[str, Outline] = dict(record.tensors)
    for layer in record.layers:
        beside: dict[str, Outline] = layer.tensors()
        for role, encoding in layer.numbers.items():
            beside[role] = OF_NUMBERS[encoding].written(beside[role], role)
        if claim := claim_of(record, layer):
            if layer.index is None:
                size = OF_INDICES[layer.encoding].size(claim).nbytes
            else:
                size = measured(layer.encoding, layer.index, claim)
            if size:
                beside["index"] = Outline("U8", (size,))
        named |= {f"{layer.name}.{role}": one for role, one in beside.items()}
    return named


def claim_of(record: PackedRecord[Any], layer: LayerRecord[Any]) -> Indices | None:
    """What the file will say of a layer's indices; None where it stays dense."""
    clusters = record.clusters_of(layer)
    if clusters is None:
        return None
    claim = Indices(
        f"{layer.name}.index",
        layer.packed_edges,
        clusters,
        layer.shape,
        layer.groups,
        layer.kept_at.numpy() if isinstance(layer.kept_at, Array) else None,
    )
    return claim.cut(layer.parts)


def encode(record: PackedRecord[Array]) -> bytes:
    """The whole packed file; equal records give equal bytes."""
    return b"".join(pieces(record))


def pieces(record: PackedRecord[Array]) -> list[bytes | memoryview]:
    """The same as its header and the memory of its tensors, one after another."""
    arrays = tensors(record)
    header = _header(record, {name: Outline(a.dtype, a.shape) for name, a in arrays.items()})
    whole = hashlib.sha256(header)
    for chunk in containers.payload_chunks(arrays):
        whole.update(chunk)
    blank = (CHECKSUM_PREFIX + BLANK).encode()
    digest = CHECKSUM_PREFIX.encode() + base64.b64encode(whole.digest())
    header = header.replace(blank, digest, 1)
    return [header, *containers.payload_chunks(arrays)]


def sizes(record: PackedRecord[Outline]) -> tuple[int, int]:
    """(header, payload) bytes of the file that `encode` gives, without making it."""
    named = outlines(record)
    return len(_header(record, named)), sum(one.nbytes for one in named.values())


def _header(record: PackedRecord[Any], named: Mapping[str, Outline]) -> bytes:
    """The header of the file with these tensors, in the form that the record asks for, with a
    blank checksum. The ordinary form is taken where the short one cannot tell all."""
    written = document(record, named, BLANK)
    wanted = record.header is HeaderForm.SHORT
    if record.header is HeaderForm.AUTO:
        wanted = RANS.name in {*written["encodings"], *written.get("exceptions", {}).values()}
    if wanted and (told := short.folded(written, named)) is not None:
        return containers.encode_header(short.container_of(named), documents.metadata(told))
    return containers.encode_header(named, documents.metadata(written))
