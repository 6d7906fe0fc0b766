"""Bases of the edges' univariate functions: from inputs (batch, in) to features (batch, basis, in).

Features are planes, one for each basis function, so that every operation runs over contiguous
inputs and the product with the coefficients is a single matrix product. `expand` adds the
plane of the base branch, silu(x), as the last one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kancompress.layers.bases import bspline, gaussian, gram
from kancompress.specs import BasisSpec, Family

__all__ = ["expand"]


def expand(spec: BasisSpec, x: Tensor, z: Tensor, beta: Tensor | None = None) -> Tensor:
    """Features of a layer (eq. 3 of the MetaCluster paper, base branch included).

    x       : (batch, in) input of the layer, seen by the base branch
    z       : (batch, in) input of the basis: normalised, or between -1 and 1, where the family
              does that
    beta    : (degree + 1,) recurrence weights of the Gram polynomials
    returns : (batch, coefficients, in)
    """
    if spec.family is Family.MLP:
        return x[:, None]
    if spec.family is Family.KAN:
        assert spec.grid is not None
        assert spec.degree is not None
        return bspline.uniform_features(x, z, spec.grid, spec.degree)
    if spec.family is Family.FASTKAN:
        assert spec.grid is not None
        return gaussian.features(x, z, spec.grid)
    assert spec.degree is not None
    assert beta is not None
    planes = gram.planes(z, spec.degree, beta)
    return torch.cat([planes, torch.nn.functional.silu(x)[:, None]], dim=1)
