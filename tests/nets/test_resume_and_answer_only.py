"""Resuming half-way, and computing the answer's position alone, give what the whole forward pass gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_nets import make_net, make_tokens

from circuit_lab.nets import LensSite

POSITIONS = torch.tensor([0, 1, 2, 3, 1, 2])
VARIANTS = [
    {},
    {"attention_dir": "bidirectional", "normalization_type": "RMS"},
    {"norm_position": "post", "unembed_bias": True},
    {"normalization_type": None, "layer_map": (0,)},
    {"final_norm": False, "layer_map": (0, 0)},
]


def test_lens_sites_are_the_states_between_layers():
    assert make_net().lens_sites == (
        LensSite(label="embed", hook_name="blocks.0.hook_resid_pre", layer=0),
        LensSite(label="resid_post 0", hook_name="blocks.0.hook_resid_post", layer=1),
        LensSite(label="resid_post 1", hook_name="blocks.1.hook_resid_post", layer=2),
        LensSite(label="resid_post 2", hook_name="blocks.2.hook_resid_post", layer=3),
    )


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_resuming_from_every_site_is_bit_identical(tokens, variant):
    net = make_net(**variant)
    _, cache = net.run_with_cache(tokens, names_filter=[site.hook_name for site in net.lens_sites])
    whole, answer = net(tokens), net(tokens, answer_only=True, answer_position=POSITIONS)
    for site in net.lens_sites:
        for name in (site.label, site.hook_name):
            assert torch.equal(net(start_at=name, residual=cache[site.hook_name]), whole)
        resumed = net(start_at=name, residual=cache[site.hook_name], answer_only=True, answer_position=POSITIONS)
        torch.testing.assert_close(resumed, answer, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_answer_only_equals_the_whole_at_that_position(tokens, variant):
    net = make_net(**variant)
    whole = net(tokens)
    rows = torch.arange(6)
    answer = net(tokens, answer_only=True, answer_position=POSITIONS)
    torch.testing.assert_close(answer, whole[rows, POSITIONS], rtol=0, atol=1e-12)
    torch.testing.assert_close(net(tokens, answer_only=True), whole[:, -1], rtol=0, atol=1e-12)


def test_answer_only_gradients_equal_those_of_the_whole(tokens):
    net = make_net()
    gradients = []
    for answer_only in (True, False):
        net.zero_grad()
        logits = net(tokens, answer_only=True, answer_position=POSITIONS) if answer_only else net(tokens)
        answer = logits if answer_only else logits[torch.arange(6), POSITIONS]
        answer.log_softmax(-1)[:, 2].sum().backward()
        gradients.append([parameter.grad.clone() for parameter in net.parameters()])
    for lean, full in zip(*gradients, strict=True):
        torch.testing.assert_close(lean, full, rtol=0, atol=1e-11)


def test_answer_only_skips_the_other_positions_of_the_last_block(tokens, monkeypatch):
    net = make_net(layer_map=(0, 1))
    rows = []
    for block in net.blocks:
        forward = block.mlp.forward
        monkeypatch.setattr(block.mlp, "forward", lambda x, forward=forward: rows.append(x.shape[1]) or forward(x))
    net(tokens, answer_only=True)
    assert rows == [4, 1]


@pytest.mark.parametrize("hook_name", ["blocks.2.mlp.hook_pre", "blocks.2.hook_resid_pre", "ln_final.hook_scale"])
def test_an_intervention_in_the_last_block_is_the_same_with_answer_only(tokens, hook_name):
    net = make_net()

    def shift_position_1(activation, hook):
        assert activation.shape[1] == 4
        return activation + torch.tensor([0.0, 0.7, 0.0, 0.0])[:, None]

    with net.hooks(fwd_hooks=[(hook_name, shift_position_1)]):
        whole = net(tokens)
        answer = net(tokens, answer_only=True, answer_position=POSITIONS)
    torch.testing.assert_close(answer, whole[torch.arange(6), POSITIONS], rtol=0, atol=1e-12)


@pytest.mark.parametrize("module", ["blocks.2", "blocks.2.mlp", "blocks.2.ln1", "ln_final", "unembed"])
def test_a_torch_hook_on_a_module_also_sees_every_position(tokens, module):
    net = make_net()
    shapes = []
    net.get_submodule(module).register_forward_hook(lambda _module, _args, output: shapes.append(output.shape[:2]))
    net(tokens, answer_only=True)
    assert shapes == [(6, 4)]


def test_a_backward_hook_also_sees_every_position(tokens):
    net = make_net()
    shapes = []
    with net.hooks(bwd_hooks=[("blocks.2.mlp.hook_post", lambda gradient, **_: shapes.append(gradient.shape))]):
        net(tokens, answer_only=True).sum().backward()
    assert shapes == [(6, 4, 20)]


def test_skipped_layers_fire_no_hooks(tokens):
    net = make_net()
    _, cache = net.run_with_cache(tokens)
    fired = []
    with net.hooks(fwd_hooks=[(lambda _name: True, lambda _activation, hook: fired.append(hook.name))]):
        net(start_at="resid_post 1", residual=cache["resid_post", 1])
    assert fired[0] == "blocks.2.hook_resid_pre"
    assert len(fired) == 18 + 2
    fired.clear()
    with net.hooks(fwd_hooks=[(lambda _name: True, lambda _activation, hook: fired.append(hook.name))]):
        net(start_at="resid_post 2", residual=cache["resid_post", 2], answer_only=True)
    assert fired == ["ln_final.hook_scale", "ln_final.hook_normalized"]


@settings(max_examples=20, deadline=None)
@given(layer=st.integers(0, 2), position=st.integers(0, 3), seed=st.integers(0, 100))
def test_resuming_from_a_changed_state_equals_patching_it(layer, position, seed):
    net, tokens = make_net(attention_dir="bidirectional"), make_tokens(3)
    new = torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def put(residual, hook):
        residual = residual.clone()
        residual[:, position] = new
        return residual

    hook_name = f"blocks.{layer}.hook_resid_post"
    patched = net.run_with_hooks(tokens, fwd_hooks=[(hook_name, put)])
    _, cache = net.run_with_cache(tokens, names_filter=hook_name)
    resumed = net(start_at=hook_name, residual=put(cache[hook_name], None))
    assert torch.equal(patched, resumed)


def test_logits_at_is_the_lens(tokens):
    net = make_net(unembed_bias=True)
    logits, cache = net.run_with_cache(tokens)
    torch.testing.assert_close(net.logits_at(cache["resid_post", 2]), logits, rtol=0, atol=1e-12)
    state = cache["resid_post", 0][2, 1]
    centred = state - state.mean()
    normed = centred / (centred.square().mean() + 1e-5).sqrt() * net.ln_final.w + net.ln_final.b
    torch.testing.assert_close(net.logits_at(state), normed @ net.W_U + net.b_U, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"start_at": "resid_post 3", "residual": torch.zeros(1, 4, 12)},
            r"no lens site 'resid_post 3' in this net; it has: 'embed' \(blocks.0.hook_resid_pre\), 'resid_post 0'",
        ),
        ({"start_at": "embed"}, "start_at = 'embed' needs residual"),
        ({"residual": torch.zeros(1, 4, 12)}, "residual is given without start_at"),
        ({}, "tokens is None; give tokens, or start_at and residual"),
        ({"tokens": torch.zeros(2, 5, dtype=torch.long)}, r"pos at most n_ctx = 4, got shape \[2, 5\]"),
        ({"tokens": torch.tensor([[3, 17]])}, r"tokens must lie in 0..16 \(d_vocab = 17\), got 3..17"),
        (
            {"tokens": torch.tensor([[3, 1]]), "answer_position": torch.tensor([1])},
            "answer_position is given but answer_only is False",
        ),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_net(dtype=torch.float32)(**arguments)
