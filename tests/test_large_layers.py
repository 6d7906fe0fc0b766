"""k-means of large layers: on a device, and shared by several processes, beside our own on the CPU
and scikit-learn's."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_kmeans import curve, scattered, scikit_learns
from torch import Tensor

import elsewhere
import kancompress
from command import done
from kancompress.clustering import clusterer, kmeans, nearest, on_device
from kancompress.clustering.crew import Crew
from kancompress.clustering.kmeans import LloydResult
from kancompress.clustering.vectors import Normalised, vectors_of
from kancompress.config import Device
from kancompress.config import KMeans as Choice
from kancompress.errors import KancompressError
from kancompress.system import devices
from tests.benchmarks.on_device import layer

CPU = torch.device("cpu")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_device, "_CELLS", 1 << 14)
    monkeypatch.setattr(on_device, "_MOST_ROWS", 700)


# --- on a device ------------------------------------------------------------------------------


@pytest.mark.parametrize("clusters", [2, 16, 100])
def test_a_device_gives_scikit_learns_clusters(
    clusters: int, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kmeans, "_MOMENTUM", 0.0)
    points = curve(6000)
    start = points[:clusters].copy()
    there = kmeans.lloyd(points, start, max_iterations=25, device=CPU)
    theirs = scikit_learns(points, start, 25)
    assert there.inertia == pytest.approx(theirs.inertia_, rel=1e-3)
    assert (there.labels == theirs.labels_).mean() > 0.99


@pytest.mark.parametrize(("clusters", "iterations"), [(1, 3), (16, 30), (64, 12)])
def test_a_device_gives_our_own_up_to_rounding(
    clusters: int, iterations: int, small_blocks: None
) -> None:
    points = scattered(9000)
    own = kmeans.fit(points, clusters, max_iterations=iterations)
    there, again, streamed = (
        kmeans.fit(points, clusters, max_iterations=iterations, device=CPU, memory=memory)
        for memory in (1 << 30, 1 << 30, 1000)
    )
    assert there.inertia == pytest.approx(own.inertia, rel=1e-4)
    assert (there.labels == own.labels).mean() > 0.999
    for other in (again, streamed):
        assert other.centroids.tobytes() == there.centroids.tobytes()
        assert other.labels.tobytes() == there.labels.tobytes()


def test_a_device_s_sums_are_those_of_its_labels(small_blocks: None) -> None:
    points = scattered(3000)
    side = on_device.OnDevice(kmeans.points_of(points), 40, CPU, 1 << 30)
    centroids = points[:40].astype(np.float64)
    squares = ((points[:, None] - centroids) ** 2).sum(-1)
    assert side.assign(centroids) == int((squares.argmin(1) != 0).sum())
    labels = side.labels()
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, squares.argmin(1))
    assert np.array_equal(side.counts, np.bincount(labels, minlength=40))
    sums = [points[labels == number].sum(0, dtype=np.float64) for number in range(40)]
    np.testing.assert_allclose(side.totals, sums, rtol=1e-12, atol=1e-12)
    distances, rows = side.farthest(centroids, 9)
    assert rows.tolist() == np.argsort(-squares.min(1), kind="stable")[:9].tolist()
    np.testing.assert_allclose(distances, squares.min(1)[rows])
    assert side.inertia(centroids) == pytest.approx(squares.min(1).sum())
    assert side.assign(centroids) == 0


def test_a_device_repairs_empty_clusters_and_takes_the_first_of_equal_ones() -> None:
    points = np.array([[0.0], [1], [8], [9]], np.float32)
    start = np.array([[0.5], [50], [8.5], [60]], np.float32)
    own = kmeans.lloyd(points, start, max_iterations=100)
    found = kmeans.lloyd(points, start, max_iterations=100, device=CPU)
    assert found.repaired == own.repaired >= 2
    assert found.inertia == 0
    tie = on_device.OnDevice(kmeans.points_of(points), 2, CPU, 1 << 30)
    tie.assign(np.array([[4.0], [4.0]]))
    assert tie.labels().tolist() == [0] * 4


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A device on which layers of 600 edges and more are clustered; the vectors that it got."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(clusterer, "LARGE", 600)
    find = devices.find
    monkeypatch.setattr(
        devices,
        "find",
        lambda wanted, **auto: elsewhere.DEVICE if wanted == Device.CUDA else find(wanted, **auto),
    )
    got = []

    class Counted(on_device.OnDevice):
        def __init__(self, points: Any, *others: Any) -> None:
            got.append(points.shape[0])
            super().__init__(points, *others)

    monkeypatch.setattr(kmeans, "OnDevice", Counted)
    return got


def two_layers() -> dict[str, Tensor]:
    """Layers of 800 and of 400 edges."""
    other = {name.replace("0", "1", 1): tensor for name, tensor in layer(400, 20).items()}
    return layer(800, 20) | other


def test_large_layers_alone_go_to_the_device(there: list[int]) -> None:
    state = two_layers()
    own = kancompress.cluster(state, clusters=5)
    assert not there
    machine = kancompress.Machine(device=Device.CUDA)
    with elsewhere.there():
        found = kancompress.cluster(state, clusters=5, machine=machine)
        assert there == [800]
        kancompress.cluster(state, clusters=5, parts=3, price=0.1, machine=machine)
        assert there == [800, 2400]
        auto = kancompress.cluster(state, clusters=5, machine=kancompress.Machine())
        kancompress.cluster(state, clusters=5, kmeans=Choice.SCIKIT_LEARN, machine=machine)
        assert there == [800, 2400]
        torch.save(state, "two.pt")
        done("cluster", "two.pt", "-k", "5", "-o", "out.st", "--device", "cuda")
        assert there == [800, 2400, 800]
    assert kancompress.encode(auto.model) == kancompress.encode(own.model)
    assert found.notes == own.notes
    written, there_too = kancompress.load("out.st").state_dict(), found.state_dict()
    for name, tensor in own.state_dict().items():
        torch.testing.assert_close(there_too[name], tensor)
        assert torch.equal(written[name], there_too[name])


# --- shared by several processes ---------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Thread(Crew):
    """A thread in the place of a process: what they tell each other lies in `said`."""

    barrier: threading.Barrier
    said: dict[int, Any]

    def _all(self, value: Any) -> list[Any]:
        self.said[self.number] = value
        self.barrier.wait()
        found = [self.said[number] for number in range(self.count)]
        self.barrier.wait()
        return found

    def told(self, values: np.ndarray, cuts: list[int]) -> None:
        others = self._all((values.copy(), cuts))
        for number, (other, same) in enumerate(others):
            assert same == cuts
            part = slice(cuts[number], cuts[number + 1])
            values[part] = other[part]

    def summed(self, values: np.ndarray) -> None:
        others = self._all(values.copy())
        assert (np.count_nonzero(others, axis=0) <= 1).all()
        values[:] = sum(others)

    def agreed(self, values: np.ndarray) -> np.ndarray:
        found = self._all(values.copy())
        assert all(other.tobytes() == found[0].tobytes() for other in found)
        return np.array(found[0])

    def check(self, *values: Any) -> None:
        self._all(None)


def together(count: int, run: Callable[[Crew], LloydResult]) -> list[LloydResult]:
    """What each of so many processes finds."""
    barrier, said = threading.Barrier(count, timeout=30), dict[int, Any]()
    found: dict[int, LloydResult] = {}

    def work(number: int) -> None:
        try:
            found[number] = run(Thread(number=number, count=count, barrier=barrier, said=said))
        except BaseException:
            barrier.abort()
            raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[number] for number in range(count)]


@pytest.mark.parametrize(
    ("rows", "clusters", "processes", "memory"),
    [
        (9000, 16, 2, 1 << 30),
        (9000, 16, 3, 1000),
        (9000, 70, 2, 1 << 30),  # in order, with bounds
        (9000, 300, 3, 1 << 30),
        (9000, 70, 2, 1000),
        (300, 7, 5, 1 << 30),  # fewer spans than processes
    ],
)
def test_a_shared_layer_has_the_bits_of_one_process(
    rows: int, clusters: int, processes: int, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(kmeans, "SUM_BLOCK", 700)
    monkeypatch.setattr(nearest, "SUM_BLOCK", 700)
    monkeypatch.setattr(nearest, "_BATCH_CELLS", 1 << 17)
    threads = torch.get_num_threads()
    points = Normalised(vectors_of(scattered(rows)), np.zeros(5), 1.0)
    # the last ones are nobody's, and are moved
    start = np.concatenate([points.block(0, clusters - 2), np.full((2, 5), 50, np.float32)])

    def run(crew: Crew) -> LloydResult:
        return kmeans.lloyd(points, start, max_iterations=9, memory=memory, crew=crew)

    try:
        alone = run(Crew())
        found = together(processes, run)
    finally:
        torch.set_num_threads(threads)
    assert alone.repaired >= 2
    for one in found:
        assert one.centroids.tobytes() == alone.centroids.tobytes()
        assert one.labels.tobytes() == alone.labels.tobytes()
        assert (one.inertia, one.iterations) == (alone.inertia, alone.iterations)
        assert one.repaired == alone.repaired


def test_spans_are_cut_by_what_they_cost() -> None:
    three = Crew(number=1, count=3)
    cuts = three.cuts(np.array([1] * 60 + [10] * 6))
    assert cuts == [0, 39, 61, 66]
    assert three.own(cuts) == (39, 61)
    assert three.cuts(np.ones(2)) == [0, 0, 1, 2]
    assert Crew().cuts(np.ones(9)) == [0, 9]


def test_a_process_that_reads_another_file_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    order = np.arange(9)
    Crew().check(order)
    monkeypatch.setattr("kancompress.clustering.crew.distributed.from_first", lambda _: [7.0])
    with pytest.raises(KancompressError, match="finds other numbers in layer 'own' than the first"):
        Crew(number=1, count=2, layer="own").check(None, order)
