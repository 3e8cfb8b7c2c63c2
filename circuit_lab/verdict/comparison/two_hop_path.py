"""Do two two-hop nets use the same path? By what the causal tests say.

In this order:

1. Equal weights: yes.
2. On some split the right answers of one go mostly through its bridge, and those of the other mostly do not: no.
3. Other facts or another vocabulary: cannot tell, for no state of one names anything to the other.
4. Neither hands on a bridge: cannot tell. One does, and the other does so nowhere: no.
5. Each hands it on at positions at which the other does not: no.
6. The interchange of bridge states between the nets, through a fitted affine map, in both directions, at one position:
   A lends from its last site and B receives at its first. Counted are the pairs of queries, of those that both answer
   right, in which B's answer follows B's own state through a map fitted in the same way. If in most of these B's answer
   follows A's state too, and in the other direction A's follows B's: yes.
7. Else cannot tell. A map that fails does not make two paths: at an early site part of the bridge may still be in the
   making, and no affine map finds it there.

Overlap and correlation of the sites are shown beside it and never decide: nets with different verdicts can have the
same grids.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from circuit_lab.measures import (
    CrossInterchange,
    LocatedSites,
    Site,
    cross_interchange,
    known_good,
    site_overlap,
)
from circuit_lab.tasks import Queries, TwoHopTask, concatenate
from circuit_lab.verdict.checks import Share
from circuit_lab.verdict.comparison.paired_queries import Side, ask_the_same
from circuit_lab.verdict.comparison.path import (
    PathAnswer,
    PathEvidence,
    PathThresholds,
    have_same_weights,
    in_words,
    mediation_evidence,
    only_one_through_circuit,
)
from circuit_lab.verdict.thresholds import THRESHOLDS

MAX_SHARED_QUERIES = 20_000
"""Queries that both nets answer, from which the map is fitted and tested; it needs a few thousand."""
N_PAIRS = 4000
HELD_OUT_SHARE = 0.2
"""Of the first-hop facts. A map of 64 coordinates needs many more facts than that to be fitted on."""
_MAPPED, _CONTROLS = "mapped A", ("mismatched map", "untrained A")


def compare_two_hop_paths(a: Side, b: Side, *, seed: int, at: PathThresholds) -> PathAnswer:
    """Whether two two-hop nets use the same path.

    Args:
        a: The first checkpoint.
        b: The second.
        seed: Seed of samples, splits of facts and controls.
        at: What to compare with.

    Returns:
        The answer with its reasons and numbers.
    """
    evidence = (*_site_evidence(a, b, seed), *mediation_evidence(a, b))
    answer = _answer(a, b, seed, at)
    sites = [", ".join(side.diagnosis.sites) or "no site" for side in (a, b)]
    where = f"Located sites: A {sites[0]}; B {sites[1]}."
    return PathAnswer(answer.same_path, (*answer.reasons, where), (*evidence, *answer.evidence))


def _answer(a: Side, b: Side, seed: int, at: PathThresholds) -> PathAnswer:
    """The first of the module's rules that answers."""
    if have_same_weights(a.subject.net, b.subject.net):
        return PathAnswer("yes", ("The two nets have the same weights.",), ())
    reason = only_one_through_circuit(
        a, b, mostly=THRESHOLDS.through_bridge, mostly_not=THRESHOLDS.not_through_bridge, circuit="bridge"
    )
    if reason is not None:
        return PathAnswer("no", (reason,), ())
    if not ask_the_same(a, b):
        reason = (
            "Their facts or vocabularies differ, so that a bridge state of one names nothing to the other, and no "
            "state can be exchanged."
        )
        return PathAnswer("cannot tell", (reason,), ())
    by_sites = _by_sites(a.diagnosis.measurements.located, b.diagnosis.measurements.located, at)
    return _by_interchange(a, b, seed, at) if by_sites is None else by_sites


def _site_evidence(a: Side, b: Side, seed: int) -> list[PathEvidence]:
    """Overlap and rank correlation of the sites: they corroborate."""
    located = a.diagnosis.measurements.located, b.diagnosis.measurements.located
    try:
        overlap = site_overlap(*located, seed=seed)
    except ValueError:  # fewer than three candidates in common: nets of other depths, or of one layer
        return []
    rank, n = overlap.correlations, min(overlap.n_a, overlap.n_b)
    spearman, low, high, permuted = (float(x[1]) for x in (rank.value, rank.low, rank.high, rank.permuted_high))
    where = f"{overlap.n_candidates} candidate sites"
    return [
        PathEvidence(
            name="overlap of located sites (Jaccard)",
            where=where,
            value=_finite(overlap.jaccard),
            low=None,
            high=None,
            n=n,
            control=_finite(overlap.chance_jaccard),
            compared_with="random sets of these sizes; corroborates, never decides",
            decides=False,
        ),
        PathEvidence(
            name="rank correlation of sites",
            where=where,
            value=_finite(spearman),
            low=_finite(low),
            high=_finite(high),
            n=n,
            control=_finite(permuted),
            compared_with="97.5 % quantile with permuted sites; corroborates, never decides",
            decides=False,
        ),
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _by_sites(a: LocatedSites, b: LocatedSites, at: PathThresholds) -> PathAnswer | None:
    """The answer where it follows from the sites alone, else None."""
    if not a.found and not b.found:
        reason = "Neither net hands on a bridge, so that there is no state to exchange; tables are not told apart."
        return PathAnswer("cannot tell", (reason,), ())
    if a.found != b.found:
        found, other = ("A", b) if a.found else ("B", a)
        best = max((_upper_rate(other, c.site.positions) for c in other.candidates), default=0.0)
        if best < at.hands_on:
            reason = f"{found} hands on a bridge, and the other net does so nowhere (rates below {best:.2f})."
            return PathAnswer("no", (reason,), ())
        reason = f"{found} hands on a bridge; whether the other does, its sites leave open (rates up to {best:.2f})."
        return PathAnswer("cannot tell", (reason,), ())
    positions_a, positions_b = ({site.positions for site in each.sites} for each in (a, b))
    if not positions_a & positions_b and (
        max(_upper_rate(b, p) for p in positions_a) < at.hands_on
        and max(_upper_rate(a, p) for p in positions_b) < at.hands_on
    ):
        labels = [", ".join(site.label(each.position_names) for site in each.sites) for each in (a, b)]
        reason = f"A hands on its bridge at {labels[0]}, B at {labels[1]}, and neither does where the other does."
        return PathAnswer("no", (reason,), ())
    return None


def _upper_rate(located: LocatedSites, positions: tuple[int, ...]) -> float:
    """Upper end of the highest rate at which these positions hand on the bridge; 1 where that was not tried."""
    uppers = (c.interval.high for c in located.candidates if c.site.positions == positions and c.n > 0)
    return max(uppers, default=1.0)


@dataclass(frozen=True)
class _Direction:
    """What the states of one net do in the other.

    Attributes:
        lender: "A" or "B".
        receiver: The other.
        where: The two sites.
        own: Of all pairs, those in which the receiver follows its own mapped state.
        lent: Of these, those in which it follows the lender's.
        control: Of these, those in which it follows a control's, of the best control.
    """

    lender: str
    receiver: str
    where: str
    own: Share
    lent: Share
    control: Share

    @property
    def evidence(self) -> list[PathEvidence]:
        """Both shares."""
        return [
            PathEvidence.of_share(f"{self.receiver} follows its own mapped state", self.where, self.own),
            PathEvidence.of_share(
                f"{self.receiver} follows the state of {self.lender}",
                self.where,
                self.lent,
                control=self.control.value if self.control.n else None,
                compared_with="the better of an untrained net's states and a map fitted on mismatched queries",
            ),
        ]

    def lends(self, at: PathThresholds) -> bool:
        """Whether the lender's states do the receiver's own work."""
        return (
            self.own.interval.low >= at.follows_own
            and self.lent.interval.low >= at.lends
            and self.control.interval.high <= at.control_lends
        )

    def __str__(self) -> str:
        return (
            f"Where {self.receiver} follows its own mapped bridge state, it follows that of {self.lender} in "
            f"{in_words(self.lent)} ({self.where}; control {self.control.value:.2f})"
        )


def _by_interchange(a: Side, b: Side, seed: int, at: PathThresholds) -> PathAnswer:
    """The answer of exchanged bridge states."""
    sites_a, sites_b = (_single_sites(side.diagnosis.measurements.located) for side in (a, b))
    shared = sorted({s.positions for s in sites_a} & {s.positions for s in sites_b})
    if not shared:
        reason = "States can be exchanged at one position of one stage; the two share no such site."
        return PathAnswer("cannot tell", (reason,), ())
    at_position = [[s.stage for s in sites if s.positions == shared[0]] for sites in (sites_a, sites_b)]
    queries = _answered_by_both(a, b, seed)
    position = queries.position_names[shared[0][0]]
    try:
        directions = [
            _exchange(a, b, "AB", queries, at_position[0], at_position[1], position, seed),
            _exchange(b, a, "BA", queries, at_position[1], at_position[0], position, seed),
        ]
    except ValueError as error:
        return PathAnswer("cannot tell", (f"Too few queries that both answer right to exchange states: {error}.",), ())
    evidence = tuple(row for direction in directions for row in direction.evidence)
    shares = tuple(f"{direction}." for direction in directions if direction.own.n)
    if all(direction.lends(at) for direction in directions):
        reason = (
            "On queries that both answer right, each net's bridge states do the other's work, after a change of "
            "coordinates."
        )
        return PathAnswer("yes", (reason, *shares), evidence)
    reason = (
        "Both hand on the bridge at the same position, but their states could not be exchanged well enough to call it "
        "one path; a map that fails does not make two of it."
    )
    return PathAnswer("cannot tell", (reason, *shares), evidence)


def _single_sites(located: LocatedSites) -> list[Site]:
    """The located sites that are one position of one stage, earliest stage first."""
    stage_order = [c.site for c in located.candidates]
    single = [s for s in located.sites if isinstance(s, Site) and len(s.positions) == 1 and not s.held]
    return sorted(single, key=stage_order.index)


def _answered_by_both(a: Side, b: Side, seed: int) -> Queries:
    """Two-hop queries of both tasks that both nets answer right."""
    task = a.subject.task
    assert isinstance(task, TwoHopTask)
    splits = [task.splits[name] for name in a.diagnosis.measurements.queries]
    everything = concatenate([queries for queries in splits if len(queries)])
    sample = everything.sample(MAX_SHARED_QUERIES, generator=torch.Generator().manual_seed(seed))
    return known_good(b.subject.net, known_good(a.subject.net, sample))


def _exchange(
    lender: Side,
    receiver: Side,
    names: str,
    queries: Queries,
    lending: Sequence[str],
    receiving: Sequence[str],
    position: str,
    seed: int,
) -> _Direction:
    """States of the lender's last site in the receiver's first."""

    def into_receiver(of: Side, stage: str) -> CrossInterchange:
        return cross_interchange(
            of.subject.net,
            receiver.subject.net,
            queries,
            queries,
            stage_a=stage,
            stage_b=receiving[0],
            position=position,
            n_pairs=N_PAIRS,
            held_out_share=HELD_OUT_SHARE,
            seed=seed,
        )

    lent, own = into_receiver(lender, lending[-1]), into_receiver(receiver, receiving[0])
    hits = dict(zip(lent.states, lent.hits.numpy(), strict=True))
    followed = own.hits[own.states.index(_MAPPED)].numpy()

    def of_followed(hit: np.ndarray) -> Share:
        return Share(int((hit & followed).sum()), int(followed.sum()))

    return _Direction(
        lender=names[0],
        receiver=names[1],
        where=f"{lending[-1]} @ {position} -> {receiving[0]} @ {position}",
        own=Share(int(followed.sum()), len(followed)),
        lent=of_followed(hits[_MAPPED]),
        control=max((of_followed(hits[name]) for name in _CONTROLS), key=lambda share: share.n_true),
    )
