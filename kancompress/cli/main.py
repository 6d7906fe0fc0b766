"""The Typer app: it registers the commands, nothing else."""

from __future__ import annotations

from typing import Annotated

import typer

import kancompress
from kancompress.cli import cluster, evaluate, expand, finetune, inspect, train
from kancompress.cli._bundles import Command
from kancompress.cli._run import Group

app = typer.Typer(
    name="kancompress",
    cls=Group,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", cls=Command)(train.train)
app.command("cluster", cls=Command)(cluster.cluster)
app.command("finetune", cls=Command)(finetune.finetune)
app.command("eval", cls=Command)(evaluate.evaluate)
app.command("inspect", cls=Command)(inspect.inspect)
app.command("expand", cls=Command)(expand.expand)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(kancompress.__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Make Kolmogorov-Arnold networks small: cluster edge vectors, pack their indices.

    \b
    Examples:
      kancompress train -o digits.safetensors
      kancompress cluster digits.safetensors -o packed.safetensors
      kancompress finetune packed.safetensors -o tuned.safetensors
      kancompress eval tuned.safetensors
      kancompress inspect tuned.safetensors
    \b
    All in one pipe:
      kancompress train -o - | kancompress cluster - -o - | kancompress eval -
    """


def main() -> None:
    """Entry point of the `kancompress` script."""
    app()
