"""Arrays of files against torch: types, conversions, arithmetic, what is finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kancompress.formats import arrays
from kancompress.formats.arrays import DTYPES, REAL, Array, array_of, filled, promoted, steps
from kancompress.models.tensors import DTYPES as TORCH
from kancompress.models.tensors import to_array, to_torch

FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind == "float"]


def bits_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(one: Tensor, other: Tensor) -> bool:
    """Equal types, shapes and bits, whatever the bits of NaN."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    nan = one.isnan()
    return torch.equal(nan, other.isnan()) and bits_of(one[~nan]) == bits_of(other[~nan])


def numbers(dtype: str) -> Array:
    """Random bits, numbers around the ties of every narrower type, and zeros of both signs."""
    rng = np.random.default_rng(len(dtype))
    size = DTYPES[dtype].itemsize
    raw = [rng.integers(0, 256, 4096 * size, dtype=np.uint8)]
    if size > 2:
        halves = torch.arange(65536).to(torch.int16)
        near = [halves.view(torch.float16).double(), halves.view(torch.bfloat16).double()]
        wide = torch.cat([t[t.isfinite()] for t in near])
        gaps = [0.0, 2.0**-8, 2.0**-9, 2.0**-11, 2.0**-12, 2.0**-24, 2.0**-25, -(2.0**-12)]
        tied = torch.cat([wide[::16] * (1 + gap) for gap in gaps])
        raw.append(to_array(tied.to(TORCH[dtype])).data)
    data = np.concatenate(raw)
    return Array(dtype, (len(data) // size,), data)


def test_every_type_of_a_file_is_torch_s_type_of_the_same_size() -> None:
    for name, dtype in DTYPES.items():
        assert TORCH[name].itemsize == dtype.itemsize
        assert arrays.dtype_name(TORCH[name]) == arrays.dtype_name(name) == name
        assert TORCH[name].is_floating_point == (dtype.kind == "float")
        if dtype.native is not None:
            assert torch.from_numpy(np.zeros(1, dtype.native)).dtype == TORCH[name]
    assert arrays.dtype_name(torch.complex128) == ""


@pytest.mark.parametrize("to", REAL)
@pytest.mark.parametrize("dtype", REAL)
def test_conversions_round_as_torch_rounds(dtype: str, to: str) -> None:
    array = numbers(dtype)
    assert same(to_torch(array.to(to)), to_torch(array).to(TORCH[to]))
    assert TORCH[promoted(dtype, to)] == torch.promote_types(TORCH[dtype], TORCH[to])


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_and_what_is_finite(dtype: str) -> None:
    array = numbers(dtype) if DTYPES[dtype].itemsize > 1 else all_bytes(dtype)
    tensor = to_torch(array)
    plain = tensor if DTYPES[dtype].native else tensor.float()
    assert np.array_equal(array.values(), plain.numpy(), equal_nan=True)
    bad = int((~plain.isfinite()).sum())
    assert array.count_bad() == bad
    assert array.is_finite() == (bad == 0)
    some = to_array(tensor[plain.isfinite()])
    assert some.is_finite()
    assert some.count_bad() == 0


def all_bytes(dtype: str) -> Array:
    return Array(dtype, (256,), np.arange(256, dtype=np.uint8))


@pytest.mark.parametrize("dtype", [*REAL, "I64", "I32"])
def test_steps_round_each_operation_as_torch_does(dtype: str) -> None:
    rng, kind = np.random.default_rng(7), TORCH[dtype]
    for _ in range(200):
        first, count = int(rng.integers(-(2**20), 2**20)), int(rng.integers(1, 30))
        whole = not kind.is_floating_point
        base, step = (
            float(number) if not whole else int(number)
            for number in rng.normal(size=2) * 10.0 ** rng.integers(0 if whole else -6, 3, 2)
        )
        times = torch.arange(first, first + count).to(kind)
        expected = times * torch.tensor(step, dtype=kind) + torch.tensor(base, dtype=kind)
        made = to_torch(array_of(steps(base, step, first, count, dtype), dtype, (count,)))
        assert bits_of(made) == bits_of(expected), (base, step, first, count)
        full = torch.full((2, 3), base, dtype=kind)
        assert bits_of(to_torch(filled(base, dtype, (2, 3)))) == bits_of(full)


def test_zero_keeps_its_sign() -> None:
    for dtype in REAL:
        expected = torch.full((3,), -0.0, dtype=TORCH[dtype])
        assert bits_of(to_torch(filled(-0.0, dtype, (3,)))) == bits_of(expected)


def test_tensors_share_memory_with_arrays_that_can_be_written_to() -> None:
    array = array_of(np.arange(6, dtype=np.float32), "F32", (2, 3))
    to_torch(array)[0, 0] = 7
    assert array.numpy()[0, 0] == 7
    fixed = arrays.from_bytes(bytes(24), "F32", (2, 3))
    to_torch(fixed)[0, 0] = 7
    assert not fixed.numpy().any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_that_lie_askew_become_tensors_all_the_same(dtype: str) -> None:
    size = DTYPES[dtype].itemsize
    raw = bytearray(b"x") + bytes([1, 0] * (2 * size))
    array = arrays.from_bytes(memoryview(raw)[1:], dtype, (2, 2))
    tensor = to_torch(array)
    assert tensor.data_ptr() % size == 0
    assert bits_of(tensor) == bytes(raw[1:])
    assert to_array(tensor).data.tobytes() == bytes(raw[1:])
