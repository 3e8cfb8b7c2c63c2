"""Answers, phases and alarms of runs written by hand: each story, and what is read of it."""

import re

import pytest

from circuit_lab.verdict.diagnosis import Certificate
from circuit_lab.verdict.runs import quantities as q
from circuit_lab.verdict.runs.alarms import find_alarms
from circuit_lab.verdict.runs.answers import find_answers
from circuit_lab.verdict.runs.crossings import Level, TimelinePoint
from circuit_lab.verdict.runs.diagnose import find_crossings
from circuit_lab.verdict.runs.phases import find_phases

HALF_WIDTH = 0.04


def with_floor(family, unsolved=0.5):
    """The family as `family_of` makes it, chance being .1."""
    floor = Level(q.LEFT_CHANCE, 0.1, ceiling=unsolved)
    return type(family)(
        quantities=tuple(
            type(one)(one.name, one.unit, one.read, (*one.levels, floor)) if one.name == family.generalisation else one
            for one in family.quantities
        ),
        generalisation=family.generalisation,
        remembered=family.remembered,
        circuit=family.circuit,
        circuit_in_words=family.circuit_in_words,
    )


TWO_HOP, MODULAR = with_floor(q.TWO_HOP), with_floor(q.MODULAR)


def points_of(family, **stories):
    """Every quantity at steps 10, 20, ...: the values told, or 0."""
    told = {name.replace("_", " "): values for name, values in stories.items()}
    n = max(map(len, told.values()))
    series = {}
    for one in family.quantities:
        values = told.get(one.name.replace(",", "").replace("-", " "), (0.0,) * n)
        series[one.name] = [
            TimelinePoint(10 * i, one.name, v, v - HALF_WIDTH, v + HALF_WIDTH, 100, None, one.unit)
            for i, v in enumerate(values, start=1)
        ]
    return series


def certificate(*leaks):
    return Certificate(not leaks, leaks, {}, {}, {}, {}, "0")


def answers(family, **stories):
    series = points_of(family, **stories)
    return find_answers(family, find_crossings(family, series))


def phases(name, family, **stories):
    series = points_of(family, **stories)
    return find_phases(name, series, find_crossings(family, series))


def alarms(family, *leaks, **stories):
    series = points_of(family, **stories)
    return find_alarms(family, series, find_crossings(family, series), certificate(*leaks))


@pytest.mark.parametrize(
    ("mediation", "ood", "answer", "because"),
    [
        ((0.0, 0.8, 0.9, 0.9, 0.9), (0.05, 0.05, 0.05, 0.7, 0.9), "yes", "there by step 20 .* only after step 30, by"),
        ((0.0, 0.0, 0.1, 0.2, 0.9), (0.05, 0.6, 0.9, 0.9, 0.9), "no", "passed one half by step 20, and until step 40"),
        # The leaked table: it answers, and no circuit ever comes.
        ((0.0, 0.0, 0.0, 0.0, 0.0), (0.05, 0.6, 0.9, 0.9, 0.9), "no", "until step 50 .*; it never certainly came"),
        # Better than chance from the start, by what r2 alone tells: not yet a rise.
        ((0.0, 0.0, 0.9, 0.9, 0.9), (0.3, 0.3, 0.3, 0.3, 0.9), "yes", "there by step 30 .* only after step 40"),
        # Both between the same two checkpoints.
        ((0.0, 0.0, 0.9, 0.9, 0.9), (0.05, 0.05, 0.9, 0.9, 0.9), "cannot tell", "which overlap"),
        # Hand in hand, seen on the way: most answers are right while the circuit certainly is not there.
        ((0.0, 0.2, 0.55, 0.7, 0.9), (0.05, 0.2, 0.55, 0.7, 0.9), "no", "passed one half by step 30"),
        (
            (0.0, 0.9, 0.9, 0.9, 0.9),
            (0.05, 0.05, 0.05, 0.05, 0.05),
            "cannot tell",
            "never certainly passed one half; t",
        ),
        ((0.0, 0.0, 0.0, 0.0, 0.0), (0.05, 0.05, 0.05, 0.05, 0.05), "cannot tell", "was not certainly there either"),
        ((0.9, 0.9, 0.9, 0.9, 0.9), (0.9, 0.9, 0.9, 0.9, 0.9), "cannot tell", "both were there from the first checkp"),
        # There at 20, gone by 30, back at 50 when the accuracy has risen.
        ((0.0, 0.9, 0.1, 0.1, 0.9), (0.05, 0.05, 0.05, 0.05, 0.9), "cannot tell", "had gone again by step 30"),
        # At its threshold from 20 on, never certainly there.
        (
            (0.0, 0.6, 0.6, 0.6, 0.6),
            (0.05, 0.05, 0.05, 0.6, 0.9),
            "cannot tell",
            "the circuit was never certainly there",
        ),
    ],
)
def test_was_the_circuit_there_before_ood_accuracy_rose(mediation, ood, answer, because):
    main, _ = answers(TWO_HOP, mediation_training=mediation, OOD=ood)
    assert main.question == "Was the circuit there before OOD accuracy rose?" and main.answer == answer
    assert main.words.lower().startswith(answer)
    assert re.search(because, main.words), main.words
    assert main.evidence[0].startswith("mediation, training there:") and main.evidence[1].startswith("OOD half solved:")


def test_hand_in_hand_growth_is_before_solved_but_not_before_the_rise():
    rose, solved = answers(
        TWO_HOP, mediation_training=(0.0, 0.2, 0.55, 0.7, 0.7, 0.9), OOD=(0.05, 0.2, 0.55, 0.7, 0.7, 0.9)
    )
    assert (rose.answer, solved.answer) == ("no", "yes")


def test_modular_answers_ask_for_the_explained_share():
    main, _ = answers(MODULAR, explained_share=(0.1, 0.7, 0.8, 0.9), held_out=(0.02, 0.02, 0.7, 0.99))
    assert main.answer == "yes" and "held-out accuracy certainly passed one half only after step 20" in main.words


def test_two_hop_phases_in_order():
    found = phases(
        "two_hop",
        TWO_HOP,
        training=(0.5, 0.99, 0.99, 0.99, 0.99, 0.99, 0.99),
        mediation_training=(0.0, 0.1, 0.2, 0.5, 0.7, 0.8, 0.9),
        OOD=(0.05, 0.05, 0.05, 0.05, 0.6, 0.7, 0.9),
    )
    ranges = [(p.start, p.end, p.ended) for p in (found.memorisation, found.circuit_formation, found.clean_up)]
    assert ranges == [(10, 40, True), (40, 50, True), (50, 70, True)]
    assert "training was learnt by step 20" in found.memorisation.words and "0.7 -> 0.9" in found.clean_up.words


@pytest.mark.parametrize(
    ("stories", "seen"),
    [
        # Never learnt: nothing is memorised, nothing forms.
        ({"training": (0.1, 0.2), "mediation_training": (0.0, 0.0), "OOD": (0.0, 0.0)}, (None, None, None)),
        # Memorises to the end of the run.
        ({"training": (0.1, 0.99), "mediation_training": (0.0, 0.0), "OOD": (0.0, 0.0)}, ((10, 20, False), None, None)),
        # The circuit comes with the learning, between two checkpoints: neither phase has a checkpoint to itself.
        (
            {"training": (0.1, 0.99, 0.99), "mediation_training": (0.0, 0.9, 0.9), "OOD": (0.0, 0.1, 0.9)},
            (None, None, None),
        ),
        # A leaked table: OOD is right, and no circuit forms before it or is left after it.
        (
            {"training": (0.1, 0.99, 0.99), "mediation_training": (0.0, 0.0, 0.0), "OOD": (0.0, 0.6, 0.9)},
            ((10, 30, False), None, None),
        ),
        # OOD is half right before the circuit shows: the phases keep their order.
        (
            {
                "training": (0.1, 0.99, 0.99, 0.99, 0.99),
                "mediation_training": (0.0, 0.0, 0.5, 0.7, 0.9),
                "OOD": (0.0, 0.6, 0.6, 0.6, 0.6),
            },
            ((10, 30, True), (30, 40, True), (40, 50, False)),
        ),
    ],
)
def test_a_two_hop_phase_that_is_not_seen_is_none(stories, seen):
    found = phases("two_hop", TWO_HOP, **stories)
    got = (found.memorisation, found.circuit_formation, found.clean_up)
    assert tuple(None if p is None else (p.start, p.end, p.ended) for p in got) == seen


GROKKING = {
    "training": (0.3, 0.99, 0.99, 0.99, 0.99, 0.99),
    "held_out": (0.02, 0.02, 0.02, 0.3, 0.7, 0.999),
    "explained_share": (0.1, 0.2, 0.3, 0.6, 0.8, 0.9),
    "excluded_loss": (2.0, 0.5, 0.1, 3.0, 4.0, 2.0),
    "restricted_loss": (4.0, 9.0, 6.0, 2.0, 1.0, 0.1),
    "weight_norm": (10.0, 40.0, 38.0, 35.0, 30.0, 25.0),
}


def test_modular_phases_are_those_of_the_losses():
    found = phases("modular", MODULAR, **GROKKING)
    ranges = [(p.start, p.end) for p in (found.memorisation, found.circuit_formation, found.clean_up)]
    assert ranges == [(10, 30), (30, 50), (50, 60)]
    assert found.clean_up.words == "norm 30 -> 25; restricted loss 1 -> 0.1"


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ({"weight_norm": (10.0, 40.0, 38.0, 35.0, 30.0, 31.0)}, "clean_up"),
        ({"restricted_loss": (4.0, 9.0, 6.0, 2.0, 1.0, 1.1)}, "clean_up"),
        ({"excluded_loss": (2.0, 0.5, 0.1, 0.05, 0.04, 0.01)}, "circuit_formation"),
        ({"explained_share": (0.1, 0.2, 0.3, 0.3, 0.2, 0.9)}, "circuit_formation"),
        ({"training": (0.3, 0.3, 0.3, 0.3, 0.3, 0.99)}, "memorisation"),
    ],
)
def test_a_modular_phase_needs_what_defines_it(change, lost):
    found = phases("modular", MODULAR, **(GROKKING | change))
    assert getattr(found, lost) is None
    assert getattr(phases("modular", MODULAR, **GROKKING), lost) is not None


def test_a_fall_from_solved_is_an_alarm_and_says_whether_it_came_back():
    ungrokked, forgetting, again = alarms(
        TWO_HOP,
        training=(0.99, 0.99, 0.99, 0.99, 0.5),
        ID=(0.0, 0.0, 0.0, 0.0, 0.0),
        OOD=(0.9, 0.7, 0.78, 0.9, 0.3),
    )
    assert (ungrokked.kind, ungrokked.step, ungrokked.recovered_by) == ("ungrokked", 20, 40)
    assert ungrokked.evidence == (
        "0.90 [0.86, 0.94] at step 10, n = 100",
        "0.70 [0.66, 0.74] at step 20, n = 100",
    )
    assert ungrokked.words.endswith("it was back by step 40.")
    assert (again.kind, again.step, again.recovered_by) == ("ungrokked", 50, None)
    assert (forgetting.kind, forgetting.quantity, forgetting.step) == ("forgetting", "training", 50)


def test_an_uncertain_fall_is_no_alarm():
    assert alarms(TWO_HOP, training=(0.99, 0.87, 0.88), ID=(0.9, 0.77, 0.9), OOD=(0.9, 0.78, 0.9)) == ()
    assert alarms(TWO_HOP, OOD=(0.82, 0.3, 0.3)) == ()  # never certainly solved


def test_a_leak_is_an_alarm_from_the_first_checkpoint():
    (leak,) = alarms(TWO_HOP, "3 of 10 test_ood queries are training items", OOD=(0.1, 0.1))
    assert (leak.kind, leak.step) == ("leak", 10)
    assert leak.words == "The test set is leaked: 3 of 10 test_ood queries are training items."
