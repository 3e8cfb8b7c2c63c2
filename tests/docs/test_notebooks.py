"""The notebooks run from the top, and what is committed is what they give."""

import os
import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted(DOCS.glob("*.ipynb"))
MAX_SECONDS = 180


def results(notebook) -> list[list[str]]:
    """Kinds of output of each code cell, progress bars aside."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[key for output in cell.outputs for key in sorted(output.get("data", {}))] for cell in cells]


def test_there_are_notebooks():
    assert [path.name for path in NOTEBOOKS] == ["patching.ipynb", "quickstart.ipynb", "training_your_own.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_committed_outputs_are_clean(path):
    text = path.read_text()
    notebook = nbformat.reads(text, as_version=4)
    assert all(results(notebook)[1:]), "a code cell after the first shows nothing; run `make notebooks`"
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert str(DOCS.parent) not in text and "site-packages" not in text


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs_from_the_top(path, monkeypatch, tmp_path):
    """Within three minutes; no cell fails, and each shows the kind of thing it shows in the committed file."""
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    committed = nbformat.read(path, as_version=4)
    run = nbformat.read(path, as_version=4)
    for cell in run.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    start = time.perf_counter()
    NotebookClient(run, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert time.perf_counter() - start < MAX_SECONDS
    assert results(run) == results(committed)
