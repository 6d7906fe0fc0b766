"""All that is wrong with a file and its options is said at once, before any work."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from test_repacking import efficient_kan

import kancompress
from command import call, done, refused
from kancompress.cli._options import option_of
from kancompress.config import ClusterConfig
from kancompress.errors import Flaw, InvalidFileError, KancompressError, UsageError, together
from kancompress.packing.pack import LayerClustering


def broken_file(place: Path) -> Path:
    """Two layers with numbers that are none, and one that two layouts fit."""
    state = efficient_kan()
    state["layers.0.base_weight"][0, 0] = float("nan")
    state["layers.1.spline_weight"][0, 0, 0] = float("inf")
    state["conv.poly_weights"] = torch.randn(1, 4, 12, 3, 3)
    state["conv.base_conv.0.weight"] = torch.randn(4, 3, 3, 3)
    path = place / "model.pt"
    torch.save(state, path)
    return path


def ambiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A convolution whose keys KALN, KAJN and KABN share."""
    return state | {
        "conv.poly_weights": torch.randn(1, 4, 12, 3, 3),
        "conv.base_conv.0.weight": torch.randn(4, 3, 3, 3),
    }


def test_every_problem_has_a_line_and_nothing_is_begun(tmp_path: Path) -> None:
    path = broken_file(tmp_path)
    begun: list[LayerClustering] = []
    with pytest.raises(UsageError, match="`clusters=70000` is not possible"):
        ClusterConfig(clusters=70_000)  # refused when it is made
    with pytest.raises(InvalidFileError) as caught:
        kancompress.cluster(
            path,
            ClusterConfig(layers={"layers.9": 4, "layer": 5, "layers.0": 8}),
            layouts={"layers.7": "pykan", "layers.8": "efficient", "layers.6": "coef=w:out coef"},
            report=begun.append,
        )
    lines = caught.value.sentences
    assert str(caught.value) == "\n".join(lines)
    assert caught.value.flaw == Flaw.NOT_FINITE
    assert begun == []
    starts = [
        "The layout pykan does not fit any layer of 'layers.7'",
        "No layout is called 'efficient'; known are",
        "The axes of 'coef=w:out coef' should have the axes out and in",
        "There is no layer 'layers.9' to give a number of clusters; the layers are layers.0,",
        "There is no layer 'layer' ",
        f"{path}: tensor 'layers.0.base_weight' holds 1 numbers that are NaN",
        f"{path}: tensor 'layers.1.spline_weight' holds 1 numbers that are NaN",
    ]
    for start in starts:
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    undecided = [line for line in lines if line.startswith("conv ")]
    assert len(lines) == len(starts) + len(undecided)


def test_exit_codes_and_lines_of_the_command(tmp_path: Path) -> None:
    path = broken_file(tmp_path)
    out = tmp_path / "packed.st"
    result = call("cluster", path, "-k", "layers.9=4", "--layout", "x=pykan", "-o", out)
    assert result.exit_code == 3  # no other option makes the numbers finite
    lines = result.stderr.splitlines()
    assert len(lines) >= 4
    assert all(line.startswith("kancompress: ") for line in lines)
    torch.save(efficient_kan(), path)
    result = call("cluster", path, "-k", "a=4", "-k", "b=4", "--layout", "x=pykan", "-o", out)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 3
    assert not out.exists()
    result = call("inspect", path, "--layout", "x=pykan", "--layout", "y=fast-kan")
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 2)


def test_a_layer_that_is_still_open_stops_the_work(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(ambiguous(efficient_kan()), path)
    known = kancompress.inspect(path)
    undecided = [text for text in known["problems"] if "choose with `layouts`" in text]
    assert len(undecided) == 1
    with pytest.raises(UsageError) as caught:
        kancompress.cluster(path, ClusterConfig(layers={"conv": 4}))
    assert caught.value.sentences == tuple(undecided)  # and not that there is no layer 'conv'
    for choice in ("kaln-conv", "none"):
        done = kancompress.cluster(path, layouts={"conv": choice})
        names = [layer.name for layer in done.layers]
        assert names == ["layers.0", "layers.1", "conv"][: 3 if choice != "none" else 2]


def test_very_many_broken_tensors_are_counted(tmp_path: Path) -> None:
    state = {
        f"{number}.{name.removeprefix('layers.1.')}": torch.full_like(tensor, float("nan"))
        for number in range(30)
        for name, tensor in efficient_kan().items()
        if name.startswith("layers.1.")
    }
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(InvalidFileError) as caught:
        kancompress.cluster(tmp_path / "model.pt")
    assert len(caught.value.sentences) == 21
    assert "100 more tensors hold such numbers" in caught.value.sentences[-1]


def test_errors_joined() -> None:
    one = UsageError("One.")
    assert together([one]) is one
    assert together([one, UsageError("One.")]) is one
    both = together([one, UsageError("Two."), together([UsageError("Three."), one])])
    assert isinstance(both, UsageError)
    assert both.sentences == ("One.", "Two.", "Three.")
    worse = together([one, InvalidFileError(Flaw.EMPTY, "No file.")])
    assert isinstance(worse, InvalidFileError)
    assert (worse.exit_code, worse.flaw) == (3, Flaw.EMPTY)
    assert KancompressError("a\nb").sentences == ("a\nb",)


def test_errors_speak_of_parameters_and_the_command_line_of_options() -> None:
    error = UsageError(
        "w`lr`: `side_dtype=int8` is for {0}\\1; take `side_dtype=\"float32\"` or `force`.",
        where="m.pt", layer="0", tensor="w`lr`", fields=("side_dtype", "force"),
    )  # fmt: skip
    assert (error.where, error.layer, error.tensor) == ("m.pt", "0", "w`lr`")
    assert error.fields == ("side_dtype", "force")
    assert "`side_dtype=int8` is for" in str(error)
    told = (
        "w`lr`: --side-dtype int8 is for {0}\\1; take --side-dtype float32 or --force.",
        "Other.",
    )
    assert error.spoken(option_of) == told[:1]
    both = together([error, together([KancompressError("Other."), error])])
    assert both.spoken(option_of) == told
    assert [problem.layer for problem in both.problems] == ["0", None]
    assert both.sentences == tuple(str(problem) for problem in both.problems)
    long = UsageError(f"{'a' * 490} `side_dtype` {'b' * 490}", fields=("side_dtype",))
    assert 490 < len(str(long)) <= 500
    assert 490 < len(long.spoken(lambda _: 900 * "c")[0]) <= 500


def test_a_hint_can_be_left_out_and_nobody_reads_sentences_for_it() -> None:
    one = UsageError("The layer cannot run.", fields=("model",), hint="Load it with `model=a:b`.")
    assert str(one) == "The layer cannot run. Load it with `model=a:b`."
    assert one.spoken(option_of) == ("The layer cannot run. Load it with --model a:b.",)
    assert (one.finding, one.clause) == ("The layer cannot run.", "The layer cannot run")
    assert one.hint == "Load it with `model=a:b`."
    plain = InvalidFileError(Flaw.EMPTY, "No file.")
    assert (plain.finding, plain.hint) == ("No file.", "")
    both = together([one, plain])
    assert both.finding == "The layer cannot run.\nNo file."
    assert both.fields == ("model",)
    long = UsageError("a" * 600, hint="b" * 600)
    assert max(len(str(long)), len(long.finding)) <= 500


def test_questions_tell_their_layer_and_the_command_line_its_option(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    torch.save(ambiguous(efficient_kan()), path)
    with pytest.raises(UsageError) as caught:
        kancompress.cluster(path)
    assert (caught.value.layer, caught.value.fields) == ("conv", ("layouts",))
    words = "choose with --layout conv=kaln-conv, or another of them in its place."
    assert words in refused(2, "cluster", path, "-o", tmp_path / "packed.st")
    assert words in done("inspect", path).stdout
    assert words in json.loads(done("inspect", path, "--json").stdout)["problems"][0]
    assert words in done("inspect", path, "--print-layout").stdout


def test_library_messages_name_no_options(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.zeros((9, 2), np.float32), y=np.arange(9) % 3)
    data = kancompress.DataOptions(file=path, test_split=0.0)
    with pytest.raises(UsageError) as caught:
        kancompress.train("kan", data)
    assert caught.value.where == str(path)
    assert caught.value.fields == ("test_split",)
    with pytest.raises(UsageError, match="`test_split` is for `file=FILE`") as caught:
        kancompress.train("kan", kancompress.DataOptions(test_split=0.5))
    assert caught.value.fields == ("test_split", "file")


@pytest.mark.parametrize(
    "error",
    [
        InvalidFileError(Flaw.EMPTY, "x.st is empty.", where="x.st"),
        UsageError("`side_dtype` is odd.", fields=("side_dtype",), hint="Leave it out."),
        together([UsageError("One."), InvalidFileError(Flaw.HOLE, "Two.", tensor="t")]),
    ],
)
def test_an_error_is_the_same_in_another_process(error: KancompressError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    assert again.spoken("--{}".format) == error.spoken("--{}".format)
    assert (again.where, again.fields, again.hint) == (error.where, error.fields, error.hint)
    assert getattr(again, "flaw", None) == getattr(error, "flaw", None)


def test_an_error_with_another_sentence_is_still_that_error() -> None:
    error = InvalidFileError(Flaw.EMPTY, "x.st is empty.").followed("y.st is written.")
    assert isinstance(error, InvalidFileError)
    assert error.flaw is Flaw.EMPTY
    assert str(error) == "x.st is empty. y.st is written."
    told = UsageError("`a` is odd.", fields=("a",)).followed("x is written.")
    assert told.spoken("--{}".format) == ("--a is odd. x is written.",)
