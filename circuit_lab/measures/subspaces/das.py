"""The bridge in a learnt subspace: distributed alignment search (DAS; Geiger et al., arXiv 2303.02536).

For a base query (h, r1, r2) with bridge b and a source query (h', r1', r2') with another bridge b', at one site:

1. *Pairs*, whose wanted answer only a moved bridge can give, and what of them is held out: see `held_out_pairs`.
2. *Interchange* in a subspace with orthonormal basis B [d_model, rank]: x' = x + (x_source - x) B B^T.
3. *Fit*: B minimises the cross-entropy of the wanted answers over training pairs (TransformerLens's `fit_das`: Adam on
   an orthogonal parametrisation, in float32). The net is resumed from the site, so only the layers after it run. In a
   recursive net the site's stream is interchanged, and the other stays that of the base.
4. *Score*: interchange accuracy, the share of pairs whose answer becomes the wanted one.

**Controls**, for DAS fits arbitrary mappings and untrained nets too (Arora et al., arXiv 2402.12560), all read on the
same pairs and the fitted ones with the same budget:

* `arbitrary labels`: fitted to, and scored against, a random answer for each (b', r2);
* `untrained net`: fitted on a net of the same architecture with fresh weights;
* `random`: a random subspace of the same rank, not fitted;
* `full state`: the whole state, rank d_model. The reference for small ranks; a fitted subspace may exceed it on its
  training pairs;
* `nothing`: no interchange. Above 0 only where the net's own wrong answer happens to be the wanted one.

High accuracy of `learnt` on held-out pairs, above all controls, says that the answer follows what sits in the subspace.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.tools.analysis import (
    SubspaceInterchange,
    arbitrary_targets,
    fit_das,
    intervened_logits,
    random_basis,
    reinitialized,
)

from circuit_lab.measures.hooked_model import (
    DEFAULT_BATCH_SIZE,
    HookedModel,
    check_model,
    lens_sites,
    resume_states,
    rows_of,
)
from circuit_lab.measures.intervals import proportion_interval
from circuit_lab.measures.progress import progress
from circuit_lab.measures.result import Result
from circuit_lab.measures.subspaces.held_out_pairs import FactSplit, InterchangePairs, split_by_first_hop
from circuit_lab.measures.subspaces.resumed_model import HOOK, ResumedModel
from circuit_lab.nets import (
    HookedNet,
    HookedRecursiveTransformer,
    HookedSharedTransformer,
    LensSite,
    build_net,
    find_lens_site,
)
from circuit_lab.tasks import Queries, concatenate

SUBSPACES = ("learnt", "arbitrary labels", "untrained net", "random", "full state", "nothing")
"""What is interchanged: the learnt subspace, then the controls, in the order of `BridgeDas`'s third axis."""


@dataclass(frozen=True, eq=False)
class BridgeDas(Result):
    """Interchange accuracy of learnt subspaces and of their controls.

    Attributes:
        stages: Labels of the lens sites.
        position: Name of the position.
        ranks: Ranks of the subspaces.
        subspaces: What was interchanged, `SUBSPACES`.
        train_hits: Whether the answer of each training pair became the wanted one.
        held_out_hits: The same of each held-out pair.
        bases: Learnt orthonormal bases [d_model, rank] by (stage, rank).
        train_chance: What the best constant answer scores on training pairs.
        held_out_chance: The same on held-out pairs.
        n_train_facts: First-hop facts of the training pairs.
        n_held_out_facts: First-hop facts of the held-out pairs; none of the training ones.
        seed: Seed of split, partners, fits and controls.
    """

    stages: tuple[str, ...]
    position: str
    ranks: tuple[int, ...]
    subspaces: tuple[str, ...]
    train_hits: Bool[Tensor, "n_stages n_ranks n_subspaces n_train"]
    held_out_hits: Bool[Tensor, "n_stages n_ranks n_subspaces n_held_out"]
    bases: Mapping[tuple[str, int], Tensor]
    train_chance: float
    held_out_chance: float
    n_train_facts: int
    n_held_out_facts: int
    seed: int

    def frame(self) -> pd.DataFrame:
        """One row per stage, rank, subspace and side (train, held_out): accuracy with Wilson interval, n, chance.

        Training pairs share bases, so their intervals are somewhat narrow; held-out pairs do not.
        """
        sides = (
            ("train", self.train_hits, self.train_chance),
            ("held_out", self.held_out_hits, self.held_out_chance),
        )
        rows = []
        for side, hits, chance in sides:
            n = hits.shape[-1]
            for (i, j, k), n_hits in zip(_cells(hits), hits.sum(-1).flatten().tolist(), strict=True):
                interval = proportion_interval(n_hits, n)
                rows.append(
                    {
                        "stage": self.stages[i],
                        "position": self.position,
                        "rank": self.ranks[j],
                        "subspace": self.subspaces[k],
                        "pairs": side,
                        "accuracy": n_hits / n,
                        "low": interval.low,
                        "high": interval.high,
                        "n": n,
                        "chance": chance,
                    }
                )
        return pd.DataFrame(rows)


def _cells(hits: Tensor) -> list[tuple[int, int, int]]:
    """Indices of all axes but the last, in the order of a flattened tensor."""
    n_stages, n_ranks, n_subspaces = hits.shape[:3]
    return [(i, j, k) for i in range(n_stages) for j in range(n_ranks) for k in range(n_subspaces)]


@dataclass(frozen=True)
class DasBudget:
    """How long each subspace is fitted; the same for the learnt one and its controls.

    Attributes:
        epochs: Passes over the training pairs.
        learning_rate: Adam's rate.
        batch_size: Pairs per step.
    """

    epochs: int = 10
    learning_rate: float = 1e-2
    batch_size: int = 128


def bridge_das(
    model: HookedModel,
    train_queries: Queries,
    queries: Queries,
    *,
    stages: Sequence[str],
    position: str,
    ranks: Sequence[int],
    untrained: HookedModel | None = None,
    n_pairs: int = 2000,
    held_out_share: float = 0.5,
    budget: DasBudget | None = None,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> BridgeDas:
    """Fit subspaces that carry the bridge, and score them on facts they were not fitted on.

    Args:
        model: Any hooked model in `eval` mode.
        train_queries: Two-hop queries that the model answers right; they give training pairs and all sources.
        queries: Two-hop queries that give the held-out bases, such as `test_ood`.
        stages: Labels or hook names of lens sites; not the last, which no layer reads.
        position: Name of the position whose state is interchanged.
        ranks: Dimensions of the subspaces, each from 1 to d_model.
        untrained: A model of the same architecture with fresh weights, for the control. By default a net of ours is
            drawn anew; a TransformerBridge needs one, such as `random_init_bridge` gives.
        n_pairs: At most so many training pairs, and so many held-out ones.
        held_out_share: Share of the first-hop facts of `train_queries` that are held out, in (0, 1).
        budget: Epochs, learning rate and batch size of every fit; `DasBudget()` by default.
        seed: Seed of split, partners, fits and controls. The global random state is left alone.
        batch_size: Pairs per forward pass outside the fits. The states of all pairs at one stage are held as well.

    Returns:
        Accuracies of the learnt subspaces and of the controls.
    """
    check_model(model)
    sites = _readable_sites(model, stages)
    column = queries.column(position)
    _check_ranks(ranks, model.cfg.d_model)
    untrained = fresh_weights(model, seed=seed) if untrained is None else untrained
    split = split_by_first_hop(train_queries, queries, n_pairs=n_pairs, held_out_share=held_out_share, seed=seed)
    settings = _Settings(column, budget or DasBudget(), seed, batch_size)
    trials, bases = [], {}
    for site in sites:
        fits = _FitsAtStage(model, untrained, split, site, settings)
        for rank in progress(ranks, label=f"DAS at {site.label}"):
            learnt, outcome = fits.run(rank)
            bases[site.label, rank] = learnt
            trials.append(outcome)
    shape = (len(sites), len(ranks), len(SUBSPACES), -1)
    return BridgeDas(
        stages=tuple(site.label for site in sites),
        position=position,
        ranks=tuple(ranks),
        subspaces=SUBSPACES,
        train_hits=torch.stack([outcome.train for outcome in trials]).reshape(shape),
        held_out_hits=torch.stack([outcome.held_out for outcome in trials]).reshape(shape),
        bases=MappingProxyType(bases),
        train_chance=split.train.chance,
        held_out_chance=split.held_out.chance,
        n_train_facts=split.n_train_facts,
        n_held_out_facts=split.n_held_out_facts,
        seed=seed,
    )


def fresh_weights(model: HookedModel, *, seed: int) -> HookedModel:
    """The untrained control of a net of ours: the same architecture, its weights drawn anew.

    Args:
        model: The trained net.
        seed: Seed of the new weights; the global random state is left alone.

    Returns:
        The untrained net, in `eval` mode.

    Raises:
        ValueError: If the model is a TransformerBridge.
    """
    if not isinstance(model, HookedNet):
        raise ValueError(
            "the weights of a TransformerBridge cannot be drawn anew here; pass untrained=, a bridge of the same "
            "architecture such as transformer_lens.tools.analysis.random_init_bridge gives"
        )
    if isinstance(model, HookedRecursiveTransformer):
        # Its modules draw from a given generator alone; its fixed initial streams are drawn anew as well.
        fresh = build_net(model.cfg.model_copy(update={"init_seed": seed}))
        return fresh.to(device=model.device, dtype=model.dtype).eval()
    fresh = reinitialized(model, seed)
    assert isinstance(fresh, HookedSharedTransformer)
    return fresh


def _readable_sites(model: HookedModel, stages: Sequence[str]) -> list[LensSite]:
    """The lens sites of these names, each read by some layer."""
    *_, last = lens_sites(model)
    sites = [find_lens_site(lens_sites(model), stage) for stage in stages]
    if not sites or last in sites:
        raise ValueError(f"stages must be lens sites before the last ({last.label!r}), got {list(stages)}")
    return sites


def _check_ranks(ranks: Sequence[int], d_model: int) -> None:
    if not ranks or not all(1 <= rank <= d_model for rank in ranks):
        raise ValueError(f"ranks must lie in 1..{d_model} (d_model), got {list(ranks)}")


@dataclass(frozen=True)
class _Settings:
    """What every fit of one call shares."""

    column: int
    budget: DasBudget
    seed: int
    batch_size: int


@dataclass(frozen=True, eq=False)
class _Outcome:
    """Hits of one stage and rank, by subspace."""

    train: Bool[Tensor, "n_subspaces n_train"]
    held_out: Bool[Tensor, "n_subspaces n_held_out"]


class _ResumedPairs:
    """Pairs at one stage, from where the net is resumed: row i is base i, row n + i its source."""

    def __init__(self, model: HookedModel, pairs: InterchangePairs, site: LensSite, settings: _Settings) -> None:
        queries = concatenate([pairs.base, pairs.source])
        self.resumed, self.settings = ResumedModel(model, site.label), settings
        self.states = resume_states(model, queries.tokens, stage=site.label, batch_size=settings.batch_size)
        self.answer_position = queries.answer_position.to(self.states.device)
        self.base, self.source = torch.arange(2 * len(pairs)).chunk(2)
        (self.row,) = rows_of(model, [settings.column])
        self.position = torch.full((len(pairs),), self.row)

    def task_logits(self, rows: Int[Tensor, " batch"]) -> Float[Tensor, "batch d_vocab_out"]:
        """Logits of the queries at these rows, resumed."""
        rows = rows.to(self.states.device)
        return self.resumed(self.states[rows], self.answer_position[rows])

    def fit(self, targets: Int[Tensor, " n"], *, rank: int) -> Float[Tensor, "d_model rank"]:
        """The basis whose interchange makes the answers `targets`."""
        budget = self.settings.budget
        with torch.enable_grad():
            return fit_das(
                self.resumed,
                HOOK,
                self.base,
                self.source,
                targets,
                self.task_logits,
                rank=rank,
                base_positions=self.position,
                source_positions=self.position,
                epochs=budget.epochs,
                batch_size=budget.batch_size,
                lr=budget.learning_rate,
                seed=self.settings.seed,
            ).basis.cpu()

    def hits(self, basis: Float[Tensor, "d_model rank"], targets: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Where the interchange in the subspace makes the answer the target."""
        logits = intervened_logits(
            self.resumed,
            HOOK,
            SubspaceInterchange(basis),
            self.base,
            self.states[len(self.base) :, self.row],
            self.task_logits,
            positions=self.position,
            batch_size=self.settings.batch_size,
        )
        return logits.argmax(-1) == targets


class _FitsAtStage:
    """The learnt subspace and its controls at one stage."""

    def __init__(
        self, model: HookedModel, untrained: HookedModel, split: FactSplit, site: LensSite, settings: _Settings
    ) -> None:
        self.settings = settings
        sides = (split.train, split.held_out)
        self.pairs = [_ResumedPairs(model, side, site, settings) for side in sides]
        self.untrained = [_ResumedPairs(untrained, side, site, settings) for side in sides]
        self.wanted = [side.wanted for side in sides]
        self.arbitrary = _arbitrary_answers(split, seed=settings.seed)

    def run(self, rank: int) -> tuple[Float[Tensor, "d_model rank"], _Outcome]:
        """The learnt basis of this rank, and the hits of every subspace in the order of `SUBSPACES`."""
        d_model = self.pairs[0].states.shape[-1]
        learnt = self.pairs[0].fit(self.wanted[0], rank=rank)
        arbitrary = self.pairs[0].fit(self.arbitrary[0], rank=rank)
        of_untrained = self.untrained[0].fit(self.wanted[0], rank=rank)
        arms = (
            (self.pairs, learnt, self.wanted),
            (self.pairs, arbitrary, self.arbitrary),
            (self.untrained, of_untrained, self.wanted),
            (self.pairs, random_basis(d_model, rank, self.settings.seed), self.wanted),
            (self.pairs, torch.eye(d_model), self.wanted),
            (self.pairs, torch.zeros(d_model, 1), self.wanted),
        )
        train, held_out = (
            torch.stack([pairs[side].hits(basis, targets[side]) for pairs, basis, targets in arms]) for side in (0, 1)
        )
        return learnt, _Outcome(train, held_out)


def _arbitrary_answers(split: FactSplit, *, seed: int) -> list[Int[Tensor, " n"]]:
    """A random answer for each (b', r2), the same on both sides, among the answers that are wanted somewhere."""
    answers = torch.cat([split.train.wanted, split.held_out.wanted]).unique()
    return [
        answers[
            arbitrary_targets(
                list(
                    zip(side.source.intermediates["bridge"].tolist(), side.base.tokens_at("r2").tolist(), strict=True)
                ),
                len(answers),
                seed,
            )
        ]
        for side in (split.train, split.held_out)
    ]
