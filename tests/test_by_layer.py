"""Options that tell of one layer what others do not have: `STEM=VALUE`, `RunOptions.layers`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_packed_forms import EfficientKAN, efficient_kan, fast_kan, legendre, unsaved_grid
from torch import Tensor
from torch.nn import functional

import kancompress
from command import done, refused
from conftest import fresh
from kancompress import (
    Activation,
    CalibrationConfig,
    ClusterConfig,
    Method,
    RunOptions,
    UsageError,
)
from kancompress.models.files import read_foreign
from kancompress.models.foreign import dense_network

GELU, TANH = (
    RunOptions(base_activation=Activation.GELU),
    RunOptions(base_activation=Activation.TANH),
)
FEW = ClusterConfig(clusters=4, force_pack=True)


class Mixed(EfficientKAN):
    """efficient-kan's forward with an activation of each layer."""

    def __init__(self, state: dict[str, Tensor], *activations: Any) -> None:
        super().__init__(state, None)
        self.each = activations

    def forward(self, x: Tensor) -> Tensor:
        for number, activation in enumerate(self.each):
            at = f"layers.{number}."
            own = {"layers.0." + n.removeprefix(at): t for n, t in self.state.items() if at in n}
            x = EfficientKAN(own, activation)(x)
        return x


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with net.pt of three layers and rows.npz, where the commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch.save(efficient_kan((3, 5, 4, 2)), "net.pt")
    np.savez("rows.npz", x=inputs().numpy(), y=np.arange(200) % 2)
    yield tmp_path
    sys.modules.pop("mixed", None)


def inputs() -> Tensor:
    return torch.rand(200, 3, generator=torch.Generator().manual_seed(4)) - 0.5


ORACLES = [
    (RunOptions(layers={"layers.1": GELU}), (functional.silu, functional.gelu, functional.silu)),
    (
        RunOptions(base_activation=Activation.GELU, layers={"layers.0": TANH}),
        (torch.tanh, functional.gelu, functional.gelu),
    ),
    (
        RunOptions(layers={"layers.0": TANH, "layers.1": TANH, "layers.2": GELU}),
        (torch.tanh, torch.tanh, functional.gelu),
    ),
]


@pytest.mark.parametrize(("options", "activations"), ORACLES)
def test_each_layer_runs_with_its_own_activation(
    options: RunOptions, activations: tuple[Any, ...], tmp_path: Path
) -> None:
    state = efficient_kan((3, 5, 4, 2))
    torch.save(state, tmp_path / "net.pt")
    source = read_foreign(tmp_path / "net.pt")
    wanted = Mixed(state, *activations)(inputs())
    assert torch.allclose(dense_network(source, options)(inputs()), wanted, atol=1e-4)
    packed = kancompress.cluster(tmp_path / "net.pt", FEW, options=options)
    quick = CalibrationConfig(method=Method.CENTRED, starts=1)
    by_outputs = kancompress.cluster(
        tmp_path / "net.pt", FEW, options=options, rows=inputs(), calibration=quick
    )
    for model in (packed.model, by_outputs.model):
        oracle = Mixed(model.state_dict(), *activations)(inputs())
        (tmp_path / "packed.st").write_bytes(kancompress.encode(model))
        data = kancompress.DataOptions(file=tmp_path / "rows.npz")
        np.savez(tmp_path / "rows.npz", x=inputs().numpy(), y=inputs().numpy()[:, :2])
        found = kancompress.evaluate(tmp_path / "packed.st", data)  # the file says all of it
        held = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:40]
        assert torch.allclose(found.outputs, oracle[held], atol=1e-4)


def test_the_packed_file_says_it_of_each_layer() -> None:
    state = {
        **unsaved_grid("a."), **unsaved_grid("b."),
        **{f"c.{name}": tensor for name, tensor in fast_kan().items()},
        **{f"d.{name}": tensor for name, tensor in fast_kan().items()},
    }  # fmt: skip
    options = RunOptions(
        grid_range=(-2.0, 2.0),
        layers={
            "b": RunOptions(grid_range=(0.0, 1.0), spline_order=2),
            "d": RunOptions(rbf_denominator=0.5, base_activation=Activation.ELU),
        },
    )
    forms = kancompress.cluster(state, FEW, options=options).model.forms
    told = {name: {k: form.told[k] for k in form.told if k not in form.assumed}
            for name, form in forms.items()}  # fmt: skip
    assert told == {
        "a": {"grid_range": (-2.0, 2.0)},
        "b": {"grid_range": (0.0, 1.0), "spline_order": 2},
        "c": {},
        "d": {"rbf_denominator": 0.5, "base_activation": "elu"},
    }
    assert forms["c"].rbf_denominator == 1.0
    assert forms["a"].spline_order == 3


def test_a_stem_stands_for_all_layers_below_it_and_a_name_goes_before() -> None:
    """pykan keeps the layers of a network in lists at one stem."""
    state = {}
    for number, (i, o) in enumerate(((3, 4), (4, 2))):
        state |= {
            f"act_fun.{number}.grid": torch.linspace(-1.6, 1.6, 12).repeat(i, 1),
            f"act_fun.{number}.coef": torch.randn(i, o, 8),
            f"act_fun.{number}.mask": torch.ones(i, o),
            f"act_fun.{number}.scale_base": torch.randn(i, o),
            f"act_fun.{number}.scale_sp": torch.ones(i, o),
        }
    plain = kancompress.cluster(state, FEW).model.forms
    assert list(plain) == ["act_fun.0", "act_fun.1"]
    options = RunOptions(layers={".": GELU, "act_fun.1": TANH})
    forms = kancompress.cluster(state, FEW, options=options).model.forms
    assert [form.base_activation for form in forms.values()] == ["gelu", "tanh"]


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({"layers.9": GELU}, "There is no layer 'layers.9' of which `base_activation` could tell;"
         " the layers are 'layers.0', 'layers.1', 'poly.poly_weights.0'."),
        ({"layers.0": RunOptions(spline_order=2)},
         "`spline_order` has no meaning for layer 'layers.0', which is of the layout"
         " efficient-kan."),
        ({"poly": RunOptions(rbf_denominator=2.0)}, "`rbf_denominator`"),
        ({"layers.0": RunOptions(layouts={"": "efficient-kan"})}, "goes into `layouts`"),
    ],
    ids=["no layer", "no meaning", "another kind", "layouts"],
)  # fmt: skip
def test_what_is_told_of_no_layer_is_refused(layers: dict[str, RunOptions], said: str) -> None:
    state = efficient_kan() | {f"poly.{name}": tensor for name, tensor in legendre().items()}
    for rows in (None, inputs()):
        with pytest.raises(UsageError) as caught:
            kancompress.cluster(state, FEW, options=RunOptions(layers=layers), rows=rows)
        if rows is None:
            assert said in str(caught.value)


def test_a_file_that_says_otherwise_is_not_contradicted(place: Path) -> None:
    done("cluster", "net.pt", "-k", "4", "--base-activation", "layers.1=gelu", "-o", "p.st")
    data = ("--data", "rows.npz")
    said = refused(2, "eval", "p.st", *data, "--base-activation", "layers.1=tanh")
    assert "base activation of layer 'layers.1' is gelu, and --base-activation says tanh" in said
    done("eval", "p.st", *data, "--base-activation", "layers.1=gelu")
    done("eval", "p.st", *data, "--base-activation", "layers.0=tanh")  # nobody has told that


def test_on_the_command_line(place: Path) -> None:
    line = ("--base-activation", "identity", "--base-activation", "layers.1=gelu")
    done("eval", "net.pt", "--data", "rows.npz", *line, "--predictions", "out.npz")
    held = torch.randperm(200, generator=torch.Generator().manual_seed(0))[:40]
    oracle = Mixed(efficient_kan((3, 5, 4, 2)), torch.nn.Identity(), functional.gelu,
                   torch.nn.Identity())(inputs())  # fmt: skip
    assert np.allclose(np.load("out.npz")["outputs"], oracle[held].numpy(), atol=1e-4)


MODULE = """
import torch
from torch import nn
from torch.nn import functional

class Layer(nn.Module):
    def __init__(self, i, o, activation):
        super().__init__()
        self.activation = activation
        self.register_buffer("grid", (torch.arange(-3, 9) * 0.4 - 1).repeat(i, 1))
        self.base_weight = nn.Parameter(torch.randn(o, i))
        self.spline_weight = nn.Parameter(torch.randn(o, i, 8))

    def forward(self, x):
        far = (x[..., None] - self.grid[:, 2:-2]).abs() / 0.4
        splines = torch.where(far < 1, 2 / 3 - far**2 + far**3 / 2,
                              (2 - far).clamp(min=0) ** 3 / 6)
        base = functional.linear(self.activation(x), self.base_weight)
        return base + torch.einsum("nis,ois->no", splines, self.spline_weight)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = Layer(3, 6, functional.silu), Layer(6, 4, functional.gelu)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x)))
"""


def test_layers_of_the_users_model_with_different_activations(place: Path) -> None:
    (place / "mixed.py").write_text(MODULE)
    torch.save(kancompress.build_module("mixed:Net").state_dict(), "mixed.pt")
    line = ("cluster", "mixed.pt", "--calibrate", "rows.npz", "--model", "mixed:Net", "-k", "4",
            "--method", "centred", "-o", "p.st", "--force", "--base-activation")  # fmt: skip
    told = " ".join(done(*line, "b=gelu").stderr.split())
    assert "clustered by plain k-means" not in told
    assert "base activation gelu in 'b' (--base-activation)" in told
    forms = kancompress.load("p.st").forms  # type: ignore[union-attr]
    assert {name: form.base_activation for name, form in forms.items()} == {
        "a": Activation.SILU, "b": Activation.GELU
    }  # fmt: skip
    assert "no layer 'c' of which --base-activation could tell" in refused(2, *line, "c=gelu")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--base-activation", "layers.0=gelo", "--base-activation is gelo; one of silu, gelu,"),
        ("--rbf-denominator", "layers.0=-1", "--rbf-denominator is -1; a finite number above 0"),
        ("--rbf-denominator", "nan", "--rbf-denominator is nan; a finite number above 0"),
        ("--grid-range", "a=2,1", "--grid-range 2,1 is no range"),
        ("--grid-range", "1,2,3", "--grid-range 1,2,3 is no range"),
        ("--spline-order", "layers.0=17", "--spline-order is 17; a whole number from 0 to 16"),
        ("--spline-order", "2.5", "--spline-order is 2.5; a whole number from 0 to 16"),
        ("--spline-order", "layers.0=2", "--spline-order has no meaning for layer 'layers.0'"),
    ],
)
def test_values_that_mean_nothing(option: str, value: str, said: str, place: Path) -> None:
    assert said in refused(2, "eval", "net.pt", "--data", "rows.npz", option, value)


def test_nothing_is_told_twice(place: Path) -> None:
    twice = ("--base-activation", "layers.0=gelu", "--base-activation", "layers.0=silu")
    said = refused(2, "eval", "net.pt", "--data", "rows.npz", *twice)
    assert "--base-activation is given twice for layers.0" in said


def test_networks_of_our_own_say_it_themselves(place: Path) -> None:
    kancompress.save(fresh("fastkan", (3, 4, 2)), "own.st")
    said = refused(2, "eval", "own.st", "--data", "rows.npz", "--grid-range", "0=-1,1")
    assert "--grid-range belongs to other libraries' files" in said
