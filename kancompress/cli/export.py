"""`kancompress export`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import kancompress
from kancompress.cli import _files, _output
from kancompress.cli._bundles import bundle
from kancompress.cli._card import Card
from kancompress.cli._options import Foreign, InputArgument, Shown, noted
from kancompress.cli._run import command
from kancompress.config import IndexCoding, OnnxOptions, Weights
from kancompress.errors import UsageError

if TYPE_CHECKING:
    from kancompress import Exported

_ONNX = OnnxOptions()


@bundle("Options of formats")
class Wanted:
    """Options that belong to a format; those that are not given are its defaults."""

    with_normalisation: Annotated[
        bool,
        typer.Option(
            "--with-normalisation",
            help="Take rows as the data set has them, images as numbers from 0 to 1, and normalise"
            " them in the file.",
        ),
    ] = False
    with_softmax: Annotated[
        bool, typer.Option("--with-softmax", help="Put out shares of the classes.")
    ] = False
    weights: Annotated[
        Weights | None,
        typer.Option(
            help="ONNX: dense, gathered once when the model is loaded; or table, products of"
            " features and centroids, which need little memory, for one row at a time"
            f" (default: {_ONNX.weights}).",
            show_default=False,
        ),
    ] = None
    with_main: Annotated[
        bool,
        typer.Option(
            "--with-main", help="C: a program, too, which reads rows from standard input."
        ),
    ] = False
    prefix: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="C: what all names begin with (default: OUT without its suffix).",
            show_default=False,
        ),
    ] = None
    indices: Annotated[
        IndexCoding | None,
        typer.Option(
            help="C: how indices are written (default: as the packed file has them).",
            show_default=False,
        ),
    ] = None
    image: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="ROWS COLUMNS",
            help="C: size of the images that convolutions take (default: of the data set's).",
            show_default=False,
        ),
    ] = None
    title: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Page: its heading.", show_default=False),
    ] = None
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...",
            help="Page: names of the outputs, one for each.",
            show_default=False,
        ),
    ] = None

    def given(self) -> dict[str, Any]:
        """The options that are given, by the names that formats have for them."""
        found = {name: value for name, value in vars(self).items() if value not in (None, False)}
        if self.labels is not None:
            found["labels"] = tuple(name.strip() for name in self.labels.split(","))
        return found


@command
def export(
    source: InputArgument,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="File to write, or - for standard output. --card alone needs none.",
            show_default=False,
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="What to write, where OUT's suffix does not say it: onnx, c or html.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the file would weigh, and write nothing.")
    ] = False,
    any_size: Annotated[
        bool,
        typer.Option(
            "--any-size",
            help="Export a file whose tensors have more than 10,000 times its bytes and a"
            " gigabyte.",
        ),
    ] = False,
    *,
    wanted: Wanted,
    foreign: Foreign,
    page: Card,
    shown: Shown,
) -> None:
    """Write a packed or dense network for another program.

    OUT's suffix says what is written: .onnx is a model for any ONNX runtime, whose input is called
    x and whose output y; .h is a C header; .html is a page that runs a packed network in any
    browser, from the disk.

    \b
    Examples:
      kancompress export packed.safetensors -o model.onnx
      kancompress export packed.safetensors -o model.onnx --with-normalisation --with-softmax
      kancompress export packed.safetensors -o model.h --with-main
      kancompress export packed.safetensors -o - --format onnx > model.onnx
      kancompress export packed.safetensors -o model.html --title "Handwritten digits"
      kancompress export packed.safetensors --card README.md --license mit
    """
    if foreign.state is not None:
        raise UsageError("--state chooses in torch files, and none is exported; leave it out.")
    options, told = wanted.given(), foreign.options()
    others = {"format": format_, "layouts": told.layouts or told.layers, "any_size": any_size}
    needing = [*options, *told.given, *(name for name, value in others.items() if value)]
    page.check(output, needing, dry_run=dry_run)
    kept = _files.inputs(source, page.scores)
    if output is not None and not dry_run:
        _files.check_output(output, force=shown.force, inputs=kept)
    page.check_target(force=shown.force, inputs=kept)
    found, piped = _files.given(source), output == _files.DASH
    cards = page.made(found, output)
    if output is None and cards:
        page.write(cards, force=shown.force)
        page.tell(cards)
        if shown.json_:
            _output.document({"output": None} | page.record(cards))
        return
    made = kancompress.export(
        found.source,
        None if piped else output,
        options,
        format=format_,
        told=told,
        dry_run=dry_run or bool(cards),
        force=shown.force,
        name=found.name,
        any_size=any_size,
        inputs=kept,
    )
    if output is not None and (piped or cards) and not dry_run:
        _files.write_bytes_with(made.data, output, cards, force=shown.force)
    _tell(made)
    page.tell(cards)
    if shown.json_:
        document = _document(made, None if dry_run else output) | page.record(cards)
        _output.document(document, to_stderr=piped and not dry_run)


def _document(made: Exported, output: str | None) -> dict[str, Any]:
    return {
        "output": output,
        "format": made.format,
        "file_bytes": len(made.data),
        "source_bytes": made.source_bytes,
        "grown_bytes": made.grown,
        "parts": dict(made.parts),
        **made.details,
        "notes": [*made.notes, *map(noted, made.assumed)],
    }


def _tell(made: Exported) -> None:
    """One line: the size, by its parts, and against the source."""
    parts = ", ".join(f"{what} {_output.size(count)}" for what, count in made.parts.items())
    source, grown = _output.size(made.source_bytes), _output.size(abs(made.grown))
    word = "more" if made.grown >= 0 else "fewer"
    against = f"{grown} {word} than the {source} of the source"
    _output.note(f"{_output.size(len(made.data))} bytes, {against}: {parts}")
    for note in (*made.notes, *(f"assumed {noted(one)}" for one in made.assumed)):
        _output.note(note)
