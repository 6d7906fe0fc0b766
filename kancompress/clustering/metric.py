"""Lloyd's iterations in a metric of each input: the block diagonal of the quadratic form.

Assignment takes the centroid of least (w - c) G (w - c)^T with the metric G of the edge's input;
the update is the mean weighted by the metrics, so the error never rises.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from kancompress.clustering import kmeans
from kancompress.config import MEMORY, KMeans
from kancompress.system import devices

# Numbers of a block of distances, 4 MB in float32.
_CELLS = 1 << 20
# Errors below this share of an edge's mean square are rounding.
_ROUNDING = 1e-10


def start(
    weights: Tensor,
    blocks: Tensor,
    clusters: int,
    *,
    seed: int,
    iterations: int,
    by: KMeans = KMeans.OWN,
    memory: int = MEMORY,
) -> tuple[Tensor, int]:
    """A codebook from plain k-means in the mean metric, (at most clusters, d), and its iterations.

    weights : (out, in, d); blocks : (in, d, d); by : whose k-means runs
    memory  : as of `kmeans.fit`
    """
    d = weights.shape[2]
    mean = devices.wide(blocks).mean(0).cpu()
    root = torch.linalg.cholesky(mean + 1e-9 * mean.diagonal().mean() * torch.eye(d))
    turned = weights.reshape(-1, d).cpu().double() @ root
    points = turned.float().numpy()
    found = kmeans.fit(points, clusters, seed=seed, max_iterations=iterations, by=by, memory=memory)
    centroids = torch.from_numpy(found.centroids)
    result: Tensor = torch.linalg.solve_triangular(root, centroids, upper=False, left=False)
    return result.float().to(weights.device), found.iterations


def assign(
    weights: Tensor, blocks: Tensor, codebook: Tensor, price: Tensor | None = None
) -> Tensor:
    """Best centroid of every edge in its input's metric, (out, in).

    price : (in, k) to be added to the squared distances, by input
    """
    out, inputs, _ = weights.shape
    roots = torch.linalg.cholesky(blocks)
    labels = torch.empty(out, inputs, dtype=torch.int64, device=weights.device)
    step = max(1, _CELLS // (out * len(codebook)))
    for first in range(0, inputs, step):
        turn = roots[first : first + step]
        points = weights[:, first : first + step].transpose(0, 1) @ turn
        centroids = codebook @ turn
        scores = centroids.square().sum(2)[:, None] - 2 * points @ centroids.transpose(1, 2)
        if price is not None:
            scores += price[first : first + step, None]
        labels[:, first : first + step] = scores.argmin(2).T
    return labels


def update(weights: Tensor, blocks: Tensor, codebook: Tensor, labels: Tensor) -> Tensor:
    """Mean of each cluster weighted by its edges' metrics; empty ones stay where they are."""
    k, d = codebook.shape
    totals = metric_sums(blocks, labels, k)
    weighted = devices.wide(torch.einsum("oid,ide->oie", weights, blocks))
    wide = devices.wide(codebook)
    sums = torch.zeros(k, d, dtype=torch.float64, device=wide.device)
    sums.index_add_(0, labels.reshape(-1).to(wide.device), weighted.reshape(-1, d))
    gap = sums - (totals @ wide[:, :, None])[:, :, 0]
    moved: Tensor = wide + torch.linalg.solve(regular(totals), gap)
    return moved.float().to(codebook.device)


def error(weights: Tensor, blocks: Tensor, codebook: Tensor, labels: Tensor) -> float:
    """Sum of the edges' squared distances from their centroids, each in its input's metric."""
    parts = zip(blocks, _gaps(weights, codebook, labels), strict=True)
    return sum(float(devices.wide_sum((gap @ block) * gap)) for block, gap in parts)


def metric_sums(blocks: Tensor, labels: Tensor, clusters: int) -> Tensor:
    """Sum of the metrics of each cluster's edges, (k, d, d) float64."""
    inputs, d, _ = blocks.shape
    cells = labels * inputs + torch.arange(inputs, device=labels.device)
    counts = torch.bincount(cells.reshape(-1), minlength=clusters * inputs)
    counts = devices.wide(counts.view(clusters, inputs))
    return (counts @ devices.wide(blocks).flatten(1)).view(clusters, d, d)


def regular(blocks: Tensor) -> Tensor:
    """Blocks (k, d, d) with a hair added to their diagonals, so that they can be solved."""
    trace = blocks.diagonal(dim1=1, dim2=2).sum(1)
    eye = torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device)
    return blocks + (1e-9 * trace + 1e-30)[:, None, None] * eye


@dataclass(frozen=True, slots=True, eq=False)
class Lloyd:
    """Result of `lloyd`: codebook (k, d), labels (out, in), iterations, empty clusters moved."""

    codebook: Tensor
    labels: Tensor
    iterations: int
    repaired: int


def lloyd(weights: Tensor, blocks: Tensor, codebook: Tensor, *, iterations: int) -> Lloyd:
    """Alternate assignment and update until no label changes."""
    labels = assign(weights, blocks, codebook)
    count = repaired = 0
    while count < iterations:
        count += 1
        codebook = update(weights, blocks, codebook, labels)
        codebook, moved = repair(weights, blocks, codebook, labels)
        repaired += moved
        previous, labels = labels, assign(weights, blocks, codebook)
        if not moved and torch.equal(previous, labels):
            break
    return Lloyd(codebook, labels, count, repaired)


def repair(weights: Tensor, blocks: Tensor, codebook: Tensor, labels: Tensor) -> tuple[Tensor, int]:
    """Put centroids that no edge uses on the edges that are worst off, and tell how many.

    Edges keep their labels, so the error is the same until they are assigned anew.
    """
    counts = torch.bincount(labels.reshape(-1), minlength=len(codebook))
    empty = torch.nonzero(counts == 0)[:, 0].tolist()
    if not empty:
        return codebook, 0
    errors = torch.stack(
        [
            torch.einsum("od,de,oe->o", gap, block, gap)
            for block, gap in zip(blocks, _gaps(weights, codebook, labels), strict=True)
        ],
        dim=1,
    ).reshape(-1)
    vectors = weights.reshape(-1, weights.shape[2])
    order = errors.argsort(descending=True, stable=True)[: 8 * len(empty)]
    least = _ROUNDING * float(torch.einsum("oid,ide,oie->", weights, blocks, weights)) / len(errors)
    taken: list[Tensor] = []
    for edge in order.tolist():
        if len(taken) == len(empty) or float(errors[edge]) <= least:
            break
        if not any(torch.equal(vectors[edge], other) for other in taken):
            taken.append(vectors[edge])
    if not taken:
        return codebook, 0
    codebook = codebook.clone()
    codebook[empty[: len(taken)]] = torch.stack(taken)
    return codebook, len(taken)


def _gaps(weights: Tensor, codebook: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """Edges of each input less their centroids, (out, d)."""
    for q in range(weights.shape[1]):
        yield weights[:, q] - codebook[labels[:, q]]
