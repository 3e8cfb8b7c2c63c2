"""Nets finetuned on new facts: their runs, and what is measured on them.

The starts are the last checkpoints of the study `augmentation_regimes`, and a net that was trained on nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import nan
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from circuit_lab.measures import bridge_recovery, predicted_answers, proportion_interval
from circuit_lab.nets import HookedNet
from circuit_lab.studies.catalogue import find_study
from circuit_lab.studies.lab import Lab
from circuit_lab.studies.study import StudyRun
from circuit_lab.tasks import Queries, TwoHopTask, build_task
from circuit_lab.training import load_checkpoint
from circuit_lab.verdict import diagnose
from circuit_lab.verdict.two_hop.outcomes import Outcome

NEW_KEPT, KEPT_NEW, NEW_NEW = "new + kept old", "kept old + new", "new + new"
NEW_OTHER, OTHER_NEW = "new + other old", "other old + new"
NEW_FACTS, KEPT, OTHER, HELD_OUT = "new facts", "kept old + old", "other old + old", "held-out old + old"
"""What is asked. [He] asks new facts with kept old ones only; the other old facts may be forgotten, but finetuning has
not trained their answers either."""
ACCURACY, BEFORE, BRIDGE_FOUND, HOP1, HOP2 = "accuracy", "accuracy before", "bridge_found", "hop 1", "hop 2"
LEARNT = 0.9
"""Accuracy on the new facts themselves below which nothing can be asked of them."""
UNTRAINED = "untrained"
CLOSED, NOTHING = "closed", "none"

SETTINGS: Mapping[str, Any] = MappingProxyType(
    {"task.kind": "two_hop_transfer", "task.new_per_entity": 2.0, "task.kept_per_new": 8.0}
)
"""The finetuning set. [He]: one new fact for each entity, and four kept items for each of them; more here, so that at
small scale each kind of question is asked about sixty times."""
STEPS = 0.05
"""Length of a finetuning, as a share of the pretraining's. [He]: 40 k of up to 1.28 M steps, .03."""


def finetuning(seed: int, start: str, retention: Literal["closed", "none"]) -> StudyRun:
    """A run that learns new facts.

    Args:
        seed: Seed of the start, which fixes the new facts, and of the batches.
        start: The regime whose last checkpoint it starts from, or `UNTRAINED`.
        retention: Whether old items are kept: see `TransferConfig`.

    Returns:
        The run.
    """
    starts = {run.settings["task.regime"]: run for run in find_study("augmentation_regimes").runs(seed)}
    settings = {**SETTINGS, "task.retention": retention}
    parent = None if start == UNTRAINED else starts[start]
    return StudyRun("universal", f"transfer/{start}/{retention}", seed, settings, steps=STEPS, parent=parent)


def finetuned_rows(lab: Lab, run: StudyRun, *, condition: str) -> pd.DataFrame:
    """What a finetuned net does with new facts, and what it still knows of the old ones.

    Args:
        lab: The finished runs.
        run: One of them, on a transfer task.
        condition: What it is called in the study.

    Returns:
        Rows with the columns of `COLUMNS`; every value is a share in [0, 1] with its 95 % interval, nan without
        queries. `accuracy` and, of the net it started from, `accuracy before`; and of two-hop questions `bridge_found`
        ([He]: the lens), the shares of each outcome, and `hop 1` and `hop 2`: of the queries that can be tested, those
        for which most transplants work at some located site.
    """
    path = lab.last(run)
    checkpoint = load_checkpoint(path)
    task = checkpoint.task
    assert isinstance(task, TwoHopTask), "a transfer task is a two-hop task"
    diagnosis = diagnose(checkpoint)
    assert diagnosis.measurements is not None, "a fresh diagnosis has its measurements"
    start = None if run.parent is None else load_checkpoint(lab.last(run.parent)).net
    shares = []
    for question in _questions(task):
        queries = question.select(task.splits[question.split])
        named = {ACCURACY: _right(checkpoint.net, queries)}
        if start is not None:
            named[BEFORE] = _right(start, queries)
        if question.split != ATOMIC:
            named |= _tested(question.select_rows(diagnosis.measurements.queries[question.split]))
            found = bridge_recovery(checkpoint.net, queries).bridge_found if len(queries) else nan
            shares.append(_share(question.name, BRIDGE_FOUND, found, len(queries)))
        shares += [_share(question.name, name, _mean(passed), len(passed)) for name, passed in named.items()]
    return pd.DataFrame(shares).assign(condition=condition, step=lab.step(path))


ATOMIC = "atomic_ood"


@dataclass(frozen=True)
class _Question:
    """Some queries of a split, told by one of their facts.

    Attributes:
        name: What is asked.
        split: Of which split.
        fact: Columns that hold the head and the relation of the fact that decides; none where all queries are meant.
        among: Heads and relations that it must, or must not, have.
        inside: Whether it must.
    """

    name: str
    split: str
    fact: tuple[str, ...] = ()
    among: frozenset[tuple[int, ...]] = frozenset()
    inside: bool = True

    def select_rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows that are meant of a table with one row per query."""
        if not self.fact:
            return rows
        keys = zip(*(rows[column].tolist() for column in self.fact), strict=True)
        return pd.DataFrame(rows[[(key in self.among) == self.inside for key in keys]])

    def select(self, queries: Queries) -> Queries:
        """The queries that are meant."""
        return queries[torch.tensor(self.select_rows(queries.frame()).index.to_numpy())]


def _questions(task: TwoHopTask) -> list[_Question]:
    """What is asked. What is kept is the same whether this task trains on it or not."""
    kept_task = build_task(task.config.model_copy(update={"retention": CLOSED}))
    kept, old = (kept_task.splits[name] for name in ("atomic_id", "train_inferred"))
    facts = frozenset((h, r) for h, r in kept.tokens[kept.in_training, :2].tolist())
    queries = frozenset(tuple(tokens) for tokens in old.tokens[old.in_training, :3].tolist())
    first, second = ("h", "r1"), ("bridge", "r2")
    return [
        _Question(NEW_FACTS, ATOMIC),
        _Question(NEW_KEPT, "hop1_ood", second, facts),
        _Question(NEW_OTHER, "hop1_ood", second, facts, inside=False),
        _Question(KEPT_NEW, "hop2_ood", first, facts),
        _Question(OTHER_NEW, "hop2_ood", first, facts, inside=False),
        _Question(NEW_NEW, "test_ood"),
        _Question(KEPT, "train_inferred", ("h", "r1", "r2"), queries),
        _Question(OTHER, "train_inferred", ("h", "r1", "r2"), queries, inside=False),
        _Question(HELD_OUT, "test_id"),
    ]


def _right(net: HookedNet, queries: Queries) -> np.ndarray:
    return (predicted_answers(net, queries) == queries.answer).numpy()


def _tested(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Per quantity, whether it is so of each query that was tested."""
    testable = rows[rows["outcome"] != Outcome.UNTESTABLE]
    hops = {HOP1: np.asarray(testable["hop1"]), HOP2: np.asarray(testable["hop2"])}
    return hops | {str(outcome): np.asarray(rows["outcome"] == outcome) for outcome in Outcome}


def _mean(passed: np.ndarray) -> float:
    return float(passed.mean()) if len(passed) else nan


def _share(split: str, quantity: str, value: float, n: int) -> dict[str, Any]:
    """A row: a share of n queries."""
    interval = proportion_interval(round(value * n) if n else 0, n)
    low, high = (interval.low, interval.high) if n else (nan, nan)
    return {"split": split, "quantity": quantity, "value": value, "n": n, "low": low, "high": high}


def value_of(rows: pd.DataFrame, condition: str, split: str, quantity: str) -> float:
    """The number of one condition; nan where there is none, or where the net has not learnt the new facts themselves.

    Args:
        rows: The measurements of one seed.
        condition: As in `finetuned_rows`, and so for what follows.
        split: Which questions.
        quantity: What was measured.

    Returns:
        A share in [0, 1], or nan.
    """
    of_condition = rows[rows["condition"] == condition]
    columns = (of_condition[column].tolist() for column in ("split", "quantity", "value"))
    shares = {(of, what): float(value) for of, what, value in zip(*columns, strict=True)}
    return shares.get((split, quantity), nan) if shares.get((NEW_FACTS, ACCURACY), nan) >= LEARNT else nan
