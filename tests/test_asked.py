"""Features that the user's own module tells, and what a model may do with rows."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_hooked import MODELS, error
from torch import Tensor, nn
from torch.nn import functional

import kancompress
from command import done, refused
from kancompress import CalibrationConfig, ClusterConfig, UsageError
from kancompress.clustering.asked import AskedLayer, ask
from kancompress.clustering.calls import in_evaluation, watched
from kancompress.libraries import recognise
from kancompress.models.vectors import gather

QUICK = CalibrationConfig(starts=1)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "asked_models.py").write_text(MODELS)
    import asked_models

    yield asked_models
    del sys.modules["asked_models"]


class Cheby(nn.Module):
    """Chebyshev polynomials of a tanh of a tanh, as in TimeKAN."""

    def __init__(self, inputs: int, outputs: int, degree: int = 3) -> None:
        super().__init__()
        scale = inputs * (degree + 1)
        self.cheby_coeffs = nn.Parameter(torch.randn(inputs, outputs, degree + 1) / scale**0.5)
        self.register_buffer("arange", torch.arange(degree + 1))

    def basis(self, x: Tensor) -> Tensor:
        x = torch.tanh(torch.tanh(x))[..., None]
        return torch.cos(torch.arccos(x) * self.arange)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...id,iod->...o", self.basis(x), self.cheby_coeffs)


class BiasedCheby(Cheby):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.shift = nn.Parameter(torch.randn(1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


class Scaled(Cheby):
    """Each row divided by what all rows have together."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x / x.abs().max())


class Polynomials(nn.Module):
    """A convolution like torch-conv-kan's KACNConv, with groups, sums behind a norm."""

    def __init__(self, inputs: int, outputs: int, groups: int = 1, **how: object) -> None:
        super().__init__()
        self.groups, self.how = groups, how
        self.poly_conv = nn.ModuleList(
            nn.Conv2d(inputs // groups * 4, outputs // groups, 3, bias=False, **how)
            for _ in range(groups)
        )
        self.layer_norm = nn.ModuleList(nn.BatchNorm2d(outputs // groups) for _ in range(groups))
        self.register_buffer("arange", torch.arange(4).view(1, 1, -1, 1, 1))

    def planes(self, x: Tensor) -> Tensor:
        x = torch.tanh(x).clamp(-0.99, 0.99)[:, :, None]
        return torch.cos(self.arange * torch.arccos(x)).flatten(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = [
            norm(conv(self.planes(part)))
            for part, conv, norm in zip(
                x.chunk(self.groups, 1), self.poly_conv, self.layer_norm, strict=True
            )
        ]
        return torch.cat(parts, 1)


def make(kind, *arguments, **how) -> nn.Module:
    torch.manual_seed(0)
    return kind(*arguments, **how).eval()


def asked(module: nn.Module, x: Tensor) -> AskedLayer | str:
    """The layer of a module that is one."""
    with in_evaluation(module), torch.no_grad(), watched({"": module}, outputs=True) as seen:
        module(x)
    tensors = module.state_dict(keep_vars=True)
    found = recognise(module.state_dict()).layers[0]
    edges = kancompress.layers.edges.DenseEdges(
        gather(found, module.state_dict()).view(*found.shape, -1)
    )
    return ask(module, seen[""], found, edges, tensors)


def rows(count: int, width: int, seed: int = 3) -> Tensor:
    """Rows in which neighbours are alike."""
    noise = torch.randn(count, 1, width + 2, generator=torch.Generator().manual_seed(seed))
    return functional.avg_pool1d(noise, 3, stride=1)[:, 0] * 2


def test_features_are_those_of_the_closed_form() -> None:
    module, x = make(Cheby, 6, 4), rows(20, 6)
    layer = asked(module, x)
    assert isinstance(layer, AskedLayer)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    features = layer.columns(x, torch.zeros(20, 1, dtype=torch.long))
    angle = np.arccos(np.tanh(np.tanh(x.double().numpy())))
    expected = np.cos(np.arange(4)[:, None] * angle[:, None])
    np.testing.assert_allclose(features.numpy(), expected, atol=1e-5)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("how", [{"padding": (1, 0)}, {"stride": 2, "dilation": 2}])
def test_features_of_a_convolution_are_its_planes_at_its_taps(how) -> None:
    module = make(Polynomials, 3, 5, **how)
    x = torch.randn(4, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    layer = asked(module, x)
    assert isinstance(layer, AskedLayer)
    every = torch.arange(layer.places(x)).repeat(len(x), 1)
    features = layer.columns(x, every)  # (places, d, in * taps)
    taps = functional.unfold(module.planes(x), 3, **how)  # (rows, in * d * taps, places)
    expected = taps.transpose(1, 2).reshape(-1, 3, 4, 9).transpose(1, 2).flatten(2)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def test_a_bias_is_found_and_takes_up_the_mean_error() -> None:
    model, x = make(BiasedCheby, 6, 4), rows(900, 6)
    layer = asked(model, x)
    assert isinstance(layer, AskedLayer)
    assert list(layer.sides()) == ["shift"]
    assert torch.equal(layer.sides()["shift"], model.shift[0])
    found = kancompress.compress_by_outputs(
        model, x[:800], ClusterConfig(clusters=4, force_pack=True), QUICK
    )
    packed = make(BiasedCheby, 6, 4)
    found.apply_to(packed)
    with torch.no_grad():
        off = (packed(x) - model(x)).mean(0).abs().max()
        spread = model(x).std()
    assert off < 0.05 * spread


@pytest.mark.parametrize(
    ("kind", "reason"), [(Scaled, "where other rows go with it, by"), (None, "not linear")]
)
def test_what_cannot_be_asked_is_refused_with_what_was_measured(kind, reason) -> None:
    class Squared(Cheby):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 2

    model = make(kind or Squared, 6, 4)
    with pytest.raises(UsageError, match=reason):
        kancompress.compress_by_outputs(model, rows(100, 6), ClusterConfig(clusters=4))


def net(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers).eval()


MODELS_OF_MANY_KINDS = {
    "tanh of tanh": lambda: net(make(Cheby, 8, 12), nn.Tanh(), make(Cheby, 12, 4)),
    "norm within": lambda: net(make(Normed, 8, 12), nn.Tanh(), make(Normed, 12, 4)),
    "biased": lambda: net(make(BiasedCheby, 8, 12), nn.Tanh(), make(BiasedCheby, 12, 4)),
}


class Normed(Cheby):
    """A layer norm before the basis, and a residual that no coefficient makes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.norm = nn.LayerNorm(inputs)
        self.rest = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.norm(x)) + self.rest(x)


@pytest.mark.parametrize("kind", MODELS_OF_MANY_KINDS)
def test_outputs_come_nearer_than_with_plain_k_means(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, x = MODELS_OF_MANY_KINDS[kind](), rows(900, 8)
    config = ClusterConfig(clusters=8)
    found = kancompress.compress_by_outputs(model, x[:800], config, QUICK)
    assert list(found.calibrated.solution.layers) == ["0", "2"]
    packed, plain = MODELS_OF_MANY_KINDS[kind](), MODELS_OF_MANY_KINDS[kind]()
    found.apply_to(packed)
    kancompress.compress(model, config).apply_to(plain)
    assert error(model, packed, x[800:]) < 0.5 * error(model, plain, x[800:])
    # The file says that the layers compute something else than their layout's form.
    assert {form.layout for form in found.model.forms.values()} == {"own-class"}
    Path("own.st").write_bytes(kancompress.encode(found.model))
    assert "was seen to compute something else" in refused(
        2, "eval", "own.st", "--dataset", "digits"
    )


def test_groups_of_a_convolution_are_solved_together() -> None:
    def build() -> nn.Module:
        return net(make(Polynomials, 4, 8, 2, padding=1), make(Polynomials, 8, 4, 2, padding=1))

    model = build()
    noise = torch.randn(220, 4, 10, 10, generator=torch.Generator().manual_seed(1))
    x = functional.avg_pool2d(noise, 3, stride=1) * 2
    config = ClusterConfig(clusters=16)
    found = kancompress.compress_by_outputs(model, x[:160], config, QUICK)
    assert list(found.calibrated.solution.layers) == ["0", "1"]
    packed, plain = build(), build()
    found.apply_to(packed)
    kancompress.compress(model, config).apply_to(plain)
    assert error(model, packed, x[160:]) < 0.7 * error(model, plain, x[160:])


def solved(model: nn.Module, x: Tensor, clusters: int = 6, **calibration: int) -> bytes:
    """Bytes of the packed file."""
    found = kancompress.compress_by_outputs(
        model, x, ClusterConfig(clusters=clusters), CalibrationConfig(starts=1, **calibration)
    )
    return kancompress.encode(found.model)


def test_what_is_changed_in_place_does_not_reach_what_was_seen(models) -> None:
    class Model(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last = models.KanLinear(8, 12), models.KanLinear(12, 4)
            self.in_place = in_place

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y = y.mul_(0.5).tanh_() if self.in_place else (y * 0.5).tanh()
            z = self.last(y)
            if self.in_place:
                y.zero_()
                return z.add_(1)
            return z + 1

    x = rows(300, 8)
    assert solved(Model(True), x) == solved(Model(False), x)


@pytest.mark.slow
def test_compiled_models_run_eagerly(models) -> None:
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        return net(models.KanLinear(8, 12), nn.Tanh(), models.KanLinear(12, 4))

    x = rows(300, 8)
    part = build()
    part[2] = torch.compile(part[2], backend="eager")
    whole = torch.compile(build(), backend="eager")
    whole(x[:2])  # as after training, hooks would not be seen any more
    expected = [
        layer.codebook
        for layer in kancompress.compress_by_outputs(
            build(), x, ClusterConfig(clusters=6), QUICK
        ).model.layers
    ]
    for model in (part, whole):
        made = kancompress.compress_by_outputs(model, x, ClusterConfig(clusters=6), QUICK)
        for layer, codebook in zip(made.model.layers, expected, strict=True):
            assert torch.equal(layer.codebook, codebook)


class Experts(nn.Module):
    """A gate behind a layer picks an expert for each row; one is never picked."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.gate = kind(8, 16), nn.Linear(16, 3)
        self.experts = nn.ModuleList(kind(16, 10) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        chosen = self.gate(x)[:, :2].argmax(1)
        result = x.new_zeros(len(x), 10)
        for number, expert in enumerate(self.experts):
            if number < 2 or (chosen == number).any():
                result[chosen == number] = expert(x[chosen == number])
        return result


def test_experts_are_solved_on_the_rows_that_they_see(models) -> None:
    model, x = Experts(models.KanLinear).eval(), rows(900, 8)
    config = ClusterConfig(clusters=16)
    found = kancompress.compress_by_outputs(model, x[:800], config, QUICK)
    assert set(found.calibrated.solution.layers) == {"first", "experts.0", "experts.1"}
    assert any("plain k-means: experts.2; " in n and "no rows" in n for n in found.notes)
    packed, plain = Experts(models.KanLinear).eval(), Experts(models.KanLinear).eval()
    found.apply_to(packed)
    kancompress.compress(model, config).apply_to(plain)
    assert error(model, packed, x[800:]) < error(model, plain, x[800:])


def test_a_layer_that_is_called_twice_is_solved_on_both(models) -> None:
    model, x = models.Twice().eval(), None
    torch.manual_seed(0)
    x = functional.avg_pool2d(torch.randn(500, 2, 8, 8), 3, stride=1) * 2
    config = ClusterConfig(clusters=8)
    found = kancompress.compress_by_outputs(model, x[:400], config, QUICK)
    assert list(found.calibrated.solution.layers) == ["first", "last"]
    packed, plain = models.Twice().eval(), models.Twice().eval()
    found.apply_to(packed)
    kancompress.compress(model, config).apply_to(plain)
    assert error(model, packed, x[400:]) < error(model, plain, x[400:])


class Patches(nn.Module):
    """KAN layers on the patches of an image, one call with all of them."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kan, self.head = kind(27, 8), nn.Linear(8 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        patches = functional.unfold(x, 3, padding=1).transpose(1, 2)
        count, places, width = patches.shape
        return self.head(self.kan(patches.reshape(-1, width)).reshape(count, places * 8))


def test_positions_of_few_images_are_many_rows(models) -> None:
    """24 images have 1,536 positions, which are as good as those of many images."""
    noise = torch.randn(600, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    x = functional.interpolate(noise, size=(8, 8), mode="bilinear") * 0.7
    model = Patches(models.KanLinear).eval()
    errors = []
    for count in (24, 400):
        found = kancompress.compress_by_outputs(model, x[:count], ClusterConfig(clusters=16), QUICK)
        packed = Patches(models.KanLinear).eval()
        found.apply_to(packed)
        errors.append(error(model, packed, x[400:]))
    assert errors[0] < 1.5 * errors[1]


class Words(nn.Module):
    """Rows are token ids; which of them the model saw."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.kan = nn.Embedding(1000, 8), kind(8, 12)
        self.head, self.seen = nn.Linear(12, 50), set()

    def forward(self, ids: Tensor) -> Tensor:
        self.seen |= set(ids.flatten().tolist())
        return self.head(self.kan(torch.tanh(self.embedding(ids))))


def test_token_ids_stay_whole(models) -> None:
    ids = np.random.default_rng(0).choice([257, 259, 513, 999], (200, 5))
    model = Words(models.KanLinear).bfloat16().eval()
    np.savez("ids.npz", x=ids)
    where = kancompress.DataOptions(file=Path("ids.npz"))
    for given in (torch.from_numpy(ids), ids, where):
        model.seen.clear()
        found = kancompress.cluster(model, ClusterConfig(clusters=4), rows=given, calibration=QUICK)
        assert model.seen == {257, 259, 513, 999}
        assert found.calibrated.solution.held_out < 0.2


def test_whole_numbers_that_a_model_refuses_are_floats(models) -> None:
    torch.manual_seed(0)
    model = net(nn.Linear(8, 8), models.KanLinear(8, 6))
    x = torch.randint(-2, 3, (200, 8))
    found = kancompress.compress_by_outputs(model, x, ClusterConfig(clusters=4), QUICK)
    assert any("refuses whole numbers" in note for note in found.notes)
    assert solved(model, x, 4) == solved(model, x.float(), 4)


MAPS = """
import torch
from torch import nn
from asked_models import KanLinear


class Net(nn.Module):
    '''Maps (rows, 2, 6, 6) to maps (rows, 1, 6, 6).'''

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.kan = nn.Conv2d(2, 8, 3, padding=1), KanLinear(8, 8)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        x = torch.tanh(self.up(x)).movedim(1, -1)
        return self.out(self.kan(x).movedim(-1, 1))
"""


def test_maps_are_learnt_from_and_scored_as_they_are_clustered(models) -> None:
    Path("maps.py").write_text(MAPS)
    import maps

    model = maps.Net().eval()
    torch.save(model.state_dict(), "m.pt")
    x = functional.avg_pool2d(
        torch.randn(200, 2, 8, 8, generator=torch.Generator().manual_seed(0)), 3, stride=1
    )
    with torch.no_grad():
        y = model(x)
    np.savez("x.npz", x=x.numpy())
    np.savez("xy.npz", x=x.numpy(), y=y.numpy())
    done("cluster", "m.pt", "-k", "4", "--force-pack", "-o", "P.st")
    own = ["--model", "maps:Net"]
    tune = ["--distill", "m.pt", "--data", "x.npz", "--epochs", "3", "--lr", "0.01"]
    done("finetune", "P.st", *own, *tune, "-o", "T.st")
    errors = []
    for path in ("P.st", "T.st"):
        done("eval", path, *own, "--data", "xy.npz", "--predictions", "out.npz", "--force")
        outputs = np.load("out.npz")["outputs"]
        packed = maps.Net().eval()
        packed.load_state_dict(kancompress.load(path).state_dict())
        with torch.no_grad():
            expected = packed(x).flatten(1).numpy()
        rows_there = [np.abs(expected - row).max(1).min() for row in outputs]
        assert max(rows_there) < 1e-5
        errors.append(error(model, packed, x))
    assert errors[1] < errors[0]
    del sys.modules["maps"]


class Masked(nn.Module):
    """Outputs of which some are minus infinity for all rows, or for some."""

    def __init__(self, kind: type[nn.Module], rows_too: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kan, self.rows_too = kind(8, 6), rows_too

    def forward(self, x: Tensor) -> Tensor:
        y = self.kan(x)
        gone = y.new_tensor([0, 0, 1, 0, 1, 0]).bool().expand_as(y)
        if self.rows_too:
            gone = gone & (x[:, :1] > 0)
        return y.masked_fill(gone, -torch.inf)


def test_outputs_that_are_infinite_for_all_rows_are_left_out(models) -> None:
    model, x = Masked(models.KanLinear).eval(), rows(300, 8)
    found = kancompress.compress_by_outputs(model, x, ClusterConfig(clusters=6), QUICK)
    assert any("2 of the model's 6 outputs are infinite or NaN" in note for note in found.notes)
    packed = Masked(models.KanLinear).eval()
    found.apply_to(packed)
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    held_out = x[order[:37]]
    with torch.no_grad():
        one, other = (m(held_out)[:, [0, 1, 3, 5]].double() for m in (model, packed))
    expected = (one - other).square().sum() / (one - one.mean(0)).square().sum()
    assert found.calibrated.solution.held_out == pytest.approx(float(expected), rel=1e-3)
    with pytest.raises(kancompress.KancompressError, match="output 2 is infinite or NaN for"):
        kancompress.compress_by_outputs(
            Masked(models.KanLinear, True).eval(), x, ClusterConfig(clusters=6), QUICK
        )


class Wide(nn.Module):
    """More outputs than fit; the most rows that came together."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kan, self.out, self.most = kind(8, 6), nn.Linear(6, 500), 0

    def forward(self, x: Tensor) -> Tensor:
        self.most = max(self.most, len(x))
        return self.out(self.kan(x))


def test_wide_outputs_are_compared_in_a_stream(models) -> None:
    model, x = Wide(models.KanLinear).eval(), rows(400, 8)
    config = ClusterConfig(clusters=6)
    found = [
        kancompress.compress_by_outputs(
            model, x, config, CalibrationConfig(starts=1, memory=memory, batch_size=16)
        ).calibrated.solution
        for memory in (1 << 30, 1 << 20)
    ]
    assert model.most == 32  # those by which modules are examined; 16 at a time else
    assert found[0].held_out == pytest.approx(found[1].held_out, rel=1e-6)
    assert found[0].error == pytest.approx(found[1].error, rel=1e-6)


def test_outputs_that_are_no_numbers_have_no_score(models) -> None:
    """A share of right classes among NaN would be a number that looks right."""
    torch.manual_seed(0)
    model, x = models.KanLinear(8, 6), rows(100, 8)
    torch.save(model.state_dict(), "m.pt")
    labels, targets = np.arange(100) % 6, np.ones((100, 6), np.float32)
    np.savez("classes.npz", x=x.numpy(), y=labels)
    np.savez("targets.npz", x=x.numpy(), y=targets)
    Path("gone.py").write_text(
        "import torch\nfrom asked_models import KanLinear\n"
        "class Net(KanLinear):\n"
        "    def __init__(self): super().__init__(8, 6)\n"
        "    def forward(self, x): return super().forward(x) * float('nan')\n"
        "class Masked(Net):\n"
        "    def forward(self, x):\n"
        "        y = KanLinear.forward(self, x)\n"
        "        return y.masked_fill(torch.arange(6) == 2, -torch.inf)\n"
    )
    for kind, data in (("Net", "classes"), ("Net", "targets"), ("Masked", "targets")):
        told = refused(1, "eval", "m.pt", "--model", f"gone:{kind}", "--data", f"{data}.npz")
        assert "for 20 of 20 test rows" in told
    done("eval", "m.pt", "--model", "gone:Masked", "--data", "classes.npz")
    del sys.modules["gone"]


def test_a_packed_network_without_numbers_is_no_result(models) -> None:
    """Its outputs are NaN as soon as a tensor differs from the dense one."""

    class Brittle(models.KanLinear):
        def __init__(self) -> None:
            torch.manual_seed(0)
            super().__init__(8, 6)
            self.dense = self.spline_weight.detach().clone()

        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y if torch.equal(self.spline_weight, self.dense) else y * torch.nan

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kan = Brittle()

        def forward(self, x: Tensor) -> Tensor:
            return self.kan(x)

    with pytest.raises(kancompress.KancompressError, match="infinite numbers or NaN on some rows"):
        kancompress.compress_by_outputs(
            Model().eval(), rows(100, 8), ClusterConfig(clusters=6), QUICK
        )
