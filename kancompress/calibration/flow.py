"""Rows on their way through a network whose layers are clustered one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kancompress import devices
from kancompress.calibration.network import (
    PLACES,
    LayerSolution,
    Place,
    Streams,
    relative,
    through,
)
from kancompress.errors import UsageError
from kancompress.nn.layer import EdgeLayer

# Images are taken at least, where there are so many.
_IMAGES = 1024


def few_images(images: Tensor) -> Tensor:
    """As many images as give the sums that are wanted, each giving PLACES of them."""
    return images[: max(_IMAGES, len(images) // PLACES)]


class Flow(ABC):
    """A network, rows to calibrate on and rows that are held out, each as the dense network and
    as the packed one have them.

    layers : in the order in which they run; places : what their packed forms can hold
    """

    layers: Mapping[str, EdgeLayer]
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
    def alone(self, name: str, found: LayerSolution) -> float:
        """The same on held-out rows with this layer alone clustered; settles nothing.

        Every layer before it has to be settled without a solution.
        """

    @abstractmethod
    def restart(self) -> None:
        """Settle no layer any more."""


class Chain(Flow):
    """Layers that feed each other.

    rows, held_out : (n, in), or (n, channels, rows, columns), inputs of the first layer. Of images
                     fewer are taken, as each gives many sums
    head           : what follows the last layer, or None
    Raises UsageError for rows of another width.
    """

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
        first = layers[self._names[0]]
        inputs, conv = first.edges().shape[1], first.window is not None
        if rows.dim() != (4 if conv else 2) or rows.shape[1] != inputs:
            what = f"images of {inputs} channels" if conv else f"{inputs} inputs"
            raise UsageError(
                f"The network takes {what}, but the rows to calibrate on have the shape"
                f" {list(rows.shape)}."
            )
        if conv:
            rows, held_out = few_images(rows), few_images(held_out)
        self._rows = (rows, held_out)
        self.restart()

    def restart(self) -> None:
        """As of `Flow`."""
        self._next = 0
        self._streams = tuple(Streams(dense=x, packed=x) for x in self._rows)

    def seen(self, name: str) -> tuple[Streams, Streams]:
        """As of `Flow`."""
        assert name == self._names[self._next]
        return self._streams[0], self._streams[1]

    def settle(self, name: str, found: LayerSolution | None) -> None:
        """As of `Flow`."""
        streams = self.seen(name)
        layer, place = self.layers[name], self.places[name]
        self._streams = tuple(advance(layer, stream, found, place) for stream in streams)
        self._next += 1

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

    def alone(self, name: str, found: LayerSolution) -> float:
        """As of `Flow`."""
        stream = self.seen(name)[1]
        for number, other in enumerate(self._names[self._next :]):
            own = found if number == 0 else None
            stream = advance(self.layers[other], stream, own, self.places[other])
        return self._error(stream)


def advance(layer: EdgeLayer, rows: Streams, found: LayerSolution | None, place: Place) -> Streams:
    """What both streams are behind a layer; without a solution its edges stay dense."""
    edges: Tensor = layer.edges()
    weights = edges.detach().float()
    dense = through(layer, rows.dense, weights, layer.bias)
    stored = place.rounded or layer
    if found is not None:
        packed = found.coefficients(weights)
        return Streams(dense=dense, packed=through(stored, rows.packed, packed, found.bias))
    if stored is layer and rows.packed is rows.dense:
        return Streams(dense=dense, packed=dense)
    return Streams(dense=dense, packed=through(stored, rows.packed, weights, stored.bias))
