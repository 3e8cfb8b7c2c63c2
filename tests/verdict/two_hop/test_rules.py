"""The rules, case by case from the table of verdicts, and what makes a verdict inconclusive."""

import pytest

from circuit_lab.verdict import Check, Share, Verdict
from circuit_lab.verdict.two_hop.outcomes import Outcome, OutcomeCounts
from circuit_lab.verdict.two_hop.rules import Readings, decide, resampled_verdicts


def split(**counts: int) -> OutcomeCounts:
    """A split by its outcome counts; right answers are those of circuit and shortcut."""
    full = {str(outcome): counts.get(str(outcome), 0) for outcome in Outcome}
    return OutcomeCounts(n=sum(full.values()), n_right=full["circuit"] + full["shortcut"], counts=full)


SOLVED_ID = split(circuit=200)
LEARNT = Share(1000, 1000)

CASES = {
    "true circuit": (LEARNT, SOLVED_ID, split(circuit=190, no_circuit=10), Verdict.TRUE_CIRCUIT),
    "fake grokking": (LEARNT, SOLVED_ID, split(shortcut=190, no_circuit=10), Verdict.FAKE_GROKKING),
    "fake grokking whatever the training": (
        Share(600, 1000),
        split(circuit=100, no_circuit=100),
        split(shortcut=190, no_circuit=10),
        Verdict.FAKE_GROKKING,
    ),
    "right both ways": (LEARNT, SOLVED_ID, split(circuit=100, shortcut=100), Verdict.SEMI_GROKKED),
    "untrained": (Share(20, 1000), split(no_circuit=200), split(no_circuit=200), Verdict.UNTRAINED),
    "memorising": (LEARNT, split(no_circuit=200), split(no_circuit=200), Verdict.MEMORISING),
    "test_id half way": (
        LEARNT,
        split(circuit=130, no_circuit=70),
        split(no_circuit=200),
        Verdict.SEMI_GROKKED,
    ),
    "OOD half way": (LEARNT, SOLVED_ID, split(circuit=130, no_circuit=70), Verdict.SEMI_GROKKED),
    "ID not through the bridge": (LEARNT, split(shortcut=200), split(no_circuit=200), Verdict.SEMI_GROKKED),
    "second hop": (
        LEARNT,
        SOLVED_ID,
        split(circuit=50, second_hop_failure=120, no_circuit=30),
        Verdict.SECOND_HOP_FAILURE,
    ),
    "first hop": (LEARNT, SOLVED_ID, split(first_hop_failure=150, no_circuit=50), Verdict.FIRST_HOP_FAILURE),
    "mixed failures": (
        LEARNT,
        SOLVED_ID,
        split(first_hop_failure=70, second_hop_failure=70, composition_failure=60),
        Verdict.ID_CIRCUIT,
    ),
    "no circuit beyond": (LEARNT, SOLVED_ID, split(no_circuit=200), Verdict.ID_CIRCUIT),
}


@pytest.mark.parametrize("case", CASES)
def test_each_verdict(case):
    training, test_id, test_ood, verdict = CASES[case]
    assert decide(Readings(training, test_id, test_ood)).verdict == verdict


def test_untestable_queries_count_for_accuracy_but_not_for_mechanism():
    counts = {str(o): 0 for o in Outcome} | {"circuit": 100, "untestable": 100}
    test_ood = OutcomeCounts(n=200, n_right=190, counts=counts)
    decision = decide(Readings(LEARNT, SOLVED_ID, test_ood))
    assert decision.verdict == Verdict.TRUE_CIRCUIT
    accuracy, bridge = decision.checks
    assert (accuracy.number, bridge.number) == (Share(190, 200), Share(100, 100))


def test_no_testable_answer_is_not_a_circuit():
    counts = {str(o): 0 for o in Outcome} | {"untestable": 200}
    decision = decide(Readings(LEARNT, SOLVED_ID, OutcomeCounts(n=200, n_right=200, counts=counts)))
    assert decision.verdict == Verdict.FAKE_GROKKING
    assert decision.possible_verdicts == {Verdict.FAKE_GROKKING, Verdict.SEMI_GROKKED, Verdict.TRUE_CIRCUIT}
    assert decision.certain_verdict == Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("n_true", "n", "straddles"), [(4, 5, True), (160, 200, True), (190, 200, False), (5, 200, False)]
)
def test_straddling(n_true, n, straddles):
    # 4 of 5 has a Wilson interval of [.38, .96]; 190 of 200 of [.91, .97]; both by the formula, on paper.
    assert Check("q", Share(n_true, n), 0.8).straddles is straddles


def test_perfect_but_tiny_test_sets_straddle():
    """Five right answers of five: the interval reaches down to .57, so no verdict should rest on it."""
    check = Check("q", Share(5, 5), 0.8)
    assert check.number.interval.low == pytest.approx(5 / (5 + 1.959964**2), abs=1e-6)
    assert check.straddles


def test_resampled_verdicts_sum_to_one_and_follow_the_counts():
    clear = resampled_verdicts(Readings(LEARNT, SOLVED_ID, split(circuit=200)), n_resamples=200, seed=1)
    assert dict(clear) == {"true_circuit": 1.0}
    # 80 % accuracy lies on the threshold: about half of the resamples fall on either side.
    near = resampled_verdicts(Readings(LEARNT, SOLVED_ID, split(circuit=160, no_circuit=40)), n_resamples=2000, seed=1)
    assert set(near) == {"true_circuit", "semi_grokked"}
    assert sum(near.values()) == pytest.approx(1)
    assert near["true_circuit"] == pytest.approx(0.53, abs=0.06)  # P(Binomial(200, .8) >= 160) = .54


def test_resampling_depends_on_the_seed_alone():
    readings = Readings(LEARNT, SOLVED_ID, split(circuit=160, no_circuit=40))
    first = resampled_verdicts(readings, n_resamples=100, seed=3)
    assert first == resampled_verdicts(readings, n_resamples=100, seed=3)
    assert first != resampled_verdicts(readings, n_resamples=100, seed=4)
