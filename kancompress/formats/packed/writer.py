"""PackedModel to bytes, and the exact size of a file before it exists."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

from kancompress.formats import document as documents
from kancompress.formats import safetensors as containers
from kancompress.formats.packed.model import PackedModel
from kancompress.formats.safetensors import Declared

CHECKSUM_PREFIX = "sha256-"
BLANK = "A" * 44

ENCODING_OF_ROLE = {"index": "bits"}


def document(model: PackedModel, names: Mapping[str, object], checksum: str) -> dict[str, Any]:
    """The file's document for tensors with these names."""
    layers: dict[str, Any] = {}
    roles: set[str] = set()
    for layer in model.layers:
        record: dict[str, Any] = {"shape": list(layer.shape)}
        if layer.shares:
            record["codebook"] = layer.shares
        if layer.groups > 1:
            record["groups"] = layer.groups
        layers[layer.name] = record
    for name in names:
        layer_name, _, role = name.rpartition(".")
        if layer_name in layers and name not in model.tensors:
            roles.add(role)
    result: dict[str, Any] = {
        "version": documents.VERSION,
        "kind": "packed",
        "checksum": CHECKSUM_PREFIX + checksum,
        "layers": layers,
        "encodings": _encodings(roles),
        "source": model.source.to_json(),
    }
    if model.model is not None:
        result["model"] = model.model.to_json()
    if model.data is not None:
        result["data"] = model.data.to_json()
    if model.restore is not None:
        result["restore"] = dict(model.restore)
    if model.forms:
        result["forms"] = {name: form.to_json() for name, form in model.forms.items()}
    return result


def _encodings(roles: set[str]) -> dict[str, list[str]]:
    """Encoding to the roles that have it, sorted."""
    result: dict[str, list[str]] = {}
    for role in sorted(roles):
        result.setdefault(ENCODING_OF_ROLE.get(role, "plain"), []).append(role)
    return result


def encode(model: PackedModel) -> bytes:
    """The whole packed file; equal models give equal bytes."""
    tensors = model.named_tensors()
    declared = {name: containers.declare(tensor) for name, tensor in tensors.items()}
    header = containers.encode_header(declared, documents.metadata(document(model, tensors, BLANK)))
    whole = hashlib.sha256(header)
    for chunk in containers.payload_chunks(tensors):
        whole.update(chunk)
    blank = (CHECKSUM_PREFIX + BLANK).encode()
    digest = CHECKSUM_PREFIX.encode() + base64.b64encode(whole.digest())
    header = header.replace(blank, digest, 1)
    return b"".join((header, *containers.payload_chunks(tensors)))


def sizes(model: PackedModel) -> tuple[int, int]:
    """(header, payload) bytes of the file that `encode` gives, without making it."""
    declared: dict[str, Declared] = {
        name: containers.declare(tensor) for name, tensor in model.named_tensors().items()
    }
    header = containers.encode_header(
        declared, documents.metadata(document(model, declared, BLANK))
    )
    return len(header), sum(tensor.size for tensor in declared.values())
