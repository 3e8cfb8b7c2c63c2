"""The rules for modular arithmetic: each verdict from numbers written out, and the bootstrap behind the intervals."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from circuit_lab.measures import Interval
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.verdict import MODULAR_THRESHOLDS, Check, Estimate, Share, Verdict
from circuit_lab.verdict.modular.rules import CIRCUIT, EXPLAINED, HELD_OUT, HeldOutPairs, Readings, bootstrap, decide

KNOWN = partial(decide, had_grokked=False)


def readings(*, training=1.0, held_out=1.0, explained=0.9, concentration=0.9, circuit=0.95, n=1000):
    def point(value):
        return Estimate(value, Interval(value - 0.01, value + 0.01), n)

    def share(value):
        return Share(round(value * n), n)

    return Readings(share(training), share(held_out), point(explained), point(concentration), share(circuit))


@pytest.mark.parametrize(
    ("numbers", "had_grokked", "verdict"),
    [
        ({}, False, Verdict.TRUE_CIRCUIT),
        ({}, True, Verdict.TRUE_CIRCUIT),
        ({"training": 0.8}, False, Verdict.UNTRAINED),
        ({"explained": 0.2}, False, Verdict.FAKE_GROKKING),
        ({"concentration": 0.3}, False, Verdict.FAKE_GROKKING),
        ({"circuit": 0.1}, False, Verdict.FAKE_GROKKING),
        ({"circuit": 0.5}, False, Verdict.SEMI_GROKKED),
        ({"explained": 0.4}, False, Verdict.SEMI_GROKKED),
        ({"held_out": 0.02, "explained": 0.01}, False, Verdict.MEMORISING),
        ({"held_out": 0.02, "explained": 0.01}, True, Verdict.UNGROKKED),
        ({"held_out": 0.3, "explained": 0.4}, False, Verdict.SEMI_GROKKED),
        ({"held_out": 0.3, "explained": 0.4}, True, Verdict.SEMI_GROKKED),
        ({"held_out": 0.8}, False, Verdict.SEMI_GROKKED),
        ({"held_out": 0.8, "explained": 0.01}, False, Verdict.SEMI_GROKKED),
    ],
)
def test_each_verdict_follows_from_its_numbers(numbers, had_grokked, verdict):
    assert decide(readings(**numbers), had_grokked=had_grokked).verdict == verdict
    assert decide(readings(**numbers), had_grokked=had_grokked).certain_verdict == verdict


def test_only_numbers_that_the_verdict_rested_on_are_compared():
    compared = [check.quantity for check in decide(readings(held_out=0.02, explained=0.0), had_grokked=False).checks]
    assert compared[1:] == [HELD_OUT, HELD_OUT, EXPLAINED]
    assert CIRCUIT not in compared


def test_a_number_whose_interval_reaches_over_its_threshold_makes_it_inconclusive():
    at = MODULAR_THRESHOLDS.explained
    straddling = replace(readings(), explained=Estimate(at + 0.01, Interval(at - 0.02, at + 0.04), 30))
    decision = decide(straddling, had_grokked=False)
    assert (decision.verdict, decision.certain_verdict) == (Verdict.TRUE_CIRCUIT, Verdict.INCONCLUSIVE)
    in_a_sentence, by_point_values, straddles = decision.reasons("Too few pairs.")[:3]
    assert in_a_sentence.words == "Too few pairs."
    assert by_point_values.words == "By point values alone it would be true_circuit."
    assert "Straddles its threshold: share of held-out logits explained" in straddles.words
    assert straddles.quantities == (EXPLAINED,) and set(in_a_sentence.quantities) > {EXPLAINED, CIRCUIT}


def test_a_threshold_that_the_verdict_does_not_hang_on_makes_nothing_inconclusive():
    """Chosen frequencies or not, the answers do not go through them."""
    at = MODULAR_THRESHOLDS.concentrated
    across = Estimate(at + 0.01, Interval(at - 0.02, at + 0.04), 30)
    decision = decide(replace(readings(circuit=0.1), concentration=across), had_grokked=False)
    assert any(check.straddles for check in decision.checks)
    assert decision.possible_verdicts == {Verdict.FAKE_GROKKING}
    assert decision.certain_verdict == Verdict.FAKE_GROKKING
    hanging = decide(replace(readings(circuit=0.95), concentration=across), had_grokked=False)
    assert hanging.possible_verdicts == {Verdict.FAKE_GROKKING, Verdict.TRUE_CIRCUIT}
    assert hanging.certain_verdict == Verdict.INCONCLUSIVE


def test_every_way_of_several_straddling_numbers_is_tried():
    """Explained reaches over one half, the share over .6 and .4: three verdicts are possible."""
    explained = Estimate(0.49, Interval(0.45, 0.53), 30)
    decision = decide(replace(readings(circuit=0.5, n=40), explained=explained), had_grokked=False)
    assert decision.possible_verdicts == {Verdict.FAKE_GROKKING, Verdict.SEMI_GROKKED, Verdict.TRUE_CIRCUIT}


def test_an_interval_that_begins_at_the_threshold_lies_above_it():
    assert not Check("q", Estimate(0.6, Interval(0.5, 0.7), 9), 0.5).straddles
    assert Check("q", Estimate(0.4, Interval(0.3, 0.5), 9), 0.5).straddles


def test_too_few_held_out_pairs_are_inconclusive():
    assert decide(readings(n=20), had_grokked=False).certain_verdict == Verdict.INCONCLUSIVE
    assert str(Check("q", Share(19, 20), 0.5)) == "q 0.95 [0.76, 0.99], n = 20 (above 0.50)"


@pytest.fixture(scope="module")
def pairs():
    """Forty pairs modulo 11: a strong cosine of frequency 3 and noise of a known size."""
    group = build_task(ModularConfig(p=11, train_share=0.5)).group
    noise = torch.randn(40, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    aligned = 4 * group.characters[2] + noise
    aligned -= aligned.mean(1, keepdim=True)
    right = torch.arange(40) < 30
    return HeldOutPairs(group=group, aligned=aligned, right=right, mediated=right & (torch.arange(40) < 20))


def test_the_bootstrap_reads_every_number_again_by_an_independent_route(pairs):
    """Explained share by least squares on the stacked rows, and its interval from resampling rows one by one."""
    found, candidates = bootstrap(pairs, Share(50, 50), KNOWN, n_resamples=400, seed=1)
    assert (found.held_out, found.circuit) == (Share(30, 40), Share(20, 30))

    def explained(rows):
        y = pairs.aligned[rows].reshape(-1, 1)
        x = pairs.group.characters.T.repeat(len(rows), 1)
        residual = y - x @ torch.linalg.lstsq(x, y).solution
        return float(1 - residual.square().sum() / y.square().sum())

    assert found.explained.value == pytest.approx(explained(torch.arange(40)), abs=1e-12)
    generator = torch.Generator().manual_seed(5)
    resampled = torch.tensor([explained(torch.randint(40, (40,), generator=generator)) for _ in range(400)])
    low, high = resampled.quantile(torch.tensor([0.025, 0.975])).tolist()
    assert found.explained.interval.low == pytest.approx(low, abs=0.01)
    assert found.explained.interval.high == pytest.approx(high, abs=0.01)
    assert sum(candidates.values()) == pytest.approx(1)
    assert found.concentration.value == pytest.approx(1 - 1 / 5, abs=0.02)


def test_the_seed_fixes_the_bootstrap_and_the_global_random_state_stays(pairs):
    import numpy as np

    before = np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first = bootstrap(pairs, Share(50, 50), KNOWN, n_resamples=60, seed=3)
    assert first == bootstrap(pairs, Share(50, 50), KNOWN, n_resamples=60, seed=3)
    assert first != bootstrap(pairs, Share(50, 50), KNOWN, n_resamples=60, seed=4)
    assert np.random.get_state()[1].tolist() == before[0]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
