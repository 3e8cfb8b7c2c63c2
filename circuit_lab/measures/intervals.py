"""Intervals for shares of queries and for means over queries."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import binomtest
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

CONFIDENCE_LEVEL = 0.95
TAILS = torch.tensor([(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2], dtype=torch.float64)
"""Quantiles at the two ends of an interval."""
_RESAMPLES_AT_ONCE = 256  # TransformerLens's chunk, so that the draws are the same; bounds memory to 1 kB per query


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval, both ends in [0, 1]."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@lru_cache(maxsize=100_000)
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


@dataclass(frozen=True, eq=False)
class MeanInterval:
    """Means over queries with their 95 % intervals, one per cell.

    Attributes:
        mean: The means, in the unit of the values.
        low: Lower ends.
        high: Upper ends.
    """

    mean: Float[Tensor, "*cells"]
    low: Float[Tensor, "*cells"]
    high: Float[Tensor, "*cells"]


def mean_interval(values: Float[Tensor, "*cells n"], *, n_resamples: int = 1000, seed: int = 0) -> MeanInterval:
    """The 95 % percentile bootstrap interval of the mean over queries, for every cell at once.

    TransformerLens's `bootstrap_ci` with the same draws and the same result; a resample's mean is here a product with
    the counts of its draws, so that memory does not grow with the number of cells. The queries are taken as
    independent. A cell of equal values has an interval of no width: for shares of queries use `proportion_interval`.

    Args:
        values: One value per query, at least one query.
        n_resamples: Resamples; the same for every cell.
        seed: Seed of the resamples; the global random state is not used.

    Returns:
        Mean and interval of each cell, on the values' device.

    Raises:
        ValueError: If there are no queries.
    """
    if values.shape[-1] == 0:
        raise ValueError("an interval needs at least one query, got none")
    draws = resampled_means(values.reshape(-1, values.shape[-1]), n_resamples=n_resamples, seed=seed)
    low, high = torch.quantile(draws, TAILS.to(draws), dim=1)
    cells = values.shape[:-1]
    return MeanInterval(mean=values.mean(-1), low=low.reshape(cells), high=high.reshape(cells))


def interval_columns(intervals: Mapping[str, MeanInterval]) -> dict[str, np.ndarray]:
    """Columns of a table with one row per cell: each mean, then its low and its high end.

    Args:
        intervals: By the name of the mean's column. The first one's ends are called `low` and `high`, another's have
            its name before them.

    Returns:
        The columns, in order, in float64.

    >>> one, two = (MeanInterval(*torch.tensor([[m], [m - 1], [m + 1]])) for m in (5.0, 7.0))
    >>> {name: column.tolist() for name, column in interval_columns({"top1": one, "mrr": two}).items()}
    {'top1': [5.0], 'low': [4.0], 'high': [6.0], 'mrr': [7.0], 'mrr_low': [6.0], 'mrr_high': [8.0]}
    """
    columns: dict[str, np.ndarray] = {}
    for name, interval in intervals.items():
        prefix = "" if not columns else f"{name}_"
        ends = {name: interval.mean, f"{prefix}low": interval.low, f"{prefix}high": interval.high}
        columns |= {column: values.double().flatten().numpy() for column, values in ends.items()}
    return columns


def share_interval(share: Float[Tensor, "*cells"], n: int) -> MeanInterval:
    """Shares of `n` queries (or facts) with their 95 % Wilson intervals, for every cell at once.

    Args:
        share: The shares, in [0, 1].
        n: What they are shares of; a share is rounded to a whole number of these for its interval.

    Returns:
        Share and interval of each cell, on the CPU.
    """
    share = share.cpu()
    intervals = [proportion_interval(round(value * n), n) for value in share.double().flatten().tolist()]
    low, high = torch.tensor([[i.low, i.high] for i in intervals], dtype=share.dtype).reshape(-1, 2).T
    return MeanInterval(mean=share, low=low.reshape(share.shape), high=high.reshape(share.shape))


def resampled_means(
    values: Float[Tensor, "cells n"], *, n_resamples: int, seed: int
) -> Float[Tensor, "cells n_resamples"]:
    """The mean of each cell over each bootstrap resample of the queries, the same resamples for all cells.

    Args:
        values: One value per query.
        n_resamples: Resamples.
        seed: Seed of the resamples.

    Returns:
        The means, on the values' device.
    """
    n, means = values.shape[1], []
    generator = derive_generator(seed, "bootstrap", "mean")
    for start in range(0, n_resamples, _RESAMPLES_AT_ONCE):
        drawn = torch.randint(0, n, (min(_RESAMPLES_AT_ONCE, n_resamples - start), n), generator=generator)
        means.append(values @ times_drawn(drawn, n=n).to(values).T / n)
    return torch.cat(means, dim=1)


def times_drawn(drawn: Int[Tensor, "n_resamples n_drawn"], *, n: int) -> Float[Tensor, "n_resamples n"]:
    """How often each of `n` things was drawn in each resample.

    >>> times_drawn(torch.tensor([[0, 2, 2]]), n=4).tolist()
    [[1.0, 0.0, 2.0, 0.0]]
    """
    return torch.zeros(len(drawn), n).scatter_add_(1, drawn, torch.ones(()).expand(drawn.shape))
