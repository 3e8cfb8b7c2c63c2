"""Legacy TransformerLens: everything that must be refused, and what is said where nothing is."""

import json

import pytest
import torch
from foreign_nets import causal_ln, in_memory, modular, without, write_json

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Options
from circuit_lab.importers.legacy_transformer_lens import read, recognises


def imported(state, config=None, **options):
    content = state if config is None else {"model": state, "config": config}
    return read(in_memory(content), Options(**options))


def refused(match, state, config=None, **options):
    with pytest.raises(InputError, match=match) as error:
        imported(state, config, **options)
    assert "\n" not in str(error.value)


def test_every_missing_tensor_is_named():
    state, config, *_ = causal_ln()
    needed = without(state, "b_Q", "b_K", "b_V", "b_O", "b_in", "b_out", "b_U", "mask", "IGNORE")
    assert len(needed) == 25
    for name in needed:
        rest = {other: tensor for other, tensor in state.items() if other != name}
        refused(f"{name} is missing, so this is no whole legacy TransformerLens net", rest, config)


def test_every_turned_tensor_is_named():
    """Each weight with its axes in reverse order, as codes that store [out, in] have them."""
    state, config, *_ = causal_ln()
    turned = [name for name, tensor in state.items() if tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1]]
    turned += [name for name in state if name.endswith(("W_Q", "W_K", "W_V", "W_O"))]
    assert len(turned) == 3 + 2 * (3 + 2 + 4)
    for name in turned:
        tensor = state[name].transpose(-1, -2).contiguous()
        refused(f"{name} must be .*; it looks transposed", {**state, name: tensor}, config)


def test_every_tensor_of_another_size_is_named():
    state, config, *_ = causal_ln()
    for name, tensor in state.items():
        if tensor.ndim == 0 or name in ("embed.W_E", "unembed.W_U", "pos_embed.W_pos"):
            continue  # they say a size themselves, so another tensor would be blamed
        longer = torch.cat([tensor, tensor[..., :1]], dim=-1)
        with pytest.raises(InputError, match=r"must be \[|contradicts the shapes"):
            imported({**state, name: longer}, config)


def test_every_weight_must_be_finite_and_floating():
    state, config, *_ = causal_ln()
    for name in without(state, "mask", "IGNORE"):
        for bad in (torch.nan, torch.inf):
            tensor = state[name].clone()
            tensor.view(-1)[-1] = bad
            refused(f"{name} are NaN or infinite", {**state, name: tensor}, config)
        refused(
            f"{name} must hold floating-point numbers, got torch.int64", {**state, name: state[name].long()}, config
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "expected a dict of tensors by name, got dict of 0"),
        (None, "expected a dict of tensors by name, got NoneType"),
        ([1, 2], "got list of 2"),
        (
            modular()[0] | {"blocks.0.attn.W_Z": torch.ones(2, 3)},
            r"W_Z \[2, 3\] is not part of .* nearest name .* is blocks",
        ),
        (modular()[0] | {"epoch": 3}, "epoch must be a tensor, got int"),
        (modular()[0] | {"optimizer": {"lr": "x" * 1000}}, "optimizer must be a tensor, got dict of 1$"),
        (modular()[0] | {5: torch.ones(2)}, "a name must be text, got int"),
        (modular()[0] | {"a\nb": torch.ones(2)}, "a name must be at most 300 printable characters, got str of 3"),
        (modular()[0] | {"a" * 301: torch.ones(2)}, "a name must be at most 300 printable characters, got str of 301"),
        (modular()[0] | {"blocks.2.ln1.w": torch.ones(12)}, "layer blocks.1 is missing"),
        (
            modular()[0] | {"blocks.99999999.mlp.b_in": torch.ones(20)},
            r"blocks.99999999.mlp.b_in \[20\] is not part of",
        ),
        (modular()[0] | {"embed.W_E": torch.ones(8)}, "embed.W_E must have 2 axes, got shape"),
        (modular()[0] | {"embed.W_E": torch.ones(0, 12)}, "d_vocab is 0 by the shapes"),
        (modular()[0] | {"unembed.b_U": torch.ones(7, dtype=torch.complex64)}, "unembed.b_U is a .* torch.complex64"),
        (
            modular()[0] | {"blocks.0.attn.rotary_sin": torch.ones(3, 4)},
            "rotary_sin belongs to rotary position embeddings",
        ),
        (modular()[0] | {"blocks.0.attn._W_K": torch.ones(3, 4)}, "grouped-query attention"),
        (modular()[0] | {"blocks.0.mlp.W_gate": torch.ones(12, 20)}, "a gated MLP"),
        (modular()[0] | {"embed.token_type_embed.W_token_type": torch.ones(2, 12)}, "token types"),
        (without(modular()[0], "W_in"), "blocks.0.mlp.W_in is missing"),
    ],
)
def test_what_is_no_such_state_dict(content, message):
    with pytest.raises(InputError, match=message):
        read(in_memory(content), Options())


def test_a_huge_attention_mask_is_not_built():
    positions = torch.ones(100_000, 12).double()
    refused("n_ctx = 100000 positions in 1 .* at most", modular()[0] | {"pos_embed.W_pos": positions})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 13}, "d_model = 13 contradicts the shapes of the tensors, by which it is 12"),
        ({"n_layers": 3}, "n_layers = 3 contradicts .* it is 2"),
        ({"n_heads": 5}, "n_heads = 5 contradicts"),
        ({"d_vocab_out": 9}, "d_vocab_out = 9 contradicts"),
        ({"d_mlp": "20"}, 'd_mlp must be a whole number of at least 1, got "20"'),
        ({"n_ctx": True}, "n_ctx must be a whole number of at least 1, got true"),
        ({"act_fn": "solu_ln"}, 'act_fn must be one of gelu, .* got "solu_ln"'),
        ({"act_fn": None}, "act_fn cannot be told from shapes, and there is none in run.pth, entry config"),
        ({"normalization_type": None}, "normalization_type = null contradicts .* has norm weights and biases"),
        ({"normalization_type": "RMS"}, 'normalization_type = "RMS" contradicts'),
        ({"normalization_type": "LNPre"}, 'normalization_type = "LNPre" contradicts'),
        ({"normalization_type": ["LN"]}, "normalization_type must be a number, text, true, false or null, got list"),
        ({"normalization_type": "BN"}, 'normalization_type must be one of null, LN, RMS, LNPre, RMSPre, got "BN"'),
        ({"n_heads": torch.ones(2)}, "n_heads must be a number, .* got Tensor"),
        ({"d_head": 10**5000}, "d_head must be a whole number of at least 1, got int"),
        ({"per_layer_head_dim": [5, 5]}, "per_layer_head_dim = list is not something"),
        ({"attention_dir": "sideways"}, 'attention_dir must be "causal" or "bidirectional", got "sideways"'),
        ({"eps": 0}, "eps must be a number > 0, got 0"),
        ({"eps": float("nan")}, "eps must be a number > 0, got float"),
        ({"atn_only": True}, '"atn_only" is no setting of TransformerLens .*; the nearest is attn_only'),
        ({"attn_only": True}, "attn_only = true is not something a shared transformer does; it must be false"),
        ({"gated_mlp": True}, "gated_mlp = true is not"),
        ({"parallel_attn_mlp": True}, "parallel_attn_mlp = true is not"),
        ({"positional_embedding_type": "rotary"}, 'positional_embedding_type = "rotary" is not .* must be "standard"'),
        ({"use_local_attn": True}, "use_local_attn = true is not"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = true is not"),
        ({"use_attn_scale": False}, "use_attn_scale = false is not"),
        ({"attn_scale": 1.0}, "attn_scale = 1.0 is not .* square root of d_head"),
        ({"n_key_value_heads": 1}, "n_key_value_heads = 1 is not"),
        ({"output_logits_soft_cap": 30.0}, "output_logits_soft_cap = 30.0 is not"),
        ({"attn_scores_soft_cap": 30}, "attn_scores_soft_cap = 30 is not"),
        ({"final_rms": True}, "final_rms = true is not"),
        ({"num_experts": 4}, "num_experts = 4 is not"),
        ({"post_embedding_ln": True}, "post_embedding_ln = true is not"),
        ({"use_normalization_before_and_after": 1}, "use_normalization_before_and_after = 1 is not"),
    ],
)
def test_settings_that_are_refused(change, message):
    state, config, *_ = causal_ln()
    refused(message, state, config | change)


def test_settings_that_are_allowed():
    state, config, tokens, logits = causal_ln()
    harmless = {
        "seed": 3,
        "device": "cuda",
        "dtype": "torch.float64",
        "init_mode": "gpt2",
        "n_params": 9,
        "rotary_dim": None,
    }
    checked = {"attn_scale": 5**0.5, "n_key_value_heads": 3, "output_logits_soft_cap": -1.0, "d_vocab_out": -1}
    result = imported(state, config | harmless | checked)
    torch.testing.assert_close(result.net(tokens), logits, rtol=0, atol=1e-6)
    assert (
        "settings device, dtype, init_mode, n_params, rotary_dim and 1 more: they do not change the logits"
        in result.ignored
    )


@pytest.mark.parametrize(
    ("theirs", "ours"), [("gelu_fast", "gelu_new"), ("gelu_pytorch_tanh", "gelu_new"), ("swish", "silu")]
)
def test_activations_of_another_name(theirs, ours):
    state, config, *_ = causal_ln()
    result = imported(state, config | {"act_fn": theirs})
    assert result.net.cfg.act_fn == ours and any(f"calls it {theirs}" in note for note in result.inferred)


def test_a_normed_net_needs_its_activation():
    state, *_ = causal_ln()
    refused(
        r'there is none in the config \(there is none\); give a JSON file as config, such as {"act_fn": "gelu"}', state
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", "must be a JSON object"),
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ('{"a": "' + "x" * (1 << 20), "bytes|larger"),
    ],
)
def test_a_config_that_is_no_settings(text, message, tmp_path):
    path = tmp_path / "given.json"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read(in_memory(causal_ln()[0]), Options(config=path))


def test_a_config_beside_the_checkpoint_must_not_lead_elsewhere(tmp_path):
    outside = write_json(tmp_path / "secret.json", {"act_fn": "gelu"})
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "config.json").symlink_to(outside)
    with pytest.raises(InputError, match=r"config.json"):
        read(in_memory(causal_ln()[0], folder / "net.pt"), Options())


def test_a_config_in_the_file_that_is_none():
    state, *_ = causal_ln()
    refused("entry config must be a dict of settings by name, got list", state, config=[1])


def test_options_that_mean_nothing_here():
    state, *_ = modular()
    refused("n_passes = 2 is for GPT-2 folders", state, n_passes=2)
    refused("holds no moving average", state, weights="ema")
    assert imported(state, weights="raw").net.cfg.n_layers == 1


@pytest.mark.parametrize(
    "content", [None, [], 3, {"model": 3}, {"checkpoints": []}, {"checkpoints": [{}]}, {5: {}}, {}]
)
def test_recognising_never_raises(content):
    assert not recognises(in_memory(content))


def test_entries_of_any_name_are_listed_in_one_line():
    state, *_ = modular()
    content = {"model": state, 5: 1, "a\nb": 2, "c" * 500: 3, "epoch": -4}
    result = read(in_memory(content), Options())
    assert result.ignored == (
        f"entries 'a\\nb', a name of type int, {'c' * 60}..., epoch: beside model, no weights of it",
    )
    assert result.step is None


def test_the_whole_report_is_text_for_people():
    state, config, *_ = causal_ln()
    result = imported(state, config)
    assert json.dumps([*result.inferred, *result.ignored]) and all("\n" not in note for note in result.inferred)
    assert any(note.startswith("blocks.0.attn.IGNORE") and "buffers" in note for note in result.ignored)
