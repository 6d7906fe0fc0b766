"""Clustering, running and tuning packed models."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import kancompress
from command import call
from conftest import fresh
from kancompress.config import ClusterConfig, FinetuneConfig, StoredDtype
from kancompress.data import datasets
from kancompress.models.native import build
from kancompress.models.records import Checkpoint, PackedLayer, PackedModel, sizes
from kancompress.specs import SourceSizes, default_basis
from kancompress.training import loop as fitting

EMPTY = SourceSizes(tensors=1, file=1)


def quantised(checkpoint: Checkpoint, vectors: int) -> Checkpoint:
    """The checkpoint with at most `vectors` distinct edge vectors a layer."""
    tensors = dict(checkpoint.tensors)
    for number in range(len(checkpoint.shapes)):
        name = f"{number}.coefficients"
        flat = tensors[name].reshape(-1, tensors[name].shape[-1])
        tensors[name] = flat[torch.arange(len(flat)) % vectors].reshape(tensors[name].shape)
    return replace(checkpoint, tensors=tensors)


@pytest.mark.parametrize("name", ["kan", "fastkan", "gramkan"])
def test_few_distinct_vectors_come_back_exactly(name: str) -> None:
    source = quantised(fresh(name), 7)
    done = kancompress.cluster(source, ClusterConfig(clusters=8))
    assert [layer.clusters for layer in done.layers] == [7, 7]
    assert all(layer.exact for layer in done.layers)
    back = kancompress.expand(done.model)
    assert back.tensors.keys() == source.tensors.keys()
    assert all(torch.equal(back.tensors[key], source.tensors[key]) for key in back.tensors)


@pytest.mark.parametrize("clusters", [1, 2, 3, 10, 16, 100, 256])
def test_sizes_follow_the_formula(clusters: int) -> None:
    done = kancompress.cluster(
        fresh("kan", (64, 32, 10)), ClusterConfig(clusters=clusters, force_pack=True)
    )
    width = int(np.ceil(np.log2(clusters)))
    for layer, edges in zip(done.model.layers, (2048, 320), strict=True):
        assert layer.codebook is not None
        assert layer.codebook.shape == (clusters, 9)
        index = done.model.named_tensors().get(f"{layer.name}.index")
        assert (0 if index is None else len(index)) == -(-edges * width // 8)
    raw = kancompress.encode(done.model)
    assert len(raw) == sum(sizes(done.model))


def test_layers_have_their_own_k_and_one_that_would_grow_stays_dense() -> None:
    source = fresh("kan", (64, 32, 10))
    done = kancompress.cluster(source, ClusterConfig(clusters=16, layers={"1": 319}))
    assert [layer.clusters for layer in done.layers] == [16, None]
    assert torch.equal(
        done.model.layers[1].coefficients, source.tensors["1.coefficients"].contiguous()
    )
    forced = kancompress.cluster(
        source, ClusterConfig(clusters=16, layers={"1": 319}, force_pack=True)
    )
    assert [layer.clusters for layer in forced.layers] == [16, 319]


@pytest.mark.parametrize(
    "config", [{"clusters": 0}, {"clusters": 65_537}, {"layers": {"2": 4}}, {"layers": {"0": 0}}]
)
def test_bad_numbers_of_clusters(config: dict[str, object]) -> None:
    with pytest.raises(kancompress.UsageError):
        kancompress.cluster(fresh("kan"), ClusterConfig(**config))  # type: ignore[arg-type]


def test_not_finite_is_refused_by_name() -> None:
    source = fresh("fastkan")
    source.tensors["1.norm"][0, 3] = float("nan")
    with pytest.raises(kancompress.InvalidFileError, match=r"'1\.norm' holds 1 number") as caught:
        kancompress.cluster(source.encode())
    assert caught.value.flaw is kancompress.Flaw.NOT_FINITE


@pytest.mark.parametrize("dtype", list(StoredDtype))
def test_codebook_types(dtype: StoredDtype, trained: Checkpoint) -> None:
    done = kancompress.cluster(trained, ClusterConfig(codebook_dtype=dtype))
    model = kancompress.load(kancompress.encode(done.model))
    assert isinstance(model, PackedModel)
    for layer, coefficients in zip(model.layers, _dense(trained), strict=True):
        assert layer.codebook is not None
        wide = dtype in (StoredDtype.SOURCE, StoredDtype.INT8)  # a byte times a float16
        name = "float32" if wide else dtype.value
        assert str(layer.codebook.dtype) == f"torch.{name}"
        table = layer.codebook.double()
        nearest = torch.cdist(coefficients.reshape(-1, 9).double(), table).min(1).values
        chosen = (
            (coefficients.double() - model.coefficients_of(layer).double())
            .reshape(-1, 9)
            .norm(dim=1)
        )
        assert torch.allclose(chosen, nearest, atol=1e-6)


def _dense(checkpoint: Checkpoint) -> list[Tensor]:
    return [layer.edges().detach() for layer in build(checkpoint).kan_layers()]


def test_too_large_for_float16_says_so() -> None:
    source = fresh("kan")
    source.tensors["0.coefficients"].mul_(1e7)
    with pytest.raises(kancompress.KancompressError, match="float32"):
        kancompress.cluster(source, ClusterConfig(codebook_dtype=StoredDtype.FLOAT16))


def test_scikit_learn_may_do_the_clustering(trained: Checkpoint, tmp_path: Path) -> None:
    source, files = tmp_path / "trained.st", [tmp_path / "own.st", tmp_path / "theirs.st"]
    kancompress.save(trained, source)
    for file, by in zip(files, ("own", "scikit-learn"), strict=True):
        options = ["--kmeans", by, "--max-iterations", "5"]
        assert call("cluster", source, *options, "-o", file).exit_code == 0
    own, theirs = (
        torch.cat([model.coefficients_of(layer).reshape(-1, 9) for layer in model.layers])
        for model in map(kancompress.load, files)
    )
    dense = torch.cat([coefficients.reshape(-1, 9) for coefficients in _dense(trained)])
    distances = [float((dense - packed).square().sum()) for packed in (own, theirs)]
    assert distances[1] == pytest.approx(distances[0], rel=1e-2)


@pytest.mark.parametrize("name", ["metafastkan", "gramkan"])
def test_what_is_beside_the_edges_is_rounded_to_its_type(name: str) -> None:
    source = fresh(name)
    generator = torch.Generator().manual_seed(1)
    for number in "01":
        norm = source.tensors[f"{number}.norm"]
        norm += 0.3 * torch.randn(norm.shape, generator=generator)
    done = kancompress.cluster(source, ClusterConfig(side_dtype=StoredDtype.FLOAT16))
    model = kancompress.load(kancompress.encode(done.model))
    assert isinstance(model, PackedModel)
    for layer in model.layers:
        for role, tensor in layer.sides.items():
            values = source.tensors[f"{layer.name}.{role}"].numpy().astype(np.float16)
            assert tensor.dtype == torch.float16
            assert np.array_equal(tensor.numpy(), values)
    assert source.tensors["0.norm"].dtype == torch.float32
    assert model.source.tensors == source.tensor_bytes
    tuned = kancompress.finetune(done.model, config=FinetuneConfig(epochs=1, also=("norms",)))
    assert tuned.model.layers[0].sides["norm"].dtype == torch.float16


def test_a_norm_too_large_for_float16_says_so() -> None:
    source = fresh("fastkan")
    source.tensors["1.norm"][0, 3] = 1e6
    says = r'1\.norm .*1e\+06.*`side_dtype="flo'
    with pytest.raises(kancompress.KancompressError, match=says):
        kancompress.cluster(source, ClusterConfig(side_dtype=StoredDtype.FLOAT16))


_CLUSTER = """
import sys, hashlib, kancompress
raw = kancompress.encode(kancompress.cluster(sys.argv[1]).model)
print(hashlib.sha256(raw).hexdigest())
"""


def test_threads_of_this_process_do_not_change_the_file(trained: Checkpoint) -> None:
    before, files = torch.get_num_threads(), set()
    try:
        for threads in (1, 3):
            kancompress.use_threads(threads)
            files.add(kancompress.encode(kancompress.cluster(trained).model))
    finally:
        kancompress.use_threads(before)
    assert len(files) == 1


@pytest.mark.exhaustive
def test_threads_do_not_change_the_file(trained: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "trained.safetensors"
    kancompress.save(trained, path)
    digests = {
        subprocess.run(
            [sys.executable, "-c", _CLUSTER, str(path)],
            env=os.environ | {"OMP_NUM_THREADS": threads},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "2", "3")
    }  # fmt: skip
    assert len(digests) == 1


def test_packed_runs_like_its_expansion(trained: Checkpoint) -> None:
    model = kancompress.cluster(trained).model
    x = torch.rand(50, 64, generator=torch.Generator().manual_seed(0))
    packed = fitting.predict(build(model), x)
    dense = fitting.predict(build(kancompress.expand(model)), x)
    assert torch.allclose(packed, dense, atol=1e-5)


def test_packed_network_holds_no_dense_coefficients(packed: PackedModel) -> None:
    network = build(packed)
    held = [*network.parameters(), *network.buffers()]
    assert max(tensor.numel() for tensor in held) == 64 * 32  # the index of the first layer
    assert not any(tensor.is_floating_point() and tensor.numel() > 16 * 9 for tensor in held[:1])


def test_shared_codebooks_and_kept_edges_run_as_they_expand() -> None:
    rng = torch.Generator().manual_seed(0)
    first = PackedLayer(
        name="0",
        shape=(4, 5),
        codebook=torch.randn(4, 9, generator=rng),
        index=np.arange(17, dtype=np.uint8) % 4,
        kept_at=torch.tensor([0, 7, 19]),
        kept=torch.randn(3, 9, generator=rng),
        sides={"bias": torch.randn(4, generator=rng)},
    )
    second = PackedLayer(
        name="1", shape=(3, 4), shares="0", index=np.arange(12, dtype=np.uint8) % 4
    )
    model = PackedModel(
        layers=(first, second),
        source=EMPTY,
        basis=default_basis(kancompress.ModelName.KAN.family),
    )
    again = kancompress.load(kancompress.encode(model))
    assert isinstance(again, PackedModel)
    x = torch.rand(20, 5, generator=rng)
    packed = fitting.predict(build(again), x)
    assert torch.allclose(packed, fitting.predict(build(kancompress.expand(again)), x), atol=1e-6)
    assert torch.equal(again.coefficients_of(first).reshape(20, 9)[7], first.kept[1])  # type: ignore[index]


# --- fine-tuning ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [StoredDtype.FLOAT32, StoredDtype.FLOAT16])
def test_tuning_changes_codebooks_alone_and_is_never_worse(
    trained: Checkpoint, dtype: StoredDtype
) -> None:
    model = kancompress.cluster(trained, ClusterConfig(clusters=4, codebook_dtype=dtype)).model
    given = kancompress.encode(model)
    done = kancompress.finetune(model, config=FinetuneConfig(lr=3e-3, epochs=4))
    for before, after in zip(model.layers, done.model.layers, strict=True):
        assert np.array_equal(before.index, after.index)  # type: ignore[arg-type]
        assert after.codebook is not None
        assert after.codebook.dtype == before.codebook.dtype  # type: ignore[union-attr]
        assert torch.equal(before.sides["norm"], after.sides["norm"])
    assert kancompress.encode(model) == given  # the record that was given is left alone
    assert done.validation.key() <= done.validation_before.key()
    assert done.validation.loss < done.validation_before.loss
    rows = datasets.load_for_model(model.data, None)
    assert fitting.score(build(done.model), rows.validation) == done.validation


def test_tuning_with_a_wild_rate_returns_what_it_was_given(trained: Checkpoint) -> None:
    model = kancompress.cluster(trained).model
    done = kancompress.finetune(model, config=FinetuneConfig(lr=30.0, epochs=2))
    assert kancompress.encode(done.model) == kancompress.encode(model)


def test_norms_learn_when_asked(trained: Checkpoint) -> None:
    model = kancompress.cluster(trained, ClusterConfig(clusters=2)).model
    done = kancompress.finetune(
        model, config=FinetuneConfig(lr=1e-3, epochs=3, also=("norms",))
    ).model
    assert not torch.equal(done.layers[0].sides["norm"], model.layers[0].sides["norm"])


def test_nothing_to_tune_is_refused() -> None:
    model = kancompress.cluster(fresh("kan", (64, 10)), ClusterConfig(clusters=639)).model
    assert model.layers[0].codebook is None
    with pytest.raises(kancompress.UsageError, match="no codebook"):
        kancompress.finetune(model)
