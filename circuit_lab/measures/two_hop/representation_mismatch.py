"""Can a net read an entity in the form in which it states it?

Where it cannot, He et al. (arXiv 2601.09049, figure 1) speak of representational mismatch.

A net that has found the answer b' of an atomic query (h', r1') holds it in its *late* state at r1's position, in the
form that the unembedding reads. Layers that share weights may read what they wrote; layers of their own need not.

1. *Place*: where an entity is read. "bridge": by the second hop of a query (h, r1, r2), at r1's position after an inner
   layer. "input": by the first layer, at h's position of an atomic query (h, r), where otherwise the embedding of h
   stands: a net that reads late states there can use its first layers for any hop.
2. *Pairs*: a query that the net answers right, and an atomic query of a fact (h', r1', b') that it answers right, such
   that b' differs from the entity that stands at the place, and its tail for the relation that follows is known and is
   neither b', nor that entity, nor the query's own answer.
3. *Transplant*: a state that holds b' replaces that of the place. Score: share of pairs whose answer becomes that tail.
4. *What is put in*:
   `own form`: what the net itself has there for b': at "bridge" the state of (h', r1') at the same stage, at "input"
   that of the token b'. It is the ceiling.
   `late state`: the last state of (h', r1'), as it is.
   `shifted`: the late state plus the difference of the mean own form and the mean late state, so that it has what all
   states of the place share, such as their position.
   `written later` (at "bridge"): the late state less the own form, plus the mean of own forms: what the layers after
   the stage wrote. A late state still carries what stood in the stream before; this does not.
   `mapped`: the late state through an affine map, fitted by least squares (`fit_affine`) from late states to own forms.
   `rotated`: the same with the best rotation (or reflection) and scale for the linear part, orthogonal Procrustes
   (Schoenemann 1966).
   `mapped, new entity`: the affine map again, fitted on facts with other answers only.
   Controls: `mismatched map`, fitted on shuffled rows; `another entity`, the late state of a fact whose answer has
   another tail for the relation.

Maps are fitted on other facts than that of the state which is mapped (in folds). But a stream of width d has room for d
entities in general position, and any assignment of as many codes is linear: `mapped` shows that the entity is there to
be read, not that one change of coordinates relates the two forms. Only `mapped, new entity` does that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.utilities.statistics import derive_generator

from circuit_lab.measures.hooked_model import rows_of
from circuit_lab.measures.intervals import proportion_interval
from circuit_lab.measures.result import Result
from circuit_lab.measures.sites import Site, inner_stages, residual_states, site_states
from circuit_lab.measures.subspaces.cross_interchange import fit_affine
from circuit_lab.measures.two_hop.partners import NONE
from circuit_lab.measures.two_hop.transplant_lab import patched_answers
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Queries

PlaceOfEntity = Literal["bridge", "input"]
OWN, LATE, SHIFTED, LATER, MAPPED, ROTATED, NEW_ENTITY, MISMATCHED, ANOTHER = (
    "own form",
    "late state",
    "shifted",
    "written later",
    "mapped",
    "rotated",
    "mapped, new entity",
    "mismatched map",
    "another entity",
)
N_FOLDS = 5
"""Parts that the facts, or the entities, are dealt into; a map is fitted on all but one."""


@dataclass(frozen=True, eq=False)
class RepresentationMismatch(Result):
    """What a net reads of an entity in its late form.

    Attributes:
        place: Where the states were put: "bridge" or "input".
        stages: Labels of the stages, in order.
        late_stage: Label of the stage whose states are late.
        position: Name of the position.
        states: What was put in.
        hits: Whether the answer to each pair became the wanted one.
        chance: What the best constant answer scores.
        n_facts: Facts whose states are put in.
        seed: Seed of pairs, folds and controls.
    """

    place: PlaceOfEntity
    stages: tuple[str, ...]
    late_stage: str
    position: str
    states: tuple[str, ...]
    hits: Bool[Tensor, "n_states n_stages n"]
    chance: float
    n_facts: int
    seed: int

    def frame(self) -> pd.DataFrame:
        """One row per state put in and stage: share of pairs in [0, 1] with Wilson interval, n, chance."""
        n = self.hits.shape[2]
        rows = []
        for state, per_stage in zip(self.states, self.hits, strict=True):
            for stage, hits in zip(self.stages, per_stage, strict=True):
                share, interval = float(hits.double().mean()), proportion_interval(int(hits.sum()), n)
                rows.append((state, stage, share, interval.low, interval.high))
        table = pd.DataFrame(rows, columns=["state", "stage", "share", "low", "high"])
        return table.assign(place=self.place, position=self.position, n=n, chance=self.chance)


@torch.no_grad()
def representation_mismatch(
    net: HookedNet,
    queries: Queries,
    facts: Queries,
    known: Queries,
    *,
    place: PlaceOfEntity,
    n_pairs: int = 2000,
    ridge: float = 1e-2,
    seed: int = 0,
) -> RepresentationMismatch:
    """Put late states of atomic answers where the net reads an entity.

    Args:
        net: A hooked net in `eval` mode.
        queries: Queries that it answers right, which receive the states: two-hop queries for "bridge", atomic ones for
            "input".
        facts: Atomic queries that it answers right; they lend the states. All are read at one position.
        known: Atomic queries of the facts (b', r) that may be asked for.
        place: Where the states are put.
        n_pairs: At most so many pairs, one for each query; all are in one forward pass.
        ridge: Penalty of the affine maps (see `fit_affine`).
        seed: Seed of pairs, folds and controls; the global random state is not used.

    Returns:
        Which pairs follow each kind of state, at each stage.

    Raises:
        ValueError: If the queries are not those of the place, the facts are read at several positions or have
            fewer answers than there are folds, or there is no pair.
    """
    read_at, n_entities = facts.answer_position.unique(), len(facts.answer.unique())
    if n_entities < N_FOLDS or len(read_at) != 1:
        raise ValueError(
            f"facts must be atomic queries with at least {N_FOLDS} answers, read at one position; got {len(facts)} "
            f"with {n_entities} answers, read at {read_at.tolist()}"
        )
    if ("bridge" in queries.intermediates) != (place == "bridge"):
        raise ValueError(f"place {place!r} needs {'two-hop' if place == 'bridge' else 'atomic'} queries; got the other")
    answer_column = int(read_at[0])
    column = answer_column if place == "bridge" else 0
    generator = derive_generator(seed, "pairs")
    tails = _tail_table(known, d_vocab=net.cfg.d_vocab)
    pairs = _draw_pairs(queries.sample(n_pairs, generator=generator), facts, tails, column, generator=generator)
    late_stage = net.lens_sites[-1].label
    late = _states(net, facts.tokens, late_stage, answer_column)
    stages = inner_stages(net) if place == "bridge" else [net.lens_sites[0].label]
    own_tokens = facts.tokens.clone()
    if place == "input":
        own_tokens[:, column] = facts.answer
    found = []
    for stage in stages:
        lent = _lent_states(late, _states(net, own_tokens, stage, column), facts.answer, ridge=ridge, seed=seed)
        if place == "input":
            del lent[LATER]  # a token's own state is no part of a late state
        put_in = {kind: states[pairs.fact] for kind, states in lent.items()} | {ANOTHER: late[pairs.other]}
        found.append(_hits(net, pairs, put_in, Site(stage, (column,))))
    return RepresentationMismatch(
        place=place,
        stages=tuple(stages),
        late_stage=late_stage,
        position=queries.position_names[column],
        states=tuple(found[0]),
        hits=torch.stack([torch.stack([hits[kind] for hits in found]) for kind in found[0]]),
        chance=int(pairs.wanted.bincount().max()) / len(pairs.wanted),
        n_facts=len(facts),
        seed=seed,
    )


def _states(net: HookedNet, tokens: Int[Tensor, "n n_ctx"], stage: str, column: int) -> Float[Tensor, "n d_model"]:
    """The stream at one stage and position, in float64 on the CPU."""
    return residual_states(net, tokens, stage=stage)[:, column].double().cpu()


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Queries, and for each the row of the fact put into it, of the control's fact, and the answer wanted."""

    queries: Queries
    fact: Int[Tensor, " n"]
    other: Int[Tensor, " n"]
    wanted: Int[Tensor, " n"]


def _tail_table(known: Queries, *, d_vocab: int) -> Int[Tensor, "d_vocab d_vocab"]:
    """The tail of each (entity, relation); `NONE` where it is not known."""
    tails = torch.full((d_vocab, d_vocab), NONE)
    tails[known.tokens[:, 0], known.tokens[:, 1]] = known.answer
    return tails


def _draw_pairs(
    queries: Queries,
    facts: Queries,
    tails: Int[Tensor, "d_vocab d_vocab"],
    column: int,
    *,
    generator: torch.Generator,
) -> _Pairs:
    """One random fitting fact for each query that has any; its entity is put at `column`, a relation follows."""
    standing = queries.intermediates["bridge"] if "bridge" in queries.intermediates else queries.tokens[:, column]
    there, entity = standing[:, None], facts.answer[None]
    tail = tails[entity, queries.tokens[:, column + 1, None]]
    fits = (tail != NONE) & (entity != there) & (tail != entity) & (tail != there) & (tail != queries.answer[:, None])
    fact = _random_true(fits, generator)
    wanted = tail.gather(1, fact.clamp(min=0)[:, None])
    other = _random_true((entity != facts.answer[fact][:, None]) & (tail != wanted), generator)
    kept = (fact != NONE) & (other != NONE)
    if not kept.any():
        raise ValueError(
            f"there is no pair: for none of {len(queries)} queries do the {len(facts)} facts name another entity of "
            "which the tail for the relation that follows is known, and differs from the other answers"
        )
    return _Pairs(queries=queries[kept], fact=fact[kept], other=other[kept], wanted=wanted[kept, 0])


def _random_true(fits: Bool[Tensor, "n candidates"], generator: torch.Generator) -> Int[Tensor, " n"]:
    """A random candidate that fits, per row; `NONE` where none does."""
    score = torch.rand(fits.shape, generator=generator) * fits
    return torch.where(fits.any(1), score.argmax(1), NONE)


def _lent_states(
    late: Float[Tensor, "n_facts d"],
    own: Float[Tensor, "n_facts d"],
    entity: Int[Tensor, " n_facts"],
    *,
    ridge: float,
    seed: int,
) -> dict[str, Float[Tensor, "n_facts d"]]:
    """What each fact lends, by kind; a mapped state is that of a map fitted without its fact, or without its entity."""
    lent = {OWN: own, LATE: late, SHIFTED: late - late.mean(0) + own.mean(0), LATER: late - own + own.mean(0)}
    lent |= {kind: torch.empty_like(late) for kind in (MAPPED, ROTATED, NEW_ENTITY, MISMATCHED)}
    generator = derive_generator(seed, "folds")
    fold_of_fact = torch.randperm(len(late), generator=generator) % N_FOLDS
    entities, rank = entity.unique(return_inverse=True)
    fold_of_entity = (torch.randperm(len(entities), generator=generator) % N_FOLDS)[rank]
    for fold in range(N_FOLDS):
        held_out, new = fold_of_fact == fold, fold_of_entity == fold
        x, y = late[~held_out], own[~held_out]
        shuffled = x[torch.randperm(len(x), generator=generator)]
        lent[MAPPED][held_out] = fit_affine(x, y, ridge=ridge)(late[held_out])
        lent[MISMATCHED][held_out] = fit_affine(shuffled, y, ridge=ridge)(late[held_out])
        lent[ROTATED][held_out] = _rotated(x, y, late[held_out])
        lent[NEW_ENTITY][new] = fit_affine(late[~new], own[~new], ridge=ridge)(late[new])
    return lent


def _rotated(x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], states: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
    """The states under the scaled rotation, with shift, of least squared error from `x` to `y`."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    left, size, right = torch.linalg.svd(centred.T @ (y - mean_y))
    scale = size.sum() / centred.square().sum().clamp(min=torch.finfo(x.dtype).tiny)
    return scale * (states - mean_x) @ (left @ right) + mean_y


def _hits(
    net: HookedNet, pairs: _Pairs, put_in: Mapping[str, Float[Tensor, "n d"]], site: Site
) -> dict[str, Bool[Tensor, " n"]]:
    """Whether each pair's answer became the wanted one, by the kind of state put in."""
    receiver = site_states(net, pairs.queries.tokens, site=site)
    rows = rows_of(net, site.positions)
    hits = {}
    for kind, states in put_in.items():
        source = receiver.clone()
        source[:, rows] = states[:, None].to(receiver)
        answers = patched_answers(
            net,
            site=site,
            receiver_states=receiver,
            source_states=source,
            answer_position=pairs.queries.answer_position,
        )
        hits[kind] = answers == pairs.wanted
    return hits
