"""The type of the loss where it matters: a net so sure of its answers that float32 sees a loss of exactly 0.

`test_full_batch.py` has the ordinary cases; here the two types part, in the steps taken and in what is logged.
"""

import math
from dataclasses import replace

import pytest
import tomli_w
import torch
from cut_runs import cut_at
from small_runs import FULL_BATCH
from torch.nn import functional as F

from circuit_lab.nets import build_net
from circuit_lab.tasks import build_task
from circuit_lab.training import (
    load_checkpoint,
    load_recipe,
    parse_recipe,
    read_metrics,
    save_checkpoint,
    split_scores,
    train,
)

TABLES = FULL_BATCH | {
    # eps is far below the gradients of a loss of 1e-9, which the usual 1e-8 would hide.
    "optimizer": {
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "eps": 1e-20,
        "warmup_steps": 0,
        "max_gradient_norm": 0.0,
    },
}
MARGIN = 20.0
"""Nats by which the least sure training item is right: e^-20 is lost beside 1 in float32 and kept in float64."""


def recipe_with(*, parent=None, **training):
    tables = TABLES | {"training": TABLES["training"] | training}
    return parse_recipe(tables | ({} if parent is None else {"parent": {"checkpoint": str(parent)}}), source="a test")


def weights_of(run):
    return load_checkpoint(run.checkpoint).net.unique_state_dict()


def margins(net, queries):
    """How far each right answer's logit is ahead of the next, in nats."""
    with torch.no_grad():
        logits = net(queries.tokens)[:, 2].double()
    right = logits.gather(1, queries.answer[:, None]).squeeze(1)
    return right - logits.scatter(1, queries.answer[:, None], -math.inf).amax(1)


@pytest.fixture(scope="module")
def sure_net(tmp_path_factory):
    """A net that knows its 20 training pairs, its unembedding scaled until the least sure leads by `MARGIN`."""
    folder = tmp_path_factory.mktemp("sure")
    tables = TABLES | {"optimizer": TABLES["optimizer"] | {"learning_rate": 1e-2}}
    tables |= {"training": {"n_steps": 200, "batch_size": "full"}}
    learnt = load_checkpoint(train(parse_recipe(tables, source="a test"), folder / "run", progress=False).checkpoint)
    least = float(margins(learnt.net, learnt.task.training).min())
    assert least > 0, "the net must know its training pairs"
    with torch.no_grad():
        for name, weight in learnt.net.named_parameters():
            if name.startswith("unembed."):
                weight.mul_(MARGIN / least)
    return save_checkpoint(folder / "sure.safetensors", net=learnt.net, task=learnt.task, step=200, metrics={})


def steps_by_hand(checkpoint, *, n_steps, loss_dtype):
    """AdamW as torch has it, on the mean loss over all training items, taken in a type."""
    parent = load_checkpoint(checkpoint)
    items = parent.task.training
    optimizer = torch.optim.AdamW(parent.net.parameters(), lr=1e-3, weight_decay=0.0, eps=1e-20, fused=True)
    for _ in range(n_steps):
        logits = parent.net(items.tokens, answer_only=True, answer_position=items.answer_position).to(loss_dtype)
        loss = -logits.log_softmax(1)[torch.arange(20), items.answer].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return parent.net.unique_state_dict()


def largest_difference(some, others):
    return max(float((some[name] - others[name]).detach().abs().max()) for name in some)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_steps_of_a_collapsed_net_are_those_of_the_type_asked_for(sure_net, tmp_path, dtype):
    """In float32 no right answer is pushed up any more, so that the two types go different ways from step 1."""
    run = train(recipe_with(parent=sure_net, n_steps=3, loss_dtype=dtype), tmp_path / "run", progress=False)
    by_hand = {
        name: steps_by_hand(sure_net, n_steps=3, loss_dtype=getattr(torch, name)) for name in ("float32", "float64")
    }
    other = {"float32": "float64", "float64": "float32"}[dtype]
    assert largest_difference(weights_of(run), by_hand[dtype]) < 1e-6
    assert largest_difference(weights_of(run), by_hand[other]) > 1e-3  # a step of AdamW is about the rate, 1e-3


def test_what_is_logged_of_a_collapsed_net_is_of_the_type_asked_for(sure_net, tmp_path):
    """The training items have all collapsed in float32; the held-out pairs, which the net gets wrong, have not."""
    logged = {}
    for dtype in ("float32", "float64"):
        run = train(recipe_with(parent=sure_net, n_steps=1, loss_dtype=dtype), tmp_path / dtype, progress=False)
        logged[dtype] = read_metrics(run.run)[0]
    net, task = load_checkpoint(sure_net).net, load_checkpoint(sure_net).task
    assert split_scores(net, task)["test"].collapsed < 1
    assert (logged["float32"]["softmax_collapse"], logged["float32"]["loss/training"]) == (1.0, 0.0)
    assert logged["float64"]["softmax_collapse"] < 1
    logits = net(task.training.tokens)[:, 2].double()
    assert logged["float64"]["loss/training"] == pytest.approx(
        F.cross_entropy(logits, task.training.answer).item(), rel=1e-4
    )
    assert logged["float64"]["loss/training"] > 1e-11
    assert [logged[dtype]["loss_dtype"] for dtype in logged] == ["float32", "float64"]


@pytest.mark.parametrize(("margin", "collapsed"), [(20.0, 0.0), (30.0, 0.0), (40.0, 1.0)])
def test_a_small_loss_has_not_collapsed_and_is_that_of_the_closed_form(margin, collapsed):
    """A net silenced but for its output bias: one answer of seven leads by the margin, the loss is log(1 + 6 e^-m)."""
    config = recipe_with().net_config(d_vocab=8, d_vocab_out=7, n_ctx=3).model_copy(update={"unembed_bias": True})
    net, task = build_net(config), build_task(recipe_with().task)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        net.unembed.b_U[3] = margin
    threes = task.pairs[task.pairs.answer == 3]
    score = split_scores(net, replace(task, training=threes, splits={}), loss_dtype=torch.float64)["training"]
    assert score.collapsed == collapsed
    # 1 + 6 e^-30 keeps 3 digits of 6 e^-30 in float64; of 6 e^-40 it keeps none.
    expected = 0.0 if collapsed else math.log1p(6 * math.exp(-margin))
    assert score.loss == pytest.approx(expected, rel=1e-3, abs=0)


def test_full_batches_end_with_the_same_weights_whatever_the_seed_and_drawn_ones_do_not(tmp_path):
    def weights_hash(seed, batch_size):
        recipe = recipe_with(seed=seed, batch_size=batch_size, n_steps=5)
        run = train(recipe, tmp_path / f"{seed}-{batch_size}", progress=False)
        return load_checkpoint(run.checkpoint).weights_hash

    assert weights_hash(0, "full") == weights_hash(1, "full")
    assert len({weights_hash(0, "full"), weights_hash(0, 20), weights_hash(1, 20)}) == 3


@pytest.mark.parametrize(("stop", "resumed_at"), [(5, 0), (9, 9), (13, 9), (39, 36)])
def test_a_full_batch_run_cut_off_anywhere_ends_with_the_same_bytes(tmp_path, stop, resumed_at):
    whole = train(recipe_with(), tmp_path / "whole", progress=False)
    with cut_at(stop):
        train(recipe_with(), tmp_path / "cut", progress=False)
    resumed = train(recipe_with(), tmp_path / "cut", progress=False)
    assert resumed.resumed_at == resumed_at
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()
    assert (tmp_path / "cut" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("size", ["half", "Full", 0, -3, 2.5, True])
def test_a_bad_batch_size_is_refused_in_one_line_with_its_value(size):
    with pytest.raises(ValueError, match="^recipe a test: training.batch_size: ") as caught:
        recipe_with(batch_size=size)
    message = str(caught.value)
    assert f"(got {size!r})" in message and "\n" not in message
    assert "literal[" not in message and "constrained-" not in message


def test_full_can_be_asked_for_without_quotes_on_the_command_line(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(TABLES | {"optimizer": {}, "training": {"n_steps": 3}}))
    assert load_recipe(path).training.batch_size == 128
    assert load_recipe(path, ["training.batch_size=full"]).training.batch_size == "full"
