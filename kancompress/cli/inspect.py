"""`kancompress inspect`."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import kancompress
from kancompress.cli import _files, _output, _report
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
from kancompress.system import files

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
    html: Annotated[
        Path | None,
        typer.Option(
            "--html",
            metavar="FILE",
            readable=False,
            help="Write the report as a page, with bytes as bars, curves and the pictures asked"
            " for.",
            show_default=False,
        ),
    ] = None
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown",
            metavar="FILE",
            readable=False,
            help="Write the report as Markdown, with links to the pictures asked for.",
            show_default=False,
        ),
    ] = None
    state: StateOption = None
    drop: DropOption = None
    layout: LayoutOption = None

    @property
    def pages(self) -> list[tuple[str, Path]]:
        """Kinds and paths of the pages that are asked for."""
        both = (("html", self.html), ("markdown", self.markdown))
        return [(kind, path) for kind, path in both if path is not None]


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
    plot_map: Annotated[
        Path | None,
        typer.Option(
            "--plot-map",
            metavar="PICTURE",
            help="Of a packed network of images, draw the inputs as an image: the centroid that"
            " most edges of each pixel use, and the bits of its indices.",
            show_default=False,
        ),
    ] = None
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="DENSE",
            readable=False,
            help="The checkpoint that IN was packed from, whose edges stand behind the centroids"
            " in --plot and --plot-functions.",
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
        every = (
            ("edges", self.plot),
            ("functions", self.plot_functions),
            ("map", self.plot_map),
        )
        return [(kind, path) for kind, path in every if path is not None]

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
      kancompress inspect packed.safetensors --plot-functions f.png --against dense.safetensors
      kancompress inspect packed.safetensors --html report.html --plot edges.png
    """
    _check(report, pictures, shown)
    kept = _files.inputs(source, pictures.against)
    for _, path in pictures.drawn:
        kancompress.check_picture_target(path, force=shown.force, inputs=kept)
    for _, path in report.pages:
        files.check_target(path, force=shown.force, inputs=kept)
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
    with _output.shares() if pictures.drawn else contextlib.nullcontext() as share:
        common = {"state": report.state, "name": found.name, "force": shown.force, "inputs": kept}
        plots = _draw(found, pictures, config, chosen, share, **common)
    pages = _pages(found, report, pictures, chosen, force=shown.force)
    if shown.json_:
        more = {"plots": plots, "pages": pages}
        _output.document(told | {key: made for key, made in more.items() if made})
    elif report.check:
        _output.note(f"{found.name}: sound ({told['kind']})")
    else:
        _report.show(told, found.name)
    for one in plots:
        size = _output.size(one["file_bytes"])
        _output.note(f"{one['output']}: picture of the {one['kind']}, {size} bytes")
    for one in pages:
        _output.note(f"{one['output']}: page, {_output.size(one['file_bytes'])} bytes")


def _check(report: Report, pictures: Pictures, shown: Shown) -> None:
    """Refuse options that exclude each other."""
    drawn = [path for _, path in (*pictures.drawn, *report.pages)]
    others = (report.check, shown.json_, report.clusters is not None, drawn)
    if report.print_layout and any(others):
        raise UsageError("--print-layout prints nothing else; leave the other options out.")
    if report.check and drawn:
        raise UsageError(
            "--check draws nothing and writes nothing; leave --plot, --plot-functions, --plot-map,"
            " --html and --markdown out."
        )
    if pictures.against is not None:
        if pictures.plot is None and pictures.plot_functions is None:
            raise UsageError("--against goes with --plot or --plot-functions.")
        _files.check_there(pictures.against)
    if twice := _twice(drawn):
        raise UsageError(f"Two files are to be {twice}; give them two names.")
    for kind, path in report.pages:
        if str(path) == _files.DASH:
            raise UsageError(f"--{kind} names a file; standard output is for the report itself.")


def _twice(paths: Sequence[Path]) -> Path | None:
    """The first path that is there twice; None where there is none."""
    pairs = itertools.combinations(paths, 2)
    return next((one for one, other in pairs if files.is_same(one, other)), None)


def _pages(
    found: _files.Given,
    report: Report,
    pictures: Pictures,
    chosen: dict[str, str],
    *,
    force: bool,
) -> list[dict[str, Any]]:
    """Write the pages that were asked for; what is told of each."""
    if not report.pages:
        return []
    common: dict[str, Any] = {
        "layouts": chosen, "clusters": report.clusters, "state": report.state, "name": found.name,
        "words": _report.words,
    }  # fmt: skip
    shown = [path for _, path in pictures.drawn if path.suffix.lower() != ".pdf"]
    made = []
    for kind, path in report.pages:
        if kind == "html":
            text = kancompress.html_report(found.source, pictures=shown, **common)
        else:
            linked = [_from(path.parent, one) for one in shown]
            text = kancompress.markdown_report(found.source, pictures=linked, **common)
        made.append((path, [text.encode()]))
    sizes = files.write_together(made, force=force)
    return [
        {"kind": kind, "output": str(path), "file_bytes": size}
        for (kind, path), size in zip(report.pages, sizes, strict=True)
    ]


def _from(directory: Path, path: Path) -> str:
    """What a path is called from a directory."""
    try:
        return os.path.relpath(path, directory)
    except ValueError:  # Windows: it lies on another drive
        return str(path.resolve())


def _draw(
    found: _files.Given,
    pictures: Pictures,
    config: PlotConfig,
    chosen: dict[str, str],
    share: _output.Shares | None,
    **common: Any,
) -> list[dict[str, Any]]:
    """Draw the pictures that were asked for; what is told of each."""
    edges, functions = pictures.plot, pictures.plot_functions
    options = RunOptions(layouts=chosen)
    maps = (
        []
        if pictures.plot_map is None
        else [kancompress.plot_map(found.source, pictures.plot_map, **common)]
    )
    common |= {"against": pictures.against, "on_share": share}
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
        for (kind, path), size in zip(pictures.drawn, [*sizes, *maps], strict=True)
    ]
