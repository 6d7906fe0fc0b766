"""A notebook that is executed shows what results are; skipped where nothing can execute one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import kancompress
from conftest import fresh

CELLS = (
    "import kancompress; packed = kancompress.cluster('dense.st', clusters=4); packed",
    "packed.model",
    "kancompress.evaluate(packed)",
)


@pytest.mark.slow
def test_an_executed_notebook_shows_layers_bytes_ratio_and_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    root = str(Path(kancompress.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    kancompress.save(fresh("kan", (64, 6, 10)), tmp_path / "dense.st")
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    pages = [cell.outputs[-1]["data"]["text/html"] for cell in notebook.cells]
    size = len(kancompress.encode(kancompress.cluster(tmp_path / "dense.st", clusters=4)))
    for page in pages[:2]:
        assert f"{size:,} bytes" in page
        assert "times smaller than" in page
        assert page.count("<tr>") == 3  # a head, and two layers
    assert "<td>loss</td>" in pages[2]
    lines = [cell.outputs[-1]["data"]["text/plain"] for cell in notebook.cells]
    assert all(line.startswith("<") and "\n" not in line for line in lines)
