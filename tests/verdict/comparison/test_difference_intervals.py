"""Intervals of differences: published examples, the 2 x 2 formula, and coverage by simulation."""

import math
from functools import cache

import numpy as np
import pytest
from scipy.stats import norm

from circuit_lab.measures import Interval, proportion_interval
from circuit_lab.verdict.comparison.intervals import (
    INDEPENDENT,
    UNKNOWN,
    Hits,
    difference_interval,
    paired_correlation,
)

wilson = cache(proportion_interval)


def between(n_true_a, n_a, n_true_b, n_b, *, correlation):
    a, b = wilson(n_true_a, n_a), wilson(n_true_b, n_b)
    return difference_interval(n_true_a / n_a, a, n_true_b / n_b, b, correlation=correlation)


def hits_of_table(both, only_a, only_b, neither):
    """Two nets' answers to the same queries, by how many of them each had right."""
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    everything = np.ones(len(a), dtype=bool)
    return Hits(np.array(a), everything), Hits(np.array(b), everything)


# Newcombe 1998, Statistics in Medicine 17:873, table II, method 10 (there p1 - p2).
@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [((56, 70), (48, 80), 0.0524, 0.3339), ((9, 10), (3, 10), 0.1705, 0.8090), ((10, 10), (0, 10), 0.6075, 1.0)],
)
def test_independent_shares_as_published(first, second, low, high):
    found = between(*second, *first, correlation=INDEPENDENT)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_half_widths_by_hand():
    """a = 1 in [0, 3], b = 10 in [8, 11]: towards the difference's low end 2 and 2, towards its high end 1 and 1."""
    a, b = Interval(0.0, 3.0), Interval(8.0, 11.0)
    expected = {0.0: math.sqrt(8), -1.0: 4.0, 1.0: 0.0, 0.5: 2.0}
    for correlation, half in expected.items():
        found = difference_interval(1.0, a, 10.0, b, correlation=correlation)
        assert (found.low, found.high) == (pytest.approx(9 - half), pytest.approx(9 + half / 2))


@pytest.mark.parametrize("table", [(53, 9, 4, 34), (20, 12, 2, 6), (3, 20, 30, 2), (8, 5, 5, 7), (2, 1, 1, 2)])
def test_paired_correlation_is_newcombes_phi(table):
    """His formula in the four counts, method 10 of Statistics in Medicine 17:2635."""
    both, only_a, only_b, neither = table
    n, product = sum(table), both * neither - only_a * only_b
    numerator = max(product - n / 2, 0) if product > 0 else product
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    assert paired_correlation(*hits_of_table(*table)) == pytest.approx(numerator / math.sqrt(margins))


def test_a_share_that_does_not_vary_is_correlated_with_nothing():
    assert paired_correlation(*hits_of_table(5, 0, 0, 0)) == 0.0
    assert paired_correlation(*hits_of_table(5, 5, 0, 0)) == 0.0


def test_the_correlation_of_shares_of_a_part_against_the_bootstrap():
    """Right answers through the bridge, of each net's own right answers; the correlation of the two over resamples."""
    generator = np.random.default_rng(0)
    n = 4000
    right_a, right_b = generator.random(n) < 0.8, generator.random(n) < 0.5
    shared = generator.random(n) < 0.6
    a = Hits(np.where(generator.random(n) < 0.7, shared, generator.random(n) < 0.6), right_a)
    b = Hits(np.where(generator.random(n) < 0.7, shared, generator.random(n) < 0.6), right_b)
    drawn = generator.integers(n, size=(3000, n))
    shares = [(h.hit & h.counted)[drawn].sum(1) / h.counted[drawn].sum(1) for h in (a, b)]
    assert paired_correlation(a, b) == pytest.approx(np.corrcoef(*shares)[0, 1], abs=0.06)
    assert (a.n, a.n_true) == (right_a.sum(), (a.hit & right_a).sum())


def test_pairing_narrows_and_the_added_half_widths_are_widest():
    hits = hits_of_table(80, 10, 4, 106)
    widths = []
    for correlation in (paired_correlation(*hits), INDEPENDENT, UNKNOWN):
        found = between(90, 200, 84, 200, correlation=correlation)
        assert -0.03 in found
        widths.append(found.high - found.low)
    assert widths == sorted(widths) and widths[0] < 0.7 * widths[1] < 0.6 * widths[2]


def test_swapping_the_two_mirrors_the_interval():
    one, other = between(3, 40, 30, 50, correlation=0.3), between(30, 50, 3, 40, correlation=0.3)
    assert (one.low, one.high) == (pytest.approx(-other.high), pytest.approx(-other.low))


def coverage(n, p_a, p_b, latent, *, right=(1.0, 1.0), correlation=None, n_simulations=1000):
    """How often the interval holds p_b - p_a, of nets whose latent skills per query correlate by `latent`."""
    generator = np.random.default_rng([n, round(1000 * p_a), round(1000 * p_b), round(1000 * latent) % 1999])
    covered = 0
    for _ in range(n_simulations):
        skill = generator.standard_normal((2, 2, n))
        skill[1] = latent * skill[0] + math.sqrt(1 - latent**2) * skill[1]
        a, b = (Hits(skill[i, 0] < norm.ppf(p), skill[i, 1] < norm.ppf(right[i])) for i, p in enumerate((p_a, p_b)))
        assumed = paired_correlation(a, b) if correlation is None else correlation
        covered += p_b - p_a in between(a.n_true, a.n, b.n_true, b.n, correlation=assumed)
    return covered / n_simulations


SHARES = [(0.5, 0.5), (0.8, 0.9), (0.3, 0.6)]


@pytest.mark.slow
@pytest.mark.parametrize("latent", [-0.5, 0.0, 0.5, 0.9])
def test_the_paired_interval_holds_its_coverage(latent):
    """Of 95 %, to 2 points, on average over shares; and of no pair of shares more than 1 point further below."""
    found = [coverage(200, *shares, latent) for shares in SHARES]
    assert np.mean(found) == pytest.approx(0.95, abs=0.02) and min(found) > 0.92, found


@pytest.mark.slow
@pytest.mark.parametrize("latent", [0.0, 0.9])
def test_the_paired_interval_of_shares_of_a_part_holds_its_coverage(latent):
    found = [coverage(200, *shares, latent, right=(0.9, 0.6)) for shares in SHARES]
    assert np.mean(found) == pytest.approx(0.95, abs=0.02) and min(found) > 0.92, found


@pytest.mark.slow
def test_the_independent_interval_holds_its_coverage():
    found = [coverage(n, *shares, 0.0, correlation=INDEPENDENT) for shares in SHARES for n in (50, 200)]
    assert np.mean(found) == pytest.approx(0.95, abs=0.02) and min(found) > 0.92, found


@pytest.mark.slow
@pytest.mark.parametrize("latent", [-0.95, 0.0, 0.95])
def test_added_half_widths_hold_whatever_the_correlation(latent):
    found = [coverage(200, *shares, latent, correlation=UNKNOWN) for shares in SHARES]
    assert min(found) > 0.93, found


@pytest.mark.slow
def test_nets_that_hardly_differ_get_wide_intervals_rather_than_narrow_ones():
    """Where next to no query tells the two apart, the correction for continuity keeps the interval from collapsing."""
    found = [coverage(n, p, p, 0.99) for n in (50, 200) for p in (0.1, 0.5, 0.9)]
    assert min(found) > 0.93, found
