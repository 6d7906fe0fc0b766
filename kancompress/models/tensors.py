"""The door between tensors of files and torch's."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from kancompress.errors import KancompressError
from kancompress.formats import safetensors as containers
from kancompress.formats.arrays import DTYPES as _KNOWN
from kancompress.formats.arrays import Array, Outline, Stored, StoredArrays

if sys.byteorder != "little":
    # Files have the low byte first, and here their bytes become torch's memory as they are.
    raise KancompressError(
        "kancompress and torch together need a processor that has the low byte of a number first"
        f" (x86-64, ARM); this one is {sys.byteorder}-endian. Run it on such a machine."
    )

# torch's type by its name in safetensors files, and the other way round.
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, one.torch) for name, one in _KNOWN.items()}
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}


class StoredTensors(Stored[Tensor, Tensor]):
    """Tensors of a file, each read when it is asked for; `outline` has meta tensors."""


def to_torch(array: Array) -> Tensor:
    """The tensor of an array: its memory where that can be written to, else a copy."""
    dtype = DTYPES[array.dtype]
    if not array.nbytes:
        return torch.empty(array.shape, dtype=dtype)
    data = array.data
    if not data.flags.writeable or data.ctypes.data % array.itemsize:
        data = data.copy()
    return torch.from_numpy(data).view(dtype).reshape(array.shape)


def to_array(tensor: Tensor) -> Array:
    """The array of a tensor: its memory where its numbers lie one after another in the processor's
    memory, else a copy."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return Array(NAMES[tensor.dtype], tuple(tensor.shape), flat.numpy())


def outline_of(tensor: Tensor) -> Outline:
    """Type and shape of a tensor, as files write them."""
    return Outline(NAMES[tensor.dtype], tuple(tensor.shape))


def without_numbers(outline: Outline) -> Tensor:
    """A tensor that has a shape and a type alone."""
    return torch.empty(outline.shape, dtype=DTYPES[outline.dtype], device="meta")


def outline(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors of which shape and type alone are wanted, so that nothing has to be read."""
    return tensors.outline if isinstance(tensors, StoredTensors) else tensors


def outlines(tensors: Mapping[str, Tensor]) -> dict[str, Outline]:
    """Type and shape of each; nothing is read."""
    return {name: outline_of(tensor) for name, tensor in outline(tensors).items()}


def all_to_torch(arrays: Mapping[str, Array]) -> Mapping[str, Tensor]:
    """The tensors of arrays; those of a file are read when they are asked for.

    Arrays that are the same become the same tensor; those that are parts of the same memory become
    tensors in one storage, as which `torch.save` writes them.
    """
    if isinstance(arrays, Stored):
        return stored_tensors(arrays)
    wholes: dict[int, Tensor] = {}
    made: dict[int, Tensor] = {}
    for array in arrays.values():
        if id(array) not in made:
            made[id(array)] = _part(array, wholes)
    return {name: made[id(array)] for name, array in arrays.items()}


def _part(array: Array, wholes: dict[int, Tensor]) -> Tensor:
    """The tensor of an array; `wholes` has the memory, as bytes, of which others are parts."""
    base = array.data.base
    if not isinstance(base, np.ndarray) or not array.nbytes or base.nbytes == array.nbytes:
        return to_torch(array)
    first = array.data.ctypes.data - base.ctypes.data
    if first % array.itemsize or not (base.flags.writeable and base.flags.c_contiguous):
        return to_torch(array)
    if id(base) not in wholes:
        wholes[id(base)] = torch.from_numpy(base.reshape(-1).view(np.uint8))
    part = wholes[id(base)][first : first + array.nbytes]
    return part.view(DTYPES[array.dtype]).reshape(array.shape)


def stored_tensors(arrays: StoredArrays) -> StoredTensors:
    """The tensors of a file, each read when it is asked for."""

    def part(name: str, start: int, stop: int) -> Tensor | None:
        found = arrays.part(name, start, stop)
        return None if found is None else to_torch(found)

    return StoredTensors(
        {name: without_numbers(one) for name, one in arrays.outline.items()},
        lambda name: to_torch(arrays[name]),
        arrays.ties,
        part,
    )


def part_of(tensors: Mapping[str, Tensor], name: str, start: int, stop: int) -> Tensor | None:
    """Elements `start ... stop - 1` of a tensor, row-major and in one axis, of a file read by
    themselves; None where that cannot be."""
    if isinstance(tensors, StoredTensors):
        return tensors.part(name, start, stop)
    tensor = tensors[name].detach()
    return tensor.view(-1)[start:stop] if tensor.is_contiguous() else None


def all_to_arrays(tensors: Mapping[str, Tensor]) -> dict[str, Array]:
    """The arrays of tensors."""
    return {name: to_array(tensor) for name, tensor in tensors.items()}


# --- safetensors files of tensors -----------------------------------------------------------


def pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """A whole safetensors file: its header and the memory of its tensors, one after another."""
    return [encode_header(tensors, metadata), *payload_chunks(tensors)]


def encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A whole safetensors file in memory."""
    return b"".join(pieces(tensors, metadata))


def encode_header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Header of a file with these tensors, its 8 length bytes and padding included."""
    return containers.encode_header(outlines(tensors), metadata)


def payload_chunks(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    """The payload, tensor by tensor, in the order of the header; copied only from a device."""
    for name in containers.layout_order(outlines(tensors)):
        yield to_array(tensors[name]).data.data
