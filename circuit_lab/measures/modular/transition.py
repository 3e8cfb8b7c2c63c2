"""The training size at which accuracy turns from chance to 1, from nets at several sizes.

1. Accuracy as a function of D, the number of training pairs, is fitted by a logistic curve in log D,

       accuracy(D) = chance + (1 - chance) / (1 + exp(-(log D - log midpoint) / width)),

   by least squares over all nets, midpoint and width free, width > 0.
2. *Midpoint*: half-way between chance and 1. *Sharpness* as a ratio of sizes: D at nine tenths of the way over D at one
   tenth, which is exp(2 width log 9); none of a curve as flat as the search allows, which is no transition.
3. Interval: the seeds are drawn anew with replacement, all sizes of a seed together, since one seed's nets share their
   start and their pairs are nested; the curve is fitted again. With few seeds it is too narrow.
4. A midpoint outside the sizes that were tried is not read off a curve but guessed: it is None, and a sentence says on
   which side all nets are. So is one at the smallest or largest size, where the search ends: the best curve is then
   above, or below, half-way at all sizes. The same holds for a resample, which then counts as -inf or +inf. One with a
   single size has no curve, and is on the side of its mean; exactly half-way, it has not turned yet: +inf.

Varma et al. 2023 (arXiv 2309.02390) show the points; the curve and the interval are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64
from scipy.optimize import least_squares

from circuit_lab.measures.intervals import CONFIDENCE_LEVEL
from circuit_lab.measures.result import Result

_WIDTHS = (0.005, 3.0)
"""From a step between neighbouring sizes to a curve too flat to be called a transition."""
_AT_BOUND = 1e-6
"""In log D and in width: a fit this near to the bound of its search has run into it."""


@dataclass(frozen=True, eq=False)
class Transition(Result):
    """Where accuracy turns.

    Attributes:
        midpoint: D half-way between chance and 1, in training pairs; None if it lies outside the sizes tried, or at
            the first or last of them.
        beyond: Where it lies if outside: at "fewer" pairs than tried, or at "more"; None with a midpoint.
        low: Lower end of its 95 % interval; -inf if it lies below the sizes tried. NaN with a single seed.
        high: Upper end; +inf if it lies above, NaN likewise.
        sharpness: D at nine tenths of the way over D at one tenth, > 1; NaN without a midpoint, or of a curve too flat
            for a transition.
        width: That of the curve, in log D, > 0; NaN without a midpoint.
        explanation: The outcome in a sentence.
        n_train: D of each net.
        accuracy: Accuracy of each net, in [0, 1].
        seed: Seed of each net.
        chance: Accuracy without knowledge.
        n_resamples: Bootstrap resamples.
    """

    midpoint: float | None
    beyond: Literal["fewer", "more"] | None
    low: float
    high: float
    sharpness: float
    width: float
    explanation: str
    n_train: Int64[np.ndarray, " n"]
    accuracy: Float64[np.ndarray, " n"]
    seed: Int64[np.ndarray, " n"]
    chance: float
    n_resamples: int

    def frame(self) -> pd.DataFrame:
        """One row per net: n_train, accuracy, seed, and `fitted`, the curve there."""
        table = pd.DataFrame({"n_train": self.n_train, "accuracy": self.accuracy, "seed": self.seed})
        return table.assign(fitted=self.curve(self.n_train))

    def curve(self, n_train: Sequence[int | float] | np.ndarray) -> Float64[np.ndarray, " m"]:
        """The fitted accuracy at some sizes; NaN without a midpoint."""
        sizes = np.asarray(n_train, dtype=np.float64)
        if self.midpoint is None:
            return np.full(len(sizes), math.nan)
        return _logistic(np.log(sizes), math.log(self.midpoint), self.width, self.chance)


def accuracy_transition(
    n_train: Sequence[int],
    accuracy: Sequence[int | float],
    seed: Sequence[int],
    *,
    chance: float = 0.0,
    n_resamples: int = 1000,
    bootstrap_seed: int = 0,
) -> Transition:
    """Fit the transition of accuracy with the training size.

    Args:
        n_train: D of each net, > 0; at least two sizes.
        accuracy: Its accuracy on held-out pairs, in [0, 1].
        seed: Its seed; nets of one seed are drawn together.
        chance: Accuracy without knowledge, in [0, 1).
        n_resamples: Bootstrap resamples over seeds, >= 1.
        bootstrap_seed: What they are drawn from; the global generators are not touched.

    Returns:
        Midpoint with its interval, and sharpness.

    Raises:
        ValueError: If the lengths differ, there are fewer than two sizes, or a number is out of range.

    >>> found = accuracy_transition([100, 200, 400, 800], [0.0, 0.1, 0.9, 1.0], [0, 0, 0, 0])
    >>> round(found.midpoint), found.explanation
    (283, 'accuracy passes half of the way from chance to 1 at 283 training pairs')
    """
    sizes, scores, seeds = np.asarray(n_train), np.asarray(accuracy, dtype=np.float64), np.asarray(seed)
    if not len(sizes) == len(scores) == len(seeds) or len(np.unique(sizes)) < 2:
        raise ValueError(
            f"accuracy_transition takes a size, an accuracy and a seed per net, of at least two sizes; got "
            f"{len(sizes)}, {len(scores)} and {len(seeds)} numbers, {len(np.unique(sizes))} sizes"
        )
    # Asked so that NaN, which compares as false, is refused.
    if not ((sizes > 0).all() and ((scores >= 0) & (scores <= 1)).all() and 0 <= chance < 1):
        raise ValueError(
            f"sizes must be positive, accuracies in [0, 1] and chance in [0, 1); got sizes {sizes.tolist()}, "
            f"accuracies {scores.tolist()} and chance {chance}"
        )
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    place, width = _fit(np.log(sizes), scores, chance)
    low, high = _interval(np.log(sizes), scores, seeds, chance, n_resamples, np.random.default_rng(bootstrap_seed))
    is_steep = width < _WIDTHS[1] - _AT_BOUND  # False of a missing width, which is NaN
    return Transition(
        midpoint=math.exp(place) if math.isfinite(place) else None,
        beyond=None if math.isfinite(place) else "fewer" if place < 0 else "more",
        low=low,
        high=high,
        sharpness=math.exp(2 * width * math.log(9)) if is_steep else math.nan,
        width=width,
        explanation=_explain(place, sizes, is_steep=is_steep),
        n_train=sizes.astype(np.int64),
        accuracy=scores,
        seed=seeds.astype(np.int64),
        chance=chance,
        n_resamples=n_resamples,
    )


def _logistic(log_size: np.ndarray, place: float, width: float, chance: float) -> np.ndarray:
    return chance + (1 - chance) / (1 + np.exp(np.clip(-(log_size - place) / width, -500, 500)))


def _fit(log_size: np.ndarray, accuracy: np.ndarray, chance: float) -> tuple[float, float]:
    """Log midpoint and width of the best curve; -inf or +inf, and NaN, where the midpoint is not inside the sizes."""
    half = chance + (1 - chance) / 2
    first, last = float(log_size.min()), float(log_size.max())
    if first == last:
        return -math.inf if accuracy.mean() > half else math.inf, math.nan
    means = [float(accuracy[log_size == at].mean()) for at in np.unique(log_size)]
    if min(means) > half:
        return -math.inf, math.nan
    if max(means) < half:
        return math.inf, math.nan
    # Least squares of a step has flat places, so it is started at each size and at two widths.
    starts = [(at, width) for at in np.unique(log_size) for width in (0.05, 0.3)]
    best = min(
        (
            least_squares(
                lambda x: _logistic(log_size, x[0], x[1], chance) - accuracy,
                start,
                bounds=((first, _WIDTHS[0]), (last, _WIDTHS[1])),
            )
            for start in starts
        ),
        key=lambda found: found.cost,
    )
    place, width = map(float, best.x)
    if place < first + _AT_BOUND:
        return -math.inf, math.nan
    return (place, width) if place < last - _AT_BOUND else (math.inf, math.nan)


def _interval(
    log_size: np.ndarray,
    accuracy: np.ndarray,
    seeds: np.ndarray,
    chance: float,
    n_resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Percentile interval of the midpoint over seeds; NaN for a single seed."""
    different = np.unique(seeds)
    if len(different) < 2:
        return math.nan, math.nan
    rows = [np.flatnonzero(seeds == seed) for seed in different]
    places: dict[tuple[int, ...], float] = {}
    drawn = np.sort(rng.integers(len(rows), size=(n_resamples, len(rows))), axis=1)
    found = []
    for choice in map(tuple, drawn.tolist()):
        if choice not in places:  # few seeds make few different resamples
            chosen = np.concatenate([rows[number] for number in choice])
            places[choice], _ = _fit(log_size[chosen], accuracy[chosen], chance)
        found.append(places[choice])
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail], method="inverted_cdf")
    return math.exp(low) if low > -math.inf else -math.inf, math.exp(high) if high > -math.inf else -math.inf


def _explain(place: float, sizes: np.ndarray, *, is_steep: bool) -> str:
    if math.isfinite(place):
        flat = "" if is_steep else ", on a curve too flat for a transition"
        return f"accuracy passes half of the way from chance to 1 at {math.exp(place):.0f} training pairs{flat}"
    side, beyond = ("above", "fewer") if place < 0 else ("below", "more")
    edge = sizes.min() if place < 0 else sizes.max()
    return (
        f"the best rising curve is {side} half of the way from chance to 1 at every size: it turns at {beyond} than "
        f"{edge} pairs"
    )
