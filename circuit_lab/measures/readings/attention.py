"""Attention patterns of every head, and which position each head attends to.

1. A_l,h(q)[d, s] is the weight that head h of effective layer l gives source s at destination d on query q, as
   `hook_pattern` sees it: in [0, 1], and summing to 1 over the sources.
2. *Mean weight*: over the queries, with a bootstrap interval. *Top share*: the share of queries whose largest weight
   is at s alone; a tie is nobody's.
3. *Entropy* of a destination: -sum_s A log A in nats, from 0 (one source) to log(visible sources) (uniform).
4. *Chance*: the uniform weight, 1 / (number of sources that d may see): d + 1 of them in a causal net, all of them in a
   bidirectional one. An untrained net of the same shape, if given, stands beside it.
   The positions of a recursive net's learned prefix are taken together, as one that is called "prefix": the weight on
   it is the sum over them, its own row their mean, and its uniform weight theirs.
5. *Role*: with u the uniform weight, (A - u) / (1 - u) is how far a weight is on the way from chance (0) to all there
   is (1). A head attends s from d if the lower end of the interval of the mean weight is beyond `ROLE_SHARE`, half way:
   .75 of two sources, .67 of three. Then s outweighs all other sources together, so at most one can. A destination
   that sees only itself has no role, nor has a head that attends one source on half of the queries and another on the
   rest; its entropy is low all the same.

A pattern says where a head looks, not what it moves nor whether anything depends on it (Jain and Wallace, arXiv
1902.10186): it corroborates and never decides. Patching and ablation are what decides. The patterns of heads as an
object of study: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits".
"""

import math
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    HookedModel,
    activations,
    block_of_each_layer,
    check_model,
    n_prefix,
)
from circuit_lab.measures.intervals import MeanInterval, mean_interval
from circuit_lab.measures.model_facts import check_kind, is_causal, layer_names
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result
from circuit_lab.tasks import Queries

ROLE_SHARE = 0.5
"""How far from the uniform weight (0) to all of it (1) the lower end of a mean weight must be to give a head a role."""

NO_ROLE = "no single source"
PREFIX = "prefix"
"""What the positions before those of the tokens are called, taken together."""


@dataclass(frozen=True, eq=False)
class AttentionPatterns(Result):
    """Where each head looks, over queries; a reading, not causal evidence.

    Attributes:
        position_names: Names of the positions, the destinations and the sources; first "prefix", if the net has one.
        layer_names: What each effective layer is called: its number, or a recursive net's step.
        blocks: The block of parameters that each effective layer uses.
        weight: Mean attention weight, `[n_layers, n_heads, destination, source]`, in [0, 1].
        entropy: Mean entropy of each destination's weights, `[n_layers, n_heads, destination]`, in nats; lower = more
            on one source.
        top_share: Share of queries whose single largest weight of the destination is at the source, in [0, 1].
        uniform: The weight at chance, `[destination, source]`; 0 where the destination may not look.
        control: Mean weight in the control net; None without one.
        patterns: The weights of the first queries one by one, as many as were asked for.
        n: Queries read.
    """

    position_names: tuple[str, ...]
    layer_names: tuple[str, ...]
    blocks: tuple[int, ...]
    weight: MeanInterval
    entropy: MeanInterval
    top_share: Float[Tensor, "n_layers n_heads n_ctx n_ctx"]
    uniform: Float[Tensor, "n_ctx n_ctx"]
    control: MeanInterval | None
    patterns: Float[Tensor, "n_kept n_layers n_heads n_ctx n_ctx"]
    n: int

    def frame(self) -> pd.DataFrame:
        """One row per layer, head, destination and visible source: weight, low, high, uniform, top_share, control, n.

        `layer` is an effective layer, `step` its name and `block` the parameters it uses; `control` is NaN without a
        control net.
        """
        n_layers, n_heads = self.top_share.shape[:2]
        visible = self.uniform.nonzero().tolist()
        rows = [
            self._row(layer, head, dest, src)
            for layer in range(n_layers)
            for head in range(n_heads)
            for dest, src in visible
        ]
        return pd.DataFrame(rows)

    def roles(self) -> pd.DataFrame:
        """One row per layer, head and destination with a choice: its heaviest source, as in `frame`, and its role.

        Columns beside those of `frame`: `entropy` (nats), `entropy_low`, `entropy_high`, `uniform_entropy`, and `role`
        by the rule of the module, such as "attends h from r1", or `NO_ROLE`.
        """
        n_layers, n_heads = self.top_share.shape[:2]
        with_choice = ((self.uniform > 0).sum(-1) > 1).nonzero().flatten().tolist()
        rows = []
        for layer in range(n_layers):
            for head in range(n_heads):
                for dest in with_choice:
                    row = self._row(layer, head, dest, int(self.weight.mean[layer, head, dest].argmax()))
                    rows.append(row | self._entropy_of(layer, head, dest) | {"role": _role(row)})
        return pd.DataFrame(rows)

    def _row(self, layer: int, head: int, dest: int, src: int) -> dict[str, str | int | float]:
        cell = (layer, head, dest, src)
        return {
            "layer": layer,
            "step": self.layer_names[layer],
            "block": self.blocks[layer],
            "head": head,
            "dest": self.position_names[dest],
            "src": self.position_names[src],
            "weight": float(self.weight.mean[cell]),
            "low": float(self.weight.low[cell]),
            "high": float(self.weight.high[cell]),
            "uniform": float(self.uniform[dest, src]),
            "top_share": float(self.top_share[cell]),
            "control": math.nan if self.control is None else float(self.control.mean[cell]),
            "n": self.n,
        }

    def _entropy_of(self, layer: int, head: int, dest: int) -> dict[str, float]:
        seen = self.uniform[dest][self.uniform[dest] > 0]
        n_sources = round(1 / float(seen.min()))
        n_as_one = n_sources - len(seen) + 1  # more than one where a prefix is taken together
        return {
            "entropy": float(self.entropy.mean[layer, head, dest]),
            "entropy_low": float(self.entropy.low[layer, head, dest]),
            "entropy_high": float(self.entropy.high[layer, head, dest]),
            "uniform_entropy": math.log(n_sources) - n_as_one / n_sources * math.log(n_as_one),
        }


def _role(row: dict[str, str | int | float]) -> str:
    """What a head does at a destination, from its heaviest source."""
    low, uniform = float(row["low"]), float(row["uniform"])
    if (low - uniform) / (1 - uniform) <= ROLE_SHARE:
        return NO_ROLE
    if row["src"] == row["dest"]:
        return f"attends itself from {row['dest']}"
    return f"attends {row['src']} from {row['dest']}"


@torch.no_grad()
def attention_patterns(
    model: HookedModel,
    queries: Queries,
    *,
    control: HookedModel | None = None,
    n_kept: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> AttentionPatterns:
    """Read every head's attention pattern on the queries.

    Attention weight is not causal evidence: see the module. At padded positions it means nothing.

    Args:
        model: Any hooked model.
        queries: At least one query.
        control: A net of the same shape, such as one with its initial weights, whose mean weights stand beside.
        n_kept: How many queries' own patterns the result keeps, from the first on.
        batch_size: Queries per forward pass. Until the means are taken, the weights of all queries are held on the
            CPU, `n_layers * n_heads * n_ctx^2` numbers a query: thousands of queries of three tokens, but only
            hundreds of prompts of GPT-2; take a `queries.sample`.

    Returns:
        Weights, entropies and top shares of every layer and head.

    Raises:
        ValueError: If there are no queries, the model has no attention, or the control's layers or heads are not as
            many as the model's.
    """
    check_model(model)
    check_kind(model, "pattern")
    if len(queries) == 0:
        raise ValueError("attention patterns need at least one query, got none")
    patterns = _patterns(model, queries, batch_size=batch_size)
    return AttentionPatterns(
        position_names=((PREFIX,) if n_prefix(model) else ()) + queries.position_names,
        layer_names=layer_names(model),
        blocks=block_of_each_layer(model),
        weight=_interval_by_layer(patterns),
        entropy=_interval_by_layer(torch.special.entr(patterns).sum(-1)),
        top_share=_is_top(patterns).to(patterns.dtype).mean(0),
        uniform=_uniform(model, queries.tokens.shape[1]).to(patterns.dtype),
        control=None if control is None else _control_weight(control, patterns, queries, batch_size=batch_size),
        patterns=patterns[:n_kept].clone(),
        n=len(queries),
    )


def _patterns(
    model: HookedModel, queries: Queries, *, batch_size: int
) -> Float[Tensor, "n n_layers n_heads n_ctx n_ctx"]:
    """The patterns of every query, on the CPU."""
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    parts = []
    for tokens in progress(queries.tokens.split(batch_size), label="attention patterns"):
        found = activations(model, tokens, names)
        patterns = torch.stack([found[name].cpu() for name in names], dim=1)
        parts.append(_prefix_as_one(patterns, n_prefix(model)))
    return torch.cat(parts)


def _prefix_as_one(patterns: Float[Tensor, "*cells rows rows"], n_prefix: int) -> Float[Tensor, "*cells n_ctx n_ctx"]:
    """The patterns with the positions before those of the tokens taken together."""
    if n_prefix == 0:
        return patterns
    on_prefix = patterns[..., :n_prefix].sum(-1, keepdim=True)
    weight = torch.cat([on_prefix, patterns[..., n_prefix:]], dim=-1)
    of_prefix = weight[..., :n_prefix, :].mean(-2, keepdim=True)
    return torch.cat([of_prefix, weight[..., n_prefix:, :]], dim=-2)


def _control_weight(
    control: HookedModel, patterns: Float[Tensor, "n ..."], queries: Queries, *, batch_size: int
) -> MeanInterval:
    """Mean weights of the control net, which must have as many layers and heads."""
    check_model(control)
    wanted, got = tuple(patterns.shape[1:3]), (control.cfg.n_layers, control.cfg.n_heads)
    if got != wanted:
        raise ValueError(f"the control has {got} layers and heads, the model {wanted}; give a net of the same shape")
    return _interval_by_layer(_patterns(control, queries, batch_size=batch_size))


def _interval_by_layer(values: Float[Tensor, "n n_layers *cells"]) -> MeanInterval:
    """Means over queries, taken layer by layer so that the resamples of one layer at a time are held."""
    layers = [mean_interval(layer.movedim(0, -1)) for layer in values.unbind(1)]
    return MeanInterval(
        mean=torch.stack([layer.mean for layer in layers]),
        low=torch.stack([layer.low for layer in layers]),
        high=torch.stack([layer.high for layer in layers]),
    )


def _is_top(patterns: Float[Tensor, "*cells n_ctx"]) -> Tensor:
    """Whether a source alone has the largest weight of its destination."""
    largest = patterns == patterns.amax(-1, keepdim=True)
    return largest & (largest.sum(-1, keepdim=True) == 1)


def _uniform(model: HookedModel, n_ctx: int) -> Float[Tensor, "n_ctx n_ctx"]:
    """Equal weight on every source that a destination may see."""
    n_rows = n_prefix(model) + n_ctx
    visible = torch.ones(n_rows, n_rows, dtype=torch.float64)
    if is_causal(model):
        visible = visible.tril()
    return _prefix_as_one(visible / visible.sum(-1, keepdim=True), n_prefix(model))
