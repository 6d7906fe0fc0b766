"""Clustering without data: inputs are taken to be uniform on the grid of the basis.

One metric G = E[phi phi^T] then serves all inputs of a layer that have the same grid, and k-means
in it is plain k-means of the turned vectors L^T w, G = L L^T. Where inputs have grids of their own,
Lloyd's iterations in the metric of each input follow.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kancompress.clustering import kmeans, metric, prices, scaling
from kancompress.formats.packed.encodings.rans import MOST_CLUSTERS
from kancompress.layers.layer import EdgeLayer
from kancompress.layers.stored import rounded

_POINTS = 4096
_RIDGE = 1e-4


@torch.no_grad()
def cluster(
    layer: EdgeLayer,
    clusters: int,
    *,
    dtype: torch.dtype,
    seed: int = 0,
    max_iterations: int = 100,
    price: float = 0.0,
) -> kmeans.Clustering:
    """A clustering of a layer's edges by their functions.

    dtype : stored type of the centroids, as of `layers.stored`; edges take the centroid nearest to
            their function when it is rounded
    price : of a bit, as of `ClusterConfig`
    """
    edges: Tensor = layer.edges()
    scaled, exponent = scaling.moderate(edges.detach())
    weights = scaled.float().flatten(1, -2).cpu()
    blocks = metrics(layer)
    own = len(blocks) > 1
    if not own:
        blocks = blocks.expand(weights.shape[1], -1, -1)
    vectors = weights.reshape(-1, weights.shape[2]).numpy()
    if kmeans.count_distinct(vectors, clusters) <= clusters:  # in any metric they are the best
        exact = kmeans.fit(vectors, clusters)
        return replace(exact, centroids=np.ldexp(exact.centroids, exponent))
    codebook, passes = metric.start(weights, blocks, clusters, seed=seed, iterations=max_iterations)
    repaired = 0
    if own:
        found = metric.lloyd(weights, blocks, codebook, iterations=max_iterations)
        codebook, repaired, passes = found.codebook, found.repaired, passes + found.iterations
    bits = None
    if price and 1 < len(codebook) <= MOST_CLUSTERS:
        labels = metric.assign(weights, blocks, codebook)
        codebook, bits = prices.in_metric(weights, blocks, codebook, labels, price)
    codebook = _rounded(codebook, dtype, exponent)
    labels = metric.assign(weights, blocks, codebook, bits).reshape(-1)
    used, labels = torch.unique(labels, return_inverse=True)
    return kmeans.canonical(
        scaling.times_two_to(codebook[used].double(), exponent).numpy(),
        labels.numpy(),
        inertia=0.0,
        iterations=passes,
        exact=False,
        repaired=repaired,
    )


def _rounded(codebook: Tensor, dtype: torch.dtype, exponent: int) -> Tensor:
    """Centroids as they will be stored; as they are where that is refused later."""
    stored = rounded(scaling.times_two_to(codebook.double(), exponent), dtype)
    if not stored.isfinite().all() or not stored.any():
        return codebook
    return scaling.times_two_to(stored.double(), -exponent).float()


def metrics(layer: EdgeLayer) -> Tensor:
    """The metric of every input, or one for all of them: (in or 1, d, d) float32."""
    features = layer.features_on_grid(_POINTS).cpu().double()
    found = torch.einsum("nci,ndi->icd", features, features) / len(features)
    # The base branch is nearly a sum of splines, which leaves the metric nearly singular.
    ridge = _RIDGE * found.diagonal(dim1=1, dim2=2).mean(1)
    found = found + ridge[:, None, None] * torch.eye(found.shape[1], dtype=torch.float64)
    return found.float()
