"""Clustering without data: inputs are taken to be uniform on the grid of the basis.

One metric G = E[phi phi^T] then serves all inputs of a layer that have the same grid, and k-means
in it is plain k-means of the turned vectors L^T w, G = L L^T. Where inputs have grids of their own,
Lloyd's iterations in the metric of each input follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kancompress.clustering import kmeans, metric, scaling
from kancompress.config import ClusterConfig
from kancompress.layers.layer import EdgeLayer
from kancompress.packing.native import Given, codebook_dtype

_POINTS = 4096
_RIDGE = 1e-4


def cluster_on_grid(
    layers: Mapping[str, EdgeLayer], dtypes: Mapping[str, torch.dtype], config: ClusterConfig
) -> dict[str, Given]:
    """Clusterings by layer name.

    dtypes : of each layer's centroids where `config` does not tell
    """
    with torch.no_grad():
        return {
            name: _cluster(layer, codebook_dtype(config, dtypes[name]), name, config)
            for name, layer in layers.items()
        }


def _cluster(layer: EdgeLayer, dtype: torch.dtype, name: str, config: ClusterConfig) -> Given:
    edges: Tensor = layer.edges()
    scaled, exponent = scaling.moderate(edges.detach())
    weights = scaled.float().flatten(1, -2)
    blocks = metrics(layer)
    own = len(blocks) > 1
    if not own:
        blocks = blocks.expand(weights.shape[1], -1, -1)
    k = config.of(name)
    iterations = config.max_iterations
    vectors = weights.reshape(-1, weights.shape[2]).numpy()
    if kmeans.count_distinct(vectors, k) <= k:  # in any metric they are the best centroids
        exact = kmeans.fit(vectors, k)
        return Given(clustering=replace(exact, centroids=np.ldexp(exact.centroids, exponent)))
    codebook, passes = metric.start(weights, blocks, k, seed=config.seed, iterations=iterations)
    repaired = 0
    if own:
        found = metric.lloyd(weights, blocks, codebook, iterations=iterations)
        codebook, repaired, passes = found.codebook, found.repaired, passes + found.iterations
    codebook = _rounded(codebook, dtype, exponent)
    labels = metric.assign(weights, blocks, codebook).reshape(-1)
    used, labels = torch.unique(labels, return_inverse=True)
    return Given(
        clustering=kmeans.canonical(
            scaling.times_two_to(codebook[used].double(), exponent).numpy(),
            labels.numpy(),
            inertia=0.0,
            iterations=passes,
            exact=False,
            repaired=repaired,
        )
    )


def _rounded(codebook: Tensor, dtype: torch.dtype, exponent: int) -> Tensor:
    """Centroids as they will be stored; as they are where that is refused later."""
    stored = scaling.times_two_to(codebook.double(), exponent).to(dtype)
    if not stored.isfinite().all() or not stored.any():
        return codebook
    return scaling.times_two_to(stored.double(), -exponent).float()


def metrics(layer: EdgeLayer) -> Tensor:
    """The metric of every input, or one for all of them: (in or 1, d, d) float32."""
    features = layer.features_on_grid(_POINTS).double()
    found = torch.einsum("nci,ndi->icd", features, features) / len(features)
    # The base branch is nearly a sum of splines, which leaves the metric nearly singular.
    ridge = _RIDGE * found.diagonal(dim1=1, dim2=2).mean(1)
    found = found + ridge[:, None, None] * torch.eye(found.shape[1], dtype=torch.float64)
    return found.float()
