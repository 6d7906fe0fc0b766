"""Packed and restored state dicts run in the real classes of the libraries that PyPI has.

pykan, convkan, flashkan and inkan come with `pip install '.[test]'`; each test is skipped without
its library. The axes by which edges are made alike are written out here, apart from the layouts.
"""

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import kancompress
from kancompress import ClusterConfig
from kancompress.models.files import read_foreign
from kancompress.models.foreign import dense_network, packed_network
from kancompress.models.records import PackedModel
from kancompress.models.restoration import Restored

K = 6


def library(name: str) -> ModuleType:
    """A library, or a skipped test. What it warns of while it is loaded is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name)
        return importlib.import_module(name)


def build_pykan(seed: int) -> nn.Module:
    model: nn.Module = library("kan").KAN(
        width=[7, 5, 3], grid=4, k=3, seed=seed, noise_scale=0.5, auto_save=False
    )
    return model


class Alone(nn.Module):
    """pykan's KANLayer in a network of one's own; its first output is the layer's."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.kan = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.kan:
            x = layer(x)[0]
        return x


def build_pykan_layer(seed: int) -> nn.Module:
    library("kan")
    layer = library("kan.KANLayer").KANLayer
    torch.manual_seed(seed)
    return Alone([layer(i, o, num=4, k=3, noise_scale=0.5) for i, o in ((7, 5), (5, 3))])


def build_convkan(seed: int) -> nn.Module:
    convkan = library("convkan")
    torch.manual_seed(seed)
    return nn.Sequential(
        convkan.ConvKAN(2, 6, kernel_size=3, padding=1, groups=2),
        convkan.LayerNorm2D(6),
        convkan.ConvKAN(6, 4, kernel_size=3, stride=2, grid_size=4),
    )


def build_flashkan(seed: int) -> nn.Module:
    flashkan = library("flashkan")
    # Its layers call a compiled function; without it no compiler is needed.
    library("flashkan.layer").bspline_basis = library("flashkan.basis").bspline_basis_eager
    torch.manual_seed(seed)
    model: nn.Module = flashkan.KANNetwork([7, 5, 4], grid_size=4)
    return model


def build_inkan(seed: int) -> nn.Module:
    inkan = library("inkan")
    torch.manual_seed(seed)
    model: nn.Module = inkan.KANNetwork([7, 5, 4], grid_size=4, compile_basis=False)
    return model


def _pykan_edges(state: dict[str, Tensor]) -> list[list[Tensor]]:
    return [
        [state[f"act_fun.{n}.{name}"] for name in ("coef", "scale_base", "scale_sp")]
        for n in range(2)
    ]


def _pykan_layer_edges(state: dict[str, Tensor]) -> list[list[Tensor]]:
    names = ("coef", "scale_base", "scale_sp")
    return [[state[f"kan.{n}.{name}"] for name in names] for n in range(2)]


def _convkan_edges(state: dict[str, Tensor]) -> list[list[Tensor]]:
    names = ("spline_weight", "base_weight", "spline_scaler")
    return [[state[f"{n}.kan_layer.{name}"] for name in names] for n in (0, 2)]


def _flashkan_edges(state: dict[str, Tensor]) -> list[list[Tensor]]:
    return [
        [state[f"layers.{n}.{name}"] for name in ("spline_weight", "base_weight")] for n in range(2)
    ]


def _inkan_edges(state: dict[str, Tensor]) -> list[list[Tensor]]:
    layers = []
    for number, inputs in enumerate((7, 5)):
        weight = state[f"layers.{number}.weight"]
        splines = weight[:, : 7 * inputs].view(len(weight), inputs, 7)
        layers.append([splines, weight[:, 7 * inputs :]])
    return layers


@dataclass(frozen=True)
class Library:
    """One library's model, by seed.

    edges    : views of a state dict, for each layer: tensors whose leading axes count edges
    rows     : shape of an input
    runs     : whether we run its layers natively
    drawn    : names whose random start is replaced, so that all that is saved matters
    """

    name: str
    build: Callable[[int], nn.Module]
    edges: Callable[[dict[str, Tensor]], list[list[Tensor]]]
    rows: tuple[int, ...]
    runs: bool
    drawn: tuple[str, ...] = ()


LIBRARIES = [
    Library(
        "pykan", build_pykan, _pykan_edges, (7,), True,
        ("scale_sp", "node_bias", "node_scale", "subnode_bias", "subnode_scale"),
    ),
    Library(
        "pykan KANLayer", build_pykan_layer, _pykan_layer_edges, (7,), True, ("scale_sp",)
    ),
    Library(
        "convkan", build_convkan, _convkan_edges, (2, 8, 8), False,
        ("spline_weight", "spline_scaler", "gamma", "beta"),
    ),
    Library("flashkan", build_flashkan, _flashkan_edges, (7,), True, ("spline_weight",)),
    Library("inkan", build_inkan, _inkan_edges, (7,), True),
]  # fmt: skip
each_library = pytest.mark.parametrize("lib", LIBRARIES, ids=lambda lib: lib.name)


def network(lib: Library, seed: int = 0) -> nn.Module:
    """The real class with everything in it drawn at random."""
    model = lib.build(seed).eval()
    rng = torch.Generator().manual_seed(seed)
    state = model.state_dict()
    for name, tensor in state.items():
        if any(part in name for part in lib.drawn):
            tensor.copy_(torch.rand(tensor.shape, generator=rng) * 0.8 + 0.1)
    return model


def make_alike(lib: Library, model: nn.Module) -> None:
    """Give every layer's edges at most K different vectors, in place."""
    rng = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for tensors in lib.edges(model.state_dict()):
            shape = tensors[1].shape  # the base weights: one number an edge
            pick = torch.randint(K, shape, generator=rng)
            for tensor in tensors:
                table = torch.randn(K, *tensor.shape[len(shape) :], generator=rng)
                tensor.copy_(table[pick])


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        found: Tensor = model(x)
    return found


def inputs(lib: Library) -> Tensor:
    # Beyond the grid on both sides, too.
    return torch.randn(32, *lib.rows, generator=torch.Generator().manual_seed(5))


def round_trip(source: Path, clusters: int) -> tuple[PackedModel, Path]:
    """Packed and expanded through files, as the commands do."""
    config = ClusterConfig(clusters=clusters, force_pack=True)
    packed, restored = source.with_name("packed.safetensors"), source.with_name("restored.pt")
    kancompress.save(kancompress.cluster(source, config).model, packed)
    expanded = kancompress.expand(packed)
    assert isinstance(expanded, Restored)
    restored.write_bytes(expanded.encode())
    model = kancompress.load(packed)
    assert isinstance(model, PackedModel)
    return model, restored


def into_real_class(lib: Library, path: Path) -> nn.Module:
    model = lib.build(77)  # other weights, so that a tensor left out would show
    model.load_state_dict(torch.load(path, weights_only=True), strict=True)
    return model


@each_library
def test_layers_with_few_different_edges_come_back_as_the_same_function(
    lib: Library, tmp_path: Path
) -> None:
    model = network(lib)
    make_alike(lib, model)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    packed, restored = round_trip(tmp_path / "model.pt", K)
    assert len(packed.layers) == 2
    assert all(layer.codebook is not None for layer in packed.layers)
    again = into_real_class(lib, restored)
    x = inputs(lib)
    torch.testing.assert_close(outputs(again, x), outputs(model, x), atol=1e-5, rtol=1e-5)


@each_library
def test_a_lossy_file_runs_alike_in_the_real_class_and_natively(
    lib: Library, tmp_path: Path
) -> None:
    model, x = network(lib), inputs(lib)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    packed, restored = round_trip(tmp_path / "model.pt", 3)
    again = into_real_class(lib, restored)
    before, after = outputs(model, x), outputs(again, x)
    assert (before - after).abs().max() > 1e-2  # three vectors are not enough
    for tensors in lib.edges(again.state_dict()):
        edges = torch.cat([t.reshape(tensors[1].numel(), -1) for t in tensors], dim=1)
        assert len(edges.unique(dim=0)) == 3
    if lib.runs:
        source = read_foreign(tmp_path / "model.pt")
        # In float64: flashkan's sum of cubes cancels badly in float32 beyond the grid.
        for ours, theirs in ((dense_network(source), model), (packed_network(packed), again)):
            exact = outputs(theirs.double(), x.double()).float()
            torch.testing.assert_close(outputs(ours, x), exact, atol=1e-4, rtol=1e-4)


@each_library
def test_what_no_edge_owns_is_left_alone(lib: Library, tmp_path: Path) -> None:
    model = network(lib)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    restored = torch.load(round_trip(tmp_path / "model.pt", 3)[1], weights_only=True)
    state = model.state_dict()
    owned = {t.untyped_storage().data_ptr() for ts in lib.edges(state) for t in ts}
    assert list(restored) == list(state)
    for name, tensor in state.items():
        assert (restored[name].dtype, restored[name].shape) == (tensor.dtype, tensor.shape)
        if tensor.untyped_storage().data_ptr() not in owned:
            assert torch.equal(restored[name], tensor), name


@each_library
def test_a_live_model_is_compressed_to_what_its_file_is(lib: Library, tmp_path: Path) -> None:
    model, x = network(lib), inputs(lib)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    compressed = kancompress.compress(model, clusters=3, force_pack=True)
    live = lib.build(77)
    compressed.apply_to(live)
    filed = into_real_class(lib, round_trip(tmp_path / "model.pt", 3)[1])
    assert torch.equal(outputs(live, x), outputs(filed, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pykan_loads_a_packed_saveckpt_with_masked_and_symbolic_edges(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kan = library("kan")
    monkeypatch.chdir(tmp_path)  # saveckpt and loadckpt write beside the model, too
    model = network(LIBRARIES[0])
    model = model.double() if dtype == torch.float64 else model  # its own `to` takes devices only
    make_alike(LIBRARIES[0], model)
    model.fix_symbolic(0, 2, 1, "sin", fit_params_bool=False, log_history=False)
    model.remove_edge(0, 1, 2, log_history=False)
    model.saveckpt("mark")
    packed, restored = round_trip(Path("mark"), K + 1)
    assert all(layer.codebook is not None for layer in packed.layers)
    restored.rename("small_state")
    Path("mark_config.yml").rename("small_config.yml")
    torch.save(None, "small_cache_data")
    again = kan.KAN.loadckpt("small")
    if dtype == torch.float64:  # loadckpt builds a float32 model
        again = again.double()
        again.load_state_dict(torch.load("small_state", weights_only=True))
    x = inputs(LIBRARIES[0]).to(dtype)
    torch.testing.assert_close(outputs(again, x), outputs(model, x), atol=1e-5, rtol=1e-5)
    state = torch.load("small_state", weights_only=True)
    assert state["act_fun.0.coef"].dtype == dtype
    assert torch.equal(state["act_fun.0.mask"], model.act_fun[0].mask)
    for name in ("coef", "scale_base"):
        original, restored_ = getattr(model.act_fun[0], name), state[f"act_fun.0.{name}"]
        assert torch.equal(restored_[2, 1], original[2, 1])  # symbolic
        assert not restored_[1, 2].any()  # masked
