"""From the records of a calibration to its result: every score for both halves, curves, and the scan of thresholds."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import TypeAdapter

from circuit_lab.verdict.calibration.controls import NO_CIRCUIT_KINDS
from circuit_lab.verdict.calibration.runner import Record
from circuit_lab.verdict.calibration.scores import (
    CIRCUIT_VERDICTS,
    Confusion,
    FalseCircuits,
    Rate,
    Reliability,
    Score,
    confusion,
    f1_by_verdict,
    false_circuits,
    macro_f1_score,
    reliability,
)
from circuit_lab.verdict.calibration.threshold_scan import ThresholdScan, scan_thresholds
from circuit_lab.verdict.settings import Settings
from circuit_lab.verdict.verdicts import Verdict

Half = Literal["development", "held_out"]
HALVES: tuple[Half, Half] = ("development", "held_out")
_SURE = 0.995
"""Confidence from which a control says next to nothing of calibration: it is right or the verdict is broken."""


@dataclass(frozen=True)
class HalfScores:
    """Scores of the controls of one half.

    Attributes:
        half: Which.
        n_families: Families in it.
        confusion: Unperturbed, labelled and scored controls.
        macro_f1: Of the same; the mean over verdicts, in [0, 1].
        f1: F1 by verdict.
        right: Share of the same that got their verdict.
        inconclusive: Share of the same that were called inconclusive.
        reliability: Calibration of confidence, on these and on those too close to a threshold to be scored.
        reliability_unsure: The same, of those whose confidence is below .995 alone.
    """

    half: Half
    n_families: int
    confusion: Confusion
    macro_f1: Score
    f1: Mapping[str, float]
    right: Rate
    inconclusive: Rate
    reliability: Reliability
    reliability_unsure: Reliability


@dataclass(frozen=True)
class Invariance:
    """Whether verdicts survive a rotation of the residual stream's basis.

    Attributes:
        half: Which half.
        same: Share of rotated controls with the verdict of the untouched one.
        changed: Names of the others.
    """

    half: Half
    same: Rate
    changed: tuple[str, ...]


@dataclass(frozen=True)
class CurvePoint:
    """What becomes of the verdicts at one level of noise, or of queries.

    Attributes:
        half: Which half.
        family: Which kind of task.
        level: Standard deviation of the noise as a share of each matrix's own; or queries per split, None for all.
        right: Share of controls with the untouched net's true verdict.
        inconclusive: Share called inconclusive.
        other: Share with any other verdict.
        false_circuits: Share of those without a circuit whose verdict claims one.
        chance: Share that the most frequent truth, given to all, would get right.
    """

    half: Half
    family: str
    level: float | None
    right: Rate
    inconclusive: Rate
    other: Rate
    false_circuits: Rate
    chance: float


@dataclass(frozen=True)
class Misjudged:
    """A control that got another verdict than its true one, `inconclusive` included.

    Attributes:
        name: The control.
        half: Its half.
        truth: The verdict that it must get.
        verdict: The verdict it got.
        confidence: In that.
        candidates: Share of resamples per verdict.
        scored: False where it lies so close to a threshold that only luck could name it.
    """

    name: str
    half: Half
    truth: Verdict
    verdict: Verdict
    confidence: float
    candidates: Mapping[str, float]
    scored: bool


@dataclass(frozen=True)
class Calibration:
    """How far the verdicts can be trusted.

    Attributes:
        settings: How every control was diagnosed, but those with fewer queries.
        n_controls: Diagnoses made.
        n_by_kind: Unperturbed controls by kind.
        known_answer: Scores of wired and untrained controls, by half.
        trained: Scores of trained controls, by half; empty without them.
        false_circuits: Nets without a circuit, by half: untrained, random labels and memorising.
        rotation: Whether verdicts survive a rotation, by half.
        noise: Verdicts against noise on the weights.
        queries: Verdicts against the number of queries read.
        thresholds: Each threshold moved, on the development half.
        misjudged: Unperturbed controls that did not get their verdict.
        seconds: Processor time of all diagnoses, in seconds.
    """

    settings: Settings
    n_controls: int
    n_by_kind: Mapping[str, Mapping[str, int]]
    known_answer: tuple[HalfScores, ...]
    trained: tuple[HalfScores, ...]
    false_circuits: Mapping[str, FalseCircuits]
    rotation: tuple[Invariance, ...]
    noise: tuple[CurvePoint, ...]
    queries: tuple[CurvePoint, ...]
    thresholds: tuple[ThresholdScan, ...]
    misjudged: tuple[Misjudged, ...]
    seconds: float

    def to_json(self) -> str:
        """The result as JSON; what is not a number is null."""
        return TypeAdapter(Calibration).dump_json(self, indent=1).decode() + "\n"


def summarise(records: Sequence[Record], *, settings: Settings | None = None) -> Calibration:
    """Score the records of a calibration.

    Args:
        records: All of them.
        settings: How most of them were diagnosed; by default the first record's.

    Returns:
        The result.

    Raises:
        ValueError: If there are no records.
    """
    if not records:
        raise ValueError("a calibration needs at least one diagnosed control, got none")
    settings = records[0].settings if settings is None else settings
    full = [record for record in records if record.settings == settings]
    untouched = [record for record in full if record.perturbation is None]
    trained = {True: [r for r in untouched if _was_trained(r)], False: [r for r in untouched if not _was_trained(r)]}
    without_circuit = [record for record in untouched if record.kind in NO_CIRCUIT_KINDS]
    development = [r for r in trained[False] if not r.held_out and r.scored and r.truth is not None]
    by_name = {record.name: record for record in untouched}
    return Calibration(
        settings=settings,
        n_controls=len(records),
        n_by_kind={half: _count_kinds(of_half) for half, of_half in _halves(untouched)},
        known_answer=tuple(_scores(half, r, settings.seed) for half, r in _halves(trained[False])),
        trained=tuple(_scores(half, r, settings.seed) for half, r in _halves(trained[True])) if trained[True] else (),
        false_circuits={half: false_circuits(of_half) for half, of_half in _halves(without_circuit)},
        rotation=tuple(_invariance(half, of_half, by_name) for half, of_half in _halves(full)),
        noise=tuple(_noise_curve(full, by_name)),
        queries=tuple(_query_curve(records, settings)),
        thresholds=scan_thresholds(development),
        misjudged=tuple(_misjudged(untouched)),
        seconds=round(sum(record.seconds for record in records), 1),
    )


def _was_trained(record: Record) -> bool:
    """Trained controls are a kind of family, whatever is known of them."""
    return record.family.startswith("trained/") or record.kind == "trained"


def _halves(records: Sequence[Record]) -> list[tuple[Half, list[Record]]]:
    return [(half, [r for r in records if r.held_out == (half == "held_out")]) for half in HALVES]


def _count_kinds(records: Sequence[Record]) -> dict[str, int]:
    kinds = sorted({record.kind for record in records})
    return {kind: sum(record.kind == kind for record in records) for kind in kinds}


def _scores(half: Half, records: Sequence[Record], seed: int) -> HalfScores:
    labelled = [record for record in records if record.truth is not None]
    scored = [record for record in labelled if record.scored]
    matrix = confusion(scored)
    return HalfScores(
        half=half,
        n_families=len({record.family for record in records}),
        confusion=matrix,
        macro_f1=macro_f1_score(scored, seed=seed),
        f1={str(verdict): value for verdict, value in f1_by_verdict(matrix).items()},
        right=Rate.of([record.verdict == record.truth for record in scored]),
        inconclusive=Rate.of([record.verdict == Verdict.INCONCLUSIVE for record in scored]),
        reliability=reliability(labelled, seed=seed),
        reliability_unsure=reliability([r for r in labelled if r.confidence < _SURE], seed=seed),
    )


def _invariance(half: Half, records: Sequence[Record], by_name: Mapping[str, Record]) -> Invariance:
    rotated = [r for r in records if r.perturbation is not None and r.perturbation.how == "rotation"]
    same = [r.verdict == by_name[r.perturbation.of].verdict for r in rotated if r.perturbation is not None]
    return Invariance(half, Rate.of(same), tuple(r.name for r, kept in zip(rotated, same, strict=True) if not kept))


def _noise_curve(records: Sequence[Record], by_name: Mapping[str, Record]) -> Iterator[CurvePoint]:
    """A point for each half, kind of task and level of noise; level 0 is the untouched nets."""
    noisy = [(r, r.perturbation) for r in records if r.perturbation is not None and r.perturbation.how == "noise"]
    at_level = [(by_name[done.of], record.verdict, done.std_share) for record, done in noisy]
    origins = {origin.name: origin for origin, _, _ in at_level}.values()
    yield from _curve([*((origin, origin.verdict, 0.0) for origin in origins), *at_level])


def _query_curve(records: Sequence[Record], settings: Settings) -> Iterator[CurvePoint]:
    """A point for each half, kind of task and number of queries."""
    limited = [
        (record, record.verdict, float(record.settings.max_queries_per_split))
        for record in records
        if record.settings != settings
        and record.settings == replace(settings, max_queries_per_split=record.settings.max_queries_per_split)
    ]
    names = {record.name for record, _, _ in limited}
    whole = [(r, r.verdict, None) for r in records if r.name in names and r.settings == settings]
    yield from _curve([*limited, *whole])


def _curve(at_level: Sequence[tuple[Record, Verdict, float | None]]) -> Iterator[CurvePoint]:
    """Points from (record with the truth, verdict, level)."""
    levels = sorted({level for _, _, level in at_level if level is not None})
    for half in HALVES:
        for family in ("two_hop", "modular"):
            of_family = [
                entry
                for entry in at_level
                if entry[0].held_out == (half == "held_out") and entry[0].readings.family == family
            ]
            for level in (*levels, None):
                verdicts = [(record, verdict) for record, verdict, at in of_family if at == level]
                if verdicts:
                    yield _point(half, family, level, verdicts)


def _point(half: Half, family: str, level: float | None, verdicts: Sequence[tuple[Record, Verdict]]) -> CurvePoint:
    right = [verdict == record.truth for record, verdict in verdicts]
    inconclusive = [verdict == Verdict.INCONCLUSIVE for _, verdict in verdicts]
    return CurvePoint(
        half=half,
        family=family,
        level=level,
        right=Rate.of(right),
        inconclusive=Rate.of(inconclusive),
        other=Rate.of([not (a or b) for a, b in zip(right, inconclusive, strict=True)]),
        false_circuits=Rate.of([v in CIRCUIT_VERDICTS for r, v in verdicts if r.kind in NO_CIRCUIT_KINDS]),
        chance=max(Counter(record.truth for record, _ in verdicts).values()) / len(verdicts),
    )


def _misjudged(records: Sequence[Record]) -> Iterator[Misjudged]:
    for half, of_half in _halves(records):
        for r in of_half:
            if r.truth is not None and r.verdict != r.truth:
                yield Misjudged(r.name, half, r.truth, r.verdict, r.confidence, r.candidates, r.scored)
