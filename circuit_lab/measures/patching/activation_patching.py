"""Activation patching: which activations carry what a clean and a corrupt query differ in.

1. Run the clean and the corrupt query (under `noise`: the same tokens with noise on their embeddings).
2. `denoising`: put one activation of the clean run into the corrupt run; what brings the clean answer back is enough
   for it, given everything else of the corrupt run. `noising`: put one activation of the corrupt run into the clean
   run; what takes the clean answer away is needed for it. The run that lends the activation is the *source*, the run
   it is put into the *receiver*. The two directions answer different questions, and disagree on redundant parts.
3. Do so for every cell of a grid (`patch_sites.py`: site x position, and head) and read the metrics of
   `measures/metrics.py` at the answer position. The target is the clean query's in both directions: its answer t, the
   corrupt query's answer as foil, and the clean run as the reference of the divergence.
4. *Recovered* share of a metric m over queries: (mean m of the patched runs - mean m of the receiver) / (mean m of the
   source - mean m of the receiver). 0 = the patch did nothing; 1 = it did what replacing the whole run does; it may lie
   outside [0, 1].

Sources: Vig et al., arXiv 2004.12265; Meng et al., arXiv 2202.05262; Heimersheim and Nanda, arXiv 2404.15255 (the two
directions); TransformerLens's `patching.get_act_patch_*`, whose values these are. Deviations from the latter: all
metrics per query in one sweep, both baselines, intervals; `resid_mid` of a bridge is the stream itself whether or not
gradients are on (`patch_sites.py`); for `pattern` the axes are position, head rather than head, destination.

Nothing is computed twice: the forward pass goes on from the lens site after the patch, several cells in one batch, to
the answer position. A patch that leaves the receiver as it was, or makes it the source, has its baseline's values
without a forward pass. In a causal net of ours only the positions from the patched one on are computed
(`causal_suffix.py`), and a patch after the answer position changes nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    HookedModel,
    check_model,
)
from circuit_lab.measures.intervals import TAILS, MeanInterval, mean_interval, resampled_means
from circuit_lab.measures.metrics import METRICS
from circuit_lab.measures.patching.causal_suffix import CausalSuffix
from circuit_lab.measures.patching.patch_runs import RECEIVER, SOURCE, patch_batch
from circuit_lab.measures.patching.patch_sites import PatchGrid, patch_grid
from circuit_lab.measures.patching.query_pairs import DIRECTIONS, QueryPairs
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result
from circuit_lab.tasks import Queries

POSITIONS = ("each", "all")


@dataclass(frozen=True, eq=False)
class ActivationPatching(Result):
    """The metrics of every query in every cell of a grid, and in both runs.

    Attributes:
        kind: What was patched, a name in `PATCH_KINDS`.
        direction: "denoising" or "noising".
        corruption: What the corrupt queries differ in.
        axes: Names of the grid's axes: "site", "position" unless all are replaced together, "head", "source".
        labels: What stands along each axis.
        values: In the order of `METRICS`, of the patched runs; units there.
        clean: The same of the clean run.
        corrupt: The same of the corrupt run.
        n: Pairs of queries.
        n_dropped: Queries left out for want of a partner.
    """

    kind: str
    direction: str
    corruption: str
    axes: tuple[str, ...]
    labels: tuple[tuple[str, ...], ...]
    values: Float[Tensor, "n_metrics *cells n"]
    clean: Float[Tensor, "n_metrics n"]
    corrupt: Float[Tensor, "n_metrics n"]
    n: int
    n_dropped: int

    @property
    def source(self) -> Float[Tensor, "n_metrics n"]:
        """The run whose activations were put in."""
        return self.clean if self.direction == "denoising" else self.corrupt

    @property
    def receiver(self) -> Float[Tensor, "n_metrics n"]:
        """The run they were put into."""
        return self.corrupt if self.direction == "denoising" else self.clean

    def metric(self, name: str) -> Float[Tensor, "*cells n"]:
        """One metric of every query in every cell."""
        return self.values[_metric_index(name)]

    def interval(self, name: str) -> MeanInterval:
        """Mean of a metric over the queries and its 95 % bootstrap interval, per cell."""
        return mean_interval(self.metric(name))

    def recovered(self, name: str, *, n_resamples: int = 1000, seed: int = 0) -> MeanInterval:
        """Recovered share of a metric, a ratio of means, with its 95 % percentile bootstrap interval per cell.

        Queries are resampled, the same for all cells and both runs. Resamples in which the two runs' means are equal
        or stand the other way round are left out.

        Args:
            name: A metric.
            n_resamples: Resamples.
            seed: Seed of the resamples; the global random state is not used.

        Returns:
            Share and interval; NaN where the runs do not differ: the interval of their difference holds 0, or no query
            differs by more than rounding (100 times the precision of the net's type, on the largest value).
        """
        i = _metric_index(name)
        start, end = self.receiver[i].double(), self.source[i].double()
        changed = torch.cat([self.values[i].reshape(-1, self.n).double() - start, (end - start)[None]])
        draws = resampled_means(changed, n_resamples=n_resamples, seed=seed)
        whole = changed[-1].mean()
        lowest, highest = draws[-1].quantile(TAILS)
        cells = self.values.shape[1:-1]
        rounding = 100 * torch.finfo(self.values.dtype).eps * float(torch.cat([start, end]).abs().max())
        if lowest <= 0 <= highest or float((end - start).abs().max()) <= rounding:
            unknown = self.values.new_full(cells, torch.nan)
            return MeanInterval(mean=unknown, low=unknown, high=unknown)
        share = torch.where(draws[-1] * whole > 0, draws[:-1] / draws[-1], torch.nan)
        low, high = share.nanquantile(TAILS, dim=1)
        parts = (changed[:-1].mean(1) / whole, low, high)
        mean, low, high = (part.to(self.values.dtype).reshape(cells) for part in parts)
        return MeanInterval(mean=mean, low=low, high=high)

    def frame(self, metric: str | None = None) -> pd.DataFrame:
        """One row per cell and metric.

        Args:
            metric: The only metric wanted; all of them by default.

        Returns:
            Columns: the grid's axes, metric, mean, low, high, recovered, recovered_low, recovered_high, clean and
            corrupt (means of the two runs), kind, direction, corruption, n.
        """
        cells = pd.MultiIndex.from_product(self.labels, names=self.axes).to_frame(index=False)
        parts = []
        for name in METRICS if metric is None else (metric,):
            i, interval, recovered = _metric_index(name), self.interval(name), self.recovered(name)
            columns = {
                "metric": name,
                "mean": interval.mean.flatten().numpy(),
                "low": interval.low.flatten().numpy(),
                "high": interval.high.flatten().numpy(),
                "recovered": recovered.mean.flatten().numpy(),
                "recovered_low": recovered.low.flatten().numpy(),
                "recovered_high": recovered.high.flatten().numpy(),
                "clean": float(self.clean[i].mean()),
                "corrupt": float(self.corrupt[i].mean()),
                "kind": self.kind,
                "direction": self.direction,
                "corruption": self.corruption,
                "n": self.n,
            }
            parts.append(cells.assign(**columns))
        return pd.concat(parts, ignore_index=True)


def _metric_index(name: str) -> int:
    """Where a metric stands in `METRICS`."""
    if name not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {name!r}")
    return METRICS.index(name)


@torch.no_grad()
def activation_patching(
    model: HookedModel,
    pairs: QueryPairs,
    *,
    kind: str,
    direction: str = "denoising",
    positions: str = "each",
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> ActivationPatching:
    """Patch every cell of a grid between the runs of each pair.

    Args:
        model: Any hooked model, pre-norm or post-norm.
        pairs: Clean and corrupt queries.
        kind: What is patched: "resid", "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k",
            "v", "pattern" or "pattern_entry" (see `PATCH_KINDS`).
        direction: "denoising" (clean into corrupt) or "noising" (corrupt into clean).
        positions: "each": every position is a cell of its own; for patterns it is the destination. "all": all
            positions are replaced together, per site (and head).
        batch_size: Rows per forward pass, over queries and cells; bounds memory. A query's cells at one site are
            never split.

    Returns:
        Metrics of every query in every cell, on the CPU.

    Raises:
        ValueError: If there are no pairs, an option is unknown, or a pair is read at two different positions.
    """
    check_model(model)
    if len(pairs) == 0:
        raise ValueError("activation patching needs at least one pair of queries, got none")
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")
    if positions not in POSITIONS:
        raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
    if not torch.equal(pairs.clean.answer_position, pairs.corrupt.answer_position):
        raise ValueError("the clean and the corrupt query of a pair must have the same answer_position")
    n_positions = pairs.clean.tokens.shape[1]
    grid = patch_grid(model, kind, each=positions == "each", n_positions=n_positions)
    passes = n_positions if grid.each else 1
    rows_at_once = max(1, batch_size // (grid.n_rows * max(passes, len(grid.sites))))
    chunks = list(_chunks(pairs.clean.answer_position, rows_at_once))
    values = torch.empty(len(METRICS), len(grid.sites), passes, grid.n_rows, len(pairs), dtype=model.W_U.dtype)
    baselines = torch.empty(len(METRICS), 2, len(pairs), dtype=model.W_U.dtype)
    clean = SOURCE if direction == "denoising" else RECEIVER
    suffix = CausalSuffix.of(model)
    for rows in progress(chunks, label=f"patching {kind}"):
        found = patch_batch(model, grid, pairs[rows], clean=clean, suffix=suffix, batch_size=batch_size)
        values[..., rows], baselines[..., rows] = found.values.cpu(), found.runs.cpu()
    return ActivationPatching(
        kind=kind,
        direction=direction,
        corruption=pairs.corruption,
        axes=grid.axes,
        labels=_labels(grid, pairs.clean),
        values=values.reshape(len(METRICS), *grid.shape, len(pairs)),
        clean=baselines[:, clean],
        corrupt=baselines[:, 1 - clean],
        n=len(pairs),
        n_dropped=pairs.n_dropped,
    )


def _labels(grid: PatchGrid, queries: Queries) -> tuple[tuple[str, ...], ...]:
    """What stands along each axis of a grid."""
    named = {
        "site": grid.sites,
        "position": queries.position_names,
        "head": tuple(map(str, range(grid.n_heads))),
        "source": queries.position_names,
    }
    return tuple(named[axis] for axis in grid.axes)


def _chunks(answer_position: Int[Tensor, " n"], n_rows: int) -> Iterator[Int[Tensor, " rows"]]:
    """Rows of queries that are read at the same position, at most `n_rows` at a time."""
    for position in answer_position.unique():
        yield from (answer_position == position).nonzero().squeeze(1).split(n_rows)
