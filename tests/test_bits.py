"""Bit packing against numpy's and Python's own arithmetic."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kancompress.formats.packed.encodings import bits


def reference(indices: list[int], width: int) -> bytes:
    """One big little-endian integer: an oracle that shares no code with the packer."""
    whole = sum(index << (position * width) for position, index in enumerate(indices))
    return whole.to_bytes(math.ceil(len(indices) * width / 8), "little")


@given(st.integers(1, 16).flatmap(
    lambda width: st.tuples(st.just(width), st.lists(st.integers(0, 2**width - 1), max_size=300))
))  # fmt: skip
def test_packing_equals_one_big_integer(case: tuple[int, list[int]]) -> None:
    width, indices = case
    packed = bits.pack(np.array(indices, dtype=np.int64), width)
    assert packed.tobytes() == reference(indices, width)
    assert bits.unpack(packed, len(indices), width).tolist() == indices
    assert bits.padding_is_zero(packed, len(indices), width)


@pytest.mark.parametrize("width", [1, 3, 4, 7, 9, 16])
def test_blocks_join_without_padding(width: int) -> None:
    indices = np.random.default_rng(0).integers(0, 2**width, 200_003)
    packed = bits.pack(indices, width)
    assert len(packed) == math.ceil(200_003 * width / 8)
    assert np.array_equal(bits.unpack(packed, 200_003, width), indices)


@pytest.mark.parametrize(
    ("clusters", "width"),
    [(1, 0), (2, 1), (3, 2), (4, 2), (10, 4), (256, 8), (257, 9), (65536, 16)],
)
def test_width_is_the_ceiling_of_log2(clusters: int, width: int) -> None:
    assert bits.width_of(clusters) == width


def test_examples_of_the_format_page() -> None:
    assert bits.pack(np.array([0, 1, 2, 3, 1]), 2).tobytes() == bytes.fromhex("e401")
    assert bits.pack(np.array([9, 0, 5]), 4).tobytes() == bytes.fromhex("0905")
    assert not bits.padding_is_zero(np.array([0x09, 0x15], np.uint8), 3, 4)


def test_zero_width_takes_no_bytes() -> None:
    assert len(bits.pack(np.zeros(9, np.int64), 0)) == 0
    assert bits.unpack(np.zeros(0, np.uint8), 9, 0).tolist() == [0] * 9
