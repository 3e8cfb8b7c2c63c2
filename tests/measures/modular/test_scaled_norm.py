"""Norms at a chosen logit by scaling all weights alike: by hand, by running the scaled net, and what is refused."""

import math

import pytest
import torch

from circuit_lab import reference_model
from circuit_lab.measures import logit_efficiency, scaled_norm, weight_norms
from circuit_lab.measures.modular.scaled_norm import LARGEST_SCALE
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.tasks import ModularConfig, build_task


def linear_net():
    """Logits are those of embedding times unembedding, so they grow with the square of the weights."""
    config = SharedTransformerConfig(
        layer_map=(0,), d_model=8, n_heads=2, d_mlp=8, d_vocab=8, d_vocab_out=7, n_ctx=3, normalization_type=None
    )
    net = build_net(config)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if ".attn." in name or ".mlp." in name:
                weight.zero_()
    return net


@pytest.fixture
def queries():
    return build_task(ModularConfig(p=7, n_train=20)).training


@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_by_hand(queries, factor):
    net = linear_net()
    queries = queries[:1]
    found = logit_efficiency(net, queries)
    if found.correct_logit < 0:
        with torch.no_grad():
            net.unembed.W_U.neg_()
        found = logit_efficiency(net, queries)
    norm = scaled_norm(net, queries, logit=found.correct_logit * factor)
    assert norm == pytest.approx(weight_norms(net).total * math.sqrt(factor), rel=1e-5)


def test_the_scaled_net_has_that_logit():
    checkpoint = reference_model("modular-grokked")
    net, queries = checkpoint.net, checkpoint.task.training
    norm, logit = weight_norms(net).total, logit_efficiency(net, queries).correct_logit
    for factor in (0.7, 1.3):
        scaled = scaled_norm(net, queries, logit=factor * logit)
        other = build_net(net.cfg)
        other.load_state_dict({name: weight * (scaled / norm) for name, weight in net.state_dict().items()})
        assert logit_efficiency(other, queries).correct_logit == pytest.approx(factor * logit, rel=1e-4)
        assert (scaled < norm) == (factor < 1)
    assert weight_norms(net).total == norm  # the net stays as it is


def test_what_is_too_far_is_no_number(queries):
    net = linear_net()
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    assert math.isnan(scaled_norm(net, queries, logit=1.0))
    reference = reference_model("modular-grokked")
    logit = logit_efficiency(reference.net, reference.task.training).correct_logit
    for factor in (LARGEST_SCALE**-8, LARGEST_SCALE**8):
        assert math.isnan(scaled_norm(reference.net, reference.task.training, logit=factor * logit))


def test_mistakes_are_named(queries):
    net = linear_net()
    with pytest.raises(ValueError, match="logit must be positive and finite, got 0"):
        scaled_norm(net, queries, logit=0.0)
    with pytest.raises(ValueError, match="norm layers"):
        scaled_norm(build_net(net.cfg.model_copy(update={"normalization_type": "LN"})), queries, logit=1.0)
    with pytest.raises(ValueError, match="give at least one"):
        scaled_norm(net, queries[:0], logit=1.0)
