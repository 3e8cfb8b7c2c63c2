"""The logit lens (nostalgebraist 2020) at every site and position: what a stream would say if the net stopped there.

1. Read a state through the model's own final norm (if any) and unembedding; in a recursive net the states of both
   streams (the answer is read from z_H alone, so z_L may be in another basis); of a bridge with TransformerLens's
   `logit_readout`: logits z over the output tokens, softmax(z) the lens distribution.
2. For each target token t of a query (the answer, an intermediate such as the bridge, the token standing at a position,
   or any token the caller names): its rank #{s : z[s] >= z[t]}, from 1 (on top); ties count against it. Its
   log-probability log softmax(z)[t]. Over the vocabulary: the entropy of the lens distribution and its top tokens.
3. Over queries: share with the target on top (Wilson interval), mean reciprocal rank and mean log-probability
   (bootstrap intervals).

A target that the lens reads *is there in the unembedding's basis*; one that it does not read may be there in another
basis (see the learnt lens and the probes). Either way the reading corroborates and never decides: what can be read need
not be used.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    HookedModel,
    activations,
    check_model,
    lens_sites,
    logits_at,
    n_prefix,
)
from circuit_lab.measures.intervals import MeanInterval, mean_interval, share_interval
from circuit_lab.measures.metrics import ranks_of
from circuit_lab.measures.model_facts import is_bridge, layer_names
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result
from circuit_lab.tasks import Queries

ANSWER = "answer"


@dataclass(frozen=True, eq=False)
class LogitLens(Result):
    """What the lens reads, per query and averaged.

    Attributes:
        sites: Labels of the sites, input to output.
        position_names: Names of the positions.
        targets: Names of the targets.
        rank: Rank of each target among the output tokens, from 1 (on top).
        log_prob: Its log-probability in nats, at most 0; higher = read more surely.
        entropy: Entropy of the lens distribution in nats, from 0 (one token) to log d_vocab_out (knows nothing).
        top_tokens: Token ids of the most probable tokens, best first.
        top_probabilities: Their probabilities, in [0, 1].
        top1: Share of queries with the target on top, in [0, 1], with its interval.
        mrr: Mean reciprocal rank, in (0, 1]; 1 = always on top.
        mean_log_prob: Mean log-probability in nats.
        n: Queries read.
        chance: Top-1 rate of a guess among the output tokens, 1 / d_vocab_out.
    """

    sites: tuple[str, ...]
    position_names: tuple[str, ...]
    targets: tuple[str, ...]
    rank: Int[Tensor, "n_targets n_sites n_ctx n"]
    log_prob: Float[Tensor, "n_targets n_sites n_ctx n"]
    entropy: Float[Tensor, "n_sites n_ctx n"]
    top_tokens: Int[Tensor, "n_sites n_ctx n top_k"]
    top_probabilities: Float[Tensor, "n_sites n_ctx n top_k"]
    top1: MeanInterval
    mrr: MeanInterval
    mean_log_prob: MeanInterval
    n: int
    chance: float

    @property
    def probability(self) -> Float[Tensor, "n_targets n_sites n_ctx n"]:
        """Probability of each target, in [0, 1]."""
        return self.log_prob.exp()

    def frame(self) -> pd.DataFrame:
        """One row per target, site and position: top1, mrr and log_prob with intervals, mean entropy, n, chance."""
        rows = []
        for target, site, position in torch.ones(self.rank.shape[:3]).nonzero().tolist():
            cell = (target, site, position)
            rows.append(
                {
                    "site": self.sites[site],
                    "position": self.position_names[position],
                    "target": self.targets[target],
                    "top1": float(self.top1.mean[cell]),
                    "low": float(self.top1.low[cell]),
                    "high": float(self.top1.high[cell]),
                    "mrr": float(self.mrr.mean[cell]),
                    "mrr_low": float(self.mrr.low[cell]),
                    "mrr_high": float(self.mrr.high[cell]),
                    "log_prob": float(self.mean_log_prob.mean[cell]),
                    "log_prob_low": float(self.mean_log_prob.low[cell]),
                    "log_prob_high": float(self.mean_log_prob.high[cell]),
                    "entropy": float(self.entropy[site, position].mean()),
                    "n": self.n,
                    "chance": self.chance,
                }
            )
        return pd.DataFrame(rows)

    def query_frame(self, row: int) -> pd.DataFrame:
        """What the lens reads of one query.

        Args:
            row: Which query.

        Returns:
            One row per site and position: its top tokens and their probabilities (tuples, best first), the entropy,
            and `rank_<target>` for each target.
        """
        return pd.DataFrame(
            [
                {
                    "site": label,
                    "position": position_name,
                    "top_tokens": tuple(self.top_tokens[site, position, row].tolist()),
                    "top_probabilities": tuple(self.top_probabilities[site, position, row].tolist()),
                    "entropy": float(self.entropy[site, position, row]),
                    **{f"rank_{name}": int(self.rank[i, site, position, row]) for i, name in enumerate(self.targets)},
                }
                for site, label in enumerate(self.sites)
                for position, position_name in enumerate(self.position_names)
            ]
        )


@torch.no_grad()
def logit_lens(
    model: HookedModel,
    queries: Queries,
    *,
    targets: Sequence[str] | Mapping[str, Int[Tensor, " n"]] | None = None,
    top_k: int = 5,
    include_mid: bool = False,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> LogitLens:
    """Read every lens site and position through the model's final norm and unembedding.

    Args:
        model: Any hooked model in `eval` mode.
        queries: At least one query. Positions after the answer's are read too, whatever stands there.
        targets: Names that `target_tokens` knows, or a token id per query for each name of the caller's own. By
            default every intermediate and the answer.
        top_k: How many of the most probable tokens to keep.
        include_mid: Whether to read the stream between attention and MLP too ("resid_mid k", or k's step).
        batch_size: Queries per forward pass; the logits of one site and batch are held at a time.

    Returns:
        Readings per query and averaged, on the CPU.

    Raises:
        ValueError: If there are no queries, no targets, or not that many output tokens to keep.
    """
    check_model(model)
    if len(queries) == 0:
        raise ValueError("the logit lens needs at least one query, got none")
    d_vocab_out = model.W_U.shape[1]
    if not 1 <= top_k <= d_vocab_out:
        raise ValueError(f"top_k must be between 1 and d_vocab_out = {d_vocab_out}, got {top_k}")
    by_name = _tokens_by_name(queries, targets, d_vocab_out=d_vocab_out)
    if not by_name:
        raise ValueError(
            f"the logit lens needs at least one target, got none; name some of {', '.join(_known(queries))}"
        )
    hook_names = _hook_names(model, include_mid=include_mid)
    of_batches = zip(
        queries.tokens.split(batch_size), torch.stack(list(by_name.values())).split(batch_size, dim=1), strict=True
    )
    total = -(-len(queries) // batch_size)
    readings = [
        _read(model, tokens, target, list(hook_names.values()), top_k=top_k)
        for tokens, target in progress(of_batches, label="logit lens", total=total)
    ]
    rank = torch.cat([reading.rank for reading in readings], dim=-1)
    log_prob = torch.cat([reading.log_prob for reading in readings], dim=-1)
    return LogitLens(
        sites=tuple(hook_names),
        position_names=queries.position_names,
        targets=tuple(by_name),
        rank=rank,
        log_prob=log_prob,
        entropy=torch.cat([reading.entropy for reading in readings], dim=-1),
        top_tokens=torch.cat([reading.top_tokens for reading in readings], dim=-2),
        top_probabilities=torch.cat([reading.top_probabilities for reading in readings], dim=-2),
        top1=share_interval((rank == 1).float().mean(-1), len(queries)),
        mrr=mean_interval(1.0 / rank),
        mean_log_prob=mean_interval(log_prob),
        n=len(queries),
        chance=1.0 / d_vocab_out,
    )


def target_tokens(queries: Queries, target: str) -> Int[Tensor, " n"]:
    """The token id of a named target in each query.

    Args:
        queries: The queries.
        target: "answer", the name of an intermediate ("bridge"), or the name of a position ("h": the token there).

    Returns:
        Token ids.

    Raises:
        ValueError: If the queries have no such target.

    >>> from circuit_lab.tasks import queries_from_tokens
    >>> prompts = queries_from_tokens(torch.tensor([[4, 1], [4, 2]]), torch.tensor([7, 8]), position_names=("h", "r"))
    >>> target_tokens(prompts, "answer").tolist(), target_tokens(prompts, "r").tolist()
    ([7, 8], [1, 2])
    """
    if target == ANSWER:
        return queries.answer
    if target in queries.intermediates:
        return queries.intermediates[target]
    if target in queries.position_names:
        return queries.tokens_at(target)
    raise ValueError(f"these queries have no target {target!r}; they have {', '.join(_known(queries))}")


def check_readable(name: str, token_ids: Int[Tensor, " n"], *, n: int, d_vocab_out: int) -> Int[Tensor, " n"]:
    """The token ids of a target, once each query has one and the unembedding can write it.

    Args:
        name: Name of the target.
        token_ids: Its token ids.
        n: Number of queries.
        d_vocab_out: Number of output tokens.

    Returns:
        The token ids.

    Raises:
        ValueError: If there is not one token per query, or a token has no logit.
    """
    if len(token_ids) != n:
        raise ValueError(f"target {name!r} has {len(token_ids)} tokens for {n} queries; give one per query")
    low, high = int(token_ids.min()), int(token_ids.max())
    if low < 0 or high >= d_vocab_out:
        raise ValueError(
            f"target {name!r} has token {high if high >= d_vocab_out else low}, which has no logit: the unembedding "
            f"writes tokens 0..{d_vocab_out - 1}"
        )
    return token_ids


@dataclass(frozen=True, eq=False)
class _Reading:
    """The readings of one batch, as in `LogitLens`."""

    rank: Int[Tensor, "n_targets n_sites n_ctx n"]
    log_prob: Float[Tensor, "n_targets n_sites n_ctx n"]
    entropy: Float[Tensor, "n_sites n_ctx n"]
    top_tokens: Int[Tensor, "n_sites n_ctx n top_k"]
    top_probabilities: Float[Tensor, "n_sites n_ctx n top_k"]


def _read(
    model: HookedModel,
    tokens: Int[Tensor, "n n_ctx"],
    target: Int[Tensor, "n_targets n"],
    hook_names: Sequence[str],
    *,
    top_k: int,
) -> _Reading:
    """Read one batch, site by site."""
    states = activations(model, tokens, hook_names)
    ranks, log_probs, entropies, top_tokens, top_probabilities = [], [], [], [], []
    for name in hook_names:
        state = states.pop(name)[:, n_prefix(model) :].transpose(0, 1)
        logits = _readout(model, state)
        log_q = logits.log_softmax(-1)
        best = log_q.topk(top_k)
        entropies.append(torch.special.entr(log_q.exp()).sum(-1).cpu())
        top_tokens.append(best.indices.cpu())
        top_probabilities.append(best.values.exp().cpu())
        at_each_position = target.to(logits.device)[:, None].expand(-1, tokens.shape[1], -1)
        ranks.append(torch.stack([ranks_of(logits, token) for token in at_each_position]).cpu())
        log_probs.append(
            torch.stack([log_q.gather(-1, token[..., None]).squeeze(-1) for token in at_each_position]).cpu()
        )
    return _Reading(
        rank=torch.stack(ranks, dim=1),
        log_prob=torch.stack(log_probs, dim=1),
        entropy=torch.stack(entropies),
        top_tokens=torch.stack(top_tokens),
        top_probabilities=torch.stack(top_probabilities),
    )


def _hook_names(model: HookedModel, *, include_mid: bool) -> dict[str, str]:
    """Hook name of each site by its label, input to output."""
    names: dict[str, str] = {}
    of_layer, n_read = layer_names(model), 0
    for site in lens_sites(model):
        if include_mid:
            names |= {f"resid_mid {of_layer[i]}": f"blocks.{i}.hook_resid_mid" for i in range(n_read, site.layer)}
        names[site.label] = site.hook_name
        n_read = site.layer
    return names


def _known(queries: Queries) -> tuple[str, ...]:
    """Names of the targets that the queries have."""
    return (ANSWER, *queries.intermediates, *queries.position_names)


def _tokens_by_name(
    queries: Queries, targets: Sequence[str] | Mapping[str, Int[Tensor, " n"]] | None, *, d_vocab_out: int
) -> dict[str, Int[Tensor, " n"]]:
    """Token ids of each target, checked."""
    if targets is None:
        targets = (*queries.intermediates, ANSWER)
    by_name = targets if isinstance(targets, Mapping) else {name: target_tokens(queries, name) for name in targets}
    n = len(queries)
    return {name: check_readable(name, token, n=n, d_vocab_out=d_vocab_out) for name, token in by_name.items()}


def _readout(model: HookedModel, state: Float[Tensor, "n_ctx n d_model"]) -> Float[Tensor, "n_ctx n d_vocab_out"]:
    """The lens's logits; a net of ours is read by itself, for TransformerLens's tools take a second to import."""
    if not is_bridge(model):
        return logits_at(model, state)
    from transformer_lens.tools.analysis.logit_lens import logit_readout

    return logit_readout(model, state, chunk_size=state.shape[0] * state.shape[1]).values
