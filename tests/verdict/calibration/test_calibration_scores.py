"""Scores of a calibration, on tables small enough to work out by hand."""

import numpy as np
import pytest
from calibration_records import record

from circuit_lab.verdict import Verdict
from circuit_lab.verdict.calibration.scores import (
    Rate,
    confusion,
    f1_by_verdict,
    false_circuits,
    macro_f1,
    macro_f1_score,
    reliability,
    upper_bound,
)

TRUE, FAKE, MEMO, UNSURE = "true_circuit", "fake_grokking", "memorising", "inconclusive"
TABLE = [
    *[record(TRUE, TRUE, name=f"a{i}") for i in range(3)],
    record(TRUE, UNSURE, name="b", candidates={TRUE: 0.7, FAKE: 0.3}, confidence=0.7),
    record(FAKE, FAKE, name="c"),
    record(FAKE, TRUE, name="d"),
    record(MEMO, MEMO, name="e"),
    record(MEMO, "untrained", name="f"),
]
"""
truth \\ verdict | untrained | memorising | fake | true | inconclusive | precision | recall | F1
memorising       | 1         | 1          |      |      |              | 1/1       | 1/2    | 2/3
fake_grokking    |           |            | 1    | 1    |              | 1/1       | 1/2    | 2/3
true_circuit     |           |            |      | 3    | 1            | 3/4       | 3/4    | 3/4
"""
F1 = {MEMO: 2 / 3, FAKE: 2 / 3, TRUE: 3 / 4}


def test_confusion_by_hand():
    matrix = confusion(TABLE)
    assert matrix.truths == (MEMO, FAKE, TRUE)
    assert matrix.verdicts == ("untrained", MEMO, FAKE, TRUE, UNSURE)
    assert matrix.counts == ((1, 1, 0, 0, 0), (0, 0, 1, 1, 0), (0, 0, 0, 3, 1))


def test_f1_by_hand_counts_inconclusive_as_a_miss():
    assert f1_by_verdict(confusion(TABLE)) == pytest.approx(F1)
    score = macro_f1_score(TABLE, seed=0)
    assert score.value == pytest.approx((2 / 3 + 2 / 3 + 3 / 4) / 3) and score.n == 8
    assert score.low < score.value < score.high <= 1
    surer = [*TABLE[:3], record(TRUE, TRUE), *TABLE[4:]]
    assert macro_f1_score(surer, seed=0).value > score.value


def test_macro_f1_agrees_with_precision_and_recall_over_random_tables():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truths, verdicts = (rng.choice([TRUE, FAKE, MEMO], size=30) for _ in range(2))
        expected = []
        for verdict in np.unique(truths):
            hits = np.sum((truths == verdict) & (verdicts == verdict))
            precision, recall = hits / max(np.sum(verdicts == verdict), 1), hits / np.sum(truths == verdict)
            expected.append(2 * precision * recall / (precision + recall) if hits else 0)
        found = macro_f1([Verdict(v) for v in truths], [Verdict(v) for v in verdicts])
        assert found == pytest.approx(np.mean(expected))


def test_calibration_error_by_hand():
    """Bins (.5, .6], (.6, .7] and (.9, 1]: 2 x |1/2 - .58|, 1 x |1 - .7|, 2 x |1 - 1|, over 5."""
    records = [
        record(TRUE, TRUE, name="a", confidence=0.56),
        record(TRUE, FAKE, name="b", confidence=0.6),
        record(TRUE, UNSURE, name="c", confidence=0.7, candidates={TRUE: 0.7, FAKE: 0.3}),
        record(FAKE, FAKE, name="d"),
        record(MEMO, MEMO, name="e"),
    ]
    found = reliability(records, seed=0)
    assert found.error.value == pytest.approx((2 * 0.08 + 0.3) / 5)
    assert {round(b.low, 1): (b.right.n_true, b.right.n) for b in found.bins if b.right.n} == {
        0.5: (1, 2),
        0.6: (1, 1),
        0.9: (2, 2),
    }
    assert found.bins[5].confidence == pytest.approx(0.58)


def test_the_best_candidate_of_an_inconclusive_diagnosis_can_be_wrong():
    wrong = record(TRUE, UNSURE, confidence=0.7, candidates={TRUE: 0.3, FAKE: 0.7})
    assert reliability([wrong], seed=0).error.value == pytest.approx(0.7)


def test_confidence_drawn_as_it_says_is_calibrated_and_overconfidence_is_not():
    rng = np.random.default_rng(1)
    confidences = rng.uniform(0.5, 1, size=2000)
    honest = [record(TRUE, TRUE if rng.random() < c else FAKE, confidence=float(c)) for c in confidences]
    boasting = [r.model_copy(update={"confidence": 1.0}) for r in honest]
    assert reliability(honest, seed=0).error.value < 0.03
    error = reliability(boasting, seed=0).error
    assert error.value == pytest.approx(0.25, abs=0.02) and error.low < error.value < error.high


def test_a_false_circuit_is_any_verdict_that_claims_one():
    claims = ["true_circuit", "id_circuit", "first_hop_failure", "second_hop_failure"]
    silent = ["untrained", "memorising", "fake_grokking", "semi_grokked", "inconclusive"]
    found = false_circuits([record(MEMO, verdict, name=verdict) for verdict in claims + silent])
    assert found.names == tuple(claims) and found.n == 9


def test_the_upper_bound_is_exact():
    """None of n: (1 - p)^n = .05. One of n: a rate of the bound leaves 5 % for at most one."""
    assert upper_bound(0, 300) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert upper_bound(0, 299) < 0.01 < upper_bound(0, 298) + 3e-5
    p = upper_bound(1, 50)
    assert (1 - p) ** 50 + 50 * p * (1 - p) ** 49 == pytest.approx(0.05)
    assert upper_bound(0, 0) == 1


def test_a_rate_of_nothing_has_the_widest_interval():
    rate = Rate.of([])
    assert (rate.n_true, rate.n, rate.low, rate.high) == (0, 0, 0, 1) and np.isnan(rate.value)
