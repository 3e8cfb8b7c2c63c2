"""SIGKILL at random instants of a run, then the same bytes as without: every file of the folder."""

import pytest
from killed_runs import kill_and_resume

SAVES_OFTEN = {"training": {"resume_every": 3}, "evaluation": {"every": 4}, "checkpoints": {"every": 5}}


def often(tables):
    return {name: table | SAVES_OFTEN.get(name, {}) for name, table in tables.items()}


@pytest.mark.parametrize("n_runs", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_runs_end_with_the_same_bytes(tables, tmp_path, record_property, n_runs):
    kills = kill_and_resume(often(tables), tmp_path, n_runs=n_runs, seed=n_runs)
    record_property("shown", f"SIGKILL, {n_runs} runs: {kills}")
    assert kills.different == []
    killed = {place: n for place, n in kills.places.items() if place != "after the end"}
    # A run needs a little more or less computing than those that were timed: a few kills miss.
    assert sum(killed.values()) >= 0.6 * n_runs, kills
    assert len(killed) >= (2 if n_runs < 100 else 3), kills
    assert max(killed.values()) <= 0.9 * n_runs, kills
    assert kills.n_second >= 0.05 * n_runs, kills
