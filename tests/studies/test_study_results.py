"""What is stored of a study is what was measured."""

from math import inf, nan

import pandas as pd
import pytest

from circuit_lab.errors import InputError
from circuit_lab.studies import Provenance, StudyResults, read_results
from circuit_lab.studies.results import checked, write_results

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
