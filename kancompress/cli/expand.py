"""`kancompress expand`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import kancompress
from kancompress.cli import _files, _output
from kancompress.cli._options import InputArgument, OutputOption, Shown
from kancompress.cli._run import command

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
    *,
    shown: Shown,
) -> None:
    """Write a packed file's network with all its coefficients.

    A native network becomes a dense safetensors checkpoint. Another library's checkpoint comes back
    with its own names, shapes and types, in the container it had, or in the one that OUT's suffix
    names (.safetensors, or .pt, .pth, .bin). What --keep-extra kept comes back in a torch file.

    \b
    Examples:
      kancompress expand packed.safetensors -o dense.safetensors
      kancompress expand packed.safetensors -o restored.pt
      kancompress expand packed.safetensors -o - | kancompress eval -
    """
    kept = _files.inputs(source)
    _files.check_output(output, force=shown.force, inputs=kept)
    found = _files.given(source)
    dense = kancompress.expand(found.source, name=found.name, any_size=any_size)
    if isinstance(dense, kancompress.Checkpoint):
        written = _files.write_record(dense, output, force=shown.force, inputs=kept)
    else:
        suffix = _TORCH_FILE.get(Path(output).suffix)
        if suffix is False and dense.skeleton is not None:
            _output.note("left out: what the torch file held beside the model; write a .pt file")
        written = _files.write_bytes(dense.encode(torch_file=suffix), output, force=shown.force)
        alike: dict[str, list[str]] = {}
        for name, form in dense.forms.items():
            alike.setdefault(form.text, []).append(name or ".")
        for text, names in alike.items():
            if text:
                _output.note(f"the packed file alone says of {', '.join(names)}: {text}")
    _output.note(f"{_output.size(written)} bytes")
    if shown.json_:
        _output.document({"output": output, "file_bytes": written}, to_stderr=output == _files.DASH)
