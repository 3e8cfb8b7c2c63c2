"""Recursive nets in the loop: what a step differentiates, exact resumption, and what a child takes from its parent."""

import pytest
import torch
from cut_runs import cut_at
from torch.nn import functional as F

from circuit_lab.nets import build_net
from circuit_lab.tasks import build_task
from circuit_lab.training import load_checkpoint, parse_recipe, read_metrics, train
from circuit_lab.training.learner import Learner

SIZES = {"kind": "recursive_transformer", "n_blocks": 1, "h_cycles": 2, "l_cycles": 2, "d_model": 12}
SHORT = {
    "training": {"n_steps": 14, "batch_size": 8, "resume_every": 4},
    "evaluation": {"every": 7},
    "checkpoints": {"every": 14},
}
NETS = {
    "last cycle": SIZES | {"n_blocks": 2, "n_heads": 3, "positions": "rotary", "gradient": "last_h_cycle"},
    "all cycles": SIZES | {"n_heads": 3, "positions": "learned", "n_prefix": 2, "gradient": "all"},
    "position MLP": SIZES | {"token_mixing": "position_mlp", "n_prefix": 1},
}
STREAMS = ("z_L_init", "z_H_init")


def recipe_with(tables, name, **changes):
    slots = {"task": tables["task"] | {"answer_slots": {"d_vocab": 14, "n_ctx": 5}}}
    return parse_recipe(tables | SHORT | slots | {"net": NETS[name]} | changes, source="a test")


def trained_by_hand(recipe, n_steps):
    """The net's weights after a loop on nothing but torch: all items at once, no clipping."""
    task = build_task(recipe.task)
    net = build_net(recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx)).train()
    decayed = list(net.parameters())  # a recursive net has matrices only
    optimizer = torch.optim.AdamW(decayed, lr=3e-3, weight_decay=0.5)
    for _ in range(n_steps):
        optimizer.zero_grad()
        logits = net(task.training.tokens)[torch.arange(len(task.training)), task.training.answer_position]
        F.cross_entropy(logits, task.training.answer).backward()
        optimizer.step()
    return net.unique_state_dict()


@pytest.mark.parametrize("net", NETS)
def test_equals_a_plain_loop(tables, tmp_path, net):
    optimizer = {"learning_rate": 3e-3, "weight_decay": 0.5, "warmup_steps": 0, "max_gradient_norm": 0.0}
    recipe = recipe_with(tables, net, training={"n_steps": 3, "batch_size": "full"}, optimizer=optimizer)
    run = train(recipe, tmp_path / "run", progress=False, device="cpu")
    found, expected = load_checkpoint(run.checkpoint).net.unique_state_dict(), trained_by_hand(recipe, 3)
    assert found.keys() == expected.keys() and set(STREAMS) <= found.keys()
    for name, weight in found.items():
        assert torch.allclose(weight, expected[name], atol=2e-5), name
    assert all(torch.equal(found[name], expected[name]) for name in STREAMS)


def test_the_gradient_of_all_cycles_is_another(tables):
    gradients = {}
    for gradient in ("last_h_cycle", "all"):
        recipe = recipe_with(tables, "last cycle", net=NETS["last cycle"] | {"gradient": gradient})
        learner = Learner(recipe, build_task(recipe.task), torch.device("cpu"), None)
        learner.step(0)
        gradients[gradient] = learner.optimizer.by_name([v.grad for v in learner.optimizer.vectors])["embed.W_E"]
    assert not torch.allclose(gradients["last_h_cycle"], gradients["all"], rtol=0.01)


@pytest.mark.parametrize("net", ["last cycle", *(pytest.param(n, marks=pytest.mark.slow) for n in [*NETS][1:])])
def test_a_cut_run_ends_with_the_same_bytes(tables, tmp_path, net):
    recipe = recipe_with(tables, net)
    whole = train(recipe, tmp_path / "whole", progress=False)
    with cut_at(10):
        train(recipe, tmp_path / "cut", progress=False)
    resumed = train(recipe, tmp_path / "cut", progress=False)
    assert resumed.resumed_at == 8
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert (resumed.run / "metrics.jsonl").read_bytes() == (whole.run / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_child_runs_on_its_parents_initial_streams_even_after_an_interruption(tables, tmp_path):
    """Its own seed would draw others, and a resume state holds no streams, for they are not trained."""
    parent = train(recipe_with(tables, "last cycle"), tmp_path / "parent", progress=False)
    other_seed = {"net": NETS["last cycle"] | {"init_seed": 7}, "parent": {"checkpoint": str(parent.run)}}
    recipe = recipe_with(tables, "last cycle", **other_seed)
    child = train(recipe, tmp_path / "child", progress=False)
    theirs, its = (load_checkpoint(run.checkpoint).net.unique_state_dict() for run in (parent, child))
    fresh = build_net(load_checkpoint(child.checkpoint).net.cfg).unique_state_dict()
    for name in STREAMS:
        assert torch.equal(its[name], theirs[name]) and not torch.equal(its[name], fresh[name])
    first, last = read_metrics(child.run)[0], read_metrics(parent.run)[-1]
    assert {k: v for k, v in first.items() if "/" in k} == {k: v for k, v in last.items() if "/" in k}
    with cut_at(11):
        train(recipe, tmp_path / "cut", progress=False)
    resumed = train(recipe, tmp_path / "cut", progress=False)
    assert resumed.resumed_at == 8
    assert resumed.checkpoint.read_bytes() == child.checkpoint.read_bytes()
