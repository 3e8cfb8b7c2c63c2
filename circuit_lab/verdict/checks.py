"""Comparisons of a measured number with a threshold, and the path of comparisons that a verdict rested on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch

from circuit_lab.measures import Interval, predicted_answers, proportion_interval
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Queries
from circuit_lab.verdict.verdicts import Verdict

ReadingsT = TypeVar("ReadingsT")

MAX_ANSWERED = 10_000
"""Queries that an accuracy is counted on at most: an interval of +-1 point."""


@dataclass(frozen=True)
class Share:
    """A share of queries: `n_true` of `n`."""

    n_true: int
    n: int

    @property
    def value(self) -> float:
        """The share in [0, 1]; `nan` of nothing."""
        return self.n_true / self.n if self.n else float("nan")

    @property
    def interval(self) -> Interval:
        """Its 95 % Wilson interval."""
        return proportion_interval(self.n_true, self.n)


def share_right_of_sample(net: HookedNet, queries: Queries, seed: int) -> Share:
    """How many of the queries a net answers right; counted on a sample where there are more than `MAX_ANSWERED`."""
    return share_right(net, queries.sample(MAX_ANSWERED, generator=torch.Generator().manual_seed(seed)))


def share_right(net: HookedNet, queries: Queries) -> Share:
    """How many of the queries a net answers right."""
    return Share(int((predicted_answers(net, queries) == queries.answer).sum()), len(queries))


@dataclass(frozen=True)
class Estimate:
    """A number that is no share of queries, with the interval that a bootstrap over `n` queries gave it."""

    value: float
    interval: Interval
    n: int


@dataclass(frozen=True)
class Check:
    """One comparison that a verdict rested on."""

    quantity: str
    number: Share | Estimate
    threshold: float

    @property
    def above(self) -> bool:
        """Whether the number reaches the threshold; a number from no queries reaches none."""
        return self.number.n > 0 and self.number.value >= self.threshold

    @property
    def straddles(self) -> bool:
        """Whether the number's interval reaches to both sides of the threshold."""
        interval = self.number.interval
        return interval.low < self.threshold <= interval.high

    def __str__(self) -> str:
        number, interval = self.number, self.number.interval
        return (
            f"{self.quantity} {number.value:.2f} [{interval.low:.2f}, {interval.high:.2f}], n = {number.n} "
            f"({'above' if self.above else 'below'} {self.threshold:.2f})"
        )


@dataclass(frozen=True)
class Reason:
    """A sentence of an explanation.

    Attributes:
        words: The sentence.
        quantities: What it states or rests on, by the names that rules use.
    """

    words: str
    quantities: tuple[str, ...]


@dataclass
class CheckedPath(Generic[ReadingsT]):
    """Asks for numbers by name, keeping what was compared on the way.

    Attributes:
        readings: Where the numbers are read.
        quantities: How each is read, by name.
        turned: Comparisons, as (quantity, threshold), to be answered the other way round.
        checks: What was compared.
    """

    readings: ReadingsT
    quantities: Mapping[str, Callable[[ReadingsT], Share | Estimate]]
    turned: frozenset[tuple[str, float]] = frozenset()
    checks: list[Check] = field(default_factory=list)

    def reaches(self, quantity: str, threshold: float) -> bool:
        """Whether a quantity reaches a threshold; the comparison is kept."""
        check = Check(quantity, self.quantities[quantity](self.readings), threshold)
        self.checks.append(check)
        return check.above is not ((quantity, threshold) in self.turned)


@dataclass(frozen=True)
class Decision:
    """The verdict that the point values give, and the comparisons it rested on.

    Attributes:
        verdict: By the point values.
        checks: The comparisons.
        rules: The rules, with what they read: asked again with comparisons answered the other way round.
    """

    verdict: Verdict
    checks: tuple[Check, ...]
    rules: Callable[[frozenset[tuple[str, float]]], "Decision"] = field(repr=False, compare=False)

    @property
    def possible_verdicts(self) -> frozenset[Verdict]:
        """The verdicts that the rules give when comparisons whose interval straddles the threshold go either way."""
        found, asked, to_ask = {self.verdict}, set(), [frozenset[tuple[str, float]]()]
        while to_ask:
            turned = to_ask.pop()
            if turned in asked:
                continue
            asked.add(turned)
            decision = self.rules(turned)
            found.add(decision.verdict)
            to_ask += [turned | {(c.quantity, c.threshold)} for c in decision.checks if c.straddles]
        return frozenset(found)

    @property
    def certain_verdict(self) -> Verdict:
        """The verdict, or `inconclusive` where an interval reaches across a threshold and the verdict hangs on it."""
        return self.verdict if len(self.possible_verdicts) == 1 else Verdict.INCONCLUSIVE

    def confidence(self, candidates: Mapping[str, float]) -> float:
        """Share of resamples that give the verdict; of an inconclusive one, that of the most frequent candidate."""
        inconclusive = self.certain_verdict == Verdict.INCONCLUSIVE
        return max(candidates.values()) if inconclusive else candidates.get(str(self.verdict), 0.0)

    def reasons(self, in_a_sentence: str) -> list[Reason]:
        """The verdict in a sentence, then the comparisons, the deciding one first; what straddles before all."""
        last_check_of = {check.quantity: check for check in self.checks}
        everything = tuple(last_check_of)
        reasons = [Reason(in_a_sentence, everything)]
        if len(self.possible_verdicts) > 1:
            if self.verdict != Verdict.INCONCLUSIVE:
                reasons.append(Reason(f"By point values alone it would be {self.verdict}.", everything))
            reasons += [Reason(f"Straddles its threshold: {c}.", (c.quantity,)) for c in self.checks if c.straddles]
        return reasons + [Reason(f"{c}.", (c.quantity,)) for c in reversed(last_check_of.values())]
