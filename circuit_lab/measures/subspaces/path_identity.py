"""Do two nets, or one net on two splits, use one path? Three comparisons, each with its control.

1. *Patching grids* (`grid_similarity`). A grid holds an effect for each cell (site, head, ...) and query. With the mean
   over queries in each cell: Pearson's and Spearman's correlation over cells. Interval: percentile bootstrap over
   queries, drawn for the two grids independently; resampling adds noise, which pulls correlations towards 0, so the
   interval leans low. Controls: the cells of the second grid permuted, and, if given, the grid of an untrained net.
   A correlation says that effects sit in the same cells, not that they are equal or that the cells do the same.
2. *Located sites* (`site_overlap`). Jaccard index of the two sets of located sites, |A and B| / |A or B|, and the rank
   correlation of the candidates' rates. Interval of the latter: parametric bootstrap, each rate drawn anew from a
   binomial of its own n. Controls: the expected Jaccard index of two random sets of these sizes (hypergeometric), and
   permuted candidates.
3. *Cross interchange* (`cross_interchange`): bridge states of one net, through a fitted affine map, put into the other.

The first two corroborate. Only the third says that what the two nets hand on is the same up to a change of coordinates.
"""

import math
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from scipy.stats import hypergeom
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from circuit_lab.measures.correlations import pearson_and_spearman
from circuit_lab.measures.intervals import TAILS, resampled_means
from circuit_lab.measures.result import Result
from circuit_lab.measures.subspaces.cross_interchange import CrossInterchange
from circuit_lab.measures.two_hop.locate import LocatedSites, SiteRate

COEFFICIENTS = ("pearson", "spearman")
_MIN_CELLS = 3
"""Two points are always on a line."""


@dataclass(frozen=True, eq=False)
class Correlations(Result):
    """Correlations of one comparison, in the order of `COEFFICIENTS`; each in [-1, 1], `nan` where a side is constant.

    Attributes:
        value: The correlations; 1 = the same pattern.
        low: Lower ends of the 95 % bootstrap intervals.
        high: Upper ends.
        permuted_low: 2.5 % quantiles of the correlations with permuted cells.
        permuted_high: 97.5 % quantiles of the same.
    """

    value: Float[Tensor, " n_coefficients"]
    low: Float[Tensor, " n_coefficients"]
    high: Float[Tensor, " n_coefficients"]
    permuted_low: Float[Tensor, " n_coefficients"]
    permuted_high: Float[Tensor, " n_coefficients"]

    def frame(self) -> pd.DataFrame:
        """One row per coefficient: value, interval, and the middle 95 % with permuted cells."""
        columns = ("value", "low", "high", "permuted_low", "permuted_high")
        return pd.DataFrame({"measure": COEFFICIENTS, **{name: getattr(self, name).tolist() for name in columns}})


@dataclass(frozen=True, eq=False)
class GridSimilarity(Result):
    """Similarity of two patching grids.

    Attributes:
        correlations: Between the two grids' cell means.
        with_untrained: Between the first grid and that of an untrained net; None without one.
        n_cells: Cells.
        n_a: Queries of the first grid.
        n_b: Queries of the second.
        seed: Seed of resamples and permutations.
    """

    correlations: Correlations
    with_untrained: Correlations | None
    n_cells: int
    n_a: int
    n_b: int
    seed: int

    def frame(self) -> pd.DataFrame:
        """One row per comparison and coefficient, with interval, permuted cells and n."""
        parts = [self.correlations.frame().assign(compared="both")]
        if self.with_untrained is not None:
            parts.append(self.with_untrained.frame().assign(compared="untrained net"))
        return pd.concat(parts, ignore_index=True).assign(n_cells=self.n_cells, n_a=self.n_a, n_b=self.n_b)


def grid_similarity(
    grid_a: Float[Tensor, "*cells n_a"],
    grid_b: Float[Tensor, "*cells_b n_b"],
    *,
    untrained: Float[Tensor, "*cells_c n_c"] | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> GridSimilarity:
    """Whether two patching grids have their effects in the same cells.

    Args:
        grid_a: Effect of each cell on each query, such as one metric of an activation patching.
        grid_b: The same of another net or split, with the same cells; the queries may be others.
        untrained: The same of an untrained net, for the control.
        n_resamples: Bootstrap resamples, and permutations.
        seed: Seed of resamples and permutations.

    Returns:
        Correlations over cells.

    Raises:
        ValueError: If the cells differ, there are fewer than three, or a grid has no queries.
    """
    grids = [grid_a, grid_b] if untrained is None else [grid_a, grid_b, untrained]
    for grid in grids:
        if grid.shape[:-1] != grid_a.shape[:-1]:
            raise ValueError(
                f"the grids must have the same cells, got {list(grid_a.shape[:-1])} and {list(grid.shape[:-1])}"
            )
        if grid.shape[:-1].numel() < _MIN_CELLS or grid.shape[-1] == 0:
            raise ValueError(f"a grid needs {_MIN_CELLS} cells and a query, got shape {list(grid.shape)}")
    flat = [grid.double().cpu().flatten(0, -2) for grid in grids]
    means = [grid.mean(1) for grid in flat]
    draws = [resampled_means(grid, n_resamples=n_resamples, seed=seed + i).T for i, grid in enumerate(flat)]
    compared = [
        _correlations(means[0], means[i], draws[0], draws[i], n_permutations=n_resamples, seed=seed)
        for i in range(1, len(grids))
    ]
    return GridSimilarity(
        correlations=compared[0],
        with_untrained=None if untrained is None else compared[1],
        n_cells=len(means[0]),
        n_a=grid_a.shape[-1],
        n_b=grid_b.shape[-1],
        seed=seed,
    )


def _correlations(
    a: Float[Tensor, " cells"],
    b: Float[Tensor, " cells"],
    draws_a: Float[Tensor, "resamples cells"],
    draws_b: Float[Tensor, "resamples cells"],
    *,
    n_permutations: int,
    seed: int,
) -> Correlations:
    """Both coefficients with bootstrap intervals and permuted cells."""
    generator = derive_generator(seed, "permuted cells")
    permuted = torch.stack([b[torch.randperm(len(b), generator=generator)] for _ in range(n_permutations)])
    low, high = _middle(pearson_and_spearman(draws_a, draws_b))
    permuted_low, permuted_high = _middle(pearson_and_spearman(a.expand_as(permuted), permuted))
    return Correlations(pearson_and_spearman(a[None], b[None])[0], low, high, permuted_low, permuted_high)


def _middle(draws: Float[Tensor, "draws n_coefficients"]) -> tuple[Tensor, Tensor]:
    """Ends of the middle 95 % of the draws; a draw without a correlation is left out."""
    low, high = torch.nanquantile(draws, TAILS.to(draws), dim=0)
    return low, high


@dataclass(frozen=True, eq=False)
class SiteOverlap(Result):
    """Overlap of the sites that two nets, or two splits, hand the bridge on at.

    Attributes:
        jaccard: Shared share of the located sites, in [0, 1]; `nan` when neither located any.
        chance_jaccard: Expected value for random sets of these sizes among the candidates.
        correlations: Of the candidates' deciding rates; Spearman's is the one to read, for rates pile up at 0 and 1.
        n_sites_a: Located sites of the first; 0 where none carries the bridge.
        n_sites_b: Located sites of the second.
        n_candidates: Candidates that both tried.
        n_a: Queries per candidate of the first, at most.
        n_b: Queries per candidate of the second, at most.
        seed: Seed of draws and permutations.
    """

    jaccard: float
    chance_jaccard: float
    correlations: Correlations
    n_sites_a: int
    n_sites_b: int
    n_candidates: int
    n_a: int
    n_b: int
    seed: int

    def frame(self) -> pd.DataFrame:
        """One row per measure (jaccard and two correlations): value, interval or chance, n."""
        jaccard = pd.DataFrame([{"measure": "jaccard", "value": self.jaccard, "chance": self.chance_jaccard}])
        parts = [jaccard, self.correlations.frame()]
        return pd.concat(parts, ignore_index=True).assign(n_candidates=self.n_candidates, n_a=self.n_a, n_b=self.n_b)


def site_overlap(
    located_a: LocatedSites, located_b: LocatedSites, *, n_resamples: int = 1000, seed: int = 0
) -> SiteOverlap:
    """Whether two nets, or one net on two sets of queries, hand the bridge on at the same sites.

    Args:
        located_a: Sites of the first.
        located_b: Sites of the second.
        n_resamples: Draws of the rates, and permutations.
        seed: Seed of draws and permutations.

    Returns:
        Overlap of the located sites and correlation of all candidates' rates.

    Raises:
        ValueError: If they share fewer than three candidates that were tried on some query.
    """
    by_site_a, by_site_b = ({c.site: c for c in located.candidates if c.n > 0} for located in (located_a, located_b))
    shared = [site for site in by_site_a if site in by_site_b]
    if len(shared) < _MIN_CELLS:
        raise ValueError(f"the two need {_MIN_CELLS} candidate sites with queries in common, got {len(shared)}")
    candidates = [[by_site[site] for site in shared] for by_site in (by_site_a, by_site_b)]
    rates = [torch.tensor([c.deciding_rate for c in each], dtype=torch.float64) for each in candidates]
    draws = [_redrawn_rates(each, n_resamples, seed=seed, label=str(i)) for i, each in enumerate(candidates)]
    sites_a, sites_b = (set(each.sites) & set(shared) if each.found else set() for each in (located_a, located_b))
    union = len(sites_a | sites_b)
    return SiteOverlap(
        jaccard=len(sites_a & sites_b) / union if union else math.nan,
        chance_jaccard=_chance_jaccard(len(shared), len(sites_a), len(sites_b)),
        correlations=_correlations(rates[0], rates[1], draws[0], draws[1], n_permutations=n_resamples, seed=seed),
        n_sites_a=len(sites_a),
        n_sites_b=len(sites_b),
        n_candidates=len(shared),
        n_a=max(c.n for c in candidates[0]),
        n_b=max(c.n for c in candidates[1]),
        seed=seed,
    )


def _redrawn_rates(
    candidates: list[SiteRate], n_resamples: int, *, seed: int, label: str
) -> Float[Tensor, "resamples cells"]:
    """Rates of binomial draws with each candidate's rate and n."""
    generator = derive_generator(seed, "rates of candidates", label)
    rate = torch.tensor([c.deciding_rate for c in candidates], dtype=torch.float64)
    n = torch.tensor([c.n for c in candidates], dtype=torch.float64)
    shape = (n_resamples, len(candidates))
    return torch.binomial(n.expand(shape), rate.expand(shape), generator=generator) / n


def _chance_jaccard(n_candidates: int, n_a: int, n_b: int) -> float:
    """Expected Jaccard index of two random sets of these sizes; `nan` of two empty ones."""
    if n_a + n_b == 0:
        return math.nan
    return float(sum(hypergeom.pmf(k, n_candidates, n_a, n_b) * k / (n_a + n_b - k) for k in range(min(n_a, n_b) + 1)))


@dataclass(frozen=True, eq=False)
class PathIdentity(Result):
    """What is known of whether two nets, or two splits, use one path.

    Attributes:
        name_a: Name of the first net or split.
        name_b: Name of the second.
        grids: Similarity of their patching grids; None where not measured.
        sites: Overlap of their located sites; None where not measured.
        interchange: Bridge states of the first put into the second; None where not measured.
    """

    name_a: str
    name_b: str
    grids: GridSimilarity | None = None
    sites: SiteOverlap | None = None
    interchange: CrossInterchange | None = None

    def __post_init__(self) -> None:
        """Refuse a comparison of nothing."""
        if self.grids is None and self.sites is None and self.interchange is None:
            raise ValueError("a path identity needs at least one of grids, sites and interchange; got none")

    def frame(self) -> pd.DataFrame:
        """The rows of every part that was measured: part, measure, value, interval, control or chance, n."""
        parts = []
        if self.grids is not None:
            parts.append(self.grids.frame().assign(part="grids"))
        if self.sites is not None:
            parts.append(self.sites.frame().assign(part="sites"))
        if self.interchange is not None:
            renamed = self.interchange.frame().rename(columns={"state": "measure", "accuracy": "value"})
            parts.append(renamed.assign(part="interchange"))
        return pd.concat(parts, ignore_index=True).assign(a=self.name_a, b=self.name_b)
