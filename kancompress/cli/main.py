"""The Typer app: it names the commands and loads the one that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

import kancompress
from kancompress.cli._bundles import Command
from kancompress.cli._run import Group

# Name of a command to its module and function, in the order of the help.
COMMANDS = {
    "train": "train",
    "cluster": "cluster",
    "sweep": "sweep",
    "finetune": "finetune",
    "eval": "evaluate",
    "compare": "compare",
    "predict": "predict",
    "inspect": "inspect",
    "expand": "expand",
    "repack": "repack",
    "export": "export",
}
_SETTINGS: dict[str, Any] = {
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


class _Loaded(Mapping[str, TyperCommand]):
    """The commands by name; the module of one is imported when it is asked for."""

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __getitem__(self, name: str) -> TyperCommand:
        return _command(name, COMMANDS[name])


@cache
def _command(name: str, home: str) -> TyperCommand:
    alone = typer.Typer(add_completion=False, **_SETTINGS)
    alone.command(name, cls=Command)(getattr(import_module(f"kancompress.cli.{home}"), home))
    made = typer.main.get_command(alone)
    assert isinstance(made, TyperCommand)
    return made


class Commands(Group):
    """The group of all commands, none of which is loaded before it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = _Loaded()

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order of the help."""
        return list(COMMANDS)


app = typer.Typer(name="kancompress", cls=Commands, no_args_is_help=False, **_SETTINGS)


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
