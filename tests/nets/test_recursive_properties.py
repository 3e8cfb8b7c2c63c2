"""What must hold of a recursive net whatever its weights."""

import pytest
import torch
from recursive_nets import RECURSIVE, kept_recursive_net, make_recursive_net, recursive_tokens


@pytest.mark.parametrize("name", RECURSIVE)
def test_a_later_token_changes_earlier_logits(name):
    net, tokens = kept_recursive_net(name), recursive_tokens()
    other = tokens.clone()
    other[:, 4] = (tokens[:, 4] + 1) % 17
    assert (net(other) - net(tokens))[:, 0].abs().max() > 1e-4


def test_without_positions_reordering_tokens_reorders_logits():
    net, tokens = kept_recursive_net("plain"), recursive_tokens()
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(net(tokens[:, order]), net(tokens)[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["rotary", "learned", "position MLP"])
def test_with_positions_reordering_tokens_does_more_than_that(name):
    net, tokens = kept_recursive_net(name), recursive_tokens()
    order = torch.tensor([3, 0, 4, 1, 2])
    assert (net(tokens[:, order]) - net(tokens)[:, order]).abs().max() > 1e-3


def test_rotary_scores_depend_on_distance_alone():
    """Equal tokens at every position give one query and one key, so scores are constant along diagonals."""
    net = make_recursive_net(positions="rotary", n_prefix=0)
    _, cache = net.run_with_cache(torch.full((1, 5), 3), names_filter="blocks.0.attn.hook_attn_scores")
    scores = cache["attn_scores", 0][0]
    torch.testing.assert_close(scores[:, 1:, 1:], scores[:, :-1, :-1], rtol=0, atol=1e-12)
    assert (scores[:, 0, 1] - scores[:, 0, 2]).abs().max() > 1e-6


def test_the_prefix_is_read():
    net, tokens = make_recursive_net(), recursive_tokens()
    before = net(tokens)
    with torch.no_grad():
        net.embed.W_prefix[1] += 1.0
    assert (net(tokens) - before).abs().max() > 1e-4


@pytest.mark.parametrize("name", RECURSIVE)
def test_fewer_cycles_are_the_beginning_of_more(name):
    longer, tokens = kept_recursive_net(name), recursive_tokens()
    shorter = make_recursive_net(**{**RECURSIVE[name], "h_cycles": 1}, seed=7)
    shorter.load_unique_state_dict(longer.unique_state_dict())
    _, cache = longer.run_with_cache(tokens)
    commit = next(site for site in longer.lens_sites if site.label == "H0.commit")
    lens = longer.logits_at(cache[commit.hook_name])[:, longer.cfg.n_prefix :]
    torch.testing.assert_close(shorter(tokens), lens, rtol=0, atol=1e-12)
    assert (longer(tokens) - lens).abs().max() > 1e-4


def test_rows_do_not_mix():
    net, tokens = kept_recursive_net("rotary"), recursive_tokens()
    torch.testing.assert_close(net(tokens[2:3]), net(tokens)[2:3], rtol=0, atol=1e-12)


def gradients(net, logits):
    names, parameters = zip(*net.named_parameters(), strict=True)
    found = torch.autograd.grad(logits.square().sum(), parameters)
    return dict(zip(names, found, strict=True))


def assert_same_gradients(one, other):
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(gradient, other[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_a_training_step_differentiates_the_last_cycle_alone():
    """As if the last cycle had been resumed from constant streams; forward the two are the same."""
    net, tokens = make_recursive_net(), recursive_tokens()
    whole, cache = net.run_with_cache(tokens)
    everything = gradients(net, net(tokens))
    states = {layer: cache["resid_post", layer].detach() for layer in (5, 7)}
    net.train()
    logits = net(tokens)
    torch.testing.assert_close(logits, whole, rtol=0, atol=1e-12)
    published = gradients(net, logits)
    with torch.no_grad():
        x = cache["hook_input"]
    # The first inner step of the last cycle from z_L and z_H as constants, by hand.
    z_L, z_H, x = states[5], states[7], net._input(tokens)
    for step in (4, 5, 6):
        z_L = net._step(step, z_L + z_H + x, None)
    by_hand = net.logits_at(net._step(7, z_H + z_L, None)[:, 2:])
    assert_same_gradients(published, gradients(net, by_hand))
    assert (published["blocks.0.mlp.W_in"] - everything["blocks.0.mlp.W_in"]).abs().max() > 1e-6


def test_gradient_through_all_cycles_when_asked_for():
    published, tokens = kept_recursive_net("plain"), recursive_tokens()
    whole = make_recursive_net(gradient="all")
    expected = gradients(published, published(tokens))  # in eval mode the gradient is always whole
    assert_same_gradients(gradients(whole.train(), whole(tokens)), expected)


def test_the_whole_gradient_is_that_of_a_finite_displacement():
    net, tokens = make_recursive_net(positions="rotary"), recursive_tokens()
    weight = net.blocks[1].attn.W_V
    found = torch.autograd.grad(net(tokens)[:, -1, 3].sum(), weight)[0][1, 2, 3]
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[1, 2, 3] += sign * 1e-6
            values.append(net(tokens)[:, -1, 3].sum())
            weight[1, 2, 3] -= sign * 1e-6
    torch.testing.assert_close(found, (values[0] - values[1]) / 2e-6, rtol=1e-5, atol=1e-8)


def test_no_gradient_where_the_caller_wants_none():
    net = make_recursive_net().train()
    with torch.no_grad():
        assert not net(recursive_tokens()).requires_grad
    assert torch.is_grad_enabled()
