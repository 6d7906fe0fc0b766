"""Outputs of the test rows as a file of arrays."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from kancompress.models.tensors import encode
from kancompress.reporting.targets import check_predictions_target
from kancompress.system import files
from kancompress.training.evaluation import Evaluation


def save_predictions(evaluation: Evaluation, path: Path, *, force: bool = False) -> int:
    """Write the outputs of the test rows: `outputs` (rows, width) float32, and for classification
    `classes` (rows,) int64.

    path  : ends in .safetensors or .npz, which names the format
    force : whether it may replace a file
    Returns the file's bytes. Raises UsageError for another suffix, an existing file without `force`
    and a directory that is not there; KancompressError where the file cannot be written.
    """
    check_predictions_target(path, force=force)
    arrays = {"outputs": evaluation.outputs}
    if evaluation.score.accuracy is not None:
        arrays["classes"] = evaluation.outputs.argmax(1)
    if path.suffix == ".safetensors":
        return files.write(path, [encode(arrays, {})], force=force)
    buffer = io.BytesIO()
    np.savez(buffer, **{name: t.numpy() for name, t in arrays.items()})  # type: ignore[arg-type]
    return files.write(path, [buffer.getvalue()], force=force)
