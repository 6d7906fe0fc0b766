"""What a file holds and what each part weighs, as plain data; documented in docs/json.md."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from kancompress.errors import shortened
from kancompress.formats import document as documents
from kancompress.formats.arrays import DTYPES, Array, Numbers, Outline, Stored
from kancompress.formats.checkpoint import CheckpointRecord, dense_twin_sizes
from kancompress.formats.edges import masks
from kancompress.formats.packed import LayerRecord, PackedRecord, ordinary
from kancompress.formats.packed.encodings import PLAIN, RANS, bits
from kancompress.formats.packed.writer import claim_of
from kancompress.formats.safetensors import Container, Entry
from kancompress.formats.storage import Record, read_record
from kancompress.libraries.catalogue import basis_word
from kancompress.reporting import accounting, others
from kancompress.specs import FAMILIES, BasisSpec

if TYPE_CHECKING:
    from kancompress.formats.foreign import ForeignRecord
    from kancompress.libraries import Recognition

Sizes = tuple[int, int]


def describe(container: Container, predicted: Sizes | None = None) -> dict[str, Any]:
    """The full report of a file that kancompress wrote. Raises InvalidFileError if damaged.

    predicted : for a file that is not packed, (header, payload) bytes of the packed one
    """
    record = read_record(container)
    if isinstance(record, PackedRecord):
        return _describe_packed(ordinary(container, documents.read(container)), record)
    return _describe_checkpoint(container, record) | {"predicted": _predicted(predicted)}


def describe_foreign(
    source: ForeignRecord[Array], found: Recognition, predicted: Sizes | None
) -> dict[str, Any]:
    """The report of another library's checkpoint, recognised but not packed.

    predicted : (header, payload) bytes of the packed file at the number of clusters asked for
    """

    def read(name: str) -> Numbers:
        return source.tensors[name].values()

    layers = []
    known: Mapping[str, Outline] = source.tensors
    if isinstance(source.tensors, Stored):
        known = source.tensors.outline
    for layer in found.layers:
        size = known[layer.tensors[0]].itemsize
        record = _layer(layer.name, None, layer.shape, layer.coefficients)
        layers.append(
            record
            | {
                "basis": basis_word(layer.layout),
                "layout": layer.layout,
                "tensors": others.edge_tensors(layer),
                "dense_bytes": record["dense_bytes"] // 4 * size,
            }
            | others.left_out(layer, read)
        )
    names = {name for layer in found.layers for name in layer.tensors}
    sizes = {name: one.nbytes for name, one in known.items() if name not in source.ties}
    return {
        "kind": "safetensors" if source.container == "safetensors" else "torch",
        "file_bytes": source.file_bytes,
        "header_bytes": source.file_bytes - source.tensor_bytes,
        "payload_bytes": source.tensor_bytes,
        "parts": accounting.of_foreign(
            sizes,
            (name for layer in layers for name in layer["tensors"]),
            file=source.file_bytes,
            unused=source.unused_bytes,
        ),
        "model": None,
        "data": None,
        "layers": layers,
        "other": [
            {
                "name": name,
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "bytes": tensor.nbytes,
            }
            for name, tensor in known.items()
            if name not in names
        ],
        "totals": _sums(layers, source.tensor_bytes),
        "ratios": {"formula": None, "tensors": None, "file": None},
        "problems": [
            shortened(text)
            for text in (
                *found.problems,
                *found.hints,
                *([masks.ALL_MASKED] if masks.is_silent(found.layers, read) else []),
                *source.notes,
                *(f"left out: {what}" for what in source.dropped),
            )
        ],
        "predicted": _predicted(predicted),
    }


def _predicted(sizes: Sizes | None) -> dict[str, int] | None:
    if sizes is None:
        return None
    return {"header_bytes": sizes[0], "payload_bytes": sizes[1], "file_bytes": sum(sizes)}


def _frame(container: Container, kind: str, record: Record | None) -> dict[str, Any]:
    model = record.model if record else None
    return {
        "kind": kind,
        "file_bytes": container.file_size,
        "header_bytes": container.header_size,
        "payload_bytes": container.payload_size,
        "model": model.to_json() if model else None,
        "data": record.data.to_json() if record and record.data else None,
    }


def _others(
    container: Container,
    layer_tensors: set[str],
    encoded: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    sources: Mapping[str, str] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Tensors beside the edges; `encoded` has dtype and shape of those that are not as they are,
    `sources` the name in the source of those that have another one here."""
    return [
        {"name": entry.name, "dtype": entry.dtype, "shape": list(entry.shape), "bytes": entry.size}
        | dict(encoded.get(entry.name, {}))
        | ({"source": sources[entry.name]} if entry.name in sources else {})
        for entry in container.entries.values()
        if entry.name not in layer_tensors
    ]


def _layer(
    name: str, basis: BasisSpec | None, shape: tuple[int, ...], coefficients: int
) -> dict[str, Any]:
    edges = math.prod(shape)
    return {
        "name": name,
        "basis": FAMILIES[basis.family].basis if basis else None,
        "shape": list(shape),
        "edges": edges,
        "coefficients": coefficients,
        "clusters": None,
        "parts": None,
        "index_encoding": None,
        "index_bits": None,
        "index_bytes": 0,
        "bits_per_edge": None,
        "codebook_bytes": 0,
        "codebook_dtype": None,
        "formula_bytes": None,
        "dense_bytes": edges * coefficients * 4,
        "index_entropy": None,
        "usage": None,
    }


def _describe_packed(container: Container, model: PackedRecord[Array]) -> dict[str, Any]:
    layers = [_packed_layer(container, model, layer) for layer in model.layers]
    owned = {
        f"{layer.name}.{role}"
        for layer in model.layers
        for role in ("codebook", "index", "kept_at", "kept", "coefficients")
    }
    encoded = {
        f"{layer.name}.{role}": {"dtype": encoding, "shape": list(layer.sides[role].shape)}
        for layer in model.layers
        for role, encoding in layer.numbers.items()
        if role in layer.sides
    }
    source = model.source
    packed = [layer for layer in layers if layer["clusters"] is not None]
    formula = sum(layer["formula_bytes"] for layer in packed)
    ratios: dict[str, Any] = {
        "formula": sum(layer["dense_bytes"] for layer in packed) / formula if formula else None,
        "tensors": source.tensors / container.payload_size,
        "file": source.file / container.file_size,
    }
    if source.dense is not None:
        ratios["dense_tensors"] = source.dense[0] / container.payload_size
        ratios["dense_file"] = source.dense[1] / container.file_size
    if _has_pykan_twin(model):
        ratios["pykan_storage"] = _pykan_bytes(model) / container.file_size
    dense: list[others.DenseLayer] = []
    if model.restore is not None:
        told = others.of_packed(model)
        dense = others.dense_layers(model)
        layers = _with_dense(
            [layer | told[layer["name"]] for layer in layers], dense, container.entries
        )
    stored = [name for one in dense for name in one.stored]
    return _frame(container, "packed", model) | {
        "header_form": model.header.value,
        "parts": accounting.of_packed(container, (layer.name for layer in model.layers), stored),
        "source": source.to_json(),
        "layers": layers,
        **_restored(model),
        "other": _others(container, owned | set(stored), encoded, _sources(model)),
        "totals": _totals(layers, container),
        "ratios": ratios,
    }


def _restored(model: PackedRecord[Array]) -> dict[str, Any]:
    """What a packed file of another library says of the file that it gives back."""
    if model.restore is None:
        return {}
    forms = {name: form.to_json() for name, form in model.forms.items()}
    return {
        "forms": forms,
        "extra": model.restore.opaque,
        "container": model.restore.container,
        "pykan_config": model.restore.pykan is not None,
    }


def _sources(model: PackedRecord[Array]) -> dict[str, str]:
    """Stored tensors that are called otherwise in the source, to their names there."""
    restored = model.restore.tensors if model.restore else ()
    named = {one.stored: one.name for one in restored if one.stored is not None}
    return {stored: name for stored, name in named.items() if stored != name}


def _with_dense(
    packed: list[dict[str, Any]],
    dense: list[others.DenseLayer],
    entries: Mapping[str, Entry],
) -> list[dict[str, Any]]:
    """The layers of a packed file with those of its source that stay dense, in their places."""
    rows: list[dict[str, Any]] = []
    done = 0
    for one in dense:  # in the order of the source, as the packed ones are
        rows += packed[done : one.before]
        done = max(done, one.before)
        row = _layer(one.layer.name, None, one.layer.shape, one.layer.coefficients)
        row |= one.told | {"dense_bytes": row["dense_bytes"] // 4 * one.itemsize}
        row["stored_bytes"] = sum(entries[name].size for name in one.stored)
        rows.append(row)
    return rows + packed[done:]


def _has_pykan_twin(model: PackedRecord[Array]) -> bool:
    """Whether pykan has networks like this one: fully connected, of B-splines."""
    basis = model.basis
    return basis is not None and FAMILIES[basis.family].basis == "bspline" and model.conv is None


def _pykan_bytes(model: PackedRecord[Array]) -> int:
    """The dense tensors that the paper's 79.9 divides: d + 1 floats an edge (a spline scaler
    beside the d coefficients) and a row of G + 2 degree + 1 knots for every input."""
    assert model.basis is not None
    assert model.basis.grid is not None
    assert model.basis.degree is not None
    knots = model.basis.grid[2] + 2 * model.basis.degree + 1
    per_edge = model.basis.coefficients + 1
    return 4 * sum(layer.edges * per_edge + layer.shape[1] * knots for layer in model.layers)


def _packed_layer(
    container: Container, model: PackedRecord[Array], layer: LayerRecord[Array]
) -> dict[str, Any]:
    codebook = model.codebook_of(layer)
    if codebook is None:
        assert layer.coefficients is not None
        return _layer(layer.name, model.basis, layer.shape, layer.coefficients.shape[-1])
    k, width = codebook.shape
    record = _layer(layer.name, model.basis, layer.shape, width * layer.parts)
    counts = np.bincount(model.indices_of(layer), minlength=k)
    stored = container.entries.get(f"{layer.name}.codebook")
    index = container.entries.get(f"{layer.name}.index")
    record |= {
        "clusters": k,
        "parts": layer.parts,
        "index_encoding": layer.encoding if index else None,
        "index_bits": bits.width_of(k),
        "index_bytes": index.size if index else 0,
        "bits_per_edge": 8 * index.size / layer.packed_edges if index else 0.0,
        "codebook_bytes": stored.size if stored else 0,
        "codebook_dtype": _stored_as(model.layer(layer.shares or layer.name), codebook),
        "formula_bytes": layer.index_count * math.log2(k) / 8 + (k * width * 4 if stored else 0),
        "index_entropy": bits.entropy(counts),
        "usage": {
            "largest": int(counts.max()),
            "smallest": int(counts.min()),
            "unused": int((counts == 0).sum()),
            "counts": counts.tolist(),
        },
    }
    if index and layer.encoding == RANS.name:
        claim = claim_of(model, layer)
        assert claim is not None
        array = container.array(index.name)
        record["rans"] = RANS.parts(array, claim, container.where)
    if layer.kept_at is not None:
        record["kept_edges"] = layer.kept_edges
    zero = np.logical_not(codebook.flat.reshape(k, -1).astype(np.bool_).any(axis=1))
    indices = model.indices_of(layer).reshape(-1, layer.parts)
    if zero_edges := int(np.take(zero, indices).all(axis=1).sum()):
        record["zero_edges"] = zero_edges
    return record


def _stored_as(owner: LayerRecord[Array], codebook: Array) -> str:
    encoding = owner.numbers.get("codebook", PLAIN.name)
    return DTYPES[codebook.dtype].torch if encoding == PLAIN.name else encoding


def _describe_checkpoint(container: Container, record: CheckpointRecord[Array]) -> dict[str, Any]:
    layers = []
    owned: set[str] = set()
    for number, shape in enumerate(record.shapes):
        layers.append(_layer(str(number), record.basis, shape, record.basis.coefficients))
        owned |= {f"{number}.coefficients", f"{number}.embedding"}
    ratios: dict[str, Any] = {"formula": None, "tensors": None, "file": None}
    if record.kind == "meta":
        twin = dense_twin_sizes(record, container.outline())
        ratios["dense_tensors"] = twin[0] / container.payload_size
        ratios["dense_file"] = twin[1] / container.file_size
    return _frame(container, record.kind, record) | {
        "parts": accounting.of_checkpoint(container, len(record.shapes), record.kind),
        "layers": layers,
        "other": _others(container, owned),
        "totals": _totals(layers, container),
        "ratios": ratios,
    }


def _totals(layers: list[dict[str, Any]], container: Container) -> dict[str, Any]:
    return _sums(layers, container.payload_size)


def _sums(layers: list[dict[str, Any]], payload: int) -> dict[str, Any]:
    index = sum(layer["index_bytes"] for layer in layers)
    codebook = sum(layer["codebook_bytes"] for layer in layers)
    formula = [layer["formula_bytes"] for layer in layers if layer["formula_bytes"] is not None]
    return {
        "edges": sum(layer["edges"] for layer in layers),
        "coefficients": sum(layer["edges"] * layer["coefficients"] for layer in layers),
        "index_bytes": index,
        "codebook_bytes": codebook,
        "other_bytes": payload - index - codebook,
        "dense_bytes": sum(layer["dense_bytes"] for layer in layers),
        "formula_bytes": sum(formula) if formula else None,
    }
