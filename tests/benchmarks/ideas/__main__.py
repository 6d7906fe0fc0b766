"""Ideas beyond the rungs of docs/guides/choose-a-method.md, each on top of sweeps at k = 16.

    python -m tests.benchmarks.ideas --data-dir DIR --work CHECKPOINTS [--models fastkan]
    python -m tests.benchmarks.ideas --table

Networks of two layers on MNIST, codebooks in float16, no labels. Finished cells are kept in the
results file.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kancompress.specs import DataOptions, ModelName, default_basis
from tests.benchmarks.cells import Recipe, finished, keep, machine, ran_with, trained
from tests.benchmarks.ideas import codebooks, descents, tuning
from tests.benchmarks.ideas.bench import Bench, Part, part_of

RESULTS = "ideas"
# Of the networks [784, 32, 10].
EDGES = (784 * 32, 32 * 10)


# Of a layer: bits of an index, vectors of its codebooks, and numbers beside them.
Size = tuple[int, int, int]
_USUAL: Size = (4, 16, 0)


@dataclass(frozen=True, slots=True)
class Idea:
    """One row of the table; the first part given to `run` is the usual one.

    sizes : of both layers
    """

    name: str
    run: Callable[[Bench, Part], tuple[Part, Part]]
    sizes: tuple[Size, Size] = (_USUAL, _USUAL)

    def bytes(self, model: str) -> int:
        """Bytes of indices and codebooks, these in float16."""
        d = default_basis(ModelName(model).family).coefficients
        return sum(
            edges * bits // 8 + 2 * (vectors * d + more)
            for edges, (bits, vectors, more) in zip(EDGES, self.sizes, strict=True)
        )


IDEAS = (
    Idea("as it is", descents.usual),
    Idea("one start of the last layer", descents.one_start),
    Idea("64 starts of the last layer, polished", descents.more_starts),
    Idea("errors of the last layer as the softmax feels them", descents.softmax_form),
    Idea("outputs of the first layer by what the network feels of them", descents.felt_outputs),
    Idea("rows of which the network is uncertain count more", descents.uncertain_rows),
    Idea("a second pass over both layers", descents.second_pass),
    Idea("one codebook for both layers", descents.one_codebook, (_USUAL, (4, 0, 0))),
    Idea("8 rounds and 8 sweeps of the first layer", descents.longer),
    Idea(
        "centroids are sums of 4 and 4 vectors",
        codebooks.residual_everywhere,
        ((4, 8, 0), (4, 8, 0)),
    ),
    Idea(
        "centroids are 2 gains times 8 shapes",
        codebooks.gains_everywhere,
        ((4, 8, 2), (4, 8, 2)),
    ),
    Idea("k = 64 in the last layer", codebooks.wide_last(64), (_USUAL, (6, 64, 0))),
    Idea("k = 256 in the last layer", codebooks.wide_last(256), (_USUAL, (8, 256, 0))),
    Idea(
        "sums of 16 and 16 vectors in the last layer",
        codebooks.residual_last,
        (_USUAL, (8, 32, 0)),
    ),
    Idea("three epochs of distillation", tuning.tuned(anew=False)),
    Idea("the same, edges assigned anew after two of them", tuning.tuned(anew=True)),
    Idea("a meta-learner distilled, then plain k-means", tuning.meta_plain),
    Idea("a meta-learner distilled, then by outputs", tuning.meta_outputs),
)


def table() -> str:
    """All cells in Markdown."""
    cells = finished(RESULTS)
    lines = [
        "| model | idea | bytes | loss, seed 0 | seed 1 | mean | changed % | divergence"
        " | held-out error |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for model in dict.fromkeys(cell["model"] for cell in cells):
        for idea in IDEAS:
            mine = [c for c in cells if (c["model"], c["idea"]) == (model, idea.name)]
            if not mine:
                continue
            mine.sort(key=lambda cell: (cell["seed"], cell["start"]))
            losses: dict[int, list[float]] = {0: [], 1: []}
            for cell in mine:
                losses[cell["seed"]].append(100 * (cell["dense"] - cell["accuracy"]))
            each = " | ".join(", ".join(f"{x:.2f}" for x in some) for some in losses.values())
            whole = statistics.mean(loss for some in losses.values() for loss in some)
            mean = {
                key: statistics.mean(cell[key] for cell in mine)
                for key in ("changed", "divergence", "held_out")
            }
            lines.append(
                f"| {model} | {idea.name} | {idea.bytes(model):,} | {each} | {whole:.2f} |"
                f" {100 * mean['changed']:.2f} |"
                f" {mean['divergence']:.4f} | {mean['held_out']:.4f} |"
            )
    return "\n".join([*lines, "", ran_with(cells)])


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["fastkan"])
    parser.add_argument("--seeds", nargs="+", type=int, choices=(0, 1), default=[0, 1])
    parser.add_argument("--starts", nargs="+", type=int, default=[0], help="seeds of clustering")
    parser.add_argument("--ideas", nargs="+", default=None, help="only those that contain these")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("checkpoints"))
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    data = DataOptions(name="mnist", directory=options.data_dir)
    runs = [(m, s, t) for m in options.models for s in options.seeds for t in options.starts]
    for model, seed, start in [] if options.table else runs:
        source, _ = trained(
            Recipe(model=model, dataset="mnist", seed=seed), options.data_dir, options.work
        )
        bench = Bench(source, data, model, start)
        first = part_of(bench.problem, bench.found.codebook, bench.found.labels)
        done = {(c["model"], c["seed"], c["start"], c["idea"]) for c in finished(RESULTS)}
        for idea in IDEAS:
            wanted = options.ideas is None or any(part in idea.name for part in options.ideas)
            if wanted and (model, seed, start, idea.name) not in done:
                cell = {"model": model, "seed": seed, "start": start, "idea": idea.name}
                keep(RESULTS, cell | bench.score(*idea.run(bench, first)) | machine())
    print(table())


if __name__ == "__main__":
    main()
