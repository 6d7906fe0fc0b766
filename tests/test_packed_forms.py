"""What a packed file says of its layers: written when packing, read by what runs the file."""

import io
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import kancompress
from command import done, refused
from hostile import FORMS, drop, made, put
from kancompress import (
    Activation,
    ClusterConfig,
    FormRecord,
    InvalidFileError,
    PackedModel,
    RunOptions,
    UsageError,
)
from kancompress.models.files import read_foreign
from kancompress.models.foreign import dense_network, packed_network

LOSSLESS = ClusterConfig(clusters=64, force_pack=True)
GELU = RunOptions(base_activation=Activation.GELU)
Options = dict[str, Any]


def saved(state: object) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def packed(source: Path | bytes, options: RunOptions | None = None, **more: Any) -> PackedModel:
    """Packed without loss, written and read again."""
    model = kancompress.cluster(source, LOSSLESS, options=options, **more).model
    again = kancompress.load(kancompress.encode(model))
    assert isinstance(again, PackedModel)
    return again


def old(model: PackedModel) -> PackedModel:
    """The file that was written before there were forms."""
    again = kancompress.load(kancompress.encode(replace(model, forms={})))
    assert isinstance(again, PackedModel)
    return again


def run(model: PackedModel, x: Tensor, options: RunOptions | None = None) -> Tensor:
    with torch.no_grad():
        return packed_network(model, options)(x)


# --- state dicts ------------------------------------------------------------------------------


def efficient_kan(widths: tuple[int, ...] = (3, 5, 2)) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for number, (inputs, out) in enumerate(pairwise(widths)):
        at = f"layers.{number}."
        state[at + "base_weight"] = torch.randn(out, inputs, generator=rng)
        state[at + "spline_weight"] = torch.randn(out, inputs, 8, generator=rng)
        state[at + "grid"] = (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1)
    return state


class EfficientKAN(nn.Module):
    """efficient-kan's forward, written after its source."""

    def __init__(self, state: dict[str, Tensor], activation: Any) -> None:
        super().__init__()
        self.state, self.activation = state, activation

    def forward(self, x: Tensor) -> Tensor:
        for number in range(len(self.state) // 3):
            at = f"layers.{number}."
            grid, z = self.state[at + "grid"], x[..., None]
            bases = ((z >= grid[:, :-1]) & (z < grid[:, 1:])).to(x)
            for k in (1, 2, 3):
                left = (z - grid[:, : -k - 1]) / (grid[:, k:-1] - grid[:, : -k - 1])
                right = (grid[:, k + 1 :] - z) / (grid[:, k + 1 :] - grid[:, 1:-k])
                bases = left * bases[..., :-1] + right * bases[..., 1:]
            spline = torch.einsum("bic,oic->bo", bases, self.state[at + "spline_weight"])
            x = self.activation(x) @ self.state[at + "base_weight"].T + spline
        return x


def fast_kan() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return {
        "rbf.grid": torch.linspace(-2, 2, 5),
        "spline_linear.weight": torch.randn(2, 3 * 5, generator=rng),
        "base_linear.weight": torch.randn(2, 3, generator=rng),
        "base_linear.bias": torch.randn(2, generator=rng),
    }


def unsaved_grid(prefix: str = "layers.0.") -> dict[str, Tensor]:
    """torch-conv-kan's fully connected layer, which saves no grid."""
    rng = torch.Generator().manual_seed(2)
    return {
        f"{prefix}base_weight": torch.randn(4, 3, generator=rng),
        f"{prefix}spline_weight": torch.randn(4, 3, 8, generator=rng),
        f"{prefix}layer_norm.weight": torch.ones(4),
        f"{prefix}layer_norm.bias": torch.zeros(4),
        f"{prefix}prelu.weight": torch.tensor([0.25]),
    }


def legendre() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(3)
    return {
        "poly_weights.0": torch.randn(4, 3 * 4, generator=rng),
        "base_weights.0": torch.randn(4, 3, generator=rng),
        "layer_norms.0.weight": torch.ones(4),
        "layer_norms.0.bias": torch.zeros(4),
    }


def rows(inputs: int = 3) -> Tensor:
    return torch.rand(50, inputs, generator=torch.Generator().manual_seed(4)) * 2 - 1


# --- what is written --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "options", "layer", "expected"),
    [
        (efficient_kan(), {}, "layers.1",
         FormRecord(layout="efficient-kan", base_activation=Activation.SILU,
                    assumed=("base_activation",))),
        (efficient_kan(), {"base_activation": Activation.GELU}, "layers.0",
         FormRecord(layout="efficient-kan", base_activation=Activation.GELU)),
        (fast_kan(), {"rbf_denominator": 0.75}, "",
         FormRecord(layout="fast-kan", base_activation=Activation.SILU, rbf_denominator=0.75,
                    assumed=("base_activation",))),
        (fast_kan(), {}, "",
         FormRecord(layout="fast-kan", base_activation=Activation.SILU, rbf_denominator=1.0,
                    assumed=("base_activation", "rbf_denominator"))),
        (unsaved_grid(), {"grid_range": (-2.0, 2.5)}, "layers.0",
         FormRecord(layout="torch-conv-kan-fc", base_activation=Activation.GELU,
                    grid_range=(-2.0, 2.5), spline_order=3,
                    assumed=("base_activation", "spline_order"))),
        (legendre(), {"layouts": {"": "torchkan-legendre"}}, "poly_weights.0",
         FormRecord(layout="torchkan-legendre", base_activation=Activation.SILU,
                    assumed=("base_activation",))),
        ({"only.cheby_coeffs": torch.randn(3, 2, 4)}, {}, "only", FormRecord(layout="cheby-kan")),
    ],
)  # fmt: skip
def test_the_file_says_what_was_told_and_what_was_assumed(
    state: dict[str, Tensor], options: Options, layer: str, expected: FormRecord
) -> None:
    model = packed(saved(state), RunOptions(**options))
    assert model.forms[layer] == expected
    assert len(model.forms) == (2 if "layers.1.grid" in state else 1)


@pytest.mark.parametrize(
    ("state", "options"),
    [
        (legendre(), {}),  # Legendre or Chebyshev?
        ({"mine.w": torch.randn(3, 2, 4)}, {"layouts": {"": "coef=w:in out coef"}}),
        ({"o.jacobi_coeffs": torch.randn(3, 2, 4)}, {}),
    ],
)
def test_what_is_not_known_is_not_said(state: dict[str, Tensor], options: Options) -> None:
    model = packed(saved(state), RunOptions(**options))
    assert model.forms == {}
    assert b"forms" not in kancompress.encode(model)


def test_all_ways_to_pack_say_the_same(tmp_path: Path) -> None:
    state = efficient_kan()
    expected = packed(saved(state), GELU).forms
    live = Holder(state)
    config = ClusterConfig(clusters=4, force_pack=True)
    assert kancompress.compress(live, config, options=GELU).model.forms == expected
    by_outputs = kancompress.cluster_by_outputs(saved(state), rows(), config, options=GELU)
    assert by_outputs.model.forms == expected
    grid = replace(config, metric=kancompress.Metric.GRID)
    assert kancompress.cluster(saved(state), grid, options=GELU).model.forms == expected
    within = replace(config, clusters=None, target_bytes=3000)
    found = kancompress.cluster(saved(state), within, options=GELU).model
    assert found.forms == expected
    assert len(kancompress.encode(found)) <= 3000


class Holder(nn.Module):
    """A module with a state dict of efficient-kan's names."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for number in range(len(state) // 3):
            layer = nn.Module()
            for name in ("base_weight", "spline_weight", "grid"):
                layer.register_buffer(name, state[f"layers.{number}.{name}"])
            self.layers.append(layer)


def test_the_size_that_inspect_predicts_counts_the_forms() -> None:
    source = saved(efficient_kan())
    report = kancompress.inspect(source, clusters=4)
    raw = kancompress.encode(kancompress.cluster(source, ClusterConfig(clusters=4)).model)
    assert report["predicted"]["file_bytes"] == len(raw)


def test_generated_layers_are_said_as_they_come_back() -> None:
    rng = torch.Generator().manual_seed(5)
    state = {
        "embeddings.0": torch.randn(6, 2, generator=rng),
        "hypernet.0.0.weight": torch.randn(4, 2, generator=rng),
        "hypernet.0.0.bias": torch.randn(4, generator=rng),
        "hypernet.0.2.weight": torch.randn(9, 4, generator=rng),
        "hypernet.0.2.bias": torch.randn(9, generator=rng),
        "layers.0.grid": (torch.arange(-3, 9) * 0.4 - 1).repeat(3, 1),
    }
    model = packed(saved(state), GELU)
    assert model.forms["layers.0"].layout == "efficient-kan"
    dense = dense_network(read_foreign(saved(state)), GELU)
    torch.testing.assert_close(run(model, rows()), dense(rows()).detach(), atol=1e-5, rtol=1e-5)
    # and the dense checkpoint teaches as the packed file says
    taught = dense_network(read_foreign(saved(state)), forms=model.forms)
    torch.testing.assert_close(taught(rows()), dense(rows()), atol=0, rtol=0)


# --- what is read -----------------------------------------------------------------------------


def test_gelu_is_not_forgotten() -> None:
    state = efficient_kan()
    x = rows()
    expected = EfficientKAN(state, functional.gelu)(x)
    model = packed(saved(state), GELU)
    torch.testing.assert_close(run(model, x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(run(model, x, GELU), expected, atol=1e-5, rtol=1e-5)
    other = EfficientKAN(state, functional.silu)(x)
    assert not torch.allclose(expected, other, atol=1e-2)
    torch.testing.assert_close(run(packed(saved(state)), x), other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("state", "options"),
    [
        (fast_kan(), {"rbf_denominator": 0.3, "base_activation": Activation.ELU}),
        (unsaved_grid(), {"grid_range": (-2.0, 2.5)}),
        (unsaved_grid(), {"spline_order": 2, "base_activation": Activation.ZERO}),
        (legendre(), {"layouts": {"": "torchkan-chebyshev"}}),
    ],
)
def test_what_was_told_is_not_forgotten(state: dict[str, Tensor], options: Options) -> None:
    told = RunOptions(**options)
    source = saved(state)
    expected = dense_network(read_foreign(source), told)(rows()).detach()
    model = packed(source, told)
    assert torch.allclose(run(model, rows()), expected, atol=1e-6)
    assert torch.equal(run(model, rows(), told), run(model, rows()))
    assert not packed_network(model).notes or any(form.assumed for form in model.forms.values())


@pytest.mark.parametrize(
    ("state", "told", "wish", "words"),
    [
        (efficient_kan(), {"base_activation": Activation.GELU},
         {"base_activation": Activation.SILU},
         "base activation of layer 'layers.0' is gelu, and `base_activation` says silu"),
        (fast_kan(), {"rbf_denominator": 0.75}, {"rbf_denominator": 1.0},
         "width of radial functions of layer '' is 0.75, and `rbf_denominator` says 1"),
        (unsaved_grid(), {"grid_range": (-2.0, 2.0)}, {"grid_range": (-1.0, 1.0)},
         "grid range of layer 'layers.0' is -2,2, and `grid_range` says -1,1"),
        (unsaved_grid(), {"spline_order": 2}, {"spline_order": 3},
         "spline order of layer 'layers.0' is 2, and `spline_order` says 3"),
        (legendre(), {"layouts": {"": "torchkan-legendre"}},
         {"layouts": {"": "torchkan-chebyshev"}},
         "is of the layout torchkan-legendre, and `layouts` that it is torchkan-chebyshev"),
    ],
)  # fmt: skip
def test_an_option_that_contradicts_the_file_is_refused(
    state: dict[str, Tensor], told: Options, wish: Options, words: str
) -> None:
    model = packed(saved(state), RunOptions(**told))
    with pytest.raises(UsageError) as caught:
        packed_network(model, RunOptions(**wish))
    assert words in str(caught.value)


def test_what_was_assumed_can_be_told_later(tmp_path: Path) -> None:
    state = efficient_kan()
    x = rows()
    expected = EfficientKAN(state, functional.gelu)(x)
    model = packed(saved(state))
    torch.testing.assert_close(run(model, x, GELU), expected, atol=1e-5, rtol=1e-5)
    assert packed_network(model).notes == (
        "efficient-kan: base activation silu (`base_activation`)",
    )
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=expected.numpy())
    data = kancompress.DataOptions(file=tmp_path / "data.npz")
    for untold in (model, old(model)):
        tuned = kancompress.finetune(
            untold, data, kancompress.FinetuneConfig(epochs=1), options=GELU
        )
        assert tuned.model.forms == packed(saved(state), GELU).forms
        assert kancompress.evaluate(tuned.model, data).score.loss < 1e-4


def test_files_without_forms_run_as_before() -> None:
    state, x = efficient_kan(), rows()
    model = packed(saved(state), GELU)
    before = old(model)
    assert before.forms == {}
    torch.testing.assert_close(
        run(before, x), EfficientKAN(state, functional.silu)(x), atol=1e-5, rtol=1e-5
    )
    assert torch.equal(run(before, x, GELU), run(model, x))
    assert packed_network(before).notes == (
        "efficient-kan: base activation silu (`base_activation`)",
    )
    assert packed_network(model).notes == ()


def test_a_teacher_computes_what_the_packed_file_says(tmp_path: Path) -> None:
    state, x = efficient_kan(), rows()
    np.savez(tmp_path / "data.npz", x=x.numpy())
    (tmp_path / "dense.pt").write_bytes(saved(state))
    data = kancompress.DataOptions(file=tmp_path / "data.npz")
    config = kancompress.FinetuneConfig(epochs=0)
    done = kancompress.finetune(
        packed(saved(state), GELU), data, config, teacher=tmp_path / "dense.pt"
    )
    assert done.validation.loss < 1e-9


# --- forms that lie ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"layout": "of-a-later-version"}, "of-a-later-version, which this kancompress does not"),
        ({"layout": "fast-kan"}, "layout fast-kan, which its tensors are not"),
        ({"layout": "efficient-kan"}, "lacks base_activation"),
        ({"layout": "efficient-kan", "base_activation": "silu", "spline_order": 3},
         "has spline_order, which a layer of the layout efficient-kan has no use for"),
        ({"layout": "efficient-kan", "base_activation": "silu", "symbolic": False},
         "has symbolic"),
    ],
)  # fmt: skip
def test_a_form_that_its_tensors_deny_is_refused_when_it_is_run(
    form: dict[str, Any], words: str
) -> None:
    model = packed(saved(efficient_kan()))
    raw = kancompress.encode(replace(model, forms={**model.forms, "layers.0": record_of(form)}))
    again = kancompress.load(raw)  # sound by the format
    assert isinstance(again, PackedModel)
    assert len(kancompress.expand(again).tensors) == 6
    with pytest.raises((UsageError, InvalidFileError)) as caught:
        packed_network(again)
    assert words in str(caught.value)


def record_of(form: dict[str, Any]) -> FormRecord:
    values = dict(form)
    if "base_activation" in values:
        values["base_activation"] = Activation(values["base_activation"])
    return FormRecord(**values)


def test_a_form_of_what_is_no_layer_is_refused_when_it_is_run() -> None:
    model = packed(saved(efficient_kan()))
    lying = replace(model, forms={"layers": model.forms["layers.0"]})
    again = kancompress.load(kancompress.encode(lying))
    assert isinstance(again, PackedModel)
    with pytest.raises(InvalidFileError, match="layer 'layers' is of the layout"):
        packed_network(again)


def test_whole_numbers_are_real_ones() -> None:
    again = kancompress.load(
        made(FORMS, put("forms/layers.0/grid_range", [-1, 1]), drop("forms/layers.0/symbolic"))
    )
    assert isinstance(again, PackedModel)
    assert again.forms["layers.0"].grid_range == (-1.0, 1.0)


# --- the commands -----------------------------------------------------------------------------


def test_pykan_with_another_base_function(tmp_path: Path) -> None:
    """The real class is the oracle: its config tells the base function, the tensors do not."""
    kan = pytest.importorskip("kan")
    torch.manual_seed(0)
    model = kan.KAN(
        width=[3, 4, 2], grid=5, k=3, base_fun="identity", auto_save=False,
        ckpt_path=str(tmp_path / "history"), seed=0,
    )  # fmt: skip
    x = rows()
    with torch.no_grad():
        y = model(x)
    np.savez(tmp_path / "data.npz", x=x.numpy(), y=y.numpy())
    model.saveckpt(str(tmp_path / "mark"))
    data, out = ("--data", tmp_path / "data.npz"), tmp_path / "packed.st"
    done("cluster", tmp_path / "mark", "-k", "64", "--force-pack", "-o", out)
    for source in (tmp_path / "mark_state", out):
        for more in ((), ("--base-activation", "identity")):
            score = json.loads(done("eval", source, *data, *more, "--json").stdout)
            assert score["rmse"] < 1e-5
    report = json.loads(done("inspect", out, "--json").stdout)
    form = {"layout": "pykan", "base_activation": "identity", "symbolic": False}
    known = [{**form}, {k: v for k, v in form.items() if k != "symbolic"}]
    assert report["forms"]["act_fun.0"] in known
    assert "base activation identity" in done("inspect", out).stdout
    words = refused(2, "eval", out, *data, "--base-activation", "silu")
    assert "'act_fun.0' is identity, and --base-activation says silu" in words
    tuned = ("--epochs", "1", "-o", tmp_path / "tuned.st")
    report = json.loads(done("finetune", out, *data, *tuned, "--json").stdout)
    assert report["validation_before"]["rmse"] < 1e-5
    assert json.loads(done("eval", tmp_path / "tuned.st", *data, "--json").stdout)["rmse"] < 1e-5
    said = done("expand", out, "-o", tmp_path / "back.pt").stderr
    assert "the packed file alone says of act_fun.0, act_fun.1: base activation identity" in said
    with torch.no_grad():
        again = kan.KAN(
            width=[3, 4, 2], grid=5, k=3, base_fun="identity", auto_save=False,
            ckpt_path=str(tmp_path / "history"), seed=1,
        )  # fmt: skip
        again.load_state_dict(torch.load(tmp_path / "back.pt", weights_only=True))
        assert torch.allclose(again(x), y, atol=1e-5)


@pytest.mark.parametrize(
    ("state", "options", "words"),
    [
        (efficient_kan(), "--grid-range -2,2", "--grid-range has no meaning for this file"),
        (fast_kan(), "--spline-order 2", "--spline-order has no meaning for this file"),
        (legendre(), "--base-activation gelu", "--layout torchkan-legendre"),
        ({"o.jacobi_coeffs": torch.randn(3, 2, 4)}, "--base-activation gelu",
         "that is not known. The layer 'o' (layout orthogpoly-jacobi)"),
    ],
)  # fmt: skip
def test_an_option_that_would_be_forgotten_is_refused(
    state: dict[str, Tensor], options: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_bytes(saved(state))
    out = tmp_path / "out"
    assert words in refused(2, "cluster", tmp_path / "model.pt", *options.split(), "-o", out)
    assert not out.exists()


def test_a_dense_file_of_ours_takes_no_such_option(
    trained: kancompress.Checkpoint, tmp_path: Path
) -> None:
    kancompress.save(trained, tmp_path / "dense.st")
    arguments = ("cluster", tmp_path / "dense.st", "--base-activation", "gelu", "-o", "out")
    assert "--base-activation belongs to other libraries' files" in refused(2, *arguments)


@pytest.mark.slow
def test_pictures_of_functions_need_no_option(tmp_path: Path) -> None:
    model = packed(saved(legendre()), RunOptions(layouts={"": "torchkan-legendre"}))
    kancompress.save(model, tmp_path / "packed.st")
    done("inspect", tmp_path / "packed.st", "--plot-functions", tmp_path / "p.svg")
    assert (tmp_path / "p.svg").stat().st_size > 1000


def test_infinite_centres_give_no_form_and_no_warning() -> None:
    state = {
        "rbf.grid": torch.full((6,), torch.inf),
        "spline_linear.weight": torch.randn(5, 7 * 6),
        "base_linear.weight": torch.randn(5, 7),
        "base_linear.bias": torch.zeros(5),
        "layernorm.weight": torch.ones(7),
        "layernorm.bias": torch.zeros(7),
    }
    with pytest.raises(kancompress.InvalidFileError) as told:
        kancompress.cluster(state, ClusterConfig(clusters=4))
    assert told.value.flaw is kancompress.Flaw.NOT_FINITE
