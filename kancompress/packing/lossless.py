"""Layers that would grow as they were asked for, in the way without loss with which the file is
smallest.

They stay as their tensors are, or become one tensor of all coefficients, factors folded in, or a
codebook of all distinct vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from kancompress.clustering.kmeans import count_distinct, fit
from kancompress.clustering.vectors import points
from kancompress.config import ClusterConfig
from kancompress.models.records import sizes
from kancompress.packing.source import (
    Assembly,
    Coded,
    SourceLayer,
    blank,
    coded_of,
    most_clusters,
)

# A way to store a layer; None leaves its tensors as they are.
Way = Coded | None
# Most layers that are looked at one by one.
_EACH = 4


def ways(layer: SourceLayer, distinct: int | None = None) -> list[Way]:
    """The ways without loss, without numbers.

    distinct : number of distinct vectors, where it is known; more than can be centroids is enough
    """
    found: list[Way] = [None]
    if not layer.scattered:
        return found
    d, dtype = layer.coefficients, layer.stored_dtype
    if not layer.masked and not layer.kept:
        found.append(Coded(codebook=blank((layer.edges, d), dtype), labels=None, plain=True))
    most = most_clusters(layer)
    if distinct is None:
        distinct = count_distinct(layer.in_parts(), most)
    if distinct <= most:
        rows = distinct + (1 if layer.masked else 0)
        found.append(Coded(codebook=blank((rows, d), dtype), labels=None))
    return found


def smallest(
    assembly: Assembly, asked: Mapping[str, Coded], choices: Mapping[str, Sequence[Way]]
) -> tuple[dict[str, Way], int] | None:
    """The ways with which the file is smallest, and its bytes; None where there are none.

    asked   : layers that are packed as they were asked for, without numbers
    choices : ways of the others
    """
    names = list(choices)

    def weighed(chosen: Sequence[int]) -> float:
        coded = dict(asked)
        for name, number in zip(names, chosen, strict=True):
            way = choices[name][number]
            if way is not None:
                coded[name] = way
        model = assembly.assemble(coded)
        return float("inf") if model is None else sum(sizes(model))

    last = max((len(own) for own in choices.values()), default=1)
    best = min(
        ([min(way, len(own) - 1) for own in choices.values()] for way in range(last)), key=weighed
    )
    for place in range(len(names) if len(names) <= _EACH else 0):
        others = [
            [*best[:place], way, *best[place + 1 :]] for way in range(len(choices[names[place]]))
        ]
        best = min((best, *others), key=weighed)
    least = weighed(best)
    if least == float("inf"):
        return None
    chosen = {name: choices[name][number] for name, number in zip(names, best, strict=True)}
    return chosen, int(least)


def made(layer: SourceLayer, way: Coded, config: ClusterConfig) -> Coded:
    """A layer in one of its ways, with numbers."""
    vectors = layer.vectors()
    if way.plain:
        return Coded(codebook=vectors.to(layer.stored_dtype).contiguous(), labels=None, plain=True)
    found = fit(points(vectors), most_clusters(layer), seed=config.seed)
    codebook = torch.from_numpy(found.centroids).to(layer.stored_dtype)
    return coded_of(layer, codebook, found.labels)
