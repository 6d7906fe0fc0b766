"""Numbers near the ends of their type: what a power of two does not change, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import kancompress
from command import call, done
from kancompress.clustering import kmeans
from kancompress.clustering.magnitudes import relative_distortion
from kancompress.config import ClusterConfig, KMeans, Metric

HUGE = [660, 1023]
TINY = [-200, -960]


def state(dtype: torch.dtype, exponents: tuple[int, int] = (0, 0)) -> dict[str, Tensor]:
    """Two layers of efficient-kan, their vectors times powers of two, below 1 before."""
    rng = torch.Generator().manual_seed(4)
    tensors = {}
    for number, (inputs, out) in enumerate([(8, 12), (12, 10)]):
        vectors = torch.rand(out, inputs, 9, generator=rng, dtype=torch.float64) * 2 - 1
        # few digits, so that a power of two loses none of them near the smallest numbers
        vectors = (vectors * 2**20).round() / 2**20
        vectors = torch.from_numpy(np.ldexp(vectors.numpy(), exponents[number])).to(dtype)
        at = f"layers.{number}."
        tensors[at + "base_weight"] = vectors[..., 8].contiguous()
        tensors[at + "spline_weight"] = vectors[..., :8].contiguous()
        grid = torch.arange(-3, 9, dtype=torch.float64) * 0.4 - 1
        tensors[at + "grid"] = grid.to(dtype).expand(inputs, -1).contiguous()
    return tensors


def packed(tmp_path: Path, tensors: dict[str, Tensor], **options: object) -> list[tuple]:
    """Centroids and labels of each layer of the packed file."""
    path = tmp_path / "model.pt"
    torch.save(tensors, path)
    model = kancompress.cluster(path, ClusterConfig(**options)).model  # type: ignore[arg-type]
    return [(model.codebook_of(layer), model.indices_of(layer)) for layer in model.layers]


PLAIN = {"clusters": 5}
OPTIONS = [
    PLAIN,
    {"clusters": 1},
    {"clusters": 5, "kmeans": KMeans.SCIKIT_LEARN},
    {"clusters": 5, "metric": Metric.GRID},
    {"target_bytes": 5_000},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("exponent", [*HUGE, *TINY])
def test_float64_layers_times_a_power_of_two(
    exponent: int, options: dict[str, object], tmp_path: Path
) -> None:
    plain = packed(tmp_path, state(torch.float64), **options)
    scaled = packed(tmp_path, state(torch.float64, (exponent, exponent)), **options)
    for (codebook, labels), (other, its_labels) in zip(plain, scaled, strict=True):
        assert np.array_equal(labels, its_labels)
        expected = np.ldexp(codebook.numpy(), exponent)
        assert np.allclose(other.numpy(), expected, rtol=1e-12, atol=5e-324)
        assert other.isfinite().all()


@pytest.mark.parametrize("exponent", [100, 127, -100])
@pytest.mark.parametrize("options", [PLAIN, {"clusters": 5, "metric": Metric.GRID}])
def test_float32_layers_times_a_power_of_two(
    exponent: int, options: dict[str, object], tmp_path: Path
) -> None:
    plain = packed(tmp_path, state(torch.float32), **options)
    scaled = packed(tmp_path, state(torch.float32, (exponent, exponent)), **options)
    for (codebook, labels), (other, its_labels) in zip(plain, scaled, strict=True):
        assert np.array_equal(labels, its_labels)
        assert np.array_equal(other.numpy(), np.ldexp(codebook.numpy(), exponent))


@pytest.mark.slow
@pytest.mark.parametrize("exponent", [100, -100])
def test_calibration_of_a_layer_times_a_power_of_two(exponent: int, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).uniform(-1, 1, (300, 8)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=rows)
    found = []
    for last in (0, exponent):
        path, out = tmp_path / "model.pt", tmp_path / f"{last}.st"
        torch.save(state(torch.float32, (0, last)), path)
        done("cluster", path, "-k", "5", "--calibrate", tmp_path / "rows.npz", "-o", out)
        model = kancompress.load(out)
        found.append(
            [(model.codebook_of(layer), model.indices_of(layer)) for layer in model.layers]
        )
    for number, ((codebook, labels), (other, its_labels)) in enumerate(zip(*found, strict=True)):
        assert np.array_equal(labels, its_labels)
        assert np.array_equal(other.numpy(), np.ldexp(codebook.numpy(), exponent * number))


def test_the_largest_and_smallest_numbers_there_are() -> None:
    largest = np.finfo(np.float64).max
    for number in (largest, -largest, 5e-324, -5e-324):
        same = kmeans.fit(np.full((9, 3), number), 1)
        assert (same.centroids == number).all()
    ends = np.array([[largest], [-largest], [largest], [largest / 2]])
    found = kmeans.fit(ends, 2)
    assert found.labels.tolist() == [0, 1, 0, 0]
    assert found.centroids[1, 0] == -largest
    assert np.isclose(found.centroids[0, 0], largest / 6 * 5, rtol=1e-15)
    assert kmeans.assign(ends, found.centroids).tolist() == [0, 1, 0, 0]
    ladder = np.arange(12.0)[:, None] * 5e-324
    small, plain = kmeans.fit(ladder, 3), kmeans.fit(np.arange(12.0)[:, None], 3)
    assert np.array_equal(small.labels, plain.labels)


def test_magnitudes_that_differ_between_columns_keep_their_means() -> None:
    rng = np.random.default_rng(0)
    which = rng.integers(0, 2, 40)
    sides = np.array([[1e305, 1e-290], [-1e305, 3e-290]])
    vectors = sides[which] * rng.uniform(0.9, 1.1, (40, 1))
    found = kmeans.fit(vectors, 2)
    for label in (0, 1):
        members = vectors[found.labels == label]
        expected = [(members[:, 0] / 64).sum() / len(members) * 64, members[:, 1].mean()]
        assert np.allclose(found.centroids[label], expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("exponent", [0, 520, 1020, -520, -1000])
def test_distortion_is_that_of_ordinary_numbers(exponent: int) -> None:
    rng = np.random.default_rng(1)
    vectors = np.round(rng.uniform(-1, 1, (50, 4)) * 2**20) / 2**20
    labels = rng.integers(0, 3, 50)
    centroids = np.stack([vectors[labels == label].mean(axis=0) for label in range(3)])
    centroids = np.round(centroids * 2**20) / 2**20
    error = ((vectors - centroids[labels]) ** 2).sum()
    expected = error / ((vectors - vectors.mean(axis=0)) ** 2).sum()
    scaled = (np.ldexp(vectors, exponent), np.ldexp(centroids, exponent), labels)
    assert np.isclose(relative_distortion(*scaled), expected, rtol=1e-12)
    assert relative_distortion(np.full((3, 2), 1e200), np.full((1, 2), 1e200), labels[:3] * 0) == 0


HARD = [
    (torch.float64, 660), (torch.float64, -1060), (torch.float32, 100), (torch.float32, 127),
    (torch.float32, -140), (torch.bfloat16, 127), (torch.float16, 15), (torch.float16, -23),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "exponent"), HARD)
def test_commands_give_numbers_or_say_what_is_wrong(
    dtype: torch.dtype, exponent: int, tmp_path: Path
) -> None:
    model, rows, out = (tmp_path / name for name in ("model.pt", "rows.npz", "out.st"))
    torch.save(state(dtype, (exponent, exponent)), model)
    np.savez(rows, x=np.random.default_rng(0).uniform(-1, 1, (64, 8)).astype(np.float32))
    to = ("-k", "5", "-o", out, "--force", "--json")
    commands = [
        ("cluster", model, *to),
        ("cluster", model, *to, "--codebook-dtype", "float16"),
        ("cluster", model, *to, "--calibrate", rows),
        ("cluster", model, *to, "--calibrate", rows, "--method", "kmeans"),
        ("inspect", model, "--json", "-k", "5"),
    ]
    for command in commands:
        result = call(*command)
        assert "Internal error" not in result.stderr
        if result.exit_code == 0:
            report = json.loads(result.stdout)
            assert "NaN" not in result.stdout
            for layer in report["layers"]:
                assert layer.get("distortion", 0.0) is not None, command
        else:
            assert result.exit_code in (1, 2)
            assert "'layers." in result.stderr, (command, result.stderr)
            assert "nan" not in result.stderr
            assert " inf" not in result.stderr
    assert call(*commands[0]).exit_code == 0


def test_narrow_codebooks_say_which_type_holds_the_numbers(tmp_path: Path) -> None:
    path, out = tmp_path / "model.pt", tmp_path / "out.st"
    for exponent, dtype, advice in [
        (100, "float16", "float32"),
        (660, "float32", "source"),
        (-660, "float32", "source"),
        (-100, "float16", "float32"),
    ]:
        torch.save(state(torch.float64, (exponent, exponent)), path)
        result = call("cluster", path, "--codebook-dtype", dtype, "-o", out, "--force")
        assert result.exit_code == 1
        assert "Layer 'layers.0' has coefficients of" in result.stderr
        assert f"too {'large' if exponent > 0 else 'small'} for {dtype};" in result.stderr
        assert f"use --codebook-dtype {advice}." in result.stderr
        done("cluster", path, "--codebook-dtype", advice, "-o", out, "--force")


@pytest.mark.slow
def test_pictures_of_large_and_small_numbers(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    for exponent, option in ((1023, "--plot"), (-1060, "--plot-functions")):
        torch.save(state(torch.float64, (exponent, exponent)), path)
        done("inspect", path, option, tmp_path / "picture.svg", "--force")
        picture = (tmp_path / "picture.svg").read_text()
        assert " / 1e" in picture
