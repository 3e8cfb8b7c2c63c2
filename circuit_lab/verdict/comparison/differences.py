"""The numbers of two diagnoses side by side: for each that both have, the difference b - a with its 95 % interval.

1. A number is one that both have: the same name, split and site. (Numbers at a site that the other net does not have
   are left out; accuracies and shares of outcomes have no site.)
2. Shares of the same queries, where the answer to each query is known: the paired interval.
3. Numbers of queries that are not the same: the interval of independent samples.
4. The same queries, or perhaps the same, without the answer to each: the two half-widths added.
5. A number without an interval has a difference without one.

The formulas and their sources stand in `intervals`. What is known query by query is used only where it gives back the
very share and n that the diagnosis states.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from circuit_lab.measures import Interval
from circuit_lab.verdict.checks import Share
from circuit_lab.verdict.comparison.intervals import (
    INDEPENDENT,
    UNKNOWN,
    Hits,
    difference_interval,
    paired_correlation,
)
from circuit_lab.verdict.diagnosis import Diagnosis, Evidence, Unit

Method = Literal["paired", "independent", "half-widths added", "none"]
OUTCOME = "outcome: "
"""Stands before an outcome's name where its share is compared."""


@dataclass(frozen=True)
class Difference:
    """One number of both checkpoints.

    Attributes:
        name: What was measured, as in `Evidence`, or "outcome: " and the outcome of a query.
        split: On which queries.
        site: Where; empty when the number has no site.
        unit: As in `Evidence`.
        a: The first checkpoint's number; None when none of its queries could be measured.
        b: The second's.
        difference: b - a; None where one of them is.
        low: Lower end of the difference's 95 % interval; None where a number has none.
        high: Upper end.
        n_a: What the first number is counted or averaged over, mostly queries.
        n_b: The same of the second.
        method: Which interval it is: "paired" and "independent" are Newcombe's (1998); "half-widths added" holds
            whatever the correlation of the two; "none" is shown without one.
        excludes_zero: Whether the interval lies on one side of 0.
        decides: Whether the number decides a verdict.
    """

    name: str
    split: str
    site: str
    unit: Unit
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    n_a: int
    n_b: int
    method: Method
    excludes_zero: bool
    decides: bool


@dataclass(frozen=True)
class HitsOfBoth:
    """What both nets did with the same queries, in the same order."""

    a: Hits
    b: Hits


HitsOf = Callable[[Evidence], HitsOfBoth | None]
"""The hits behind a share of the same queries; None where they are not known or the queries differ."""


def compare_numbers(
    a: Diagnosis, b: Diagnosis, hits_of: HitsOf, *, may_be_same_queries: bool
) -> tuple[Difference, ...]:
    """All numbers that both diagnoses have, in the order of the first.

    Args:
        a: The first diagnosis.
        b: The second, of the same family.
        hits_of: What is known query by query of a number (a row of the first diagnosis).
        may_be_same_queries: Whether numbers of the same split may be read on the same queries; False where the two
            tasks ask different questions.

    Returns:
        One row per number; accuracies, causal tests and readings, then the shares of outcomes.
    """
    of_b = {(row.name, row.split, row.site): row for row in (*b.evidence, *_outcome_rows(b))}
    differences = []
    for row_a in (*a.evidence, *_outcome_rows(a)):
        row_b = of_b.get((row_a.name, row_a.split, row_a.site))
        if row_b is None or _is_outcome_of_neither(row_a, row_b):
            continue
        differences.append(_difference(row_a, row_b, hits_of(row_a), may_be_same_queries))
    return tuple(differences)


def _outcome_rows(diagnosis: Diagnosis) -> Iterator[Evidence]:
    """The share of each outcome on each split, as evidence."""
    for split in diagnosis.outcomes:
        for outcome in split.shares:
            yield Evidence.of(OUTCOME + outcome, split.split, Share(round(split.shares[outcome] * split.n), split.n))


def _is_outcome_of_neither(a: Evidence, b: Evidence) -> bool:
    """Whether this is the share of an outcome that no query of either net had."""
    return a.name.startswith(OUTCOME) and not a.value and not b.value


def _difference(a: Evidence, b: Evidence, hits: HitsOfBoth | None, may_be_same_queries: bool) -> Difference:
    interval, method = _interval(a, b, hits, may_be_same_queries)
    return Difference(
        name=a.name,
        split=a.split,
        site=a.site,
        unit=a.unit,
        a=a.value,
        b=b.value,
        difference=None if a.value is None or b.value is None else b.value - a.value,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        n_a=a.n,
        n_b=b.n,
        method=method,
        excludes_zero=interval is not None and 0.0 not in interval,
        decides=a.decides,
    )


def _interval(
    a: Evidence, b: Evidence, hits: HitsOfBoth | None, may_be_same_queries: bool
) -> tuple[Interval | None, Method]:
    """The interval of b - a, by the most that is known of the two numbers together."""
    if a.value is None or b.value is None or a.low is None or b.low is None or a.high is None or b.high is None:
        return None, "none"
    if hits is not None and _gives(hits.a, a) and _gives(hits.b, b):
        correlation, method = paired_correlation(hits.a, hits.b), "paired"
    elif may_be_same_queries:
        correlation, method = UNKNOWN, "half-widths added"
    else:
        correlation, method = INDEPENDENT, "independent"
    of_a, of_b = Interval(a.low, a.high), Interval(b.low, b.high)
    return difference_interval(a.value, of_a, b.value, of_b, correlation=correlation), method


def _gives(hits: Hits, row: Evidence) -> bool:
    """Whether the hits are those that the row counts."""
    return hits.n == row.n and row.value is not None and round(row.value * row.n) == hits.n_true
