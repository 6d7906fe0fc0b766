"""Time of one training step, batch 128, [784, 32, 10], as ratios within one run.

    python -m tests.benchmarks.training_step [--rounds 15] [--batches 24] [--no-compile] [--least]

A step is forward, cross-entropy, backward and AdamW (fused), for all contenders alike. Each step
takes the next of several batches, as training does, so that nobody's input waits in the cache.
They take turns, a burst of steps each; a ratio is the median over the rounds of the ratio of
medians. With --least a burst is its least processor time instead, for one thread on a machine that
others use, too.
inkan and flashkan come with `pip install '.[bench]'`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kancompress.layers.edges import MetaLearner
from kancompress.models.native import initialise
from kancompress.specs import Family, MetaSpec, default_basis
from tests.benchmarks.oracles import CoxDeBoorLayer, FloorLayer

WIDTHS = (784, 32, 10)
BATCH, BURST, WARM_UP = 128, 25, 8


class Floor(nn.Module):
    """Two matrix products over 9n features; the second repeats its input nine times."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = FloorLayer(784, 32), FloorLayer(32, 10)

    def forward(self, features: Tensor) -> Tensor:
        """(batch, 9 * 784) -> (batch, 10)."""
        return self.second(self.first(features).repeat(1, 9))


def cox_de_boor(meta: bool) -> nn.Module:
    """Two Cox-de Boor layers, with one meta-learner or none."""
    learner = MetaLearner(1, 32, 9) if meta else None
    return nn.Sequential(CoxDeBoorLayer(784, 32, learner), CoxDeBoorLayer(32, 10, learner))


def ours(meta: bool) -> nn.Module:
    """The network that `train --model kan` or `metakan` trains."""
    return initialise(default_basis(Family.KAN), WIDTHS, MetaSpec() if meta else None, 0)


def stepper(network: nn.Module, x: Tensor, y: Tensor, compiled: bool) -> Callable[[], None]:
    """One training step of `network` on the next of the batches `x`, `y`, (batches, batch, ...)."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(network, dynamic=False) if compiled else network
    batches = itertools.cycle(zip(x, y, strict=True))

    def step() -> None:
        inputs, targets = next(batches)
        optimizer.zero_grad()
        nn.functional.cross_entropy(forward(inputs), targets).backward()
        optimizer.step()

    return step


def contenders(compile_too: bool, batches: int) -> dict[str, Callable[[], None]]:
    """All steps by name; those with a compiled forward pass end in ', compiled'."""
    torch.manual_seed(0)
    x = torch.rand(batches, BATCH, 784) * 2 - 1
    y = torch.randint(0, 10, (batches, BATCH))
    features = torch.rand(batches, BATCH, 9 * 784)
    steps = {
        "kan": stepper(ours(False), x, y, False),
        "Cox-de Boor": stepper(cox_de_boor(False), x, y, False),
        "metakan": stepper(ours(True), x, y, False),
        "Cox-de Boor, meta": stepper(cox_de_boor(True), x, y, False),
        "floor": stepper(Floor(), features, y, False),
    }
    if compile_too:
        from flashkan import KANLayer as FlashLayer
        from inkan import KANLayer as InkLayer

        inkan = nn.Sequential(*(InkLayer(i, o, compile_basis=False) for i, o in _pairs()))
        flashkan = nn.Sequential(*(FlashLayer(i, o) for i, o in _pairs()))
        steps |= {
            "kan, compiled": stepper(ours(False), x, y, True),
            "metakan, compiled": stepper(ours(True), x, y, True),
            "inkan, compiled": stepper(inkan, x, y, True),
            "flashkan, compiled": stepper(flashkan, x, y, True),
            "floor, compiled": stepper(Floor(), features, y, True),
        }
    return steps


def _pairs() -> list[tuple[int, int]]:
    return [(784, 32), (32, 10)]


def burst(step: Callable[[], None], least: bool = False) -> float:
    """Median seconds of a step over a burst, or its least processor time."""
    clock = time.process_time if least else time.perf_counter
    times = []
    for _ in range(BURST):
        start = clock()
        step()
        times.append(clock() - start)
    return min(times) if least else statistics.median(times)


RATIOS = [
    ("Cox-de Boor", "kan", "at least 4"),
    ("Cox-de Boor, meta", "metakan", "at least 2"),
    ("kan", "floor", ""),
    ("metakan", "floor", "at most 2.5"),
    ("inkan, compiled", "kan, compiled", "above 1"),
    ("flashkan, compiled", "kan, compiled", "above 1"),
    ("kan, compiled", "floor, compiled", "at most 1.2"),
    ("metakan, compiled", "floor, compiled", "at most 1.6"),
]


def main() -> None:
    """Print the table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, default=24, help="different batches")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--least", action="store_true", help="least processor times")
    options = parser.parse_args()
    steps = contenders(not options.no_compile, options.batches)
    for step in steps.values():
        for _ in range(WARM_UP):
            step()
    rounds = [
        {name: burst(step, options.least) for name, step in steps.items()}
        for _ in range(options.rounds)
    ]
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores,"
        f" torch {torch.__version__} on {torch.get_num_threads()} threads, {options.rounds} rounds"
    )
    print(f"\n| step | {'least' if options.least else 'median'} ms |\n|---|---|")
    for name in steps:
        middle = (min if options.least else statistics.median)(r[name] for r in rounds)
        print(f"| {name} | {1e3 * middle:.2f} |")
    print("\n| ratio | median | from | to | wanted |\n|---|---|---|---|---|")
    for over, under, wanted in RATIOS:
        if over in steps and under in steps:
            found = sorted(r[over] / r[under] for r in rounds)
            middle = statistics.median(found)
            print(
                f"| {over} / {under} | {middle:.2f} | {found[0]:.2f} | {found[-1]:.2f} | {wanted} |"
            )


if __name__ == "__main__":
    main()
