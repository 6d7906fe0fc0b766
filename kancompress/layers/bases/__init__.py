"""Bases of the edges' univariate functions: from inputs (batch, in) to features (batch, basis, in).

Features are planes, one for each basis function, so that every operation runs over contiguous
inputs and the product with the coefficients is a single matrix product. The plane of the base
branch is the last one.
"""
