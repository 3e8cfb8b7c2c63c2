"""Ablation: what is lost when a component's output is taken away.

1. Run the queries intact: logits at the answer position, and the residual stream before every layer.
2. Replace a component's output at the chosen positions, in `how` one of three ways:
   * `zero`: by 0, which no query may ever have given;
   * `mean`: by its mean over reference queries at the same position: what stays is what it says of every query alike;
   * `resample`: by its output at the same position for one other reference query, drawn at random (causal scrubbing's
     choice); the metrics are averaged over `n_resamples` draws, the same draws for every component.
3. Resume from the first layer that changed, and take the metrics of `measures/metrics.py` at the answer position. The
   intact run is the reference, the foil its best other token.

Components: one head (its z, so the attention's output bias stays), the attention or the MLP of a layer (its output,
with bias), both together, and the token embedding (position embeddings stay). A recursive net's layers are named by
their steps; one that mixes positions by an MLP has that in place of attention, and no heads; a learned prefix stays.

**Two meanings of a component under weight sharing**, in `scope`:
* "application": one application, in one effective layer; for the embedding, at one position.
* "parameters": every application of the same parameters at once, in all effective layers that use the block; for the
  embedding, at all positions. Zero ablation is then the same as setting the weights that write the output to 0.
In a net without sharing they differ for the embedding alone.

An ablation shows that a component is needed in this run, not what it computes; a component whose work another one takes
over when it is gone (Wang et al., arXiv 2211.00593; McGrath et al., arXiv 2307.15771) looks unneeded. Zero and mean
may take the stream where it never is; resampling does so least (Chan et al. 2022; Zhang and Nanda, arXiv 2309.16042).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.hook_points import HookPoint

from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    HookedModel,
    activations,
    answer_logits,
    block_of_each_layer,
    check_model,
    device_of,
    has_several_streams,
    hooks_to_resume,
    lens_sites,
    mixer_of,
    resumed_logits,
    rows_of,
)
from circuit_lab.measures.intervals import MeanInterval, mean_interval, share_interval
from circuit_lab.measures.metrics import METRICS, target_of
from circuit_lab.measures.model_facts import layer_names, site_before
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result
from circuit_lab.tasks import Queries

HOWS = ("zero", "mean", "resample")
SCOPES = ("application", "parameters")

_WRITES = {
    "attn": ("hook_attn_out",),
    "pos_mlp": ("hook_pos_mlp_out",),
    "mlp": ("hook_mlp_out",),
    "attn+mlp": ("hook_attn_out", "hook_mlp_out"),
    "pos_mlp+mlp": ("hook_pos_mlp_out", "hook_mlp_out"),
    "head": ("attn.hook_z",),
}
"""The hooks of a layer that see what each kind of component writes."""

_EMBED = "hook_embed"


@dataclass(frozen=True)
class Component:
    """What is ablated together.

    Attributes:
        label: A name people read, such as "layer 2 head 1", "H0.L1 head 1" or "block 0 head 1 (layers 0-3)".
        kind: "embed", "head", "attn" (or "pos_mlp"), "mlp" or "attn+mlp" (or "pos_mlp+mlp").
        layers: The effective layers it is ablated in; none for the embedding.
        head: Which head; None for the other kinds.
        position: Which position; None for all that are ablated.
    """

    label: str
    kind: str
    layers: tuple[int, ...] = ()
    head: int | None = None
    position: int | None = None

    def hook_names(self) -> list[str]:
        """The hooks that see what it writes."""
        if self.kind == "embed":
            return [_EMBED]
        return [f"blocks.{layer}.{name}" for layer in self.layers for name in _WRITES[self.kind]]


@dataclass(frozen=True, eq=False)
class Ablation(Result):
    """The metrics of every query, intact and without each component.

    Attributes:
        components: What was ablated, one at a time.
        how: "zero", "mean" or "resample".
        scope: "application" or "parameters".
        positions: Names of the positions at which outputs were replaced.
        intact: In the order of `METRICS`, per query; units there.
        ablated: The same without each component; averaged over the draws under "resample".
        n_resamples: Draws per query under "resample"; else 1.
        n_reference: Queries the replacements were taken from; 0 under "zero".
        chance: Accuracy of a guess.
        n: Queries.
    """

    components: tuple[Component, ...]
    how: str
    scope: str
    positions: tuple[str, ...]
    intact: Float[Tensor, "n_metrics n"]
    ablated: Float[Tensor, "n_metrics n_components n"]
    n_resamples: int
    n_reference: int
    chance: float
    n: int

    def frame(self) -> pd.DataFrame:
        """One row per component and metric: value, low, high, beside the intact run's and the change.

        Intervals: of an accuracy Wilson's (over draws, of the rounded number of right queries), else a bootstrap over
        queries; of `change` (ablated less intact, per query) always a bootstrap, which has no width where every query
        changed alike. `chance` is that of the accuracy, NaN for the other metrics.
        """
        parts = []
        for metric, intact_values, ablated_values in zip(METRICS, self.intact, self.ablated, strict=True):
            ablated, intact = _interval(metric, ablated_values), _interval(metric, intact_values[None])
            change = mean_interval(ablated_values - intact_values)
            columns = {
                "component": [component.label for component in self.components],
                "kind": [component.kind for component in self.components],
                "how": self.how,
                "scope": self.scope,
                "metric": metric,
                "value": ablated.mean.numpy(),
                "low": ablated.low.numpy(),
                "high": ablated.high.numpy(),
                "intact": float(intact.mean),
                "intact_low": float(intact.low),
                "intact_high": float(intact.high),
                "change": change.mean.numpy(),
                "change_low": change.low.numpy(),
                "change_high": change.high.numpy(),
                "chance": self.chance if metric == "accuracy" else math.nan,
                "n": self.n,
            }
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)


def _interval(metric: str, values: Float[Tensor, "cells n"]) -> MeanInterval:
    """Wilson's interval of an accuracy, which has a width at 0 and 1; a bootstrap interval of anything else."""
    if metric != "accuracy":
        return mean_interval(values)
    return share_interval(values.mean(1), values.shape[1])


def ablation_components(
    model: HookedModel, position_names: Sequence[str], *, scope: str = "application"
) -> tuple[Component, ...]:
    """Every component that `ablation` takes away, one at a time, in the order of the forward pass.

    Args:
        model: Any hooked model.
        position_names: Names of the queries' positions.
        scope: "application" or "parameters"; see the module.

    Returns:
        The components; their labels are what `ablation` accepts.

    Raises:
        ValueError: If the scope is unknown.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}, got {scope!r}")
    if scope == "application":
        found = [Component(f"embed @ {name}", "embed", position=p) for p, name in enumerate(position_names)]
        prefix = "" if has_several_streams(model) else "layer "
        places = [(f"{prefix}{name}", "", (layer,)) for layer, name in enumerate(layer_names(model))]
    else:
        found = [Component("embed", "embed")]
        places = _layers_of_blocks(model)
    mixer = mixer_of(model)
    for place, where, layers in places:
        heads = range(model.cfg.n_heads)
        found += [Component(f"{place} head {head}{where}", "head", layers, head) for head in heads]
        found += [Component(f"{place} {kind}{where}", kind, layers) for kind in (mixer, "mlp", f"{mixer}+mlp")]
    return tuple(found)


def _layers_of_blocks(model: HookedModel) -> list[tuple[str, str, tuple[int, ...]]]:
    """Each block's name, where it is applied in words, and the effective layers that apply it."""
    blocks = block_of_each_layer(model)
    places = []
    for block in range(max(blocks) + 1):
        layers = [layer for layer, used in enumerate(blocks) if used == block]
        first, last = layers[0], layers[-1]
        in_a_row = last - first == len(layers) - 1 > 1
        listed = f"{first}-{last}" if in_a_row else ", ".join(map(str, layers))
        places.append((f"block {block}", f" (layer{'s' if len(layers) > 1 else ''} {listed})", tuple(layers)))
    return places


@torch.no_grad()
def ablation(
    model: HookedModel,
    queries: Queries,
    *,
    components: Sequence[str] | None = None,
    how: str = "mean",
    scope: str = "application",
    positions: Sequence[str] | None = None,
    reference: Queries | None = None,
    n_resamples: int = 4,
    generator: torch.Generator | None = None,
    chance: float | None = None,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> Ablation:
    """Take each component's output away in turn, and see what becomes of the answers.

    Args:
        model: Any hooked model, pre-norm or post-norm.
        queries: At least one query.
        components: Labels of `ablation_components`; all of them by default.
        how: "zero", "mean" or "resample".
        scope: "application": one effective layer at a time. "parameters": all that share the block at once.
        positions: Names of the positions at which outputs are replaced; all of them by default.
        reference: Where "mean" and "resample" take their replacements from: queries with the same positions, such as
            those of the training split; the queries themselves by default, under "resample" another one of them.
        n_resamples: Draws per query under "resample".
        generator: Draws the queries of "resample", on the CPU; needed by that alone.
        chance: Accuracy of a guess, such as one among the answers that occur; 1 / d_vocab_out by default.
        batch_size: Queries per forward pass; bounds memory.

    Returns:
        Metrics of every query, intact and without each component.

    Raises:
        ValueError: If there are no queries, or an option is unknown or does not fit the others.
    """
    check_model(model)
    if len(queries) == 0:
        raise ValueError("ablation needs at least one query, got none")
    _check_options(queries, how, reference, generator, n_resamples)
    columns = _columns(queries, positions)
    chosen = _chosen(ablation_components(model, queries.position_names, scope=scope), components, columns)
    source = queries if reference is None else reference
    means = _means(model, source.tokens, _hook_names(chosen), batch_size=batch_size) if how == "mean" else {}
    donors = _donor_rows(queries, reference, n_resamples, generator) if how == "resample" else None
    intact, ablated = [], []
    for rows in progress(torch.arange(len(queries)).split(batch_size), label=f"{how} ablation"):
        if donors is not None:
            replacements = [activations(model, source.tokens[d[rows]], _hook_names(chosen)) for d in donors]
        elif how == "mean":
            replacements = [means]
        else:
            replacements = [dict.fromkeys(_hook_names(chosen), torch.zeros((), device=device_of(model)))]
        of_intact, of_ablated = _batch_metrics(model, queries[rows], chosen, columns, replacements)
        intact.append(of_intact.cpu())
        ablated.append(of_ablated.cpu())
    return Ablation(
        components=chosen,
        how=how,
        scope=scope,
        positions=tuple(queries.position_names[column] for column in columns),
        intact=torch.cat(intact, dim=-1),
        ablated=torch.cat(ablated, dim=-1),
        n_resamples=n_resamples if how == "resample" else 1,
        n_reference=0 if how == "zero" else len(source),
        chance=1 / model.W_U.shape[1] if chance is None else chance,
        n=len(queries),
    )


def _batch_metrics(
    model: HookedModel,
    batch: Queries,
    components: Sequence[Component],
    columns: list[int],
    replacements: Sequence[Mapping[str, Tensor]],
) -> tuple[Float[Tensor, "n_metrics n"], Float[Tensor, "n_metrics n_components n"]]:
    """The metrics of a batch, intact and without each component, averaged over the replacements."""
    intact = answer_logits(model, batch.tokens, batch.answer_position)
    target = target_of(intact, answer=batch.answer, other_answer=batch.answer)
    states = activations(model, batch.tokens, [site.hook_name for site in lens_sites(model)[:-1]])
    ablated = []
    for component in components:
        of_draws = []
        for replacement in replacements:
            places = columns if component.position is None else [component.position]
            rows = rows_of(model, places)
            hooks = [(name, _replacer(replacement[name], component, rows)) for name in component.hook_names()]
            if component.kind == "embed":
                logits = answer_logits(model, batch.tokens, batch.answer_position, fwd_hooks=hooks)
            else:
                start_at = site_before(model, component.layers[0]).label
                going_on = torch.cat([states[name] for name in hooks_to_resume(model, start_at)], dim=1)
                logits = resumed_logits(model, going_on, batch.answer_position, start_at=start_at, fwd_hooks=hooks)
            of_draws.append(target.metrics(logits))
        ablated.append(torch.stack(of_draws).mean(0))
    return target.metrics(intact), torch.stack(ablated, dim=1)


def _replacer(replacement: Tensor, component: Component, rows: list[int]) -> Callable[[Tensor, HookPoint], Tensor]:
    """A hook that writes `replacement`, which broadcasts, over the component's part of some rows of an activation."""
    place = (slice(None), rows) if component.head is None else (slice(None), rows, component.head)

    def replace(activation: Tensor, hook: HookPoint) -> Tensor:
        del hook
        changed = activation.clone()
        changed[place] = replacement.expand_as(activation)[place].to(activation.dtype)
        return changed

    return replace


def _hook_names(components: Sequence[Component]) -> list[str]:
    """Every hook that some component writes to, once."""
    return list(dict.fromkeys(name for component in components for name in component.hook_names()))


def _means(
    model: HookedModel, tokens: Int[Tensor, "n n_ctx"], hook_names: Sequence[str], *, batch_size: int
) -> dict[str, Tensor]:
    """The mean over queries of what each hook sees, at every position."""
    totals: dict[str, Tensor] = {}
    for batch in tokens.split(batch_size):
        for name, activation in activations(model, batch, hook_names).items():
            totals[name] = totals.get(name, torch.zeros((), device=activation.device)) + activation.sum(0)
    return {name: total / len(tokens) for name, total in totals.items()}


def _donor_rows(
    queries: Queries, reference: Queries | None, n_resamples: int, generator: torch.Generator | None
) -> Int[Tensor, "n_resamples n"]:
    """For every draw and query, the row of the reference query whose outputs it gets; another one, among themselves."""
    n = len(queries)
    if reference is None:
        step = torch.randint(1, n, (n_resamples, n), generator=generator)
        return (torch.arange(n) + step) % n
    return torch.randint(len(reference), (n_resamples, n), generator=generator)


def _columns(queries: Queries, positions: Sequence[str] | None) -> list[int]:
    """The positions at which outputs are replaced."""
    names = queries.position_names
    if positions is None:
        return list(range(len(names)))
    unknown = [name for name in positions if name not in names]
    if unknown or not positions:
        raise ValueError(f"positions must be among {', '.join(names)}, got {list(positions)}")
    return [names.index(name) for name in positions]


def _chosen(
    all_components: Sequence[Component], labels: Sequence[str] | None, columns: list[int]
) -> tuple[Component, ...]:
    """The named components, of those that are at some replaced position."""
    by_label = {c.label: c for c in all_components if c.position is None or c.position in columns}
    if labels is None:
        return tuple(by_label.values())
    unknown = [label for label in labels if label not in by_label]
    if unknown or not labels:
        raise ValueError(f"components must be among: {'; '.join(by_label)}; got {list(labels)}")
    return tuple(by_label[label] for label in labels)


def _check_options(
    queries: Queries, how: str, reference: Queries | None, generator: torch.Generator | None, n_resamples: int
) -> None:
    """Refuse options that are unknown or do not fit together."""
    if how not in HOWS:
        raise ValueError(f"how must be one of {', '.join(HOWS)}, got {how!r}")
    if reference is not None:
        if how == "zero":
            raise ValueError('how = "zero" takes nothing from reference queries; leave reference out, or use "mean"')
        if len(reference) == 0 or reference.position_names != queries.position_names:
            raise ValueError(
                f"reference must hold queries with positions {queries.position_names}, "
                f"got {len(reference)} with {reference.position_names}"
            )
    if how == "resample":
        if generator is None:
            raise ValueError('how = "resample" draws queries; give a generator')
        if n_resamples < 1:
            raise ValueError(f"n_resamples must be at least 1, got {n_resamples}")
        if reference is None and len(queries) == 1:
            raise ValueError("one query has no other to resample from; give reference")
