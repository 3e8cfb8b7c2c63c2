"""Numbers of which only a range is known, and claims that a range decides.

A run that never gets to a level within its steps gets there later, or never; a curve that turns beyond the sizes tried
turns somewhere there. What is known of such a number are two ends, of which one may be 0 or infinite.
"""

from math import inf, isnan, nan

from circuit_lab.studies.study import Bound

Range = tuple[float, float]
"""The ends between which a number lies; equal where it is known, nan where nothing is."""
UNKNOWN: Range = (nan, nan)


def ratio_of(numerator: Range, denominator: Range) -> Range:
    """The range of a ratio of two numbers >= 0.

    >>> ratio_of((300.0, 300.0), (100.0, 100.0)), ratio_of((400.0, inf), (100.0, 100.0))
    ((3.0, 3.0), (4.0, inf))
    >>> ratio_of((100.0, 100.0), (400.0, inf))
    (0.0, 0.25)
    """
    if isnan(numerator[0]) or isnan(denominator[0]):
        return UNKNOWN
    low = 0.0 if denominator[1] == inf else numerator[0] / denominator[1]
    high = inf if numerator[1] == inf or denominator[0] == 0 else numerator[1] / denominator[0]
    return low, high


def decided(known: Range, holds_if: Bound) -> float:
    """A number that agrees with a claim if, and only if, all of a range does.

    Args:
        known: What is known of the claim's number.
        holds_if: The claim's limits.

    Returns:
        The number where it is known; else a finite end of the range, where the whole range decides alike; else nan.

    >>> [decided(known, Bound(low=3.0)) for known in ((2.0, 2.0), (4.0, inf), (0.0, 2.5), (1.0, inf))]
    [2.0, 4.0, 2.5, nan]
    """
    low, high = known
    if isnan(low) or isnan(high) or low == high:
        return low
    if low in holds_if and high in holds_if:
        return low if low > 0 or high == inf else high
    if high < holds_if.low:
        return high
    return low if low > holds_if.high else nan
