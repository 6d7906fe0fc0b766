"""`predict`: outputs for rows without labels, and what `load` gives as a torch module."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_safetensors
from safetensors.torch import load_file, save_file
from torch import nn

import kancompress
from command import done, refused
from conftest import fresh
from kancompress import Activation, KancompressError, RowFormat, RunOptions, Runtime, UsageError
from kancompress.data.digits import divide, read_digits
from kancompress.models.native import build
from kancompress.specs import DataSpec

ROWS = 7
RNG = np.random.default_rng(3)
X = RNG.random((ROWS, 64)).astype(np.float32)
IMAGES = RNG.random((ROWS, 1, 8, 8)).astype(np.float32)
CASE = Path(__file__).parent / "cases" / "efficient_kan_default"


def packed_of(record: kancompress.Checkpoint, clusters: int = 4) -> kancompress.PackedModel:
    return kancompress.cluster(record, kancompress.ClusterConfig(clusters=clusters)).model


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a file of each kind, and rows."""
    place = tmp_path_factory.mktemp("predict")
    meta = fresh("metafastkan", (64, 8, 10))
    packed = packed_of(meta)
    kancompress.save(meta, place / "meta.st")
    kancompress.save(packed, place / "packed.st")
    kancompress.save(kancompress.expand(packed), place / "dense.st")
    conv = fresh("gramkanconv", (1, 3, 4, 10))
    kancompress.save(conv, place / "conv.st")
    kancompress.save(packed_of(conv), place / "packedconv.st")
    real = replace(fresh("kan", (64, 3)), data=DataSpec(name="file", targets=3))
    kancompress.save(real, place / "real.st")
    np.savez(place / "x.npz", x=X)
    np.savez(place / "images.npz", x=IMAGES)
    np.save(place / "x.npy", X)
    save_file({"x": torch.from_numpy(X)}, place / "x.safetensors")
    np.savez(place / "io.npz", x=load_file(CASE / "io.safetensors")["x"].numpy())
    (place / "efficient.st").write_bytes((CASE / "state.safetensors").read_bytes())
    done("cluster", place / "efficient.st", "-k", "8", "-o", place / "other.st")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        yield place


def by_hand(record: Any, x: np.ndarray) -> np.ndarray:
    """Outputs of the torch network of a record of kancompress's own."""
    with torch.no_grad():
        outputs: np.ndarray = build(record).eval()(torch.from_numpy(x)).numpy()
    return outputs


def softmax(outputs: np.ndarray) -> np.ndarray:
    powers = np.exp(outputs.astype(float) - outputs.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


# --- outputs -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense", "meta", "packed", "conv", "packedconv", "real"])
def test_outputs_are_the_networks(name: str, here: Path) -> None:
    file, x = here / f"{name}.st", IMAGES if "conv" in name else X
    wanted = by_hand(kancompress.load(file), x)
    for source in (file, str(file), file.read_bytes(), kancompress.load(file)):
        found = kancompress.predict(source, x)
        np.testing.assert_array_equal(found.outputs, wanted)
        assert (found.classes, found.shares, found.notes) == (None, None, ())
    few = kancompress.predict(file, x, batch_size=3)
    np.testing.assert_allclose(few.outputs, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "x",
    [
        X.astype(float),
        X.tolist(),
        torch.from_numpy(X).requires_grad_(),
        X.reshape(ROWS, 1, 8, 8),
        "x.npz",
        Path("x.npy"),
        Path("x.safetensors"),
    ],
    ids=["float64", "list", "tensor", "images", "npz", "npy", "safetensors"],
)
def test_rows_in_many_forms(x: Any, here: Path) -> None:
    found = kancompress.predict("packed.st", x)
    np.testing.assert_array_equal(found.outputs, by_hand(kancompress.load("packed.st"), X))


def test_files_of_other_libraries(here: Path) -> None:
    """They run where `eval` runs them; what was taken for granted is told."""
    wanted = load_file(CASE / "io.safetensors")["y"].numpy()
    found = kancompress.predict("efficient.st", "io.npz")
    np.testing.assert_allclose(found.outputs, wanted, rtol=1e-4, atol=1e-5)
    assert found.notes
    said = done("predict", "efficient.st", "--data", "io.npz", "-o", "said.npz")
    assert said.stderr.startswith("assumed ")
    assert "--base-activation" in said.stderr
    other = kancompress.predict("other.st", "io.npz")
    expanded = kancompress.expand("other.st").encode()
    dense = kancompress.predict(expanded, "io.npz")
    np.testing.assert_allclose(other.outputs, dense.outputs, rtol=1e-4, atol=1e-5)


class Maps(nn.Module):
    """A module of the user's own; its outputs are maps."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(4, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, 2, 2) -> (rows, 2, 3)."""
        return self.lin(x.flatten(1)).reshape(len(x), 2, 3)


def test_a_model_of_ones_own(here: Path) -> None:
    model = Maps()
    save_file(model.state_dict(), "maps.st")
    x = RNG.random((5, 4)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).flatten(1).numpy()
    found = kancompress.predict("maps.st", x, model=Maps(), shape=(2, 2), batch_size=2)
    np.testing.assert_allclose(found.outputs, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match=r"outputs of shape \[2, 3\] for a row"):
        kancompress.predict("maps.st", x, model=Maps(), classes=True)
    with pytest.raises(UsageError, match="`raw`"):
        kancompress.predict("maps.st", x, model=Maps(), raw=True)
    with pytest.raises(UsageError, match="`shape=3,2` has 6 numbers, but x has 4"):
        kancompress.predict("maps.st", x, model=Maps(), shape=(3, 2))
    linear = nn.Linear(3, 2)
    save_file(linear.state_dict(), "linear.st")
    classes = kancompress.predict("linear.st", x[:, :3], model=nn.Linear(3, 2), classes=True)
    with torch.no_grad():
        wanted = linear(torch.from_numpy(x[:, :3])).argmax(1).numpy()
    np.testing.assert_array_equal(classes.classes, wanted)


class Tokens(nn.Module):
    """It takes whole numbers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, tokens) -> (rows, 3)."""
        return self.table(x).sum(1)


def test_token_ids_stay_whole_numbers(here: Path) -> None:
    model, ids = Tokens(), np.array([[0, 4], [3, 3]])
    save_file(model.state_dict(), "tokens.st")
    found = kancompress.predict("tokens.st", ids, model=Tokens())
    table = model.table.weight.detach().numpy()
    np.testing.assert_allclose(found.outputs, table[ids].sum(axis=1), rtol=1e-6)


# --- classes -------------------------------------------------------------------------------


def test_classes_and_shares(here: Path) -> None:
    found = kancompress.predict("packed.st", X * 50, classes=True)
    assert found.classes is not None
    assert found.shares is not None
    np.testing.assert_array_equal(found.classes, found.outputs.argmax(axis=1))
    np.testing.assert_allclose(found.shares, softmax(found.outputs), rtol=1e-5, atol=1e-7)
    assert (found.classes.dtype, found.shares.dtype) == (np.int64, np.float32)
    assert list(found.arrays()) == ["outputs", "classes", "shares"]


class Fixed(nn.Module):
    """It puts out what it holds, whatever the rows are."""

    def __init__(self, *rows: list[float]) -> None:
        super().__init__()
        self.fixed = nn.Parameter(torch.tensor(rows))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, 1) numbers of rows -> (rows, width)."""
        return self.fixed[x[:, 0].long()]


def test_outputs_without_bounds(here: Path) -> None:
    inf = float("inf")
    own = Fixed([1, -inf, 1], [inf, 3e38, -3e38], [-inf, -inf, -inf], [3e38, -3e38, 0])
    found = kancompress.predict("fixed.st", [[0], [1], [2], [3]], classes=True, model=held(own))
    third = 1 / 3
    wanted = [[0.5, 0, 0.5], [1, 0, 0], [third, third, third], [1, 0, 0]]
    np.testing.assert_allclose(found.shares, wanted, atol=1e-6)
    with pytest.raises(KancompressError, match="NaN for 1 of 2 rows"):
        kancompress.predict("fixed.st", [[0], [1]], model=held(Fixed([1.0], [float("nan")])))


def held(model: nn.Module) -> nn.Module:
    save_file(model.state_dict(), "fixed.st")
    return model


@pytest.mark.parametrize("runtime", list(Runtime))
@pytest.mark.parametrize(
    ("model", "number"), [("fastkan", 1e30), ("gramkan", -1e30), ("kanconv", 3e38)]
)
def test_rows_beyond_the_arithmetic_are_refused(
    model: str, number: float, runtime: Runtime
) -> None:
    """A normalisation that overflows is not told as zeros, whatever runs it."""
    record = fresh(model, (2, 4, 3) if "conv" in model else (6, 4, 3))
    sign = np.array([[1], [-1]], np.float32)
    x = np.ones((2, 2, 3, 3) if "conv" in model else (2, 6), np.float32)
    x[1] = (number * np.resize(sign, x[1].size)).reshape(x[1].shape)
    with pytest.raises(KancompressError, match="NaN or infinity for 1 of 2 rows"):
        kancompress.predict(record, x, runtime=runtime)
    assert np.isfinite(kancompress.predict(record, x[:1], runtime=runtime).outputs).all()


# --- files ---------------------------------------------------------------------------------


def read(raw: bytes, form: str) -> dict[str, np.ndarray]:
    """The arrays of a file, read by other means than ours."""
    if form == "npz":
        with np.load(io.BytesIO(raw)) as arrays:
            return dict(arrays)
    if form == "safetensors":
        return load_safetensors(raw)
    head, *lines = csv.reader(io.StringIO(raw.decode()))
    assert head == [
        *(f"output_{n}" for n in range(10)),
        "class",
        *(f"share_{n}" for n in range(10)),
    ]
    table = np.array(lines, dtype=float)
    parts = {"outputs": table[:, :10], "shares": table[:, 11:]}
    floats = {name: part.astype(np.float32) for name, part in parts.items()}
    return {**floats, "classes": table[:, 10].astype(int)}


@pytest.mark.parametrize("form", list(RowFormat))
def test_files_give_back_what_was_put_out(form: RowFormat, here: Path, tmp_path: Path) -> None:
    wanted = kancompress.predict("packed.st", X, classes=True)
    target = tmp_path / f"out.{form}"
    command = ("predict", "packed.st", "--data", "x.npz", "--classes")
    said = done(*command, "-o", target)
    assert said.stderr == f"7 rows, 10 outputs a row, {target.stat().st_size:,} bytes\n"
    assert said.stdout == ""
    piped = done(*command, "-o", "-", "--format", form)
    assert piped.stdout_bytes == target.read_bytes() == wanted.encode(form)
    for name, array in read(target.read_bytes(), form).items():
        np.testing.assert_array_equal(array, wanted.arrays()[name])
    assert "--force" in refused(2, *command, "-o", target)
    done(*command, "-o", target, "--force")
    assert wanted.save(tmp_path / f"again.{form}") == target.stat().st_size


def test_standard_streams(here: Path) -> None:
    wanted = kancompress.predict("packed.st", X).encode()
    by_rows = done(
        "predict", "packed.st", "--data", "-", "-o", "-", stdin=(here / "x.npz").read_bytes()
    )
    assert by_rows.stdout_bytes == wanted
    by_file = done(
        "predict", "-", "--data", "x.npy", "-o", "-", stdin=(here / "packed.st").read_bytes()
    )
    assert by_file.stdout_bytes == wanted


def test_json(here: Path, tmp_path: Path) -> None:
    command = ("predict", "packed.st", "--data", "x.npz", "--json", "-o")
    result = done(*command, tmp_path / "out.csv")
    assert json.loads(result.stdout) == {
        "output": str(tmp_path / "out.csv"),
        "file_bytes": (tmp_path / "out.csv").stat().st_size,
        "format": "csv", "rows": 7, "outputs": 10, "classes": False, "notes": [],
    }  # fmt: skip
    assert result.stderr == ""
    assert json.loads(done(*command, "-").stderr)["format"] == "npz"


# --- raw rows ------------------------------------------------------------------------------


def of_data(data: DataSpec | None) -> kancompress.Checkpoint:
    return replace(fresh("fastkan", (12, 4)), data=data)


COLOURS = DataSpec(name="cifar10", classes=4, mean=(0.2, 0.5, 0.9), std=(0.5, 0.25, 2.0))
PIXELS = RNG.integers(0, 256, (5, 3, 2, 2))


@pytest.mark.parametrize("dtype", ["u1", "i8", "f4", "f8"])
@pytest.mark.parametrize("flat", [True, False])
def test_raw_pixels_are_normalised(dtype: str, flat: bool) -> None:
    record = of_data(COLOURS)
    pixels = PIXELS.astype(dtype) / (255 if dtype[0] == "f" else 1)
    raw = pixels.astype(dtype).reshape(5, 12) if flat else pixels.astype(dtype)
    by_numpy = (PIXELS / 255 - np.reshape([0.2, 0.5, 0.9], (3, 1, 1))) / np.reshape(
        [0.5, 0.25, 2.0], (3, 1, 1)
    )
    wanted = by_hand(record, by_numpy.reshape(5, 12).astype(np.float32))
    found = kancompress.predict(record, raw, raw=True)
    np.testing.assert_allclose(found.outputs, wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose(kancompress.predict(record, raw).outputs, wanted, atol=1e-2)


def test_raw_digits_have_seventeen_greys() -> None:
    record, pixels = fresh("fastkan"), RNG.integers(0, 17, (5, 64))
    wanted = by_hand(record, (pixels / 16).astype(np.float32))
    np.testing.assert_allclose(
        kancompress.predict(record, pixels, raw=True).outputs, wanted, rtol=1e-5, atol=1e-6
    )


def test_raw_rows_of_data_without_mean_are_as_they_are() -> None:
    record = of_data(DataSpec(name="file", classes=4))
    x = RNG.normal(size=(5, 12)).astype(np.float32) * 9
    found = kancompress.predict(record, x, raw=True)
    np.testing.assert_array_equal(found.outputs, by_hand(record, x))


def test_raw_is_what_eval_does(here: Path) -> None:
    """On digits: rows of the data set, raw, give the outputs behind the score."""
    pixels, y = read_digits()
    raw = pixels[divide(y)[1]].astype(int)
    found = kancompress.predict("packed.st", raw, raw=True)
    score = kancompress.evaluate("packed.st")
    np.testing.assert_array_equal(found.outputs, score.outputs.numpy())


# --- what is refused -----------------------------------------------------------------------


REFUSED = {
    "packed.st --data x.npz -o out.txt": (2, "should end in .npz, .safetensors or .csv"),
    "packed.st --data x.npz -o out": (2, "names the format"),
    "packed.st --data x.npz -o out.npz --format xml": (2, "csv"),
    "packed.st --data x.npz -o out.npz --format csv": (2, "another format than csv"),
    "packed.st --data x.npz -o x.npz --force": (2, "input itself"),
    "packed.st --data x.npz -o packed.st --format npz --force": (2, "input itself"),
    "packed.st --data x.npz -o no/such/out.npz": (2, "create it first"),
    "packed.st -o out.npz": (2, "--data"),
    "packed.st --data x.npz": (2, "--output"),
    "- --data - -o out.npz": (2, "both standard input"),
    "missing.st --data x.npz -o out.npz": (3, "missing.st does not exist"),
    "packed.st --data missing.npz -o out.npz": (3, "missing.npz does not exist"),
    "packed.st --data empty.npz -o out.npz": (3, "empty.npz is empty; write the arrays with"),
    "packed.st --data empty.npy -o out.npz": (3, "empty.npy is empty; write the arrays with"),
    "packed.st --data none.npz -o out.npz": (3, "x of shape [0, 64]"),
    "packed.st --data flat.npy -o out.npz": (3, "numbers (rows, features) were expected"),
    "packed.st --data words.npy -o out.npz": (3, "numbers (rows, features) were expected"),
    "packed.st --data y.npz -o out.npz": (3, "has no array 'x'"),
    "packed.st --data text.csv -o out.npz": (3, "none of npz, npy and safetensors"),
    "packed.st --data objects.npy -o out.npz": (3, "not a readable npy"),
    "packed.st --data nan.npz -o out.npz": (3, "NaN"),
    "packed.st --data nan.npz -o out.npz --runtime numpy": (3, "NaN"),
    "packed.st --data wide.npz -o out.npz": (2, "takes 64 inputs, but wide.npz has 65 numbers"),
    "packed.st --data colours.npz -o out.npz": (2, "192 numbers a row. Bring the images to the"),
    "packed.st --data bright.npz -o out.npz --raw": (3, "whole numbers up to 16"),
    "packed.st --data dark.npz -o out.npz --raw": (3, "from 0 to 1"),
    "packed.st --data x.npz -o out.npz --batch-size 0": (2, "--batch-size"),
    "packed.st --data x.npz -o out.npz --state ema": (2, "--state"),
    "packed.st --data x.npz -o out.npz --base-activation gelu": (2, "--base-activation"),
    "packed.st --data x.npz -o out.npz --input-shape 8,8": (2, "--input-shape is for --model"),
    "packed.st --data x.npz -o out.npz --model m:n": (2, "leave --model out"),
    "conv.st --data x.npz -o out.npz": (2, "(rows, channels, height, width); x.npz has [7, 64]"),
    "conv.st --data colours.npz -o out.npz": (2, "takes images of 1 channels"),
    "real.st --data x.npz -o out.npz --classes": (2, "leave --classes out"),
    "efficient.st --data io.npz -o out.npz --raw": (2, "its file names none; leave it out"),
}


@pytest.fixture(scope="module")
def flawed(here: Path) -> Path:
    """Files that do not fit."""
    Path("empty.npz").touch()
    Path("empty.npy").touch()
    Path("text.csv").write_text("1,2\n" * 99)
    Path("m.py").write_text("import torch\n\ndef n():\n    return torch.nn.Linear(64, 10)\n")
    np.savez("none.npz", x=X[:0])
    np.save("flat.npy", X[0])
    np.save("words.npy", np.array([["a", "b"]]))
    np.save("objects.npy", np.array([None]), allow_pickle=True)
    np.savez("y.npz", y=X)
    np.savez("nan.npz", x=np.where(X > 0.9, np.nan, X))
    np.savez("wide.npz", x=np.ones((2, 65)))
    np.savez("colours.npz", x=np.ones((2, 3, 8, 8)))
    np.savez("bright.npz", x=np.full((2, 64), 300))
    np.savez("dark.npz", x=X - 0.5)
    return here


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_refused(line: str, flawed: Path) -> None:
    code, words = REFUSED[line]
    assert words in refused(code, "predict", *line.split())
    assert not Path("out.npz").exists()


def test_classes_of_one_output_are_refused() -> None:
    record = replace(fresh("kan", (3, 1)), data=None)
    with pytest.raises(UsageError, match="one output"):
        kancompress.predict(record, [[1, 2, 3]], classes=True)
    with pytest.raises(UsageError, match="`batch_size=0`"):
        kancompress.predict(record, [[1, 2, 3]], batch_size=0)


# --- eval without labels -------------------------------------------------------------------


def test_eval_writes_predictions_for_rows_without_labels(here: Path, tmp_path: Path) -> None:
    wanted = kancompress.predict("packed.st", X, classes=True)
    command = ("eval", "packed.st", "--data", "x.npz", "--predictions")
    result = done(*command, tmp_path / "out.npz")
    assert result.stdout == ""
    assert result.stderr == "no labels, so no score; outputs of 7 rows\n"
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["outputs"], wanted.outputs)
        np.testing.assert_array_equal(arrays["classes"], wanted.classes)
    told = json.loads(done(*command, tmp_path / "out.safetensors", "--json").stdout)
    assert told.pop("file_bytes") > 0
    assert (told.pop("file"), told.pop("clusters")) == ("packed.st", {"0": 4, "1": 4})
    assert told.pop("ratio") > 1
    assert told == {"labels": False, "loss": None, "examples": 7, "notes": []}
    real = ("eval", "real.st", "--data", "x.npz", "--predictions", tmp_path / "real.npz")
    done(*real)
    with np.load(tmp_path / "real.npz") as arrays:
        assert list(arrays) == ["outputs"]
    assert "no array 'y'" in refused(3, "eval", "packed.st", "--data", "x.npz")
    split = ("--test-split", "0.5")
    assert "--test-split" in refused(2, *command, tmp_path / "split.npz", *split)


# --- modules -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense", "meta", "packed", "packedconv", "other"])
def test_what_is_loaded_is_a_module(name: str, here: Path) -> None:
    record = kancompress.load(f"{name}.st")
    module = record.module()
    assert isinstance(module, nn.Module)
    assert not module.training
    x = {"packedconv": IMAGES, "other": np.load("io.npz")["x"]}.get(name, X)
    with torch.no_grad():
        outputs = module(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(outputs, kancompress.predict(record, x).outputs)
    assert next(module.double().parameters()).dtype == torch.float64


# --- numpy ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense", "packed", "conv", "packedconv", "other"])
def test_numpy_gives_the_outputs_of_torch(name: str, here: Path) -> None:
    x = {"other": np.load("io.npz")["x"]}.get(name, IMAGES if "conv" in name else X)
    wanted = kancompress.predict(f"{name}.st", x)
    found = kancompress.predict(f"{name}.st", x, runtime=Runtime.NUMPY, batch_size=3)
    np.testing.assert_allclose(found.outputs, wanted.outputs, rtol=1e-4, atol=1e-5)


def test_numpy_is_told_what_a_packed_file_does_not_tell(here: Path) -> None:
    how: dict[str, Any] = {"options": RunOptions(base_activation=Activation.GELU)}
    wanted = kancompress.predict("other.st", "io.npz", **how)
    found = kancompress.predict("other.st", "io.npz", runtime=Runtime.NUMPY, **how)
    plain = kancompress.predict("other.st", "io.npz", runtime=Runtime.NUMPY)
    np.testing.assert_allclose(found.outputs, wanted.outputs, rtol=1e-4, atol=1e-5)
    assert not np.allclose(plain.outputs, wanted.outputs, atol=1e-3)
    assert plain.notes == kancompress.predict("other.st", "io.npz").notes != ()


def test_numpy_on_the_command_line(here: Path, tmp_path: Path) -> None:
    numpy = ("--runtime", "numpy")
    done("predict", "packed.st", "--data", "x.npz", *numpy, "-o", tmp_path / "out.npz")
    found = np.load(tmp_path / "out.npz")["outputs"]
    wanted = kancompress.predict("packed.st", X).outputs
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    scores = [json.loads(done("eval", "packed.st", "--json", *own).stdout) for own in ((), numpy)]
    assert scores[0]["accuracy"] == scores[1]["accuracy"]
    assert scores[0]["loss"] == pytest.approx(scores[1]["loss"], rel=1e-5)


NOT_NUMPYS = {
    "predict meta.st --data x.npz -o out.npz": "meta-learner",
    "predict efficient.st --data io.npz -o out.npz": "kancompress cluster FILE",
    "predict packed.st --data x.npz -o out.npz --device cpu": "--device",
    "predict packed.st --data x.npz -o out.npz --threads 1": "OMP_NUM_THREADS",
    "predict packed.st --data x.npz -o out.npz --state ema": "--state",
    "predict packed.st --data x.npz -o out.npz --grid-range 0,1": "--grid-range",
    "eval packed.st --threads 1": "OMP_NUM_THREADS",
    "eval efficient.st --dataset digits": "kancompress cluster FILE",
}


@pytest.mark.parametrize("line", NOT_NUMPYS)
def test_what_numpy_does_not_run(line: str, here: Path) -> None:
    assert NOT_NUMPYS[line] in refused(2, *line.split(), "--runtime", "numpy")


def test_a_model_of_ones_own_needs_torch(here: Path) -> None:
    with pytest.raises(UsageError, match="`model` is run by torch"):
        kancompress.predict("linear.st", X, model=nn.Linear(64, 2), runtime=Runtime.NUMPY)


def test_a_runtime_is_named_by_a_word() -> None:
    dense = kancompress.encode(fresh("kan", (4, 3, 2)))
    rows = np.zeros((1, 4), np.float32)
    found = kancompress.predict(dense, rows, runtime="numpy").outputs
    assert np.allclose(found, kancompress.predict(dense, rows).outputs, atol=1e-6)
    for call in (
        lambda: kancompress.predict(dense, rows, runtime="bogus"),
        lambda: kancompress.evaluate(dense, runtime="bogus"),
    ):
        with pytest.raises(kancompress.UsageError, match="none of torch, numpy"):
            call()
