"""The scan of thresholds: plateaus that are known because the readings were made up with gaps."""

from dataclasses import fields, replace

import pytest
from calibration_records import readings, record

from circuit_lab.verdict import THRESHOLDS, Verdict
from circuit_lab.verdict.calibration import scan_thresholds
from circuit_lab.verdict.calibration.threshold_scan import WARN_ONLY, plateau

GRID = tuple(round(0.05 * i, 2) for i in range(1, 20))


def made_up():
    """Circuits through the bridge in .84 of the answers, tables in .1, mixtures in .5; nets that fail one hop."""
    shares = {"true_circuit": 0.84, "semi_grokked": 0.5, "fake_grokking": 0.1}
    records = [record(truth, truth, readings=readings(through=share)) for truth, share in shares.items()]
    records.append(
        record("second_hop_failure", "second_hop_failure", readings=readings(ood_right=40, first=0.25, second=0.7))
    )
    records.append(record("memorising", "memorising", readings=readings(id_right=0, ood_right=0)))
    return records


@pytest.fixture(scope="module")
def scans():
    return {scan.threshold: scan for scan in scan_thresholds(made_up(), grid=GRID)}


def test_every_threshold_that_decides_is_scanned(scans):
    assert set(scans) == {field.name for field in fields(THRESHOLDS)} - set(WARN_ONLY)
    assert all(scan.n == 5 and scan.in_use_is_best and max(scan.f1) == 1 for scan in scans.values())


def test_the_plateau_lies_between_the_groups(scans):
    """Wilson, n = 400: .84 [.801, .873], .5 [.451, .549], .1 [.074, .133]; second hop .7 of 360 [.651, .745]."""
    through, not_through, mostly = (scans[n] for n in ("through_bridge", "not_through_bridge", "mostly"))
    assert (through.best_low, through.best_high) == (0.55, 0.8)
    assert (not_through.best_low, not_through.best_high) == (0.15, 0.45)
    assert (mostly.best_low, mostly.best_high) == (0.05, 0.65)
    assert dict(zip(through.values, through.f1, strict=True))[0.9] < 1


def test_thresholds_stay_in_order(scans):
    assert min(scans["solved"].values) == THRESHOLDS.unsolved and max(scans["unsolved"].values) == THRESHOLDS.solved


def test_a_value_in_use_off_the_plateau_is_told():
    records = [
        record("true_circuit", "true_circuit", readings=readings(through=0.52)),
        record("semi_grokked", "semi_grokked", readings=readings(through=0.45)),
    ]
    (scan,) = [s for s in scan_thresholds(records, grid=(0.35, 0.46, 0.5, 0.6)) if s.threshold == "through_bridge"]
    assert not scan.in_use_is_best and scan.in_use == 0.6


def test_nothing_to_scan_without_controls_of_a_family():
    assert {scan.family for scan in scan_thresholds(made_up(), grid=(0.5,))} == {"two_hop"}
    assert scan_thresholds([]) == ()


def test_the_longest_run_when_the_value_in_use_is_in_none():
    assert plateau([0.1, 0.2, 0.3, 0.4, 0.5], [1.0, 0.0, 1.0, 1.0, 0.0], 0.5) == (0.3, 0.4)
    assert plateau([0.1, 0.2], [0.5, 0.5], 0.2) == (0.1, 0.2)


def test_other_thresholds_give_other_verdicts():
    mixed = readings(through=0.5)
    assert mixed.decide().verdict == Verdict.SEMI_GROKKED
    assert mixed.decide(replace(THRESHOLDS, through_bridge=0.45)).verdict == Verdict.TRUE_CIRCUIT
