"""What was recognised is printed as TOML, edited, and used again."""

import json
import tomllib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_repacking import choices, efficient_kan
from torch import Tensor

import kancompress
from command import done, refused
from kancompress.errors import Flaw, InvalidFileError, UsageError
from kancompress.libraries import LAYOUTS, Recognition, format_layouts, parse_layouts, recognise

CASES = Path(__file__).parents[2] / "shared" / "cases"
NAMES = sorted(path.parent.name for path in CASES.glob("*/case.json"))


def by_hand(document: str) -> str:
    """The document without names of layouts, where there is a notation."""
    records = tomllib.loads(document)["layers"]
    lines = []
    for record in records:
        lines += ["[[layers]]", f"layers = {json.dumps(record['layers'])}"]
        key = "tensors" if "tensors" in record else "layout"
        lines.append(f"{key} = {json.dumps(record[key])}")
    return "\n".join(lines)


@pytest.mark.parametrize("case", NAMES)
def test_golden_cases_are_read_the_same_through_their_printed_layouts(case: str) -> None:
    tensors = torch.load(CASES / case / "state.pt", weights_only=True)
    found = recognise(tensors, choices(case))
    text = format_layouts(found, "state.pt")
    assert recognise(tensors, parse_layouts(text, "it")) == found
    again = recognise(tensors, parse_layouts(by_hand(text), "it"))
    assert again.others == found.others
    for one, other in zip(found.layers, again.layers, strict=True):
        for part in ("name", "shape", "groups", "coefficients", "parts", "gains", "masks",
                     "untouched", "codebook_group", "entries"):  # fmt: skip
            assert getattr(one, part) == getattr(other, part), part


def test_the_document_names_layers_and_tensors() -> None:
    found = recognise(efficient_kan())
    document = tomllib.loads(format_layouts(found, "model.pt"))
    assert document == {
        "layers": [
            {
                "layers": ["layers.0", "layers.1"],
                "layout": "efficient-kan",
                "tensors": [
                    "coef=spline_weight:out in coef",
                    "base=base_weight:out in",
                    "scale?=spline_scaler:out in",
                    "with=grid:in knots",
                ],
            }
        ]
    }


def test_edited_tensors_are_a_layout_by_hand() -> None:
    state = efficient_kan()
    text = format_layouts(recognise(state), "model.pt")
    edited = text.replace('  "scale?=spline_scaler:out in",\n', "")
    found = recognise(state, parse_layouts(edited, "it"))
    assert [layer.layout for layer in found.layers] == ["by-hand"] * 2
    assert [layer.gains for layer in found.layers] == [(), ()]
    assert "layers.0.spline_scaler" in found.others
    wrong = text.replace("spline_weight:out in coef", "spline_weight:in out coef")
    with pytest.raises(UsageError) as caught:
        recognise(state, parse_layouts(wrong, "it"))
    assert len(caught.value.sentences) == 2  # both layers


def test_the_top_level_is_a_dot() -> None:
    state = efficient_kan()
    tensors = {n.removeprefix("layers.0."): t for n, t in state.items() if "layers.0." in n}
    tensors |= {f"deep.{name}": tensor for name, tensor in tensors.items()}
    found = recognise(tensors)
    assert sorted(layer.name for layer in found.layers) == ["", "deep"]
    text = format_layouts(found, "it")
    assert tomllib.loads(text)["layers"][0]["layers"] == [".", "deep"]
    assert recognise(tensors, parse_layouts(text, "it")) == found
    hand = "coef=spline_weight:out in coef"
    only = recognise(tensors, {".": hand})
    assert {layer.name: layer.layout for layer in only.layers} == {
        "": "by-hand",
        "deep": "efficient-kan",
    }


def test_layers_can_be_left_alone() -> None:
    state = efficient_kan()
    found = recognise(state, {"layers.1": "none"})
    assert [layer.name for layer in found.layers] == ["layers.0"]
    assert found.problems == ()
    assert "layers.1.spline_weight" in found.others
    assert recognise(state, {"": "none"}).layers == ()
    with pytest.raises(UsageError, match=r"nothing like a KAN layer at 'layers\.7' to leave"):
        recognise(state, {"layers.7": "none"})


def test_a_pool_is_part_of_the_notation() -> None:
    tensors = {f"c.convs.{n}.w": torch.randn(1, 9, 4) for n in range(6)}
    text = {"": "coef=convs.*.w:out in coef; pool=convs"}
    assert {layer.codebook_group for layer in recognise(tensors, text).layers} == {"c.convs"}
    with pytest.raises(UsageError, match="should have no axes"):
        recognise(tensors, {"": "coef=convs.*.w:out in coef; pool=convs:out"})


def test_names_of_every_kind_come_back(tmp_path: Path) -> None:
    names = ['a"b\\c', "tab\tline\nend", "\x1b[31mred", "[bold]", "ü\u202e😀", "# no comment", "="]
    tensors: dict[str, Tensor] = {}
    for name in names:
        for key, tensor in efficient_kan().items():
            if key.startswith("layers.1."):
                tensors[f"{name}.{key.removeprefix('layers.1.')}"] = tensor.clone()
    found = recognise(tensors)
    text = format_layouts(found, "new\nline \x1b[0m")
    assert all(char.isprintable() or char == "\n" for char in text)
    assert recognise(tensors, parse_layouts(text, "it")) == found
    assert sorted(parse_layouts(text, "it")) == sorted(names)
    save_file(tensors, tmp_path / "odd.safetensors")
    printed = done("inspect", tmp_path / "odd.safetensors", "--print-layout").stdout
    assert parse_layouts(printed, "it") == parse_layouts(text, "it")


def test_problems_are_comments() -> None:
    problem = "x has names\nof several layouts"
    text = format_layouts(Recognition(layers=(), problems=(problem,), others=()), "it")
    assert "# x has names\\u000aof several layouts\n" in text
    assert tomllib.loads(text) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[layers]", "it is no TOML"),
        ("", "a list of [[layers]] and nothing else"),
        ("layers = 3", "a list of [[layers]]"),
        ("a = 1\n[[layers]]\nlayers = ['x']\nlayout = 'pykan'", "nothing else was expected"),
        ("layers = ['x']", "number 1 should have the keys"),
        ("[[layers]]\nlayers = ['x']\nlayot = 'pykan'", "should have the keys"),
        ("[[layers]]\nlayers = 'x'\nlayout = 'pykan'", "should list the names of layers"),
        ("[[layers]]\nlayers = []\nlayout = 'pykan'", "should list the names of layers"),
        ("[[layers]]\nlayers = ['x']\nlayout = 3", "a layout that is a text"),
        ("[[layers]]\nlayers = ['x']\ntensors = 'coef'", "tensors that are a list"),
        ("[[layers]]\nlayers = ['x']", "neither layout nor tensors"),
        ("[[layers]]\nlayers = ['x', 'x']\nlayout = 'pykan'", "'x' is in it twice"),
        ("a = " + "[" * 5000, "it is no TOML"),
    ],
)
def test_documents_that_cannot_be(text: str, says: str) -> None:
    with pytest.raises(InvalidFileError) as caught:
        parse_layouts(text, "it")
    assert caught.value.flaw == Flaw.BAD_LAYOUTS
    assert says in str(caught.value)


def test_the_command_line_prints_and_reads(tmp_path: Path) -> None:
    model, file, packed = (tmp_path / name for name in ("model.pt", "layout.toml", "packed.st"))
    torch.save(efficient_kan(), model)
    file.write_text(done("inspect", model, "--print-layout").stdout)
    assert kancompress.print_layouts(model) == file.read_text()
    for _ in range(2):
        done("cluster", model, "-k", "8", "--layout", f"@{file}", "-o", packed, "--force")
    direct = kancompress.cluster(model, kancompress.ClusterConfig(clusters=8)).model
    assert packed.read_bytes() == kancompress.encode(direct)
    chosen = kancompress.read_layouts(file)
    assert chosen == {"layers.0": "efficient-kan", "layers.1": "efficient-kan"}
    report = json.loads(done("inspect", model, "--layout", f"@{file}", "--json").stdout)
    assert len(report["layers"]) == 2
    for options, code, says in (
        (["--layout", f"@{tmp_path / 'gone'}"], 3, "gone does not exist"),
        (["--layout", f"@{model}"], 3, "is not UTF-8"),
        (["--layout", f"@{file}", "--layout", "layers.1=none"], 2, "given twice for layers.1"),
        (["--print-layout", "--json"], 2, "prints nothing else"),
        (["--print-layout", "--check"], 2, "prints nothing else"),
    ):
        assert says in refused(code, "inspect", model, *options)
    assert "ours" in refused(2, "inspect", packed, "--print-layout")


def test_every_layout_with_a_notation_is_known_again() -> None:
    for layout in LAYOUTS:
        assert parse_layouts(f"[[layers]]\nlayers=['x']\nlayout='{layout.name}'", "it") == {
            "x": layout.name
        }
