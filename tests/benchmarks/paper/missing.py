"""What of the paper was not run, or not to its end, with the command and the time that it takes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace

from tests.benchmarks.cells import Recipe
from tests.benchmarks.paper import costs, tables
from tests.benchmarks.paper.stages import Packing

# An experiment's name, and a cell of it.
Wanted = tuple[str, Recipe, Packing]
# Where the paper, or the laboratory book, has the cells of an experiment.
PLACES = {
    "table1": "Table 1",
    "float16": "Table 1, float16",
    "table2": "Table 2",
    "table3": "Table 3",
    "table8": "Table 8",
    "table9": "Table 9",
    "figure2": "Figure 2",
    "mlp": "MLP",
}
# Experiments that have a data set to choose; the others have one.
_BY_DATASET = ("table1", "float16", "table2")


def missing(
    options: argparse.Namespace, wanted: Iterable[Wanted], cells: Sequence[tables.Cell]
) -> str:
    """A row for each cell of which no seed was run, or whose training was cut off."""
    places: dict[tuple[Recipe, Packing], list[str]] = {}
    for name, recipe, packing in wanted:
        places.setdefault((replace(recipe, seed=0), packing), []).append(name)
    rows, total = [], 0.0
    for (recipe, packing), names in places.items():
        lacking = what(recipe, packing, cells)
        if lacking:
            epochs = costs.most_epochs(recipe)
            here, source = costs.epoch_here(recipe, cells)
            total += here * epochs / 3600
            there = costs.epoch_on_gpu(recipe, options.tflops, options.step_ms)
            rows.append(
                [
                    ", ".join(PLACES[name] for name in names),
                    *(recipe.model, recipe.dataset, row_of(recipe, packing), lacking),
                    f"`{command(names[0], recipe, packing)}`",
                    *(f"{here:,.0f}", source, f"{here * epochs / 3600:,.1f}"),
                    f"{there * epochs / 60:,.0f}",
                ]
            )
    if not rows:
        return "Every cell was run to its end."
    columns = ["stands in", "model", "data", "row", "missing", "command", "s / epoch here"]
    columns += ["taken from", "hours here", "minutes on a GPU"]
    return f"{tables.markdown(columns, rows)}\n\n{len(rows)} cells, {total:,.0f} hours here."


def what(recipe: Recipe, packing: Packing, cells: Sequence[tables.Cell]) -> str:
    """What is missing of a cell; nothing where a seed of it came to its end."""
    key = {name: value for name, value in recipe.whole_key.items() if name != "seed"}
    own = tables.of(cells, **key, **asdict(packing))
    if not own:
        return tables.NOT_RUN
    most = recipe.config().epochs
    cut = [cell for cell in own if tables.is_cut(cell)]
    if len(cut) < len(own):
        return ""
    return f"cut off after {max(cell['epochs'] for cell in cut)} of {most} epochs"


def row_of(recipe: Recipe, packing: Packing) -> str:
    """What tells the cell from Table 1's, or 2's, own."""
    more = dict(list(recipe.key.items())[3:]) | packing.key
    return ", ".join(f"{name} {value}" for name, value in more.items())


def command(name: str, recipe: Recipe, packing: Packing) -> str:
    """The arguments that run a cell of an experiment and no other."""
    parts = [name]
    if name in _BY_DATASET:
        parts += ["--dataset", recipe.dataset]
    parts += ["--models", recipe.model]
    if name not in _BY_DATASET and name != "mlp":
        row = recipe.grid or recipe.embedding or packing.clusters
        parts += ["--rows", str(row)]
    return " ".join(parts)
