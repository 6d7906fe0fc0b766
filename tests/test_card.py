"""Model cards: front matter as the hub reads it, and the numbers that `inspect` tells."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_masked import pruned

import kancompress
from command import call, done, refused
from conftest import fresh
from kancompress.reporting.card import CardOptions, card


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense file and one packed from it."""
    folder = tmp_path_factory.mktemp("card")
    dense = fresh("fastkan", (64, 6, 10))
    kancompress.save(dense, folder / "dense.safetensors")
    config = kancompress.ClusterConfig(layers={"0": 8}, clusters=4)
    packed = kancompress.cluster(dense, config).model
    kancompress.save(packed, folder / "packed.safetensors")
    return folder


def divided(page: str) -> tuple[dict[str, Any], str]:
    """Front matter, read by another reader, and the page below it."""
    _, front, text = page.split("---\n", 2)
    found = yaml.safe_load(front)
    assert isinstance(found, dict)
    return found, text


def rows(text: str, head: str) -> list[list[str]]:
    """The cells of the table that begins with `head`."""
    lines = text[text.index(f"| {head} |") :].splitlines()
    table = lines[2 : next(n for n, line in enumerate([*lines, ""]) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_sizes_are_those_of_inspect(place: Path) -> None:
    path = place / "packed.safetensors"
    report = kancompress.inspect(path)
    _, text = divided(kancompress.model_card(path))
    totals = report["totals"]
    assert rows(text, "part") == [
        ["header", f"{report['header_bytes']:,}"],
        ["indices", f"{totals['index_bytes']:,}"],
        ["codebooks", f"{totals['codebook_bytes']:,}"],
        ["other tensors", f"{totals['other_bytes']:,}"],
        ["file", f"{path.stat().st_size:,}"],
    ]
    assert sum(int(cells[1].replace(",", "")) for cells in rows(text, "part")[:-1]) == (
        path.stat().st_size
    )
    assert f"{report['ratios']['file']:.2f} times smaller" in text
    found = [(cells[0], cells[1], cells[4], cells[5]) for cells in rows(text, "layer")]
    assert found == [("`0`", "6 x 64", "8", "3.00"), ("`1`", "10 x 6", "4", "2.00")]


def test_the_front_matter_is_what_the_hub_reads(place: Path) -> None:
    scores = {"accuracy": 0.925, "loss": 0.25, "examples": 360, "seconds": 1.0, "notes": []}
    page = kancompress.model_card(
        place / "packed.safetensors", scores=scores, base_model="lab/dense", license="apache-2.0"
    )
    front, text = divided(page)
    (index,) = front.pop("model-index")
    assert front == {
        "library_name": "kancompress",
        "license": "apache-2.0",
        "base_model": "lab/dense",
        "base_model_relation": "quantized",
        "pipeline_tag": "image-classification",
        "tags": ["kan", "kolmogorov-arnold-network", "codebook", "fastkan"],
    }
    assert index["name"] == "packed"
    assert index["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.925}]
    assert rows(text, "") == [["accuracy", "92.50 %"], ["loss", "0.25"], ["test rows", "360"]]


def test_the_hub_s_own_reader_takes_it(place: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    scores = {"accuracy": 0.9541, "loss": 0.2, "examples": 10_000}
    report = kancompress.inspect(place / "packed.safetensors")
    report["data"]["name"] = "mnist"
    found = hub.ModelCard(card(report, "packed.kc.safetensors", CardOptions(scores=scores))).data
    assert found.library_name == "kancompress"
    assert found.datasets == ["ylecun/mnist"]
    assert found.model_name == "packed"
    (result,) = found.eval_results
    assert (result.dataset_type, result.metric_value) == ("ylecun/mnist", 0.9541)


def test_without_options_nothing_is_invented(place: Path) -> None:
    front, text = divided(kancompress.model_card(place / "dense.safetensors"))
    assert not front.keys() & {"license", "base_model", "model-index", "datasets"}
    assert "Scores" not in text
    assert "codebook" not in front["tags"]
    assert rows(text, "part")[-1] == ["file", f"{(place / 'dense.safetensors').stat().st_size:,}"]


def test_scores_of_other_rows_are_not_said_to_be_the_data_set_s(place: Path) -> None:
    scores = {"accuracy": 1.0, "loss": 0.0, "examples": 7}
    front, text = divided(kancompress.model_card(place / "packed.safetensors", scores=scores))
    assert "model-index" not in front
    assert "test rows of" not in text
    assert ["test rows", "7"] in rows(text, "")


def test_what_python_is_told_runs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx, _ = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
    monkeypatch.chdir(place)
    kancompress.export("packed.safetensors", "model.onnx", force=True)
    page = kancompress.model_card("packed.safetensors", exported=["model.onnx"])
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    outputs = []
    for block in blocks[not hasattr(kancompress, "predict") :]:
        names: dict[str, Any] = {"x": np.ones((2, 64), np.float32), "onnxruntime": onnx}
        exec(compile(block.replace("hf://OWNER/NAME/", ""), "card", "exec"), names)
        outputs.append(np.asarray(names["outputs"]))
    for found in outputs:
        np.testing.assert_allclose(found, outputs[0], rtol=1e-5, atol=1e-5)


def test_another_library_s_file_says_how_it_is_restored(tmp_path: Path) -> None:
    state = _efficient_kan()
    packed = kancompress.cluster(state, kancompress.ClusterConfig(clusters=2, force_pack=True))
    kancompress.save(packed.model, tmp_path / "packed.safetensors")
    front, text = divided(kancompress.model_card(tmp_path / "packed.safetensors"))
    assert "efficient-kan" in front["tags"]
    assert "pipeline_tag" not in front
    assert "kancompress expand" in text


def _efficient_kan() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    grid = (torch.arange(-3, 9) * 0.4 - 1).repeat(30, 1)
    return {
        "layers.0.spline_weight": torch.randn(20, 30, 8, generator=generator),
        "layers.0.base_weight": torch.randn(20, 30, generator=generator),
        "layers.0.grid": grid,
    }


@pytest.mark.parametrize("name", ["a b`c|d\n---\nlicense: x.st", "---.st", "<script>.st", "é☃.st"])
def test_names_break_neither_front_matter_nor_page(place: Path, name: str) -> None:
    report = kancompress.inspect(place / "packed.safetensors")
    report["layers"][0]["name"] = name
    scores = {"accuracy": 0.5, "loss": 1.0, "examples": 360}
    page = card(report, name, CardOptions(scores=scores, exported=[f"{name}.onnx"]))
    front, text = divided(page)
    assert "license" not in front
    assert front["model-index"][0]["name"].startswith(name[:1])
    assert len(rows(text, "layer")) == 2
    assert page.count("```") % 2 == 0


def test_the_command_writes_it_with_the_scores_of_eval(place: Path, tmp_path: Path) -> None:
    packed, page = place / "packed.safetensors", tmp_path / "README.md"
    scores = tmp_path / "scores.json"
    scores.write_bytes(done("eval", packed, "--json").stdout_bytes)
    result = done("export", packed, "--card", page, "--scores", scores, "--license", "mit")
    assert result.stdout == ""
    assert result.stderr == f"{page}: model card, {page.stat().st_size:,} bytes\n"
    found = json.loads(scores.read_text())
    expected = kancompress.model_card(packed, scores=found, license="mit")
    assert page.read_text() == expected
    again = ("export", packed, "--card", page, "--scores", "-", "--license", "mit", "--force")
    record = json.loads(done(*again, "--json", stdin=scores.read_bytes()).stdout)
    assert record == {
        "output": None,
        "card": {"output": str(page), "file_bytes": page.stat().st_size},
    }
    assert page.read_text() == expected


def test_the_command_writes_it_together_with_what_is_exported(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    packed, page, model = place / "packed.safetensors", tmp_path / "c.md", tmp_path / "m.onnx"
    done("export", packed, "-o", model, "--card", page)
    assert 'InferenceSession("m.onnx")' in page.read_text()
    assert model.read_bytes() == kancompress.export(packed, format="onnx").data
    piped = done("export", packed, "-o", "-", "--format", "onnx", "--card", page, "--force")
    assert piped.stdout_bytes == model.read_bytes()
    line = refused(2, "export", packed, "-o", tmp_path / "new.onnx", "--card", page)
    assert str(page) in line
    assert not (tmp_path / "new.onnx").exists()


@pytest.mark.parametrize(
    ("code", "options", "word"),
    [
        (2, ("--license", "mit"), "--license goes with --card"),
        (2, ("--scores", "x.json", "-o", "m.onnx"), "--scores goes with --card"),
        (2, ("--card", "-"), "names a file"),
        (2, ("--card", "README.md", "--dry-run"), "--dry-run"),
        (2, ("--card", "README.md", "--with-softmax"), "--with-softmax goes with"),
        (2, ("--card", "README.md", "--grid-range", "-1,1"), "--grid-range goes with"),
        (2, ("--card", "m.onnx", "-o", "m.onnx"), "same file"),
        (2, ("--card", "hf://lab/one/README.md"), "hf upload"),
        (2, ("--card", "README.md", "--license", "My Licence"), "mit or apache-2.0"),
        (2, ("--card", "README.md", "--base-model", "dense"), "OWNER/NAME"),
        (3, ("--card", "README.md", "--scores", "nowhere.json"), "does not exist"),
        (2, (), "--output"),
    ],
)
def test_options_that_do_not_fit(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, options: Any, word: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert word in refused(code, "export", place / "packed.safetensors", *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    ["", "no", "[1]", "{}", '{"loss": "low"}', '{"loss": NaN}', "[" * 9999, '{"loss": true}'],
)
def test_scores_that_are_none(place: Path, tmp_path: Path, content: str) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(content)
    options = ("--card", tmp_path / "README.md", "--scores", scores)
    assert "kancompress eval" in refused(3, "export", place / "packed.safetensors", *options)


def test_what_is_not_ours_has_no_card(tmp_path: Path) -> None:
    torch.save(_efficient_kan(), tmp_path / "model.pt")
    result = call("export", tmp_path / "model.pt", "--card", tmp_path / "README.md")
    assert result.exit_code == 2
    assert "kancompress cluster FILE" in result.stderr


def test_scores_of_another_file_are_refused() -> None:
    dense = kancompress.encode(fresh("kan", (4, 3, 2)))
    scores = {"accuracy": 0.5, "loss": 1.0, "examples": 360, "file_bytes": len(dense)}
    assert "50.00 %" in kancompress.model_card(dense, scores=scores)
    with pytest.raises(kancompress.UsageError, match="score this file"):
        kancompress.model_card(dense, scores=scores | {"file_bytes": len(dense) + 1})


def test_a_card_of_pykan_s_network_says_how_pykan_loads_it() -> None:
    """With the config that has to go along, the widths, and no more for other libraries' files."""
    made = kancompress.cluster(pruned(1, widths=(4, 8, 1)), clusters=8)
    page = kancompress.model_card(made)
    assert "expand hf://OWNER/NAME/model.safetensors -o model_state --pykan-config" in page
    assert "`mark_config.yml` is the config that pykan's `saveckpt` wrote." in page
    assert 'KAN.loadckpt("model")' in page
    own = kancompress.cluster(fresh("fastkan", (6, 4, 1)), clusters=2)
    page = kancompress.model_card(own)
    assert "pykan" not in page
    assert "It takes rows of 6 numbers and puts out 1 number." in page
    told = kancompress.RunOptions(base_activation="silu")
    page = kancompress.model_card(
        kancompress.cluster(pruned(1, widths=(4, 8, 1)), clusters=8, options=told)
    )
    assert "It takes rows of 4 numbers and puts out 1 number." in page
    assert "# x: float32 rows, (n, 4)" in page
