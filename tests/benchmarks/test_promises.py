"""Costs grow no faster, and users wait no longer, than docs/benchmarks.md promises; each in a process of its own."""

import sys

import pytest
from own_process import run_alone
from promised_seconds import WAITS
from scaling import CURVES, slope_of

SLOPE = """
import dataclasses, sys
sys.path[:0] = sys.argv[2:]
from scaling import CURVES
result = dataclasses.asdict(CURVES[sys.argv[1]].measure(n_rounds=3))
"""


@pytest.mark.benchmark
@pytest.mark.parametrize("name", CURVES)
def test_cost_grows_no_faster_than_promised(name):
    _, slope = run_alone(SLOPE, name, *sys.path)
    assert slope["value"] <= CURVES[name].most, slope


@pytest.mark.benchmark
@pytest.mark.parametrize("name", WAITS)
def test_nobody_waits_longer_than_promised(name):
    """Twice as long beside other work."""
    assert WAITS[name].measure() <= 2 * WAITS[name].most


def test_a_slope_by_hand():
    """Ten times the size costs 1, 10 and 40 times as much: exponents 1 and log10(4), a mean of 0.80."""
    found = slope_of([1, 10, 100], [2.0, 20.0, 80.0])
    assert found.value == pytest.approx((1 + 0.60206) / 2, abs=1e-5)
    assert found.low < found.value < found.high
    assert found.growth == 40
