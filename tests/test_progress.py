"""How far works are, as it is told to whoever asks, and what is said of the time that is left."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from test_with_rows import splines

import kancompress
from conftest import fresh
from kancompress import CalibrationConfig, Hooks, Target
from kancompress.cli import _output
from kancompress.clustering.allocation import Choice
from kancompress.clustering.network import Calibrated, NetworkSolution, reach
from kancompress.clustering.progress import Passes, Progress
from kancompress.errors import KancompressError
from kancompress.reporting.plotting import clouds
from kancompress.training.history import Epoch, Score
from tests.benchmarks.cells import telling

QUICK = CalibrationConfig(method="feedback", samples=64, starts=1, rounds=1)
ROWS = torch.rand(80, 7, generator=torch.Generator().manual_seed(1)) * 2 - 1
Told = list[tuple[str, float, str]]


def test_parts_of_parts_lie_where_their_costs_say() -> None:
    told: Told = []
    whole = Progress(tell=lambda *step: told.append(step), work="all")
    first, second = whole.part(0.5, 1.0, "later").parts([1.0, 3.0])
    first.at(1.0, "one")
    passes = Passes(second.part(0.0, 1.0, "two"), 2)
    passes.done()
    passes.done()
    assert told == [
        ("all", 0.625, "later, one"),
        ("all", 0.8125, "later, two, pass 1 of at most 2"),
        ("all", 1.0, "later, two, pass 2 of at most 2"),
    ]


def test_every_step_of_a_search_is_told_and_every_network_that_was_tried() -> None:
    told: Told = []
    tried: list[float] = []
    hooks = Hooks(
        share=lambda *step: told.append(step), tried=lambda *network: tried.append(network[-1])
    )
    found = kancompress.cluster(
        splines(), rows=ROWS, calibration=QUICK, target=Target(error=0.2), price=0.0, hooks=hooks
    )
    works = {work: list(steps) for work, steps in itertools.groupby(told, lambda step: step[0])}
    assert list(works) == ["curves of single layers", "networks, at most 10"]
    for steps in works.values():
        shares = [share for _, share, _ in steps]
        assert shares == sorted(shares)
        assert 0 <= shares[0] < shares[-1] <= 1
    curves = works["curves of single layers"]
    assert curves[-1][1] == 1
    assert curves[0][2] == "layer layers.0, moments"
    assert "layer layers.1 at k = 4, pass 2 of at most 2" in {what for _, _, what in curves}
    networks = {what.partition(",")[0] for _, _, what in works["networks, at most 10"]}
    assert len(networks) == len(tried)
    assert found.calibrated is not None
    assert found.calibrated.solution is not None
    assert found.calibrated.solution.held_out in tried


def test_a_refusal_says_how_many_networks_were_tried() -> None:
    choices = [Choice((2,), 10, 0.1), Choice((4,), 20, 0.05)]
    errors = iter((0.3, 0.4))

    def solve(choice: Choice) -> Calibrated:
        held_out = next(errors)
        solution = NetworkSolution(layers={}, error=held_out, held_out=held_out)
        return Calibrated(clusters={}, curves={}, predicted=None, solution=solution)

    with pytest.raises(KancompressError, match=r"least has 0\.3, of 2 networks that were tried\."):
        reach(choices, 0.1, solve)


def test_what_is_left_follows_from_the_share_that_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 10.0, 20.0, 20.0, 1020.0))
    lines: list[tuple[float, str, str]] = []

    class Steps(_output.Steps):
        def __init__(self) -> None:
            """Nothing is shown."""

        def at(self, share: float, text: str, left: str = "") -> None:
            lines.append((share, text, left))

    monkeypatch.setattr(_output.time, "monotonic", lambda: next(clock))
    share = _output.Shares(Steps())
    share("curves", 0.0, "moments")
    share("curves", 0.25, "k = 2")
    share("curves", 0.5, "k = 4")
    share("", 0.5, "layer 0")  # another work
    share("", 0.75, "layer 1")
    assert lines == [
        (0.0, "curves: moments", ""),
        (0.25, "curves: k = 2", "; about 30 s left"),
        (0.5, "curves: k = 4", "; about 20 s left"),
        (0.5, "layer 0", ""),
        (0.75, "layer 1", "; about 17 min left"),
    ]


def test_iterations_of_t_sne_are_told_and_its_points_are_the_same() -> None:
    told: Told = []
    points = np.random.default_rng(0).normal(size=(12, 3))
    progress = Progress(tell=lambda *step: told.append(step))
    found = clouds._tsne(points, 0, progress)
    assert np.array_equal(found, clouds._tsne(points, 0, Progress()))
    shares = [share for _, share, _ in told]
    assert shares == sorted(shares)
    assert "iteration 50 of at most 1,000" in {what for _, _, what in told}


def test_the_paper_s_programs_say_how_far_a_training_is(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    tell = telling("mnist_kan_0", 50, lambda epoch: seen.append(epoch.number), every=0.0)
    score = Score(loss=1.0, accuracy=0.5, examples=2)
    for number in (0, 1, 20):
        tell(Epoch(number=number, train_loss=1.0, validation=score, best=False, seconds=3.0))
    assert seen == [0, 1, 20]
    assert capsys.readouterr().err.splitlines() == [
        "mnist_kan_0: epoch 1 of at most 50; at most about 147 s left",
        "mnist_kan_0: epoch 20 of at most 50; at most about 90 s left",
    ]


def test_a_training_tells_what_all_its_epochs_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((0.0, 10.0, 30.0))
    monkeypatch.setattr(_output.time, "monotonic", lambda: next(clock))
    bar = _output.Bar(most=4)
    assert [bar.left(done) for done in (1.0, 1.5, 3.0)] == [
        "",  # one epoch was done before
        "at most about 50 s left",
        "at most about 15 s left",
    ]


@pytest.mark.parametrize("runtime", ["torch", "numpy"])
def test_every_batch_of_rows_is_told(runtime: str) -> None:
    told: list[tuple[int, int]] = []
    packed = kancompress.cluster(fresh("fastkan", (3, 2)), clusters=2).model
    found = kancompress.predict(
        packed,
        np.zeros((5, 3)),
        batch_size=2,
        runtime=runtime,
        on_batch=lambda *batch: told.append(batch),
    )
    assert len(found.outputs) == 5
    assert told == [(1, 3), (2, 3), (3, 3)]
