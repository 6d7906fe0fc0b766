"""Where coefficients come from: their values, and how they lie in memory."""

import pytest
import torch
from torch import Tensor, nn

from kancompress.layers import meta
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


BLOCKS = [1 << 19, 5 * 8]  # of hidden units: those of all edges, and of five of the twelve


def learning(size: int) -> list[Tensor]:
    """Embeddings of four inputs and three outputs, and the weights of a meta-learner with seven
    hidden units."""
    torch.manual_seed(0)
    learner = MetaLearner(size, 7, 2).double()
    embedding = torch.randn(3, 4, size, dtype=torch.float64, requires_grad=True)
    return [embedding, *learner.parameters()]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("size", [1, 2])
def test_gradients_of_a_meta_learner_written_by_hand_are_the_slopes_of_its_values(
    size: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meta, "_BLOCK", block)
    assert torch.autograd.gradcheck(meta.planes, learning(size), fast_mode=True)


def test_gradients_of_a_meta_learner_have_gradients() -> None:
    assert torch.autograd.gradgradcheck(meta.planes, learning(1), fast_mode=True)


def test_a_meta_learner_s_blocks_change_rounding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for block in [*BLOCKS, BLOCKS[-1]]:
        monkeypatch.setattr(meta, "_BLOCK", block)
        tensors = [tensor.detach().float().requires_grad_() for tensor in learning(2)]
        made = meta.planes(*tensors)
        found.append([made, *torch.autograd.grad(made.square().sum(), tensors)])
    assert all(torch.equal(one, two) for one, two in zip(*found[1:], strict=True))
    for one, two in zip(*found[:2], strict=True):
        assert torch.allclose(one, two, rtol=1e-5, atol=1e-5)


def test_what_torch_compile_runs_of_a_meta_learner_is_the_same() -> None:
    tensors = learning(2)
    one, two = meta.planes(*tensors), meta.made(*tensors)[0]
    assert torch.equal(one, two)
    slopes = [torch.autograd.grad(made.square().sum(), tensors) for made in (one, two)]
    assert all(torch.equal(own, other) for own, other in zip(*slopes, strict=True))


@pytest.mark.slow
def test_torch_compile_is_told_what_a_meta_learner_s_operations_give() -> None:
    torch.library.opcheck(meta.made, learning(2))


def test_a_meta_learner_that_does_not_learn_gives_the_bits_of_its_two_maps() -> None:
    torch.manual_seed(0)
    learner, embedding = MetaLearner(1, 32, 9), torch.randn(5, 7, 1)
    flat = embedding.transpose(0, 1).reshape(-1, 1)
    hidden = learner.hidden(flat).relu()
    wanted = torch.addmm(learner.output.bias[:, None], learner.output.weight, hidden.T)
    wanted = wanted.view(9, 7, 5).permute(2, 1, 0)
    with torch.no_grad():
        assert torch.equal(learner(embedding), wanted)
    assert torch.equal(learner.eval()(embedding), wanted)


def test_parts_of_a_meta_learner_may_be_frozen() -> None:
    tensors = learning(1)
    wanted = torch.autograd.grad(meta.formula(*tensors).square().sum(), tensors)
    for frozen in range(len(tensors)):
        tensors = learning(1)
        tensors[frozen].requires_grad_(False)
        meta.planes(*tensors).square().sum().backward()
        assert tensors[frozen].grad is None
        assert all(
            torch.allclose(tensor.grad, right)  # type: ignore[arg-type]
            for tensor, right in zip(tensors, wanted, strict=True)
            if tensor.requires_grad
        )


def test_a_meta_learner_in_a_narrow_type_is_its_formula() -> None:
    tensors = [tensor.detach().bfloat16() for tensor in learning(1)]
    assert torch.equal(meta.planes(*tensors), meta.formula(*tensors))
    with torch.autocast("cpu", torch.bfloat16):
        assert meta.planes(*(tensor.float() for tensor in tensors)).dtype == torch.bfloat16


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
