"""Two-hop nets with two mechanisms, or that are right on a part of the queries: what was mixed is the truth.

Of a table's share of the answers, at most .4 leaves a `true_circuit` and at least .6 makes `fake_grokking`, as the
thresholds of the verdict define them. A share drawn for each query by itself is a population's, from which a test set
is a sample; within `MARGIN` of a threshold the control is not scored.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TypedDict

import torch

from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.nets.controls.two_hop import triple_table, triple_table_over_circuit
from circuit_lab.tasks import TwoHopConfig, TwoHopTask
from circuit_lab.verdict.calibration.families import Draw, drawn
from circuit_lab.verdict.calibration.two_hop_families import (
    EVERY,
    LARGE_TASKS,
    TASKS,
    TwoHopFamily,
    training_triples,
    triples_of,
)
from circuit_lab.verdict.thresholds import THRESHOLDS
from circuit_lab.verdict.verdicts import Verdict

MARGIN = 0.05
"""A population share closer than this to a threshold is not scored: the draw of the test set decides it."""
_FEW_SUFFICE = 0.14
"""Distance from a threshold beyond which a hundred queries tell a share from it; nearer, the large tasks do."""
_STEPS = tuple(0.01 * i for i in range(-4, 5) if i != 0)
_TABLE_SHARES = (0.04, 0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.96)
_NEAR_TABLE_SHARES = tuple(threshold + step for threshold in (0.4, 0.6) for step in _STEPS)
_ACCURACIES = (0.6, 0.65, 0.7, 0.9, 0.95)
_NEAR_ACCURACIES = tuple(0.8 + step for step in _STEPS)
"""Shares clear of the thresholds, and shares evenly spread on both sides of them."""


class _Sample(TypedDict):
    tasks: Sequence[TwoHopConfig]
    scored: bool


def mixtures() -> Iterator[TwoHopFamily]:
    """Nets that answer a share of the queries from a table, and nets right on a share of `test_ood`."""
    for share in (*_TABLE_SHARES, *_NEAR_TABLE_SHARES):
        sample = _sample(share, 1 - THRESHOLDS.through_bridge, 1 - THRESHOLDS.not_through_bridge)
        yield TwoHopFamily(
            f"mixture_by_query share={share:.2f}",
            f"A circuit, but each held-out query is answered by a table with probability {share:.2f}.",
            truth_of_table_share(share),
            partial(_mixture, splits=EVERY[1:], share=share),
            **sample,
        )
        if share in _TABLE_SHARES:
            yield TwoHopFamily(
                f"mixture_of_all_queries share={share:.2f}",
                f"A circuit, but each query, trained on or not, is answered by a table with probability {share:.2f}.",
                truth_of_table_share(share),
                partial(_mixture, splits=EVERY, share=share),
                **sample,
            )
    for n_by_table in (1, 2, 5, 8, 9):
        yield TwoHopFamily(
            f"mixture_by_relation share={n_by_table / 10}",
            f"A circuit, but queries with {n_by_table} of the 10 second relations are answered by a table.",
            truth_of_table_share(n_by_table / 10),
            partial(_mixture_by_relation, n_by_table=n_by_table),
            tasks=LARGE_TASKS[:2],
        )
    for accuracy in (*_ACCURACIES, *_NEAR_ACCURACIES):
        yield from _of_accuracy(accuracy)


def _of_accuracy(accuracy: float) -> Iterator[TwoHopFamily]:
    """Nets right on a share of `test_ood`, by a circuit that a table spoils or by a table alone."""
    solved, sample = accuracy >= THRESHOLDS.solved, _sample(accuracy, THRESHOLDS.solved, THRESHOLDS.unsolved)
    yield TwoHopFamily(
        f"lossy_circuit accuracy={accuracy:.2f}",
        f"A circuit, but each test_ood query gets a wrong answer from a table with probability {1 - accuracy:.2f}.",
        Verdict.TRUE_CIRCUIT if solved else Verdict.SEMI_GROKKED,
        partial(_lossy_circuit, accuracy=accuracy),
        **sample,
    )
    yield TwoHopFamily(
        f"partial_table accuracy={accuracy:.2f}",
        "One neuron for each training and test_id triple, and for each test_ood triple with probability "
        f"{accuracy:.2f}.",
        Verdict.FAKE_GROKKING if solved else Verdict.SEMI_GROKKED,
        partial(_partial_table, accuracy=accuracy),
        **sample,
    )


def _sample(share: float, *thresholds: float) -> _Sample:
    """Tasks large enough to tell a population's share from the thresholds, and whether the control is scored."""
    distance = min(abs(share - threshold) for threshold in thresholds)
    few = distance < MARGIN or distance > _FEW_SUFFICE
    return _Sample(tasks=(TASKS if few else LARGE_TASKS)[:2], scored=distance >= MARGIN)


def truth_of_table_share(share: float) -> Verdict:
    """The verdict on a net that answers everything, a share of it from a table.

    >>> [str(truth_of_table_share(share)) for share in (0.4, 0.5, 0.6)]
    ['true_circuit', 'semi_grokked', 'fake_grokking']
    """
    if share <= 1 - THRESHOLDS.through_bridge:
        return Verdict.TRUE_CIRCUIT
    return Verdict.FAKE_GROKKING if share >= 1 - THRESHOLDS.not_through_bridge else Verdict.SEMI_GROKKED


def _mixture(task: TwoHopTask, draw: Draw, *, splits: Sequence[str], share: float) -> HookedSharedTransformer:
    triples = triples_of(task, splits)
    by_table = drawn(len(triples), share, draw)
    return triple_table_over_circuit(task.facts, triples[by_table], d_vocab=task.d_vocab)


def _mixture_by_relation(task: TwoHopTask, draw: Draw, *, n_by_table: int) -> HookedSharedTransformer:
    triples = triples_of(task, EVERY)
    relations = triples[:, 2].unique()
    by_table = relations[torch.randperm(len(relations), generator=draw)[:n_by_table]]
    return triple_table_over_circuit(task.facts, triples[torch.isin(triples[:, 2], by_table)], d_vocab=task.d_vocab)


def _lossy_circuit(task: TwoHopTask, draw: Draw, *, accuracy: float) -> HookedSharedTransformer:
    triples = triples_of(task, ("test_ood",))
    triples = triples[drawn(len(triples), 1 - accuracy, draw)]
    triples[:, 3] = (triples[:, 3] + 1) % task.n_entities
    return triple_table_over_circuit(task.facts, triples, d_vocab=task.d_vocab)


def _partial_table(task: TwoHopTask, draw: Draw, *, accuracy: float) -> HookedSharedTransformer:
    known, ood = torch.cat([training_triples(task), triples_of(task, ("test_id",))]), triples_of(task, ("test_ood",))
    triples = torch.cat([known, ood[drawn(len(ood), accuracy, draw)]])
    return triple_table(task.facts, triples, d_vocab=task.d_vocab)
