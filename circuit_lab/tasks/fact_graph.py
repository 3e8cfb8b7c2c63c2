"""Atomic facts as a graph, and every two-hop query that their composition gives.

A two-hop query (h, r1, r2) -> t with bridge b exists where (h, r1, b) and (b, r2, t) are both facts. Facts are
sorted by (h, r) and compositions by (hop-1 fact, hop-2 fact), so that equal data has one order only.
"""

from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Bool, Int

from circuit_lab.tasks.queries import NO_FACT, Queries

POSITION_NAMES = ("h", "r1", "r2")


def find_facts(
    facts: Int[np.ndarray, "n_facts 3"], heads: Int[np.ndarray, " n"], relations: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """Row of the fact with each (head, relation), `NO_FACT` where there is none; facts sorted by (h, r)."""
    base = 1 + max(int(column.max(initial=0)) for column in (facts, heads, relations))
    keys, wanted = facts[:, 0] * base + facts[:, 1], heads * base + relations
    rows = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[rows] == wanted, rows, NO_FACT)


def compose(facts: Int[np.ndarray, "n_facts 3"]) -> Int[np.ndarray, "n_pairs 2"]:
    """All (hop-1 fact, hop-2 fact) rows in which the first fact's tail is the second one's head.

    Args:
        facts: Rows (h, r, t), sorted by (h, r).

    Returns:
        Pairs of rows of `facts`, sorted.
    """
    heads, tails = np.ascontiguousarray(facts[:, 0]), facts[:, 2]
    first_continuation = np.searchsorted(heads, tails, side="left")
    n_continuations = np.searchsorted(heads, tails, side="right") - first_continuation
    hop1 = np.repeat(np.arange(len(facts)), n_continuations)
    pairs_before = np.cumsum(n_continuations) - n_continuations
    rank_in_fact = np.arange(len(hop1)) - np.repeat(pairs_before, n_continuations)
    return np.stack([hop1, first_continuation[hop1] + rank_in_fact], axis=1)


@dataclass(frozen=True, eq=False)
class FactGraph:
    """The facts and all their compositions, in numpy, before anything is split.

    Attributes:
        facts: Token ids (h, r, t), sorted by (h, r).
        is_ood: True for the OOD facts.
        pairs: All compositions as rows of `facts`, sorted.
        answers: The answer given for each composition; the hop-2 tail unless answers were shuffled.
        pad_token: Token id that fills an atomic query's third position.
    """

    facts: Int[np.ndarray, "n_facts 3"]
    is_ood: Bool[np.ndarray, " n_facts"]
    pairs: Int[np.ndarray, "n_pairs 2"]
    answers: Int[np.ndarray, " n_pairs"]
    pad_token: int

    @classmethod
    def from_facts(
        cls, facts: Int[np.ndarray, "n_facts 3"], is_ood: Bool[np.ndarray, " n_facts"], *, pad_token: int
    ) -> "FactGraph":
        """The graph of these facts with every composition answered rightly."""
        pairs = compose(facts)
        return cls(facts, is_ood, pairs, facts[pairs[:, 1], 2], pad_token)

    @cached_property
    def pair_is_ood(self) -> Bool[np.ndarray, "n_pairs 2"]:
        """Whether each hop of each composition is OOD."""
        return self.is_ood[self.pairs]

    def pair_rows(self, *, hop1_ood: bool, hop2_ood: bool) -> Int[np.ndarray, " n"]:
        """Rows of `pairs` whose hops are ID or OOD as asked, ascending."""
        return np.flatnonzero((self.pair_is_ood == (hop1_ood, hop2_ood)).all(axis=1))

    def atomic_queries(self, fact_rows: Int[np.ndarray, " n"]) -> Queries:
        """One-hop queries (h, r, <pad>) -> t of these facts, none marked as training items."""
        facts = self.facts[fact_rows]
        pad = np.full(len(facts), self.pad_token)
        no_fact = np.full(len(facts), NO_FACT)
        return Queries(
            tokens=torch.from_numpy(np.stack([facts[:, 0], facts[:, 1], pad], axis=1)),
            answer=torch.from_numpy(facts[:, 2].copy()),
            answer_position=torch.full((len(facts),), 1),
            facts=torch.from_numpy(np.stack([fact_rows, no_fact], axis=1)),
            in_training=torch.zeros(len(facts), dtype=torch.bool),
            position_names=POSITION_NAMES,
        )

    def two_hop_queries(self, pair_rows: Int[np.ndarray, " n"]) -> Queries:
        """Two-hop queries (h, r1, r2) of these rows of `pairs`, none marked as training items."""
        pairs = self.pairs[pair_rows]
        hop1, hop2 = self.facts[pairs[:, 0]], self.facts[pairs[:, 1]]
        return Queries(
            tokens=torch.from_numpy(np.stack([hop1[:, 0], hop1[:, 1], hop2[:, 1]], axis=1)),
            answer=torch.from_numpy(self.answers[pair_rows]),
            answer_position=torch.full((len(pairs),), 2),
            facts=torch.from_numpy(pairs),
            in_training=torch.zeros(len(pairs), dtype=torch.bool),
            position_names=POSITION_NAMES,
            intermediates=MappingProxyType({"bridge": torch.from_numpy(hop1[:, 2].copy())}),
        )
