"""Clustering by outputs in the user's own module, through hooks on its KAN layers."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_real_classes import LIBRARIES, Library, network
from torch import Tensor, nn
from torch.nn import functional

import kancompress
from changing import Change, moments
from command import done, refused
from conftest import fresh
from kancompress import CalibrationConfig, ClusterConfig, Target, UsageError
from kancompress.system import inputs
from tests.benchmarks.convolutional import SimpleConvKagn

MODELS = '''
import torch
from torch import nn
from torch.nn import functional


class KanLinear(nn.Module):
    """efficient-kan's layer, its splines by the recursion of Cox and de Boor."""

    activation = staticmethod(functional.silu)

    def __init__(self, inputs, outputs):
        super().__init__()
        self.register_buffer("grid", (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1))
        self.base_weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.spline_weight = nn.Parameter(torch.randn(outputs, inputs, 8) / inputs**0.5)

    def forward(self, x):
        t, x = self.grid, x[..., None]
        planes = ((x >= t[:, :-1]) & (x < t[:, 1:])).to(x.dtype)
        for k in range(1, 4):
            left = (x - t[:, : -k - 1]) / (t[:, k:-1] - t[:, : -k - 1]) * planes[..., :-1]
            right = (t[:, k + 1 :] - x) / (t[:, k + 1 :] - t[:, 1:-k]) * planes[..., 1:]
            planes = left + right
        base = functional.linear(self.activation(x[..., 0]), self.base_weight)
        return base + torch.einsum("...is,ois->...o", planes, self.spline_weight)


class Net(nn.Module):
    """KAN layers behind a convolution and with a residual between them: no chain."""

    def __init__(self, layer=KanLinear):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.last = layer(16, 4)
        self.first = layer(48, 16)
        self.skip = nn.Linear(48, 16)

    def forward(self, x):
        x = torch.tanh(self.norm(self.conv(x))).flatten(1)
        return self.last(torch.tanh(self.first(x) + self.skip(x)))


class Gelu(KanLinear):
    activation = staticmethod(functional.gelu)


class Squared(KanLinear):
    def forward(self, x):
        return super().forward(x) ** 2


class Twice(Net):
    def forward(self, x):
        return super().forward(x) + super().forward(-x)


class Tokens(nn.Module):
    """Layers that are called with (rows, positions, features)."""

    def __init__(self):
        super().__init__()
        self.kan = KanLinear(6, 6)

    def forward(self, x):
        return self.kan(x).mean(1)


def gelu():
    return Net(Gelu)


class ConvKan(nn.Module):
    """torch-conv-kan's KANConv2d: basis channels (in coef), GELU, InstanceNorm, PReLU."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.base_conv = nn.ModuleList([nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)])
        self.spline_conv = nn.ModuleList(
            [nn.Conv2d(inputs * 8, outputs, 3, stride, 1, bias=False)]
        )
        self.layer_norm = nn.ModuleList([nn.InstanceNorm2d(outputs)])
        self.prelus = nn.ModuleList([nn.PReLU()])

    def forward(self, x):
        t = torch.arange(-3, 9) * 0.4 - 1
        z = x[..., None]
        planes = ((z >= t[:-1]) & (z < t[1:])).to(x.dtype)
        for k in range(1, 4):
            left = (z - t[: -k - 1]) / (t[k:-1] - t[: -k - 1]) * planes[..., :-1]
            right = (t[k + 1 :] - z) / (t[k + 1 :] - t[1:-k]) * planes[..., 1:]
            planes = left + right
        planes = planes.movedim(-1, 2).flatten(1, 2)
        sums = self.spline_conv[0](planes) + self.base_conv[0](functional.gelu(x))
        return self.prelus[0](self.layer_norm[0](sums))


class FastConvKan(nn.Module):
    """torch-conv-kan's FastKANConv2d: Gaussians of the normalised map, and SiLU of the map."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.base_conv = nn.ModuleList([nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)])
        self.spline_conv = nn.ModuleList(
            [nn.Conv2d(inputs * 8, outputs, 3, stride, 1, bias=False)]
        )
        self.layer_norm = nn.ModuleList([nn.InstanceNorm2d(inputs)])
        self.rbf = nn.Module()
        self.rbf.grid = nn.Parameter(torch.linspace(-2, 2, 8), requires_grad=False)

    def forward(self, x):
        z = self.layer_norm[0](x)[..., None]
        planes = torch.exp(-(((z - self.rbf.grid) * 7 / 4) ** 2))
        planes = planes.movedim(-1, 2).flatten(1, 2)
        return self.spline_conv[0](planes) + self.base_conv[0](functional.silu(x))


def images(layer):
    return nn.Sequential(layer(2, 6), layer(6, 5, 2), nn.Flatten())
'''


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The module of models, importable in the directory where the commands run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "hooked_models.py").write_text(MODELS)
    import hooked_models

    yield hooked_models
    del sys.modules["hooked_models"]


def images(count: int = 900) -> Tensor:
    """Rows in which neighbouring pixels are alike."""
    noise = torch.randn(count, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    return functional.avg_pool2d(noise, 3, stride=1) * 2


def make(kind, *arguments) -> nn.Module:
    torch.manual_seed(0)
    return kind(*arguments).eval()


def error(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - other(x)).square().mean())


@pytest.mark.slow
def test_layers_between_other_layers_come_nearer_than_with_plain_k_means(models) -> None:
    model, x = make(models.Net), images()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    found = kancompress.compress_by_outputs(model, x[:800], ClusterConfig(clusters=8))
    assert model.training
    model.eval()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    packed, plain = make(models.Net), make(models.Net)
    found.apply_to(packed)
    kancompress.compress(model, clusters=8).apply_to(plain)
    assert error(model, packed, x[800:]) < 0.5 * error(model, plain, x[800:])
    for name, tensor in packed.state_dict().items():
        if not name.startswith(("first.", "last.")):
            assert torch.equal(tensor, before[name])
    assert found.calibrated is not None
    assert found.calibrated.solution is not None
    # in the order of the forward pass, which is not that of the tensors
    assert list(found.calibrated.solution.layers) == ["first", "last"]


def test_a_model_may_run_its_own_state_dict(models) -> None:
    """Whose tensors are those of the model, which holds others for a while."""
    model, x = make(models.Net), images(200)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config, quick = ClusterConfig(clusters=4), CalibrationConfig(starts=1)
    found = [
        kancompress.cluster(source, config, rows=x, calibration=quick, model=runs).state_dict()
        for source, runs in ((model.state_dict(), model), (model, None))
    ]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert torch.equal(found[0][name], found[1][name])


@pytest.mark.slow
def test_errors_are_those_of_the_model_s_outputs(models) -> None:
    model, x = make(models.Net), images()
    found = kancompress.compress_by_outputs(
        model, x, ClusterConfig(clusters=6), CalibrationConfig(samples=600)
    )
    packed = make(models.Net)
    found.apply_to(packed)
    order = torch.randperm(900, generator=torch.Generator().manual_seed(0))
    held_out = x[order[:112]]
    with torch.no_grad():
        dense = model(held_out)
        expected = (packed(held_out) - dense).square().sum() / (
            dense - dense.mean(0)
        ).square().sum()
    assert found.calibrated.solution.held_out == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.slow
def test_the_command_runs_the_user_s_model(models, tmp_path: Path) -> None:
    model, x = make(models.Net), images()
    torch.save(model.state_dict(), "model.pt")
    np.savez("rows.npz", x=x[:800].numpy())
    options = ["--calibrate", "rows.npz", "--model", "hooked_models:Net"]
    done("cluster", "model.pt", "-k", "8", *options, "-o", "packed.st")
    packed, live = make(models.Net), make(models.Net)
    packed.load_state_dict(kancompress.load("packed.st").state_dict())
    kancompress.compress_by_outputs(model, x[:800], ClusterConfig(clusters=8)).apply_to(live)
    assert error(packed, live, x[800:]) == 0
    auto = ["-k", "auto", "--target-bytes", "6500", "--rounds", "1", "--sweeps", "1"]
    done("cluster", "model.pt", *options, *auto, "-o", "auto.st")
    assert Path("auto.st").stat().st_size <= 6500
    told = done("cluster", "model.pt", *options, *auto, "--dry-run")
    assert "first" in told.stderr
    torch.save(dict(list(model.state_dict().items())[1:]), "less.pt")
    assert "conv.weight" in refused(2, "cluster", "less.pt", *options, "-o", "none.st")
    assert "--calibrate" in refused(2, "cluster", "model.pt", *options[2:], "-o", "none.st")


@pytest.mark.slow
def test_an_input_that_changes_is_refused_in_the_users_model_too(
    models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, source = make(models.Net).state_dict(), tmp_path / "model.safetensors"
    save_file(state, source)
    raw = source.read_bytes()
    np.savez("rows.npz", x=images()[:64].numpy())
    options = ["--calibrate", "rows.npz", "--model", "hooked_models:Net", "--force"]
    run = ("cluster", source, "-k", "8", *options, "-o", tmp_path / "packed.st")
    for number in moments(source, lambda: done(*run), monkeypatch):
        source.write_bytes(raw)
        (tmp_path / "packed.st").unlink(missing_ok=True)
        change = Change(source, number, lambda path: path.write_bytes(raw[:-4] + b"else"))
        monkeypatch.setattr(inputs, "_read_into", change)
        assert "was changed while it was read" in refused(1, *run)
        assert not (tmp_path / "packed.st").exists()


def test_rows_of_a_named_data_set_have_the_shape_that_is_told(models) -> None:
    class Small(models.Net):
        def forward(self, x):
            return super().forward(x.repeat(1, 2, 1, 1)[..., 1:7, 1:7])

    models.Small = Small
    torch.save(make(Small).state_dict(), "model.pt")
    options = ["--calibrate", "digits", "--model", "hooked_models:Small"]
    shape = ["--input-shape", "1,8,8"]
    told = done("cluster", "model.pt", *options, *shape, "--method", "metric", "-o", "packed.st")
    assert "metric" in told.stderr
    assert kancompress.inspect("packed.st")["layers"]


def test_modules_that_are_not_linear_are_left_to_k_means(models) -> None:
    x = images(300)
    with pytest.raises(UsageError, match=r"not linear in its coefficients.*0\.\d+ of the spread"):
        kancompress.compress_by_outputs(make(models.Net, models.Squared), x)
    mixed = make(models.Net)
    mixed.last = make(models.Squared, 16, 4)
    found = kancompress.compress_by_outputs(mixed, x, ClusterConfig(clusters=5))
    assert any("plain k-means: last" in note for note in found.notes)
    assert list(found.calibrated.solution.layers) == ["first"]
    plain = kancompress.compress(mixed, clusters=5)
    assert np.array_equal(plain.model.layer("last").index, found.model.layer("last").index)
    with pytest.raises(UsageError, match="'last' is clustered by plain k-means"):
        kancompress.compress_by_outputs(mixed, x, target=Target(bytes=9000))


@pytest.mark.slow
def test_options_tell_what_the_tensors_do_not(models) -> None:
    torch.save(make(models.gelu).state_dict(), "model.pt")
    np.savez("rows.npz", x=images(300).numpy())
    options = ["--calibrate", "rows.npz", "--model", "hooked_models:gelu", "--force"]
    asked = done("cluster", "model.pt", *options, "-o", "asked.st").stderr
    assert "features asked of the model's own modules: first, last" in asked
    told = done(
        "cluster", "model.pt", "--base-activation", "gelu", *options, "-o", "told.st"
    ).stderr
    assert "features asked" not in told
    forms = [kancompress.load(path).forms for path in ("asked.st", "told.st")]
    assert forms[0]["last"].layout == "own-class"
    assert forms[1]["last"].base_activation == "gelu"


def test_positions_are_rows(models) -> None:
    model = make(models.Tokens)
    x = torch.randn(500, 7, 6, generator=torch.Generator().manual_seed(1)) / 2
    found = kancompress.compress_by_outputs(
        model, x[:400], ClusterConfig(clusters=4, force_pack=True)
    )
    packed, plain = make(models.Tokens), make(models.Tokens)
    found.apply_to(packed)
    kancompress.compress(model, clusters=4, force_pack=True).apply_to(plain)
    assert error(model, packed, x[400:]) < error(model, plain, x[400:])


def test_a_network_of_our_own_needs_no_model(models) -> None:
    with pytest.raises(UsageError, match="runs by itself"):
        kancompress.cluster_by_outputs(fresh("kan"), torch.zeros(20, 64), model=make(models.Net))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("ConvKan", marks=pytest.mark.slow),
        "FastConvKan",
        pytest.param("KagnConv", marks=pytest.mark.slow),
    ],
)
def test_convolutions_of_torch_conv_kan(models, kind: str) -> None:
    x = functional.avg_pool2d(torch.randn(500, 2, 9, 9), 3, stride=1) * 2

    def build() -> nn.Module:
        if kind == "KagnConv":
            return SimpleConvKagn(widths=(6, 5, 4, 4), channels=2)
        return models.images(getattr(models, kind))

    model = make(build)
    config = ClusterConfig(clusters=6, force_pack=True)
    found = kancompress.compress_by_outputs(model, x[:400], config)
    assert not any("plain k-means" in note for note in found.notes)
    packed, plain = make(build), make(build)
    found.apply_to(packed)
    kancompress.compress(model, config).apply_to(plain)
    assert error(model, packed, x[400:]) < 0.8 * error(model, plain, x[400:])


@pytest.mark.slow
def test_patches_of_convkan_are_rows() -> None:
    """Of the first layer those of every group, which see different inputs."""
    lib = next(lib for lib in LIBRARIES if lib.name == "convkan")
    model, x = network(lib), functional.avg_pool2d(torch.randn(600, 2, 12, 12), 5, stride=1) * 3
    config = ClusterConfig(clusters=8, force_pack=True)
    found = kancompress.compress_by_outputs(model, x[:500], config)
    assert list(found.calibrated.solution.layers) == ["0", "2"]
    assert not any("plain k-means" in note for note in found.notes)
    packed, plain = lib.build(77).eval(), lib.build(78).eval()
    found.apply_to(packed)
    kancompress.compress(model, config).apply_to(plain)
    assert error(model, packed, x[500:]) < error(model, plain, x[500:])


@pytest.mark.slow
@pytest.mark.parametrize("lib", [lib for lib in LIBRARIES if lib.runs], ids=lambda lib: lib.name)
def test_real_classes(lib: Library) -> None:
    model = network(lib)
    x = torch.randn(700, *lib.rows, generator=torch.Generator().manual_seed(5)) / 2
    config = ClusterConfig(clusters=8, force_pack=True)
    found = kancompress.compress_by_outputs(model, x[:600], config)
    packed, plain = lib.build(77).eval(), lib.build(78).eval()
    found.apply_to(packed)
    kancompress.compress(model, config).apply_to(plain)
    assert error(model, packed, x[600:]) < 0.8 * error(model, plain, x[600:])
