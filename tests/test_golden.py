"""Our forward against the outputs of the real libraries (tests/cases/README.md)."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from kancompress.layers.edges import DenseEdges
from kancompress.layers.network import Network
from kancompress.models.native import native_layer
from kancompress.specs import BasisSpec, Family

CASES = Path(__file__).parent / "cases"


def golden(name: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    io = load_file(CASES / name / "io.safetensors")
    return load_file(CASES / name / "state.safetensors"), io["x"], io["y"]


def test_kan_equals_efficient_kan() -> None:
    state, x, y = golden("efficient_kan_default")
    spec = BasisSpec(family=Family.KAN, grid=(-1.0, 1.0, 5), degree=3)
    layers = []
    for number in range(2):
        at = f"layers.{number}."
        spline = state[at + "spline_weight"] * state[at + "spline_scaler"][..., None]
        coefficients = torch.cat([spline, state[at + "base_weight"][..., None]], dim=2)
        layers.append(native_layer(spec, DenseEdges(coefficients)))
    assert torch.allclose(Network(layers)(x), y, atol=1e-5)


def test_fastkan_equals_fast_kan() -> None:
    state, x, y = golden("fast_kan_default")
    spec = BasisSpec(family=Family.FASTKAN, grid=(-2.0, 2.0, 8), degree=None)
    layers = []
    for number in range(2):
        at = f"layers.{number}."
        base = state[at + "base_linear.weight"]
        spline = state[at + "spline_linear.weight"].reshape(*base.shape, 8)
        layers.append(
            native_layer(
                spec,
                DenseEdges(torch.cat([spline, base[..., None]], dim=2)),
                norm=torch.stack([state[at + "layernorm.weight"], state[at + "layernorm.bias"]]),
                bias=state[at + "base_linear.bias"],
            )
        )
    assert torch.allclose(Network(layers)(x), y, atol=1e-5)


def test_gramkan_equals_torch_conv_kan() -> None:
    state, x, y = golden("tck_fc_kagn")
    spec = BasisSpec(family=Family.GRAMKAN, grid=None, degree=4)
    layers = []
    for number in range(2):
        at = f"layers.{number}."
        basis = state[at + "grams_basis_weights"].transpose(0, 1)
        coefficients = torch.cat([basis, state[at + "base_weights"][..., None]], dim=2)
        norm = torch.stack([state[at + "norm.weight"], state[at + "norm.bias"]])
        layers.append(
            native_layer(spec, DenseEdges(coefficients), norm=norm, beta=state[at + "beta_weights"])
        )
    assert torch.allclose(Network(layers)(x), y, atol=1e-5)
