"""The three stages of a cell: trained, clustered, fine-tuned."""

from __future__ import annotations

import resource
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import kancompress
from kancompress import ClusterConfig, FinetuneConfig, Machine, StateFile
from kancompress.config import StoredDtype
from kancompress.specs import DataOptions
from tests.benchmarks.cells import Recipe, machine, trained

STAGES = ("trained", "clustered", "fine-tuned")


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """A network packed as the paper does, but for what is given here.

    clusters : k
    codebook : type of the numbers in codebooks, as `cluster --codebook-dtype` names it
    """

    clusters: int | None = None
    codebook: str | None = None

    @property
    def key(self) -> dict[str, Any]:
        """What tells the cell from others in a results file; what is the recipe's is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def config(self) -> ClusterConfig:
        """How it is clustered."""
        config = ClusterConfig(codebook_dtype=StoredDtype(self.codebook or StoredDtype.SOURCE))
        return config if self.clusters is None else replace(config, clusters=self.clusters)


def run(
    recipe: Recipe,
    directory: Path,
    work: Path,
    packing: Packing,
    minutes: float | None = None,
    *,
    where: Machine | None = None,
    hidden: tuple[int, ...] | None = None,
) -> dict[str, Any]:
    """Train where `work` has no checkpoint, cluster and fine-tune, through files; score all three.

    minutes : of training at most, as for `trained`; where they cut it off, fine-tuning has one
              epoch
    where, hidden : as for `trained`
    """
    data = DataOptions(name=recipe.dataset, directory=directory)
    source, told = trained(recipe, directory, work, minutes, where=where, hidden=hidden)
    with tempfile.TemporaryDirectory() as place:
        files = [source, *(Path(place) / f"{stage}.safetensors" for stage in STAGES[1:])]
        kancompress.save(kancompress.cluster(source, packing.config()).model, files[1])
        stem = "_".join(map(str, [recipe.stem, told["epochs"], *packing.key.values()]))
        state = work / f"{stem}.tuning.state"
        going_on = StateFile(path=state, resume=state if state.exists() else None)
        tuning = FinetuneConfig() if told.get("complete", True) else FinetuneConfig(epochs=1)
        tuned = kancompress.finetune(files[1], data, tuning, machine=where, state=going_on)
        kancompress.save(tuned.model, files[2])
        state.unlink()
        assert tuned.test_before is not None  # of the clustered file, which was read back
        before, after = (
            kancompress.evaluate(file, data, machine=where).score for file in (source, files[2])
        )
        accuracies = [score.accuracy for score in (before, tuned.test_before, after)]
        sizes = [file.stat().st_size for file in files]
    peak = {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}  # Linux: KB
    scores = {"accuracy": accuracies, "bytes": sizes}
    return recipe.key | packing.key | scores | told | peak | machine(where)
