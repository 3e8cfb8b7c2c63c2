"""Transplants: by hand on a wired circuit, by an independent route through TransformerLens's hooks, by property."""

from functools import partial

import pytest
import torch

from circuit_lab.measures import CausalTest, Site, causal_tests, known_good, locate_sites, residual_states
from circuit_lab.measures.two_hop.partners import PartnerPool
from circuit_lab.measures.two_hop.transplant_lab import displaced_states, patched_answers
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.nets.controls.two_hop import fact_table_read_twice

AT_R1 = Site("resid_post 0", (1,))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_a_transplant_by_hand():
    """Facts 0 -5-> 1, 1 -6-> 2, 3 -5-> 4, 4 -6-> 0 (entities 0..4, relations 5, 6).

    (0, 5, 6) answers 2 through 1, and (3, 5, 6) answers 0 through 4. With the state of the second at r1, the first must
    answer 0; with its state at h, where no layer looks again, it must still answer 2.
    """
    net = fact_table_read_twice(torch.tensor([[0, 5, 1], [1, 6, 2], [3, 5, 4], [4, 6, 0]]), d_vocab=8)
    receiver, source = torch.tensor([[0, 5, 6]]), torch.tensor([[3, 5, 6]])
    states = {
        name: residual_states(net, tokens, stage="resid_post 0")
        for name, tokens in (("receiver", receiver), ("source", source))
    }

    def answer(positions):
        return patched_answers(
            net,
            site=Site("resid_post 0", positions),
            receiver_states=states["receiver"],
            source_states=states["source"],
            answer_position=torch.tensor([2]),
        ).tolist()

    assert net(receiver)[0, 2].argmax() == 2
    assert answer((1,)) == [0]
    assert answer((0,)) == [2]
    assert answer((0, 1)) == [0]


@pytest.fixture(scope="module")
def noisy_results(noisy_circuit, small_task):
    pool = known_good(noisy_circuit, small_task.splits["train_inferred"])
    queries = small_task.splits["test_ood"][:40]
    sites = [AT_R1, Site("resid_post 0", (0, 1)), Site("resid_post 0", (2,))]
    return pool, queries, causal_tests(noisy_circuit, queries, pool, sites=sites, generator=seeded(7))


def put(state, hook, *, source, positions):
    state[:, list(positions)] = source[:, list(positions)]
    return state


def answer_with_hooks(net, site, receiver, source):
    """The same intervention through run_with_hooks from the tokens, one pair at a time."""
    name = "blocks.0.hook_resid_post"
    _, cache = net.run_with_cache(source[None])
    hook = partial(put, source=cache[name], positions=site.positions)
    return int(net.run_with_hooks(receiver[None], fwd_hooks=[(name, hook)])[0, -1].argmax())


def test_batched_and_resumed_equals_one_by_one_with_hooks(noisy_circuit, noisy_results):
    pool, queries, results = noisy_results
    partner_pool = PartnerPool(pool, generator=seeded(7))  # the same draws, in the same order
    receivers = partner_pool.hop1_receivers(queries, n_partners=6)
    same_bridge = partner_pool.hop2_sources(queries, n_partners=6)
    other_bridge = partner_pool.interchange_sources(queries, n_partners=6)
    outcomes = set()
    for i, site in enumerate(results.sites):
        for q in range(0, len(queries), 3):
            for test, partners, query_lends in (
                (results.hop1, receivers, True),
                (results.hop2, same_bridge, False),
                (results.interchange, other_bridge, False),
            ):
                for k in partners.exists[q].nonzero()[:2, 0].tolist():
                    partner, query = pool.tokens[partners.rows[q, k]], queries.tokens[q]
                    receiver, source = (partner, query) if query_lends else (query, partner)
                    naive = answer_with_hooks(noisy_circuit, site, receiver, source) == int(partners.wanted[q, k])
                    assert naive == bool(test.passed[i, q, k]), (site, q, k)
                    outcomes.add(naive)
    assert outcomes == {True, False}, "the comparison must see both outcomes"


def test_query_order_does_not_matter(noisy_circuit, small_task):
    """Each query's rates over all its partners do not depend on where it stands in the batch."""
    pool = known_good(noisy_circuit, small_task.splits["train_inferred"])[:60]
    queries = small_task.splits["test_ood"][:12]
    order = torch.randperm(12, generator=seeded(2))
    everyone = {"sites": [AT_R1], "n_partners": len(pool)}
    plain = causal_tests(noisy_circuit, queries, pool, generator=seeded(1), **everyone)
    shuffled = causal_tests(noisy_circuit, queries[order], pool, generator=seeded(9), **everyone)
    for name in ("hop1", "hop2", "interchange"):
        assert torch.equal(getattr(plain, name).passed.sum(-1)[:, order], getattr(shuffled, name).passed.sum(-1)), name


def test_batch_size_does_not_matter(noisy_circuit, noisy_results):
    pool, queries, results = noisy_results
    small = causal_tests(noisy_circuit, queries, pool, sites=results.sites, generator=seeded(7), batch_size=17)
    for name in ("hop1", "hop2", "interchange"):
        assert torch.equal(getattr(small, name).passed, getattr(results, name).passed)


def test_controls_of_an_exact_circuit(small_task):
    """An unrelated query's state gives the wanted answer by chance alone; another bridge seldom leads to t."""
    net = fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab)
    pool = known_good(net, small_task.splits["train_inferred"])
    results = causal_tests(net, small_task.splits["test_ood"], pool, sites=[AT_R1], generator=seeded())
    assert results.mediated.all()
    chance = 1 / small_task.n_entities
    assert float(results.hop1.control_rate) == pytest.approx(chance, abs=0.05)
    assert float(results.hop2.control_rate) == 0.0  # interchange partners always want another answer


def test_relabelling_entities_changes_nothing(small_task):
    """The circuit over permuted entity names passes and fails exactly where the original does."""
    from dataclasses import replace

    order = torch.randperm(small_task.n_entities, generator=seeded(4))
    names = torch.cat([order, torch.arange(small_task.n_entities, small_task.d_vocab)])
    id_facts = small_task.facts[~small_task.is_ood]

    def relabelled(q):
        return replace(
            q,
            tokens=names[q.tokens],
            answer=names[q.answer],
            intermediates={"bridge": names[q.intermediates["bridge"]]},
        )

    def mediated(rename):
        net = fact_table_read_twice(rename(small_task.facts), second_read=rename(id_facts), d_vocab=small_task.d_vocab)
        recast = relabelled if rename is not identity else identity
        training, queries = recast(small_task.splits["train_inferred"]), recast(small_task.splits["hop2_ood"])
        pool = known_good(net, training)
        results = causal_tests(net, queries, pool, sites=[AT_R1], generator=seeded(), n_partners=20)
        return results.mediated, results.hop1.majority, results.hop2.majority

    def identity(x):
        return x

    def rename_facts(facts):
        return names[facts]

    for plain, renamed in zip(mediated(identity), mediated(rename_facts), strict=True):
        assert torch.equal(plain, renamed)


def test_a_random_net_passes_at_chance(small_task):
    config = SharedTransformerConfig(
        layer_map=(0, 0, 0), d_model=24, n_heads=3, d_mlp=40, d_vocab=small_task.d_vocab, n_ctx=3
    )
    net = build_net(config)
    pool = small_task.splits["train_inferred"]  # nothing is known-good; the tests must still run, and fail
    located = locate_sites(net, pool[:100], pool, generator=seeded())
    assert not located.found
    results = causal_tests(net, small_task.splits["test_ood"], pool, sites=located.sites, generator=seeded())
    assert not results.mediated.any()
    assert float(results.hop1.rate[0]) < 0.15


def test_majority_and_rate_by_hand():
    """Three queries: 3 of 4, 2 of 4 (a tie is no majority), and 2 of 2 (too few partners)."""
    exists = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    passed = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0]]]).bool()
    test = CausalTest(passed=passed, exists=exists, control=torch.zeros_like(passed), control_exists=exists)
    assert test.testable.tolist() == [True, True, False]
    assert test.majority.tolist() == [[True, False, False]]
    assert test.rate.tolist() == pytest.approx([7 / 10])
    assert test.control_rate.tolist() == [0.0]


def test_atomic_queries_are_refused(small_task):
    net = fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab)
    with pytest.raises(ValueError, match="need two-hop queries with a 'bridge' intermediate"):
        causal_tests(
            net,
            small_task.splits["atomic_id"],
            small_task.splits["train_inferred"],
            sites=[AT_R1],
            generator=seeded(),
        )


def test_the_placebo_moves_each_position_as_far_as_the_source_lies_and_elsewhere():
    receiver, source = (torch.randn(50, 3, 16, generator=seeded(seed)) for seed in (1, 2))
    moved = displaced_states(receiver, source, generator=seeded(3)) - receiver
    meant = source - receiver
    assert torch.allclose(moved.norm(dim=-1), meant.norm(dim=-1), rtol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(moved, meant, dim=-1)
    assert abs(float(cosine.mean())) < 0.1 and float(cosine.max()) < 0.95
    assert torch.equal(moved, displaced_states(receiver, source, generator=seeded(3)) - receiver)
