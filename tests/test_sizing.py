"""The packed size is known before anything is clustered, and a size chooses the number."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_repacking import CASES, choices, efficient_kan

import kancompress
from command import call, done, only_line
from conftest import fresh
from kancompress import ClusterConfig, IndexCoding, RunOptions, StoredDtype
from kancompress.clustering.kmeans import count_distinct
from kancompress.models.files import read_foreign
from kancompress.models.records import Checkpoint
from kancompress.packing.foreign import open_foreign
from kancompress.packing.native import NativeSource
from kancompress.packing.sizes import Plan
from kancompress.specs import ModelName

OWN = Path(__file__).parent / "cases"
CHECKPOINTS = [
    pytest.param(path, id=f"{path.parent.name}-{path.name}")
    for folder in (OWN, CASES)
    for path in sorted(folder.glob("*/*.pt"))
    if path.parent.name != "traps" and not path.stem.endswith("io")
]
NUMBERS = (1, 2, 3, 5, 8, 9, 16, 33, 128, 1000)
WIDE = (StoredDtype.SOURCE, StoredDtype.FLOAT32)


def written(source: object, config: ClusterConfig, **options: object) -> int | None:
    """Bytes of the file that `cluster` gives, None where it refuses."""
    try:
        made = kancompress.cluster(source, config, **options)  # type: ignore[arg-type]
    except kancompress.KancompressError as error:
        if "would grow" not in str(error):
            raise
        return None
    return len(kancompress.encode(made.model))


def of_foreign(path: Path) -> Plan:
    layouts = choices(path.parent.name)
    source = open_foreign(read_foreign(path), layouts)
    return Plan.of(source.saying(RunOptions(layouts=layouts or {})))


def of_native(checkpoint: Checkpoint, dtype: StoredDtype = StoredDtype.SOURCE) -> Plan:
    size = len(checkpoint.encode())
    return Plan.of(NativeSource(checkpoint=checkpoint, file_bytes=size, side_dtype=dtype))


def total(size: tuple[int, int] | None) -> int | None:
    return None if size is None else sum(size)


@pytest.mark.parametrize("path", CHECKPOINTS)
def test_size_of_a_foreign_file_is_known_to_the_byte(path: Path) -> None:
    plan = of_foreign(path)
    layouts = choices(path.parent.name)
    for k, force in [(1, False), (3, False), (5, True), (8, False), (17, True), (129, True)]:
        config = ClusterConfig(clusters=k, force_pack=force, indices=IndexCoding.BITS)
        assert plan.is_certain(config)
        assert total(plan.size(config)) == written(path, config, layouts=layouts), k
    half = replace(config, clusters=4, codebook_dtype=StoredDtype.FLOAT16)
    assert total(plan.size(half)) == written(path, half, layouts=layouts)


@pytest.mark.parametrize("name", list(ModelName))
@pytest.mark.parametrize("dtype", list(StoredDtype))
def test_size_of_a_native_file_is_known_to_the_byte(name: str, dtype: StoredDtype) -> None:
    checkpoint = fresh(name, (20, 9, 4))
    plan = of_native(checkpoint, dtype)
    for k in NUMBERS:
        config = ClusterConfig(clusters=k, codebook_dtype=dtype, side_dtype=dtype)
        assert plan.is_certain(config) or dtype not in WIDE or "meta" in name
        if plan.is_certain(config) or k < 10:
            assert total(plan.size(config)) == written(checkpoint, config)


def test_layers_may_have_numbers_of_their_own() -> None:
    checkpoint = fresh("kan", (20, 9, 4))
    plan = of_native(checkpoint)
    config = ClusterConfig(clusters=5, layers={"1": 17})
    assert total(plan.size(config)) == written(checkpoint, config)


def largest_that_fits(size: Callable[[int], int | None], target: int, last: int) -> int | None:
    """Every number tried."""
    fitting = [k for k in range(1, last + 1) if (found := size(k)) is not None and found <= target]
    return max(fitting, default=None)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["kan", "metagramkan"])
def test_target_takes_the_largest_number_that_fits(name: str) -> None:
    checkpoint = fresh(name, (12, 8, 3))
    plan = of_native(checkpoint)

    def size(k: int) -> int | None:
        return total(plan.size(ClusterConfig(clusters=k)))

    every = [size(k) or 0 for k in range(1, 97)]
    for target in {*every, *(found - 1 for found in every), 10**6} - {min(every) - 1}:
        expected = largest_that_fits(size, target, 96)
        made = kancompress.cluster(checkpoint, ClusterConfig(target_bytes=target))
        assert {layer.requested for layer in made.layers} == {expected}
        assert len(kancompress.encode(made.model)) <= target


@pytest.mark.parametrize("path", CHECKPOINTS)
def test_target_fits_and_one_more_does_not(path: Path) -> None:
    layouts = choices(path.parent.name)
    sizes = {
        k: found
        for k in (2, 10)
        if (found := written(path, ClusterConfig(clusters=k), layouts=layouts)) is not None
    }
    for target in (found + 20 * k for k, found in sizes.items()):
        config = ClusterConfig(target_bytes=target)
        made = kancompress.cluster(path, config, layouts=layouts)
        assert len(kancompress.encode(made.model)) <= target
        chosen = max(layer.requested for layer in made.layers)
        more = written(path, ClusterConfig(clusters=chosen + 1), layouts=layouts)
        exact = all(layer.exact for layer in made.layers)
        assert more is None or more > target or exact


def test_target_leaves_the_numbers_of_named_layers(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(efficient_kan(distinct=40), path)
    fixed = {"layers.1": 3}
    target = written(path, ClusterConfig(clusters=11, layers=fixed))
    assert target is not None
    made = kancompress.cluster(path, ClusterConfig(target_bytes=target, layers=fixed))
    assert [layer.requested for layer in made.layers] == [11, 3]
    both = {"layers.0": 3, "layers.1": 3}
    with pytest.raises(kancompress.UsageError, match="no layer to choose"):
        kancompress.cluster(path, ClusterConfig(target_bytes=target, layers=both))


@pytest.mark.parametrize("kind", ["native", "foreign"])
def test_too_small_a_target_says_what_the_smallest_file_would_be(kind: str, tmp_path: Path) -> None:
    source: object = fresh("fastkan", (20, 9, 4))
    if kind == "foreign":
        source = tmp_path / "model.pt"
        torch.save(efficient_kan(), source)
    smallest = written(source, ClusterConfig(clusters=1))
    assert smallest is not None
    with pytest.raises(
        kancompress.KancompressError,
        match=rf"at most 100 bytes: .* at k = 1, has {smallest:,}, .*header",
    ):
        kancompress.cluster(source, ClusterConfig(target_bytes=100))  # type: ignore[arg-type]
    assert kancompress.cluster(source, ClusterConfig(target_bytes=smallest)).model  # type: ignore[arg-type]
    with pytest.raises(kancompress.KancompressError, match=f"{smallest:,}"):
        kancompress.cluster(source, ClusterConfig(target_bytes=smallest - 1))  # type: ignore[arg-type]


def test_what_is_kept_beside_the_model_counts(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model": efficient_kan(distinct=40), "note": list(range(50))}, path)
    target = written(path, ClusterConfig(clusters=7), keep_extra=True)
    assert target is not None
    config = ClusterConfig(target_bytes=target)
    with_extra = kancompress.cluster(path, config, keep_extra=True)
    without = kancompress.cluster(path, config)
    assert with_extra.layers[0].requested == 7 < without.layers[0].requested
    assert len(kancompress.encode(with_extra.model)) == target


def test_a_file_that_comes_out_larger_is_packed_again_with_fewer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checkpoint = fresh("kan", (20, 9, 4))
    exact = Plan.size
    target = written(checkpoint, ClusterConfig(clusters=8))
    assert target is not None

    def too_hopeful(plan: Plan, config: ClusterConfig) -> tuple[int, int] | None:
        found = exact(plan, config)
        return found and (found[0], found[1] - 100)

    monkeypatch.setattr(Plan, "size", too_hopeful)
    made = kancompress.cluster(checkpoint, ClusterConfig(target_bytes=target))
    assert made.layers[0].requested == 8


def test_inspect_is_right_where_prediction_cannot_be(tmp_path: Path) -> None:
    """Half-precision centroids that k-means leaves without vectors are not stored."""
    rng = torch.Generator().manual_seed(0)
    state = efficient_kan(dtype=torch.float16)
    for name, tensor in state.items():
        if "weight" in name and "layers" in name:
            near = 1 + torch.rand(tensor.shape, generator=rng) * 0.004
            state[name] = near.to(torch.float16)
    path = tmp_path / "model.pt"
    torch.save(state, path)
    for k in (8, 60, 150):
        report = kancompress.inspect(path, clusters=k)
        assert report["predicted"]["file_bytes"] == written(path, ClusterConfig(clusters=k))


@pytest.mark.parametrize("name", ["gramkan", "metakan"])
def test_inspect_predicts_native_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    kancompress.save(fresh(name), path)
    for k in (1, 16, 70):
        report = kancompress.inspect(path, clusters=k)
        assert report["predicted"]["file_bytes"] == written(path, ClusterConfig(clusters=k))
    assert kancompress.inspect(path)["predicted"] is None
    kancompress.save(kancompress.cluster(path).model, tmp_path / "packed.safetensors")
    with pytest.raises(kancompress.UsageError, match="packed already"):
        kancompress.inspect(tmp_path / "packed.safetensors", clusters=4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distinct_vectors_are_counted_up_to_a_limit(dtype: type) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-2, 3, (200_000, 3)).astype(dtype)
    vectors[::2] *= -1  # brings minus zeros
    assert count_distinct(vectors, 200) == len(np.unique(vectors + 0, axis=0)) == 125
    assert count_distinct(vectors, 124) == 125
    assert count_distinct(vectors, 20) == 21
    assert math.isclose(count_distinct(vectors[:0], 5), 0)


def test_command_says_what_it_took_and_refuses_a_second_number(tmp_path: Path) -> None:
    path, packed = tmp_path / "model.pt", tmp_path / "packed.safetensors"
    torch.save(efficient_kan(distinct=40), path)
    result = done("cluster", path, "-o", packed, "--target-bytes", "3500", "-k", "layers.1=2")
    assert packed.stat().st_size <= 3500
    assert "at most 3,500 were asked for" in result.stderr
    result = call("cluster", path, "-o", packed, "--target-bytes", "3500", "-k", "2", "--force")
    assert result.exit_code == 2
    assert "leave out --clusters 2" in only_line(result.stderr)
    result = call("cluster", path, "-o", packed, "--target-bytes", "35", "--force")
    assert result.exit_code == 1
    assert "the smallest, at k = 1, has" in only_line(result.stderr)
    # what would make it smaller is named, and is true
    ((how, size),) = re.findall(r"With (--.*) it has ([\d,]+)\.", only_line(result.stderr))
    options = [word for word in how.replace(",", " ").split() if word != "and"]
    assert options[:2] == ["--header", "short"]
    done("cluster", path, "-o", packed, "-k", "1", *options, "--force")
    assert packed.stat().st_size == int(size.replace(",", ""))


def test_the_smallest_file_of_our_own_may_be_smaller_with_other_settings() -> None:
    network = fresh("fastkan", (12, 6, 3))
    with pytest.raises(kancompress.KancompressError) as told:
        kancompress.cluster(network, target_bytes=100)
    ((how, size),) = re.findall(r"With (`.*`) it has ([\d,]+)\.", str(told.value))
    settings = dict(re.findall(r'`(\w+)="(\w+)"`', how))
    assert settings["header"] == "short"
    assert settings["side_dtype"] == "int8"
    smaller = kancompress.cluster(network, clusters=1, **settings)
    assert len(kancompress.encode(smaller.model)) == int(size.replace(",", ""))
    with pytest.raises(kancompress.KancompressError) as told:
        kancompress.cluster(network, target_bytes=100, **settings)
    assert "With" not in str(told.value)


def test_a_config_without_target_is_what_it_was() -> None:
    checkpoint = fresh("kan", (20, 9, 4))
    config = ClusterConfig(clusters=6)
    same = replace(config, target_bytes=written(checkpoint, config), clusters=3)
    one, other = (kancompress.cluster(checkpoint, c).model for c in (config, same))
    assert kancompress.encode(one) == kancompress.encode(other)
