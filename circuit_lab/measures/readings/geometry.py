"""Geometry of the bridge's states: do states with one bridge lie together, whatever query they come from?

Cosine similarity per lens site and position, over pairs of queries (i from split A, j from B):

1. *within*: pairs with the same bridge but another first-hop fact (h, r1). In a causal net the state at r1 is a
   function of (h, r1) alone, so pairs of the same fact would be 1 whatever the net does.
2. *between*: pairs with another bridge.
   In both, a pair may share the token at its position. At h, and at r2 where a bridge has few second relations, pairs
   of one bridge do so more often than others; at r1, where a causal net hands the bridge on, they hardly do.
3. *shuffled*, the control: the bridges of the first-hop facts permuted among the facts, then as in 1.
4. *raw* states, and *centred* ones, after subtracting the mean state of that site and position (the mean over splits of
   each split's mean). Raw cosines are dominated by that common mean: unrelated states then look alike. Read the
   centred ones, and the difference within - between.

Pairs weigh equally within a bridge, and bridges (or pairs of bridges) weigh equally. Sums of unit vectors per fact and
bridge give all means without any n x n matrix: sum over i != j of u_i . u_j = |sum u_i|^2 - sum |u_i|^2, and alike for
pairs of facts. Intervals: bootstrap over *bridges* (the vertex bootstrap of Snijders and Borgatti, 1999), for pairs
share queries and queries share bridges; a resample weighs pair (b, c) by how often b and c were drawn, and a bridge is
never paired with its own copy.

A reading: it corroborates and never decides, for similar states need not be used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    HookedModel,
    check_model,
    lens_sites,
    states_at,
)
from circuit_lab.measures.intervals import TAILS, times_drawn
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result
from circuit_lab.tasks import Queries
from circuit_lab.tasks.queries import NO_FACT

CENTRINGS = ("raw", "centred")
PAIR_KINDS = ("within", "between", "shuffled", "within - between")
_NOISE = 1e-5
"""A centred state shorter than this share of the raw states is rounding, whose direction means nothing."""


@dataclass(frozen=True, eq=False)
class BridgeGeometry(Result):
    """Cosine similarity of states with the same and with other bridges.

    Attributes:
        split_pairs: Names of the two splits that each pair of queries comes from.
        stages: Labels of the lens sites.
        position_names: Names of the positions.
        mean: Cosines in [-1, 1] by centring (`CENTRINGS`), kind of pair (`PAIR_KINDS`; the last is their difference),
            pair of splits, stage and position; `nan` where there is no such pair.
        low: Lower ends of the 95 % intervals.
        high: Upper ends.
        n_bridges: Bridges with a within pair, by pair of splits.
        n_pairs: Within pairs, by pair of splits.
        seed: Seed of the shuffle and the resamples.
    """

    split_pairs: tuple[tuple[str, str], ...]
    stages: tuple[str, ...]
    position_names: tuple[str, ...]
    mean: Float[Tensor, "n_centrings n_kinds n_split_pairs n_stages n_ctx"]
    low: Float[Tensor, "n_centrings n_kinds n_split_pairs n_stages n_ctx"]
    high: Float[Tensor, "n_centrings n_kinds n_split_pairs n_stages n_ctx"]
    n_bridges: Int[Tensor, " n_split_pairs"]
    n_pairs: Int[Tensor, " n_split_pairs"]
    seed: int

    def frame(self) -> pd.DataFrame:
        """One row per centring, kind, pair of splits, stage and position: cosine, interval, n_bridges, n_pairs."""
        rows = []
        for cell in torch.ones(self.mean.shape).nonzero().tolist():
            centring, kind, pair, stage, position = cell
            rows.append(
                {
                    "states": CENTRINGS[centring],
                    "pairs": PAIR_KINDS[kind],
                    "split_a": self.split_pairs[pair][0],
                    "split_b": self.split_pairs[pair][1],
                    "stage": self.stages[stage],
                    "position": self.position_names[position],
                    "cosine": float(self.mean[tuple(cell)]),
                    "low": float(self.low[tuple(cell)]),
                    "high": float(self.high[tuple(cell)]),
                    "n_bridges": int(self.n_bridges[pair]),
                    "n_pairs": int(self.n_pairs[pair]),
                }
            )
        return pd.DataFrame(rows)


@torch.no_grad()
def bridge_geometry(
    model: HookedModel,
    splits: Mapping[str, Queries],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> BridgeGeometry:
    """Cosine similarity within and between bridges, within each split and between splits.

    Args:
        model: Any hooked model in `eval` mode.
        splits: Two-hop queries with known facts, by name, such as `{"ID": test_id, "OOD": test_ood}`.
        n_resamples: Bootstrap resamples.
        seed: Seed of the shuffle and the resamples; the global random state is not used.
        batch_size: Queries per forward pass. The states of all queries at one lens site are held as well: sample
            the queries where that is too much.

    Returns:
        Similarities with intervals.
    """
    check_model(model)
    facts = _FactTable(splits, seed=seed)
    sites = lens_sites(model)
    pairs = list(combinations_with_replacement(range(len(splits)), 2))
    resamples = facts.resamples(n_resamples, seed=seed)
    cells = []
    for site in progress(sites, label="bridge geometry"):
        states = [
            states_at(model, part.tokens, stage=site.label, batch_size=batch_size).cpu() for part in splits.values()
        ]
        for position in range(len(facts.position_names)):
            here = [part[:, position].double() for part in states]
            common = torch.stack([part.mean(0) for part in here]).mean(0)
            for shift in (torch.zeros_like(common), common):
                sums = [facts.sums(index, part, shift) for index, part in enumerate(here)]
                cells += [_similarity(facts, a, b, sums[a], sums[b], resamples) for a, b in pairs]
    shape = (len(sites), len(facts.position_names), len(CENTRINGS), len(pairs), len(PAIR_KINDS), 3)
    mean, low, high = torch.stack(cells).reshape(shape).permute(2, 4, 3, 0, 1, 5).unbind(-1)
    names = list(splits)
    counts = [facts.within_counts(a, b) for a, b in pairs]
    return BridgeGeometry(
        split_pairs=tuple((names[a], names[b]) for a, b in pairs),
        stages=tuple(site.label for site in sites),
        position_names=facts.position_names,
        mean=mean,
        low=low,
        high=high,
        n_bridges=torch.tensor([int((count > 0).sum()) for count in counts]),
        n_pairs=torch.tensor([int(count.sum()) for count in counts]),
        seed=seed,
    )


class _FactTable:
    """First-hop facts of all splits, numbered, with their bridges and how many queries of each split use them."""

    def __init__(self, splits: Mapping[str, Queries], *, seed: int) -> None:
        for name, part in splits.items():
            if len(part) == 0 or "bridge" not in part.intermediates or bool((part.facts[:, 0] == NO_FACT).any()):
                raise ValueError(
                    f"split {name!r} must hold two-hop queries with a bridge and known facts; got {len(part)} with "
                    f"intermediates {sorted(part.intermediates)}"
                )
        if not splits:
            raise ValueError("splits is empty; give at least one split of two-hop queries")
        fact, self.rows = torch.cat([part.facts[:, 0] for part in splits.values()]).unique(return_inverse=True)
        bridge = torch.cat([part.intermediates["bridge"] for part in splits.values()])
        self.n_facts = len(fact)
        bridge_of_fact = torch.zeros(self.n_facts, dtype=torch.long).scatter_(0, self.rows, bridge)
        bridges, true_bridge = bridge_of_fact.unique(return_inverse=True)
        self.n_bridges = len(bridges)
        if self.n_bridges < 2:
            raise ValueError(f"similarity between bridges needs two of them, got {self.n_bridges}")
        shuffle = torch.randperm(self.n_facts, generator=derive_generator(seed, "shuffled bridges"))
        self.groups = (true_bridge, true_bridge[shuffle])
        self.rows = self.rows.split([len(part) for part in splits.values()])
        self.counts = [rows.bincount(minlength=self.n_facts).double() for rows in self.rows]
        self.position_names = next(iter(splits.values())).position_names

    def sums(
        self, split: int, states: Float[Tensor, "n d_model"], shift: Float[Tensor, " d_model"]
    ) -> Float[Tensor, "n_facts d_model"]:
        """Sum of the unit vectors of each fact's shifted states; a shifted state that is rounding noise counts as 0."""
        noise = _NOISE * float(states.norm(dim=-1).mean())
        unit = torch.nn.functional.normalize(states - shift, dim=-1, eps=noise)
        return torch.zeros(self.n_facts, unit.shape[1], dtype=unit.dtype).index_add_(0, self.rows[split], unit)

    def by_bridge(self, of_fact: Tensor, *, shuffled: bool = False) -> Tensor:
        """Sums over the facts of each bridge."""
        group = self.groups[int(shuffled)]
        return torch.zeros(self.n_bridges, *of_fact.shape[1:], dtype=of_fact.dtype).index_add_(0, group, of_fact)

    def within_counts(self, a: int, b: int, *, shuffled: bool = False) -> Float[Tensor, " n_bridges"]:
        """Ordered pairs of queries of two splits with one bridge and different facts."""
        both = self.by_bridge(self.counts[a], shuffled=shuffled) * self.by_bridge(self.counts[b], shuffled=shuffled)
        return both - self.by_bridge(self.counts[a] * self.counts[b], shuffled=shuffled)

    def resamples(self, n: int, *, seed: int) -> Float[Tensor, "resamples n_bridges"]:
        """How often each bridge is drawn; the first row is the sample itself, each bridge once."""
        drawn = torch.randint(self.n_bridges, (n, self.n_bridges), generator=derive_generator(seed, "bridges"))
        counts = times_drawn(drawn, n=self.n_bridges).double()
        return torch.cat([torch.ones(1, self.n_bridges, dtype=counts.dtype), counts])


def _similarity(
    facts: _FactTable,
    a: int,
    b: int,
    sums_a: Float[Tensor, "n_facts d_model"],
    sums_b: Float[Tensor, "n_facts d_model"],
    resamples: Float[Tensor, "resamples n_bridges"],
) -> Float[Tensor, "n_kinds 3"]:
    """Mean, low and high of each kind of pair, at one site and position."""
    within, shuffled = (
        _within(facts, a, b, sums_a, sums_b, resamples, shuffled=shuffled) for shuffled in (False, True)
    )
    count_a, count_b = facts.by_bridge(facts.counts[a]), facts.by_bridge(facts.counts[b])
    mean_a = facts.by_bridge(sums_a) / count_a.clamp(min=1)[:, None]
    mean_b = facts.by_bridge(sums_b) / count_b.clamp(min=1)[:, None]
    cosine = (mean_a @ mean_b.T).fill_diagonal_(0.0)
    weight_a, weight_b = resamples * (count_a > 0), resamples * (count_b > 0)
    n_between = weight_a.sum(1) * weight_b.sum(1) - (weight_a * weight_b).sum(1)
    between = ((weight_a @ cosine) * weight_b).sum(1) / n_between
    kinds = torch.stack([within, between, shuffled, within - between])
    return torch.cat([kinds[:, :1], torch.nanquantile(kinds[:, 1:], TAILS.to(kinds), dim=1).T], dim=1)


def _within(
    facts: _FactTable,
    a: int,
    b: int,
    sums_a: Float[Tensor, "n_facts d_model"],
    sums_b: Float[Tensor, "n_facts d_model"],
    resamples: Float[Tensor, "resamples n_bridges"],
    *,
    shuffled: bool,
) -> Float[Tensor, " resamples"]:
    """Mean over bridges of the mean cosine of pairs with this bridge and different facts, in each resample."""
    of_bridge_a, of_bridge_b = (facts.by_bridge(sums, shuffled=shuffled) for sums in (sums_a, sums_b))
    same_fact = facts.by_bridge((sums_a * sums_b).sum(1), shuffled=shuffled)
    count = facts.within_counts(a, b, shuffled=shuffled)
    cosine = ((of_bridge_a * of_bridge_b).sum(1) - same_fact) / count.clamp(min=1)
    weight = resamples * (count > 0)
    return (weight @ cosine) / weight.sum(1)
