"""The three stages of a cell: trained, clustered, fine-tuned."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import kancompress
from kancompress import ClusterConfig
from kancompress.specs import DataOptions
from tests.benchmarks.cells import Recipe, machine, trained

STAGES = ("trained", "clustered", "fine-tuned")


def run(recipe: Recipe, directory: Path, work: Path, clusters: int | None = None) -> dict[str, Any]:
    """Train where `work` has no checkpoint, cluster and fine-tune, through files; score all three.

    clusters : k, where it is not the recipe's
    """
    data = DataOptions(name=recipe.dataset, directory=directory)
    source, told = trained(recipe, directory, work)
    config = ClusterConfig() if clusters is None else ClusterConfig(clusters=clusters)
    with tempfile.TemporaryDirectory() as place:
        files = [source, *(Path(place) / f"{stage}.safetensors" for stage in STAGES[1:])]
        kancompress.save(kancompress.cluster(source, config).model, files[1])
        kancompress.save(kancompress.finetune(files[1], data).model, files[2])
        accuracies = [kancompress.evaluate(file, data).score.accuracy for file in files]
        sizes = [file.stat().st_size for file in files]
    chosen = {} if clusters is None else {"clusters": clusters}
    return recipe.key | chosen | {"accuracy": accuracies, "bytes": sizes} | told | machine()
