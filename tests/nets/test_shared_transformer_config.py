"""The config: what it fills in, what it refuses, and the initial weights that follow from it."""

import math
import re

import pytest
import torch
from pydantic import ValidationError
from small_nets import make_config

from circuit_lab.nets import NETS, HookedSharedTransformer, SharedTransformerConfig, build_net

SMALLEST = {"layer_map": (0, 0), "d_model": 12, "n_heads": 3, "d_mlp": 20, "d_vocab": 17, "n_ctx": 4}


def test_defaults_that_follow_from_other_fields():
    config = SharedTransformerConfig(**SMALLEST)
    assert (config.d_head, config.d_vocab_out, config.final_norm) == (4, 17, True)
    assert SharedTransformerConfig(**SMALLEST, normalization_type=None).final_norm is False
    assert config.weight_std == 1 / math.sqrt(12)
    assert SharedTransformerConfig(**SMALLEST, init_std=0.02).weight_std == 0.02
    assert (config.n_layers, config.n_blocks) == (2, 1)


def test_toml_spellings():
    config = SharedTransformerConfig(**{**SMALLEST, "layer_map": [0, 1, 0]}, normalization_type="none")
    assert config.layer_map == (0, 1, 0)
    assert config.normalization_type is None


def test_round_trip_through_python_and_json():
    config = SharedTransformerConfig(**SMALLEST, normalization_type="RMS", init_std=0.02, d_head=5)
    assert SharedTransformerConfig.model_validate(config.model_dump()) == config
    assert SharedTransformerConfig.model_validate_json(config.model_dump_json()) == config
    assert hash(config) == hash(SharedTransformerConfig.model_validate(config.model_dump()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_map": (1, 0)}, "in order of first use, got [1, 0]; the same sharing is written [0, 1]"),
        ({"layer_map": (0, 2, 2)}, "in order of first use, got [0, 2, 2]; the same sharing is written [0, 1, 1]"),
        ({"layer_map": (0, -1)}, "got [0, -1]; the same sharing is written [0, 1]"),
        ({"layer_map": ()}, "layer_map is empty"),
        ({"layer_map": (0, True)}, "layer_map.1"),
        ({"d_model": 13}, "d_model = 13 is not divisible by n_heads = 3, so there is no default d_head; give d_head"),
        ({"normalization_type": None, "final_norm": True}, "final_norm = true needs a norm"),
        ({"normalization_type": None, "norm_position": "post"}, 'norm_position = "post" needs a norm'),
        ({"d_mlp": 0}, "d_mlp"),
        ({"d_mlp": "20"}, "d_mlp"),
        ({"d_mlp": 20.0}, "d_mlp"),
        ({"init_std": 0.0}, "init_std"),
        ({"init_seed": -1}, "init_seed"),
        ({"eps": math.inf}, "eps"),
        ({"act_fn": "swish"}, "Input should be 'gelu', 'gelu_new', 'relu' or 'silu'"),
        ({"normalization_type": "LNPre"}, "Input should be 'LN' or 'RMS'"),
        ({"attention_dir": "both"}, "Input should be 'causal' or 'bidirectional'"),
        ({"dropout": 0.1}, "Extra inputs are not permitted"),
    ],
)
def test_refusals_name_field_value_and_fix(change, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        SharedTransformerConfig(**{**SMALLEST, **change})


def test_what_transformer_lens_reads_from_the_config():
    config = SharedTransformerConfig(**SMALLEST, normalization_type="RMS")
    expected = {"n_layers": 2, "n_heads": 3, "d_head": 4, "normalization_type": "RMS", "n_key_value_heads": None}
    expected |= {"attn_only": False, "parallel_attn_mlp": False, "positional_embedding_type": "standard"}
    # results of single heads are there on demand; copies of the stream per reader are not
    expected |= {"use_attn_result": True, "use_split_qkv_input": False, "use_hook_mlp_in": False, "use_attn_in": False}
    expected |= {"model_name": "shared_transformer", "dtype": torch.float32, "device": torch.device("cpu")}
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize("missing", ["layer_map", "d_model", "n_heads", "d_mlp", "d_vocab", "n_ctx"])
def test_sizes_are_required(missing):
    with pytest.raises(ValidationError, match=rf"{missing}\n +Field required"):
        SharedTransformerConfig(**{name: value for name, value in SMALLEST.items() if name != missing})


def test_config_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        SharedTransformerConfig(**SMALLEST).d_model = 13


def test_build_net_dispatches_on_kind():
    config = SharedTransformerConfig(**SMALLEST)
    net = build_net(config)
    assert type(net) is NETS[config.kind] is HookedSharedTransformer
    assert net.cfg is config
    assert (net.device, net.dtype) == (torch.device("cpu"), torch.float32)


def test_initial_weights_in_the_documented_order():
    """W_E, W_pos, per block W_Q W_K W_V W_O W_in W_out, W_U, each normal, from one generator."""
    net = build_net(SharedTransformerConfig(**{**SMALLEST, "layer_map": (0, 1, 1)}, init_seed=5, init_std=0.3))
    generator = torch.Generator().manual_seed(5)
    blocks = [net.blocks[0], net.blocks[1]]
    drawn = [net.embed.W_E, net.pos_embed.W_pos]
    for block in blocks:
        drawn += [block.attn.W_Q, block.attn.W_K, block.attn.W_V, block.attn.W_O, block.mlp.W_in, block.mlp.W_out]
    drawn.append(net.unembed.W_U)
    for weight in drawn:
        assert torch.equal(weight, torch.empty(weight.shape).normal_(0.0, 0.3, generator=generator))
    rest = {name: p for name, p in net.named_parameters() if all(p is not weight for weight in drawn)}
    assert {name.split(".")[-1] for name in rest} == {"w", "b", "b_Q", "b_K", "b_V", "b_O", "b_in", "b_out"}
    assert all((p == (1.0 if name.endswith(".w") else 0.0)).all() for name, p in rest.items())


@pytest.mark.parametrize(("init_std", "expected"), [(0.02, 0.02), (None, 1 / 8)])
def test_standard_deviation_of_every_weight(init_std, expected):
    sizes = {"layer_map": (0, 1), "d_model": 64, "n_heads": 4, "d_mlp": 256, "d_vocab": 71, "n_ctx": 32}
    net = build_net(SharedTransformerConfig(**sizes, init_std=init_std))
    weights = [p for p in net.parameters() if p.ndim >= 2 and p.abs().max() > 0]
    assert len(weights) == 2 + 6 * 2 + 1
    for weight in weights:
        # 6 standard errors of a sample standard deviation
        assert weight.std().item() == pytest.approx(expected, rel=6 / math.sqrt(2 * weight.numel()))
        assert abs(weight.mean().item()) < 6 * expected / math.sqrt(weight.numel())


def test_initialisation_neither_reads_nor_moves_the_global_generator():
    config = SharedTransformerConfig(**SMALLEST)
    torch.manual_seed(1)
    first = build_net(config)
    after_building = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), after_building)
    torch.manual_seed(2)
    second = build_net(config)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    other = build_net(SharedTransformerConfig(**SMALLEST, init_seed=1))
    assert not torch.equal(first.W_E, other.W_E)


def test_initialisation_ignores_torch_defaults():
    config = SharedTransformerConfig(**SMALLEST)
    expected = build_net(config).unique_state_dict()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            net = build_net(config)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(value, net.unique_state_dict()[name]) for name, value in expected.items())
    assert net(torch.zeros(1, 4, dtype=torch.long)).dtype == torch.float32


def test_accelerator_gives_the_same_weights_and_logits(make_net, tokens):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device; runs wherever there is one")
    net = make_net()
    expected, expected_weights = net(tokens), net.unique_state_dict()
    on_gpu = make_net().to("cuda")
    assert on_gpu.device.type == "cuda"
    assert all(torch.equal(value.cpu(), expected_weights[name]) for name, value in on_gpu.unique_state_dict().items())
    torch.testing.assert_close(on_gpu(tokens).cpu(), expected, rtol=0, atol=1e-10)
    answer = on_gpu(tokens, answer_only=True, answer_position=torch.tensor([0, 1, 2, 3, 1, 2]))
    torch.testing.assert_close(answer.cpu(), expected[torch.arange(6), [0, 1, 2, 3, 1, 2]], rtol=0, atol=1e-10)


def test_masks_that_would_take_gigabytes_are_refused():
    make_config(layer_map=(0,), n_ctx=46_340)  # its square is just below 2^31
    with pytest.raises(
        ValidationError, match=r"n_ctx = 46341 positions in 1 layer\(s\) need attention masks of 2,147,4"
    ):
        make_config(layer_map=(0,), n_ctx=46_341)
    with pytest.raises(ValidationError, match=r"in 4096 layer\(s\)"):
        make_config(layer_map=(0,) * 4096, n_ctx=1000)
