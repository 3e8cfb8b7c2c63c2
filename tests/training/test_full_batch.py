"""Training on all pairs at once, with the loss in float64: against a naive loop, and what is logged."""

import json

import pytest
import torch
from small_runs import FULL_BATCH

from circuit_lab.nets import build_net
from circuit_lab.tasks import build_task
from circuit_lab.training import parse_recipe, read_metrics, split_scores, train
from circuit_lab.training.learner import Learner

TABLES = FULL_BATCH | {
    "optimizer": {"weight_decay": 1.0, "betas": [0.9, 0.98], "warmup_steps": 0, "max_gradient_norm": 0.0},
}


def recipe_with(**training):
    return parse_recipe(TABLES | {"training": TABLES["training"] | training}, source="a test")


def test_equals_a_naive_loop_over_all_pairs(tmp_path):
    recipe = recipe_with(n_steps=25)
    run = train(recipe, tmp_path / "run", progress=False)
    task = build_task(recipe.task)
    net = build_net(recipe.net_config(d_vocab=8, d_vocab_out=7, n_ctx=3))
    decayed = [w for name, w in net.named_parameters() if ".W_" in name]
    others = [w for name, w in net.named_parameters() if ".W_" not in name]
    groups = [{"params": decayed, "weight_decay": 1.0}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98))
    for _ in range(25):
        logits = net(task.training.tokens)[:, 2].double()
        loss = -logits.log_softmax(1)[torch.arange(20), task.training.answer].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    final = split_scores(net, task, loss_dtype=torch.float64)
    logged = read_metrics(run.run)[-1]
    for split, score in final.items():
        assert logged[f"loss/{split}"] == pytest.approx(score.loss, rel=1e-4)


def test_a_hook_sees_whole_batches_and_changes_nothing():
    recipe, shapes, weights = recipe_with(n_steps=25), [], []
    for watched in (False, True):
        learner = Learner(recipe, build_task(recipe.task), torch.device("cpu"), None)
        assert learner.inputs is not None
        if watched:
            learner.net.blocks[0].hook_resid_post.add_hook(lambda value, **_: shapes.append(tuple(value.shape)))
        for step in range(5):
            learner.step(step)
        weights.append([weight.detach() for weight in learner.net.parameters()])
    assert set(shapes) == {(20, 3, 12)}
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_inputs_are_looked_up_where_that_saves_and_is_precise_enough():
    def inputs_of(**tables):
        recipe = parse_recipe(TABLES | tables, source="a test")
        return Learner(recipe, build_task(recipe.task), torch.device("cpu"), None).inputs

    assert inputs_of() is not None
    assert inputs_of(training=TABLES["training"] | {"precision": "bf16"}) is None
    assert inputs_of(training=TABLES["training"] | {"batch_size": 16}) is None
    assert inputs_of(net=TABLES["net"] | {"layer_map": [0, 0]}) is None


def test_a_full_batch_needs_no_seed(tmp_path):
    runs = [train(recipe_with(seed=seed), tmp_path / str(seed), progress=False) for seed in (0, 1)]
    first, second = (read_metrics(run.run)[-1]["loss/test"] for run in runs)
    assert first == second


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path):
    whole = train(recipe_with(), tmp_path / "whole", progress=False)
    train(recipe_with(n_steps=13), tmp_path / "parts", progress=False)
    parts = train(recipe_with(), tmp_path / "parts", progress=False)
    assert parts.resumed_at == 13
    assert parts.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


@pytest.mark.parametrize(("margin", "float32", "float64"), [(5.0, 0.0, 0.0), (20.0, 1.0, 0.0), (40.0, 1.0, 1.0)])
def test_a_sample_has_collapsed_when_its_loss_is_zero_in_its_type(margin, float32, float64):
    """The net is silenced but for the output bias: every right answer leads by exactly the margin."""
    recipe = recipe_with()
    task = build_task(recipe.task)
    net = build_net(recipe.net_config(d_vocab=8, d_vocab_out=7, n_ctx=3).model_copy(update={"unembed_bias": True}))
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        net.unembed.b_U[3] = margin
    threes = {"three": task.pairs[task.pairs.answer == 3]}
    from dataclasses import replace

    only_threes = replace(task, training=threes["three"], splits=threes)
    for dtype, collapsed in ((torch.float32, float32), (torch.float64, float64)):
        assert split_scores(net, only_threes, loss_dtype=dtype)["training"].collapsed == collapsed


def test_the_metrics_name_the_losss_type_and_the_collapsed_share(tmp_path):
    run = train(recipe_with(), tmp_path / "run", progress=False)
    lines = [json.loads(line) for line in (run.run / "metrics.jsonl").read_text().splitlines()]
    assert {line["loss_dtype"] for line in lines} == {"float64"}
    assert all(line["softmax_collapse"] == 0 for line in lines)
    assert {"accuracy/train", "accuracy/test", "accuracy/test_unmirrored"} <= lines[-1].keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": "half"}, "training.batch_size: .* 'full'"),
        ({"batch_size": 0}, "training.batch_size: .* greater than or equal to 1"),
        ({"loss_dtype": "float16"}, "training.loss_dtype: .* 'float32' or 'float64'"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        recipe_with(**settings)
