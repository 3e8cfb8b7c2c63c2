"""TransformerLens 4.3's ActivationCache and patching run on the net and agree with a route that does not use them."""

import pytest
import torch
from small_nets import VARIANTS, capture, constant_logits, final_normed, make_tokens, metric, streams
from transformer_lens import ActivationCache, patching
from transformer_lens.tools.analysis import get_act_patch_direct_path

CLOSE = {"rtol": 0, "atol": 1e-11}
IN_FLOAT32 = {"rtol": 1e-5, "atol": 1e-5}
"""For `patching`, which keeps its results in float32 tables."""


# ActivationCache


def test_decomposition_into_components(net, tokens):
    _, cache = net.run_with_cache(tokens)
    assert isinstance(cache, ActivationCache)
    components, labels = cache.decompose_resid(return_labels=True)
    layers = range(net.cfg.n_layers)
    assert labels == ["embed", "pos_embed", *(f"{i}_{part}_out" for i in layers for part in ("attn", "mlp"))]
    own = capture(net, tokens, "hook_embed", "hook_pos_embed", "blocks.1.hook_attn_out", "blocks.1.hook_mlp_out")
    for label, name in (("embed", "hook_embed"), ("1_attn_out", "blocks.1.hook_attn_out")):
        torch.testing.assert_close(components[labels.index(label)], own[name], **CLOSE)
    torch.testing.assert_close(components.sum(0), streams(net, tokens)["final_post"], **CLOSE)


def test_accumulated_stream(net, tokens):
    _, cache = net.run_with_cache(tokens)
    stack, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    expected = streams(net, tokens)
    assert labels == list(expected)
    torch.testing.assert_close(stack, torch.stack(list(expected.values())), **CLOSE)


def test_head_results(net, tokens):
    """Also when only z was cached: each head writes z @ W_O, and heads, biases, MLPs and embeddings make the stream."""
    _, cache = net.run_with_cache(tokens, names_filter=lambda name: "hook_result" not in name)
    heads, labels = cache.stack_head_results(incl_remainder=True, return_labels=True)
    assert labels == [f"L{i}H{h}" for i in range(net.cfg.n_layers) for h in range(3)] + ["remainder"]
    z = capture(net, tokens, "blocks.1.attn.hook_z")["blocks.1.attn.hook_z"]
    torch.testing.assert_close(heads[labels.index("L1H2")], z[:, :, 2] @ net.blocks[1].attn.W_O[2], **CLOSE)
    torch.testing.assert_close(heads.sum(0), streams(net, tokens)["final_post"], **CLOSE)


def test_neuron_results(net, tokens):
    _, cache = net.run_with_cache(tokens)
    post = capture(net, tokens, "blocks.1.mlp.hook_post")["blocks.1.mlp.hook_post"]
    expected = post[..., None] * net.blocks[1].mlp.W_out
    torch.testing.assert_close(cache.get_neuron_results(1), expected, **CLOSE)
    full, labels = cache.get_full_resid_decomposition(expand_neurons=True, return_labels=True)
    assert len(labels) == net.cfg.n_layers * (3 + 20) + 3  # heads and neurons; embed, pos_embed, bias
    torch.testing.assert_close(full.sum(0), streams(net, tokens)["final_post"], **CLOSE)
    bias = sum(block.attn.b_O + block.mlp.b_out for block in net.blocks)
    torch.testing.assert_close(full[labels.index("bias")][0, 0], bias, **CLOSE)


def test_accumulated_bias(net):
    blocks = net.blocks
    torch.testing.assert_close(net.accumulated_bias(1), blocks[0].attn.b_O + blocks[0].mlp.b_out, **CLOSE)
    until_second_mlp = net.accumulated_bias(1, mlp_input=True)
    torch.testing.assert_close(until_second_mlp, net.accumulated_bias(1) + blocks[1].attn.b_O, **CLOSE)
    with_attention = blocks[0].attn.b_O + blocks[1].attn.b_O
    found = net.accumulated_bias(1, mlp_input=True, include_mlp_biases=False)
    torch.testing.assert_close(found, with_attention, **CLOSE)
    with pytest.raises(ValueError, match=f"needs the attention of {len(blocks) + 1} layers, the net has {len(blocks)}"):
        net.accumulated_bias(len(blocks), mlp_input=True)


def test_logit_attributions_add_up_to_the_logits(net, tokens):
    """Exact without folding the norm's weight into the unembedding."""
    logits, cache = net.run_with_cache(tokens)
    answers = torch.tensor([0, 3, 5, 7, 9, 11])
    attributions = cache.logit_attrs(cache.decompose_resid(), tokens=answers)
    total = attributions.sum(0) + constant_logits(net)[answers, None]
    torch.testing.assert_close(total, logits[torch.arange(6), :, answers], **CLOSE)


def test_final_norm_applied_to_a_stack(net, tokens):
    _, cache = net.run_with_cache(tokens)
    seen = streams(net, tokens)
    if net.cfg.normalization_type is None:
        expected = seen["1_mid"]
    else:
        expected = final_normed(net, seen["1_mid"], seen["final_post"]) / net.ln_final.w
    stack = cache.apply_ln_to_stack(cache["resid_mid", 1][None])
    torch.testing.assert_close(stack[0], expected, **CLOSE)


def test_cached_gradients(net, tokens):
    """`run_with_cache(incl_bwd=True)` wants a scalar output, so wrap the net; the gradient is autograd's."""
    _, cache = net.run_with_cache(tokens)
    state = cache["resid_post", 0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(net(start_at="resid_post 0", residual=state)[:, -1, 2].sum(), state)
    stored, fwd, bwd = net.get_caching_hooks("blocks.0.hook_resid_post", incl_bwd=True)
    with net.hooks(fwd_hooks=fwd, bwd_hooks=bwd):
        net(tokens)[:, -1, 2].sum().backward()
    torch.testing.assert_close(stored["blocks.0.hook_resid_post_grad"], expected, **CLOSE)


# patching

PATCHES = {
    "resid_pre": ("hook_resid_pre", "pos"),
    "resid_mid": ("hook_resid_mid", "pos"),
    "attn_out": ("hook_attn_out", "pos"),
    "mlp_out": ("hook_mlp_out", "pos"),
    "attn_head_out_by_pos": ("attn.hook_z", "pos head"),
    "attn_head_q_by_pos": ("attn.hook_q", "pos head"),
    "attn_head_k_by_pos": ("attn.hook_k", "pos head"),
    "attn_head_v_by_pos": ("attn.hook_v", "pos head"),
    "attn_head_pattern_by_pos": ("attn.hook_pattern", "head dest"),
    "attn_head_pattern_dest_src_pos": ("attn.hook_pattern", "head dest src"),
    "attn_head_out_all_pos": ("attn.hook_z", "head"),
    "attn_head_q_all_pos": ("attn.hook_q", "head"),
    "attn_head_k_all_pos": ("attn.hook_k", "head"),
    "attn_head_v_all_pos": ("attn.hook_v", "head"),
    "attn_head_pattern_all_pos": ("attn.hook_pattern", "pattern"),
}
CELLS = {
    "pos": [(slice(None), pos) for pos in range(4)],
    "pos head": [(slice(None), pos, head) for pos in range(4) for head in range(3)],
    "head": [(slice(None), slice(None), head) for head in range(3)],
    "pattern": [(slice(None), head) for head in range(3)],
    "head dest": [(slice(None), head, dest) for head in range(3) for dest in range(4)],
    "head dest src": [(slice(None), head, d, s) for head in range(3) for d in range(4) for s in range(4)],
}


def patch_by_hand(net, corrupted, clean, hook_name, layer, cells):
    """The metric after copying one cell of the clean activation, for each cell."""
    name = f"blocks.{layer}.{hook_name}"
    values = []
    for cell in cells:

        def put(activation, hook, cell=cell):
            patched = activation.clone()
            patched[cell] = clean[name][cell]
            return patched

        with torch.no_grad():
            values.append(metric(net.run_with_hooks(corrupted, fwd_hooks=[(name, put)])))
    return torch.stack(values)


@pytest.mark.parametrize("name", PATCHES)
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_activation_patching(make_net, variant, name):
    net = make_net(**{**variant, "layer_map": (0, 0)})
    clean_tokens, corrupted = make_tokens(2, seed=3), make_tokens(2, seed=4)
    hook_name, kind = PATCHES[name]
    clean = capture(net, clean_tokens, *(f"blocks.{layer}.{hook_name}" for layer in (0, 1)))
    expected = torch.stack([patch_by_hand(net, corrupted, clean, hook_name, i, CELLS[kind]) for i in (0, 1)])

    _, cache = net.run_with_cache(clean_tokens)
    with torch.no_grad():
        found = getattr(patching, f"get_act_patch_{name}")(net, corrupted, cache, metric)
    torch.testing.assert_close(found.flatten(1), expected.float(), **IN_FLOAT32)
    with torch.no_grad():
        moved = (found.flatten(1) - metric(net(corrupted)).float()).abs().max()
    assert moved > 1e-3


def test_every_patch_of_transformer_lens_is_covered():
    missing = {
        name.removeprefix("get_act_patch_")
        for name in vars(patching)
        if name.startswith("get_act_patch_") and not name.endswith("_every") and "direct_path" not in name
    } - set(PATCHES)
    assert missing == set()


def test_patching_sweeps_over_several_kinds(net):
    clean_tokens, corrupted = make_tokens(2, seed=3), make_tokens(2, seed=4)
    _, cache = net.run_with_cache(clean_tokens)
    with torch.no_grad():
        blocks = patching.get_act_patch_block_every(net, corrupted, cache, metric)
        everything = patching.get_act_patch_attn_head_all_pos_every(net, corrupted, cache, metric)
        keys = patching.get_act_patch_attn_head_k_all_pos(net, corrupted, cache, metric)
        # the clean state of every position put back at layer 0 gives the clean metric
        whole = net(start_at="embed", residual=cache["resid_pre", 0])
    assert blocks.shape == (3, net.cfg.n_layers, 4)
    torch.testing.assert_close(everything[2], keys)
    torch.testing.assert_close(metric(whole), metric(net(clean_tokens)))


def test_direct_path_patching_is_refused_clearly(net):
    _, cache = net.run_with_cache(make_tokens(2))
    with pytest.raises(NotImplementedError, match="Edge attribution and direct path patching are therefore not avail"):
        get_act_patch_direct_path(net, make_tokens(2), cache, cache, metric, 0, 0, verbose=False)
