"""Did a claim hold? One number per seed, against the bound that the claim names.

| | |
|---|---|
| held | the number of every seed that has one agrees with the statement |
| not held | that of no seed does |
| inconclusive | seeds disagree |
| untested | no seed has a number |

Seeds draw task, initial weights and batches anew, so they are independent; three agreeing ones are no proof, and every
number, and the interval of their mean, stands beside the judgement. Apart from that, `expected.json` says in which band
each seed's number must fall when the study is run again at small scale: a number outside it means that something has
changed, whatever the claim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite, sqrt
from pathlib import Path
from statistics import mean, stdev

import pandas as pd
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from scipy.stats import t

from circuit_lab.errors import InputError
from circuit_lab.studies.study import Bound, Claim, Study

EXPECTED_FILE = "expected.json"
"""Beside a study: the band of each claim. A study that was never run has none."""


class Holding(StrEnum):
    """Whether a claim held."""

    HELD = "held"
    NOT_HELD = "not held"
    INCONCLUSIVE = "inconclusive"
    UNTESTED = "untested"


class Expected(BaseModel):
    """Where a claim's number must fall when the study is run again at small scale.

    Attributes:
        low: Lowest number.
        high: Highest number.
        reason: Why so wide.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    low: float
    high: float
    reason: str

    @property
    def bound(self) -> Bound:
        """The band."""
        return Bound(self.low, self.high)


_EXPECTED = TypeAdapter(dict[str, Expected])


@dataclass(frozen=True)
class Judgement:
    """What came of a claim.

    Attributes:
        claim: The claim.
        values: Its number per seed; a seed that could not tell is left out.
        seeds_without: Seeds that could not tell.
        expected: The band of a repetition; None where none is given.
    """

    claim: Claim
    values: Mapping[int, float]
    seeds_without: tuple[int, ...]
    expected: Expected | None

    @property
    def holding(self) -> Holding:
        """Whether it held."""
        agree = [value in self.claim.holds_if for value in self.values.values()]
        if not agree:
            return Holding.UNTESTED
        if all(agree):
            return Holding.HELD
        return Holding.INCONCLUSIVE if any(agree) else Holding.NOT_HELD

    @property
    def mean(self) -> float | None:
        """Mean over the seeds that have a number."""
        return mean(self.values.values()) if self.values else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean over seeds, by Student's t; None for fewer than two. It knows no range."""
        if len(self.values) < 2:
            return None
        numbers = list(self.values.values())
        half = float(t.ppf(0.975, len(numbers) - 1)) * stdev(numbers) / sqrt(len(numbers))
        centre = mean(numbers)
        return centre - half, centre + half

    @property
    def unexpected(self) -> Mapping[int, float]:
        """Numbers outside the expected band, by seed."""
        if self.expected is None:
            return {}
        return {seed: value for seed, value in self.values.items() if value not in self.expected.bound}


def judge(
    study: Study, measurements: pd.DataFrame, expected: Mapping[str, Expected] | None = None
) -> tuple[Judgement, ...]:
    """Judge every claim of a study.

    Args:
        study: The study.
        measurements: Its rows, with a column `seed`.
        expected: Band per claim; None for no bands.

    Returns:
        A judgement per claim, in the study's order.
    """
    by_seed = {int(str(seed)): rows for seed, rows in measurements.groupby("seed")}
    judgements = []
    for claim in study.claims:
        numbers = {seed: float(claim.value(rows)) for seed, rows in by_seed.items()}
        judgements.append(
            Judgement(
                claim=claim,
                values={seed: value for seed, value in numbers.items() if isfinite(value)},
                seeds_without=tuple(seed for seed, value in numbers.items() if not isfinite(value)),
                expected=None if expected is None else expected.get(claim.name),
            )
        )
    return tuple(judgements)


def read_expected(path: Path, study: Study) -> dict[str, Expected]:
    """Read the bands of a study.

    Args:
        path: Its `expected.json`.
        study: The study.

    Returns:
        Band per claim.

    Raises:
        InputError: If the file is malformed, or does not name the study's claims.
    """
    try:
        expected = _EXPECTED.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise InputError(f"{path} is no table of expected bands: {str(error).splitlines()[0]}") from error
    if unmatched := sorted(expected.keys() ^ {claim.name for claim in study.claims}):
        raise InputError(f"{path} must have a band for each claim of {study.name} and no other; look at {unmatched}")
    return expected
