"""Hooks: names, order, shapes, and that what they return is what the net goes on with."""

import pytest
import torch

IN_BLOCK = [
    "hook_resid_pre",
    "ln1.hook_scale",
    "ln1.hook_normalized",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
    "attn.hook_result",
    "hook_attn_out",
    "hook_resid_mid",
    "ln2.hook_scale",
    "ln2.hook_normalized",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
]


def firing_order(net, *args, **kwargs):
    fired = []
    with net.hooks(fwd_hooks=[(lambda _name: True, lambda _activation, hook: fired.append(hook.name))]):
        net(*args, **kwargs)
    return fired


def test_every_hook_fires_once_in_hooked_transformers_order(make_net, tokens):
    net = make_net()
    blocks = [f"blocks.{layer}.{name}" for layer in range(3) for name in IN_BLOCK]
    expected = ["hook_embed", "hook_pos_embed", *blocks, "ln_final.hook_scale", "ln_final.hook_normalized"]
    assert firing_order(net, tokens) == expected
    assert sorted(net.hook_dict) == sorted(expected)
    assert firing_order(net, tokens, answer_only=True) == expected


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@pytest.mark.parametrize("normalization_type", ["LN", "RMS"])
def test_every_hook_fires_once_whatever_the_norms(make_net, tokens, norm_position, normalization_type):
    net = make_net(norm_position=norm_position, normalization_type=normalization_type)
    fired = firing_order(net, tokens)
    assert len(fired) == len(set(fired)) == len(net.hook_dict)


def test_shapes_are_the_classic_ones(make_net, tokens):
    net = make_net()
    n, pos, d_model, n_heads, d_head, d_mlp = 6, 4, 12, 3, 5, 20
    expected = {
        "hook_embed": (n, pos, d_model),
        "hook_pos_embed": (n, pos, d_model),
        "blocks.2.hook_resid_pre": (n, pos, d_model),
        "blocks.2.ln1.hook_scale": (n, pos, 1),
        "blocks.2.ln1.hook_normalized": (n, pos, d_model),
        "blocks.2.attn.hook_q": (n, pos, n_heads, d_head),
        "blocks.2.attn.hook_k": (n, pos, n_heads, d_head),
        "blocks.2.attn.hook_v": (n, pos, n_heads, d_head),
        "blocks.2.attn.hook_attn_scores": (n, n_heads, pos, pos),
        "blocks.2.attn.hook_pattern": (n, n_heads, pos, pos),
        "blocks.2.attn.hook_z": (n, pos, n_heads, d_head),
        "blocks.2.attn.hook_result": (n, pos, n_heads, d_model),
        "blocks.2.mlp.hook_pre": (n, pos, d_mlp),
        "blocks.2.mlp.hook_post": (n, pos, d_mlp),
        "blocks.2.hook_mlp_out": (n, pos, d_model),
        "ln_final.hook_normalized": (n, pos, d_model),
    }
    for kwargs in ({}, {"answer_only": True, "answer_position": torch.tensor([0, 1, 2, 3, 1, 2])}):
        _, cache = net.run_with_cache(tokens, **kwargs)
        assert {name: tuple(cache[name].shape) for name in expected} == expected


def test_cache_reads_short_names(make_net, tokens):
    _, cache = make_net().run_with_cache(tokens)
    assert torch.equal(cache["resid_post", 2], cache["blocks.2.hook_resid_post"])
    assert torch.equal(cache["pattern", 1], cache["blocks.1.attn.hook_pattern"])
    assert torch.equal(cache["post", 0], cache["blocks.0.mlp.hook_post"])
    assert torch.equal(cache["embed"] + cache["pos_embed"], cache["resid_pre", 0])


def test_cache_of_one_row_without_batch_dimension(make_net, tokens):
    net = make_net()
    _, cache = net.run_with_cache(tokens[:1], remove_batch_dim=True)
    assert cache["resid_post", 2].shape == (4, 12)
    assert not cache.has_batch_dim
    _, sliced = net.run_with_cache(tokens, names_filter="blocks.1.hook_resid_post", pos_slice=-1)
    _, whole = net.run_with_cache(tokens)
    assert list(sliced.keys()) == ["blocks.1.hook_resid_post"]
    torch.testing.assert_close(sliced["resid_post", 1], whole["resid_post", 1][:, -1:], rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalization_type", ["LN", "RMS", None])
def test_watching_changes_nothing(make_net, tokens, normalization_type):
    net = make_net(normalization_type=normalization_type)
    logits, _ = net.run_with_cache(tokens)
    torch.testing.assert_close(logits, net(tokens), rtol=0, atol=1e-13)
    assert net.list_hooks() == {}


def test_norm_gradients_agree_with_and_without_hooks(make_net, tokens):
    """The fused kernel and the hooked steps are one function: also their gradients agree."""
    net = make_net()
    gradients = []
    for hooks in ([], [(lambda name: ".hook_scale" in name, lambda _activation, **_: None)]):
        net.zero_grad()
        with net.hooks(fwd_hooks=hooks):
            net(tokens).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    for fused, stepwise in zip(*gradients, strict=True):
        torch.testing.assert_close(fused, stepwise, rtol=1e-10, atol=1e-10)


def test_result_is_computed_only_when_watched(make_net, tokens, monkeypatch):
    net = make_net()
    calls = []
    monkeypatch.setattr(torch, "einsum", lambda *args: calls.append(args) or torch.functional.einsum(*args))
    net(tokens)
    assert calls == []
    _, cache = net.run_with_cache(tokens, names_filter="blocks.1.attn.hook_result")
    assert len(calls) == 1
    _, outputs = net.run_with_cache(tokens, names_filter="blocks.1.hook_attn_out")
    expected = cache["result", 1].sum(dim=2) + net.blocks[1].attn.b_O
    torch.testing.assert_close(outputs["attn_out", 1], expected, rtol=0, atol=1e-13)


def test_what_a_hook_returns_is_used(make_net, tokens):
    """Zeroing one head's result takes exactly its contribution out of the stream."""
    net = make_net()
    _, clean = net.run_with_cache(tokens)

    def without_head_1(result, hook):
        return result * torch.tensor([1.0, 0.0, 1.0])[:, None]

    with net.hooks(fwd_hooks=[("blocks.2.attn.hook_result", without_head_1)]):
        _, ablated = net.run_with_cache(tokens, names_filter="blocks.2.hook_resid_mid")
    expected = clean["resid_mid", 2] - clean["result", 2][:, :, 1]
    torch.testing.assert_close(ablated["resid_mid", 2], expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("hook_name", [name for name in IN_BLOCK if "resid_pre" not in name])
def test_each_hook_of_a_block_reaches_the_logits(make_net, tokens, hook_name):
    net = make_net()

    def nudge(activation, hook):
        # the same for every key would leave the softmax as it is
        noise = torch.randn(activation.shape, dtype=activation.dtype, generator=torch.Generator().manual_seed(0))
        return activation + 0.1 * noise

    moved = net.run_with_hooks(tokens, fwd_hooks=[(f"blocks.1.{hook_name}", nudge)])
    assert (moved - net(tokens)).abs().max() > 1e-6


def test_backward_hooks_see_gradients(make_net, tokens):
    """The gradient seen at a site is that of a finite displacement there."""
    net = make_net()
    gradients = {}
    with net.hooks(bwd_hooks=[("blocks.1.hook_resid_post", lambda gradient, **_: gradients.update(seen=gradient))]):
        net(tokens)[:, -1, 3].sum().backward()
    direction = torch.randn(6, 4, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, cache = net.run_with_cache(tokens)
    base = cache["resid_post", 1]
    up, down = (
        net(start_at="resid_post 1", residual=base + sign * 1e-5 * direction)[:, -1, 3].sum() for sign in (1, -1)
    )
    torch.testing.assert_close((gradients["seen"] * direction).sum(), (up - down) / 2e-5, rtol=1e-6, atol=1e-6)
