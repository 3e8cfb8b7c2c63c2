"""docs/importing.md: its lines are run as they stand, on files that the other codes' libraries write."""

import re
import runpy
from pathlib import Path

import pytest
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.importers import IMPORTERS
from circuit_lab.tasks.task_spec import TASK_FORMS

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "importing.md").read_text()
WIDTH = "80"
"""Characters of the terminal whose output the page shows."""


def shown_lines() -> dict[str, str]:
    """What the page shows after each command."""
    blocks = re.findall(r"```console\n\$ circuit-lab (.*?)\n(.*?)```", PAGE, flags=re.DOTALL)
    return dict(blocks)


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page") / "foreign"
    runpy.run_path(str(DOCS / "foreign_checkpoints.py"))["main"](folder)
    return folder


def test_every_dialect_has_its_line():
    shown = {re.search(r"Format: +(\S+)", output)[1] for output in shown_lines().values()}
    assert shown == set(IMPORTERS)


def test_every_way_to_name_a_task_is_in_the_table():
    rows = [f"| `{form}` | {meaning} |" for form, meaning in TASK_FORMS]
    assert "\n".join(rows) in PAGE


@pytest.mark.slow
@pytest.mark.parametrize("line", shown_lines())
def test_each_line_prints_what_the_page_shows(line, foreign, monkeypatch):
    monkeypatch.chdir(foreign)
    result = CliRunner(env={"COLUMNS": WIDTH}).invoke(app, line.split())
    assert result.exit_code == 0, result.output
    printed = [text.rstrip() for text in result.stdout.splitlines() if text.strip()]
    assert printed == [text for text in shown_lines()[line].splitlines() if text]


@pytest.mark.slow
def test_a_recurrent_net_read_as_a_plain_one_is_near_chance(foreign, monkeypatch):
    """What the page says of leaving `--passes` out."""
    monkeypatch.chdir(foreign)
    result = CliRunner().invoke(app, ["import", "gpt2", "--task", "composition"])
    assert result.exit_code == 0 and "near chance" in result.stderr
