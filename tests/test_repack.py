"""`repack`: the same edges in fewer bytes, and what it says of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_short import NATIVE, STATE, document_of, header_of

import kancompress
import short_reader
from command import done, refused
from conftest import fresh
from kancompress.config import (
    ClusterConfig,
    HeaderForm,
    IndexCoding,
    RepackConfig,
    StoredDtype,
)
from kancompress.errors import KancompressError
from kancompress.models.records import PackedModel
from packed_checker import checker

PACKED = sorted((Path(__file__).parent / "cases" / "v0.1" / "packed").glob("*.st"))


@pytest.mark.parametrize("path", PACKED, ids=lambda path: path.stem)
def test_old_files_keep_their_numbers_and_shrink(path: Path) -> None:
    raw = path.read_bytes()
    made = kancompress.repack(path)
    assert checker(made.data) is None
    assert made.before.file == len(raw)
    assert made.before.header == header_of(raw)
    assert made.after.file == len(made.data) < len(raw)
    assert made.after.header == header_of(made.data) < header_of(raw)
    assert (made.after.codebooks, made.after.others) == (made.before.codebooks, made.before.others)
    assert made.after.indices <= made.before.indices
    assert made.saved == len(raw) - len(made.data)
    before, after = kancompress.load(raw), kancompress.load(made.data)
    was, now = before.state_dict(), after.state_dict()
    assert list(was) == list(now)
    assert all(torch.equal(was[name], now[name]) for name in was)
    again = kancompress.repack(made.data)
    assert again.data == made.data
    assert again.saved == 0
    back = kancompress.repack(
        made.data, RepackConfig(header=HeaderForm.PLAIN, indices=IndexCoding.BITS)
    )
    assert back.data == raw
    assert back.saved == -made.saved


def test_narrower_types_are_those_of_cluster() -> None:
    wide = kancompress.cluster(NATIVE, ClusterConfig(clusters=6)).model
    assert isinstance(wide, PackedModel)
    narrow = StoredDtype.FLOAT16
    made = kancompress.repack(wide, RepackConfig(codebook_dtype=narrow, side_dtype=narrow)).model
    for old, new in zip(wide.layers, made.layers, strict=True):
        assert old.codebook is not None
        assert new.codebook is not None
        assert torch.equal(old.codebook.half(), new.codebook)
        assert {role: tensor.dtype for role, tensor in new.sides.items()} == dict.fromkeys(
            old.sides, torch.float16
        )
        assert all(torch.equal(old.sides[role].half(), new.sides[role]) for role in old.sides)
    wider = RepackConfig(codebook_dtype=StoredDtype.FLOAT32, side_dtype=StoredDtype.FLOAT32)
    same = kancompress.repack(made, wider).model
    assert kancompress.encode(same) == kancompress.encode(made)


def test_numbers_that_a_type_cannot_hold_are_refused_as_cluster_does() -> None:
    model = kancompress.cluster(fresh("kan", (4, 3, 2)), ClusterConfig(clusters=2)).model
    layer = model.layers[0]
    assert layer.codebook is not None
    large = replace(layer, codebook=layer.codebook.clone().index_fill_(0, torch.tensor([0]), 1e6))
    config = RepackConfig(codebook_dtype=StoredDtype.FLOAT16)
    with pytest.raises(KancompressError, match="up to 1e\\+06, too large for float16"):
        kancompress.repack(replace(model, layers=(large, *model.layers[1:])), config)


def test_other_libraries_tensors_keep_their_types(tmp_path: Path) -> None:
    packed, small = tmp_path / "packed.st", tmp_path / "small.st"
    done("cluster", STATE, "-k", "8", "--force-pack", "-o", packed)
    line = refused(2, "repack", packed, "--side-dtype", "float16", "-o", small)
    assert "another library's tensors come back in their own types" in line
    assert not small.exists()
    done("repack", packed, "--codebook-dtype", "bfloat16", "-o", small)
    was, now = kancompress.load(packed).state_dict(), kancompress.load(small).state_dict()
    edges = {"layers.0.spline_weight", "layers.0.base_weight", "layers.1.spline_weight"}
    for name in was:
        assert was[name].dtype == now[name].dtype
        if "weight" in name or "scaler" in name:
            assert torch.allclose(was[name], now[name], rtol=2**-7, atol=1e-6)
        else:
            assert torch.equal(was[name], now[name])
    assert edges <= was.keys()


def test_the_command_says_what_it_saved(tmp_path: Path) -> None:
    source, small, plain = (tmp_path / name for name in ("a.st", "b.st", "c.st"))
    done("cluster", NATIVE, "-k", "6", "-o", source)
    result = done("repack", source, "-o", small, "--json")
    told = json.loads(result.stdout)
    sizes = {path: path.stat().st_size for path in (source, small)}
    assert told["file_bytes"] == told["after"]["file_bytes"] == sizes[small]
    assert told["before"]["file_bytes"] == sizes[source]
    assert told["saved_bytes"] == sizes[source] - sizes[small] > 0
    for parts in (told["before"], told["after"]):
        assert parts["file_bytes"] == sum(parts.values()) - parts["file_bytes"]
    report = json.loads(done("inspect", source, "--json").stdout)
    assert told["before"]["index_bytes"] == report["totals"]["index_bytes"]
    assert told["before"]["codebook_bytes"] == report["totals"]["codebook_bytes"]
    assert told["before"]["other_bytes"] == report["totals"]["other_bytes"]
    said = done("repack", source, "-o", small, "--force").stderr
    assert f"{told['saved_bytes']} fewer than" in said
    assert short_reader.is_short(document_of(small.read_bytes()))
    copied = done("repack", small, "-o", tmp_path / "d.st")
    assert "nothing is saved" in copied.stderr
    assert (tmp_path / "d.st").read_bytes() == small.read_bytes()
    larger = done("repack", small, "--header", "plain", "--indices", "bits", "-o", plain)
    assert f"{told['saved_bytes']} more than" in larger.stderr
    assert plain.read_bytes() == source.read_bytes()
    through = done("repack", "-", "-o", "-", stdin=source.read_bytes())
    assert through.stdout_bytes == small.read_bytes()


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [(NATIVE, 2, "kancompress cluster FILE"), (STATE, 3, "kancompress cluster FILE")],
)
def test_what_is_not_packed_is_refused(source: Path, code: int, says: str, tmp_path: Path) -> None:
    assert says in refused(code, "repack", source, "-o", tmp_path / "x.st")
    assert not (tmp_path / "x.st").exists()
