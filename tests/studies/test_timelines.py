"""Numbers and figures of timelines, against a table counted by hand."""

from math import isnan

import pandas as pd
import pytest

from circuit_lab.measures import predicted_answers, proportion_interval
from circuit_lab.studies import Bound, Lab, StudyRun
from circuit_lab.studies.figures import timeline_panels
from circuit_lab.studies.runs import train_runs
from circuit_lab.studies.timeline import (
    TEST_ID,
    TEST_OOD,
    TRAINING,
    accuracy_rows,
    first_step,
    last_value,
    steps_claim,
    times_the_steps,
)
from circuit_lab.training import load_checkpoint

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


def level(condition, least):
    return condition, "accuracy", "test_ood", least


def test_ratios_of_steps_are_bounds_where_one_is_never_reached(of_seed):
    def times(later_level, earlier_level, holds_from=2.0):
        later, earlier = level("slow", later_level), level("fast", earlier_level)
        return times_the_steps(later, earlier, holds_from=holds_from)(of_seed)

    assert times(0.3, 0.1) == 3.0
    assert times(0.3, 0.5) == 1.5, "reached, and too soon"
    assert times(0.7, 0.5) == 2.0, "never: its last step stands for it"
    assert isnan(times(0.7, 0.5, holds_from=2.1)), "the true ratio may lie on either side"
    assert times(0.3, 0.95) == 0.75, "what it is divided by takes longer than the run: the ratio is lower still"
    assert isnan(times(0.3, 0.95, holds_from=0.7))
    assert isnan(times(0.7, 0.95)), "neither is reached"


def test_the_limit_of_a_claim_about_steps_is_that_of_its_number(of_seed):
    claims = [
        steps_claim("x", level("slow", 0.7), level("fast", 0.5), times=times, published="p", quantity="q")
        for times in (2.0, 2.1)
    ]
    assert [claim.holds_if for claim in claims] == [Bound(low=2.0), Bound(low=2.1)]
    assert claims[0].value(of_seed) == 2.0 and isnan(claims[1].value(of_seed))
    assert claims[0].chance == 1.0


def test_the_last_accuracies_are_those_of_the_last_net(tmp_path):
    run = StudyRun("universal", "universal/both_full", 0, {"task.regime": "both_full"})
    train_runs([run], tmp_path, scale="smoke", device="cpu", progress=False)
    lab = Lab("smoke", tmp_path)
    found = accuracy_rows(lab, run, condition="full", splits=(TRAINING, TEST_ID, TEST_OOD))
    assert found["step"].tolist() == [0] * 3 + [20] * 3 + [40] * 3
    assert found["split"].tolist() == [TRAINING, TEST_ID, TEST_OOD] * 3
    assert set(found["condition"]) == {"full"} and set(found["quantity"]) == {"accuracy"}
    checkpoint = load_checkpoint(lab.last(run))
    asked = {TRAINING: checkpoint.task.training, TEST_ID: checkpoint.task.splits["test_id"]}
    for split, queries in asked.items():
        n_right, n = int((predicted_answers(checkpoint.net, queries) == queries.answer).sum()), len(queries)
        row, interval = found[found["split"] == split].iloc[-1], proportion_interval(n_right, n)
        assert row["n"] == n and row["value"] == pytest.approx(n_right / n)
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))


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
