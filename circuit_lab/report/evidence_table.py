"""The evidence of a diagnosis as a page shows it: each row with an anchor and the line of Python that recomputes it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

from circuit_lab.verdict import Diagnosis, Evidence
from circuit_lab.verdict.settings import Settings


@dataclass(frozen=True)
class EvidenceRow:
    """One row of the table.

    Attributes:
        id: Its anchor in the page, such as "c1-e7".
        evidence: The number.
    """

    id: str
    evidence: Evidence


@dataclass(frozen=True)
class Sentence:
    """A reason, with the rows of evidence that it rests on.

    Attributes:
        words: The sentence.
        rows: Numbers of its rows, from 0; empty for a sentence without numbers.
    """

    words: str
    rows: tuple[int, ...]


def evidence_rows(diagnosis: Diagnosis, section: str) -> tuple[EvidenceRow, ...]:
    """The rows of the table.

    Args:
        diagnosis: The diagnosis.
        section: Id of its section in the page, such as "c1".

    Returns:
        One row per number, in the order of the diagnosis.
    """
    return tuple(EvidenceRow(f"{section}-e{number}", evidence) for number, evidence in enumerate(diagnosis.evidence))


def sentences(diagnosis: Diagnosis) -> tuple[Sentence, ...]:
    """The reasons, each with its rows."""
    return tuple(Sentence(*pair) for pair in zip(diagnosis.reasons, diagnosis.rests_on, strict=True))


def recomputing_line(diagnosis: Diagnosis, row: Evidence) -> str:
    """The line of Python that gives a row of the evidence anew, with the settings that are not `diagnose`'s own.

    A page's script writes the same from `diagnosing_call`, to keep the page small; a test holds it to this one.

    Args:
        diagnosis: The diagnosis. One of a net in memory has no path: its line says `(net, task)`.
        row: One of its rows.

    Returns:
        An expression; `circuit_lab` must be imported.
    """
    place: Sequence[str] = (row.name, row.split, row.site) if row.site else (row.name, row.split)
    return f"{diagnosing_call(diagnosis)}.number({', '.join(map(_quoted, place))})"


def diagnosing_call(diagnosis: Diagnosis) -> str:
    """The call that makes a diagnosis anew.

    Args:
        diagnosis: The diagnosis.

    Returns:
        An expression.
    """
    subject = "(net, task)" if diagnosis.step is None else _quoted(diagnosis.source)
    changed = (
        f"{field.name}={getattr(diagnosis, field.name)}"
        for field in fields(Settings)
        if getattr(diagnosis, field.name) != field.default
    )
    return f"circuit_lab.diagnose({', '.join((subject, *changed))})"


def _quoted(text: str) -> str:
    r"""A Python string literal in double quotes: JSON's escapes are Python's.

    >>> print(_quoted('a "b"'))
    "a \"b\""
    """
    return json.dumps(text, ensure_ascii=False)
