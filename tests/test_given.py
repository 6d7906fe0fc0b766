"""Values of wrong types from Python: one sentence that names the parameter, no traceback."""

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kancompress
from conftest import fresh
from kancompress import (
    COptions,
    HtmlOptions,
    IndexCoding,
    Machine,
    OnnxOptions,
    RunOptions,
    UsageError,
    Weights,
)
from kancompress.runtime import load

X = np.zeros((2, 6), np.float32)


@pytest.fixture(scope="module")
def packed() -> bytes:
    config = kancompress.ClusterConfig(clusters=3)
    return kancompress.encode(kancompress.cluster(fresh("kan", (6, 4, 3)), config).model)


class _Nameless:
    def __repr__(self) -> str:
        raise ValueError


WRONG_OPTIONS: list[tuple[Any, str, Any]] = [
    (kind, name, value)
    for kind, name, values in (
        (OnnxOptions, "with_normalisation", ("yes", 1, None)),
        (OnnxOptions, "with_softmax", ("no", 0)),
        (OnnxOptions, "weights", ("x", 5, None, ["dense"])),
        (COptions, "with_normalisation", ("yes", None)),
        (COptions, "with_softmax", ("no", _Nameless())),
        (COptions, "with_main", (3, "")),
        (COptions, "prefix", (5, b"p", ["p"])),
        (COptions, "indices", ("x", 5, True)),
        (COptions, "image", ("ab", 5, (28,), (28, 28, 1), (28.0, 28), (True, 28), [None, 1])),
        (HtmlOptions, "title", (5, b"t", ["t"])),
        (HtmlOptions, "labels", ("abc", 5, None, [1, 2], {"a", "b"})),
    )
    for value in values
]


@pytest.mark.parametrize(("kind", "name", "value"), WRONG_OPTIONS)
def test_options_of_formats(kind: Any, name: str, value: Any, packed: bytes) -> None:
    """They are refused when they are made, and by their names in `export`."""
    form = {OnnxOptions: "onnx", COptions: "c", HtmlOptions: "html"}[kind]
    for made in (
        lambda: kind(**{name: value}),
        lambda: kancompress.export(packed, format=form, options={name: value}),
    ):
        with pytest.raises(UsageError, match=f"`{name}=") as told:
            made()
        assert told.value.fields == (name,)


def test_options_that_mean_the_same() -> None:
    """Words are choices, lists are tuples, and numpy's whole numbers are whole numbers."""
    word: Any = "table"
    assert OnnxOptions(weights=word).weights is Weights.TABLE
    coding: Any = "rans"
    size: Any = [np.int64(28), 32]
    chosen = COptions(indices=coding, image=size)
    assert chosen.indices is IndexCoding.RANS
    assert chosen.image == (28, 32)
    names: Any = ["a", "b"]
    assert HtmlOptions(labels=names) == HtmlOptions(labels=("a", "b"))


PARAMETERS: dict[str, tuple[Callable[..., Any], list[tuple[str, Any]]]] = {
    "export": (
        lambda file, **given: kancompress.export(file, **({"format": "onnx"} | given)),
        [
            ("options", 5), ("told", 5), ("told", {}), ("path", 5), ("format", 5),
            ("format", ["c"]), ("dry_run", "no"), ("force", 1), ("any_size", "no"), ("inputs", 5),
            ("inputs", "a.st"), ("inputs", [5]), ("name", 5),
        ],
    ),
    "predict": (
        lambda file, **given: kancompress.predict(file, X, **({"runtime": "numpy"} | given)),
        [
            ("runtime", 5), ("runtime", None), ("batch_size", "5"), ("batch_size", 1.5),
            ("batch_size", True), ("batch_size", 0), ("options", 5), ("options", {}),
            ("machine", "cpu"), ("state", 5), ("shape", 5), ("shape", (6.0,)), ("shape", (0,)),
            ("raw", "no"), ("classes", "no"), ("name", 5),
        ],
    ),
    "load": (load, [("any_size", "x"), ("options", 5), ("options", {})]),
    "model_card": (
        kancompress.model_card,
        [
            ("base_model", 5), ("license", 5), ("exported", 5), ("exported", "a.onnx"),
            ("exported", [5]), ("name", 5),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("call", "name", "value"),
    [(call, *given) for call, rest in PARAMETERS.values() for given in rest],
)
def test_parameters(call: Callable[..., Any], name: str, value: Any, packed: bytes) -> None:
    with pytest.raises(UsageError) as told:
        call(packed, **{name: value})
    assert told.value.fields == (name,)
    assert name in str(told.value)


SETTINGS = (
    (kancompress.TrainConfig, "epoch", "epochs"),
    (kancompress.FinetuneConfig, "learning", "lr"),
    (kancompress.ClusterConfig, "cluster", "clusters"),
    (kancompress.CalibrationConfig, "sample", "samples"),
    (kancompress.RepackConfig, "headers", "header"),
    (kancompress.PlotConfig, "projections", "projection"),
    (kancompress.Target, "byte", "bytes"),
    (kancompress.DataOptions, "files", "file"),
    (kancompress.BasisSpec, "degrees", "degree"),
    (kancompress.MetaSpec, "embeddings", "embedding"),
    (kancompress.ConvSpec, "stride", "strides"),
    (Machine, "devices", "device"),
    (RunOptions, "layout", "layouts"),
    (OnnxOptions, "weight", "weights"),
    (COptions, "prefixes", "prefix"),
    (HtmlOptions, "titles", "title"),
)


@pytest.mark.parametrize(("kind", "name", "meant"), SETTINGS)
def test_settings_that_there_are_not_are_told_by_the_nearest(
    kind: Any, name: str, meant: str
) -> None:
    """In all records of settings alike, whose signatures name their fields."""
    with pytest.raises(UsageError) as told:
        kind(**{name: 1})
    known = list(signature(kind).parameters)
    assert meant in known
    near = f" Did you mean {meant}?" if name != "learning" else ""
    assert str(told.value) == (
        f"{kind.__name__} has no setting {name!r}; known are {', '.join(known)}.{near}"
    )
    with pytest.raises(TypeError):
        kind(1, 2, 3)


def test_any_bytes_are_the_bytes_of_a_file(packed: bytes) -> None:
    wanted = load(packed).run(X)
    for source in (bytearray(packed), memoryview(packed)):
        np.testing.assert_array_equal(load(source).run(X), wanted)  # type: ignore[arg-type]
        assert kancompress.inspect(source)["file_bytes"] == len(packed)


@pytest.mark.parametrize("source", [None, 5, [], object()])
def test_sources(source: Any) -> None:
    name = type(source).__name__
    says = rf"a path.*{name}|{name}; a path"
    for call in (
        load,
        kancompress.load,
        kancompress.inspect,
        kancompress.model_card,
        kancompress.repack,
        kancompress.evaluate,
        lambda one: kancompress.export(one, format="c"),
        lambda one: kancompress.predict(one, X),
        lambda one: kancompress.predict(one, X, runtime="numpy"),
    ):
        with pytest.raises(UsageError, match=says):
            call(source)


def test_devices_and_modules(packed: bytes) -> None:
    device: Any = "abacus"
    with pytest.raises(UsageError, match="`device=abacus` is none of auto, cpu"):
        kancompress.predict(packed, X, machine=Machine(device=device))
    model, options = kancompress.load(packed), {"base_activation": "gelu"}
    assert isinstance(model, kancompress.PackedModel)
    with pytest.raises(UsageError, match="RunOptions was expected"):
        model.module(options)  # type: ignore[arg-type]
    assert model.module(RunOptions()) is not None


@pytest.mark.parametrize("form", ["bogus", None, 5])
def test_formats_of_predictions(form: Any, packed: bytes) -> None:
    found = kancompress.predict(packed, X, runtime="numpy")
    with pytest.raises(UsageError, match=r"`form=.* is none of npz, safetensors, csv"):
        found.encode(form)
    assert found.encode("csv") == found.encode(kancompress.RowFormat.CSV)


def test_a_suffix_of_another_format_is_refused(packed: bytes, tmp_path: Path) -> None:
    found = kancompress.predict(packed, X, runtime="numpy")
    with pytest.raises(UsageError, match=r"another format than csv, .* name it \.csv"):
        found.save(tmp_path / "x.npz", form="csv")
    assert not list(tmp_path.iterdir())
    assert found.save(tmp_path / "x.txt", form="csv") == found.save(tmp_path / "x.csv")


def test_rows_of_several_lengths(packed: bytes) -> None:
    rows: Any = [[1], [2, 3]]
    for call in (lambda: load(packed).run(rows), lambda: kancompress.predict(packed, rows)):
        with pytest.raises(UsageError, match="several lengths"):
            call()


def test_rows_of_any_real_numbers_are_those_of_float32() -> None:
    rows = np.random.default_rng(0).random((40, 3))
    quick = kancompress.CalibrationConfig(method="kmeans", samples=16)
    network = fresh("fastkan", (3, 2))
    one, other = (
        kancompress.cluster(network, clusters=2, rows=given, calibration=quick).calibrated
        for given in (rows, rows.astype(np.float32))
    )
    assert one is not None
    assert other is not None
    assert one.solution is not None
    assert other.solution is not None
    assert one.solution.held_out == other.solution.held_out
