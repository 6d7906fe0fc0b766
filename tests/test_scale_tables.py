"""What the tables of memory and time say of what was measured."""

from pathlib import Path

import pytest

from tests.benchmarks import scale

ROOT = Path(__file__).parents[1]
MEMORY = ROOT / "tests" / "benchmarks" / "measurements" / "memory.md"
GUIDE = ROOT / "docs" / "guides" / "scale.md"


def run(edges: float, above: float, seconds: float, **others: object) -> scale.Line:
    """A line of results."""
    line = {"label": "after", "command": "cluster", "file": "safetensors", "layers": 1, "k": 16}
    return (
        line | {"bytes": 36 * edges, "above": above, "seconds": seconds, "iterations": 3} | others
    )


def test_a_slope_is_what_more_edges_and_more_iterations_take() -> None:
    found = [
        run(1e6, 9e6, 7),  # too small to tell
        run(1e7, 5e8, 30),
        run(3e7, 13e8, 50),
        run(1e7, 5e8, 230, iterations=23),
        run(3e7, 1, 1, layers=2),
        run(3e7, 1, 1, label="before"),
        run(1e7, 5e8, 30, k=256),
    ]
    (slope,) = scale.slopes(found)
    assert slope.memory == pytest.approx(40)
    assert slope.seconds == pytest.approx(1e-6)
    assert slope.iteration == pytest.approx(1e-6)
    row = scale.slope_table(found, 1e9).splitlines()[-1]
    hours = (f"{1000 / 3600:.1f}", f"{98_000 / 3600:.1f}")
    assert row == (
        f"| 16 | 360 and 1,080 | 40 | 1.11 | 1.00 | 1.00 | 36 | 40 | {hours[0]} | {hours[1]} |"
    )
    unknown = scale.slope_table([line for line in found if line["iterations"] == 3], 1e9)
    assert unknown.splitlines()[-1].endswith("| not run |")


def test_pages_have_the_tables_that_the_program_prints() -> None:
    found = scale.lines()
    assert scale.memory_table(found) in MEMORY.read_text()
    assert scale.share_table(found) in GUIDE.read_text()
    assert scale.slope_table(found, 1e9) in GUIDE.read_text()
