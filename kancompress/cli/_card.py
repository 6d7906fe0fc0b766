"""What `export --card` is given, and the page that it makes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

import kancompress
from kancompress.cli import _files, _output
from kancompress.cli._bundles import bundle
from kancompress.cli._options import option_of
from kancompress.errors import UsageError
from kancompress.system import files

Pages = list[tuple[Path, bytes]]


@bundle("Model card")
class Card:
    """The page that a file goes to the Hugging Face hub with."""

    card: Annotated[
        Path | None,
        typer.Option(
            metavar="README",
            readable=False,
            help="Write a model card: what the file is, sizes, scores, how to load it. Needs no"
            " --output.",
            show_default=False,
        ),
    ] = None
    scores: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="With --card: the scores, as eval --json printed them; - for standard input.",
            show_default=False,
        ),
    ] = None
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="With --card: repository on the hub of the network that was packed.",
            show_default=False,
        ),
    ] = None
    license_: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="With --card: the licence, such as mit or apache-2.0.",
            show_default=False,
        ),
    ] = None

    def check(self, output: str | None, options: Sequence[str], *, dry_run: bool) -> None:
        """Refuse options that need others, or exclude each other.

        options : names of those that are given for what is exported
        """
        if self.card is None:
            given = {"scores": self.scores, "base_model": self.base_model, "license": self.license_}
            for name in (name for name, value in given.items() if value is not None):
                raise UsageError(f"{option_of(name)} goes with --card.")
            if output is None and not dry_run:
                raise UsageError("The file to write is missing; name it with --output OUT.")
            return
        if dry_run:
            raise UsageError("--dry-run writes nothing, and so no card; leave --card out.")
        if str(self.card) == _files.DASH:
            raise UsageError("--card names a file, such as README.md.")
        if output is None and options:
            raise UsageError(
                f"{option_of(options[0])} goes with a file that is exported; name it with --output"
                " OUT."
            )
        written = None if output in (None, _files.DASH) else Path(str(output))
        if written is not None and files.is_same(self.card, written):
            raise UsageError("--card and --output name the same file; give two names.")

    def check_target(self, *, force: bool, inputs: Iterable[Path]) -> None:
        """Refuse, before any work, a page that cannot be written."""
        if self.card is not None:
            files.check_target(self.card, force=force, inputs=inputs)

    def made(self, found: _files.Given, output: str | None) -> Pages:
        """The page and its path, where one is asked for."""
        if self.card is None:
            return []
        scores = None if self.scores is None else _files.given(self.scores).source
        page = kancompress.model_card(
            found.source,
            scores=scores,
            base_model=self.base_model,
            license=self.license_,
            exported=[] if output in (None, _files.DASH) else [str(output)],
            name=found.name,
        )
        return [(self.card, page.encode())]

    def write(self, pages: Pages, *, force: bool) -> None:
        """Write the page alone."""
        files.write_together([(path, [data]) for path, data in pages], force=force)

    def tell(self, pages: Pages) -> None:
        """One line for the page."""
        for path, data in pages:
            _output.note(f"{path}: model card, {_output.size(len(data))} bytes")

    def record(self, pages: Pages) -> dict[str, Any]:
        """What the JSON document says of the page."""
        if not pages:
            return {}
        ((path, data),) = pages
        return {"card": {"output": str(path), "file_bytes": len(data)}}
