"""Attribution patching: the first-order estimate of what patching every activation, or every edge, would do.

1. *Nodes* (AtP: Nanda 2023; Syed et al., arXiv 2310.10348; Kramar et al., arXiv 2403.00745). For an activation a,
   effect = (a_lend - a_recv) . dm/da, the gradient of the metric m taken in the receiving run. Denoising receives in
   the corrupt run and noising in the clean one; TransformerLens's `attribution_patch` is our denoising.
2. *Edges* (EAP: Syed et al.; `edge_attribution_patching`). For writer w and reader r, effect = (w_lend - w_recv) .
   dm/dx_r, where x_r is the stream as r alone reads it. There is no copy of the stream per reader in the net, and none
   is needed: the gradient at what r makes of its input is pulled back through r,
       q, k, v of head h:  the gradient at hook_q[h] through x -> ln1(x) W_Q[h] + b_Q[h]
       MLP:                the gradient at hook_mlp_out through x -> mlp(ln2(x))
       logits:             the gradient of m(unembed(ln_final(x))).
   The score is the derivative of exact path patching (`path_patching`) along the patch. A writer's scores over all its
   readers add up to its node score.
3. *Integrated gradients* (EAP-IG "inputs": Hanna et al., arXiv 2403.17806). The gradients are averaged over points
   between the receiving and the lending run's embeddings, e(s) = e_recv + s (e_lend - e_recv), each a forward pass of
   its own; the differences of activations stay those of the two end points. The same is done for nodes. `n_steps = 1`
   is plain attribution patching, s = 0. From 2 on, s = (k + 1/2) / n_steps. (Deviation: there s = k / n_steps, k from
   1. The midpoints' error falls with the square of n_steps, and neither run is favoured.) For the embedding, the first
   site of `resid`, the scores over positions then add up to the difference of the metric between the runs
   (completeness; without what a learned prefix, before the tokens, adds, which is no node).

The metric is a sum over queries of their own metrics and queries do not touch each other, so one backward pass gives
the gradient of every query. Metrics that are constant almost everywhere (accuracy, rank) have no gradient. That
of `kl` is 0 at the clean run, so noising with n_steps = 1 gives 0 everywhere.

These are estimates. They miss what saturates: a softmax that is sure of itself, a norm whose scale the patch changes.
`attribution_agreement` sets them beside exact patching.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuit_lab.measures.attribution.attribution_runs import (
    PairedRuns,
    check_attribution,
    paired_runs,
    point_on_path,
    shares_of_path,
)
from circuit_lab.measures.hooked_model import DEFAULT_BATCH_SIZE, HookedModel, lens_sites, n_prefix
from circuit_lab.measures.intervals import mean_interval
from circuit_lab.measures.model_facts import check_kind, is_bridge, layer_names
from circuit_lab.measures.patching.query_pairs import QueryPairs
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result

_STREAM_AXES, _HEAD_AXES = ("layer", "position"), ("layer", "position", "head")
NODE_AXES = {
    "resid": ("site", "position"),
    "resid_pre": _STREAM_AXES,
    "resid_mid": _STREAM_AXES,
    "resid_post": _STREAM_AXES,
    "attn_out": _STREAM_AXES,
    "mlp_out": _STREAM_AXES,
    "pos_mlp_out": _STREAM_AXES,
    "z": _HEAD_AXES,
    "q": _HEAD_AXES,
    "k": _HEAD_AXES,
    "v": _HEAD_AXES,
    "pattern": _HEAD_AXES,
    "pattern_entry": (*_HEAD_AXES, "source"),
}
"""What the cells of each kind of node are. `resid` is the stream at every lens site, `pos_mlp_out` what a recursive
net's MLP over positions writes; `pattern` is the row of a head's attention pattern at a position and `pattern_entry`
what that row gives to one source position."""


@dataclass(frozen=True, eq=False)
class NodeAttribution(Result):
    """Estimated effect of patching each activation, per query.

    Attributes:
        effects: By kind of node, `[*cells, n]` with the cells of `NODE_AXES`: the estimated change of the metric, in
            its unit (`METRIC_UNITS`); positive = the metric would rise. The estimate is linear, so effects of positions
            or heads that are patched together add up.
        sites: Labels of the lens sites, of "resid".
        layer_names: What each effective layer is called: its number, or a recursive net's step.
        position_names: Names of the positions.
        metric: One of `DIFFERENTIABLE_METRICS`.
        receiving: The metric of the receiving run.
        lending: The metric of the lending run.
        n_steps: Points at which gradients were taken; 1 = plain attribution patching.
        direction: "denoising" or "noising".
        corruption: What differs between the two runs, as in `QueryPairs`.
    """

    effects: Mapping[str, Float[Tensor, "*cells n"]]
    sites: tuple[str, ...]
    layer_names: tuple[str, ...]
    position_names: tuple[str, ...]
    metric: str
    receiving: Float[Tensor, " n"]
    lending: Float[Tensor, " n"]
    n_steps: int
    direction: str
    corruption: str

    def labels(self, kind: str) -> list[str]:
        """A name per cell of one kind, in the order of the flattened cells, such as `z 1.0 @ r1`.

        Args:
            kind: A kind of node in `effects`.

        Returns:
            The names.
        """
        return [self._label(kind, cell) for cell in self._cells(kind)]

    def _cells(self, kind: str) -> list[dict[str, int]]:
        """Index of each cell by axis."""
        sizes = self.effects[kind].shape[:-1]
        return [dict(zip(NODE_AXES[kind], index, strict=True)) for index in product(*map(range, sizes))]

    def _label(self, kind: str, cell: Mapping[str, int]) -> str:
        """Kind, layer, head, position and, for a pattern's entry, the position looked at; or the site and position."""
        position = self.position_names[cell["position"]]
        if "site" in cell:
            return f"{self.sites[cell['site']]} @ {position}"
        head = f".{cell['head']}" if "head" in cell else ""
        source = f" <- {self.position_names[cell['source']]}" if "source" in cell else ""
        return f"{kind} {self.layer_names[cell['layer']]}{head} @ {position}{source}"

    def frame(self) -> pd.DataFrame:
        """One row per node.

        Columns: node, kind, layer (of `resid` the number of the lens site), position, head and source (None where there
        is none), metric, mean effect with its bootstrap interval, n_steps, n.
        """
        rows = []
        for kind, effects in self.effects.items():
            interval = mean_interval(effects.flatten(0, -2))
            for i, cell in enumerate(self._cells(kind)):
                rows.append(
                    {
                        "node": self._label(kind, cell),
                        "kind": kind,
                        "layer": cell["site"] if kind == "resid" else cell["layer"],
                        "position": self.position_names[cell["position"]],
                        "head": cell.get("head"),
                        "source": self.position_names[cell["source"]] if "source" in cell else None,
                        "metric": self.metric,
                        "effect": float(interval.mean[i]),
                        "low": float(interval.low[i]),
                        "high": float(interval.high[i]),
                        "n_steps": self.n_steps,
                        "n": effects.shape[-1],
                    }
                )
        return pd.DataFrame(rows).astype({"head": "Int64"})


def attribution_patching(
    model: HookedModel,
    pairs: QueryPairs,
    *,
    kinds: Sequence[str] = ("resid_pre", "attn_out", "mlp_out", "z"),
    n_steps: int = 1,
    direction: str = "denoising",
    metric: str = "logit_diff",
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> NodeAttribution:
    """Estimate the effect of patching every activation of the given kinds between the runs of query pairs.

    Args:
        model: Any hooked model, pre- or post-norm. On a bridge `resid_mid` needs blocks whose MLP reads the stream
            after attention.
        pairs: Query pairs, at least one.
        kinds: Kinds of nodes, keys of `NODE_AXES`.
        n_steps: Gradients per query: 1 = plain, in the receiving run; more = averaged between the runs' embeddings.
        direction: "denoising" (clean into corrupt) or "noising" (corrupt into clean).
        metric: One of `DIFFERENTIABLE_METRICS`.
        batch_size: Rows per forward and backward pass.

    Returns:
        Effects per node and query.

    Raises:
        ValueError: If a kind is unknown, or there is none.
    """
    unknown = [kind for kind in kinds if kind not in NODE_AXES]
    if unknown or not kinds:
        raise ValueError(f"kinds must be among {', '.join(NODE_AXES)}, got {list(kinds)}")
    for kind in kinds:
        check_kind(model, kind)
    check_attribution(model, pairs, n_steps=n_steps, direction=direction, metric=metric)
    wanted = [name for kind in kinds for name in _gradient_hooks(model, kind)]
    checks_mid = "resid_mid" in kinds and is_bridge(model)
    seen = {*kinds, *(("resid_pre", "attn_out") if checks_mid else ())}
    names = [name for kind in sorted(seen) for name in _value_hooks(model, kind)]
    parts: list[dict[str, Tensor]] = []
    receiving, lending = [], []
    for start in progress(range(0, len(pairs), batch_size), label="attribution patching"):
        runs = paired_runs(model, pairs[start : start + batch_size], names, direction=direction, metric=metric)
        if checks_mid:
            _check_mid_is_a_sum(model, runs)
        gradients = _mean_gradients(model, runs, list(dict.fromkeys(wanted)), n_steps)
        parts.append({kind: _effects(model, runs, gradients, kind) for kind in kinds})
        receiving.append(runs.metric_of(runs.receiving_logits).cpu())
        lending.append(runs.metric_of(runs.lending_logits).cpu())
    return NodeAttribution(
        effects={kind: torch.cat([part[kind] for part in parts], dim=-1) for kind in kinds},
        sites=tuple(site.label for site in lens_sites(model)),
        layer_names=layer_names(model),
        position_names=pairs.clean.position_names,
        metric=metric,
        receiving=torch.cat(receiving),
        lending=torch.cat(lending),
        n_steps=n_steps,
        direction=direction,
        corruption=pairs.corruption,
    )


def _mean_gradients(model: HookedModel, runs: PairedRuns, names: Sequence[str], n_steps: int) -> dict[str, Tensor]:
    """The gradient at each activation, averaged over the points of the path."""
    points = (point_on_path(model, runs, names, share).gradients for share in shares_of_path(n_steps))
    total = next(points)
    for gradients in points:
        total = {name: total[name] + gradients[name] for name in names}
    return {name: gradient / n_steps for name, gradient in total.items()}


def _value_hooks(model: HookedModel, kind: str) -> list[str]:
    """The hooks that see a kind of node, layer by layer (or site by site)."""
    if kind == "resid":
        return [site.hook_name for site in lens_sites(model)]
    name = f"attn.hook_{kind.removesuffix('_entry')}" if "head" in NODE_AXES[kind] else f"hook_{kind}"
    return [f"blocks.{layer}.{name}" for layer in range(model.cfg.n_layers)]


def _gradient_hooks(model: HookedModel, kind: str) -> list[str]:
    """The hooks at which the gradients of these nodes are taken.

    A bridge's `hook_resid_mid` is the input of ln2, a branch beside the stream; what attention adds to the stream has
    the stream's own gradient.
    """
    return _value_hooks(model, "attn_out" if kind == "resid_mid" and is_bridge(model) else kind)


def _check_mid_is_a_sum(model: HookedModel, runs: PairedRuns) -> None:
    """Refuse a bridge whose MLP does not read the stream after attention has been added."""
    names = zip(*(_value_hooks(model, kind) for kind in ("resid_pre", "attn_out", "resid_mid")), strict=True)
    for layer, of_layer in enumerate(names):
        pre, attn_out, mid = (runs.receiving[name] for name in of_layer)
        if not torch.allclose(pre + attn_out, mid, rtol=1e-3, atol=1e-4 * float(mid.abs().max())):
            raise ValueError(
                f"resid_mid of layer {layer} is not resid_pre + attn_out in this bridge, so its gradient cannot be "
                "read there; leave resid_mid out of kinds"
            )


def _effects(model: HookedModel, runs: PairedRuns, gradients: Mapping[str, Tensor], kind: str) -> Tensor:
    """Difference times gradient of every node of a kind, [*cells, n], at the tokens' positions, on the CPU."""
    layers, tokens = [], slice(n_prefix(model), None)
    for value, gradient in zip(_value_hooks(model, kind), _gradient_hooks(model, kind), strict=True):
        weighted = runs.difference(value) * gradients[gradient]
        if kind in ("pattern", "pattern_entry"):
            weighted = weighted.transpose(1, 2)  # [n, head, position, source] -> [n, position, head, source]
        weighted = weighted[:, tokens]
        layers.append(weighted[..., tokens] if kind == "pattern_entry" else weighted.sum(-1))
    return torch.stack(layers).movedim(1, -1).cpu()
