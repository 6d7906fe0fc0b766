"""A network as an ONNX model."""

from __future__ import annotations

from kancompress.config import OnnxOptions
from kancompress.errors import KancompressError
from kancompress.exporting.record import Exported
from kancompress.runtime.program import Program


def encode(program: Program, options: OnnxOptions) -> Exported:
    """The model, its bytes by their parts, and what there is to say of it."""
    raise KancompressError("ONNX models are not written yet.")
