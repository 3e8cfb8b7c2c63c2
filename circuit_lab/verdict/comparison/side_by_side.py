"""Several diagnoses of one family side by side: the numbers that decide, and every split's accuracy, with differences.

The differences are those of `compare`, by the same rules (see `differences`), of every pair of checkpoints; whether
they use the same path is not asked here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from circuit_lab.nets import in_eval_mode
from circuit_lab.verdict.comparison.differences import Difference, HitsOfBoth, compare_numbers
from circuit_lab.verdict.comparison.paired_queries import Side, ask_the_same, paired_hits
from circuit_lab.verdict.diagnosis import Diagnosis, Evidence

FALSE_ALARMS = 0.05
"""Share of 95 % intervals that exclude 0 although nothing differs."""


@dataclass(frozen=True)
class NumberOfAll:
    """One number of every checkpoint.

    Attributes:
        name: As in `Evidence`.
        split: On which queries.
        decides: Whether a rule reads it.
        values: The checkpoints' rows of evidence; None where one does not have it.
    """

    name: str
    split: str
    decides: bool
    values: tuple[Evidence | None, ...]


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Diagnoses of one family, in the order given.

    Attributes:
        family: Which kind of task: "two_hop" or "modular".
        diagnoses: The diagnoses.
        numbers: The numbers shown.
        differences: (reference, other), both numbers of diagnoses from 0 -> for each of `numbers`, other - reference
            with its 95 % interval; None where one of the two does not have it.
        asks_the_same: The same keys -> whether both were asked the same questions; None where it is not known.
    """

    family: str
    diagnoses: tuple[Diagnosis, ...]
    numbers: tuple[NumberOfAll, ...]
    differences: Mapping[tuple[int, int], tuple[Difference | None, ...]]
    asks_the_same: Mapping[tuple[int, int], bool | None]

    def n_looked_at(self, reference: int) -> int:
        """Differences to a checkpoint that have an interval."""
        return sum(row.low is not None for row in self._differences_to(reference))

    def n_excluding_zero(self, reference: int) -> int:
        """Of these, those whose interval excludes 0; of equal nets about `FALSE_ALARMS` of them would."""
        return sum(row.excludes_zero for row in self._differences_to(reference))

    def _differences_to(self, reference: int) -> list[Difference]:
        others = (i for i in range(len(self.diagnoses)) if i != reference)
        return [row for other in others for row in self.differences[reference, other] if row is not None]


def side_by_side(diagnoses: Sequence[Diagnosis]) -> tuple[SideBySide, ...]:
    """Put diagnoses side by side, family by family.

    Args:
        diagnoses: Any number, of any families. Those that hold their nets are compared query by query, where they
            were asked the same; of those read from JSON the half-widths are added.

    Returns:
        One for each family with at least two diagnoses, in the order in which the families come.
    """
    families = dict.fromkeys(diagnosis.family for diagnosis in diagnoses)
    of_family = {family: tuple(d for d in diagnoses if d.family == family) for family in families}
    return tuple(_put_together(family, of) for family, of in of_family.items() if len(of) > 1)


def _put_together(family: str, diagnoses: tuple[Diagnosis, ...]) -> SideBySide:
    numbers = _shown_numbers(diagnoses)
    sides = [Side(d.measurements.subject, d) if d.measurements is not None else None for d in diagnoses]
    differences: dict[tuple[int, int], tuple[Difference | None, ...]] = {}
    same: dict[tuple[int, int], bool | None] = {}
    with in_eval_mode(*(side.subject.net for side in sides if side is not None)):
        for i, j in combinations(range(len(diagnoses)), 2):
            same[i, j] = same[j, i] = _asks_the_same(sides[i], sides[j])
            differences[i, j] = _differences(diagnoses[i], diagnoses[j], sides[i], sides[j], numbers, same[i, j])
            differences[j, i] = tuple(row and _the_other_way(row) for row in differences[i, j])
    return SideBySide(family, diagnoses, numbers, differences, same)


def _shown_numbers(diagnoses: Sequence[Diagnosis]) -> tuple[NumberOfAll, ...]:
    """Numbers without a site that decide for any of the checkpoints, and all accuracies."""
    rows = [{(e.name, e.split): e for e in d.evidence if not e.site} for d in diagnoses]
    shown = dict.fromkeys(
        key for of_one in rows for key, e in of_one.items() if e.decides or e.name == "accuracy"
    )  # in order of first appearance
    return tuple(
        NumberOfAll(
            name=name,
            split=split,
            decides=any(of_one[name, split].decides for of_one in rows if (name, split) in of_one),
            values=tuple(of_one.get((name, split)) for of_one in rows),
        )
        for name, split in shown
    )


def _asks_the_same(a: Side | None, b: Side | None) -> bool | None:
    return None if a is None or b is None else ask_the_same(a, b)


def _differences(
    a: Diagnosis,
    b: Diagnosis,
    side_a: Side | None,
    side_b: Side | None,
    numbers: Sequence[NumberOfAll],
    same_questions: bool | None,
) -> tuple[Difference | None, ...]:
    """The differences b - a, one for each of the numbers."""

    def hits_of(row: Evidence) -> HitsOfBoth | None:
        return (
            paired_hits(side_a, side_b, row) if same_questions and side_a is not None and side_b is not None else None
        )

    found = {
        (row.name, row.split): row
        for row in compare_numbers(
            _with_only(a, numbers),
            _with_only(b, numbers),
            hits_of,
            may_be_same_queries=same_questions is not False,
        )
    }
    return tuple(found.get((number.name, number.split)) for number in numbers)


def _with_only(diagnosis: Diagnosis, numbers: Sequence[NumberOfAll]) -> Diagnosis:
    """The diagnosis with no other rows than those shown, and no shares of outcomes."""
    shown = {(number.name, number.split, "") for number in numbers}
    rows = tuple(row for row in diagnosis.evidence if (row.name, row.split, row.site) in shown)
    return diagnosis.model_copy(update={"evidence": rows, "outcomes": ()})


def _the_other_way(row: Difference) -> Difference:
    """The difference a - b instead of b - a: every interval of ours is the same seen from the other side."""

    def negated(value: float | None) -> float | None:
        return None if value is None else -value

    return replace(
        row,
        a=row.b,
        b=row.a,
        difference=negated(row.difference),
        low=negated(row.high),
        high=negated(row.low),
        n_a=row.n_b,
        n_b=row.n_a,
    )
