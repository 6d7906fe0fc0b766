"""Tensors beside the layers come back bit for bit, whatever numbers they hold."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from test_repacking import bytes_of, efficient_kan
from torch import Tensor

import kancompress
from command import done
from kancompress.config import ClusterConfig
from kancompress.formats.packed.restore import Arange, Stored
from kancompress.models import remainder
from kancompress.models.restoration import Restored

FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def there_and_back(beside: dict[str, Tensor], tmp_path: Path) -> dict[str, object]:
    """Pack tensors beside layers of efficient-kan, compare what comes back with the source's
    bytes, and give the origin of each."""
    state = efficient_kan() | beside
    torch.save(state, tmp_path / "model.pt")
    model = kancompress.cluster(tmp_path / "model.pt", ClusterConfig(clusters=8)).model
    back = kancompress.expand(kancompress.encode(model))
    assert isinstance(back, Restored)
    again = torch.load(io.BytesIO(back.encode()), weights_only=True)
    for name, tensor in beside.items():
        assert again[name].dtype == tensor.dtype, name
        assert again[name].shape == tensor.shape, name
        assert bytes_of(again[name]) == bytes_of(tensor), name
    assert model.restore is not None
    return {one.name: one.origin.to_json() for one in model.restore.tensors if one.name in beside}


def filled(bits: int, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """A tensor whose numbers all have these bits."""
    of_size = {8: np.uint64, 4: np.uint32, 2: np.uint16}[dtype.itemsize]
    rows = np.full(shape, bits, of_size)
    return torch.from_numpy(rows.view(np.uint8).copy()).view(dtype)


def patterns(dtype: torch.dtype) -> dict[str, int]:
    """Bits of numbers at the edge of a type of floating point."""
    size = 8 * dtype.itemsize
    smallest = bits_of(torch.finfo(dtype).smallest_normal, dtype)
    infinity = bits_of(float("inf"), dtype)
    sign = 1 << (size - 1)
    return {
        "negative zero": sign,
        "smallest denormal": 1,
        "largest denormal": smallest - 1,
        "negative denormal": sign | 3,
        "largest": infinity - 1,
        "infinity": infinity,
        "negative infinity": sign | infinity,
        "quiet NaN": infinity | smallest >> 1,
        "signalling NaN": infinity | 1,
        "NaN with a payload": sign | infinity | (smallest >> 1) | 5,
    }


def bits_of(number: float, dtype: torch.dtype) -> int:
    return int.from_bytes(bytes_of(torch.tensor([number], dtype=torch.float64).to(dtype)), "little")


@pytest.mark.parametrize("dtype", FLOATS)
def test_constant_tensors_of_any_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    beside = {
        f"beside.{name} {shape}": filled(bits, dtype, shape)
        for name, bits in patterns(dtype).items()
        for shape in [(6,), (3, 5), (1, 4), (2, 1)]
    }
    origins = there_and_back(beside, tmp_path)
    for name, origin in origins.items():
        finite = bool(beside[name].isfinite().all())
        assert (isinstance(origin, dict) and "fill" in origin) == finite, (name, origin)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_with_one_odd_number(dtype: torch.dtype, tmp_path: Path) -> None:
    beside = {}
    for name, bits in patterns(dtype).items():
        for place in (0, 3, 11):
            row = torch.arange(12).to(dtype)
            row[place : place + 1] = filled(bits, dtype, (1,))
            beside[f"row.{name} at {place}"] = row
            beside[f"rows.{name} at {place}"] = row.expand(4, -1).contiguous()
    beside["normal.row"] = torch.arange(12).to(dtype)
    origins = there_and_back(beside, tmp_path)
    assert origins["normal.row"] == {"arange": [0.0, 1.0, 0, 12]}


def test_integers_at_their_limits(tmp_path: Path) -> None:
    beside: dict[str, Tensor] = {}
    for dtype in (torch.int64, torch.int32):
        low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        rows = [
            [low] * 5, [high] * 5, [low, high, low, high], [low, 0, 0, high],
            [high - 6, high - 4, high - 2, high], [low, low + 1, low + 2, low + 3],
            [high, high - 1, high - 2, high - 3, high - 4],
            [int(share * high) for share in (-0.99, -0.33, 0.33, 0.99)],  # steps that would wrap
        ]  # fmt: skip
        for number, row in enumerate(rows):
            beside[f"{dtype}.{number}"] = torch.tensor(row, dtype=dtype)
    beside["bool"] = torch.tensor([True] * 5)
    beside["bytes"] = torch.arange(250, 256).to(torch.uint8)
    beside["scalar"] = torch.tensor(float("nan"))
    beside["empty"] = torch.empty(0, 3)
    there_and_back(beside, tmp_path)


def test_random_bits_and_rows_of_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(15)
    beside = {}
    for number in range(120):
        dtype = FLOATS[number % 4]
        count = int(rng.integers(1, 9))
        bits = rng.integers(0, 256, (count, dtype.itemsize), dtype=np.uint8)
        row = torch.from_numpy(bits).view(dtype).reshape(-1)
        beside[f"odd.{number}"] = row.expand(int(rng.integers(1, 4)), -1).contiguous()
    there_and_back(beside, tmp_path)


def test_a_tensor_of_nothing_but_nan_is_packed_from_the_command_line(tmp_path: Path) -> None:
    state = efficient_kan() | {"head.bias": torch.full((7,), float("nan"))}
    torch.save(state, tmp_path / "model.pt")
    done("cluster", tmp_path / "model.pt", "-k", "8", "-o", tmp_path / "packed.st")
    done("inspect", "--check", tmp_path / "packed.st")
    done("expand", tmp_path / "packed.st", "-o", tmp_path / "back.pt")
    back = torch.load(tmp_path / "back.pt", weights_only=True)
    assert bytes_of(back["head.bias"]) == bytes_of(state["head.bias"])


# --- uniform rows ----------------------------------------------------------------------------


def rebuilt(base: float, step: float, first: int, count: int, dtype: torch.dtype) -> Tensor:
    """What docs/packed-format.md says of `arange`, number by number."""
    one = [torch.tensor(number, dtype=dtype) for number in (base, step)]
    return torch.stack(
        [torch.tensor(i).to(dtype) * one[1] + one[0] for i in range(first, first + count)]
    )


def every_element(row: Tensor) -> list[float] | None:
    """The origin by trying every step from every element, as many times as the row is long."""
    count = len(row)
    step = float((row[-1].double() - row[0].double()) / (count - 1))
    short = {float(f"{step:.{digits}g}") for digits in (3, 5, 7)}
    for guess in sorted({step, *short, float(torch.tensor(step, dtype=row.dtype))}):
        for first in range(count):
            base = row[first].item()
            for start in {base, float(f"{base:.6g}")}:
                again = rebuilt(start, guess, -first, count, row.dtype)
                if bytes_of(again) == bytes_of(row):
                    return [start, guess, -first, count]
    return None


def grids() -> list[Tensor]:
    """Grids as libraries make them: by steps, by linspace, lengthened at both ends, one number
    next to its right value, and some that are none."""
    rng, rows = np.random.default_rng(2), []
    for number in range(64):
        dtype, size = FLOATS[number % 4], int(rng.integers(4, 10))
        low = float(rng.choice([-1, 0, rng.normal(), 1e-3 * rng.normal(), 1e4 * rng.normal()]))
        step = float(rng.choice([0.1, 0.4, 2 / 3, rng.random(), 1e-42]))
        grid = (torch.arange(size, dtype=torch.float64) * step + low).to(dtype)
        match number // 4 % 4:
            case 0:
                grid = torch.arange(size).to(dtype) * torch.tensor(step, dtype=dtype) + low
            case 1:
                apart = (grid[-1] - grid[0]) / (size - 1)
                for _ in range(2):
                    grid = torch.cat([grid[:1] - apart, grid, grid[-1:] + apart])
            case 2 if number % 8 < 4:
                grid[size // 2] *= 1 + 4 * torch.finfo(dtype).eps
            case 3 if number % 8 < 4:
                grid = torch.from_numpy(rng.normal(size=size)).to(dtype)
        if len(grid.unique()) > 1:  # else it is a constant, which needs no steps
            rows.append(grid)
    return rows


def test_uniform_rows_are_found_as_by_trying_every_element() -> None:
    expected = [every_element(row) for row in grids()]
    stored: dict[str, Tensor] = {}
    origins = [remainder.rebuilt("a", row, stored, set()).to_json() for row in grids()]
    assert [origin and origin.get("arange") for origin in origins] == expected
    found = [made for made in expected if made]
    assert 20 < len(found) < len(expected)
    assert any(made[2] for made in found)  # some need another element than the first


@pytest.mark.parametrize("count", [500, 5_000])
def test_rows_that_are_not_uniform_are_not_rebuilt(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def counted(made: Arange, dtype: torch.dtype) -> Tensor:
        tried.append(made)
        return honest(made, dtype)

    honest = remainder.rebuild_arange
    monkeypatch.setattr(remainder, "rebuild_arange", counted)
    rng = torch.Generator().manual_seed(0)
    for row in (torch.randn(count, generator=rng), torch.rand(count, generator=rng).sort().values):
        assert remainder.rebuilt("bias", row, {}, set()) == Stored()
        assert not tried
    nearly = torch.linspace(0, 1, count)
    nearly[count // 3] *= 1 + 3e-7
    assert remainder.rebuilt("grid", nearly, {}, set()) == Stored()
    assert 0 < len(tried) <= 5 * 2 * 64
    tried.clear()
    assert remainder.rebuilt("grid", torch.arange(count) * 0.5, {}, set()) == Arange(
        0.0, 0.5, 0, count
    )
    assert len(tried) == 1
