"""Pairs of a clean and a corrupt query that differ in one thing, for patching between their runs.

A corruption changes one token into another that makes a real query with another answer: another head entity, another
first relation, another second relation; or it is a control:

* `same_bridge`, a placebo: another first-hop fact to the same bridge and the same second relation, so the same answer.
  What a patch between such runs changes is not the answer's computation.
* `noise`: the same tokens, with Gaussian noise on the embeddings of some positions (the corruption of causal tracing,
  Meng et al., arXiv 2202.05262), here with the standard deviation of the embedding's entries times `scale`.

Corrupt queries come from a pool of real queries: an invented triple (h', r1, r2) may have no answer at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from circuit_lab.measures.hooked_model import FwdHooks, HookedModel, embedding_scale
from circuit_lab.tasks import Queries

DIRECTIONS = ("denoising", "noising")
"""Clean into corrupt, and corrupt into clean."""
SAME_BRIDGE = "same_bridge"
NOISE = "noise"
_N_CANDIDATES = 64
"""Pool queries tried per query, from a random place on; more than the out-degree of any of our tasks."""


@dataclass(frozen=True, eq=False)
class QueryPairs:
    """Clean and corrupt queries, row by row.

    Attributes:
        clean: The queries under test.
        corrupt: What each is paired with; the same queries under `noise`.
        corruption: What differs: the name of a position, "same_bridge", "noise", or a word of the caller's.
        noise: Added to the embedding of each position in the corrupt run; None for none.
        n_dropped: Queries left out because the pool has no partner for them.
    """

    clean: Queries
    corrupt: Queries
    corruption: str
    noise: Float[Tensor, "n n_ctx d_model"] | None = None
    n_dropped: int = 0

    def __post_init__(self) -> None:
        """Refuse queries that cannot be paired."""
        shapes = tuple(self.clean.tokens.shape), tuple(self.corrupt.tokens.shape)
        if shapes[0] != shapes[1]:
            raise ValueError(f"clean and corrupt queries must pair up, got tokens of shape {shapes[0]} and {shapes[1]}")
        if self.noise is not None and tuple(self.noise.shape[:2]) != shapes[0]:
            raise ValueError(f"noise must be [n, n_ctx, d_model] for tokens {shapes[0]}, got {list(self.noise.shape)}")

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: Tensor | slice) -> "QueryPairs":
        """The pairs at `rows`, in that order."""
        noise = None if self.noise is None else self.noise[rows]
        return QueryPairs(self.clean[rows], self.corrupt[rows], self.corruption, noise, self.n_dropped)


def pair_queries(queries: Queries, pool: Queries, *, change: str, generator: torch.Generator) -> QueryPairs:
    """Pair each query with a random one of the pool that differs in one thing.

    Args:
        queries: The clean queries.
        pool: Real queries to draw from, such as the known-good ones of the training split.
        change: Name of the position whose token differs (the answer then differs too), or "same_bridge" (another
            first-hop fact, the same bridge, second relation and answer).
        generator: Draws the partners.

    Returns:
        The pairs, without the queries for which the pool has no partner.

    Raises:
        ValueError: If `change` is unknown or no query has a partner.

    >>> from circuit_lab.tasks import queries_from_tokens
    >>> sums = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    >>> queries = queries_from_tokens(sums, sums.sum(1) % 5, position_names=("a", "b"))
    >>> pairs = pair_queries(queries, queries, change="a", generator=torch.Generator().manual_seed(0))
    >>> len(pairs), bool((pairs.clean.tokens[:, 1] == pairs.corrupt.tokens[:, 1]).all())
    (25, True)
    """
    known = (*queries.position_names, *([SAME_BRIDGE] if "bridge" in queries.intermediates else []))
    if change not in known:
        raise ValueError(f"change must be one of {', '.join(known)} for these queries, got {change!r}")
    rows = _partner_rows(queries, pool, change=change, generator=generator)
    paired = rows >= 0
    if not paired.any():
        raise ValueError(f"none of the {len(queries)} queries has a partner with another {change} in the pool")
    return QueryPairs(
        clean=queries[paired],
        corrupt=pool[rows[paired]],
        corruption=change,
        n_dropped=int((~paired).sum()),
    )


def noise_pairs(
    model: HookedModel,
    queries: Queries,
    *,
    positions: Sequence[str],
    generator: torch.Generator,
    scale: float = 3.0,
) -> QueryPairs:
    """Pair each query with itself under noise on its embeddings.

    Args:
        model: The model whose token embedding sets the noise's size.
        queries: The queries.
        positions: Names of the positions that get noise.
        generator: Draws the noise, on the CPU.
        scale: Standard deviation of the noise in standard deviations of the embedding's entries (3 in the source), of
            the embedding as it enters the net.

    Returns:
        The pairs, with the noise of each.

    Raises:
        ValueError: If a position is unknown or the scale is not positive.
    """
    unknown = [name for name in positions if name not in queries.position_names]
    if unknown or not positions:
        raise ValueError(f"positions must be among {', '.join(queries.position_names)}, got {list(positions)}")
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    columns = [queries.column(name) for name in positions]
    embedding = model.W_E.detach()
    noise = torch.zeros(*queries.tokens.shape, embedding.shape[1], dtype=embedding.dtype)
    drawn = torch.randn(len(queries), len(columns), embedding.shape[1], generator=generator)
    noise[:, columns] = (scale * embedding_scale(model) * embedding.std().cpu() * drawn).to(noise.dtype)
    return QueryPairs(clean=queries, corrupt=queries, corruption=NOISE, noise=noise)


def noise_hooks(noise: Float[Tensor, "n n_ctx d_model"] | None) -> FwdHooks:
    """The hooks that add noise to the token embeddings of a run; none without noise.

    The tokens' positions are the last ones: a recursive net's learned prefix, before them, gets none.
    """
    if noise is None:
        return []

    def add_noise(embedded: Tensor, hook: HookPoint) -> Tensor:
        del hook
        n_before = embedded.shape[1] - noise.shape[1]
        return embedded + torch.nn.functional.pad(noise.to(embedded), (0, 0, n_before, 0))

    return [("hook_embed", add_noise)]


def _partner_rows(queries: Queries, pool: Queries, *, change: str, generator: torch.Generator) -> Int[Tensor, " n"]:
    """A random fitting row of the pool for each query; -1 where there is none."""
    key, pool_key = _shared_keys(queries, pool, change=change)
    order = torch.randperm(len(pool), generator=generator)
    order = order[pool_key[order].sort(stable=True).indices]
    n_keys = int(max(key.max(), pool_key.max())) + 1
    size = torch.bincount(pool_key, minlength=n_keys)
    start = size.cumsum(0) - size
    n_candidates = min(_N_CANDIDATES, int(size.max()))
    offset = (torch.rand(len(queries), generator=generator) * size[key]).long()
    step = torch.arange(n_candidates)
    place = start[key][:, None] + (offset[:, None] + step) % size[key].clamp(min=1)[:, None]
    rows = order[place.clamp(max=len(pool) - 1)]
    fits = (step < size[key][:, None]) & _fits(queries, pool, rows, change=change)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    return torch.where(fits.any(1), rows.gather(1, first).squeeze(1), -1)


def _shared_keys(queries: Queries, pool: Queries, *, change: str) -> tuple[Int[Tensor, " n"], Int[Tensor, " pool"]]:
    """A number per query and per pool query; equal numbers agree in all that must stay the same."""

    def kept(part: Queries) -> Tensor:
        if change == SAME_BRIDGE:
            return torch.stack([part.intermediates["bridge"], part.answer, part.tokens[:, -1]], dim=1)
        others = [i for i, name in enumerate(part.position_names) if name != change]
        return part.tokens[:, others]

    _, key = torch.cat([kept(queries), kept(pool)]).unique(dim=0, return_inverse=True)
    return key[: len(queries)], key[len(queries) :]


def _fits(
    queries: Queries, pool: Queries, rows: Int[Tensor, "n candidates"], *, change: str
) -> Bool[Tensor, "n candidates"]:
    """Whether the candidates differ from each query in what must differ."""
    if change == SAME_BRIDGE:
        return pool.facts[rows, 0] != queries.facts[:, :1]
    return pool.answer[rows] != queries.answer[:, None]
