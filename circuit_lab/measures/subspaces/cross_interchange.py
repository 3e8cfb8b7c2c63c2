"""Interchange between two nets: the bridge state of net A, through a fitted affine map, put into net B.

If A and B hand on the bridge in the same way up to a change of coordinates, a map fitted on some facts must carry the
bridge of others. (Model stitching: Lenc and Vedaldi, arXiv 1411.5908; Bansal et al., arXiv 2106.07682. There a
whole layer is replaced and the map trained on the loss; here one position is replaced, the map is fitted to B's states
without the loss, and the score is an interchange, so that a map cannot bring an answer of its own.)

1. *Pairs* of base and source queries, split by first-hop facts: see `held_out_pairs`.
2. *Map*: with X the states of A and Y those of B on the same training queries (the bases of the training pairs) at the
   given site of each net, both centred, W = (X^T X + ridge * tr(X^T X) / d_a * I)^-1 X^T Y, in float64; a state x of A
   becomes (x - mean_x) W + mean_y.
3. *Interchange*: the source runs in A; its mapped state replaces B's state at the position while B runs the base.
   Score: share of held-out pairs whose answer in B becomes (b', r2).

Beside it, on the same pairs; the middle three are controls, though checkpoints of one run share coordinates and may
pass without a map:

* `mismatched map`: W fitted on X with shuffled rows, so that states of different queries are matched;
* `untrained A`: a net of A's architecture with fresh weights, with a map of its own. Its states hold the tokens
  (h', r1') only, from which no linear map looks up a fact it was not fitted on;
* `no map`: A's state as it is, where the widths agree;
* `B itself`: B's own state of the source, the ceiling.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    HookedModel,
    check_model,
    lens_sites,
    resume_states,
    resumed_logits,
    rows_of,
    states_at,
)
from circuit_lab.measures.intervals import proportion_interval
from circuit_lab.measures.result import Result
from circuit_lab.measures.subspaces.das import fresh_weights
from circuit_lab.measures.subspaces.held_out_pairs import FactSplit, split_by_first_hop
from circuit_lab.nets import find_lens_site
from circuit_lab.tasks import Queries

MAPPED, MISMATCHED, UNTRAINED, UNMAPPED, OWN = ("mapped A", "mismatched map", "untrained A", "no map", "B itself")


@dataclass(frozen=True, eq=False)
class CrossInterchange(Result):
    """Interchange accuracy of B with states of A, and of the controls.

    Attributes:
        stage_a: Lens site of A that lends the state.
        stage_b: Lens site of B that receives it.
        position: Name of the position, in both.
        states: Whose states were put in: "mapped A", then the controls; without "no map" where the widths differ.
        hits: Whether B's answer to each held-out pair became the wanted one.
        explained: Share of the variance of B's held-out source states that the state put in explains, at most 1; 0 =
            no better than the mean, negative = worse.
        chance: What the best constant answer scores.
        n_train_facts: First-hop facts of the training pairs' bases and sources.
        n_held_out_facts: First-hop facts of the held-out pairs; none of the training ones.
        seed: Seed of split, partners and controls.
    """

    stage_a: str
    stage_b: str
    position: str
    states: tuple[str, ...]
    hits: Bool[Tensor, "n_states n"]
    explained: Float[Tensor, " n_states"]
    chance: float
    n_train_facts: int
    n_held_out_facts: int
    seed: int

    def frame(self) -> pd.DataFrame:
        """One row per kind of state: accuracy with Wilson interval, n, chance, explained variance."""
        n = self.hits.shape[1]
        intervals = [proportion_interval(int(hits.sum()), n) for hits in self.hits]
        return pd.DataFrame(
            {
                "state": self.states,
                "stage_a": self.stage_a,
                "stage_b": self.stage_b,
                "position": self.position,
                "accuracy": self.hits.double().mean(1).tolist(),
                "low": [interval.low for interval in intervals],
                "high": [interval.high for interval in intervals],
                "n": n,
                "chance": self.chance,
                "explained": self.explained.tolist(),
            }
        )


@dataclass(frozen=True, eq=False)
class AffineMap:
    """x -> (x - mean_in) weight + mean_out.

    Attributes:
        weight: The linear part.
        mean_in: Mean of the states it was fitted on.
        mean_out: Mean of the states it was fitted to.
    """

    weight: Float[Tensor, "d_in d_out"]
    mean_in: Float[Tensor, " d_in"]
    mean_out: Float[Tensor, " d_out"]

    def __call__(self, states: Float[Tensor, "n d_in"]) -> Float[Tensor, "n d_out"]:
        """The mapped states."""
        return (states - self.mean_in) @ self.weight + self.mean_out


def fit_affine(x: Float[Tensor, "n d_in"], y: Float[Tensor, "n d_out"], *, ridge: float) -> AffineMap:
    """The affine map from `x` to `y` of least squared error, with a ridge penalty on the linear part.

    Args:
        x: States that are mapped, in float64.
        y: States that they are mapped to, row by row.
        ridge: Penalty in units of the mean variance of a coordinate of `x`, > 0; it keeps the map from blowing up
            directions in which `x` hardly varies.

    Returns:
        The map.

    Raises:
        ValueError: If the penalty is not positive.
    """
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, got {ridge}")
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    gram = centred.T @ centred
    penalty = ridge * gram.trace() / len(gram)
    weight = torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=x.dtype), centred.T @ (y - mean_y))
    return AffineMap(weight, mean_x, mean_y)


@torch.no_grad()
def cross_interchange(
    model_a: HookedModel,
    model_b: HookedModel,
    train_queries: Queries,
    queries: Queries,
    *,
    stage_a: str,
    stage_b: str,
    position: str,
    untrained_a: HookedModel | None = None,
    n_pairs: int = 2000,
    held_out_share: float = 0.5,
    ridge: float = 1e-2,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> CrossInterchange:
    """Put bridge states of A, mapped into B's coordinates, into B.

    Args:
        model_a: The net that lends states, in `eval` mode.
        model_b: The net that receives them, with the same vocabulary and facts.
        train_queries: Two-hop queries that both nets answer right; they give what the map is fitted on and all sources.
        queries: Two-hop queries that give the held-out bases, such as `test_ood`.
        stage_a: Label or hook name of the lens site in A.
        stage_b: The same in B; not the last, which no layer reads.
        position: Name of the position.
        untrained_a: A model of A's architecture with fresh weights; by default a net of ours is drawn anew.
        n_pairs: At most so many training pairs, and so many held-out ones.
        held_out_share: Share of the first-hop facts of `train_queries` that are held out, in (0, 1).
        ridge: Penalty of the map (see `fit_affine`).
        seed: Seed of split, partners and controls.
        batch_size: Pairs per forward pass. The states of all pairs at both sites are held as well.

    Returns:
        Accuracies in B, on held-out facts.

    Raises:
        ValueError: If the vocabularies differ, or there is no such site or position.
    """
    check_model(model_a)
    check_model(model_b)
    if model_a.cfg.d_vocab != model_b.cfg.d_vocab:
        raise ValueError(
            f"both nets must share a vocabulary, got d_vocab {model_a.cfg.d_vocab} in A and {model_b.cfg.d_vocab} in B"
        )
    column = queries.column(position)
    if find_lens_site(lens_sites(model_b), stage_b) == lens_sites(model_b)[-1]:
        raise ValueError(f"stage_b must be a lens site that a layer of B reads, got the last, {stage_b!r}")
    untrained_a = fresh_weights(model_a, seed=seed) if untrained_a is None else untrained_a
    split = split_by_first_hop(train_queries, queries, n_pairs=n_pairs, held_out_share=held_out_share, seed=seed)

    def reader(model: HookedModel, stage: str) -> Callable[[Queries], Tensor]:
        return lambda part: states_at(model, part.tokens, stage=stage, batch_size=batch_size)[:, column].double().cpu()

    own = reader(model_b, stage_b)
    lent = _lent_states(split, reader(model_a, stage_a), reader(untrained_a, stage_a), own, ridge=ridge, seed=seed)
    truth = own(split.held_out.source)
    answers = [_answers_of(model_b, split, states, column, stage_b, batch_size) for states in lent.values()]
    return CrossInterchange(
        stage_a=stage_a,
        stage_b=stage_b,
        position=position,
        states=tuple(lent),
        hits=torch.stack([answer == split.held_out.wanted for answer in answers]),
        explained=torch.stack([_explained(states, truth) for states in lent.values()]),
        chance=split.held_out.chance,
        n_train_facts=split.n_train_facts,
        n_held_out_facts=split.n_held_out_facts,
        seed=seed,
    )


def _lent_states(
    split: FactSplit,
    of_a: Callable[[Queries], Tensor],
    of_untrained: Callable[[Queries], Tensor],
    own: Callable[[Queries], Tensor],
    *,
    ridge: float,
    seed: int,
) -> dict[str, Float[Tensor, "n d_b"]]:
    """What is put into B for each held-out source, by kind."""
    fitted, sources = split.train.base, split.held_out.source
    x, y, x_untrained, source = of_a(fitted), own(fitted), of_untrained(fitted), of_a(sources)
    shuffled = torch.randperm(len(x), generator=derive_generator(seed, "mismatched"))
    lent = {
        MAPPED: fit_affine(x, y, ridge=ridge)(source),
        MISMATCHED: fit_affine(x[shuffled], y, ridge=ridge)(source),
        UNTRAINED: fit_affine(x_untrained, y, ridge=ridge)(of_untrained(sources)),
    }
    if x.shape[1] == y.shape[1]:
        lent[UNMAPPED] = source
    return lent | {OWN: own(sources)}


def _answers_of(
    model: HookedModel, split: FactSplit, lent: Float[Tensor, "n d_b"], column: int, stage: str, batch_size: int
) -> Int[Tensor, " n"]:
    """B's answers to the held-out bases with these states put in."""
    base = split.held_out.base
    answers = []
    for start in range(0, len(base), batch_size):
        part = slice(start, start + batch_size)
        residual = resume_states(model, base.tokens[part], stage=stage, batch_size=batch_size).clone()
        (row,) = rows_of(model, [column])
        residual[:, row] = lent[part].to(residual)
        logits = resumed_logits(model, residual, base.answer_position[part], start_at=stage)
        answers.append(logits.argmax(-1).cpu())
    return torch.cat(answers)


def _explained(states: Float[Tensor, "n d_b"], truth: Float[Tensor, "n d_b"]) -> Float[Tensor, ""]:
    """1 - residual sum of squares / total sum of squares."""
    return 1 - (truth - states).square().sum() / (truth - truth.mean(0)).square().sum()
