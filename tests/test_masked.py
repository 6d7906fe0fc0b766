"""Masked edges cost a symbol, and what would grow as it was asked for is kept without loss."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_forms import efficient_kan
from test_with_rows import QUICK, gap, rows, splines
from torch import Tensor

import hostile
import kancompress
from command import done, refused
from kancompress import ClusterConfig, IndexCoding, Metric, Target
from kancompress.cli import _output
from kancompress.cli.cluster import _tell
from kancompress.models.records import sizes
from kancompress.reporting import unshrunk


def pruned(
    share: float, *, symbolic: bool = False, widths: tuple[int, ...] = (40, 40, 8)
) -> dict[str, Tensor]:
    """A network as pykan saves it, with that share of its edges, the others' coefficients stale."""
    rng = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for number, (inputs, out) in enumerate(pairwise(widths)):
        at, other = f"act_fun.{number}.", f"symbolic_fun.{number}."
        mask = (torch.rand(inputs, out, generator=rng) < share).float()
        hidden, affine = torch.zeros(out, inputs), torch.zeros(out, inputs, 4)
        if symbolic:
            hidden[:2, 1] = 1
            affine[:2, 1] = torch.randn(2, 4, generator=rng)
            mask[1, :2] = 0
        state |= {
            at + "grid": (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1),
            at + "coef": torch.randn(inputs, out, 8, generator=rng),
            at + "scale_base": torch.randn(inputs, out, generator=rng),
            at + "scale_sp": torch.rand(inputs, out, generator=rng),
            at + "mask": mask,
            other + "mask": hidden,
            other + "affine": affine,
        }
    return state


def size(state: dict[str, Tensor], config: ClusterConfig) -> int:
    model = kancompress.cluster(state, config).model
    raw = kancompress.encode(model)
    assert len(raw) == sum(sizes(model))
    return len(raw)


@pytest.mark.parametrize("symbolic", [False, True])
def test_masked_edges_come_back_as_zeros_and_the_rest_exactly(symbolic: bool) -> None:
    state = pruned(0.3, symbolic=symbolic, widths=(7, 9, 4))
    made = kancompress.cluster(state, ClusterConfig(clusters=64))
    back = kancompress.load(kancompress.encode(made.model)).state_dict()
    assert any("masked edges come back as zeros; `keep_masked`" in note for note in made.notes)
    assert any("4 symbolic edges keep" in note for note in made.notes) == symbolic
    for number, layer in enumerate(made.model.layers):
        at = f"act_fun.{number}."
        hidden = state[f"symbolic_fun.{number}.mask"].T != 0
        live = state[at + "mask"] != 0
        for name in state:
            if name.endswith(("mask", "affine", "grid")):
                assert torch.equal(back[name], state[name]), name
        for name in ("coef", "scale_base", "scale_sp"):
            assert torch.equal(back[at + name][hidden], state[at + name][hidden])
            if name != "scale_sp":
                assert not back[at + name][~live & ~hidden].any()
        folded = state[at + "coef"] * state[at + "scale_sp"][..., None]
        assert torch.equal(
            (back[at + "coef"] * back[at + "scale_sp"][..., None])[live], folded[live]
        )
        assert torch.equal(back[at + "scale_base"][live], state[at + "scale_base"][live])
        assert layer.kept_edges == int(hidden.sum())
    assert sum(layer.masked for layer in made.layers) == sum(
        int((state[f"act_fun.{n}.mask"].T + state[f"symbolic_fun.{n}.mask"] == 0).sum())
        for n in range(2)
    )


def test_a_pruned_network_is_smaller_the_fewer_edges_it_has() -> None:
    """The more so with few; none at all is hardly more than a header."""
    config = ClusterConfig(clusters=16)
    found = [size(pruned(share), config) for share in (1, 0.1, 0.01, 0)]
    assert found == sorted(found, reverse=True)
    assert found[1] < 0.9 * found[0]
    assert found[3] < 2500
    wide = ClusterConfig(clusters=16, indices=IndexCoding.BITS)
    assert size(pruned(0.1), wide) > found[1]


def test_masked_edges_may_be_kept() -> None:
    state = pruned(0.3, widths=(7, 9, 4))
    made = kancompress.cluster(state, ClusterConfig(clusters=4, keep_masked=True))
    back = made.state_dict()
    for number, layer in enumerate(made.model.layers):
        dead = state[f"act_fun.{number}.mask"] == 0
        for name in ("coef", "scale_base"):
            name = f"act_fun.{number}.{name}"
            assert torch.equal(back[name][dead], state[name][dead])
        assert layer.kept_edges == int(dead.sum())
        assert layer.encoding == "bits"
    assert not any("keep_masked" in note for note in made.notes)


def test_edges_that_a_tied_layer_needs_are_kept(tmp_path: Path) -> None:
    """Both layers have one tensor of coefficients, but other masks."""
    state = pruned(0.4, widths=(5, 5, 5))
    for name in ("coef", "scale_base", "scale_sp"):
        state[f"act_fun.1.{name}"] = state[f"act_fun.0.{name}"]
    torch.save(state, tmp_path / "tied.pt")
    back = kancompress.cluster(tmp_path / "tied.pt", ClusterConfig(clusters=64)).state_dict()
    needed = (state["act_fun.0.mask"] + state["act_fun.1.mask"]) > 0
    assert torch.equal(back["act_fun.0.scale_base"][needed], state["act_fun.0.scale_base"][needed])
    for number in range(2):
        name = f"act_fun.{number}.mask"
        assert torch.equal(back[name], state[name])


@pytest.mark.parametrize(
    "how", ["plain", "grid", "rows", pytest.param("auto", marks=pytest.mark.slow)]
)
def test_a_layer_whose_edges_are_all_masked_is_one_of_no_edges(how: str) -> None:
    state = splines(pruned=True)
    state["act_fun.1.mask"] = torch.zeros_like(state["act_fun.1.mask"])
    given: dict[str, object] = {}
    if how in ("rows", "auto"):
        given = {"rows": rows(), "calibration": QUICK}
    if how == "auto":
        given |= {"target": Target(bytes=3600)}
    metric = Metric.GRID if how == "grid" else Metric.COEFFICIENTS
    made = kancompress.cluster(state, ClusterConfig(clusters=6, metric=metric), **given)  # type: ignore[arg-type]
    raw = kancompress.encode(made.model)
    back = kancompress.load(raw).state_dict()
    assert torch.equal(back["act_fun.1.mask"], state["act_fun.1.mask"])
    assert not back["act_fun.1.coef"].any()
    assert made.model.clusters_of(made.model.layers[1]) == 1
    assert how != "auto" or len(raw) <= 3600


def test_numbers_by_edge_are_read_as_the_format_says() -> None:
    """A file made by hand: edges 1 and 4 kept, 0 and 3 of index 0, 2 and 5 of others."""
    back = kancompress.expand(hostile.MASKED.build())
    assert isinstance(back, kancompress.Restored)
    of_edge = np.array([0, 0.5, 1, 0, 0.5, 1]).reshape(3, 2)
    assert np.array_equal(back.tensors["mask"].numpy(), of_edge.T)
    pairs = [[-1, -1], [1, 2], [0, 0], [-1, -1], [3, 4], [0, 0]]
    assert np.array_equal(back.tensors["affine"].numpy(), np.reshape(pairs, (3, 2, 2)))


# --- what would grow ------------------------------------------------------------------------------


def few(edges: tuple[int, int] = (4, 5)) -> dict[str, Tensor]:
    return pruned(1, widths=(*edges, 2))


def test_what_would_grow_is_kept_without_loss(tmp_path: Path) -> None:
    """Smaller than the source, exact, and told; inspect and a target know it as well."""
    state, path, out = few(), tmp_path / "m.pt", tmp_path / "m.st"
    torch.save(state, path)
    forced = kancompress.cluster(path, ClusterConfig(clusters=19, force_pack=True))
    told = done("cluster", path, "-k", "20", "-o", out).stderr
    result = done("cluster", path, "-k", "20", "-o", out, "--json", "--force")
    whole = out.stat().st_size
    assert whole <= len(kancompress.encode(forced.model))
    times = path.stat().st_size / whole
    assert times > 2
    said = (
        f"packed without loss, the same function in other numbers, {times:.3g} times smaller: with"
        " the codebook that was asked for no layer would be smaller"
    )
    assert said in told
    assert any(said in note for note in json.loads(result.stdout)["notes"])
    back = kancompress.load(out).state_dict()
    for number in range(2):
        at = f"act_fun.{number}."
        folded = state[at + "coef"] * state[at + "scale_sp"][..., None]
        assert torch.equal(back[at + "coef"], folded)
        assert torch.equal(back[at + "scale_base"], state[at + "scale_base"])
    assert kancompress.inspect(path, clusters=20)["predicted"]["file_bytes"] == whole
    small = kancompress.cluster(path, ClusterConfig(target_bytes=whole))
    assert len(kancompress.encode(small.model)) <= whole


def test_what_would_grow_with_rows_is_kept_without_loss_too() -> None:
    state = splines()
    made = kancompress.cluster(state, ClusterConfig(clusters=70), rows=rows(), calibration=QUICK)
    assert gap(state, made.state_dict(), rows()) < 1e-9
    assert any(note.startswith("packed without loss, ") for note in made.notes)
    assert not any(layer.foretold for layer in made.layers if layer.clusters is not None)


@pytest.mark.parametrize("foretold", [False, True])
def test_bytes_that_were_not_measured_are_told_as_about(
    foretold: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    layer = kancompress.LayerClustering(
        name="0", edges=9, coefficients=2, clusters=None, requested=8, iterations=0, repaired=0,
        exact=False, distortion=0.0, packed_bytes=90, dense_bytes=72, foretold=foretold,
    )  # fmt: skip
    _output.set_quiet(False)
    _tell(layer)
    about = "about 90" if foretold else "90"
    assert f"packed at k = 8 it would take {about} bytes, dense 72" in capsys.readouterr().err


def test_a_layer_that_stays_dense_is_a_layer_of_the_packed_file() -> None:
    """Its edges and coefficients count, and no factor of it is said to be folded."""
    state = pruned(1, widths=(6, 8, 1))
    made = kancompress.cluster(state, clusters=8)
    back = made.state_dict()
    assert torch.equal(back["act_fun.1.scale_sp"], state["act_fun.1.scale_sp"])
    folded = [note for note in made.notes if "folded" in note]
    assert [note.split()[0] for note in folded] == ["act_fun.0.scale_sp"]
    reason = "as with the codebook that was asked for they would be no smaller"
    assert f"kept without loss, {reason}: act_fun.1" in made.notes
    report = kancompress.inspect(made)
    names = ["coef", "scale_base"]
    wanted = [sum(state[f"act_fun.{n}.{name}"].nbytes for name in names) for n in range(2)]
    assert [(row["name"], row["edges"], row["clusters"], row["dense_bytes"], row["tensors"])
            for row in report["layers"]] == [
        ("act_fun.0", 48, 8, wanted[0], [f"act_fun.0.{name}" for name in names]),
        ("act_fun.1", 8, None, wanted[1], [f"act_fun.1.{name}" for name in names]),
    ]  # fmt: skip
    assert report["totals"]["edges"] == 56
    assert report["totals"]["dense_bytes"] == sum(wanted)
    assert report["parts"]["coefficients"] == wanted[1]
    assert report["parts"]["other_tensors"] == sum(row["bytes"] for row in report["other"])
    assert sum(report["parts"].values()) == report["file_bytes"]
    page = kancompress.markdown_report(made)
    assert f"All coefficients written out take {sum(wanted):,} bytes." in page
    assert "stays dense: with its codebook it would be no smaller" in page
    assert "56 edges" in kancompress.model_card(made)


def test_what_stays_dense_and_is_all_alike_takes_no_bytes() -> None:
    state = efficient_kan((6, 5, 3))
    state["layers.1.base_weight"].zero_()
    made = kancompress.cluster(state, ClusterConfig(clusters=4, layers={"layers.1": 64}))
    report = kancompress.inspect(made)
    dense = next(row for row in report["layers"] if row["clusters"] is None)
    rows = {one.what: one.size for one in unshrunk.found(report)}
    assert rows["layer layers.1"] == dense["stored_bytes"] == report["parts"]["coefficients"]
    assert dense["stored_bytes"] == dense["dense_bytes"] - state["layers.1.base_weight"].nbytes


def test_only_a_file_larger_than_its_source_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    state = {"l.coef": torch.randn(2, 2, 3)}
    save_file(state, path)
    line = refused(
        1, "cluster", path, "--layout", "coef=coef: out in coef", "-o", tmp_path / "o.st"
    )
    assert "would grow" in line
    assert f"the source has {path.stat().st_size:,}" in line
    assert "--force-pack" in line
