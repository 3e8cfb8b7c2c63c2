"""Attention patterns: weights and roles by hand, against plain loops on nets and a bridge, by property."""

import math

import pytest
import torch
from gpt2_bridge import make_bridge, make_prompts
from small_nets import NORM_VARIANTS, capture, make_net, make_tokens

from circuit_lab.measures.intervals import mean_interval
from circuit_lab.measures.readings.attention import NO_ROLE, attention_patterns
from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.tasks import queries_from_tokens


def queries_of(tokens):
    return queries_from_tokens(tokens, torch.zeros(len(tokens), dtype=torch.long))


@pytest.fixture(scope="module")
def queries():
    return queries_of(make_tokens(7))


@pytest.fixture(scope="module")
def weighing_net():
    """One causal head that gives the tokens 0, 1 and 2 weights in the ratio 1 : 3 : 9, whoever looks.

    Every query is 1 and the key of a token is the logarithm of its weight.
    """
    config = SharedTransformerConfig(
        layer_map=(0,), d_model=2, n_heads=1, d_head=1, d_mlp=1, d_vocab=3, n_ctx=2, normalization_type=None
    )
    net = build_net(config).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.W_E.copy_(torch.tensor([[1.0, 0.0], [1.0, math.log(3)], [1.0, math.log(9)]]))
        net.blocks[0].attn.W_Q[0, 0] = 1.0
        net.blocks[0].attn.W_K[0, 1] = 1.0
    return net


def test_weights_by_hand(weighing_net):
    """From the second position: (1, 3)/4 twice and (1, 1)/2 once, a tie that nobody wins."""
    result = attention_patterns(weighing_net, queries_of(torch.tensor([[0, 1], [0, 1], [0, 0]])), n_kept=2)
    assert result.weight.mean[0, 0].flatten().tolist() == pytest.approx([1, 0, 1 / 3, 2 / 3])
    assert result.top_share[0, 0].flatten().tolist() == pytest.approx([1, 0, 0, 2 / 3])
    assert result.uniform.tolist() == [[1, 0], [0.5, 0.5]]
    entropy_of_one_to_three = -(math.log(1 / 4) / 4 + 3 * math.log(3 / 4) / 4)
    expected = [0, (2 * entropy_of_one_to_three + math.log(2)) / 3]
    assert result.entropy.mean[0, 0].tolist() == pytest.approx(expected)
    assert result.patterns[1, 0, 0].flatten().tolist() == pytest.approx([1, 0, 0.25, 0.75])
    assert len(result.patterns) == 2
    frame = result.frame()
    assert list(zip(frame["dest"], frame["src"], strict=True)) == [("0", "0"), ("1", "0"), ("1", "1")]
    last = frame.iloc[2]
    assert (last["weight"], last["uniform"], last["top_share"]) == pytest.approx((2 / 3, 1 / 2, 2 / 3))
    assert last["n"] == 3 and math.isnan(last["control"])
    # 1000 resamples of three draws: a mean of .5 is one tie drawn three times, of .75 no tie.
    assert (last["low"], last["high"]) == pytest.approx((0.5, 0.75))


@pytest.mark.parametrize(
    ("tokens", "role"),
    [
        ([0, 2], "attends itself from 1"),  # .9 of the weight
        ([2, 0], "attends 0 from 1"),
        ([2, 2], NO_ROLE),  # .5
    ],
)
def test_a_role_by_hand(weighing_net, tokens, role):
    roles = attention_patterns(weighing_net, queries_of(torch.tensor([tokens] * 4))).roles()
    assert roles["role"].tolist() == [role]
    assert roles["uniform_entropy"].tolist() == [math.log(2)]


def test_a_role_takes_more_than_chance_and_more_than_half(weighing_net):
    """.7 of two sources is beyond one half but not half way from .5 to 1; a head that looks by turns has no role."""
    with torch.no_grad():
        weighing_net.blocks[0].attn.W_K.mul_(math.log(7 / 3) / math.log(3))
    often = attention_patterns(weighing_net, queries_of(torch.tensor([[0, 1]] * 5))).roles().iloc[0]
    with torch.no_grad():
        weighing_net.blocks[0].attn.W_K.mul_(math.log(3) / math.log(7 / 3))
    assert often["low"] == pytest.approx(0.7) and often["role"] == NO_ROLE
    by_turns = attention_patterns(weighing_net, queries_of(torch.tensor([[0, 2], [2, 0]] * 20))).roles().iloc[0]
    assert by_turns["role"] == NO_ROLE and by_turns["top_share"] == 0.5 and by_turns["entropy"] < 0.4


@pytest.mark.parametrize("variant", NORM_VARIANTS.values(), ids=NORM_VARIANTS.keys())
def test_against_a_plain_loop(queries, variant):
    net = make_net(**variant)
    result = attention_patterns(net, queries, n_kept=7, batch_size=3)
    causal = net.cfg.attention_dir == "causal"
    for layer in range(net.cfg.n_layers):
        names = f"blocks.{layer}.attn.hook_q", f"blocks.{layer}.attn.hook_k"
        q, k = capture(net, queries.tokens, *names).values()
        for head in range(3):
            for dest in range(4):
                sources = range(dest + 1) if causal else range(4)
                scores = torch.stack([(q[:, dest, head] * k[:, s, head]).sum(-1) / 5**0.5 for s in sources], dim=1)
                weights = scores.exp() / scores.exp().sum(1, keepdim=True)
                cell = (layer, head, dest, slice(0, len(sources)))
                torch.testing.assert_close(result.weight.mean[cell], weights.mean(0), rtol=0, atol=1e-12)
                torch.testing.assert_close(result.patterns[:, *cell], weights, rtol=0, atol=1e-12)
                torch.testing.assert_close(result.weight.low[cell], mean_interval(weights.T).low)
                entropy = -(weights * weights.log()).sum(1).mean()
                torch.testing.assert_close(result.entropy.mean[layer, head, dest], entropy, rtol=0, atol=1e-12)
                top = torch.bincount(weights.argmax(1), minlength=len(sources)).double() / 7
                torch.testing.assert_close(result.top_share[cell], top, rtol=0, atol=1e-12)
                assert result.uniform[dest, 0] == 1 / len(sources)
                assert (result.weight.mean[layer, head, dest, len(sources) :] == 0).all()
    assert result.blocks == net.cfg.layer_map
    assert result.frame().query("layer == 1")["block"].unique().tolist() == [net.cfg.layer_map[1]]
    assert len(result.frame()) == net.cfg.n_layers * 3 * (10 if causal else 16)


def test_a_bridge_from_its_queries_and_keys():
    bridge = make_bridge()
    prompts = make_prompts()
    result = attention_patterns(bridge, queries_of(prompts), n_kept=6, batch_size=4)
    names = [f"blocks.{layer}.attn.{projection}.hook_out" for layer in range(3) for projection in "qk"]
    seen = capture(bridge, prompts, *names)
    for layer in range(3):
        q, k = (seen[f"blocks.{layer}.attn.{projection}.hook_out"] for projection in "qk")
        scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / 6**0.5
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
        torch.testing.assert_close(result.patterns[:, layer], scores.softmax(-1), rtol=0, atol=1e-6)
    assert result.blocks == (0, 1, 2)
    assert result.uniform[4].tolist() == pytest.approx([0.2] * 5)


@pytest.mark.parametrize("attention_dir", ["causal", "bidirectional"])
def test_a_net_that_cannot_tell_positions_apart_is_uniform(queries, attention_dir):
    net = make_net(attention_dir=attention_dir)
    with torch.no_grad():
        for block in net.blocks:
            block.attn.W_Q.zero_()
            block.attn.b_Q.zero_()
    result = attention_patterns(net, queries)
    torch.testing.assert_close(result.weight.mean, result.uniform.expand_as(result.weight.mean))
    assert (result.roles()["role"] == NO_ROLE).all()
    assert result.roles()["entropy"].tolist() == pytest.approx(result.roles()["uniform_entropy"].tolist())


def test_batches_order_and_control(queries):
    net, other = make_net(), make_net(seed=5)
    whole = attention_patterns(net, queries, control=other)
    small = attention_patterns(net, queries, control=other, batch_size=3)
    for name in ("weight", "entropy", "control"):
        torch.testing.assert_close(getattr(small, name).mean, getattr(whole, name).mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(getattr(small, name).high, getattr(whole, name).high, rtol=0, atol=1e-12)
    shuffled = attention_patterns(net, queries[torch.tensor([6, 0, 5, 1, 4, 2, 3])])
    torch.testing.assert_close(shuffled.weight.mean, whole.weight.mean, rtol=0, atol=1e-12)
    alone = attention_patterns(other, queries)
    assert torch.equal(whole.control.mean, alone.weight.mean)
    assert (whole.control.mean - whole.weight.mean).abs().max() > 0.05
    frame = whole.frame().set_index(["layer", "head", "dest", "src"])
    assert frame.loc[(1, 2, "3", "1"), "control"] == float(alone.weight.mean[1, 2, 3, 1])


def test_leaves_model_and_random_state_alone(queries):
    net = make_net()
    state = torch.random.get_rng_state()
    result = attention_patterns(net, queries)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert net.list_hooks() == {}
    assert not result.weight.mean.requires_grad and all(p.requires_grad for p in net.parameters())
    assert len(result.patterns) == 0


def test_bad_input(queries):
    net = make_net()
    with pytest.raises(ValueError, match="attention patterns need at least one query, got none"):
        attention_patterns(net, queries[:0])
    with pytest.raises(ValueError, match=r"the control has \(2, 3\) layers and heads, the model \(3, 3\)"):
        attention_patterns(net, queries, control=make_net(layer_map=(0, 1)))
    with pytest.raises(ValueError, match="the model is in training mode"):
        attention_patterns(make_net().train(), queries)
    with pytest.raises(ValueError, match="the model is in training mode"):
        attention_patterns(net, queries, control=make_net().train())
