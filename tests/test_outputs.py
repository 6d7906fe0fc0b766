"""`cluster --calibrate` and `finetune --distill` from files to files, of ours and of others."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline
from torch.nn import functional

import kancompress
from command import call
from conftest import fresh
from kancompress import ClusterConfig, DataOptions, Target, TrainConfig


def run(*arguments: str | Path, code: int = 0) -> Any:
    """Run a command that should end with `code`."""
    result = call(*arguments)
    assert result.exit_code == code, result.stderr
    return result


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain network on digits, which nobody prepared for clustering."""
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    trained = kancompress.train("gramkan", config=TrainConfig(lr=1e-2, epochs=4))
    kancompress.save(trained.checkpoint, path)
    return path


@pytest.mark.slow
def test_outputs_come_nearer_than_with_plain_k_means(dense: Path, tmp_path: Path) -> None:
    plain, better = tmp_path / "plain.safetensors", tmp_path / "better.safetensors"
    run("cluster", dense, "-k", "8", "-o", plain)
    report = tmp_path / "report.json"
    done = run(
        "cluster", dense, "-k", "8", "--calibrate", "digits", "--report", report, "--json",
        "-o", better,
    )  # fmt: skip
    x = torch.rand(200, 64, generator=torch.Generator().manual_seed(0))
    data = tmp_path / "rows.npz"
    np.savez(data, x=x.numpy(), y=np.zeros(200, np.int64))
    outputs = [
        kancompress.evaluate(path, DataOptions(file=data, test_split=0.9)).outputs
        for path in (dense, plain, better)
    ]
    errors = [float((other - outputs[0]).square().mean()) for other in outputs[1:]]
    assert errors[1] < 0.5 * errors[0]
    found = json.loads(done.stdout)["calibration"]
    assert json.loads(report.read_text()) == found
    for layer in found["layers"].values():
        assert layer["held_out_error"] <= layer["plain_held_out_error"]
    assert found["clusters"] == {"0": 8, "1": 8}


@pytest.mark.exhaustive
def test_a_target_is_kept_and_a_dry_run_tells_the_same_choice(dense: Path, tmp_path: Path) -> None:
    output = tmp_path / "packed.safetensors"
    options = ["cluster", dense, "--calibrate", "digits", "-k", "auto", "--target-bytes", "3500",
               "--rounds", "1", "--sweeps", "1"]  # fmt: skip
    told = run(*options, "--dry-run", "--json", "-o", output)
    assert not output.exists()
    assert json.loads(run(*options, "--dry-run", "--json").stdout) == json.loads(told.stdout)
    assert "name it with --output" in run(*options, code=2).stderr
    done = run(*options, "--json", "-o", output)
    assert output.stat().st_size <= 3500
    first, second = (json.loads(each.stdout)["calibration"] for each in (told, done))
    assert first["clusters"] == second["clusters"]
    assert first["curves"] == second["curves"]
    again = tmp_path / "again.safetensors"
    run(*options, "-o", again)
    assert again.read_bytes() == output.read_bytes()


@pytest.mark.exhaustive
def test_a_ratio_is_reached(dense: Path) -> None:
    done = kancompress.cluster_by_outputs(
        dense, DataOptions(name="digits"), target=Target(ratio=12.0)
    )
    assert dense.stat().st_size / len(kancompress.encode(done.model)) >= 12.0


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        pytest.param(
            ["--target-ratio", "12", "--price", "0"],
            lambda found, size: size[0] >= 12 * size[1],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["--target-error", "0.02"],
            lambda found, _: found["held_out_error"] <= 0.02,
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_targets_are_kept_on_the_command_line(
    target: list[str], kept: Callable[[Any, tuple[int, int]], bool], dense: Path, tmp_path: Path
) -> None:
    output, report = tmp_path / "packed.safetensors", tmp_path / "report.json"
    done = run(
        "cluster", dense, "--calibrate", "digits", "-k", "auto", *target, "-o", output,
        "--report", report,
    )  # fmt: skip
    found = json.loads(report.read_text())
    assert kept(found, (dense.stat().st_size, output.stat().st_size))
    for name, layer in found["layers"].items():
        share = 100 * layer["held_out_error"] ** 0.5
        told = (
            f"layer {name}: relative squared error {layer['held_out_error']:.3g}:"
            f" {f'{share:.0f}' if share >= 9.5 else f'{share:.2g}'} % of the outputs' spread on"
            f" held-out rows, {layer['error']:.3g} on the others"
            f" ({layer['method']}, {layer['iterations']} iterations; plain k-means"
            f" {layer['plain_held_out_error']:.3g} and {layer['plain_error']:.3g}), index entropy"
            f" {layer['index_entropy']:.2f} bits, {layer['seconds']:.1f} s"
        )
        assert told in done.stderr.splitlines()


@pytest.mark.exhaustive
def test_rounds_and_sweeps_are_as_many_as_asked_for(dense: Path, tmp_path: Path) -> None:
    found = []
    for more in ("0", "30"):
        done = run(
            "cluster", dense, "--calibrate", "digits", "-k", "8", "--rounds", more,
            "--sweeps", more, "-o", tmp_path / f"{more}.safetensors", "--json",
        )  # fmt: skip
        found.append(json.loads(done.stdout)["calibration"]["layers"]["0"])
    assert found[1]["iterations"] > 60
    assert found[1]["error"] < 0.95 * found[0]["error"]


@pytest.mark.parametrize("case", ["efficient_kan_default", "fast_kan_default", "tck_fc_kagn"])
def test_golden_checkpoints_are_clustered_by_their_outputs(case: str, tmp_path: Path) -> None:
    """Files that the libraries saved: nearer on fresh rows than with plain k-means."""
    source = next((Path(__file__).parent / "cases" / case).glob("state.*"))
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "rows.npz", x=generator.uniform(-1, 1, (900, 7)))
    fresh = tmp_path / "fresh.npz"
    np.savez(fresh, x=generator.uniform(-1, 1, (200, 7)), y=np.zeros(200, np.int64))
    packed = [tmp_path / "plain.safetensors", tmp_path / "better.safetensors"]
    run("cluster", source, "-k", "8", "-o", packed[0])
    run("cluster", source, "-k", "8", "--calibrate", tmp_path / "rows.npz", "-o", packed[1])
    data = DataOptions(file=fresh, test_split=0.9)
    outputs = [kancompress.evaluate(path, data).outputs for path in (source, *packed)]
    errors = [float((other - outputs[0]).square().mean()) for other in outputs[1:]]
    assert errors[1] < 0.7 * errors[0]


def test_an_array_file_needs_x_alone(dense: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npz"
    np.savez(rows, x=np.random.default_rng(0).random((300, 64)))
    run("cluster", dense, "--calibrate", rows, "-o", tmp_path / "a.safetensors")
    np.savez(rows, x=np.full((300, 64), np.nan))
    done = run("cluster", dense, "--calibrate", rows, "-o", tmp_path / "b.safetensors", code=3)
    assert "NaN" in done.stderr
    np.savez(rows, x=np.zeros((300, 60)))
    done = run("cluster", dense, "--calibrate", rows, "-o", tmp_path / "b.safetensors", code=2)
    assert "takes 64 inputs" in done.stderr
    np.savez(rows, y=np.zeros((300, 60)))
    done = run("cluster", dense, "--calibrate", rows, "-o", tmp_path / "b.safetensors", code=3)
    assert "no array 'x'" in done.stderr


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["-k", "auto"], "needs one target"),
        (["-k", "auto", "--target-error", "0.1"], "needs rows to measure on"),
        (["--target-ratio", "12"], "--target-ratio goes with --clusters auto"),
        (["--report", "r.json"], "needs rows to measure on"),
        (["--base-activation", "gelu"], "belongs to other libraries' files"),
        (["--calibrate", "digits", "-k", "auto"], "needs one target"),
        (["--calibrate", "digits", "--target-error", "0.1"], "goes with --clusters auto"),
        (["--calibrate", "digits", "--dry-run"], "give both"),
        (["--calibrate", "nowhere"], "neither a file nor a data set"),
        (["--calibrate", "digits", "-k", "auto", "-k", "4"], "leave other numbers out"),
        (["--calibrate", "digits", "--keep-scaler"], "belong to other libraries' files"),
        (["--calibrate", "digits", "--keep-extra"], "belong to other libraries' files"),
        (["--samples", "64"], "needs rows to measure on"),
        (["--rounds", "8"], "needs rows to measure on"),
        (["--sweeps", "8"], "needs rows to measure on"),
        (["--calibrate", "digits", "--method", "centred", "--rounds", "8"], "has no rounds"),
        (["--calibrate", "digits", "--method", "feedback", "--sweeps", "8"], "has no sweeps"),
        (["--method", "metric"], "needs rows to measure on"),
    ],
)
def test_options_that_do_not_go_together(
    dense: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    output = tmp_path / "packed.safetensors"
    done = run("cluster", dense, *options, "-o", output, code=2)
    assert sentence in " ".join(done.stderr.split())
    assert not output.exists()


@pytest.mark.slow
def test_distillation_comes_nearer_to_the_dense_outputs(dense: Path, tmp_path: Path) -> None:
    packed, tuned = tmp_path / "packed.safetensors", tmp_path / "tuned.safetensors"
    run("cluster", dense, "-k", "6", "--calibrate", "digits", "-o", packed)
    run("finetune", packed, "--distill", dense, "--lr", "1e-3", "-o", tuned)
    logits = [
        kancompress.evaluate(path).outputs.double().log_softmax(1)
        for path in (dense, packed, tuned)
    ]
    divergence = [
        float((logits[0].exp() * (logits[0] - other)).sum(1).mean()) for other in logits[1:]
    ]
    assert divergence[1] < divergence[0]
    before, after = (kancompress.load(path) for path in (packed, tuned))
    pairs = list(zip(before.layers, after.layers, strict=True))
    assert all(np.array_equal(a.index, b.index) for a, b in pairs)
    moved = [
        role for a, b in pairs for role in a.sides if not torch.equal(a.sides[role], b.sides[role])
    ]
    assert {"bias", "norm"} <= set(moved)


def foreign(path: Path) -> dict[str, torch.Tensor]:
    """A fast-kan checkpoint: weights (out, in coef), LayerNorm, base branch with a bias."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    for number, (inputs, out) in enumerate(((12, 10), (10, 3))):
        stem = f"layers.{number}"
        state |= {
            f"{stem}.layernorm.weight": torch.ones(inputs),
            f"{stem}.layernorm.bias": torch.zeros(inputs),
            f"{stem}.rbf.grid": torch.linspace(-2, 2, 8),
            f"{stem}.spline_linear.weight": torch.randn(out, inputs * 8, generator=generator),
            f"{stem}.base_linear.weight": torch.randn(out, inputs, generator=generator),
            f"{stem}.base_linear.bias": torch.randn(out, generator=generator),
        }
    torch.save(state, path)
    return state


@pytest.mark.slow
def test_another_library_s_checkpoint(tmp_path: Path) -> None:
    source, rows = tmp_path / "fast.pt", tmp_path / "rows.npz"
    state = foreign(source)
    x = np.random.default_rng(0).standard_normal((3000, 12)).astype(np.float32)
    np.savez(rows, x=x, y=np.zeros((3000, 3), np.float32))
    outputs = {}
    for name, options in {"plain": [], "better": ["--calibrate", rows]}.items():
        packed = tmp_path / f"{name}.safetensors"
        run("cluster", source, "-k", "8", *options, "-o", packed)
        outputs[name] = kancompress.evaluate(packed, DataOptions(file=rows)).outputs
    dense = kancompress.evaluate(source, DataOptions(file=rows)).outputs
    errors = {name: float((y - dense).square().mean()) for name, y in outputs.items()}
    assert errors["better"] < 0.6 * errors["plain"]
    restored = kancompress.load(tmp_path / "better.safetensors").state_dict()
    assert list(restored) == list(state)
    for name, tensor in restored.items():
        free = name.endswith(("linear.weight", "linear.bias"))
        assert free or torch.equal(tensor, state[name])
        assert tensor.shape == state[name].shape
    assert not torch.equal(
        restored["layers.0.base_linear.bias"], state["layers.0.base_linear.bias"]
    )
    target = tmp_path / "small.safetensors"
    run(
        "cluster", source, "--calibrate", rows, "-k", "auto", "--target-bytes", "4200", "-o", target
    )
    assert target.stat().st_size <= 4200


def test_a_layer_without_a_bias_says_so_and_gets_none(tmp_path: Path) -> None:
    source = tmp_path / "fast.pt"
    state = foreign(source)
    torch.save({k: t for k, t in state.items() if not k.endswith("base_linear.bias")}, source)
    x = torch.randn(400, 12, generator=torch.Generator().manual_seed(1))
    done = kancompress.cluster_by_outputs(source, x, ClusterConfig(clusters=4))
    assert done.calibrated is not None
    assert any("2 of 2 layers have no bias" in note for note in done.notes)
    assert all(layer.bias is None for layer in done.calibrated.solution.layers.values())


def test_distillation_needs_no_labels(dense: Path, tmp_path: Path) -> None:
    packed, rows = tmp_path / "packed.st", tmp_path / "rows.npz"
    run("cluster", dense, "-k", "6", "-o", packed)
    x = np.random.default_rng(0).random((600, 64)).astype(np.float32)
    np.savez(rows, x=x)
    options = ["--distill", dense, "--data", rows, "--lr", "1e-3", "--epochs", "2", "--json"]
    done = run("finetune", packed, *options, "-o", tmp_path / "tuned.st")
    told = json.loads(done.stdout)
    assert (told["test_before"], told["test"]) == (None, None)
    assert told["validation"]["divergence"] < told["validation_before"]["divergence"]
    done = run("finetune", packed, "--data", rows, "-o", tmp_path / "none.st", code=3)
    assert "no array 'y'" in done.stderr
    source, small = tmp_path / "fast.pt", tmp_path / "small.st"
    foreign(source)
    np.savez(rows, x=x[:, :12])
    run("cluster", source, "-k", "4", "-o", small)
    options = ["--distill", source, "--data", rows, "--lr", "1e-2", "--epochs", "2", "--json"]
    told = json.loads(run("finetune", small, *options, "-o", tmp_path / "better.st").stdout)
    assert told["validation"]["rmse"] < told["validation_before"]["rmse"]


def fast_functions(state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Functions of the first layer's edges on even z of the grid, (out, in, z)."""
    z = torch.linspace(-2, 2, 301)
    gaussians = torch.exp(-((z[:, None] - torch.linspace(-2, 2, 8)) * 7 / 4).square())
    base = state["layers.0.base_linear.weight"][..., None] * functional.silu(z)
    return state["layers.0.spline_linear.weight"].reshape(10, 12, 8) @ gaussians.T + base


def chebyshev_functions(state: dict[str, torch.Tensor]) -> torch.Tensor:
    angles = torch.acos(torch.linspace(-1, 1, 301))
    planes = torch.cos(torch.arange(5) * angles[:, None])
    return state["0.cheby_coeffs"] @ planes.T


def spline_functions(state: dict[str, torch.Tensor]) -> torch.Tensor:
    """Every input has a grid of its own."""
    found = []
    for knots, weights, base in zip(
        state["layers.0.grid"].double().numpy(),
        state["layers.0.spline_weight"].transpose(0, 1),
        state["layers.0.base_weight"].T,
        strict=True,
    ):
        z = np.linspace(knots[3], knots[-4], 301)[:-1]
        planes = torch.from_numpy(BSpline.design_matrix(z, knots, 3).toarray()).float()
        silu = functional.silu(torch.from_numpy(z).float())
        found.append(weights @ planes.T + base[:, None] * silu)
    return torch.stack(found)


def chebyshev(path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    torch.save({"0.cheby_coeffs": torch.randn(12, 10, 5, generator=generator)}, path)


def splines(path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    ends = 0.2 + torch.rand(12, 1, generator=generator) * 3
    state = {
        "layers.0.grid": torch.arange(-3, 9) * 0.4 * ends - ends,
        "layers.0.spline_weight": torch.randn(10, 12, 8, generator=generator),
        "layers.0.base_weight": torch.randn(10, 12, generator=generator),
    }
    torch.save(state, path)


@pytest.mark.parametrize(
    ("make", "functions"),
    [(foreign, fast_functions), (chebyshev, chebyshev_functions), (splines, spline_functions)],
)
def test_the_grid_metric_compares_functions_of_other_libraries(
    make: Callable[[Path], object],
    functions: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    tmp_path: Path,
) -> None:
    source, errors = tmp_path / "model.pt", []
    make(source)
    dense = functions(torch.load(source, weights_only=True))
    for metric in ("coefficients", "grid"):
        packed = tmp_path / f"{metric}.st"
        run("cluster", source, "-k", "6", "--metric", metric, "--force-pack", "-o", packed)
        gap = functions(kancompress.load(packed).state_dict()) - dense
        errors.append(float(gap.square().mean()))
    assert errors[1] < 0.97 * errors[0]


def test_the_grid_metric_needs_a_known_basis(tmp_path: Path) -> None:
    source = tmp_path / "jacobi.pt"
    torch.save({"0.jacobi_coeffs": torch.randn(12, 10, 5)}, source)
    done = run("cluster", source, "--metric", "grid", "-o", tmp_path / "a.st", code=2)
    assert "alpha and beta" in " ".join(done.stderr.split())


@pytest.mark.exhaustive
def test_norms_in_float16_leave_bytes_for_centroids(dense: Path, tmp_path: Path) -> None:
    options = ["cluster", dense, "--calibrate", "digits", "-k", "auto", "--target-bytes", "3500"]
    errors = {}
    for dtype in ("source", "float16"):
        output = tmp_path / f"{dtype}.safetensors"
        done = run(*options, "--side-dtype", dtype, "--json", "-o", output)
        assert output.stat().st_size <= 3500
        errors[dtype] = json.loads(done.stdout)["calibration"]["held_out_error"]
        sides = [
            tensor for layer in kancompress.load(output).layers for tensor in layer.sides.values()
        ]
        assert {tensor.dtype for tensor in sides} == {
            torch.float16 if dtype == "float16" else torch.float32
        }
    assert errors["float16"] < errors["source"]


@pytest.mark.parametrize("calibrated", [True, False])
def test_another_library_s_tensors_keep_their_types(tmp_path: Path, calibrated: bool) -> None:
    source, rows = tmp_path / "fast.pt", tmp_path / "rows.npz"
    foreign(source)
    np.savez(rows, x=np.zeros((300, 12), np.float32))
    options = ["--calibrate", rows] if calibrated else []
    output = tmp_path / "packed.safetensors"
    done = run("cluster", source, *options, "--side-dtype", "float16", "-o", output, code=2)
    assert "come back in their own types" in " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty rows as images."""
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    np.savez(path, x=np.random.default_rng(0).random((40, 1, 8, 8)))
    return path


def test_a_report_replaces_no_other_file(dense: Path, rows: Path, tmp_path: Path) -> None:
    output = tmp_path / "packed.safetensors"
    before = [path.read_bytes() for path in (dense, rows)]
    options: list[str | Path] = ["cluster", dense, "--calibrate", rows, "--force"]
    for report in (dense, rows, output, Path("-"), tmp_path, tmp_path / "none" / "r.json"):
        done = run(*options, "--report", report, "-o", output, code=2)
        assert "layer 0" not in done.stderr  # told before any work
    done = run(*options, "-o", rows, code=2)
    assert "is the input itself" in done.stderr
    assert not output.exists()
    assert [path.read_bytes() for path in (dense, rows)] == before


def test_images_are_rows_and_any_memory_will_do(dense: Path, rows: Path, tmp_path: Path) -> None:
    flat, packed = tmp_path / "flat.npz", [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    np.savez(flat, x=np.load(rows)["x"].reshape(40, 64))
    options = ["-k", "2", "--method", "centred", "--memory", "inf"]
    for data, output in zip((rows, flat), packed, strict=True):
        run("cluster", dense, "--calibrate", data, *options, "-o", output)
    assert packed[0].read_bytes() == packed[1].read_bytes()


def test_moments_that_overflow_are_one_sentence(dense: Path, tmp_path: Path) -> None:
    huge = tmp_path / "huge.npz"
    np.savez(huge, x=np.random.default_rng(0).random((40, 64)) * 1e30)
    output = tmp_path / "a.safetensors"
    done = run("cluster", dense, "--calibrate", huge, "-o", output, code=2)
    assert "overflow float32" in done.stderr
    assert not output.exists()


@pytest.mark.slow
def test_a_budget_out_of_reach_is_told_the_smallest_file(dense: Path, rows: Path) -> None:
    with pytest.raises(kancompress.KancompressError) as refused:
        kancompress.choose_clusters(dense, DataOptions(file=rows), Target(bytes=1))
    smallest = re.search(r"the smallest, at k = 1, has ([\d,]+),", str(refused.value))
    assert smallest, str(refused.value)
    least = int(smallest[1].replace(",", ""))
    kancompress.choose_clusters(dense, DataOptions(file=rows), Target(bytes=least))
    assert least < dense.stat().st_size / 10


@pytest.mark.exhaustive
def test_layers_above_the_memory_are_solved_in_groups_of_inputs(tmp_path: Path) -> None:
    """27 MB of moments and factor in 11 MB: nearer on fresh rows than plain k-means."""
    generator = np.random.default_rng(0)
    mixed = generator.normal(size=(5200, 40)) @ generator.normal(size=(40, 300)) / 12
    x, y = mixed.astype(np.float32), np.zeros(5200, np.int64)
    y[::2] = 1
    files = {"rows.npz": slice(5000), "fresh.npz": slice(5000, None)}
    for name, part in files.items():
        np.savez(tmp_path / name, x=x[part], y=y[part])
    dense, rows = tmp_path / "dense.safetensors", tmp_path / "rows.npz"
    run("train", "--model", "gramkan", "--data", rows, "--test-split", "0.1", "--epochs", "0",
        "-o", dense)  # fmt: skip
    options = ["cluster", dense, "-k", "8"]
    within = ["--calibrate", rows, "--memory", "0.01"]
    ways = {
        "plain": [], "grouped": within, "again": within, "whole": ["--calibrate", rows],
    }  # fmt: skip
    for name, way in ways.items():
        run(*options, *way, "-o", tmp_path / f"{name}.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (
        tmp_path / "grouped.safetensors"
    ).read_bytes()
    data = DataOptions(file=tmp_path / "fresh.npz", test_split=0.9)
    wanted = kancompress.evaluate(dense, data).outputs
    errors = {
        name: float(
            (kancompress.evaluate(tmp_path / f"{name}.safetensors", data).outputs - wanted)
            .square()
            .mean()
        )
        for name in ("plain", "grouped", "whole")
    }
    assert errors["whole"] < errors["grouped"] < 0.8 * errors["plain"]


def test_rows_of_another_width_are_told_as_they_were_given() -> None:
    """All of them, not what is left once some are held out."""
    rows = np.zeros((40, 5), np.float32)
    with pytest.raises(kancompress.UsageError) as told:
        kancompress.cluster(fresh("kan", (6, 4, 3)), rows=rows, clusters=2)
    assert str(told.value) == (
        "The network takes 6 inputs, but the rows to calibrate on have the shape [40, 5]."
    )
