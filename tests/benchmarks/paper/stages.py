"""The three stages of a cell: trained, clustered, fine-tuned."""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path
from typing import Any

import kancompress
from kancompress import ClusterConfig, FinetuneConfig, StateFile
from kancompress.specs import DataOptions
from tests.benchmarks.cells import Recipe, machine, trained

STAGES = ("trained", "clustered", "fine-tuned")


def run(
    recipe: Recipe,
    directory: Path,
    work: Path,
    clusters: int | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Train where `work` has no checkpoint, cluster and fine-tune, through files; score all three.

    clusters : k, where it is not the recipe's
    minutes  : of training at most, as for `trained`; where they cut it off, fine-tuning has one
               epoch
    """
    data = DataOptions(name=recipe.dataset, directory=directory)
    source, told = trained(recipe, directory, work, minutes)
    config = ClusterConfig() if clusters is None else ClusterConfig(clusters=clusters)
    with tempfile.TemporaryDirectory() as place:
        files = [source, *(Path(place) / f"{stage}.safetensors" for stage in STAGES[1:])]
        kancompress.save(kancompress.cluster(source, config).model, files[1])
        state = work / f"{recipe.stem}_{told['epochs']}_{clusters or ''}.tuning.state"
        going_on = StateFile(path=state, resume=state if state.exists() else None)
        tuning = FinetuneConfig() if told.get("complete", True) else FinetuneConfig(epochs=1)
        tuned = kancompress.finetune(files[1], data, tuning, state=going_on)
        kancompress.save(tuned.model, files[2])
        state.unlink()
        assert tuned.test_before is not None  # of the clustered file, which was read back
        before, after = (kancompress.evaluate(file, data).score for file in (source, files[2]))
        accuracies = [score.accuracy for score in (before, tuned.test_before, after)]
        sizes = [file.stat().st_size for file in files]
    chosen = {} if clusters is None else {"clusters": clusters}
    peak = {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}  # Linux: KB
    scores = {"accuracy": accuracies, "bytes": sizes}
    return recipe.key | chosen | scores | told | peak | machine()
