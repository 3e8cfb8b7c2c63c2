"""The two losses: by hand, against naive loops and finite differences, and in a run."""

import math

import pytest
import torch
from torch.nn import functional as F

from circuit_lab.nets import build_net
from circuit_lab.tasks import build_task
from circuit_lab.training import load_checkpoint, parse_recipe, read_metrics, split_scores, train
from circuit_lab.training.losses import LOG_WEIGHTS, answer_loss, log_s


def loss_of(logits, answer, loss, dtype=torch.float64):
    return answer_loss(logits, answer, loss=loss, dtype=dtype, reduction="none")


def test_stablemax_by_hand():
    """s(1) = 2, s(-1) = 1/2, s(0) = 1, s(3) = 4: probabilities 2, 1/2, 1 and 4 of 7.5."""
    logits = torch.tensor([[1.0, -1.0, 0.0, 3.0]])
    found = [float(loss_of(logits, torch.tensor([answer]), "stablemax")) for answer in range(4)]
    assert found == pytest.approx([-math.log(s / 7.5) for s in (2, 0.5, 1, 4)])
    assert float(loss_of(logits, torch.tensor([3]), "cross_entropy")) == pytest.approx(
        -math.log(math.e**3 / (math.e + 1 / math.e + 1 + math.e**3))
    )


def test_stablemax_equals_a_naive_loop():
    generator = torch.Generator().manual_seed(0)
    logits = 30 * torch.randn(50, 13, generator=generator, dtype=torch.float64)
    answer = torch.randint(13, (50,), generator=generator)
    expected = []
    for row, right in zip(logits.tolist(), answer.tolist(), strict=True):
        s = [x + 1 if x >= 0 else 1 / (1 - x) for x in row]
        expected.append(-math.log(s[right] / sum(s)))
    assert torch.allclose(loss_of(logits, answer, "stablemax"), torch.tensor(expected, dtype=torch.float64), atol=1e-12)
    mean = answer_loss(logits, answer, loss="stablemax", dtype=torch.float64, reduction="mean")
    assert float(mean) == pytest.approx(sum(expected) / 50)


@pytest.mark.parametrize("loss", LOG_WEIGHTS)
def test_gradients_are_those_of_finite_differences(loss):
    """At 1, the branch of the negative numbers divides by 0; at large numbers exp overflows."""
    logits = torch.tensor([[1.0, -1.0, 0.5, -40.0], [3.0, 100.0, -7.0, 2.0]], dtype=torch.float64, requires_grad=True)
    answer = torch.tensor([0, 2])
    assert torch.autograd.gradcheck(lambda x: loss_of(x, answer, loss), [logits])


def test_the_slope_of_log_s_is_continuous():
    """1 / (1 + |x|) on both sides of 0 and at 0, in float32, too."""
    x = torch.tensor([[-1.0, -1e-6, -0.0, 0.0, 1e-6, 1.0, 1e30]], requires_grad=True)
    log_s(x).sum().backward()
    assert x.grad[0].tolist() == pytest.approx([0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 1e-30], rel=1e-5)


def test_cross_entropy_is_torchs_bit_by_bit():
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    answer = torch.arange(9) % 5
    for dtype in (torch.float32, torch.float64):
        found = answer_loss(logits, answer, loss="cross_entropy", dtype=dtype, reduction="mean")
        assert torch.equal(found, F.cross_entropy(logits.to(dtype), answer)) and found.dtype == dtype


def silenced_net(recipe, margin):
    """A net that gives answer 3 a logit of the margin, and 0 to all others."""
    task = build_task(recipe.task)
    config = recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx)
    net = build_net(config.model_copy(update={"unembed_bias": True}))
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        net.unembed.b_U[3] = margin
    return net, task


@pytest.mark.parametrize(("margin", "collapsed"), [(20.0, False), (1e6, False), (1e12, True)])
def test_stablemax_collapses_at_logits_of_millions_only(recipe, margin, collapsed):
    """The loss of answer 3 is log(1 + n / (1 + margin)), with n other tokens; softmax is at 0 from 17 on."""
    net, task = silenced_net(recipe, margin)
    right = task.training[task.training.answer == 3]
    n_others = task.d_vocab_out - 1
    world = type(task)(**{**vars(task), "training": right, "splits": {}})
    scores = split_scores(net, world, loss="stablemax")["training"]
    assert scores.collapsed == float(collapsed)
    assert scores.loss == pytest.approx(0.0 if collapsed else math.log1p(n_others / (1 + margin)), rel=0.1, abs=1e-12)
    assert split_scores(net, world)["training"].collapsed == 1.0


def test_a_run_minimises_the_loss_asked_for(tables, tmp_path):
    """One plain step by hand on stablemax, all items at once; the metrics are of that loss, too."""
    tables["training"] = {"n_steps": 1, "batch_size": "full", "loss": "stablemax", "loss_dtype": "float64"}
    tables["optimizer"] = {"warmup_steps": 0, "max_gradient_norm": 0.0, "weight_decay": 0.0, "learning_rate": 1e-3}
    recipe = parse_recipe(tables, source="a test")
    run = train(recipe, tmp_path / "run", progress=False, device="cpu")
    task = build_task(recipe.task)
    items = task.training
    net = build_net(recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx))
    logits = net(items.tokens)[torch.arange(len(items)), items.answer_position].double()
    s = torch.where(logits < 0, 1 / (1 - logits), logits + 1)
    losses = -(s / s.sum(1, keepdim=True)).gather(1, items.answer[:, None]).log()
    losses.mean().backward()
    start = read_metrics(run.run)[0]
    assert start["loss/training"] == pytest.approx(float(losses.detach().mean()), rel=1e-6)
    assert start["loss_name"] == "stablemax"
    trained = dict(load_checkpoint(run.checkpoint).net.named_parameters())
    for name, weight in net.named_parameters():
        # AdamW's first step is the rate times the sign of the gradient, where that is not tiny.
        clear = weight.grad.abs() > 1e-5
        step = (trained[name] - weight)[clear].detach()
        assert torch.allclose(step, -1e-3 * weight.grad[clear].sign(), atol=2e-6), name
