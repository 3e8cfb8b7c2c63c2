"""Linear probes with two controls: can a linear classifier read the target from a state, across facts?

At every lens site and position:

1. A softmax probe p(y | x) = softmax(x W + b), one class per value of the target, fitted by cross-entropy with
   penalty on its weights and its mean logits (`softmax_map`). A least-squares classifier would be faster, but with
   tens of classes in as many dimensions some mask others (Hastie, Tibshirani and Friedman, The Elements of Statistical
   Learning, section 4.2).
2. *Folds by fact* (`folds`): a query is read by a probe fitted without any query of its fact. To read the bridge b of
   (h, r1) the probe must have learnt it from other pairs (h', r1') that lead to b. A class that no training query has
   counts as wrong; `unseen_share` is the share of such queries.
3. *Shuffled labels* (Hewitt and Liang, arXiv 1909.03368): the same fit with the labels permuted among the facts.
4. *Untrained net*: the same fit to the states of a freshly initialised net of the same architecture. What it reads is
   in the input tokens and needs no learning: a position's own token, and what untrained attention mixes in.
5. *Selectivity* = accuracy - control accuracy, once per control, over the same queries; its interval resamples facts.

Deviations from the source: the shuffled labels of held-out facts cannot be learnt at all (see `folds`), so that control
is near chance unless folds leak, and the untrained net is the stricter one.

A reading: it corroborates and never decides. What a probe reads need not be used.
"""

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuit_lab.measures.hooked_model import DEFAULT_BATCH_SIZE, HookedModel, check_model, lens_sites, states_at
from circuit_lab.measures.intervals import MeanInterval, interval_columns
from circuit_lab.measures.metrics import ranks_of
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
from circuit_lab.measures.readings.logit_lens import target_tokens
from circuit_lab.measures.readings.softmax_map import SoftmaxHead, held_out_logits
from circuit_lab.measures.result import Result
from circuit_lab.nets import HookedNet, build_net
from circuit_lab.tasks import Queries


@dataclass(frozen=True, eq=False)
class Probes(Result):
    """How often linear probes read the target, with controls.

    Attributes:
        target: What is read.
        sites: Labels of the sites, input to output.
        position_names: Names of the positions.
        is_right: Whether the probe's top class is the target, per query; a tie counts as wrong.
        accuracy: Share of queries read right, in [0, 1].
        shuffled: The same with shuffled labels.
        untrained: The same on the untrained net.
        selectivity_shuffled: accuracy - shuffled, in [-1, 1]; higher = the states hold more than the fit can invent.
        selectivity_untrained: accuracy - untrained, in [-1, 1]; higher = training put the target there.
        chance: Rate of the most frequent class among the queries read. A probe that ignores the state can fall below
            it, where another class is the most frequent one in training.
        unseen_share: Share of queries whose class no training query outside their fold has.
        n: Queries read.
        n_facts: Facts (or single queries) they are held out by; the intervals count these.
        n_classes: Values of the target.
        held_out_by: What is held out together: "first-hop fact", "last-hop fact" or "query".
        n_folds: Number of folds.
        penalty: Weight of the penalty.
        seed: Seed of folds, shuffled labels and resamples.
    """

    target: str
    sites: tuple[str, ...]
    position_names: tuple[str, ...]
    is_right: Bool[Tensor, "n_sites n_ctx n"]
    accuracy: MeanInterval
    shuffled: MeanInterval
    untrained: MeanInterval
    selectivity_shuffled: MeanInterval
    selectivity_untrained: MeanInterval
    chance: float
    unseen_share: float
    n: int
    n_facts: int
    n_classes: int
    held_out_by: str
    n_folds: int
    penalty: float
    seed: int

    def frame(self) -> pd.DataFrame:
        """One row per site and position: accuracy, both controls and selectivities with intervals, chance, n."""
        scores = ("accuracy", "shuffled", "untrained", "selectivity_shuffled", "selectivity_untrained")
        cells = pd.MultiIndex.from_product([self.sites, self.position_names], names=["site", "position"])
        return cells.to_frame(index=False).assign(
            target=self.target,
            **interval_columns({name: getattr(self, name) for name in scores}),
            chance=self.chance,
            unseen_share=self.unseen_share,
            n=self.n,
            n_facts=self.n_facts,
            n_classes=self.n_classes,
            held_out_by=self.held_out_by,
        )


@torch.no_grad()
def probe(
    model: HookedModel,
    queries: Queries,
    *,
    target: str = "bridge",
    train_queries: Queries | None = None,
    untrained: HookedModel | None = None,
    n_folds: int = 5,
    penalty: float = 1e-4,
    seed: int = 0,
    batch_size: int = DEFAULT_BATCH_SIZE,
) -> Probes:
    """Fit a linear probe at every lens site and position, and read the target of queries held out by fact.

    Args:
        model: Any hooked model in `eval` mode.
        queries: Queries to read, at least one.
        target: What to read: "answer", an intermediate, or a position's token (see `target_tokens`).
        train_queries: Queries of the same task to fit on; those of the tested fold's facts are left out. By default
            the probes are fitted to `queries` themselves, cross-validated.
        untrained: The control net. By default a net of ours initialised with the next seed; a bridge needs one, such
            as TransformerLens's `random_init_bridge`.
        n_folds: Number of folds.
        penalty: Weight of the squared norm, relative to the states' variance, > 0.
        seed: Seed of folds, shuffled labels and resamples; the global random state is not used.
        batch_size: Queries per forward pass. The states of all queries at one lens site are held as well: sample
            the queries where that is too much.

    Returns:
        Accuracies, controls and selectivities, on the CPU.

    Raises:
        ValueError: If the penalty is not positive.
    """
    check_model(model)
    if not penalty > 0:
        raise ValueError(f"penalty must be positive, or the fit has no optimum, got {penalty}")
    untrained = _untrained(model, untrained)
    pooled = pool_queries(train_queries, queries)
    folds = folds_by_fact(pooled, target=target, n_folds=n_folds, seed=seed)
    classes, labels = target_tokens(pooled, target).unique(return_inverse=True)
    read = torch.arange(len(pooled)) >= len(pooled) - len(queries)
    is_training = torch.ones_like(read) if train_queries is None else ~read
    fit = _Fit(folds, is_training, n_classes=len(classes), penalty=penalty)
    shuffled_labels = shuffled_over_facts(labels, folds, seed=seed)
    right, shuffled, of_untrained = [], [], []
    for site in progress(lens_sites(model), label=f"probes of {target}"):
        states = states_at(model, pooled.tokens, stage=site.label, batch_size=batch_size)
        control_states = states_at(untrained, pooled.tokens, stage=site.label, batch_size=batch_size)
        right.append(fit.is_right(states, labels)[:, read])
        shuffled.append(fit.is_right(states, shuffled_labels)[:, read])
        of_untrained.append(fit.is_right(control_states, labels)[:, read])
    is_right, by_shuffle, by_untrained = (torch.stack(part) for part in (right, shuffled, of_untrained))
    fact = folds.fact[read]
    return Probes(
        target=target,
        sites=tuple(site.label for site in lens_sites(model)),
        position_names=queries.position_names,
        is_right=is_right,
        accuracy=share_interval_by_fact(is_right, fact),
        shuffled=share_interval_by_fact(by_shuffle, fact),
        untrained=share_interval_by_fact(by_untrained, fact),
        selectivity_shuffled=mean_interval_by_fact(is_right.double() - by_shuffle.double(), fact, seed=seed),
        selectivity_untrained=mean_interval_by_fact(is_right.double() - by_untrained.double(), fact, seed=seed),
        chance=float(labels[read].bincount().max()) / len(queries),
        unseen_share=float(label_unseen(labels, folds, is_training)[read].float().mean()),
        n=len(queries),
        n_facts=len(fact.unique()),
        n_classes=len(classes),
        held_out_by=folds.unit,
        n_folds=n_folds,
        penalty=penalty,
        seed=seed,
    )


@dataclass(frozen=True, eq=False)
class _Fit:
    """The fit that the probes and their controls share."""

    folds: FactFolds
    is_training: Bool[Tensor, " n"]
    n_classes: int
    penalty: float

    def is_right(self, states: Float[Tensor, "n n_ctx d_model"], labels: Int[Tensor, " n"]) -> Bool[Tensor, "n_ctx n"]:
        """Whether each query's class is alone on top, by the probe of its fold at each position."""
        head = SoftmaxHead(
            U=torch.eye(self.n_classes, dtype=states.dtype, device=states.device),
            c=states.new_zeros(self.n_classes),
            prior=states.new_zeros(states.shape[-1], self.n_classes),
        )
        labels = labels.to(states.device)
        return torch.stack(
            [
                ranks_of(
                    held_out_logits(
                        states[:, position],
                        labels,
                        folds=self.folds,
                        is_training=self.is_training,
                        head=head,
                        penalty=self.penalty,
                    ),
                    labels,
                ).cpu()
                == 1
                for position in range(states.shape[1])
            ]
        )


def _untrained(model: HookedModel, untrained: HookedModel | None) -> HookedModel:
    """The control net: the caller's, or a net of ours with fresh weights."""
    if untrained is not None:
        check_model(untrained)
        if lens_sites(untrained) != lens_sites(model):
            raise ValueError(
                f"untrained must have the model's {len(lens_sites(model))} lens sites, "
                f"it has {len(lens_sites(untrained))}"
            )
        return untrained
    if not isinstance(model, HookedNet):
        raise ValueError(
            "a bridge does not know its initial weights; give untrained=, such as random_init_bridge(name, seed=0)"
        )
    config = model.cfg.model_copy(update={"init_seed": model.cfg.init_seed + 1})
    return build_net(config).to(device=model.device, dtype=model.dtype).eval()
