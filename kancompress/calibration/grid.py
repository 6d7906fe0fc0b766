"""Clustering without data: inputs are taken to be uniform on the grid of the basis.

One metric G = E[phi phi^T] then serves all inputs of a layer that have the same grid, and k-means
in it is plain k-means of the turned vectors L^T w, G = L L^T. Where inputs have grids of their own,
Lloyd's iterations in the metric of each input follow.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kancompress import kmeans
from kancompress.calibration import metric
from kancompress.compression import Given, codebook_dtype
from kancompress.nn.layer import EdgeLayer
from kancompress.recipes import ClusterConfig

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
    weights = edges.float().flatten(1, -2)
    blocks = metrics(layer)
    own = len(blocks) > 1
    if not own:
        blocks = blocks.expand(weights.shape[1], -1, -1)
    k = config.of(name)
    iterations = config.max_iterations
    vectors = weights.reshape(-1, weights.shape[2]).numpy()
    if kmeans.count_distinct(vectors, k) <= k:  # in any metric they are the best centroids
        return Given(clustering=kmeans.fit(vectors, k))
    codebook, passes = metric.start(weights, blocks, k, seed=config.seed, iterations=iterations)
    repaired = 0
    if own:
        found = metric.lloyd(weights, blocks, codebook, iterations=iterations)
        codebook, repaired, passes = found.codebook, found.repaired, passes + found.iterations
    codebook = codebook.to(dtype).float()
    labels = metric.assign(weights, blocks, codebook).reshape(-1)
    used, labels = torch.unique(labels, return_inverse=True)
    return Given(
        clustering=kmeans.canonical(
            codebook[used].double().numpy(),
            labels.numpy(),
            inertia=0.0,
            iterations=passes,
            exact=False,
            repaired=repaired,
        )
    )


def metrics(layer: EdgeLayer) -> Tensor:
    """The metric of every input, or one for all of them: (in or 1, d, d) float32."""
    features = layer.features_on_grid(_POINTS).double()
    found = torch.einsum("nci,ndi->icd", features, features) / len(features)
    # The base branch is nearly a sum of splines, which leaves the metric nearly singular.
    ridge = _RIDGE * found.diagonal(dim1=1, dim2=2).mean(1)
    found = found + ridge[:, None, None] * torch.eye(found.shape[1], dtype=torch.float64)
    return found.float()
