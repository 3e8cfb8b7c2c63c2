"""Locating the sites where training queries hand on their bridge.

1. On a sample of `train_inferred`, run the hop-1 test at every inner stage and every proper set of positions. In a
   recursive net: at the stages of both streams, and at each once more *held*, that is, with the positions replaced at
   every later stage, too. For such a net computes hop 1 anew in each cycle, from the tokens of the query that receives
   the state; so what one transplant put in is soon overwritten (measured at the position of r1: one stage .34, held
   .75 of the transplants; with averaged states .40 and .88).
2. Run it once more with states that hold the bridge and nothing else that the query has of its own: the *average* over
   queries with the same bridge but another head entity and another first relation. Where the bridge itself sits at the
   site, the average still carries it. Where only the input tokens sit there (a table reads them later), or a code of
   the pair (h, r1), the average names no fact. For a set of several positions the average is not enough, for its
   tokens may be found apart; so run it with *spliced* states too: the first position's from the query, the others' from
   such a mate, which name a different fact. The lowest of the rates counts. (Our addition: without it, a table keyed on
   (h, r1, r2) passes as a circuit wherever h and r1 can be replaced together.)
3. Take the smallest size of position set that has a stage whose rate lies above `MIN_RATE` with its interval; of that
   size, the set with the best stage; and of that set, every stage above `MIN_RATE`. If none of these carries the bridge
   in most transplants, a larger set is taken where it certainly carries it more often.
4. If none of them carries it in most transplants, the bridge may stand where no residual stream gives it alone, such
   as beside r2's own token: try every component's output at every position in the same way. A site that carries it
   certainly more often is taken instead.
5. If it is still not most, the bridge may be written several times over, so that each single patch is outvoted by the
   rest (a backup, or "self-repair": McGrath et al. 2023, arXiv 2307.15771). Add outputs one by one, each time the one
   that moves the logits furthest towards the wanted answer, with averaged states, until all of them together carry the
   bridge, or nothing is gained.
6. What is patched together must carry the bridge in each of its parts. A part that only stood in the way, such as the
   tokens that a table reads above an idle circuit, does as well with its mean over *all* queries, its *placebo*. A set
   is located only if the placebo of any one part lowers the rate of averaged states for certain.

The evidence of a diagnosis is then read on *other* queries at these sites.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from circuit_lab.measures.hooked_model import has_several_streams
from circuit_lab.measures.intervals import Interval, proportion_interval
from circuit_lab.measures.result import Result
from circuit_lab.measures.sites import (
    AnySite,
    OutputSite,
    Place,
    Site,
    inner_stages,
    n_state_rows,
    output_places,
    patched_logits,
    patched_parts,
    position_sets,
    site_states,
    stage_before,
)
from circuit_lab.measures.two_hop.partners import PartnerPool
from circuit_lab.measures.two_hop.transplants import MIN_PARTNERS
from circuit_lab.nets import HookedNet, queries_at_once, queries_kept
from circuit_lab.tasks import Queries

MIN_RATE = 0.25
"""Share of transplants that must carry the bridge: a circuit beside a table reaches only the queries that the table
leaves it. What a query's answer goes through is decided query by query, on others than these."""
_MOST = 0.5
MAX_JOINT_PLACES = 5
"""Outputs patched together at most: a majority of up to nine paths. More would be most of a small net."""
MIN_GAIN = 0.05
"""Share of the way to the wanted answer that an output must add to be patched with the others."""


@dataclass(frozen=True)
class SiteRate:
    """Hop-1 rates of one candidate site on training queries.

    Attributes:
        site: The candidate.
        rate: Share of transplants that pass, in [0, 1].
        mixed_rate: The same with states averaged over queries with the same bridge or, for several positions of the
            stage, the lower of that and the rate with states spliced from two of them.
        n: Testable queries; the interval counts each once, however many its transplants.
        placebo_rate: The highest rate with averaged states and the placebo of one part, where parts are patched
            together; else 0.
        averaged_rate: The rate with averaged states alone, which the placebo is compared with; `mixed_rate` if None.
    """

    site: AnySite
    rate: float
    mixed_rate: float
    n: int
    placebo_rate: float = 0.0
    averaged_rate: float | None = None

    @property
    def deciding_rate(self) -> float:
        """The lower of the two rates."""
        return min(self.rate, self.mixed_rate)

    @property
    def carries_bridge(self) -> bool:
        """True when the deciding rate's 95 % interval lies above `MIN_RATE`, and averaged states do above a placebo."""
        if self.n == 0 or self.interval.low <= MIN_RATE:
            return False
        averaged = self.mixed_rate if self.averaged_rate is None else self.averaged_rate
        return self.placebo_rate == 0 or self._interval_of(averaged).low > self._interval_of(self.placebo_rate).high

    @property
    def interval(self) -> Interval:
        """The deciding rate's 95 % Wilson interval."""
        return self._interval_of(self.deciding_rate)

    def _interval_of(self, rate: float) -> Interval:
        return proportion_interval(round(rate * self.n), self.n)


@dataclass(frozen=True)
class LocatedSites(Result):
    """Where training queries hand on their bridge.

    Attributes:
        sites: The located sites; when none was found, the single best candidate, for the record.
        found: Whether any candidate carries the bridge.
        candidates: Every candidate with its rates.
        position_names: Names of the positions, for labels.
    """

    sites: tuple[AnySite, ...]
    found: bool
    candidates: tuple[SiteRate, ...]
    position_names: tuple[str, ...]

    def frame(self) -> pd.DataFrame:
        """One row per candidate: site, stage, positions, its rates, n, and whether it was located."""
        return pd.DataFrame(
            {
                "site": c.site.label(self.position_names),
                "stage": c.site.stage,
                "positions": "+".join(self.position_names[p] for p in c.site.positions),
                "rate": c.rate,
                "mixed_rate": c.mixed_rate,
                "placebo_rate": c.placebo_rate,
                "n": c.n,
                "located": self.found and c.site in self.sites,
            }
            for c in self.candidates
        )


def locate_sites(
    net: HookedNet,
    queries: Queries,
    pool: Queries,
    *,
    generator: torch.Generator,
    n_partners: int = 4,
    batch_size: int = 8192,
) -> LocatedSites:
    """Find the sites that hand on the bridge, by the strict hop-1 test.

    Args:
        net: A hooked net in `eval` mode.
        queries: Training queries, a few hundred; evidence must be read on others.
        pool: Known-good training queries that receive the states.
        generator: Draws the partners.
        n_partners: Receivers per query.
        batch_size: Transplants per forward pass at most; wide nets take fewer.

    Returns:
        The located sites with the rates of every candidate.
    """
    trial = _Hop1Trial(net, queries, pool, generator=generator, n_partners=n_partners, batch_size=batch_size)
    names = queries.position_names
    stages, sets = inner_stages(net), position_sets(len(names))
    sites = [Site(stage, positions) for stage in stages for positions in sets]
    if has_several_streams(net):
        sites += [Site(stage, positions, held=True) for stage in stages[:-1] for positions in sets]
    located = _choose([trial.rate(site) for site in sites], names)
    if not _carry_most(located):
        outputs = [trial.rate(OutputSite((place,))) for place in trial.places]
        located = _better(located, _choose(outputs, names))
    if not _carry_most(located):
        located = _better(located, _choose(list(_joint_rates(trial)), names))
    return located


def _highest(located: LocatedSites) -> SiteRate | None:
    """The chosen site that carries the bridge most often."""
    chosen = (c for c in located.candidates if c.site in located.sites)
    return max(chosen, key=lambda c: c.deciding_rate, default=None)


def _carry_most(located: LocatedSites) -> bool:
    """Whether a located site carries the bridge in most transplants, so that there is no more to look for."""
    highest = _highest(located)
    return located.found and highest is not None and highest.interval.low > _MOST


def _better(first: LocatedSites, second: LocatedSites) -> LocatedSites:
    """The sites of the second where they certainly carry the bridge more often, else the first's; all candidates."""
    of_first, of_second = _highest(first), _highest(second)
    more = of_first is None or (of_second is not None and of_second.interval.low > of_first.interval.high)
    chosen = second if of_first is None or (second.found and (more or not first.found)) else first
    return replace(chosen, candidates=(*first.candidates, *second.candidates))


def _choose(candidates: Sequence[SiteRate], position_names: tuple[str, ...]) -> LocatedSites:
    """Smallest set first, a larger one where it certainly carries more; of it every stage that carries the bridge."""
    carriers, best = [c for c in candidates if c.carries_bridge], None
    for size in sorted({len(c.site.positions) for c in carriers}):
        of_size = max((c for c in carriers if len(c.site.positions) == size), key=lambda c: c.deciding_rate)
        if best is None or (best.interval.low <= _MOST and of_size.interval.low > best.interval.high):
            best = of_size
    if best is not None:
        sites = tuple(c.site for c in carriers if c.site.positions == best.site.positions)
    else:
        sites = (max(candidates, key=lambda c: c.deciding_rate).site,) if candidates else ()
    return LocatedSites(sites=sites, found=bool(carriers), candidates=tuple(candidates), position_names=position_names)


def _joint_rates(trial: "_Hop1Trial") -> Iterator[SiteRate]:
    """Rates of growing sets of outputs, from two on; ends with one that carries the bridge, if any does."""
    chosen: tuple[Place, ...] = ()
    effect = start = trial.effect(OutputSite(()))
    for _ in range(MAX_JOINT_PLACES):
        grown = [OutputSite(tuple(sorted((*chosen, place)))) for place in trial.places if place not in chosen]
        effects = [trial.effect(site) for site in grown]
        best = max(range(len(grown)), key=effects.__getitem__, default=None)
        if best is None or effects[best] - effect <= MIN_GAIN * abs(start):
            return
        chosen, effect = grown[best].places, effects[best]
        if len(chosen) == 1:
            continue  # rated already, and it does not carry the bridge alone
        found = trial.rate(grown[best])
        yield found
        if found.carries_bridge:
            return


class _Hop1Trial:
    """Hop-1 transplants of the same queries and partners at any site."""

    def __init__(
        self,
        net: HookedNet,
        queries: Queries,
        pool: Queries,
        *,
        generator: torch.Generator,
        n_partners: int,
        batch_size: int,
    ) -> None:
        partner_pool = PartnerPool(pool, generator=generator)
        receivers = partner_pool.hop1_receivers(queries, n_partners=n_partners)
        mates = partner_pool.same_bridge_other_tokens(queries, n_partners=n_partners)
        n_pos = queries.tokens.shape[1]
        self.net, self.queries, self.batch_size = net, queries, queries_at_once(net, n_pos, at_most=batch_size)
        self.exists, self.wanted = receivers.exists, receivers.wanted
        self.mate_exists = mates.exists
        self.receivers, self.mates = pool[receivers.rows[self.exists]], pool[mates.rows[mates.exists]]
        self.places = output_places(net, n_pos)
        self._streams: dict[Site, _States] = {}
        n_asked = len(queries) + len(self.receivers) + len(self.mates)
        n_rows = n_state_rows(net, Site(net.lens_sites[0].label, ()), n_pos)
        n_kept = queries_kept(net, at_most=n_asked * len(net.lens_sites), numbers=n_rows * net.cfg.d_model)
        self._n_stages_kept = max(1, n_kept // max(1, n_asked))
        n_lending, of_all = len(queries) + len(self.mates), OutputSite(tuple(self.places))
        numbers = n_state_rows(net, of_all, n_pos) * net.cfg.d_model
        self._keeps_outputs = n_lending == queries_kept(net, at_most=n_lending, numbers=numbers)

    def rate(self, site: AnySite) -> SiteRate:
        """Rates of one site."""
        own, receiver, mate = self._states(site)
        averaged = _average(own, mate, self.mate_exists)
        mixed = averaged_rate = self._pass_rate(site, receiver, self._per_partner(averaged), self._has_mate)
        parts = patched_parts(self.net, site, own.shape[1])
        placebo = 0.0
        if len(parts) > 1 and mixed > MIN_RATE:
            if isinstance(site, Site):
                spliced = self._spliced(own, mate, [row for part in parts[1:] for row in part])
                mixed = min(mixed, self._pass_rate(site, receiver, spliced, self.exists & self.mate_exists))
            for part in parts:
                with_placebo = averaged.clone()
                with_placebo[:, part] = own[:, part].mean(0)
                placebo = max(placebo, self._pass_rate(site, receiver, self._per_partner(with_placebo), self._has_mate))
        return SiteRate(
            site=site,
            rate=self._pass_rate(site, receiver, self._per_partner(own), self.exists),
            mixed_rate=mixed,
            n=int((self.exists.sum(-1) >= MIN_PARTNERS).sum()),
            placebo_rate=placebo,
            averaged_rate=averaged_rate,
        )

    @property
    def _has_mate(self) -> Bool[Tensor, "n n_partners"]:
        return self.exists & self.mate_exists.any(1, keepdim=True)

    def _per_partner(self, states: Float[Tensor, "n rows d_model"]) -> Float[Tensor, "n n_partners rows d_model"]:
        """Each query's state once per partner, without copying."""
        return states[:, None].expand(-1, self.exists.shape[1], -1, -1)

    def _spliced(
        self, own: Float[Tensor, "n rows d_model"], mate: Float[Tensor, "k rows d_model"], others: list[int]
    ) -> Float[Tensor, "n n_partners rows d_model"]:
        """Each query's state with the other positions' from its mates, one mate for each partner."""
        spliced = self._per_partner(own).clone()
        of_mates = torch.zeros_like(spliced)
        of_mates[self.mate_exists] = mate
        spliced[:, :, others] = of_mates[:, :, others]
        return spliced

    def effect(self, site: OutputSite) -> float:
        """Mean logit of the wanted answer less that of the receiver's own, with averaged states; one partner each."""
        own, receiver, mate = self._states(site)
        first = torch.zeros_like(self.exists)
        first[:, 0] = self.exists[:, 0] & self.mate_exists.any(1)
        averaged = _average(own, mate, self.mate_exists)[first[:, 0]]
        chosen = first[self.exists]
        logits = self._logits(site, receiver[chosen], averaged, self.receivers.answer_position[chosen]).cpu()
        answers = torch.stack([self.wanted[first], self.receivers.answer[chosen]], dim=1)
        of_wanted, of_own = logits.gather(1, answers).double().unbind(1)
        return float((of_wanted - of_own).mean()) if len(logits) else 0.0

    def _states(self, site: AnySite) -> "_States":
        """What `site_states` gives of the queries, of their receivers and of their mates."""
        if isinstance(site, Site):
            return self._of_stage(site)
        if not self._keeps_outputs:
            return self._of_each(site)
        own, receiver, mate = self._of_stage(Site(stage_before(self.net, site), ()))
        places = [self.places.index(place) for place in site.places]
        own, mate = (
            torch.cat([stream, of_all[:, places]], dim=1)
            for stream, of_all in zip((own, mate), self._outputs, strict=True)
        )
        return own, pad(receiver, (0, 0, 0, len(places))), mate  # what a receiver itself writes there is not read

    def _of_stage(self, site: Site) -> "_States":
        """The states at a stage, those of the last stages kept; not of held sites, which differ by position."""
        if site.held:
            return self._of_each(site)
        whole = replace(site, positions=())
        if whole not in self._streams:
            while len(self._streams) >= self._n_stages_kept:
                del self._streams[next(iter(self._streams))]
            self._streams[whole] = self._of_each(whole)
        return self._streams[whole]

    @cached_property
    def _outputs(self) -> tuple[Float[Tensor, "n places d_model"], Float[Tensor, "k places d_model"]]:
        """Every component's output for the queries and their mates, one row per place."""
        of_all = OutputSite(tuple(self.places))
        own, mate = (
            site_states(self.net, asked.tokens, site=of_all)[:, -len(self.places) :]
            for asked in (self.queries, self.mates)
        )
        return own, mate

    def _of_each(self, site: AnySite) -> "_States":
        own, receiver, mate = (
            site_states(self.net, asked.tokens, site=site) for asked in (self.queries, self.receivers, self.mates)
        )
        return own, receiver, mate

    def _pass_rate(
        self,
        site: AnySite,
        receiver: Float[Tensor, "m rows d_model"],
        source: Float[Tensor, "n n_partners rows d_model"],
        cell: Bool[Tensor, "n n_partners"],
    ) -> float:
        """Share of the transplants of testable queries that give the wanted answer."""
        cell = cell & (cell.sum(-1, keepdim=True) >= MIN_PARTNERS)
        if not cell.any():
            return 0.0
        chosen = cell[self.exists]  # rows of the flat receivers that this cell mask keeps
        logits = self._logits(site, receiver[chosen], source[cell], self.receivers.answer_position[chosen])
        return float((logits.argmax(-1).cpu() == self.wanted[cell]).double().mean())

    def _logits(
        self,
        site: AnySite,
        receiver: Float[Tensor, "m rows d_model"],
        source: Float[Tensor, "m rows d_model"],
        answer_position: Int[Tensor, " m"],
    ) -> Float[Tensor, "m d_vocab_out"]:
        parts = zip(*(x.split(self.batch_size) for x in (receiver, source, answer_position)), strict=True)
        return torch.cat(
            [
                patched_logits(self.net, site=site, receiver_states=r, source_states=s, answer_position=p)
                for r, s, p in parts
            ]
        )


_States = tuple[Float[Tensor, "n rows d_model"], Float[Tensor, "m rows d_model"], Float[Tensor, "k rows d_model"]]
"""Of the queries, of their receivers, of their mates."""


def _average(
    own: Float[Tensor, "n rows d_model"],
    mate: Float[Tensor, "k rows d_model"],
    exists: Bool[Tensor, "n n_mates"],
) -> Float[Tensor, "n rows d_model"]:
    """Mean of each query's state and its mates'."""
    total = own.clone()
    of_query = torch.arange(len(own))[:, None].expand_as(exists)[exists].to(own.device)
    total.index_add_(0, of_query, mate)
    return total / (1 + exists.sum(1).to(own))[:, None, None]
