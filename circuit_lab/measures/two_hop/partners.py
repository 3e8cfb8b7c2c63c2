"""Partner queries for the causal tests: who lends a state to whom, and which answer must follow.

All partners come from a *pool*: training queries that the net answers right, both of whose facts are ID. Each rule
keeps the source's own second relation different from the receiver's, and the wanted answer different from both
queries' own answers, so that only a moved bridge, never a moved finished answer, can pass.

For a query (h, r1, r2) -> t with bridge b:

* hop-1 receivers (h'', r1'', r2'') -> t'' with bridge b'' != b and (b, r2'') a known fact: wanted (b, r2'').
* hop-2 sources (h', r1', r2') -> t' with the same bridge b from another fact: wanted t.
* interchange sources with another bridge b' and (b', r2) a known fact: wanted (b', r2).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuit_lab.tasks import Queries

N_CANDIDATES = 512
"""Pool queries looked at per query; the first `n_partners` that satisfy the rule are used."""
NONE = -1
"""Stands where a query has fewer than `n_partners` partners."""
_QUERIES_AT_ONCE = 8192  # bounds each [queries, candidates] matrix to 32 MB


@dataclass(frozen=True, eq=False)
class Partners:
    """Partners of each query.

    Attributes:
        rows: Row of each partner in the pool; `NONE` where there are too few.
        wanted: The answer that the receiver of the state must give to pass; `NONE` likewise.
    """

    rows: Int[Tensor, "n n_partners"]
    wanted: Int[Tensor, "n n_partners"]

    @property
    def exists(self) -> Bool[Tensor, "n n_partners"]:
        """Where there is a partner."""
        return self.rows != NONE

    def __getitem__(self, queries: Int[Tensor, " some"]) -> "Partners":
        """The partners of some of the queries."""
        return Partners(rows=self.rows[queries], wanted=self.wanted[queries])


@dataclass(frozen=True, eq=False)
class Fitness:
    """Which queries of a pool are fit to be partners.

    Attributes:
        lends: Those that hand on their bridge.
        receives: Those that read the bridge put into them.
    """

    lends: Bool[Tensor, " pool"]
    receives: Bool[Tensor, " pool"]


class PartnerPool:
    """The pool, indexed for drawing: shuffled once, grouped by bridge, with the facts that its queries use."""

    def __init__(self, pool: Queries, *, generator: torch.Generator, fitness: Fitness | None = None) -> None:
        if len(pool) == 0:
            raise ValueError("the partner pool is empty: the net answers no training query right")
        shuffled = torch.randperm(len(pool), generator=generator)
        by_bridge = shuffled[pool.intermediates["bridge"][shuffled].sort(stable=True).indices]
        everyone = torch.ones(len(pool), dtype=torch.bool)
        self.queries = pool
        self.generator = generator
        self.fitness = Fitness(lends=everyone, receives=everyone) if fitness is None else fitness
        self._shuffled, self._by_bridge = shuffled, by_bridge
        n_tokens = int(max(pool.tokens.max(), pool.answer.max())) + 1
        bridge = pool.intermediates["bridge"]
        self._group_size = torch.bincount(bridge, minlength=n_tokens)
        self._group_start = self._group_size.cumsum(0) - self._group_size
        self._tail = torch.full((n_tokens, n_tokens), NONE, dtype=torch.int32)
        self._tail[bridge, pool.tokens_at("r2")] = pool.answer.to(torch.int32)

    def tail(self, bridge: Int[Tensor, "..."], relation: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The tail of the fact (bridge, relation) where some pool query uses it, else `NONE`."""
        n_tokens = len(self._tail)
        inside = (bridge < n_tokens) & (relation < n_tokens)
        found = self._tail[bridge.clamp(max=n_tokens - 1), relation.clamp(max=n_tokens - 1)].long()
        return torch.where(inside, found, NONE)

    def _window(
        self, order: Int[Tensor, " pool"], start: Int[Tensor, " n"], size: Int[Tensor, " n"]
    ) -> Int[Tensor, "n candidates"]:
        """Up to `N_CANDIDATES` rows of each query's range of `order`, from a random place on, cyclically.

        `order` is a random permutation within each range, so a window of it is a draw without replacement.
        """
        n_candidates = min(N_CANDIDATES, int(size.max())) if len(size) else 0
        offset = (torch.rand(len(size), generator=self.generator) * size).long()
        steps = torch.arange(n_candidates)
        place = start[:, None] + (offset[:, None] + steps) % size.clamp(min=1)[:, None]
        rows = order[place.clamp(max=len(order) - 1)]
        return torch.where(steps < size[:, None], rows, NONE)

    def _any_candidates(self, n: int) -> Int[Tensor, "n candidates"]:
        whole = torch.full((n,), len(self.queries))
        return self._window(self._shuffled, torch.zeros(n, dtype=torch.long), whole)

    def _same_bridge_candidates(self, bridge: Int[Tensor, " n"]) -> Int[Tensor, "n candidates"]:
        known = bridge < len(self._group_size)
        inside = torch.where(known, bridge, 0)
        return self._window(self._by_bridge, self._group_start[inside], torch.where(known, self._group_size[inside], 0))

    def _first(
        self,
        rows: Int[Tensor, "n candidates"],
        wanted: Int[Tensor, "n candidates"],
        fits: Bool[Tensor, "n candidates"],
        n: int,
    ) -> Partners:
        """The first `n` candidates that fit, padded with `NONE`."""
        if rows.shape[1] < n:
            pad = (0, n - rows.shape[1])
            rows, wanted, fits = (
                torch.nn.functional.pad(x, pad, value=v) for x, v in ((rows, NONE), (wanted, NONE), (fits, False))
            )
        fits = fits & (rows != NONE)
        order = (~fits).to(torch.uint8).sort(dim=1, stable=True).indices[:, :n]
        chosen = fits.gather(1, order)
        return Partners(
            rows=torch.where(chosen, rows.gather(1, order), NONE),
            wanted=torch.where(chosen, wanted.gather(1, order), NONE),
        )

    def hop1_receivers(self, queries: Queries, *, n_partners: int) -> Partners:
        """Receivers into which each query's state must carry its bridge."""

        def draw(part: Queries) -> Partners:
            rows = self._any_candidates(len(part))
            relation, answer = self.queries.tokens_at("r2")[rows], self.queries.answer[rows]
            bridge = part.intermediates["bridge"][:, None]
            wanted = self.tail(bridge, relation)
            fits = (wanted != NONE) & (self.queries.intermediates["bridge"][rows] != bridge)
            fits &= (relation != part.tokens_at("r2")[:, None]) & (wanted != answer) & (wanted != part.answer[:, None])
            fits &= self.fitness.receives[rows]
            return self._first(rows, wanted, fits, n_partners)

        return _in_parts(draw, queries)

    def hop2_sources(self, queries: Queries, *, n_partners: int) -> Partners:
        """Sources with the same bridge, through another first-hop fact, that must leave each query's right answer."""

        def draw(part: Queries) -> Partners:
            rows = self._same_bridge_candidates(part.intermediates["bridge"])
            wanted = part.answer[:, None].expand_as(rows)
            fits = self.queries.facts[rows, 0] != part.facts[:, :1]
            fits &= self.queries.tokens_at("r2")[rows] != part.tokens_at("r2")[:, None]
            fits &= (self.queries.answer[rows] != wanted) & self.fitness.lends[rows]
            return self._first(rows, wanted, fits, n_partners)

        return _in_parts(draw, queries)

    def interchange_sources(self, queries: Queries, *, n_partners: int) -> Partners:
        """Sources with another bridge b', which must turn each query's answer into (b', r2)."""

        def draw(part: Queries) -> Partners:
            rows = self._any_candidates(len(part))
            source_bridge, own_relation = self.queries.intermediates["bridge"][rows], part.tokens_at("r2")[:, None]
            wanted = self.tail(source_bridge, own_relation)
            fits = (wanted != NONE) & (source_bridge != part.intermediates["bridge"][:, None])
            fits &= (self.queries.tokens_at("r2")[rows] != own_relation) & (wanted != self.queries.answer[rows])
            fits &= (wanted != part.answer[:, None]) & self.fitness.lends[rows]
            return self._first(rows, wanted, fits, n_partners)

        return _in_parts(draw, queries)

    def same_bridge_other_tokens(self, queries: Queries, *, n_partners: int) -> Partners:
        """Queries with the same bridge but neither the same head entity nor the same first relation."""

        def draw(part: Queries) -> Partners:
            rows = self._same_bridge_candidates(part.intermediates["bridge"])
            fits = self.queries.tokens_at("h")[rows] != part.tokens_at("h")[:, None]
            fits &= self.queries.tokens_at("r1")[rows] != part.tokens_at("r1")[:, None]
            return self._first(rows, part.answer[:, None].expand_as(rows), fits, n_partners)

        return _in_parts(draw, queries)


def _in_parts(draw: Callable[[Queries], Partners], queries: Queries) -> Partners:
    """Draw for a bounded number of queries at a time."""
    parts = [
        draw(queries[start : start + _QUERIES_AT_ONCE]) for start in range(0, max(len(queries), 1), _QUERIES_AT_ONCE)
    ]
    return Partners(rows=torch.cat([p.rows for p in parts]), wanted=torch.cat([p.wanted for p in parts]))
