"""Intervals for shares of queries."""

from dataclasses import dataclass

from scipy.stats import binomtest

CONFIDENCE_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval, both ends in [0, 1]."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def proportion_interval(n_true: int, n: int) -> Interval:
    """The 95 % Wilson score interval of a share.

    Wilson (1927), through scipy: unlike the normal approximation it does not collapse to a point at 0 or 1.
    The queries are taken as independent; queries that share a fact are not quite, which an interval per query ignores.

    Args:
        n_true: Queries for which the thing holds.
        n: Queries looked at.

    Returns:
        The interval; all of [0, 1] when `n` is 0.

    >>> interval = proportion_interval(9, 10)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.596, 0.982)
    """
    if n == 0:
        return Interval(0.0, 1.0)
    result = binomtest(n_true, n).proportion_ci(confidence_level=CONFIDENCE_LEVEL, method="wilson")
    return Interval(float(result.low), float(result.high))
