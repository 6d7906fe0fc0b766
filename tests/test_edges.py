"""Where coefficients come from: their values, and how they lie in memory."""

import pytest
import torch
from torch import Tensor, nn

from kancompress.layers.edges import DenseEdges, MetaLearner
from kancompress.models.native import native_layer
from kancompress.specs import Family, default_basis

SHAPES = [(5, 7), (5, 7, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 2])
def test_a_meta_learner_is_its_two_linear_maps_on_each_embedding(
    shape: tuple[int, ...], size: int
) -> None:
    torch.manual_seed(0)
    learner = MetaLearner(size, 32, 9).double()
    embedding = torch.randn(*shape, size, dtype=torch.float64, requires_grad=True)
    twin = embedding.detach().clone().requires_grad_()
    wanted = nn.Sequential(learner.hidden, nn.ReLU(), learner.output)(twin)
    found = learner(embedding)
    assert found.shape == (*shape, 9)
    assert torch.allclose(found, wanted, atol=1e-13)
    weights = torch.randn_like(wanted)
    own = torch.autograd.grad((found * weights).sum(), [embedding, *learner.parameters()])
    other = torch.autograd.grad((wanted * weights).sum(), [twin, *learner.parameters()])
    for one, two in zip(own, other, strict=True):
        assert torch.allclose(one, two, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_dense_coefficients_are_what_was_given(shape: tuple[int, ...]) -> None:
    values = torch.randn(*shape, 9)
    edges = DenseEdges(values)
    assert torch.equal(edges(), values)
    assert edges.planes.is_contiguous()


def matrix_of(coefficients: Tensor) -> Tensor:
    return coefficients.movedim(-1, 1).flatten(1)


def test_a_step_brings_neither_coefficients_nor_gradients_into_another_order() -> None:
    edges = DenseEdges(torch.randn(5, 7, 9))
    assert edges.planes.shape == (9, 7, 5)
    shared = matrix_of(edges()).untyped_storage().data_ptr()
    assert shared == edges.planes.untyped_storage().data_ptr()
    strides: list[tuple[int, ...]] = []
    edges.planes.register_hook(lambda gradient: strides.append(gradient.stride()))
    layer = native_layer(default_basis(Family.KAN), edges)
    layer(torch.rand(4, 7)).sum().backward()
    assert strides == [edges.planes.stride()]


def test_a_meta_learner_writes_coefficients_in_the_order_of_the_matrix() -> None:
    made = MetaLearner(1, 32, 9)(torch.randn(5, 7, 1))
    assert matrix_of(made).untyped_storage().data_ptr() == made.untyped_storage().data_ptr()
