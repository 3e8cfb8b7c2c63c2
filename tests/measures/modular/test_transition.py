"""The transition of accuracy with the training size: planted curves, by hand, intervals, and what cannot be read."""

import math
import re

import numpy as np
import pytest

from circuit_lab.measures import accuracy_transition

SIZES = [100, 141, 200, 283, 400, 566, 800]


def logistic(size, midpoint, width, chance=0.0):
    return chance + (1 - chance) / (1 + math.exp(-(math.log(size) - math.log(midpoint)) / width))


@pytest.mark.parametrize(("midpoint", "width", "chance"), [(250, 0.2, 0.0), (330, 0.05, 0.1), (180, 0.6, 0.02)])
def test_a_planted_curve_is_found(midpoint, width, chance):
    accuracy = [logistic(size, midpoint, width, chance) for size in SIZES]
    found = accuracy_transition(SIZES, accuracy, [0] * len(SIZES), chance=chance)
    assert found.midpoint == pytest.approx(midpoint, rel=1e-3)
    assert found.sharpness == pytest.approx(math.exp(2 * width * math.log(9)), rel=1e-2)
    np.testing.assert_allclose(found.frame()["fitted"], accuracy, atol=1e-3)
    nine, one = (chance + (1 - chance) * share for share in (0.9, 0.1))
    at = [midpoint * found.sharpness**half for half in (0.5, -0.5)]
    assert found.curve(at).tolist() == pytest.approx([nine, one], abs=1e-3)


def test_a_step_lies_between_its_neighbours():
    found = accuracy_transition(SIZES, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], [0] * 7)
    assert found.midpoint is not None and 200 < found.midpoint < 283
    assert found.sharpness < 283 / 200


def test_the_interval_spans_the_seeds():
    midpoints = {0: 220.0, 1: 250.0, 2: 300.0}
    nets = [(size, logistic(size, middle, 0.1), seed) for seed, middle in midpoints.items() for size in SIZES]
    found = accuracy_transition(*zip(*nets, strict=True))
    assert found.midpoint is not None
    assert 220 <= found.low < found.midpoint < found.high <= 300 + 1
    again = accuracy_transition(*zip(*nets, strict=True))
    assert (again.low, again.high) == (found.low, found.high)


def test_equal_seeds_have_no_spread():
    nets = [(size, logistic(size, 250, 0.1), seed) for seed in range(3) for size in SIZES]
    found = accuracy_transition(*zip(*nets, strict=True))
    assert found.low == pytest.approx(250, rel=1e-2) and found.high == pytest.approx(250, rel=1e-2)


def test_one_seed_has_no_interval():
    found = accuracy_transition(SIZES, [logistic(size, 250, 0.1) for size in SIZES], [3] * 7)
    assert math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [(0.02, "below half .* at more than 800 pairs"), (0.98, "above half .* at fewer than 100 pairs")],
)
def test_a_curve_that_does_not_turn_has_no_midpoint(accuracy, words):
    found = accuracy_transition(SIZES * 2, [accuracy] * 14, [0] * 7 + [1] * 7)
    assert found.midpoint is None and math.isnan(found.sharpness) and math.isnan(found.width)
    assert np.isnan(found.curve([200, 300])).all()
    assert found.low == found.high == (-math.inf if accuracy > 0.5 else math.inf)
    assert re.search(words, found.explanation)


def test_an_interval_may_be_open_on_one_side():
    turning = [logistic(size, 700, 0.05) for size in SIZES]
    found = accuracy_transition(SIZES * 3, turning * 2 + [0.0] * 7, [0] * 7 + [1] * 7 + [2] * 7)
    assert found.high == math.inf and found.low == pytest.approx(700, rel=1e-2)


@pytest.mark.parametrize(
    ("accuracy", "side"),
    [
        ([0.0, 0.0, 0.6, 0.0, 0.0, 0.0, 0.0], math.inf),
        ([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5], math.inf),
        ([1.0, 1.0, 0.4, 1.0, 1.0, 1.0, 1.0], -math.inf),
        ([0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], -math.inf),
    ],
)
def test_a_curve_that_turns_at_the_edge_of_the_sizes_lies_outside(accuracy, side):
    """A net or two beyond half, and no rising curve through them: the search for the midpoint ends at its bound."""
    found = accuracy_transition(SIZES * 2, accuracy * 2, [0] * 7 + [1] * 7)
    assert found.midpoint is None and math.isnan(found.sharpness)
    assert found.low == found.high == side
    words = "below .* more than 800 pairs" if side > 0 else "above .* fewer than 100 pairs"
    assert re.search(words, found.explanation)


def test_a_curve_too_flat_for_a_transition_has_no_sharpness():
    found = accuracy_transition(SIZES, [1.0, 1.0, 1.0, 0.2, 0.1, 0.0, 0.0], [0] * 7)
    assert found.midpoint is not None and math.isnan(found.sharpness)
    assert found.curve([found.midpoint]).tolist() == pytest.approx([0.5])
    assert np.ptp(found.curve(SIZES)) < 0.2
    assert "too flat" in found.explanation


@pytest.mark.parametrize(
    ("of_second_seed", "low", "high"), [(0.5, 116.46, math.inf), (0.1, 130.76, math.inf), (0.6, -math.inf, 130.76)]
)
def test_a_resample_with_a_single_size_lies_on_the_side_of_its_mean(of_second_seed, low, high):
    """By hand: a curve through two sizes is exact, and linear in log D on the scale of log-odds.

    The first seed alone has .2 and .9, log-odds -1.386 and 2.197, so 100 * 2 ** (1.386 / 3.583) = 130.76; both have
    their mean at 100, and the second seed alone that size only. Exactly half has not turned yet.
    """
    found = accuracy_transition([100, 200, 100], [0.2, 0.9, of_second_seed], [0, 0, 1])
    assert (found.low, found.high) == (pytest.approx(low, rel=1e-3), pytest.approx(high, rel=1e-3))


def test_each_seed_may_have_a_single_size():
    found = accuracy_transition([100, 200, 300], [0.5, 0.8, 0.9], [0, 1, 2])
    assert found.low == -math.inf and found.high == math.inf


@pytest.mark.parametrize("n_resamples", [0, -1])
def test_an_interval_needs_a_resample(n_resamples):
    with pytest.raises(ValueError, match=f"n_resamples must be at least 1, got {n_resamples}"):
        accuracy_transition([100, 200], [0.0, 1.0], [0, 1], n_resamples=n_resamples)


@pytest.mark.parametrize(
    ("sizes", "accuracy", "seeds", "chance", "message"),
    [
        ([100, 200], [0.0], [0, 0], 0.0, "got 2, 1 and 2 numbers"),
        ([100, 100], [0.0, 1.0], [0, 1], 0.0, "1 sizes"),
        ([0, 100], [0.0, 1.0], [0, 0], 0.0, "sizes must be positive"),
        ([100, 200], [0.0, 1.5], [0, 0], 0.0, r"accuracies in \[0, 1\]"),
        ([100, 200], [0.0, 1.0], [0, 0], 1.0, "chance in"),
        ([100, 200], [0.0, math.nan], [0, 0], 0.0, r"accuracies in \[0, 1\]"),
        ([100, 200], [0.0, 1.0], [0, 0], math.nan, "chance in"),
    ],
)
def test_what_makes_no_curve_is_refused(sizes, accuracy, seeds, chance, message):
    with pytest.raises(ValueError, match=message):
        accuracy_transition(sizes, accuracy, seeds, chance=chance)
