"""Rows on their way through a network whose layers are clustered one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kancompress.clustering.layer import (
    PLACES,
    Edges,
    LayerSolution,
    Place,
    Plain,
    Solvable,
    Streams,
    is_small,
    moved,
    naming,
    relative,
    through,
)
from kancompress.config import CalibrationConfig
from kancompress.errors import UsageError
from kancompress.layers.layer import EdgeLayer
from kancompress.system import devices

# Images are taken at least, where there are so many.
_IMAGES = 1024
# Outputs of the dense layers of a chain, at most, that are kept from one solution to the next.
_KEPT = 1 << 25


def few_images(images: Tensor) -> Tensor:
    """As many images as give the sums that are wanted, each giving PLACES of them."""
    return images[: max(_IMAGES, len(images) // PLACES)]


class Flow(ABC):
    """A network, rows to calibrate on and rows that are held out, each as the dense network and
    as the packed one have them.

    layers : in the order in which they run; places : what their packed forms can hold
    """

    layers: Mapping[str, Solvable]
    places: Mapping[str, Place]

    @abstractmethod
    def seen(self, name: str) -> tuple[Streams, Streams]:
        """What a layer sees of the rows to calibrate on and of the held-out rows.

        All layers before it have to be settled.
        """

    @abstractmethod
    def settle(self, name: str, found: LayerSolution | None) -> None:
        """Let the packed network have this solution, or the dense edges where there is none."""

    @abstractmethod
    def errors(self) -> tuple[float, float]:
        """Relative error of the packed network's outputs on both kinds of rows."""

    @abstractmethod
    def alone(self, name: str, found: LayerSolution, config: CalibrationConfig) -> float:
        """The same on held-out rows with this layer alone clustered; settles nothing.

        Every layer before it has to be settled without a solution. Where the flow knows which layer
        comes next, and that is small, it is dense but moved towards the dense outputs by `config`,
        as it would be before it is clustered.
        """

    @abstractmethod
    def restart(self) -> None:
        """Settle no layer any more."""

    def plain(self, name: str) -> Plain:
        """Where plain k-means of a layer is kept from one solution to the next.

        It sees nothing of rows, nor of what other layers became.
        """
        return {}


def check_rows(layers: Mapping[str, EdgeLayer], rows: Tensor) -> None:
    """Refuse rows that the first layer cannot take. Raises UsageError."""
    first = next(iter(layers.values()))
    inputs, conv = first.edges().shape[1], first.window is not None
    if rows.dim() != (4 if conv else 2) or rows.shape[1] != inputs:
        what = f"images of {inputs} channels" if conv else f"{inputs} inputs"
        raise UsageError(
            f"The network takes {what}, but the rows to calibrate on have the shape"
            f" {list(rows.shape)}."
        )


class Chain(Flow):
    """Layers that feed each other.

    rows, held_out : (n, in), or (n, channels, rows, columns), inputs of the first layer. Of images
                     fewer are taken, as each gives many sums
    head           : what follows the last layer, or None
    Raises UsageError for rows of another width.
    """

    layers: Mapping[str, EdgeLayer]

    def __init__(
        self,
        layers: Mapping[str, EdgeLayer],
        places: Mapping[str, Place],
        rows: Tensor,
        held_out: Tensor,
        head: nn.Module | None = None,
    ) -> None:
        self.layers = layers
        self.places = places
        self._names = list(layers)
        self._head = head
        check_rows(layers, rows)
        if layers[self._names[0]].window is not None:
            rows, held_out = few_images(rows), few_images(held_out)
        self._rows = (rows, held_out)
        self._kept: dict[str, tuple[Tensor, ...]] = {}
        self._plain: dict[str, Plain] = {name: {} for name in layers}
        self.restart()

    def restart(self) -> None:
        """As of `Flow`."""
        self._next = 0
        self._streams = tuple(Streams(dense=x, packed=x) for x in self._rows)
        self._dense: tuple[Tensor, ...] | None = self._kept.get(self._names[0])

    def plain(self, name: str) -> Plain:
        """As of `Flow`."""
        return self._plain[name]

    def seen(self, name: str) -> tuple[Streams, Streams]:
        """As of `Flow`."""
        assert name == self._names[self._next]
        return self._streams[0], self._streams[1]

    def settle(self, name: str, found: LayerSolution | None) -> None:
        """As of `Flow`."""
        streams = self.seen(name)
        layer, place = self.layers[name], self.places[name]
        edges = None if found is None else found.edges(layer)
        pairs = zip(streams, self._outputs(), strict=True)
        self._streams = tuple(advance(layer, rows, edges, place, dense) for rows, dense in pairs)
        self._next += 1
        later = self._names[self._next : self._next + 1]
        self._dense = self._kept.get(later[0]) if later else None

    def errors(self) -> tuple[float, float]:
        """As of `Flow`."""
        assert self._next == len(self._names)
        rows, held_out = (self._error(stream) for stream in self._streams)
        return rows, held_out

    def _error(self, stream: Streams) -> float:
        if self._head is None:
            return relative(stream.packed, stream.dense)
        with torch.no_grad():
            packed, dense = (
                self._head(x.to(devices.of(self._head))).cpu()
                for x in (stream.packed, stream.dense)
            )
            return relative(packed, dense)

    def alone(self, name: str, found: LayerSolution, config: CalibrationConfig) -> float:
        """As of `Flow`."""
        rows, held_out = self.seen(name)
        layer, place = self.layers[name], self.places[name]
        edges = found.edges(layer)
        dense = self._outputs()
        held_out = advance(layer, held_out, edges, place, dense[1])
        for number, other in enumerate(self._names[self._next + 1 :]):
            after, its_place = self.layers[other], self.places[other]
            its_edges = None
            if number == 0 and is_small(after) and its_place.coding is None:
                before = advance(layer, rows, edges, place, dense[0])
                with naming(other):
                    its_edges = moved(after, before, config, its_place)
            held_out = advance(after, held_out, its_edges, its_place)
        return self._error(held_out)

    def _outputs(self) -> tuple[Tensor, ...]:
        """Dense outputs of the next layer for both kinds of rows, taken once for all its probes.

        Where they are not many, once for all solutions.
        """
        if self._dense is None:
            name = self._names[self._next]
            dense = tuple(dense_outputs(self.layers[name], rows.dense) for rows in self._streams)
            kept = sum(x.numel() for own in self._kept.values() for x in own)
            if kept + sum(x.numel() for x in dense) <= _KEPT:
                self._kept[name] = dense
            self._dense = dense
        return self._dense


def dense_outputs(layer: EdgeLayer, x: Tensor) -> Tensor:
    """What the dense layer makes of its inputs."""
    edges: Tensor = layer.edges()
    return through(layer, x, edges.detach().float(), layer.bias)


def advance(
    layer: EdgeLayer,
    rows: Streams,
    packed: Edges | None,
    place: Place,
    dense: Tensor | None = None,
) -> Streams:
    """What both streams are behind a layer, the packed one with these edges, or the dense ones.

    dense : `dense_outputs` of the layer, where they are known
    """
    if dense is None:
        dense = dense_outputs(layer, rows.dense)
    stored = place.rounded or layer
    if packed is not None:
        return Streams(dense=dense, packed=through(stored, rows.packed, *packed))
    if stored is layer and rows.packed is rows.dense:
        return Streams(dense=dense, packed=dense)
    edges: Tensor = layer.edges()
    packed_outputs = through(stored, rows.packed, edges.detach().float(), stored.bias)
    return Streams(dense=dense, packed=packed_outputs)
