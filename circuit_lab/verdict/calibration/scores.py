"""How good verdicts are: confusion matrix, F1, calibration of confidence, and how often a circuit is made up.

1. *Confusion matrix*: a row for each true verdict, a column for each verdict given, `inconclusive` among the columns.
2. *Macro-F1*: the mean, over the verdicts that occur as a truth, of the harmonic mean of precision and recall. An
   `inconclusive` is a miss: it lowers the recall of its truth, and no verdict's precision.
3. *Expected calibration error* (Guo et al. 2017, arXiv 1706.04599): confidences in ten bins of equal
   width; the mean over controls of |share right - mean confidence| of their bin. `confidence` of an inconclusive
   diagnosis is the share of resamples that give its most frequent candidate, so there it is this candidate that counts
   as right or wrong: the number is judged by what it says.
4. *False circuits*: nets without any circuit that got a verdict which claims one, with the exact one-sided 95 % upper
   bound of the rate (Clopper and Pearson 1934); of none in 299 or more it is 1 %.

Intervals of 2 and 3 are percentiles over bootstrap resamples of the controls. Controls of a family resemble each other,
which these intervals ignore, and where no control is misjudged they are a point: the counts beside them say how much
that means. The calibration error of few controls is biased upwards, as every bin's own noise adds to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int
from scipy.stats import binomtest

from circuit_lab.measures import CONFIDENCE_LEVEL, proportion_interval
from circuit_lab.verdict.calibration.runner import Record
from circuit_lab.verdict.verdicts import Verdict

N_BINS = 10
N_RESAMPLES = 1000
CIRCUIT_VERDICTS = (
    Verdict.TRUE_CIRCUIT,
    Verdict.ID_CIRCUIT,
    Verdict.FIRST_HOP_FAILURE,
    Verdict.SECOND_HOP_FAILURE,
)
"""Verdicts that claim a circuit, if only in distribution."""


@dataclass(frozen=True)
class Rate:
    """A share of controls with its 95 % Wilson interval; all of [0, 1] when there is none.

    Attributes:
        n_true: Controls of which it holds.
        n: Controls looked at.
        low: Lower end of the interval of the share.
        high: Upper end.
    """

    n_true: int
    n: int
    low: float
    high: float

    @classmethod
    def of(cls, holds: Sequence[bool]) -> "Rate":
        """The share of those that hold."""
        n_true, n = sum(holds), len(holds)
        interval = proportion_interval(n_true, n)
        return cls(n_true, n, interval.low, interval.high)

    @property
    def value(self) -> float:
        """The share in [0, 1]; `nan` of nothing."""
        return self.n_true / self.n if self.n else float("nan")


@dataclass(frozen=True)
class Score:
    """A number in [0, 1] computed from `n` controls, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Confusion:
    """How often each truth got each verdict.

    Attributes:
        truths: The true verdicts that occur, one a row.
        verdicts: The verdicts that occur as truth or verdict, one a column; `inconclusive` is the last.
        counts: Controls, by row and column.
    """

    truths: tuple[Verdict, ...]
    verdicts: tuple[Verdict, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ReliabilityBin:
    """Controls whose confidence lies in one bin.

    Attributes:
        low: Lower end of the bin, excluded but in the first.
        high: Upper end, included.
        confidence: Mean confidence; 0 of an empty bin.
        right: How many of them were right.
    """

    low: float
    high: float
    confidence: float
    right: Rate


@dataclass(frozen=True)
class Reliability:
    """Whether confidence means what it says.

    Attributes:
        error: The expected calibration error.
        bins: From low confidence to high.
    """

    error: Score
    bins: tuple[ReliabilityBin, ...]


@dataclass(frozen=True)
class FalseCircuits:
    """How often a circuit was made up.

    Attributes:
        names: The controls that have none and were said to have one.
        n: Controls that have none.
        upper: Exact one-sided 95 % upper bound of the rate.
    """

    names: tuple[str, ...]
    n: int
    upper: float


def confusion(records: Sequence[Record]) -> Confusion:
    """The confusion matrix of labelled records, in the order in which verdicts are declared."""
    truths, verdicts = {record.truth for record in records}, {record.verdict for record in records}
    rows = tuple(verdict for verdict in Verdict if verdict in truths)
    columns = tuple(v for v in Verdict if v in truths | verdicts | {Verdict.INCONCLUSIVE})
    counts = tuple(
        tuple(sum(record.truth == row and record.verdict == column for record in records) for column in columns)
        for row in rows
    )
    return Confusion(rows, columns, counts)


def f1_by_verdict(matrix: Confusion) -> dict[Verdict, float]:
    """F1 of each verdict that occurs as a truth, in [0, 1].

    >>> true, fake, unsure = Verdict.TRUE_CIRCUIT, Verdict.FAKE_GROKKING, Verdict.INCONCLUSIVE
    >>> f1 = f1_by_verdict(Confusion((fake, true), (fake, true, unsure), ((2, 0, 0), (1, 2, 1))))
    >>> {str(verdict): round(value, 3) for verdict, value in f1.items()}
    {'fake_grokking': 0.8, 'true_circuit': 0.667}
    """
    counts = np.array(matrix.counts, dtype=float).reshape(len(matrix.truths), len(matrix.verdicts))
    given = counts.sum(0)
    found = {}
    for row, truth in enumerate(matrix.truths):
        column = matrix.verdicts.index(truth)
        found[truth] = float(2 * counts[row, column] / (counts[row].sum() + given[column]))
    return found


def macro_f1(truths: Sequence[Verdict], verdicts: Sequence[Verdict]) -> float:
    """Mean F1 over the verdicts that occur as a truth; `nan` of nothing."""
    codes = {verdict: code for code, verdict in enumerate(Verdict)}
    return _macro_f1(np.array([codes[v] for v in truths], int), np.array([codes[v] for v in verdicts], int))


def _macro_f1(truths: Int[np.ndarray, " n"], verdicts: Int[np.ndarray, " n"]) -> float:
    n_codes = len(Verdict)
    occurs, given = np.bincount(truths, minlength=n_codes), np.bincount(verdicts, minlength=n_codes)
    right = np.bincount(truths[truths == verdicts], minlength=n_codes)
    present = occurs > 0
    return float((2 * right[present] / (occurs[present] + given[present])).mean()) if present.any() else float("nan")


def macro_f1_score(records: Sequence[Record], *, seed: int) -> Score:
    """Macro-F1 of labelled records, with its interval."""
    codes = {verdict: code for code, verdict in enumerate(Verdict)}
    truths = np.array([codes[record.truth] for record in records if record.truth is not None], int)
    verdicts = np.array([codes[record.verdict] for record in records if record.truth is not None], int)
    return _bootstrapped(lambda rows: _macro_f1(truths[rows], verdicts[rows]), len(truths), seed)


def reliability(records: Sequence[Record], *, seed: int, n_bins: int = N_BINS) -> Reliability:
    """Expected calibration error of labelled records, with what each bin adds to it."""
    confidence = np.array([record.confidence for record in records], dtype=float)
    right = np.array([record.best_guess == record.truth for record in records], dtype=float)
    of_bin = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    bins = tuple(
        ReliabilityBin(
            low=b / n_bins,
            high=(b + 1) / n_bins,
            confidence=float(confidence[of_bin == b].mean()) if (of_bin == b).any() else 0.0,
            right=Rate.of(right[of_bin == b].astype(bool).tolist()),
        )
        for b in range(n_bins)
    )
    error = _bootstrapped(
        lambda rows: calibration_error(confidence[rows], right[rows], of_bin[rows]), len(records), seed
    )
    return Reliability(error, bins)


def calibration_error(
    confidence: Float64[np.ndarray, " n"], right: Float64[np.ndarray, " n"], of_bin: Int[np.ndarray, " n"]
) -> float:
    """Mean over controls of |share right - mean confidence| of their bin, in [0, 1]; 0 is perfect, `nan` of nothing.

    >>> confidence, right = np.array([0.8, 0.6, 1.0, 1.0]), np.array([1.0, 0.0, 1.0, 1.0])
    >>> round(calibration_error(confidence, right, np.array([0, 0, 1, 1])), 3)  # half of |.5 - .7|
    0.1
    """
    if not len(confidence):
        return float("nan")
    surplus = np.bincount(of_bin, weights=right - confidence)
    return float(np.abs(surplus).sum() / len(confidence))


def false_circuits(records: Sequence[Record]) -> FalseCircuits:
    """Records of nets without a circuit, of which some may have got a verdict that claims one."""
    names = tuple(record.name for record in records if record.verdict in CIRCUIT_VERDICTS)
    return FalseCircuits(names, len(records), upper_bound(len(names), len(records)))


def upper_bound(n_true: int, n: int) -> float:
    """Exact one-sided 95 % upper bound of a rate; 1 of nothing.

    >>> round(upper_bound(0, 300), 5)
    0.00994
    """
    if n == 0:
        return 1.0
    exact = binomtest(n_true, n, alternative="less").proportion_ci(confidence_level=CONFIDENCE_LEVEL, method="exact")
    return float(exact.high)


def _bootstrapped(statistic: Callable[[np.ndarray], float], n: int, seed: int) -> Score:
    """A statistic of all rows, with its percentile interval over resamples of the rows (Efron 1979)."""
    if n == 0:
        return Score(float("nan"), 0.0, 1.0, 0)
    rng = np.random.default_rng(seed)
    resampled = [statistic(rng.integers(n, size=n)) for _ in range(N_RESAMPLES)]
    tail = (1 - CONFIDENCE_LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return Score(statistic(np.arange(n)), float(low), float(high), n)
