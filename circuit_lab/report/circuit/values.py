"""How numbers look in a circuit diagram, and the shape in which they go to the page's script."""

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

N_LEVELS = 10
"""Steps of the colour scale above 0."""


def short(value: float | None) -> float | None:
    """A number to three significant digits; None where there is none.

    >>> short(0.97487), short(12.3456), short(float("nan"))
    (0.975, 12.3, None)
    """
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.3g}")


def short_all(values: Sequence[float | None]) -> list[float | None]:
    """`short` of each."""
    return [short(value) for value in values]


def exact(value: float | None) -> float | None:
    """A number that is printed again, rounded so far that its two decimals stay those of the number itself."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def printed(value: float | None) -> str:
    """A share as its node says it; halves go up, as in the page's script.

    >>> printed(0.97487), printed(0.125), printed(None)
    ('0.97', '0.13', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    return str(Decimal(value).quantize(Decimal("0.01"), ROUND_HALF_UP))


def level(value: float | None) -> str:
    """The CSS class of a share's colour; the page's script has the same rule.

    >>> level(0.0), level(0.949), level(0.95), level(None)
    ('v0', 'v9', 'v10', 'vnone')
    """
    if value is None or not math.isfinite(value):
        return "vnone"
    return f"v{math.floor(min(max(value, 0.0), 1.0) * N_LEVELS + 0.5)}"
