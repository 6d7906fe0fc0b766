"""`compare`: two networks on the same test rows."""

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import kancompress
from command import done, refused, write_material
from conftest import fresh
from kancompress import ClusterConfig, DataOptions, DataSpec


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("compare"))


def outputs(path: Path, place: Path) -> np.ndarray:
    target = place / f"{path.stem}-outputs.safetensors"
    done("eval", path, "--predictions", target, "--force")
    return load_file(target)["outputs"].astype(np.float64)


def test_scores_classes_and_deviations_are_those_of_the_outputs(place: Path) -> None:
    files = place / "dense.st", place / "packed.st"
    first, second = (outputs(path, place) for path in files)
    # of a network whose outputs differ: more centroids
    other = kancompress.cluster(files[0], ClusterConfig(clusters=2)).model
    kancompress.save(other, place / "coarse.st")
    second = outputs(place / "coarse.st", place)
    told = json.loads(done("compare", files[0], place / "coarse.st", "--json").stdout)
    gap = np.abs(first - second)
    assert told["equal_classes"] == pytest.approx((first.argmax(1) == second.argmax(1)).mean())
    assert told["largest_deviation"] == pytest.approx(gap.max())
    assert told["mean_deviation"] == pytest.approx(gap.mean())
    assert told["error"] == pytest.approx((gap**2).sum() / ((first - first.mean(0)) ** 2).sum())
    for key, path in (("dense", files[0]), ("packed", place / "coarse.st")):
        scored = json.loads(done("eval", path, "--json").stdout)
        same = ("accuracy", "loss", "examples", "file", "file_bytes", "clusters")
        assert {name: told[key][name] for name in same} == {name: scored[name] for name in same}
    assert told["ratio"] == told["dense"]["file_bytes"] / told["packed"]["file_bytes"]


def test_a_network_is_equal_to_itself_whatever_runs_it(place: Path) -> None:
    # the packed file stands for exactly the coefficients of dense.st
    found = kancompress.compare(place / "dense.st", place / "packed.st", runtime="numpy")
    assert found.equal_classes == 1
    assert found.error < 1e-10
    lines = done("compare", place / "dense.st", place / "packed.st").stdout.splitlines()
    assert lines[0].split() == ["file", "bytes", "accuracy", "loss"]
    assert "classes: equal for 100.00 % of 360 rows" in lines


def test_targets_have_no_classes(place: Path) -> None:
    network = replace(fresh("fastkan", (5, 4, 2)), data=DataSpec(name="file", targets=2))
    packed = kancompress.cluster(network, ClusterConfig(clusters=2)).model
    rows = DataOptions(file=place / "targets.npz")
    found = kancompress.compare(network, packed, rows)
    assert found.equal_classes is None
    assert found.dense.score.rmse is not None
    assert found.packed.file.clusters == {"0": 2, "1": 2}
    assert found.largest > found.mean > 0


def test_data_and_networks_are_what_evaluate_takes(place: Path) -> None:
    """A path is data, and a result of `cluster` a network; other things are told by their names."""
    network = replace(fresh("fastkan", (5, 4, 2)), data=DataSpec(name="file", targets=2))
    packed = kancompress.cluster(network, clusters=2)
    path = place / "targets.npz"
    found = kancompress.compare(network, packed, str(path))  # type: ignore[arg-type]
    assert found.dense.score == kancompress.evaluate(network, path).score
    assert found.packed.score == kancompress.evaluate(packed.model, path).score
    assert found.packed.file.file_bytes == len(kancompress.encode(packed.model))
    assert (found.dense.name, found.packed.name) == ("the first network", "the second network")
    wrong: list[tuple[dict, str]] = [
        ({"data": np.zeros((3, 5))}, "data"), ({"machine": "cpu"}, "machine"),
        ({"options": {}}, "options"), ({"model": "net"}, "model"),
    ]  # fmt: skip
    for given, name in wrong:
        with pytest.raises(kancompress.UsageError, match=f"`{name}` is") as told:
            kancompress.compare(network, packed.model, **given)
        assert told.value.fields == (name,)


def test_other_rows_and_widths_are_refused(place: Path) -> None:
    one = fresh("fastkan", (5, 4, 3))
    spec = DataSpec(name="file", classes=2)
    rows = DataOptions(file=place / "classes.npz")
    networks = [replace(one, data=spec), replace(one, data=replace(spec, seed=0, test=0.5))]
    with pytest.raises(kancompress.UsageError, match="no test rows in common"):
        kancompress.compare(*networks, rows, names=("one", "other"))
    wide = replace(fresh("fastkan", (5, 4, 4)), data=spec)
    with pytest.raises(kancompress.UsageError, match="one has 3 outputs and other 4"):
        kancompress.compare(networks[0], wide, rows, names=("one", "other"))
    assert "standard input" in refused(2, "compare", "-", "-")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_read_once_before_the_work(place: Path, tmp_path: Path) -> None:
    pipe, raw = tmp_path / "pipe", (place / "packed.st").read_bytes()
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(raw), daemon=True)
    writer.start()
    found = kancompress.compare(place / "dense.st", pipe)
    writer.join()
    assert (found.packed.name, found.packed.file.file_bytes) == (str(pipe), len(raw))
