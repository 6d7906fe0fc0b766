"""Rows on their way through a network whose layers are clustered one after another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from kancompress.calibration.network import LayerSolution, Place, Streams, relative, through
from kancompress.errors import UsageError
from kancompress.nn.layer import EdgeLayer


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

    rows, held_out : (n, in) inputs of the first layer
    Raises UsageError for rows of another width.
    """

    def __init__(
        self,
        layers: Mapping[str, EdgeLayer],
        places: Mapping[str, Place],
        rows: Tensor,
        held_out: Tensor,
    ) -> None:
        self.layers = layers
        self.places = places
        self._names = list(layers)
        inputs = layers[self._names[0]].edges().shape[1]
        if rows.dim() != 2 or rows.shape[1] != inputs:
            raise UsageError(
                f"The network takes {inputs} inputs, but the rows to calibrate on have the shape"
                f" {list(rows.shape)}."
            )
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
        rows, held_out = (relative(stream.packed, stream.dense) for stream in self._streams)
        return rows, held_out

    def alone(self, name: str, found: LayerSolution) -> float:
        """As of `Flow`."""
        stream = self.seen(name)[1]
        for number, other in enumerate(self._names[self._next :]):
            own = found if number == 0 else None
            stream = advance(self.layers[other], stream, own, self.places[other])
        return relative(stream.packed, stream.dense)


def advance(layer: EdgeLayer, rows: Streams, found: LayerSolution | None, place: Place) -> Streams:
    """What both streams are behind a layer; without a solution its edges stay dense."""
    weights = layer.edges().detach().float()
    dense = through(layer, rows.dense, weights, layer.bias)
    stored = place.rounded or layer
    if found is not None:
        packed = found.coefficients(weights)
        return Streams(dense=dense, packed=through(stored, rows.packed, packed, found.bias))
    if stored is layer and rows.packed is rows.dense:
        return Streams(dense=dense, packed=dense)
    return Streams(dense=dense, packed=through(stored, rows.packed, weights, stored.bias))
