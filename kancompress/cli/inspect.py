"""`kancompress inspect`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import kancompress
from kancompress.cli import _files, _output
from kancompress.cli._bundles import bundle
from kancompress.cli._by_layer import layouts
from kancompress.cli._options import (
    DropOption,
    InputArgument,
    LayoutOption,
    SeedOption,
    Shown,
    StateOption,
    noted,
)
from kancompress.cli._run import command
from kancompress.config import PlotConfig, Projection, RunOptions
from kancompress.errors import UsageError
from kancompress.specs import MAX_CLUSTERS

_RATIOS = {
    "formula": "eq. 10: dense coefficients / (n log2 k / 8 + codebooks)",
    "tensors": "tensor bytes of the source / tensor bytes of this file",
    "file": "source file / this file",
    "dense_tensors": "tensor bytes of the dense twin / tensor bytes of this file",
    "dense_file": "file of the dense twin / this file",
    "pykan_storage": "dense tensors as pykan stores them (the paper's 79.9) / this file",
}
_DEFAULTS = PlotConfig()


@bundle("Reports")
class Report:
    """What is told."""

    check: Annotated[
        bool,
        typer.Option("--check", help="Only verify structure and checksum; tells by exit code."),
    ] = False
    clusters: Annotated[
        int | None,
        typer.Option(
            "--clusters",
            "-k",
            min=1,
            max=MAX_CLUSTERS,
            help="Size that the packed file of a checkpoint would have at this k; and the centroids"
            " that pictures of it show (else what cluster takes).",
            show_default=False,
        ),
    ] = None
    print_layout: Annotated[
        bool,
        typer.Option(
            "--print-layout",
            help="Print the layouts of another library's layers as TOML, for --layout @FILE.",
        ),
    ] = False
    state: StateOption = None
    drop: DropOption = None
    layout: LayoutOption = None


@bundle("Pictures")
class Pictures:
    """What is drawn, and how."""

    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="PICTURE",
            help="Draw the edge vectors, coloured by centroid, as .png, .svg or .pdf.",
            show_default=False,
        ),
    ] = None
    plot_functions: Annotated[
        Path | None,
        typer.Option(
            "--plot-functions",
            metavar="PICTURE",
            help="Draw the function of each centroid over the grid, and how many edges use it.",
            show_default=False,
        ),
    ] = None
    projection: Annotated[
        Projection, typer.Option(help="How --plot brings edge vectors into the plane.")
    ] = _DEFAULTS.projection
    sample: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Most edges of a layer that --plot draws.")
    ] = _DEFAULTS.sample
    seed: SeedOption = _DEFAULTS.seed

    @property
    def drawn(self) -> list[tuple[str, Path]]:
        """Kinds and paths of the pictures that are asked for."""
        both = (("edges", self.plot), ("functions", self.plot_functions))
        return [(kind, path) for kind, path in both if path is not None]

    def config(self, clusters: int | None) -> PlotConfig:
        """The library's record of these options."""
        return PlotConfig(
            projection=self.projection, clusters=clusters, sample=self.sample, seed=self.seed
        )


@command
def inspect(source: InputArgument, report: Report, pictures: Pictures, shown: Shown) -> None:
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
      kancompress inspect trained.safetensors --plot edges.png --projection tsne
      kancompress inspect packed.safetensors --plot-functions functions.png
    """
    _check(report, pictures, shown)
    kept = _files.inputs(source)
    for _, path in pictures.drawn:
        kancompress.check_picture_target(path, force=shown.force, inputs=kept)
    found = _files.given(source)
    chosen = layouts(report.layout or [])
    if report.print_layout:
        _output.lines(
            kancompress.print_layouts(
                found.source, layouts=chosen, state=report.state, name=found.name
            )
        )
        return
    told = kancompress.inspect(
        found.source,
        found.name,
        check=report.check,
        clusters=report.clusters,
        layouts=chosen,
        state=report.state,
        drop=report.drop or (),
    )
    if "problems" in told:
        told["problems"] = list(map(noted, told["problems"]))
    config = pictures.config(report.clusters)
    plots = _draw(found, pictures, config, chosen, state=report.state, force=shown.force, kept=kept)
    if shown.json_:
        _output.document(told | ({"plots": plots} if plots else {}))
    elif report.check:
        _output.note(f"{found.name}: sound ({told['kind']})")
    else:
        _show(told, found.name)
    for one in plots:
        size = _output.size(one["file_bytes"])
        _output.note(f"{one['output']}: picture of the {one['kind']}, {size} bytes")


def _check(report: Report, pictures: Pictures, shown: Shown) -> None:
    """Refuse options that exclude each other."""
    drawn = [path for _, path in pictures.drawn]
    others = (report.check, shown.json_, report.clusters is not None, drawn)
    if report.print_layout and any(others):
        raise UsageError("--print-layout prints nothing else; leave the other options out.")
    if report.check and drawn:
        raise UsageError("--check draws nothing; leave --plot and --plot-functions out.")
    if len(drawn) == 2 and drawn[0].resolve() == drawn[1].resolve():
        raise UsageError(f"Both pictures are to be {drawn[0]}; give them two names.")


def _draw(
    found: _files.Given,
    pictures: Pictures,
    config: PlotConfig,
    chosen: dict[str, str],
    *,
    state: str | None,
    force: bool,
    kept: list[Path],
) -> list[dict[str, Any]]:
    """Draw the pictures that were asked for; what is told of each."""
    edges, functions = pictures.plot, pictures.plot_functions
    options = RunOptions(layouts=chosen)
    common: dict[str, Any] = {"state": state, "name": found.name, "force": force, "inputs": kept}
    sizes: Sequence[int] = ()
    if edges is not None and functions is not None:
        sizes = kancompress.plot_pictures(
            found.source, edges, functions, config, options=options, **common
        )
    elif edges is not None:
        sizes = [kancompress.plot_edges(found.source, edges, config, layouts=chosen, **common)]
    elif functions is not None:
        sizes = [
            kancompress.plot_functions(found.source, functions, config, options=options, **common)
        ]
    return [
        {"kind": kind, "output": str(path), "file_bytes": size}
        for (kind, path), size in zip(pictures.drawn, sizes, strict=True)
    ]


def _show(report: dict[str, Any], name: str) -> None:
    model = report["model"]
    _output.result(
        f"{name}: {report['kind']}"
        + (f", {_pairs(model)}" if model else "")
        + (f", data {report['data']['name']}" if report["data"] else "")
    )
    if report["layers"]:
        _output.table(_LAYER_COLUMNS, [_layer_row(row) for row in report["layers"]], to_stdout=True)
    coded = [row for row in report["layers"] if "rans" in row]
    if coded:
        _output.table(_CODED_COLUMNS, list(map(_coded_row, coded)), to_stdout=True)
    for row in report["layers"]:
        if "zero_edges" in row:
            left = _output.size(row["edges"] - row["zero_edges"])
            _output.result(
                f"layer {row['name']}: {left} of {_output.size(row['edges'])} edges compute"
                " something; the others are zero"
            )
    if report["other"]:
        _output.table(
            ["other tensor", "dtype", "shape", "bytes"],
            [
                [row["name"], row["dtype"], _shape(row["shape"]), _output.size(row["bytes"])]
                for row in report["other"]
            ],
            to_stdout=True,
        )
    if report.get("forms"):
        _output.table(
            ["layer of the source", "layout", "computes"],
            _form_rows(report["forms"]),
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


_CODED_COLUMNS = ("entropy-coded", "classes", "tables B", "classes B", "indices B", "stream B")


def _coded_row(row: dict[str, Any]) -> list[str]:
    """What an entropy-coded index consists of; classes and indices as their entropy has them."""
    parts = row["rans"]
    return [
        row["name"],
        str(parts["classes"]),
        _output.size(parts["table_bytes"]),
        f"{parts['class_entropy_bytes']:,.0f}",
        f"{parts['index_entropy_bytes']:,.0f}",
        _output.size(parts["stream_bytes"]),
    ]


def _layer_row(row: dict[str, Any]) -> list[str]:
    usage, entropy = row["usage"], row["index_entropy"]
    return [
        row["name"],
        row["basis"] or row.get("layout") or "-",
        _shape(row["shape"]),
        _output.size(row["edges"]),
        _vectors(row),
        "dense" if row["clusters"] is None else str(row["clusters"]),
        _index_bits(row),
        "-" if entropy is None else f"{entropy:.2f}",
        f"{usage['smallest']}-{usage['largest']}" if usage else "-",
        _output.size(row["index_bytes"]),
        _output.size(row["codebook_bytes"]),
        _output.size(row["dense_bytes"]),
    ]


def _vectors(row: dict[str, Any]) -> str:
    """Coefficients of an edge, and of its parts where it has several: 9 = 3 x 3."""
    d, parts = row["coefficients"], row["parts"]
    return str(d) if parts in (None, 1) else f"{d} = {parts} x {d // parts}"


def _index_bits(row: dict[str, Any]) -> str:
    """Bits of an index; where they are entropy-coded on average, tables included."""
    if row["index_encoding"] in (None, "bits"):
        return "-" if row["index_bits"] is None else str(row["index_bits"])
    return f"{row['bits_per_edge']:.2f} {row['index_encoding']}"


def _form_rows(forms: dict[str, Any]) -> list[list[str]]:
    """A row for all layers that compute the same."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name, record in forms.items():
        clauses = [
            f"{key.replace('_', ' ')} {json.dumps(value).strip(chr(34))}"
            + (" (assumed)" if key in record.get("assumed", ()) else "")
            for key, value in record.items()
            if key not in ("layout", "assumed")
        ]
        text = ", ".join(clauses) or "-"
        alike.setdefault((record["layout"], text), []).append(name or ".")
    return [[", ".join(names), *what] for what, names in alike.items()]


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
    pairs = ", ".join(f"{key} {value}" for key, value in record.items() if key != "name")
    return f"{record['name']} ({pairs})" if pairs else str(record["name"])
