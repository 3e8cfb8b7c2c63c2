"""Plateaus of a run's test accuracy between chance and solved: semi-grokking (Varma et al. 2023, arXiv 2309.02390).

1. The series is cut by change points into pieces: PELT (Killick et al. 2012, arXiv 1101.1438, by the library ruptures)
   with the squared error of a straight line over steps in each. It is computed on arcsin(sqrt(accuracy)), whose noise
   does not depend on the accuracy. A further piece must lower the error by 6 s^2 log m for m evaluations, with s the
   noise of one (robustly, from second differences; at least that of n queries, 1 / (2 sqrt n)).
2. A piece is *level* if a line through its accuracies changes by at most `LARGEST_CHANGE`. Level pieces with at most
   `LONGEST_GAP` of the run between them, at means that differ by no more than that, are one: a fall that is made up for
   at once does not cut a plateau in two.
3. A *plateau* is a level piece with its mean between `LOWEST` and `HIGHEST`, of at least `SHORTEST` of the run.
4. It is *standing* if it lasts to the end of the run (but for `LONGEST_GAP`), else *transient*; `after` tells where the
   run ends. A standing one says nothing of what comes after the budget: in [Varma] plateaus end after up to 1e7 steps.

The definition is ours; the paper shows curves.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import pandas as pd
import ruptures
from jaxtyping import Float64

from circuit_lab.measures.intervals import proportion_interval
from circuit_lab.measures.result import Result

LOWEST, HIGHEST = 0.1, 0.9
"""Accuracy above which a net does more than guess, and from which on it has grokked."""
LARGEST_CHANGE = 0.05
"""Of accuracy, from one end of a level piece to the other, and between level pieces that are one."""
SHORTEST = 0.2
"""Share of a run's steps that a plateau lasts."""
LONGEST_GAP = 0.05
"""Share of a run's steps between two level pieces that are one."""
_MIN_POINTS = 3


@dataclass(frozen=True)
class Plateau:
    """A time in which accuracy stays where it is.

    Attributes:
        start: First step.
        end: Last step.
        level: Mean accuracy, in [0, 1].
        low: Lower end of its 95 % interval over queries.
        high: Upper end.
        kind: Whether it lasts to the end of the run.
        after: Mean accuracy over the last `LONGEST_GAP` of the run, in [0, 1].
    """

    start: int
    end: int
    level: float
    low: float
    high: float
    kind: Literal["transient", "standing"]
    after: float


@dataclass(frozen=True, eq=False)
class Plateaus(Result):
    """The plateaus of a run.

    Attributes:
        plateaus: In order of step.
        budget: Steps of the run: what "standing" is said of.
        n: Queries that each accuracy is of.
        change_points: Last step of each straight piece but the last.
    """

    plateaus: tuple[Plateau, ...]
    budget: int
    n: int
    change_points: tuple[int, ...]

    def frame(self) -> pd.DataFrame:
        """One row per plateau."""
        return pd.DataFrame([asdict(each) for each in self.plateaus], columns=list(Plateau.__dataclass_fields__))


def accuracy_plateaus(
    step: Sequence[int] | np.ndarray, accuracy: Sequence[int | float] | np.ndarray, *, n: int
) -> Plateaus:
    """Find the plateaus of a run.

    Args:
        step: Steps of the evaluations, rising, from the start of the run to its end; at least six.
        accuracy: Accuracy on held-out queries at each, in [0, 1].
        n: How many queries.

    Returns:
        The plateaus; none in a run that goes from chance to solved without a stop.

    Raises:
        ValueError: If the lengths differ, there are fewer than six evaluations, steps do not rise, or a number is out
            of range.

    >>> found = accuracy_plateaus(range(0, 100, 5), [0.02] * 5 + [0.6] * 10 + [1.0] * 5, n=500)
    >>> [(plateau.start, plateau.end, round(plateau.level, 2), plateau.kind) for plateau in found.plateaus]
    [(25, 70, 0.6, 'transient')]
    """
    steps, values = np.asarray(step, dtype=np.int64), np.asarray(accuracy, dtype=np.float64)
    if len(steps) != len(values) or len(steps) < 2 * _MIN_POINTS or not (np.diff(steps) > 0).all():
        raise ValueError(
            f"accuracy_plateaus takes at least {2 * _MIN_POINTS} evaluations at rising steps; got {len(steps)} steps "
            f"and {len(values)} accuracies"
        )
    if not ((values >= 0) & (values <= 1)).all() or n < 1:  # asked so that NaN is refused
        raise ValueError(f"accuracies must lie in [0, 1] and n be at least 1; got n = {n} and {values.tolist()}")
    ends = _ends_of_pieces(steps, values, n)
    pieces = zip([0, *ends[:-1]], ends, strict=True)
    level = _merged([piece for piece in pieces if _is_level(steps, values, *piece)], steps, values)
    return Plateaus(
        plateaus=tuple(
            _plateau(steps, values, n, first, last)
            for first, last in level
            if steps[last - 1] - steps[first] >= SHORTEST * (steps[-1] - steps[0])
            and LOWEST < values[first:last].mean() < HIGHEST
        ),
        budget=int(steps[-1]),
        n=n,
        change_points=tuple(int(steps[end - 1]) for end in ends[:-1]),
    )


def _ends_of_pieces(steps: np.ndarray, values: Float64[np.ndarray, " m"], n: int) -> list[int]:
    """One past the last evaluation of each straight piece."""
    place = (steps - steps[0]) / (steps[-1] - steps[0])
    stable = np.arcsin(np.sqrt(values))
    second_differences = np.diff(stable, n=2)  # of variance 6 where that of one evaluation is 1
    noise = max(float(np.median(np.abs(second_differences))) / 0.6745 / math.sqrt(6), 1 / (2 * math.sqrt(n)))
    signal = np.column_stack([stable, place, np.ones_like(place)])  # what is fitted, then what it is fitted by
    penalty = 6 * noise**2 * math.log(len(values))
    return ruptures.Pelt(model="linear", min_size=_MIN_POINTS, jump=1).fit(signal).predict(pen=penalty)


def _is_level(steps: np.ndarray, values: Float64[np.ndarray, " m"], first: int, last: int) -> bool:
    at = steps[first:last]
    slope, _ = np.polyfit(at, values[first:last], 1)
    return bool(abs(slope) * (at[-1] - at[0]) <= LARGEST_CHANGE)


def _merged(
    pieces: Sequence[tuple[int, int]], steps: np.ndarray, values: Float64[np.ndarray, " m"]
) -> list[tuple[int, int]]:
    """Level pieces, those with a short gap between them at about one mean made one, whatever lies in the gap."""
    longest_gap = LONGEST_GAP * (steps[-1] - steps[0])
    merged: list[tuple[int, int]] = []
    for first, last in pieces:
        start = first
        for place, before in enumerate(merged):
            difference = values[first:last].mean() - values[slice(*before)].mean()
            if steps[first] - steps[before[1] - 1] <= longest_gap and abs(difference) <= LARGEST_CHANGE:
                start, merged = before[0], merged[:place]
                break
        merged.append((start, last))
    return merged


def _plateau(steps: np.ndarray, values: Float64[np.ndarray, " m"], n: int, first: int, last: int) -> Plateau:
    level = float(values[first:last].mean())
    interval = proportion_interval(round(level * n), n)
    longest_gap = LONGEST_GAP * (steps[-1] - steps[0])
    kind = "standing" if steps[-1] - steps[last - 1] <= longest_gap else "transient"
    after = float(values[steps >= steps[-1] - longest_gap].mean())
    return Plateau(int(steps[first]), int(steps[last - 1]), level, interval.low, interval.high, kind, after)
