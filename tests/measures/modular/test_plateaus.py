"""Plateaus of test accuracy: planted ones are found and labelled, and none is seen where there is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuit_lab.measures import accuracy_plateaus
from circuit_lab.measures.modular.plateaus import HIGHEST, LOWEST

STEPS = np.arange(0, 25_001, 100)
N = 800


def noisy(curve, seed=0):
    """What N queries show of a curve."""
    rng = np.random.default_rng(seed)
    return rng.binomial(N, np.clip(curve, 0, 1)) / N


def found_in(curve, seed=0):
    return accuracy_plateaus(STEPS, noisy(curve, seed), n=N).plateaus


@given(
    start=st.integers(3_000, 9_000), length=st.integers(6_000, 12_000), level=st.floats(0.2, 0.8), seed=st.integers(0)
)
def test_a_planted_plateau_is_found_where_it_is(start, length, level, seed):
    curve = np.where(start > STEPS, 0.02, np.where(start + length > STEPS, level, 1.0))
    (plateau,) = found_in(curve, seed)
    assert abs(plateau.start - start) <= 200 and abs(plateau.end - (start + length)) <= 200
    assert plateau.level == pytest.approx(level, abs=0.02)
    assert plateau.low < plateau.level < plateau.high
    assert plateau.kind == "transient"


@given(st.integers(0))
def test_one_that_lasts_to_the_end_is_standing(seed):
    (plateau,) = found_in(np.where(STEPS < 6000, 0.02, 0.5), seed)
    assert (plateau.kind, plateau.end) == ("standing", 25_000)
    assert plateau.after == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("after", [0.02, 0.75, 1.0])
def test_what_comes_after_a_transient_one_is_told(after):
    (plateau, *_) = found_in(np.where(STEPS < 3000, 0.02, np.where(STEPS < 14_000, 0.4, after)))
    assert plateau.kind == "transient" and plateau.after == pytest.approx(after, abs=0.03)


def test_the_last_evaluations_may_fall_out_of_a_standing_one():
    curve = noisy(np.where(STEPS < 6000, 0.02, 0.5))
    curve[-4:] = [0.3, 0.2, 0.1, 0.05]
    (plateau,) = accuracy_plateaus(STEPS, curve, n=N).plateaus
    assert plateau.kind == "standing" and plateau.end < 25_000


@pytest.mark.parametrize(
    "curve",
    [
        np.full(len(STEPS), 0.02),
        np.full(len(STEPS), 0.99),
        STEPS / STEPS[-1],
        1 / (1 + np.exp(-(STEPS - 12_000) / 2_000)),
        np.where(STEPS < 12_000, 0.02, 1.0),
        np.where(STEPS < 12_000, 0.02, np.where(STEPS < 15_000, 0.5, 1.0)),
    ],
    ids=["memorised", "solved at once", "slow rise", "grokking", "sudden grokking", "a stop shorter than a fifth"],
)
@pytest.mark.parametrize("seed", range(5))
def test_where_there_is_none_none_is_seen(curve, seed):
    assert found_in(curve, seed) == ()


def test_two_plateaus():
    curve = np.where(STEPS < 2000, 0.02, np.where(STEPS < 12_000, 0.3, 0.7))
    assert [(plateau.kind, round(plateau.level, 1)) for plateau in found_in(curve)] == [
        ("transient", 0.3),
        ("standing", 0.7),
    ]


def test_a_plateau_between_slopes():
    curve = np.interp(STEPS, [0, 3000, 5000, 15_000, 17_000, 25_000], [0.02, 0.02, 0.6, 0.63, 0.99, 1.0])
    (plateau,) = found_in(curve)
    assert abs(plateau.start - 5000) <= 300 and abs(plateau.end - 15_000) <= 300 and plateau.kind == "transient"


def test_a_fall_that_is_made_up_for_does_not_cut_it():
    curve = noisy(np.where(STEPS < 5000, 0.02, 0.5))
    curve[120], curve[160:163] = 0.1, 0.2
    (plateau,) = accuracy_plateaus(STEPS, curve, n=N).plateaus
    assert (plateau.start, plateau.end) == (5000, 25_000)


def test_steps_count_only_in_proportion():
    curve = noisy(np.where(STEPS < 5000, 0.02, np.where(STEPS < 15_000, 0.5, 1.0)))
    found, scaled = (accuracy_plateaus(STEPS * factor, curve, n=N) for factor in (1, 10))
    assert [(each.start * 10, each.end * 10) for each in found.plateaus] == [
        (each.start, each.end) for each in scaled.plateaus
    ]
    assert (found.budget, scaled.budget) == (25_000, 250_000)


def test_the_frame_has_a_row_per_plateau():
    curve = np.where(STEPS < 6000, 0.02, 0.5)
    frame = accuracy_plateaus(STEPS, noisy(curve), n=N).frame()
    assert list(frame.columns) == ["start", "end", "level", "low", "high", "kind", "after"] and len(frame) == 1
    assert ((frame["level"] > LOWEST) & (frame["level"] < HIGHEST)).all()
    assert list(accuracy_plateaus(STEPS, noisy(0 * STEPS), n=N).frame().columns) == list(frame.columns)


@pytest.mark.parametrize(
    ("step", "accuracy", "n", "message"),
    [
        (range(5), [0.5] * 5, 10, "at least 6 evaluations"),
        (range(6), [0.5] * 5, 10, "got 6 steps and 5 accuracies"),
        ([0, 1, 2, 2, 3, 4], [0.5] * 6, 10, "at rising steps"),
        (range(6), [0.5] * 5 + [float("nan")], 10, r"must lie in \[0, 1\]"),
        (range(6), [0.5] * 5 + [1.5], 10, r"must lie in \[0, 1\]"),
        (range(6), [0.5] * 6, 0, "n = 0"),
    ],
)
def test_mistakes_are_named(step, accuracy, n, message):
    with pytest.raises(ValueError, match=message):
        accuracy_plateaus(step, accuracy, n=n)
