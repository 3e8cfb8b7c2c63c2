"""Layers of one block hold the same Parameters, through everything one does to a net."""

import copy
import re

import pytest
import torch

CYCLE = (0, 1, 0, 1)


def tied_pairs(net):
    return {
        name: parameter is net.blocks[layer - 2].get_parameter(name)
        for layer in (2, 3)
        for name, parameter in net.blocks[layer].named_parameters()
    }


def untied_copy(net, make_net):
    """A net with the same weights in every layer, each layer's its own."""
    separate = make_net(layer_map=tuple(range(net.cfg.n_layers)))
    separate.load_state_dict(net.state_dict())
    return separate


def test_parameters_are_counted_once(make_net):
    one_block = sum(p.numel() for p in make_net(layer_map=(0,)).parameters())
    assert sum(p.numel() for p in make_net(layer_map=(0, 0, 0)).parameters()) == one_block
    # per head 12 * 5 * 4 + 5 * 3, times 3; b_O 12; MLP 12 * 20 * 2 + 20 + 12; two norms 2 * 2 * 12
    block = 3 * (240 + 15) + 12 + 512 + 48
    # W_E 17 * 12, W_pos 4 * 12, final norm 2 * 12, W_U 12 * 13
    assert one_block == block + 204 + 48 + 24 + 156
    assert sum(p.numel() for p in make_net(layer_map=CYCLE).parameters()) == one_block + block


def test_state_dict_lists_every_layers_copy(make_net):
    state = make_net(layer_map=(0, 0, 0)).state_dict()
    assert state["blocks.2.attn.W_Q"].shape == (3, 12, 5)
    assert sum(name.startswith("blocks.") for name in state) == 3 * 16
    assert torch.equal(state["blocks.0.mlp.b_in"], state["blocks.2.mlp.b_in"])


def test_classic_names_and_shapes(make_net):
    shapes = {
        name: tuple(value.shape) for name, value in make_net(layer_map=(0,), unembed_bias=True).state_dict().items()
    }
    assert shapes == {
        "embed.W_E": (17, 12),
        "pos_embed.W_pos": (4, 12),
        "blocks.0.ln1.w": (12,),
        "blocks.0.ln1.b": (12,),
        "blocks.0.ln2.w": (12,),
        "blocks.0.ln2.b": (12,),
        "blocks.0.attn.W_Q": (3, 12, 5),
        "blocks.0.attn.W_K": (3, 12, 5),
        "blocks.0.attn.W_V": (3, 12, 5),
        "blocks.0.attn.W_O": (3, 5, 12),
        "blocks.0.attn.b_Q": (3, 5),
        "blocks.0.attn.b_K": (3, 5),
        "blocks.0.attn.b_V": (3, 5),
        "blocks.0.attn.b_O": (12,),
        "blocks.0.mlp.W_in": (12, 20),
        "blocks.0.mlp.b_in": (20,),
        "blocks.0.mlp.W_out": (20, 12),
        "blocks.0.mlp.b_out": (12,),
        "ln_final.w": (12,),
        "ln_final.b": (12,),
        "unembed.W_U": (12, 13),
        "unembed.b_U": (13,),
    }


def test_missing_biases_are_zero_buffers_and_no_weights(make_net):
    net = make_net(attn_bias=False, mlp_bias=False, unembed_bias=False)
    names = {name.split(".")[-1] for name, _ in net.named_parameters()} | {
        name.split(".")[-1] for name in net.state_dict()
    }
    assert names == {"W_E", "W_pos", "W_U", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_out", "w", "b"}
    assert net.b_U.shape == (13,)
    assert net.b_Q.shape == (3, 3, 5)
    assert all((bias == 0).all() for bias in (net.b_U, net.b_Q, net.b_K, net.b_V, net.b_O, net.b_in, net.b_out))
    assert net.b_U.dtype == torch.float64  # it follows net.to


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net,
        copy.deepcopy,
        lambda net: net.to(torch.float32),
        lambda net: net.half().double(),
        lambda net: (net.load_state_dict(copy.deepcopy(net).state_dict()), net)[1],
        lambda net: (net.load_unique_state_dict(copy.deepcopy(net).unique_state_dict()), net)[1],
        lambda net: net.requires_grad_(False),
    ],
    ids=["as built", "deepcopy", "float32", "half", "load_state_dict", "load_unique_state_dict", "frozen"],
)
def test_tying_survives(make_net, change):
    net = change(make_net(layer_map=CYCLE))
    pairs = tied_pairs(net)
    assert len(pairs) == 16  # layers 2 and 3 name the same 16 weights
    assert all(pairs.values())
    assert net.blocks[0].attn.W_Q is not net.blocks[1].attn.W_Q


def test_a_deep_copy_is_independent_and_hooked(make_net, tokens):
    net = make_net()
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.blocks[0].mlp.W_in.add_(1.0)
    assert not torch.equal(twin(tokens), net(tokens))
    seen = []
    with twin.hooks(fwd_hooks=[("blocks.2.mlp.hook_post", lambda _activation, hook: seen.append(hook.name))]):
        net(tokens, answer_only=True)
        assert seen == []
        twin(tokens, answer_only=True)
    assert seen == ["blocks.2.mlp.hook_post"]


def test_tied_gradient_is_the_sum_over_untied_copies(make_net, tokens):
    tied = make_net(layer_map=CYCLE)
    separate = untied_copy(tied, make_net)
    for net in (tied, separate):
        net(tokens, answer_only=True).log_softmax(-1)[:, 4].sum().backward()
    torch.testing.assert_close(tied(tokens), separate(tokens), rtol=0, atol=1e-12)
    for layer in (0, 1):
        for name, parameter in tied.blocks[layer].named_parameters():
            copies = [separate.blocks[i].get_parameter(name).grad for i in (layer, layer + 2)]
            torch.testing.assert_close(parameter.grad, sum(copies), rtol=1e-10, atol=1e-12)
            assert (copies[0] - copies[1]).abs().max() > 1e-6 or name == "attn.b_K"  # softmax ignores a key bias


def test_unique_state_dict_holds_each_weight_under_its_first_layers_name(make_net, tokens):
    net = make_net(layer_map=CYCLE)
    state = net.unique_state_dict()
    assert {name.split(".")[1] for name in state if name.startswith("blocks.")} == {"0", "1"}
    assert sum(value.numel() for value in state.values()) == sum(p.numel() for p in net.parameters())
    other = make_net(seed=9, layer_map=CYCLE)
    assert not torch.equal(other(tokens), net(tokens))
    other.load_unique_state_dict({name: value.clone() for name, value in state.items()})
    assert torch.equal(other(tokens), net(tokens))


def test_unique_state_dict_fits_safetensors(make_net, tokens, tmp_path):
    from safetensors.torch import load_file, save_file

    net, other = make_net(layer_map=(0, 0)), make_net(seed=9, layer_map=(0, 0))
    save_file(net.unique_state_dict(), tmp_path / "weights.safetensors")
    other.load_unique_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(other(tokens), net(tokens))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.pop("embed.W_E"), "missing ['embed.W_E'], unknown []"),
        (
            lambda state: state.update({"blocks.2.mlp.b_in": state["blocks.0.mlp.b_in"]}),
            "unknown ['blocks.2.mlp.b_in']",
        ),
        (
            lambda state: state.update({"unembed.W_U": torch.zeros(12, 17, dtype=torch.float64)}),
            "weight unembed.W_U must be [12, 13] torch.float64, got [12, 17] torch.float64",
        ),
        (
            lambda state: state.update({"unembed.W_U": torch.zeros(12, 13)}),
            "weight unembed.W_U must be [12, 13] torch.float64, got [12, 13] torch.float32",
        ),
    ],
)
def test_load_unique_state_dict_refuses_what_does_not_fit(make_net, tokens, edit, message):
    net = make_net()
    before = net(tokens)
    state = {name: torch.zeros_like(value) for name, value in net.unique_state_dict().items()}
    edit(state)
    with pytest.raises(ValueError, match=re.escape(message)):
        net.load_unique_state_dict(state)
    assert torch.equal(net(tokens), before)


def test_load_state_dict_refuses_copies_that_differ(make_net):
    separate = make_net(layer_map=(0, 1, 2, 3))
    with pytest.raises(
        ValueError, match=r"blocks.2.\S+ differs from blocks.0.\S+, but layer_map = \[0, 1, 0, 1\] ties"
    ):
        make_net(layer_map=CYCLE).load_state_dict(separate.state_dict())


def test_load_state_dict_refuses_to_untie_and_to_skip(make_net):
    net = make_net()
    with pytest.raises(ValueError, match="assign=True would give every layer its own weights"):
        net.load_state_dict(net.state_dict(), assign=True)
    with pytest.raises(RuntimeError, match="Missing key"):
        net.load_state_dict({})


def test_stacked_views_follow_effective_layers(make_net):
    net = make_net(layer_map=CYCLE)
    assert net.W_Q.shape == (4, 3, 12, 5)
    assert torch.equal(net.W_O[3], net.blocks[1].attn.W_O)
    assert torch.equal(net.W_in[2], net.blocks[0].mlp.W_in)
    left, right = net.QK.A[1, 2], net.QK.B[1, 2]
    torch.testing.assert_close(
        left @ right, net.blocks[1].attn.W_Q[2] @ net.blocks[1].attn.W_K[2].T, rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        net.OV[1, 2].AB, net.blocks[1].attn.W_V[2] @ net.blocks[1].attn.W_O[2], rtol=0, atol=1e-12
    )
    assert set(net.tl_parameters()) == set(net.state_dict())
