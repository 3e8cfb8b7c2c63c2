"""What went wrong in a run: something solved or learnt that was lost again, a leaked test set.

An alarm is a certain fall: the whole interval lay at or above the threshold, and at a later checkpoint lies wholly
below. `ungrokked` is a fall of the generalisation (OOD, or held-out pairs) from `solved`; it says that the run once
had what it now has not, which is less than the verdict of that name on one checkpoint. `forgetting` is a fall of the
training or ID accuracy. `leak` is a test set that the split certificate finds in training: then OOD says little.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from circuit_lab.verdict.diagnosis import Certificate
from circuit_lab.verdict.runs import quantities as q
from circuit_lab.verdict.runs.crossings import Change, Crossing, Series, TimelinePoint

_FallKind = Literal["ungrokked", "forgetting"]


@dataclass(frozen=True)
class Alarm:
    """One alarm.

    Attributes:
        kind: "ungrokked", "forgetting" or "leak".
        step: First step at which it is certain; the first checkpoint for a leak.
        quantity: What fell; empty for a leak.
        recovered_by: First later step at which it was certainly back; None if it was not, or for a leak.
        evidence: The numbers it rests on.
        words: The alarm in a sentence.
    """

    kind: Literal["ungrokked", "forgetting", "leak"]
    step: int
    quantity: str
    recovered_by: int | None
    evidence: tuple[str, ...]
    words: str


def find_alarms(
    family: q.Family,
    series: Mapping[str, Series],
    crossings: Mapping[tuple[str, str], Crossing],
    certificate: Certificate,
) -> tuple[Alarm, ...]:
    """The alarms of a run, leaks first, then by step.

    Args:
        family: The family.
        series: Every quantity.
        crossings: Its crossings by quantity and level.
        certificate: Of the run's task.

    Returns:
        The alarms.
    """
    kinds: dict[str, _FallKind] = dict.fromkeys(family.remembered, "forgetting")
    kinds[family.generalisation] = "ungrokked"
    levels = {quantity.name: quantity.levels[0].name for quantity in family.quantities if quantity.levels}
    first_step = series[family.generalisation][0].step
    leaks = [
        Alarm("leak", first_step, "", None, (leak,), f"The test set is leaked: {leak}.") for leak in certificate.leaks
    ]
    falls = [
        alarm for name, kind in kinds.items() for alarm in _falls(series[name], crossings[name, levels[name]], kind)
    ]
    return (*leaks, *sorted(falls, key=lambda alarm: alarm.step))


def _falls(series: Series, crossing: Crossing, kind: _FallKind) -> list[Alarm]:
    points = {point.step: point for point in series}
    alarms = []
    for place, change in enumerate(crossing.later):
        if change.rising:
            continue
        recovered = crossing.later[place + 1].by if place + 1 < len(crossing.later) else None
        assert change.after is not None, "a fall follows a certain rise"
        numbers = (_in_words(points[change.after]), _in_words(points[change.by]))
        alarms.append(
            Alarm(kind, change.by, crossing.quantity, recovered, numbers, _words(crossing, change, numbers, recovered))
        )
    return alarms


def _words(crossing: Crossing, change: Change, numbers: tuple[str, str], recovered: int | None) -> str:
    after = "it has not certainly come back" if recovered is None else f"it was back by step {recovered}"
    return (
        f"{crossing.quantity} accuracy was certainly {crossing.level} (threshold {crossing.threshold:.2f}) and is "
        f"certainly not by step {change.by}: {numbers[0]}, then {numbers[1]}; {after}."
    )


def _in_words(point: TimelinePoint) -> str:
    return f"{point.value:.2f} [{point.low:.2f}, {point.high:.2f}] at step {point.step}, n = {point.n}"
