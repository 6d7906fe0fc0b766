"""`kancompress cluster`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import kancompress
from kancompress.cli import _calibration, _files, _output, _report, _scores
from kancompress.cli._bundles import bundle
from kancompress.cli._options import (
    Compute,
    DataDirOption,
    ForeignFile,
    InputArgument,
    InputShapeOption,
    ModuleOption,
    OptionalOutput,
    SeedOption,
    Shown,
    noted,
    use_threads,
)
from kancompress.cli._run import shared_command
from kancompress.config import (
    CLUSTERS,
    CONV_CLUSTERS,
    CalibrationConfig,
    ClusterConfig,
    Device,
    HeaderForm,
    IndexCoding,
    KMeans,
    Machine,
    Method,
    Metric,
    StoredDtype,
)
from kancompress.errors import UsageError
from kancompress.models.lines import counted
from kancompress.specs import MAX_CLUSTERS, DataOptions

if TYPE_CHECKING:
    from kancompress import Compression, LayerClustering
    from kancompress.training.history import Score

_CLUSTER, _CALIBRATION = ClusterConfig(), CalibrationConfig()
_GIB = 2**30


@bundle("Clusters")
class Clusters:
    """How many centroids there are, and how k-means finds them."""

    clusters: Annotated[
        list[str] | None,
        typer.Option(
            "--clusters",
            "-k",
            metavar="K|NAME=K|auto",
            help=f"Centroids of every layer (default {CLUSTERS}, of convolutions {CONV_CLUSTERS}),"
            " or of one layer; repeatable."
            " auto: chosen for a target, with --calibrate for each layer.",
            show_default=False,
        ),
    ] = None
    parts: Annotated[
        list[str] | None,
        typer.Option(
            "--parts",
            metavar="N|NAME=N",
            help="Vectors that the coefficients of each edge are cut into, each with its own index;"
            " for layers whose codebook outweighs their indices. Repeatable.",
            show_default="1; chosen with -k auto",
        ),
    ] = None
    target_bytes: Annotated[
        int | None,
        typer.Option(
            "--target-bytes",
            min=1,
            metavar="N",
            help="Take the largest K with which the whole file has at most N bytes.",
            show_default=False,
        ),
    ] = _CLUSTER.target_bytes
    target_ratio: Annotated[
        float | None,
        typer.Option(min=1.0, help="With -k auto: the source's bytes over the packed file's."),
    ] = None
    price: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="What a bit of an index costs, in squared errors of an edge: fewer bytes for more"
            " error.",
            show_default="0; searched with -k auto",
        ),
    ] = _CLUSTER.price
    max_iterations: Annotated[int, typer.Option(min=1, help="Most k-means iterations.")] = (
        _CLUSTER.max_iterations
    )
    kmeans: Annotated[KMeans, typer.Option(help="Whose k-means runs; the start is the same.")] = (
        _CLUSTER.kmeans
    )
    metric: Annotated[
        Metric,
        typer.Option(help="What k-means measures: coefficients, or functions on their grid."),
    ] = _CLUSTER.metric
    seed: SeedOption = _CLUSTER.seed


@bundle("Packed file")
class Stored:
    """What the packed file holds, and in which types."""

    codebook_dtype: Annotated[
        StoredDtype,
        typer.Option(
            help="Type of the stored centroids; int8 has a float16 scale for each coefficient."
        ),
    ] = _CLUSTER.codebook_dtype
    side_dtype: Annotated[
        StoredDtype,
        typer.Option(
            help="Type of stored biases, norms and recurrence weights (own networks); with int8"
            " recurrence weights, slopes and norms with running statistics are float16."
        ),
    ] = _CLUSTER.side_dtype
    indices: Annotated[
        IndexCoding | None,
        typer.Option(
            help="How indices are written: one width, entropy-coded, or the smaller.",
            show_default="auto where a price of bits is paid or edges are masked, else bits",
        ),
    ] = _CLUSTER.indices
    header: Annotated[
        HeaderForm,
        typer.Option(
            help="Form of the file's header; auto: the short one where indices are entropy-coded."
        ),
    ] = _CLUSTER.header
    force_pack: Annotated[
        bool,
        typer.Option(
            "--force-pack",
            help="Pack layers that would grow exactly as asked, not without loss.",
        ),
    ] = _CLUSTER.force_pack
    keep_masked: Annotated[
        bool,
        typer.Option(
            "--keep-masked", help="Keep coefficients of masked edges, which else become zeros."
        ),
    ] = _CLUSTER.keep_masked
    keep_scaler: Annotated[
        bool, typer.Option("--keep-scaler", help="Do not fold factors of edges into them.")
    ] = False
    keep_extra: Annotated[
        bool,
        typer.Option(
            "--keep-extra",
            help="Keep what a torch file holds beside the model, such as the optimizer.",
        ),
    ] = False


@bundle("Clustering by outputs")
class ByOutputs:
    """What goes with --calibrate."""

    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Cluster by what layers put out on these unlabelled rows: a named data set, or a"
            " file with an array x.",
            show_default=False,
        ),
    ] = None
    data_dir: DataDirOption = DataOptions().directory
    model: ModuleOption = None
    input_shape: InputShapeOption = None
    method: Annotated[Method, typer.Option(help="How far to go with --calibrate.")] = (
        _CALIBRATION.method
    )
    samples: Annotated[int, typer.Option(min=16, help="Rows to calibrate on.")] = (
        _CALIBRATION.samples
    )
    rounds: Annotated[
        int | None,
        typer.Option(
            min=0, help="Rounds of feedback and refit.", show_default="while they pay, at most 8"
        ),
    ] = _CALIBRATION.rounds
    sweeps: Annotated[
        int | None,
        typer.Option(min=0, help="Sweeps with a refit.", show_default="while they pay, at most 8"),
    ] = _CALIBRATION.sweeps
    memory: Annotated[
        float,
        typer.Option(
            min=0.01,
            help="GiB for a layer's second moments, more are grouped, and for a layer's"
            " coefficients as k-means compares them, more are read anew in each iteration.",
        ),
    ] = _CALIBRATION.memory / _GIB
    batch_size: Annotated[
        int, typer.Option(min=1, help="With --model: rows that run through it at a time.")
    ] = _CALIBRATION.batch_size
    target_error: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="With -k auto: most relative squared error of the network's outputs."
        ),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With -k auto: tell the choice, write nothing.")
    ] = False
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            readable=False,
            help="Write what was measured, as JSON.",
            show_default=False,
        ),
    ] = None

    @property
    def bytes_of_memory(self) -> int:
        """What a layer may take."""
        return int(min(self.memory, 2**20) * _GIB)

    def config(self, clusters: Clusters) -> CalibrationConfig:
        """The library's record of these options."""
        return CalibrationConfig(
            method=self.method,
            samples=self.samples,
            rounds=self.rounds,
            sweeps=self.sweeps,
            memory=self.bytes_of_memory,
            batch_size=self.batch_size,
            max_iterations=clusters.max_iterations,
            seed=clusters.seed,
        )


@bundle("Where to compute")
class ClusterMachine(Compute):
    """Device and threads."""

    device: Annotated[
        Device,
        typer.Option(
            help="Where to compute with --calibrate; auto is cuda, else cpu. Plain k-means runs on"
            " the CPU; with cuda, layers of a million edges and more are clustered there."
        ),
    ] = Device.AUTO


@shared_command
def cluster(
    source: InputArgument,
    output: OptionalOutput = None,
    *,
    clusters: Clusters,
    stored: Stored,
    by_outputs: ByOutputs,
    machine: ClusterMachine,
    foreign: ForeignFile,
    shown: Shown,
) -> None:
    """Cluster the edge vectors of each layer and write a packed file (stage 2).

    A meta checkpoint is generated to coefficients first and its meta-learner is dropped.
    Checkpoints of other KAN libraries (.pt or safetensors) are recognised by their tensors;
    of what pykan's saveckpt writes, give the prefix.

    \b
    Examples:
      kancompress cluster digits.safetensors -o packed.safetensors
      kancompress cluster mnist.safetensors -k 16 -k 1=64 -o packed.safetensors
      kancompress cluster mnist.safetensors --codebook-dtype float16 -o small.safetensors
      kancompress cluster model.pt --target-bytes 20000 -o packed.safetensors
      kancompress cluster mnist.safetensors --calibrate mnist -o packed.safetensors
      kancompress cluster mnist.safetensors --calibrate mnist -k auto --target-bytes 10000 -o p.st
    """
    common, layers, auto = _clusters(clusters.clusters or [])
    parts, layer_parts = _parts(clusters.parts or [])
    if clusters.target_bytes is not None and common is not None:
        raise UsageError(
            f"--target-bytes chooses the number of clusters; leave out --clusters {common}, or"
            " write NAME=K for single layers."
        )
    wishes = _wishes(clusters, stored, by_outputs, machine, foreign, auto=auto)
    check(wishes, by_outputs)
    if output is None and not by_outputs.dry_run:
        raise UsageError("The file to write is missing; name it with --output OUT.")
    kept = _files.inputs(source, wishes.file())
    if output is not None:
        _files.check_output(output, force=shown.force, inputs=kept)
    wishes.check_report(output, force=shown.force, inputs=kept)
    found = _files.given(source)
    use_threads(machine.threads)
    largest = wishes.calibrate is None and not auto
    config = replace(
        config_of(clusters, stored, common, layers, largest=largest),
        parts=parts,
        layer_parts=layer_parts,
        memory=by_outputs.bytes_of_memory,
    )
    if by_outputs.dry_run:
        rows = wishes.rows(by_outputs.data_dir)
        _choose(found, rows, wishes, config, by_outputs.config(clusters), shown)
        return
    if wishes.calibrate is None:
        packed, scores = _plain(found, wishes, config), None
    else:
        rows = wishes.rows(by_outputs.data_dir)
        packed = _calibration.run(found, rows, wishes, config, by_outputs.config(clusters), _tell)
        assert packed.calibrated is not None
        _calibration.tell(packed.calibrated, by_outputs.method)
        scores = _calibration.scores(found, rows, wishes, packed)
    assert output is not None
    written = _write(packed, output, wishes, shown, kept)
    _calibration.tell_scores(scores)
    if shown.json_:
        _print(packed, output, written, scores)


def _write(
    packed: Compression,
    output: str,
    wishes: _calibration.Wishes,
    shown: Shown,
    kept: list[Path],
) -> int:
    """Write the packed file and the report, and tell of both; the packed file's bytes."""
    for note in packed.notes:
        _output.note(noted(note))
    more = []
    if wishes.report is not None and packed.calibrated is not None:
        more.append((wishes.report, _calibration.report_bytes(packed.calibrated)))
    written = _files.write_with(packed.model, output, more, force=shown.force, inputs=kept)
    most = wishes.target_bytes
    asked = "" if most is None else f"; at most {_output.size(most)} were asked for"
    _report.tell_packed(packed.model, output, more=asked, why=True, unused=packed.unused_bytes)
    return written


def _plain(found: _files.Given, wishes: _calibration.Wishes, config: ClusterConfig) -> Compression:
    """Cluster without rows."""
    with _output.shares() as share:
        return kancompress.cluster(
            found.source,
            config,
            target=wishes.target(),
            options=wishes.options,
            keep_scaler=wishes.keep_scaler,
            keep_extra=wishes.keep_extra,
            state=wishes.state,
            drop=wishes.drop,
            name=found.name,
            machine=Machine(device=wishes.device),
            hooks=kancompress.Hooks(report=_tell, share=share),
        )


def _wishes(
    clusters: Clusters,
    stored: Stored,
    by_outputs: ByOutputs,
    machine: ClusterMachine,
    foreign: ForeignFile,
    *,
    auto: bool,
) -> _calibration.Wishes:
    return _calibration.Wishes(
        options=foreign.options(),
        calibrate=by_outputs.calibrate,
        model=by_outputs.model,
        input_shape=by_outputs.input_shape,
        auto=auto,
        target_bytes=clusters.target_bytes,
        target_ratio=clusters.target_ratio,
        target_error=by_outputs.target_error,
        device=machine.device,
        dry_run=by_outputs.dry_run,
        report=by_outputs.report,
        keep_scaler=stored.keep_scaler,
        keep_extra=stored.keep_extra,
        state=foreign.state,
        drop=foreign.drop or (),
    )


def check(wishes: _calibration.Wishes, by_outputs: ByOutputs) -> None:
    """Refuse options that need others, or exclude each other."""
    needing = {
        "--method": by_outputs.method is not _CALIBRATION.method,
        "--samples": by_outputs.samples != _CALIBRATION.samples,
        "--rounds": by_outputs.rounds is not None,
        "--sweeps": by_outputs.sweeps is not None,
        "--batch-size": by_outputs.batch_size != _CALIBRATION.batch_size,
    }
    wishes.check(needing)
    _check_polish(by_outputs.method, by_outputs.rounds, by_outputs.sweeps)


def config_of(
    clusters: Clusters, stored: Stored, common: int | None, layers: dict[str, int], *, largest: bool
) -> ClusterConfig:
    """The library's record of these options.

    largest : whether a target of bytes is met with the largest number that fits
    """
    return ClusterConfig(
        clusters=common,
        layers=layers,
        codebook_dtype=stored.codebook_dtype,
        side_dtype=stored.side_dtype,
        seed=clusters.seed,
        max_iterations=clusters.max_iterations,
        force_pack=stored.force_pack,
        keep_masked=stored.keep_masked,
        metric=clusters.metric,
        kmeans=clusters.kmeans,
        price=clusters.price,
        indices=stored.indices,
        header=stored.header,
        target_bytes=clusters.target_bytes if largest else None,
    )


def _choose(
    found: _files.Given,
    rows: DataOptions,
    wishes: _calibration.Wishes,
    config: ClusterConfig,
    calibration: CalibrationConfig,
    shown: Shown,
) -> None:
    """Tell the numbers of clusters that a run would take, and pack nothing."""
    choice = _calibration.choose(found, rows, wishes, config, calibration)
    _calibration.tell(choice, calibration.method)
    if wishes.report is not None:
        report = _calibration.report_bytes(choice)
        _files.write_bytes(report, str(wishes.report), force=shown.force)
    if shown.json_:
        _output.document({"calibration": _calibration.record(choice)})


def _print(
    packed: Compression, output: str, written: int, scores: tuple[Score, Score] | None
) -> None:
    """Print the JSON document."""
    document: dict[str, Any] = {
        "output": output,
        "file_bytes": written,
        "source": packed.model.source.to_json(),
        "layers": [asdict(layer) for layer in packed.layers],
        "notes": list(map(noted, packed.notes)),
    }
    if packed.calibrated:
        document["calibration"] = _calibration.record(packed.calibrated)
        before, after = scores or (None, None)
        document["test_before"] = _scores.json_of(before)
        document["test"] = _scores.json_of(after)
    _output.document(document, to_stderr=output == _files.DASH)


def _clusters(values: list[str]) -> tuple[int | None, dict[str, int], bool]:
    """The common k, the layers' own, and whether they are chosen, from `16`, `NAME=64`, `auto`."""
    if "auto" in values:
        if len(values) > 1:
            raise UsageError("--clusters auto chooses for every layer; leave other numbers out.")
        return None, {}, True
    what = "number of clusters; write 16 or 1=64"
    return *numbers("--clusters", values, what, MAX_CLUSTERS), False


def _parts(values: list[str]) -> tuple[int | None, dict[str, int]]:
    """The common number of parts and the layers' own, from `3`, `NAME=9`."""
    return numbers("--parts", values, "number of parts; write 3 or 1=9", None)


def numbers(
    option: str, values: list[str], what: str, most: int | None = None
) -> tuple[int | None, dict[str, int]]:
    """A number for all layers, and those of single layers; from 1 to `most` where that is given."""
    common: int | None = None
    layers: dict[str, int] = {}
    for value in values:
        name, mark, number = value.rpartition("=")
        if not number.isascii() or not number.isdigit() or len(number) > 20:
            raise UsageError(f"{option} {value} is no {what}.")
        if most is not None and not 1 <= int(number) <= most:
            raise UsageError(
                f"{option} {value} is not possible; a number from 1 to {most} was expected."
            )
        if not mark:
            if common is not None:
                raise UsageError(f"{option} is given twice, {common} and {number}; write one.")
            common = int(number)
        elif name in layers:
            raise UsageError(f"{option} names the layer {name} twice.")
        else:
            layers[name] = int(number)
    return common, layers


def _check_polish(method: Method, rounds: int | None, sweeps: int | None) -> None:
    """Refuse numbers of rounds and sweeps that the method has none of."""
    if rounds is not None and method not in (Method.FEEDBACK, Method.SWEEPS):
        raise UsageError(f"--method {method} has no rounds; take feedback or sweeps.")
    if sweeps is not None and method is not Method.SWEEPS:
        raise UsageError(f"--method {method} has no sweeps; take sweeps, or leave --sweeps out.")


def _beside(layer: LayerClustering) -> str:
    """What the layer has beside the centroids that were asked for."""
    return " and a centroid of zeros for masked edges" if layer.masked else ""


def _tell(layer: LayerClustering) -> None:
    masked = (
        f" and {_output.size(layer.masked)} masked one{'s' * (layer.masked > 1)}"
        if layer.masked
        else ""
    )
    line = f"layer {layer.name}: {counted(layer.edges, 'edge')}{masked}"
    if layer.parts > 1:
        width = layer.coefficients // layer.parts
        line += f" in {layer.parts} parts of {counted(width, 'coefficient')}"
    if layer.clusters is None and layer.packed_bytes <= layer.dense_bytes:
        _output.note(f"{line}, stays dense, {_output.size(layer.dense_bytes)} bytes")
        return
    if layer.clusters is None:
        _output.note(
            f"{line}, stays dense: packed at k = {layer.requested} it would take"
            f"{' about' * layer.foretold} {_output.size(layer.packed_bytes)} bytes,"
            f" dense {_output.size(layer.dense_bytes)} (--force-pack packs it all the same)"
        )
        return
    how = (
        "exact, no two vectors are merged"
        if layer.exact
        else f"distortion {layer.distortion:.3g} after {counted(layer.iterations, 'iteration')}"
    )
    _output.note(
        f"{line}, k = {layer.clusters}{_beside(layer)}, {how},"
        f" {_output.size(layer.dense_bytes)} -> {_output.size(layer.packed_bytes)} bytes"
    )
