"""Other libraries' networks through our forward: golden outputs, closed forms, refusals."""

import io
import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from scipy import special
from scipy.interpolate import BSpline
from torch import Tensor
from torch.nn import functional

import kancompress
from command import done, refused
from kancompress import Activation, ClusterConfig, RunOptions, UsageError
from kancompress.layers.edges import CodebookEdges
from kancompress.layers.network import ForeignNetwork
from kancompress.models.files import read_foreign
from kancompress.models.foreign import dense_network, packed_network
from kancompress.models.records import PackedModel

SHARED = Path(__file__).parents[2] / "shared" / "cases"
OWN = Path(__file__).parent / "cases"
SUPPORTED = (
    "bsrbf_kan",
    "chebykan_d4",
    "efficient_kan_default",
    "efficient_kan_g4k2",
    "efficient_kan_noscaler",
    "efficient_kan_tiny_fewer_edges_than_k",
    "fast_kan_default",
    "fast_kan_k6",
    "fast_kan_nobase",
    "fast_kan_noln",
    "faster_kan_default",
    "flashkan_g4",
    "fourierkan_g5",
    "inkan_g4",
    "matrixkan",
    "pykan_f32",
    "pykan_f64",
    "rbf_kan_sidhu",
    "relu_kan_g5k3",
    "tck_fc_kagn",
    "tck_fc_kan",
    "torchkan_kal",
    "torchkan_kan",
)
OPTIONS = {
    "efficient_kan_g4k2": RunOptions(base_activation=Activation.IDENTITY),
    "fast_kan_nobase": RunOptions(layouts={"": "fast-kan"}),
    "torchkan_kal": RunOptions(layouts={"": "torchkan-legendre"}),
}
needs_cases = pytest.mark.skipif(not SHARED.exists(), reason="no golden cases here")


def encoded(state: dict[str, Tensor]) -> bytes:
    """A state dict as torch.save writes it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def dense(source: Path | bytes, options: RunOptions | None = None) -> ForeignNetwork:
    return dense_network(read_foreign(source), options)


def packed(source: Path | bytes, clusters: int = 64, **options: object) -> PackedModel:
    """Packed so that a reader sees the file's bytes; exact where k is not below the edges."""
    config = ClusterConfig(clusters=clusters, force_pack=True)
    done = kancompress.cluster(source, config, **options)  # type: ignore[arg-type]
    again = kancompress.load(kancompress.encode(done.model))
    assert isinstance(again, PackedModel)
    return again


def outputs(network: ForeignNetwork, x: Tensor) -> Tensor:
    with torch.no_grad():
        return network(x.reshape(len(x), -1))


def check(network: ForeignNetwork, io_file: Path) -> None:
    """The library's own outputs, all rows together: some layers see the whole batch."""
    found = load_file(io_file)
    y = outputs(network, found["x"])
    assert y.dtype == torch.float32
    assert torch.allclose(y, found["y"].reshape(y.shape).float(), atol=1e-4)


# --- against the real libraries -------------------------------------------------------------


@pytest.mark.parametrize("case", sorted(path.parent.name for path in OWN.glob("*/io.safetensors")))
def test_dense_and_packed_files_give_the_librarys_outputs(case: str) -> None:
    path = OWN / case / "state.safetensors"
    check(dense(path), OWN / case / "io.safetensors")
    network = packed_network(packed(path))
    check(network, OWN / case / "io.safetensors")
    assert all(isinstance(layer.edges, CodebookEdges) for layer in network.kan_layers())


@needs_cases
@pytest.mark.parametrize("case", SUPPORTED)
def test_golden_cases(case: str) -> None:
    folder, options = SHARED / case, OPTIONS.get(case)
    for name in ("state.pt", "state.safetensors"):
        check(dense(folder / name, options), folder / "io.safetensors")
    for keep in (False, True):
        model = packed(folder / "distinct8.pt", 64 if keep else 8, keep_scaler=keep)
        check(packed_network(model, options), folder / "distinct8_io.safetensors")


@needs_cases
@pytest.mark.parametrize(
    ("case", "between"), [("gramkan_d4", "layers.1"), ("orthogpoly_legendre_d4", "ln1")]
)
def test_a_norm_between_layers_is_refused_and_the_layers_are_right(case: str, between: str) -> None:
    folder = SHARED / case
    with pytest.raises(UsageError, match=rf"{between}\.weight.*`model=package\.module:factory`"):
        dense(folder / "state.pt")
    state = load_file(folder / "state.safetensors")
    alone = {name: t for name, t in state.items() if not name.startswith(between)}
    one, two = dense(encoded(alone)).kan_layers()
    found = load_file(folder / "io.safetensors")
    with torch.no_grad():
        norm = (state[f"{between}.weight"], state[f"{between}.bias"])
        y = two(functional.layer_norm(one(found["x"]), norm[0].shape, *norm))
    assert torch.allclose(y, found["y"], atol=1e-5)


@needs_cases
@pytest.mark.parametrize(
    ("case", "words"),
    {
        "pykan_multkan": "8 outputs.*multiplication.*6 inputs",
        "pykan_symbolic_masked": "symbolic",
        "torchkan_kal": "KAL_Net from KAC_Net.*`layouts=torchkan-legendre`",
        "convkan_g1": "stride and padding",
        "tck_SimpleConvKAN": "stride and padding",
        "tck_kalnconv_g1_inst": "kaln-conv, kajn-conv",
    }.items(),
)
def test_forwards_that_the_tensors_do_not_tell_are_refused(case: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        dense(SHARED / case / "state.pt")
    layouts = {"": "kaln-conv"} if "kaln" in case else None
    model = packed(SHARED / case / "state.pt", layouts=layouts)
    with pytest.raises(UsageError, match=words):
        packed_network(model)


@needs_cases
def test_metakan_runs_from_its_generator_and_packed() -> None:
    folder = SHARED / "metakan_e1"
    check(dense(folder / "state.pt"), folder / "io.safetensors")
    check(packed_network(packed(folder / "state.pt")), folder / "io.safetensors")


@pytest.mark.parametrize("case", sorted(path.parent.name for path in OWN.glob("*/io.safetensors")))
def test_layers_are_linear_in_their_coefficients(case: str) -> None:
    x = load_file(OWN / case / "io.safetensors")["x"]
    for layer in packed_network(packed(OWN / case / "state.safetensors")).kan_layers():
        with torch.no_grad():
            sums = torch.einsum("bci,oic->bo", layer.features(x), layer.edges())
            sums = sums if layer.bias is None else sums + layer.bias
            y = layer(x)
            assert torch.allclose(layer.finish(sums), y, atol=1e-5)
        x = y


# --- against closed forms -------------------------------------------------------------------

ACTIVATIONS = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * special.ndtr(x),
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "tanh": np.tanh,
    "sigmoid": special.expit,
    "identity": lambda x: x,
    "zero": np.zeros_like,
}


def scipy_splines(x: np.ndarray, knots: np.ndarray, degree: int) -> np.ndarray:
    """(rows, in, basis) from scipy for knots (in, t), zero outside."""
    result = np.zeros((*x.shape, knots.shape[1] - degree - 1))
    for i in range(x.shape[1]):
        for b in range(result.shape[2]):
            basis = BSpline.basis_element(knots[i, b : b + degree + 2], extrapolate=False)
            result[:, i, b] = np.nan_to_num(basis(x[:, i]))
    return result


def efficient_kan(
    widths: tuple[int, ...] = (6, 5, 3), order: int = 3, uneven: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """A state dict as efficient-kan saves it."""
    rng = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for number, (inputs, out) in enumerate(pairwise(widths)):
        at = f"layers.{number}."
        state[at + "base_weight"] = torch.randn(out, inputs, generator=rng) / inputs
        state[at + "spline_weight"] = torch.randn(out, inputs, 5 + order, generator=rng) / inputs
        state[at + "spline_scaler"] = torch.rand(out, inputs, generator=rng) + 0.5
        grid = (torch.arange(-order, 6 + order) * 0.4 - 1).repeat(inputs, 1)
        if uneven:
            grid = grid + 0.15 * torch.rand(grid.shape, generator=rng)
        state[at + "grid"] = grid
    return state


def efficient_kan_in_numpy(state: dict[str, Tensor], x: np.ndarray, activation: str) -> np.ndarray:
    for number in range(len(state) // 4):
        parts = {n: t.double().numpy() for n, t in state.items() if f"layers.{number}." in n}
        base, spline, scaler, grid = (
            parts[f"layers.{number}.{name}"]
            for name in ("base_weight", "spline_weight", "spline_scaler", "grid")
        )
        order = grid.shape[1] - spline.shape[2] - 1
        basis = scipy_splines(x, grid, order)
        curve = np.einsum("bic,oic->bo", basis, spline * scaler[..., None])
        x = curve + ACTIVATIONS[activation](x) @ base.T
    return x


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize(("order", "uneven"), [(3, False), (2, False), (3, True)])
def test_efficient_kan_with_any_activation_and_grid(
    activation: str, order: int, uneven: bool
) -> None:
    state = efficient_kan(order=order, uneven=uneven)
    options = RunOptions(base_activation=Activation(activation))
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    expected = efficient_kan_in_numpy(state, x.double().numpy(), activation)
    for network in (
        dense(encoded(state), options),
        packed_network(packed(encoded(state)), options),
        packed_network(packed(encoded(state), keep_scaler=True), options),
    ):
        assert np.abs(outputs(network, x).numpy() - expected).max() < 1e-5


def polynomial_state(name: str, widths: tuple[int, int] = (4, 3), size: int = 5) -> bytes:
    rng = torch.Generator().manual_seed(0)
    return encoded({f"only.{name}": torch.randn(*widths, size, generator=rng)})


@pytest.mark.parametrize(
    ("name", "polynomial"),
    {
        "cheby_coeffs": special.eval_chebyt,
        "cheby2_coeffs": special.eval_chebyu,
        "legendre_coeffs": special.eval_legendre,
        "hermite_coeffs": special.eval_hermite,
        # y_n(z) = sum_k (n+k)! / ((n-k)! k!) (z/2)^k
        "bessel_coeffs": lambda n, z: sum(
            math.factorial(n + k) / math.factorial(n - k) / math.factorial(k) * (z / 2) ** k
            for k in range(n + 1)
        ),
    }.items(),
)
def test_polynomials_of_tanh(name: str, polynomial: object) -> None:
    source = polynomial_state(name)
    weights = read_foreign(source).tensors[f"only.{name}"].double().numpy()
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    z = np.tanh(x.double().numpy())
    planes = np.stack([polynomial(n, z) for n in range(5)], axis=2)  # type: ignore[operator]
    expected = np.einsum("bid,iod->bo", planes, weights)
    assert np.abs(outputs(dense(source), x).numpy() - expected).max() < 1e-4


def normalised(y: np.ndarray) -> np.ndarray:
    centred = y - y.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)


def test_torch_conv_kans_jacobi_layer() -> None:
    rng = torch.Generator().manual_seed(0)
    state = {
        "a.norm.weight": torch.ones(3),
        "a.norm.bias": torch.zeros(3),
        "a.base_weights": torch.randn(3, 4, generator=rng),
        "a.jacobi_coeffs": torch.randn(4, 3, 5, generator=rng),
    }
    x = torch.randn(20, 4, generator=rng)
    wide = x.double().numpy()
    planes = np.stack([special.eval_jacobi(n, 1, 1, np.tanh(wide)) for n in range(5)], axis=2)
    y = np.einsum("bid,iod->bo", planes, state["a.jacobi_coeffs"].double().numpy())
    y += ACTIVATIONS["silu"](wide) @ state["a.base_weights"].double().numpy().T
    network = dense(encoded(state))
    expected = ACTIVATIONS["silu"](normalised(y))
    assert np.abs(outputs(network, x).numpy() - expected).max() < 1e-5
    assert any("alpha and beta" in note for note in network.notes)


def test_whole_batch_chebyshev_of_torchkan() -> None:
    rng = torch.Generator().manual_seed(0)
    state = {
        "base_weights.0": torch.randn(3, 4, generator=rng),
        "poly_weights.0": torch.randn(3, 20, generator=rng),
        "layer_norms.0.weight": torch.ones(3),
        "layer_norms.0.bias": torch.zeros(3),
    }
    x = torch.randn(20, 4, generator=rng)
    wide = x.double().numpy()
    z = 2 * (wide - wide.min()) / (wide.max() - wide.min()) - 1
    planes = np.stack([special.eval_chebyt(n, z) for n in range(5)], axis=2)
    y = planes.reshape(20, 20) @ state["poly_weights.0"].double().numpy().T
    y += ACTIVATIONS["silu"](wide) @ state["base_weights.0"].double().numpy().T
    options = RunOptions(layouts={"": "torchkan-chebyshev"})
    network = dense(encoded(state), options)
    expected = ACTIVATIONS["silu"](normalised(y))
    assert np.abs(outputs(network, x).numpy() - expected).max() < 1e-5
    assert any("run together" in note for note in network.notes)


def test_gottlieb_polynomials_with_a_learnt_alpha() -> None:
    source = encoded(
        read_foreign(polynomial_state("gottlieb_coeffs")).tensors
        | {"only.alpha": torch.tensor([0.7])}
    )
    weights = read_foreign(source).tensors["only.gottlieb_coeffs"].double().numpy()
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    z, a = special.expit(x.double().numpy()), np.float64(np.float32(0.7))
    # its recurrence, written out for degree 4
    g = [np.ones_like(z), 2 * a * z]
    g.append(2 * (a + 1) * z * g[1] - (a + 2) * g[0])
    g.append(2 * (a + 2) * z * g[2] - (a + 4) * g[1])
    g.append(2 * (a + 3) * z * g[3] - (a + 6) * g[2])
    expected = np.einsum("bid,iod->bo", np.stack(g, axis=2), weights)
    assert np.abs(outputs(dense(source), x).numpy() - expected).max() < 1e-4


def test_bernstein_planes_of_torch_conv_kan_are_ones() -> None:
    rng = torch.Generator().manual_seed(0)
    state = {
        "a.norm.weight": torch.ones(3),
        "a.norm.bias": torch.zeros(3),
        "a.base_weights": torch.randn(3, 4, generator=rng),
        "a.bernstein_coeffs": torch.randn(4, 3, 5, generator=rng),
    }
    x = torch.randn(20, 4, generator=rng)
    y = ACTIVATIONS["silu"](x.double().numpy()) @ state["a.base_weights"].double().numpy().T
    y += state["a.bernstein_coeffs"].double().numpy().sum((0, 2))
    expected = ACTIVATIONS["silu"](normalised(y))
    assert np.abs(outputs(dense(encoded(state)), x).numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("scaled", [False, True])
def test_lkan(scaled: bool) -> None:
    rng = torch.Generator().manual_seed(0)
    state = {
        "fc.grid": (torch.arange(-3, 9) * 0.4 - 1).repeat(4, 1),
        "fc.scale_spline": torch.rand(3, 4, generator=rng) if scaled else torch.ones(1),
        "fc.coeff": torch.randn(3, 4, 8, generator=rng),
        "fc.scale_base": torch.randn(3, 4, generator=rng),
        "fc.bias": torch.randn(3, generator=rng),
    }
    x = torch.randn(20, 4, generator=rng)
    wide, weights = x.double().numpy(), {n: t.double().numpy() for n, t in state.items()}
    coeff = weights["fc.coeff"] * (weights["fc.scale_spline"][..., None] if scaled else 1)
    expected = np.einsum("bic,oic->bo", scipy_splines(wide, weights["fc.grid"], 3), coeff)
    expected += ACTIVATIONS["silu"](wide) @ weights["fc.scale_base"].T + weights["fc.bias"]
    for network in (dense(encoded(state)), packed_network(packed(encoded(state)))):
        assert np.abs(outputs(network, x).numpy() - expected).max() < 1e-5
    if not scaled:
        state["fc.scale_spline"] = torch.full((1,), 2.0)
        with pytest.raises(UsageError, match="scale_spline is not 1"):
            dense(encoded(state))


@pytest.mark.parametrize("high", ["phase_height", "phase_high"])
def test_relu_kan_tells_its_grid_from_its_phases(high: str) -> None:
    rng = torch.Generator().manual_seed(0)
    g, k = 6, 2
    low = torch.arange(-k, g).repeat(4, 1) / g + 0.02 * torch.randn(4, g + k, generator=rng)
    state = {
        "rk.phase_low": low,
        f"rk.{high}": low + (k + 1) / g + 0.02 * torch.randn(4, g + k, generator=rng),
        "rk.equal_size_conv.weight": torch.randn(3, 1, g + k, 4, generator=rng),
        "rk.equal_size_conv.bias": torch.randn(3, generator=rng),
    }
    x = torch.rand(20, 4, generator=rng)
    wide, weights = x.double().numpy()[..., None], {n: t.double().numpy() for n, t in state.items()}
    up, down = wide - weights["rk.phase_low"], weights[f"rk.{high}"] - wide
    planes = (np.maximum(up, 0) * np.maximum(down, 0) * 4 * g * g / (k + 1) ** 2) ** 2
    conv = weights["rk.equal_size_conv.weight"].reshape(3, -1)  # in memory (in, K)
    expected = planes.reshape(20, -1) @ conv.T + weights["rk.equal_size_conv.bias"]
    network = dense(encoded(state))
    assert np.abs(outputs(network, x).numpy() - expected).max() < 1e-4
    assert any("g = 6 and k = 2" in note for note in network.notes)


def test_pykan_before_its_grids_were_extended() -> None:
    rng = torch.Generator().manual_seed(0)
    inputs, out, order = 4, 3, 3
    row = torch.linspace(-1, 1, 6)
    state = {
        "biases.0.weight": torch.randn(1, out, generator=rng),
        "act_fun.0.grid": row.repeat(out * inputs, 1),
        "act_fun.0.coef": torch.randn(out * inputs, 5 + order, generator=rng),
        "act_fun.0.scale_base": torch.randn(out * inputs, generator=rng),
        "act_fun.0.scale_sp": torch.randn(out * inputs, generator=rng),
        "act_fun.0.mask": torch.ones(out * inputs),
        "symbolic_fun.0.mask": torch.zeros(out, inputs),
        "symbolic_fun.0.affine": torch.zeros(out, inputs, 4),
    }
    x = torch.randn(30, inputs, generator=rng)
    wide = x.double().numpy()
    knots = np.tile(np.arange(-order, 6 + order) * 0.4 - 1, (inputs, 1))
    weights = {n: t.double().numpy() for n, t in state.items()}
    coef = (weights["act_fun.0.coef"] * weights["act_fun.0.scale_sp"][:, None]).reshape(
        out, inputs, -1
    )
    y = np.einsum("bic,oic->bo", scipy_splines(wide, knots, order), coef)
    y += ACTIVATIONS["silu"](wide) @ weights["act_fun.0.scale_base"].reshape(out, inputs).T
    expected = y + weights["biases.0.weight"]
    for network in (dense(encoded(state)), packed_network(packed(encoded(state)))):
        assert np.abs(outputs(network, x).numpy() - expected).max() < 1e-5


def fast_kan(widths: tuple[int, ...] = (4, 3)) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for number, (inputs, out) in enumerate(pairwise(widths)):
        at = f"layers.{number}."
        state |= {
            at + "layernorm.weight": torch.ones(inputs),
            at + "layernorm.bias": torch.zeros(inputs),
            at + "rbf.grid": torch.linspace(-2, 2, 8),
            at + "spline_linear.weight": torch.randn(out, inputs * 8, generator=rng) / inputs,
            at + "base_linear.weight": torch.randn(out, inputs, generator=rng) / inputs,
            at + "base_linear.bias": torch.randn(out, generator=rng),
        }
    return state


@pytest.mark.parametrize("width", [None, 0.3])
def test_fast_kan_with_its_own_or_another_denominator(width: float | None) -> None:
    state = fast_kan()
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    wide = x.double().numpy()
    z = normalised(wide)[..., None] - np.linspace(-2, 2, 8)
    planes = np.exp(-((z / (width or 4 / 7)) ** 2)).reshape(30, -1)
    expected = planes @ state["layers.0.spline_linear.weight"].double().numpy().T
    expected += ACTIVATIONS["silu"](wide) @ state["layers.0.base_linear.weight"].double().numpy().T
    expected += state["layers.0.base_linear.bias"].double().numpy()
    network = dense(encoded(state), RunOptions(rbf_denominator=width))
    assert np.abs(outputs(network, x).numpy() - expected).max() < 1e-5
    assert any("`rbf_denominator`" in note for note in network.notes) == (width is None)


def test_the_first_lkan_layer_has_its_bias_in_a_row() -> None:
    rng = torch.Generator().manual_seed(0)
    knots = -1 + np.arange(-3, 9) * 0.4
    state = {
        "coeff": torch.randn(3, 4, 8, generator=rng),
        "scale_base": torch.randn(3, 4, generator=rng),
        "scale_spline": torch.randn(3, 4, generator=rng),
        "grid": torch.tensor(knots, dtype=torch.float32).repeat(4, 1),
        "bias": torch.randn(1, 3, generator=rng),
    }
    x = torch.rand(30, 4, generator=rng) * 1.8 - 0.9
    wide = x.double().numpy()
    weights = {name: tensor.double().numpy() for name, tensor in state.items()}
    coef = weights["coeff"] * weights["scale_spline"][..., None]
    expected = np.einsum("bic,oic->bo", scipy_splines(wide, np.tile(knots, (4, 1)), 3), coef)
    expected += ACTIVATIONS["silu"](wide) @ weights["scale_base"].T + weights["bias"]
    for network in (dense(encoded(state)), packed_network(packed(encoded(state)))):
        assert np.abs(outputs(network, x).numpy() - expected).max() < 1e-5


def early_faster_kan() -> dict[str, Tensor]:
    """As faster-kan saved before `rbf.inv_denominator`: a fast-kan layer without base."""
    return {name: t for name, t in fast_kan((4, 3)).items() if "base" not in name}


@pytest.mark.parametrize("way", ["faster-kan", "fast-kan"])
def test_a_layer_of_two_forms_is_run_as_the_one_that_is_said(way: str) -> None:
    state = early_faster_kan()
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    distance = normalised(x.double().numpy())[..., None] - np.linspace(-2, 2, 8)
    switches = 1 - np.tanh(distance / 0.33) ** 2
    planes = switches if way == "faster-kan" else np.exp(-((distance * 7 / 4) ** 2))
    weight = state["layers.0.spline_linear.weight"].double().numpy()
    expected = planes.reshape(30, -1) @ weight.T
    said = RunOptions(layouts={"": way})
    plain, telling = packed(encoded(state)), packed(encoded(state), options=said)
    for network in (
        dense(encoded(state), said),
        packed_network(plain, said),
        packed_network(telling),  # the file says it
    ):
        assert np.abs(outputs(network, x).numpy() - expected).max() < 1e-5
    assert not plain.forms
    assert telling.forms["layers.0"].layout == way


def test_a_layer_of_two_forms_is_not_run_before_one_is_said() -> None:
    raw = encoded(early_faster_kan())
    for run in (lambda: dense(raw), lambda: packed_network(packed(raw))):
        with pytest.raises(UsageError, match=r"`layouts=fast-kan` or `layouts=faster-kan`"):
            run()


def test_a_grid_that_is_not_saved_is_an_option() -> None:
    rng = torch.Generator().manual_seed(0)
    state = {
        "fc.base_weight": torch.randn(3, 4, generator=rng),
        "fc.spline_weight": torch.randn(3, 4, 8, generator=rng),
        "fc.layer_norm.weight": torch.ones(3),
        "fc.layer_norm.bias": torch.zeros(3),
        "fc.prelu.weight": torch.tensor([0.25]),
    }
    x = torch.randn(30, 4, generator=rng)
    wide = x.double().numpy()
    knots = np.tile(-2 + np.arange(-2, 9) * (5 / 6), (4, 1))
    y = np.einsum(
        "bic,oic->bo", scipy_splines(wide, knots, 2), state["fc.spline_weight"].double().numpy()
    )
    y = normalised(y + ACTIVATIONS["gelu"](wide) @ state["fc.base_weight"].double().numpy().T)
    network = dense(encoded(state), RunOptions(grid_range=(-2.0, 3.0), spline_order=2))
    assert np.abs(outputs(network, x).numpy() - np.where(y > 0, y, 0.25 * y)).max() < 1e-5


def test_pruned_edges_add_nothing() -> None:
    rng = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for number, (inputs, out) in enumerate([(4, 5), (5, 2)]):
        state |= {
            f"node_bias_{number}": torch.randn(out, generator=rng),
            f"node_scale_{number}": torch.randn(out, generator=rng),
            f"act_fun.{number}.grid": (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1),
            f"act_fun.{number}.coef": torch.randn(inputs, out, 8, generator=rng),
            f"act_fun.{number}.mask": (torch.rand(inputs, out, generator=rng) > 0.3).float(),
            f"act_fun.{number}.scale_base": torch.randn(inputs, out, generator=rng),
            f"act_fun.{number}.scale_sp": torch.randn(inputs, out, generator=rng),
            f"symbolic_fun.{number}.mask": torch.zeros(out, inputs),
        }
    without = {name: tensor.clone() for name, tensor in state.items()}
    for number in range(2):
        mask = state[f"act_fun.{number}.mask"]
        without[f"act_fun.{number}.coef"] *= mask[..., None]
        without[f"act_fun.{number}.scale_base"] *= mask
        without[f"act_fun.{number}.mask"] = torch.ones_like(mask)
    x = torch.randn(20, 4, generator=rng)
    expected = outputs(dense(encoded(without)), x)
    assert torch.allclose(outputs(dense(encoded(state)), x), expected, atol=1e-5)
    for keep in (False, True):
        model = packed(encoded(state), keep_scaler=keep)
        assert not model.layers[0].codebook[0].any()  # type: ignore[index]
        assert torch.allclose(outputs(packed_network(model), x), expected, atol=1e-5)


# --- what the file must tell ----------------------------------------------------------------


def test_float64_is_run_in_float64() -> None:
    wide = {name: tensor.double() for name, tensor in efficient_kan().items()}
    network = packed_network(packed(encoded(wide)))
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    first = next(network.kan_layers())
    assert first.features(x).dtype == first.edges().dtype == torch.float64
    expected = efficient_kan_in_numpy(wide, x.double().numpy(), "silu")
    assert np.abs(outputs(network, x).numpy() - expected).max() < 1e-6


def test_packed_networks_hold_no_dense_coefficients() -> None:
    model = packed(encoded(efficient_kan((200, 100, 10))), 16)
    state = packed_network(model).state_dict()
    floats = sum(t.numel() for t in state.values() if t.is_floating_point())
    assert floats < 2000  # two codebooks of 16 x 9 and the grids' ends


@pytest.mark.parametrize(
    ("option", "value"),
    [("rbf_denominator", 0.5), ("grid_range", (-2.0, 2.0)), ("spline_order", 2)],
)
def test_options_without_a_meaning_are_refused(option: str, value: object) -> None:
    options = RunOptions(**{option: value})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=rf"`{option}` has no meaning.*efficient-kan") as caught:
        dense(encoded(efficient_kan()), options)
    assert caught.value.fields == (option,)


def test_base_activation_needs_a_base_branch() -> None:
    options = RunOptions(base_activation=Activation.GELU)
    with pytest.raises(UsageError, match="`base_activation` has no meaning"):
        dense(polynomial_state("cheby_coeffs"), options)


@pytest.mark.parametrize("name", ["gegenbauer_coeffs", "laguerre_coeffs", "jacobi_coeffs"])
def test_hidden_parameters_of_polynomials_are_said(name: str) -> None:
    with pytest.raises(UsageError, match="alpha"):
        dense(polynomial_state(name))


def test_layers_that_do_not_chain_are_refused() -> None:
    state = efficient_kan((6, 5, 3))
    first = {name: t for name, t in state.items() if "layers.0" in name}
    again = {name.replace("0", "1", 1): t for name, t in first.items()}
    with pytest.raises(UsageError, match=r"layers\.0.*5 outputs.*layers\.1.*6 inputs"):
        dense(encoded(first | again))


def test_tensors_of_no_layer_are_named() -> None:
    state = efficient_kan() | {"head.weight": torch.zeros(2, 3), "head.bias": torch.zeros(2)}
    model = packed(encoded(state))
    for build in (lambda: dense(encoded(state)), lambda: packed_network(model)):
        with pytest.raises(UsageError, match=r"2 tensors.*head\.weight, head\.bias"):
            build()


def test_layers_of_a_safetensors_file_are_ordered_by_their_numbers() -> None:
    widths = (4,) * 12 + (3,)
    state = efficient_kan(widths)
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(1))
    expected = outputs(dense(encoded(state)), x)
    sorted_file = save(state)  # "layers.10" before "layers.2"
    assert torch.allclose(outputs(dense(sorted_file), x), expected, atol=1e-6)
    assert torch.allclose(outputs(packed_network(packed(sorted_file)), x), expected, atol=1e-6)
    renamed = {
        name.replace("layers.0", "encoder").replace("layers.1.", "decoder."): t
        for name, t in efficient_kan().items()
    }
    assert outputs(dense(encoded(renamed)), torch.zeros(1, 6)).shape == (1, 3)
    with pytest.raises(UsageError, match="order of the layers"):
        dense(save(renamed))


def test_a_layout_by_hand_has_no_forward() -> None:
    rng = torch.Generator().manual_seed(0)
    by_hand = {"": "coef=w: coef in out"}
    source = encoded({"mine.w": torch.randn(5, 9, 12, generator=rng)})
    model = packed(source, layouts=by_hand)
    for build in (
        lambda: dense(source, RunOptions(layouts=by_hand)),
        lambda: packed_network(model, RunOptions(layouts=by_hand)),
    ):
        with pytest.raises(UsageError, match="written by hand"):
            build()
    with pytest.raises(UsageError, match=r"'mine' is of no layout"):
        packed_network(model)


def test_a_file_packed_by_another_layout_is_refused() -> None:
    wrong = {"": "coef=spline_weight:in out coef"}
    state = {name: t for name, t in efficient_kan((5, 5)).items() if "scaler" not in name}
    model = packed(encoded(state), layouts=wrong)
    with pytest.raises(UsageError, match="packed by another layout than efficient-kan"):
        packed_network(model)


# --- the commands' library calls ------------------------------------------------------------


@pytest.fixture
def regression(tmp_path: Path) -> kancompress.DataOptions:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 6)).astype(np.float32)
    y = np.stack([np.sin(2 * x[:, 0]) + x[:, 1], x[:, 2] * x[:, 3], x[:, 4] ** 2], 1)
    np.savez(tmp_path / "data.npz", x=x, y=y.astype(np.float32))
    return kancompress.DataOptions(file=tmp_path / "data.npz")


def test_evaluate_runs_dense_and_packed_files(regression: kancompress.DataOptions) -> None:
    source = encoded(efficient_kan())
    before = kancompress.evaluate(source, regression)
    after = kancompress.evaluate(packed(source), regression)
    assert torch.allclose(before.outputs, after.outputs, atol=1e-5)
    assert before.score.rmse is not None
    assert (
        before.notes == after.notes == ("efficient-kan: base activation silu (`base_activation`)",)
    )


def test_finetune_changes_only_packed_tensors(regression: kancompress.DataOptions) -> None:
    source = encoded(efficient_kan())
    model = packed(source, 4)
    config = kancompress.FinetuneConfig(lr=1e-2, epochs=4)
    done = kancompress.finetune(model, regression, config)
    assert done.validation.loss < done.validation_before.loss
    before, after = kancompress.expand(model), kancompress.expand(done.model)
    changed = {
        name
        for name, tensor in before.tensors.items()
        if not torch.equal(tensor, after.tensors[name])
    }
    assert changed == {
        f"layers.{n}.{part}" for n in (0, 1) for part in ("spline_weight", "base_weight")
    }
    again = kancompress.evaluate(kancompress.encode(done.model), regression)
    assert again.score.loss == pytest.approx(done.test.loss, rel=1e-6)


def test_finetune_rounds_to_the_stored_type(regression: kancompress.DataOptions) -> None:
    config = ClusterConfig(
        clusters=4, force_pack=True, codebook_dtype=kancompress.StoredDtype.FLOAT16
    )
    model = kancompress.cluster(encoded(efficient_kan()), config).model
    tune = kancompress.FinetuneConfig(lr=1e-2, epochs=2)
    done = kancompress.finetune(model, regression, tune)
    assert {layer.codebook.dtype for layer in done.model.layers if layer.codebook is not None} == {
        torch.float16
    }
    assert done.validation.loss <= done.validation_before.loss


def test_norms_and_biases_learn_when_asked(regression: kancompress.DataOptions) -> None:
    model = packed(encoded(fast_kan((6, 5, 3))), 4)
    config = kancompress.FinetuneConfig(lr=1e-2, epochs=3, also=("norms",))
    done = kancompress.finetune(model, regression, config)
    assert done.validation.loss < done.validation_before.loss
    again = kancompress.load(kancompress.encode(done.model))
    assert isinstance(again, PackedModel)
    before, after = kancompress.expand(model), kancompress.expand(again)
    assert list(after.tensors) == list(before.tensors)
    changed = {n for n, t in before.tensors.items() if not torch.equal(t, after.tensors[n])}
    # norms of ones and zeros were stored as such; they are tensors of their own now
    expected = {n for n in before.tensors if not n.endswith("rbf.grid")}
    assert changed == expected


# --- the commands ---------------------------------------------------------------------------


@pytest.fixture
def place(regression: kancompress.DataOptions, tmp_path: Path) -> Path:
    """A directory with data.npz, an efficient-kan and its packed file."""
    (tmp_path / "model.pt").write_bytes(encoded(efficient_kan()))
    done("cluster", tmp_path / "model.pt", "-k", "4", "--force-pack", "-o", tmp_path / "packed.st")
    return tmp_path


def test_commands_run_files_of_another_library(place: Path) -> None:
    data = ("--data", place / "data.npz")
    before = done("eval", place / "model.pt", *data)
    assert before.stdout.startswith("rmse ")
    assert "assumed efficient-kan: base activation silu (--base-activation)" in before.stderr
    report = json.loads(done("eval", place / "packed.st", *data, "--json").stdout)
    assert report["notes"] == ["efficient-kan: base activation silu (--base-activation)"]
    tuned = ("-o", place / "tuned.st", "--lr", "1e-2", "--epochs", "3")
    report = json.loads(done("finetune", place / "packed.st", *data, *tuned, "--json").stdout)
    assert report["validation"]["loss"] < report["validation_before"]["loss"]
    after = json.loads(done("eval", place / "tuned.st", *data, "--json").stdout)
    assert after["loss"] == pytest.approx(report["test"]["loss"], rel=1e-6)
    done("expand", place / "tuned.st", "-o", place / "back.pt")
    assert list(torch.load(place / "back.pt", weights_only=True)) == list(efficient_kan())
    other = done("eval", place / "model.pt", *data, "--base-activation", "relu", "--json").stdout
    assert json.loads(other)["loss"] != json.loads(done("eval", place / "model.pt", *data,
                                                        "--json").stdout)["loss"]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    {
        "eval packed.st": "--data FILE or --dataset NAME",
        "eval model.pt": "--data FILE or --dataset NAME",
        "finetune packed.st -o out": "--data FILE or --dataset NAME",
        "eval packed.st --data data.npz --dataset mnist": "both given",
        "eval packed.st --dataset digits": "takes 6 inputs, but the data has 64",
        "eval packed.st --data data.npz --grid-range 1,-1": "--grid-range 1,-1 is no range",
        "eval packed.st --data data.npz --grid-range 1": "two numbers, as in -2,2",
        "eval packed.st --data data.npz --grid-range -2,2": "--grid-range has no meaning",
        "eval packed.st --data data.npz --rbf-denominator 0": "--rbf-denominator is 0",
        "eval packed.st --data data.npz --rbf-denominator nan": "--rbf-denominator is nan",
        "eval packed.st --data data.npz --base-activation swish": "silu",
        "eval packed.st --data data.npz --layout fast-kan": "fast-kan does not fit",
        "finetune packed.st --data data.npz --spline-order 2 -o out": "--spline-order has no",
        "finetune model.pt --data data.npz -o out": "kancompress cluster",
    }.items(),
)
def test_commands_refuse(
    arguments: str, words: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    code = 3 if arguments.startswith("finetune model.pt") else 2
    assert words in refused(code, *arguments.split())
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    "options", [("--base-activation", "relu"), ("--layout", "pykan"), ("--grid-range", "-1,1")]
)
def test_options_of_other_libraries_are_not_for_our_files(
    options: tuple[str, ...], packed_file: Path
) -> None:
    assert "other libraries' files" in refused(2, "eval", packed_file, *options)


def test_a_file_that_names_its_data_takes_no_other_set(packed_file: Path) -> None:
    assert "trained on digits" in refused(2, "eval", packed_file, "--dataset", "mnist")
    assert done("eval", packed_file, "--dataset", "digits").stdout.startswith("accuracy")


def test_a_classifier_on_a_named_set(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(encoded(fast_kan((64, 8, 10))))
    report = json.loads(done("eval", tmp_path / "model.pt", "--dataset", "digits", "--json").stdout)
    assert report["examples"] == 360
    assert 0 <= report["accuracy"] <= 1


@needs_cases
def test_the_config_beside_a_pykan_checkpoint_names_its_base_function(tmp_path: Path) -> None:
    for name in ("ckpt_state", "ckpt_config.yml"):
        text = (SHARED / "pykan_f32" / name).read_bytes()
        (tmp_path / name).write_bytes(text.replace(b"silu", b"identity"))
    x = load_file(SHARED / "pykan_f32" / "io.safetensors")["x"]
    found = dense(tmp_path / "ckpt_state")
    assert any("identity (its config)" in note for note in found.notes)
    chosen = RunOptions(base_activation=Activation.IDENTITY)
    expected = dense(SHARED / "pykan_f32" / "state.pt", chosen)
    assert torch.equal(outputs(found, x), outputs(expected, x))
