"""What goes together with rows: kept tensors, masked edges, factors kept apart, other starts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from test_outputs import foreign
from torch import Tensor
from torch.nn import functional

import kancompress
from command import done
from conftest import fresh
from kancompress import (
    CalibrationConfig,
    Checkpoint,
    ClusterConfig,
    KMeans,
    Method,
    Metric,
    Target,
)
from kancompress.cli import _calibration
from kancompress.clustering.ladder import Problem
from kancompress.errors import UsageError

QUICK = CalibrationConfig(starts=1)


def splines(*, scaled: bool = False, pruned: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """Splines 7-10-3 with the names of efficient-kan, or pykan's with some edges pruned."""
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}
    for number, (inputs, out) in enumerate(((7, 10), (10, 3))):
        knots = (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1)
        spline = torch.randn(out, inputs, 8, generator=generator)
        base = torch.randn(out, inputs, generator=generator)
        if pruned:
            at = f"act_fun.{number}."
            mask = (torch.rand(inputs, out, generator=generator) > 0.3).float()
            state |= {
                at + "grid": knots,
                at + "coef": spline.transpose(0, 1).contiguous(),
                at + "scale_base": base.T.contiguous(),
                at + "scale_sp": torch.ones(inputs, out),
                at + "mask": mask,
                f"symbolic_fun.{number}.mask": torch.zeros(out, inputs),
                f"symbolic_fun.{number}.affine": torch.zeros(out, inputs, 4),
            }
            continue
        at = f"layers.{number}."
        state |= {
            at + "grid": knots,
            at + "spline_weight": spline,
            at + "base_weight": base,
        }
        if scaled:
            state[at + "spline_scaler"] = 0.2 + 2 * torch.rand(out, inputs, generator=generator)
    return state


def outputs(state: dict[str, Tensor], x: np.ndarray) -> np.ndarray:
    """The forward of `splines` in float64, by scipy."""
    y = x.astype(np.float64)
    for number in range(2):
        pykan = f"act_fun.{number}.coef" in state
        at = f"act_fun.{number}." if pykan else f"layers.{number}."
        own = {name.removeprefix(at): t.double().numpy() for name, t in state.items()}
        spline = own["coef"].transpose(1, 0, 2) if pykan else own["spline_weight"]
        base = own["scale_base"].T if pykan else own["base_weight"]
        scale = own["scale_sp"].T if pykan else own.get("spline_scaler", np.ones_like(base))
        mask = own["mask"].T if pykan else np.ones_like(base)
        knots = own["grid"][0]
        elements = [BSpline.basis_element(knots[j : j + 5], extrapolate=False) for j in range(8)]
        planes = np.stack([np.nan_to_num(element(y)) for element in elements], axis=-1)
        silu = y / (1 + np.exp(-y))
        y = np.einsum("nis,ois,oi->no", planes, spline, scale * mask) + silu @ (base * mask).T
    return y


def rows(count: int = 400, inputs: int = 7, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, inputs, generator=generator)
    return torch.tanh(mixed @ torch.randn(inputs, inputs, generator=generator) / 2) * 0.9


def gap(dense: dict[str, Tensor], packed: dict[str, Tensor], x: Tensor) -> float:
    wanted = outputs(dense, x.numpy())
    found = outputs(packed, x.numpy())
    return float(((found - wanted) ** 2).sum() / ((wanted - wanted.mean(0)) ** 2).sum())


def held_out(x: Tensor) -> Tensor:
    """The rows that `cluster` holds out of these."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[: len(x) // 8]]


@pytest.mark.parametrize("kind", ["pruned", "scaled"])
@pytest.mark.parametrize("method", [Method.METRIC, Method.FEEDBACK, Method.SWEEPS])
def test_masked_edges_and_kept_factors_are_solved(kind: str, method: Method) -> None:
    """Nearer on fresh rows than plain k-means; the error is the one that is told; masks come back
    bit for bit, and what is behind them as zeros."""
    pruned = kind == "pruned"
    state, x = splines(pruned=pruned, scaled=not pruned), rows(600)
    config = ClusterConfig(clusters=8, force_pack=True)
    calibration = CalibrationConfig(starts=1, method=method)
    kept = not pruned
    made = kancompress.cluster(state, config, rows=x, calibration=calibration, keep_scaler=kept)
    assert not any("plain k-means" in note for note in made.notes)
    plain = kancompress.cluster(state, config, keep_scaler=kept)
    fresh_rows = rows(300, seed=1)[-200:] * 0.99
    assert gap(state, made.state_dict(), fresh_rows) < gap(state, plain.state_dict(), fresh_rows)
    assert made.calibrated is not None
    assert made.calibrated.solution is not None
    told = made.calibrated.solution.held_out
    assert told == pytest.approx(gap(state, made.state_dict(), held_out(x)), rel=1e-3)
    back = made.state_dict()
    for name, tensor in state.items():
        if name.endswith(("mask", "grid", "affine", "spline_scaler")):
            assert torch.equal(back[name], tensor), name
    for number in range(2 if pruned else 0):
        at = f"act_fun.{number}."
        dead = state[at + "mask"] == 0
        assert dead.any()
        for name in ("coef", "scale_base"):
            assert not back[at + name][dead].any()
    for layer in made.model.layers:  # no more centroids than were asked for, but that of zeros
        indices = made.model.indices_of(layer)
        assert len(np.unique(indices[indices > 0] if pruned else indices)) <= 8
        assert made.model.clusters_of(layer) == len(np.unique(indices))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pruned", "scaled"])
def test_masked_edges_and_kept_factors_take_part_in_auto(kind: str, tmp_path: Path) -> None:
    pruned = kind == "pruned"
    state = splines(pruned=pruned, scaled=not pruned)
    whole = kancompress.cluster(
        state, ClusterConfig(clusters=8, force_pack=True), keep_scaler=not pruned
    )
    target = len(kancompress.encode(whole.model))
    made = kancompress.cluster(
        state,
        ClusterConfig(price=None if pruned else 0.0),
        rows=rows(),
        calibration=QUICK,
        target=Target(bytes=target),
        keep_scaler=not pruned,
    )
    assert len(kancompress.encode(made.model)) <= target
    assert made.calibrated is not None
    assert set(made.calibrated.curves) == {layer.name for layer in whole.layers}
    x = rows(300)
    assert gap(state, made.state_dict(), x) < gap(state, whole.state_dict(), x)


def test_pruned_edges_do_not_count_as_edges_of_a_small_problem() -> None:
    """With a centroid for every edge that is left, the layer is exact."""
    state = splines(pruned=True)
    made = kancompress.cluster(
        state, ClusterConfig(clusters=70, force_pack=True), rows=rows(), calibration=QUICK
    )
    assert gap(state, made.state_dict(), rows()) < 1e-6
    left = sum(int(state[f"act_fun.{n}.mask"].sum()) for n in range(2))
    assert sum(layer.edges for layer in made.layers) == left
    assert sum(layer.packed_edges for layer in made.model.layers) == 100


@pytest.mark.slow
def test_what_lies_beside_the_model_is_kept_with_rows_too(tmp_path: Path) -> None:
    state = splines()
    content = {"model": state, "optimizer": {"m": torch.arange(50.0)}, "epoch": 7}
    torch.save(content, tmp_path / "model.pt")
    np.savez(tmp_path / "rows.npz", x=rows().numpy())
    options = ["--calibrate", tmp_path / "rows.npz", "--keep-extra", "--force-pack", "-k", "4",
               "--method", "centred"]  # fmt: skip
    done("cluster", tmp_path / "model.pt", *options, "-o", tmp_path / "packed.st")
    done("expand", tmp_path / "packed.st", "-o", tmp_path / "again.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert again["epoch"] == 7
    assert torch.equal(again["optimizer"]["m"], content["optimizer"]["m"])
    alone = kancompress.cluster(
        tmp_path / "model.pt",
        ClusterConfig(clusters=4, force_pack=True),
        rows=rows(),
        calibration=CalibrationConfig(method=Method.CENTRED),
    )
    for name, tensor in alone.state_dict().items():
        assert torch.equal(again["model"][name], tensor)
    budget = (tmp_path / "packed.st").stat().st_size + 150
    auto = kancompress.cluster(
        tmp_path / "model.pt",
        rows=rows(),
        calibration=QUICK,
        target=Target(bytes=budget),
        keep_extra=True,
    )
    assert budget - 150 < len(kancompress.encode(auto.model)) <= budget


def network(name: str) -> tuple[Checkpoint, Tensor]:
    checkpoint = fresh(name, (64, 8, 4))
    x = torch.rand(500, 64, generator=torch.Generator().manual_seed(3))
    return checkpoint, x


@pytest.mark.parametrize("method", [Method.KMEANS, Method.FEEDBACK])
def test_functions_on_their_grid_are_one_more_start(method: Method) -> None:
    """Never worse than coefficients' k-means, than functions' k-means, and than without it."""
    checkpoint, x = network("kan")
    calibration = CalibrationConfig(method=method, starts=1)
    held: dict[Metric, Any] = {}
    for metric in Metric:
        config = ClusterConfig(clusters=5, layers={"1": 3}, metric=metric)
        made = kancompress.cluster(checkpoint, config, rows=x, calibration=calibration)
        held[metric] = made.calibrated.solution.layers["0"]  # type: ignore[union-attr]
    on_grid = kancompress.cluster(
        checkpoint, ClusterConfig(clusters=5, layers={"1": 3}, metric=Metric.GRID)
    )
    layer = held[Metric.GRID]
    assert layer.held_out <= layer.plain_held_out
    assert layer.plain_held_out == held[Metric.COEFFICIENTS].plain_held_out
    if method is Method.KMEANS and layer.held_out < layer.plain_held_out:
        indices = on_grid.model.indices_of(on_grid.model.layer("0"))
        assert np.array_equal(layer.clustering.labels, indices)
    assert layer.error <= held[Metric.COEFFICIENTS].error * (1 + 1e-9) or method is Method.KMEANS


def test_scikit_learn_s_k_means_starts_solutions() -> None:
    """With few centroids both run to the same; from 64 on ours has momentum."""
    checkpoint, x = network("gramkan")
    for k, same in ((6, True), (100, False)):
        found = []
        for by in KMeans:
            made = kancompress.cluster(
                checkpoint,
                ClusterConfig(clusters=k, kmeans=by),
                rows=x,
                calibration=CalibrationConfig(method=Method.KMEANS),
            )
            plain = kancompress.cluster(checkpoint, ClusterConfig(clusters=k, kmeans=by))
            indices = made.model.indices_of(made.model.layers[0])
            assert np.array_equal(indices, plain.model.indices_of(plain.model.layers[0]))
            found.append(indices)
        assert np.array_equal(*found) == same


@pytest.mark.exhaustive
def test_a_bias_that_was_constant_is_weighed(tmp_path: Path) -> None:
    """It takes bytes once it takes up the mean error, so no file is larger than was asked for."""
    state = foreign(tmp_path / "fast.pt")
    for name in state:
        if name.endswith("base_linear.bias"):
            state[name] = torch.zeros_like(state[name])
    x = torch.randn(64, 12, generator=torch.Generator().manual_seed(0))
    for target in (4000, 4024, 4036):
        made = kancompress.cluster(state, rows=x, calibration=QUICK, target=Target(bytes=target))
        assert len(kancompress.encode(made.model)) <= target


def test_groups_of_inputs_repair_what_layers_before_left() -> None:
    """The second layer in five groups: nearer than where it aims at its own weights."""
    checkpoint = fresh("gramkan", (64, 60, 10))
    x = torch.rand(3000, 64, generator=torch.Generator().manual_seed(3))
    config = ClusterConfig(clusters=4, layers={"1": 16})
    calibration = CalibrationConfig(starts=1, memory=3 * 4 * (12 * 4) ** 2)
    repaired = kancompress.cluster(checkpoint, config, rows=x, calibration=calibration)
    with pytest.MonkeyPatch.context() as patch:
        made = Problem.__init__
        patch.setattr(
            Problem,
            "__init__",
            lambda self, *given, **more: made(self, *given, **more | {"gaps": None}),
        )
        alone = kancompress.cluster(checkpoint, config, rows=x, calibration=calibration)
    errors = [each.calibrated.solution.layers["1"].held_out for each in (repaired, alone)]  # type: ignore[union-attr]
    assert errors[0] < 0.95 * errors[1]


class Small(torch.nn.Module):
    """Two layers of splines with the names of efficient-kan's."""

    def __init__(self) -> None:
        super().__init__()
        for name, tensor in splines().items():
            path, _, own = name.rpartition(".")
            at: torch.nn.Module = self
            for part in path.split("."):
                if not hasattr(at, part):
                    at.add_module(part, torch.nn.Module())
                at = getattr(at, part)
            at.register_buffer(own, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(x)


def test_a_source_may_be_whatever_holds_the_tensors(tmp_path: Path) -> None:
    """Path, bytes, state dict and module give the same tensors back."""
    state, config = splines(), ClusterConfig(clusters=6, force_pack=True)
    torch.save(state, tmp_path / "model.pt")
    sources = [tmp_path / "model.pt", (tmp_path / "model.pt").read_bytes(), state, Small()]
    found = [kancompress.cluster(source, config).state_dict() for source in sources]
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        assert all(torch.equal(tensor, found[0][name]) for name, tensor in other.items())
    with_rows = [
        kancompress.cluster(source, config, rows=rows(100), calibration=QUICK)
        for source in sources[:3]
    ]
    for done_ in with_rows[1:]:
        for name, tensor in done_.state_dict().items():
            assert torch.equal(tensor, with_rows[0].state_dict()[name])
    checkpoint = fresh("kan", (12, 8, 3))
    one, other_ = (
        kancompress.encode(kancompress.cluster(source).model)
        for source in (checkpoint, checkpoint.encode())
    )
    assert one == other_
    with pytest.raises(kancompress.UsageError, match="The state dict's tensor 'a' is sparse"):
        kancompress.cluster({"a": torch.zeros(3, 3).to_sparse()})
    with pytest.raises(kancompress.UsageError, match="Only a torch file"):
        kancompress.cluster(state, keep_extra=True)
    with pytest.raises(kancompress.UsageError, match="need rows"):
        kancompress.cluster(state, target=Target(error=0.1))


def test_rows_may_be_an_array() -> None:
    x = rows(100)
    config = ClusterConfig(clusters=4)
    one, two = (
        kancompress.cluster(splines(), config, rows=given, calibration=QUICK)
        for given in (x, x.numpy())
    )
    assert kancompress.encode(one.model) == kancompress.encode(two.model)


@pytest.mark.parametrize("given", [[1.0, 2.0], np.array(["a", "b"])])
def test_other_rows_are_refused(given: object) -> None:
    with pytest.raises(UsageError, match=r"`rows` is .*; a tensor or array"):
        kancompress.cluster(splines(), rows=given)  # type: ignore[arg-type]


def test_a_source_of_another_kind_is_refused() -> None:
    with pytest.raises(UsageError, match="from int; a path, bytes"):
        kancompress.cluster(3)  # type: ignore[arg-type]


def test_the_network_s_error_with_plain_k_means_stands_beside_its_own() -> None:
    state, given = splines(), {"clusters": 4, "rows": rows()}
    found = kancompress.cluster(state, calibration=QUICK, **given).calibrated  # type: ignore[arg-type]
    kmeans = replace(QUICK, method=Method.KMEANS)
    plain = kancompress.cluster(state, calibration=kmeans, **given).calibrated  # type: ignore[arg-type]
    assert found is not None
    assert plain is not None
    own, other = found.solution, plain.solution
    assert own is not None
    assert other is not None
    assert (other.plain, other.plain_held_out) == (None, None)  # it is plain k-means
    assert own.plain_held_out == pytest.approx(other.held_out, rel=1e-6)
    assert own.plain == pytest.approx(other.error, rel=1e-6)
    assert own.held_out <= own.plain_held_out


def test_a_warning_names_what_was_not_done_yet(capsys: pytest.CaptureFixture[str]) -> None:
    kmeans = replace(QUICK, method=Method.KMEANS)
    found = kancompress.cluster(splines(), clusters=2, rows=rows(), calibration=kmeans).calibrated
    assert found is not None
    assert found.solution is not None

    def said(
        method: Method,
        numbers: dict,
        curves: dict,
        slope: float | None = None,
        asked: Method | None = None,
    ) -> str:
        assert found is not None
        assert found.solution is not None
        layers = {
            name: replace(layer, method=method, slope=slope)
            for name, layer in found.solution.layers.items()
        }
        moved = replace(found.solution, layers=layers, held_out=0.2, plain=0.4, plain_held_out=0.5)
        _calibration.tell(replace(found, clusters=numbers, curves=curves, solution=moved), asked)
        for name, layer in layers.items():
            _calibration.solved(name, layer)
        return capsys.readouterr().err

    line = (
        "Warning: the outputs moved by more than 10% of their spread; score the packed file, and "
    )
    auto = "-k auto --target-bytes N, which chooses both for each layer"
    swept = said(Method.SWEEPS, {"0": 2}, {})
    assert f"{line}take more centroids (-k), --parts where a layer has few edges, or {auto}\n" in (
        swept
    )
    assert "on held-out rows, " in swept
    assert " (plain k-means 0.5 and 0.4)\n" in swept
    cut = said(Method.METRIC, {"0": kancompress.Cut(2, 3)}, {})
    assert f"{line}take more centroids (-k), or {auto}, or a finer --method\n" in cut
    plain = said(Method.KMEANS, {"0": kancompress.Cut(2, 3)}, {}, asked=Method.KMEANS)
    assert f"{line}take more centroids (-k), or {auto}, or a finer --method\n" in plain
    worse = said(Method.KMEANS, {"0": kancompress.Cut(2, 3)}, {}, asked=Method.SWEEPS)
    assert f"{line}take more centroids (-k), or {auto}\n" in worse
    chosen = said(Method.SWEEPS, {"0": 2}, {"0": None})
    assert f"{line}allow more bytes or less error (--target-bytes, --target-error)\n" in chosen
    # a layer of less than a kilobyte: nothing is told by what one more would do
    assert "kilobyte" not in said(Method.SWEEPS, {"0": 2}, {}, 1.0)
    told = "one more kilobyte would take 40% of its error"
    assert told in said(Method.SWEEPS, {"0": 2}, {}, 0.4)
