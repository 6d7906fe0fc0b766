"""`kancompress cluster`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

import kancompress
from kancompress.cli import _files, _output
from kancompress.cli._options import (
    DebugOption,
    ForceOption,
    InputArgument,
    JsonOption,
    LayoutOption,
    OutputOption,
    SeedOption,
    layouts,
)
from kancompress.cli._run import command
from kancompress.errors import UsageError
from kancompress.recipes import CLUSTERS, ClusterConfig, CodebookDtype

if TYPE_CHECKING:
    from kancompress.compression import LayerClustering


@command
def cluster(
    source: InputArgument,
    output: OutputOption,
    clusters: Annotated[
        list[str] | None,
        typer.Option(
            "--clusters",
            "-k",
            metavar="K|NAME=K",
            help=f"Centroids of every layer (default {CLUSTERS}), or of one layer; repeatable.",
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
        CodebookDtype, typer.Option(help="Type of the stored centroids.")
    ] = CodebookDtype.SOURCE,
    max_iterations: Annotated[int, typer.Option(min=1, help="Most k-means iterations.")] = 100,
    force_pack: Annotated[
        bool, typer.Option("--force-pack", help="Pack layers that would grow, too.")
    ] = False,
    layout: LayoutOption = None,
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
    """
    common, layers = _clusters(clusters or [])
    if target_bytes is not None and common is not None:
        raise UsageError(
            f"--target-bytes chooses the number of clusters; leave out --clusters {common}, or"
            " write NAME=K for single layers."
        )
    kept = _files.inputs(source)
    _files.check_output(output, force=force, inputs=kept)
    found = _files.given(source)
    config = ClusterConfig(
        clusters=CLUSTERS if common is None else common,
        layers=layers,
        codebook_dtype=codebook_dtype,
        seed=seed,
        max_iterations=max_iterations,
        force_pack=force_pack,
        target_bytes=target_bytes,
    )
    packed = kancompress.cluster(
        found.source,
        config,
        layouts=layouts(layout or []),
        keep_scaler=keep_scaler,
        keep_extra=keep_extra,
        name=found.name,
        report=_tell,
    )
    for note in packed.notes:
        _output.note(note)
    written = _files.write_record(packed.model, output, force=force, inputs=kept)
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
            },
            to_stderr=output == _files.DASH,
        )


def _clusters(values: list[str]) -> tuple[int | None, dict[str, int]]:
    """The common k and the layers' own from `16` and `NAME=64`."""
    common: int | None = None
    layers: dict[str, int] = {}
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
    return common, layers


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
