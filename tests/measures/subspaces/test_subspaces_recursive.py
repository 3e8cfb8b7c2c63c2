"""Interchange in subspaces and between recursive nets, against hooks in whole passes."""

import pytest
import torch
from recursive_nets import MLP, make_recursive_net

from circuit_lab.measures.hooked_model import answer_logits
from circuit_lab.measures.subspaces.cross_interchange import OWN, cross_interchange
from circuit_lab.measures.subspaces.das import SUBSPACES, DasBudget, bridge_das, fresh_weights
from circuit_lab.measures.subspaces.held_out_pairs import split_by_first_hop

NETS = {"rotary": {"positions": "rotary"}, "position MLP": MLP}


def net_for(task, name):
    """With weights so large that its answers depend on the query."""
    net = make_recursive_net(n_ctx=3, l_cycles=1, d_vocab=task.d_vocab, d_vocab_out=task.d_vocab, **NETS[name])
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(5.0)
    return net


@torch.no_grad()
def answers_with(net, pairs, stage, basis):
    """Whole passes of the bases, with the sources' state of one stream put in at r1, behind two prefix positions."""
    (name,) = (site.hook_name for site in net.lens_sites if site.label == stage)
    _, cache = net.run_with_cache(pairs.source.tokens)

    def put(activation, hook):
        activation = activation.clone()
        activation[:, 3] += (cache[hook.name][:, 3] - activation[:, 3]) @ basis @ basis.T
        return activation

    return answer_logits(net, pairs.base.tokens, pairs.base.answer_position, fwd_hooks=[(name, put)]).argmax(-1)


@pytest.mark.parametrize("name", NETS)
def test_das_interchanges_one_stream(name, small_task):
    net = net_for(small_task, name)
    train, queries = (small_task.splits[split] for split in ("train_inferred", "test_ood"))
    stages = ["H0.L0", "H0.commit", "H1.L0"]
    budget = DasBudget(epochs=1, batch_size=16)
    flags = [parameter.requires_grad for parameter in net.parameters()]
    das = bridge_das(net, train, queries, stages=stages, position="r1", ranks=[2], n_pairs=30, budget=budget)
    pairs = split_by_first_hop(train, queries, n_pairs=30, held_out_share=0.5, seed=0).held_out
    for i, stage in enumerate(stages):
        learnt = das.bases[stage, 2].double()
        torch.testing.assert_close(learnt.T @ learnt, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-5)
        for subspace, basis in (("learnt", learnt), ("full state", torch.eye(12).double())):
            hits = answers_with(net, pairs, stage, basis) == pairs.wanted
            assert torch.equal(das.held_out_hits[i, 0, SUBSPACES.index(subspace)], hits), (stage, subspace)
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
    assert all(parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks for module in net.modules())
    assert net.hook_input.name == "hook_input"


def test_das_moves_the_answers(small_task):
    """The whole state at r1 and rank d_model: answers change, so the hook acts."""
    net = net_for(small_task, "rotary")
    train, queries = (small_task.splits[split] for split in ("train_inferred", "test_ood"))
    pairs = split_by_first_hop(train, queries, n_pairs=200, held_out_share=0.5, seed=0).held_out
    whole, none = (answers_with(net, pairs, "H0.L0", basis.double()) for basis in (torch.eye(12), torch.zeros(12, 1)))
    assert not torch.equal(whole, none)


def test_fresh_weights_are_those_of_another_seed(small_task):
    net = net_for(small_task, "rotary")
    fresh = fresh_weights(net, seed=7)
    assert fresh.cfg.init_seed == 7 and not fresh.training and fresh.dtype == net.dtype
    assert not torch.equal(fresh.z_L_init, net.z_L_init) and not torch.equal(fresh.W_E, net.W_E)


def test_cross_interchange_with_itself_is_its_own_interchange(small_task):
    net = net_for(small_task, "position MLP")
    train, queries = (small_task.splits[split] for split in ("train_inferred", "test_ood"))
    result = cross_interchange(
        net, net, train, queries, stage_a="H0.commit", stage_b="H0.commit", position="r1", n_pairs=60
    )
    pairs = split_by_first_hop(train, queries, n_pairs=60, held_out_share=0.5, seed=0).held_out
    hits = answers_with(net, pairs, "H0.commit", torch.eye(12).double()) == pairs.wanted
    assert torch.equal(result.hits[result.states.index(OWN)], hits)
    assert float(result.explained[result.states.index(OWN)]) == pytest.approx(1.0)
