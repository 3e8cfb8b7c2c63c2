"""The three causal tests of a two-hop circuit: hop 1, hop 2 and interchange (interchange interventions: Geiger et al.).

For a query (h, r1, r2) -> t with bridge b, at a site (stage, positions):

1. *Hop 1*: the query's state, put into a known-good query (h'', r1'', r2''), makes the answer (b, r2'').
   What the query hands on is the bridge.
2. *Hop 2*: the state of a known-good query with the same bridge, put into this query, leaves (or makes) the answer t.
   What the query receives need only be the bridge.
3. *Interchange*: the state of a known-good query with another bridge b', put into this query, makes the answer
   (b', r2). The answer depends on the bridge that sits there.

The source keeps its own r2 and the answer must follow the receiver's (see `partners`). Each test has an impostor that
passes the others: a table read from the tokens fails hop 1, a shortcut keyed on (h, r1) fails hop 2, a table beside an
unused bridge fails the interchange. A query is *mediated* when at one site most of its partners pass, in each of the
three tests.

Controls, per test and partner:

* hop 1: the state of an unrelated known-good query into the same receiver; share giving the same wanted answer.
* hop 2: a state with *another* bridge; share that still answers t. Near 1, nothing is read at the site.
* interchange: a random displacement of the same norm; share that still answers t. Near 0, any disturbance breaks the
  query and the test says little.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuit_lab.measures.result import Result
from circuit_lab.measures.sites import AnySite
from circuit_lab.measures.two_hop.partners import NONE, Fitness, PartnerPool, Partners
from circuit_lab.measures.two_hop.transplant_lab import labs
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Queries

MIN_PARTNERS = 3
"""A query with fewer partners for a test is *untestable*: one or two transplants make no majority."""


@dataclass(frozen=True, eq=False)
class CausalTest:
    """One test over a set of queries, at several sites.

    Attributes:
        passed: Whether the transplant with each partner gave the wanted answer; False where there is no partner.
        exists: Where there is a partner.
        control: Whether the control transplant gave the answer that the control counts (see the module's text).
        control_exists: Where there is a control transplant.
    """

    passed: Bool[Tensor, "n_sites n n_partners"]
    exists: Bool[Tensor, "n n_partners"]
    control: Bool[Tensor, "n_sites n n_partners"]
    control_exists: Bool[Tensor, "n n_partners"]

    @property
    def testable(self) -> Bool[Tensor, " n"]:
        """Queries with at least `MIN_PARTNERS` partners."""
        return self.exists.sum(-1) >= MIN_PARTNERS

    @property
    def majority(self) -> Bool[Tensor, "n_sites n"]:
        """Queries for which more than half of the partners pass; False for untestable ones."""
        return (2 * self.passed.sum(-1) > self.exists.sum(-1)) & self.testable

    @property
    def rate(self) -> Float[Tensor, " n_sites"]:
        """Share of transplants that pass, in [0, 1]; `nan` without any."""
        return self.passed.sum((-1, -2)) / self.exists.sum()

    @property
    def control_rate(self) -> Float[Tensor, " n_sites"]:
        """Share of control transplants that pass, in [0, 1]; `nan` without any."""
        return self.control.sum((-1, -2)) / self.control_exists.sum()


@dataclass(frozen=True, eq=False)
class CausalTests(Result):
    """Hop 1, hop 2 and interchange over a set of queries, at the same sites.

    Attributes:
        sites: The sites, in the order of each test's first axis.
        position_names: Names of the positions, for labels.
        hop1: The query hands on its bridge.
        hop2: The query needs only a bridge.
        interchange: The query's answer follows the bridge put into it.
    """

    sites: tuple[AnySite, ...]
    position_names: tuple[str, ...]
    hop1: CausalTest
    hop2: CausalTest
    interchange: CausalTest

    @property
    def testable(self) -> Bool[Tensor, " n"]:
        """Queries on which all three tests can be made."""
        return self.hop1.testable & self.hop2.testable & self.interchange.testable

    @property
    def mediated(self) -> Bool[Tensor, " n"]:
        """Queries that pass all three tests at one and the same site."""
        return (self.hop1.majority & self.hop2.majority & self.interchange.majority).any(0)

    def frame(self) -> pd.DataFrame:
        """One row per test and site: pass rate over transplants, share of queries by majority, control rate, n."""
        rows = [
            {
                "test": name,
                "site": site.label(self.position_names),
                "rate": float(test.rate[i]),
                "majority_share": float(test.majority[i].sum() / test.testable.sum()),
                "control_rate": float(test.control_rate[i]),
                "n_queries": int(test.testable.sum()),
                "n_transplants": int(test.exists.sum()),
            }
            for name, test in (("hop1", self.hop1), ("hop2", self.hop2), ("interchange", self.interchange))
            for i, site in enumerate(self.sites)
        ]
        return pd.DataFrame(rows)


def causal_tests(
    net: HookedNet,
    queries: Queries,
    pool: Queries,
    *,
    sites: Sequence[AnySite],
    generator: torch.Generator,
    n_partners: int = 6,
    fitness: Fitness | None = None,
    batch_size: int = 8192,
) -> CausalTests:
    """Run the three causal tests on every query at every site.

    Args:
        net: A hooked net in `eval` mode.
        queries: Two-hop queries under test.
        pool: Known-good training queries (see `known_good`): lenders and receivers.
        sites: Sites to patch, usually located on `train_inferred` by `locate_sites`.
        generator: Draws the partners; the global random state is not used.
        n_partners: Partners per query and test.
        fitness: Which queries of the pool may lend and receive states (see `partner_fitness`); all by default.
        batch_size: Transplants per forward pass at most; wide nets take fewer. The random directions of the
            interchange's control depend on how many go at once.

    Returns:
        The results, per site, query and partner.

    Raises:
        ValueError: If the pool is empty or the queries have no bridge.
    """
    if "bridge" not in queries.intermediates:
        raise ValueError("causal tests need two-hop queries with a 'bridge' intermediate; got queries without one")
    partner_pool = PartnerPool(pool, generator=generator, fitness=fitness)
    receivers = partner_pool.hop1_receivers(queries, n_partners=n_partners)
    same_bridge = partner_pool.hop2_sources(queries, n_partners=n_partners)
    other_bridge = partner_pool.interchange_sources(queries, n_partners=n_partners)
    strangers = Partners(
        rows=torch.where(receivers.exists, torch.randint(len(pool), receivers.rows.shape, generator=generator), NONE),
        wanted=receivers.wanted,
    )
    drawn = [receivers, strangers, same_bridge, other_bridge]
    outcomes = [
        [lab.run(site, *of_lab, generator=generator) for site in sites]
        for lab, of_lab in labs(net, queries, pool, drawn, sites=sites, batch_size=batch_size)
    ]
    existing = {
        "hop1": (receivers.exists, receivers.exists),
        "hop2": (same_bridge.exists, other_bridge.exists),
        "interchange": (other_bridge.exists, other_bridge.exists),
    }
    tests = {
        name: CausalTest(
            passed=_passed([[of_site[name][0] for of_site in of_lab] for of_lab in outcomes], like=exists),
            exists=exists,
            control=_passed([[of_site[name][1] for of_site in of_lab] for of_lab in outcomes], like=control_exists),
            control_exists=control_exists,
        )
        for name, (exists, control_exists) in existing.items()
    }
    return CausalTests(sites=tuple(sites), position_names=queries.position_names, **tests)


def _passed(
    by_lab_and_site: Sequence[Sequence[Bool[Tensor, "_ n_partners"]]], *, like: Bool[Tensor, "n n_partners"]
) -> Bool[Tensor, "n_sites n n_partners"]:
    """One row per site, with the queries of all laboratories; no rows for a net of one layer, which has no site."""
    per_site = [torch.cat(of_site) for of_site in zip(*by_lab_and_site, strict=True)]
    return torch.stack(per_site) if per_site else like.new_zeros((0, *like.shape))
