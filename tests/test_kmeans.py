"""k-means against scikit-learn, hand-made answers, and itself on another number of threads."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from kancompress.clustering import kmeans
from kancompress.clustering.nearest import Rows
from kancompress.clustering.vectors import SUM_BLOCK, Normalised
from kancompress.config import KMeans as Choice


def curve(count: int, seed: int = 0, noise: float = 0.02) -> np.ndarray:
    """Vectors near a curve in 9 dimensions, as a meta-learner makes them."""
    rng = np.random.default_rng(seed)
    t = rng.standard_normal((count, 1))
    directions = rng.standard_normal((3, 9))
    spread = np.hstack([t, np.maximum(t, 0), np.maximum(-t - 0.5, 0)]) @ directions
    return (spread + noise * rng.standard_normal((count, 9))).astype(np.float32)


def scikit_learns(points: np.ndarray, start: np.ndarray, iterations: int) -> KMeans:
    """Lloyd's iterations of scikit-learn, in float64, until no label changes."""
    estimator = KMeans(
        len(start),
        init=start.astype(np.float64),
        n_init=1,
        max_iter=iterations,
        tol=0,
        algorithm="lloyd",
    )
    return estimator.fit(points.astype(np.float64))


@pytest.mark.parametrize("clusters", [2, 16, 100])
def test_lloyd_equals_scikit_learn_from_the_same_start(
    clusters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kmeans, "_MOMENTUM", 0.0)
    points = curve(6000)
    start = points[:clusters].copy()
    ours = kmeans.lloyd(points, start, max_iterations=25)
    theirs = scikit_learns(points, start, 25)
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-3)
    assert (ours.labels == theirs.labels_).mean() > 0.99


def scattered(count: int) -> np.ndarray:
    """Vectors that fill five dimensions."""
    return np.random.default_rng(0).standard_normal((count, 5)).astype(np.float32)


@pytest.mark.parametrize("make", [curve, scattered])
@pytest.mark.parametrize("clusters", [64, 200])
def test_momentum_ends_lower_where_plain_iterations_change_nothing(
    make: Callable[..., Any], clusters: int
) -> None:
    points = make(9000)
    rng = np.random.default_rng(0)
    starts = [kmeans.plus_plus(points, clusters, rng) for _ in range(3)]
    ours = [kmeans.lloyd(points, start, max_iterations=400) for start in starts]
    theirs = [scikit_learns(points, start, 400).inertia_ for start in starts]
    ratios = [own.inertia / other for own, other in zip(ours, theirs, strict=True)]
    assert np.median(ratios) < 0.997
    for found in ours:
        after = scikit_learns(points, found.centroids, 1)
        assert after.inertia_ == pytest.approx(found.inertia, rel=1e-6)
        assert (after.labels_ == found.labels).mean() > 0.999


def test_momentum_reaches_what_plain_iterations_end_at_sooner() -> None:
    points = scattered(9000)
    start = kmeans.plus_plus(points, 64, np.random.default_rng(0))
    plain = scikit_learns(points, start, 25)
    assert plain.n_iter_ == 25  # not at its end
    assert kmeans.lloyd(points, start, max_iterations=15).inertia < plain.inertia_


def test_few_centroids_and_a_last_iteration_have_no_momentum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = scattered(6000)
    asked = []

    def beyond(self: Any, means: np.ndarray, centroids: np.ndarray, counts: np.ndarray) -> Any:
        asked.append(len(means) if self._share else 0)
        return means

    monkeypatch.setattr("kancompress.clustering.kmeans._Momentum.beyond", beyond)
    kmeans.lloyd(points, points[:63], max_iterations=4)
    assert not any(asked)
    asked.clear()
    kmeans.lloyd(points, points[:64], max_iterations=4)
    assert asked == [64] * 3


def test_momentum_goes_on_downhill_and_starts_anew_uphill() -> None:
    momentum = kmeans._Momentum(0.5)
    counts = np.array([3, 1])
    first = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert np.array_equal(momentum.beyond(first, first + 9, counts), first)
    # the means moved by (2, 0) and (0, -1)
    second = np.array([[2.0, 0.0], [1.0, 0.0]])
    onward = np.array([[3.0, 0.0], [1.0, -0.5]])
    assert np.array_equal(momentum.beyond(second, second - 0.1 * (second - first), counts), onward)
    # beyond the means already: going on would raise inertia. Of 3 and 1 vectors the larger decides
    third = second + np.array([[1.0, 0.0], [0.0, -3.0]])
    past = third + np.array([[0.4, 0.0], [0.0, 0.3]])  # 3 * 0.4 * 1 > 1 * 0.3 * 3
    assert np.array_equal(momentum.beyond(third, past, counts), third)
    momentum.forget()
    assert np.array_equal(momentum.beyond(first, first + 9, counts), first)


def test_vectors_that_only_scaling_makes_equal() -> None:
    points = np.append(np.arange(100) * 1e-12, 1.0).astype(np.float32)[:, None]
    found = kmeans.fit(points, 5)
    assert len(found.centroids) == 2
    assert found.labels.tolist() == [0] * 100 + [1]


def test_scikit_learn_is_a_choice() -> None:
    points = curve(5000, seed=2)
    found = kmeans.fit(points, 20, seed=3, max_iterations=30, by=Choice.SCIKIT_LEARN)
    moved = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    scaled = (moved / np.abs(moved).max()).astype(np.float32)
    start = kmeans.plus_plus(scaled, 20, np.random.Generator(np.random.PCG64(3)))
    theirs = KMeans(20, init=start, n_init=1, max_iter=30, tol=0).fit(scaled)
    assert found.iterations == theirs.n_iter_
    same = found.labels[:, None] == np.arange(20)
    pairs = [theirs.labels_[members] for members in same.T]
    assert all(len(set(members)) == 1 for members in pairs)
    for cluster, members in enumerate(same.T):
        assert np.allclose(found.centroids[cluster], points[members].mean(axis=0), atol=1e-5)
    own = kmeans.fit(points, 20, seed=3, max_iterations=30)
    assert found.inertia == pytest.approx(own.inertia, rel=1e-3)


@pytest.mark.parametrize("clusters", [8, 16, 64])
def test_inertia_is_no_higher_than_scikit_learns(clusters: int) -> None:
    points = curve(4000, seed=1)
    ours = [kmeans.fit(points, clusters, seed=seed).inertia for seed in range(5)]
    theirs = [
        KMeans(clusters, n_init=1, max_iter=100, tol=0, random_state=seed).fit(points).inertia_
        for seed in range(5)
    ]
    assert np.median(ours) < 1.05 * np.median(theirs)


def test_result_is_a_fixed_point() -> None:
    points = curve(3000).astype(np.float64)
    found = kmeans.fit(points, 16)
    assert np.array_equal(kmeans.assign(points, found.centroids), found.labels)
    for cluster in range(16):
        members = points[found.labels == cluster]
        assert np.allclose(found.centroids[cluster], members.mean(axis=0), atol=1e-12)
    exact = ((points - found.centroids[found.labels]) ** 2).sum()
    assert found.inertia == pytest.approx(exact, rel=1e-4)


def test_few_distinct_vectors_give_an_exact_codebook() -> None:
    distinct = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 7, 500)
    found = kmeans.fit(distinct[labels], 16)
    assert found.exact
    assert found.inertia == 0
    assert len(found.centroids) == 7
    assert np.array_equal(found.centroids[found.labels].astype(np.float32), distinct[labels])


def test_centroids_are_ordered_by_use_then_value() -> None:
    found = kmeans.fit(curve(2000), 16)
    counts = np.bincount(found.labels, minlength=16)
    assert (np.diff(counts) <= 0).all()
    exact = kmeans.fit(np.array([[3.0], [1.0], [1.0], [2.0]]), 4)
    assert exact.centroids.tolist() == [[1.0], [2.0], [3.0]]


def test_single_cluster_is_the_mean() -> None:
    points = curve(1000)
    found = kmeans.fit(points, 1)
    assert np.allclose(found.centroids[0], points.astype(np.float64).mean(axis=0), atol=1e-9)


def test_empty_clusters_are_repaired() -> None:
    points = np.repeat(np.arange(20.0)[:, None], 50, axis=0).astype(np.float32)
    points += np.random.default_rng(0).uniform(0, 1e-3, points.shape).astype(np.float32)
    start = np.full((20, 1), 1000.0, np.float32)
    start[0] = 0
    found = kmeans.lloyd(points, start, max_iterations=100)
    assert found.repaired > 0
    assert len(np.unique(found.labels)) == 20


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e30])
def test_scale_and_offset_do_not_matter(scale: float) -> None:
    points = curve(1500).astype(np.float64)
    moved = kmeans.fit(points * scale + 3 * scale, 16)
    assert moved.inertia / scale**2 == pytest.approx(kmeans.fit(points, 16).inertia, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 80), st.integers(1, 4), st.integers(1, 30), st.integers(0, 3), st.integers(0, 9)
)
def test_laws_hold_for_any_shape(n: int, d: int, k: int, levels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(-levels, levels + 1, (n, d)).astype(np.float32)
    found = kmeans.fit(points, k, seed=seed)
    distinct = len(np.unique(points, axis=0))
    assert len(found.centroids) <= min(k, distinct)
    assert set(found.labels) == set(range(len(found.centroids)))
    assert np.isfinite(found.centroids).all()
    if distinct <= k:
        assert np.array_equal(found.centroids[found.labels], points)


_DIGEST = """
import hashlib, sys, numpy as np
from kancompress.clustering import kmeans
from kancompress.clustering.nearest import Rows
from kancompress.config import KMeans
points = np.random.default_rng(5).standard_normal((30000, 9)).astype(np.float32)
found = kmeans.fit(points, 100, max_iterations=12, by=KMeans(sys.argv[1]))
print(hashlib.sha256(found.centroids.tobytes() + found.labels.tobytes()).hexdigest())
"""


@pytest.mark.exhaustive
@pytest.mark.parametrize("by", list(Choice))
def test_threads_do_not_change_a_bit(by: Choice) -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _DIGEST, by],
            env=os.environ | {"OMP_NUM_THREADS": threads},
            capture_output=True, text=True, check=True,
        ).stdout
        for threads in ("1", "2", "5")
    }  # fmt: skip
    assert len(digests) == 1
    assert len(digests.pop().strip()) == hashlib.sha256().digest_size * 2


def test_bounds_change_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """With spans and bounds, and with every pair compared, from the same start."""
    rng = np.random.default_rng(0)
    points = (rng.standard_normal((20_000, 9)) * rng.lognormal(0, 1, (20_000, 1))).astype(
        np.float32
    )
    start = points[:100].copy()
    bounded = kmeans.lloyd(points, start, max_iterations=12)
    monkeypatch.setattr(kmeans, "_MOST_BOUNDS", 0)
    compared = kmeans.lloyd(points, start, max_iterations=12)
    assert (bounded.labels == compared.labels).mean() > 0.999
    assert bounded.inertia == pytest.approx(compared.inertia, rel=1e-5)


@pytest.mark.parametrize(("n", "clusters"), [(1500, 7), (1024, 100), (700, 300)])
def test_rows_near_each_other_know_where_they_belong(n: int, clusters: int) -> None:
    """Bounds from known labels leave out no centroid that becomes the nearest."""
    rng = np.random.default_rng(n)
    points = rng.random((n, 3)).astype(np.float32)
    centroids = rng.random((clusters, 3))
    for _ in range(2):
        squares = ((points[:, None] - centroids) ** 2).sum(-1)
        labels = squares.argmin(1)
        rows, order = Rows.near(points, centroids, labels, squares.min(1))
        assert sorted(order) == list(range(n))
        assert np.array_equal(rows.points, points[order])
        for reach in (0.0, 0.001, 0.1):
            moved = centroids + reach * rng.standard_normal(centroids.shape)
            expected = ((points[order][:, None] - moved) ** 2).sum(-1)
            found = rows.assign(moved)
            np.testing.assert_allclose(
                expected[np.arange(n), found], expected.min(1), rtol=1e-5, atol=1e-6
            )
        points[n // 2 :] = points[: n - n // 2]  # duplicates


@pytest.fixture(scope="module")
def uneven() -> np.ndarray:
    """So many vectors that those of 100 clusters are put in order."""
    rng = np.random.default_rng(4)
    free = rng.standard_normal((9_000, 5)) * rng.lognormal(0, 1, (9_000, 1))
    return (free + 3).astype(np.float32)


def same(one: kmeans.Clustering, other: kmeans.Clustering) -> bool:
    """Whether two clusterings have the same bits."""
    return (
        np.array_equal(one.labels, other.labels)
        and one.centroids.tobytes() == other.centroids.tobytes()
        and (one.inertia, one.iterations) == (other.inertia, other.iterations)
    )


@pytest.mark.parametrize("clusters", [3, 100])
def test_what_is_held_and_what_is_made_anew_gives_the_same_bits(
    clusters: int, uneven: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spans cut once or for each batch, points written in order or taken from a copy."""
    held = kmeans.fit(uneven, clusters, max_iterations=6)
    monkeypatch.setattr("kancompress.clustering.nearest._CUT_ONCE", 0)
    monkeypatch.setattr("kancompress.clustering.vectors._SMALL", 0)
    assert same(kmeans.fit(uneven, clusters, max_iterations=6), held)


def test_a_layer_beyond_the_budget_has_no_copy_in_memory(
    uneven: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = (kmeans.fit(uneven, k, max_iterations=6) for k in (3, 100))

    def refused(*_: object) -> None:
        raise AssertionError("a copy was made")

    monkeypatch.setattr(Normalised, "held", refused)
    monkeypatch.setattr(Normalised, "ordered", refused)
    room = uneven.nbytes - 1
    assert same(kmeans.fit(uneven, 3, max_iterations=6, memory=room), few)
    found = kmeans.fit(uneven, 100, max_iterations=6, memory=room)
    assert found.inertia == pytest.approx(many.inertia, rel=1e-3)
    with pytest.raises(AssertionError, match="a copy was made"):
        kmeans.fit(uneven, 3, max_iterations=6, memory=room + 1)


@pytest.mark.parametrize("count", [1, SUM_BLOCK, SUM_BLOCK + 1, 5 * SUM_BLOCK + 77])
def test_sums_in_parts_are_numpys(count: int) -> None:
    numbers = np.random.default_rng(count).lognormal(0, 5, count)
    found = kmeans.pairwise(lambda start, stop: numbers[start:stop], 0, count)
    assert found == numbers.sum() == numbers[:, None].sum(axis=0)[0]
