"""Which queries are fit to be partners in a causal test: those that compose at the sites themselves."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from circuit_lab.measures.sites import AnySite
from circuit_lab.measures.two_hop.partners import Fitness, PartnerPool, Partners
from circuit_lab.measures.two_hop.transplant_lab import labs
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Queries

N_VETTING_PARTNERS, MIN_VETTING_PASSES = 6, 2
"""Two of six: by chance, one answer in twenty, 3 % of queries pass; where half of the partners are unfit, 89 % do."""
MIN_FIT_SHARE = 0.1
"""Of a pool. Where fewer are fit, as many as chance lets through, nothing is known of fitness."""


def partner_fitness(
    net: HookedNet,
    pool: Queries,
    *,
    sites: Sequence[AnySite],
    generator: torch.Generator,
    batch_size: int = 8192,
) -> Fitness:
    """Which queries of a pool hand on their bridge at a site, and which read another's there.

    A query that a table answers may pass no state on, and takes none in: as a partner it would make any query fail.
    Where a net has a circuit for part of its queries, only they can tell.

    Args:
        net: A hooked net in `eval` mode.
        pool: Known-good training queries; they are each other's partners here.
        sites: Where to patch.
        generator: Draws the partners.
        batch_size: Transplants per forward pass at most; wide nets take fewer.

    Returns:
        Those that at one site pass the hop-1 test (`lends`), and those that pass the interchange (`receives`), with at
        least `MIN_VETTING_PASSES` of `N_VETTING_PARTNERS` partners. All of them where fewer than `MIN_FIT_SHARE` pass.
    """
    partner_pool = PartnerPool(pool, generator=generator)
    receivers = partner_pool.hop1_receivers(pool, n_partners=N_VETTING_PARTNERS)
    other_bridge = partner_pool.interchange_sources(pool, n_partners=N_VETTING_PARTNERS)
    handed_on, read = [], []
    for lab, (own_receivers, sources) in labs(
        net, pool, pool, [receivers, other_bridge], sites=sites, batch_size=batch_size
    ):
        handed_on.append(torch.stack([lab.answers_when_lending(site, own_receivers) for site in sites]))
        read.append(torch.stack([lab.answers_when_receiving(site, sources) for site in sites]))
    return Fitness(lends=_fit(torch.cat(handed_on, dim=1), receivers), receives=_fit(torch.cat(read, 1), other_bridge))


def _fit(answers: Int[Tensor, "n_sites n n_partners"], partners: Partners) -> Bool[Tensor, " n"]:
    """Queries that pass with enough partners at one of the sites; all, where next to none do."""
    passes = ((answers == partners.wanted) & partners.exists).sum(-1)
    fit = (passes >= MIN_VETTING_PASSES).any(0)
    return fit if fit.double().mean() >= MIN_FIT_SHARE else torch.ones_like(fit)
