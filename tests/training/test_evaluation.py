"""Scores of splits: every query asked once, and read as often as it stands in a split."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from circuit_lab.nets import build_net
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.training import parse_recipe, split_scores
from circuit_lab.training.evaluation import evaluated_queries


@pytest.fixture(params=["causal", "bidirectional"])
def subject(tables, request):
    """A net with random weights in float64, and its task."""
    tables["net"]["attention_dir"] = request.param
    recipe = parse_recipe(tables, source="a test")
    task = build_task(recipe.task)
    sizes = {"d_vocab": task.d_vocab, "d_vocab_out": task.d_vocab_out, "n_ctx": task.n_ctx}
    return build_net(recipe.net_config(**sizes).model_copy(update={"init_std": 0.5})).double(), task


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [7, 4096])
def test_scores_equal_those_of_each_split_alone(subject, batch_size):
    net, task = subject
    found = split_scores(net, task, loss_dtype=torch.float64, batch_size=batch_size)
    assert set(found) == {"training", *task.splits}
    for name, queries in {"training": task.training, **task.splits}.items():
        logits = net(queries.tokens, answer_only=True, answer_position=queries.answer_position)
        assert found[name].n == len(queries)
        assert found[name].accuracy == pytest.approx(float((logits.argmax(1) == queries.answer).double().mean()))
        assert found[name].loss == pytest.approx(float(F.cross_entropy(logits, queries.answer)), abs=1e-9)
        assert found[name].collapsed == 0.0


def test_queries_of_several_splits_are_asked_once(subject):
    _, task = subject
    asked = evaluated_queries(task)
    rows = [tuple(row) for row in torch.column_stack([asked.tokens, asked.answer_position, asked.answer]).tolist()]
    assert len(rows) == len(set(rows)) < sum(len(queries) for queries in (task.training, *task.splits.values()))
    for name, place in asked.rows.items():
        queries = task.training if name == "training" else task.splits[name]
        assert torch.equal(asked.tokens[place], queries.tokens)
        assert torch.equal(asked.answer[place], queries.answer)
        assert torch.equal(asked.answer_position[place], queries.answer_position)


def test_each_task_has_its_own_queries_and_lets_go_of_them():
    config = ModularConfig(p=5, n_train=10, labels="random", label_seed=1)
    first, second = build_task(config), build_task(config.model_copy(update={"label_seed": 2}))
    assert evaluated_queries(first) is evaluated_queries(first)
    for task in (first, second):
        asked = evaluated_queries(task)
        assert torch.equal(asked.answer[asked.rows["training"]], task.training.answer)
    queries = weakref.ref(evaluated_queries(first))
    del first, task, asked
    gc.collect()
    assert queries() is None


def test_a_hook_sees_whole_queries_and_changes_nothing(subject):
    net, task = subject
    scores, shapes = split_scores(net, task), []
    net.blocks[0].hook_resid_post.add_hook(lambda value, **_: shapes.append(value.shape[1:]))
    watched = split_scores(net, task)
    net.reset_hooks()
    assert {tuple(shape) for shape in shapes} == {(task.n_ctx, net.cfg.d_model)}
    for name, score in scores.items():
        assert watched[name].loss == pytest.approx(score.loss, abs=1e-6)


def test_a_task_without_queries_has_no_scores(subject):
    net, task = subject
    assert split_scores(net, replace(task, training=task.training[:0], splits={"none": task.training[:0]})) == {}


@pytest.mark.parametrize("is_training", [True, False])
def test_a_net_is_asked_in_eval_mode_and_left_in_its_own(recipe, is_training):
    task = build_task(recipe.task)
    net = build_net(recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx))
    net.train(is_training)
    modes = []
    net.unembed.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    split_scores(net, task)
    assert set(modes) == {False}
    assert {module.training for module in net.modules()} == {is_training}


def test_what_is_kept_of_a_task_serves_other_nets_and_batches(subject):
    net, task = subject
    other = build_net(net.cfg.model_copy(update={"init_seed": 1})).double()
    found = {(each, size): split_scores(each, task, batch_size=size) for each in (net, other) for size in (7, 30, 7)}
    for each in (net, other):
        for name, score in found[each, 7].items():
            assert found[each, 30][name].loss == pytest.approx(score.loss, abs=1e-6)
            assert found[net, 7][name].loss != pytest.approx(found[other, 7][name].loss, abs=1e-6)
