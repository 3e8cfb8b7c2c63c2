"""Hooks of a recursive net, its cache, and its tied weights."""

import copy

import pytest
import torch
from recursive_nets import MLP, RECURSIVE, kept_recursive_net, make_recursive_net, recursive_tokens
from safetensors.torch import load_file, save_file
from transformer_lens import ActivationCache

IN_ATTENTION = [
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "attn.hook_rot_q",
    "attn.hook_rot_k",
    "attn.hook_attn_scores",
    "attn.hook_pattern",
    "attn.hook_z",
    "attn.hook_result",
    "hook_attn_out",
]
IN_POSITION_MLP = ["pos_mlp.hook_pre", "pos_mlp.hook_pre_linear", "pos_mlp.hook_post", "hook_pos_mlp_out"]
AFTER_MIXING = [
    "ln1.hook_scale",
    "ln1.hook_normalized",
    "hook_resid_mid",
    "mlp.hook_pre",
    "mlp.hook_pre_linear",
    "mlp.hook_post",
    "hook_mlp_out",
    "ln2.hook_scale",
    "ln2.hook_normalized",
    "hook_resid_post",
]


def firing_order(net, *args, **kwargs):
    fired = []
    with net.hooks(fwd_hooks=[(lambda _name: True, lambda _activation, hook: fired.append(hook.name))]):
        net(*args, **kwargs)
    return fired


@pytest.mark.parametrize(
    ("changes", "mixing", "embedding"),
    [
        ({"positions": "rotary"}, IN_ATTENTION, ["hook_embed", "hook_input"]),
        ({**MLP, "positions": "learned"}, IN_POSITION_MLP, ["hook_embed", "hook_pos_embed", "hook_input"]),
    ],
)
def test_every_hook_fires_once_in_order(changes, mixing, embedding):
    net, tokens = make_recursive_net(**changes), recursive_tokens()
    in_block = ["hook_resid_pre", *mixing, *AFTER_MIXING]
    expected = embedding + [f"blocks.{layer}.{name}" for layer in range(16) for name in in_block]
    assert firing_order(net, tokens) == expected
    assert sorted(net.hook_dict) == sorted(expected)
    assert firing_order(net, tokens, answer_only=True) == expected


@pytest.mark.parametrize("name", RECURSIVE)
def test_every_hook_fires_once_whatever_the_mixing(name):
    net = kept_recursive_net(name)
    fired = firing_order(net, recursive_tokens())
    assert len(fired) == len(set(fired)) == len(net.hook_dict)


def test_shapes_have_the_prefix_first():
    net, tokens = kept_recursive_net("rotary"), recursive_tokens()
    logits, cache = net.run_with_cache(tokens)
    shapes = {
        "hook_embed": (6, 7, 12),
        "blocks.15.hook_resid_post": (6, 7, 12),
        "blocks.3.attn.hook_rot_q": (6, 7, 3, 4),
        "blocks.3.attn.hook_pattern": (6, 3, 7, 7),
        "blocks.3.attn.hook_result": (6, 7, 3, 12),
        "blocks.3.ln1.hook_scale": (6, 7, 1),
        "blocks.3.mlp.hook_post": (6, 7, 256),
    }
    assert {name: tuple(cache[name].shape) for name in shapes} == shapes
    assert logits.shape == (6, 5, 13)
    _, cache = make_recursive_net(**MLP, expansion=60.0).run_with_cache(tokens)
    shapes = {"blocks.3.pos_mlp.hook_post": (6, 12, 512), "blocks.3.ln1.hook_scale": (6, 1, 12)}
    assert {name: tuple(cache[name].shape) for name in shapes} == shapes


def test_the_cache_keeps_every_pass_under_short_names():
    net, tokens = kept_recursive_net("rotary"), recursive_tokens()
    logits, cache = net.run_with_cache(tokens)
    assert isinstance(cache, ActivationCache)
    for layer in range(16):
        assert torch.equal(cache["resid_post", layer], cache[f"blocks.{layer}.hook_resid_post"])
    assert torch.equal(cache["resid_post", -1], cache["resid_post", 15])
    assert torch.equal(net.logits_at(cache["resid_post", 15][:, 2:]), logits)
    assert len({cache["resid_post", layer].sum().item() for layer in range(16)}) == 16
    _, one = net.run_with_cache(tokens[:1], remove_batch_dim=True)
    assert one["resid_post", 3].shape == (7, 12)


def test_what_is_injected_stands_before_the_first_block_of_a_step():
    """z_L + z_H + x at an inner step, z_H + z_L at a commit."""
    net = kept_recursive_net("learned")
    _, cache = net.run_with_cache(recursive_tokens())
    post = {site.label: cache[site.hook_name] for site in net.lens_sites}
    x = cache["embed"] + cache["pos_embed"]
    assert torch.equal(x, post["embed"])
    second_inner, commit, next_cycle = (cache["resid_pre", layer] for layer in (2, 6, 8))
    torch.testing.assert_close(second_inner, post["H0.L0"] + net.z_H_init + x, rtol=0, atol=1e-13)
    torch.testing.assert_close(commit, net.z_H_init + post["H0.L2"], rtol=0, atol=1e-13)
    torch.testing.assert_close(next_cycle, post["H0.L2"] + post["H0.commit"] + x, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", RECURSIVE)
def test_watching_changes_nothing(name):
    net, tokens = kept_recursive_net(name), recursive_tokens()
    logits, _ = net.run_with_cache(tokens)
    torch.testing.assert_close(logits, net(tokens), rtol=0, atol=1e-12)
    assert net.list_hooks() == {}


def test_heads_results_add_up_only_while_watched():
    net, tokens = kept_recursive_net("rotary"), recursive_tokens()
    _, unwatched = net.run_with_cache(tokens, names_filter="blocks.5.hook_attn_out")
    _, cache = net.run_with_cache(tokens, names_filter="blocks.5.attn.hook_result")
    torch.testing.assert_close(cache["result", 5].sum(dim=2), unwatched["attn_out", 5], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in [*IN_ATTENTION, *AFTER_MIXING] if "result" not in n])
def test_each_hook_of_an_attention_block_reaches_the_logits(name):
    check_reaches_logits(kept_recursive_net("rotary"), name)


@pytest.mark.parametrize("name", IN_POSITION_MLP)
def test_each_hook_of_a_position_mlp_reaches_the_logits(name):
    check_reaches_logits(kept_recursive_net("position MLP"), name)


def check_reaches_logits(net, name):
    tokens = recursive_tokens()

    def nudge(activation, hook):
        noise = torch.randn(activation.shape, dtype=activation.dtype, generator=torch.Generator().manual_seed(0))
        return activation + 0.1 * noise

    moved = net.run_with_hooks(tokens, fwd_hooks=[(f"blocks.7.{name}", nudge)])
    assert (moved - net(tokens)).abs().max() > 1e-6


def test_an_edit_in_place_does_not_reach_the_weights():
    net, tokens = kept_recursive_net("learned"), recursive_tokens()
    before = {name: weight.clone() for name, weight in net.unique_state_dict().items()}
    with torch.no_grad(), net.hooks(fwd_hooks=[(lambda _name: True, lambda activation, **_: activation.zero_())]):
        net(tokens)
    assert all(torch.equal(weight, before[name]) for name, weight in net.unique_state_dict().items())


def test_weights_are_tied_and_counted_once():
    net = kept_recursive_net("learned")
    in_block = 3 * 12 * 256 + 4 * 12 * 12
    expected = (17 + 2 + 7 + 13) * 12 + 2 * in_block
    assert sum(parameter.numel() for parameter in net.parameters()) == expected
    assert {name.split(".")[1] for name, _ in net.named_parameters() if name.startswith("blocks.")} == {"0", "1"}
    for layer in range(16):
        for name, parameter in net.blocks[layer].named_parameters():
            assert parameter is net.blocks[layer % 2].get_parameter(name)
    assert len(net.tl_parameters()) == 4 + 16 * 7


def test_initial_streams_are_saved_but_not_trained():
    net = make_recursive_net(l_cycles=1)
    assert {"z_L_init", "z_H_init"} <= net.unique_state_dict().keys()
    assert not {"z_L_init", "z_H_init"} & dict(net.named_parameters()).keys()
    net.requires_grad_(True)
    assert not net.z_L_init.requires_grad


def test_unique_state_dict_goes_through_safetensors(tmp_path):
    net, other = make_recursive_net(), make_recursive_net(seed=5, init_seed=9)
    tokens = recursive_tokens()
    assert (net(tokens) - other(tokens)).abs().max() > 1e-3
    save_file(net.unique_state_dict(), tmp_path / "weights.safetensors")
    other.load_unique_state_dict(load_file(tmp_path / "weights.safetensors"))
    assert torch.equal(net(tokens), other(tokens))
    assert torch.equal(copy.deepcopy(net)(tokens), net(tokens))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.pop("z_H_init"), r"missing \['z_H_init'\], unknown \[\]"),
        (lambda state: state.update(extra=torch.zeros(1)), r"missing \[\], unknown \['extra'\]"),
        (lambda state: state.update(z_L_init=torch.zeros(11)), r"weight z_L_init must be \[12\] torch.float64"),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(edit, message):
    net = make_recursive_net()
    before = {name: weight.clone() for name, weight in net.unique_state_dict().items()}
    state = {name: torch.zeros_like(weight) for name, weight in before.items()}
    edit(state)
    with pytest.raises(ValueError, match=message):
        net.load_unique_state_dict(state)
    assert all(torch.equal(weight, before[name]) for name, weight in net.unique_state_dict().items())


def test_copies_that_differ_are_refused():
    net = make_recursive_net()
    state = {name: weight.clone() for name, weight in net.state_dict().items()}
    state["blocks.3.mlp.W_in"][0, 0] += 1
    with pytest.raises(
        ValueError, match=r"blocks.3.mlp.W_in differs from blocks.1.mlp.W_in, but layer_map = \[0, 1, 0"
    ):
        net.load_state_dict(state)


def test_accelerator_gives_the_same_logits():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device; runs wherever there is one")
    tokens, position = recursive_tokens(), torch.tensor([0, 1, 2, 3, 4, 2])
    for changes in RECURSIVE.values():
        net, on_gpu = make_recursive_net(**changes), make_recursive_net(**changes).to("cuda")
        torch.testing.assert_close(on_gpu(tokens).cpu(), net(tokens), rtol=0, atol=1e-9)
        answer = on_gpu(tokens, answer_only=True, answer_position=position)
        torch.testing.assert_close(answer.cpu(), net(tokens)[torch.arange(6), position], rtol=0, atol=1e-9)
