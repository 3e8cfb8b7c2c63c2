"""Linear probes: on wired circuits whose contents are known, against a naive refit, with their controls."""

import pytest
import torch
from gpt2_bridge import make_bridge, make_prompts
from small_nets import make_net

from circuit_lab.measures.readings.folds import folds_by_fact
from circuit_lab.measures.readings.probes import probe
from circuit_lab.nets import build_net
from circuit_lab.nets.controls.two_hop import fact_table_read_twice, triple_table
from circuit_lab.tasks import TwoHopConfig, build_task, queries_from_tokens


@pytest.fixture(scope="module")
def tiny_task():
    """Twelve entities, eight relations."""
    config = TwoHopConfig(n_entities=12, n_relations=8, out_degree=8, ood_share=0.34, test_id_share=0.15, seed=3)
    return build_task(config)


@pytest.fixture(scope="module")
def circuit(tiny_task):
    return fact_table_read_twice(tiny_task.facts, d_vocab=tiny_task.d_vocab)


@pytest.fixture(scope="module")
def bridge_in_circuit(circuit, tiny_task):
    return probe(circuit, tiny_task.splits["train_inferred"], n_folds=3)


def cell(result, site, position):
    return result.sites.index(site), result.position_names.index(position)


def test_reads_the_bridge_where_the_circuit_writes_it(bridge_in_circuit):
    probes = bridge_in_circuit
    for site in ("resid_post 0", "resid_post 1"):
        here = cell(probes, site, "r1")
        assert probes.accuracy.mean[here] == 1
        assert probes.selectivity_shuffled.low[here] > 0.7
        assert probes.selectivity_untrained.low[here] > 0.7
    for site, position in (("embed", "r1"), ("embed", "h"), ("embed", "r2"), ("resid_post 1", "h")):
        assert probes.accuracy.mean[cell(probes, site, position)] < probes.chance + 0.15
        assert probes.selectivity_untrained.mean[cell(probes, site, position)] < 0.15
    # The second layer copies the bridge to r2, over which the answer is looked up.
    assert probes.accuracy.mean[cell(probes, "resid_post 0", "r2")] < 0.3
    assert probes.accuracy.mean[cell(probes, "resid_post 1", "r2")] > 0.9


def test_an_untrained_net_has_no_bridge(tiny_task):
    net = build_net(make_net(d_vocab=tiny_task.d_vocab, n_ctx=3, layer_map=(0,), init_seed=7).cfg).eval()
    probes = probe(net, tiny_task.splits["train_inferred"], n_folds=2, penalty=1e-2)
    assert probes.accuracy.mean.max() < probes.chance + 0.1
    assert probes.selectivity_shuffled.mean.abs().max() < 0.15
    assert 0 < probes.selectivity_untrained.mean.abs().max() < 0.15  # two untrained nets, not one


def test_a_table_without_a_bridge_has_none(tiny_task):
    queries = tiny_task.splits["train_inferred"]
    triples = torch.cat([queries.tokens, queries.answer[:, None]], dim=1)
    net = triple_table(tiny_task.facts, triples, d_vocab=tiny_task.d_vocab)
    probes = probe(net, queries, target="bridge", n_folds=2, penalty=1e-2)
    assert probes.accuracy.mean[cell(probes, "resid_post 0", "r1")] < 0.3


def test_own_tokens_need_no_training(circuit, tiny_task):
    """The head is read at its own position before any layer, in the untrained net as well: selectivity 0 there."""
    probes = probe(circuit, tiny_task.splits["train_inferred"], target="h", n_folds=2, penalty=1e-2)
    own = cell(probes, "embed", "h")
    assert probes.accuracy.mean[own] == 1 and probes.untrained.mean[own] == 1
    assert probes.selectivity_untrained.mean[own] == 0
    assert probes.selectivity_shuffled.mean[own] > 0.7


def test_shuffled_labels_cannot_be_learnt_across_facts(bridge_in_circuit):
    assert bridge_in_circuit.shuffled.mean.max() < bridge_in_circuit.chance + 0.1


@pytest.mark.parametrize("kind", ["bidirectional post-norm", "bridge"])
def test_agrees_with_a_refit_by_autograd(kind):
    """Each query's class by a plain softmax regression, refitted without its fold with torch's own optimiser."""
    if kind == "bridge":
        model, untrained, d_vocab = make_bridge(), make_bridge(seed=5), 23
    else:
        model, d_vocab = make_net(attention_dir="bidirectional", norm_position="post"), 17
        untrained = None
    tokens = make_prompts(40, n_ctx=4, d_vocab=d_vocab)
    queries = queries_from_tokens(tokens, (tokens[:, 1] >= 8).long() + (tokens[:, 2] >= 12).long())
    penalty = 0.05
    probes = probe(model, queries, target="answer", untrained=untrained, n_folds=2, penalty=penalty)
    assert probes.held_out_by == "query" and probes.n_classes == 3
    folds = folds_by_fact(queries, target="answer", n_folds=2, seed=0)
    _, cache = model.run_with_cache(tokens)
    n_right = 0
    for site, name in (("embed", "blocks.0.hook_resid_pre"), ("resid_post 1", "blocks.1.hook_resid_post")):
        for position in (1, 3):
            states = cache[name][:, position].detach().double()
            for fold in (0, 1):
                inside = folds.fold == fold
                logits = softmax_regression(states[~inside], queries.answer[~inside], states[inside], penalty)
                right = logits.argmax(-1) == queries.answer[inside]
                n_right += int(right.sum())
                assert torch.equal(probes.is_right[probes.sites.index(site), position, inside], right)
    assert 40 < n_right < 120


def softmax_regression(states, labels, test_states, penalty):
    W = torch.zeros(states.shape[1], 3, dtype=states.dtype, requires_grad=True)
    b = torch.zeros(3, dtype=states.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([W, b], max_iter=500, tolerance_grad=1e-9, line_search_fn="strong_wolfe")
    scale = states.var(0, unbiased=False).mean()

    def closure():
        optimizer.zero_grad()
        shift = states.mean(0) @ W + b
        distance = scale * W.square().sum() + shift.square().sum()
        loss = torch.nn.functional.cross_entropy(states @ W + b, labels) + penalty / 2 * distance
        loss.backward()
        return loss

    optimizer.step(closure)
    return (test_states @ W + b).detach()


@pytest.mark.slow
def test_reads_other_queries_than_it_was_fitted_on(circuit, tiny_task):
    train, queries = tiny_task.splits["train_inferred"], tiny_task.splits["test_ood"]
    probes = probe(circuit, queries, train_queries=train, n_folds=2)
    assert probes.n == len(queries) and probes.is_right.shape[-1] == len(queries)
    assert probes.n_facts == len(queries.facts[:, 0].unique())
    assert probes.accuracy.mean[cell(probes, "resid_post 0", "r1")] == 1 - probes.unseen_share


def test_the_queries_read_are_never_fitted_on(circuit, tiny_task):
    """No training query has the bridges of the queries read: none is read right, though other folds have them."""
    train, queries = tiny_task.splits["train_inferred"], tiny_task.splits["test_ood"]
    train = train[train.intermediates["bridge"] < 6]
    queries = queries[queries.intermediates["bridge"] >= 6]
    probes = probe(circuit, queries, train_queries=train, n_folds=2, penalty=1e-2)
    assert probes.unseen_share == 1 and not probes.is_right.any()


@pytest.mark.slow
def test_a_class_with_one_fact_counts_as_wrong(circuit, tiny_task):
    """The fact's queries are never read by a probe that knows its class."""
    queries = tiny_task.splits["train_inferred"]
    bridge = queries.intermediates["bridge"]
    rare = int(bridge[0])
    one_fact = (bridge != rare) | (queries.facts[:, 0] == queries.facts[0, 0])
    queries = queries[one_fact]
    bridge = queries.intermediates["bridge"]
    is_rare = torch.tensor([len(queries.facts[bridge == b, 0].unique()) == 1 for b in bridge])
    assert (bridge == rare)[is_rare].any()
    probes = probe(circuit, queries, n_folds=2)
    here = cell(probes, "resid_post 0", "r1")
    assert probes.unseen_share == pytest.approx(float(is_rare.float().mean()))
    assert not probes.is_right[here][is_rare].any() and probes.is_right[here][~is_rare].all()


def test_queries_without_facts():
    sums = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    queries = queries_from_tokens(sums, sums[:, 0], position_names=("a", "b"))
    net = make_net(n_ctx=2)
    probes = probe(net, queries, target="answer", n_folds=5)
    assert probes.held_out_by == "query" and probes.n_facts == 25
    assert probes.accuracy.mean[cell(probes, "embed", "a")] == 1
    assert probes.accuracy.mean[cell(probes, "embed", "b")] < 0.3


@pytest.mark.slow
def test_batches_and_order_do_not_matter():
    net = make_net()
    tokens = make_prompts(30, n_ctx=4, d_vocab=17)
    queries = queries_from_tokens(tokens, tokens[:, 1] % 3)
    whole = probe(net, queries, target="answer", n_folds=2, penalty=0.1)
    assert torch.equal(
        whole.is_right, probe(net, queries, target="answer", n_folds=2, penalty=0.1, batch_size=3).is_right
    )
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    permuted = probe(net, queries[order], target="answer", n_folds=2, penalty=0.1)
    assert torch.equal(whole.is_right[..., order], permuted.is_right)
    assert 0 < whole.accuracy.mean.mean() < 1


def test_leaves_the_net_and_the_random_state_alone():
    net, tokens = make_net(), make_prompts(20, n_ctx=4, d_vocab=17)
    before = torch.get_rng_state()
    probe(net, queries_from_tokens(tokens, tokens[:, 0] % 2), target="answer", n_folds=2, penalty=0.1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert not any(hook.fwd_hooks for hook in net.hook_dict.values())


def test_frame(bridge_in_circuit):
    probes = bridge_in_circuit
    frame = probes.frame().set_index(["site", "position"])
    row = frame.loc[("resid_post 0", "r1")]
    here = cell(probes, "resid_post 0", "r1")
    assert row.accuracy == pytest.approx(float(probes.is_right[here].float().mean()))
    assert row.low <= row.accuracy <= row.high
    assert row.selectivity_shuffled == pytest.approx(row.accuracy - row.shuffled, abs=1e-6)
    assert row.selectivity_untrained == pytest.approx(row.accuracy - row.untrained, abs=1e-6)
    assert row.selectivity_untrained_low <= row.selectivity_untrained <= row.selectivity_untrained_high
    assert (row.n, row.n_facts, row.n_classes) == (probes.n, probes.n_facts, probes.n_classes)
    assert row.chance == probes.chance and row.held_out_by == "first-hop fact"
    assert len(frame) == 9


def test_bad_input(circuit, tiny_task):
    queries = tiny_task.splits["test_ood"]
    with pytest.raises(ValueError, match="penalty must be positive, or the fit has no optimum, got 0.0"):
        probe(circuit, queries, penalty=0.0)
    with pytest.raises(ValueError, match="0 training queries, 0 to read"):
        probe(circuit, queries[:0])
    with pytest.raises(ValueError, match="a bridge does not know its initial weights; give untrained="):
        probe(make_bridge(), queries)
    with pytest.raises(ValueError, match="untrained must have the model's 3 lens sites, it has 4"):
        probe(circuit, queries, untrained=make_net())
    with pytest.raises(ValueError, match="training mode"):
        probe(circuit, queries, untrained=make_net().train())
    with pytest.raises(ValueError, match="no target 'via'"):
        probe(circuit, queries, target="via")
