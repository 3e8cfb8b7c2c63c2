"""One step at a time: the plain recipe is plain torch; what is computed once, batches, and the published warm-up."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from circuit_lab.nets import build_net
from circuit_lab.tasks import build_task
from circuit_lab.training import parse_recipe
from circuit_lab.training.batches import STEPS_PER_CHUNK, BatchStream
from circuit_lab.training.learner import Learner
from circuit_lab.training.optimizer import learning_rate
from circuit_lab.training.recipe import OptimizerRecipe


def plain_torch(recipe, n_steps):
    """The recipe's weights after a loop on torch and nothing of this package's training but its batches."""
    task = build_task(recipe.task)
    net = build_net(recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx)).train()
    net.to(getattr(torch, recipe.training.dtype))
    matrices = [weight for name, weight in net.named_parameters() if ".W_" in name]
    others = [weight for name, weight in net.named_parameters() if ".W_" not in name]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, fused=True)
    batches = BatchStream(seed=5, n_items=len(task.training), batch_size=16)
    for step in range(n_steps):
        batch = task.training[batches.rows(step)]
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1.0, (step + 1) / 7)
        logits = net(batch.tokens, answer_only=True, answer_position=batch.answer_position)
        optimizer.zero_grad()
        F.cross_entropy(logits, batch.answer).backward()
        clip_grad_norm_(net.parameters(), 1.8)
        optimizer.step()
    return dict(net.named_parameters())


def learner_of(recipe):
    return Learner(recipe, build_task(recipe.task), torch.device("cpu"), None)


@pytest.mark.parametrize("attention_dir", ["bidirectional", "causal"])
def test_a_recipe_without_options_takes_the_steps_of_plain_torch(tables, attention_dir):
    """Up to what AdamW makes of rounding where gradients vanish."""
    tables["net"]["attention_dir"], tables["training"]["dtype"] = attention_dir, "float64"
    recipe = parse_recipe(tables, source="a test")
    learner = learner_of(recipe)
    assert (learner.prefix_tree is None) == (attention_dir == "bidirectional"), "whose states hang on the whole query"
    for step in range(12):
        learner.step(step)
    for name, weight in plain_torch(recipe, 12).items():
        torch.testing.assert_close(learner.net.get_parameter(name), weight, rtol=0, atol=1e-8)
    assert learner.net.training and learner.average is None


def test_a_hook_sees_whole_batches_and_changes_nothing(tables):
    tables["training"]["dtype"] = "float64"
    shapes, losses = [], []
    for watched in (False, True):
        learner = learner_of(parse_recipe(tables, source="a test"))
        if watched:
            learner.net.blocks[0].hook_resid_post.add_hook(lambda value, **_: shapes.append(tuple(value.shape)))
        losses.append([float(learner.step(step)) for step in range(5)])
    assert set(shapes) == {(16, 3, learner.net.cfg.d_model)}
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


@pytest.mark.parametrize("setting", [{"compile": True}, {"precision": "bf16"}, {"batch_size": "full"}])
def test_prefixes_are_shared_where_that_is_precise_and_faster(tables, recipe, setting):
    assert learner_of(recipe).prefix_tree is not None
    tables["training"] |= setting
    is_shared = learner_of(parse_recipe(tables, source="a test")).prefix_tree is not None
    assert is_shared == ("compile" in setting)


def test_options_at_their_defaults_are_no_options(tables, recipe):
    tables["training"] |= {"loss": "cross_entropy", "ema_decay": 0.0, "precision": "float32"}
    tables["training"] |= {"compile": False, "cuda_graphs": False}
    assert parse_recipe(tables, source="a test") == recipe
    assert "only" not in recipe.model_dump(mode="json", exclude_none=True)["optimizer"]


def test_a_chunk_of_rows_goes_to_the_device_in_one_piece():
    stream = BatchStream(seed=0, n_items=1000, batch_size=4)
    first, second = stream.rows(0), stream.rows(1)
    assert second.data_ptr() - first.data_ptr() == 4 * 8  # views of one tensor of long numbers
    elsewhere = BatchStream(seed=0, n_items=1000, batch_size=4, device=torch.device("meta"))
    assert {elsewhere.rows(step).device.type for step in (0, 1, STEPS_PER_CHUNK)} == {"meta"}


@pytest.mark.parametrize("step", [1, 2, 1999, 2000, 2001, 1_280_000])
def test_the_published_warm_up(step):
    """[He]'s released code counts steps from 1: rate * step / 2000 up to 2000, then the rate, as its cosine ends at the
    full rate (lr_min_ratio = 1)."""
    recipe = OptimizerRecipe(learning_rate=4e-5, warmup_steps=2000)
    assert learning_rate(recipe, step - 1) == pytest.approx(4e-5 * min(step / 2000, 1.0))
