"""The committed calibration: still what the code finds, and what it claims."""

import json
from pathlib import Path

import pytest

from circuit_lab.report.calibration_page import calibration_readme
from circuit_lab.verdict.calibration import all_trials, quick_trials, read_records, run_controls, summarise

COMMITTED = Path(__file__).resolve().parents[3] / "analyses" / "calibration"


@pytest.fixture(scope="module")
def records():
    return read_records(COMMITTED / "results.jsonl")


@pytest.fixture(scope="module")
def committed():
    return json.loads((COMMITTED / "calibration.json").read_text())


def rounded(text):
    """JSON with numbers to nine decimals: sums differ in the last ones between processors."""
    return json.loads(text, parse_float=lambda number: round(float(number), 9))


@pytest.mark.slow
def test_a_balanced_part_comes_out_as_committed(records, tmp_path):
    """Two controls of every family, a rotated, a noisy and a limited one of each, measured again."""
    known = {(r.name, r.settings): r for r in records}
    for found in run_controls(quick_trials(), tmp_path / "results.jsonl", n_jobs=2, progress=False):
        expected = known[found.name, found.settings]
        assert (found.verdict, found.truth) == (expected.verdict, expected.truth), found.name
        assert found.confidence == pytest.approx(expected.confidence, abs=0.02), found.name


@pytest.mark.slow
def test_every_control_is_committed(records):
    trained = {(r.name, r.settings) for r in records if r.family.startswith("trained/")}
    assert {(r.name, r.settings) for r in records} - trained == {(t.control.name, t.settings) for t in all_trials()}


@pytest.mark.slow
def test_the_scores_and_the_readme_are_those_of_the_records(records):
    result = summarise(records)
    assert rounded(result.to_json()) == rounded((COMMITTED / "calibration.json").read_text())
    images = tuple(path.stem for path in COMMITTED.glob("*.svg"))
    assert calibration_readme(result, images=images) == (COMMITTED / "README.md").read_text()


def test_the_held_out_half_meets_its_targets(committed):
    (held_out,) = (half for half in committed["known_answer"] if half["half"] == "held_out")
    assert held_out["macro_f1"]["value"] >= 0.97 and held_out["reliability"]["error"]["value"] <= 0.05
    false = committed["false_circuits"]["held_out"]
    assert false["names"] == [] and false["n"] >= 300 and false["upper"] <= 0.01
    assert all(rotation["same"]["n"] > 20 and not rotation["changed"] for rotation in committed["rotation"])


def test_thresholds_in_use_lie_on_their_plateaus(committed):
    scans = committed["thresholds"]
    off = [scan["threshold"] for scan in scans if not scan["best_low"] <= scan["in_use"] <= scan["best_high"]]
    assert len(scans) == 14 and off == []
