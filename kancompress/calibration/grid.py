"""Clustering without data: inputs are taken to be uniform on the grid of the basis.

One metric G = E[phi phi^T] then serves all inputs of a layer, and k-means in it is plain k-means of
the turned vectors L^T w, G = L L^T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kancompress import kmeans
from kancompress.calibration import metric
from kancompress.checkpoint import Checkpoint
from kancompress.compression import Given, codebook_dtype
from kancompress.nn.layer import KanLayer
from kancompress.nn.network import build
from kancompress.recipes import ClusterConfig

_POINTS = 4096
_RIDGE = 1e-4


def cluster_on_grid(checkpoint: Checkpoint, config: ClusterConfig) -> dict[str, Given]:
    """Clusterings of all layers of a checkpoint of ours, by layer name."""
    found: dict[str, Given] = {}
    dtype = codebook_dtype(config, torch.float32)
    with torch.no_grad():
        for number, layer in enumerate(build(checkpoint).kan_layers()):
            assert isinstance(layer, KanLayer)
            name = str(number)
            features = layer.features_on_grid(_POINTS).double()
            shared = features.T @ features / len(features)
            # The base branch is nearly a sum of splines, which leaves the metric nearly singular.
            shared += _RIDGE * shared.diagonal().mean() * torch.eye(len(shared))
            edges: Tensor = layer.edges()
            weights = edges.float()
            blocks = shared.float().expand(weights.shape[1], -1, -1)
            k = config.of(name)
            codebook = metric.start(
                weights, blocks, k, seed=config.seed, iterations=config.max_iterations
            )
            codebook = codebook.to(dtype).float()
            labels = metric.assign(weights, blocks, codebook).reshape(-1)
            used, labels = torch.unique(labels, return_inverse=True)
            found[name] = Given(
                clustering=kmeans.canonical(
                    codebook[used].double().numpy(),
                    labels.numpy(),
                    inertia=0.0,
                    iterations=0,
                    exact=False,
                    repaired=0,
                )
            )
    return found
