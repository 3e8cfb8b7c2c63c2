"""The learnt lens: on wired circuits whose contents are known, against a naive refit, by property."""

import pytest
import torch
from gpt2_bridge import make_bridge, make_prompts
from small_nets import make_net

from circuit_lab.measures.readings.folds import folds_by_fact, pool_queries, shuffled_over_facts
from circuit_lab.measures.readings.learnt_lens import learnt_lens
from circuit_lab.measures.readings.logit_lens import logit_lens, target_tokens
from circuit_lab.measures.readings.softmax_map import SoftmaxHead, fit_softmax_map
from circuit_lab.nets.controls.two_hop import fact_table_read_twice
from circuit_lab.tasks import TwoHopConfig, build_task, concatenate, queries_from_tokens

FAST = {"n_folds": 2, "penalties": (1e-3,)}


@pytest.fixture(scope="module")
def tiny_task():
    """Ten entities, six relations."""
    config = TwoHopConfig(n_entities=10, n_relations=6, out_degree=6, ood_share=0.34, test_id_share=0.15, seed=3)
    return build_task(config)


@pytest.fixture(scope="module")
def circuit(tiny_task):
    return fact_table_read_twice(tiny_task.facts, d_vocab=tiny_task.d_vocab)


@pytest.fixture(scope="module")
def bridge_lens(circuit, tiny_task):
    return learnt_lens(circuit, tiny_task.splits["train_inferred"], tiny_task.splits["test_ood"], **FAST)


def cell(result, site, position):
    return result.sites.index(site), result.position_names.index(position)


def test_reads_what_the_plain_lens_cannot(circuit, tiny_task):
    """At r2 the first layer's attention put r1 into a slot that the unembedding does not read."""
    splits = tiny_task.splits
    lens = learnt_lens(circuit, splits["train_inferred"], splits["test_ood"], target="r1", **FAST)
    here, before = cell(lens, "resid_post 0", "r2"), cell(lens, "embed", "r2")
    same = tiny_task.splits["test_ood"].tokens[:, 1] == tiny_task.splits["test_ood"].tokens[:, 2]
    assert torch.equal(lens.plain_top1.mean[here], same.float().mean())
    assert lens.top1.mean[here] == 1
    assert lens.top1.mean[before] < lens.chance + 0.15 and lens.shuffled_top1.mean[here] < lens.chance + 0.15
    own = cell(lens, "embed", "r1")
    assert lens.top1.mean[own] == lens.plain_top1.mean[own] == 1


@pytest.mark.slow
def test_reads_a_bridge_that_was_no_training_target(circuit, tiny_task):
    """Half of the bridges are left out of training: the lens still reads them."""
    train, queries = tiny_task.splits["train_inferred"], tiny_task.splits["test_ood"]
    known = tiny_task.n_entities // 2
    train = train[train.intermediates["bridge"] < known]
    queries = queries[queries.intermediates["bridge"] >= known]
    lens = learnt_lens(circuit, train, queries, **FAST)
    here = cell(lens, "resid_post 0", "r1")
    assert lens.unseen_share == 1 and lens.plain_top1.mean[here] == 1
    assert lens.top1.mean[here] > 0.9


def test_no_bridge_before_the_circuit_writes_it(bridge_lens):
    lens = bridge_lens
    assert lens.top1.mean[cell(lens, "resid_post 0", "r1")] == 1
    for site, position in (("embed", "r1"), ("embed", "h"), ("resid_post 1", "h")):
        assert lens.top1.mean[cell(lens, site, position)] < lens.chance + 0.15


@pytest.mark.parametrize("kind", ["causal LN", "post-norm bidirectional", "bridge"])
def test_agrees_with_a_refit_by_hand(kind, monkeypatch):
    """Each query's rank, from states by `run_with_cache` and a map refitted without the query's fold."""
    monkeypatch.setattr("circuit_lab.measures.readings.softmax_map._TOLERANCE", 1e-7)
    if kind == "bridge":
        model, d_vocab = make_bridge(), 23
    else:
        post = {"norm_position": "post", "attention_dir": "bidirectional"} if "post" in kind else {}
        model, d_vocab = make_net(d_vocab_out=17, **post), 17
    n_ctx = 4
    tokens = make_prompts(50, n_ctx=n_ctx, d_vocab=d_vocab)
    train, queries = (queries_from_tokens(part, part.sum(1) % 5) for part in tokens.split((38, 12)))
    lens = learnt_lens(model, train, queries, target="answer", n_folds=2, penalties=(1.0,))
    pooled = pool_queries(train, queries)
    folds = folds_by_fact(pooled, target="answer", n_folds=2, seed=0)
    shuffled = shuffled_over_facts(pooled.answer, folds, seed=0)
    _, cache = model.run_with_cache(tokens)
    W_U, b_U = model.W_U.detach(), model.b_U.detach()
    head = SoftmaxHead(U=W_U, c=b_U, prior=torch.eye(12, dtype=W_U.dtype))
    n_on_top = 0
    for site, name in (("embed", "blocks.0.hook_resid_pre"), ("resid_post 1", "blocks.1.hook_resid_post")):
        for position in (1, 3):
            normed = model.ln_final(cache[name])[:, position].detach()

            def rank_of(row, answer, normed=normed):
                others = (folds.fold != folds.fold[row]) & (torch.arange(50) < 38)
                affine = fit_softmax_map(normed[others], answer[others], head=head, penalty=1.0)
                logits = affine(normed[row : row + 1])[0] @ W_U + b_U
                return int((logits >= logits[answer[row]]).sum())

            here = (lens.sites.index(site), position)
            assert lens.rank[here].tolist() == [rank_of(row, pooled.answer) for row in range(38, 50)]
            control = [rank_of(row, shuffled) == 1 for row in range(38, 50)]
            assert float(lens.shuffled_top1.mean[here]) == pytest.approx(sum(control) / 12)
            n_on_top += sum(control)
    assert n_on_top > 0


def test_plain_reading_and_an_infinite_penalty_are_the_logit_lens():
    net = make_net(d_vocab_out=17, unembed_bias=True)
    tokens = make_prompts(60, n_ctx=4, d_vocab=17)
    train, queries = (queries_from_tokens(part, part[:, 0]) for part in tokens.split((40, 20)))
    lens = learnt_lens(net, train, queries, target="1", n_folds=2, penalties=(1.0,))
    plain = logit_lens(net, queries, targets=["1"])
    assert torch.allclose(lens.plain_top1.mean, plain.top1.mean[0])
    assert (lens.rank != plain.rank[0]).any()
    tied = learnt_lens(net, train, queries, target="1", n_folds=2, penalties=(1e9,))
    assert torch.equal(tied.rank, plain.rank[0])
    assert lens.plain_top1.mean[0].max() > 0


@pytest.mark.slow
def test_the_penalty_is_the_one_that_reads_held_out_training_queries_best(tiny_task):
    """At the embedding of r1 nothing can be learnt about the bridge, so the closest to the plain lens wins."""
    task = tiny_task.splits
    net = make_net(d_vocab=tiny_task.d_vocab, d_vocab_out=tiny_task.d_vocab, n_ctx=3, layer_map=(0,))
    penalties = (1e-5, 1.0)
    lens = learnt_lens(net, task["train_inferred"], task["test_id"], n_folds=2, penalties=penalties)
    assert lens.penalty[cell(lens, "embed", "r1")] == 1.0
    own_token = learnt_lens(net, task["train_inferred"], task["test_id"], target="h", n_folds=2, penalties=penalties)
    assert own_token.penalty[cell(own_token, "embed", "h")] == pytest.approx(1e-5)


def test_batches_and_order_do_not_matter(circuit, tiny_task):
    train, queries = tiny_task.splits["train_inferred"][:40], tiny_task.splits["test_ood"][:20]
    double = fact_table_read_twice(tiny_task.facts, d_vocab=tiny_task.d_vocab).to(torch.float64)
    settings = {"target": "h", "n_folds": 2, "penalties": (1.0,)}
    whole = learnt_lens(double, train, queries, **settings)
    assert torch.equal(whole.rank, learnt_lens(double, train, queries, batch_size=3, **settings).rank)
    order = torch.randperm(len(queries), generator=torch.Generator().manual_seed(0))
    assert torch.equal(whole.rank[..., order], learnt_lens(double, train, queries[order], **settings).rank)


def test_leaves_the_net_and_the_random_state_alone():
    net = make_net(d_vocab_out=17)
    tokens = make_prompts(20, n_ctx=4, d_vocab=17)
    queries = queries_from_tokens(tokens, tokens[:, 0])
    before = torch.get_rng_state()
    learnt_lens(net, queries[:15], queries[15:], target="answer", n_folds=2, penalties=(1.0,))
    assert torch.equal(before, torch.get_rng_state())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert not any(hook.fwd_hooks for hook in net.hook_dict.values())


def test_frame_and_counts(bridge_lens, tiny_task):
    train, queries = tiny_task.splits["train_inferred"], tiny_task.splits["test_ood"]
    lens = bridge_lens
    frame = lens.frame().set_index(["site", "position"])
    row = frame.loc[("resid_post 0", "r1")]
    here = cell(lens, "resid_post 0", "r1")
    assert row.top1 == pytest.approx(float((lens.rank[here] == 1).double().mean()))
    assert row.mrr == pytest.approx(float((1 / lens.rank[here]).double().mean()))
    assert row.low <= row.top1 <= row.high and row.mrr_low <= row.mrr <= row.mrr_high
    assert (row.n, row.n_train) == (len(queries), len(train))
    assert row.n_facts == lens.n_facts == len(queries.facts[:, 0].unique())
    assert row.held_out_by == "first-hop fact"
    assert lens.chance == float(target_tokens(queries, "bridge").bincount().max()) / len(queries)
    assert len(frame) == 9


def test_bad_input(circuit, tiny_task):
    train, queries = tiny_task.splits["train_inferred"], tiny_task.splits["test_ood"]
    with pytest.raises(ValueError, match=r"penalties must be positive, at least one, got \(0.0,\)"):
        learnt_lens(circuit, train, queries, penalties=(0.0,))
    with pytest.raises(ValueError, match=r"penalties must be positive, at least one, got \(\)"):
        learnt_lens(circuit, train, queries, penalties=())
    with pytest.raises(ValueError, match="0 training queries"):
        learnt_lens(circuit, train[:0], queries)
    with pytest.raises(ValueError, match="no target 'bridge'"):
        learnt_lens(circuit, train, tiny_task.splits["atomic_id"])
    with pytest.raises(ValueError, match="training mode"):
        learnt_lens(make_net().train(), train, queries)
    net = make_net(d_vocab=tiny_task.d_vocab, d_vocab_out=5, n_ctx=3)
    with pytest.raises(ValueError, match="which has no logit: the unembedding writes tokens 0..4"):
        learnt_lens(net, train, queries)
    same = concatenate([train[:1], train[:1]])
    with pytest.raises(ValueError, match="all training queries are in fold"):
        learnt_lens(circuit, same, queries, n_folds=2, penalties=(1.0,))
