"""Causal tracing of a two-hop query: which states the answer hangs on, and the circuit they form.

After Wang et al., arXiv 2405.15071 (the circuit of composition) and its released `causal_tracing_composition.py`:

1. The *normal* run: a query (h, r1, r2) that the model answers right, with t on top.
2. The *perturbed* run: one token changed (h, r1 or r2), so that the answer is another one.
3. The *intervention*: the normal run with the state at one lens site and position replaced by the perturbed run's.
   Effect of the state: how often t is no longer on top, and the mean change of its reciprocal rank.
4. The logit lens reads, at every site, the bridge b at r1's position and r2 at its own: mean reciprocal ranks.
5. States with a strong effect are the nodes of the circuit. Edges join strong states of sites of which one is made
   from the other (`sites_read`: successive ones; in a recursive net each step reads up to three), for each changed
   token: *residual*, within a position; *attention*, to a position that becomes strong at the later site from another
   one that is strong at the earlier (an earlier position, in a causal net; by an MLP over positions, in some nets).

Deviations. The source changes h, r1 or r2 into a random one under which t is not the answer, which may leave a query
without any answer; here the perturbed query is a real one of a pool, drawn by `pair_queries` (so states off the data
do not enter). The source replaces the state at the changed token's own position, from site 1 to the last but one; here
at every position and every lens site, the embedding and the last included. There, edges are drawn by the strength
between pairs of states and pruned by eye; here by the rule above with a stated threshold.

Control: the placebo `same_bridge` changes h and r1 together into another first hop to the *same* bridge, so the answer
stays. Where it has an effect, the state says more than the bridge (at the embedding it does: h alone was changed).

The circuit says where the answer's cause passes, not what the states mean. The lens corroborates and never decides: in
a causal net the bridge at r1's position is on top as soon as the atomic facts are memorised, because the state there is
the answer to the atomic query (h, r1). And r2 can be read at r2 only where the unembedding knows relations, as the
source's tied one does; one that never answers a relation leaves it at chance or below.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    HookedModel,
    activations,
    check_model,
    lens_sites,
    logits_at,
    rows_of,
)
from circuit_lab.measures.intervals import MeanInterval, mean_interval, share_interval
from circuit_lab.measures.metrics import METRICS, ranks_of
from circuit_lab.measures.model_facts import is_causal, sites_read
from circuit_lab.measures.patching.activation_patching import activation_patching
from circuit_lab.measures.patching.query_pairs import SAME_BRIDGE, pair_queries
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result
from circuit_lab.tasks import Queries

CHANGES = ("h", "r1", "r2", SAME_BRIDGE)
"""What is changed, one at a time: a token, or the placebo."""

LENS_TARGETS = ("b at r1", "r2 at r2")
"""What the logit lens reads, and where."""

LENS_CAVEAT = (
    "the lens corroborates only: in a causal net b is on top at r1 as soon as the atomic facts are memorised, because "
    "the state there is the answer to the atomic query (h, r1)"
)

STRONG = 0.5
"""A state is strong if its effect's interval lies above this: most queries lose their answer with it, the majority by
which the transplants decide too."""

_RANK = METRICS.index("rank")


@dataclass(frozen=True, eq=False)
class StateEffects:
    """What replacing each state does when one thing is changed, over the queries answered right in the normal run.

    Attributes:
        change: "h", "r1", "r2" or "same_bridge".
        lost: Share of queries whose answer is no longer on top, in [0, 1]; higher = more depends on the state. With
            95 % Wilson intervals.
        reciprocal_rank: Mean change of the answer's reciprocal rank, in (-1, 0]; lower = more depends on the state.
            With 95 % bootstrap intervals.
        n: Queries: answered right, with a partner.
        n_wrong: Queries left out because the model answers them wrong.
        n_dropped: Queries left out because the pool has no partner for them.
    """

    change: str
    lost: MeanInterval
    reciprocal_rank: MeanInterval
    n: int
    n_wrong: int
    n_dropped: int


@dataclass(frozen=True, eq=False)
class CausalTracing(Result):
    """The effect of every state, what the lens reads, and the circuit.

    Attributes:
        sites: Labels of the lens sites, input to output.
        position_names: Names of the positions.
        effects: Per changed token, and of the placebo; their tensors are `[n_sites, n_ctx]`.
        lens_mrr: Mean reciprocal rank of each of `LENS_TARGETS` by site, in (0, 1], with bootstrap intervals; tensors
            `[2, n_sites]`, NaN for a target that is not among the output tokens. See `LENS_CAVEAT`.
        n_lens: Queries the lens read.
        mrr_chance: Mean reciprocal rank of a target in random order, (1 + 1/2 + ... + 1/d) / d with d output tokens.
        threshold: What the interval of `lost` must lie above for a state to be strong.
        causal: Whether attention looks at earlier positions only.
        reads: For each site, the numbers of those that it is made from.
    """

    sites: tuple[str, ...]
    position_names: tuple[str, ...]
    effects: tuple[StateEffects, ...]
    lens_mrr: MeanInterval
    n_lens: int
    mrr_chance: float
    threshold: float
    causal: bool
    reads: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> tuple[StateEffects, ...]:
        """The effects without the placebo's."""
        return tuple(effects for effects in self.effects if effects.change != SAME_BRIDGE)

    def strong(self, effects: StateEffects) -> Bool[Tensor, "n_sites n_ctx"]:
        """Which states are strong: the interval of their effect lies above the threshold."""
        return effects.lost.low > self.threshold

    def frame(self) -> pd.DataFrame:
        """One row per change, site and position.

        Columns: lost, low, high, reciprocal_rank (the mean change) with its low and high, strong, control (`lost` of
        the placebo at this state, NaN without one), n, n_wrong, n_dropped.
        """
        control = next((e.lost.mean for e in self.effects if e.change == SAME_BRIDGE), None)
        rows = [
            {
                "change": effects.change,
                "site": site,
                "position": position,
                "lost": float(effects.lost.mean[i, j]),
                "low": float(effects.lost.low[i, j]),
                "high": float(effects.lost.high[i, j]),
                "reciprocal_rank": float(effects.reciprocal_rank.mean[i, j]),
                "reciprocal_rank_low": float(effects.reciprocal_rank.low[i, j]),
                "reciprocal_rank_high": float(effects.reciprocal_rank.high[i, j]),
                "strong": bool(self.strong(effects)[i, j]),
                "control": float("nan") if control is None else float(control[i, j]),
                "n": effects.n,
                "n_wrong": effects.n_wrong,
                "n_dropped": effects.n_dropped,
            }
            for effects in self.effects
            for i, site in enumerate(self.sites)
            for j, position in enumerate(self.position_names)
        ]
        return pd.DataFrame(rows)

    def lens_frame(self) -> pd.DataFrame:
        """One row per lens target and site: mrr, low, high, chance, n."""
        rows = [
            {
                "target": target,
                "site": site,
                "mrr": float(self.lens_mrr.mean[k, i]),
                "low": float(self.lens_mrr.low[k, i]),
                "high": float(self.lens_mrr.high[k, i]),
                "chance": self.mrr_chance,
                "n": self.n_lens,
            }
            for k, target in enumerate(LENS_TARGETS)
            for i, site in enumerate(self.sites)
        ]
        return pd.DataFrame(rows)

    def circuit(self) -> pd.DataFrame:
        """One row per edge: change, edge ("residual" or "attention"), where from and to, both ends' `lost`."""
        columns = ("change", "edge", "from_site", "from_position", "to_site", "to_position", "from_lost", "to_lost")
        rows = []
        for effects in self.tokens:
            strong, lost = self.strong(effects), effects.lost.mean
            for (site, start), (later, end) in _edges(strong, self.reads, causal=self.causal):
                ends = (self.sites[site], self.position_names[start], self.sites[later], self.position_names[end])
                kind = "residual" if start == end else "attention"
                rows.append((effects.change, kind, *ends, float(lost[site, start]), float(lost[later, end])))
        return pd.DataFrame(rows, columns=list(columns))


def _edges(
    strong: Bool[Tensor, "n_sites n_ctx"], reads: Sequence[Sequence[int]], *, causal: bool
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """(site, position) of both ends of every edge between strong states."""
    n_ctx = strong.shape[1]
    found = []
    for site, later in sorted((site, later) for later, read in enumerate(reads) for site in read):
        for end in range(n_ctx):
            if not strong[later, end]:
                continue
            if strong[site, end]:
                found.append(((site, end), (later, end)))
                continue
            sources = range(end) if causal else range(n_ctx)
            found += [((site, start), (later, end)) for start in sources if strong[site, start]]
    return found


@torch.no_grad()
def causal_tracing(
    model: HookedModel,
    queries: Queries,
    pool: Queries,
    *,
    generator: torch.Generator,
    changes: Sequence[str] = CHANGES,
    threshold: float = STRONG,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> CausalTracing:
    """Trace which states the answers hang on.

    Args:
        model: Any hooked model of the two-hop task.
        queries: Two-hop queries.
        pool: Real two-hop queries the perturbed ones are drawn from, such as the known-good ones of the training split.
        generator: Draws them, change after change.
        changes: What is changed, one at a time: names of positions, or "same_bridge", the placebo.
        threshold: What the interval of an effect must lie above for the state to be strong, in [0, 1).
        batch_size: Rows per forward pass; bounds memory.

    Returns:
        Effects, lens readings and circuit.

    Raises:
        ValueError: If the queries are not two-hop queries, an option is unknown, or none is answered right.
    """
    check_model(model)
    if len(queries) == 0 or "bridge" not in queries.intermediates or not {"r1", "r2"} <= {*queries.position_names}:
        raise ValueError(
            f"causal tracing needs two-hop queries with positions r1 and r2; got {len(queries)} with positions "
            f"{', '.join(queries.position_names)} and intermediates {sorted(queries.intermediates)}"
        )
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold must be in [0, 1), a share of queries, got {threshold}")
    lens = _lens_reciprocal_ranks(model, queries, batch_size=batch_size)
    n_out, sites = model.W_U.shape[1], lens_sites(model)
    return CausalTracing(
        sites=tuple(site.label for site in sites),
        position_names=queries.position_names,
        effects=tuple(
            _effects(model, queries, pool, change=change, generator=generator, batch_size=batch_size)
            for change in changes
        ),
        lens_mrr=mean_interval(lens),
        n_lens=len(queries),
        mrr_chance=float((1 / torch.arange(1, n_out + 1)).mean()),
        threshold=threshold,
        causal=is_causal(model),
        reads=tuple(sites_read(sites, number) for number in range(len(sites))),
    )


def _effects(
    model: HookedModel, queries: Queries, pool: Queries, *, change: str, generator: torch.Generator, batch_size: int
) -> StateEffects:
    """The effect of every state under one change."""
    pairs = pair_queries(queries, pool, change=change, generator=generator)
    patched = activation_patching(model, pairs, kind="resid", direction="noising", batch_size=batch_size)
    right = patched.clean[_RANK] == 1
    n = int(right.sum())
    if n == 0:
        raise ValueError(
            f"the model answers none of the {len(pairs)} queries right, so no state can take an answer away; trace "
            "queries of a split that it has learnt"
        )
    rank = patched.values[_RANK][..., right]
    return StateEffects(
        change=change,
        lost=share_interval((rank > 1).float().mean(-1), n),
        reciprocal_rank=mean_interval(1 / rank - 1),
        n=n,
        n_wrong=len(pairs) - n,
        n_dropped=pairs.n_dropped,
    )


def _lens_reciprocal_ranks(model: HookedModel, queries: Queries, *, batch_size: int) -> Float[Tensor, "2 n_sites n"]:
    """Reciprocal rank of each of `LENS_TARGETS` at every lens site; NaN where it is not among the output tokens."""
    names = [site.hook_name for site in lens_sites(model)]
    columns = [queries.column(name) for name in ("r1", "r2")]
    targets = torch.stack([queries.intermediates["bridge"], queries.tokens_at("r2")])
    n_out = model.W_U.shape[1]
    found = []
    for rows in progress(torch.arange(len(queries)).split(batch_size), label="logit lens"):
        streams = activations(model, queries.tokens[rows], names)
        read = torch.stack([torch.stack([streams[name][:, row] for name in names]) for row in rows_of(model, columns)])
        logits = logits_at(model, read)
        target = targets[:, None, rows].to(logits.device).expand(-1, len(names), -1)
        known = target < n_out
        rank = ranks_of(logits, target.clamp(max=n_out - 1))
        found.append(torch.where(known, 1 / rank, torch.nan).cpu())
    return torch.cat(found, dim=-1)
