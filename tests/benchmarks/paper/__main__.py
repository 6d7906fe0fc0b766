"""Any table, row or cell of the MetaCluster paper, run again; finished cells are kept.

    python -m tests.benchmarks.paper table1 --data-dir DIR [--dataset mnist] [--models kan]
        [--seeds 0 1]
    python -m tests.benchmarks.paper float16 --data-dir DIR
    python -m tests.benchmarks.paper conv --data-dir DIR --dataset cifar10 --minutes 45
    python -m tests.benchmarks.paper table8 --data-dir DIR --rows 8 10
    python -m tests.benchmarks.paper figure2 --data-dir DIR --models fastkan metafastkan
    python -m tests.benchmarks.paper table1 --dataset mnist --table
    python -m tests.benchmarks.paper table1 --dataset mnist --models kan --own
    python -m tests.benchmarks.paper docs

A cell is one network (model, data set, seed) trained, clustered and fine-tuned. It is appended to
a results file when it is done, in WORK/results (--publish: among the published ones, which are read
as well), and is not run again; --own leaves the published ones out, so that they run again. A last
line says how many cells ran. --table only prints, and `docs` writes the tables of the documents
anew. Trained checkpoints are kept in --work, and shared by
tables and figures; a run that was killed goes on after its last epoch, and one that --minutes cut
off says so in its table. docs/guides/reproduce-the-paper.md has the commands of all; `times` prints
what they took here, `estimate` what they would on a GPU, and `missing` what was not run.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.cells import Recipe, finished, is_done, keep, own_results
from tests.benchmarks.paper import costs, figures, tables
from tests.benchmarks.paper.missing import PLACES, missing
from tests.benchmarks.paper.published import TABLE1, TABLE2, TABLE8, TABLE9
from tests.benchmarks.paper.stages import Packing, run

Options = argparse.Namespace
# Networks and how they are packed.
Cells = Iterator[tuple[Recipe, Packing]]
DATASETS = ("mnist", "cifar10", "cifar100")
DOCS = Path(__file__).parents[3] / "docs"
MEASUREMENTS = Path(__file__).parents[1] / "measurements"
PAGES = (*sorted(DOCS.rglob("*.md")), *sorted(MEASUREMENTS.glob("*.md")))
MODELS = sorted({*TABLE1["mnist"], *TABLE2["mnist"], *tables.MLP_BESIDE})
CLUSTERS = (2, 4, 8, 16, 32, 64, 128, 256)
FIGURE2 = ("fastkan", "metafastkan")


@dataclass(frozen=True, slots=True)
class Experiment:
    """A table or figure: its cells, the results files that it is printed from, and how."""

    cells: Callable[[Options], Cells]
    results: tuple[str, ...]
    show: Callable[[Options, list[tables.Cell]], str]


# --- cells ----------------------------------------------------------------------------------


def table1_cells(options: Options) -> Cells:
    """Every fully connected network of Table 1."""
    for dataset in options.dataset or DATASETS:
        for model in TABLE1[dataset]:
            yield from _seeds(options, model, dataset)


def float16_cells(options: Options) -> Cells:
    """The networks of Table 1 with a meta-learner, with codebooks in float16."""
    for recipe, _ in table1_cells(options):
        if recipe.model.startswith("meta"):
            yield recipe, Packing(codebook="float16")


def table2_cells(options: Options) -> Cells:
    """Every convolutional network of Table 2."""
    for dataset in options.dataset or DATASETS:
        for model in TABLE2[dataset]:
            yield from _seeds(options, model, dataset)


def table8_cells(options: Options) -> Cells:
    """The rows of Tables 3 and 8, of which the first is Table 1's, or 2's, own network."""
    for model, rows in TABLE8.items():
        for grid in rows:
            own = None if grid == 5 else grid
            if _wants(options, grid):
                yield from _seeds(options, model, "cifar10", grid=own)


def table9_cells(options: Options) -> Cells:
    """The rows of Table 9, of which the convolutions' last is Table 2's own network."""
    for model, rows in TABLE9.items():
        for embedding in rows:
            own = None if model.endswith("conv") and embedding == 2 else embedding
            if _wants(options, embedding):
                yield from _seeds(options, model, "cifar10", embedding=own)


def figure1_cells(options: Options) -> Cells:
    """The three networks of Figure 1, after one epoch."""
    for recipe in figures.FIGURE1.values():
        if not options.models or recipe.model in options.models:
            yield recipe, Packing()


def figure2_cells(options: Options) -> Cells:
    """Networks of Tables 1 and 2 (FastKAN, plain and meta, where none are named) at every k, of
    which the recipe's own is Table 1's, or 2's, cell."""
    for model in options.models or FIGURE2:
        for k in CLUSTERS:
            if _wants(options, k):
                own = k == tables.recipe_clusters(model)
                for recipe, _ in _seeds(options, model, "cifar10"):
                    yield recipe, Packing(clusters=None if own else k)


def mlp_cells(options: Options) -> Cells:
    """An MLP, and Table 1's networks of the same shape."""
    for model in tables.MLP_BESIDE:
        yield from _seeds(options, model, "mnist")


def _seeds(
    options: Options,
    model: str,
    dataset: str,
    *,
    grid: int | None = None,
    embedding: int | None = None,
) -> Cells:
    if options.models and model not in options.models:
        return
    for seed in options.seeds or [0]:
        yield (
            Recipe(model=model, dataset=dataset, seed=seed, grid=grid, embedding=embedding),
            Packing(),
        )


def _wants(options: Options, row: int) -> bool:
    return not options.rows or row in options.rows


# --- where cells are kept, and how they are shown --------------------------------------------


def results_of(recipe: Recipe, packing: Packing) -> str:
    """The results file of a cell: tables share what they share of networks."""
    if packing.codebook is not None:
        return "float16"
    if packing.clusters is not None:
        return "figure2"
    if recipe.grid is not None or recipe.embedding is not None:
        return "ablations"
    return "table2" if recipe.model.endswith("conv") else "table1"


def _by_dataset(
    table: Callable[[str, list[tables.Cell]], str],
) -> Callable[[Options, list[tables.Cell]], str]:
    def show(options: Options, cells: list[tables.Cell]) -> str:
        return "\n\n".join(
            f"{dataset}:\n\n{table(dataset, cells)}" for dataset in options.dataset or DATASETS
        )

    return show


ALL = ("table1", "table2", "ablations")
EXPERIMENTS = {
    "table1": Experiment(table1_cells, ("table1",), _by_dataset(tables.table1)),
    "float16": Experiment(
        float16_cells,
        ("float16",),
        lambda options, cells: tables.metacluster(cells, options.dataset or DATASETS),
    ),
    "table2": Experiment(table2_cells, ("table2",), _by_dataset(tables.table2)),
    "table3": Experiment(table8_cells, ALL, lambda _, cells: tables.table3(cells)),
    "table8": Experiment(table8_cells, ALL, lambda _, cells: tables.table8(cells)),
    "table9": Experiment(table9_cells, ALL, lambda _, cells: tables.table9(cells)),
    "figure1": Experiment(figure1_cells, (), figures.figure1),
    "figure2": Experiment(figure2_cells, ("table1", "table2", "figure2"), figures.figure2),
    "mlp": Experiment(mlp_cells, ("table1",), lambda _, cells: tables.mlp(cells)),
}
EXPERIMENTS["times"] = Experiment(lambda _: iter(()), ALL, costs.times)
EXPERIMENTS["estimate"] = Experiment(lambda _: iter(()), (), costs.estimate)
EXPERIMENTS["conv"] = EXPERIMENTS["table2"]


def _missing(options: Options, cells: list[tables.Cell]) -> str:
    wanted = [(name, *cell) for name in PLACES for cell in EXPERIMENTS[name].cells(options)]
    asked = [
        (name, recipe, packing)
        for name, recipe, packing in wanted
        if recipe.dataset in (options.dataset or DATASETS)
        and (name != "figure2" or recipe.model in FIGURE2)
    ]
    return missing(options, asked, cells)


EXPERIMENTS["missing"] = Experiment(lambda _: iter(()), (*ALL, "float16", "figure2"), _missing)
# They have no cells of their own.
TELLING = ("times", "estimate", "missing")


def run_missing(experiment: Experiment, options: Options) -> None:
    """Run the cells that were asked for and are not finished."""
    cells = list(experiment.cells(options))
    if not cells and options.what not in TELLING:
        raise SystemExit(f"{options.what} has no cell with these models, rows and data sets.")
    ran = 0
    for number, (recipe, packing) in enumerate(cells, 1):
        results = results_of(recipe, packing)
        whole = recipe.whole_key | asdict(packing)
        found = tables.of(finished(results), **whole)
        if not found or not is_done(found[-1], options.minutes):
            print(f"cell {number} of {len(cells)}: {recipe.stem}", file=sys.stderr, flush=True)
            keep(results, run(recipe, options.data_dir, options.work, packing, options.minutes))
            ran += 1
    read = len(cells) - ran
    were = "was" if read == 1 else "were"
    told = f"{ran} of {len(cells)} cells ran; {read} {were} read from results."
    if read and not options.own:
        told += " To run published ones again, add --own."
    print(told, file=sys.stderr)


def chosen(arguments: Sequence[str] | None = None) -> Options:
    """The options of a command."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.paper",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=[*EXPERIMENTS, "docs"])
    parser.add_argument("--dataset", nargs="+", choices=DATASETS, help="of Tables 1 and 2")
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL", help="only these")
    parser.add_argument("--rows", nargs="+", type=int, help="grids, embeddings or k: only these")
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        help="run and show these alone (default: run seed 0, and show all that there are)",
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    parser.add_argument("--work", type=Path, default=Path("checkpoints"))
    parser.add_argument(
        "--minutes",
        type=float,
        help="most minutes of training for each cell; a later run with more, or without, goes on",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="add new cells to the published results (default: to WORK/results)",
    )
    parser.add_argument(
        "--own",
        action="store_true",
        help="leave the published results out: run their cells again, and show WORK/results alone",
    )
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--pictures", type=Path, help="figures: folder to draw into")
    parser.add_argument("--tflops", type=float, default=10, help="estimate: sustained, of a GPU")
    parser.add_argument("--step-ms", type=float, default=3, help="estimate: least time of a step")
    options = parser.parse_args(arguments)
    if options.own and options.publish:
        parser.error(
            "--own leaves the published results out, and --publish adds to them; take one."
        )
    if options.what == "figure1" and options.table:
        parser.error("Figure 1 is drawn from networks that are trained for it; it has no table.")
    return options


def shown(options: Options) -> str:
    """The table of the cells that are kept."""
    experiment = EXPERIMENTS[options.what]
    cells = tables.latest(cell for name in experiment.results for cell in finished(name))
    if options.seeds:
        cells = [cell for cell in cells if cell["seed"] in options.seeds]
    return tables.only(experiment.show(options, cells), options.models or ())


def written(page: str) -> str:
    """A page of the documents with its tables as they now are.

    A table stands between `<!-- paper ARGUMENTS -->` and `<!-- end -->`.
    """

    def table(match: re.Match[str]) -> str:
        options = chosen(match[2].split())
        return f"{match[1]}\n{shown(options)}\n\n{match[3]}"

    return re.sub(r"(<!-- paper (.+?) -->\n)(?:.*?)(<!-- end -->)", table, page, flags=re.DOTALL)


def main() -> None:
    """Run what is missing and print the table."""
    options = chosen()
    if options.what == "docs":
        for page in PAGES:
            page.write_text(written(page.read_text()))
        return
    experiment = EXPERIMENTS[options.what]
    with own_results(None if options.publish else options.work / "results", alone=options.own):
        if not options.table and experiment.results:
            run_missing(experiment, options)
        print(shown(options))


if __name__ == "__main__":
    main()
