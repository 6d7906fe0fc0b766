"""`kancompress repack`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

import kancompress
from kancompress.cli import _files, _output
from kancompress.cli._options import InputArgument, OutputOption, Shown
from kancompress.cli._run import command
from kancompress.config import HeaderForm, IndexCoding, RepackConfig, StoredDtype

if TYPE_CHECKING:
    from kancompress import PartBytes, Repacked

_USUAL = RepackConfig()


@command
def repack(
    source: InputArgument,
    output: OutputOption,
    header: Annotated[
        HeaderForm,
        typer.Option(
            help="Form of the file's header; auto: the short one where indices are entropy-coded."
        ),
    ] = _USUAL.header,
    indices: Annotated[
        IndexCoding,
        typer.Option(help="How indices are written: one width, entropy-coded, or the smaller."),
    ] = _USUAL.indices,
    codebook_dtype: Annotated[
        StoredDtype,
        typer.Option(help="Type of the stored centroids, where it is narrower than theirs."),
    ] = _USUAL.codebook_dtype,
    side_dtype: Annotated[
        StoredDtype,
        typer.Option(
            help="Type of stored biases, norms and recurrence weights (own networks), where it is"
            " narrower than theirs."
        ),
    ] = _USUAL.side_dtype,
    *,
    shown: Shown,
) -> None:
    """Write a packed file anew, smaller and without its source.

    The header becomes short and the indices entropy-coded where that is smaller. Every edge keeps
    its numbers bit for bit, unless a narrower type is asked for.

    \b
    Examples:
      kancompress repack packed.safetensors -o smaller.safetensors
      kancompress repack packed.safetensors --codebook-dtype float16 -o half.safetensors
      kancompress repack smaller.safetensors --header plain --indices bits -o paper.safetensors
    """
    kept = _files.inputs(source)
    _files.check_output(output, force=shown.force, inputs=kept)
    found = _files.given(source)
    config = RepackConfig(
        header=header, indices=indices, codebook_dtype=codebook_dtype, side_dtype=side_dtype
    )
    made = kancompress.repack(found.source, config, name=found.name)
    written = _files.write_bytes(made.data, output, force=shown.force)
    _tell(made)
    if shown.json_:
        document = {
            "output": output,
            "file_bytes": written,
            "saved_bytes": made.saved,
            "before": _parts(made.before),
            "after": _parts(made.after),
        }
        _output.document(document, to_stderr=output == _files.DASH)


def _parts(parts: PartBytes) -> dict[str, int]:
    return {
        "file_bytes": parts.file,
        "header_bytes": parts.header,
        "index_bytes": parts.indices,
        "codebook_bytes": parts.codebooks,
        "other_bytes": parts.others,
    }


def _tell(made: Repacked) -> None:
    """What was saved, and where."""
    before, after = asdict(made.before), asdict(made.after)
    told = [
        f"{part} {_output.size(before[part])} -> {_output.size(after[part])}"
        if before[part] != after[part]
        else f"{part} {_output.size(after[part])}"
        for part in before
    ]
    if made.saved > 0:
        what = f"{_output.size(made.saved)} fewer than the {_output.size(made.before.file)} before"
    elif made.saved < 0:
        what = f"{_output.size(-made.saved)} more than the {_output.size(made.before.file)} before"
    else:
        what = "nothing is saved"
    _output.note(f"{_output.size(made.after.file)} bytes, {what}: {', '.join(told)}")
