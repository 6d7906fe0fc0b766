"""`sweep`: one network packed to many sizes, each as `cluster` would, and each scored."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kancompress
import kancompress.api.sweep as sweep_api
from command import call, done, only_line, refused
from conftest import fresh
from kancompress import CalibrationConfig, ClusterConfig, DataOptions, StoredDtype, Target
from kancompress.cli import _output
from kancompress.cli import sweep as sweeping
from kancompress.clustering import kmeans, ladder
from kancompress.reporting.plotting import drawing

QUICK = CalibrationConfig(starts=1, samples=32, rounds=1, sweeps=1, max_iterations=5)
FREE = ClusterConfig(price=0.0)  # no price is searched


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dense file for digits, a file of another library, and rows with classes for that."""
    place = tmp_path_factory.mktemp("sweep")
    kancompress.save(fresh("fastkan", (64, 6, 10)), place / "dense.st")
    rng = torch.Generator().manual_seed(0)
    state = {}
    for number, (inputs, outputs) in enumerate(((12, 7), (7, 3))):
        prefix = f"layers.{number}."
        knots = (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1)
        state[f"{prefix}spline_weight"] = torch.randn(outputs, inputs, 8, generator=rng)
        state[f"{prefix}base_weight"] = torch.randn(outputs, inputs, generator=rng)
        state[f"{prefix}grid"] = knots
    torch.save(state, place / "model.pt")
    x = torch.rand(80, 12, generator=rng).numpy() * 2 - 1
    np.savez(place / "rows.npz", x=x, y=np.arange(80) % 3)
    return place


def written(made: kancompress.Compression) -> bytes:
    return kancompress.encode(made.model)


@pytest.mark.parametrize("value", [8.0, "8", [2, "4"], [2.5]])
def test_numbers_that_are_none_are_refused(value: Any) -> None:
    with pytest.raises(kancompress.UsageError, match=r"`clusters` is .*; whole numbers") as told:
        kancompress.sweep("dense.st", value)
    assert told.value.fields == ("clusters",)


def test_one_number_is_a_point() -> None:
    assert sweep_api._asked(np.int64(4), ()) == [kancompress.Asked(clusters=4)]
    assert sweep_api._asked(4, 900) == [
        kancompress.Asked(clusters=4),
        kancompress.Asked(target_bytes=900),
    ]


def test_data_is_what_evaluate_takes(place: Path) -> None:
    """A path is data; things of other types are told by their names."""
    source, data = place / "model.pt", place / "rows.npz"
    point = kancompress.sweep(source, [2], data=data).points[0]
    assert point.score == kancompress.evaluate(point.raw, data).score
    view = {name: torch.zeros(90_000)[: one.numel()].view_as(one).copy_(one)
            for name, one in torch.load(source).items()}  # fmt: skip
    torch.save(view, place / "view.pt")
    used = source.stat().st_size
    swept = kancompress.sweep(place / "view.pt", [2], data=data)
    assert swept.dense_bytes == pytest.approx(used, rel=0.05)
    assert swept.points[0].ratio == swept.dense_bytes / len(swept.points[0].raw)
    both = kancompress.compare(place / "view.pt", swept.points[0].raw, data)
    assert both.ratio == (place / "view.pt").stat().st_size / len(swept.points[0].raw)
    assert both.used_ratio == swept.points[0].ratio
    lines = done("compare", place / "view.pt", place / "view.pt", "--data", data).stdout
    assert "1.00 times as many in the first file\n" in lines
    for name, value in (("data", 5), ("machine", "cpu"), ("config", {}), ("calibration", 3)):
        with pytest.raises(kancompress.UsageError, match=f"`{name}` is") as told:
            kancompress.sweep(source, [2], **{name: value})
        assert told.value.fields == (name,)


def test_files_without_rows_are_those_of_cluster(place: Path) -> None:
    source, narrow = place / "dense.st", ClusterConfig(codebook_dtype=StoredDtype.FLOAT16)
    found = kancompress.sweep(source, [2, 4, 2], [2300], config=narrow)
    assert [point.asked.text for point in found.points] == ["k = 2", "k = 4", "at most 2,300 bytes"]
    configs = [{"clusters": 2}, {"clusters": 4}, {"target_bytes": 2300}]
    for point, config in zip(found.points, configs, strict=True):
        own = ClusterConfig(codebook_dtype=StoredDtype.FLOAT16, **config)  # type: ignore[arg-type]
        assert point.raw == written(kancompress.cluster(source, own))
        assert point.file_bytes == len(point.raw)
        assert point.ratio == source.stat().st_size / len(point.raw)
        between = kancompress.compare(source, point.raw)
        assert point.score == between.packed.score
        assert (point.error, point.equal_classes) == (between.error, between.equal_classes)
        assert point.clusters == between.packed.file.clusters
    assert found.dense == kancompress.evaluate(source).score


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("dense.st", []),
        ("model.pt", []),
        pytest.param("dense.st", [2400, 3000], marks=pytest.mark.slow),
        pytest.param("model.pt", [2400, 3000], marks=pytest.mark.exhaustive),
    ],
)
def test_files_by_outputs_are_those_of_cluster(
    name: str, sizes: list[int], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = name == "model.pt"
    data = DataOptions(file=place / "rows.npz") if foreign else DataOptions(name="digits")
    wanted = [2, 3], sizes
    common = {"rows": data, "calibration": QUICK}
    made = []
    own = ladder.Problem.__init__

    def counted(self: ladder.Problem, *args: object, **options: object) -> None:
        made.append(self)
        own(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ladder.Problem, "__init__", counted)
    source = place / name
    found = kancompress.sweep(source, *wanted, data if foreign else None, FREE, **common)  # type: ignore[arg-type]
    in_sweep = len(made)
    made.clear()
    single = [
        kancompress.cluster(source, ClusterConfig(clusters=k, price=0.0), **common)  # type: ignore[arg-type]
        for k in wanted[0]
    ]
    single += [
        kancompress.cluster(source, FREE, target=Target(bytes=size), **common)  # type: ignore[arg-type]
        for size in wanted[1]
    ]
    assert [point.raw for point in found.points] == [written(one) for one in single]
    assert in_sweep < len(made)  # moments are measured fewer times
    assert all(point.score is not None for point in found.points)


def test_a_sweep_goes_on_where_it_was_interrupted(place: Path, tmp_path: Path) -> None:
    source, folder = place / "dense.st", tmp_path / "sizes"

    def stop(point: kancompress.Point, number: int, count: int) -> None:
        assert count == 3
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kancompress.sweep(source, [2, 3, 4], output=folder, on_point=stop)
    found = kancompress.sweep(source, [2, 3, 4], output=folder)
    assert [point.resumed for point in found.points] == [True, True, False]
    whole = kancompress.sweep(source, [2, 3, 4])
    for one, other in zip(found.points, whole.points, strict=True):
        assert one.path is not None
        assert one.path.read_bytes() == other.raw
        same = ("file_bytes", "ratio", "clusters", "score", "error", "equal_classes", "notes")
        assert [getattr(one, key) for key in same] == [getattr(other, key) for key in same]
    # a file without its record, as where a run was killed between the two
    (folder / "k3.safetensors").unlink()
    (folder / "k5.safetensors").write_bytes(kancompress.sweep(source, [5]).points[0].raw)
    found = kancompress.sweep(source, [2, 3, 4, 5], output=folder)
    assert [point.resumed for point in found.points] == [True, False, True, False]


def test_what_is_another_sweeps_is_not_taken(place: Path, tmp_path: Path) -> None:
    source, folder = place / "dense.st", tmp_path / "sizes"
    kancompress.sweep(source, [2], output=folder)
    half = ClusterConfig(codebook_dtype=StoredDtype.FLOAT16)
    with pytest.raises(kancompress.UsageError, match="another set of options"):
        kancompress.sweep(source, [2], config=half, output=folder)
    other = fresh("fastkan", (64, 6, 10), seed=1)
    with pytest.raises(kancompress.UsageError, match="another source"):
        kancompress.sweep(other, [2], output=folder)
    (folder / "k2.safetensors").write_bytes(b"tuned since")
    with pytest.raises(kancompress.UsageError, match="not what this sweep wrote"):
        kancompress.sweep(source, [2], output=folder)
    found = kancompress.sweep(other, [2], output=folder, force=True)
    assert not found.points[0].resumed
    for text in ("[]", '{"told": {}, "points": {"k2.safetensors": 3}}', "{"):
        (folder / "sweep.json").write_text(text)
        with pytest.raises(kancompress.UsageError, match="no sweep"):
            kancompress.sweep(other, [2], output=folder)
    (folder / "sweep.json").unlink()
    with pytest.raises(kancompress.UsageError, match="exists"):
        kancompress.sweep(other, [2], output=folder)


def test_the_command_prints_and_writes_the_same_numbers(place: Path, tmp_path: Path) -> None:
    table, picture = tmp_path / "t.csv", tmp_path / "curve.svg"
    swept = (
        "sweep",
        place / "dense.st",
        "-k",
        "2,4",
        "--target-bytes",
        "100",
        "-o",
        tmp_path / "o",
    )
    told = json.loads(done(*swept, "--json", "--csv", table, "--plot", picture).stdout)
    lines = list(csv.DictReader(table.read_text().splitlines()))
    assert [line["clusters"] for line in lines] == ["", "2", "4", ""]
    points = [
        {"score": told["dense"], "error": 0.0, "ratio": 1.0, **told["dense"]},
        *told["points"],
    ]
    for line, point in zip(lines, points, strict=True):
        if point["score"] is None:
            assert "smallest, at k = 1" in point["problem"]
            assert line["accuracy"] == line["file"] == ""
            continue
        assert float(line["accuracy"]) == point["score"]["accuracy"]
        assert float(line["error"]) == point["error"]
        assert int(line["file_bytes"]) == point["file_bytes"]
    for k in (2, 4):
        done("cluster", place / "dense.st", "-k", k, "-o", tmp_path / "one.st", "--force")
        same = (tmp_path / "one.st").read_bytes()
        assert (tmp_path / "o" / f"k{k}.safetensors").read_bytes() == same
    assert picture.read_bytes().startswith(b"<?xml")
    printed = done(*swept)
    assert "1 of 3, k = 2" in printed.stderr
    assert "was there" in printed.stderr
    assert "1 of 3 points has no file: nothing fits into 100 bytes" in printed.stderr
    assert printed.stdout.splitlines()[0].split() == [
        "asked", "bytes", "ratio", "accuracy", "loss", "relative", "squared", "error",
    ]  # fmt: skip
    assert done(*swept, "--csv", "-", "-q").stdout == table.read_text()


def test_points_out_of_reach_are_counted_and_the_others_named_by_their_own_bytes() -> None:
    score = kancompress.Score(loss=0.5, accuracy=0.9, examples=10)
    there = kancompress.Point(
        asked=kancompress.Asked(target_bytes=4000), file_bytes=3936, score=score, error=0.1
    )
    points = [
        kancompress.Point(asked=kancompress.Asked(target_bytes=size), problem="too small")
        for size in (1500, 500)
    ]
    swept = kancompress.Sweep(name="net", dense_bytes=9000, dense=score, points=[there, *points])
    assert swept.out_of_reach == "2 of 3 points have no file: nothing fits into 500 or 1,500 bytes"
    assert there.label == "3,936 bytes"
    assert kancompress.Point(asked=kancompress.Asked(clusters=4), file_bytes=1).label == "k = 4"
    figure = drawing.draw_tradeoff(swept._tradeoff(), "net")
    assert swept.out_of_reach in figure.get_suptitle()
    assert [axes.texts[0].get_text() for axes in figure.axes] == ["3,936 bytes"] * 2
    assert replace(swept, points=[there]).out_of_reach == ""


def test_what_means_nothing_is_refused(place: Path, tmp_path: Path) -> None:
    source = place / "dense.st"
    assert "Name the points" in refused(2, "sweep", source)
    assert "--clusters 2,x" not in refused(2, "sweep", source, "-k", "2,x")
    assert "--target-bytes 0" in refused(2, "sweep", source, "--target-bytes", "0")
    assert "--target-bytes chooses" in refused(2, "sweep", source, "-k", "auto")
    assert "--calibrate" in refused(2, "sweep", source, "-k", "2", "--samples", "32")
    assert "--dataset" in refused(2, "sweep", place / "model.pt", "-k", "2")
    line = refused(2, "sweep", source, "-k", "2", "--json", "--csv", "-")
    assert "leave one out" in line
    result = call("sweep", source, "--target-bytes", "1,2")
    assert result.exit_code == 1
    assert "the smallest, at k = 1" in result.stderr.splitlines()[-1]
    assert only_line(result.stderr).startswith("No packed file has at most 2 bytes")
    with pytest.raises(kancompress.UsageError, match="target_bytes"):
        kancompress.sweep(source)
    done("sweep", source, "-k", "2", "-o", tmp_path / "o", "-q")
    line = refused(2, "sweep", source, "-k", "2", "-o", tmp_path / "o", "--seed", "3")
    assert "--force" in line
    assert "--output" in line


@pytest.mark.slow
def test_no_start_is_made_twice_and_steps_are_told(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[tuple[int, ...], bytes, int, int]] = []
    fit = kmeans.fit

    def counted(vectors: np.ndarray, clusters: int, **how: Any) -> kmeans.Clustering:
        seen.append((vectors.shape, vectors.tobytes(), clusters, how["seed"]))
        return fit(vectors, clusters, **how)

    monkeypatch.setattr(kmeans, "fit", counted)
    told: list[tuple[str, str, int, int | None]] = []
    solved: list[str] = []
    found = kancompress.sweep(
        place / "dense.st",
        [2],
        [2400, 2800],
        config=FREE,
        rows="digits",
        calibration=QUICK,
        on_step=lambda asked, what, done, total: told.append((asked.text, what, done, total)),
        hooks=kancompress.Hooks(solved=lambda name, layer: solved.append(name)),
    )
    assert not any(point.problem for point in found.points)
    # of the first layer, plain and in its metric
    first = [one for one in seen if one[:2] in {other[:2] for other in seen[:2]}]
    assert len(first) == len(set(first))
    assert told[:2] == [("k = 2", "layer 0", 1, 2), ("k = 2", "layer 1", 2, 2)]
    steps = [one for one in told if one[0] == "at most 2,400 bytes"]
    assert steps[0][1] == "layer 0 alone at k = 2"
    assert [one[2] for one in steps] == list(range(1, len(steps) + 1))
    assert solved == [one[1].removeprefix("layer ") for one in told if "alone" not in one[1]]


def test_what_is_left_is_told_within_a_point(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 10.0, 40.0, 60.0))
    monkeypatch.setattr(sweeping.time, "perf_counter", lambda: next(clock))
    lines: list[tuple[float, str]] = []

    class Steps(_output.Steps):
        def at(self, share: float, text: str) -> None:
            lines.append((share, text))

        def line(self, text: str) -> None:
            lines.append((-1.0, text))

    asked = kancompress.Asked(clusters=4)
    told = sweeping._Told(Steps(), 2)
    told.step(asked, "layer 0", 1, 4)  # a quarter of the first of two points in 10 s
    assert lines == [(0.125, "1 of 2, k = 4: layer 0, step 1 of 4; about 70 s left")]
    score = kancompress.Score(loss=0.25, accuracy=0.5, examples=2)
    told(kancompress.Point(asked=asked, file_bytes=9, score=score, seconds=40.0), 1, 2)
    assert lines[1][1].endswith("40.0 s; about 40 s left")
    told.step(kancompress.Asked(target_bytes=9), "layer 0 alone at k = 2", 1, None)
    assert lines[-1][1].endswith("layer 0 alone at k = 2, step 1; about 60 s left")
    told.within("networks, at most 9", 0.25, "network 2, layer 0")
    assert lines[-1][1] == "2 of 2: networks, at most 9, network 2, layer 0; about 60 s left"
    told.tried({"0": 4}, 0.0, 1234, 0.25)
    assert lines[-1][1].startswith("2 of 2: tried k = 4, without a price: 1,234 bytes, relative")
