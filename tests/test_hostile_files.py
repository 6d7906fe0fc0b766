"""Files that readers once accepted or died of: each with its flaw, or with what is right."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import kancompress
from command import call, only_line, refused
from kancompress.errors import Flaw, InvalidFileError
from kancompress.models.files import read_foreign

HERE = Path(__file__).parent / "hostile_cases"
# None: an honest file by now
FLAWS: dict[str, Flaw | None] = {
    "foreign/2_001.pt": None,
    "foreign/2_002.pt": None,
    "foreign/2_003.pt": Flaw.BAD_PICKLE,
    "mutated/001.bin": Flaw.WRONG_SHAPE,
    "mutated/002.bin": Flaw.WRONG_SHAPE,
    "mutated/003.bin": Flaw.WRONG_SHAPE,
    "mutated/004.bin": Flaw.BAD_VALUE,
    "mutated/005.bin": Flaw.BAD_VALUE,
    "mutated/006.bin": Flaw.BAD_VALUE,
    "mutated/007.bin": Flaw.BAD_VALUE,
    "mutated/008.bin": Flaw.BAD_VALUE,
    "mutated/009.bin": Flaw.WRONG_SHAPE,
    "mutated/010.bin": Flaw.WRONG_SHAPE,
    "mutated/011.bin": Flaw.BAD_VALUE,
    "mutated/012.bin": Flaw.BAD_VALUE,
    "mutated/013.bin": Flaw.UNEXPLAINED_TENSOR,
    "mutated/014.bin": Flaw.BAD_VALUE,
    "mutated/015.bin": Flaw.BAD_VALUE,
    "mutated/016.bin": Flaw.BAD_VALUE,
    "mutated/017.bin": Flaw.BAD_VALUE,
    "mutated/018.bin": Flaw.BAD_VALUE,
    "mutated/019.bin": Flaw.BAD_VALUE,
    "mutated/020.bin": Flaw.BAD_VALUE,
    "mutated/021.bin": Flaw.WRONG_SHAPE,
    "mutated/022.bin": Flaw.BAD_VALUE,
    "mutated/023.bin": Flaw.BAD_VALUE,
    "mutated/024.bin": Flaw.BAD_VALUE,
    "mutated/025.bin": Flaw.WRONG_SHAPE,
    "mutated/026.bin": Flaw.WRONG_SHAPE,
    "mutated/027.bin": Flaw.WRONG_SHAPE,
    "mutated/028.bin": Flaw.BAD_VALUE,
    "mutated/029.bin": Flaw.BAD_VALUE,
    "mutated/030.bin": Flaw.BAD_VALUE,
    "mutated/031.bin": Flaw.BAD_VALUE,
    "mutated/032.bin": Flaw.BAD_VALUE,
    "mutated/033.bin": Flaw.SIZE_MISMATCH,
    "mutated/034.bin": Flaw.BAD_OFFSETS,
    "mutated/035.bin": Flaw.BAD_VALUE,
    "mutated/036.bin": Flaw.BAD_VALUE,
    "mutated/037.bin": Flaw.TOO_LARGE,
    "mutated/038.bin": Flaw.TOO_LARGE,
    "mutated/039.bin": Flaw.TOO_LARGE,
    "mutated/040.bin": Flaw.TOO_LARGE,
    "mutated/041.bin": Flaw.WRONG_SHAPE,
    "mutated/042.bin": Flaw.WRONG_SHAPE,
    "mutated/043.bin": Flaw.WRONG_SHAPE,
    "mutated/044.bin": Flaw.WRONG_SHAPE,
    "mutated/045.bin": Flaw.BAD_VALUE,
    "mutated/046.bin": Flaw.WRONG_SHAPE,
    "mutated/047.bin": Flaw.WRONG_SHAPE,
    "mutated/048.bin": Flaw.BAD_VALUE,
    "mutated/049.bin": Flaw.BAD_VALUE,
    "mutated/050.bin": Flaw.UNKNOWN_DTYPE,
    "mutated/051.bin": Flaw.TENSOR_RECORD,
    "mutated/052.bin": Flaw.BAD_VALUE,
    "mutated/053.bin": Flaw.HOLE,
    "mutated/054.bin": Flaw.WRONG_KIND,
    "mutated/055.bin": Flaw.BAD_SHAPE,
    "mutated/056.bin": Flaw.TOO_LARGE,
    "mutated/057.bin": Flaw.TOO_LARGE,
    "mutated/058.bin": Flaw.BAD_VALUE,
    "mutated/059.bin": Flaw.BAD_VALUE,
    "mutated/other_001.bin": Flaw.UNKNOWN_FORMAT,
    "oob_write/evil_packed.st": Flaw.BAD_PICKLE,
    "restore/arange_20GB.st": Flaw.TOO_LARGE,
    "restore/arange_bool.st": Flaw.BAD_VALUE,
    "restore/arange_far.st": Flaw.BAD_VALUE,
    "restore/as_role.st": Flaw.BAD_VALUE,
    "restore/axes_junk.st": Flaw.WRONG_SHAPE,
    "restore/axes_unknown.st": Flaw.WRONG_SHAPE,
    "restore/columns_beyond.st": Flaw.WRONG_SHAPE,
    "restore/columns_dict_ok.st": Flaw.BAD_VALUE,
    "restore/columns_int.st": Flaw.BAD_VALUE,
    "restore/columns_null.st": Flaw.BAD_VALUE,
    "restore/fill_20GB.st": Flaw.TOO_LARGE,
    "restore/fill_2e62.st": Flaw.TOO_LARGE,
    "restore/fill_half_in_int.st": Flaw.BAD_VALUE,
    "restore/fill_huge_int.st": Flaw.BAD_VALUE,
    "restore/fill_not_finite.st": Flaw.BAD_VALUE,
    "restore/k1_edges_4e18.st": Flaw.TOO_LARGE,
    "restore/k1_edges_4e9.st": Flaw.TOO_LARGE,
    "restore/k1_native_1e9.st": Flaw.TOO_LARGE,
    "restore/repeat_20GB.st": Flaw.TOO_LARGE,
    "restore/repeat_shape.st": Flaw.WRONG_SHAPE,
    "restore/tie_other_shape.st": Flaw.WRONG_SHAPE,
    "restore/tie_other_shape_st.st": Flaw.WRONG_SHAPE,
}


def reader(name: str) -> Callable[[Path], object]:
    return read_foreign if name.startswith("foreign/") or "other_0" in name else kancompress.load


@pytest.mark.parametrize("name", FLAWS)
def test_file_has_its_flaw(name: str) -> None:
    if FLAWS[name] is None:
        reader(name)(HERE / name)
        return
    with pytest.raises(InvalidFileError) as caught:
        reader(name)(HERE / name)
    assert caught.value.flaw is FLAWS[name]
    message = str(caught.value).removeprefix(str(HERE / name))
    assert message.isprintable()
    assert len(message) <= 500


def test_every_file_is_in_the_table() -> None:
    assert {path.relative_to(HERE).as_posix() for path in HERE.rglob("*.*")} == set(FLAWS)


@pytest.mark.parametrize("name", ["foreign/2_001.pt"])
def test_what_is_read_is_what_torch_reads(name: str) -> None:
    """Steps of axes of length 1 may be any number: they are never taken."""
    expected = torch.load(HERE / name, weights_only=True)
    found = read_foreign(HERE / name).tensors
    assert list(found) == list(expected)
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def test_a_packed_file_that_wrote_outside_a_buffer_is_refused_by_every_command(
    tmp_path: Path,
) -> None:
    path = HERE / "oob_write" / "evil_packed.st"
    for arguments in (
        ("inspect", path, "--check"), ("inspect", path), ("eval", path, "--data", path),
        ("expand", path, "-o", tmp_path / "out.pt"), ("finetune", path, "-o", tmp_path / "out.st"),
    ):  # fmt: skip
        assert "two sizes" in refused(3, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_torch_file_that_would_do_so_is_refused_with_its_rest(tmp_path: Path) -> None:
    result = call("cluster", HERE / "foreign/2_003.pt", "--keep-extra", "-o", tmp_path / "out.st")
    assert (result.exit_code, "two sizes" in only_line(result.stderr)) == (3, True)
