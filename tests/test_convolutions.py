"""Networks of convolutions against plain torch: explicit expansions, one conv2d, batch_norm."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

import kancompress
from command import done, refused
from conftest import fresh
from kancompress.clustering.network import sample
from kancompress.config import default_training
from kancompress.data import datasets
from kancompress.data.datasets import Split
from kancompress.layers import window as windows
from kancompress.layers.bases import bspline
from kancompress.layers.forms import Dropout, Window
from kancompress.layers.network import Network
from kancompress.models.native import build, initialise, to_checkpoint
from kancompress.models.records import Checkpoint
from kancompress.packing.native import NativeSource
from kancompress.packing.sizes import Plan
from kancompress.specs import (
    ConvSpec,
    DataOptions,
    DataSpec,
    Family,
    MetaSpec,
    ModelName,
    default_basis,
    default_conv,
)
from kancompress.training.statistics import renewal
from kancompress.training.train import parameter_groups

CONVOLUTIONS = [name for name in ModelName if name.is_conv]
PLAIN = [name for name in CONVOLUTIONS if not name.is_meta]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small lose time to a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(name: ModelName, widths: tuple[int, ...] = (2, 4, 6, 3), seed: int = 0) -> Network:
    """A small network whose every tensor beside the edges has been moved from where it starts."""
    basis = default_basis(name.family, conv=True)
    meta = MetaSpec(embedding=2, hidden=8) if name.is_meta else None
    conv = default_conv(len(widths) - 2)
    found = initialise(basis, widths, meta, seed, conv=conv)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for layer in found.kan_layers():
            layer.norm += 0.3 * torch.rand(layer.norm.shape, generator=generator)
            layer.statistics += torch.rand(layer.statistics.shape, generator=generator)
            if layer.beta is not None:
                layer.beta += 0.01 * torch.randn(layer.beta.shape, generator=generator)
    return found


def checkpoint(name: ModelName, widths: tuple[int, ...] = (2, 4, 6, 3)) -> Checkpoint:
    basis = default_basis(name.family, conv=True)
    data = DataSpec(name="file", classes=widths[-1])
    return to_checkpoint(network(name, widths), basis, data, default_conv(len(widths) - 2))


def images(rows: int = 3, channels: int = 2, side: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(rows, channels, side, side, generator=generator) * 1.5


# --- the reference -------------------------------------------------------------------------


def cox_de_boor(x: Tensor, low: float, high: float, size: int, degree: int) -> Tensor:
    """B-splines by the recursion, as a last axis."""
    step = (high - low) / size
    knots = low + step * (torch.arange(size + 2 * degree + 1) - degree)
    x = x[..., None]
    found = ((x >= knots[:-1]) & (x < knots[1:])).double()
    for p in range(1, degree + 1):
        left = (x - knots[: -p - 1]) / (knots[p:-1] - knots[: -p - 1])
        right = (knots[p + 1 :] - x) / (knots[p + 1 :] - knots[1:-p])
        found = left * found[..., :-1] + right * found[..., 1:]
    return found


def gram(z: Tensor, beta: Tensor) -> Tensor:
    """silu of the Gram polynomials of docs/packed-format.md, section 5.1, as a last axis."""
    found = [torch.ones_like(z), z]
    for m in range(2, len(beta)):
        factor = (2 * m - 1) * (m - 1) ** 2 / (m**2 / (4 * (m - 1) ** 2 - 1))
        found.append(z * found[-1] - factor * beta[m - 1] * found[-2])
    return functional.silu(torch.stack(found, dim=-1))


def rbf(z: Tensor, grid: tuple[float, float, int]) -> Tensor:
    """Gaussians at the points of the grid, their width the distance between two: (*z, size)."""
    low, high, size = grid
    centres = torch.linspace(low, high, size, dtype=z.dtype)
    return torch.exp(-(((z[..., None] - centres) * (size - 1) / (high - low)) ** 2))


def reference(record: Checkpoint, x: Tensor) -> Tensor:
    """docs/packed-format.md, section 5.3, in float64: all features of the map, two convolutions."""
    tensors = {name: t.double() for name, t in record.state_dict().items()}
    x, conv, family = x.double(), record.conv, record.basis.family
    assert conv is not None
    for number, stride in enumerate(conv.strides):
        own = {
            name.removeprefix(f"{number}."): t
            for name, t in tensors.items()
            if name.startswith(f"{number}.")
        }
        scale, shift, mean, variance = (row[:, None, None] for row in own["norm"])

        def norm(y: Tensor) -> Tensor:
            return (y - mean) / torch.sqrt(variance + 1e-5) * scale + shift  # noqa: B023

        if family is Family.KAN:
            basis = cox_de_boor(x, *record.basis.grid, 3)
        elif family is Family.FASTKAN:
            basis = rbf(norm(x), record.basis.grid)
        else:
            basis = gram(torch.tanh(x), own["beta"])
        features = basis.movedim(-1, 2).flatten(1, 2)  # (batch, in * basis, rows, columns)
        coefficients = own["coefficients"]
        curve = coefficients[..., :-1].movedim(-1, 2).flatten(1, 2)
        y = functional.conv2d(features, curve, stride=stride, padding=conv.padding)
        base = functional.silu(x)
        y = y + functional.conv2d(base, coefficients[..., -1], stride=stride, padding=conv.padding)
        if family is Family.KAN:
            y = norm(y)
            y = torch.where(y > 0, y, own["slope"] * y)
        elif family is Family.GRAMKAN:
            y = functional.silu(norm(y))
        x = y
    return x.mean((2, 3)) @ tensors["head.weight"].T + tensors["head.bias"]


def dense(record: Checkpoint) -> Checkpoint:
    """The same network with its coefficients written out: every vector a centroid."""
    if record.kind == "dense":
        return record
    config = kancompress.ClusterConfig(clusters=65_536, force_pack=True)
    return kancompress.expand(kancompress.cluster(record, config).model)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_forward_is_the_documented_one(name: ModelName) -> None:
    record = checkpoint(name)
    x = images()
    found = build(record).eval()(x)
    assert torch.allclose(found.double(), reference(dense(record), x), atol=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_packed_files_run_as_they_are_documented(name: ModelName) -> None:
    packed = kancompress.cluster(checkpoint(name), kancompress.ClusterConfig(clusters=8)).model
    again = kancompress.load(kancompress.encode(packed))
    x = images()
    found = build(again).eval()(x)
    assert torch.allclose(found.double(), reference(kancompress.expand(again), x), atol=1e-5)


# --- features a few images at a time -------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2000, 1 << 22])
@pytest.mark.parametrize("name", PLAIN)
def test_chunks_change_neither_values_nor_gradients(
    name: ModelName, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kancompress.layers.window._CHUNK", chunk)
    layer = list(network(name).eval().double().kan_layers())[1]
    x = torch.randn(5, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    inputs = [x, *layer.parameters()]
    planes = layer.features(x).flatten(3).permute(0, 3, 1, 2)
    weight = layer.edges().movedim(-1, 1).flatten(1, 2)
    window = layer.window
    whole = layer.finish(functional.conv2d(planes, weight, None, window.stride, window.padding))
    pull = torch.randn_like(whole)
    expected = torch.autograd.grad((whole * pull).sum(), inputs)
    found = layer(x)
    assert torch.allclose(found, whole, atol=1e-12)
    slopes = torch.autograd.grad((found * pull).sum(), inputs)
    for one, other in zip(slopes, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def test_columns_are_the_patches_of_unfold() -> None:
    window = Window(kernel=(3, 2), stride=2, padding=1)
    planes = torch.randn(3, 6, 5, 4, 2)  # (batch, rows, columns, coefficient, in)
    count = math.prod(window.places(6, 5))
    maps = planes.permute(0, 3, 4, 1, 2).flatten(1, 2)
    whole = functional.unfold(maps, (3, 2), padding=1, stride=2)
    assert whole.shape[2] == count
    places = torch.tensor([[0, count - 1], [3, 3], [1, 0]])
    found = windows.columns(window, planes, places).view(3, 2, 4, -1)
    for image, row in enumerate(places):
        for number, place in enumerate(row):
            expected = whole[image, :, place].view(4, -1)
            assert torch.equal(found[image, number], expected)


# --- dropout and running statistics --------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_dropout_falls_where_the_kind_has_it(name: ModelName) -> None:
    found = initialise(
        default_basis(name.family, conv=True),
        (3, 64, 64, 5),
        None,
        0,
        conv=ConvSpec(strides=(1, 1), dropout=(0.5, 0.5)),
    ).train()
    first, second = found.kan_layers()
    torch.manual_seed(0)
    x = torch.randn(4, 64, 5, 5)
    assert torch.equal(first(x[:, :3]), first(x[:, :3]))  # none in the first layer
    if name is ModelName.KANCONV:  # behind the activation
        y = second(x)
        share = (y.flatten(2) == 0).all(2).float().mean()
    else:  # of what the basis sees, not of the base branch
        planes = second.features(x)
        assert torch.equal(planes[..., -1, :], functional.silu(x).permute(0, 2, 3, 1))
        seen = planes[..., 1, :]  # the second function, constant where a channel is dropped
        share = (seen.flatten(1, 2).std(1) < 1e-6).float().mean()
    assert 0.35 < float(share) < 0.65


@pytest.mark.parametrize("name", PLAIN)
def test_running_statistics_follow_the_batches_as_in_torch(name: ModelName) -> None:
    layer = next(network(name).train().kan_layers())
    before = layer.statistics.clone()
    x = images(8)
    seen = x if name is ModelName.FASTKANCONV else layer.sums(x, layer.edges(), None)
    twin = torch.nn.BatchNorm2d(seen.shape[1])
    twin.running_mean, twin.running_var = before[0].clone(), before[1].clone()
    twin(seen.detach())
    layer(x)
    assert torch.allclose(layer.statistics[0], twin.running_mean, atol=1e-6)
    assert torch.allclose(layer.statistics[1], twin.running_var, atol=1e-6)
    stored = layer.sides()["norm"]
    assert torch.equal(stored[2:], layer.statistics)


@pytest.mark.parametrize("name", PLAIN)
def test_trained_networks_have_the_statistics_of_evaluation(
    name: ModelName, few: DataOptions, tmp_path: Path
) -> None:
    """Those of training rows without dropout, whatever dropout made of them in training."""
    config = replace(default_training(name), epochs=8, batch_size=32, lr=1e-2)
    conv = ConvSpec(strides=(1, 2), dropout=(0.5, 0.5))
    trained = kancompress.train(name, few, config, hidden=(6, 6), conv=conv).checkpoint
    packed = kancompress.cluster(trained, kancompress.ClusterConfig(clusters=4)).model
    tuning = kancompress.FinetuneConfig(lr=1e-2, epochs=3, batch_size=32)
    tuned = kancompress.finetune(packed, few, tuning)
    assert any(epoch.best for epoch in tuned.history[1:])
    x = datasets.load_for_model(None, replace(few, images=True)).train.x
    for record in (trained, kancompress.expand(tuned.model)):
        h = x
        for layer in build(record).eval().kan_layers():
            twin = torch.nn.BatchNorm2d(len(layer.statistics[0]), momentum=1.0)
            kept = layer.statistics.clone()
            seen = h if name is ModelName.FASTKANCONV else layer.sums(h, layer.edges(), None)
            seen = seen.detach()
            twin(seen)
            assert torch.allclose(kept[0], twin.running_mean, atol=1e-4)
            assert torch.allclose(kept[1], twin.running_var, rtol=1e-3)
            layer.statistics[0], layer.statistics[1] = (
                seen.mean((0, 2, 3)),
                seen.var((0, 2, 3), correction=0),
            )
            h = layer(h).detach()


@pytest.mark.parametrize(("pixels", "count"), [(8, 1024), (32, 1024), (64, 256), (512, 16)])
def test_of_large_images_fewer_make_the_statistics(
    pixels: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    monkeypatch.setattr(Network, "renew_statistics", lambda _, x: taken.append(len(x)))
    train = Split(x=torch.zeros(1, 1, 1, 1).expand(2000, 1, pixels, pixels), y=torch.zeros(2000))
    renew = renewal(network(ModelName.KANCONV), train, 0)
    assert renew
    renew()
    assert taken == [count]
    assert renewal(torch.nn.Linear(2, 2), train, 0) is None


def test_dropout_and_momentum_come_back_after_statistics_were_renewed() -> None:
    found = network(ModelName.METAKANCONV).train()
    layer = list(found.kan_layers())[1]
    dropout = next(step for step in layer.form.after if isinstance(step, Dropout))
    assert layer.drops
    found.renew_statistics(images(8))
    assert layer.drops
    assert dropout.share > 0
    fresh_statistics = layer.statistics.clone()
    x = torch.randn(8, layer.edges().shape[1], 6, 6)
    twin = torch.nn.BatchNorm2d(layer.statistics.shape[1])
    twin.running_mean, twin.running_var = fresh_statistics[0].clone(), fresh_statistics[1].clone()
    twin(layer.sums(x, layer.edges(), None).detach())
    layer.train()(x)
    assert torch.allclose(layer.statistics[0], twin.running_mean, atol=1e-6)
    assert torch.allclose(layer.statistics[1], twin.running_var, atol=1e-6)


# --- sizes of the paper's networks ---------------------------------------------------------

CIFAR = (3, 32, 64, 128, 256, 10)


# Edges, indices, codebooks and head as Table 2's sizes have them; norms with running statistics.
@pytest.mark.parametrize(
    ("name", "norms", "papers"),
    [
        ("metakanconv", 4 * (4 * 480 + 4), 445_788),
        ("metafastkanconv", 4 * 4 * 227, 438_835),
        ("metagramkanconv", 4 * (4 * 480 + 4 * 4), 429_445),
    ],
)
def test_files_have_the_paper_s_sizes(name: str, norms: int, papers: int) -> None:
    record = fresh(name, CIFAR)
    assert sum(math.prod(shape) for shape in record.shapes) == 387_936
    d = record.basis.coefficients
    assert record.tensor_bytes == 4 * (387_936 * 2 + 32 * 3 + 32 * d + d) + 10_280 + norms
    config = kancompress.ClusterConfig().settled(conv=True)
    plan = Plan.of(NativeSource(checkpoint=record, file_bytes=0))
    header, payload = plan.size(config)
    assert payload == 387_936 + 4 * 256 * d * 4 + 10_280 + norms
    assert header < 2300
    if name != "metafastkanconv":  # the paper's has no room for the running statistics
        assert header + payload <= papers


# --- recipes -------------------------------------------------------------------------------


# Tables 6 and 7 of the paper: lr or lr_h, lr_e, global lr, |w|.
@pytest.mark.parametrize(
    ("name", "rates", "coefficients"),
    [
        ("kanconv", [1e-3], 9),
        ("fastkanconv", [1e-3], 9),
        ("gramkanconv", [1e-3], 5),
        ("metakanconv", [1e-4, 1e-3, 5e-3], 9),
        ("metafastkanconv", [1e-4, 5e-3, 5e-3], 9),
        ("metagramkanconv", [1e-4, 5e-3, 5e-3], 5),
    ],
)
def test_recipes_are_the_papers(name: str, rates: list[float], coefficients: int) -> None:
    model = ModelName(name)
    config = default_training(model)
    assert (config.epochs, config.patience, config.batch_size) == (150, 10, 128)
    assert config.decay == 0.975
    basis = default_basis(model.family, conv=True)
    assert basis.coefficients == coefficients
    assert basis.grid is None or basis.grid[:2] == (-3.0, 3.0)
    found = network(model)
    groups = parameter_groups(found, config)
    assert [group["lr"] for group in groups] == rates
    assert sum(len(group["params"]) for group in groups) == len(list(found.parameters()))
    if model.is_meta:  # the meta-learner, the rest, the embeddings
        embeddings = {tuple(p.shape) for p in groups[2]["params"]}
        assert embeddings == {(4, 2, 3, 3, 2), (6, 4, 3, 3, 2)}
        learner = next(found.kan_layers()).edges.learner
        assert {id(p) for p in groups[0]["params"]} == {id(p) for p in learner.parameters()}


def test_generated_vectors_belong_to_edges() -> None:
    """Each (out, in, row, column) is made of one embedding: eq. 6 in numpy."""
    record = checkpoint(ModelName.METAGRAMKANCONV)
    tensors = {name: tensor.double().numpy() for name, tensor in record.tensors.items()}
    layer = list(build(record).kan_layers())[1]
    hidden = tensors["1.embedding"] @ tensors["meta.hidden.weight"].T + tensors["meta.hidden.bias"]
    expected = np.maximum(hidden, 0) @ tensors["meta.output.weight"].T + tensors["meta.output.bias"]
    assert expected.shape == (6, 4, 3, 3, 5)
    assert np.allclose(layer.edges().detach().numpy(), expected, atol=1e-6)


# --- from end to end -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> DataOptions:
    """400 of scikit-learn's digits as images, and 100 that test."""
    rows = datasets.load_for_training(DataOptions(images=True), seed=0)
    file = tmp_path_factory.mktemp("few") / "digits.npz"
    (x, y), (x_test, y_test) = ((p.x.numpy(), p.y.numpy()) for p in (rows.train, rows.test))
    np.savez(file, x=x[:400], y=y[:400], x_test=x_test[:100], y_test=y_test[:100])
    return DataOptions(file=file)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gramkanconv", marks=pytest.mark.slow),
        pytest.param("metafastkanconv", marks=pytest.mark.exhaustive),
    ],
)
def test_the_whole_way(name: str, few: DataOptions, tmp_path: Path) -> None:
    config = replace(default_training(ModelName(name)), epochs=14, batch_size=32)
    config = replace(config, lr=1e-2, lr_embedding=5e-2, lr_rest=1e-2)
    done = kancompress.train(name, few, config, hidden=(8, 16, 16))
    assert done.checkpoint.shapes == ((8, 1, 3, 3), (16, 8, 3, 3), (16, 16, 3, 3))
    assert done.checkpoint.conv == ConvSpec(strides=(1, 2, 2))
    assert done.test.accuracy > 0.6
    file = tmp_path / "trained.safetensors"
    kancompress.save(done.checkpoint, file)
    packed = kancompress.cluster(file, kancompress.ClusterConfig(clusters=4))
    tuning = kancompress.FinetuneConfig(lr=1e-2, epochs=2, batch_size=32)
    tuned = kancompress.finetune(packed.model, few, replace(tuning, also=("norms", "head")))
    assert tuned.validation.key() < tuned.validation_before.key()
    again = kancompress.evaluate(kancompress.encode(tuned.model), few)
    assert again.score.accuracy == tuned.test.accuracy
    expanded = kancompress.expand(tuned.model)
    assert torch.allclose(kancompress.evaluate(expanded, few).outputs, again.outputs, atol=1e-4)
    # Codebooks alone: running statistics follow, but for those of the images; no other side does.
    tuned = kancompress.finetune(packed.model, few, tuning)
    assert any(epoch.best for epoch in tuned.history[1:])
    pairs = zip(packed.model.layers, tuned.model.layers, strict=True)
    for number, (before, after) in enumerate(pairs):
        assert torch.equal(before.sides["norm"][:2], after.sides["norm"][:2])
        same = torch.equal(before.sides["norm"][2:], after.sides["norm"][2:])
        assert same == (number == 0 and name == "metafastkanconv")
        assert np.array_equal(before.index, after.index)
    for head, tensor in packed.model.tensors.items():
        assert torch.equal(tensor, tuned.model.tensors[head])


def test_dropout_is_an_option(tmp_path: Path) -> None:
    done("train", "--model", "gramkanconv", "--hidden", "2,3", "--epochs", "0", "--dropout", "0",
         "--head-dropout", "0.1", "-o", tmp_path / "own.st")  # fmt: skip
    own = kancompress.load(tmp_path / "own.st")
    assert isinstance(own, kancompress.Checkpoint)
    assert own.conv == ConvSpec(strides=(1, 2), dropout=(0.0, 0.1))


@pytest.mark.parametrize(
    ("conv", "told"),
    [
        ({"strides": (1, 2), "dropout": (1.0, 0.5)}, "dropout"),
        ({"strides": (1, 2, 2)}, "3 strides for 2 layers"),
        ({"strides": (0, 1)}, "strides"),
    ],
)
def test_networks_that_no_file_could_hold_are_refused_at_once(conv: Any, told: str) -> None:
    with pytest.raises(kancompress.UsageError, match=told):
        kancompress.train("kanconv", hidden=(2, 3), conv=ConvSpec(**conv))


def test_rows_that_are_no_images_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "flat.npz"
    np.savez(file, x=np.zeros((40, 64), np.float32), y=np.arange(40) % 4)
    with pytest.raises(kancompress.UsageError, match=r"\(rows, channels, height, width\)"):
        kancompress.train("kanconv", DataOptions(file=file))
    np.savez(file, x=np.zeros((40, 3, 8, 8), np.float32), y=np.arange(40) % 4)
    trained = kancompress.train(
        "kanconv", config=kancompress.TrainConfig(lr=1e-3, epochs=0), hidden=(4,)
    )
    with pytest.raises(kancompress.UsageError, match="images of 1 channels"):
        kancompress.evaluate(trained.checkpoint, DataOptions(file=file))


def test_closed_form_and_recursion_agree_in_float32() -> None:
    x = torch.linspace(-3.5, 3.5, 1001)
    closed = bspline.uniform_features(x[:, None], x[:, None], (-3.0, 3.0, 5), 3)[:, :-1, 0]
    assert torch.allclose(closed.double(), cox_de_boor(x.double(), -3.0, 3.0, 5, 3), atol=1e-5)


# --- clustering by outputs -----------------------------------------------------------------


def relative(found: Tensor, wanted: Tensor) -> float:
    gap = (found.double() - wanted.double()).square().sum()
    return float(gap / (wanted.double() - wanted.double().mean(0)).square().sum())


@pytest.mark.parametrize("name", PLAIN)
def test_columns_times_coefficients_are_the_sums(name: ModelName) -> None:
    layer = list(network(name).eval().kan_layers())[1]
    x = torch.randn(3, 4, 7, 6)
    sums = layer.sums(x, layer.edges(), None).flatten(2)  # (batch, out, place)
    places = torch.tensor([[0, 5], [11, 2], [3, 3]])
    columns = layer.columns(x, places)
    found = torch.einsum("ncm,omc->no", columns, layer.edges().flatten(1, -2))
    expected = torch.stack([sums[n, :, p] for n, row in enumerate(places) for p in row])
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gramkanconv", marks=pytest.mark.slow),
        pytest.param("metakanconv", marks=pytest.mark.exhaustive),
    ],
)
def test_errors_that_calibration_tells_are_those_of_the_file(name: str) -> None:
    record = checkpoint(ModelName(name), (2, 6, 8, 5))
    x = torch.randn(160, 2, 9, 9, generator=torch.Generator().manual_seed(3))
    config = kancompress.ClusterConfig(clusters=12)
    done = kancompress.cluster_by_outputs(record, x, config)
    assert done.calibrated.clusters == {"0": 12, "1": 12}
    rows, held_out = sample(x, kancompress.CalibrationConfig().samples, 0)
    dense, packed = build(record).eval(), build(done.model).eval()
    with torch.no_grad():
        for part, told in (
            (rows, done.calibrated.solution.error),
            (held_out, done.calibrated.solution.held_out),
        ):
            assert relative(packed(part), dense(part)) == pytest.approx(told, rel=1e-3)
        plain = build(kancompress.cluster(record, config).model).eval()
        assert relative(packed(rows), dense(rows)) < 0.5 * relative(plain(rows), dense(rows))
    assert all(layer.sides["bias"].shape == (layer.shape[0],) for layer in done.model.layers)


@pytest.mark.exhaustive
def test_numbers_of_clusters_are_chosen_for_a_size(few: DataOptions) -> None:
    record = kancompress.train(
        "fastkanconv", few, kancompress.TrainConfig(lr=1e-3, epochs=0), hidden=(6, 8)
    ).checkpoint
    target = kancompress.Target(bytes=7000)
    done = kancompress.cluster_by_outputs(record, few, target=target)
    assert len(kancompress.encode(done.model)) <= 7000
    assert kancompress.evaluate(done.model, few).outputs.isfinite().all()
    grid = kancompress.ClusterConfig(clusters=8, metric=kancompress.Metric.GRID)
    assert kancompress.cluster(record, grid).layers[1].clusters == 8


def test_inspection_counts_what_table_2_counts(tmp_path: Path) -> None:
    file = tmp_path / "dense.safetensors"
    kancompress.save(fresh("gramkanconv", CIFAR), file)
    report = kancompress.inspect(file)
    assert report["model"] == {
        "name": "gramkanconv",
        "degree": 3,
        "strides": [1, 2, 2, 1],
        "padding": 1,
        "dropout": [0.25, 0.5],
    }
    assert report["totals"]["edges"] == 387_936
    assert report["totals"]["dense_bytes"] == 387_936 * 5 * 4
    assert {row["name"]: row["bytes"] for row in report["other"]}["head.weight"] == 10_240
    assert [row["shape"] for row in report["layers"]][1] == [64, 32, 3, 3]


@pytest.mark.slow
def test_commands_take_convolutions_as_they_take_other_networks(
    few: DataOptions, tmp_path: Path
) -> None:
    dense, packed, tuned = (tmp_path / f"{name}.st" for name in ("dense", "packed", "tuned"))
    options = ["--model", "metagramkanconv", "--data", few.file, "--hidden", "16,16"]
    done("train", *options, "--epochs", "1", "--lr-rest", "1e-3", "-o", dense)
    sizes = json.loads(done("inspect", dense, "--clusters", "256", "--json").stdout)
    report = json.loads(done("cluster", dense, "-o", packed, "--json").stdout)
    assert [layer["requested"] for layer in report["layers"]] == [256, 256]
    assert report["file_bytes"] == sizes["predicted"]["file_bytes"]
    small = tmp_path / "small.st"
    done("cluster", dense, "--target-bytes", "7000", "-o", small)
    assert small.stat().st_size <= 7000
    done("cluster", dense, "--calibrate", few.file, "-k", "8", "-o", small, "--force")
    also = ["--also", "norms", "--also", "head", "--also", "biases"]
    done("finetune", small, "--data", few.file, "--epochs", "1", *also, "-o", tuned)
    score = json.loads(done("eval", tuned, "--data", few.file, "--json").stdout)
    assert score["examples"] == 100
    assert "gramkanconv" in done("inspect", tuned).stdout
    flat = tmp_path / "flat.npz"
    np.savez(flat, x=np.zeros((40, 64), np.float32), y=np.arange(40) % 10)
    assert "(rows, channels, height, width)" in refused(2, "eval", tuned, "--data", flat)


def test_images_smaller_than_a_kernel_are_refused() -> None:
    window = Window(kernel=(3, 2), stride=1, padding=0)
    assert window.places(3, 2) == (1, 1)
    x = torch.zeros(1, 1, 2, 5)
    with pytest.raises(kancompress.UsageError, match="3 x 2 has no place in a map of 2 x 5"):
        windows.sums(
            window, lambda x, z, shared: x[:, None], torch.zeros(1, 1, 3, 2, 1), x, x, None
        )
