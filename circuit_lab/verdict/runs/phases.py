"""Phases of a run: memorisation, circuit formation, clean-up (Nanda et al. 2023, arXiv 2301.05217, section 5).

There the excluded loss (training loss without the key frequencies) first falls, then rises while training loss stays
low and the norm falls, then the restricted loss and the norm end their fall while test loss drops. Here, in steps:

Modular. Let m be the step of the lowest excluded loss while held-out pairs were not half solved.
1. *Memorisation*, from the first checkpoint to m. Seen if training was certainly learnt while held-out pairs certainly
   were not half solved, and the excluded loss has fallen to m.
2. *Circuit formation*, from m to the step at which held-out pairs are half solved. Seen if at its end both the
   excluded loss and the explained share are higher than at m.
3. *Clean-up*, from there to the step at which they are solved. Seen if norm and restricted loss are both lower at its
   end than at its start.

Two-hop, the same with what takes the place of the losses. Let m be the step at which mediation on training queries
first shows (exceeds the share below which answers are mostly not through the bridge).
1. *Memorisation*, from the first checkpoint to m. Seen if training was certainly learnt while mediation certainly did
   not show.
2. *Circuit formation*, from m to the step at which mediation is there (the share above which answers are mostly
   through the bridge). Seen if it certainly shows, and takes more than one checkpoint.
3. *Clean-up*, from there, or from the step at which OOD is half solved if that is later, to the step at which it is
   solved. Seen if more training queries go through the bridge at its end than at its start: what is cleaned up are the
   answers from memory.

Deviations: the key frequencies are each checkpoint's own, not the final net's; phases end at an accuracy, because that
has an interval, and not at a bend of the loss. A phase whose end is not in the run ends, open, at the last checkpoint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from circuit_lab.verdict.runs import quantities as q
from circuit_lab.verdict.runs.crossings import Crossing, Series, certainly_before

CrossingsByLevel = Mapping[tuple[str, str], Crossing]
"""(quantity, level) -> its crossing."""


@dataclass(frozen=True)
class Phase:
    """A range of steps.

    Attributes:
        start: First step.
        end: Last step.
        ended: Whether the phase ended within the run.
        words: What was seen.
    """

    start: int
    end: int
    ended: bool
    words: str


@dataclass(frozen=True)
class Phases:
    """The phases of a run; None for one that was not seen."""

    memorisation: Phase | None
    circuit_formation: Phase | None
    clean_up: Phase | None


def find_phases(family: str, series: Mapping[str, Series], crossings: CrossingsByLevel) -> Phases:
    """The phases of a run; see the module docstring.

    Args:
        family: "two_hop" or "modular".
        series: Every quantity.
        crossings: Every crossing of the family.

    Returns:
        The phases.
    """
    return _FAMILIES[family](series, crossings)


def _two_hop(series: Mapping[str, Series], crossings: CrossingsByLevel) -> Phases:
    mediation = series[q.MEDIATION_TRAINING]
    first, last = mediation[0].step, mediation[-1].step
    shows, half = crossings[q.MEDIATION_TRAINING, q.SHOWS], crossings[q.OOD, q.HALF]
    values = _values(mediation)

    memorisation = formation = clean_up = None
    if certainly_before(crossings[q.TRAINING, q.LEARNT], shows):
        end, ended = _end(shows, last)
        learnt = crossings[q.TRAINING, q.LEARNT].by
        words = f"training was learnt by step {learnt}, while certainly most of it was not answered through the bridge"
        memorisation = Phase(first, end, ended, words)
    there = crossings[q.MEDIATION_TRAINING, q.THERE]
    if shows.by is not None and shows.step is not None:
        end, ended = _end(there, last)
        if shows.step < end:
            words = f"training queries answered through the bridge: {_change(values, shows.step, end)}"
            formation = Phase(shows.step, end, ended, words)
    if there.step is not None and half.step is not None and half.by is not None:
        start, (end, ended) = max(there.step, half.step), _end(crossings[q.OOD, q.SOLVED], last)
        if start < end and _rises(values, start, end):
            words = f"training queries answered through the bridge: {_change(values, start, end)}"
            clean_up = Phase(start, end, ended, words)
    return Phases(memorisation, formation, clean_up)


def _modular(series: Mapping[str, Series], crossings: CrossingsByLevel) -> Phases:
    held_out = series[q.HELD_OUT]
    first, last = held_out[0].step, held_out[-1].step
    half, learnt = crossings[q.HELD_OUT, q.HALF], crossings[q.TRAINING, q.LEARNT]
    excluded, explained = _values(series.get(q.EXCLUDED, ())), _values(series[q.EXPLAINED])
    norm, restricted = _values(series[q.NORM]), _values(series.get(q.RESTRICTED, ()))
    half_at, half_ended = _end(half, last)

    memorisation = formation = clean_up = None
    before_half = {step: loss for step, loss in excluded.items() if step <= half_at}
    lowest = min(before_half, key=before_half.__getitem__, default=first)
    if certainly_before(learnt, half) and lowest > first:
        words = f"excluded loss {_change(excluded, first, lowest)}; training was learnt by step {learnt.by}"
        memorisation = Phase(first, lowest, lowest < last, words)
    if lowest < half_at and _rises(explained, lowest, half_at):  # the excluded loss rises from its lowest
        words = (
            f"excluded loss {_change(excluded, lowest, half_at)}; explained share "
            f"{_change(explained, lowest, half_at)}; norm {_change(norm, lowest, half_at)}"
        )
        formation = Phase(lowest, half_at, half_ended, words)
    end, ended = _end(crossings[q.HELD_OUT, q.SOLVED], last)
    cleaned = _rises(norm, end, half_at) and _rises(restricted, end, half_at)
    if half.by is not None and half_at < end and cleaned:
        words = f"norm {_change(norm, half_at, end)}; restricted loss {_change(restricted, half_at, end)}"
        clean_up = Phase(half_at, end, ended, words)
    return Phases(memorisation, formation, clean_up)


_FAMILIES: Mapping[str, Callable[[Mapping[str, Series], CrossingsByLevel], Phases]] = {
    "two_hop": _two_hop,
    "modular": _modular,
}


def _values(series: Series) -> dict[int, float]:
    """Step -> value, where there is one."""
    return {point.step: point.value for point in series if point.value is not None}


def _end(crossing: Crossing, last: int) -> tuple[int, bool]:
    """The step of a crossing, or the last step of the run where it was not reached."""
    return (last, False) if crossing.step is None else (crossing.step, crossing.by is not None)


def _rises(values: Mapping[int, float], start: int, end: int) -> bool:
    return start in values and end in values and values[end] > values[start]


def _change(values: Mapping[int, float], start: int, end: int) -> str:
    before, after = (f"{values[step]:.3g}" if step in values else "?" for step in (start, end))
    return f"{before} -> {after}"
