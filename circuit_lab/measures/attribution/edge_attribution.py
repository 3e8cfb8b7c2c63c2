"""Attribution patching of edges (EAP, EAP-IG): the maths stands in `attribution_patching`, the graph in `edges`."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuit_lab.measures.attribution.attribution_runs import (
    Point,
    check_attribution,
    paired_runs,
    point_on_path,
    shares_of_path,
)
from circuit_lab.measures.attribution.edges import (
    ALL_POSITIONS,
    QKV,
    Edge,
    Positions,
    all_edges,
    check_edges,
    check_graph,
    n_readers_before,
    readers_of,
    writer_hooks,
    writers_of,
    written,
)
from circuit_lab.measures.hooked_model import DEFAULT_BATCH_SIZE, HookedModel
from circuit_lab.measures.intervals import mean_interval
from circuit_lab.measures.patching.query_pairs import QueryPairs
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result
from circuit_lab.nets import HookedSharedTransformer


@dataclass(frozen=True, eq=False)
class EdgeAttribution(Result):
    """Estimated effect of patching each edge, per query.

    Attributes:
        edges: The edges.
        position_names: Positions patched, each alone; ("all",) if all at once.
        effects: Estimated change of the metric, in its unit (`METRIC_UNITS`); positive = the metric would rise.
        metric: One of `DIFFERENTIABLE_METRICS`.
        receiving: The metric of the receiving run.
        lending: The metric of the lending run.
        n_steps: Points at which gradients were taken; 1 = plain EAP, more = EAP-IG.
        direction: "denoising" or "noising".
        corruption: What differs between the two runs, as in `QueryPairs`.
    """

    edges: tuple[Edge, ...]
    position_names: tuple[str, ...]
    effects: Float[Tensor, "n_edges n_positions n"]
    metric: str
    receiving: Float[Tensor, " n"]
    lending: Float[Tensor, " n"]
    n_steps: int
    direction: str
    corruption: str

    def frame(self) -> pd.DataFrame:
        """One row per edge and position: mean effect with its bootstrap interval, metric, n_steps, n."""
        interval = mean_interval(self.effects)
        rows = [
            {
                "edges": edge.label,
                "writer": edge.writer.label,
                "reader": edge.reader.label,
                "position": position,
                "metric": self.metric,
                "effect": float(interval.mean[i, j]),
                "low": float(interval.low[i, j]),
                "high": float(interval.high[i, j]),
                "n_steps": self.n_steps,
                "n": self.effects.shape[-1],
            }
            for i, edge in enumerate(self.edges)
            for j, position in enumerate(self.position_names)
        ]
        return pd.DataFrame(rows)


@torch.no_grad()
def edge_attribution_patching(
    net: HookedModel,
    pairs: QueryPairs,
    *,
    edges: Sequence[Edge] | None = None,
    positions: Positions = "all",
    n_steps: int = 1,
    direction: str = "denoising",
    metric: str = "logit_diff",
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> EdgeAttribution:
    """Estimate the effect of patching every edge between the runs of query pairs.

    Args:
        net: A pre-norm (or norm-free) net of ours.
        pairs: Query pairs, at least one.
        edges: Edges, heads separate or together; None for every edge of the net, heads separate.
        positions: "all" adds up what an edge carries at all positions; "each" keeps them apart.
        n_steps: Gradients per query: 1 = plain EAP, in the receiving run; more = averaged between the runs' embeddings.
        direction: "denoising" (clean into corrupt) or "noising" (corrupt into clean).
        metric: One of `DIFFERENTIABLE_METRICS`.
        batch_size: Rows per forward and backward pass.

    Returns:
        Effects per edge, position and query.
    """
    check_attribution(net, pairs, n_steps=n_steps, direction=direction, metric=metric)
    net = check_graph(net)
    chosen = all_edges(net) if edges is None else tuple(edges)
    check_edges(net, chosen)
    parts = _Parts.of(net, chosen)
    effects, receiving, lending = [], [], []
    for start in progress(range(0, len(pairs), batch_size), label="attribution patching of edges"):
        batch = pairs[start : start + batch_size]
        runs = paired_runs(net, batch, writer_hooks(net), direction=direction, metric=metric)
        differences = written(net, {name: runs.difference(name) for name in writer_hooks(net)})
        points = (point_on_path(net, runs, _reader_hooks(net), share) for share in shares_of_path(n_steps))
        total = reduce(add, (_edge_effects(net, differences, point, parts, positions) for point in points))
        effects.append(total.cpu() / n_steps)
        receiving.append(runs.metric_of(runs.receiving_logits).cpu())
        lending.append(runs.metric_of(runs.lending_logits).cpu())
    return EdgeAttribution(
        edges=chosen,
        position_names=(ALL_POSITIONS,) if positions == "all" else pairs.clean.position_names,
        effects=torch.cat(effects, dim=-1),
        metric=metric,
        receiving=torch.cat(receiving),
        lending=torch.cat(lending),
        n_steps=n_steps,
        direction=direction,
        corruption=pairs.corruption,
    )


@dataclass(frozen=True, eq=False)
class _Parts:
    """Edges between single heads: which edge each belongs to, its writer, its reader's layer and place there."""

    edge: Tensor
    writer: Tensor
    layer: Tensor
    reader_in_layer: Tensor
    n_edges: int

    @classmethod
    def of(cls, net: HookedSharedTransformer, edges: Sequence[Edge]) -> "_Parts":
        """The parts of some edges of a net."""
        writer_index = {writer: i for i, writer in enumerate(writers_of(net.cfg))}
        reader_index = {reader: i for i, reader in enumerate(readers_of(net.cfg))}
        rows = [
            (i, writer_index[part.writer], reader_index[part.reader])
            for i, edge in enumerate(edges)
            for part in edge.parts(net.cfg.n_heads)
        ]
        edge, writer, reader = torch.tensor(rows, device=net.device).unbind(1)
        n_readers = n_readers_before(net.cfg, 1)
        return cls(edge, writer, reader // n_readers, reader % n_readers, len(edges))


def _edge_effects(
    net: HookedSharedTransformer,
    differences: Float[Tensor, "n_writers n pos d_model"],
    point: Point,
    parts: _Parts,
    positions: Positions,
) -> Float[Tensor, "n_edges n_positions n"]:
    """Difference of each edge's writer times the gradient at its reader."""
    n, n_ctx = differences.shape[1:3]
    shape = (parts.n_edges, 1, n) if positions == "all" else (parts.n_edges, n_ctx, n)
    effects = differences.new_zeros(shape)
    for layer in parts.layer.unique().tolist():
        at = parts.layer == layer
        gradients = _logits_gradient(net, point) if layer == net.cfg.n_layers else _layer_gradients(net, layer, point)
        together = "wnpd,rnpd->wrn" if positions == "all" else "wnpd,rnpd->wrpn"
        scores = torch.einsum(together, differences, gradients)[parts.writer[at], parts.reader_in_layer[at]]
        effects.index_add_(0, parts.edge[at], scores.reshape(len(scores), *shape[1:]))
    return effects


def _reader_hooks(net: HookedSharedTransformer) -> list[str]:
    """Hooks of the stream that readers read and of what they make of it."""
    names = ("hook_resid_pre", "attn.hook_q", "attn.hook_k", "attn.hook_v", "hook_resid_mid", "hook_mlp_out")
    in_layers = [f"blocks.{layer}.{name}" for layer in range(net.cfg.n_layers) for name in names]
    return [*in_layers, _last_state(net)]


def _last_state(net: HookedSharedTransformer) -> str:
    """The hook of the stream that the logits read."""
    return f"blocks.{net.cfg.n_layers - 1}.hook_resid_post"


def _logits_gradient(net: HookedSharedTransformer, point: Point) -> Float[Tensor, "1 n pos d_model"]:
    """The gradient at the stream that only the logits read."""
    return point.gradients[_last_state(net)][None]


def _layer_gradients(
    net: HookedSharedTransformer, layer: int, point: Point
) -> Float[Tensor, "n_readers n pos d_model"]:
    """The gradient at the input of each reader of a layer, in the order of `readers_of`."""
    block, at = net.blocks[layer], f"blocks.{layer}"
    weights = {"q": block.attn.W_Q, "k": block.attn.W_K, "v": block.attn.W_V}
    at_normed = torch.cat(
        [
            torch.einsum("nphe,hde->hnpd", point.gradients[f"{at}.attn.hook_{kind}"], weights[kind].detach())
            for kind in QKV
        ]
    )
    with torch.enable_grad():
        pre = point.activations[f"{at}.hook_resid_pre"].expand_as(at_normed).clone().requires_grad_()
        (into_heads,) = torch.autograd.grad(block.ln1(pre), pre, at_normed)
        mid = point.activations[f"{at}.hook_resid_mid"].clone().requires_grad_()
        mlp_out = block.mlp(block.ln2(mid))
        (into_mlp,) = torch.autograd.grad(mlp_out, mid, point.gradients[f"{at}.hook_mlp_out"])
    return torch.cat([into_heads, into_mlp[None]])
