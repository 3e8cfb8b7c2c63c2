"""The learnt lens: can *some* affine map, put before the unembedding, read a target from a state?

The plain logit lens reads in the basis of the last layer. A target it does not read may sit there in another basis, so
a missing reading is no evidence of absence. As in the tuned lens (Belrose et al., arXiv 2303.08112), one affine map
(translator) per site and position comes between state and unembedding:

1. x' = final norm of the state (if there is one), what the unembedding would see. Lens logits: (x' A + b) W_U + b_U.
2. A and b minimise, over training queries with target token t_i,

       mean_i -log softmax((x'_i A + b) W_U + b_U)[t_i]  +  penalty / 2 * (v * |A - I|^2 + |shift of the mean|^2)

   with v the mean variance of x'. Strictly convex, so the optimum depends on no seed (`softmax_map`).
3. The penalty draws the map to the identity: an infinite one leaves the plain lens. A direction that the training
   targets say nothing about is read as the plain lens reads it, and a token's own column of W_U is given. So the map
   can read a token that was no target in training, which a softmax classifier with one weight vector per class cannot;
   the cross-entropy does push such tokens down, and only the penalty bounds by how much.
4. *Cross-validation by fact* (`folds`): each query is read by a map fitted on the training queries outside its fold, so
   never on its fact. Of the penalties the one with the smallest held-out cross-entropy of the training queries is
   taken, per site and position; ties go to the larger. (That one number has seen every training fact.)
5. *Control*: targets shuffled among the facts, the same folds and penalty.

Deviations from the tuned lens: trained to predict the target, not the net's own last distribution, because the question
is whether the target can be read; the map comes after the final norm, which makes the problem convex; L-BFGS to the
optimum instead of SGD.

Why not a closed form: ridge regression to the targets' columns of W_U reads less, because least squares lets some of
many classes mask others (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, section 4.2).

A reading: it corroborates and never decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    HookedModel,
    check_model,
    device_of,
    lens_sites,
    states_at,
)
from circuit_lab.measures.intervals import MeanInterval, interval_columns
from circuit_lab.measures.metrics import ranks_of
from circuit_lab.measures.model_facts import final_normed, unembedding_bias
from circuit_lab.measures.progress import progress
from circuit_lab.measures.readings.folds import (
    FactFolds,
    folds_by_fact,
    label_unseen,
    mean_interval_by_fact,
    pool_queries,
    share_interval_by_fact,
    shuffled_over_facts,
)
from circuit_lab.measures.readings.logit_lens import check_readable, target_tokens
from circuit_lab.measures.readings.softmax_map import SoftmaxHead, held_out_logits
from circuit_lab.measures.result import Result
from circuit_lab.tasks import Queries

PENALTIES = (1e-5, 1e-4, 1e-3)
"""Penalties tried by default, from loosely to closely tied to the plain lens."""


@dataclass(frozen=True, eq=False)
class LearntLens(Result):
    """What the learnt lens reads of one target, beside the plain lens and the control.

    Attributes:
        target: What is read.
        sites: Labels of the sites, input to output.
        position_names: Names of the positions.
        rank: Rank of each query's target among the output tokens, from 1 (on top); ties count against it.
        top1: Share of queries with the target on top, in [0, 1].
        mrr: Mean reciprocal rank, in (0, 1]; 1 = always on top.
        plain_top1: The share that the plain lens has on top, over the same queries.
        shuffled_top1: The share that a map learnt from shuffled targets has on top (of those targets).
        penalty: The penalty taken.
        chance: Rate of the most frequent target among the queries read. A map that ignores the state can fall below it,
            where another target is the most frequent one in training.
        unseen_share: Share of queries whose target no training query outside their fold has.
        n: Queries read.
        n_train: Queries fitted on.
        n_facts: Facts (or single queries) behind the queries read; the intervals count these.
        held_out_by: What is held out together: "first-hop fact", "last-hop fact" or "query".
        n_folds: Number of folds.
        seed: Seed of folds, shuffled targets and resamples.
    """

    target: str
    sites: tuple[str, ...]
    position_names: tuple[str, ...]
    rank: Int[Tensor, "n_sites n_ctx n"]
    top1: MeanInterval
    mrr: MeanInterval
    plain_top1: MeanInterval
    shuffled_top1: MeanInterval
    penalty: Float[Tensor, "n_sites n_ctx"]
    chance: float
    unseen_share: float
    n: int
    n_train: int
    n_facts: int
    held_out_by: str
    n_folds: int
    seed: int

    def frame(self) -> pd.DataFrame:
        """One row per site and position: top1 (low, high), mrr, plain_top1 and shuffled_top1 alike, chance, n."""
        scores = ("top1", "mrr", "plain_top1", "shuffled_top1")
        cells = pd.MultiIndex.from_product([self.sites, self.position_names], names=["site", "position"])
        return cells.to_frame(index=False).assign(
            target=self.target,
            **interval_columns({name: getattr(self, name) for name in scores}),
            penalty=self.penalty.double().flatten().numpy(),
            chance=self.chance,
            unseen_share=self.unseen_share,
            n=self.n,
            n_train=self.n_train,
            n_facts=self.n_facts,
            held_out_by=self.held_out_by,
        )


@torch.no_grad()
def learnt_lens(
    model: HookedModel,
    train_queries: Queries,
    queries: Queries,
    *,
    target: str = "bridge",
    n_folds: int = 5,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> LearntLens:
    """Fit an affine map per lens site and position on training queries, and read the target of others through it.

    The logits of all queries over the whole vocabulary are held for one site and position.

    Args:
        model: Any hooked model in `eval` mode.
        train_queries: Queries to fit on, of the same task; those of the tested fold's facts are left out.
        queries: Queries to read.
        target: What to read: "answer", an intermediate, or a position's token (see `target_tokens`).
        n_folds: Number of folds.
        penalties: Penalties to choose from, each > 0; higher = closer to the plain lens.
        seed: Seed of folds, shuffled targets and resamples; the global random state is not used.
        batch_size: Queries per forward pass. The states of all queries at one lens site are held as well: sample
            the queries where that is too much.

    Returns:
        Readings, on the CPU.

    Raises:
        ValueError: If a penalty is not positive, or there is none.
    """
    check_model(model)
    if not penalties or min(penalties) <= 0:
        raise ValueError(f"penalties must be positive, at least one, got {tuple(penalties)}")
    pooled = pool_queries(train_queries, queries)
    tokens = check_readable(target, target_tokens(pooled, target), n=len(pooled), d_vocab_out=model.W_U.shape[1])
    folds = folds_by_fact(pooled, target=target, n_folds=n_folds, seed=seed)
    read = torch.arange(len(pooled)) >= len(train_queries)
    cells = _Cells(model, tokens, shuffled_over_facts(tokens, folds, seed=seed), folds, read, tuple(penalties))
    readings = []
    for site in progress(lens_sites(model), label=f"learnt lens of {target}"):
        states = states_at(model, pooled.tokens, stage=site.label, batch_size=batch_size)
        readings += [
            cells.read_cell(final_normed(model, states[:, [position]])[:, 0]) for position in range(states.shape[1])
        ]
    shape = (len(lens_sites(model)), pooled.tokens.shape[1], len(queries))
    rank, plain, shuffled = torch.stack([reading.ranks for reading in readings], dim=1).reshape(3, *shape)
    fact = folds.fact[read]
    return LearntLens(
        target=target,
        sites=tuple(site.label for site in lens_sites(model)),
        position_names=queries.position_names,
        rank=rank,
        top1=share_interval_by_fact(rank == 1, fact),
        mrr=mean_interval_by_fact(1.0 / rank, fact, seed=seed),
        plain_top1=share_interval_by_fact(plain == 1, fact),
        shuffled_top1=share_interval_by_fact(shuffled == 1, fact),
        penalty=torch.tensor([reading.penalty for reading in readings]).reshape(shape[:2]),
        chance=float(tokens[read].bincount().max()) / len(queries),
        unseen_share=float(label_unseen(tokens, folds, ~read)[read].float().mean()),
        n=len(queries),
        n_train=len(train_queries),
        n_facts=len(fact.unique()),
        held_out_by=folds.unit,
        n_folds=n_folds,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class _CellReading:
    """Ranks of the targets by the learnt lens, by the plain one, and of the shuffled targets by the control."""

    ranks: Int[Tensor, "3 n_read"]
    penalty: float


@dataclass(frozen=True, eq=False)
class _Cells:
    """What the fits at all sites and positions share."""

    model: HookedModel
    tokens: Int[Tensor, " n"]
    shuffled_tokens: Int[Tensor, " n"]
    folds: FactFolds
    read: Bool[Tensor, " n"]
    penalties: tuple[float, ...]

    def read_cell(self, normed: Float[Tensor, "n d_model"]) -> _CellReading:
        """Choose the penalty at one site and position, and read."""
        identity = torch.eye(normed.shape[1], dtype=normed.dtype, device=normed.device)
        head = SoftmaxHead(U=self.model.W_U.detach(), c=unembedding_bias(self.model), prior=identity)
        tokens = self.tokens.to(device_of(self.model))
        best_loss, best_penalty, best_logits = float("inf"), self.penalties[0], None
        for penalty in sorted(self.penalties, reverse=True):
            logits = self._held_out(normed, tokens, head, penalty)
            loss = float(torch.nn.functional.cross_entropy(logits[~self.read], tokens[~self.read]))
            if best_logits is None or loss < best_loss:
                best_loss, best_penalty, best_logits = loss, penalty, logits
        shuffled_tokens = self.shuffled_tokens.to(tokens.device)
        by_control = self._held_out(normed, shuffled_tokens, head, best_penalty)
        plain = normed[self.read] @ head.U + head.c
        assert best_logits is not None
        ranks = [
            ranks_of(best_logits[self.read], tokens[self.read]),
            ranks_of(plain, tokens[self.read]),
            ranks_of(by_control[self.read], shuffled_tokens[self.read]),
        ]
        return _CellReading(ranks=torch.stack(ranks).cpu(), penalty=best_penalty)

    def _held_out(
        self, normed: Float[Tensor, "n d_model"], tokens: Int[Tensor, " n"], head: SoftmaxHead, penalty: float
    ) -> Float[Tensor, "n d_vocab_out"]:
        """Logits of every query from the map of its fold."""
        return held_out_logits(normed, tokens, folds=self.folds, is_training=~self.read, head=head, penalty=penalty)
