"""What must hold whatever the weights are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import make_net, make_tokens

SEEDS = st.integers(0, 10_000)
NORMS = st.sampled_from(["LN", "RMS", None])
DIRECTIONS = st.sampled_from(["causal", "bidirectional"])
PLACES = st.sampled_from(["pre", "post"])


def settings_of(norm, direction, place):
    return {
        "normalization_type": norm,
        "attention_dir": direction,
        "norm_position": place if norm is not None else "pre",
    }


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, norm=NORMS, direction=DIRECTIONS, place=PLACES)
def test_relabelling_tokens_permutes_the_logits(seed, norm, direction, place):
    variant = settings_of(norm, direction, place) | {"d_vocab_out": 17, "unembed_bias": True}
    net, renamed = make_net(seed=seed, **variant), make_net(seed=seed, **variant)
    new_name = torch.randperm(17, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        renamed.embed.W_E[new_name] = net.embed.W_E
        renamed.unembed.W_U[:, new_name] = net.unembed.W_U
        renamed.unembed.b_U[new_name] = net.unembed.b_U
    tokens = make_tokens(seed=seed)
    # rtol: without norms the stream may be large
    torch.testing.assert_close(renamed(new_name[tokens])[..., new_name], net(tokens), rtol=1e-10, atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, norm=NORMS, place=PLACES, changed=st.integers(1, 3))
def test_future_tokens_matter_to_a_bidirectional_net_only(seed, norm, place, changed):
    tokens = make_tokens(seed=seed)
    other = tokens.clone()
    other[:, changed] = (other[:, changed] + 1) % 17
    for direction in ("causal", "bidirectional"):
        net = make_net(seed=seed, **settings_of(norm, direction, place))
        shift = (net(other) - net(tokens))[:, :changed].abs().amax()
        assert shift == 0 if direction == "causal" else shift > 1e-9


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, direction=DIRECTIONS)
def test_rows_do_not_depend_on_each_other(seed, direction):
    net, tokens = make_net(seed=seed, attention_dir=direction), make_tokens(seed=seed)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(net(tokens[order]), net(tokens)[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net(tokens[2:3]), net(tokens)[2:3], rtol=1e-12, atol=1e-12)


def test_a_causal_net_gives_a_prefix_the_same_logits(tokens):
    net = make_net()
    torch.testing.assert_close(net(tokens[:, :2]), net(tokens)[:, :2], rtol=0, atol=1e-12)


def test_patterns_are_distributions_over_what_may_be_seen(tokens):
    for direction in ("causal", "bidirectional"):
        _, cache = make_net(attention_dir=direction).run_with_cache(tokens)
        pattern = cache["pattern", 1]
        torch.testing.assert_close(pattern.sum(-1), torch.ones(6, 3, 4, dtype=torch.float64), rtol=0, atol=1e-12)
        future = pattern[..., torch.ones(4, 4, dtype=torch.bool).triu(1)]
        assert (future == 0).all() if direction == "causal" else (future > 0).all()


def test_position_embedding_tells_positions_apart():
    """Without it, a bidirectional net commutes with reordering the positions; with it, it does not."""
    net, tokens = make_net(attention_dir="bidirectional"), make_tokens()
    order = torch.tensor([2, 0, 3, 1])
    assert (net(tokens[:, order]) - net(tokens)[:, order]).abs().max() > 1e-3
    with torch.no_grad():
        net.pos_embed.W_pos.zero_()
    torch.testing.assert_close(net(tokens[:, order]), net(tokens)[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_an_in_place_hook_does_not_reach_the_weights(seed):
    net, tokens = make_net(seed=seed), make_tokens(1)
    before = {name: parameter.clone() for name, parameter in net.named_parameters()}
    with torch.no_grad():
        net.run_with_hooks(tokens, fwd_hooks=[(lambda _name: True, lambda activation, **_: activation.mul_(2.0))])
    assert all(torch.equal(before[name], parameter) for name, parameter in net.named_parameters())
