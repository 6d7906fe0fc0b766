"""Reports: the headline, tables at several widths, parts that add up, endings, and their units."""

import base64
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_masked import pruned
from torch import Tensor

import kancompress
from command import done, refused
from conftest import fresh
from kancompress import ClusterConfig
from kancompress.cli import _endings, _output, _scores, _sheets
from kancompress.reporting import told as reports
from kancompress.training.history import Epoch, Score

WIDTHS = (80, 100, 140)


def library() -> dict[str, Tensor]:
    """Two efficient-kan layers with long names, and a linear layer."""
    rng = torch.Generator().manual_seed(0)
    state = {"embed.weight": torch.randn(6, 4, generator=rng)}
    for number, (inputs, out) in enumerate([(6, 40), (40, 3)]):
        at = f"encoder.blocks.{number}.feed_forward.kan_layers.{number}."
        state |= {
            at + "base_weight": torch.randn(out, inputs, generator=rng),
            at + "spline_weight": torch.randn(out, inputs, 8, generator=rng),
            at + "grid": (torch.arange(-3, 9) * 0.4 - 1).repeat(inputs, 1),
        }
    return state


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of every kind."""
    place = tmp_path_factory.mktemp("reports")
    dense, meta = fresh("fastkan", (20, 8, 5)), fresh("metakan", (20, 8, 5))
    kancompress.save(dense, place / "dense")
    kancompress.save(meta, place / "meta")
    config = ClusterConfig(clusters=4)
    kancompress.save(kancompress.cluster(place / "dense", config).model, place / "packed")
    kancompress.save(kancompress.cluster(place / "meta", config).model, place / "of-meta")
    partly = ClusterConfig(clusters=4, layers={"1": 64})
    kancompress.save(kancompress.cluster(place / "dense", partly).model, place / "partly")
    small = ClusterConfig(
        clusters=4, price=0.1, codebook_dtype=kancompress.StoredDtype.INT8,
        side_dtype=kancompress.StoredDtype.INT8,
    )  # fmt: skip
    kancompress.save(kancompress.cluster(place / "dense", small).model, place / "short")
    torch.save(library(), place / "library.pt")
    save_file(library(), place / "library.st")
    torch.save(pruned(0.6, symbolic=True, widths=(20, 12, 4)), place / "pykan.pt")
    for name in ("library.pt", "pykan.pt"):
        packed = kancompress.cluster(place / name, config).model
        kancompress.save(packed, place / f"{name}-packed")
    return place


KINDS = (
    "dense", "meta", "packed", "of-meta", "partly", "short", "library.pt", "library.st", "pykan.pt",
    "library.pt-packed", "pykan.pt-packed",
)  # fmt: skip


# --- the headline and the ratios ------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (68.45, "68 times smaller"),
        (7.086, "7.1 times smaller"),
        (9.96, "10 times smaller"),
        (1234.5, "1,234 times smaller"),
        (0.5, "2 times larger"),
        (1.0, "as large, and no smaller"),
    ],
)
def test_ratios_in_words(ratio: float, words: str) -> None:
    assert reports.times(ratio) == words


def test_the_first_line_answers_the_question(place: Path) -> None:
    size, dense = ((place / name).stat().st_size for name in ("packed", "dense"))
    line = done("inspect", place / "packed").stdout.splitlines()[0]
    assert line == (
        f"{place / 'packed'}: packed, {size:,} bytes: {reports.times(dense / size)} than the dense"
        f" network ({dense:,})"
    )
    of_meta = place / "of-meta"
    source = kancompress.inspect(of_meta)["source"]
    assert source["file"] == (place / "meta").stat().st_size
    line = done("inspect", of_meta).stdout.splitlines()[0]
    # the dense network, not the file with its embeddings that was packed
    assert line.endswith(f" than the dense network ({source['dense'][1]:,})")
    line = done("inspect", place / "library.pt-packed").stdout.splitlines()[0]
    held = (place / "library.pt").stat().st_size
    assert line.endswith(f" than the checkpoint that was packed ({held:,})")
    assert "3 KAN" not in line


def test_commands_that_pack_begin_with_the_headline_of_inspect(place: Path, tmp_path: Path) -> None:
    told = done("cluster", place / "dense", "-k", "4", "-o", tmp_path / "out").stderr.splitlines()
    head = done("inspect", tmp_path / "out").stdout.splitlines()[0]
    assert head.replace(": packed, ", ": ") in told
    assert "ratio" in told[told.index(head.replace(": packed, ", ": ")) + 1]


def test_expand_says_of_which_file_the_bytes_are(place: Path, tmp_path: Path) -> None:
    target = tmp_path / "dense.st"
    said = done("expand", place / "packed", "-o", target).stderr
    assert said == f"{target}: {target.stat().st_size:,} bytes\n"


def test_ratios_come_in_order_with_the_paper_s_among_them(place: Path) -> None:
    sheet = reports.told(kancompress.inspect(place / "of-meta")).ratios
    assert sheet is not None
    times = [float(row[1]) for row in sheet.rows]
    assert times == sorted(times, reverse=True)
    said = {row[0]: row[2] for row in sheet.rows}
    assert "79.9" in said["pykan_storage"]
    assert [key for key, text in said.items() if "(as above)" in text] == ["dense_file"]


def test_bytes_that_no_tensor_uses_are_told_and_never_divided_by(tmp_path: Path) -> None:
    state, large = library(), torch.zeros(1_000_000)
    grid = "encoder.blocks.0.feed_forward.kan_layers.0.grid"
    state[grid] = large[: state[grid].numel()].view_as(state[grid]).copy_(state[grid])
    torch.save(state, tmp_path / "view.pt")
    torch.save({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "own.pt")
    report = kancompress.inspect(tmp_path / "view.pt")
    unused = 4 * (1_000_000 - 72)
    assert report["parts"]["unused"] == unused
    assert (
        f"{unused:,} bytes of the file belong to no tensor"
        in done("inspect", tmp_path / "view.pt").stdout
    )
    config, sizes = ClusterConfig(clusters=4), []
    for source in (tmp_path / "view.pt", tmp_path / "own.pt", state):
        sizes.append(kancompress.cluster(source, config).model.source)
    assert sizes[0].file == (tmp_path / "view.pt").stat().st_size - unused
    notes = kancompress.cluster(tmp_path / "view.pt", config).notes
    assert f"{unused:,} bytes of its storages belong to no tensor; they are in no ratio" in notes
    used = f"{sizes[0].file:,} without {unused:,} that no tensor uses"
    done("cluster", tmp_path / "own.pt", "-k", "4", "-o", tmp_path / "own.st")
    made = done("cluster", tmp_path / "view.pt", "-k", "4", "-o", tmp_path / "view.st")
    assert f" than the checkpoint that was packed ({used})\n" in made.stderr
    assert f"its source ({used})" in repr(kancompress.cluster(tmp_path / "view.pt", config))
    first = done("inspect", tmp_path / "view.pt", "-k", "4").stdout.splitlines()[0]
    packed = (tmp_path / "view.st").stat().st_size
    assert first.endswith(f"have {packed:,}: {reports.times(sizes[0].file / packed)} than {used}")
    # of the packed file it is not known how many those were
    report = kancompress.inspect(tmp_path / "view.st")
    (row,) = (row for row in reports.told(report).ratios.rows if row[0] == "file")  # type: ignore[union-attr]
    assert row[2].startswith("file that was packed, without bytes that no tensor uses / this file")
    page = kancompress.model_card(tmp_path / "view.st")
    assert f"packed from ({sizes[0].file:,} bytes, without those that no tensor uses)." in page
    for found in sizes[1:]:
        assert found.file == pytest.approx(sizes[0].file, rel=0.02)
        assert found.tensors == sizes[0].tensors
    assert "unused" not in kancompress.inspect(tmp_path / "own.pt")["parts"]


def test_lines_on_a_terminal_go_on_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """There alone: a pipe gets the whole line."""
    words = "some words and others that are longer than a terminal is wide " * 3
    for kind, tell in (("stderr", _output.note), ("stdout", _output.result)):
        for stream, width in ((Terminal(), 40), (io.StringIO(), 1000)):
            monkeypatch.setenv("COLUMNS", "40")
            monkeypatch.setattr(f"sys.{kind}", stream)
            tell(words.strip())
            lines = stream.getvalue().splitlines()
            assert max(map(len, lines)) <= width
            assert " ".join(lines) == words.strip()
            assert (len(lines) > 1) == stream.isatty()


def test_pages_of_what_has_no_path_have_a_title_and_python_s_words(place: Path) -> None:
    record = kancompress.load(place / "packed")
    page = kancompress.markdown_report(record)
    assert page.startswith("# A packed network\n")
    assert '| `codebook_dtype="float16"` or `codebook_dtype="int8"` |' in page
    assert '| `header="short"` |' in page
    assert re.search(r"counts [\d,]+(\.[1-9])? bytes for the indices", page)


# --- parts, and what did not shrink ---------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up_to_the_file(kind: str, place: Path) -> None:
    report = kancompress.inspect(place / kind)
    assert sum(report["parts"].values()) == (place / kind).stat().st_size
    assert min(report["parts"].values()) >= 0
    rows = dict(reports.told(report).parts.rows)
    assert rows.pop("file") == f"{(place / kind).stat().st_size:,}"
    assert sum(int(size.replace(",", "")) for size in rows.values()) == report["file_bytes"]


def test_parts_have_their_own_names(place: Path) -> None:
    def parts(name: str) -> dict[str, int]:
        found: dict[str, int] = kancompress.inspect(place / name)["parts"]
        return found

    assert parts("dense")["coefficients"] == 4 * 9 * (20 * 8 + 8 * 5)
    assert parts("meta")["embeddings"] == 4 * (20 * 8 + 8 * 5)
    assert parts("partly")["coefficients"] == 4 * 9 * 8 * 5
    assert parts("library.pt")["coefficients"] == 4 * 9 * (6 * 40 + 40 * 3)
    packed = parts("pykan.pt-packed")
    report = kancompress.inspect(place / "pykan.pt-packed")
    kept = sum(row["kept_edges"] for row in report["layers"])
    assert kept == 4
    assert packed["kept_edges"] == kept * 9 * 4
    assert packed["kept_positions"] == kept * 8


def test_other_libraries_layers_name_basis_and_tensors(place: Path) -> None:
    for name in ("library.pt", "library.pt-packed"):
        for row in kancompress.inspect(place / name)["layers"]:
            assert (row["basis"], row["layout"]) == ("bspline", "efficient-kan")
            assert sorted(row["tensors"]) == [
                f"{row['name']}.base_weight", f"{row['name']}.spline_weight",
            ]  # fmt: skip
    for name in ("pykan.pt", "pykan.pt-packed"):
        rows = kancompress.inspect(place / name)["layers"]
        assert [row["symbolic_edges"] for row in rows] == [2, 2]
        assert "2 of 240 edges are symbolic" in done("inspect", place / name).stdout


def test_what_did_not_shrink_says_why_and_what_changes_it(place: Path) -> None:
    def rows(name: str) -> dict[str, tuple[str, ...]]:
        sheet = reports.told(kancompress.inspect(place / name)).unshrunk
        return {} if sheet is None else {row[0]: row[1:] for row in sheet.rows}

    partly = rows("partly")
    assert partly["layer 1"][0] == f"{4 * 9 * 8 * 5:,}"
    assert "`force_pack`" in partly["layer 1"][2]
    norms = rows("packed")["tensors 0.norm and 1.norm"]
    assert norms == (f"{4 * 2 * 28:,}", *norms[1:])
    assert '`side_dtype="float16"`' in norms[2]
    others = rows("library.pt-packed")
    assert others["tensor embed.weight"][:2] == (f"{4 * 24:,}", "no edges of KAN layers")
    assert "symbolic" in rows("pykan.pt-packed")["4 edges"][1]
    extra = {"model": library(), "optimizer": {"step": torch.ones(30)}}
    torch.save(extra, place / "extra.pt")
    packed = kancompress.cluster(place / "extra.pt", ClusterConfig(clusters=4), keep_extra=True)
    kancompress.save(packed.model, place / "extra", force=True)
    assert rows("extra")["tensor extra"][2] == "leave `keep_extra` out"
    assert "in float32" not in str(rows("short"))
    assert "--side-dtype float16" in done("inspect", place / "packed").stdout
    assert rows("dense") == {}


def test_no_bytes_are_said_twice_not_to_have_shrunk() -> None:
    """A few edges with as many centroids: codebooks, indices and header, each in one row."""
    state = pruned(1, widths=(2, 1, 1))
    made = kancompress.cluster(state, clusters=2, force_pack=True)
    report = kancompress.inspect(made)
    (one, other), table = report["layers"], reports.told(report).unshrunk
    assert table is not None
    rows = {row[0]: (int(row[1].replace(",", "")), *row[2:]) for row in table.rows}
    assert sum(row[0] for row in rows.values()) <= report["file_bytes"]
    narrower = '`codebook_dtype="float16"` or `codebook_dtype="int8"`'
    assert rows["layer act_fun.0"] == (
        one["codebook_bytes"] + one["index_bytes"],
        "few edges for so many centroids",
        f"fewer `clusters` for it, `parts`, {narrower}",
    )
    # one edge has one centroid: there are no fewer
    assert (other["clusters"], other["edges"]) == (1, 1)
    why = "hardly more edges than its one centroid"
    assert rows["layer act_fun.1"] == (other["codebook_bytes"], why, narrower)
    assert not any(name.startswith("codebook") for name in rows)


@pytest.mark.parametrize("own", [True, False])
def test_a_header_of_much_of_the_file_is_told_in_any_form(own: bool) -> None:
    source: Any = fresh("fastkan", (6, 4, 3)) if own else pruned(1, widths=(9, 9, 9))
    for header, change in (("plain", '`header="short"`'), ("short", "nothing")):
        report = kancompress.inspect(kancompress.cluster(source, clusters=2, header=header))
        assert report["header_bytes"] > 0.1 * report["file_bytes"]
        table = reports.told(report).unshrunk
        assert table is not None
        (row,) = (row for row in table.rows if row[0] == "header")
        assert (row[1], row[3]) == (f"{report['header_bytes']:,}", change)


def test_tensors_beside_the_edges_are_called_as_in_their_source() -> None:
    state = pruned(0.6, symbolic=True, widths=(20, 12, 4))
    state["act_fun.0.grid"][3] += 0.25
    report = kancompress.inspect(kancompress.cluster(state, clusters=4))
    found = {row.get("source", row["name"]): row for row in report["other"]}
    assert found.keys() <= state.keys()
    assert found["act_fun.0.grid"]["name"] not in state
    assert found["act_fun.0.grid"]["bytes"] == state["act_fun.0.grid"].nbytes
    told = reports.told(report)
    assert "act_fun.0.grid" in [row[0] for one in told.others for row in one.rows]
    table = told.unshrunk
    assert table is not None
    assert not any(re.search(r"tensor \d", row[0].replace("tensors", "")) for row in table.rows)


def test_the_centroid_of_masked_edges_is_told_wherever_k_is(tmp_path: Path) -> None:
    state = pruned(0.5, widths=(12, 9, 4))
    torch.save(state, tmp_path / "m.pt")
    dead = int((state["act_fun.0.mask"] == 0).sum())
    said = done("cluster", tmp_path / "m.pt", "-k", "4", "-o", tmp_path / "m.st").stderr
    line = f"{108 - dead} edges and {dead} masked ones, k = 4 and a centroid of zeros for masked"
    assert line in said
    (row, _) = kancompress.inspect(tmp_path / "m.st")["layers"]
    assert row["clusters"] == 5
    assert (
        f"Layer act_fun.0: {108 - dead} of 108 edges compute something; the others are zero, as is"
        " one of the 5 centroids, which is theirs."
    ) in done("inspect", tmp_path / "m.st").stdout
    page = kancompress.markdown_report(tmp_path / "m.st")
    assert f"{dead} edges that compute nothing have the one of zeros" in page


# --- tables ---------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Standard output as a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is printed to a terminal of so many columns."""

    def shown(report: dict[str, Any], width: int) -> list[str]:
        from kancompress.cli import _report

        out = Terminal()
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm")
        _report.show(report, "file")
        return re.sub(r"\x1b\[[\d;]*m", "", out.getvalue()).splitlines()

    return shown


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["packed", "pykan.pt-packed", "library.pt-packed", "library.pt"])
def test_tables_fit_and_cut_nothing(kind: str, width: int, place: Path, terminal: Any) -> None:
    report = kancompress.inspect(place / kind)
    lines = terminal(report, width)
    found = reports.told(report)
    sentences = [found.headline, found.kind, *found.notes]
    tables = [line for line in lines if not any(line.endswith(text) for text in sentences if text)]
    assert max(map(len, tables)) <= width
    for row in report["layers"]:
        assert any(line.startswith(row["name"]) for line in tables), row["name"]
        size = f"{row['index_bytes']:,}"
        assert row["clusters"] is None or any(size in line.split() for line in tables)
    assert f"{report['file_bytes']:,}" in " ".join(tables).split()
    assert not any("..." in line or "\N{HORIZONTAL ELLIPSIS}" in line for line in tables)
    shapes = [" x ".join(map(str, row["shape"])) for row in report["layers"]]
    if "shape" in next(line for line in tables if line.startswith("layer ")).split():
        assert all(any(shape in line for line in tables) for shape in shapes)


def test_columns_that_matter_least_go_first_and_are_named(place: Path, terminal: Any) -> None:
    report = kancompress.inspect(place / "library.pt-packed")
    heads = []
    for width in (*WIDTHS, 200):
        lines = terminal(report, width)
        at = next(n for n, line in enumerate(lines) if line.startswith("layer "))
        heads.append(set(re.split(r"  +", lines[at].strip())))
        out = [line for line in lines if line.startswith("left out: ")]
        missing = {"use min-max", "entropy", "basis"} - heads[-1]
        assert all(any(name in line for line in out) for name in missing)
    assert heads == sorted(heads, key=len)
    assert {"layer", "k", "index B", "codebook B"} <= heads[0]
    assert "use min-max" not in heads[0]
    assert {"use min-max", "entropy", "basis", "dense B"} <= heads[-1]


def test_a_pipe_gets_the_whole_table(place: Path) -> None:
    lines = done("inspect", place / "library.pt-packed").stdout.splitlines()
    head = next(line for line in lines if line.startswith("layer "))
    assert re.split(r"  +", head.strip()) == list(reports._LAYERS)
    assert not any(line.startswith("left out") for line in lines)


def test_rows_too_long_for_a_terminal_have_their_name_in_a_line_of_its_own() -> None:
    sheet = reports.Sheet(
        heads=("layer", "k", "bytes"),
        rows=(("a" * 90, "16", "12,345"), ("b" * 70, "4", "7")),
        texts=("layer",),
    )
    lines = _sheets.fitted(sheet, 80).lines
    assert lines == (
        "layer", "     k   bytes", "a" * 90, "    16  12,345", "b" * 70, "     4       7",
    )  # fmt: skip


def test_words_go_on_in_the_next_line() -> None:
    sheet = reports.Sheet(
        heads=("what", "bytes", "why"),
        rows=(("header", "1,234", "it names each tensor for any reader"),),
        texts=("what", "why"),
        wraps=("why",),
    )
    lines = _sheets.fitted(sheet, 40).lines
    assert max(map(len, lines)) <= 40
    assert (
        " ".join(" ".join(lines[1:]).split()) == "header 1,234 it names each tensor for any reader"
    )
    assert len(_sheets.whole(sheet).lines) == 2


def test_wide_characters_are_counted_as_they_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    _output.table(["layer", "k"], [["層", "4"], ["ab", "16"]])
    assert capsys.readouterr().err.splitlines() == ["layer   k", "層      4", "ab     16"]


# --- errors and endings ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [(0.0196, "14 %"), (0.0001, "1 %"), (0.25, "50 %"), (0.0, "0 %"), (4.0, "200 %")],
)
def test_errors_have_a_name_and_a_unit(error: float, words: str) -> None:
    assert _scores.error_text(error) == (
        f"relative squared error {error:.3g}: {words} of the outputs' spread"
    )


def test_calibration_tells_scores_and_warns_of_outputs_that_moved(
    tmp_path: Path,
) -> None:
    kancompress.save(fresh("kan", (64, 4, 10)), tmp_path / "dense")
    calibrate = ("--calibrate", "digits", "--samples", "64", "--method", "metric")
    result = done("cluster", tmp_path / "dense", "-k", "1", *calibrate, "-o", tmp_path / "one")
    score = kancompress.evaluate(tmp_path / "one").score
    before = kancompress.evaluate(tmp_path / "dense").score
    assert (f"360 test rows: {before} before; {score} packed") in result.stderr.splitlines()
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("the network: ")]
    error = float(re.search(r"relative squared error ([\d.e-]+): (\d+) %", line)[1])  # type: ignore[index]
    assert math.sqrt(error) > 0.1
    assert "Warning: the outputs moved by more than 10% of their spread" in result.stderr


def test_rows_without_labels_have_no_score(tmp_path: Path) -> None:
    kancompress.save(fresh("kan", (6, 5, 3)), tmp_path / "dense")
    np.savez(tmp_path / "rows.npz", x=np.random.default_rng(0).normal(size=(64, 6)))
    rows = ("--calibrate", tmp_path / "rows.npz", "--method", "kmeans")
    arguments = (*rows, "-k", "2", "-o", tmp_path / "out")
    assert "test rows" not in done("cluster", tmp_path / "dense", *arguments).stderr


def ending(best: int, last: int, **options: Any) -> list[str]:
    score = Score(loss=1.0, accuracy=None, examples=1)
    history = [
        Epoch(number=n, train_loss=None, validation=score, best=n <= best, seconds=30.0 * (n > 0))
        for n in range(last + 1)
    ]
    given = {"epochs": 5, "patience": 2, "output": "out", "written": 1234, "before": "the input"}
    made = _endings.Ending(history=history, **(given | options))
    return list(made.sentences())


def test_endings_say_why_how_long_and_what_next() -> None:
    all_of_them = "written after 5 epochs in 2 min 30 s; that was all of --epochs 5"
    assert ending(3, 5) == [f"out: 1,234 bytes, {all_of_them}"]
    early = "stopped as no better epoch came within 2 epochs (--patience)"
    assert ending(1, 3) == [f"out: 1,234 bytes, written after 3 epochs in 1 min 30 s; {early}"]
    assert ending(5, 5)[1].endswith("still improving; raise --epochs")
    assert ending(0, 2)[1].endswith("so that the output is the input")
    assert "no finite number" in ending(1, 1)[0]
    assert len(ending(0, 0, epochs=0)) == 1  # none was asked for
    assert ending(1, 1, output="-")[0].startswith("standard output: ")


def test_finetuning_that_found_nothing_better_says_so(place: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(60, 20)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", x=x, y=np.arange(60) % 5)
    run = ("--data", tmp_path / "rows.npz", "--lr", "0", "--epochs", "1", "-o", tmp_path / "out")
    result = done("finetune", place / "packed", *run)
    assert result.stderr.splitlines()[-1] == (
        "no epoch was better on the validation rows, so that the output is the input"
    )


# --- pages ----------------------------------------------------------------------------------


class Read(HTMLParser):
    """What a page says, and what it would load or run."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def test_a_page_says_what_the_terminal_says(place: Path, tmp_path: Path) -> None:
    report = done("inspect", place / "packed", "--html", tmp_path / "p.html")
    assert f"p.html: page, {(tmp_path / 'p.html').stat().st_size:,} bytes" in report.stderr
    page = Read((tmp_path / "p.html").read_text())
    for line in report.stdout.splitlines()[1:]:
        for cell in re.split(r"  +", line):
            assert cell in page.text, cell
    for row in kancompress.inspect(place / "packed")["parts"]:
        assert reports.PARTS[row] in page.text
    curves = [kind for tag, kind in page.tags if tag == "polyline"]
    assert len(curves) == 8
    assert all(len(kind["points"].split()) == 51 for kind in curves)  # type: ignore[union-attr]


def test_a_page_needs_nothing_else_and_runs_nothing(place: Path, tmp_path: Path) -> None:
    (tmp_path / "dot.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    text = kancompress.html_report(place / "packed", pictures=[tmp_path / "dot.svg"])
    page = Read(text)
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    sources = [kind[key] for _, kind in page.tags for key in ("src", "href") if key in kind]
    assert [one for one in sources if not (one or "").startswith("data:")] == []
    (policy,) = [kind["content"] for tag, kind in page.tags if "http-equiv" in kind]
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in str(policy)
    assert not any("style" in kind for _, kind in page.tags)


def test_names_from_a_file_are_no_markup(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    at = "<img src=x>|`b`\x1b."
    state = {
        at + "base_weight": torch.randn(4, 6, generator=rng),
        at + "spline_weight": torch.randn(4, 6, 8, generator=rng),
        at + "grid": (torch.arange(-3, 9) * 0.4 - 1).repeat(6, 1),
    }
    torch.save(state, tmp_path / "odd.pt")
    page = Read(kancompress.html_report(tmp_path / "odd.pt"))
    assert "img" not in [tag for tag, _ in page.tags]
    assert "<img src=x>|`b`\ufffd" in page.text
    text = kancompress.markdown_report(tmp_path / "odd.pt")
    assert r"| \<img src=x\>\|\`b\`" in text
    assert "\x1b" not in text


def test_advice_in_markdown_is_code_that_python_takes(place: Path) -> None:
    text = kancompress.markdown_report(place / "packed")
    for advice in ('`side_dtype="float16"` or `side_dtype="int8"`', '`header="short"`'):
        assert advice in text
    for name, value in re.findall(r'`(codebook_dtype|side_dtype|header)="(\w+)"`', text):
        ClusterConfig(**{name: value})
    page = kancompress.html_report(place / "packed")
    assert "<code>side_dtype=&quot;float16&quot;</code> or <code>side_dtype=&quot;int8" in page
    assert "`" not in Read(page).text
    told = done("inspect", place / "packed").stdout
    assert "--header short" in told
    assert "--side-dtype float16" in told


def test_words_agree_with_their_numbers(tmp_path: Path) -> None:
    kancompress.save(fresh("fastkan", (4, 1, 1)), tmp_path / "dense")
    told = done(
        "cluster", tmp_path / "dense", "-k", "1", "--force-pack", "-o", tmp_path / "p"
    ).stderr
    assert "layer 0: 4 edges, k = 1" in told
    assert "layer 1: 1 edge, k = 1" in told
    assert "after 1 iteration," in told
    assert not re.search(r"\b1 (edges|iterations|coefficients)\b", told)


def test_markdown_has_the_tables_and_the_pictures(place: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "out").mkdir()
    result = done(
        "inspect", place / "packed", "--markdown", tmp_path / "p.md", "--html", tmp_path / "p.html",
        "--plot", tmp_path / "out" / "edges.png", "--json",
    )  # fmt: skip
    told = json.loads(result.stdout)
    assert [one["kind"] for one in told["pages"]] == ["html", "markdown"]
    assert told["pages"][1]["file_bytes"] == (tmp_path / "p.md").stat().st_size
    text = (tmp_path / "p.md").read_text()
    assert "![edges.png](<out/edges.png>)" in text
    assert "data:image/png;base64," in (tmp_path / "p.html").read_text()
    report = kancompress.inspect(place / "packed")
    for name, size in report["parts"].items():
        assert f"| {reports.PARTS[name]} | {size:,} |" in text
    heads = [line for line in text.splitlines() if line.startswith("| layer |")]
    assert heads == [f"| {' | '.join(reports._LAYERS)} |"]
    assert len(re.findall("`[▁-█]+`", text)) == 8


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--html", "a", "--markdown", "a"), "two names"),
        (("--html", "a", "--check"), "--check"),
        (("--markdown", "-"), "--markdown names a file"),
        (("--html", "dense"), "exists"),
        (("--html", "a", "--print-layout"), "--print-layout"),
    ],
)
def test_pages_that_cannot_be_written_are_refused(
    options: tuple[str, ...], says: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    assert says in refused(2, "inspect", "packed", *options)
    assert not (place / "a").exists()


def test_functions_that_are_not_known_are_said_not_to_be_drawn(place: Path) -> None:
    text = kancompress.markdown_report(place / "library.pt-packed")
    assert "The functions of the centroids are not drawn." in text
    assert "embed.weight" in text


def test_a_picture_that_is_not_there_is_refused(tmp_path: Path) -> None:
    packed = kancompress.encode(
        kancompress.cluster(fresh("kan", (4, 3, 2)), ClusterConfig(clusters=2)).model
    )
    with pytest.raises(kancompress.InvalidFileError, match=r"no\.png does not exist"):
        kancompress.html_report(packed, pictures=[tmp_path / "no.png"])
