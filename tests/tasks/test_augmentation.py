"""The augmentation rule, by hand, against the released code's output, and as properties."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from circuit_lab.tasks import Augmentation, FactGraph, TwoHopConfig, augmentation_rows, build_task, read_dataset_folder

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = {"n_entities": 15, "n_relations": 6, "out_degree": 5, "ood_share": 0.3, "seed": 4}


def graph_of(task):
    return FactGraph.from_facts(task.facts.numpy(), task.is_ood.numpy(), pad_token=task.pad_token)


def full(k):
    return Augmentation(ratio=1.0, samples_per_fact=k)


def test_additions_by_hand():
    # As in test_fact_graph: the one test_ood query is facts (1, 4). Fact 1 continues in the ID fact 5 (row 3 of the
    # pairs); fact 4 follows the ID fact 2 (row 4). Fact 3 is OOD too, but in no test_ood query.
    facts = np.array([[0, 4, 1], [0, 5, 2], [1, 4, 2], [1, 5, 3], [2, 4, 3], [2, 5, 0], [3, 4, 0], [3, 5, 1]])
    is_ood = np.array([False, True, False, True, True, False, False, False])
    graph = FactGraph.from_facts(facts, is_ood, pad_token=6)
    assert augmentation_rows(graph, full(1), hop=0, seed=0).tolist() == [3]
    assert augmentation_rows(graph, full(18), hop=1, seed=0).tolist() == [4]
    assert augmentation_rows(graph, full(0), hop=0, seed=0).tolist() == []
    nothing = Augmentation(ratio=0.0, samples_per_fact=18)
    assert augmentation_rows(graph, nothing, hop=1, seed=0).tolist() == []


@pytest.mark.parametrize("hop", [0, 1])
def test_full_augmentation_adds_what_the_released_code_added(hop):
    natural, full_folder = (read_dataset_folder(GOLDEN / f"two_hop_{name}") for name in ("natural", "both_full"))
    graph = graph_of(natural)
    ours = graph.two_hop_queries(augmentation_rows(graph, full(18), hop=hop, seed=0))
    theirs = full_folder.splits[("hop1_ood", "hop2_ood")[hop]]
    theirs = theirs[theirs.in_training]
    assert len(ours) == (124, 133)[hop]
    assert set(map(tuple, ours.tokens.tolist())) == set(map(tuple, theirs.tokens.tolist()))


@pytest.mark.parametrize(("hop", "fewest", "most"), [(0, 6, 7), (1, 4, 12)])
def test_released_augmentation_follows_the_rule(hop, fewest, most):
    task = read_dataset_folder(GOLDEN / "two_hop_both_full")
    queries = task.splits[("hop1_ood", "hop2_ood")[hop]]
    added = Counter(queries[queries.in_training].facts[:, hop].tolist())
    assert set(added) == set(task.splits["test_ood"].facts[:, hop].tolist())
    assert (len(added), min(added.values()), max(added.values())) == (19, fewest, most)
    # No fact reaches 18, so each has all its ID continuations.
    possible = Counter(queries.facts[:, hop].tolist())
    assert added == {fact: possible[fact] for fact in added}


@pytest.mark.parametrize("hop", [0, 1])
@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("ratio", [0.4, 1.0])
def test_each_augmented_fact_gets_k_or_all_it_can(hop, k, ratio):
    task = build_task(TwoHopConfig(**SIZES))
    graph = graph_of(task)
    pairs = graph.pairs[augmentation_rows(graph, Augmentation(ratio=ratio, samples_per_fact=k), hop=hop, seed=4)]
    assert len(np.unique(pairs, axis=0)) == len(pairs)
    assert not graph.is_ood[pairs[:, 1 - hop]].any()
    eligible = set(task.splits["test_ood"].facts[:, hop].tolist())
    possible = Counter(task.splits[("hop1_ood", "hop2_ood")[hop]].facts[:, hop].tolist())
    added = Counter(pairs[:, hop].tolist())
    assert set(added) <= eligible
    assert all(count == min(k, possible[fact]) for fact, count in added.items())
    n_expected = int(np.ceil(round(ratio * len(eligible), 6)))
    n_without_partner = sum(possible[fact] == 0 for fact in eligible)
    assert n_expected - n_without_partner <= len(added) <= n_expected


@pytest.mark.parametrize("hop", [0, 1])
def test_more_augmentation_adds_to_less(hop):
    graph = graph_of(build_task(TwoHopConfig(**SIZES)))
    series = [(0.3, 1), (0.3, 2), (0.7, 2), (1.0, 2), (1.0, 18)]
    added = [
        set(augmentation_rows(graph, Augmentation(ratio=ratio, samples_per_fact=k), hop=hop, seed=1).tolist())
        for ratio, k in series
    ]
    assert all(less < more for less, more in pairwise(added))


def test_partners_are_drawn_anew_by_another_seed():
    graph = graph_of(build_task(TwoHopConfig(**SIZES)))
    assert len({tuple(augmentation_rows(graph, full(1), hop=0, seed=seed)) for seed in range(5)}) == 5


def test_regimes_mark_their_additions():
    marked = {
        regime: [
            build_task(TwoHopConfig(**SIZES, regime=regime)).certificate.n_in_training[split]
            for split in ("hop1_ood", "hop2_ood")
        ]
        for regime in ("natural", "both_full", "both_half", "first_hop_full", "second_hop_full")
    }
    n_hop1, n_hop2 = marked["both_full"]
    assert n_hop1 > 0 and n_hop2 > 0 and n_hop1 != n_hop2
    assert marked["natural"] == [0, 0]
    assert marked["first_hop_full"] == [n_hop1, 0]
    assert marked["second_hop_full"] == [0, n_hop2]
    assert 0 < marked["both_half"][0] < n_hop1 and 0 < marked["both_half"][1] < n_hop2
