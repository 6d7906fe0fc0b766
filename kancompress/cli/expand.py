"""`kancompress expand`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

import kancompress
from kancompress.cli import _files, _output
from kancompress.cli._options import InputArgument, OutputOption, Shown
from kancompress.cli._run import command
from kancompress.errors import UsageError
from kancompress.system import files
from kancompress.system import inputs as reading

# How the name of a state of pykan's ends.
_STATE = "_state"
# Whether a suffix asks for a torch file; the source's own container where it says nothing.
_TORCH_FILE = {".safetensors": False, ".pt": True, ".pth": True, ".bin": True}


@command
def expand(
    source: InputArgument,
    output: OutputOption,
    any_size: Annotated[
        bool,
        typer.Option(
            "--any-size",
            help="Expand a file whose tensors have more than 10,000 times its bytes and a"
            " gigabyte.",
        ),
    ] = False,
    pykan_config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            readable=False,
            help="Config that pykan's saveckpt wrote, in the place of the packed file's own. With"
            " OUT named PREFIX_state, PREFIX_config.yml and PREFIX_cache_data are written, too.",
            show_default=False,
        ),
    ] = None,
    *,
    shown: Shown,
) -> None:
    """Write a packed file's network with all its coefficients.

    A native network becomes a dense safetensors checkpoint. Another library's checkpoint comes back
    with its own names, shapes and types, in the container it had, or in the one that OUT's suffix
    names (.safetensors, or .pt, .pth, .bin). What --keep-extra kept comes back in a torch file.

    Of a state that pykan's saveckpt wrote, the packed file has the config. With OUT named
    PREFIX_state, PREFIX_config.yml and an empty PREFIX_cache_data are written beside it, which are
    what pykan's loadckpt needs.

    \b
    Examples:
      kancompress expand packed.safetensors -o dense.safetensors
      kancompress expand packed.safetensors -o restored.pt
      kancompress expand packed.safetensors -o - | kancompress eval -
      kancompress expand packed.safetensors -o back_state
    """
    kept = _files.inputs(source, pykan_config)
    given = None if pykan_config is None else _given_config(output, pykan_config)
    _files.check_output(output, force=shown.force, inputs=kept)
    found = _files.given(source)
    dense = kancompress.expand(found.source, name=found.name, any_size=any_size)
    beside: list[tuple[Path, bytes]] = []
    if isinstance(dense, kancompress.Checkpoint):
        if given is not None:
            raise UsageError(f"{found.name} holds no network of pykan; leave --pykan-config out.")
        written = _files.write_record(dense, output, force=shown.force, inputs=kept)
    else:
        suffix = _TORCH_FILE.get(Path(output).suffix)
        if suffix is False and dense.skeleton is not None:
            _output.note("left out: what the torch file held beside the model; write a .pt file")
        beside = _beside(dense, output, given, force=shown.force, kept=kept)
        raw = dense.pieces(torch_file=True if beside else suffix)
        written = _files.write_pieces_with(raw, output, beside, force=shown.force)
        _tell_forms(dense)
    where = "standard output" if output == _files.DASH else output
    _output.note(f"{where}: {_output.size(written)} bytes")
    if beside:
        prefix = output.removesuffix(_STATE)
        _output.note(f"to load it in pykan: kan.KAN.loadckpt({prefix!r})")
    if shown.json_:
        _output.document({"output": output, "file_bytes": written}, to_stderr=output == _files.DASH)


def _beside(
    dense: kancompress.Restored, output: str, given: bytes | None, *, force: bool, kept: list[Path]
) -> list[tuple[Path, bytes]]:
    """What is written beside another library's checkpoint."""
    own = None if dense.config is None else dense.config.encode()
    config = own if given is None else given
    if config is None:
        return []
    if _is_state(output):
        return _pykan_beside(output, config, force=force, kept=kept)
    _output.note("for pykan's loadckpt, write a file whose name ends in _state")
    return []


def _tell_forms(dense: kancompress.Restored) -> None:
    """Say what a checkpoint's tensors do not."""
    alike: dict[str, list[str]] = {}
    for name, form in dense.forms.items():
        alike.setdefault(form.text, []).append(name or ".")
    for text, names in alike.items():
        if text:
            _output.note(f"the packed file alone says of {', '.join(names)}: {text}")


def _is_state(output: str) -> bool:
    return output.endswith(_STATE) and Path(output).name != _STATE


def _given_config(output: str, config: Path) -> bytes:
    """The user's config of pykan."""
    if not _is_state(output):
        raise UsageError(
            "--pykan-config goes with an OUT whose name ends in _state, as in back_state."
        )
    reading.check(config)
    return bytes(reading.read(config)[:])


def _pykan_beside(
    output: str, config: bytes, *, force: bool, kept: list[Path]
) -> list[tuple[Path, bytes]]:
    """What pykan's `loadckpt` reads beside the state: the config, and a cache without rows."""
    prefix = output.removesuffix(_STATE)
    beside = [Path(f"{prefix}_config.yml"), Path(f"{prefix}_cache_data")]
    for path in beside:
        files.check_target(path, force=force, inputs=kept)
    return [(beside[0], config), (beside[1], _empty_cache())]


def _empty_cache() -> bytes:
    """What torch saves of None, which pykan takes for a cache without rows."""
    raw: bytes = import_module("kancompress.models.restoration").empty_cache()
    return raw
