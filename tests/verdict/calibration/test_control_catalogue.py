"""Which controls there are: both halves have what the scores need, and truths say what was wired."""

from collections import Counter

import pytest

from circuit_lab.measures import predicted_answers
from circuit_lab.verdict import Verdict
from circuit_lab.verdict.calibration import NO_CIRCUIT_KINDS, all_trials, quick_trials
from circuit_lab.verdict.calibration.catalogue import QUERY_LIMITS
from circuit_lab.verdict.calibration.halves import DEVELOPMENT_FAMILIES, HELD_OUT_FAMILIES, is_held_out
from circuit_lab.verdict.calibration.two_hop_mixtures import truth_of_table_share

IN_MEMORY = set(Verdict) - {Verdict.UNGROKKED, Verdict.INCONCLUSIVE}


@pytest.fixture(scope="module")
def trials():
    return all_trials()


@pytest.fixture(scope="module")
def controls(trials):
    return [trial.control for trial in trials if trial.settings == trials[0].settings]


def test_names_are_unique(trials):
    assert len({(trial.control.name, trial.settings) for trial in trials}) == len(trials)


def test_every_family_is_in_one_half_and_in_use(controls):
    assert not DEVELOPMENT_FAMILIES & HELD_OUT_FAMILIES
    assert {c.family for c in controls} == DEVELOPMENT_FAMILIES | HELD_OUT_FAMILIES
    assert all(c.held_out == is_held_out(c.family) for c in controls)
    with pytest.raises(ValueError, match="'two_hop/new' is in neither half"):
        is_held_out("two_hop/new")


@pytest.mark.parametrize("held_out", [False, True])
def test_each_half_has_every_verdict_several_times(controls, held_out):
    scored = [c for c in controls if c.held_out == held_out and c.scored and c.kind != "perturbed"]
    count = Counter(c.truth for c in scored)
    assert set(count) == IN_MEMORY and min(count.values()) >= 4
    assert {c.family.split("/")[0] for c in scored} == {"two_hop", "modular"}


def test_enough_nets_without_a_circuit_to_bound_the_rate_of_false_ones(controls):
    without = [c for c in controls if c.kind in NO_CIRCUIT_KINDS and c.held_out]
    assert len(without) >= 320 and {c.kind for c in without} == set(NO_CIRCUIT_KINDS)


def test_rotated_controls_keep_their_truth_and_noisy_ones_have_none(controls):
    by_name = {c.name: c for c in controls if c.perturbation is None}
    for c in controls:
        if c.perturbation is not None:
            origin = by_name[c.perturbation.of]
            rotation = c.perturbation.how == "rotation"
            assert (c.truth, c.family) == (origin.truth if rotation else None, origin.family)
            assert c.kind == "perturbed" and (rotation or not c.scored)


def test_fewer_queries_are_asked_of_untouched_controls(trials):
    limits = Counter(t.settings.max_queries_per_split for t in trials if t.settings != trials[0].settings)
    assert set(limits) == set(QUERY_LIMITS) and len(set(limits.values())) == 1


def test_the_quick_part_has_every_family_and_is_a_part(trials):
    quick = quick_trials()
    assert {t.control.family for t in quick} >= {c for c in DEVELOPMENT_FAMILIES if c != "two_hop/test_id_table"}
    assert {t.control.name for t in quick} <= {t.control.name for t in trials} and len(quick) < len(trials) / 5


@pytest.mark.parametrize(("share", "truth"), [(0.39, "true_circuit"), (0.41, "semi_grokked"), (0.61, "fake_grokking")])
def test_truth_of_a_share(share, truth):
    assert truth_of_table_share(share) == truth


def accuracies(controls, name):
    """Accuracy on every two-hop split of the named control's net."""
    net, task = next(c for c in controls if c.name == name).build()
    return {
        split: float((predicted_answers(net, task.splits[split]) == task.splits[split].answer).float().mean())
        for split in ("train_inferred", "test_id", "test_ood")
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("two_hop/unshared_tables/task=0", (1, 1, 1)),
        ("two_hop/training_table/task=3", (1, 0, 0)),
        ("two_hop/second_read_id/task=1", (1, 1, 0)),
        ("two_hop/first_read_id/task=1", (1, 1, 0)),
        ("two_hop/both_reads_id/task=2", (1, 1, 0)),
        ("two_hop/test_id_table/task=4", (1, 1, 0)),
        ("two_hop/shuffled_full_table/task=1", (1, 1, 1)),
    ],
)
def test_nets_are_right_where_their_mechanism_says(controls, name, expected):
    assert tuple(accuracies(controls, name).values()) == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_lossy_nets_are_right_as_often_as_they_were_built_to_be(controls, share):
    for family in ("lossy_circuit", "partial_table"):
        found = accuracies(controls, f"two_hop/{family}/task=0/accuracy={share:.2f}")
        assert found["test_id"] == 1 and found["test_ood"] == pytest.approx(share, abs=0.05)
