"""What two nets did with the same queries, one by one, behind the shares that their diagnoses state."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool

from circuit_lab.measures import predicted_answers
from circuit_lab.tasks import ModularTask, Queries
from circuit_lab.verdict.comparison.differences import OUTCOME, HitsOfBoth
from circuit_lab.verdict.comparison.intervals import Hits
from circuit_lab.verdict.diagnosis import Diagnosis, Evidence
from circuit_lab.verdict.subject import Subject

THROUGH_CIRCUIT = {
    "two_hop": "right answers through the bridge",
    "modular": "right answers through the key frequencies",
}
"""The share of right answers that a family's diagnosis calls `circuit`."""
_TESTS = ("hop1", "hop2", "interchange")
_RIGHT_OUTCOMES = ("circuit", "shortcut")


@dataclass(frozen=True, eq=False)
class Side:
    """One of the two checkpoints: what was diagnosed, and its diagnosis."""

    subject: Subject
    diagnosis: Diagnosis
    _right: dict[str, Bool[np.ndarray, " n"]] = field(default_factory=dict, init=False, repr=False)

    def read_queries(self, split: str) -> pd.DataFrame | None:
        """The table of the queries read of a split, one row each; None where the diagnosis keeps none."""
        return self.diagnosis.measurements.queries.get(split)

    def all_queries(self, split: str) -> Queries:
        """The queries whose accuracy is stated: of a split, or else all training items."""
        task = self.subject.task
        return task.splits.get(split, task.training)

    def right(self, split: str) -> Bool[np.ndarray, " n"]:
        """Whether the net answers each of `all_queries(split)` right; asked once."""
        if split not in self._right:
            queries = self.all_queries(split)
            self._right[split] = (predicted_answers(self.subject.net, queries) == queries.answer).numpy()
        return self._right[split]


def ask_the_same(a: Side, b: Side) -> bool:
    """Whether the same tokens mean the same question to both nets: the same facts, or the same operation."""
    tasks = a.subject.task, b.subject.task
    if isinstance(tasks[0], ModularTask) and isinstance(tasks[1], ModularTask):
        return (tasks[0].config.operation, tasks[0].config.p) == (tasks[1].config.operation, tasks[1].config.p)
    if isinstance(tasks[0], ModularTask) or isinstance(tasks[1], ModularTask):
        return False
    return tasks[0].vocab == tasks[1].vocab and torch.equal(tasks[0].facts, tasks[1].facts)


def paired_hits(a: Side, b: Side, row: Evidence) -> HitsOfBoth | None:
    """The hits behind a share, where both diagnoses read it on the same queries; else None.

    Args:
        a: The first checkpoint.
        b: The second; the same tokens must mean the same question to it (see `ask_the_same`).
        row: The share, by name, split and site.

    Returns:
        The hits of both, in the order of the queries.
    """
    frame_a, frame_b = a.read_queries(row.split), b.read_queries(row.split)
    if frame_a is not None and frame_b is not None and _same_queries(frame_a, frame_b):
        hits_a, hits_b = _hits(a, frame_a, row), _hits(b, frame_b, row)
        if hits_a is not None and hits_b is not None:
            return HitsOfBoth(hits_a, hits_b)
    return _answered_anew(a, b, row.split) if row.name == "accuracy" else None


def _same_queries(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Whether two tables hold the same questions with the same right answers, row by row."""
    columns = list(a.columns)
    asked = columns[: columns.index("answer") + 1]  # tokens, intermediates, answer
    return asked == list(b.columns)[: len(asked)] and a[asked].equals(b[asked])


def _hits(side: Side, queries: pd.DataFrame, row: Evidence) -> Hits | None:
    """The hits of one net behind a share; None where its queries' table does not say them."""
    everything = np.ones(len(queries), dtype=bool)
    if row.name == "accuracy":
        return Hits(queries["right"].to_numpy(), everything)
    if row.name.startswith(OUTCOME):
        return Hits((queries["outcome"] == row.name.removeprefix(OUTCOME)).to_numpy(), everything)
    if row.name == THROUGH_CIRCUIT[side.diagnosis.family]:
        circuit, counted = queries["outcome"] == "circuit", queries["outcome"].isin(_RIGHT_OUTCOMES)
        return Hits(circuit.to_numpy(), counted.to_numpy())
    return _hits_of_test(side, row) if row.name in _TESTS else None


def _hits_of_test(side: Side, row: Evidence) -> Hits | None:
    """The queries that pass a causal test at a site, of those that can be tested."""
    tests = side.diagnosis.measurements.tests[row.split]
    at_site = {site.label(tests.position_names): i for i, site in enumerate(tests.sites)}
    if row.site not in at_site:
        return None
    test = getattr(tests, row.name)
    return Hits(test.majority[at_site[row.site]].numpy(), test.testable.numpy())


def _answered_anew(a: Side, b: Side, split: str) -> HitsOfBoth | None:
    """Both nets' answers to a split that the diagnoses keep no table of."""
    queries_a, queries_b = a.all_queries(split), b.all_queries(split)
    if not (torch.equal(queries_a.tokens, queries_b.tokens) and torch.equal(queries_a.answer, queries_b.answer)):
        return None
    everything = np.ones(len(queries_a), dtype=bool)
    return HitsOfBoth(Hits(a.right(split), everything), Hits(b.right(split), everything))
