"""What other files are that are given where a checkpoint was expected, by how they begin."""

from __future__ import annotations

from kancompress.system.inputs import Data

ZIP = b"PK\x03\x04"
_NAME = 26  # where the length of a zip archive's first name stands, and the name after it
_LONGEST = 1024
_VERSIONS = range(1, 33)  # of ONNX's representation, the first field of a model
_FIELDS = b"\x12\x1a\x22\x3a\x42"  # what follows it: producer, version, domain, graph, operators

ONNX = (
    "an ONNX model, a graph for runtimes; give the checkpoint that it was exported from, as"
    " torch.save or safetensors wrote it"
)


def first_name(data: Data) -> str:
    """Name of the first record of a zip archive, "" where there is none."""
    if bytes(data[:4]) != ZIP:
        return ""
    length = min(int.from_bytes(data[_NAME : _NAME + 2], "little"), _LONGEST)
    return bytes(data[_NAME + 4 : _NAME + 4 + length]).decode(errors="replace")


def is_npz(data: Data) -> bool:
    """Whether it begins as numpy.savez begins a file."""
    return first_name(data).endswith(".npy")


def is_torch_zip(data: Data) -> bool:
    """Whether it begins as torch.save begins a file."""
    return first_name(data).partition("/")[2] in ("data.pkl", ".format_version", "version")


def is_onnx(data: Data) -> bool:
    """Whether it begins as an ONNX model does."""
    start = bytes(data[:3])
    return len(start) == 3 and start[0] == 8 and start[1] in _VERSIONS and start[2] in _FIELDS
