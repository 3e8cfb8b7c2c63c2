"""From a run folder to a `RunDiagnosis`.

1. Stream the checkpoints through one net, and diagnose each, or take its diagnosis from the run folder.
2. Keep of each diagnosis the verdict and the numbers of the timeline.
3. Find every crossing, then what rests on them: order and lags, phases, alarms, answers.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from circuit_lab.measures.progress import progress as progress_bar
from circuit_lab.training import Checkpoint, run_checkpoints, stream_checkpoints
from circuit_lab.verdict.diagnose import diagnose
from circuit_lab.verdict.diagnosis import Diagnosis
from circuit_lab.verdict.runs.alarms import find_alarms
from circuit_lab.verdict.runs.answers import find_answers
from circuit_lab.verdict.runs.cache import DiagnosisCache
from circuit_lab.verdict.runs.crossings import Crossing, Lag, Series, TimelinePoint, crossing, departure, in_order, lag
from circuit_lab.verdict.runs.phases import find_phases
from circuit_lab.verdict.runs.quantities import LEFT_CHANCE, Family, family_of, read_points
from circuit_lab.verdict.runs.run_diagnosis import RunDiagnosis, StepVerdict


def diagnose_run(
    run: str | Path,
    *,
    seed: int = 0,
    n_partners: int = 6,
    max_queries_per_split: int = 10_000,
    device: str = "cpu",
    cache: bool = True,
    progress: bool = True,
) -> RunDiagnosis:
    """Tell what happened in a run: when training, circuit and generalisation came, and in which order.

    Every checkpoint is diagnosed, in constant memory. The diagnoses are kept in the run folder, so that a later call
    diagnoses only what is new.

    Args:
        run: The run folder.
        seed: As in `diagnose`, for every checkpoint.
        n_partners: As in `diagnose`.
        max_queries_per_split: As in `diagnose`.
        device: Where the net runs: "auto", "cpu", "cuda", "mps".
        cache: Whether to keep diagnoses in `RUN/diagnoses/` and use those there.
        progress: Whether to show a bar with the time left.

    Returns:
        The timeline with crossings, lags, phases, alarms and answers.

    What is no run folder, has no checkpoint, or holds one that cannot be read is a ValueError that says which.
    """
    run = Path(run)
    n_checkpoints = len(run_checkpoints(run))
    settings: dict[str, Any] = {
        "seed": seed,
        "n_partners": n_partners,
        "max_queries_per_split": max_queries_per_split,
        "device": device,
    }
    kept = DiagnosisCache(run, settings, enabled=cache)

    def diagnose_checkpoint(checkpoint: Checkpoint) -> Diagnosis:
        return diagnose(checkpoint, **settings)

    verdicts: list[StepVerdict] = []
    points: list[TimelinePoint] = []
    family, first = None, None
    checkpoints = stream_checkpoints(run, device=device)
    if progress:
        checkpoints = progress_bar(checkpoints, label=f"diagnosing {run.name}", total=n_checkpoints)
    for checkpoint in checkpoints:
        diagnosis = kept.get(checkpoint, diagnose_checkpoint)
        if family is None or first is None:
            family, first = family_of(diagnosis), diagnosis
        verdicts.append(_step_verdict(checkpoint, diagnosis))
        points += read_points(diagnosis, family)
    assert family is not None and first is not None, "a run has at least one checkpoint"
    return read_run(run, family, first, verdicts, points)


def _step_verdict(checkpoint: Checkpoint, diagnosis: Diagnosis) -> StepVerdict:
    return StepVerdict(
        step=checkpoint.step,
        verdict=diagnosis.verdict,
        confidence=diagnosis.confidence,
        checkpoint=str(checkpoint.path),
        weights_hash=checkpoint.weights_hash,
    )


def read_run(
    run: Path,
    family: Family,
    first: Diagnosis,
    verdicts: Sequence[StepVerdict],
    points: Sequence[TimelinePoint],
) -> RunDiagnosis:
    """What a timeline says.

    Args:
        run: The run folder.
        family: Its family.
        first: The diagnosis of any of its checkpoints: for task, net, seed and certificate.
        verdicts: The verdict at each checkpoint.
        points: Every quantity at every checkpoint, in order of step.

    Returns:
        The diagnosis of the run.
    """
    series = {q.name: [p for p in points if p.quantity == q.name] for q in family.quantities}
    series = {name: of_quantity for name, of_quantity in series.items() if of_quantity}
    crossings = find_crossings(family, series)
    return RunDiagnosis(
        source=str(run),
        family=first.family,
        task=first.task,
        net=first.net,
        seed=first.seed,
        verdicts=tuple(verdicts),
        timeline=tuple(points),
        crossings=tuple(crossings.values()),
        lags=_lags(family, crossings),
        phases=find_phases(first.family, series, crossings),
        alarms=find_alarms(family, series, crossings, first.certificate),
        answers=find_answers(family, crossings),
        warnings=_warnings(verdicts, crossings),
        certificate=first.certificate,
    )


def find_crossings(family: Family, series: Mapping[str, Series]) -> dict[tuple[str, str], Crossing]:
    """Every quantity at every of its levels.

    Args:
        family: The family.
        series: Its quantities, each in order of step.

    Returns:
        (quantity, level) -> crossing.
    """
    return {
        (q.name, level.name): (crossing if level.ceiling is None else departure)(series[q.name], level)
        for q in family.quantities
        if q.name in series
        for level in q.levels
    }


def _lags(family: Family, crossings: Mapping[tuple[str, str], Crossing]) -> tuple[Lag, ...]:
    """From each crossing that was reached to the next."""
    main = {(q.name, q.levels[0].name) for q in family.quantities if q.levels} | {(family.generalisation, LEFT_CHANCE)}
    order = in_order([c for key, c in crossings.items() if key in main])
    found = (lag(before, after) for before, after in pairwise(order))
    return tuple(one for one in found if one is not None)


def _warnings(verdicts: Sequence[StepVerdict], crossings: Mapping[tuple[str, str], Crossing]) -> tuple[str, ...]:
    warnings = []
    if len(verdicts) < 2:
        warnings.append("There is one checkpoint: nothing can be said of order; keep more of them ([checkpoints]).")
    wobbling = [f"{c.quantity} {c.level}" for c in crossings.values() if len(c.later) > 2]
    if wobbling:
        warnings.append(
            f"Certainly crossed more than three times: {', '.join(wobbling)}. Its first crossing may be an accident of "
            "the queries or of an unstable run."
        )
    return tuple(warnings)
