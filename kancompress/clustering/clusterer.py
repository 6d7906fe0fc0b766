"""Who chooses codebook and labels of a layer: one interface, whatever they are chosen by.

`ByCoefficients` is k-means of edge vectors, `ByFunctions` k-means of functions on their grid, and
`ByOutputs` hands out what was solved on rows for the whole network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kancompress.clustering import grid, kmeans, prices
from kancompress.clustering.crew import ALONE, Crew
from kancompress.clustering.cuts import cut_inputs
from kancompress.clustering.layer import LayerSolution
from kancompress.clustering.progress import Progress, TellShare
from kancompress.clustering.vectors import EdgeVectors
from kancompress.config import MEMORY, ClusterConfig, KMeans
from kancompress.layers.layer import EdgeLayer
from kancompress.system import distributed


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Clustered:
    """A layer's clustering, and the bias (out,) that goes with it.

    final : labels belong to the centroids as they will be stored; else those of narrow types move
            to the nearest stored centroid
    """

    clustering: kmeans.Clustering
    bias: Tensor | None = None
    final: bool = False


class Edges(Protocol):
    """What is to be clustered under one name: `edges` vectors of `coefficients` numbers."""

    @property
    def name(self) -> str:
        """By which the user gives the number of clusters."""

    @property
    def edges(self) -> int:
        """How many vectors there are."""

    def vectors(self) -> Tensor:
        """The vectors, (edges, coefficients)."""

    def in_parts(self) -> EdgeVectors:
        """The same, read where they are needed as far as that can be."""

    def inputs(self) -> np.ndarray:
        """Number of the input of each vector, (edges,); layers that share a codebook have inputs of
        their own."""


class Clusterer(Protocol):
    """Who chooses centroids."""

    def cluster(self, name: str, vectors: EdgeVectors, clusters: int) -> Clustered | None:
        """The clustering of a layer's vectors (n, d), n >= 1, into at most so many centroids.

        Of edges that are cut into parts the vectors are those of the parts.

        None where the layer stays dense.
        """

    def divided(self, layers: Sequence[Edges], config: ClusterConfig) -> Clusterer:
        """The same, where a process has done its share of these layers and told it to the others.

        Every process calls it with the same layers in the same order.
        """

    def at(self, price: float) -> Clusterer:
        """The same where a bit costs so much, as of `ClusterConfig`."""


def shared(clusterer: Clusterer, layers: Sequence[Edges], config: ClusterConfig) -> Clusterer:
    """A clusterer of which several processes share the work; itself in a single one."""
    return clusterer if distributed.count() == 1 else clusterer.divided(layers, config)


# Edges of a layer from which on a device clusters it, and several processes share it.
LARGE = 1_000_000
# How many times its fair share the busiest process may have to do before layers are shared.
_UNEVEN = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ByCoefficients:
    """k-means of edge vectors (the paper's eqs. 7 to 9), ours or scikit-learn's.

    device : on which our k-means clusters layers of `LARGE` edges and more; the CPU when None
    """

    seed: int = 0
    max_iterations: int = 100
    by: KMeans = KMeans.OWN
    memory: int = MEMORY
    price: float = 0.0
    layers: Sequence[Edges] = ()
    tell: TellShare | None = None
    device: torch.device | None = None
    _by_name: Mapping[str, Edges] = field(init=False, repr=False, compare=False)
    _numbers: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {layer.name: layer for layer in reversed(self.layers)})
        numbers = {layer.name: number for number, layer in enumerate(self.layers, 1)}
        object.__setattr__(self, "_numbers", numbers)

    @classmethod
    def of(
        cls,
        config: ClusterConfig,
        layers: Sequence[Edges] = (),
        tell: TellShare | None = None,
        device: torch.device | None = None,
    ) -> ByCoefficients:
        """As a configuration wants it.

        layers : that it will be given, which tell the inputs of their edges where bits have a price
        tell   : told of every iteration
        """
        return cls(
            seed=config.seed,
            max_iterations=config.max_iterations,
            by=config.kmeans,
            memory=config.memory,
            price=config.price or 0.0,
            layers=layers,
            tell=tell,
            device=device,
        )

    def at(self, price: float) -> ByCoefficients:
        """As of `Clusterer`."""
        return replace(self, price=price)

    def cluster(self, name: str, vectors: EdgeVectors, clusters: int) -> Clustered:
        """As of `Clusterer`; the name does not matter."""
        return self._cluster(name, vectors, clusters, ALONE)

    def _cluster(self, name: str, vectors: EdgeVectors, clusters: int, crew: Crew) -> Clustered:
        found = kmeans.fit(
            vectors,
            clusters,
            seed=self.seed,
            max_iterations=self.max_iterations,
            by=self.by,
            memory=self.memory,
            progress=self._progress(name),
            device=self.device if vectors.edges >= LARGE else None,
            crew=crew,
        )
        if not self.price:
            return Clustered(clustering=found)
        layer = self._by_name[name]
        inputs = cut_inputs(layer.inputs(), vectors.parts)
        paid = prices.cluster(vectors, found, inputs, self.price, self.memory)
        return Clustered(clustering=paid, final=True)

    def _progress(self, name: str) -> Progress:
        """Of a layer, each of which is a work by itself."""
        number = self._numbers.get(name)
        which = "" if number is None else f", {number} of {len(self._numbers)}"
        return Progress(tell=self.tell, work=f"layer {name}{which}, plain k-means")

    def divided(self, layers: Sequence[Edges], config: ClusterConfig) -> Clusterer:
        """As of `Clusterer`: each layer is one process's, except for large ones of which there are
        too few to keep all processes busy; on these all work together."""
        sizes = [layer.edges for layer in layers]
        together = set() if self.device or self.by is not KMeans.OWN else _together(sizes)
        rest = [number for number in range(len(layers)) if number not in together]
        owner = dict.fromkeys(together, 0)
        owner |= dict(
            zip(rest, distributed.owners([sizes[number] for number in rest]), strict=True)
        )
        found: dict[int, kmeans.Clustering] = {}
        for number in (*sorted(together), *rest):
            layer = layers[number]
            if layer.edges and (number in together or owner[number] == distributed.number()):
                crew = Crew.of_run(layer.name) if number in together else ALONE
                vectors = layer.in_parts().cut(config.parts_of(layer.name))
                own = self._cluster(layer.name, vectors, config.of(layer.name), crew)
                found[number] = own.clustering
        final = bool(self.price)
        told = {
            layer.name: Clustered(clustering=_told(found.get(number), owner[number]), final=final)
            for number, layer in enumerate(layers)
            if layer.edges
        }
        return Known(told)


def _together(sizes: Sequence[int]) -> set[int]:
    """Which of the layers, of so many edges each, all processes share: the largest ones, as long as
    the busiest process would have too much to do."""
    rest = sorted(range(len(sizes)), key=lambda number: (-sizes[number], number))
    shared = set()
    while rest and sizes[rest[0]] >= LARGE:
        loads = [0] * distributed.count()
        for number, owner in zip(
            rest, distributed.owners([sizes[number] for number in rest]), strict=True
        ):
            loads[owner] += sizes[number]
        if max(loads) * len(loads) <= _UNEVEN * sum(loads):
            break
        shared.add(rest.pop(0))
    return shared


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Clusterings that are at hand already."""

    found: Mapping[str, Clustered | None]

    def cluster(self, name: str, vectors: EdgeVectors, clusters: int) -> Clustered | None:
        """As of `Clusterer`; what was found, whatever number is asked for."""
        return self.found[name]

    def divided(self, layers: Sequence[Edges], config: ClusterConfig) -> Clusterer:
        """As of `Clusterer`: there is nothing to do."""
        return self

    def at(self, price: float) -> Clusterer:
        """As of `Clusterer`: it is done."""
        return self


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ByFunctions:
    """k-means of the edges' functions, inputs uniform on the grid of the basis (`Metric.GRID`).

    layers    : whose basis is known, by name
    dtypes    : types in which their centroids are stored
    otherwise : clusters the other layers
    """

    layers: Mapping[str, EdgeLayer]
    dtypes: Mapping[str, torch.dtype]
    otherwise: Clusterer
    seed: int = 0
    max_iterations: int = 100
    price: float = 0.0

    def cluster(self, name: str, vectors: EdgeVectors, clusters: int) -> Clustered | None:
        """As of `Clusterer`; the vectors are the layer's own coefficients."""
        if name not in self.layers:
            return self.otherwise.cluster(name, vectors, clusters)
        found = grid.cluster(
            self.layers[name],
            clusters,
            dtype=self.dtypes[name],
            seed=self.seed,
            max_iterations=self.max_iterations,
            price=self.price,
        )
        return Clustered(clustering=found, final=True)

    def at(self, price: float) -> Clusterer:
        """As of `Clusterer`."""
        return replace(self, price=price, otherwise=self.otherwise.at(price))

    def divided(self, layers: Sequence[Edges], config: ClusterConfig) -> Clusterer:
        """As of `Clusterer`: layers that are compared by coefficients are divided."""
        rest = [layer for layer in layers if layer.name not in self.layers]
        return replace(self, otherwise=self.otherwise.divided(rest, config))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ByOutputs:
    """What was solved on rows (`kancompress.clustering.network`), layer by layer.

    solved    : layers that were, by name, None where one stays dense
    otherwise : clusters the other layers
    """

    solved: Mapping[str, LayerSolution | None]
    otherwise: Clusterer

    def cluster(self, name: str, vectors: EdgeVectors, clusters: int) -> Clustered | None:
        """As of `Clusterer`; the number of clusters was chosen already."""
        if name not in self.solved:
            found = self.otherwise.cluster(name, vectors, clusters)
            return None if found is None else replace(found, final=True)
        solution = self.solved[name]
        if solution is None:
            return None
        return Clustered(clustering=solution.clustering, bias=solution.bias, final=True)

    def divided(self, layers: Sequence[Edges], config: ClusterConfig) -> Clusterer:
        """As of `Clusterer`: processes shared the work where rows were measured."""
        return self

    def at(self, price: float) -> Clusterer:
        """As of `Clusterer`: what is solved is done."""
        return replace(self, otherwise=self.otherwise.at(price))


def _told(found: kmeans.Clustering | None, owner: int) -> kmeans.Clustering:
    """A clustering that one process has found, or several have, everywhere."""
    facts = torch.zeros(7, dtype=torch.float64)
    if found is not None:
        numbers = (found.iterations, found.exact, found.repaired, found.inertia)
        facts[:] = torch.tensor([*found.centroids.shape, len(found.labels), *numbers])
    k, d, rows, iterations, exact, repaired, inertia = distributed.from_owner(facts, owner).tolist()
    centroids = torch.empty(int(k), int(d), dtype=torch.float64)
    labels = torch.empty(int(rows), dtype=torch.int64)
    if found is not None:
        centroids.copy_(torch.from_numpy(found.centroids))
        labels.copy_(torch.from_numpy(found.labels))
    return kmeans.Clustering(
        centroids=distributed.from_owner(centroids, owner).numpy(),
        labels=distributed.from_owner(labels, owner).numpy(),
        inertia=inertia,
        iterations=int(iterations),
        exact=bool(exact),
        repaired=int(repaired),
    )
