"""Bases against the recursion of the textbook, scipy, and closed forms."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch import Tensor

from kancompress.layers.bases import bspline, gaussian, gram, kernels
from kancompress.layers.edges import DenseEdges, MetaLearner
from kancompress.models.native import native_layer
from kancompress.specs import Family, default_basis
from tests.benchmarks.oracles import CoxDeBoorLayer


def scipy_splines(x: np.ndarray, knots: np.ndarray, degree: int) -> np.ndarray:
    """(rows, basis) from scipy, zero outside the knots."""
    count = len(knots) - degree - 1
    columns = []
    for position in range(count):
        basis = BSpline.basis_element(knots[position : position + degree + 2], extrapolate=False)
        columns.append(np.nan_to_num(basis(x)))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize(
    ("grid", "degree"),
    list(itertools.product([(-1.0, 1.0, 5), (-2.5, 0.5, 3), (0.0, 10.0, 12)], [1, 2, 3, 4, 5])),
)
def test_closed_form_equals_scipy_and_the_recursion(
    grid: tuple[float, float, int], degree: int
) -> None:
    low, high, _ = grid
    x = np.random.default_rng(0).uniform(2 * low - high, 2 * high - low, 500)
    knots = bspline.knots(grid, degree, torch.float64)
    expected = scipy_splines(x, knots.numpy(), degree)
    z = torch.from_numpy(x)[:, None]
    closed = bspline.uniform_planes(z, grid, degree)[:, :, 0]
    general = bspline.general_planes(z, knots, degree)[:, :, 0]
    assert np.abs(closed.numpy() - expected).max() < 1e-12
    assert np.abs(general.numpy() - expected).max() < 1e-12
    single = bspline.uniform_planes(z.float(), grid, degree)[:, :, 0]
    rounded = scipy_splines(z.float().double().numpy()[:, 0], knots.numpy(), degree)
    # float32 resolves 20 intervals from the grid's lower end to about 2e-6 of one
    assert np.abs(single.numpy() - rounded).max() < (1e-6 if grid[2] == 5 else 3e-6)


def test_degree_zero_is_half_open() -> None:
    z = torch.tensor([[-1.0], [-0.6], [0.99], [1.0], [1.01]])
    planes = bspline.uniform_planes(z, (-1.0, 1.0, 5), 0)[:, :, 0]
    knots = bspline.knots((-1.0, 1.0, 5), 0, torch.float32)
    expected = ((z >= knots[:-1]) & (z < knots[1:])).float()
    assert torch.equal(planes, expected)
    assert planes.sum(1).tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("spread", [0.5, 1.2, 4.0])
def test_cubic_kernel_equals_the_formula_and_its_gradient(spread: float) -> None:
    generator = torch.Generator().manual_seed(1)
    grid = (-1.0, 1.0, 5)
    x = (torch.randn(300, 40, dtype=torch.float64, generator=generator) * spread).requires_grad_()
    features = bspline.uniform_features(x, x, grid, 3)
    weight = torch.randn(features.shape, dtype=torch.float64, generator=generator)
    (by_kernel,) = torch.autograd.grad((features * weight).sum(), x)
    twin = x.detach().clone().requires_grad_()
    formula = torch.cat(
        [bspline.uniform_planes(twin, grid, 3), torch.nn.functional.silu(twin)[:, None]], dim=1
    )
    (by_autograd,) = torch.autograd.grad((formula * weight).sum(), twin)
    assert torch.allclose(features, formula, atol=1e-13)
    assert torch.allclose(by_kernel, by_autograd, atol=1e-11)


def test_gradient_of_the_cubic_kernel_by_differences() -> None:
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: bspline.uniform_features(x, x, (-1.0, 1.0, 5), 3), (x,)
    )


SPLINES, BUMPS = (-1.0, 1.0, 5), (-2.0, 2.0, 8)
FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "splines": lambda x, z: bspline.uniform_features(x, z, SPLINES, 3),
    "bumps": lambda x, z: gaussian.features(x, z, BUMPS),
}


def planes_by_definition(kind: str, z: Tensor) -> Tensor:
    """The recursion on knots, and exp(-((z - c) / s)^2) written out."""
    if kind == "splines":
        return bspline.general_planes(z, bspline.knots(SPLINES, 3, z.dtype), 3)
    centres = torch.linspace(*BUMPS[:2], BUMPS[2], dtype=z.dtype)
    return torch.exp(-(((z[:, None] - centres[:, None]) / (centres[1] - centres[0])) ** 2))


@pytest.mark.parametrize("kind", FEATURES)
@pytest.mark.parametrize(
    ("rows", "width", "blocks"), [(40, 2, 1), (41, 200, 4), (3, 70, 3), (1, 1, 1), (0, 3, 1)]
)
def test_features_are_the_definition_and_each_input_has_its_gradient(
    kind: str, rows: int, width: int, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x is seen by the base branch alone, z by the basis alone; also block by block."""
    monkeypatch.setattr(kernels, "_SCRATCH", max(1, -(-rows * 8 * width // blocks)))
    generator = torch.Generator().manual_seed(3)
    x, z = torch.rand(2, rows, width, generator=generator, dtype=torch.float64) * 2.6 - 1.3
    gradient = torch.randn(rows, 9, width, generator=generator, dtype=torch.float64)
    x.requires_grad_()
    z.requires_grad_()
    features = FEATURES[kind](x, z)
    wanted = torch.cat([planes_by_definition(kind, z), torch.nn.functional.silu(x)[:, None]], dim=1)
    torch.testing.assert_close(features, wanted, rtol=1e-9, atol=1e-12)
    found = torch.autograd.grad(features, (x, z), gradient)
    for own, other in zip(found, torch.autograd.grad(wanted, (x, z), gradient), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", FEATURES)
def test_gradients_of_features_can_be_differentiated(kind: str) -> None:
    x = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    x = ((x - 0.5) * 3).requires_grad_()
    for other in (x, x.detach(), x.detach().clone().requires_grad_()):
        assert torch.autograd.gradgradcheck(FEATURES[kind], (x, other))


def test_recursion_takes_any_knots_of_any_input() -> None:
    rng = np.random.default_rng(3)
    knots = np.sort(rng.uniform(-2, 2, (4, 9)), axis=1)
    x = rng.uniform(-2.5, 2.5, (200, 4))
    planes = bspline.general_planes(torch.from_numpy(x), torch.from_numpy(knots), 3)
    for column in range(4):
        expected = scipy_splines(x[:, column], knots[column], 3)
        assert np.abs(planes[:, :, column].numpy() - expected).max() < 1e-12


def test_recursion_allows_repeated_knots() -> None:
    clamped = torch.tensor([0, 0, 0, 0, 0.5, 1, 1, 1, 1], dtype=torch.float64)
    z = torch.linspace(0, 0.999, 50, dtype=torch.float64)[:, None]
    planes = bspline.general_planes(z, clamped, 3)
    expected = BSpline.design_matrix(z[:, 0].numpy(), clamped.numpy(), 3).toarray()
    assert np.abs(planes[:, :, 0].numpy() - expected).max() < 1e-12


def test_gaussians() -> None:
    z = torch.tensor([[-2.0, 0.3]], dtype=torch.float64)
    planes = gaussian.planes(z, (-2.0, 2.0, 8))
    centres = np.linspace(-2, 2, 8)
    expected = np.exp(-(((z.numpy()[0][None] - centres[:, None]) / (4 / 7)) ** 2))
    assert np.allclose(planes[0].numpy(), expected, atol=1e-14)


def test_gram_polynomials_by_hand() -> None:
    beta = torch.tensor([0.5, 0.1, -0.2, 0.3], dtype=torch.float64)
    z = torch.tensor([[0.25, -0.7]], dtype=torch.float64)

    def silu(value: Tensor) -> Tensor:
        return value / (1 + torch.exp(-value))

    # beta'_2 = 3 * 1 / (4 / 3) beta_1,  beta'_3 = 5 * 4 / (9 / 15) beta_2
    second = z * z - 2.25 * beta[1]
    third = z * second - (20 * 15 / 9) * beta[2] * z
    expected = torch.stack([silu(torch.ones_like(z)), silu(z), silu(second), silu(third)], dim=1)
    assert torch.allclose(gram.planes(z, 3, beta), expected, atol=1e-14)


@pytest.mark.parametrize("meta", [False, True])
def test_the_layer_of_the_benchmark_computes_what_ours_does(meta: bool) -> None:
    """Values and gradients of the timed Cox-de Boor layer, to 1e-6."""
    torch.manual_seed(0)
    learner = MetaLearner(1, 32, 9) if meta else None
    layer = CoxDeBoorLayer(20, 5, learner)
    x = torch.rand(64, 20) * 2.6 - 1.3
    closed = bspline.uniform_planes(x, SPLINES, 3)
    assert torch.allclose(layer.basis(x).transpose(1, 2), closed, atol=1e-6)
    if learner is None:
        spline = layer.spline * layer.scaler.unsqueeze(-1)
        coefficients = torch.cat([spline, layer.base.unsqueeze(-1)], dim=2).detach()
    else:
        coefficients = learner(layer.embedding).detach()
    own = native_layer(default_basis(Family.KAN), DenseEdges(coefficients))
    twin = x.clone().requires_grad_()
    x.requires_grad_()
    wanted, found = layer(x), own(twin)
    assert torch.allclose(found, wanted, atol=1e-6)
    wanted.square().sum().backward()
    found.square().sum().backward()
    assert torch.allclose(twin.grad, x.grad, atol=1e-5)
