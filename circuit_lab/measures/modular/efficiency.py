"""Circuit efficiency across training sizes, and where two circuits match (Varma et al. 2023, arXiv 2309.02390).

A circuit is more *efficient* when it needs less parameter norm for the same logit on the right output. It is read from
pure nets: memorising ones are trained on random labels, generalising ones on many pairs until nearly all of their
logits are trigonometric. Each net is one row: correct logit, norm, training pairs D, weight decay, seed.

1. *Norm at a logit*: nets differ in both numbers, so they are compared at one correct logit L. The rows of one seed at
   one D, which differ in weight decay or in training step, give log norm as a function of log logit; it is read at
   log L by linear interpolation. Rows of equal logit count by the mean of their log norms. A seed whose logits do not
   lie on both sides of L (or at L) is left out and counted: nothing is extrapolated.
2. For each D, the mean norm over seeds with a percentile bootstrap interval over seeds. Few seeds make it too narrow.
3. *Crossing* (the paper's D_crit): memorising costs more norm as D grows, generalising about the same. Both curves are
   joined linearly in log norm over log D and compared on the D that both cover; the crossing is the first D at which
   the memorising curve comes from below the generalising one to meet it. If it never does, there is no value, and
   a sentence says on which side it stayed.
4. Its interval: resample the seeds of every D and kind on their own, as separate trainings, and find the crossing
   again. A resample that stays below counts as a crossing at +inf (beyond the compared D), one that stays above at
   -inf, so an interval may be open on one side.

The interpolation and the interval are ours. Norm alone misleads where the logit scale differs:
`circuit_lab.measures.modular.norms` reads the scale beside it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from circuit_lab.measures.intervals import CONFIDENCE_LEVEL
from circuit_lab.measures.result import Result

CircuitKind = Literal["memorising", "generalising"]


@dataclass(frozen=True)
class EfficiencyRow:
    """One pure net at one moment of its training.

    Attributes:
        correct_logit: Mean over training pairs of the logit on the trained label, centred over outputs, > 0.
        norm: Euclidean norm of all parameters, > 0.
        n_train: D, training pairs.
        weight_decay: What it was trained with, >= 0.
        seed: Tells apart the trainings at one D; rows of one seed and D are joined to a curve.
        kind: Which circuit the net is a pure case of.
    """

    correct_logit: float
    norm: float
    n_train: int
    weight_decay: float
    seed: int
    kind: CircuitKind

    def __post_init__(self) -> None:
        if self.kind not in get_args(CircuitKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(CircuitKind))}, got {self.kind!r}")
        for name in ("correct_logit", "norm", "n_train"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite, got {value} (n_train {self.n_train})")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be at least 0 and finite, got {self.weight_decay}")


def rows_frame(rows: Iterable[EfficiencyRow]) -> pd.DataFrame:
    """One row per net: correct_logit, norm, n_train, weight_decay, seed, kind."""
    return pd.DataFrame([asdict(row) for row in rows], columns=list(EfficiencyRow.__dataclass_fields__))


@dataclass(frozen=True, eq=False)
class NormAtLogit(Result):
    """Parameter norm that one kind of circuit needs for one correct logit; lower = more efficient.

    Attributes:
        kind: The circuit.
        logit: The correct logit at which norms are compared.
        n_train: D, training pairs, rising.
        norm: Mean norm over seeds, > 0; NaN where no seed brackets the logit.
        low: Lower end of the 95 % bootstrap interval of `norm`; NaN with fewer than two seeds.
        high: Upper end, likewise.
        n_seeds: Seeds averaged.
        n_left_out: Seeds whose rows do not bracket the logit.
        seed_table: One row per D and seed: n_train, seed, norm (NaN if left out).
        n_resamples: Bootstrap resamples.
        bootstrap_seed: What they were drawn from.
    """

    kind: CircuitKind
    logit: float
    n_train: Int64[np.ndarray, " n_sizes"]
    norm: Float64[np.ndarray, " n_sizes"]
    low: Float64[np.ndarray, " n_sizes"]
    high: Float64[np.ndarray, " n_sizes"]
    n_seeds: Int64[np.ndarray, " n_sizes"]
    n_left_out: Int64[np.ndarray, " n_sizes"]
    seed_table: pd.DataFrame
    n_resamples: int
    bootstrap_seed: int

    def frame(self) -> pd.DataFrame:
        """One row per D: kind, logit, n_train, norm, low, high, n_seeds, n_left_out."""
        columns = ("kind", "logit", "n_train", "norm", "low", "high", "n_seeds", "n_left_out")
        return pd.DataFrame({name: getattr(self, name) for name in columns})


@dataclass(frozen=True)
class Crossing(Result):
    """The training size from which memorising costs more norm than generalising.

    Attributes:
        value: D in training pairs; None if the curves do not cross on the D that both cover.
        low: Lower end of the 95 % bootstrap interval; -inf if it lies below the compared D. NaN if a compared D has
            a single seed, whose spread is unknown, or if no resample can be placed.
        high: Upper end; +inf if it lies beyond the compared D, NaN likewise.
        crossing_share: Share of resamples that cross, in [0, 1]; NaN if a compared D has a single seed.
        n_crossings: How often the memorising curve rises through the other; above 1, `value` is the first and the
            curves are too rough to tell.
        explanation: The outcome in a sentence.
        logit: The correct logit at which norms were compared.
        n_resamples: Bootstrap resamples.
        bootstrap_seed: What they were drawn from.
    """

    value: float | None
    low: float
    high: float
    crossing_share: float
    n_crossings: int
    explanation: str
    logit: float
    n_resamples: int
    bootstrap_seed: int

    def frame(self) -> pd.DataFrame:
        """A single row of all attributes; `value` is NaN where there is none."""
        return pd.DataFrame([{**asdict(self), "value": math.nan if self.value is None else self.value}])


def norm_at_logit(
    rows: Sequence[EfficiencyRow], *, logit: float, n_resamples: int = 1000, seed: int = 0
) -> NormAtLogit:
    """The norm that one kind of circuit needs for a correct logit, as a function of D.

    Args:
        rows: Nets of one kind, in any order.
        logit: The correct logit to compare at, > 0.
        n_resamples: Bootstrap resamples over seeds.
        seed: Seed of the bootstrap; the global generators are not touched.

    Returns:
        Mean norm and interval for each D. A D with a single usable seed has the interval (nan, nan).

    Raises:
        ValueError: If there are no rows, they are of two kinds, or `logit` or `n_resamples` is not positive.

    Two nets of one seed, logits 2 and 8: logit 4 lies half-way in the logarithm, and so does the norm.

    >>> rows = [EfficiencyRow(2.0, 9.0, 300, 1.0, 0, "memorising"), EfficiencyRow(8.0, 25.0, 300, 0.5, 0, "memorising")]
    >>> norm_at_logit(rows, logit=4.0).norm.round(6).tolist()
    [15.0]
    """
    kinds = sorted({row.kind for row in rows})
    if len(kinds) != 1:
        raise ValueError(f"norm_at_logit takes rows of exactly one kind, got {len(rows)} rows of {kinds}: split them")
    if not 0 < logit < math.inf:
        raise ValueError(f"logit must be positive and finite, got {logit}")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    runs = sorted({(row.n_train, row.seed) for row in rows})
    norm_of_run = [_interpolated_norm([row for row in rows if (row.n_train, row.seed) == run], logit) for run in runs]
    seed_table = pd.DataFrame(runs, columns=["n_train", "seed"]).assign(norm=norm_of_run)
    sizes = np.array(sorted({n_train for n_train, _ in runs}), dtype=np.int64)
    seed_norms = [_usable_norms(seed_table, n_train) for n_train in sizes]
    low, high = _mean_intervals(seed_norms, n_resamples, np.random.default_rng(seed))
    n_runs = np.array([(seed_table["n_train"] == n_train).sum() for n_train in sizes], dtype=np.int64)
    n_seeds = np.array([len(norms) for norms in seed_norms], dtype=np.int64)
    return NormAtLogit(
        kind=rows[0].kind,
        logit=logit,
        n_train=sizes,
        norm=np.array([norms.mean() if len(norms) > 0 else math.nan for norms in seed_norms]),
        low=low,
        high=high,
        n_seeds=n_seeds,
        n_left_out=n_runs - n_seeds,
        seed_table=seed_table,
        n_resamples=n_resamples,
        bootstrap_seed=seed,
    )


def crossing(memorising: NormAtLogit, generalising: NormAtLogit, *, n_resamples: int = 1000, seed: int = 0) -> Crossing:
    """The D at which memorising becomes as costly as generalising.

    Args:
        memorising: Norms of memorising nets.
        generalising: Norms of generalising nets, at the same logit.
        n_resamples: Bootstrap resamples over the seeds of both.
        seed: Seed of the bootstrap; the global generators are not touched.

    Returns:
        The crossing in training pairs, its interval, and how many resamples cross at all.

    Raises:
        ValueError: If the kinds are not as named, the logits differ, or `n_resamples` is not positive.

    Random labels against modular addition mod 59, width 64, at like training loss:

    >>> def curve(kind, norms):
    ...     rows = [EfficiencyRow(20.0, norm, n_train, 1.0, 0, kind) for n_train, norm in norms.items()]
    ...     return norm_at_logit(rows, logit=20.0)
    >>> memorising = curve("memorising", {150: 18.9, 300: 23.1, 600: 29.5, 1200: 36.5})
    >>> generalising = curve("generalising", {150: 26.0, 1200: 26.0})
    >>> crossing(memorising, generalising).explanation
    'memorising comes to need as much norm as generalising at 419 training pairs'
    """
    if (memorising.kind, generalising.kind) != ("memorising", "generalising"):
        raise ValueError(f"crossing takes (memorising, generalising), got ({memorising.kind}, {generalising.kind})")
    if memorising.logit != generalising.logit:
        raise ValueError(f"norms must be read at one logit, got {memorising.logit} and {generalising.logit}")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
    grid = _shared_grid(memorising, generalising)
    curves = (_on_grid(memorising, grid), _on_grid(generalising, grid))
    excess = curves[0].log_norm() - curves[1].log_norm()
    place = float(_first_crossing(grid, excess[None])[0])
    n_crossings = int(_rises_through(excess).sum())
    low, high, share = _crossing_interval(grid, *curves, n_resamples=n_resamples, rng=np.random.default_rng(seed))
    return Crossing(
        value=place if math.isfinite(place) else None,
        low=low,
        high=high,
        crossing_share=share,
        n_crossings=n_crossings,
        explanation=_explain(grid, place, n_crossings),
        logit=memorising.logit,
        n_resamples=n_resamples,
        bootstrap_seed=seed,
    )


def _interpolated_norm(run: Sequence[EfficiencyRow], logit: float) -> float:
    """Norm of one training at a logit, linear in the logarithms (step 1); NaN if its rows do not bracket it."""
    logits = np.array(sorted({row.correct_logit for row in run}))
    log_norms = [np.mean([math.log(row.norm) for row in run if row.correct_logit == at]) for at in logits]
    if not logits[0] <= logit <= logits[-1]:
        return math.nan
    return float(np.exp(np.interp(math.log(logit), np.log(logits), log_norms)))


def _usable_norms(seed_table: pd.DataFrame, n_train: int | np.integer) -> Float64[np.ndarray, " n_seeds"]:
    """Norms of the seeds that bracket the logit at one D, by rising seed."""
    return seed_table.loc[seed_table["n_train"] == n_train, "norm"].dropna().to_numpy(dtype=np.float64)


def _resampled_means(
    seed_norms: Sequence[Float64[np.ndarray, " _"]], n_resamples: int, rng: np.random.Generator
) -> Float64[np.ndarray, "n_resamples n_sizes"]:
    """Mean norm for each D over seeds drawn with replacement, each D on its own."""
    means = [rng.choice(norms, size=(n_resamples, len(norms))).mean(axis=1) for norms in seed_norms]
    return np.array(means, dtype=np.float64).reshape(len(seed_norms), n_resamples).T


def _mean_intervals(
    seed_norms: Sequence[Float64[np.ndarray, " _"]], n_resamples: int, rng: np.random.Generator
) -> tuple[Float64[np.ndarray, " n_sizes"], Float64[np.ndarray, " n_sizes"]]:
    """Percentile interval of the mean for each D; NaN with fewer than two seeds."""
    ends = np.full((2, len(seed_norms)), math.nan)
    several = np.array([len(norms) > 1 for norms in seed_norms])
    means = _resampled_means([norms for norms in seed_norms if len(norms) > 1], n_resamples, rng)
    tail = (1 - CONFIDENCE_LEVEL) / 2
    ends[:, several] = np.quantile(means, [tail, 1 - tail], axis=0)
    return ends[0], ends[1]


@dataclass(frozen=True, eq=False)
class _CurveOnGrid:
    """A curve of log norm over log D: its seeds at the D that it is joined from, and how they make up the grid."""

    weights: Float64[np.ndarray, "n_grid n_sizes"]
    seed_norms: tuple[Float64[np.ndarray, " _"], ...]

    def log_norm(self) -> Float64[np.ndarray, " n_grid"]:
        return self.weights @ np.log([norms.mean() for norms in self.seed_norms])

    def resampled_log_norm(
        self, n_resamples: int, rng: np.random.Generator
    ) -> Float64[np.ndarray, "n_resamples n_grid"]:
        return np.log(_resampled_means(self.seed_norms, n_resamples, rng)) @ self.weights.T


def _shared_grid(memorising: NormAtLogit, generalising: NormAtLogit) -> Int64[np.ndarray, " n_grid"]:
    """Every D at which either curve may bend, within the range that both cover."""
    sizes = [curve.n_train[curve.n_seeds > 0] for curve in (memorising, generalising)]
    if min(len(of_curve) for of_curve in sizes) == 0:
        return np.array([], dtype=np.int64)
    either = np.union1d(*sizes)
    return either[(either >= max(sizes[0][0], sizes[1][0])) & (either <= min(sizes[0][-1], sizes[1][-1]))]


def _on_grid(curve: NormAtLogit, grid: Int64[np.ndarray, " n_grid"]) -> _CurveOnGrid:
    """The curve joined linearly in the logarithms; D that have no part in it on the grid are dropped."""
    sizes = curve.n_train[curve.n_seeds > 0]
    columns = [np.interp(np.log(grid), np.log(sizes), unit) for unit in np.eye(len(sizes))]
    weights = np.array(columns, dtype=np.float64).reshape(len(sizes), len(grid)).T
    has_part = (weights != 0).any(axis=0)
    seed_norms = tuple(_usable_norms(curve.seed_table, n_train) for n_train in sizes[has_part])
    return _CurveOnGrid(weights=weights[:, has_part], seed_norms=seed_norms)


def _rises_through(excess: Float64[np.ndarray, "*n n_grid"]) -> Bool[np.ndarray, "*n n_steps"]:
    """Between which neighbours on the grid memorising goes from below generalising to meet or pass it."""
    below = excess < 0
    return below[..., :-1] & ~below[..., 1:]


def _first_crossing(
    grid: Int64[np.ndarray, " n_grid"], excess: Float64[np.ndarray, "n n_grid"]
) -> Float64[np.ndarray, " n"]:
    """First D at which the log excess of memorising rises through 0, or what stands for none.

    Which is inf if memorising is below all along, -inf if it never is, NaN if it only falls through.
    """
    rises = _rises_through(excess)
    log_grid = np.log(grid)
    way = np.divide(-excess[:, :-1], np.diff(excess), out=np.zeros(rises.shape), where=rises)
    met = np.where(rises, log_grid[:-1] + way * np.diff(log_grid), math.inf)
    below = excess < 0
    otherwise = np.select([below.all(-1), ~below.any(-1)], [math.inf, -math.inf], math.nan)
    return np.where(rises.any(-1), np.exp(met.min(-1, initial=math.inf)), otherwise)


def _crossing_interval(
    grid: Int64[np.ndarray, " n_grid"],
    memorising: _CurveOnGrid,
    generalising: _CurveOnGrid,
    *,
    n_resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float, float]:
    """Low end, high end and share of the resamples that cross (step 4)."""
    seed_norms = memorising.seed_norms + generalising.seed_norms
    if len(grid) == 0 or min(len(norms) for norms in seed_norms) < 2:
        return math.nan, math.nan, math.nan
    excess = memorising.resampled_log_norm(n_resamples, rng) - generalising.resampled_log_norm(n_resamples, rng)
    places = _first_crossing(grid, excess)
    share = float(np.isfinite(places).mean())
    placed = np.sort(places[~np.isnan(places)])
    if len(placed) == 0:
        return math.nan, math.nan, share
    # Order statistics, rounded outwards: a quantile between a number and infinity would be neither.
    outermost, tail = len(placed) - 1, (1 - CONFIDENCE_LEVEL) / 2
    low, high = placed[math.floor(tail * outermost)], placed[math.ceil((1 - tail) * outermost)]
    return float(low), float(high), share


def _explain(grid: Int64[np.ndarray, " n_grid"], place: float, n_crossings: int) -> str:
    """Where the curves cross, or why there is no value."""
    if len(grid) == 0:
        return "no training size is covered by both kinds at this logit"
    compared = f"on the compared sizes, {grid[0]} to {grid[-1]} training pairs"
    if place == math.inf:
        return f"memorising needs less norm than generalising {compared}; a crossing, if any, lies above"
    if place == -math.inf:
        return f"memorising needs at least as much norm as generalising {compared}; a crossing, if any, lies below"
    if math.isnan(place):
        return f"memorising only falls through generalising {compared}: it never rises through it"
    again = "" if n_crossings == 1 else f", the first of {n_crossings} crossings"
    return f"memorising comes to need as much norm as generalising at {place:.0f} training pairs{again}"
