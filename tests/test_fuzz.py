"""A short run of each program of tests/fuzz: nothing is found. CI asserts no times."""

import os
import signal
from collections.abc import Callable

import pytest

from tests.fuzz import engine, limits
from tests.fuzz.changes import Changes
from tests.fuzz.foreign import Foreign
from tests.fuzz.kills import Kills
from tests.fuzz.packed import Packed
from tests.fuzz.places import Places

pytestmark = pytest.mark.slow

# Seconds of the processor that end a case here: a machine may be slow, but there is an end.
LIMIT = 60.0


def run(subject: engine.Subject, count: int) -> engine.Report:
    report = engine.run(subject, seed=0, count=count, processes=1, limit=LIMIT)
    assert report.cases == count
    assert not report.faults, "\n".join(report.lines())
    return report


def test_mutated_packed_files() -> None:
    report = run(Packed(), 1500)
    assert report.outcomes["accepted"] > 100  # else nothing would be restored
    assert len(report.outcomes) > 25


def test_mutated_foreign_files() -> None:
    report = run(Foreign(), 250)
    assert report.notes["the same tensors as torch"] > 10
    assert report.notes["the same tensors as safetensors"] > 3


def test_killed_commands() -> None:
    run(Kills(only=("cluster", "expand")), 6)


def test_inputs_that_change() -> None:
    run(Changes(mib=1.0, only=("cluster safetensors", "expand")), 6)


def test_places_between_guarded_pages() -> None:
    report = run(Places(), 1000)
    assert report.outcomes["placed"] > 150


@pytest.mark.parametrize("make", [Packed, Places])
def test_a_seed_gives_the_same_cases_in_any_number_of_processes(
    make: Callable[[], engine.Subject],
) -> None:
    subject = make()
    one, two = (engine.run(subject, seed=3, count=40, processes=n, limit=LIMIT) for n in (1, 2))
    assert (one.cases, one.outcomes, one.notes) == (two.cases, two.outcomes, two.notes)
    assert one.faults.keys() == two.faults.keys()


class Bad:
    """A subject whose cases end in every way that a program must see."""

    name = "bad"

    def make(self, draw: object) -> engine.Case:
        return engine.Case(draw.randbytes(4), ["drawn"])  # type: ignore[attr-defined]

    def judge(self, case: engine.Case, slot: engine.Slot | None) -> engine.Verdict:
        verdict = engine.Verdict("seen")
        match case.raw[0] % 4:
            case 0:
                os.kill(os.getpid(), signal.SIGSEGV)
            case 1:
                _, error = limits.attempt(lambda: bytearray(1 << 28), 1 << 20, LIMIT)
                assert error is not None
                verdict.fault(limits.kind_of(error, "run"))
            case 2:
                _, error = limits.attempt(endless, 1 << 20, 0.01)
                assert error is not None
                verdict.fault(limits.kind_of(error, "run"))
        return verdict


def endless() -> None:
    while True:
        pass


def test_the_programs_see_crashes_memory_and_time() -> None:
    report = engine.run(Bad(), seed=0, count=20, processes=2)
    assert report.cases == 20
    assert set(report.faults) == {"make: SIGSEGV", "run: too much memory", "run: too long"}
    assert report.outcomes["SIGSEGV"] == report.faults["make: SIGSEGV"].count
    assert sum(report.outcomes.values()) == 20
