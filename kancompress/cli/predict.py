"""`kancompress predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import kancompress
from kancompress.cli import _files, _output
from kancompress.cli._bundles import bundle
from kancompress.cli._options import (
    ForeignFile,
    InputArgument,
    OutputOption,
    OwnModel,
    Running,
    Shown,
    noted,
)
from kancompress.cli._run import command
from kancompress.config import RowFormat
from kancompress.errors import UsageError
from kancompress.reporting.targets import row_format


@bundle("Rows")
class Rows:
    """The rows, and how they are run."""

    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="FILE",
            help="File with an array x of rows (npz, safetensors, or npy), or - for standard"
            " input: (rows, inputs), of convolutions (rows, channels, height, width).",
            show_default=False,
        ),
    ]
    raw: Annotated[
        bool,
        typer.Option(
            "--raw",
            help="The rows are as the data set has them, and are normalised by the mean and"
            " deviation that the network's file has of its data: real numbers are pixels from 0 to"
            " 1, whole numbers pixels up to 255 (digits: up to 16). Without it rows are taken as"
            " the network takes them.",
        ),
    ] = False
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, max=2**31, help="Rows that are run at a time.")
    ] = 1024


@bundle("Results")
class Results:
    """What is written."""

    classes: Annotated[
        bool,
        typer.Option(
            "--classes",
            help="Also write the class of each row (its largest output), and the shares of all"
            " classes (the softmax of its outputs).",
        ),
    ] = False
    format: Annotated[
        RowFormat | None,
        typer.Option(
            "--format",
            help="How they are written (default: as the suffix of OUT says, npz for -).",
            show_default=False,
        ),
    ] = None

    def form(self, output: str) -> RowFormat:
        """The format of the output.

        Raises UsageError where nothing names one, and where the suffix names another one.
        """
        if output == _files.DASH:
            return self.format or RowFormat.NPZ
        return row_format(Path(output), self.format)


@command
def predict(
    source: InputArgument,
    output: OutputOption,
    rows: Rows,
    results: Results,
    machine: Running,
    own: OwnModel,
    foreign: ForeignFile,
    shown: Shown,
) -> None:
    """Write the outputs of a network for rows that need no labels.

    The file has the array outputs (rows, outputs), and with --classes also classes (rows,) and
    shares (rows, classes). A csv file has them in columns, under a header line.

    \b
    Examples:
      kancompress predict packed.safetensors --data rows.npz -o outputs.npz
      kancompress predict packed.safetensors --data images.npy --raw --classes -o classes.csv
      kancompress predict packed.safetensors --data rows.npz -o - --format csv | head
      kancompress predict packed.safetensors --data rows.npz --runtime numpy -o outputs.npz
      kancompress predict efficient_kan.pt --data rows.npz --base-activation gelu -o outputs.npz
    """
    if source == rows.data == _files.DASH:
        raise UsageError("IN and --data are both standard input; name a file for one of them.")
    form = results.form(output)
    kept = _files.inputs(source, rows.data)
    _files.check_output(output, force=shown.force, inputs=kept, text=form is RowFormat.CSV)
    options, shape = foreign.options(), own.row_shape()
    found = _files.given(source)
    given = _files.given(rows.data)
    where = machine.machine()
    with own.made() as module, _output.shares() as share:
        done = kancompress.predict(
            found.source,
            given.source,
            classes=results.classes,
            raw=rows.raw,
            runtime=machine.runtime,
            options=options,
            model=module,
            machine=where,
            state=foreign.state,
            drop=foreign.drop or (),
            shape=shape,
            batch_size=rows.batch_size,
            name=found.name,
            on_batch=share.batch,
        )
    notes = list(map(noted, done.notes))
    for note in notes:
        _output.note(f"assumed {note}")
    if output == _files.DASH:
        written = _files.write_bytes(done.encode(form), output, force=shown.force)
    else:
        written = done.save(output, form=form, force=shown.force, inputs=kept)
    count, width = done.outputs.shape
    _output.note(f"{count:,} rows, {width:,} outputs a row, {_output.size(written)} bytes")
    if shown.json_:
        record = {
            "output": output,
            "file_bytes": written,
            "format": form.value,
            "rows": count,
            "outputs": width,
            "classes": results.classes,
            "notes": notes,
        }
        _output.document(record, to_stderr=output == _files.DASH)
