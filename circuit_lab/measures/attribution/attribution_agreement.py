"""How well attribution patching estimates exact patching, on the same cells and the same queries.

1. Each cell (an activation or an edge) has an estimated and an exact effect per query; both are averaged over queries.
2. *Pearson* and *Spearman* correlation over cells, of those means. Chance is 0. Idle cells, whose effect is 0 for every
   query on both sides because the runs do not differ there or nothing reads it, are left out: they agree by definition.
3. *Sign agreement*: share of cells whose two means have the same sign, among cells whose exact effect is not 0 (95 %
   bootstrap interval over queries). Chance is .5.
4. *Missed* cells: among the k largest exact effects, those that are not among the k largest estimates, by absolute
   value: what a circuit read off the estimates alone would lack.
5. Intervals (95 %, percentile) come from a bootstrap over *queries*, the same resample for both sides. The cells are
   all the cells there are, not a sample, and they are not independent; the queries are what was drawn. Resampling adds
   noise to effects near 0, so an interval of ranks or signs lies lower than its value rather than around it.

Kramar et al. (arXiv 2403.00745) and Syed et al. (arXiv 2310.10348) compare the two in the same way, by correlation and
by false negatives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from circuit_lab.measures.attribution.attribution_patching import NodeAttribution
from circuit_lab.measures.attribution.edge_attribution import EdgeAttribution
from circuit_lab.measures.attribution.path_patching import PathPatching
from circuit_lab.measures.correlations import pearson_and_spearman
from circuit_lab.measures.intervals import TAILS, mean_interval, times_drawn
from circuit_lab.measures.metrics import METRICS
from circuit_lab.measures.result import Result

ALL_CELLS = "all"
"""The group that holds every cell."""
STATISTICS = ("pearson", "spearman", "sign_agreement")
"""What is compared, in the order of the first axis of `Agreement`'s tables."""
_FEWEST_CELLS = 3  # two points always correlate perfectly
_ROUNDING = 1e-5
"""Share of the largest effect below which an exact effect is float32 rounding."""


@dataclass(frozen=True, eq=False)
class Agreement(Result):
    """Estimated beside exact effects of the same cells.

    Attributes:
        labels: Name of each cell.
        cell_groups: Group of each cell, such as the kind of node or of reader.
        approximate: Estimated effect of each cell, averaged over queries, in the metric's unit.
        exact: Exact effect of each cell, likewise.
        exact_low: Lower end of its interval.
        exact_high: Upper end.
        groups: "all", then the groups.
        values: The `STATISTICS` of each group: correlations in [-1, 1] (NaN with fewer than three cells or without
            variation), share of agreeing signs in [0, 1] (NaN where no exact effect differs from 0). Higher = better.
        low: Lower ends of their intervals.
        high: Upper ends.
        n_cells: Cells per group that are not idle: those the correlations are over.
        n_signed: Those of them whose exact effect differs from 0: what the sign agreement is over.
        n: Queries.
        seed: Seed of the resamples.
    """

    labels: tuple[str, ...]
    cell_groups: tuple[str, ...]
    approximate: Float[Tensor, " n_cells"]
    exact: Float[Tensor, " n_cells"]
    exact_low: Float[Tensor, " n_cells"]
    exact_high: Float[Tensor, " n_cells"]
    groups: tuple[str, ...]
    values: Float[Tensor, "n_statistics n_groups"]
    low: Float[Tensor, "n_statistics n_groups"]
    high: Float[Tensor, "n_statistics n_groups"]
    n_cells: Int[Tensor, " n_groups"]
    n_signed: Int[Tensor, " n_groups"]
    n: int
    seed: int

    def frame(self) -> pd.DataFrame:
        """One row per group and statistic: value, low, high, chance, n_cells (those it is over), n (queries)."""
        rows = [
            {
                "group": group,
                "statistic": statistic,
                "value": float(self.values[s, g]),
                "low": float(self.low[s, g]),
                "high": float(self.high[s, g]),
                "chance": 0.5 if statistic == "sign_agreement" else 0.0,
                "n_cells": int((self.n_signed if statistic == "sign_agreement" else self.n_cells)[g]),
                "n": self.n,
            }
            for g, group in enumerate(self.groups)
            for s, statistic in enumerate(STATISTICS)
        ]
        return pd.DataFrame(rows)

    def cells_frame(self) -> pd.DataFrame:
        """One row per cell, largest exact effect first: both effects and their ranks by absolute value, from 1."""
        frame = pd.DataFrame(
            {
                "cell": self.labels,
                "group": self.cell_groups,
                "approximate": self.approximate.numpy(),
                "exact": self.exact.numpy(),
                "low": self.exact_low.numpy(),
                "high": self.exact_high.numpy(),
                "n": self.n,
            }
        )
        for side in ("approximate", "exact"):
            frame[f"{side}_rank"] = frame[side].abs().rank(ascending=False, method="first").astype(int)
        return frame.sort_values("exact_rank", ignore_index=True)

    def missed(self, k: int = 10) -> pd.DataFrame:
        """The rows of `cells_frame` that are among the k largest exact effects but not among the k largest estimates.

        Args:
            k: How many cells a circuit would keep.

        Returns:
            The missed cells, largest exact effect first; empty if none is missed.
        """
        frame = self.cells_frame()
        is_missed = (frame["exact_rank"] <= k) & (frame["approximate_rank"] > k)
        return frame.loc[is_missed].reset_index(drop=True)


def attribution_agreement(
    approximate: Float[Tensor, "*cells n"],
    exact: Float[Tensor, "*cells n"],
    *,
    labels: Sequence[str],
    groups: Sequence[str] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Compare estimated with exact effects of patching.

    Args:
        approximate: Estimated effect of each cell and query.
        exact: What the patch really changed: the metric after it minus the receiving run's.
        labels: Name of each cell, in the order of the flattened cells.
        groups: Group of each cell; None for no groups but "all".
        n_resamples: Resamples of the bootstrap.
        seed: Its seed; the global random state is not used.

    Returns:
        The comparison.

    Raises:
        ValueError: If there are no queries or cells, or the names do not fit the cells.
    """
    if exact.numel() == 0:
        raise ValueError(f"agreement needs cells and queries, got effects of shape {list(exact.shape)}")
    n = exact.shape[-1]
    exact, approximate = exact.reshape(-1, n).cpu(), approximate.reshape(-1, n).to("cpu", exact.dtype)
    cell_groups = tuple(groups) if groups is not None else (ALL_CELLS,) * len(exact)
    if len(labels) != len(exact) or len(cell_groups) != len(exact):
        raise ValueError(f"got {len(labels)} labels and {len(cell_groups)} groups for {len(exact)} cells")
    interval = mean_interval(exact, seed=seed)
    is_signed = (interval.low > 0) | (interval.high < 0)
    names = tuple(dict.fromkeys([ALL_CELLS, *cell_groups]))
    is_rounding = exact.abs() <= _ROUNDING * exact.abs().max()
    is_idle = ((approximate == 0) & is_rounding).all(-1)
    members = ~is_idle & torch.tensor([[name in (ALL_CELLS, of) for of in cell_groups] for name in names])
    drawn = torch.randint(0, n, (n_resamples, n), generator=derive_generator(seed, "bootstrap", "agreement"))
    counts = times_drawn(drawn, n=n).to(exact)
    draws = _statistics((counts @ approximate.T) / n, (counts @ exact.T) / n, members, is_signed)
    low, high = draws.nanquantile(TAILS.to(draws), dim=-1)
    return Agreement(
        labels=tuple(labels),
        cell_groups=cell_groups,
        approximate=approximate.mean(-1),
        exact=interval.mean,
        exact_low=interval.low,
        exact_high=interval.high,
        groups=names,
        values=_statistics(approximate.mean(-1)[None], interval.mean[None], members, is_signed)[..., 0],
        low=low,
        high=high,
        n_cells=members.sum(-1),
        n_signed=(members & is_signed).sum(-1),
        n=n,
        seed=seed,
    )


def edge_agreement(
    approximate: EdgeAttribution, exact: PathPatching, *, n_resamples: int = 1000, seed: int = 0
) -> Agreement:
    """Compare attribution with path patching of the same edges between the same runs; groups are kinds of readers.

    Args:
        approximate: Attribution patching of edges.
        exact: Path patching of the same edges, each alone.
        n_resamples: Resamples of the bootstrap.
        seed: Its seed.

    Returns:
        The comparison, of the attribution's metric.

    Raises:
        ValueError: If edges, positions, direction or query pairs differ.
    """
    ours = (tuple((edge,) for edge in approximate.edges), approximate.position_names, approximate.direction)
    if ours != (tuple(exact.edges.values()), exact.position_names, exact.direction):
        raise ValueError("attribution and path patching must be of the same edges, positions and direction")
    effects = exact.effects(approximate.metric)
    gap = (exact.lending - exact.receiving)[METRICS.index(approximate.metric)]
    same_n = len(gap) == len(approximate.receiving)
    if not same_n or not torch.allclose(gap, approximate.lending - approximate.receiving, rtol=1e-3, atol=1e-3):
        raise ValueError("attribution and path patching must be of the same query pairs")
    cells = [(edge, position) for edge in approximate.edges for position in approximate.position_names]
    return attribution_agreement(
        approximate.effects,
        effects,
        labels=[edge.label + (f" @ {at}" if len(approximate.position_names) > 1 else "") for edge, at in cells],
        groups=[edge.reader.kind for edge, _ in cells],
        n_resamples=n_resamples,
        seed=seed,
    )


def node_agreement(
    approximate: NodeAttribution,
    exact: Mapping[str, Float[Tensor, "*cells n"]],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Compare attribution with exact patching of the same activations; groups are kinds of nodes.

    Args:
        approximate: Attribution patching of nodes.
        exact: By kind, the exact effect (metric after the patch minus the receiving run's) of each of its cells.
        n_resamples: Resamples of the bootstrap.
        seed: Its seed.

    Returns:
        The comparison, over the kinds in `exact`.

    Raises:
        ValueError: If a kind was not attributed, or its cells are others.
    """
    for kind, effects in exact.items():
        if kind not in approximate.effects:
            raise ValueError(f"{kind!r} was not attributed; there are {', '.join(approximate.effects)}")
        if effects.shape != approximate.effects[kind].shape:
            raise ValueError(
                f"{kind!r} has cells and queries {list(effects.shape)} on the exact side, "
                f"{list(approximate.effects[kind].shape)} on the other"
            )
    return attribution_agreement(
        torch.cat([approximate.effects[kind].flatten(0, -2) for kind in exact]),
        torch.cat([effects.flatten(0, -2) for effects in exact.values()]),
        labels=[label for kind in exact for label in approximate.labels(kind)],
        groups=[kind for kind in exact for _ in approximate.labels(kind)],
        n_resamples=n_resamples,
        seed=seed,
    )


def _statistics(
    approximate: Float[Tensor, "draws n_cells"],
    exact: Float[Tensor, "draws n_cells"],
    members: Bool[Tensor, "n_groups n_cells"],
    is_signed: Bool[Tensor, " n_cells"],
) -> Float[Tensor, "n_statistics n_groups draws"]:
    """The `STATISTICS` of each group and draw."""
    of_groups = []
    for of_group in members:
        ours, theirs = approximate[:, of_group], exact[:, of_group]
        correlations = pearson_and_spearman(ours, theirs)
        if ours.shape[1] < _FEWEST_CELLS:
            correlations = torch.full_like(correlations, torch.nan)
        agrees = (ours.sign() == theirs.sign())[:, is_signed[of_group]].to(ours)
        of_groups.append(torch.stack([*correlations.T, agrees.mean(-1)]))
    return torch.stack(of_groups, dim=1)
