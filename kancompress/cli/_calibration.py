"""What `cluster --calibrate` is given, and what it tells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kancompress
from kancompress.cli import _files, _model, _output, _scores
from kancompress.config import (
    CalibrationConfig,
    ClusterConfig,
    Device,
    Machine,
    Method,
    RunOptions,
    Target,
)
from kancompress.data import places
from kancompress.errors import InvalidFileError, NoScoreError, UsageError
from kancompress.frozen import dataclass
from kancompress.models.lines import counted
from kancompress.specs import DataOptions, DatasetName
from kancompress.system import files

if TYPE_CHECKING:
    from kancompress.cli._files import Given
    from kancompress.clustering.allocation import Curve
    from kancompress.clustering.cuts import Cut, Number
    from kancompress.clustering.layer import LayerSolution
    from kancompress.clustering.network import Calibrated, Clusters, NetworkSolution
    from kancompress.packing.pack import Compression, Report
    from kancompress.training.history import Score


# Outputs that move by more than this share of their spread are worth a warning.
_MOVED = 0.1
# A share of its error that one more kilobyte takes, from which on that tells nothing: the layer is
# smaller than that.
_ALL = 0.995
# Layers whose numbers of centroids one line shows.
_MOST_TOLD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """The options of `cluster` that go with --calibrate."""

    options: RunOptions
    calibrate: str | None
    model: str | None
    input_shape: str | None
    auto: bool
    target_bytes: int | None
    target_ratio: float | None
    target_error: float | None
    device: Device
    dry_run: bool
    report: Path | None
    keep_scaler: bool = False
    keep_extra: bool = False
    state: str | None = None
    drop: Sequence[str] = ()

    def check(self, needing: Mapping[str, bool]) -> None:
        """Refuse options that need others.

        needing : further options that need rows, and whether each is given
        """
        if self.calibrate is None:
            given = {
                "--model": self.model is not None,
                "--input-shape": self.input_shape is not None,
                "--target-error": self.target_error is not None,
                "--dry-run": self.dry_run,
                "--report": self.report is not None,
                **needing,
            }
            for option in (option for option, is_given in given.items() if is_given):
                raise UsageError(f"{option} needs rows to measure on; give them with --calibrate.")
            if self.device not in (Device.AUTO, Device.CPU, Device.CUDA):
                raise UsageError(
                    f"Plain k-means runs on the CPU and on cuda; --device {self.device} goes with"
                    " --calibrate."
                )
        targets = (self.target_bytes, self.target_ratio, self.target_error)
        count = sum(target is not None for target in targets)
        if self.auto and count != 1:
            raise UsageError(
                "--clusters auto needs one target: --target-bytes, --target-ratio or"
                " --target-error."
            )
        alone = self.calibrate is None and self.target_ratio is None  # the largest number that fits
        if not self.auto and count and not alone:
            if self.calibrate is None:
                raise UsageError("--target-ratio goes with --clusters auto.")
            raise UsageError("With --calibrate, a target goes with --clusters auto.")
        if self.dry_run and not self.auto:
            raise UsageError("--dry-run tells what --clusters auto would choose; give both.")

    def file(self) -> Path | None:
        """The file that the rows are in, if they are in one."""
        given = self.calibrate is not None and self.calibrate not in list(DatasetName)
        return Path(str(self.calibrate)) if given else None

    def check_report(self, output: str | None, *, force: bool, inputs: list[Path]) -> None:
        """Refuse, before any work, a report that cannot be written or replaces another file."""
        if self.report is None:
            return
        if str(self.report) == _files.DASH:
            raise UsageError("--report needs a file; --json prints the same to standard output.")
        written = None if output in (None, _files.DASH) else Path(str(output))
        if written is not None and files.is_same(self.report, written):
            raise UsageError("--report and --output name the same file; give two names.")
        files.check_target(self.report, force=force, inputs=inputs)

    def target(self) -> Target | None:
        """What the numbers of clusters are chosen for."""
        if not self.auto:
            return None
        return Target(bytes=self.target_bytes, ratio=self.target_ratio, error=self.target_error)

    def rows(self, directory: Path) -> DataOptions:
        """Where the rows lie, and what shape they have."""
        assert self.calibrate is not None
        shape = _model.row_shape(self.model, self.input_shape)
        if self.calibrate in list(DatasetName):
            return DataOptions(name=self.calibrate, directory=directory, shape=shape)
        if not (files.hub_name(self.calibrate) or Path(self.calibrate).exists()):
            places.located(self.calibrate, "rows")  # tells what may be meant
        return DataOptions(file=Path(self.calibrate), shape=shape)


def run(
    found: Given,
    rows: DataOptions,
    wishes: Wishes,
    config: ClusterConfig,
    calibration: CalibrationConfig,
    report: Report,
) -> Compression:
    """Cluster by outputs, telling of every step."""
    with _model.own_model(wishes.model) as model, _output.shares() as share:
        return kancompress.cluster(
            found.source,
            config,
            rows=rows,
            calibration=calibration,
            target=wishes.target(),
            options=wishes.options,
            model=model,
            machine=Machine(device=wishes.device),
            keep_scaler=wishes.keep_scaler,
            keep_extra=wishes.keep_extra,
            state=wishes.state,
            drop=wishes.drop,
            name=found.name,
            hooks=kancompress.Hooks(
                report=report, solved=solved, probed=probed, tried=tried, share=share
            ),
        )


def scores(
    found: Given, rows: DataOptions, wishes: Wishes, packed: Compression
) -> tuple[Score, Score] | None:
    """Of the source and of the packed file on the test rows of what they were calibrated on; None
    where it has no labels, or others than the network's."""
    try:
        if not kancompress.has_labels(rows):
            return None
        with _model.own_model(wishes.model) as model:
            before, after = (
                kancompress.evaluate(
                    source,
                    rows,
                    options=wishes.options,
                    model=model,
                    machine=Machine(device=wishes.device),
                    state=state,
                    drop=drop,
                    name=found.name,
                ).score
                for source, state, drop in (
                    (found.source, wishes.state, wishes.drop),
                    (packed.model, None, ()),
                )
            )
    except (UsageError, InvalidFileError, NoScoreError):  # of rows that it cannot be scored on
        return None
    return before, after


def tell_scores(found: tuple[Score, Score] | None) -> None:
    """Say what packing cost."""
    if found is not None:
        before, after = map(str, found)
        _output.note(f"{found[0].examples:,} test rows: {before} before; {after} packed")


def choose(
    found: Given,
    rows: DataOptions,
    wishes: Wishes,
    config: ClusterConfig,
    calibration: CalibrationConfig,
) -> Calibrated:
    """The numbers of clusters that a run would take."""
    target = wishes.target()
    assert target is not None
    with _model.own_model(wishes.model) as model, _output.shares() as share:
        return kancompress.choose_clusters(
            found.source,
            rows,
            target,
            config,
            calibration,
            options=wishes.options,
            model=model,
            keep_scaler=wishes.keep_scaler,
            keep_extra=wishes.keep_extra,
            state=wishes.state,
            drop=wishes.drop,
            machine=Machine(device=wishes.device),
            name=found.name,
            hooks=kancompress.Hooks(probed=probed, tried=tried, share=share),
        )


def solved(name: str, layer: LayerSolution) -> None:
    """Tell of a layer that was clustered by its outputs."""
    iterations = counted(layer.clustering.iterations, "iteration")
    _output.note(
        f"layer {name}: {_scores.error_text(layer.held_out)} on held-out rows, {layer.error:.3g} on"
        f" the others ({layer.method}, {iterations}; plain k-means"
        f" {layer.plain_held_out:.3g} and {layer.plain:.3g}), index entropy"
        f" {layer.index_entropy:.2f} bits, {layer.seconds:.1f} s"
    )
    if layer.slope is not None and layer.slope < _ALL:
        _output.note(f"layer {name}: one more kilobyte would take {layer.slope:.0%} of its error")


def probed(name: str, number: Number, error: float) -> None:
    """Tell of a point on a layer's curve."""
    _output.note(f"layer {name}: alone at k = {_told(number)}, {_scores.error_text(error)}")


def tried(clusters: Clusters, price: float, file_bytes: int, error: float) -> None:
    """Tell of numbers of centroids at a price that a search went through."""
    _output.note(tried_text(clusters, price, file_bytes, error))


def tried_text(clusters: Clusters, price: float, file_bytes: int, error: float) -> str:
    """What is told of them."""
    numbers = [
        "dense" if number is None else f"k = {_told(number)}" for number in clusters.values()
    ]
    paid = f"a bit at a price of {price:.3g}" if price else "without a price"
    most = ", ".join(numbers[:_MOST_TOLD])
    more = f" and {len(numbers) - _MOST_TOLD:,} more" if len(numbers) > _MOST_TOLD else ""
    return (
        f"tried {most}{more}, {paid}: {_output.size(file_bytes)} bytes,"
        f" {_scores.error_text(error)} of the network on held-out rows"
    )


def _told(number: Number) -> str:
    """A number of centroids, and of the parts of edges that they stand for."""
    clusters, parts = _split(number)
    return str(clusters) if parts == 1 else f"{clusters} in {parts} parts"


def _split(number: Number) -> Cut:
    return number if isinstance(number, kancompress.Cut) else kancompress.Cut(number, 1)


def record(found: Calibrated) -> dict[str, Any]:
    """What was chosen and measured, as docs/json.md lists it."""
    result: dict[str, Any] = {
        "clusters": {
            name: None if number is None else _split(number).clusters
            for name, number in found.clusters.items()
        },
        "parts": {
            name: None if number is None else _split(number).parts
            for name, number in found.clusters.items()
        },
        "predicted_error": found.predicted,
        "price": found.price,
        "curves": {name: _points(curve) for name, curve in found.curves.items()},
        "curves_of_parts": {
            name: {str(one.parts): _points(one) for one in curve.shorter}
            for name, curve in found.curves.items()
            if curve.shorter
        },
    }
    if found.solution is not None:
        result |= {
            "error": found.solution.error,
            "held_out_error": found.solution.held_out,
            "plain_error": found.solution.plain,
            "plain_held_out_error": found.solution.plain_held_out,
            "layers": {
                name: {
                    "method": layer.method,
                    "error": layer.error,
                    "held_out_error": layer.held_out,
                    "plain_error": layer.plain,
                    "plain_held_out_error": layer.plain_held_out,
                    "iterations": layer.clustering.iterations,
                    "index_entropy": layer.index_entropy,
                    "slope": layer.slope,
                    "seconds": layer.seconds,
                }
                for name, layer in found.solution.layers.items()
            },
        }
    return result


def _points(curve: Curve) -> dict[str, float]:
    return {str(k): error for k, error in curve.errors.items()}


def tell(found: Calibrated, asked: Method | None = None) -> None:
    """Print a table of the choice.

    asked : the method, where it is known; layers may have a coarser one that was better for them
    """
    rows = [[name, "dense" if k is None else _told(k)] for name, k in found.clusters.items()]
    if found.curves or found.solution is None:
        _output.table(["layer", "clusters"], rows)
    if found.predicted is not None:
        _output.note(f"promised by the curves: {_scores.error_text(found.predicted)}")
    if found.price:
        _output.note(f"price of a bit: {found.price:.3g}")
    if found.solution is not None:
        held_out = found.solution.held_out
        _output.note(
            f"the network: {_scores.error_text(held_out)} on held-out rows,"
            f" {found.solution.error:.3g} on the others{_beside(found.solution)}"
        )
        if held_out > _MOVED**2:
            _output.note(
                f"Warning: the outputs moved by more than {_MOVED:.0%} of their spread; score the"
                f" packed file, and {_cure(found, asked)}"
            )


def _cure(found: Calibrated, asked: Method | None) -> str:
    """What may bring the outputs nearer to the dense ones, of what was not done yet."""
    assert found.solution is not None
    methods = {layer.method for layer in found.solution.layers.values()}
    finest = asked is Method.SWEEPS if asked else methods <= {Method.SWEEPS, Method.KMEANS}
    finer = "" if finest else ", or a finer --method"
    if found.curves:  # the numbers were chosen for a target
        return f"allow more bytes or less error (--target-bytes, --target-error){finer}"
    whole = all(number is None or _split(number).parts == 1 for number in found.clusters.values())
    parts = ", --parts where a layer has few edges" if whole else ""
    return (
        f"take more centroids (-k){parts}, or -k auto --target-bytes N, which chooses both for"
        f" each layer{finer}"
    )


def _beside(solution: NetworkSolution) -> str:
    """The network's errors with plain k-means in all layers, where they were measured and are no
    better."""
    if solution.plain_held_out is None or solution.plain is None:
        return ""
    return f" (plain k-means {solution.plain_held_out:.3g} and {solution.plain:.3g})"


def report_bytes(found: Calibrated) -> bytes:
    """What --report writes."""
    return f"{_output.json_text(record(found))}\n".encode()
