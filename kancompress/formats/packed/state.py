"""The tensors that a packed model stands for, by name.

docs/packed-format.md, section 8, for checkpoints of other libraries.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kancompress.formats.edges.found import FoundLayer, Part
from kancompress.formats.edges.vectors import scatter
from kancompress.formats.packed.restore import pieces_of
from kancompress.formats.safetensors import DTYPES

if TYPE_CHECKING:
    from kancompress.formats.packed.model import PackedModel


def rebuild_arange(arange: list[Any], dtype: torch.dtype) -> Tensor:
    """The row that [base, step, first, count] stands for, each operation rounded to `dtype`."""
    base, step, first, count = arange
    times = torch.arange(first, first + count).to(dtype)
    return times * torch.tensor(step, dtype=dtype) + torch.tensor(base, dtype=dtype)


def native_tensors(model: PackedModel) -> dict[str, Tensor]:
    """Coefficients of a native network, at least float32, and what its layers have beside them."""
    tensors: dict[str, Tensor] = {}
    for layer in model.layers:
        values = model.coefficients_of(layer)
        wide = values if values.dtype == torch.float64 else values.float()
        tensors[f"{layer.name}.coefficients"] = wide
        tensors |= {f"{layer.name}.{role}": tensor for role, tensor in layer.sides.items()}
    return tensors | dict(model.tensors)


def source_tensors(model: PackedModel) -> dict[str, Tensor]:
    """Another library's state dict: names in the source's order, ties one tensor."""
    assert model.restore is not None
    entries = {
        name: (dtype, shape, origin) for name, dtype, shape, origin in model.restore["tensors"]
    }
    edges: dict[str, Tensor] = {}
    for layer in found_layers(model):
        packed = model.layer(layer.name)
        vectors = model.coefficients_of(packed).reshape(layer.edges, -1)
        scatter(layer, vectors, into=edges)
    result: dict[str, Tensor] = {}
    for name, (dtype, shape, origin) in entries.items():
        if not (origin and "tie" in origin):
            result[name] = _given_back(name, DTYPES[dtype][0], shape, origin, model, edges)
    return {
        name: result[origin["tie"] if origin and "tie" in origin else name]
        for name, (_, _, origin) in entries.items()
    }


def outline(model: PackedModel) -> dict[str, Tensor]:
    """Another library's state dict with meta tensors in place of those that hold packed edges.

    Names, shapes and types are all there, so layers can be recognised; nothing is gathered.
    """
    assert model.restore is not None
    result: dict[str, Tensor] = {}
    for name, dtype, shape, origin in model.restore["tensors"]:
        if pieces_of(origin):
            result[name] = torch.empty(shape, dtype=DTYPES[dtype][0], device="meta")
        elif not (origin and "tie" in origin):
            result[name] = _given_back(name, DTYPES[dtype][0], shape, origin, model, {})
    return {
        name: result[origin["tie"] if origin and "tie" in origin else name]
        for name, _, _, origin in model.restore["tensors"]
    }


def found_layers(model: PackedModel) -> list[FoundLayer]:
    """The layers of another library's checkpoint, with the parts of tensors that hold them."""
    assert model.restore is not None
    parts: dict[str, list[Part]] = {}
    for name, dtype, shape, origin in model.restore["tensors"]:
        for piece in pieces_of(origin):
            parts.setdefault(piece["layer"], []).append(
                Part(
                    tensor=name,
                    axes=piece["axes"],
                    first=piece["from"],
                    last=piece["to"],
                    shape=tuple(shape),
                    dtype=DTYPES[dtype][0],
                    group=piece.get("group"),
                    columns=tuple(piece["columns"]) if "columns" in piece else None,
                )
            )
    found = []
    for name, pieces in parts.items():
        layer = model.layer(name)
        values = model.codebook_of(layer)
        values = layer.coefficients if values is None else values
        assert values is not None
        found.append(
            FoundLayer(
                name=name,
                layout="",
                shape=layer.shape,
                coefficients=values.shape[-1],
                parts=tuple(pieces),
                groups=layer.groups,
            )
        )
    return found


def join(tensors: dict[str, Tensor], layer: FoundLayer, values: Mapping[str, Tensor]) -> None:
    """Add what `layer` gives; a tensor may have columns from several layers."""
    for name, value in values.items():
        if name not in tensors:
            tensors[name] = value
            continue
        for part in layer.parts:
            if part.tensor == name and part.columns is not None:
                columns = slice(*part.columns)
                tensors[name][..., columns] = value[..., columns]


def _given_back(
    name: str,
    dtype: torch.dtype,
    shape: list[int],
    origin: Any,
    model: PackedModel,
    edges: Mapping[str, Tensor],
) -> Tensor:
    match origin:
        case None:
            return model.tensors[name]
        case {"as": target}:
            return model.tensors[target]
        case {"fill": number}:
            return torch.full(shape, number, dtype=dtype)
        case {"repeat": target}:
            return model.tensors[target].expand(shape).contiguous()
        case {"arange": arange}:
            return rebuild_arange(arange, dtype).expand(shape).contiguous()
    return edges[name]
