"""Crossings, departures and lags of series written by hand."""

import pytest

from circuit_lab.measures import proportion_interval
from circuit_lab.verdict.runs.crossings import (
    Level,
    TimelinePoint,
    certainly_before,
    changes,
    crossing,
    departure,
    in_order,
    lag,
)

SOLVED = Level("solved", 0.8)
FLOOR = Level("left chance", 0.1, ceiling=0.5)


def series(*rows, quantity="OOD", every=10):
    """Points at steps 10, 20, ... of (value, low, high), or of a value with an interval of +-.05."""
    points = []
    for place, row in enumerate(rows, start=1):
        value, low, high = row if isinstance(row, tuple) else (row, row - 0.05, row + 0.05)
        points.append(TimelinePoint(every * place, quantity, value, low, high, 100, 0.8, "share"))
    return points


def where(found):
    return found.step, found.after, found.by


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        # below, below, above: crossed between 20 and 30.
        ((0.1, 0.5, 0.9), (30, 20, 30)),
        # 30 is open, its value above: the best guess is 30, certain at 40.
        ((0.1, 0.5, 0.82, 0.9), (30, 20, 40)),
        # 30 is open, its value below: the best guess is 40.
        ((0.1, 0.5, 0.78, 0.9), (40, 20, 40)),
        # Noise to both sides of the threshold, never certain: from 50 on the values stay above.
        ((0.5, 0.82, 0.78, 0.83, 0.81, 0.84, 0.95), (40, 10, 70)),
        # Above from the start: by 10, never certainly below.
        ((0.9, 0.95), (10, None, 10)),
        # Open at the start, then above: no step at which it was certainly below.
        ((0.79, 0.81, 0.9), (20, None, 30)),
        # Never: certainly below until the end, and until 20.
        ((0.1, 0.2, 0.3), (None, 30, None)),
        ((0.1, 0.2, 0.79), (None, 20, None)),
        # Reached by the values up to the end, never certainly.
        ((0.1, 0.82, 0.7, 0.81, 0.84), (40, 30, None)),
    ],
)
def test_the_first_crossing_by_hand(values, expected):
    assert where(crossing(series(*values), SOLVED)) == expected


def test_the_whole_interval_counts_and_its_ends_belong_to_the_side_above():
    assert where(crossing(series((0.9, 0.8, 1.0)), SOLVED)) == (10, None, 10)
    assert where(crossing(series((0.7, 0.6, 0.8)), SOLVED)) == (None, None, None)
    assert where(crossing(series((0.7, 0.6, 0.799)), SOLVED)) == (None, 10, None)


def test_points_without_value_or_interval_decide_nothing():
    rows = [(0.1, 0.0, 0.2), (None, 0.0, 1.0), (0.9, None, None), (0.9, 0.85, 0.95)]
    assert where(crossing(series(*rows), SOLVED)) == (30, 10, 40)
    assert where(crossing(series((None, 0.0, 1.0)), SOLVED)) == (None, None, None)


def test_falls_and_later_rises_are_kept_and_hovering_is_not_counted():
    values = (0.5, 0.9, 0.82, 0.78, 0.9, 0.7, 0.78, 0.81, 0.9, 0.6)
    found = changes(series(*values), SOLVED)
    assert [(c.rising, c.step, c.after, c.by) for c in found] == [
        (True, 20, 10, 20),
        (False, 60, 50, 60),
        (True, 80, 60, 90),
        (False, 100, 90, 100),
    ]
    first = crossing(series(*values), SOLVED)
    assert where(first) == (20, 10, 20) and len(first.later) == 3 and not first.lasted
    assert crossing(series(*values[:-1]), SOLVED).lasted


def test_a_series_that_starts_above_and_falls_has_a_rise_at_its_start():
    found = changes(series(0.9, 0.5), SOLVED)
    assert [(c.rising, c.step, c.after, c.by) for c in found] == [(True, 10, None, 10), (False, 20, 10, 20)]


def test_a_departure_is_the_last_one_before_the_ceiling():
    # .2 at step 20 is certainly above the floor, and falls back: an accident. It leaves for good at 40.
    accident = series(0.04, 0.2, 0.08, 0.3, 0.7, 0.04, 0.3)
    assert where(departure(accident, FLOOR)) == (40, 30, 40)
    assert [change.by for change in departure(accident, FLOOR).later] == [60, 70]
    assert where(departure(series(0.04, 0.2, 0.08), FLOOR)) == (None, 30, None)
    assert where(departure(series(0.04, 0.2, 0.3), FLOOR)) == (20, 10, 20)


def test_an_interval_as_wide_as_the_ceiling_is_not_on_the_floor():
    wide = series((0.25, 0.05, 0.6), (0.3, 0.2, 0.4))
    assert where(departure(wide, FLOOR)) == (20, None, 20)


def test_chance_itself_counts_as_the_floor():
    assert where(departure(series(0.1, 0.1, 0.6), FLOOR)) == (30, 20, 30)


def test_lags_and_order():
    first = crossing(series(0.1, 0.9, 0.9, 0.9, quantity="a"), SOLVED)  # (10, 20]
    later = crossing(series(0.1, 0.1, 0.82, 0.9, quantity="b"), SOLVED)  # (20, 40], at 30
    same = crossing(series(0.1, 0.82, 0.9, 0.9, quantity="c"), SOLVED)  # (10, 30], at 20
    never = crossing(series(0.1, 0.1, 0.1, 0.1, quantity="d"), SOLVED)
    found = lag(first, later)
    assert (found.first, found.second) == ("a: solved", "b: solved")
    assert (found.value, found.low, found.high, found.certain) == (10, 0, 30, True)
    back = lag(later, first)
    assert (back.value, back.low, back.high, back.certain) == (-10, -30, 0, True)
    overlapping = lag(same, later)
    assert (overlapping.value, overlapping.low, overlapping.high, overlapping.certain) == (10, -10, 30, False)
    assert lag(first, never) is None
    assert certainly_before(first, never) and not certainly_before(never, first)
    assert [c.quantity for c in in_order([never, later, same, first])] == ["a", "c", "b"]


def test_a_lag_to_what_was_never_certain_has_no_upper_bound():
    open_ended = crossing(series(0.1, 0.1, 0.82, quantity="b"), SOLVED)
    found = lag(crossing(series(0.1, 0.9, 0.9, quantity="a"), SOLVED), open_ended)
    assert (found.value, found.low, found.high, found.certain) == (10, 0, None, True)


def test_words():
    cases = {
        "step 30 (after 20, by 40)": (0.1, 0.5, 0.82, 0.9),
        "step 10 (by 10, never certainly below)": (0.9,),
        "step 20, not certain within the run": (0.1, 0.82),
        "never (certainly not by step 20)": (0.1, 0.2),
    }
    for words, values in cases.items():
        assert crossing(series(*values), SOLVED).when() == words
    assert crossing(series((None, 0.0, 1.0)), SOLVED).when() == "never"


def test_the_interval_covers_the_true_crossing_of_simulated_runs():
    """A true accuracy that rises from .6 to 1, read on 200 fresh queries at each of 40 checkpoints, 150 times."""
    import numpy as np

    rng = np.random.default_rng(0)
    truth = np.linspace(0.6, 1.0, 40)
    crossed_at = 10 * (1 + int(np.argmax(truth >= 0.8)))  # the first step at which it is at or above the threshold
    interval_of = [proportion_interval(n_right, 200) for n_right in range(201)]
    covered = 0
    for right in rng.binomial(200, truth, size=(150, 40)):
        rows = [(k / 200, interval_of[k].low, interval_of[k].high) for k in right.tolist()]
        found = crossing(series(*rows), SOLVED)
        covered += found.after is not None and found.by is not None and found.after < crossed_at <= found.by
    assert covered / 150 >= 0.9


def test_without_noise_the_interval_is_that_between_two_checkpoints():
    exact = [(v, v, v) for v in (0.1, 0.3, 0.79, 0.8, 0.9)]
    assert where(crossing(series(*exact), SOLVED)) == (40, 30, 40)
