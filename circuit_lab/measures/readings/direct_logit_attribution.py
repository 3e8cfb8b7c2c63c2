"""Direct logit attribution: what each component writes into the answer's logit, in logits.

In a pre-norm net the stream before the unembedding is the sum of what the components wrote, x = sum_c x_c. With the
final norm's divisor s of the very run (its `hook_scale`) held fixed, the norm is linear:

1. Normed part of a component: y_c = (x_c - mean(x_c)) / s, without the mean under RMSNorm, x_c itself without a norm.
2. Unembedding with the norm's weight w: u_t = w * W_U[:, t], the direction that the logit of token t reads.
3. Foil: the vocabulary's mean, u_f = mean_v u_v, so that the answer's logit is centred over the vocabulary and 0 is
   no preference; or one token, so that it is a logit difference.
4. Attribution of component c to answer t: y_c . (u_t - u_f).
5. Completeness: sum_c attribution + constant = logit_t - logit_f, where the constant is what a zero stream would give
   (biases of the unembedding and the final norm). It is checked on every query.
6. Control: the same with u_t averaged over the answers of all queries: what a component would give to the answer of
   another query, drawn at random. Where it is as large as the attribution, the component favours all answers alike.

Stack, labels and normed parts are TransformerLens's (`ActivationCache.decompose_resid`, `stack_head_results`,
`accumulated_resid`, `apply_ln_to_stack`), and the numbers those of its `tools.analysis.direct_logit_attribution`
(nostalgebraist's logit lens; Wang et al., arXiv 2211.00593). Deviations: the vocabulary's mean as foil; each query is
read at its own answer position; a bridge needs no compatibility mode, because w is not required to be folded into W_U,
and completeness is checked instead; nets without a final norm; unit "head" names the MLPs and embeddings too.

What a component does *through* later ones is not in its attribution, and the divisor is not free to change: the
reading corroborates and never decides.
"""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache

from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    HookedModel,
    answer_logits,
    check_model,
    device_of,
    logits_at,
)
from circuit_lab.measures.intervals import mean_interval
from circuit_lab.measures.metrics import target_of
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result
from circuit_lab.nets import HookedRecursiveTransformer, HookedSharedTransformer
from circuit_lab.nets.components import Norm
from circuit_lab.tasks import Queries

UNITS = ("component", "head", "layer")
FOILS = ("mean", "best_other")
_KEPT = (
    *("hook_embed", "hook_pos_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post"),
    *("hook_attn_out", "hook_mlp_out", "hook_z", "ln_final.hook_scale"),
)
_READOUT_RTOL = 0.01
"""Largest gap in completeness, as a part of the attributions' absolute sum: rounding in bfloat16 stays below, and a
component or a transform that was missed does not."""


@dataclass(frozen=True, eq=False)
class DirectLogitAttribution(Result):
    """What each component writes into the answer's logit, per query, in logits.

    Attributes:
        labels: TransformerLens's names: "embed", "0_attn_out", "L0H2" (effective layer 0, head 2), "remainder" (the
            attentions' output biases); under unit "layer" "0_pre", "0_mid", ..., "final_post".
        unit: "component", "head" or "layer". The parts of "layer" are cumulative, the stream up to there.
        target: "answer", or the intermediate whose logit is read.
        foil: What the logit is compared with: "mean" (of the vocabulary), "best_other" or "given" (token ids).
        attribution: Per component and query, in logits, any sign; higher = favours the target.
        control: Mean over queries, with another query's target drawn at random in place of the query's own.
        constant: What a zero stream would give, per query.
        logit: The target's logit less the foil's, per query.
        answer_position_names: Where the queries are read.
        n: Queries read.
    """

    labels: tuple[str, ...]
    unit: str
    target: str
    foil: str
    attribution: Float[Tensor, "n_components n"]
    control: Float[Tensor, " n_components"]
    constant: Float[Tensor, " n"]
    logit: Float[Tensor, " n"]
    answer_position_names: tuple[str, ...]
    n: int

    def frame(self) -> pd.DataFrame:
        """One row per component: attribution (mean over queries, in logits), low, high, control, target, foil, n."""
        interval = mean_interval(self.attribution)
        return pd.DataFrame(
            {
                "component": self.labels,
                "attribution": interval.mean.numpy(),
                "low": interval.low.numpy(),
                "high": interval.high.numpy(),
                "control": self.control.numpy(),
                "target": self.target,
                "foil": self.foil,
                "n": self.n,
            }
        )


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Which logits are compared.

    Attributes:
        target: Token id per query.
        foil: Token id per query; None for the vocabulary's mean.
    """

    target: Int[Tensor, " n"]
    foil: Int[Tensor, " n"] | None

    def at(self, rows: Int[Tensor, " m"], device: torch.device) -> "_Comparison":
        foil = None if self.foil is None else self.foil[rows].to(device)
        return _Comparison(target=self.target[rows].to(device), foil=foil)

    def logit(self, logits: Float[Tensor, "n d_vocab_out"]) -> Float[Tensor, " n"]:
        """The target's less the foil's."""
        foil = logits.mean(1) if self.foil is None else logits.gather(1, self.foil[:, None]).squeeze(1)
        return logits.gather(1, self.target[:, None]).squeeze(1) - foil

    def foil_direction(self, readout: Float[Tensor, "d_vocab_out d_model"]) -> Float[Tensor, "n d_model"]:
        """The direction that the foil's logit reads."""
        return readout.mean(0).expand(len(self.target), -1) if self.foil is None else readout[self.foil]


@dataclass(frozen=True, eq=False)
class _Reading:
    """Queries read at one position, on the CPU.

    Attributes:
        labels: One per component.
        attribution: To each query's own target.
        control: To the mean of all queries' targets.
        logit: The target's less the foil's, as the model gives it.
    """

    labels: tuple[str, ...]
    attribution: Float[Tensor, "n_components n"]
    control: Float[Tensor, "n_components n"]
    logit: Float[Tensor, " n"]


@torch.no_grad()
def direct_logit_attribution(
    model: HookedModel,
    queries: Queries,
    *,
    target: str = "answer",
    foil: str | Int[Tensor, " n"] = "mean",
    unit: str = "component",
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> DirectLogitAttribution:
    """Attribute the target's logit at each query's answer position to the components that wrote it.

    Args:
        model: A pre-norm model: ours, or a bridge whose logits are the unembedded final norm of the last block's
            output, with or without TransformerLens's compatibility mode.
        queries: At least one query.
        target: "answer", or the name of an intermediate such as "bridge".
        foil: "mean": the logit is centred over the vocabulary. "best_other": less the model's best other logit. Token
            ids: less the logit of each query's own foil.
        unit: "component": embeddings, and attention and MLP of each layer. "head": the attentions split into heads and
            a remainder, their output biases. "layer": the stream up to and within each layer, cumulative.
        batch_size: Queries per forward pass; bounds memory.

    Returns:
        Attributions per component and query.

    Raises:
        ValueError: If there are no queries, an option is unknown, the net is post-norm or
            recursive, or the attributions do not
            add up to the logit.
    """
    check_model(model)
    if len(queries) == 0:
        raise ValueError("direct logit attribution needs at least one query, got none")
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}")
    _check_pre_norm(model)
    compared = _comparison(model, queries, target, foil, batch_size=batch_size)
    readout = _readout(model)
    places = _rows_by_position(queries.answer_position, batch_size)
    readings = [
        _read(model, queries, position, rows, compared, readout, unit)
        for position, rows in progress(places, label="direct logit attribution")
    ]
    order = torch.cat([rows for _, rows in places]).argsort()
    result = DirectLogitAttribution(
        labels=readings[0].labels,
        unit=unit,
        target=target,
        foil="given" if isinstance(foil, Tensor) else foil,
        attribution=torch.cat([reading.attribution for reading in readings], dim=1)[:, order],
        control=torch.cat([reading.control for reading in readings], dim=1).mean(1),
        constant=_constant(model, compared, readout),
        logit=torch.cat([reading.logit for reading in readings])[order],
        answer_position_names=tuple(queries.position_names[p] for p in queries.answer_position.unique().tolist()),
        n=len(queries),
    )
    _check_completeness(result)
    return result


def _check_pre_norm(model: HookedModel) -> None:
    """Refuse a net whose stream is not a sum."""
    if isinstance(model, HookedRecursiveTransformer):
        raise ValueError(
            "direct logit attribution needs a stream that is the sum of what the components write, this net is a "
            "recursive transformer: each of its steps rewrites one of two streams and norms it after every addition; "
            "ablate the components instead"
        )
    if isinstance(model, HookedSharedTransformer) and model.cfg.norm_position == "post":
        raise ValueError(
            'direct logit attribution needs a pre-norm net, this one has norm_position = "post": its stream is not the '
            "sum of what the components write; ablate the components instead"
        )


def _comparison(
    model: HookedModel, queries: Queries, target: str, foil: str | Int[Tensor, " n"], *, batch_size: int
) -> _Comparison:
    """The target and the foil of each query, as the options name them."""
    targets = {"answer": queries.answer, **queries.intermediates}
    if target not in targets:
        raise ValueError(f"target must be one of {', '.join(targets)} for these queries, got {target!r}")
    if isinstance(foil, Tensor):
        if len(foil) != len(queries):
            raise ValueError(f"foil must hold one token id per query, got {len(foil)} for {len(queries)} queries")
        return _Comparison(target=targets[target], foil=foil)
    if foil not in FOILS:
        raise ValueError(f"foil must be one of {', '.join(FOILS)} or token ids, got {foil!r}")
    if foil == "mean":
        return _Comparison(target=targets[target], foil=None)
    best_other = [
        target_of(answer_logits(model, tokens, position), answer=token, other_answer=token).foil.cpu()
        for tokens, position, token in zip(
            queries.tokens.split(batch_size),
            queries.answer_position.split(batch_size),
            targets[target].split(batch_size),
            strict=True,
        )
    ]
    return _Comparison(target=targets[target], foil=torch.cat(best_other))


def _readout(model: HookedModel) -> Float[Tensor, "d_vocab_out d_model"]:
    """The direction of the stream, divided by the final norm's scale, that each token's logit reads."""
    directions = model.W_U.detach().T
    assert not isinstance(model, HookedRecursiveTransformer)
    if isinstance(model, HookedSharedTransformer):
        return directions * model.ln_final.w if isinstance(model.ln_final, Norm) else directions
    weight = model.ln_final.weight.detach()
    # Gemma's norms multiply by 1 + weight.
    return directions * (weight + 1 if model.cfg.rmsnorm_uses_offset else weight)


def _constant(
    model: HookedModel, compared: _Comparison, readout: Float[Tensor, "d_vocab_out d_model"]
) -> Float[Tensor, " n"]:
    """What a zero stream would give each query: the biases of the final norm and of the unembedding."""
    logits = logits_at(model, torch.zeros_like(readout[:1])[None])[0].cpu()
    return compared.logit(logits.expand(len(compared.target), -1))


def _rows_by_position(answer_position: Int[Tensor, " n"], batch_size: int) -> list[tuple[int, Int[Tensor, " m"]]]:
    """Batches of rows that are read at the same position."""
    return [
        (position, rows)
        for position in answer_position.unique().tolist()
        for rows in (answer_position == position).nonzero().flatten().split(batch_size)
    ]


def _read(
    model: HookedModel,
    queries: Queries,
    position: int,
    rows: Int[Tensor, " m"],
    compared: _Comparison,
    readout: Float[Tensor, "d_vocab_out d_model"],
    unit: str,
) -> _Reading:
    """One forward pass over `rows`, and what its components write at `position`."""
    logits, cache = _run(model, queries.tokens[rows])
    labels, stack = _stack(cache, unit, position)
    if not isinstance(model, HookedSharedTransformer) or model.cfg.final_norm:
        stack = cache.apply_ln_to_stack(stack, pos_slice=position)
    here = compared.at(rows, readout.device)
    foil = here.foil_direction(readout)
    mean_target = readout[compared.target.to(readout.device)].mean(0)
    return _Reading(
        labels=labels,
        attribution=torch.einsum("cnd,nd->cn", stack, readout[here.target] - foil).cpu(),
        control=torch.einsum("cnd,nd->cn", stack, mean_target - foil).cpu(),
        logit=here.logit(logits[:, position]).cpu(),
    )


def _run(
    model: HookedModel, tokens: Int[Tensor, "m n_ctx"]
) -> tuple[Float[Tensor, "m n_ctx d_vocab_out"], ActivationCache]:
    """A forward pass that keeps the streams and what the components write."""
    return model.run_with_cache(tokens.to(device_of(model)), names_filter=lambda name: name.endswith(_KEPT))


def _stack(
    cache: ActivationCache, unit: str, position: int
) -> tuple[tuple[str, ...], Float[Tensor, "n_components m d_model"]]:
    """What each component writes at `position`, before the final norm, with TransformerLens's labels."""
    if unit == "component":
        stack, labels = cache.decompose_resid(pos_slice=position, return_labels=True)
    elif unit == "layer":
        stack, labels = cache.accumulated_resid(incl_mid=True, pos_slice=position, return_labels=True)
    else:
        others, other_labels = cache.decompose_resid(mode="mlp", pos_slice=position, return_labels=True)
        heads, head_labels = cache.stack_head_results(pos_slice=position, return_labels=True)
        stream = cache["resid_post", cache.model.cfg.n_layers - 1][:, position]
        remainder = stream - others.sum(0) - heads.sum(0)
        stack, labels = torch.cat([others, heads, remainder[None]]), [*other_labels, *head_labels, "remainder"]
    return tuple(map(str, labels)), stack


def _check_completeness(result: DirectLogitAttribution) -> None:
    """Refuse attributions that do not add up, query by query."""
    total = result.attribution[-1] if result.unit == "layer" else result.attribution.sum(0)
    gap = (total + result.constant - result.logit).abs().max()
    allowed = _READOUT_RTOL * result.attribution.abs().sum(0).max()
    if not gap <= allowed:
        raise ValueError(
            f"the attributions do not add up to the logit: off by up to {float(gap):.3g} logits; this model's "
            " unembedding does not read the normed sum of what its components write, so direct logit "
            "attribution does not apply; ablate the components instead"
        )
