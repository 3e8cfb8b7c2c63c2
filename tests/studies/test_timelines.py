"""Numbers and figures of timelines, against a table counted by hand."""

from math import isnan

import pandas as pd
import pytest

from circuit_lab.studies.figures import timeline_panels
from circuit_lab.studies.timeline import first_step, last_step, last_value, times_the_steps

SLOW, FAST = [0.0, 0.1, 0.3, 0.6], [0.2, 0.5, 0.9, 0.4]


@pytest.fixture
def rows():
    """Two conditions of two seeds at steps 100 to 400; the second seed is .1 higher."""
    values = [
        {"condition": condition, "seed": seed, "step": 100 * (place + 1), "split": split, "quantity": "accuracy"}
        | {"value": value + 0.1 * seed}
        for condition, split, curve in (
            ("slow", "test_ood", SLOW),
            ("fast", "test_ood", FAST),
            ("fast", "test_id", SLOW),
        )
        for seed in (0, 1)
        for place, value in enumerate(curve)
    ]
    return pd.DataFrame(values).sample(frac=1.0, random_state=0)


@pytest.fixture
def of_seed(rows):
    return rows[rows["seed"] == 0]


def test_levels_and_last_values(of_seed):
    assert first_step(of_seed, "slow", "accuracy", "test_ood", level=0.3) == 300
    assert first_step(of_seed, "fast", "accuracy", "test_ood", level=0.3) == 200
    assert isnan(first_step(of_seed, "slow", "accuracy", "test_ood", level=0.7))
    assert last_value(of_seed, "fast", "accuracy", "test_ood") == 0.4
    assert isnan(last_value(of_seed, "slow", "accuracy", "test_id"))
    assert last_step(of_seed, "slow") == 400


def test_ratios_of_steps_are_lower_bounds_above_and_unknown_below(of_seed):
    def times(later_level, earlier_level):
        later, earlier = ("slow", "accuracy", "test_ood", later_level), ("fast", "accuracy", "test_ood", earlier_level)
        return times_the_steps(later, earlier)(of_seed)

    assert times(0.3, 0.1) == 3.0
    assert times(0.3, 0.5) == 1.5
    assert times(0.7, 0.5) == 2.0, "never: its last step stands for it"
    assert isnan(times(0.3, 0.95))


def test_a_panel_has_a_thin_line_per_seed_and_a_bold_mean(rows):
    lines = [("accuracy", "test_ood", "OOD"), ("accuracy", "test_id", "ID")]
    figure = timeline_panels(rows, ["slow", "fast"], lines, title="Two nets", n_cols=2)
    bold = [line for line in figure.data if line.line.width > 2]
    assert [(line.name, list(line.y)) for line in bold] == [
        ("OOD", pytest.approx([value + 0.05 for value in SLOW])),
        ("ID", []),
        ("OOD", pytest.approx([value + 0.05 for value in FAST])),
        ("ID", pytest.approx([value + 0.05 for value in SLOW])),
    ]
    assert sum(line.line.width < 1 for line in figure.data) == 6, "three curves of two seeds"
    assert all(list(line.x) == [100, 200, 300, 400] for line in figure.data if len(line.x))
    assert [line.name for line in figure.data if line.showlegend] == ["OOD", "ID"]
    assert "mean of 2 seeds" in figure.layout.title.text
