"""`--keep-extra`: what a torch file holds beside the model comes back bit for bit."""

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from test_repacking import bytes_of, efficient_kan
from torch import Tensor, nn

import kancompress
from command import done, refused
from conftest import fresh
from kancompress.config import ClusterConfig
from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError
from kancompress.formats.packed import encode
from kancompress.models.records import PackedModel
from kancompress.models.restoration import Restored

TRAPS = Path(__file__).parents[2] / "shared" / "cases" / "traps"
EIGHT = ClusterConfig(clusters=8, force_pack=True)


def saved(value: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def packed(source: bytes | Path, config: ClusterConfig = EIGHT) -> PackedModel:
    return kancompress.cluster(source, config, keep_extra=True).model


def restored(source: bytes | Path, config: ClusterConfig = EIGHT) -> tuple[bytes, Restored]:
    """The file given back through the bytes of a packed file, and its tensors."""
    back = kancompress.expand(kancompress.encode(packed(source, config)))
    assert isinstance(back, Restored)
    return back.encode(), back


def loaded(raw: bytes) -> Any:
    return torch.load(io.BytesIO(raw), weights_only=True)


def alike(one: Any, other: Any) -> bool:
    """Equal in structure, types and bits, as torch loads them."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        layout = (one.shape, one.stride(), one.dtype, one.requires_grad)
        same = layout == (other.shape, other.stride(), other.dtype, other.requires_grad)
        return same and bytes_of(one.detach()) == bytes_of(other.detach())
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def trained() -> dict[str, Any]:
    """A trainer's dictionary with what trainers keep."""
    net = nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    state = OrderedDict((name, nn.Parameter(t) if t.is_floating_point() else t)
                        for name, t in efficient_kan(distinct=40).items())  # fmt: skip
    return {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer": optimizer.state_dict(),
        "ema": {name: tensor.detach() * 2 for name, tensor in state.items()},
        "rng": torch.get_rng_state(),
        "nan": torch.tensor([float("nan"), -0.0]),
        "history": [{"loss": 0.5, "rate": (1e-3, None)}, b"bytes"],
    }


def test_a_trainers_dictionary_comes_back_whole() -> None:
    content = trained()
    raw, back = restored(saved(content), ClusterConfig(clusters=8))
    again, before = loaded(raw), loaded(saved(content))
    state = again.pop("model_state_dict")
    assert type(state) is OrderedDict
    assert list(state) == list(content["model_state_dict"])
    for name, tensor in state.items():
        assert isinstance(tensor, nn.Parameter) == (name != "steps")
        assert bytes_of(tensor.detach()) == bytes_of(back.tensors[name])
    assert not torch.equal(  # 40 vectors went into 8
        state["layers.0.base_weight"], content["model_state_dict"]["layers.0.base_weight"]
    )
    del before["model_state_dict"]
    assert alike(again, before)
    assert list(loaded(raw)) == list(content)


def lightning() -> dict[str, Any]:
    """What Lightning 2.6 writes, as a plain dictionary."""
    state = {f"model.{name}": tensor for name, tensor in efficient_kan(distinct=40).items()}
    progress = {"total": {"ready": 9, "completed": 9}, "current": {"ready": 9, "completed": 9}}
    return {
        "epoch": 3,
        "global_step": 9,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": OrderedDict(state),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": progress}},
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(9.0)}}, "param_groups": []}],
        "lr_schedulers": [{"base_lrs": [1e-3]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"width": 30, "rate": 1e-3},
    }


def test_a_lightning_checkpoint_comes_back_as_lightning_loads_it() -> None:
    """Its `load_from_checkpoint` reads all keys beside the state dict; without them it fails."""
    content = lightning()
    again = loaded(restored(saved(content), ClusterConfig(clusters=8))[0])
    kept, state = dict(content), again.pop("state_dict")
    assert list(state) == list(kept.pop("state_dict"))
    assert type(state) is OrderedDict
    assert alike(again, kept)
    noted = "a checkpoint of Lightning, whose load_from_checkpoint needs more than the state dict"
    plain = kancompress.cluster(saved(content), EIGHT)
    assert any(note.startswith(noted) and "`keep_extra`" in note for note in plain.notes)
    whole = kancompress.cluster(saved(content), EIGHT, keep_extra=True)
    assert not any(note.startswith(noted) for note in whole.notes)
    bare = loaded(kancompress.expand(plain.model).encode())  # type: ignore[union-attr, call-arg]
    assert list(bare) == ["state_dict"]
    assert list(bare["state_dict"]) == list(content["state_dict"])


def test_what_torch_writes_is_mapped_again(tmp_path: Path) -> None:
    """Storages begin at multiples of 64 bytes, as in the source."""
    path = tmp_path / "again.pt"
    path.write_bytes(restored(saved(trained()))[0])
    mapped = torch.load(path, weights_only=True, mmap=True)
    assert alike(mapped["ema"], torch.load(path, weights_only=True)["ema"])
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            with path.open("rb") as file:
                file.seek(info.header_offset + 26)
                lengths = file.read(4)
            name, extra = (int.from_bytes(lengths[at : at + 2], "little") for at in (0, 2))
            assert (info.header_offset + 30 + name + extra) % 64 == 0
        assert archive.testzip() is None


def test_equal_work_gives_equal_bytes() -> None:
    source = saved(trained())
    assert restored(source)[0] == restored(source)[0]
    assert kancompress.encode(packed(source)) == kancompress.encode(packed(source))


def test_the_models_numbers_are_stored_once() -> None:
    content = {"model": efficient_kan(), "rest": torch.arange(50)}
    plain = kancompress.encode(kancompress.cluster(saved(content), EIGHT).model)
    kept = kancompress.encode(packed(saved(content)))
    assert len(kept) - len(plain) < 6000 < sum(t.nbytes for t in content["model"].values())


@pytest.mark.parametrize("kind", ["flat", "turned", "tied", "half a storage", "type of its own"])
def test_storages_that_tensors_share(kind: str) -> None:
    state: dict[str, Any] = efficient_kan()
    extra: Any = torch.arange(3)
    at = "layers.0."
    if kind == "flat":  # all parameters in one buffer, as some optimizers keep them
        buffer = torch.cat([t.reshape(-1) for n, t in state.items() if n != "steps"])
        start = 0
        for name, tensor in state.items():
            if name != "steps":
                state[name] = buffer[start : start + tensor.numel()].view(tensor.shape)
                start += tensor.numel()
    elif kind == "turned":
        weight = state[at + "spline_weight"]
        state[at + "spline_weight"] = weight.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    elif kind == "tied":
        extra = {"best": state[at + "base_weight"], "head": state["head.weight"][1:3]}
    elif kind == "half a storage":
        whole = torch.randn(1000)
        whole[200:240] = state["head.weight"].reshape(-1)
        state["head.weight"] = whole[200:240].view(4, 10)
        extra = whole[500:]
    else:
        state["head.weight"] = torch.arange(40, dtype=torch.int16).view(torch.uint16)
    content = {"model": state, "extra": extra}
    again = loaded(restored(saved(content))[0])
    folded = {name for name in state if "spline" in name}
    for name, tensor in state.items():
        assert again["model"][name].stride() == tensor.stride()
        if name not in folded:
            assert bytes_of(again["model"][name]) == bytes_of(tensor), name
    assert alike(again["extra"], loaded(saved(content))["extra"])
    if kind == "tied":  # one tensor still
        storages = {
            again["extra"]["best"].data_ptr(),
            again["model"][at + "base_weight"].data_ptr(),
        }
        assert len(storages) == 1


def test_packed_tensors_that_lie_over_each_other_are_refused() -> None:
    state = efficient_kan()
    state["view"] = state["layers.0.base_weight"].view(-1)[3:9]
    with pytest.raises(UsageError, match=r"'layers.0.base_weight' is packed and lies over"):
        packed(saved({"model": state}))
    state = efficient_kan()
    state["layers.0.base_weight"] = torch.ones(1).expand(20, 30)
    with pytest.raises(UsageError, match="over itself"):
        packed(saved({"model": state}))
    state = efficient_kan()
    state["view"] = state["head.weight"].view(-1)[3:9]
    state["alike"] = torch.randn(1).expand(4, 3)  # lies over itself
    state["turned"] = torch.randn(3, 4).t()
    state["columns"] = torch.randn(6, 4)[:, 1:3]
    state["slanted"] = torch.randn(12).as_strided((4, 3), (2, 1))
    again = loaded(restored(saved({"model": state}))[0])
    for name in ("view", "alike", "turned", "columns", "slanted"):
        assert alike(again["model"][name], state[name]), name
        assert again["model"][name].stride() == state[name].stride()
    assert again["model"]["view"].data_ptr() == again["model"]["head.weight"].data_ptr() + 12


class Net(nn.Module):
    """efficient-kan's tensors in a module of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.note = "kept"
        for name, tensor in efficient_kan().items():
            if name.startswith("layers.0."):
                self.register_buffer(name.removeprefix("layers.0."), tensor)
        self.register_buffer("cache", torch.arange(5.0), persistent=False)


def test_a_whole_module_comes_back_as_one() -> None:
    raw, back = restored(saved(Net()))
    net = torch.load(io.BytesIO(raw), weights_only=False)
    assert isinstance(net, Net)
    assert net.note == "kept"
    assert torch.equal(net.cache, torch.arange(5.0))
    assert all(torch.equal(tensor, back.tensors[n]) for n, tensor in net.state_dict().items())
    with pytest.raises(pickle.UnpicklingError):  # as for the source
        loaded(raw)


def test_files_of_which_nothing_can_be_kept(tmp_path: Path) -> None:
    for value in ({"model": efficient_kan(), "epoch": 1}, Net()):
        old = tmp_path / "old.pt"
        torch.save(value, old, _use_new_zipfile_serialization=False)
        line = refused(2, "cluster", old, "--keep-extra", "-o", tmp_path / "packed.st")
        assert line == (
            f"{old} is a torch file of the kind before 1.6, of which only the model's tensors can"
            " be kept. Load it and save it again with torch, or leave --keep-extra out."
        )
    source = save(efficient_kan(), {"format": "pt"})
    model = packed(source)
    assert model.restore is not None
    assert model.restore.opaque is None
    assert model.restore.metadata == {"format": "pt"}
    with pytest.raises(UsageError, match="ours"):
        kancompress.cluster(fresh("kan"), keep_extra=True)


def test_shards_come_back_as_one_file_without_the_rest(tmp_path: Path) -> None:
    state = efficient_kan()
    parts = [{n: t for n, t in state.items() if ("layers.0" in n) == first} for first in (1, 0)]
    torch.save(parts[0], tmp_path / "one.bin")
    torch.save({**parts[1], "args": {"lr": 1e-3}}, tmp_path / "two.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    places = {n: "one.bin" if "layers.0" in n else "two.bin" for n in state}
    index.write_text(json.dumps({"weight_map": places}))
    again = kancompress.expand(kancompress.cluster(index, EIGHT).model)
    assert isinstance(again, Restored)
    assert list(loaded(again.encode())) == list(state)
    assert bytes_of(loaded(again.encode())["head.weight"]) == bytes_of(state["head.weight"])
    with pytest.raises(UsageError, match="is an index of shards, of which only"):
        packed(index)


def test_expand_tells_what_its_output_cannot_hold(tmp_path: Path) -> None:
    content = trained()
    (tmp_path / "model.pt").write_bytes(saved(content))
    line = done("cluster", tmp_path / "model.pt", "--keep-extra", "-o", tmp_path / "packed.st")
    assert "kept beside the model: optimizer (6 tensors" in line.stderr
    line = done("expand", tmp_path / "packed.st", "-o", tmp_path / "back.safetensors")
    assert "left out: what the torch file held beside the model" in line.stderr
    line = done("expand", tmp_path / "packed.st", "-o", tmp_path / "back")
    assert "left out" not in line.stderr
    again = torch.load(tmp_path / "back", weights_only=True)
    assert alike(again["optimizer"], content["optimizer"])


class Command:
    """Asks whoever unpickles it to make a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.target}'",)


def with_opaque(model: PackedModel, raw: bytes) -> PackedModel:
    """A packed model with other bytes in the place of the source's rest."""
    data = torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    return replace(model, tensors={**model.tensors, "extra": data})


def opaque_of(content: object) -> bytes:
    kept = packed(saved(content)).tensors["extra"]
    return kept.numpy().tobytes()


def test_the_rest_of_a_file_is_never_trusted(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    model = packed(saved({"model": efficient_kan()}))
    other = efficient_kan()
    del other["steps"]
    wide = efficient_kan()
    wide["steps"] = torch.arange(2)
    rest = opaque_of({"model": efficient_kan()})
    for raw, flaw, says in (
        (saved({"model": {"w": torch.ones(2)}, "z": Command(proof)}), Flaw.UNSAFE_PICKLE, "system"),
        (opaque_of({"model": other}), Flaw.BAD_VALUE, "'steps'"),
        (opaque_of({"model": wide}), Flaw.BAD_VALUE, "'steps'"),
        (rest[:-30], Flaw.TRUNCATED, "not copied whole"),
        (rest.replace(b"param", b"parom").replace(b"model", b"modal"), Flaw.CHECKSUM_MISMATCH, ""),
        (b"no archive", Flaw.TRUNCATED, ""),
    ):
        lying = with_opaque(model, raw)
        back = kancompress.expand(lying)
        assert isinstance(back, Restored)
        for act in (back.encode, partial(kancompress.load, encode(lying.record()))):
            with pytest.raises(InvalidFileError, match=r"restore\.opaque") as caught:
                act()
            assert caught.value.flaw == flaw
            assert says in str(caught.value)
        with pytest.raises(KancompressError, match="Nothing was written"):
            kancompress.encode(lying)
    assert not proof.exists()


@pytest.mark.skipif(not TRAPS.is_dir(), reason="the golden cases are not here")
@pytest.mark.parametrize("name", ["trainer_dict.pt", "trainer_dict_ema.pt"])
def test_golden_trainers_dictionaries(name: str) -> None:
    raw, back = restored(TRAPS / name)
    again, before = loaded(raw), torch.load(TRAPS / name, weights_only=True)
    path = back.path
    assert len(path) == 1
    state = again.pop(path[0])
    before.pop(path[0])
    assert alike(again, before)
    assert all(bytes_of(state[name]) == bytes_of(t) for name, t in back.tensors.items())
