"""Networks from records and records from networks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from kancompress.checkpoint import Checkpoint, side_shapes
from kancompress.nn.edges import (
    Codebook,
    CodebookEdges,
    DenseEdges,
    MetaEdges,
    MetaLearner,
    new_embedding,
    new_learner,
)
from kancompress.nn.layer import EdgeLayer, KanLayer
from kancompress.packed import PackedLayer, PackedModel
from kancompress.specs import BasisSpec, DataSpec, Family, MetaSpec


class Network(nn.Module):
    """Layers applied one after another.

    codebooks : name of a packed layer to the codebook that it stores
    """

    def __init__(
        self, layers: Sequence[EdgeLayer], codebooks: Mapping[str, Codebook] | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.codebooks = dict(codebooks or {})

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in) -> (batch, out)."""
        for layer in self.layers:
            x = layer(x)
        return x

    def kan_layers(self) -> Iterator[EdgeLayer]:
        """The layers, typed."""
        for layer in self.layers:
            assert isinstance(layer, EdgeLayer)
            yield layer

    def sides(self) -> dict[str, nn.Parameter]:
        """What learns beside the edges, as files name it: biases, norms, recurrence weights."""
        return {
            f"{number}.{role}": parameter
            for number, layer in enumerate(self.kan_layers())
            for role, parameter in layer.sides().items()
        }

    def norms(self) -> list[nn.Parameter]:
        """The sides that fine-tuning may train: all but the biases of our own networks."""
        return [p for name, p in self.sides().items() if not name.endswith(".bias")]


# --- new networks --------------------------------------------------------------------------


def initialise(
    basis: BasisSpec, widths: tuple[int, ...], meta: MetaSpec | None, seed: int
) -> Network:
    """A freshly drawn network; the same seed gives the same network.

    Plain networks start as their libraries start them (efficient-kan, fast-kan, torch-conv-kan),
    meta networks near zero (`new_embedding`, `new_learner`).
    """
    generator = torch.Generator().manual_seed(seed)
    learner = None
    if meta:
        learner = new_learner(meta.embedding, meta.hidden, basis.coefficients, generator)
    layers = []
    for inputs, out in pairwise(widths):
        edges: nn.Module
        if meta and learner:
            edges = MetaEdges(new_embedding((out, inputs), meta.embedding, generator), learner)
        else:
            edges = DenseEdges(_new_coefficients(basis, out, inputs, generator))
        sides = side_shapes(basis, (out, inputs))
        norm = torch.tensor([[1.0], [0.0]]).repeat(1, sides["norm"][1]) if "norm" in sides else None
        beta = None
        if "beta" in sides:
            beta = torch.randn(sides["beta"], generator=generator) / (inputs * sides["beta"][0])
        layers.append(KanLayer(basis, edges, norm=norm, beta=beta))
    return Network(layers)


def _new_coefficients(
    basis: BasisSpec, out: int, inputs: int, generator: torch.Generator
) -> Tensor:
    shape = (out, inputs, basis.size)
    if basis.family is Family.KAN:
        curve = torch.randn(shape, generator=generator) * (0.01 / math.sqrt(inputs))
    elif basis.family is Family.FASTKAN:
        curve = torch.randn(shape, generator=generator).clamp_(-2, 2) * 0.1
    else:
        bound = math.sqrt(6 / ((inputs + out) * basis.size))
        curve = (torch.rand(shape, generator=generator) * 2 - 1) * bound
    base_bound = math.sqrt(6 / (inputs + out)) if basis.family is Family.GRAMKAN else inputs**-0.5
    base = (torch.rand((out, inputs, 1), generator=generator) * 2 - 1) * base_bound
    return torch.cat([curve, base], dim=2)


# --- from records --------------------------------------------------------------------------


def build(record: Checkpoint | PackedModel) -> Network:
    """The network that a checkpoint or a packed file holds, in float32."""
    if isinstance(record, PackedModel):
        return _from_packed(record)
    tensors = {name: _own(tensor) for name, tensor in record.tensors.items()}
    learner = _learner_from(tensors) if record.kind == "meta" else None
    layers = []
    for number in range(len(record.shapes)):
        edges: nn.Module
        if learner:
            edges = MetaEdges(tensors[f"{number}.embedding"], learner)
        else:
            edges = DenseEdges(tensors[f"{number}.coefficients"])
        layers.append(KanLayer(record.basis, edges, **_sides(tensors, f"{number}.")))
    return Network(layers)


def _sides(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor | None]:
    found = {role: tensors.get(prefix + role) for role in ("bias", "norm", "beta")}
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
    assert model.basis is not None
    edges, codebooks = packed_edges(model)
    layers = [
        KanLayer(model.basis, edges[layer.name], **_sides(layer.sides, ""))
        for layer in model.layers
    ]
    return Network(layers, codebooks)


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
        index = _merged_index(model, layer)
        edges[layer.name] = CodebookEdges(codebook, index, layer.shape, layer.kept)
    return edges, codebooks


def _merged_index(model: PackedModel, layer: PackedLayer) -> Tensor:
    """Index of every edge into the codebook followed by the layer's kept vectors, (edges,)."""
    index = torch.from_numpy(model.indices_of(layer).astype(np.int32))
    if layer.kept_at is None:
        return index
    clusters = model.clusters_of(layer)
    assert clusters is not None
    merged = torch.empty(layer.edges, dtype=torch.int32)
    rest = torch.ones(layer.edges, dtype=torch.bool)
    rest[layer.kept_at] = False
    merged[rest] = index
    merged[layer.kept_at] = clusters + torch.arange(len(layer.kept_at), dtype=torch.int32)
    return merged


# --- to records ----------------------------------------------------------------------------


def to_checkpoint(network: Network, basis: BasisSpec, data: DataSpec | None) -> Checkpoint:
    """The checkpoint of a plain or meta network."""
    tensors: dict[str, Tensor] = {name: p.detach() for name, p in network.sides().items()}
    shapes: list[tuple[int, int]] = []
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
            stored = edges.coefficients
            tensors[f"{number}.coefficients"] = stored.detach()
        shapes.append((stored.shape[0], stored.shape[1]))
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
    )
