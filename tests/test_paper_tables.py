"""The tables of the paper's benchmarks: published numbers that agree, and what is printed."""

import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import kancompress
from kancompress.config import StoredDtype
from kancompress.specs import DataOptions, Family
from tests.benchmarks import cells as kept
from tests.benchmarks.cells import Recipe
from tests.benchmarks.paper import __main__ as program
from tests.benchmarks.paper import costs, stages, tables
from tests.benchmarks.paper.published import TABLE1, TABLE2, TABLE8, TABLE9
from tests.benchmarks.paper.stages import Packing


def cell(
    recipe: Recipe, *accuracy: float, bytes_: tuple[int, ...] = (900, 30, 20), **more: Any
) -> dict[str, Any]:
    told = {"accuracy": list(accuracy), "bytes": list(bytes_), "epochs": 7, "train_seconds": 60}
    where = {"torch": "2.9", "threads": 1, "machine": "a machine"}
    return recipe.key | told | where | more


def rows_of(table: str) -> list[dict[str, str]]:
    """Rows of a Markdown table by their column; a column's name that comes again gets a prime."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    split = [[part.strip() for part in line.strip("|").split("|")] for line in lines]
    names: list[str] = []
    for name in split[0]:
        names.append(name + "'" * names.count(name))
    assert {len(line) for line in split} == {len(names)}
    return [dict(zip(names, line, strict=True)) for line in split[2:]]


# --- published numbers ----------------------------------------------------------------------


def test_the_papers_tables_agree_where_they_print_the_same_network() -> None:
    assert TABLE8["metafastkan"][5] == TABLE1["cifar10"]["metafastkan"]
    assert TABLE8["metafastkanconv"][5] == TABLE2["cifar10"]["metafastkanconv"]
    for by_size in TABLE9.values():
        assert len({stages[1][1] for stages in by_size.values()}) == 1
    for table in (TABLE1, TABLE2):
        for models in table.values():
            for rows in models.values():
                assert rows[1][1] == rows[2][1] < rows[0][1]


def test_changes_are_those_that_table_3_prints() -> None:
    printed = {
        "metafastkan": (0.11, -1.39, 0.28, -1.59, 0.41),
        "metafastkanconv": (-0.50, -1.36, -0.30, -0.39, 0.07),
    }
    for model, changes in printed.items():
        for scores, wanted in zip(TABLE8[model].values(), changes, strict=True):
            found = tables.change([accuracy for accuracy, _ in scores])
            assert found == pytest.approx(wanted, abs=0.006)


def test_the_formula_is_equation_10_and_5() -> None:
    # the paper's payload of MetaClusterKAN on CIFAR-10 is 38,944 bytes, of 75,584 edges of 9
    edges = (2352 * 32, 320)
    assert tables.formula(edges, 9, 16) == pytest.approx(75_584 * 9 * 4 / 38_944)
    n, k = 1000, 16
    assert tables.formula([n], 1, k) == pytest.approx(n * 32 / (n * math.log2(k) + k * 32))


# --- tables ---------------------------------------------------------------------------------


def test_table_1_prints_median_spread_seeds_and_memory() -> None:
    found = [
        cell(Recipe(model="metakan", dataset="mnist", seed=0), 0.96, 0.95, 0.955),
        cell(Recipe(model="metakan", dataset="mnist", seed=1), 0.98, 0.94, 0.965),
        cell(Recipe(model="metakan", dataset="mnist", seed=2), 0.97, 0.91, 0.975),
        cell(Recipe(model="kan", dataset="mnist"), 0.9, 0.3, 0.8, bytes_=(9000, 30, 20)),
        cell(Recipe(model="metakan", dataset="cifar10"), 0.1, 0.1, 0.1),
    ]
    rows = rows_of(tables.table1("mnist", found))
    assert [(row["model"], row["stage"]) for row in rows[:3]] == [
        ("kan", "trained"), ("kan", "clustered"), ("kan", "fine-tuned"),
    ]  # fmt: skip
    clustered = rows[4]
    assert clustered["model"] == "metakan"
    assert clustered["paper %"] == "96.02"
    assert clustered["ours % (median)"] == "94.00"
    assert clustered["from - to"] == "91.00 - 95.00"
    assert clustered["seeds"] == "3"
    assert clustered["paper B"] == "14,172"
    assert clustered["ours B"] == "30"
    assert clustered["paper: dense / this"] == f"{1031.44 / 13.84:.1f}"
    assert clustered["ours: dense / this"] == "300.0"
    missing = rows[-1]
    assert (missing["model"], missing["ours % (median)"], missing["seeds"]) == (
        "metagramkan", "not run", "0",
    )  # fmt: skip


def test_the_headline_of_the_paper_is_in_its_table() -> None:
    rows = rows_of(tables.table1("cifar10", []))
    (row,) = [row for row in rows if (row["model"], row["stage"]) == ("metakan", "fine-tuned")]
    assert row["paper: dense / this"] == "79.9"


def test_the_whole_method_is_set_beside_the_papers_accuracy_and_bytes() -> None:
    recipes = [Recipe(model="metakan", dataset="mnist", seed=seed) for seed in range(3)]
    accuracies = (0.96, 0.97, 0.98)
    own = [
        cell(recipe, 0.95, 0.9, accuracy, bytes_=(9000, 14_000, 14_000))
        for recipe, accuracy in zip(recipes, accuracies, strict=True)
    ]
    first, second, _ = rows_of(tables.metacluster(own, ["mnist"]))
    assert (first["model"], first["fine-tuned %"], first["seeds"]) == ("metakan", "97.00", "3")
    assert first["from - to"] == "96.00 - 98.00"
    assert (first["paper, fine-tuned %"], first["difference"]) == ("96.45", "+0.55")
    assert (first["bytes"], first["paper B"]) == ("14,000", "14,172")
    assert first["difference'"] == f"{14_000 - 13.84 * 1024:+.0f}"
    assert (second["model"], second["fine-tuned %"], second["difference"]) == (
        "metafastkan", "not run", "",
    )  # fmt: skip


def test_table_2_says_what_was_run_and_what_is_kept() -> None:
    recipe = Recipe(model="metagramkanconv", dataset="cifar10")
    rows = rows_of(tables.table2("cifar10", [cell(recipe, 0.5, 0.4, 0.45, complete=False)]))
    own = [row for row in rows if row["model"] == "metagramkanconv"]
    assert [row["ours: kept %"] for row in own] == ["100.0", "80.0", "90.0"]
    assert own[1]["paper: kept %"] == f"{100 * 79.36 / 81.88:.1f}"
    assert own[0]["epochs"] == "7+"
    assert rows[0]["ours %"] == "not run"
    assert rows[0]["epochs"] == ""


def test_tables_3_and_8_take_their_first_row_from_table_1() -> None:
    own = cell(Recipe(model="metafastkan", dataset="cifar10"), 0.5, 0.49, 0.48)
    wide = cell(Recipe(model="metafastkan", dataset="cifar10", grid=10), 0.4, 0.42, 0.41)
    other = cell(Recipe(model="metafastkan", dataset="cifar10", embedding=2), 0.1, 0.1, 0.1)
    rows = {(row["model"], row["count"]): row for row in rows_of(tables.table3([own, wide, other]))}
    first = rows["metafastkan", "5"]
    assert (first["RBFs"], first["ours %"], first["clustered %'"]) == ("8", "50.00", "49.00")
    assert first["change %'"] == "-2.00"
    assert rows["metafastkan", "10"]["change %'"] == "5.00"
    assert rows["metafastkan", "8"]["ours %"] == "not run"
    eight = [row for row in rows_of(tables.table8([own, wide, other])) if row["grid"] == "10"]
    assert [row["ours % (median)"] for row in eight[:3]] == ["40.00", "42.00", "41.00"]


def test_table_9_takes_the_convolutions_own_size_from_table_2() -> None:
    conv = cell(Recipe(model="metafastkanconv", dataset="cifar10"), 0.7, 0.6, 0.65)
    two = cell(Recipe(model="metafastkan", dataset="cifar10", embedding=2), 0.4, 0.3, 0.35)
    rows = rows_of(tables.table9([conv, two]))
    found = {
        (row["model"], row["embedding"]): row["ours % (median)"]
        for row in rows
        if row["stage"] == "trained"
    }
    assert found["metafastkanconv", "2"] == "70.00"
    assert found["metafastkan", "2"] == "40.00"
    assert found["metafastkanconv", "3"] == found["metafastkan", "4"] == "not run"


def test_figure_2_is_a_row_for_each_k() -> None:
    recipe = Recipe(model="fastkan", dataset="cifar10")
    found = [
        cell(recipe, 0.5, 0.2, 0.3),  # Table 1's own, k = 16
        cell(recipe, 0.5, 0.1, 0.2, clusters=4, bytes_=(900, 30, 10)),
        cell(Recipe(model="kan", dataset="cifar10"), 0.5, 0.2, 0.3),
    ]
    rows = rows_of(tables.figure2(found))
    assert [(row["k"], row["clustered %"], row["bytes"]) for row in rows] == [
        ("4", "10.00", "10"), ("16", "20.00", "20"),
    ]  # fmt: skip


def test_the_documents_hold_the_tables_as_they_are() -> None:
    pages = [page for page in program.PAGES if "<!-- paper" in page.read_text()]
    assert {"paper.md", "reproduce-the-paper.md"} <= {page.name for page in pages}
    for page in pages:
        assert page.read_text() == program.written(page.read_text()), (
            f"{page.name} is stale; write it with: python -m tests.benchmarks.paper docs"
        )


# --- what was not run -----------------------------------------------------------------------


PLACE = {"3": "count", "8": "grid", "9": "embedding"}


def not_run(page: str) -> set[tuple[str, str, str, str]]:
    """Table, model, data set and row of the cells on a page that were not run or were cut off; the
    row of Tables 1 and 2 is empty."""
    found = set()
    for wish, text in re.findall(r"<!-- paper (\w+.*?) -->\n(.*?)<!-- end -->", page, re.DOTALL):
        name = wish.split()[0]
        if name not in ("table1", "table2", "table3", "table8", "table9", "float16", "mlp"):
            continue
        dataset = wish.split()[-1] if "--dataset" in wish else "cifar10"
        for row in rows_of(text):
            mine = [value for column, value in row.items() if not column.startswith("paper")]
            if "not run" in mine or any(re.fullmatch(r"\d+\.\d+\+", value) for value in mine):
                kind = PLACE.get(name[-1])
                own = kind is None or row[kind] == ("2" if name == "table9" else "5")
                place = "Table 2" if own else f"Table {name[-1]}"
                extra = "" if own else f"{kind} {row[kind]}".replace("count", "grid")
                found.add((place, row["model"], row.get("data", dataset), extra))
    return found


def test_every_cell_that_was_not_run_is_in_one_list_with_its_command() -> None:
    page = (program.MEASUREMENTS / "paper.md").read_text()
    (text,) = re.findall(r"<!-- paper missing -->\n(.*?)<!-- end -->", page, re.DOTALL)
    listed = {
        (place, row["model"], row["data"], row["row"]): row
        for row in rows_of(text)
        for place in row["stands in"].split(", ")
    }
    wanted = not_run(page)
    assert wanted <= listed.keys(), "python -m tests.benchmarks.paper docs"
    for (_, model, dataset, extra), row in listed.items():
        assert float(row["hours here"]) > 0
        options = program.chosen(row["command"].strip("`").split())
        (made,) = program.EXPERIMENTS[options.what].cells(options)
        recipe = made[0]
        assert (recipe.model, recipe.dataset) == (model, dataset)
        more = {name: value for name, value in recipe.key.items() if name in ("grid", "embedding")}
        assert extra == ", ".join(f"{name} {value}" for name, value in more.items())


def test_what_is_missing_is_what_no_seed_has_run_to_its_end() -> None:
    recipe = Recipe(model="metakanconv", dataset="mnist", seed=1)
    cut = cell(recipe, 0.9, 0.8, 0.9, complete=False)
    whole = cell(Recipe(model="metakanconv", dataset="mnist"), 0.9, 0.8, 0.9)
    options = program.chosen(["missing", "--models", "metakanconv", "--dataset", "mnist"])

    def told(*cells: dict[str, Any]) -> str:
        return program.EXPERIMENTS["missing"].show(options, list(cells))

    (row,) = rows_of(told(cut))
    assert row["missing"] == "cut off after 7 of 150 epochs"
    assert row["hours here"] == f"{60 / 7 * 155 / 3600:.1f}"
    assert told(cut, whole) == "Every cell was run to its end."
    (row,) = rows_of(told(whole | {"dataset": "cifar10"}))
    assert (row["missing"], row["taken from"]) == ("not run", "metakanconv, cifar10")
    share = (197.1 * 54_000) / (262.8 * 45_000)
    assert float(row["hours here"]) == pytest.approx(60 / 7 * share * 155 / 3600, abs=0.06)


# --- cells ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept, "FOLDER", tmp_path)
    return tmp_path


def start(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[Recipe]:
    """Run the program with the training left out; the cells that it ran."""
    ran: list[Recipe] = []

    def run(
        recipe: Recipe, directory: Path, work: Path, packing: Packing, minutes: float | None
    ) -> dict[str, Any]:
        ran.append(recipe)
        more = dict(packing.key)
        if minutes is not None:
            more |= {"complete": False, "train_seconds": round(60 * minutes)}
        return cell(recipe, 0.5, 0.4, 0.3) | more

    monkeypatch.setattr(program, "run", run)
    where = () if "--work" in arguments else ("--publish",)
    monkeypatch.setattr("sys.argv", ["paper", *arguments, *where])
    program.main()
    return ran


def test_finished_cells_are_not_run_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = ("table1", "--dataset", "mnist", "--models", "kan", "metakan", "--seeds", "0", "1")
    assert [(r.model, r.seed) for r in start(monkeypatch, *wish)] == [
        ("kan", 0), ("kan", 1), ("metakan", 0), ("metakan", 1),
    ]  # fmt: skip
    assert start(monkeypatch, *wish) == []
    assert start(monkeypatch, *wish, "--table") == []
    assert len((folder / "table1.jsonl").read_text().splitlines()) == 4


def test_cells_of_ones_own_are_kept_apart_and_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = ("table1", "--dataset", "mnist", "--models", "metakan")
    start(monkeypatch, *wish)
    published = (folder / "table1.jsonl").read_text()
    mine = (*wish, "--seeds", "0", "1", "--work", str(folder / "work"))
    capsys.readouterr()
    assert [recipe.seed for recipe in start(monkeypatch, *mine)] == [1]
    told = capsys.readouterr()
    assert "1 of 2 cells ran; 1 was read from results." in told.err
    assert "--own" in told.err
    assert (folder / "table1.jsonl").read_text() == published
    assert len((folder / "work" / "results" / "table1.jsonl").read_text().splitlines()) == 1
    assert start(monkeypatch, *mine) == []
    models = {line.split("|")[1].strip() for line in told.out.splitlines() if line[:1] == "|"}
    assert models == {"model", "---", "metakan"}
    assert len(kept.finished("table1")) == 1  # published ones alone


def test_published_cells_run_again_where_they_are_left_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = ("table1", "--dataset", "mnist", "--models", "metakan")
    start(monkeypatch, *wish, "--seeds", "0", "1", "2")
    mine = (*wish, "--work", str(folder / "work"), "--own")
    assert [recipe.seed for recipe in start(monkeypatch, *mine)] == [0]
    assert start(monkeypatch, *mine) == []
    capsys.readouterr()
    start(monkeypatch, *mine, "--table")
    assert {row["seeds"] for row in rows_of(capsys.readouterr().out)} == {"1"}
    with pytest.raises(SystemExit):
        start(monkeypatch, *wish, "--own", "--publish")


def test_seeds_that_were_asked_for_are_shown_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wish = ("table1", "--dataset", "mnist", "--models", "metakan")
    start(monkeypatch, *wish, "--seeds", "0", "1", "2")
    for asked, seeds in ((("--seeds", "0"), "1"), (("--seeds", "0", "2"), "2"), ((), "3")):
        capsys.readouterr()
        assert start(monkeypatch, *wish, *asked) == []
        assert {row["seeds"] for row in rows_of(capsys.readouterr().out)} == {seeds}


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table8", "table9", "mlp"])
def test_a_cell_that_was_cut_off_is_marked_in_every_table(name: str) -> None:
    dataset = "mnist" if name == "mlp" else "cifar10"
    model = "kanconv" if name == "table2" else "metafastkan"
    recipe = Recipe(model=model, dataset=dataset, embedding=3 if name == "table9" else None)
    whole, cut = cell(recipe, 0.5, 0.4, 0.45), cell(recipe, 0.5, 0.4, 0.45, complete=False)
    show = getattr(tables, name)
    texts = [
        show(dataset, [c]) if name in ("table1", "table2") else show([c]) for c in (whole, cut)
    ]
    assert "40.00 |" in texts[0]
    assert "+ |" not in texts[0]
    assert "40.00+ |" in texts[1]
    assert texts[1].endswith("+ behind a number: training was cut off.")


def test_tables_share_their_networks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fully = ("--models", "metafastkan")
    assert [r.grid for r in start(monkeypatch, "table8", *fully)] == [None, 8, 10, 15, 20]
    assert start(monkeypatch, "table3", *fully) == []
    assert start(monkeypatch, "table1", "--dataset", "cifar10", *fully) == []
    assert [r.embedding for r in start(monkeypatch, "table9", *fully, "--rows", "3")] == [3]
    lines = (folder / "ablations.jsonl").read_text().splitlines()
    assert [json.loads(line).get("grid") for line in lines] == [8, 10, 15, 20, None]


def test_float16_codebooks_are_cells_of_their_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [r.model for r in start(monkeypatch, "float16", "--dataset", "mnist")] == [
        "metakan", "metafastkan", "metagramkan",
    ]  # fmt: skip
    assert start(monkeypatch, "float16", "--dataset", "mnist") == []
    mine = ("--dataset", "mnist", "--models", "metakan")
    assert len(start(monkeypatch, "table1", *mine)) == 1
    (record,) = kept.finished("table1")
    assert "codebook" not in record
    assert [record["codebook"] for record in kept.finished("float16")] == 3 * ["float16"]


def test_figure_2_runs_each_k_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(start(monkeypatch, "figure2")) == 16
    assert start(monkeypatch, "figure2", "--rows", "4", "8") == []
    assert start(monkeypatch, "table1", "--dataset", "cifar10", "--models", "fastkan") == []
    picture = folder / "figure2.svg"
    assert start(monkeypatch, "figure2", "--pictures", str(folder)) == []
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")


def test_a_cell_that_was_cut_off_goes_on_and_its_last_record_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = ("conv", "--dataset", "cifar10", "--models", "kanconv")
    assert len(start(monkeypatch, *wish, "--minutes", "5")) == 1
    assert start(monkeypatch, *wish, "--minutes", "5") == []
    assert len(start(monkeypatch, *wish, "--minutes", "9")) == 1
    assert len(start(monkeypatch, *wish)) == 1
    assert start(monkeypatch, *wish, "--minutes", "20") == start(monkeypatch, *wish) == []
    records = kept.finished("table2")
    assert [record.get("complete", True) for record in records] == [False, False, True]
    assert tables.latest(records) == records[-1:]


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        (("table1", "--models", "metakann"), "invalid choice: 'metakann'"),
        (("figure1", "--table"), "Figure 1 is drawn"),
        (("table8", "--models", "mlp"), "no cell with these models"),
        (("table9", "--rows", "99"), "no cell with these models"),
    ],
)
def test_what_is_not_in_the_paper_is_refused(
    wish: tuple[str, ...],
    sentence: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        start(monkeypatch, *wish)
    assert sentence in f"{stop.value}{capsys.readouterr().err}"
    assert not list(folder.iterdir())


@pytest.mark.parametrize("codebook", [None, StoredDtype.FLOAT16])
def test_a_cell_is_trained_clustered_and_tuned(
    codebook: StoredDtype | None, tmp_path: Path
) -> None:
    """One command's work, with scores and bytes of the files that it wrote."""
    recipe = Recipe(model="metafastkan", dataset="digits", limit=8)
    found = stages.run(recipe, tmp_path, tmp_path, Packing(clusters=4, codebook=codebook))
    dense = tmp_path / "digits_metafastkan_0_limit8.safetensors"
    data = DataOptions(name="digits")
    trained, clustered, tuned = found["accuracy"]
    assert trained == kancompress.evaluate(dense, data).score.accuracy
    config = kancompress.ClusterConfig(clusters=4, codebook_dtype=codebook or StoredDtype.SOURCE)
    packed = kancompress.cluster(dense, config).model
    assert clustered == kancompress.evaluate(packed, data).score.accuracy
    assert tuned >= clustered - 0.05
    assert found["bytes"][0] == dense.stat().st_size
    assert found["bytes"][1] == found["bytes"][2] == len(kancompress.encode(packed))
    assert (found["clusters"], found["epochs"]) == (4, 8)
    assert not list(tmp_path.glob("*.state"))


def test_training_in_slices_ends_as_it_does_at_once(tmp_path: Path) -> None:
    recipe = Recipe(model="metagramkan", dataset="digits", limit=4)
    whole, told = kept.trained(recipe, tmp_path, tmp_path / "whole")
    assert told["epochs"] == 4
    for wanted in (1, 2):
        part, told = kept.trained(recipe, tmp_path, tmp_path / "slices", minutes=1e-9)
        # the time is up, so the second run does not go on either
        assert (told["epochs"], told["complete"]) == (1, False)
        assert kancompress.load(part).shapes == kancompress.load(whole).shapes
        facts = tmp_path / "slices" / f"{recipe.stem}.json"
        facts.write_text(json.dumps(told | {"train_seconds": -wanted}))
    part, told = kept.trained(recipe, tmp_path, tmp_path / "slices")
    assert (told["epochs"], told.get("complete")) == (4, None)
    assert part.read_bytes() == whole.read_bytes()
    assert not list((tmp_path / "slices").glob("*.state"))


def test_estimates_count_the_products_of_a_forward_pass() -> None:
    # 75,584 edges of 9 numbers; four convolutions of 3 x 3 on 28, 14, 7 and 7 pixels
    assert costs.products(Family.KAN, "cifar10", conv=False) == 75_584 * 9
    edges = 28**2 * 32 + 14**2 * 32 * 64 + 7**2 * (64 * 128 + 128 * 256)
    assert costs.products(Family.GRAMKAN, "mnist", conv=True) == 9 * 5 * edges


def test_a_recipe_names_its_files_and_its_network() -> None:
    assert Recipe(model="kan", dataset="mnist", seed=3).stem == "mnist_kan_3"
    recipe = Recipe(model="metafastkan", dataset="cifar10", grid=10, embedding=2)
    assert recipe.stem == "cifar10_metafastkan_0_grid10_embedding2"
    basis = recipe.basis()
    assert basis is not None
    assert basis.grid == (-2.0, 2.0, 13)
    assert Recipe(model="kan", dataset="mnist", limit=1).config().epochs == 1
