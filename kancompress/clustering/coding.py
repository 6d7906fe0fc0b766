"""How a layer's edges follow from centroids where they are not the centroids themselves.

Some edges may have no index and stay as they are (pruned ones), and a file may keep factors of
whole edges apart, so that an edge is its centroid times its factors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kancompress.clustering import kmeans
from kancompress.clustering.cuts import cut, cut_edges


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Coding:
    """Which edges have an index, and by what their centroids are multiplied.

    packed  : (out, m) edges that have one; m counts inputs, of a convolution inputs and taps
    factors : (out, m, d) float32 of the packed edges' coefficients, zero elsewhere
    vectors : (n, d) of the packed edges as the file has them, without factors
    masked  : how many other edges have an index, that of a centroid which is zero
    """

    packed: Tensor
    factors: Tensor
    vectors: Tensor
    masked: int = 0

    @property
    def edges(self) -> int:
        """How many edges are packed."""
        return len(self.vectors)

    def cut(self, parts: int) -> Coding:
        """The same of edges in so many parts."""
        if parts == 1:
            return self
        return replace(
            self,
            packed=self.packed.repeat_interleave(parts, 1),
            factors=cut_edges(self.factors, parts),
            vectors=cut(self.vectors, parts),
        )

    def to(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Which edges are packed and their factors, there."""
        return self.packed.to(device), self.factors.to(device)


def coefficients(found: kmeans.Clustering, weights: Tensor, coding: Coding | None) -> Tensor:
    """What stands for every edge, in the shape of the dense coefficients (out, ..., d)."""
    codebook = torch.from_numpy(found.centroids).float().to(weights.device)
    labels = torch.from_numpy(found.labels).to(weights.device)
    if coding is None:
        return torch.nn.functional.embedding(labels, codebook).view_as(weights)
    packed, factors = coding.to(weights.device)
    result = weights.reshape(-1, codebook.shape[1]).clone()
    chosen = packed.reshape(-1)
    result[chosen] = codebook[labels] * factors.flatten(0, 1)[chosen]
    return result.view(weights.shape)


def plain_vectors(weights: Tensor, coding: Coding | None) -> np.ndarray:
    """The vectors (n, d) that plain k-means clusters."""
    vectors = weights.reshape(-1, weights.shape[-1]) if coding is None else coding.vectors
    narrow = vectors.dtype in (torch.float16, torch.bfloat16)
    return (vectors.float() if narrow else vectors).cpu().numpy()
