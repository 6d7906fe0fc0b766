"""Live modules: packed from their state dict, given back, and tuned with parametrizations."""

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import kancompress
from kancompress.errors import UsageError
from kancompress.libraries import recognise
from kancompress.models.vectors import gather

CASES = Path(__file__).parents[2] / "shared" / "cases"
NAMES = sorted(path.parent.name for path in CASES.glob("*/distinct8.pt")) if CASES.exists() else []


class KanLinear(nn.Module):
    """A layer with the names and shapes of efficient-kan's, and hats for a basis."""

    grid: Tensor

    def __init__(self, inputs: int, outputs: int, basis: int = 8, order: int = 3) -> None:
        super().__init__()
        steps = torch.arange(-order, basis + 1.0) * 2 / (basis - order) - 1
        self.register_buffer("grid", steps.expand(inputs, -1).contiguous())
        self.base_weight = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)
        self.spline_weight = nn.Parameter(torch.randn(outputs, inputs, basis) / inputs**0.5)

    def forward(self, x: Tensor) -> Tensor:
        centres = torch.linspace(-1, 1, self.spline_weight.shape[2], dtype=x.dtype)
        hats = (1 - 3 * (x[..., None] - centres).abs()).relu()
        base = nn.functional.linear(nn.functional.silu(x), self.base_weight)
        return base + torch.einsum("nib,oib->no", hats, self.spline_weight)


class Mixed(nn.Module):
    """A convolution, a normalisation, and two KAN layers; 1 x 6 x 6 images to 3 classes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("seen", torch.zeros(2), persistent=False)
        self.kan = nn.Sequential(KanLinear(16, 12), KanLinear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.kan(torch.tanh(self.norm(self.conv(x))).flatten(1))
        return y


def images(rows: int = 40) -> Tensor:
    return torch.randn(rows, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def same_bits(one: Tensor, other: Tensor) -> bool:
    parts = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (one, other)]
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*parts)


PACKED = [f"kan.{number}.{name}" for number in (0, 1) for name in ("base_weight", "spline_weight")]


def test_compress_keeps_all_else_bit_for_bit(tmp_path: Path) -> None:
    model = Mixed().eval()
    before = copy.deepcopy(model.state_dict())
    done = kancompress.compress(model, clusters=4, seed=3)
    assert [layer.clusters for layer in done.layers] == [4, 4]
    assert done.notes[0] == "recognised 2 x efficient-kan"
    assert all(same_bits(before[name], value) for name, value in model.state_dict().items())

    done.save(tmp_path / "packed.st")
    loaded = kancompress.load(tmp_path / "packed.st").state_dict()
    assert list(loaded) == list(before)
    for name, value in loaded.items():
        assert same_bits(value, before[name]) != (name in PACKED), name

    fresh = Mixed(seed=9).eval()
    parameters = dict(fresh.named_parameters())
    done.apply_to(fresh)
    assert all(parameters[name] is p for name, p in fresh.named_parameters())
    other = Mixed(seed=5).eval()
    other.load_state_dict(loaded)
    assert torch.equal(fresh(images()), other(images()))
    assert not torch.equal(fresh(images()), model(images()))


def test_each_layer_gets_its_centroids() -> None:
    model = Mixed()
    done = kancompress.compress(model, clusters=4)
    state = done.state_dict()
    for number in (0, 1):
        before, after = (
            torch.cat(
                [each[f"kan.{number}.spline_weight"], each[f"kan.{number}.base_weight"][..., None]],
                2,
            ).reshape(-1, 9)
            for each in (model.state_dict(), state)
        )
        rows, labels = np.unique(after.numpy(), axis=0, return_inverse=True)
        assert len(rows) == 4
        means = [before.double().numpy()[labels == row].mean(axis=0) for row in range(4)]
        assert np.allclose(rows, means, atol=1e-6)


def test_source_sizes_are_those_of_torch_save() -> None:
    model = Mixed()
    state = {name: t.contiguous() for name, t in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    source = kancompress.compress(model, clusters=4).model.source
    assert source.file == len(buffer.getvalue())
    assert source.tensors == sum(t.nbytes for t in state.values())


def test_the_result_does_not_follow_the_module() -> None:
    model = Mixed()
    done = kancompress.compress(model, clusters=4)
    kept = {name: value.clone() for name, value in done.state_dict().items()}
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    assert all(same_bits(value, kept[name]) for name, value in done.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype: torch.dtype) -> None:
    model = Mixed().to(dtype).eval()
    done = kancompress.compress(model, clusters=5)
    assert done.model.layers[0].codebook is not None
    assert done.model.layers[0].codebook.dtype == dtype
    target, plain = Mixed(seed=2).to(dtype).eval(), Mixed(seed=3).eval()
    done.apply_to(target)
    done.apply_to(plain)
    assert {p.dtype for p in target.parameters()} == {dtype}
    assert {p.dtype for p in plain.parameters()} == {torch.float32}
    state = done.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in target.state_dict().items())
    assert all(torch.equal(t, state[name].to(t.dtype)) for name, t in plain.state_dict().items())
    with done.parametrize(target):
        assert all(torch.equal(at(target, name), state[name]) for name in PACKED)


def at(model: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    value: Tensor = getattr(model.get_submodule(path), last)
    return value


def test_prefixes_of_wrappers() -> None:
    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module, name: str) -> None:
            super().__init__()
            self.add_module(name, inner)

    wrapped = Wrapper(Wrapper(Mixed(), "_orig_mod"), "module")
    done = kancompress.compress(wrapped, clusters=4)
    assert "module._orig_mod.kan.0.base_weight" in done.state_dict()
    for target in (Mixed(seed=1), Wrapper(Mixed(seed=1), "module"), Wrapper(Mixed(1), "_orig_mod")):
        done.apply_to(target)
        values = zip(target.state_dict().values(), done.state_dict().values(), strict=True)
        assert all(torch.equal(*pair) for pair in values)


class Tied(nn.Module):
    """Two layers with the same weights, one module used twice, and a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = KanLinear(8, 8), KanLinear(8, 8)
        self.second.base_weight = self.first.base_weight
        self.second.spline_weight = self.first.spline_weight
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.again(self.second(self.first(x)))
        return y


def test_ties_are_stored_once_and_stay_ties() -> None:
    torch.manual_seed(0)
    model = Tied()
    done = kancompress.compress(model, clusters=4)
    assert len([layer for layer in done.model.layers if layer.codebook is not None]) == 1
    assert done.model.source.tensors == (64 * 9 + 2 * 8 * 12) * 4
    state = done.state_dict()
    assert state["second.base_weight"] is state["first.base_weight"]
    kancompress.load(kancompress.encode(done.model)).state_dict()
    x = torch.randn(5, 8)
    with done.parametrize(model) as place:
        assert len(place.parameters()) == 1
        model(x).square().sum().backward()
        (codebook,) = place.parameters()
        assert codebook.grad is not None
    assert model.first.base_weight is model.second.base_weight
    plain = Tied()
    done.apply_to(plain)
    assert torch.equal(plain(x), model(x))
    plain(x).square().sum().backward()
    grads = [plain.first.spline_weight.grad, plain.first.base_weight.grad]
    assert grads[0] is not None
    assert grads[1] is not None
    dense = torch.cat([grads[0], grads[1][..., None]], 2).reshape(64, 9)
    assert_sum_of_dense(codebook.grad, dense, done.model)


def assert_sum_of_dense(found: Tensor, dense: Tensor, packed: kancompress.PackedModel) -> None:
    """The gradient of a centroid is the sum of those of its edges."""
    labels = packed.indices_of(packed.layers[0])
    wanted = np.zeros(found.shape)
    np.add.at(wanted, labels.astype(int), dense.double().numpy())
    assert np.allclose(found.double().numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_gradients_are_sums_over_the_edges_of_a_centroid() -> None:
    model = Mixed().double().train()
    done = kancompress.compress(model, clusters=6)
    x, weights = images().double(), torch.randn(40, 3, dtype=torch.float64)
    plain = Mixed().double()
    done.apply_to(plain)
    (plain(x) * weights).sum().backward()
    place = kancompress.parametrize(model, done.model)
    (model(x) * weights).sum().backward()
    for layer in done.model.layers:
        module = plain.get_submodule(layer.name)
        splines, base = module.spline_weight.grad, module.base_weight.grad
        assert isinstance(splines, Tensor)
        assert isinstance(base, Tensor)
        dense = torch.cat([splines, base[..., None]], 2).reshape(layer.edges, 9)
        wanted = np.zeros((6, 9))
        np.add.at(wanted, done.model.indices_of(layer).astype(int), dense.numpy())
        assert np.allclose(place.codebooks[layer.name].grad, wanted, rtol=1e-10, atol=1e-12)
    assert plain.conv.weight.grad is not None
    assert model.conv.weight.grad is not None
    assert torch.allclose(model.conv.weight.grad, plain.conv.weight.grad)
    place.remove()


def test_codebooks_learn_and_go_back_into_the_packed_model() -> None:
    model = Mixed()
    names, order = dict(model.named_parameters()), list(model.state_dict())
    x, y = images(), torch.arange(40) % 3
    done = kancompress.compress(model, clusters=8, codebook_dtype="bfloat16")
    with done.parametrize(model) as place:
        optimizer = torch.optim.Adam(place.parameters(), lr=0.02)
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(float(loss.detach()))
        tuned = place.to_packed()
    assert losses[-1] < losses[0] / 2
    assert list(model.state_dict()) == order
    assert all(names[name] is p and p.requires_grad for name, p in model.named_parameters())
    state = kancompress.load(kancompress.encode(tuned)).state_dict()
    for name in PACKED:
        assert same_bits(model.state_dict()[name], state[name])
        assert not torch.equal(state[name], done.state_dict()[name])
    for old, new in zip(done.model.layers, tuned.layers, strict=True):
        assert np.array_equal(done.model.indices_of(old), tuned.indices_of(new))
        assert new.codebook is not None
        assert new.codebook.dtype == torch.bfloat16


@pytest.mark.parametrize("kind", [nn.ParameterList, nn.ParameterDict])
def test_parameter_lists_and_dictionaries(kind: type) -> None:
    """torchkan keeps its weights in lists."""

    class Lists(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(4)
            drawn = [torch.randn(size, generator=generator) for size in ((9, 12), (9, 12, 8))]
            for name, value in zip(("base_weights", "spline_weights"), drawn, strict=True):
                made = [nn.Parameter(value)]
                holder = kind(made) if kind is nn.ParameterList else kind({"0": made[0]})
                self.add_module(name, holder)

        def forward(self, x: Tensor) -> Tensor:
            values = [
                list(each.values()) if kind is nn.ParameterDict else list(each)
                for each in (self.base_weights, self.spline_weights)
            ]
            base, splines = values[0][0], values[1][0]
            return x @ base.T + torch.einsum("ni,oib->no", x, splines)

    model = Lists()
    layout = "coef=spline_weights.*:out in coef; base=base_weights.*:out in"
    done = kancompress.compress(model, clusters=4, layouts={"": layout})
    state, x = done.state_dict(), torch.ones(2, 12)
    with done.parametrize(model) as place:
        result = model(x)
        result.sum().backward()
        assert place.parameters()[0].grad is not None
        assert torch.equal(at(model, "spline_weights.0"), state["spline_weights.0"])
    assert type(model.base_weights) is kind
    assert torch.equal(model.state_dict()["base_weights.0"], state["base_weights.0"])
    done.apply_to(model)
    assert torch.equal(model(x), result)


def module_of(state: dict[str, Tensor]) -> nn.Module:
    """A module with this state dict and nothing in it."""
    root = nn.Module()
    for name, value in state.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        if value.is_floating_point():
            place.register_parameter(last, nn.Parameter(value.clone()))
        else:
            place.register_buffer(last, value.clone())
    return root


@pytest.mark.parametrize("case", NAMES)
def test_golden_tensors_in_place_equal_the_restored(case: str) -> None:
    """Exact vectors, so the tensors of the real library but for the folded factors."""
    if case.startswith("metakan"):
        pytest.skip("coefficients are generated")
    state = torch.load(CASES / case / "distinct8.pt", weights_only=True)
    words = [word for word in ("kaln", "kajn", "kabn") if word in case]
    layouts = {"": f"{words[0]}-conv"} if words else None
    model = module_of(state)
    settings = {"clusters": 8, "force_pack": True, "keep_masked": True}
    packed = kancompress.compress(model, layouts=layouts, **settings).model
    wanted = packed.state_dict()
    found = recognise(state, layouts).layers
    gains = {gain.tensor for layer in found for gain in layer.gains}
    exact = {part.tensor for layer in found if not layer.gains for part in layer.parts}
    assert exact or gains
    with kancompress.parametrize(model, packed) as place:
        for name, value in wanted.items():
            assert same_bits(at(model, name), value), name
            assert name not in exact or torch.equal(value, state[name])
        seen = {name: at(model, name) for name in wanted}
        for layer in found:
            vectors = gather(layer, seen)
            assert torch.equal(vectors, gather(layer, state))
            vectors.sum()
        loss = sum((at(model, name) * 2).sum() for name in wanted)
        assert isinstance(loss, Tensor)
        loss.backward()  # type: ignore[no-untyped-call]
        for layer in packed.layers:
            if layer.codebook is not None:
                counts = sum(
                    np.bincount(packed.indices_of(each), minlength=len(layer.codebook))
                    for each in packed.layers
                    if layer.name in (each.name, each.shares)
                )
                grad = place.codebooks[layer.name].grad
                assert grad is not None
                wide = np.broadcast_to(2.0 * np.array(counts)[:, None], grad.shape)
                assert np.array_equal(grad.double().numpy(), wide)
    assert all(same_bits(value, wanted[name]) for name, value in model.state_dict().items())


def test_what_does_not_fit_is_named() -> None:
    done = kancompress.compress(Mixed(), clusters=4)
    other = nn.Sequential(KanLinear(16, 12))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(UsageError) as caught:
        done.apply_to(other)
    assert "3 missing ('0." in str(caught.value)
    assert "unexpected" in str(caught.value)
    assert all(torch.equal(t, before[name]) for name, t in other.state_dict().items())
    wider = Mixed()
    wider.kan[1] = KanLinear(12, 4)
    with pytest.raises(UsageError, match=r"'kan.1.base_weight' has the shape \[3, 12\]"):
        done.parametrize(wider)


def test_what_cannot_be_packed_is_refused() -> None:
    with pytest.raises(UsageError, match="no KAN layer was recognised among 2 tensors"):
        kancompress.compress(nn.Linear(3, 4))
    with pytest.raises(UsageError, match=r"takes a torch\.nn\.Module and was given OrderedDict"):
        kancompress.compress(Mixed().state_dict())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has no setting 'cluster'"):
        kancompress.compress(Mixed(), cluster=3)
    with pytest.raises(UsageError, match="has no values yet"):
        kancompress.compress(nn.LazyLinear(3))
    with pytest.raises(UsageError, match="has no values yet"):
        kancompress.compress(Mixed().to("meta"))
    network = kancompress.cluster(kancompress.load(native())).model
    with pytest.raises(UsageError, match="runs without a model"):
        kancompress.parametrize(Mixed(), network)


def native() -> bytes:
    from conftest import fresh

    return fresh("fastkan", (5, 4, 3)).encode()


def test_records_of_our_own_give_their_tensors() -> None:
    dense = kancompress.load(native())
    assert isinstance(dense, kancompress.Checkpoint)
    assert dense.state_dict().keys() == dense.tensors.keys()
    packed = kancompress.cluster(dense, kancompress.ClusterConfig(clusters=300)).model
    given = packed.state_dict()
    assert given.keys() == dense.tensors.keys()
    assert all(torch.equal(given[name], value) for name, value in dense.tensors.items())
