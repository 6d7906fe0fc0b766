"""Other libraries' checkpoints: packed, restored, and equal tensor by tensor."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save
from torch import Tensor

import kancompress
from kancompress.config import ClusterConfig
from kancompress.errors import KancompressError
from kancompress.formats.packed.encodings import bits
from kancompress.libraries import recognise
from kancompress.models.files import read_foreign
from kancompress.models.records import PackedModel, sizes
from kancompress.models.restoration import Restored
from kancompress.models.vectors import gather, packable

CASES = Path(__file__).parents[2] / "shared" / "cases"
NAMES = sorted(path.parent.name for path in CASES.glob("*/distinct8.pt")) if CASES.exists() else []


def choices(case: str) -> dict[str, str]:
    """What the keys of some cases do not tell."""
    found = [word for word in ("kaln", "kajn", "kabn") if word in case]
    return {"": f"{found[0]}-conv"} if found else {}


def round_trip(
    path: Path, config: ClusterConfig, **options: object
) -> tuple[PackedModel, Restored]:
    done = kancompress.cluster(path, config, **options)  # type: ignore[arg-type]
    raw = kancompress.encode(done.model)
    assert len(raw) == sum(sizes(done.model))
    back = kancompress.expand(raw)
    assert isinstance(back, Restored)
    return done.model, back


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def efficient_kan(distinct: int = 5, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """A state dict as efficient-kan saves it, with few distinct edge vectors."""
    rng = torch.Generator().manual_seed(0)
    state = {}
    for number, (inputs, out) in enumerate([(30, 20), (20, 10)]):
        table = torch.randn(distinct, 10, generator=rng, dtype=torch.float64).to(dtype)
        index = torch.randint(distinct, (out, inputs), generator=rng)
        grid = (torch.arange(-3, 9) * 0.4 - 1).expand(inputs, -1).contiguous()
        at = f"layers.{number}."
        state[at + "base_weight"] = table[index][..., 9].contiguous()
        state[at + "spline_weight"] = table[index][..., :8].contiguous()
        state[at + "spline_scaler"] = table[index][..., 8].contiguous()
        state[at + "grid"] = grid.to(dtype)
    state["head.weight"] = torch.randn(4, 10, generator=rng)
    state["steps"] = torch.tensor(7)
    return state


@pytest.mark.parametrize("nest", [(), ("model_state_dict",)])
def test_torch_file_comes_back_with_its_names_and_nesting(
    nest: tuple[str, ...], tmp_path: Path
) -> None:
    state = efficient_kan()
    content = {"model_state_dict": state, "epoch": 3} if nest else state
    path = tmp_path / "model.pt"
    torch.save(content, path)
    model, back = round_trip(path, ClusterConfig(clusters=8))
    again = torch.load(io.BytesIO(back.encode()), weights_only=True)
    again = again["model_state_dict"] if nest else again
    assert list(again) == list(state)
    for name, tensor in state.items():
        assert again[name].dtype == tensor.dtype
        assert again[name].shape == tensor.shape
        if "spline" not in name:
            assert bytes_of(again[name]) == bytes_of(tensor)
    for at in ("layers.0.", "layers.1."):
        folded = state[at + "spline_weight"] * state[at + "spline_scaler"][..., None]
        assert torch.equal(again[at + "spline_weight"], folded)
        assert torch.equal(
            again[at + "spline_scaler"], torch.ones_like(state[at + "spline_scaler"])
        )
    assert len(kancompress.encode(model)) < path.stat().st_size / 8


def test_scaler_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    state = efficient_kan()
    torch.save(state, path)
    _, back = round_trip(path, ClusterConfig(clusters=8), keep_scaler=True)
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in state.items())


def test_only_scalers_that_are_folded_are_told_of() -> None:
    config = ClusterConfig(clusters=8)
    folded, kept = (
        kancompress.cluster(efficient_kan(), config, keep_scaler=keep).notes
        for keep in (False, True)
    )
    assert [note for note in folded if "is folded" in note]
    assert kept == tuple(note for note in folded if "is folded" not in note)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_come_back_exactly(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    state = efficient_kan(dtype=dtype)
    torch.save(state, path)
    _, back = round_trip(path, ClusterConfig(clusters=8), keep_scaler=True)
    assert all(bytes_of(back.tensors[name]) == bytes_of(t) for name, t in state.items())


def test_uniform_grids_are_three_numbers_and_others_one_row(tmp_path: Path) -> None:
    state = efficient_kan()
    uneven = torch.tensor([-2.0, -1.7, -1.2, -1, -0.6, -0.2, 0.2, 0.61, 1, 1.4, 1.8, 2.2])
    state["layers.1.grid"] = uneven.expand(20, -1).contiguous()
    path = tmp_path / "model.pt"
    torch.save(state, path)
    model, back = round_trip(path, ClusterConfig(clusters=8))
    assert model.restore is not None
    origins = {one.name: one.origin.to_json() for one in model.restore.tensors}
    assert "arange" in origins["layers.0.grid"]
    assert "repeat" in origins["layers.1.grid"]
    for name in ("layers.0.grid", "layers.1.grid"):
        assert bytes_of(back.tensors[name]) == bytes_of(state[name])


def test_nothing_recognised_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "mlp.pt"
    torch.save({"fc.weight": torch.zeros(3, 4)}, path)
    with pytest.raises(kancompress.UsageError, match=r"It has 1 linear layer, no KAN layer"):
        kancompress.cluster(path)


def test_layout_by_hand(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(6, 5, generator=rng)
    index = torch.randint(6, (12, 9), generator=rng)
    path = tmp_path / "own.pt"
    state = {"mine.w": table[index].permute(2, 1, 0).contiguous(), "mine.b": torch.zeros(12)}
    torch.save(state, path)
    model, back = round_trip(
        path, ClusterConfig(clusters=8, force_pack=True), layouts={"": "coef=w: coef in out"}
    )
    assert model.clusters_of(model.layers[0]) == 6
    assert torch.equal(back.tensors["mine.w"], state["mine.w"])


def test_foreign_nan_is_named(tmp_path: Path) -> None:
    state = efficient_kan()
    state["layers.1.base_weight"][2, 3] = float("nan")
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(kancompress.InvalidFileError, match=r"layers\.1\.base_weight"):
        kancompress.cluster(tmp_path / "model.pt")


@pytest.mark.parametrize("case", NAMES)
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_golden_case_with_eight_vectors_comes_back_without_loss(case: str, kind: str) -> None:
    record = json.loads((CASES / case / "case.json").read_text())
    if "generated" in json.dumps(record["layers"]):
        pytest.skip("generated coefficients come back under other names: test_generation.py")
    path = CASES / case / f"distinct8.{kind}"
    config = ClusterConfig(clusters=8, force_pack=True)
    model, back = round_trip(path, config, layouts=choices(case))
    source = read_foreign(path)
    assert list(back.tensors) == list(source.tensors)
    found = recognise(source.tensors, choices(case))
    gains = {gain.tensor for layer in found.layers for gain in layer.gains}
    parts = {part.tensor for layer in found.layers for part in layer.parts}
    for name, tensor in source.tensors.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert back.tensors[name].shape == tensor.shape
        if name not in gains | parts or not gains:
            assert bytes_of(back.tensors[name] + 0) == bytes_of(tensor + 0), name
    for layer in found.layers:  # the same functions, factors folded
        mask = packable(layer, source.tensors)
        if layer.edges >= 8:
            assert torch.equal(
                gather(layer, back.tensors)[mask], gather(layer, source.tensors)[mask]
            )
    packed = kancompress.encode(model)
    assert load_safetensors(packed).keys() == model.named_tensors().keys()


def test_indices_of_a_foreign_file_are_packed_like_ours(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(efficient_kan(), path)
    model, _ = round_trip(path, ClusterConfig(clusters=8))
    for layer in model.layers:
        packed = model.named_tensors()[f"{layer.name}.index"]
        assert packed.shape == (bits.packed_size(layer.edges, 3),)
        assert np.unique(model.indices_of(layer)).tolist() == [0, 1, 2, 3, 4]


def test_inspect_predicts_the_packed_file_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save({"model": efficient_kan(), "epoch": 1}, path)
    for clusters in (3, 8):
        report = kancompress.inspect(path, clusters=clusters)
        model, _ = round_trip(path, ClusterConfig(clusters=clusters))
        assert report["predicted"]["file_bytes"] == len(kancompress.encode(model))
    assert report["kind"] == "torch"
    assert [layer["layout"] for layer in report["layers"]] == ["efficient-kan"] * 2
    assert [layer["edges"] for layer in report["layers"]] == [600, 200]
    assert {other["name"] for other in report["other"]} == {"head.weight", "steps"}
    assert any("epoch" in problem for problem in report["problems"])


def test_packing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(efficient_kan(distinct=40), path)
    config = ClusterConfig(clusters=16)
    first, second = (kancompress.encode(kancompress.cluster(path, config).model) for _ in range(2))
    assert first == second


def test_scales_that_cannot_be_folded_are_refused_and_can_be_kept() -> None:
    state = efficient_kan()
    state["layers.0.spline_scaler"][0, 0] = 1e25
    state["layers.0.spline_weight"][0, 0] = 1e25
    raw = save(state)
    with pytest.raises(KancompressError, match=r"'layers.0' coefficients times .* `keep_scaler`"):
        kancompress.cluster(raw, kancompress.ClusterConfig(clusters=4))
    kept = kancompress.cluster(raw, kancompress.ClusterConfig(clusters=4), keep_scaler=True)
    scaler = kept.model.state_dict()["layers.0.spline_scaler"]
    assert torch.equal(scaler, state["layers.0.spline_scaler"])
