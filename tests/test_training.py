"""Training: recipes, seeds, the meta-learner, and what is saved."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import kancompress
from conftest import fresh
from kancompress.config import TrainConfig, default_training
from kancompress.data import datasets
from kancompress.layers.edges import MetaEdges
from kancompress.models.native import build, initialise
from kancompress.specs import DataOptions, MetaSpec, ModelName, default_basis
from kancompress.training import loop as fitting
from kancompress.training.loop import Schedule
from kancompress.training.train import parameter_groups

QUICK = TrainConfig(lr=1e-3, lr_embedding=1e-2, epochs=2)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name.is_meta else ())
        for name in ModelName
        if not name.is_conv
    ],
)
def test_every_model_learns_digits(name: ModelName) -> None:
    config = replace(default_training(name), epochs=25, batch_size=32)
    done = kancompress.train(name, config=config)
    assert done.test.accuracy is not None
    assert done.test.accuracy > 0.8
    assert done.checkpoint.kind == ("meta" if name.is_meta else "dense")


# Tables 4 and 5 of the paper.
@pytest.mark.parametrize(
    ("name", "lr", "lr_embedding", "coefficients"),
    [
        ("kan", 1e-4, None, 9),
        ("fastkan", 1e-3, None, 9),
        ("gramkan", 1e-3, None, 5),
        ("metakan", 5e-4, 5e-3, 9),
        ("metafastkan", 1e-3, 1e-2, 9),
        ("metagramkan", 1e-4, 1e-3, 5),
    ],
)
def test_recipes_are_the_papers(
    name: str, lr: float, lr_embedding: float | None, coefficients: int
) -> None:
    config = default_training(ModelName(name))
    assert (config.lr, config.lr_embedding) == (lr, lr_embedding)
    assert (config.epochs, config.patience, config.batch_size) == (50, 10, 128)
    assert config.weight_decay == 0.01
    assert default_basis(ModelName(name).family).coefficients == coefficients


# Storage of Table 1: 101,632 B of embeddings, 6,528 of norms, 1,444 of meta-learner.
@pytest.mark.parametrize(
    ("name", "floats"),
    [
        ("kan", 25_408 * 9),
        ("fastkan", 25_408 * 9 + 1632),
        ("gramkan", 25_408 * 5 + 2 * 42 + 8),
        ("metafastkan", 25_408 + 1632 + 361),
        ("metagramkan", 25_408 + 2 * 42 + 8 + 64 + 165),
    ],
)
def test_networks_have_the_papers_size(name: str, floats: int) -> None:
    assert fresh(name, (784, 32, 10)).tensor_bytes == 4 * floats


def test_one_meta_learner_serves_all_layers_and_has_its_own_rate() -> None:
    network = initialise(default_basis(ModelName.METAKAN.family), (6, 5, 4), MetaSpec(), 0)
    edges = [layer.edges for layer in network.kan_layers()]
    assert all(isinstance(source, MetaEdges) for source in edges)
    assert edges[0].learner is edges[1].learner
    groups = parameter_groups(network, default_training(ModelName.METAKAN))
    assert [group["lr"] for group in groups] == [5e-4, 5e-3]
    assert {tuple(p.shape) for p in groups[1]["params"]} == {(5, 6, 1), (4, 5, 1)}
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(
        p.numel() for p in network.parameters()
    )


def test_meta_learner_is_equation_six() -> None:
    checkpoint = fresh("metakan", (6, 5, 4))
    tensors = {name: tensor.double().numpy() for name, tensor in checkpoint.tensors.items()}
    hidden = np.maximum(
        tensors["0.embedding"] @ tensors["meta.hidden.weight"].T + tensors["meta.hidden.bias"], 0
    )
    expected = hidden @ tensors["meta.output.weight"].T + tensors["meta.output.bias"]
    layer = next(build(checkpoint).kan_layers())
    assert np.allclose(layer.edges().detach().numpy(), expected, atol=1e-6)


def test_same_seed_same_bytes_and_other_seed_other_bytes() -> None:
    first, again = (
        kancompress.encode(kancompress.train("metakan", config=QUICK).checkpoint) for _ in range(2)
    )
    other = kancompress.train("metakan", config=replace(QUICK, seed=1)).checkpoint
    assert first == again
    assert kancompress.encode(other) != first


def test_zero_epochs_save_the_fresh_network() -> None:
    done = kancompress.train("kan", config=replace(QUICK, epochs=0))
    expected = fresh("kan").tensors
    assert all(torch.equal(done.checkpoint.tensors[name], expected[name]) for name in expected)


def test_best_validation_epoch_is_kept_and_patience_ends_the_run() -> None:
    done = kancompress.train("fastkan", config=replace(QUICK, lr=0.5, epochs=30, patience=2))
    best = min(done.history, key=lambda epoch: epoch.validation.key())
    assert done.validation == best.validation
    assert done.history[-1].number == min(30, best.number + 2)
    rows = datasets.load_for_model(done.checkpoint.data, None)
    again = fitting.score(build(done.checkpoint), rows.validation)
    assert again.accuracy == best.validation.accuracy


def test_learning_rates_decay_by_their_factor_after_every_epoch() -> None:
    rows = datasets.load_for_training(DataOptions(), seed=0)
    torch.manual_seed(0)
    network = torch.nn.Linear(64, 10)
    twin = torch.nn.Linear(64, 10)
    twin.load_state_dict(network.state_dict())
    schedule = Schedule(epochs=3, patience=9, batch_size=len(rows.train), seed=0, decay=0.5)
    groups = [{"params": [network.weight], "lr": 0.02}, {"params": [network.bias], "lr": 0.04}]
    fitting.fit(
        network,
        groups,
        rows.train,
        schedule,
        measure=lambda: fitting.score(network, rows.validation),
    )
    optimizer = torch.optim.AdamW([{"params": [twin.weight]}, {"params": [twin.bias]}])
    for number in range(3):
        for group, rate in zip(optimizer.param_groups, (0.02, 0.04), strict=True):
            group["lr"] = rate * 0.5**number
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(twin(rows.train.x), rows.train.y).backward()
        optimizer.step()
    for ours, expected in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


def test_diverged_run_says_what_to_try() -> None:
    rows = datasets.load_for_training(DataOptions(), seed=0)
    network = initialise(default_basis(ModelName.KAN.family), (64, 32, 10), None, 0)
    groups = [{"params": list(network.parameters()), "lr": float("inf")}]
    with pytest.raises(kancompress.KancompressError, match="`lr`"):
        fitting.fit(
            network,
            groups,
            rows.train,
            Schedule(epochs=2, patience=1, batch_size=128, seed=0),
            measure=lambda: fitting.score(network, rows.validation),
        )


def test_digits_are_divided_as_documented() -> None:
    rows = datasets.load_for_training(DataOptions(), seed=3)
    assert (len(rows.train), len(rows.validation), len(rows.test)) == (1293, 144, 360)
    assert rows.features == 64
    assert float(rows.train.x.min()) == 0
    assert float(rows.train.x.max()) == 1
    counts = torch.bincount(rows.test.y)
    assert int(counts.min()) >= 34
    assert int(counts.max()) <= 37
    same = datasets.load_for_training(DataOptions(), seed=4)
    assert torch.equal(same.test.x, rows.test.x)
    assert not torch.equal(same.train.x, rows.train.x)


def test_regression_has_rmse(tmp_path: object) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
    y = np.sin(3 * x[:, :1]) + x[:, 1:] ** 2
    file = tmp_path / "arrays.npz"  # type: ignore[operator]
    np.savez(file, x=x, y=y.astype(np.float32))
    options = DataOptions(file=file)
    done = kancompress.train("kan", options, replace(QUICK, lr=1e-2, epochs=40), hidden=(8,))
    found = kancompress.evaluate(done.checkpoint, options)
    assert found.score.accuracy is None
    expected = datasets.load_for_model(None, options).test.y.numpy()
    by_hand = np.sqrt(((found.outputs.numpy() - expected) ** 2).mean())
    assert found.score.rmse == pytest.approx(by_hand, rel=1e-5)
    assert found.score.rmse < 0.3


def test_mlp_is_plain_linear_layers(tmp_path: Path) -> None:
    """Through clustering, packing, fine-tuning and calibration like the rest; |w| = 1 (eq. 5)."""
    done = kancompress.train("mlp", config=replace(QUICK, epochs=3, batch_size=32))
    tensors = done.checkpoint.state_dict()
    rows = datasets.load_for_model(done.checkpoint.data, None)
    x = rows.test.x.double()
    hidden = torch.relu(
        x @ tensors["0.coefficients"][..., 0].double().T + tensors["0.bias"].double()
    )
    expected = hidden @ tensors["1.coefficients"][..., 0].double().T + tensors["1.bias"].double()
    found = kancompress.evaluate(done.checkpoint)
    assert torch.allclose(found.outputs.double(), expected, atol=1e-4)
    assert found.score.accuracy > 0.8
    packed = kancompress.cluster(done.checkpoint, kancompress.ClusterConfig(clusters=16))
    assert [layer.coefficients for layer in packed.layers] == [1, 1]
    # eq. 5: n log2(k) / 8 bytes of indices and 4 k of codebook, beside 4 n dense
    assert [layer.packed_bytes for layer in packed.layers] == [
        64 * 32 // 2 + 64,
        32 * 10 // 2 + 64,
    ]
    tuned = kancompress.finetune(packed.model, config=kancompress.FinetuneConfig(epochs=1))
    assert tuned.validation.key() <= tuned.validation_before.key()
    by_outputs = kancompress.cluster_by_outputs(
        done.checkpoint, DataOptions(), kancompress.ClusterConfig(clusters=4)
    )
    plain = kancompress.cluster(done.checkpoint, kancompress.ClusterConfig(clusters=4))
    dense = found.outputs

    def error(model: kancompress.PackedModel) -> float:
        return float((kancompress.evaluate(model).outputs - dense).square().mean())

    assert error(by_outputs.model) < error(plain.model)
    file = tmp_path / "packed.safetensors"
    kancompress.save(packed.model, file)
    assert kancompress.inspect(file)["layers"][0]["basis"] == "linear"
