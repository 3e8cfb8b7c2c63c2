"""Composition against a case by hand and a double loop."""

from collections import defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from circuit_lab.tasks import NO_FACT, FactGraph
from circuit_lab.tasks.fact_graph import compose, find_facts

# Entities 0..3, relations 4 and 5, pad 6. OOD: 0-5->2, 1-5->3, 2-4->3.
FACTS = np.array([[0, 4, 1], [0, 5, 2], [1, 4, 2], [1, 5, 3], [2, 4, 3], [2, 5, 0], [3, 4, 0], [3, 5, 1]])
IS_OOD = np.array([False, True, False, True, True, False, False, False])


@pytest.fixture
def graph():
    return FactGraph.from_facts(FACTS, IS_OOD, pad_token=6)


def test_compositions_by_hand(graph):
    assert graph.pairs.tolist() == [
        [0, 2], [0, 3], [1, 4], [1, 5], [2, 4], [2, 5], [3, 6], [3, 7],
        [4, 6], [4, 7], [5, 0], [5, 1], [6, 0], [6, 1], [7, 2], [7, 3],
    ]  # fmt: skip
    assert graph.answers.tolist() == [2, 3, 3, 0, 3, 0, 0, 1, 0, 1, 1, 2, 1, 2, 2, 3]


@pytest.mark.parametrize(
    ("hop1_ood", "hop2_ood", "pairs"),
    [
        (False, False, [[0, 2], [2, 5], [5, 0], [6, 0], [7, 2]]),
        (True, False, [[1, 5], [3, 6], [3, 7], [4, 6], [4, 7]]),
        (False, True, [[0, 3], [2, 4], [5, 1], [6, 1], [7, 3]]),
        (True, True, [[1, 4]]),
    ],
)
def test_kinds_by_hand(graph, hop1_ood, hop2_ood, pairs):
    assert graph.pairs[graph.pair_rows(hop1_ood=hop1_ood, hop2_ood=hop2_ood)].tolist() == pairs


def test_queries_by_hand(graph):
    composed = graph.two_hop_queries(np.array([2, 11]))
    assert composed.tokens.tolist() == [[0, 5, 4], [2, 5, 5]]
    assert composed.intermediates["bridge"].tolist() == [2, 0]
    assert composed.answer.tolist() == [3, 2]
    assert composed.answer_position.tolist() == [2, 2]
    assert composed.facts.tolist() == [[1, 4], [5, 1]]
    atomic = graph.atomic_queries(np.array([1, 7]))
    assert atomic.tokens.tolist() == [[0, 5, 6], [3, 5, 6]]
    assert atomic.answer.tolist() == [2, 1]
    assert atomic.answer_position.tolist() == [1, 1]
    assert atomic.facts.tolist() == [[1, NO_FACT], [7, NO_FACT]]
    assert dict(atomic.intermediates) == {}
    assert not torch.cat([composed.in_training, atomic.in_training]).any()


def test_find_facts_tells_what_is_absent():
    heads, relations = np.array([3, 0, 2, 9, 0]), np.array([5, 4, 4, 4, 6])
    assert find_facts(FACTS, heads, relations).tolist() == [7, 0, 4, NO_FACT, NO_FACT]


@st.composite
def fact_tables(draw):
    """Irregular facts: some entities without any, some without a continuation."""
    keys = draw(st.sets(st.tuples(st.integers(0, 6), st.integers(7, 10)), min_size=1, max_size=20))
    return np.array([(h, r, draw(st.integers(0, 6))) for h, r in sorted(keys)])


@given(fact_tables())
def test_compositions_are_those_of_a_double_loop(facts):
    continuations = defaultdict(list)
    for row, (head, _, _) in enumerate(facts):
        continuations[head].append(row)
    expected = [[row, next_row] for row, (_, _, tail) in enumerate(facts) for next_row in continuations[tail]]
    assert compose(facts).tolist() == expected
