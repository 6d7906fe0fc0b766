"""`kancompress compare`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import kancompress
from kancompress.cli import _files, _output, _scores
from kancompress.cli._options import ForeignFile, ModelData, OwnModel, Running, Shown, noted
from kancompress.cli._run import command
from kancompress.errors import UsageError

if TYPE_CHECKING:
    from kancompress.api.compare import Comparison, Side

_DENSE = Annotated[
    str,
    typer.Argument(
        metavar="DENSE", help="First network, as a rule the one before packing.", show_default=False
    ),
]
_PACKED = Annotated[
    str, typer.Argument(metavar="PACKED", help="Second network.", show_default=False)
]


@command
def compare(
    dense: _DENSE,
    packed: _PACKED,
    data: ModelData,
    machine: Running,
    own: OwnModel,
    foreign: ForeignFile,
    shown: Shown,
) -> None:
    """Compare two networks on the same test rows: scores, classes or outputs, and bytes.

    Any two files that run will do. The data set is the one that the files name; files of other
    libraries name none, so they need --dataset or --data. --state and --drop are for the first
    file.

    \b
    Examples:
      kancompress compare digits.safetensors packed.safetensors
      kancompress compare mnist.safetensors packed.safetensors --data-dir ~/data --json
      kancompress compare efficient_kan.pt packed.safetensors --dataset mnist
    """
    if dense == packed == _files.DASH:
        raise UsageError("DENSE and PACKED are both standard input; name a file for one of them.")
    rows, options = data.options(own.row_shape()), foreign.options()
    _files.check_there(data.data)
    first, second = _files.given(dense), _files.given(packed)
    where = machine.machine()
    with own.made() as module, _output.shares() as share:
        found = kancompress.compare(
            first.source,
            second.source,
            rows,
            options=options,
            model=module,
            machine=where,
            runtime=machine.runtime,
            state=foreign.state,
            drop=foreign.drop or (),
            names=(first.name, second.name),
            on_batch=share.batch,
        )
    notes = list(map(noted, found.notes))
    for note in notes:
        _output.note(f"assumed {note}")
    if shown.json_:
        _output.document(_record(found) | {"notes": notes})
    else:
        _show(found)


def _record(found: Comparison) -> dict[str, Any]:
    return {
        "dense": _side(found.dense),
        "packed": _side(found.packed),
        "ratio": found.ratio,
        "used_ratio": found.used_ratio,
        "equal_classes": found.equal_classes,
        "largest_deviation": found.largest,
        "mean_deviation": found.mean,
        "error": found.error,
    }


def _side(side: Side) -> dict[str, Any]:
    return _scores.score_json(side.score) | {
        "file": side.name,
        "file_bytes": side.file.file_bytes,
        "clusters": side.file.clusters,
    }


def _show(found: Comparison) -> None:
    rows = [
        [side.name, "" if size is None else _output.size(size), *_scores.score_cells(side.score)]
        for side in (found.dense, found.packed)
        for size in [side.file.file_bytes]
    ]
    scored = "accuracy" if found.dense.score.accuracy is not None else "rmse"
    _output.table(["file", "bytes", scored, "loss"], rows, to_stdout=True)
    if found.ratio is not None:
        unused = ""
        if found.used_ratio is not None and found.used_ratio != found.ratio:
            unused = f", {found.used_ratio:.2f} times without those that no tensor uses"
        _output.result(f"bytes: {found.ratio:.2f} times as many in the first file{unused}")
    examples = _output.size(found.dense.score.examples)
    if found.equal_classes is not None:
        _output.result(
            f"classes: equal for {_output.percent(found.equal_classes)} of {examples} rows"
        )
    _output.result(
        f"outputs: apart by {found.mean:.3g} on the average and {found.largest:.3g} at most;"
        f" {_scores.error_text(found.error)}"
    )
