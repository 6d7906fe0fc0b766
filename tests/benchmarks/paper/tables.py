"""The tables in Markdown: the paper's number, ours, how many seeds and how far they spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from kancompress.config import CLUSTERS, CONV_CLUSTERS
from kancompress.specs import Family, ModelName, default_basis
from tests.benchmarks.cells import Recipe, ran_with
from tests.benchmarks.paper.published import TABLE1, TABLE2, TABLE8, TABLE9, Stages
from tests.benchmarks.paper.stages import STAGES, Packing

Cell = dict[str, Any]
NOT_RUN = "not run"
# RBFs, coefficients and bytes of the networks of Tables 3 and 8 follow from G.
EXTRA_RBFS = 3


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines
    )


def percent(values: Sequence[float]) -> tuple[str, str]:
    """Median, and least and greatest, of percentages."""
    if not values:
        return NOT_RUN, ""
    return f"{statistics.median(values):.2f}", f"{min(values):.2f} - {max(values):.2f}"


def accuracies(cells: Iterable[Cell], stage: int) -> list[float]:
    """Test accuracy after a stage, in percent."""
    return [100 * cell["accuracy"][stage] for cell in cells]


def is_cut(cell: Cell) -> bool:
    """Whether the training of a cell was cut off."""
    return not cell.get("complete", True)


def score(cells: Sequence[Cell], stage: int) -> tuple[str, str]:
    """Median, and least and greatest, of the accuracies after a stage, in percent; a plus behind
    the median where a run was cut off."""
    middle, spread = percent(accuracies(cells, stage))
    return middle + ("+" if any(map(is_cut, cells)) else ""), spread


def size(cells: Sequence[Cell], stage: int) -> int | None:
    """Bytes of the file after a stage."""
    return statistics.median_high([cell["bytes"][stage] for cell in cells]) if cells else None


def count(number: float | None) -> str:
    """A whole number, or nothing."""
    return "" if number is None else f"{number:,.0f}"


def times(over: float | None, under: float | None) -> str:
    """A ratio, or nothing."""
    return "" if over is None or under is None else f"{over / under:.1f}"


def footer(table: str, cells: Sequence[Cell]) -> str:
    """The table and below it where its cells ran, and whether some were cut off."""
    if not cells:
        return table
    cut = " + behind a number: training was cut off." if any(map(is_cut, cells)) else ""
    return f"{table}\n\n{ran_with(list(cells))}{cut}"


def only(text: str, models: Sequence[str]) -> str:
    """The tables of a text without the rows of other models, where some were asked for."""
    others = {name.value for name in ModelName} - set(models)

    def stays(line: str) -> bool:
        cells = {cell.strip() for cell in line.strip("|").split("|")}
        return not (models and line.startswith("|") and cells & others)

    return "\n".join(filter(stays, text.splitlines()))


# --- Tables 1 and 2 -------------------------------------------------------------------------


def plain(model: str) -> str:
    """The model without its meta-learner."""
    return model.removeprefix("meta")


def table1(dataset: str, cells: Sequence[Cell]) -> str:
    """A data set's column of Table 1, memory included, and how often a file fits into the dense one
    (the plain model's, as it was trained)."""
    mine = of(cells, dataset=dataset)
    rows = []
    for model, published in TABLE1[dataset].items():
        own = of(mine, model=model)
        dense = size(of(mine, model=plain(model)), 0)
        paper_dense = TABLE1[dataset][plain(model)][0][1]
        for stage, name in enumerate(STAGES):
            accuracy, kilobytes = published[stage]
            found, spread = score(own, stage)
            rows.append(
                [
                    *(model, name, f"{accuracy:.2f}", found, spread, str(len(own))),
                    *(count(1024 * kilobytes), count(size(own, stage))),
                    *(times(paper_dense, kilobytes), times(dense, size(own, stage))),
                ]
            )
    columns = [
        *("model", "stage", "paper %", "ours % (median)", "from - to", "seeds"),
        *("paper B", "ours B", "paper: dense / this", "ours: dense / this"),
    ]
    return footer(markdown(columns, rows), mine)


def metacluster(cells: Sequence[Cell], datasets: Sequence[str]) -> str:
    """The paper's whole method: its fine-tuned rows of Table 1 beside ours, accuracy and bytes."""
    rows = []
    for dataset in datasets:
        for model in TABLE1[dataset]:
            if model == plain(model):
                continue
            accuracy, kilobytes = TABLE1[dataset][model][2]
            own = of(cells, dataset=dataset, model=model)
            stages = [score(own, stage)[0] for stage in range(3)]
            wanted, found = 1024 * kilobytes, size(own, 2)
            rows.append(
                [
                    *(dataset, model, *stages, score(own, 2)[1], str(len(own))),
                    f"{accuracy:.2f}",
                    f"{statistics.median(accuracies(own, 2)) - accuracy:+.2f}" if own else "",
                    *(count(found), count(wanted)),
                    "" if found is None else f"{found - wanted:+,.0f}",
                ]
            )
    columns = [
        *("data", "model", *(f"{stage} %" for stage in STAGES), "from - to", "seeds"),
        *("paper, fine-tuned %", "difference", "bytes", "paper B", "difference"),
    ]
    return footer(markdown(columns, rows), list(cells))


def table2(dataset: str, cells: Sequence[Cell]) -> str:
    """A data set's column of Table 2. Few epochs say little of the accuracy, but how much of the
    trained network's is kept can be compared."""
    mine = of(cells, dataset=dataset)
    rows = []
    for model, published in TABLE2[dataset].items():
        own = of(mine, model=model)
        for stage, name in enumerate(STAGES):
            accuracy, kilobytes = published[stage]
            found, _ = score(own, stage)
            kept = [100 * cell["accuracy"][stage] / cell["accuracy"][0] for cell in own]
            rows.append(
                [
                    *(model, name, f"{accuracy:.2f}", found, str(len(own)), _epochs(own)),
                    f"{100 * accuracy / published[0][0]:.1f}",
                    f"{statistics.median(kept):.1f}" if kept else "",
                    *(count(1024 * kilobytes), count(size(own, stage))),
                ]
            )
    columns = [
        *("model", "stage", "paper %", "ours %", "seeds", "epochs", "paper: kept %"),
        *("ours: kept %", "paper B", "ours B"),
    ]
    return footer(markdown(columns, rows), mine)


def _epochs(cells: Sequence[Cell]) -> str:
    """Epochs that were trained, with a plus where the run was cut off."""
    found = [f"{cell['epochs']}{'+' if is_cut(cell) else ''}" for cell in cells]
    return ", ".join(found)


# --- Tables 3, 8 and 9 ----------------------------------------------------------------------


def table3(cells: Sequence[Cell]) -> str:
    """Table 3: accuracy before and after clustering by count, and its change in percent of it."""
    rows = []
    for model, by_count in TABLE8.items():
        for grid, published in by_count.items():
            own = _of_grid(cells, model, grid)
            before, after = (score(own, stage)[0] for stage in (0, 1))
            changes = [change(cell["accuracy"]) for cell in own]
            middle, spread = percent(changes)
            rows.append(
                [
                    *(model, str(grid), str(grid + EXTRA_RBFS)),
                    *(f"{published[stage][0]:.2f}" for stage in (0, 1)),
                    f"{change([accuracy for accuracy, _ in published]):.2f}",
                    *(before, after if own else "", middle if own else "", spread, str(len(own))),
                ]
            )
    columns = [
        *("model", "count", "RBFs", "paper %", "clustered %", "change %", "ours %"),
        *("clustered %", "change %", "from - to", "seeds"),
    ]
    return footer(markdown(columns, rows), _used(cells, TABLE8))


def change(stages: Sequence[float]) -> float:
    """What clustering does to the accuracy, in percent of it."""
    return 100 * (stages[1] - stages[0]) / stages[0]


def table8(cells: Sequence[Cell]) -> str:
    """Table 8: all stages by grid size."""
    rows = [
        row
        for model, by_grid in TABLE8.items()
        for grid, published in by_grid.items()
        for row in _stage_rows(
            [model, str(grid), str(grid + EXTRA_RBFS)], published, _of_grid(cells, model, grid)
        )
    ]
    return footer(markdown(["model", "grid", "RBFs", *_STAGE], rows), _used(cells, TABLE8))


def table9(cells: Sequence[Cell]) -> str:
    """Table 9: all stages by embedding size."""
    rows = [
        row
        for model, by_size in TABLE9.items()
        for embedding, published in by_size.items()
        for row in _stage_rows(
            [model, str(embedding)], published, _of_embedding(cells, model, embedding)
        )
    ]
    used = [cell for cell in _used(cells, TABLE9) if cell.get("grid") is None]
    return footer(markdown(["model", "embedding", *_STAGE], rows), used)


_STAGE = ("stage", "paper %", "ours % (median)", "from - to", "seeds", "paper B", "ours B")


def _stage_rows(names: list[str], published: Stages, own: Sequence[Cell]) -> list[list[str]]:
    rows = []
    for stage, name in enumerate(STAGES):
        accuracy, kilobytes = published[stage]
        found, spread = score(own, stage)
        rows.append(
            [
                *(*names, name, f"{accuracy:.2f}", found, spread, str(len(own))),
                *(count(1024 * kilobytes), count(size(own, stage))),
            ]
        )
    return rows


# --- Figure 2, and what weight sharing gives ------------------------------------------------


def by_clusters(cells: Iterable[Cell]) -> dict[str, dict[int, list[Cell]]]:
    """Cells on CIFAR-10 by model and k; k of the recipe, 16 or with convolutions 256, is that of
    Tables 1 and 2. Models that were clustered at no other k are left out."""
    found: dict[str, dict[int, list[Cell]]] = {}
    for cell in of(cells, dataset="cifar10", grid=None, embedding=None):
        k = cell.get("clusters") or recipe_clusters(cell["model"])
        found.setdefault(cell["model"], {}).setdefault(k, []).append(cell)
    return {model: dict(sorted(own.items())) for model, own in found.items() if len(own) > 1}


def recipe_clusters(model: str) -> int:
    """k of the paper's Tables 4 to 7."""
    return CONV_CLUSTERS if model.endswith("conv") else CLUSTERS


def figure2(cells: Sequence[Cell]) -> str:
    """Accuracy by number of clusters, of the same trained networks."""
    rows, used = [], []
    for model, by_k in by_clusters(cells).items():
        for k, own in by_k.items():
            used += own
            stages = [score(own, stage)[0] for stage in range(3)]
            rows.append([model, str(k), *stages, count(size(own, 2)), str(len(own))])
    columns = ["model", "k", *(f"{stage} %" for stage in STAGES), "bytes", "seeds"]
    return footer(markdown(columns, rows), used)


# The networks that stand in the table with the MLP.
MLP_BESIDE = (
    "mlp",
    *(f"{meta}{family}" for family in Family if family != "mlp" for meta in ("", "meta")),
)


def mlp(cells: Sequence[Cell], clusters: int = 16) -> str:
    """What k-means gives networks [784, 32, 10] with one weight an edge, and with |w|.

    Equation 10 (5 for the MLP) counts 32 bits a number and log2(k) an index, over both layers. The
    dense file of a network with a meta-learner is that of the plain one.
    """
    mine = of(cells, dataset="mnist")
    rows = []
    for model in MLP_BESIDE:
        own = of(mine, model=model)
        dense = size(of(mine, model=plain(model)), 0)
        width = default_basis(ModelName(model).family).coefficients
        ratio = formula((784 * 32, 32 * 10), width, clusters)
        packed = size(own, 1)
        stages = [score(own, stage)[0] for stage in range(3)]
        rows.append(
            [
                *(model, str(width), *stages, str(len(own)), count(dense), count(packed)),
                *(f"{ratio:.1f}", times(dense, packed)),
            ]
        )
    columns = [
        *("model", "numbers an edge", *(f"{stage} %" for stage in STAGES), "seeds", "dense B"),
        *("packed B", "eq. 5, 10", "dense file / packed file"),
    ]
    return footer(markdown(columns, rows), [cell for cell in mine if cell["model"] in MLP_BESIDE])


def formula(edges: Iterable[int], width: int, clusters: int, bits: int = 32) -> float:
    """r of equations 5 (`width` 1) and 10, over layers of so many edges."""
    layers = list(edges)
    dense = sum(layers) * width * bits
    packed = sum(n * math.log2(clusters) + width * clusters * bits for n in layers)
    return dense / packed


# --- cells ----------------------------------------------------------------------------------


def of(cells: Iterable[Cell], **wanted: Any) -> list[Cell]:
    """Cells with these values; a key that a cell leaves out is the recipe's own, None."""
    return [
        cell for cell in cells if all(cell.get(name) == value for name, value in wanted.items())
    ]


def latest(cells: Iterable[Cell]) -> list[Cell]:
    """The last record of each cell: one whose training was cut off may have gone on."""
    names = [field.name for kind in (Recipe, Packing) for field in fields(kind)]
    return list({tuple(cell.get(name) for name in names): cell for cell in cells}.values())


def _of_grid(cells: Iterable[Cell], model: str, grid: int) -> list[Cell]:
    """Cells of Table 8's rows; its first one, G = 5, is the recipe's own network."""
    own = None if grid == 5 else grid
    return of(cells, model=model, dataset="cifar10", grid=own, embedding=None)


def _of_embedding(cells: Iterable[Cell], model: str, embedding: int) -> list[Cell]:
    """Cells of Table 9's rows; 2 is the recipe's own size for convolutions."""
    own = None if model.endswith("conv") and embedding == 2 else embedding
    return of(cells, model=model, dataset="cifar10", grid=None, embedding=own)


def _used(cells: Iterable[Cell], table: dict[str, Any]) -> list[Cell]:
    return [cell for cell in cells if cell["model"] in table and cell["dataset"] == "cifar10"]
