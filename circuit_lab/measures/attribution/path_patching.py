"""Path patching: what one component hands to another directly, through the residual stream alone.

Wang et al. (IOI, arXiv 2211.00593, section 3.1) and Goldowsky-Dill et al. (arXiv 2304.05969), for the shortest paths
there are, single edges. For an edge from writer w to reader r (see `edges`) and a query's two runs:

1. The *lending* run gives w_lend, what w writes there. Denoising lends from the clean run, noising from the corrupt.
2. In the *receiving* run the input of r alone becomes x + (w_lend - w), where x is the stream that r reads and w is
   what the writer writes in that run. All other readers still read x.
       q, k, v of head h:  ln1(x + delta) W[h] + b[h], put in at that head only
       MLP:                mlp(ln2(x + delta))
       logits:             unembed(ln_final(x + delta))
3. Everything after r is computed anew from r's new output. Paths from w to r through other components are untouched.
4. Every metric of `metrics.METRICS` compares the answer's logits with the clean run's target.

An edge joins equal positions, so "which position" means one thing for both its ends; all positions are patched at once
or each alone. A *set* of edges is patched together: each reader's input gets the sum of its deltas, w being what the
writer writes in the patched run so far. All edges into the logits, and likewise all edges of the net, turn the
receiving run into the lending one; all edges outside a circuit, patched together by noising, measure the circuit's
faithfulness.

Deviations from IOI: the path is one edge, not "head to logits through frozen heads", and MLPs are components like any
other (there they are recomputed on the path). The patch is exact, norms included.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from circuit_lab.measures.attribution.edges import (
    ALL_POSITIONS,
    QKV,
    Edge,
    Positions,
    StreamRun,
    all_edges,
    check_edges,
    check_graph,
    head_outputs,
    lending_and_receiving,
    n_readers_before,
    n_writers_before,
    readers_of,
    run_with_writers,
    writers_of,
)
from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    FwdHooks,
    HookedModel,
    check_model,
    logits_at,
    resumed_logits,
)
from circuit_lab.measures.intervals import mean_interval
from circuit_lab.measures.metrics import METRICS, Target, target_of
from circuit_lab.measures.patching.query_pairs import QueryPairs
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result
from circuit_lab.nets import HookedSharedTransformer
from circuit_lab.nets.components import at_position

EdgeSets = Mapping[str, tuple[Edge, ...]]
"""Edges patched together, by name."""


@dataclass(frozen=True, eq=False)
class PathPatching(Result):
    """Metrics of every query after each edge, or set of edges, has been patched.

    Attributes:
        edges: What was patched together, by name; one edge each unless sets were asked for.
        position_names: Positions patched, each alone; ("all",) if all at once.
        values: The metrics of `METRICS` after the patch, in `METRIC_UNITS`.
        receiving: The metrics of the receiving run: what a patch that does nothing gives.
        lending: The metrics of the lending run: what patching everything gives.
        direction: "denoising" or "noising".
        corruption: What differs between the two runs, as in `QueryPairs`.
    """

    edges: EdgeSets
    position_names: tuple[str, ...]
    values: Float[Tensor, "n_metrics n_edges n_positions n"]
    receiving: Float[Tensor, "n_metrics n"]
    lending: Float[Tensor, "n_metrics n"]
    direction: str
    corruption: str

    def effects(self, metric: str) -> Float[Tensor, "n_edges n_positions n"]:
        """What the patch changes per query: metric after it minus the receiving run's, in the metric's unit.

        Args:
            metric: One of `METRICS`.

        Returns:
            The effects; positive = the metric rises.

        Raises:
            ValueError: If there is no such metric.
        """
        if metric not in METRICS:
            raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
        row = METRICS.index(metric)
        return self.values[row] - self.receiving[row]

    def frame(self) -> pd.DataFrame:
        """One row per edge (or set), position and metric.

        Columns: the mean effect with its bootstrap interval, `recovered` (the mean effect as a share of the mean
        difference between the runs; 1 = the edge does all of it, NaN where the runs do not differ), the mean metric of
        the patched, receiving and lending runs, n.
        """
        interval = mean_interval(self.values - self.receiving[:, None, None])
        value, receiving, lending = self.values.mean(-1), self.receiving.mean(-1), self.lending.mean(-1)
        rows = []
        for i, (name, edges) in enumerate(self.edges.items()):
            single = edges[0] if len(edges) == 1 else None
            for j, position in enumerate(self.position_names):
                for m, metric in enumerate(METRICS):
                    gap = float(lending[m] - receiving[m])
                    effect = float(interval.mean[m, i, j])
                    rows.append(
                        {
                            "edges": name,
                            "writer": "" if single is None else single.writer.label,
                            "reader": "" if single is None else single.reader.label,
                            "position": position,
                            "metric": metric,
                            "effect": effect,
                            "low": float(interval.low[m, i, j]),
                            "high": float(interval.high[m, i, j]),
                            "recovered": effect / gap if gap != 0 else float("nan"),
                            "value": float(value[m, i, j]),
                            "receiving": float(receiving[m]),
                            "lending": float(lending[m]),
                            "n": self.values.shape[-1],
                        }
                    )
        return pd.DataFrame(rows)


@torch.no_grad()
def path_patching(
    net: HookedModel,
    pairs: QueryPairs,
    *,
    direction: str = "denoising",
    edges: Sequence[Edge] | Mapping[str, Sequence[Edge]] | None = None,
    positions: Positions = "all",
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> PathPatching:
    """Patch edges between the runs of query pairs.

    Args:
        net: A pre-norm (or norm-free) net of ours.
        pairs: Query pairs, at least one.
        direction: "denoising" (clean into corrupt) or "noising" (corrupt into clean).
        edges: Edges patched each alone; or sets of edges by name, each set patched at once; None for every single edge
            of the net, heads separate (`all_edges(net, heads="together")` for fewer).
        positions: "all" patches all positions at once; "each" sweeps them, one at a time.
        batch_size: Rows (edge and query) per forward pass.

    Returns:
        Metrics per edge, position and query.
    """
    check_model(net)
    net = check_graph(net)
    lending_and_receiving(pairs, direction)
    sets = _edge_sets(net, edges)
    n_ctx = pairs.clean.tokens.shape[1]
    swept: list[int | None] = [None] if positions == "all" else list(range(n_ctx))
    cells = [(edge_set, position) for edge_set in sets.values() for position in swept]
    values, receiving, lending = [], [], []
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        runs = _Runs.of(net, batch, direction)
        n_at_once = max(1, batch_size // len(batch))
        chunks = [cells[i : i + n_at_once] for i in range(0, len(cells), n_at_once)]
        patched = [
            runs.target.metrics(_PatchedRun(net, runs, chunk).logits()).cpu()
            for chunk in progress(chunks, label=f"path patching, pairs from {start}")
        ]
        values.append(torch.cat(patched, dim=1).unflatten(1, (len(sets), len(swept))))
        receiving.append(runs.target.metrics(runs.logits_of(net, runs.receiving)).cpu())
        lending.append(runs.target.metrics(runs.logits_of(net, runs.lending)).cpu())
    return PathPatching(
        edges=sets,
        position_names=(ALL_POSITIONS,) if positions == "all" else pairs.clean.position_names,
        values=torch.cat(values, dim=-1),
        receiving=torch.cat(receiving, dim=-1),
        lending=torch.cat(lending, dim=-1),
        direction=direction,
        corruption=pairs.corruption,
    )


def _edge_sets(
    net: HookedSharedTransformer, edges: Sequence[Edge] | Mapping[str, Sequence[Edge]] | None
) -> dict[str, tuple[Edge, ...]]:
    """The edges to patch together, by name, checked against the net."""
    if edges is None:
        edges = all_edges(net)
    named = dict(edges) if isinstance(edges, Mapping) else {edge.label: (edge,) for edge in edges}
    check_edges(net, [edge for edge_set in named.values() for edge in edge_set])
    empty = [name for name, edge_set in named.items() if not edge_set]
    if empty:
        raise ValueError(f"the set of edges {empty[0]!r} is empty")
    return {name: tuple(edge_set) for name, edge_set in named.items()}


@dataclass(frozen=True, eq=False)
class _Runs:
    """The two unpatched runs of a batch of pairs, and what the logits are compared with."""

    lending: StreamRun
    receiving: StreamRun
    answer_position: Tensor
    target: Target

    @classmethod
    def of(cls, net: HookedSharedTransformer, batch: QueryPairs, direction: str) -> "_Runs":
        """Run both."""
        lending, receiving = (run_with_writers(net, given) for given in lending_and_receiving(batch, direction))
        clean = lending if direction == "denoising" else receiving
        position = batch.clean.answer_position.to(net.device)
        target = target_of(
            logits_at(net, at_position(clean.states[-1], position)),
            answer=batch.clean.answer,
            other_answer=batch.corrupt.answer,
        )
        return cls(lending, receiving, position, target)

    def logits_of(self, net: HookedSharedTransformer, run: StreamRun) -> Float[Tensor, "n d_vocab_out"]:
        """The unpatched logits."""
        return logits_at(net, at_position(run.states[-1], self.answer_position))


class _PatchedRun:
    """The receiving run of each cell of a chunk, with the cell's edges patched.

    It starts before the first reader of the chunk and, after the last one, goes on as an ordinary forward pass.
    `written` holds what each writer wrote: [n, pos, d_model] before the start, where all cells agree, then
    [cells, n, pos, d_model].
    """

    def __init__(
        self,
        net: HookedSharedTransformer,
        runs: _Runs,
        chunk: Sequence[tuple[Sequence[Edge], int | None]],
    ) -> None:
        self.net, self.runs, self.n_cells = net, runs, len(chunk)
        writer_index = {writer: i for i, writer in enumerate(writers_of(net.cfg))}
        reader_index = {reader: i for i, reader in enumerate(readers_of(net.cfg))}
        n_ctx = runs.receiving.states.shape[2]
        self.lent = torch.zeros(len(chunk), len(reader_index), len(writer_index), dtype=torch.bool)
        self.at = torch.ones(len(chunk), 1, n_ctx, 1, dtype=net.dtype, device=net.device)
        layers: set[int] = set()
        for cell, (edges, position) in enumerate(chunk):
            for part in (part for edge in edges for part in edge.parts(net.cfg.n_heads)):
                self.lent[cell, reader_index[part.reader], writer_index[part.writer]] = True
                layers.add(net.cfg.n_layers if part.reader.layer is None else part.reader.layer)
            if position is not None:
                self.at[cell] = 0
                self.at[cell, 0, position] = 1
        self.start = min(layers)
        self.stop = min(max(layers) + 1, net.cfg.n_layers)
        self.written: list[Tensor] = list(runs.receiving.writers[: n_writers_before(net.cfg, self.start)])

    def logits(self) -> Float[Tensor, "cells n d_vocab_out"]:
        """The logits at the answer position."""
        state = self.runs.receiving.states[self.start].expand(self.n_cells, -1, -1, -1)
        for layer in range(self.start, self.stop):
            state = self._after_layer(layer, state)
        if self.stop == self.net.cfg.n_layers:
            delta = self._delta(n_readers_before(self.net.cfg, self.stop))
            state = state if delta is None else state + delta
        flat = resumed_logits(
            self.net,
            state.flatten(0, 1),
            self.runs.answer_position.repeat(self.n_cells),
            start_at=self.net.lens_sites[self.stop].label,
        )
        return flat.unflatten(0, (self.n_cells, -1))

    def _delta(self, reader: int) -> Float[Tensor, "cells n pos d_model"] | None:
        """What changes in the input of a reader; None if no cell patches an edge into it."""
        lent = self.lent[:, reader]
        used = lent.any(0).nonzero().flatten().tolist()
        if not used:
            return None
        delta = torch.zeros_like(self.runs.receiving.states[0]).expand(self.n_cells, -1, -1, -1)
        for writer in used:
            cells = lent[:, writer, None, None, None].to(self.at)
            delta = delta + cells * (self.runs.lending.writers[writer] - self.written[writer])
        return delta * self.at

    def _after_layer(
        self, layer: int, state: Float[Tensor, "cells n pos d_model"]
    ) -> Float[Tensor, "cells n pos d_model"]:
        """The stream after a layer whose readers read what the cells' edges give them."""
        block, rows = self.net.blocks[layer], (self.n_cells, -1)
        mid: list[Tensor] = []

        def keep_heads(z: Tensor, hook: HookPoint) -> None:
            del hook
            self.written += head_outputs(self.net, layer, z).unflatten(1, rows).unbind(0)

        def keep_mid(residual: Tensor, hook: HookPoint) -> None:
            del hook
            mid.append(residual)

        def put_in_mlp(mlp_out: Tensor, hook: HookPoint) -> Tensor:
            del hook
            delta = self._delta(n_readers_before(self.net.cfg, layer + 1) - 1)
            if delta is not None:
                mlp_out = block.mlp(block.ln2(mid[0] + delta.flatten(0, 1)))
            self.written.append(mlp_out.unflatten(0, rows))
            return mlp_out

        at = f"blocks.{layer}"
        hooks: FwdHooks = [
            *self._head_hooks(layer, state),
            (f"{at}.attn.hook_z", keep_heads),
            (f"{at}.hook_resid_mid", keep_mid),
            (f"{at}.hook_mlp_out", put_in_mlp),
        ]
        with self.net.hooks(fwd_hooks=list(hooks)):
            return block(state.flatten(0, 1)).unflatten(0, rows)

    def _head_hooks(self, layer: int, state: Float[Tensor, "cells n pos d_model"]) -> FwdHooks:
        """The hooks that give each head its own input to q, k and v, for those that some cell patches."""
        block, n_heads = self.net.blocks[layer], self.net.cfg.n_heads
        weights = {
            "q": (block.attn.W_Q, block.attn.b_Q),
            "k": (block.attn.W_K, block.attn.b_K),
            "v": (block.attn.W_V, block.attn.b_V),
        }
        hooks = []
        for i, kind in enumerate(QKV):
            first = n_readers_before(self.net.cfg, layer) + i * n_heads
            changed = {head: self._delta(first + head) for head in range(n_heads)}
            inputs = {head: (state + d).flatten(0, 1) for head, d in changed.items() if d is not None}
            if inputs:
                hooks.append((f"blocks.{layer}.attn.hook_{kind}", _put_in_heads(block.ln1, *weights[kind], inputs)))
        return hooks


def _put_in_heads(
    norm: torch.nn.Module, weight: Tensor, bias: Tensor, inputs: Mapping[int, Tensor]
) -> Callable[[Tensor, HookPoint], Tensor]:
    """A hook that projects each given head's own input."""

    def put_in(projected: Tensor, hook: HookPoint) -> Tensor:
        del hook
        for head, residual in inputs.items():
            projected[:, :, head] = norm(residual) @ weight[head] + bias[head]
        return projected

    return put_in
