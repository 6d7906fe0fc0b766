"""`kancompress inspect`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import kancompress
from kancompress.cli import _files, _output
from kancompress.cli._options import (
    DebugOption,
    InputArgument,
    JsonOption,
    LayoutOption,
    layouts,
)
from kancompress.cli._run import command
from kancompress.errors import UsageError

_RATIOS = {
    "formula": "eq. 10: dense coefficients / (n log2 k / 8 + codebooks)",
    "tensors": "tensor bytes of the source / tensor bytes of this file",
    "file": "source file / this file",
    "dense_tensors": "tensor bytes of the dense twin / tensor bytes of this file",
    "dense_file": "file of the dense twin / this file",
    "pykan_storage": "dense tensors as pykan stores them (the paper's 79.9) / this file",
}


@command
def inspect(
    source: InputArgument,
    check: Annotated[
        bool,
        typer.Option("--check", help="Only verify structure and checksum; tells by exit code."),
    ] = False,
    clusters: Annotated[
        int | None,
        typer.Option(
            "--clusters",
            "-k",
            min=1,
            max=65_536,
            help="Size that the packed file of a checkpoint would have at this k.",
            show_default=False,
        ),
    ] = None,
    layout: LayoutOption = None,
    print_layout: Annotated[
        bool,
        typer.Option(
            "--print-layout",
            help="Print the layouts of another library's layers as TOML, for --layout @FILE.",
        ),
    ] = False,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what a file holds and what every part weighs.

    Works on packed, dense and meta files, on any safetensors file, and on torch files of other
    KAN libraries, whose layers it recognises.

    \b
    Examples:
      kancompress inspect packed.safetensors
      kancompress inspect model.pt --clusters 16
      kancompress inspect model.pt --print-layout > layout.toml
      kancompress inspect packed.safetensors --json | jq .ratios
      kancompress inspect --check packed.safetensors && echo sound
    """
    if print_layout and (check or json_ or clusters is not None):
        raise UsageError("--print-layout prints nothing else; leave the other options out.")
    found = _files.given(source)
    if print_layout:
        _output.lines(
            kancompress.print_layouts(found.source, layouts=layouts(layout or []), name=found.name)
        )
        return
    report = kancompress.inspect(
        found.source,
        found.name,
        check=check,
        clusters=clusters,
        layouts=layouts(layout or []),
    )
    if json_:
        _output.document(report)
    elif check:
        _output.note(f"{found.name}: sound ({report['kind']})")
    else:
        _show(report, found.name)


def _show(report: dict[str, Any], name: str) -> None:
    model = report["model"]
    _output.result(
        f"{name}: {report['kind']}"
        + (f", {_pairs(model)}" if model else "")
        + (f", data {report['data']['name']}" if report["data"] else "")
    )
    if report["layers"]:
        _output.table(_LAYER_COLUMNS, [_layer_row(row) for row in report["layers"]], to_stdout=True)
    if report["other"]:
        _output.table(
            ["other tensor", "dtype", "shape", "bytes"],
            [
                [row["name"], row["dtype"], _shape(row["shape"]), _output.size(row["bytes"])]
                for row in report["other"]
            ],
            to_stdout=True,
        )
    for problem in report.get("problems", []):
        _output.result(f"note: {problem}")
    _output.table(["part", "bytes"], _size_rows(report), to_stdout=True)
    ratios = [
        [f"{key}: {_RATIOS[key]}", f"{value:.2f}"]
        for key, value in report["ratios"].items()
        if value is not None
    ]
    if ratios:
        _output.table(["ratio", "times"], ratios, to_stdout=True)


_LAYER_COLUMNS = (
    "layer", "basis", "shape", "edges", "coef", "k", "bits", "entropy", "use min-max",
    "index B", "codebook B", "dense B",
)  # fmt: skip


def _layer_row(row: dict[str, Any]) -> list[str]:
    usage, entropy = row["usage"], row["index_entropy"]
    return [
        row["name"],
        row["basis"] or row.get("layout") or "-",
        _shape(row["shape"]),
        _output.size(row["edges"]),
        str(row["coefficients"]),
        "dense" if row["clusters"] is None else str(row["clusters"]),
        "-" if row["index_bits"] is None else str(row["index_bits"]),
        "-" if entropy is None else f"{entropy:.2f}",
        f"{usage['smallest']}-{usage['largest']}" if usage else "-",
        _output.size(row["index_bytes"]),
        _output.size(row["codebook_bytes"]),
        _output.size(row["dense_bytes"]),
    ]


def _size_rows(report: dict[str, Any]) -> list[list[str]]:
    totals = report["totals"]
    rows = [
        ["header", _output.size(report["header_bytes"])],
        ["indices", _output.size(totals["index_bytes"])],
        ["codebooks", _output.size(totals["codebook_bytes"])],
        ["other tensors", _output.size(totals["other_bytes"])],
        ["file", _output.size(report["file_bytes"])],
    ]
    if totals["formula_bytes"] is not None:
        rows.append(["formula (n log2 k / 8 + 4 k |w|)", f"{totals['formula_bytes']:,.1f}"])
    if report.get("predicted"):
        rows.append(["packed file, predicted", _output.size(report["predicted"]["file_bytes"])])
    if totals["dense_bytes"]:
        rows.append(["dense coefficients", _output.size(totals["dense_bytes"])])
    return rows


def _shape(shape: list[int]) -> str:
    return " x ".join(map(str, shape)) or "scalar"


def _pairs(record: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in record.items() if key != "name").join(
        [f"{record['name']} (", ")"]
    )
