"""Layers of other libraries are recognised by names and shapes together, gathered and rebuilt."""

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import kancompress
from kancompress.errors import KancompressError, UsageError
from kancompress.formats.edges.axes import completed, parse_axes
from kancompress.formats.edges.found import FoundLayer, Part
from kancompress.libraries import LAYOUTS, describe, parse_layout, recognise
from kancompress.models.restoration import Restored
from kancompress.models.vectors import from_edges, gather, packable, scatter, to_edges
from packed_checker import checker

CASES = Path(__file__).parents[2] / "shared" / "cases"
NAMES = sorted(path.parent.name for path in CASES.glob("*/case.json"))
TRAPS = CASES / "traps"
shared = pytest.mark.skipif(not CASES.is_dir(), reason="the golden cases are not here")

# Layout of each case, by the start of its name; the longest start counts.
EXPECTED = {
    "bsrbf_kan": "bsrbf-kan",
    "chebykan": "cheby-kan",
    "convkan": "convkan",
    "convolutional_kans": "convolutional-kans",
    "efficient_kan": "efficient-kan",
    "fast_kan": "fast-kan",
    "fast_kan_nobase": "fast-kan-no-base",
    "faster_kan": "faster-kan",
    "flashkan": "flashkan",
    "fourierkan": "fourier-kan",
    "gramkan": "gramkan",
    "inkan": "inkan",
    "matrixkan": "matrixkan",
    "metakan": "metakan",
    "orthogpoly_legendre": "orthogpoly-legendre",
    "pykan": "pykan",
    "rbf_kan_sidhu": "rbf-kan",
    "relu_kan": "relu-kan",
    "tck_SimpleConvKAGN": "kagn-conv",
    "tck_SimpleConvKAN": "kan-conv",
    "tck_SimpleFastConvKAN": "fastkan-conv",
    "tck_fastkanconv": "fastkan-conv",
    "tck_fc_kagn": "torch-conv-kan-gram",
    "tck_fc_kan": "torch-conv-kan-fc",
    "tck_kabnconv": "kabn-conv",
    "tck_kacnconv": "kacn-conv",
    "tck_kagnconv": "kagn-conv",
    "tck_kajnconv": "kajn-conv",
    "tck_kalnconv": "kaln-conv",
    "tck_kanconv": "kan-conv",
    "torchkan_kal": "torchkan-poly",
    "torchkan_kan": "torchkan",
}
ALIKE = ("kaln-conv", "kajn-conv", "kabn-conv")


def expected_layout(case: str) -> str:
    return EXPECTED[max((start for start in EXPECTED if case.startswith(start)), key=len)]


def load(case: str, name: str) -> tuple[dict[str, Tensor], tuple[FoundLayer, ...]]:
    tensors = torch.load(CASES / case / f"{name}.pt", weights_only=True)
    layout = expected_layout(case)
    found = recognise(tensors, {"": layout} if layout in ALIKE else {})
    assert found.problems == ()
    return tensors, found.layers


def facts(case: str) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = json.loads((CASES / case / "case.json").read_text())["layers"]
    return layers


def pooled(layers: tuple[FoundLayer, ...]) -> list[list[FoundLayer]]:
    groups: dict[str, list[FoundLayer]] = defaultdict(list)
    for layer in layers:
        groups[layer.codebook_group or f"{layer.name} alone"].append(layer)
    return list(groups.values())


def named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


# --- the golden cases -----------------------------------------------------------------------


@shared
@pytest.mark.parametrize("case", NAMES)
def test_a_case_has_the_layers_that_its_library_made(case: str) -> None:
    _, layers = load(case, "state")
    assert {layer.layout for layer in layers} == {expected_layout(case)}
    pools, expected = pooled(layers), facts(case)
    assert len(pools) == len(expected)
    for pool, fact in zip(pools, expected, strict=True):
        assert sum(layer.edges for layer in pool) == fact["n_edges"]
        length = fact.get("d", 8)  # flashkan and inkan do not say: 7 splines and a base weight
        if case.startswith("metakan"):
            length = fact["hyper"]["generated_vector_length"]
        assert {layer.coefficients for layer in pool} == {length}
        kernel = fact.get("kernel")
        if len(pool) > 1 or case.startswith("convkan"):
            continue  # these shapes do not tell channels from kernel positions
        inputs = fact["in"] // (fact.get("groups") or 1)
        assert pool[0].shape == (fact["out"], inputs, *(kernel or ()))
        assert pool[0].groups == (fact.get("groups") or 1)


@shared
@pytest.mark.parametrize("case", NAMES)
def test_a_case_with_8_distinct_vectors_is_gathered_as_such(case: str) -> None:
    tensors, layers = load(case, "distinct8")
    for pool in pooled(layers):
        vectors = torch.cat([gather(x, tensors)[packable(x, tensors)] for x in pool])
        if len(vectors) >= 8:
            assert len(torch.unique(vectors, dim=0)) <= 8


@shared
@pytest.mark.parametrize("name", ["state", "distinct8"])
@pytest.mark.parametrize("case", [case for case in NAMES if not case.startswith("metakan")])
def test_scattering_what_was_gathered_gives_the_tensors_back(case: str, name: str) -> None:
    tensors, layers = load(case, name)
    for layer in layers:
        vectors = gather(layer, tensors)
        rebuilt = scatter(layer, vectors)
        folded = {gain.tensor for gain in layer.gains}
        for key, tensor in rebuilt.items():
            assert tensor.shape == tensors[key].shape
            assert tensor.dtype == tensors[key].dtype
            if key in folded:
                assert torch.equal(tensor, torch.ones_like(tensor))
            elif not folded or "base" in key:
                assert torch.equal(tensor, tensors[key])
        assert torch.equal(gather(layer, dict(tensors) | rebuilt), vectors)


@shared
@pytest.mark.parametrize("case", NAMES)
def test_every_tensor_belongs_to_one_layer_or_to_none(case: str) -> None:
    tensors, layers = load(case, "state")
    layout = expected_layout(case)
    others = recognise(tensors, {"": layout} if layout in ALIKE else {}).others
    owned = [name for layer in layers for name in layer.tensors]
    assert len(owned) == len(set(owned))
    assert {*owned, *others} == set(tensors)
    assert not set(owned) & set(others)


@shared
def test_metakan_generates_the_vectors_that_the_library_generated() -> None:
    from safetensors.torch import load_file

    tensors, layers = load("metakan_e1", "state")
    generated = load_file(CASES / "metakan_e1" / "generated.safetensors")
    for layer, name in zip(layers, sorted(generated), strict=True):
        torch.testing.assert_close(gather(layer, tensors), generated[name].flatten(0, 1))
        with pytest.raises(KancompressError, match="generates its vectors"):
            scatter(layer, gather(layer, tensors))


@shared
def test_masked_and_symbolic_edges_of_pykan_are_not_packed() -> None:
    tensors, layers = load("pykan_symbolic_masked", "state")
    fact = json.loads((CASES / "pykan_symbolic_masked" / "case.json").read_text())
    for number, layer in enumerate(layers):
        dead = [edge[:2] for edge in fact["symbolic_edges_in_out"][str(number)]]
        dead += fact["masked_edges_in_out"][str(number)]
        expected = torch.ones(layer.shape, dtype=torch.bool)
        for inner, outer in dead:
            expected[outer, inner] = False
        assert torch.equal(packable(layer, tensors).reshape(layer.shape), expected)
        assert layer.mask == f"act_fun.{number}.mask"


@shared
@pytest.mark.parametrize("case", [case for case in NAMES if expected_layout(case) in ALIKE])
def test_layouts_that_look_alike_are_not_guessed(case: str) -> None:
    tensors = torch.load(CASES / case / "state.pt", weights_only=True)
    found = recognise(tensors)
    assert found.layers == ()
    assert found.others == tuple(tensors)
    assert len(found.problems) == 2
    assert all(name in found.problems[0] for name in ALIKE)
    assert "`layouts` 0=kaln-conv" in found.problems[0]
    one = recognise(tensors, {"0": expected_layout(case)})
    assert [layer.name for layer in one.layers] == ["0"]
    assert len(one.problems) == 1


@shared
def test_the_wrong_one_of_two_orders_shows_in_the_number_of_distinct_vectors() -> None:
    tensors = torch.load(CASES / "tck_kalnconv_g1_inst" / "distinct8.pt", weights_only=True)
    for layer in recognise(tensors, {"": "kabn-conv"}).layers:
        assert len(torch.unique(gather(layer, tensors), dim=0)) > 8


# --- traps ----------------------------------------------------------------------------------

EFFICIENT = [("layers.0", (5, 7)), ("layers.1", (3, 5))]


@shared
@pytest.mark.parametrize("name", ["plain_cnn", "mlp", "transformer", "decoy_names", "empty"])
def test_files_without_kan_layers(name: str) -> None:
    tensors = torch.load(TRAPS / f"{name}.pt", weights_only=True)
    found = recognise(tensors)
    assert found.layers == ()
    assert found.problems == ()
    assert found.others == tuple(tensors)


@shared
@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("eff_plain", ""),
        ("ddp_prefixed", "module."),
        ("compile_prefixed", "_orig_mod."),
        ("ddp_compile_prefixed", "module._orig_mod."),
        ("eff_bf16", ""),
        ("eff_fp16", ""),
        ("eff_nan", ""),
        ("eff_inf", ""),
        ("eff_update_grid", ""),
    ],
)
def test_prefixes_and_types_do_not_hide_layers(name: str, prefix: str) -> None:
    tensors = torch.load(TRAPS / f"{name}.pt", weights_only=True)
    found = recognise(tensors)
    assert [(x.name, x.shape) for x in found.layers] == [(prefix + n, s) for n, s in EFFICIENT]
    assert found.others == ()
    for layer in found.layers:
        vectors = gather(layer, tensors)
        assert vectors.dtype == tensors[layer.parts[0].tensor].dtype
        assert all(t.dtype == vectors.dtype for t in scatter(layer, vectors).values())


@shared
def test_the_layers_of_a_mixed_file() -> None:
    tensors = torch.load(TRAPS / "mixed_cnn_efficient_kan.pt", weights_only=True)
    found = recognise(tensors)
    assert [(x.name, x.edges, x.coefficients) for x in found.layers] == [
        ("kan.layers.0", 40, 9),
        ("kan.layers.1", 15, 9),
    ]
    assert {name.split(".")[0] for name in found.others} == {"conv1", "bn", "conv2", "fc"}


@shared
@pytest.mark.parametrize(
    ("name", "edges"),
    [
        ("expanded_grid", [12]),
        ("single_edge", [1]),
        ("legacy_nonzip", [6]),
        ("tied_layers", [35, 35]),
    ],
)
def test_odd_files(name: str, edges: list[int]) -> None:
    tensors = torch.load(TRAPS / f"{name}.pt", weights_only=True)
    found = recognise(tensors)
    assert [layer.edges for layer in found.layers] == edges
    assert found.layers[0].name == {"expanded_grid": "", "tied_layers": "a"}.get(name, "layers.0")
    for layer in found.layers:
        rebuilt = scatter(layer, gather(layer, tensors))
        assert torch.equal(gather(layer, tensors | rebuilt), gather(layer, tensors))


# --- made by hand ---------------------------------------------------------------------------


def efficient(out: int = 3, inner: int = 4, scaler: bool = True) -> dict[str, Tensor]:
    tensors = {
        "base_weight": torch.randn(out, inner),
        "spline_weight": torch.randn(out, inner, 8),
        "grid": torch.randn(inner, 12),
    }
    return tensors | ({"spline_scaler": torch.randn(out, inner)} if scaler else {})


def test_efficient_kan_by_hand() -> None:
    tensors = efficient()
    (layer,) = recognise(tensors).layers
    assert (layer.name, layer.layout, layer.shape, layer.coefficients) == (
        "",
        "efficient-kan",
        (3, 4),
        9,
    )
    vectors = gather(layer, tensors).reshape(3, 4, 9)
    assert torch.equal(
        vectors[1, 2, :8], tensors["spline_weight"][1, 2] * tensors["spline_scaler"][1, 2]
    )
    assert vectors[1, 2, 8] == tensors["base_weight"][1, 2]
    assert "restored as ones" in layer.notes[0]
    assert layer.untouched == ("grid",)


def described(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    """Tensors below `0.`, each number its own."""
    rng = torch.Generator().manual_seed(0)
    return {f"0.{name}": torch.randn(shape, generator=rng) for name, shape in shapes.items()}


WAVELETS = dict.fromkeys(("wavelet_weights", "scale", "translation"), (5, 4))
FCN = {"W1": (4, 5, 3, 7), "W2": (4, 5, 1, 3), "B1": (4, 5, 3), "B2": (4, 5, 1)}


@pytest.mark.parametrize(
    ("text", "tensors", "shape", "vector"),
    [
        ("base=wavelet_weights:out in; base=scale:out in; base=translation:out in", WAVELETS,
         (5, 4), lambda t, o, i: [t["0.wavelet_weights"][o, i], t["0.scale"][o, i],
                                  t["0.translation"][o, i]]),
        ("coef=W1:in out coef_h coef_f; coef=W2:in out 1 coef_h; coef=B1:in out coef_h;"
         "base=B2:in out 1", FCN, (5, 4),
         lambda t, o, i: [*t["0.W1"][i, o].flatten(), *t["0.W2"][i, o].flatten(),
                          *t["0.B1"][i, o], t["0.B2"][i, o, 0]]),
        ("base=B2:in out 1; coef=W1:in out coef_h coef_f", FCN, (5, 4),
         lambda t, o, i: [t["0.B2"][i, o, 0], *t["0.W1"][i, o].flatten()]),
        ("coef=w:coef_a out in coef_b", {"w": (3, 5, 4, 2)}, (5, 4),
         lambda t, o, i: t["0.w"][:, o, i].flatten()),
        ("coef=w:out (in coef_a coef_b)", {"w": (5, 24), "v": (4, 2), "u": (3,)}, (5, 4), None),
        ("coef=w:out (in coef) kd kh kw; base=b:out in kd kh kw",
         {"w": (5, 24, 2, 3, 2), "b": (5, 4, 2, 3, 2)}, (5, 4, 2, 3, 2),
         lambda t, o, i, *k: [*(t["0.w"][o, i * 6 + c][k] for c in range(6)), t["0.b"][o, i][k]]),
        ("coef=w:out in coef kh", {"w": (5, 4, 6, 3)}, (5, 4, 3, 1),
         lambda t, o, i, k, _: t["0.w"][o, i, :, k]),
        ("coef=w:out in coef kd kw", {"w": (5, 4, 6, 3, 2)}, (5, 4, 3, 1, 2),
         lambda t, o, i, k, _, m: t["0.w"][o, i, :, k, m]),
    ],
)  # fmt: skip
def test_edges_in_several_tensors_pieces_and_volumes(
    text: str, tensors: dict[str, tuple[int, ...]], shape: tuple[int, ...], vector: Any
) -> None:
    state = described(**tensors)
    if vector is None:  # nothing tells how one axis divides into two
        with pytest.raises(UsageError, match="no tensor tells how"):
            recognise(state, {"": text})
        return
    (layer,) = recognise(state, {"": text}).layers
    assert layer.shape == shape
    vectors = gather(layer, state).reshape(*shape, -1)
    for edge in itertools.product(*map(range, shape)):
        expected = torch.stack([torch.as_tensor(x) for x in vector(state, *edge)])
        assert torch.equal(vectors[edge], expected)
    config = kancompress.ClusterConfig(clusters=1000, force_pack=True)
    raw = kancompress.encode(kancompress.cluster(state, config, layouts={"": text}).model)
    assert checker(raw) is None
    restored = kancompress.expand(raw)
    assert isinstance(restored, Restored)
    assert list(restored.tensors) == list(state)
    for name, tensor in state.items():
        assert torch.equal(restored.tensors[name], tensor)


def test_pykan_layers_alone_are_not_those_of_its_networks() -> None:
    rng = torch.Generator().manual_seed(0)
    state = {
        "q.grid": torch.linspace(-1, 1, 6).repeat(12, 1), "q.coef": torch.randn(12, 8),
        "q.scale_base": torch.randn(12, generator=rng), "q.mask": torch.ones(12),
        "q.scale_sp": torch.randn(12, generator=rng),
    }  # fmt: skip
    (layer,) = recognise(state).layers
    assert (layer.layout, layer.shape) == ("pykan-layer-0.0", (12, 1))
    expected = torch.cat([state["q.coef"] * state["q.scale_sp"][:, None],
                          state["q.scale_base"][:, None]], dim=1)  # fmt: skip
    assert torch.equal(gather(layer, state), expected)
    # below act_fun there are symbolic masks and biases, which this layout does not look for
    moved = {name.replace("q.", "act_fun.0."): tensor for name, tensor in state.items()}
    found = recognise(moved)
    assert not found.layers
    assert "act_fun.0" in found.problems[0]


@pytest.mark.parametrize(("kernel", "suffix"), [((3, 2), ""), ((3,), "1d")])
def test_groups_of_kanlib_are_told_by_the_grid_of_all_inputs(
    kernel: tuple[int, ...], suffix: str
) -> None:
    state = described(coefficients=(6, 4, *kernel, 8), weight_residual=(6, 4, *kernel),
                      **{"basis.grid": (8, 12)})  # fmt: skip
    (layer,) = recognise(state).layers
    assert (layer.layout, layer.groups) == (f"kanlib-conv{suffix}-grouped", 2)
    vectors = gather(layer, state).reshape(6, 4, *kernel, 9)
    assert torch.equal(vectors[..., :8], state["0.coefficients"])
    assert torch.equal(vectors[..., 8], state["0.weight_residual"])
    state["0.basis.grid"] = state["0.basis.grid"][:4]
    (layer,) = recognise(state).layers
    assert (layer.layout, layer.groups) == (f"kanlib-conv{suffix}", 1)


def bottleneck(inner: int, kernel: str, **pieces: tuple[int, ...]) -> dict[str, Tensor]:
    """torch-conv-kan's layer between projections, from 8 to 16 channels in two groups."""
    ones, size = (1,) * len(kernel), tuple(map(int, kernel))
    shapes = {name: (*shape, *size) for name, shape in pieces.items()}
    for group in range(2):
        shapes |= {
            f"base_conv.{group}.weight": (8, 4, *size),
            f"inner_proj.{group}.weight": (inner, 4, *ones),
            f"out_proj.{group}.weight": (8, inner, *ones),
            f"layer_norm.{group}.weight": (8,),
        }
    return described(**shapes)


@pytest.mark.parametrize(
    ("kernel", "suffix", "shape"),
    [("5", "1d", (5, 1)), ("35", "", (3, 5)), ("235", "3d", (2, 3, 5))],
)
def test_bottlenecks_have_other_widths_than_what_is_around_them(
    kernel: str, suffix: str, shape: tuple[int, ...]
) -> None:
    gram = bottleneck(3, kernel, poly_weights=(2, 3, 12)) | {"0.beta_weights": torch.ones(4)}
    relu = bottleneck(3, kernel, **{f"relukan_conv.{g}.weight": (3, 12) for g in (0, 1)})
    phase = torch.ones(1, 3, 4, *(1,) * len(kernel))
    relu |= {"0.phase_low": phase, "0.phase_high": phase}
    experts = {name: t for name, t in gram.items() if "poly" in name or "beta" in name}
    for layout, state in (
        ("kagn-bottleneck", gram), ("relukan-bottleneck", relu), ("kagn-expert", experts),
    ):  # fmt: skip
        (layer,) = recognise(state).layers
        assert (layer.layout, layer.groups) == (layout + suffix, 2)
        assert (layer.shape, layer.coefficients) == ((6, 3, *shape), 4)
        vectors = gather(layer, state).reshape(2, 3, 3, *shape, 4)
        weight = "0.relukan_conv.1.weight" if layout.startswith("relu") else "0.poly_weights"
        at = state[weight] if layout.startswith("relu") else state[weight][1]
        order = [2 * 4 + 3, 4 + 3] if layout.startswith("relu") else [3 * 3 + 2, 3 * 3 + 1]
        # group 1, output 0, inputs 2 and 1, coefficient 3
        for channel, where in zip((2, 1), order, strict=True):
            expected = at[0, where].reshape(shape)
            assert torch.equal(vectors[1, 0, channel][..., 3], expected)


@pytest.mark.parametrize(
    ("knots", "why"),
    [(1, "spline order -2"), (4, "spline order 1"), (7, "0 intervals"), (6, "")],
)
def test_flashkan_w_needs_the_knots_of_its_splines(knots: int, why: str) -> None:
    # of order k on G intervals: G + 2k - 1 knots, G + k rows; G + k = 4 and G = 1 makes 6 knots
    found = recognise({"attn.w": torch.ones(4, 32, 32), "attn.t": torch.ones(knots)})
    assert [layer.layout for layer in found.layers] == ["flashkan-w"] * (not why)
    assert all(why in problem for problem in found.problems)
    assert len(found.problems) == bool(why)


def test_fast_kan_by_hand() -> None:
    tensors = {
        "rbf.grid": torch.randn(5),
        "spline_linear.weight": torch.randn(3, 20),
        "base_linear.weight": torch.randn(3, 4),
        "base_linear.bias": torch.randn(3),
    }
    (layer,) = recognise(tensors).layers
    vectors = gather(layer, tensors).reshape(3, 4, 6)
    assert torch.equal(vectors[2, 1, :5], tensors["spline_linear.weight"][2, 5:10])
    assert layer.untouched == ("rbf.grid", "base_linear.bias")


def test_chebykan_by_hand() -> None:
    tensors = {"a.cheby_coeffs": torch.randn(4, 3, 5)}
    (layer,) = recognise(tensors).layers
    assert layer.shape == (3, 4)
    assert torch.equal(gather(layer, tensors)[1 * 4 + 2], tensors["a.cheby_coeffs"][2, 1])


def test_kagn_convolution_in_groups_by_hand() -> None:
    tensors = {
        "poly_weights": torch.randn(2, 3, 8, 3, 2),
        "beta_weights": torch.randn(4),
        "base_conv.0.weight": torch.randn(3, 2, 3, 2),
        "base_conv.1.weight": torch.randn(3, 2, 3, 2),
        "layer_norm.0.weight": torch.randn(3),
        "layer_norm.1.weight": torch.randn(3),
    }
    (layer,) = recognise(tensors).layers
    assert (layer.shape, layer.groups, layer.coefficients) == ((6, 2, 3, 2), 2, 5)
    vectors = gather(layer, tensors).reshape(6, 2, 3, 2, 5)
    # Output 4 is number 1 of group 1; degree d of input 1 is channel d * 2 + 1.
    assert torch.equal(vectors[4, 1, 2, 0, :4], tensors["poly_weights"][1, 1, 1::2, 2, 0])
    assert vectors[4, 1, 2, 0, 4] == tensors["base_conv.1.weight"][1, 1, 2, 0]
    rebuilt = scatter(layer, gather(layer, tensors))
    assert all(torch.equal(rebuilt[name], tensors[name]) for name in rebuilt)
    assert set(rebuilt) | set(layer.untouched) == set(tensors)


def test_one_dimensional_convolutions_have_a_kernel_of_width_1() -> None:
    tensors = {
        "arange": torch.arange(4).reshape(1, 1, 4, 1),
        "poly_conv.0.weight": torch.randn(5, 12, 3),
    }
    (layer,) = recognise(tensors).layers
    assert (layer.layout, layer.shape) == ("kacn-conv1d", (5, 3, 3, 1))
    assert torch.equal(
        scatter(layer, gather(layer, tensors))["poly_conv.0.weight"],
        tensors["poly_conv.0.weight"],
    )


def test_old_pykan_by_hand() -> None:
    tensors = {
        "biases.0.weight": torch.randn(1, 3),
        "act_fun.0.grid": torch.randn(12, 6),
        "act_fun.0.coef": torch.randn(12, 8),
        "act_fun.0.scale_base": torch.randn(12),
        "act_fun.0.scale_sp": torch.randn(12),
        "act_fun.0.mask": torch.tensor([1.0] * 11 + [0.0]),
        "symbolic_fun.0.mask": torch.zeros(3, 4),
        "symbolic_fun.0.affine": torch.zeros(3, 4, 4),
    }
    (layer,) = recognise(tensors).layers
    assert (layer.layout, layer.shape, layer.coefficients) == ("pykan-0.0", (3, 4), 9)
    assert packable(layer, tensors).tolist() == [True] * 11 + [False]


def test_meta_tensors_are_enough() -> None:
    tensors = {name: tensor.to("meta") for name, tensor in efficient().items()}
    assert len(recognise(tensors).layers) == 1


def test_one_file_may_mix_layouts() -> None:
    tensors = named(efficient(), "a.") | {"b.cheby_coeffs": torch.randn(4, 3, 5)}
    tensors |= {"c.weight": torch.randn(3, 4), "c.bias": torch.randn(3)}
    found = recognise(tensors)
    assert [layer.layout for layer in found.layers] == ["efficient-kan", "cheby-kan"]
    assert found.others == ("c.weight", "c.bias")


# --- names that lie -------------------------------------------------------------------------


def test_efficient_kan_with_inputs_first_is_refused_with_the_numbers() -> None:
    tensors = named(efficient(), "layers.0.")
    for name in ("base_weight", "spline_weight", "spline_scaler"):
        tensors[f"layers.0.{name}"] = tensors[f"layers.0.{name}"].transpose(0, 1)
    found = recognise(tensors)
    assert found.layers == ()
    assert found.others == tuple(tensors)
    (problem,) = found.problems
    assert problem == (
        "layers.0 has names of the layout efficient-kan but was not taken for it:"
        " layers.0.grid of shape (4, 12) (in knots) gives in = 4 where layers.0.spline_weight of"
        " shape (4, 3, 8) (out in coef) gives in = 3."
    )


@pytest.mark.parametrize(("knots", "order"), [(8, -1), (18, 9)])
def test_efficient_kan_with_a_grid_that_cannot_be(knots: int, order: int) -> None:
    tensors = efficient() | {"grid": torch.randn(4, knots)}
    (problem,) = recognise(tensors).problems
    assert f"a grid of {knots} knots does not go with 8 coefficients" in problem
    assert f"spline order {order}" in problem


def test_efficient_kan_without_a_grid_is_told() -> None:
    tensors = efficient()
    del tensors["grid"]
    (problem,) = recognise(tensors).problems
    assert problem == (
        "The top level has names of the layout efficient-kan but was not taken for it: grid is"
        " missing."
    )


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"spline_linear.weight": (3, 21), "rbf.grid": (5,)}, "no multiple of coef 5"),
        ({"cheby_coeffs": (4, 3, 5), "arange": (6,)}, "gives coef = 6 where"),
        ({"cheby_coeffs": (4, 3)}, "should have 3 axes"),
        ({"cheby_coeffs": (0, 3, 5)}, "is empty"),
        ({"fouriercoeffs": (3, 4, 5, 6)}, "the first axis has 3 where 2"),
        ({"weight": (5, 55), "grid_starts": (7,)}, "55 columns, no multiple of the 7 splines"),
        ({"poly_conv.0.weight": (6, 9, 3, 3), "arange": (1, 1, 4, 1, 1)}, "no multiple of coef 4"),
        (
            {
                "equal_size_conv.weight": (5, 1, 7, 8),
                "phase_low": (7, 8),
                "phase_height": (7, 8),
            },
            "gives in = 7 where",
        ),
    ],
)
def test_shapes_that_do_not_agree(tensors: dict[str, tuple[int, ...]], words: str) -> None:
    found = recognise({name: torch.zeros(shape) for name, shape in tensors.items()})
    assert found.layers == ()
    assert len(found.problems) == 1
    assert words in found.problems[0]


def test_a_tensor_belongs_to_one_layer_only() -> None:
    tensors = {"a.spline_weights.0": torch.randn(3, 4, 8), "a.poly_weights.0": torch.randn(3, 20)}
    tensors |= {"a.base_weights.0": torch.randn(3, 4), "a.grid_0": torch.randn(4, 12)}
    found = recognise(tensors)
    assert [layer.layout for layer in found.layers] == ["torchkan"]
    assert "a.base_weights.0 already belongs to another layer" in found.problems[0]


def test_vectors_of_another_shape_are_not_scattered() -> None:
    (layer,) = recognise(efficient()).layers
    with pytest.raises(KancompressError, match=r"12 edges of 9 coefficients; .* \(12, 8\)"):
        scatter(layer, torch.zeros(12, 8))


def test_integers_are_no_coefficients() -> None:
    (problem,) = recognise({"cheby_coeffs": torch.ones(4, 3, 5, dtype=torch.int64)}).problems
    assert "torch.int64" in problem


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e8m0fnu])
def test_coefficients_of_8_bits_are_refused_by_name(dtype: torch.dtype) -> None:
    for tensors in (efficient(), {"weight": torch.ones(4, 27), "grid_starts": torch.ones(8)}):
        (problem,) = recognise({name: t.to(dtype) for name, t in tensors.items()}).problems
        assert f"weight has the type {dtype}" in problem
        assert "16 to 64 bits" in problem


@pytest.mark.parametrize("name", ["spline_weight", "w", "coeff", "coefficients", "weight"])
def test_one_name_alone_says_nothing(name: str) -> None:
    found = recognise({name: torch.randn(3, 4, 8)})
    assert (found.layers, found.problems) == ((), ())


# --- written by hand ------------------------------------------------------------------------

BY_HAND = "coef=knots_w:in (coef out); base?=lin.weight:out in; scale=gain:out in; with=c:coef"


def test_a_layout_written_by_hand() -> None:
    tensors = {
        "x.knots_w": torch.randn(4, 15),
        "x.lin.weight": torch.randn(3, 4),
        "x.gain": torch.randn(3, 4),
        "x.c": torch.randn(5),
    }
    (layer,) = recognise(tensors, {"x": BY_HAND}).layers
    assert (layer.name, layer.layout, layer.shape, layer.coefficients) == (
        "x",
        "by-hand",
        (3, 4),
        6,
    )
    vectors = gather(layer, tensors)
    assert vectors[1 * 4 + 2, 3] == tensors["x.knots_w"][2, 3 * 3 + 1] * tensors["x.gain"][1, 2]
    assert recognise(tensors).layers == ()


def test_the_notation_can_say_the_raw_order_of_relu_kan() -> None:
    tensors = {"w": torch.randn(5, 1, 8, 7), "low": torch.randn(7, 8)}
    text = "coef=w:(out in coef); with=low:in coef"
    (layer,) = recognise(tensors, {"": text}).layers
    assert torch.equal(gather(layer, tensors), tensors["w"].reshape(35, 8))


def test_the_notation_comes_back_as_it_was() -> None:
    assert describe(parse_layout(BY_HAND)) == BY_HAND
    for layout in LAYOUTS:
        # a line has both axes; in this layout nothing tells one from the other
        if layout.finder is None and layout.name != "pykan-layer-0.0":
            text = describe(layout)
            assert describe(parse_layout(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("coef=w:out in koef", "unknown axis 'koef'"),
        ("coef=w:out (in coef", "end too early"),
        ("coef=w:out in coef in", "'in' twice"),
        ("coef=w:out in [coef]", "cannot be read at '['"),
        ("coef=w:out in", "should have the axis coef"),
        ("coef=w:out coef", "should have the axes out and in"),
        ("base?=w:out in", "should begin with coef=NAME:AXES or base=NAME:AXES"),
        ("base=w:out in", "no tensor is called w"),
        ("base=b:out in coef_h", "unknown axis 'coef_h'"),
        ("coef=w:out in coef_h half", "should have half beside coef alone"),
        ("coef=w:out in half", "should have the axis coef"),
        ("coef=w:coef_a out coef_b in coef_c", "should follow one another, or be two"),
        ("coef=w:coef_a coef_b out in coef_c", "should follow one another, or be two"),
        ("base=b:out in; coef=w:out in coef; scale=s:out in", "put base after coef"),
        ("base=b:out in; scale=s:out in", "no coef that it multiplies"),
        ("coef=spline_weight:out in kd coef; base=base_weight:out in", "should have 4 axes"),
        ("coef=w:out in coef; base=b:out in coef", "should not have the axis coef"),
        ("coef=w:out in coef; bias=b:out", "'bias=b:out' cannot be read"),
        ("coef=w:", "end too early"),
        ("coef=nowhere:out in coef", "no tensor is called nowhere"),
        ("coef=spline_weight:out in coef; base=b:out in", "b is missing"),
        ("coef=spline_weight:in out coef; base=base_weight:out in", "gives out = 3 where"),
        ("efficient", "No layout is called 'efficient'"),
        ("cheby-kan", "The layout cheby-kan does not fit any layer"),
    ],
)
def test_choices_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        recognise(efficient(), {"": text})
    assert words in str(caught.value)


def test_many_layers_with_one_reason_are_one_sentence() -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(12):
        shapes |= {f"features.{number}.w": (3 + number, 5, 4), f"features.{number}.t": (2,)}
    state = {name: torch.ones(shape) for name, shape in shapes.items()}
    (problem,) = recognise(state).problems
    assert "features.0, features.1, features.2 and 9 more have names of the layout" in problem
    assert "Of the first: 2 knots do not go with 3 coefficients" in problem
    two = {name: tensor for name, tensor in state.items() if name[9:11] in ("0.", "1.")}
    assert len(recognise(two).problems) == 2


def test_many_layers_that_are_open_are_one_question() -> None:
    state: dict[str, Tensor] = {}
    for number in range(5):
        state |= {f"features.{number}.poly_weights": torch.ones(1, 4, 12, 3, 3),
                  f"features.{number}.base_conv.0.weight": torch.ones(4, 3, 3, 3)}  # fmt: skip
    found = recognise(state)
    (question,) = found.ambiguous
    assert found.problems == (str(question),)
    assert found.undecided == tuple(f"features.{number}" for number in range(5))
    assert "features.2 and 2 more have the names and shapes" in str(question)
    assert "`layouts` kaln-conv," in str(question)
    assert "`layouts` features.0=kaln-conv" in str(question)
    numbers = kancompress.ClusterConfig(layers={"features.4": 8})
    with pytest.raises(UsageError) as caught:
        kancompress.cluster(state, numbers)  # and not that there is no layer of this name
    assert caught.value.sentences == (str(question),)


def test_a_choice_for_a_stem_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"does not fit any layer of 'y'"):
        recognise(named(efficient(), "x."), {"y": "efficient-kan"})


# --- axes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_our_axes_mean_what_einops_means(layout: Any) -> None:
    einops = pytest.importorskip("einops")  # which warns of the axis name "in", a keyword
    sizes = {"group": 2, "out": 3, "in": 4, "kd": 3, "kh": 5, "kw": 2, "half": 2, "coef": 3}
    for piece in layout.pieces:
        axes = parse_axes(completed(piece.memory or piece.axes))
        names = {name: sizes[name] for name in axes.names}
        edge = " ".join(n for n in sizes if n in names and n not in ("half", "coef"))
        numbers = " ".join(n for n in ("half", "coef") if n in names)
        shape = [torch.Size(names[n] for n in dim).numel() for dim in axes.dims]
        tensor = torch.arange(torch.Size(shape).numel()).reshape(shape)
        ours = to_edges(tensor, axes, names)
        pattern = (
            f"{axes.text.replace('in', 'inner')} -> ({edge.replace('in', 'inner')}) ({numbers})"
        )
        named_sizes = {name.replace("in", "inner"): size for name, size in names.items()}
        assert torch.equal(ours, einops.rearrange(tensor, pattern, **named_sizes))
        assert torch.equal(from_edges(ours, axes, names).reshape(shape), tensor)


def test_names_of_layouts_are_unique() -> None:
    names = [layout.name for layout in LAYOUTS]
    assert len(names) == len(set(names))
    assert {rival for layout in LAYOUTS for rival in layout.rivals} <= set(names)


def test_halves_in_the_columns_of_a_tensor_are_those_of_the_columns() -> None:
    """The shape that tells half and coef is that of the columns, not of the whole tensor."""
    parts = tuple(
        Part(
            tensor="both", axes="out in half coef", first=first, last=first + 4,
            shape=(2, 3, 2, 4), dtype="F32", columns=columns,
        )
        for first, columns in ((0, (0, 2)), (4, (2, 4)))
    )  # fmt: skip
    layer = FoundLayer(name="l", layout="", shape=(2, 3), coefficients=8, parts=parts)
    vectors = torch.arange(48.0).reshape(6, 8)
    made = scatter(layer, vectors)
    expected = vectors.reshape(2, 3, 2, 2, 2).permute(0, 1, 3, 2, 4).reshape(2, 3, 2, 4)
    assert torch.equal(made["both"], expected)
    assert torch.equal(gather(layer, made), vectors)
