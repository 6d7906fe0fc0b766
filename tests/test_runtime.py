"""The numpy runtime beside torch's networks, closed forms, and an interpreter without torch."""

import math
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy.interpolate import BSpline
from test_forms import (
    OPTIONS,
    OWN,
    SHARED,
    SUPPORTED,
    efficient_kan,
    encoded,
    needs_cases,
    polynomial_state,
)
from test_forms import packed as lossless
from test_masked import pruned

import kancompress
from command import ENVIRONMENT
from conftest import fresh
from kancompress import (
    Activation,
    ClusterConfig,
    Flaw,
    InvalidFileError,
    PackedModel,
    RunOptions,
    UsageError,
)
from kancompress.config import StoredDtype
from kancompress.layers import forms
from kancompress.models import runnable
from kancompress.models.foreign import packed_network
from kancompress.models.records import Checkpoint
from kancompress.runtime import Network, load
from kancompress.runtime.activations import erf
from kancompress.runtime.bases import fill_of
from kancompress.specs import DataSpec, ModelName

HALF, BYTE = StoredDtype.FLOAT16, StoredDtype.INT8


def outputs(raw: bytes, x: np.ndarray) -> np.ndarray:
    """What torch computes of the network in a file."""
    network = runnable.run(kancompress.load(raw)).network.eval()
    with torch.no_grad():
        found: np.ndarray = network(torch.from_numpy(x)).numpy()
    return found


def rows_of(network: Network, rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (rows, network.inputs, 9, 8) if network.program.is_conv else (rows, network.inputs)
    return rng.standard_normal(shape).astype(np.float32)


def check(raw: bytes, counts: tuple[int, ...] = (1, 2, 40)) -> Network:
    """The runtime gives torch's outputs for few and for many rows."""
    network = load(raw)
    for count in counts:
        x = rows_of(network, count)
        expected, found = outputs(raw, x), network.run(x)
        assert found.dtype == np.float32
        assert found.shape == expected.shape == (count, network.outputs)
        np.testing.assert_allclose(found, expected, atol=3e-6 * max(1, np.abs(expected).max()))
    return network


def packed(model: Checkpoint, **options: Any) -> PackedModel:
    config = ClusterConfig(**({"clusters": 7, "force_pack": True} | options))
    return kancompress.cluster(model, config).model


def with_biases(model: Checkpoint) -> Checkpoint:
    """Networks that were tuned may have biases; their normalisations are no longer 1 and 0."""
    rng = torch.Generator().manual_seed(1)
    tensors = {
        f"{number}.bias": torch.randn(shape[0], generator=rng)
        for number, shape in enumerate(model.shapes)
    }
    for name, tensor in model.tensors.items():
        moved = tensor + 0.3 * torch.rand(tensor.shape, generator=rng)
        tensors[name] = tensor if "coefficients" in name else moved
    return replace(model, tensors={**model.tensors, **tensors})


# --- networks of kancompress's own ------------------------------------------------------------

PLAIN = [name for name in ModelName if not name.is_conv]
CONV = [name for name in ModelName if name.is_conv and not name.is_meta]


@pytest.mark.parametrize("name", [name for name in PLAIN if not name.is_meta])
def test_dense_networks(name: ModelName) -> None:
    network = check(kancompress.encode(with_biases(fresh(name, (6, 5, 4)))))
    assert (network.inputs, network.outputs, network.notes) == (6, 4, ())
    assert network.data is not None
    assert network.data.name == "digits"


@pytest.mark.parametrize("name", [name for name in PLAIN if name is not ModelName.MLP])
def test_packed_networks(name: ModelName) -> None:
    model = fresh(name, (11, 9, 4))
    model = model if name.is_meta else with_biases(model)
    check(kancompress.encode(packed(model)))


@pytest.mark.parametrize("name", CONV)
@pytest.mark.parametrize("clusters", [None, 7])
def test_convolutions(name: ModelName, clusters: int | None) -> None:
    model = with_biases(fresh(name, (2, 4, 5, 3)))
    record = model if clusters is None else packed(model, clusters=clusters)
    check(kancompress.encode(record), (1, 3))


@pytest.mark.parametrize(
    "options",
    [
        {"parts": 3},
        {"parts": 9, "clusters": 4},
        {"codebook_dtype": HALF, "side_dtype": HALF},
        {"codebook_dtype": BYTE, "side_dtype": BYTE},
        {"clusters": 1},
        {"clusters": 70},
    ],
    ids=str,
)
def test_ways_to_store_edges(options: dict[str, Any]) -> None:
    check(kancompress.encode(packed(with_biases(fresh("fastkan", (11, 9, 4))), **options)))


def kept(model: PackedModel, count: int) -> PackedModel:
    """The model with some edges of its first layer kept beside the codebook."""
    rng = torch.Generator().manual_seed(2)
    layer = model.layers[0]
    assert layer.codebook is not None
    at = torch.randperm(layer.edges, generator=rng)[:count].sort().values
    index = np.delete(layer.indices().reshape(-1, layer.parts), at.numpy(), axis=0).reshape(-1)
    size = layer.codebook.shape[1] * layer.parts
    vectors = torch.randn(count, size, generator=rng)
    changed = replace(layer, index=index, kept_at=at, kept=vectors)
    return replace(model, layers=(changed, *model.layers[1:]))


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("count", [1, 20])
def test_kept_edges(parts: int, count: int) -> None:
    check(kancompress.encode(kept(packed(fresh("kan", (8, 6, 3)), parts=parts), count)))


def test_layers_that_share_a_codebook() -> None:
    model = packed(fresh("gramkan", (8, 8, 8)))
    one, two = model.layers
    shared = replace(model, layers=(one, replace(two, codebook=None, shares="0")))
    network = check(kancompress.encode(shared))
    assert network.program.layers[1].edges.owner == "0"


def test_a_layer_that_stays_dense_beside_a_packed_one() -> None:
    model = packed(fresh("kan", (8, 6, 3)))
    one, two = model.layers
    dense = torch.randn(*two.shape, 9, generator=torch.Generator().manual_seed(3))
    stays = replace(two, codebook=None, index=None, coefficients=dense)
    check(kancompress.encode(replace(model, layers=(one, stays))))


def test_many_rows_and_wide_layers_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("edges._GATHERED", 100), ("edges._PRODUCTS", 20), ("layer._FEATURES", 700)):
        monkeypatch.setattr(f"kancompress.runtime.{name}", size)
    check(kancompress.encode(packed(fresh("kan", (11, 9, 4)))))
    check(kancompress.encode(packed(fresh("gramkanconv", (2, 4, 5, 3)))), (1, 3))


# --- bases and activations --------------------------------------------------------------------


@pytest.mark.parametrize("degree", range(6))
@pytest.mark.parametrize("size", [1, 5])
def test_splines_are_scipys(degree: int, size: int) -> None:
    low, high = -1.0, 2.0
    h = (high - low) / size
    knots = low + np.arange(-degree, size + degree + 1) * h
    z = np.random.default_rng(0).uniform(knots[0] - h, knots[-1] + h, 300)
    expected = np.stack(
        [
            np.nan_to_num(BSpline.basis_element(knots[b : b + degree + 2], extrapolate=False)(z))
            for b in range(size + degree)
        ]
    )
    uneven = knots + np.where(np.arange(len(knots)) == 0, -1e-3 * h, 0)
    cases = [
        (forms.UniformSplines((low, high, size), degree), {}, 1e-12),
        (forms.Splines(degree), {"knots": knots[None]}, 1e-12),
        (forms.Splines(degree), {"knots": uneven[None]}, 2e-3),
    ]
    for basis, arrays, distance in cases:
        planes = np.empty((len(z), size + degree, 1))
        fill_of(basis, arrays, np.dtype(np.float64))(z[:, None, None], planes)
        assert np.abs(planes[:, :, 0].T - expected).max() < distance


def test_erf() -> None:
    x = np.linspace(-6, 6, 20_001).astype(np.float32).astype(np.float64)
    exact = np.array([math.erf(number) for number in x])
    assert np.abs(erf(x) - exact).max() < 1e-15
    single = np.abs(erf(x.astype(np.float32)) - exact)
    assert single.max() < 1.5e-7


# --- rows -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["kan", "kanconv"])
def test_rows_of_another_shape_are_refused(name: str) -> None:
    network = load(kancompress.encode(fresh(name, (6, 5, 4))))
    words = "(rows, 6, height, width)" if name == "kanconv" else "(rows, 6)"
    for shape in ((6,), (3, 5), (3, 5, 4, 4), (3, 6, 1)):
        with pytest.raises(UsageError, match=r"x has the shape") as told:
            network.run(np.zeros(shape, np.float32))
        assert words in str(told.value)
        assert str(list(shape)) in str(told.value)
    with pytest.raises(UsageError, match="type complex64; numbers"):
        network.run(np.zeros((1, 6), np.complex64))


def test_numbers_of_any_type_and_no_rows() -> None:
    network = load(kancompress.encode(fresh("fastkan", (6, 5, 4))))
    x = np.arange(12).reshape(2, 6)
    expected = network.run(x.astype(np.float32))
    for rows in (x, x.astype(np.uint8), x.astype(np.float64), x.tolist()):
        np.testing.assert_array_equal(network.run(rows), expected)
    assert network.run(np.zeros((0, 6))).shape == (0, 4)
    maps = load(kancompress.encode(fresh("kanconv", (2, 3, 4))))
    assert maps.run(np.zeros((0, 2, 5, 5))).shape == (0, 4)


def test_extreme_rows_give_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    raw = kancompress.encode(packed(fresh("kan", (6, 5, 4))))
    x = np.array([[1e30, -1e30, 1e4, -1e4, 0, -0.0]], np.float32)
    np.testing.assert_allclose(load(raw).run(x), outputs(raw, x), rtol=1e-5)
    assert not recwarn.list


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e39])
def test_rows_that_are_not_finite_are_refused(number: float) -> None:
    network = load(kancompress.encode(fresh("kan", (6, 5, 4))))
    x = np.zeros((3, 6))
    x[1, 2] = number
    with pytest.raises(UsageError, match="NaN, infinity or numbers beyond float32") as told:
        network.run(x)
    assert told.value.fields == ("x",)


def with_data(mean: tuple[float, ...], std: tuple[float, ...], name: str = "cifar10") -> Network:
    model = fresh("kan", (6, 5, 4))
    data = DataSpec(name=name, classes=4, mean=mean, std=std)
    return load(kancompress.encode(replace(model, data=data)))


def test_raw_rows_are_normalised_channel_by_channel() -> None:
    network = with_data((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    x = np.array([[0.1, 0.6, 0.2, 1.2, 0.3, 0.8]])
    expected = [[0, 0.5, 0, 0.5, 0, 0.125]]
    np.testing.assert_allclose(network.normalised(x), expected)
    images = network.normalised(x.reshape(1, 3, 1, 2))
    np.testing.assert_allclose(images.reshape(1, 6), expected)
    assert network.normalised(x.astype(np.float32)).dtype == np.float32
    whole = network.normalised(np.array([[0, 51, 255, 0, 0, 0]], np.uint8))
    np.testing.assert_allclose(whole[0, :3], [-0.1, 0.1, 0.4], atol=1e-7)


def test_whole_numbers_of_digits_go_up_to_16() -> None:
    network = with_data((0.0,), (1.0,), "digits")
    np.testing.assert_allclose(network.normalised([[0, 4, 8, 16, 0, 0]])[0, :4], [0, 0.25, 0.5, 1])


def test_rows_of_data_without_a_mean_stay_as_they_are() -> None:
    x = np.array([[1.5, 2, 3, 4, 5, 6]])
    np.testing.assert_array_equal(with_data((), (), "file").normalised(x), x)


def test_raw_rows_that_cannot_be_normalised_are_refused() -> None:
    without = load(kancompress.encode(replace(fresh("kan", (6, 5, 4)), data=None)))
    with pytest.raises(UsageError, match="does not say on which data"):
        without.normalised(np.zeros((1, 6)))
    network = with_data((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))
    for shape in ((6,), (1, 5), (1, 2, 3, 1)):
        with pytest.raises(UsageError, match="rows with 3 channels"):
            network.normalised(np.zeros(shape))


# --- other libraries' networks ----------------------------------------------------------------


def check_foreign(model: PackedModel, options: RunOptions | None = None) -> Network:
    """The runtime gives the outputs, and the notes, of torch's network of the same file."""
    raw = kancompress.encode(model)
    network, expected = load(raw, options=options), packed_network(model, options)
    assert network.notes == expected.notes
    for count in (1, 40):
        x = rows_of(network, count)
        with torch.no_grad():
            y = expected(torch.from_numpy(x)).numpy()
        found = network.run(x)
        assert (found.dtype, found.shape) == (np.float32, y.shape)
        np.testing.assert_allclose(found, y, atol=1e-5 * max(1, np.abs(y).max()))
    return network


# One of each basis and step; the others are slow tests.
QUICK = ("bsrbf_kan", "faster_kan_default", "fourierkan_g5", "pykan_f64", "relu_kan_g5k3")


@needs_cases
@pytest.mark.parametrize(
    "case",
    [case if case in QUICK else pytest.param(case, marks=pytest.mark.slow) for case in SUPPORTED],
)
def test_golden_cases(case: str) -> None:
    """Beside the library's own outputs; all rows together: some layers see the whole batch."""
    folder, options = SHARED / case, OPTIONS.get(case)
    io = load_file(folder / "distinct8_io.safetensors")
    model = lossless(folder / "distinct8.pt", 8)
    network = check_foreign(model, options)
    y = network.run(io["x"].reshape(len(io["x"]), -1).numpy())
    np.testing.assert_allclose(y, io["y"].reshape(y.shape).float().numpy(), atol=1e-4)


@pytest.mark.parametrize("case", sorted(path.parent.name for path in OWN.glob("*/io.safetensors")))
def test_golden_cases_of_our_own(case: str) -> None:
    io = load_file(OWN / case / "io.safetensors")
    network = check_foreign(lossless(OWN / case / "state.safetensors"))
    y = network.run(io["x"].numpy())
    np.testing.assert_allclose(y, io["y"].numpy(), atol=1e-4)


@pytest.mark.parametrize("activation", sorted(Activation))
def test_activations_of_base_branches(activation: Activation) -> None:
    options = RunOptions(base_activation=activation)
    check_foreign(lossless(encoded(efficient_kan(uneven=activation == "gelu"))), options)


@pytest.mark.parametrize(
    "name",
    ["cheby_coeffs", "cheby2_coeffs", "legendre_coeffs", "hermite_coeffs", "bessel_coeffs"],
)
def test_polynomials(name: str) -> None:
    check_foreign(lossless(polynomial_state(name)))


def drawn(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return {
        name.replace("__", "."): torch.randn(shape, generator=rng) for name, shape in shapes.items()
    }


NORM = {"layer_norms__0__weight": (3,), "layer_norms__0__bias": (3,)}


@pytest.mark.parametrize(
    ("shapes", "layout"),
    {
        "jacobi": (
            {"a__norm__weight": (3,), "a__norm__bias": (3,), "a__base_weights": (3, 4),
             "a__jacobi_coeffs": (4, 3, 5)}, "",
        ),
        "gottlieb": ({"a__gottlieb_coeffs": (4, 3, 5), "a__alpha": (1,)}, ""),
        "chebyshev of a batch": (
            {"poly_weights__0": (3, 20), "base_weights__0": (3, 4)} | NORM, "torchkan-chebyshev",
        ),
    }.values(),
)  # fmt: skip
def test_layers_of_other_bases(shapes: dict[str, tuple[int, ...]], layout: str) -> None:
    options = RunOptions(layouts={"": layout}) if layout else None
    check_foreign(lossless(encoded(drawn(**shapes))), options)


def test_factors_that_the_file_keeps_apart() -> None:
    state = efficient_kan((11, 9, 4))
    network = check_foreign(lossless(encoded(state), keep_scaler=True))
    assert [layer.edges.gains[0].last for layer in network.program.layers] == [8, 8]


@pytest.mark.parametrize("keep", [False, True])
def test_masked_edges(keep: bool) -> None:
    """They need no factor of 0 where they are packed as zeros."""
    state = pruned(0.5, widths=(7, 9, 4))
    config = ClusterConfig(clusters=64, force_pack=True, keep_masked=keep)
    model = kancompress.cluster(state, config).model
    network = check_foreign(model)
    assert [bool(layer.edges.gains) for layer in network.program.layers] == [keep, keep]


def test_layers_that_the_file_has_as_they_were() -> None:
    state = efficient_kan((11, 9, 4))
    model = lossless(encoded(state), layouts={"layers.1": "none"})
    assert [layer.name for layer in model.layers] == ["layers.0"]
    network = check_foreign(model)
    last = network.program.layers[-1].edges
    assert last.rows is None
    assert len(last.gains) == 1


def test_options_without_a_meaning_are_refused() -> None:
    options = RunOptions(spline_order=2)
    with pytest.raises(UsageError, match="`spline_order` has no meaning for this file"):
        load(kancompress.encode(lossless(encoded(efficient_kan()))), options=options)
    for record in (fresh("kan", (6, 5, 4)), packed(fresh("kan", (6, 5, 4)))):
        with pytest.raises(UsageError, match="`spline_order` belongs to other libraries' files"):
            load(kancompress.encode(record), options=options)


@needs_cases
@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("pykan_multkan", r"8 outputs.*multiplication.*6 inputs"),
        ("pykan_symbolic_masked", "symbolic"),
        ("convkan_g1", "stride and padding"),
    ],
)
def test_layers_that_cannot_run_are_refused(case: str, words: str) -> None:
    raw = kancompress.encode(lossless(SHARED / case / "state.pt"))
    with pytest.raises(UsageError, match=words) as told:
        load(raw)
    with pytest.raises(UsageError) as also:
        packed_network(kancompress.load(raw))  # type: ignore[arg-type]
    assert str(told.value) == str(also.value)


def test_files_that_are_not_packed_name_what_to_do() -> None:
    path = Path(__file__).parent / "cases" / "efficient_kan_default" / "state.safetensors"
    with pytest.raises(InvalidFileError, match=r"kancompress cluster FILE .* torch") as told:
        load(path)
    assert told.value.flaw is Flaw.NOT_KANCOMPRESS


def test_meta_networks_are_refused() -> None:
    with pytest.raises(UsageError, match=r"meta-learner.*pack it first"):
        load(kancompress.encode(fresh("metakan", (6, 5, 4))))


# --- without torch, and packed in memory --------------------------------------------------------

ALONE = """
import sys
before = set(sys.modules)
for name in ("torch", "scipy", "sklearn", "torchvision", "safetensors", "typer", "click", "rich"):
    sys.modules[name] = None  # so that an import raises
import numpy as np
from kancompress.runtime import load
print("kancompress.libraries" in sys.modules)
for path in sys.argv[1:]:
    x = np.linspace(-1, 1, 6, dtype=np.float32)[None]
    print(*load(path).run(x)[0])
loaded = {name.partition(".")[0] for name in set(sys.modules) - before if sys.modules[name]}
print(*sorted(loaded - sys.stdlib_module_names))
"""


def test_numpy_is_enough(tmp_path: Path) -> None:
    """In an interpreter that can import nothing else."""
    models = {"native": packed(fresh("fastkan", (6, 5, 4))), "foreign": efficient_model()}
    for name, model in models.items():
        kancompress.save(model, tmp_path / name)
    paths = [str(tmp_path / name) for name in models]
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *paths],
        env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    recognised, *rows, names = done.stdout.splitlines()
    assert recognised == "False"
    x = np.linspace(-1, 1, 6, dtype=np.float32)[None]
    for path, row in zip(paths, rows, strict=True):
        expected = outputs(Path(path).read_bytes(), x)[0]
        np.testing.assert_allclose([float(word) for word in row.split()], expected, atol=3e-6)
    assert names.split() == ["kancompress", "numpy"]


def efficient_model() -> PackedModel:
    return lossless(encoded(efficient_kan()))


def wide_file() -> bytes:
    """A file of 400 x 2,000 edges of 9 coefficients, 29 MB when they are written out."""
    model = packed(fresh("kan", (4, 3)))
    rng = np.random.default_rng(0)
    index = rng.integers(0, 16, 800_000, dtype=np.uint8)
    table = torch.from_numpy(rng.standard_normal((16, 9)).astype(np.float32))
    layer = replace(model.layers[0], shape=(400, 2000), index=index, codebook=table)
    return kancompress.encode(replace(model, layers=(layer,), data=None))


def test_dense_coefficients_are_never_all_held() -> None:
    raw, dense = wide_file(), 4 * 9 * 800_000
    tracemalloc.start()
    try:
        network = load(raw)
        held = tracemalloc.get_traced_memory()[0]
        for rows in (1, 32):
            network.run(rows_of(network, rows))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held < dense / 20
    assert peak < dense / 2.5
