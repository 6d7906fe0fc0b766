"""What an index costs: bits, by classes of inputs.

Inputs that matter need many different centroids, others hardly any. Each of a few classes of inputs
has its own distribution over the centroids, and an index costs -log2 of its share in the class of
its input: what the encoding `rans` will take for it. With that in the assignment bits go where they
count (entropy-constrained vector quantisation; Chou, Lookabaugh and Gray 1989).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kancompress.clustering import kmeans, metric
from kancompress.clustering.kmeans import Clustering
from kancompress.clustering.nearest import Labels, one_thread
from kancompress.clustering.vectors import F32, F64, Given, Points
from kancompress.config import MEMORY
from kancompress.formats.packed.encodings import Indices
from kancompress.formats.packed.encodings.classes import Symbols, ladder
from kancompress.formats.packed.encodings.rans import MOST_CLUSTERS, inputs_of

# Rounds of assignment and update with prices, at most.
_ROUNDS = 20
_BLOCK = 1 << 16  # vectors whose distances are held at a time


def prices_of(labels: Tensor, clusters: int, used: Tensor | None = None) -> Tensor:
    """Bits of an index into each centroid by input, (in, k) float32 on the CPU.

    labels : (out, in); used : (out, in), which edges have an index, all when None
    """
    by_input = labels.T.contiguous().cpu()
    lengths = None
    if used is not None:
        there = used.T.cpu()
        lengths = there.sum(1).numpy()
        by_input = by_input[there]
    symbols = Symbols(by_input.reshape(-1).numpy(), labels.shape[1], lengths)
    *_, last = ladder(symbols, clusters)
    found = last.whole(symbols)
    return torch.from_numpy(found.prices()[found.of_input]).float()


def in_metric(
    weights: Tensor, blocks: Tensor, codebook: Tensor, labels: Tensor, price: float
) -> tuple[Tensor, Tensor]:
    """Assignment and update in a metric of each input, indices at their prices: the codebook, and
    what its indices cost in squared errors, (in, k).

    weights : (out, in, d); blocks : (in, d, d); labels : (out, in), from where it goes on
    price   : of a bit, as of `ClusterConfig`
    """
    scale = price * metric.error(weights, blocks, codebook, labels) / labels.numel()
    for _ in range(_ROUNDS):
        bits = prices_of(labels, len(codebook)).to(codebook.device) * scale
        codebook = metric.update(weights, blocks, codebook, labels)
        previous, labels = labels, metric.assign(weights, blocks, codebook, bits)
        if torch.equal(previous, labels):
            break
    return codebook, bits


def of_claims(claims: Sequence[Indices]) -> Labels:
    """Number of the input of every vector, (n,), those of each claim behind those of the one before
    it: layers that share a codebook have inputs of their own."""
    parts, count = [], 0
    for claim in claims:
        own, inputs = inputs_of(claim)
        parts.append(own + count)
        count += inputs
    return np.concatenate(parts)


@one_thread()
def cluster(
    vectors: Given, start: Clustering, inputs: Labels, price: float, memory: int = MEMORY
) -> Clustering:
    """Plain k-means that goes on with every index at its price, from where it ended without.

    vectors : (n, d); start : their clustering; inputs : (n,) number of the input of each
    price   : of a bit; memory : that a copy of the vectors may take; as of `ClusterConfig`
    """
    k = len(start.centroids)
    if start.exact or not price or not 1 < k <= MOST_CLUSTERS:
        return start
    points = kmeans.comparable(vectors, memory)
    order, lengths = np.argsort(inputs, kind="stable"), np.bincount(inputs)
    labels = start.labels
    centroids = kmeans.column_means(points, labels, np.zeros((k, points.shape[1])))
    scale = price * _inertia(points, centroids, labels) / len(labels)
    rounds = 0
    while rounds < _ROUNDS:
        rounds += 1
        symbols = Symbols(labels[order], len(lengths), lengths)
        *_, last = ladder(symbols, k)
        found = last.whole(symbols)
        previous = labels
        bits = (scale * found.prices()).astype(np.float32)
        labels = _assigned(points, centroids, bits, found.of_input[inputs])
        if np.array_equal(previous, labels):
            break
        centroids = kmeans.column_means(points, labels, centroids)
    return kmeans.regrouped(vectors, labels, start, rounds)


def _inertia(points: Points, centroids: F64, labels: Labels) -> float:
    """Sum of the points' squared distances from their centroids."""
    total = 0.0
    for first in range(0, len(labels), _BLOCK):
        own = points.block(first, first + _BLOCK)
        total += float(np.square(own - centroids[labels[first : first + _BLOCK]]).sum())
    return total


def _assigned(points: Points, centroids: F64, bits: F32, classes: npt.NDArray[np.uint8]) -> Labels:
    """The centroid of each point that costs least: squared distance and price.

    bits : (C, k) of each class; classes : (n,) of the points
    """
    found = np.empty(len(classes), np.int64)
    narrow = centroids.astype(np.float32)
    squares = np.square(narrow).sum(axis=1)
    for first in range(0, len(classes), _BLOCK):
        part = slice(first, first + _BLOCK)
        scores = (-2 * points.block(first, first + _BLOCK)) @ narrow.T
        scores += squares
        scores += bits[classes[part]]
        found[part] = scores.argmin(axis=1)
    return found
