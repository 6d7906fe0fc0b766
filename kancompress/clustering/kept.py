"""What clusterings on the same rows have in common, whatever their numbers of centroids."""

from __future__ import annotations

from dataclasses import dataclass, field

from kancompress.clustering.cuts import Number
from kancompress.clustering.flow import Flow
from kancompress.clustering.ladder import Problem


@dataclass(slots=True, eq=False)
class Kept:
    """Kept from one call of `calibrate` for the next, whose network, rows, places and configuration
    are the same; only numbers of centroids, targets and prices may be others.

    flow   : the rows on their way
    first  : the first layer's problem, which sees nothing of what other layers became
    probes : error of the network's outputs with one layer alone clustered
    """

    flow: Flow | None = None
    first: Problem | None = None
    probes: dict[tuple[str, Number], float] = field(default_factory=dict)
