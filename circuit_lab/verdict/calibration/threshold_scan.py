"""Where each threshold may lie: the macro-F1 of the development half as one threshold moves and the others stay.

The stored readings are decided anew at every value, so no net is run. Two limits of this: confidence is not resampled,
and what was measured *at* a threshold stays (the sites that the causal tests use, located from `MIN_RATE` on).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from circuit_lab.verdict.calibration.runner import Record
from circuit_lab.verdict.calibration.scores import macro_f1
from circuit_lab.verdict.calibration.stored_readings import ModularReadings, TwoHopReadings
from circuit_lab.verdict.thresholds import MODULAR_THRESHOLDS, THRESHOLDS, ModularThresholds, Thresholds
from circuit_lab.verdict.verdicts import Verdict

WARN_ONLY = ("max_untestable", "max_mirrored")
"""Thresholds that only warn: no verdict depends on them."""
ORDERED = (("unsolved", "solved"), ("not_through_bridge", "through_bridge"))
ORDERED_MODULAR = (
    ("unsolved", "solved"),
    ("not_explained", "explained"),
    ("not_through_circuit", "through_circuit"),
)
"""Pairs of which the first may not exceed the second."""
GRID = tuple(float(round(value, 3)) for value in np.arange(0.025, 1.0, 0.025))
_TIE = 1e-9


@dataclass(frozen=True)
class ThresholdScan:
    """Macro-F1 of the development half as one threshold moves.

    Attributes:
        family: Which kind of task.
        threshold: Name of the threshold.
        in_use: Its value in use.
        values: The values tried, rising, among them the one in use.
        f1: Macro-F1 at each of them, in [0, 1].
        best_low: Lower end of the plateau: the run of best values around the one in use, or the longest such run.
        best_high: Upper end.
        n: Controls.
    """

    family: str
    threshold: str
    in_use: float
    values: tuple[float, ...]
    f1: tuple[float, ...]
    best_low: float
    best_high: float
    n: int

    @property
    def in_use_is_best(self) -> bool:
        """Whether the value in use lies on the plateau."""
        return self.best_low <= self.in_use <= self.best_high


def scan_thresholds(records: Sequence[Record], *, grid: Sequence[float] = GRID) -> tuple[ThresholdScan, ...]:
    """Move each threshold of both families of tasks over a grid.

    Args:
        records: Labelled and scored controls of the development half.
        grid: Values to try.

    Returns:
        A scan for each threshold that a verdict depends on; none for a family of tasks without records.
    """
    two_hop = [(r.truth, r.readings) for r in records if isinstance(r.readings, TwoHopReadings) and r.truth]
    modular = [(r.truth, r.readings) for r in records if isinstance(r.readings, ModularReadings) and r.truth]
    scans: list[ThresholdScan] = []
    if two_hop:
        scans += _scan_all("two_hop", two_hop, THRESHOLDS, ORDERED, grid)
    if modular:
        scans += _scan_all("modular", modular, MODULAR_THRESHOLDS, ORDERED_MODULAR, grid)
    return tuple(scans)


def _scan_all(
    family: str,
    labelled: Sequence[tuple[Verdict, Any]],
    in_use: Thresholds | ModularThresholds,
    ordered: Sequence[tuple[str, str]],
    grid: Sequence[float],
) -> list[ThresholdScan]:
    truths = [truth for truth, _ in labelled]

    def f1_at(**changed: float) -> float:
        thresholds = replace(in_use, **changed)
        return macro_f1(truths, [readings.decide(thresholds).certain_verdict for _, readings in labelled])

    names = [field.name for field in fields(in_use) if field.name not in WARN_ONLY]
    return [_scan(family, name, in_use, ordered, grid, f1_at, len(truths)) for name in names]


def _scan(
    family: str,
    name: str,
    in_use: Thresholds | ModularThresholds,
    ordered: Sequence[tuple[str, str]],
    grid: Sequence[float],
    f1_at: Callable[..., float],
    n: int,
) -> ThresholdScan:
    used = float(getattr(in_use, name))
    candidates = sorted({*grid, used})
    values = tuple(v for v in candidates if _in_order(replace(in_use, **{name: v}), ordered))
    f1 = tuple(f1_at(**{name: value}) for value in values)
    low, high = plateau(values, f1, used)
    return ThresholdScan(family, name, used, values, f1, low, high, n)


def _in_order(thresholds: Thresholds | ModularThresholds, ordered: Sequence[tuple[str, str]]) -> bool:
    return all(getattr(thresholds, low) <= getattr(thresholds, high) for low, high in ordered)


def plateau(values: Sequence[float], f1: Sequence[float], in_use: float) -> tuple[float, float]:
    """The run of best values that holds the one in use, or else the longest run.

    >>> plateau([0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 1.0, 1.0, 0.8, 1.0], in_use=0.5)
    (0.5, 0.5)
    >>> plateau([0.1, 0.2, 0.3, 0.4, 0.5], [0.9, 1.0, 1.0, 0.8, 1.0], in_use=0.1)
    (0.2, 0.3)
    """
    best, runs = max(f1) - _TIE, []
    for value, score in zip(values, f1, strict=True):
        if score < best:
            runs.append([])
        else:
            runs = runs or [[]]
            runs[-1].append(value)
    runs = [run for run in runs if run]
    chosen = next((run for run in runs if run[0] <= in_use <= run[-1]), max(runs, key=len))
    return chosen[0], chosen[-1]
