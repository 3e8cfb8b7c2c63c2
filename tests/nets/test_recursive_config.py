"""The config of a recursive net, the table of nets, and the initial weights."""

import math

import pytest
import torch
from pydantic import ValidationError
from recursive_nets import MLP, RECURSIVE, SIZES, recursive_config

from circuit_lab.nets import (
    NETS,
    HookedRecursiveTransformer,
    HookedSharedTransformer,
    RecursiveTransformerConfig,
    SharedTransformerConfig,
    build_net,
    net_config,
    shared_transformer,
)
from circuit_lab.nets.recursive_config import swiglu_width

PAPER = {
    "n_blocks": 2,
    "h_cycles": 2,
    "l_cycles": 6,
    "d_model": 1536,
    **MLP,
    "d_vocab": 2207,
    "n_ctx": 5,
    "n_prefix": 16,
}
SHARED = {"layer_map": [0, 0], "d_model": 8, "n_heads": 2, "d_mlp": 16, "d_vocab": 5, "n_ctx": 3}


@pytest.mark.parametrize(
    ("width", "expansion", "neurons"),
    [(1536, 4.0, 4096), (97, 4.0, 512), (96, 4.0, 256), (512, 4.0, 1536), (3, 0.01, 256)],
)
def test_swiglu_width(width, expansion, neurons):
    """1536 * 8 / 3 = 4096; 97 * 8 / 3 = 258.7 -> 512; 512 * 8 / 3 = 1365.3 -> 1536."""
    assert swiglu_width(width, expansion=expansion) == neurons


def test_derived_fields_of_the_papers_net():
    config = RecursiveTransformerConfig(**PAPER)
    assert (config.d_vocab_out, config.d_head, config.d_mlp, config.d_position_mlp) == (2207, 0, 4096, 256)
    assert (config.n_positions, config.n_stages, config.n_layers) == (21, 14, 28)
    assert config.layer_map == (0, 1) * 14
    assert (config.gradient, config.positions, config.eps) == ("last_h_cycle", "none", 1e-5)
    assert "2 x (6 + 1) steps of 2 block(s), width 1536, an MLP over positions" in config.in_words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_heads": 5}, "n_heads must divide d_model = 12, got 5"),
        ({"n_heads": 0}, "n_heads must divide d_model = 12, got 0"),
        ({"positions": "rotary", "n_heads": 4}, "d_head = d_model / n_heads must be even, got 3"),
        ({"token_mixing": "position_mlp"}, 'n_heads = 3, but token_mixing = "position_mlp" has no heads'),
        ({**MLP, "positions": "rotary"}, 'positions = "rotary" turns queries and keys'),
        ({"l_cycles": 4095}, r"h_cycles = 2, l_cycles = 4095 and n_blocks = 2 make 16384 layers"),
        ({"h_cycles": 0}, "h_cycles\n.*greater than or equal to 1"),
        ({"h_cycles": "2"}, "h_cycles\n.*valid integer"),
        ({"positions": "rope"}, "positions\n.*'rotary', 'learned' or 'none'"),
        ({"d_mlp": 256}, "d_mlp\n.*Extra inputs are not permitted"),
        ({"expansion": float("nan")}, "expansion\n.*"),
        ({"gradient": "first"}, "gradient\n.*'last_h_cycle' or 'all'"),
    ],
)
def test_config_errors(changes, message):
    with pytest.raises(ValidationError, match=message):
        recursive_config(**changes)


def test_missing_fields_and_frozen_config():
    with pytest.raises(ValidationError, match="n_blocks\n.*Field required"):
        RecursiveTransformerConfig(**{name: value for name, value in SIZES.items() if name != "n_blocks"})
    with pytest.raises(ValidationError, match="frozen"):
        recursive_config().n_blocks = 3


@pytest.mark.parametrize("changes", RECURSIVE.values(), ids=RECURSIVE)
def test_net_config_reads_what_a_config_writes(changes):
    config = recursive_config(**changes)
    assert net_config(config.model_dump(mode="json")) == config
    shared = SharedTransformerConfig(**SHARED)
    assert net_config(shared.model_dump(mode="json")) == shared


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {"kind": "rnn"},
            "'rnn' found using 'kind' does not match any of the expected tags: 'shared_transformer', 'rec",
        ),
        (SHARED, "Unable to extract tag using discriminator 'kind'"),
        ({**SHARED, "kind": "recursive_transformer"}, "layer_map\n.*Extra inputs are not permitted"),
    ],
)
def test_net_config_refuses_what_is_no_config(data, message):
    with pytest.raises(ValidationError, match=message):
        net_config(data)


def test_build_net_dispatches_on_kind():
    for config, cls in [
        (recursive_config(), HookedRecursiveTransformer),
        (SharedTransformerConfig(**SHARED), HookedSharedTransformer),
    ]:
        net = build_net(config)
        assert type(net) is NETS[config.kind] is cls
        assert net.cfg is config
        assert (net.device, net.dtype) == (torch.device("cpu"), torch.float32)


def test_shared_transformer_lets_only_shared_ones_through():
    shared = build_net(SharedTransformerConfig(**SHARED))
    assert shared_transformer(shared, place="here") is shared
    with pytest.raises(
        ValueError, match="here is a recursive transformer, and what is asked for is defined on the one"
    ):
        shared_transformer(build_net(recursive_config()), place="here")


def truncated(shape, fan_in, generator):
    """By torch's own truncated normal: cut at 2 standard deviations of a normal that is 1 / 0.87962566 as wide."""
    std = fan_in**-0.5 / 0.8796256610342398
    return torch.nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std, generator=generator)


@pytest.mark.parametrize("changes", [{"positions": "learned"}, {**MLP}])
def test_initial_weights_in_the_documented_order(changes):
    net = build_net(recursive_config(init_seed=5, **changes))
    generator = torch.Generator().manual_seed(5)
    fan_in = {"W_gate": None, "W_in": None, "W_out": None}
    weights = [(net.embed.W_E, 12)]
    if net.pos_embed is not None:
        weights.append((net.pos_embed.W_pos, 12))
    for block in net.blocks[:2]:
        if net.pos_embed is not None:
            weights += [(getattr(block.attn, name), 12) for name in ("W_Q", "W_K", "W_V", "W_O")]
        else:
            weights += [(getattr(block.pos_mlp, name), 256 if name == "W_out" else 7) for name in fan_in]
        weights += [(getattr(block.mlp, name), 256 if name == "W_out" else 12) for name in fan_in]
    weights += [(net.unembed.W_U, 12), (net.z_L_init, 1), (net.z_H_init, 1)]
    for weight, read in weights:
        torch.testing.assert_close(weight.detach(), truncated(weight.shape, read, generator), rtol=1e-6, atol=0)
    assert net.embed.W_prefix.abs().max() == 0
    assert len(weights) + 1 == len(net.unique_state_dict())


def test_spread_and_cut_of_initial_weights():
    """Standard deviation 1 / sqrt(numbers read) after the cut, which lies 2 / 0.88 of them away."""
    net = build_net(RecursiveTransformerConfig(**{**SIZES, "d_model": 60, "n_heads": 3}))
    for weight, read in [(net.blocks[1].mlp.W_in, 60), (net.blocks[1].mlp.W_out, 256), (net.blocks[0].attn.W_O, 60)]:
        expected = read**-0.5
        assert weight.std().item() == pytest.approx(expected, rel=6 / math.sqrt(2 * weight.numel()))
        assert 2.2 * expected < weight.abs().max() <= 2.2737 * expected


def test_initialisation_neither_reads_nor_moves_the_global_generator():
    torch.manual_seed(1)
    first = build_net(recursive_config())
    after_building = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after_building)
    second = build_net(recursive_config())
    other = build_net(recursive_config(init_seed=1))
    for name, weight in first.unique_state_dict().items():
        assert torch.equal(weight, second.unique_state_dict()[name])
    assert not torch.equal(first.z_H_init, other.z_H_init)
