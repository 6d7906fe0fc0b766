"""Data: the user's arrays in npz and safetensors files, and named sets that lie on the disk."""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import kancompress
from command import call, done, refused
from kancompress import DataOptions, InvalidFileError, UsageError
from kancompress.data import datasets
from kancompress.specs import DataSpec

ROWS = 60
X = np.random.default_rng(0).normal(size=(ROWS, 5)).astype(np.float32)
CLASSES = np.arange(ROWS, dtype=np.int64) % 3
TARGETS = X[:, :2].copy()
TINY = ("--hidden", "4", "--epochs", "1")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def npz(name: str, **arrays: Any) -> Path:
    np.savez(name, **arrays)
    return Path(name)


def load(path: Path, **options: Any) -> datasets.Dataset:
    return datasets.load_for_training(DataOptions(file=path, **options), seed=0)


# --- what is read --------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "anything"])
def test_both_formats_by_content(suffix: str) -> None:
    path = Path(f"data.{suffix}")
    if suffix == "npz":
        np.savez_compressed(path, x=X, y=CLASSES)
    else:
        save_file({"x": torch.from_numpy(X), "y": torch.from_numpy(CLASSES)}, path)
    data = load(path)
    assert data.spec == DataSpec(name="file", classes=3, test=0.2)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [43, 5, 12]
    assert data.features == 5


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "i1", "u1", "i8", "u2", "?"])
def test_types_of_x(dtype: str) -> None:
    x = (X * 10).astype(dtype)
    data = load(npz("data.npz", x=x, y=CLASSES, x_test=x, y_test=CLASSES))
    assert data.test.x.dtype == torch.float32
    np.testing.assert_array_equal(data.test.x, x.astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_types_that_numpy_lacks(dtype: torch.dtype) -> None:
    x = torch.from_numpy(X).to(dtype)
    y = torch.from_numpy(CLASSES)
    save_file({"x": x, "y": y, "x_test": x.clone(), "y_test": y.clone()}, "data.st")
    assert torch.equal(load(Path("data.st")).test.x, x.float())


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", ">i8", "u8", "?"])
def test_whole_numbers_are_classes(dtype: str) -> None:
    y = (CLASSES > 0).astype(dtype)
    data = load(npz("data.npz", x=X, y=y))
    assert (data.spec.classes, data.spec.targets) == (2, None)
    assert data.train.y.dtype == torch.int64


@pytest.mark.parametrize(("y", "targets"), [(X[:, 0], 1), (TARGETS, 2), (X.astype("f8"), 5)])
def test_real_numbers_are_targets(y: np.ndarray, targets: int) -> None:
    data = load(npz("data.npz", x=X, y=y))
    assert (data.spec.classes, data.spec.targets) == (None, targets)
    assert data.train.y.dtype == torch.float32
    assert data.train.y.shape == (43, targets)


def test_images_are_flattened() -> None:
    assert load(npz("data.npz", x=np.zeros((ROWS, 2, 3, 4)), y=CLASSES)).features == 24


def test_test_rows_of_its_own() -> None:
    data = load(npz("data.npz", x=X, y=CLASSES, x_test=X[:7] + 1, y_test=CLASSES[:7] + 1))
    assert torch.equal(data.test.x, torch.from_numpy(X[:7] + 1))
    assert len(data.train) + len(data.validation) == ROWS
    assert data.spec.test is None
    assert data.spec.classes == 4  # a class that the test rows alone hold counts, too


def test_split() -> None:
    data = load(npz("data.npz", x=X, y=CLASSES), test_split=0.5)
    assert len(data.test) == 30
    rows = torch.cat([part.x for part in (data.train, data.validation, data.test)])
    assert torch.equal(rows[:, 0].sort().values, torch.from_numpy(np.sort(X[:, 0])))
    again = load(Path("data.npz"), test_split=0.5)
    assert torch.equal(again.test.x, data.test.x)
    other = datasets.load_for_training(DataOptions(file=Path("data.npz"), test_split=0.5), seed=1)
    assert torch.equal(other.test.x, data.test.x)  # a seed never moves test rows
    assert not torch.equal(other.train.x, data.train.x)


# --- what is refused -----------------------------------------------------------------------

LARGE = np.full(ROWS, 70_000)
ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "no y": ({"x": X}, "has no array 'y'"),
    "no x": ({"y": CLASSES}, "has no array 'x'"),
    "unknown": ({"x": X, "y": CLASSES, "z": X}, "unknown array 'z'"),
    "half a test": ({"x": X, "y": CLASSES, "x_test": X}, "give both or neither"),
    "flat x": ({"x": X[:, 0], "y": CLASSES}, "(rows, features)"),
    "no rows": ({"x": X[:0], "y": CLASSES[:0]}, "(rows, features)"),
    "no features": ({"x": X[:, :0], "y": CLASSES}, "(rows, features)"),
    "scalar y": ({"x": X, "y": np.float32(1)}, "a target a row"),
    "empty y": ({"x": X, "y": X[:, :0]}, "a target a row"),
    "rows": ({"x": X, "y": CLASSES[:9]}, "60 rows in x and 9 in y"),
    "text": ({"x": X, "y": np.array(["cat"] * ROWS)}, "numbers were expected"),
    "complex": ({"x": X.astype(complex), "y": CLASSES}, "numbers were expected"),
    "nan": ({"x": np.where(X > 2, np.nan, X), "y": CLASSES}, "NaN"),
    "infinite y": ({"x": X, "y": np.where(X > 2, np.inf, X)}, "in y"),
    "too large": ({"x": X.astype("f8") * 1e300, "y": CLASSES}, "float32"),
    "classes (rows, 1)": ({"x": X, "y": CLASSES[:, None]}, "whole numbers are classes"),
    "negative": ({"x": X, "y": CLASSES - 1}, "from -1 to 1"),
    "prices": ({"x": X, "y": LARGE}, "floating point"),
    "objects": ({"x": X, "y": np.array([None] * ROWS)}, "not a readable npz"),
    "test width": ({"x": X, "y": CLASSES, "x_test": X[:, :3], "y_test": CLASSES}, "width"),
    "test type": ({"x": X, "y": CLASSES, "x_test": X, "y_test": X[:, 0]}, "type"),
    "test targets": ({"x": X, "y": TARGETS, "x_test": X, "y_test": X[:, 0]}, "widths"),
    "test nan": ({"x": X, "y": CLASSES, "x_test": X * np.nan, "y_test": CLASSES}, "x_test"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_that_do_not_fit(case: str) -> None:
    arrays, words = ARRAYS[case]
    path = npz("my data.npz", **arrays)
    with pytest.raises(InvalidFileError) as caught:
        load(path)
    assert words in str(caught.value)
    assert "my data.npz" in str(caught.value)


def member(name: str, data: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def deflated() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, x=X, y=CLASSES)
    raw = bytearray(buffer.getvalue())
    raw[200:220] = bytes(20)
    return bytes(raw)


def claims(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n"


FILES: dict[str, tuple[bytes, str]] = {
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(99), "neither safetensors nor npz"),
    "csv": (b"x,y\n1,2\n" * 9, "neither safetensors nor npz"),
    "short": (b"abc", "neither safetensors nor npz"),
    "npy": (claims("(3,)") + bytes(12), "numpy.savez"),
    "empty": (b"", "is empty"),
    "page": (b"<html></html>" * 9, "HTML"),
    "pickle": (b"\x80\x02}q\x00." + bytes(99), "torch.save"),
    "torch": (member("model/data.pkl", b"\x80\x02}q\x00."), "torch.save"),
    "cut zip": (member("x.npy", claims("(3,)"))[:-30], "not a readable npz"),
    "bad deflate": (deflated(), "not a readable npz"),
    "not an array": (member("x", b"text"), "no array"),
    "cut array": (member("x.npy", claims("(3,)")), "not a readable npz"),
    "claims the world": (member("x.npy", claims(f"({10**15},)")), "not a readable npz"),
    "claims nonsense": (member("x.npy", claims("('a',)")), "not a readable npz"),
    "safetensors of others": (b"\x02" + bytes(7) + b"{}", "has no array 'x'"),
    "cut safetensors": (b"\xff" + bytes(7) + b"{}", "ends inside its header"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_arrays(case: str) -> None:
    raw, words = FILES[case]
    Path("data.npz").write_bytes(raw)
    line = refused(3, "train", "--data", "data.npz", "-o", "out.st")
    assert "data.npz" in line
    assert words in line


def test_splits_that_do_not_fit() -> None:
    own = npz("own.npz", x=X, y=CLASSES, x_test=X, y_test=CLASSES)
    with pytest.raises(UsageError, match="test rows of its own"):
        load(own, test_split=0.5)
    few = npz("few.npz", x=X[:2], y=CLASSES[:2])
    with pytest.raises(UsageError, match="2 rows cannot give"):
        load(few)
    with pytest.raises(UsageError, match="1 training rows cannot be divided"):
        load(few, test_split=0.5)
    with pytest.raises(UsageError, match="digits has test rows of its own"):
        datasets.load_for_training(DataOptions(test_split=0.5), seed=0)
    with pytest.raises(UsageError, match="no data set 'imagenet'"):
        datasets.load_for_training(DataOptions(name="imagenet"), seed=0)


# --- networks of one's own data ------------------------------------------------------------


@pytest.mark.parametrize("y", [CLASSES, TARGETS], ids=["classes", "targets"])
def test_the_file_is_needed_again(y: np.ndarray) -> None:
    npz("my.npz", x=X, y=y)
    done("train", "--data", "my.npz", *TINY, "-o", "own.st")
    done("cluster", "own.st", "-k", "4", "-o", "packed.st")
    for command in (
        ["eval", "own.st"],
        ["eval", "packed.st"],
        ["finetune", "packed.st", "-o", "t"],
    ):
        assert "--data FILE" in refused(2, *command)
    done("finetune", "packed.st", "--data", "my.npz", "--epochs", "1", "-o", "tuned.st")
    for name in ("own.st", "packed.st", "tuned.st"):
        report = json.loads(done("eval", name, "--data", "my.npz", "--json").stdout)
        assert report["examples"] == 12
        assert ("rmse" in report) == (y is TARGETS)


def test_the_same_rows_test_again() -> None:
    npz("my.npz", x=X, y=TARGETS)
    result = done(
        "train", "--data", "my.npz", "--test-split", "0.4", "--seed", "7", *TINY, "-o", "own.st",
        "--json",
    )  # fmt: skip
    then = json.loads(result.stdout)["test"]
    assert then["examples"] == 24
    now = json.loads(done("eval", "own.st", "--data", "my.npz", "--json").stdout)
    assert {key: now[key] for key in then} == pytest.approx(then)
    fewer = done("eval", "own.st", "--data", "my.npz", "--test-split", "0.1", "--json")
    assert json.loads(fewer.stdout)["examples"] == 6


def test_data_of_fewer_classes_can_be_scored() -> None:
    """A file that happens to lack the last class, or holds a single one, fits the network."""
    npz("my.npz", x=X, y=CLASSES)
    done("train", "--data", "my.npz", *TINY, "-o", "own.st")
    done("cluster", "own.st", "-k", "4", "-o", "packed.st")
    for y in (CLASSES % 2, CLASSES * 0):
        npz("fewer.npz", x=X, y=y, x_test=X, y_test=y)
        for name in ("own.st", "packed.st"):
            result = done("eval", name, "--data", "fewer.npz", "--json", "--predictions", "p.npz",
                          "--force")  # fmt: skip
            outputs = np.load("p.npz")
            assert outputs["outputs"].shape == (ROWS, 3)
            report = json.loads(result.stdout)
            assert report["accuracy"] == pytest.approx((outputs["classes"] == y).mean())
    done("finetune", "packed.st", "--data", "fewer.npz", "--epochs", "1", "-o", "tuned.st")
    tuned = kancompress.load("tuned.st")
    assert tuned.data is not None
    assert tuned.data.classes == 3  # what the network tells apart, not what the file held


def test_data_that_does_not_fit_the_network() -> None:
    npz("my.npz", x=X, y=CLASSES)
    done("train", "--data", "my.npz", *TINY, "-o", "own.st")
    npz("targets.npz", x=X, y=TARGETS)
    npz("wide.npz", x=np.tile(X, 2), y=CLASSES)
    npz("more.npz", x=X, y=CLASSES + 1)
    for name, words in (
        ("targets", "trained for classification, but y holds regression"),
        ("wide", "takes 5 inputs, but the data has 10"),
        ("more", "tells 3 classes apart, but y has 4"),
    ):
        assert words in refused(2, "eval", "own.st", "--data", f"{name}.npz")
    done("train", "--data", "targets.npz", *TINY, "-o", "real.st")
    npz("one.npz", x=X, y=X[:, 0])
    assert "2 outputs" in refused(2, "eval", "real.st", "--data", "one.npz")
    assert "trained for regression" in refused(2, "eval", "real.st", "--data", "my.npz")


def test_a_single_class_can_be_learnt() -> None:
    npz("my.npz", x=X, y=CLASSES * 0)
    done("train", "--data", "my.npz", *TINY, "-o", "own.st")
    report = json.loads(done("eval", "own.st", "--data", "my.npz", "--json").stdout)
    assert report["accuracy"] == 1


# --- named sets ----------------------------------------------------------------------------


def write_mnist(directory: Path, train: int = 40, test: int = 8) -> None:
    raw = directory / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for part, rows in (("train", train), ("t10k", test)):
        images = generator.integers(0, 256, (rows, 28, 28), np.uint8)
        labels = generator.integers(0, 10, rows, np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x803, rows, 28, 28) + images.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(
            struct.pack(">II", 0x801, rows) + labels.tobytes()
        )


def test_mnist_from_a_directory(tmp_path: Path) -> None:
    write_mnist(tmp_path / "sets")
    options = ("--data-dir", tmp_path / "sets")
    done("train", "--dataset", "mnist", *options, *TINY, "-o", "own.st")
    report = json.loads(done("eval", "own.st", *options, "--json").stdout)
    assert report["examples"] == 8
    assert "--data-dir" in refused(3, "eval", "own.st")
    data = datasets.load_for_training(
        DataOptions(name="mnist", directory=tmp_path / "sets"), seed=0
    )
    pixels = data.test.x * 0.3081 + 0.1307
    assert 0 <= pixels.min() < 0.01
    assert 0.99 < pixels.max() <= 1.0001
    assert data.spec.classes == 10


def test_a_damaged_set_is_told(tmp_path: Path) -> None:
    write_mnist(tmp_path / "sets")
    for path in (tmp_path / "sets").rglob("*-images-*"):
        path.write_bytes(path.read_bytes()[:9])
    line = refused(3, "train", "--dataset", "mnist", "--data-dir", "sets", "-o", "out.st")
    assert "mnist could not be read in sets" in line


def test_a_failed_download_is_told_and_stdout_stays_clean(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torchvision.datasets import MNIST

    def fail(_: object) -> None:
        print("Downloading ...")
        raise RuntimeError("Error downloading train-images:\nTried http://x, got:\nno route\n")

    monkeypatch.setattr(MNIST, "download", fail)
    result = call("train", "--dataset", "mnist", "--download", "-o", "-")
    assert (result.exit_code, result.stdout_bytes) == (3, b"")
    assert "Downloading ..." in result.stderr
    assert "could not be read or fetched" in result.stderr.splitlines()[-1]
    assert "no route" in result.stderr.splitlines()[-1]
