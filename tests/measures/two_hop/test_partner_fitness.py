"""Partners that compose, on nets in which it is known which queries do."""

import pytest
import torch

from circuit_lab.measures import PartnerPool, Site, causal_tests, partner_fitness
from circuit_lab.nets.controls.two_hop import fact_table_read_twice, triple_table, triple_table_over_circuit

AT_R1 = [Site("resid_post 0", (1,))]


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def pool(small_task):
    return small_task.splits["train_inferred"]


@pytest.fixture(scope="module")
def by_table(pool):
    """Half of the pool, by relation: what the table answers."""
    return pool.tokens[:, 1] % 2 == 0


@pytest.fixture(scope="module")
def half(small_task, pool, by_table):
    rows = torch.cat([pool.tokens, pool.answer[:, None]], dim=1)[by_table]
    return triple_table_over_circuit(small_task.facts, rows, d_vocab=small_task.d_vocab)


def test_all_of_a_circuit_are_fit(small_task, pool):
    net = fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab)
    fitness = partner_fitness(net, pool, sites=AT_R1, generator=seeded())
    # A few have fewer than two partners in so small a world.
    assert fitness.lends.double().mean() > 0.97 and fitness.receives.double().mean() > 0.97


def test_where_a_table_covers_the_circuit_a_query_lends_but_does_not_receive(half, pool, by_table):
    fitness = partner_fitness(half, pool, sites=AT_R1, generator=seeded())
    assert fitness.lends[by_table].double().mean() > 0.9
    assert fitness.receives[by_table].double().mean() < 0.1
    assert fitness.receives[~by_table].double().mean() > 0.97


def test_one_site_of_several_is_enough(half, pool):
    """Beside a site at which nothing is handed on, before it or after it."""
    alone = partner_fitness(half, pool, sites=AT_R1, generator=seeded())
    idle = [Site("resid_post 0", (0,))]
    for sites in (idle + AT_R1, AT_R1 + idle):
        fitness = partner_fitness(half, pool, sites=sites, generator=seeded())
        assert torch.equal(fitness.lends, alone.lends) and torch.equal(fitness.receives, alone.receives)


def test_only_fit_queries_become_partners(half, pool):
    fitness = partner_fitness(half, pool, sites=AT_R1, generator=seeded())
    partners = PartnerPool(pool, generator=seeded(), fitness=fitness)
    receivers = partners.hop1_receivers(pool, n_partners=4)
    assert fitness.receives[receivers.rows[receivers.exists]].all()
    for draw in (partners.hop2_sources, partners.interchange_sources):
        drawn = draw(pool, n_partners=4)
        assert fitness.lends[drawn.rows[drawn.exists]].all()


def test_unfit_partners_would_fail_queries_that_compose(half, small_task, pool, by_table):
    """The circuit's own half: without vetting, receivers that the table answers outvote the others."""
    queries = small_task.splits["test_ood"]  # none of them is in the table
    fitness = partner_fitness(half, pool, sites=AT_R1, generator=seeded())
    shares = []
    for fit in (None, fitness):
        tests = causal_tests(half, queries, pool, sites=AT_R1, generator=seeded(), fitness=fit)
        shares.append(float(tests.mediated.sum() / tests.testable.sum()))
    assert shares[0] < 0.5
    assert shares[1] > 0.95


def test_where_nothing_composes_everyone_stays_a_partner(small_task, pool):
    rows = torch.cat([pool.tokens, pool.answer[:, None]], dim=1)
    net = triple_table(small_task.facts, rows, d_vocab=small_task.d_vocab)
    fitness = partner_fitness(net, pool, sites=AT_R1, generator=seeded())
    assert fitness.lends.all() and fitness.receives.all()
