"""Sums over the edges of packed layers, beside numpy on the vectors written out."""

import numpy as np
import pytest
import torch

from kancompress.layers.edges import Codebook, CodebookEdges
from kancompress.layers.forms import LayerForm, NoBasis
from kancompress.layers.layer import EdgeLayer

INPUTS, OUTPUTS, SIZE = 21, 12, 5


class Plain(EdgeLayer):
    """Takes its features as they come."""

    def __init__(self, edges: CodebookEdges, bias: torch.Tensor | None) -> None:
        super().__init__(LayerForm(basis=NoBasis()), edges, bias=bias)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, coefficient, in), unchanged."""
        return x


def drawn(
    clusters: int, kept: int, biased: bool, dtype: torch.dtype = torch.float64
) -> tuple[Plain, np.ndarray, np.ndarray]:
    """A packed layer, its coefficients (out, in, coefficient) and its biases (out,)."""
    generator = torch.Generator().manual_seed(clusters + kept)
    table = torch.randn(clusters + kept, SIZE, generator=generator, dtype=dtype)
    index = torch.randint(0, len(table), (OUTPUTS, INPUTS), generator=generator)
    bias = torch.randn(OUTPUTS, generator=generator, dtype=dtype) if biased else None
    edges = CodebookEdges(
        Codebook(table[:clusters]), index, (OUTPUTS, INPUTS), table[clusters:] if kept else None
    )
    zeros = np.zeros(OUTPUTS) if bias is None else bias.numpy()
    return Plain(edges, bias), table.numpy()[index.numpy()], zeros


@pytest.mark.parametrize("rows", [1, 2, OUTPUTS, 40])
@pytest.mark.parametrize(("clusters", "kept"), [(1, 0), (4, 0), (4, 3), (256, 0), (300, 0)])
@pytest.mark.parametrize("biased", [False, True])
def test_sums_of_a_packed_layer(rows: int, clusters: int, kept: int, biased: bool) -> None:
    layer, vectors, bias = drawn(clusters, kept, biased)
    features = torch.randn(rows, SIZE, INPUTS, dtype=torch.float64)
    expected = np.einsum("bci,oic->bo", features.numpy(), vectors) + bias
    np.testing.assert_allclose(layer(features).detach().numpy(), expected, rtol=1e-10)


def test_gradient_of_a_codebook_for_one_row() -> None:
    layer, _, _ = drawn(4, 0, False)
    features = torch.randn(1, SIZE, INPUTS, dtype=torch.float64)
    weights = torch.randn(OUTPUTS, dtype=torch.float64)
    assert isinstance(layer.edges, CodebookEdges)
    assert layer.edges.prefers_products(1)
    (layer(features)[0] * weights).sum().backward()
    expected = np.zeros((4, SIZE))
    index = layer.edges.index.numpy()
    for output, row in enumerate(index):
        for place, position in enumerate(row):
            expected[position] += weights[output].item() * features[0, :, place].numpy()
    found = layer.edges.codebook.centroids.grad
    assert found is not None
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("vectors", "dtype"),
    [(256, torch.uint8), (257, torch.int16), (1 << 15, torch.int16), (40000, torch.int32)],
)
def test_the_index_takes_no_more_bytes_than_it_needs(vectors: int, dtype: torch.dtype) -> None:
    table = torch.arange(vectors, dtype=torch.float32)[:, None]
    index = torch.tensor([[vectors - 1, 0]])
    edges = CodebookEdges(Codebook(table), index, (1, 2))
    assert edges.index.dtype == dtype
    assert edges().tolist() == [[[vectors - 1.0], [0.0]]]


def test_products_are_taken_where_they_need_less_memory() -> None:
    """k products of an input, beside (size - 3) numbers of each output."""
    few, many = drawn(16, 0, False)[0].edges, drawn(64, 0, False)[0].edges
    assert isinstance(few, CodebookEdges)
    assert isinstance(many, CodebookEdges)
    assert few.prefers_products(1)  # 16 + 36 <= 60
    assert not few.prefers_products(2)
    assert not many.prefers_products(1)  # 64 + 36 > 60
