"""Networks from records and records from networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from kancompress.errors import UsageError
from kancompress.formats.checkpoint import HEAD, side_shapes
from kancompress.formats.packed.record import SIDE_ROLES
from kancompress.layers.edges import (
    Codebook,
    CodebookEdges,
    DenseEdges,
    MetaEdges,
    MetaLearner,
    new_embedding,
    new_learner,
)
from kancompress.layers.families import form_of, place_of
from kancompress.layers.forms import Window
from kancompress.layers.layer import EdgeLayer, Head
from kancompress.layers.network import Network
from kancompress.models.records import Checkpoint, PackedModel
from kancompress.specs import FAMILIES, BasisSpec, ConvSpec, DataSpec, MetaSpec, ModelSpec, Start

# --- new networks --------------------------------------------------------------------------


def initialise(
    basis: BasisSpec,
    widths: tuple[int, ...],
    meta: MetaSpec | None,
    seed: int,
    *,
    conv: ConvSpec | None = None,
) -> Network:
    """A freshly drawn network; the same seed gives the same network.

    widths : inputs of the first layer, then outputs of every layer. Of a network of convolutions
             these are channels, and the last number counts the outputs of its head.

    Plain networks start as their libraries start them (efficient-kan, fast-kan, torch-conv-kan,
    torch.nn.Linear), meta networks near zero (`new_embedding`, `new_learner`).
    """
    generator = torch.Generator().manual_seed(seed)
    learner = None
    if meta:
        learner = new_learner(meta.embedding, meta.hidden, basis.coefficients, generator)
    layers = []
    channels = widths if conv is None else widths[:-1]
    for number, (inputs, out) in enumerate(pairwise(channels)):
        shape = (out, inputs) if conv is None else (out, inputs, *_KERNEL)
        edges: nn.Module
        if meta and learner:
            edges = MetaEdges(new_embedding(shape, meta.embedding, generator), learner)
        else:
            edges = DenseEdges(_new_coefficients(basis, shape, generator))
        sides = _new_sides(basis, shape, generator)
        place = _place(ModelSpec(basis=basis, conv=conv), shape, number, len(channels) - 1)
        layers.append(native_layer(basis, edges, **place, **sides))
    head = None
    if conv is not None:
        weight = _uniform((widths[-1], widths[-2]), widths[-2] ** -0.5, generator)
        bias = _uniform((widths[-1],), widths[-2] ** -0.5, generator)
        head = Head(weight, bias, conv.dropout[1])
    return Network(layers, head=head)


_KERNEL = (3, 3)


def _place(model: ModelSpec, shape: tuple[int, ...], number: int, count: int) -> dict[str, Any]:
    """Arguments of layer `number` of `count`, given by its place in the network."""
    window, last, dropout = place_of(model, shape, number, count)
    return {"window": window, "last": last, "dropout": dropout}


def _new_sides(
    basis: BasisSpec, shape: tuple[int, ...], generator: torch.Generator
) -> dict[str, Any]:
    """Tensors beside the coefficients; only an MLP's layers start with a bias."""
    shapes = side_shapes(basis, shape)
    made: dict[str, Tensor] = {}
    if "norm" in shapes:
        rows, features = shapes["norm"]
        made["norm"] = torch.tensor([1.0, 0.0, 0.0, 1.0])[:rows, None].repeat(1, features)
    if "beta" in shapes:
        std = 1 / (math.prod(shape[1:]) * shapes["beta"][0])
        made["beta"] = torch.randn(shapes["beta"], generator=generator) * std
    if "slope" in shapes:
        made["slope"] = torch.full(shapes["slope"], 0.25)
    if FAMILIES[basis.family].biased:
        made["bias"] = _uniform(shapes["bias"], shape[1] ** -0.5, generator)
    return made


def _new_coefficients(
    basis: BasisSpec, shape: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    out, inputs, *taps = shape
    full = (*shape, basis.size)
    start = FAMILIES[basis.family].start
    if taps:  # Kaiming's uniform bounds, that of polynomials as torch-conv-kan lays them out
        fan = inputs * math.prod(taps)
        spread = fan * basis.size * (out if start is Start.XAVIER else 1)
        curve = _uniform(full, math.sqrt(3 / spread), generator)
        return torch.cat([curve, _uniform((*shape, 1), math.sqrt(3 / fan), generator)], dim=-1)
    match start:
        case Start.SMALL:
            curve = torch.randn(full, generator=generator) * (0.01 / math.sqrt(inputs))
        case Start.CLIPPED:
            curve = torch.randn(full, generator=generator).clamp_(-2, 2) * 0.1
        case Start.XAVIER:
            curve = _uniform(full, math.sqrt(6 / ((inputs + out) * basis.size)), generator)
        case Start.NONE:
            curve = torch.empty(full)
    base_bound = math.sqrt(6 / (inputs + out)) if start is Start.XAVIER else inputs**-0.5
    return torch.cat([curve, _uniform((*shape, 1), base_bound, generator)], dim=-1)


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


def native_layer(
    spec: BasisSpec,
    edges: nn.Module,
    *,
    norm: Tensor | None = None,
    beta: Tensor | None = None,
    bias: Tensor | None = None,
    slope: Tensor | None = None,
    window: Window | None = None,
    last: bool = False,
    dropout: float = 0.0,
) -> EdgeLayer:
    """A layer of one of our own networks.

    edges, bias : as of `EdgeLayer`; window, last, dropout : as of `form_of`
    norm  : (2, features) scale and shift of the layer normalisation; in convolutions (4, features)
            with running mean and variance of the batch normalisation; or None
    beta  : (degree + 1,) recurrence weights of the Gram basis, or None
    slope : (1,) of the PReLU behind convolutions of B-splines, or None
    """
    tensors = {
        "norm": None if norm is None else norm[:2].clone(),
        "beta": beta,
        "slope": slope,
        "statistics": None if norm is None or len(norm) == 2 else norm[2:].clone(),
    }
    return EdgeLayer(
        form_of(spec, window=window, last=last, dropout=dropout),
        edges,
        tensors,
        bias=bias,
        learnt=("norm", "beta", "slope"),
    )


# --- from records --------------------------------------------------------------------------


def build(record: Checkpoint | PackedModel) -> Network:
    """The network that a checkpoint or a packed file holds, in float32."""
    if isinstance(record, PackedModel):
        return _from_packed(record)
    tensors = {name: _own(tensor) for name, tensor in record.tensors.items()}
    learner = _learner_from(tensors) if record.kind == "meta" else None
    layers = []
    for number, shape in enumerate(record.shapes):
        edges: nn.Module
        if learner:
            edges = MetaEdges(tensors[f"{number}.embedding"], learner)
        else:
            edges = DenseEdges(tensors[f"{number}.coefficients"])
        place = _place(record.model, shape, number, len(record.shapes))
        layers.append(native_layer(record.basis, edges, **place, **_sides(tensors, f"{number}.")))
    return Network(layers, head=_head(record.conv, tensors))


def _head(conv: ConvSpec | None, tensors: Mapping[str, Tensor]) -> Head | None:
    if conv is None:
        return None
    weight, bias = (_own(tensors[name]) for name in HEAD)
    return Head(weight, bias, conv.dropout[1])


def _sides(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Any]:
    found = {role: tensors.get(prefix + role) for role in SIDE_ROLES}
    return {role: None if tensor is None else _own(tensor) for role, tensor in found.items()}


def _own(tensor: Tensor) -> Tensor:
    """A float32 copy: the network may learn, the record it was built from must not change."""
    return tensor.to(torch.float32, copy=True)


def _learner_from(tensors: Mapping[str, Tensor]) -> MetaLearner:
    hidden, embedding = tensors["meta.hidden.weight"].shape
    learner = MetaLearner(embedding, hidden, len(tensors["meta.output.bias"]))
    state = {
        name.removeprefix("meta."): t for name, t in tensors.items() if name.startswith("meta.")
    }
    learner.load_state_dict(state)
    return learner


def _from_packed(model: PackedModel) -> Network:
    assert model.model is not None
    edges, codebooks = packed_edges(model)
    layers = []
    for number, layer in enumerate(model.layers):
        place = _place(model.model, layer.shape, number, len(model.layers))
        sides = _sides(layer.sides, "")
        layers.append(native_layer(model.model.basis, edges[layer.name], **place, **sides))
    return Network(layers, codebooks, _head(model.conv, model.tensors))


def packed_edges(
    model: PackedModel, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, nn.Module], dict[str, Codebook]]:
    """The source of each layer's coefficients, and the codebooks by the layers that store them.

    Layers that share a codebook share the module; nothing is gathered before it is used.
    """
    codebooks = {
        layer.name: Codebook(layer.codebook.to(dtype, copy=True))
        for layer in model.layers
        if layer.codebook is not None
    }
    edges: dict[str, nn.Module] = {}
    for layer in model.layers:
        if layer.coefficients is not None:
            edges[layer.name] = DenseEdges(layer.coefficients.to(dtype))
            continue
        codebook = codebooks[layer.shares or layer.name]
        index = torch.from_numpy(model.rows_of(layer))
        edges[layer.name] = CodebookEdges(codebook, index, layer.shape, layer.kept, layer.parts)
    return edges, codebooks


# --- to records ----------------------------------------------------------------------------


def to_checkpoint(
    network: Network, basis: BasisSpec, data: DataSpec | None, conv: ConvSpec | None = None
) -> Checkpoint:
    """The checkpoint of a plain or meta network."""
    tensors: dict[str, Tensor] = {name: p.detach() for name, p in network.sides().items()}
    shapes: list[tuple[int, ...]] = []
    kind: str = "dense"
    for number, layer in enumerate(network.kan_layers()):
        edges = layer.edges
        if isinstance(edges, MetaEdges):
            kind = "meta"
            stored = edges.embedding
            tensors[f"{number}.embedding"] = stored.detach()
            tensors |= {f"meta.{n}": p.detach() for n, p in edges.learner.state_dict().items()}
        else:
            assert isinstance(edges, DenseEdges)
            stored = edges()
            tensors[f"{number}.coefficients"] = stored.detach()
        shapes.append(tuple(stored.shape[:-1]))
    copies = {
        name: tensor.cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return Checkpoint(
        kind="meta" if kind == "meta" else "dense",
        basis=basis,
        shapes=tuple(shapes),
        data=data,
        tensors=copies,
        conv=conv,
    )


def expand(model: PackedModel) -> Checkpoint:
    """The dense checkpoint of a packed native network; codebooks are widened to float32."""
    if model.basis is None:
        raise UsageError("This packed file holds no native network; it cannot be expanded yet.")
    return Checkpoint(
        kind="dense",
        basis=model.basis,
        shapes=tuple(layer.shape for layer in model.layers),
        data=model.data,
        tensors=model.state_dict(),
        conv=model.conv,
    )
