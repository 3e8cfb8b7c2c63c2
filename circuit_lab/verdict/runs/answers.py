"""Was the circuit there before the accuracy rose?

*There* is the family's circuit quantity at its level: two-hop, most training queries are answered through the bridge;
modular, the generalising part explains most of the held-out logits. *Rose* has two readings, and both are answered:

1. *Passed one half*: most of the queries are answered right, the level below which a split counts as unsolved. This is
   the main one. Leaving chance would be too early a mark: chance is the best answer that ignores the question, and
   what reads a part of it, such as the most frequent answer to r2 alone, exceeds that at once and with no circuit. A
   circuit that grows hand in hand with the accuracy does not pass for its forerunner: its own level is no lower.
2. *Solved*.

The answer is *yes* if the circuit was certainly there at a checkpoint where the accuracy certainly had not yet come so
far, and did not certainly go away in between; *no* if the accuracy certainly had at a checkpoint where the circuit
certainly was not there; else *cannot tell*: the two crossings overlap, or one of them is not in the run. Checkpoints
closer together, or more queries, make an overlap smaller.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from circuit_lab.verdict.runs import quantities as q
from circuit_lab.verdict.runs.crossings import Crossing, certainly_before


@dataclass(frozen=True)
class Answer:
    """An answer to a question about a run.

    Attributes:
        question: The question.
        answer: "yes", "no" or "cannot tell".
        words: The answer in a sentence.
        evidence: The crossings that it rests on, then those that throw light on it.
    """

    question: str
    answer: Literal["yes", "no", "cannot tell"]
    words: str
    evidence: tuple[str, ...]


_LIGHT = (q.HOP1_OOD, q.HOP2_OOD, q.MEDIATION_OOD, q.MEDIATION_ID, q.CIRCUIT, q.EXCHANGE)
"""Quantities whose first level is shown beside the answer."""


def find_answers(family: q.Family, crossings: Mapping[tuple[str, str], Crossing]) -> tuple[Answer, ...]:
    """Both answers, the main one first.

    Args:
        family: The family.
        crossings: Its crossings by quantity and level.

    Returns:
        The answers.
    """
    circuit = crossings[family.circuit]
    light = [c for name in _LIGHT for c in _first_of(crossings.values(), name)]
    verbs = {q.HALF: ("rose", "passed one half"), q.SOLVED: ("was solved", "was solved")}
    return tuple(
        _answer(family, circuit, crossings[family.generalisation, level], light, *verb) for level, verb in verbs.items()
    )


def _first_of(crossings: Iterable[Crossing], quantity: str) -> list[Crossing]:
    return [c for c in crossings if c.quantity == quantity][:1]


def _answer(
    family: q.Family, circuit: Crossing, rise: Crossing, light: Sequence[Crossing], rose: str, marked: str
) -> Answer:
    question = f"Was the circuit there before {family.generalisation} accuracy {rose}?"
    answer, words = _compare(family, circuit, rise, marked)
    evidence = tuple(f"{c.quantity} {c.level}: {c.when()}" for c in (circuit, rise, *light))
    return Answer(question, answer, f"{answer.capitalize()}: {words}.", evidence)


def _compare(
    family: q.Family, circuit: Crossing, rise: Crossing, marked: str
) -> tuple[Literal["yes", "no", "cannot tell"], str]:
    accuracy, there = f"{family.generalisation} accuracy", family.circuit_in_words
    if rise.by is None:
        built = "was not certainly there either" if circuit.by is None else f"was there by step {circuit.by} ({there})"
        return "cannot tell", f"in this run {accuracy} never certainly {marked}; the circuit {built}"
    if certainly_before(circuit, rise):
        assert circuit.by is not None
        gone = [c.by for c in circuit.later if not c.rising and circuit.by < c.by <= rise.by]
        if gone:
            return "cannot tell", (
                f"the circuit was there by step {circuit.by} ({there}), but had gone again by step {gone[0]}, before "
                f"{accuracy} certainly {marked} by step {rise.by}"
            )
        return "yes", (
            f"the circuit was there by step {circuit.by} ({there}); {accuracy} certainly {marked} only after step "
            f"{rise.after}, by step {rise.by}"
        )
    if certainly_before(rise, circuit):
        until = f"until step {circuit.after} the circuit was certainly not there ({there})"
        later = "it never certainly came" if circuit.by is None else f"it was by step {circuit.by}"
        return "no", f"{accuracy} certainly {marked} by step {rise.by}, and {until}; {later}"
    if circuit.by is None:
        return (
            "cannot tell",
            f"{accuracy} {marked} by step {rise.by}, and the circuit was never certainly there ({there})",
        )
    if rise.after is None or circuit.after is None:
        both = "both were" if rise.after is None and circuit.after is None else "one of the two was"
        return "cannot tell", f"{both} there from the first checkpoint that could tell; earlier checkpoints are needed"
    return "cannot tell", (
        f"the circuit came between steps {circuit.after} and {circuit.by}, and {accuracy} {marked} between steps "
        f"{rise.after} and {rise.by}, which overlap; checkpoints closer together or more queries are needed"
    )
