"""95 % intervals for the difference b - a of two numbers that each have an interval of their own.

Every interval here is one formula. With a in [l_a, u_a], b in [l_b, u_b], and r the correlation of the two estimates:

    low  = b - a - sqrt((b - l_b)^2 - 2 r (b - l_b) (u_a - a) + (u_a - a)^2)
    high = b - a + sqrt((u_b - b)^2 - 2 r (u_b - b) (a - l_a) + (a - l_a)^2)

(Zou and Donner 2008, Statistics in Medicine 27:1693, for any two intervals.) From Wilson intervals of two shares it is

* r = 0, two independent samples: the hybrid score interval, method 10 of Newcombe 1998, Statistics in Medicine 17:873.
* r = phi, the correlation of the two answers to one and the same query: the paired interval, method 10 of Newcombe
  1998, Statistics in Medicine 17:2635, with its correction for continuity: n/2 is taken off a positive numerator.
* r = -1, the two half-widths added: holds whatever the correlation is, so that it is used where the same queries were
  asked and the answers to each are not kept.

A share may be of a part of the queries only, another part for each side (right answers through the bridge, of the right
answers). The correlation is then that of the residuals in_part * (hit - share), which linearise such a ratio; with
all queries in the part that is phi again. (Our extension; a simulation shows its coverage.)
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from circuit_lab.measures import Interval

INDEPENDENT, UNKNOWN = 0.0, -1.0
"""Correlations of independent estimates, and the one that allows for any."""


@dataclass(frozen=True, eq=False)
class Hits:
    """A share, query by query.

    Attributes:
        hit: Whether the thing holds for a query.
        counted: Whether the share is of this query at all; a hit that is not counted does not count.
    """

    hit: Bool[np.ndarray, " n"]
    counted: Bool[np.ndarray, " n"]

    @property
    def n_true(self) -> int:
        """Counted hits."""
        return int((self.hit & self.counted).sum())

    @property
    def n(self) -> int:
        """Counted queries."""
        return int(self.counted.sum())

    @property
    def residuals(self) -> np.ndarray:
        """Per query, counted * (hit - share); they sum to 0."""
        return self.counted * (self.hit - self.n_true / max(self.n, 1))


def difference_interval(a: float, of_a: Interval, b: float, of_b: Interval, *, correlation: float) -> Interval:
    """The 95 % interval of b - a.

    Args:
        a: The first number.
        of_a: Its 95 % interval.
        b: The second number.
        of_b: Its 95 % interval.
        correlation: Of the two estimates, in [-1, 1]; `INDEPENDENT`, `UNKNOWN` or a `paired_correlation`.

    Returns:
        The interval, in the unit of the numbers.

    Nine in ten against one in ten, unpaired:

    >>> from circuit_lab.measures import proportion_interval
    >>> one, nine = proportion_interval(1, 10), proportion_interval(9, 10)
    >>> interval = difference_interval(0.1, one, 0.9, nine, correlation=INDEPENDENT)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.37, 0.916)
    """

    def half_width(towards_a: float, towards_b: float) -> float:
        square = towards_a**2 - 2 * correlation * towards_a * towards_b + towards_b**2
        return max(square, 0.0) ** 0.5

    return Interval(
        low=b - a - half_width(of_a.high - a, b - of_b.low),
        high=b - a + half_width(a - of_a.low, of_b.high - b),
    )


def paired_correlation(a: Hits, b: Hits) -> float:
    """The correlation of two shares over the same queries, in the same order, corrected for continuity.

    Args:
        a: The first share.
        b: The second share.

    Returns:
        A number in [-1, 1]; 0 where a share does not vary.
    """
    x, y = a.residuals, b.residuals
    scale = float(np.sqrt((x @ x) * (y @ y)))
    if scale == 0:
        return 0.0
    product = float(x @ y)
    corrected = max(product - 0.5, 0.0) if product > 0 else product
    return float(np.clip(corrected / scale, -1.0, 1.0))
