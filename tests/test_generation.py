"""MetaKAN: the vectors are generated, packed, and come back as efficient-kan's tensors."""

import io
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_repacking import bytes_of
from torch import Tensor, nn

import kancompress
from command import done
from kancompress.config import ClusterConfig
from kancompress.errors import UsageError
from kancompress.libraries import recognise
from kancompress.models.files import read_foreign
from kancompress.models.foreign import dense_network, packed_network
from kancompress.models.restoration import Restored
from kancompress.packing.generated import write_out

CASE = Path(__file__).parents[2] / "shared" / "cases" / "metakan_e1"
EIGHT = ClusterConfig(clusters=8, force_pack=True)


def metakan(
    widths: tuple[int, ...] = (30, 20, 6), distinct: int = 7, *, shared: bool = False
) -> dict[str, Tensor]:
    """A state dict in MetaKAN's names, each layer with `distinct` embeddings."""
    rng = torch.Generator().manual_seed(0)

    def network() -> list[Tensor]:
        return [torch.randn(*shape, generator=rng) for shape in ((16, 2), (16,), (9, 16), (9,))]

    state: dict[str, Tensor] = {}
    for number, (inputs, out) in enumerate(pairwise(widths)):
        table = torch.randn(distinct, 2, generator=rng)
        index = torch.randint(distinct, (out * inputs,), generator=rng)
        state[f"embeddings.{number}"] = table[index]
    for number in range(1 if shared else len(widths) - 1):
        at = "hypernet." if shared else f"hypernet.{number}."
        state |= zip([f"{at}0.weight", f"{at}0.bias", f"{at}2.weight", f"{at}2.bias"], network(),
                     strict=True)  # fmt: skip
    state["norm.weight"] = torch.randn(5, generator=rng)
    for number, inputs in enumerate(widths[:-1]):
        grid = torch.arange(-3, 9) * 0.4 - 1
        state[f"layers.{number}.grid"] = grid.expand(inputs, -1).contiguous()
    return state


def generated(state: dict[str, Tensor], number: int) -> Tensor:
    """(out, in, 9) as torch's own modules generate it."""
    at = "hypernet." if "hypernet.0.weight" in state else f"hypernet.{number}."
    first, last = nn.Linear(2, 16), nn.Linear(16, 9)
    for linear, place in ((first, 0), (last, 2)):
        linear.weight.data = state[f"{at}{place}.weight"]
        linear.bias.data = state[f"{at}{place}.bias"]
    inputs = len(state[f"layers.{number}.grid"])
    rows = nn.Sequential(first, nn.ReLU(), last)(state[f"embeddings.{number}"])
    return rows.detach().reshape(-1, inputs, 9)


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize("shared", [False, True])
def test_vectors_come_back_as_tensors_of_efficient_kan(shared: bool) -> None:
    state = metakan(shared=shared)
    done = kancompress.cluster(saved({"model": state, "epoch": 1}), EIGHT)
    assert [layer.clusters for layer in done.layers] == [7, 7]
    assert all(layer.exact for layer in done.layers)
    assert any("without the meta-network" in note for note in done.notes)
    back = kancompress.expand(kancompress.encode(done.model))
    assert isinstance(back, Restored)
    again = torch.load(io.BytesIO(back.encode()), weights_only=True)["model"]
    assert list(again) == [
        "norm.weight",
        "layers.0.base_weight", "layers.0.spline_weight", "layers.0.grid",
        "layers.1.base_weight", "layers.1.spline_weight", "layers.1.grid",
    ]  # fmt: skip
    for number in (0, 1):
        vectors = generated(state, number)
        at = f"layers.{number}."
        assert torch.allclose(again[at + "spline_weight"], vectors[..., :8], atol=1e-5)
        assert torch.allclose(again[at + "base_weight"], vectors[..., 8], atol=1e-5)
        assert bytes_of(again[at + "grid"]) == bytes_of(state[at + "grid"])
    assert bytes_of(again["norm.weight"]) == bytes_of(state["norm.weight"])
    known = recognise(again)
    assert [layer.layout for layer in known.layers] == ["efficient-kan"] * 2


def sequential(state: dict[str, Tensor], network: str, relu: bool) -> nn.Sequential:
    """The network at a name as torch's own modules run it."""
    names = sorted(name for name in state if name.startswith(network) and "weight" in name)
    modules: list[nn.Module] = []
    for name in names:
        linear = nn.Linear(*reversed(state[name].shape))
        linear.weight.data = state[name]
        linear.bias.data = state[name.replace("weight", "bias")]
        modules += [linear, nn.ReLU()] if relu and name != names[-1] else [linear]
    return nn.Sequential(*modules)


def network_of(
    rng: torch.Generator, at: str, last: int, places: tuple[int, int]
) -> dict[str, Tensor]:
    shapes = ((16, 2), (16,), (last, 16), (last,))
    kinds = [f"{at}.{place}.{kind}" for place in places for kind in ("weight", "bias")]
    return {k: torch.randn(*s, generator=rng) / 2 for k, s in zip(kinds, shapes, strict=True)}


def test_a_network_without_relu_is_run_without_it() -> None:
    """As MetaKAN's image_classification/models/metakan.py saves it."""
    rng = torch.Generator().manual_seed(0)
    state = {f"embeddings.{n}": torch.randn(o * i, 2, generator=rng)
             for n, (i, o) in enumerate(((6, 5), (5, 3)))}  # fmt: skip
    for number, inputs in enumerate((6, 5)):
        state |= network_of(rng, f"metanet.{number}.layers", 9, (0, 1))
        state[f"layers.{number}.grid"] = (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1)
    packed = kancompress.cluster(saved(state), ClusterConfig(clusters=64, force_pack=True)).model
    back = kancompress.expand(kancompress.encode(packed))
    assert isinstance(back, Restored)
    for number, shape in enumerate(((5, 6), (3, 5))):
        run = sequential(state, f"metanet.{number}.", relu=False)
        vectors = run(state[f"embeddings.{number}"]).detach().reshape(*shape, 9)
        at = f"layers.{number}."
        assert torch.allclose(back.tensors[at + "spline_weight"], vectors[..., :8], atol=1e-5)
        assert torch.allclose(back.tensors[at + "base_weight"], vectors[..., 8], atol=1e-5)


def meta_fast_kan() -> dict[str, Tensor]:
    """As MetaFastKAN saves it; its `spline_linear.weight` takes no part."""
    rng = torch.Generator().manual_seed(0)
    state = network_of(rng, "metanet.layers", 6, (0, 2))
    for number, (inputs, out) in enumerate(((6, 4), (4, 3))):
        at = f"layers.{number}."
        state |= {
            f"embeddings.{number}": torch.randn(inputs, out, 2, generator=rng),
            at + "layernorm.weight": torch.rand(inputs, generator=rng) + 0.5,
            at + "layernorm.bias": torch.randn(inputs, generator=rng),
            at + "rbf.grid": torch.linspace(-2, 2, 5),
            at + "spline_linear.weight": torch.randn(out, inputs * 5, generator=rng),
        }
    return state


def meta_fast_outputs(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """What MetaFastKAN computes."""
    run = sequential(state, "metanet.", relu=True)
    for number, (inputs, out) in enumerate(((6, 4), (4, 3))):
        at = f"layers.{number}."
        weights = run(state[f"embeddings.{number}"]).reshape(out, inputs, 6)
        norm = nn.functional.layer_norm(
            x, (inputs,), state[at + "layernorm.weight"], state[at + "layernorm.bias"]
        )
        planes = torch.exp(-((norm[..., None] - torch.linspace(-2, 2, 5)) ** 2))
        base = nn.functional.silu(x) @ weights[..., 5].T
        x = torch.einsum("bic,oic->bo", planes, weights[..., :5]) + base
    return x.detach()


def test_the_vectors_of_meta_fast_kan_are_packed_and_not_its_dead_weights() -> None:
    state = meta_fast_kan()
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    expected = meta_fast_outputs(state, x)
    raw = saved(state)
    packed = kancompress.cluster(raw, ClusterConfig(clusters=64, force_pack=True)).model
    assert [layer.layout for layer in recognise(state).layers] == ["metakan-fast"] * 2
    for network in (dense_network(read_foreign(raw)), packed_network(packed)):
        with torch.no_grad():
            assert torch.allclose(network(x), expected, atol=1e-4)
    back = kancompress.expand(kancompress.encode(packed))
    assert isinstance(back, Restored)
    assert not any("embeddings" in name or "metanet" in name for name in back.tensors)
    vectors = sequential(state, "metanet.", relu=True)(state["embeddings.1"]).reshape(3, 4, 6)
    again = back.tensors
    assert torch.allclose(
        again["layers.1.spline_linear.weight"], vectors[..., :5].reshape(3, 20), atol=1e-5
    )
    assert torch.allclose(again["layers.1.base_linear.weight"], vectors[..., 5], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("layers.0.rbf.grid", "generated by metanet.layers.0"),
        ("layers.0.spline_linear.weight", "does not go with 24 embeddings"),
        ("metanet.layers.2.weight", "what lies between the linear layers"),
    ],
)
def test_dead_weights_are_not_taken_for_a_layer(change: str, why: str) -> None:
    state = meta_fast_kan()
    if change.startswith("metanet"):  # linear, ReLU, dropout, linear
        state |= {name.replace("2", "3"): state.pop(name) for name in [*state] if "s.2" in name}
    elif "rbf" in change:
        del state[change]
        state["layers.0.grid_of_another_name"] = torch.ones(5)
    else:
        state[change] = torch.ones(4, 35)
    found = recognise(state)
    assert not [layer for layer in found.layers if layer.name == "layers.0"]
    assert any(why in problem for problem in found.problems)


def test_sizes_of_the_source_and_of_its_dense_twin(tmp_path: Path) -> None:
    state = metakan()
    raw = saved(state)
    model = kancompress.cluster(raw, EIGHT).model
    assert (model.source.tensors, model.source.file) == (
        sum(tensor.nbytes for tensor in state.values()),
        len(raw),
    )
    twin, _ = write_out(read_foreign(raw), recognise(state))
    save_file(dict(twin.tensors), tmp_path / "twin.safetensors")
    assert model.source.dense == (
        sum(tensor.nbytes for tensor in twin.tensors.values()),
        (tmp_path / "twin.safetensors").stat().st_size,
    )


def test_a_layer_that_would_grow_is_written_out_all_the_same() -> None:
    state = metakan(widths=(30, 8, 1), distinct=20)
    state["embeddings.1"] = torch.randn(8, 2)
    done = kancompress.cluster(saved(state), ClusterConfig(clusters=20))
    assert [layer.clusters for layer in done.layers] == [20, None]
    back = kancompress.expand(done.model)
    assert isinstance(back, Restored)
    assert torch.allclose(back.tensors["layers.1.spline_weight"], generated(state, 1)[..., :8],
                          atol=1e-5)  # fmt: skip
    assert not any("hypernet" in name or "embeddings" in name for name in back.tensors)


def test_a_network_that_others_may_need_stays() -> None:
    state = metakan(shared=True)
    del state["layers.1.grid"]
    done = kancompress.cluster(saved(state), EIGHT)
    assert any("layers.1.grid is missing" in note for note in done.notes)
    back = kancompress.expand(done.model)
    assert isinstance(back, Restored)
    assert {"embeddings.1", "hypernet.0.weight"} <= back.tensors.keys()
    assert "embeddings.0" not in back.tensors
    assert all(bytes_of(back.tensors[name]) == bytes_of(tensor) for name, tensor in state.items()
               if name in back.tensors)  # fmt: skip


def test_what_cannot_go_together() -> None:
    state = metakan()
    with pytest.raises(UsageError, match="`keep_extra` cannot put those"):
        kancompress.cluster(saved(state), EIGHT, keep_extra=True)
    state["layers.0.spline_weight"] = torch.ones(20, 30, 8)
    found = recognise(state)
    assert [layer.name for layer in found.layers] == ["layers.1"]
    assert any("layers.0.spline_weight is there already" in text for text in found.problems)


def test_inspect_predicts_and_names_layers(tmp_path: Path) -> None:
    path = tmp_path / "meta.pt"
    path.write_bytes(saved(metakan()))
    report = json.loads(done("inspect", path, "-k", "4", "--json").stdout)
    assert [layer["name"] for layer in report["layers"]] == ["layers.0", "layers.1"]
    done("cluster", path, "-k", "4", "-k", "layers.1=4", "-o", tmp_path / "packed.st")
    assert report["predicted"]["file_bytes"] == (tmp_path / "packed.st").stat().st_size


@pytest.mark.skipif(not CASE.is_dir(), reason="the golden cases are not here")
@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_golden_metakan_packs_without_loss(kind: str) -> None:
    model = kancompress.cluster(CASE / f"distinct8.{kind}", EIGHT)
    assert [(layer.clusters, layer.exact) for layer in model.layers] == [(8, True)] * 2
    back = kancompress.expand(kancompress.encode(model.model))
    assert isinstance(back, Restored)
    state = load_file(CASE / "distinct8.safetensors")
    for number in (0, 1):
        rows = state[f"embeddings.{number}"].double()
        at = f"hypernet.{number}."
        hidden = (rows @ state[at + "0.weight"].double().T + state[at + "0.bias"].double()).relu()
        vectors = hidden @ state[at + "2.weight"].double().T + state[at + "2.bias"].double()
        spline = back.tensors[f"layers.{number}.spline_weight"].double()
        base = back.tensors[f"layers.{number}.base_weight"].double()
        joined = torch.cat([spline, base[..., None]], dim=-1)
        assert torch.allclose(joined.reshape(-1, 9), vectors, atol=1e-6)
    config = ClusterConfig(clusters=64, force_pack=True)
    exact = kancompress.expand(kancompress.cluster(CASE / f"state.{kind}", config).model)
    assert isinstance(exact, Restored)
    golden = load_file(CASE / "generated.safetensors")
    for number in (0, 1):
        spline = exact.tensors[f"layers.{number}.spline_weight"]
        assert torch.allclose(spline, golden[f"layer{number}"][..., :8], atol=1e-6)
