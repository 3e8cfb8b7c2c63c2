"""When a quantity crossed a level, how surely, and which of two crossings came first.

A *series* is one quantity at the checkpoints of a run, in order of step, each with its 95 % interval. Against a level
t:

1. A checkpoint is *certainly above* when its whole interval lies at or above t (low >= t), *certainly below* when its
   whole interval lies below t (high < t), and *open* otherwise. A point without an interval is open.
2. The series *rises* each time it comes to be certainly above without having been so since it was last certainly
   below, and *falls* the other way round. What lies open in between changes nothing, so a series that hovers around t
   is not counted as crossing it again and again.
3. Of such a change, `after` is the last step that was certainly still on the old side, `by` the first step certainly
   on the new one: it happened in (after, by]. `after` is None when the series was never certainly on the old side.
   `step` is the best guess within: the first step from which every point value up to `by` is on the new side.
4. A *crossing* is the first rise. Later falls and rises are kept beside it. A series whose point values reach t and
   stay there to the last checkpoint, never certainly, has a `step` and no `by`. One that does neither has neither; its
   `after` still says until when it was certainly below.
5. The *departure* from a floor asks when a quantity began to grow. It is above when low >= the floor, and still on the
   floor when its interval reaches below the floor (low < floor) and lies wholly below a ceiling, here the level below
   which a split counts as unsolved. Of several departures it is the last one before the quantity was certainly above
   the ceiling: an earlier one that fell back was an accident of the queries.
6. The lag from crossing A to crossing B is `step` B - `step` A, and lies between after_B - by_A and by_B - after_A.
   Which came first is certain only if the two intervals (after, by] do not overlap.

Each interval holds with 95 % for itself; over a hundred checkpoints a few will miss. Such a miss shows as a rise that
falls back at the next checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from circuit_lab.verdict.diagnosis import Unit


@dataclass(frozen=True)
class TimelinePoint:
    """One quantity at one checkpoint.

    Attributes:
        step: Training step.
        quantity: What was measured.
        value: The number, in `unit`; None where nothing could be measured.
        low: Lower end of its 95 % interval; None for a number without one.
        high: Upper end.
        n: What the number is counted or averaged over, mostly queries.
        threshold: The level at which the quantity counts as reached; None for a number that is only shown.
        unit: As in `Evidence`.
    """

    step: int
    quantity: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    threshold: float | None
    unit: Unit


Series = Sequence[TimelinePoint]
"""One quantity, in order of step."""


@dataclass(frozen=True)
class Level:
    """Something that a quantity can reach.

    Attributes:
        name: What reaching it means, such as "solved".
        threshold: Where it lies, in the unit of the quantity.
        ceiling: For the departure from a floor: below this the quantity may still count as on the floor.
    """

    name: str
    threshold: float
    ceiling: float | None = None

    def side(self, point: TimelinePoint) -> Literal[-1, 0, 1]:
        """1 for certainly above, -1 for certainly below (or still on the floor), 0 for open."""
        if point.low is None or point.high is None:
            return 0
        if point.low >= self.threshold:
            return 1
        return -1 if point.high < (self.threshold if self.ceiling is None else self.ceiling) else 0

    def reached(self, point: TimelinePoint) -> bool:
        """Whether the point value is at or above the level; for a departure, whether it is certain."""
        if self.ceiling is not None:
            return self.side(point) == 1
        return point.value is not None and point.value >= self.threshold


@dataclass(frozen=True)
class Change:
    """A certain change from one side of a level to the other.

    Attributes:
        rising: From below to above.
        step: The best guess: in (after, by].
        after: Last step certainly on the old side; None if there was none.
        by: First step certainly on the new side.
    """

    rising: bool
    step: int
    after: int | None
    by: int


@dataclass(frozen=True)
class Crossing:
    """When a quantity first reached a level, and whether it stayed there.

    Attributes:
        quantity: What was measured.
        level: Name of the level.
        threshold: Where it lies.
        step: Best guess; None if never reached.
        after: Last step certainly before; None if the series was never certainly below.
        by: First step certainly there; None if it never certainly was.
        later: Certain changes after this crossing, falls and rises in turn.
    """

    quantity: str
    level: str
    threshold: float
    step: int | None
    after: int | None
    by: int | None
    later: tuple[Change, ...]

    @property
    def lasted(self) -> bool:
        """Whether it was certainly reached, and at the end of the run has not certainly been left again."""
        return self.by is not None and (not self.later or self.later[-1].rising)

    def when(self) -> str:
        """The step and its interval in words."""
        if self.step is None:
            return "never" if self.after is None else f"never (certainly not by step {self.after})"
        if self.by is None:
            return f"step {self.step}, not certain within the run"
        if self.after is None:
            return f"step {self.step} (by {self.by}, never certainly below)"
        return f"step {self.step} (after {self.after}, by {self.by})"


@dataclass(frozen=True)
class Lag:
    """Steps from one crossing to another.

    Attributes:
        first: "quantity: level" of the crossing that is counted from.
        second: "quantity: level" of the other.
        value: Best guess, in steps; negative if `second` came first.
        low: It is more than this; None if unbounded.
        high: It is less than this; None if unbounded.
        certain: Whether it is certain which came first.
    """

    first: str
    second: str
    value: int
    low: int | None
    high: int | None
    certain: bool


def changes(series: Series, level: Level) -> list[Change]:
    """Every certain change of side, in order; see the module docstring.

    Args:
        series: One quantity, in order of step.
        level: The level.

    Returns:
        Rises and falls in turn, a rise first unless the series starts certainly above; then that start is itself the
        first rise, with no `after`.
    """
    found: list[Change] = []
    state, last_certain, last_index = 0, None, -1
    for index, point in enumerate(series):
        side = level.side(point)
        if side == 0:
            continue
        rises, falls = side == 1 and state != 1, side == -1 and state == 1
        if rises or falls:
            step = _first_staying(series[last_index + 1 : index + 1], level, above=rises)
            found.append(Change(rising=rises, step=step, after=last_certain, by=point.step))
        state, last_certain, last_index = side, point.step, index
    return found


def _first_staying(points: Series, level: Level, *, above: bool) -> int:
    """The first step from which all point values are on that side; the last point is."""
    step = points[-1].step
    for point in reversed(points[:-1]):
        if level.reached(point) != above:
            break
        step = point.step
    return step


def crossing(series: Series, level: Level) -> Crossing:
    """The first rise above a level.

    Args:
        series: One quantity, in order of step, at least one point.
        level: The level.

    Returns:
        The crossing, reached or not.
    """
    found = changes(series, level)
    if found:
        return _crossing(series, level, found, at=0)
    return _not_certain(series, level)


def departure(series: Series, floor: Level) -> Crossing:
    """When a quantity left its floor for good: the last departure before it was certainly above the ceiling.

    Args:
        series: One quantity, in order of step, at least one point.
        floor: A level with a ceiling.

    Returns:
        The crossing; not reached if every departure fell back to the floor.
    """
    assert floor.ceiling is not None, "a departure is measured from a level with a ceiling"
    found = changes(series, floor)
    over = next((p.step for p in series if p.low is not None and p.low >= floor.ceiling), None)
    before = [i for i, change in enumerate(found) if over is None or change.by <= over]
    if before and found[before[-1]].rising:
        return _crossing(series, floor, found, at=before[-1])
    return _not_certain(series, floor)


def _crossing(series: Series, level: Level, found: Sequence[Change], *, at: int) -> Crossing:
    rise = found[at]
    return Crossing(
        quantity=series[0].quantity,
        level=level.name,
        threshold=level.threshold,
        step=rise.step,
        after=rise.after,
        by=rise.by,
        later=tuple(found[at + 1 :]),
    )


def _not_certain(series: Series, level: Level) -> Crossing:
    """Never certainly reached, though perhaps by the point values up to the end."""
    reached = level.reached(series[-1])
    return Crossing(
        quantity=series[0].quantity,
        level=level.name,
        threshold=level.threshold,
        step=_first_staying(series, level, above=True) if reached else None,
        after=max((p.step for p in series if level.side(p) == -1), default=None),
        by=None,
        later=(),
    )


def certainly_before(first: Crossing, second: Crossing) -> bool:
    """Whether `first` had certainly happened while `second` certainly had not."""
    return first.by is not None and second.after is not None and first.by <= second.after


def lag(first: Crossing, second: Crossing) -> Lag | None:
    """Steps from one crossing to another.

    Args:
        first: What is counted from.
        second: What is counted to.

    Returns:
        The lag with its bounds; None where one of the two was never reached.
    """
    if first.step is None or second.step is None:
        return None
    return Lag(
        first=f"{first.quantity}: {first.level}",
        second=f"{second.quantity}: {second.level}",
        value=second.step - first.step,
        low=None if second.after is None or first.by is None else second.after - first.by,
        high=None if second.by is None or first.after is None else second.by - first.after,
        certain=certainly_before(first, second) or certainly_before(second, first),
    )


def in_order(crossings: Sequence[Crossing]) -> list[Crossing]:
    """The crossings that were reached, by step; where steps are equal, the one certain first comes first."""
    reached = [c for c in crossings if c.step is not None]
    return sorted(reached, key=lambda c: (c.step, float("inf") if c.by is None else c.by))
