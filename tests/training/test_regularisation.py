"""Penalties in the loss, a norm that does not change, and a temperature: each against a plain loop."""

import pytest
import torch
from cut_runs import cut_at
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from circuit_lab.nets import build_net
from circuit_lab.tasks import build_task
from circuit_lab.training import load_checkpoint, parse_recipe, read_metrics, split_scores, train
from circuit_lab.training.batches import BatchStream
from circuit_lab.training.learner import Learner


def recipe_with(tables, *, training=None, **optimizer):
    tables["optimizer"] |= {"weight_decay": 0.0, "warmup_steps": 0} | optimizer
    tables["training"] |= training or {}
    return parse_recipe(tables, source="a test")


def learnt(recipe, n_steps=12):
    learner = Learner(recipe, build_task(recipe.task), torch.device("cpu"), None)
    losses = [float(learner.step(step)) for step in range(n_steps)]
    return dict(learner.net.named_parameters()), losses


def plain_loop(recipe, *, loss_of, after_step=lambda _: None, n_steps=12):
    """AdamW of torch without decay on whatever `loss_of(net, logits, answer)` says."""
    task = build_task(recipe.task)
    net = build_net(recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=0.0)
    batches = BatchStream(seed=5, n_items=len(task.training), batch_size=16)
    for step in range(n_steps):
        batch = task.training[batches.rows(step)]
        logits = net(batch.tokens)[torch.arange(16), batch.answer_position]
        optimizer.zero_grad()
        loss_of(net, logits, batch.answer).backward()
        clip_grad_norm_(net.parameters(), 1.8)
        optimizer.step()
        after_step(net)
    return dict(net.named_parameters())


def matrices(net):
    return [weight for name, weight in net.named_parameters() if ".W_" in name]


def assert_close(found, expected):
    for name in (name for name in expected if not name.endswith("b_K")):
        torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("l1", "l2"), [(0.02, 0.0), (0.0, 0.5), (0.01, 0.3)])
def test_penalties_are_part_of_what_is_minimised(tables, l1, l2):
    """Against autograd through the penalty itself; matrices alone pay it."""
    recipe = recipe_with(tables, l1=l1, l2=l2)

    def loss_of(net, logits, answer):
        penalty = sum(l1 * weight.abs().sum() + l2 / 2 * weight.square().sum() for weight in matrices(net))
        return F.cross_entropy(logits, answer) + penalty

    found, _ = learnt(recipe)
    assert_close(found, plain_loop(recipe, loss_of=loss_of))
    without, _ = learnt(recipe_with(tables, l1=0.0, l2=0.0))
    assert any(not torch.allclose(found[name], without[name], atol=1e-3) for name in found)


def test_a_fixed_norm_stays_and_directions_are_those_of_the_plain_step(tables):
    recipe = recipe_with(tables, fixed_norm=True)
    first = Learner(recipe, build_task(recipe.task), torch.device("cpu"), None)
    norm = first.weight_norm()
    seen = [(first.step(step), first.weight_norm())[1] for step in range(12)]
    assert seen == pytest.approx([norm] * 12, rel=1e-6)

    @torch.no_grad()
    def rescale(net):
        now = sum(weight.square().sum() for weight in net.parameters()).sqrt()
        for weight in net.parameters():
            weight.mul_(norm / now)

    expected = plain_loop(recipe, loss_of=lambda _, *pair: F.cross_entropy(*pair), after_step=rescale)
    assert_close(dict(first.net.named_parameters()), expected)


def test_without_it_the_norm_changes(tables):
    free = Learner(recipe_with(tables), build_task(recipe_with(tables).task), torch.device("cpu"), None)
    before = free.weight_norm()
    for step in range(12):
        free.step(step)
    assert free.weight_norm() != pytest.approx(before, rel=1e-4)


def test_a_frozen_part_does_not_count_towards_the_fixed_norm(tables):
    recipe = recipe_with(tables, fixed_norm=True, only=["mlp"])
    learner = Learner(recipe, build_task(recipe.task), torch.device("cpu"), None)
    before = {name: weight.detach().clone() for name, weight in learner.net.named_parameters()}
    for step in range(5):
        learner.step(step)
    norms = []
    for weights in (before, dict(learner.net.named_parameters())):
        norms.append(torch.cat([weights[name].flatten() for name in weights if ".mlp." in name]).norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)
    assert all(
        torch.equal(weight, before[name]) for name, weight in learner.net.named_parameters() if ".mlp." not in name
    )


def test_an_interrupted_run_of_fixed_norm_ends_with_the_same_bytes(tables, tmp_path):
    recipe = recipe_with(tables, fixed_norm=True, l1=0.01)
    whole = train(recipe, tmp_path / "whole", progress=False)
    with cut_at(25):
        train(recipe, tmp_path / "cut", progress=False)
    again = train(recipe, tmp_path / "cut", progress=False)
    assert again.resumed_at == 18
    assert again.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_the_loss_is_of_scaled_logits_in_training_and_in_the_metrics(tables, tmp_path):
    recipe = recipe_with(tables, training={"logit_scale": 3.0})
    found, losses = learnt(recipe)
    expected = plain_loop(recipe, loss_of=lambda _, logits, answer: F.cross_entropy(3 * logits, answer))
    assert_close(found, expected)
    plain, plain_losses = learnt(recipe_with(tables, training={"logit_scale": 1.0}))
    assert losses[0] != plain_losses[0] and not torch.allclose(found["embed.W_E"], plain["embed.W_E"], atol=1e-4)
    run = train(recipe, tmp_path / "run", progress=False)
    checkpoint, logged = load_checkpoint(run.checkpoint), read_metrics(run.run)[-1]
    scaled = split_scores(checkpoint.net, checkpoint.task, logit_scale=3.0)
    assert logged["loss/training"] == pytest.approx(scaled["training"].loss)
    assert logged["loss/training"] != pytest.approx(split_scores(checkpoint.net, checkpoint.task)["training"].loss)


@pytest.mark.parametrize(
    ("optimizer", "training", "message"),
    [
        ({"l1": -1.0}, {}, "optimizer.l1: .* greater than or equal to 0"),
        ({"l2": -1.0}, {}, "optimizer.l2: .* greater than or equal to 0"),
        ({"fixed_norm": 1}, {}, "optimizer.fixed_norm: .* boolean"),
        ({}, {"logit_scale": 0.0}, "training.logit_scale: .* greater than 0"),
    ],
)
def test_mistakes_are_named(tables, optimizer, training, message):
    with pytest.raises(ValueError, match=message):
        recipe_with(tables, training=training, **optimizer)
