"""`kancompress cluster`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import kancompress
from kancompress.cli import _calibration, _files, _output
from kancompress.cli._options import (
    DEFAULT_DATA_DIR,
    BaseActivationOption,
    DataDirOption,
    DebugOption,
    ForceOption,
    GridRangeOption,
    InputArgument,
    InputShapeOption,
    JsonOption,
    LayoutOption,
    ModuleOption,
    OptionalOutput,
    RbfDenominatorOption,
    SeedOption,
    SplineOrderOption,
    ThreadsOption,
    run_options,
    use_threads,
)
from kancompress.cli._run import shared_command
from kancompress.config import (
    CLUSTERS,
    CONV_CLUSTERS,
    CalibrationConfig,
    ClusterConfig,
    Device,
    KMeans,
    Method,
    Metric,
    StoredDtype,
)
from kancompress.errors import UsageError

if TYPE_CHECKING:
    from kancompress.packing.pack import LayerClustering

_DEFAULTS = CalibrationConfig()


@shared_command
def cluster(
    source: InputArgument,
    output: OptionalOutput = None,
    clusters: Annotated[
        list[str] | None,
        typer.Option(
            "--clusters",
            "-k",
            metavar="K|NAME=K|auto",
            help=f"Centroids of every layer (default {CLUSTERS}, of convolutions {CONV_CLUSTERS}),"
            " or of one layer; repeatable."
            " auto: chosen for each layer, with --calibrate and a target.",
            show_default=False,
        ),
    ] = None,
    target_bytes: Annotated[
        int | None,
        typer.Option(
            "--target-bytes",
            min=1,
            metavar="N",
            help="Take the largest K with which the whole file has at most N bytes.",
            show_default=False,
        ),
    ] = None,
    codebook_dtype: Annotated[
        StoredDtype, typer.Option(help="Type of the stored centroids.")
    ] = StoredDtype.SOURCE,
    side_dtype: Annotated[
        StoredDtype,
        typer.Option(help="Type of stored biases, norms and recurrence weights (own networks)."),
    ] = StoredDtype.SOURCE,
    max_iterations: Annotated[int, typer.Option(min=1, help="Most k-means iterations.")] = 100,
    kmeans: Annotated[
        KMeans, typer.Option(help="Whose k-means runs; the start is the same.")
    ] = KMeans.OWN,
    metric: Annotated[
        Metric,
        typer.Option(help="What k-means measures: coefficients, or functions on their grid."),
    ] = Metric.COEFFICIENTS,
    force_pack: Annotated[
        bool, typer.Option("--force-pack", help="Pack layers that would grow, too.")
    ] = False,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Cluster by what layers put out on these unlabelled rows: a named data set, or a"
            " file with an array x.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    model: ModuleOption = None,
    input_shape: InputShapeOption = None,
    method: Annotated[Method, typer.Option(help="How far to go with --calibrate.")] = Method.SWEEPS,
    samples: Annotated[int, typer.Option(min=16, help="Rows to calibrate on.")] = 16_384,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=0, help="Rounds of feedback and refit.", show_default="while they pay, at most 8"
        ),
    ] = None,
    sweeps: Annotated[
        int | None,
        typer.Option(min=0, help="Sweeps with a refit.", show_default="while they pay, at most 8"),
    ] = None,
    memory: Annotated[
        float, typer.Option(min=0.01, help="GiB for a layer's second moments; more are grouped.")
    ] = 6.0,
    target_ratio: Annotated[
        float | None,
        typer.Option(min=1.0, help="With -k auto: the source's bytes over the packed file's."),
    ] = None,
    target_error: Annotated[
        float | None,
        typer.Option(min=0.0, help="With -k auto: most relative error of the network's outputs."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With -k auto: tell the choice, write nothing.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            readable=False,
            help="Write what was measured, as JSON.",
            show_default=False,
        ),
    ] = None,
    layout: LayoutOption = None,
    base_activation: BaseActivationOption = None,
    rbf_denominator: RbfDenominatorOption = None,
    grid_range: GridRangeOption = None,
    spline_order: SplineOrderOption = None,
    keep_scaler: Annotated[
        bool, typer.Option("--keep-scaler", help="Do not fold factors of edges into them.")
    ] = False,
    keep_extra: Annotated[
        bool,
        typer.Option(
            "--keep-extra",
            help="Keep what a torch file holds beside the model, such as the optimizer.",
        ),
    ] = False,
    seed: SeedOption = 0,
    device: Annotated[
        Device,
        typer.Option(
            help="Where to compute with --calibrate; auto is cuda, else cpu. Plain k-means runs on"
            " the CPU."
        ),
    ] = Device.AUTO,
    threads: ThreadsOption = None,
    force: ForceOption = False,
    json_: JsonOption = False,
    debug: DebugOption = False,
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
    common, layers, auto = _clusters(clusters or [])
    if target_bytes is not None and common is not None:
        raise UsageError(
            f"--target-bytes chooses the number of clusters; leave out --clusters {common}, or"
            " write NAME=K for single layers."
        )
    options = run_options(layout, base_activation, rbf_denominator, grid_range, spline_order)
    wishes = _calibration.Wishes(
        options=options,
        calibrate=calibrate,
        model=model,
        input_shape=input_shape,
        auto=auto,
        target_bytes=target_bytes,
        target_ratio=target_ratio,
        target_error=target_error,
        device=device,
        dry_run=dry_run,
        report=report,
        keep_scaler=keep_scaler,
        keep_extra=keep_extra,
    )
    needing = {
        "--method": method is not Method.SWEEPS,
        "--samples": samples != _DEFAULTS.samples,
        "--rounds": rounds is not None,
        "--sweeps": sweeps is not None,
        "--memory": memory != _DEFAULTS.memory / 2**30,
    }
    wishes.check(needing)
    _check_polish(method, rounds, sweeps)
    if output is None and not dry_run:
        raise UsageError("The file to write is missing; name it with --output OUT.")
    kept = _files.inputs(source, wishes.file())
    if output is not None:
        _files.check_output(output, force=force, inputs=kept)
    wishes.check_report(output, force=force, inputs=kept)
    found = _files.given(source)
    use_threads(threads)
    config = ClusterConfig(
        clusters=common,
        layers=layers,
        codebook_dtype=codebook_dtype,
        side_dtype=side_dtype,
        seed=seed,
        max_iterations=max_iterations,
        force_pack=force_pack,
        metric=metric,
        kmeans=kmeans,
        target_bytes=None if calibrate else target_bytes,
    )
    if calibrate is None:
        packed = kancompress.cluster(
            found.source,
            config,
            options=options,
            keep_scaler=keep_scaler,
            keep_extra=keep_extra,
            name=found.name,
            report=_tell,
        )
    else:
        calibration = CalibrationConfig(
            method=method,
            samples=samples,
            rounds=rounds,
            sweeps=sweeps,
            memory=int(min(memory, 2**20) * 2**30),
            max_iterations=max_iterations,
            seed=seed,
        )
        rows = wishes.rows(data_dir)
        if dry_run:
            choice = _calibration.choose(found, rows, wishes, config, calibration)
            _calibration.tell(choice)
            if report is not None:
                _files.write_bytes(_calibration.report_bytes(choice), str(report), force=force)
            if json_:
                _output.document({"calibration": _calibration.record(choice)})
            return
        packed = _calibration.run(found, rows, wishes, config, calibration, _tell)
        assert packed.calibrated is not None
        _calibration.tell(packed.calibrated)
    assert output is not None
    for note in packed.notes:
        _output.note(note)
    more = []
    if report is not None and packed.calibrated is not None:
        more.append((report, _calibration.report_bytes(packed.calibrated)))
    written = _files.write_with(packed.model, output, more, force=force, inputs=kept)
    origin = packed.model.source
    _output.note(
        f"{_output.size(written)} bytes; the source has {_output.size(origin.file)}"
        + (f", its dense twin {_output.size(origin.dense[1])}" if origin.dense else "")
        + (f"; at most {_output.size(target_bytes)} were asked for" if target_bytes else "")
    )
    if json_:
        _output.document(
            {
                "output": output,
                "file_bytes": written,
                "source": origin.to_json(),
                "layers": [asdict(layer) for layer in packed.layers],
                "notes": list(packed.notes),
            }
            | (
                {"calibration": _calibration.record(packed.calibrated)} if packed.calibrated else {}
            ),
            to_stderr=output == _files.DASH,
        )


def _clusters(values: list[str]) -> tuple[int | None, dict[str, int], bool]:
    """The common k, the layers' own, and whether they are chosen, from `16`, `NAME=64`, `auto`."""
    common: int | None = None
    layers: dict[str, int] = {}
    if "auto" in values:
        if len(values) > 1:
            raise UsageError("--clusters auto chooses for every layer; leave other numbers out.")
        return None, {}, True
    for value in values:
        name, mark, number = value.rpartition("=")
        if not number.isascii() or not number.isdigit() or len(number) > 20:
            raise UsageError(f"--clusters {value} is no number of clusters; write 16 or 1=64.")
        if not mark:
            if common is not None:
                raise UsageError(f"--clusters is given twice, {common} and {number}; write one.")
            common = int(number)
        elif name in layers:
            raise UsageError(f"--clusters names the layer {name} twice.")
        else:
            layers[name] = int(number)
    return common, layers, False


def _check_polish(method: Method, rounds: int | None, sweeps: int | None) -> None:
    """Refuse numbers of rounds and sweeps that the method has none of."""
    if rounds is not None and method not in (Method.FEEDBACK, Method.SWEEPS):
        raise UsageError(f"--method {method} has no rounds; take feedback or sweeps.")
    if sweeps is not None and method is not Method.SWEEPS:
        raise UsageError(f"--method {method} has no sweeps; take sweeps, or leave --sweeps out.")


def _tell(layer: LayerClustering) -> None:
    line = f"layer {layer.name}: {_output.size(layer.edges)} edges"
    if layer.clusters is None:
        _output.note(
            f"{line}, stays dense: packed at k = {layer.requested} it would take"
            f" {_output.size(layer.packed_bytes)} bytes, dense {_output.size(layer.dense_bytes)}"
            " (--force-pack packs it all the same)"
        )
        return
    how = (
        "exact, no two vectors are merged"
        if layer.exact
        else f"distortion {layer.distortion:.3g} after {layer.iterations} iterations"
    )
    _output.note(
        f"{line}, k = {layer.clusters}, {how},"
        f" {_output.size(layer.dense_bytes)} -> {_output.size(layer.packed_bytes)} bytes"
    )
