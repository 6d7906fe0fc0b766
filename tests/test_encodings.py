"""Every encoding of indices gives them back, and keeps to the size that it foretells."""

import numpy as np
import pytest

from kancompress.errors import InvalidFileError
from kancompress.formats.arrays import from_numpy
from kancompress.formats.packed.encodings import OF_INDICES, OF_NUMBERS, Indices, index_type
from kancompress.formats.safetensors import Entry

CASES = [(1, 1), (7, 1), (5, 2), (1000, 2), (70_000, 3), (999, 16), (12, 256), (12, 257),
         (3000, 65_536)]  # fmt: skip


@pytest.mark.parametrize("name", OF_INDICES)
@pytest.mark.parametrize(("count", "clusters"), CASES)
def test_indices_come_back(name: str, count: int, clusters: int) -> None:
    encoding, claim = OF_INDICES[name], Indices("0.index", count, clusters)
    indices = np.random.default_rng(count).integers(0, clusters, count).astype(index_type(clusters))
    array, size = encoding.encode(indices, claim), encoding.size(claim)
    nbytes = 0 if array is None else array.nbytes
    assert nbytes == size.nbytes if size.exact else nbytes <= size.nbytes
    entry = None if array is None else Entry("0.index", array.dtype, array.shape, 0, nbytes)
    encoding.check(entry, claim, "the file")
    again = encoding.decode(array, claim, "the file")
    if again is None:
        assert clusters == 1
    else:
        assert again.dtype == index_type(clusters)
        assert np.array_equal(again, indices)


@pytest.mark.parametrize("name", OF_INDICES)
def test_what_cannot_be_right_is_refused_before_it_is_read(name: str) -> None:
    encoding, claim = OF_INDICES[name], Indices("0.index", 10, 4)
    for entry in (
        None,
        Entry("0.index", "I8", (3,), 0, 3),
        Entry("0.index", "U8", (2**40,), 0, 2**40),
        Entry("0.index", "U8", (1, 3), 0, 3),
    ):
        with pytest.raises(InvalidFileError, match=r"the file: tensor '0\.index'"):
            encoding.check(entry, claim, "the file")


@pytest.mark.parametrize("name", OF_NUMBERS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_numbers_come_back(name: str, dtype: type) -> None:
    array = from_numpy(np.random.default_rng(0).normal(size=(16, 9)).astype(dtype))
    encoding = OF_NUMBERS[name]
    written, size = encoding.encode(array), encoding.size(array)
    assert written.nbytes == size.nbytes if size.exact else written.nbytes <= size.nbytes
    again = encoding.decode(written)
    assert np.array_equal(again.numpy(), array.numpy())
