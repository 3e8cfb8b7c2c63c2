"""Transfer to new facts: what a net finetuned on facts it never saw does when they are composed with old ones.

Source: [He] arXiv 2601.09049, figure 5, and its released preprocess_training_data.ipynb. A net was trained on a base
task; now it learns new facts over the same vocabulary, each with a head and relation that stood together in none.

1. New facts: random (h, r) pairs that no fact of the base has, each with a uniformly random tail.
2. Kept items: old facts in random order, each with *every* old training query that uses it on either hop, as long as
   all of that fits the number of items to keep. (Closed: no kept fact has lost a query.)
3. The finetuning set is the new facts and, with closed retention, the kept items; no query composes a new fact.

It is a two-hop task whose OOD facts are the new ones, so that everything reads as usual:

| split | hop 1 | hop 2 | in training? |
|---|---|---|---|
| atomic_id | an old fact | | those that are kept |
| atomic_ood | a new fact | | always |
| train_inferred | old | old | those that are kept; the base trained on all of them |
| test_id | old | old | never, neither here nor in the base |
| hop1_ood | new | old | never |
| hop2_ood | old | new | never |
| test_ood | new | new | never |

`atomic_id` says which old facts are kept, for those that are not may be forgotten: that code asks new facts with kept
ones only. What is forgotten is read on the `train_inferred` queries that are not in training.

Deviations from the released code: *old* means the base's ID facts and their ID-ID queries, so that the finetuning set
and the questions are the same whatever augmentation the base had (that code keeps OOD facts and their queries, too,
one twentieth of its facts); new facts are drawn one by one, not in chains of two; the kept items are at most as many as
asked for, not exactly; new facts are asked with all old ones; and no split is cut short.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Int

from circuit_lab.errors import InputError
from circuit_lab.tasks.certificate import certify, chance_accuracy, mark_in_training
from circuit_lab.tasks.fact_graph import FactGraph, find_facts
from circuit_lab.tasks.queries import Queries, concatenate
from circuit_lab.tasks.stable_random import Purpose, permutation, raw_draws, rounded_share
from circuit_lab.tasks.transfer_config import TransferConfig
from circuit_lab.tasks.two_hop import TWO_HOP_SPLITS, TwoHopTask

NEVER_TRAINED = ("test_id", "hop1_ood", "hop2_ood", "test_ood")
"""The splits that no training item comes from."""


def build_transfer_task(config: TransferConfig) -> TwoHopTask:
    """Build the transfer task that `config` describes; equal configs give equal tasks on every machine.

    Args:
        config: The base's settings, and how many facts are new and how many items kept.

    Returns:
        The task. Too few free (h, r) pairs, too few kept items, and a split left empty are each an InputError.

    >>> build_transfer_task(TransferConfig(n_entities=30, n_relations=12, out_degree=10, new_per_entity=2.0))
    TwoHopTask(30 entities, 345 facts of which 60 OOD, 298 training items, 120 test_ood, clean)
    """
    task = _Transfer(config, TwoHopTask.from_config(config.base))
    training = task.training
    splits = {name: mark_in_training(queries, training) for name, queries in task.splits.items()}
    assert tuple(splits) == TWO_HOP_SPLITS
    facts, is_new = torch.from_numpy(task.graph.facts), torch.from_numpy(task.graph.is_ood)
    return TwoHopTask(
        config=config,
        vocab=task.base.vocab,
        facts=facts,
        is_ood=is_new,
        splits=MappingProxyType(splits),
        training=training,
        chance=MappingProxyType(
            {name: chance_accuracy(split, training, n_answers=config.n_entities) for name, split in splits.items()}
        ),
        certificate=certify(facts=facts, is_ood=is_new, splits=splits, training=training, held_out=NEVER_TRAINED),
    )


@dataclass(frozen=True, eq=False)
class _Transfer:
    """What is drawn, as rows of the graph of the old and the new facts."""

    config: TransferConfig
    base: TwoHopTask

    @cached_property
    def graph(self) -> FactGraph:
        """The base's ID facts and, marked as OOD, the new ones."""
        old = self.base.facts[~self.base.is_ood].numpy()
        new = self._new_facts()
        facts = np.concatenate([old, new])
        order = np.lexsort((facts[:, 1], facts[:, 0]))
        is_new = np.arange(len(facts)) >= len(old)
        return FactGraph.from_facts(facts[order], is_new[order], pad_token=self.base.pad_token)

    def _new_facts(self) -> Int[np.ndarray, "n_new 3"]:
        config, known = self.config, self.base.facts.numpy()
        n_new = rounded_share(config.new_per_entity, config.n_entities)
        is_free = np.ones((config.n_entities, config.n_relations), dtype=bool)
        is_free[known[:, 0], known[:, 1] - config.n_entities] = False
        heads, relations = np.nonzero(is_free)
        if n_new > len(heads):
            raise InputError(
                f"new_per_entity = {config.new_per_entity:g} asks for {n_new} new facts, but of the {is_free.size} "
                f"pairs of {config.n_entities} entities with {config.n_relations} relations only {len(heads)} are in "
                f"no fact of the base; set it to at most {config.n_relations - config.out_degree}, or raise n_relations"
            )
        chosen = permutation(len(heads), seed=config.seed, purpose=Purpose.NEW_FACTS)[:n_new]
        draws = raw_draws(n_new, seed=config.seed, purpose=Purpose.NEW_TAILS)
        tails = (draws % np.uint64(config.n_entities)).astype(np.int64)
        return np.stack([heads[chosen], config.n_entities + relations[chosen], tails], axis=1)

    @cached_property
    def old_rows(self) -> Int[np.ndarray, " n_base_facts"]:
        """Row of each fact of the base in the graph; none for its OOD facts."""
        heads, relations = self.base.facts[:, :2].T.numpy()
        return find_facts(self.graph.facts, heads, relations)

    def _pair_rows(self, split: str) -> Int[np.ndarray, " n"]:
        """Rows of `graph.pairs` that the queries of a split of the base are."""
        n_facts = len(self.graph.facts)
        asked = self.old_rows[self.base.splits[split].facts.numpy()] @ [n_facts, 1]
        return np.searchsorted(self.graph.pairs @ [n_facts, 1], asked)

    @cached_property
    def kept(self) -> "Kept":
        """The facts and queries that closed retention keeps."""
        old_facts = np.flatnonzero(~self.graph.is_ood)
        order = old_facts[permutation(len(old_facts), seed=self.config.seed, purpose=Purpose.KEPT_FACTS)]
        budget = rounded_share(self.config.kept_per_new, int(self.graph.is_ood.sum()))
        old_pairs = self._pair_rows("train_inferred")
        kept = keep_closed(order, self.graph.pairs[old_pairs], n_facts=len(self.graph.facts), budget=budget)
        if not kept.facts.any() or not kept.pairs.any():
            raise InputError(
                f"kept_per_new = {self.config.kept_per_new:g} keeps {budget} items, too few for one old fact with all "
                "queries that use it; raise kept_per_new or new_per_entity"
            )
        return Kept(kept.facts, np.isin(np.arange(len(self.graph.pairs)), old_pairs[kept.pairs]))

    @property
    def training(self) -> Queries:
        """The finetuning set."""
        graph = self.graph
        if self.config.retention == "closed":
            single = graph.atomic_queries(np.flatnonzero(self.kept.facts | graph.is_ood))
            training = concatenate([single, graph.two_hop_queries(np.flatnonzero(self.kept.pairs))])
        else:
            training = graph.atomic_queries(np.flatnonzero(graph.is_ood))
        return replace(training, in_training=torch.ones(len(training), dtype=torch.bool))

    @property
    def splits(self) -> dict[str, Queries]:
        """The questions, none marked as training items yet."""
        graph = self.graph
        rows = {
            "train_inferred": self._pair_rows("train_inferred"),
            "test_id": self._pair_rows("test_id"),
            "hop1_ood": graph.pair_rows(hop1_ood=True, hop2_ood=False),
            "hop2_ood": graph.pair_rows(hop1_ood=False, hop2_ood=True),
            "test_ood": graph.pair_rows(hop1_ood=True, hop2_ood=True),
        }
        empty = [name for name, asked in rows.items() if len(asked) == 0]
        if empty:
            raise InputError(
                f"{', '.join(empty)} has no query: {int(graph.is_ood.sum())} new facts are too few; raise "
                "new_per_entity"
            )
        return {
            "atomic_id": graph.atomic_queries(np.flatnonzero(~graph.is_ood)),
            "atomic_ood": graph.atomic_queries(np.flatnonzero(graph.is_ood)),
        } | {name: graph.two_hop_queries(asked) for name, asked in rows.items()}


@dataclass(frozen=True, eq=False)
class Kept:
    """A closed choice of old items.

    Attributes:
        facts: Which facts are kept.
        pairs: Which queries are kept.
    """

    facts: Bool[np.ndarray, " n_facts"]
    pairs: Bool[np.ndarray, " n_pairs"]


def keep_closed(
    order: Int[np.ndarray, " n"], pairs: Int[np.ndarray, "n_pairs 2"], *, n_facts: int, budget: int
) -> Kept:
    """Take facts in order, each with every query that uses it, where fact and queries still fit the budget.

    Args:
        order: Facts, in the order in which they are tried.
        pairs: Queries as (hop-1 fact, hop-2 fact).
        n_facts: Facts that there are.
        budget: Facts and queries together that are kept at most.

    Returns:
        What is kept.

    >>> kept = keep_closed(np.array([0, 1, 2]), np.array([[0, 1], [0, 0], [1, 2]]), n_facts=3, budget=5)
    >>> kept.facts.tolist(), kept.pairs.tolist()
    ([True, True, False], [True, True, True])
    """
    by_fact = np.argsort(pairs.reshape(-1), kind="stable")
    ends = np.bincount(pairs.reshape(-1), minlength=n_facts).cumsum()
    kept = Kept(np.zeros(n_facts, dtype=bool), np.zeros(len(pairs), dtype=bool))
    for fact in order:
        uses = by_fact[ends[fact - 1] if fact else 0 : ends[fact]] // 2
        brought = np.unique(uses[~kept.pairs[uses]])  # a fact may be both hops of one query
        if 1 + len(brought) <= budget:
            kept.facts[fact] = kept.pairs[brought] = True
            budget -= 1 + len(brought)
    return kept
