"""What a person at a Python prompt gives and sees: forms of arguments, settings, one line each."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import kancompress
from conftest import fresh
from kancompress import (
    BasisSpec,
    CalibrationConfig,
    ClusterConfig,
    ConvSpec,
    DataOptions,
    FinetuneConfig,
    KancompressError,
    Machine,
    MetaSpec,
    PlotConfig,
    RepackConfig,
    RunOptions,
    StateFile,
    Target,
    TrainConfig,
    UsageError,
)


def state_dict() -> dict[str, torch.Tensor]:
    """Another library's layer, as efficient-kan names and shapes it."""
    generator = torch.Generator().manual_seed(0)
    return {
        "layers.0.spline_weight": torch.randn(12, 10, 8, generator=generator),
        "layers.0.base_weight": torch.randn(12, 10, generator=generator),
        "layers.0.grid": (torch.arange(-3, 9) * 0.4 - 1).repeat(10, 1),
    }


class Net(nn.Module):
    """A live module whose state dict is `state_dict()`."""

    def __init__(self) -> None:
        super().__init__()
        for name, tensor in state_dict().items():
            self.register_buffer(name.replace(".", "_"), tensor)

    def state_dict(self, *_: Any, **__: Any) -> dict[str, torch.Tensor]:  # type: ignore[override]
        return state_dict()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def dense() -> kancompress.Checkpoint:
    return fresh("kan", (64, 6, 10))


@pytest.fixture(scope="module")
def small(dense: kancompress.Checkpoint) -> kancompress.Compression:
    return kancompress.cluster(dense, clusters=4)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of arrays, under whose name the named data set goes as well."""
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    rng = np.random.default_rng(0)
    np.savez(path, x=rng.normal(size=(60, 64)).astype(np.float32), y=np.arange(60) % 10)
    return path


# --- data -----------------------------------------------------------------------------------


def test_data_is_a_name_a_path_or_options(
    small: kancompress.Compression, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits.parent)
    wanted = kancompress.evaluate(small.model, DataOptions(file=digits)).outputs
    for data in ("digits.npz", Path("digits.npz"), str(digits), DataOptions(file="digits.npz")):
        assert torch.equal(kancompress.evaluate(small, data).outputs, wanted)
    assert kancompress.evaluate(small, "digits").score.examples == 360
    assert DataOptions(file="digits.npz", directory="d").directory == Path("d")
    assert kancompress.has_labels("digits.npz")
    tuned = kancompress.finetune(small, "digits.npz", FinetuneConfig(epochs=0))
    assert tuned.test is not None
    assert tuned.test.examples == len(wanted)
    trained = kancompress.train("fastkan", "digits.npz", TrainConfig(lr=0.1, epochs=0))
    assert trained.test.examples == len(wanted)
    config = StateFile(path="a.state", resume="b.state")  # type: ignore[arg-type]
    assert (config.path, config.resume) == (Path("a.state"), Path("b.state"))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (np.zeros((3, 64)), r"`data` is a ndarray; .*numpy\.savez\('data\.npz', x=x, y=y\)"),
        ((1, 2), "`data` is a tuple; a data set's name, the path of a file"),
        (FinetuneConfig(), "`data` is a FinetuneConfig; give that as config="),
        ("digtis", r"`data=digtis` is neither a file nor a data set; .* Did you mean digits\?"),
        ("digit.npz", r"neither a file nor a data set; .* Did you mean digits\.npz\?"),
    ],
)
def test_other_data_is_refused_with_what_to_give(
    data: Any, says: str, small: Any, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits.parent)
    for command in (kancompress.evaluate, kancompress.finetune):
        with pytest.raises(UsageError, match=says):
            command(small, data)
    with pytest.raises(UsageError, match=says):
        kancompress.train("kan", data)


def test_rows_of_numpy_of_any_numbers_are_those_of_torch(dense: Any, digits: Path) -> None:
    rows = np.random.default_rng(1).integers(0, 3, size=(60, 64))
    quick = {"calibration": CalibrationConfig(starts=1, sweeps=0, rounds=0), "clusters": 3}
    wanted = kancompress.cluster(dense, rows=torch.from_numpy(rows).float(), **quick)
    for given in (rows, rows.astype(np.float32)):
        made = kancompress.cluster_by_outputs(dense, given, **quick)
        assert kancompress.encode(made) == kancompress.encode(wanted)
    wide = kancompress.cluster(dense, rows=rows.astype(np.float64), **quick)
    assert len(kancompress.encode(wide)) == len(kancompress.encode(wanted))
    from_file = kancompress.cluster(dense, rows=str(digits), **quick)
    with np.load(digits) as arrays:
        from_array = kancompress.cluster(dense, rows=arrays["x"], **quick)
    assert kancompress.encode(from_file) == kancompress.encode(from_array)
    with pytest.raises(UsageError, match="`rows=nowhere` is neither a file nor a data set"):
        kancompress.cluster(dense, rows="nowhere")
    with pytest.raises(UsageError, match=r"`rows` is list; .*the path of a file with an array x"):
        kancompress.cluster(dense, rows=[[1.0]])  # type: ignore[arg-type]


# --- settings as keywords -------------------------------------------------------------------


def test_numbers_of_clusters_are_a_keyword_of_every_clustering_call(dense: Any) -> None:
    rows = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    calibration = CalibrationConfig(starts=1, sweeps=0, rounds=0)
    config = ClusterConfig(clusters=3, codebook_dtype=kancompress.StoredDtype.FLOAT16)
    keywords = {"clusters": 3, "codebook_dtype": "float16"}
    pairs = [
        (kancompress.cluster(dense, config), kancompress.cluster(dense, **keywords)),
        (
            kancompress.cluster_by_outputs(dense, rows, config, calibration),
            kancompress.cluster_by_outputs(dense, rows, calibration=calibration, **keywords),
        ),
        (kancompress.compress(Net(), config), kancompress.compress(Net(), **keywords)),
        (kancompress.cluster(Net(), config), kancompress.cluster(state_dict(), **keywords)),
    ]
    for one, other in pairs:
        assert kancompress.encode(one) == kancompress.encode(other)
    for settings, says in (({"clusters": 0}, "`clusters=0` is"), ({"part": 3}, "setting 'part'")):
        with pytest.raises(UsageError, match=says):
            kancompress.choose_clusters(dense, rows, Target(ratio=8.0), **settings)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"cluster": 4}, r"has no setting 'cluster'; known are clusters, .* Did you mean clusters"),
        ({"row": "digits"}, "has no setting 'row'; .* Did you mean rows"),
        ({"clusters": "auto"}, r"`clusters=auto` .*target=kancompress\.Target\(bytes=20_000\)"),
        ({"clusters": 0}, "`clusters=0` is not possible; a whole number from 1 to 65536"),
        ({"config": 4}, r"`config` is an int; a ClusterConfig .*ClusterConfig\(clusters=16\)"),
        ({"target": 2000}, r"`target` is an int; a Target was expected, as in .*Target\(bytes="),
        ({"machine": "cpu"}, r"`machine` is a str; a Machine was expected"),
        ({"options": {"spline_order": 3}}, "`options` is a dict; a RunOptions was expected"),
        ({"model": "models:Net", "rows": "digits"}, r"build_module\('models:make_net'\)"),
        ({"model": Net, "rows": "digits"}, r"`model` is the class Net; .*model=Net\(\)"),
        ({"layouts": "pykan"}, "a mapping from names of layers to names of layouts"),
    ],
)
def test_settings_that_there_are_not_name_what_there_is(given: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        kancompress.cluster(state_dict(), **given)


# --- sources --------------------------------------------------------------------------------


def test_what_is_in_memory_is_inspected_as_its_file(
    dense: Any, small: kancompress.Compression, tmp_path: Path
) -> None:
    kancompress.save(small, tmp_path / "packed.st")
    torch.save(state_dict(), tmp_path / "state.pt")
    of_file = kancompress.inspect(tmp_path / "packed.st")
    assert kancompress.inspect(small) == kancompress.inspect(small.model) == of_file
    assert kancompress.inspect(dense)["kind"] == "dense"
    wanted = kancompress.inspect(tmp_path / "state.pt", clusters=4)
    for source in (state_dict(), Net()):
        found = kancompress.inspect(source, clusters=4)
        assert found["layers"] == wanted["layers"]
        assert found["predicted"] == wanted["predicted"]


def test_results_go_where_their_records_go(small: kancompress.Compression, tmp_path: Path) -> None:
    written = kancompress.save(small, tmp_path / "packed.st")
    assert (tmp_path / "packed.st").stat().st_size == written
    assert kancompress.encode(small) == kancompress.encode(small.model)
    shapes = kancompress.load(bytearray(kancompress.encode(small))).layers  # type: ignore
    assert [layer.shape for layer in shapes] == [layer.shape for layer in small.model.layers]
    assert kancompress.encode(kancompress.expand(small)) == kancompress.encode(
        kancompress.expand(small.model)
    )
    restored = kancompress.expand(kancompress.cluster(state_dict(), clusters=3))
    kancompress.save(restored, tmp_path / "restored.pt")
    loaded = torch.load(tmp_path / "restored.pt", weights_only=True)
    assert list(loaded) == list(state_dict())
    again = kancompress.cluster({name: t.numpy() for name, t in state_dict().items()}, clusters=3)  # type: ignore
    assert torch.equal(again.state_dict()["layers.0.grid"], loaded["layers.0.grid"])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: kancompress.evaluate(Net(), "digits"), "no live Net. Pack that with .* `model`"),
        (lambda: kancompress.expand(Net()), r"no live Net\. Pack that with kancompress\.compress"),
        (lambda: kancompress.predict(state_dict(), [[1]]), "no dict of tensors. Pack that with"),
        (lambda: kancompress.inspect(3), "inspect takes a path, .* it was given an int"),
        (lambda: kancompress.load(Net()), "load takes a path or the bytes of a file"),
        (lambda: kancompress.save(Net(), "x.st"), "a Checkpoint or a PackedModel was expected"),
        (lambda: kancompress.cluster({"model": state_dict(), "epoch": 3}), "lie in its 'model'"),
        (lambda: kancompress.parametrize(Net(), 3), "parametrize takes a path"),
        (lambda: kancompress.parametrize("Net", "x.st"), "`model` is a str"),
        (lambda: kancompress.plot_edges(Net(), "a.png"), "takes a path, the bytes of a file"),
        (lambda: kancompress.train("metakna"), "Did you mean metakan"),
        (lambda: kancompress.train("kan", hidden=32), r"`hidden=32` .*such as \(32,\)"),
        (lambda: kancompress.train("kan", config={"lr": 1}), "`config` is a dict; a TrainConfig"),
    ],
)
def test_other_sources_are_refused_in_the_words_of_the_library(
    call: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=says) as caught:
        call()
    assert "--" not in str(caught.value)


# --- values that cannot be meant ------------------------------------------------------------


NAN, INF = math.nan, math.inf
IMPOSSIBLE: dict[type, dict[str, tuple[object, ...]]] = {
    TrainConfig: {
        "lr": (-1, NAN, INF, "1e-3", None, True), "lr_embedding": (-1, NAN), "lr_rest": (INF,),
        "decay": (-0.1, NAN), "epochs": (-1, 1.5, "3"), "patience": (0,), "batch_size": (0, 2**31),
        "weight_decay": (-1.0,), "seed": (-1, 2**63), "compile": (1, "no"),
        "precision": ("half", 16), "augment": ("yes", 0),
    },
    FinetuneConfig: {
        "lr": (-1.0, NAN), "epochs": (-1,), "patience": (0,), "batch_size": (0,),
        "also": ("norms", (3,)), "precision": ("half",),
    },
    ClusterConfig: {
        "clusters": (0, -3, 65_537, 2.0, "16"), "layers": ({"0": 0}, {0: 4}, 4),
        "parts": (0,), "layer_parts": ({"0": -1},), "codebook_dtype": ("float8",),
        "side_dtype": (torch.float16,), "seed": (-1,), "max_iterations": (0,),
        "force_pack": ("yes",), "target_bytes": (0, 1.5), "metric": ("l2",), "kmeans": ("faiss",),
        "price": (-1.0, NAN, INF), "indices": ("huffman",), "keep_masked": (1,), "header": ("no",),
    },
    RepackConfig: {"header": ("tiny",), "indices": (8,), "codebook_dtype": ("int4",)},
    CalibrationConfig: {
        "method": ("best",), "samples": (0,), "rounds": (-1,), "sweeps": (-1,), "starts": (0,),
        "damping": (-0.1, NAN), "memory": (0, 1.5), "batch_size": (0,), "max_iterations": (0,),
    },
    Target: {"bytes": (0, 1.5), "ratio": (0.5, NAN), "error": (-1.0, INF)},
    RunOptions: {
        "layouts": ("pykan", {0: "pykan"}), "base_activation": ("swish",),
        "rbf_denominator": (0, -1.0, INF), "grid_range": ((1, -1), (0, 0), (0,), 1.0, (NAN, 1)),
        "spline_order": (-1, 17, 2.0), "layers": ({"0": {}},),
    },
    PlotConfig: {"projection": ("umap",), "clusters": (0,), "sample": (0, 10**7)},
    Machine: {"device": ("cuda:1", torch.device("cpu")), "workers": (-1, 2000)},
    DataOptions: {
        "name": (3,), "file": (3, b"x", ""), "directory": (None,), "download": ("yes",),
        "test_split": (-1, 1.5, NAN), "shape": ((0,), 3, (1.5,)), "images": (1,),
    },
    BasisSpec: {
        "family": ("spline",), "grid": (None, (1.0, -1.0, 5), (-1, 1, 0), (-1, 1), (-1, NAN, 5)),
        "degree": (-1, 17, None),
    },
    ConvSpec: {
        "strides": (0, (0,), (2000,)), "padding": (-1, 17), "dropout": ((1.0, 0.5), (0.5,), 0.5),
    },
    MetaSpec: {"embedding": (0,), "hidden": (1.5,)},
    StateFile: {"path": (None, 3), "resume": (3,)},
}  # fmt: skip
POSSIBLE: dict[type, dict[str, Any]] = {
    TrainConfig: {"lr": 1e-3},
    BasisSpec: {"family": "kan", "grid": (-1, 1, 5), "degree": 3},
    ConvSpec: {"strides": (1, 2)},
    StateFile: {"path": "x.state"},
}


@pytest.mark.parametrize("kind", IMPOSSIBLE, ids=lambda kind: kind.__name__)
def test_configurations_refuse_what_cannot_be_when_they_are_made(kind: type) -> None:
    usual = POSSIBLE.get(kind, {})
    for name, values in IMPOSSIBLE[kind].items():
        for value in values:
            with pytest.raises(UsageError) as caught:
                kind(**usual | {name: value})
            assert name in caught.value.fields, (name, value)
            text = str(caught.value)
            assert text.startswith(f"`{name}="), text
            assert re.search(r" was expected\.$|^`\w+=.*` is none of .*, .*\.$", text), text
            assert len(text.splitlines()) == 1


def test_a_configuration_says_all_that_is_wrong_and_takes_the_types_of_others() -> None:
    with pytest.raises(UsageError) as caught:
        TrainConfig(lr=-1, epochs=-1, precision="half")  # type: ignore[arg-type]
    assert len(caught.value.sentences) == 3
    for wrong in ({}, {"bytes": 10, "ratio": 2.0}):
        with pytest.raises(UsageError, match="one was expected, as in Target"):
            Target(**wrong)
    config = ClusterConfig(clusters=np.int64(4), codebook_dtype="int8")  # type: ignore[arg-type]
    assert type(config.clusters) is int
    assert config.codebook_dtype is kancompress.StoredDtype.INT8
    assert ConvSpec(strides=[1, 2]).strides == (1, 2)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"`grid=.* is not possible; None, as gramkan has none"):
        BasisSpec(family="gramkan", grid=(-1, 1, 5), degree=3)  # type: ignore[arg-type]


def test_every_configuration_checks_its_values() -> None:
    """Those that the test above lists are all the records of settings that are public."""
    others = {"COptions", "OnnxOptions", "HtmlOptions", "Hooks"}
    settings = {
        name
        for name in kancompress.__all__
        if name.endswith(("Config", "Options", "Spec", "Target", "Machine", "StateFile"))
        and dataclasses.is_dataclass(getattr(kancompress, name))
    }
    assert {kind.__name__ for kind in IMPOSSIBLE} | others >= settings - {"DataSpec", "ModelSpec"}


# --- what a prompt and a notebook show ------------------------------------------------------


class Cells(HTMLParser):
    """The cells of a page's tables, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(page)
        assert not self.open, "a tag stays open"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def results(dense: Any, small: Any, digits: Path) -> list[Any]:
    """One of every result that commands give."""
    trained = kancompress.train("fastkan", digits, TrainConfig(lr=0.1, epochs=1), hidden=(4,))
    tuned = kancompress.finetune(small, digits, FinetuneConfig(epochs=1))
    calibration = CalibrationConfig(starts=1, sweeps=0, rounds=0)
    solved = kancompress.cluster(dense, rows=digits, calibration=calibration, clusters=3)
    assert solved.calibrated is not None
    assert solved.calibrated.solution is not None
    foreign = kancompress.cluster(state_dict(), clusters=3)
    many = kancompress.sweep(dense, [3], data=digits)
    return [
        many, *many.points, kancompress.compare(dense, small, digits),
        dense, small, trained, tuned, solved, solved.calibrated, solved.calibrated.solution,
        *solved.calibrated.solution.layers.values(), foreign, foreign.model,
        kancompress.expand(foreign), *small.model.layers, kancompress.evaluate(small, digits),
        kancompress.predict(small, np.zeros((3, 64)), classes=True), kancompress.repack(small),
        kancompress.export(small, format="c"), *small.layers,
    ]  # fmt: skip


def test_every_result_is_one_short_line(dense: Any, small: Any, digits: Path) -> None:
    for result in results(dense, small, digits):
        text = repr(result)
        assert type(result).__name__ in text
        assert "\n" not in text
        assert len(text) < 260
    size = len(kancompress.encode(small))
    ratio = f"{len(kancompress.encode(dense)) / size:.1f} times smaller"
    for text in (repr(small), repr(small.model)):
        assert f"{size:,} bytes" in text
        assert ratio in text


def test_a_notebook_shows_layers_bytes_ratio_and_loss(dense: Any, small: Any, digits: Path) -> None:
    size = len(kancompress.encode(small))
    tuned = kancompress.finetune(small, digits, FinetuneConfig(epochs=0))
    for result in (small, small.model, tuned):
        page = Cells(result._repr_html_())
        assert f"{size:,} bytes" in page.text
        assert "times smaller than" in page.text
        rows = [row for row in page.rows if row[0] in ("0", "1") and len(row) > 3]
        assert len(rows) == 2
        for layer, row in zip(small.layers, rows, strict=True):
            assert {f"{layer.edges:,}", f"{layer.packed_bytes:,}", "4"} <= set(row)
            assert f"{layer.dense_bytes:,}" in row
    assert f"loss {tuned.validation.loss:.4f}" in Cells(tuned._repr_html_()).text
    score = kancompress.evaluate(small, digits)
    assert ["loss", f"{score.score.loss:.3g}"] in Cells(score._repr_html_()).rows
    [point] = (many := kancompress.sweep(dense, [3], data=digits)).points
    row = ["k = 3", f"{point.file_bytes:,}", f"{point.ratio:.3g}", str(point.score)]
    assert Cells(many._repr_html_()).rows[-1][:4] == row
    both = Cells(kancompress.compare(dense, point.raw, digits)._repr_html_()).rows
    assert [one[2] for one in both[-2:]] == [str(many.dense), str(point.score)]
    hostile = {name.replace("layers.0", "<b>.0"): t for name, t in state_dict().items()}
    assert [
        row[0] for row in Cells(kancompress.cluster(hostile, clusters=3)._repr_html_()).rows[1:]
    ] == ["<b>.0"]


def test_errors_are_all_of_the_library() -> None:
    with pytest.raises(KancompressError, match=r"Did you mean .*conftest\.py\?"):
        kancompress.inspect(Path(__file__).with_name("confest.py"))
