"""What is stored of a study is what was measured."""

import subprocess
from math import inf, nan

import pandas as pd
import pytest

from circuit_lab.errors import InputError
from circuit_lab.studies import Provenance, StudyResults, read_results
from circuit_lab.studies.results import checked, commit_in_words, write_results

ROWS = pd.DataFrame(
    {
        "condition": ["a", "b"], "step": [10, 20], "split": ["test_id", ""], "quantity": ["x", "y"],
        "value": [1 / 3, nan], "n": [5, 0], "low": [0.1234567, nan], "high": [inf, nan], "query": ["", "<e_1>"],
    }
)  # fmt: skip
PROVENANCE = Provenance(
    study="toy", scale="small", seeds=[0], command="circuit-lab reproduce toy", commit="abc", machine="x86_64, 2 cores",
    versions={"torch": "2"}, n_training_steps=3,
)  # fmt: skip


def test_numbers_keep_six_digits_and_all_else_is_kept():
    table = checked(ROWS, study="toy", seed=4)
    assert list(table.columns) == ["seed", *ROWS.columns]
    assert table["value"].iloc[0] == 0.333333 and table["low"].iloc[0] == 0.123457
    assert table["seed"].tolist() == [4, 4]
    assert ROWS["value"].iloc[0] == 1 / 3


def test_what_is_written_is_read_again(tmp_path):
    table = checked(ROWS, study="toy", seed=0)
    write_results(StudyResults(table, PROVENANCE), tmp_path / "out")
    found = read_results(tmp_path / "out")
    pd.testing.assert_frame_equal(found.measurements, table)
    assert found.provenance == PROVENANCE


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match=r"the measurements of toy lack the columns \['split'\]"):
        checked(ROWS.drop(columns="split"), study="toy", seed=0)


@pytest.mark.parametrize("damage", ["measurements.csv", "provenance.json"])
def test_damaged_results_are_refused(tmp_path, damage):
    write_results(StudyResults(checked(ROWS, study="toy", seed=0), PROVENANCE), tmp_path)
    (tmp_path / damage).write_text("{")
    with pytest.raises(InputError, match="holds no results of a study"):
        read_results(tmp_path)


FILES = ("circuit_lab/deep/net.py", "analyses/toy/study.py", "analyses/recipes/toy.toml", "docs/page.py")
"""Of a clone; all but the last decide what is measured."""


def git(folder, *words):
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def clone(tmp_path):
    """A repository with one commit, of `FILES`."""
    folder = tmp_path / "clone"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("a = 1\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--message=first")
    return folder


def test_the_commit_is_that_of_the_clone(clone):
    assert commit_in_words(clone) == git(clone, "rev-parse", "--short=12", "HEAD")


@pytest.mark.parametrize(
    "name", [*FILES[:3], "analyses/other/study.py", "analyses/recipes/new.toml", "circuit_lab/b.py"]
)
def test_code_that_the_commit_does_not_have_is_marked(clone, name):
    (clone / name).parent.mkdir(exist_ok=True)
    (clone / name).write_text("a = 2\n")
    assert commit_in_words(clone) == git(clone, "rev-parse", "--short=12", "HEAD") + "+"


@pytest.mark.parametrize(
    "name", [FILES[3], "analyses/toy/small/measurements.csv", "analyses/toy/small/provenance.json"]
)
def test_results_and_pages_change_nothing(clone, name):
    (clone / name).parent.mkdir(exist_ok=True)
    (clone / name).write_text("a = 2\n")
    assert not commit_in_words(clone).endswith("+")


def test_a_package_inside_the_repository_of_another_project_has_no_commit(clone, tmp_path):
    installed = clone / "venv" / "site-packages"
    (installed / "circuit_lab").mkdir(parents=True)
    assert commit_in_words(installed) == "unknown"
    assert commit_in_words(tmp_path) == "unknown", "no repository at all"
