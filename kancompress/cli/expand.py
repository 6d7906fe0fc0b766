"""`kancompress expand`."""

from __future__ import annotations

import kancompress
from kancompress.cli import _files, _output
from kancompress.cli._options import (
    DebugOption,
    ForceOption,
    InputArgument,
    JsonOption,
    OutputOption,
)
from kancompress.cli._run import command


@command
def expand(
    source: InputArgument,
    output: OutputOption,
    force: ForceOption = False,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a packed file's network with all its coefficients: a dense safetensors checkpoint.

    \b
    Examples:
      kancompress expand packed.safetensors -o dense.safetensors
      kancompress expand packed.safetensors -o - | kancompress eval -
    """
    kept = _files.inputs(source)
    _files.check_output(output, force=force, inputs=kept)
    found = _files.given(source)
    dense = kancompress.expand(found.source, name=found.name)
    written = _files.write_record(dense, output, force=force, inputs=kept)
    _output.note(f"{_output.size(written)} bytes")
    if json_:
        _output.document({"output": output, "file_bytes": written}, to_stderr=output == _files.DASH)
