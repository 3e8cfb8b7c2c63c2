"""The worked examples of the guides and of the quick start run, from the top of each page."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [*sorted((DOCS / "guides").glob("*.md")), DOCS / "quickstart.md"]
N_BLOCKS = {
    "adding_a_measure.md": 2,
    "adding_a_net.md": 2,
    "adding_a_study.md": 1,
    "adding_a_task.md": 3,
    "adding_an_importer.md": 3,
    "quickstart.md": 3,
}


def code_blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow if path.name == "quickstart.md" else ()) for path in PAGES],
    ids=[path.name for path in PAGES],
)
def test_the_code_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = code_blocks(path.read_text())
    assert len(blocks) == N_BLOCKS[path.name]
    namespace = {"__name__": "guide"}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{path.name}, block {number}", "exec"), namespace)


def test_every_named_file_exists():
    """What the guides tell people to edit is there."""
    named = {
        name for path in PAGES for name in re.findall(r"`((?:circuit_lab|tests)/[\w/.]+\.pyi?)`", path.read_text())
    }
    assert len(named) >= 8
    assert [name for name in named if not (DOCS.parent / name).is_file()] == []
