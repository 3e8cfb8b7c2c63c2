"""TransformerLens 4's boot_native: against a real bridge's logits, and everything that must be refused."""

import pytest
import torch
from foreign_nets import (
    NATIVE_SETTINGS,
    in_memory,
    native_bridge,
    native_golden,
    native_settings,
    native_tokens,
    raw_native,
    write_json,
)
from safetensors.torch import save_file

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Options
from circuit_lab.importers.legacy_transformer_lens import recognises as legacy_recognises
from circuit_lab.importers.native_transformer_lens import NATIVE_TRANSFORMER_LENS, read, recognises
from circuit_lab.importers.original_grokking import recognises as original_recognises
from circuit_lab.importers.source import read_source


def imported(state, settings, **options):
    return read(in_memory({"state_dict": state, "config": settings}), Options(**options))


def refused(match, state, settings=NATIVE_SETTINGS, **options):
    with pytest.raises(InputError, match=match) as error:
        imported(state, settings, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_logits_of_a_bridge(suffix, tmp_path):
    """float32 in both, so the order of additions shows in the seventh digit of logits of size 10."""
    state, settings, tokens, logits = native_golden()
    path = tmp_path / f"bridge{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        save_file(state, path)
    write_json(tmp_path / "config.json", settings)
    source = read_source(path)
    assert recognises(source) and not original_recognises(source) and not legacy_recognises(source)
    result = NATIVE_TRANSFORMER_LENS.read(source, Options())
    torch.testing.assert_close(result.net(tokens), logits, rtol=0, atol=1e-5)
    assert result.net.dtype == torch.float32 and not result.net.training
    assert result.net.cfg.eps == 0.01 and result.net.cfg.unembed_bias


@pytest.mark.parametrize(
    ("change", "at_least"),
    [
        ({"n_heads": 5, "d_head": 3}, 0.1),
        ({"eps": 1e-5}, 1e-3),
        ({"act_fn": "gelu"}, 1e-4),
        ({"attention_dir": "bidirectional"}, 0.1),
    ],
)
def test_tolerance_would_catch_other_settings(change, at_least):
    state, settings, tokens, logits = native_golden()
    assert (imported(state, {**settings, **change}).net(tokens) - logits).abs().max() > at_least


def test_a_native_model_by_its_own_names():
    state, settings, tokens, _ = native_golden()
    state["unembed.bias"] = torch.zeros(13)
    with_zero = imported(state, settings).net(tokens)
    raw = raw_native(state)
    assert "head.weight" in raw and "layers.1.mlp.fc_in.weight" in raw and recognises(in_memory(raw))
    result = imported(raw, settings)
    torch.testing.assert_close(result.net(tokens), with_zero, rtol=0, atol=0)
    assert not result.net.cfg.unembed_bias


def test_wrapped_names_and_several_names_of_one_tensor():
    state, settings, tokens, logits = native_golden()
    wrapped = {
        name.replace("blocks.0.attn.", "blocks.0._original_component.attn._original_component."): tensor
        for name, tensor in state.items()
    }
    assert wrapped.keys() != state.keys()
    result = imported(state | wrapped, settings)
    torch.testing.assert_close(result.net(tokens), logits, rtol=0, atol=1e-5)
    assert "8 tensor(s) that are there by several names: all equal" in result.ignored
    name = next(name for name in wrapped if name not in state)
    refused("differs from .*, but both are blocks.0.attn", {**state, name: wrapped[name] + 1}, settings)


def test_few_settings_are_enough(tmp_path):
    state, _, tokens, logits = native_golden()
    path = write_json(tmp_path / "given.json", {"n_heads": 3, "act_fn": "gelu_new", "eps": 0.01})
    result = read(in_memory(state), Options(config=path))
    torch.testing.assert_close(result.net(tokens), logits, rtol=0, atol=1e-5)
    by_head = write_json(tmp_path / "head.json", {"d_head": 5, "act_fn": "gelu_new", "eps": 0.01})
    assert read(in_memory(state), Options(config=by_head)).net.cfg.n_heads == 3
    assert any("normalization_type = LN (the file has norm weights and biases)" in note for note in result.inferred)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            None,
            r"number of heads cannot be told .* has 15 rows.* there is none in the config \(there is none\)",
        ),
        ({"act_fn": "gelu"}, r"number of heads .* there is none in run.pth, entry config; give a JSON file"),
        ({"n_heads": 4, "act_fn": "gelu"}, "n_heads = 4 does not divide the 15 rows of blocks.0.attn.q.weight"),
        ({"d_head": 4, "act_fn": "gelu"}, "d_head = 4 does not divide the 15 rows"),
        ({"d_head": 16, "act_fn": "gelu"}, "d_head = 16 does not divide the 15 rows"),
        ({"n_heads": 3}, "act_fn cannot be told from shapes"),
        ({**NATIVE_SETTINGS, "d_head": 3}, "d_head = 3 contradicts .* it is 5"),
        ({**NATIVE_SETTINGS, "n_layers": 3}, "n_layers = 3 contradicts"),
        ({**NATIVE_SETTINGS, "gated_mlp": True}, "gated_mlp = true is not something"),
        ({**NATIVE_SETTINGS, "n_key_value_heads": 1}, "n_key_value_heads = 1 is not"),
        ({**NATIVE_SETTINGS, "final_rms": True}, "final_rms = true is not"),
        ({**NATIVE_SETTINGS, "positional_embedding_type": "rotary"}, "positional_embedding_type"),
        (
            {**NATIVE_SETTINGS, "architecture": "GPT2LMHeadModel"},
            "architecture = .* must be null or .TransformerLensNative",
        ),
        ({**NATIVE_SETTINGS, "normalization_type": "RMS"}, "normalization_type .* contradicts"),
        ({**NATIVE_SETTINGS, "use_atn_scale": True}, "the nearest is use_attn_scale"),
    ],
)
def test_settings_that_are_refused(settings, message):
    refused(message, native_golden()[0], settings)


def test_every_missing_tensor_is_named():
    state, settings, *_ = native_golden()
    for name in state:
        rest = {other: tensor for other, tensor in state.items() if other != name}
        if name == "unembed.bias":
            assert not imported(rest, settings).net.cfg.unembed_bias
        else:
            refused(f"{name} is missing, so this is no whole TransformerLens 4 native net", rest, settings)


def test_every_turned_tensor_is_named():
    state, settings, *_ = native_golden()
    turned = [name for name, tensor in state.items() if tensor.ndim == 2]
    assert len(turned) == 3 + 2 * 6
    for name in turned:
        refused(f"{name} must be .*; it looks transposed", {**state, name: state[name].T.contiguous()}, settings)


def test_swapped_matrices_and_other_damage():
    state, settings, *_ = native_golden()
    swapped = {"blocks.1.mlp.in.weight": state["blocks.1.mlp.out.weight"]}
    refused(r"blocks.1.mlp.in.weight must be \[d_mlp = 20, d_model = 12\]", {**state, **swapped}, settings)
    refused(
        r"qkv.weight \[45, 12\] is not part of", {**state, "blocks.0.attn.qkv.weight": torch.ones(45, 12)}, settings
    )
    refused("layer blocks.2 is missing", {**state, "blocks.3.mlp.in.bias": torch.ones(20)}, settings)
    refused("ln_final.bias are NaN", {**state, "ln_final.bias": torch.full((12,), torch.nan)}, settings)
    refused("embed.weight must be a tensor, got str of 3", {**state, "embed.weight": "abc"}, settings)
    refused("d_vocab is 0", {**state, "embed.weight": torch.ones(0, 12)}, settings)
    refused("n_passes = 3", state, settings, n_passes=3)


def test_tied_layers_are_found():
    state, settings, *_ = native_golden()
    tied = {n: state[n.replace("blocks.1", "blocks.0")] if n.startswith("blocks.1") else t for n, t in state.items()}
    assert imported(state, settings).net.cfg.layer_map == (0, 1)
    assert imported(tied, settings).net.cfg.layer_map == (0, 0)


@pytest.mark.slow
@torch.no_grad()
def test_the_golden_net_is_what_the_library_makes():
    """Takes seconds, for the library's import."""
    state, settings, tokens, logits = native_golden()
    bridge = native_bridge(seed=11)
    assert native_settings(bridge) == settings
    for name, tensor in bridge.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=0, atol=0)
    torch.testing.assert_close(bridge(tokens, return_type="logits"), logits, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"normalization_type": "RMS"},
        {"normalization_type": None, "act_fn": "relu"},
        {"normalization_type": "LNPre"},
        {"normalization_type": "RMSPre", "act_fn": "silu"},
        {"attention_dir": "bidirectional", "act_fn": "gelu"},
        {"n_layers": 1, "act_fn": "swish"},
    ],
    ids=str,
)
@torch.no_grad()
def test_logits_of_other_bridges(changes, tmp_path):
    """The state dict, the wrapped model's state dict (with each tensor by several names), and a pickled config."""
    bridge = native_bridge(seed=4, **changes)
    tokens = native_tokens()
    expected = bridge(tokens, return_type="logits")
    for state in (bridge.state_dict(), bridge.original_model.state_dict()):
        path = tmp_path / "bridge.pt"
        torch.save({"state_dict": state, "config": bridge.cfg}, path)
        source = read_source(path)
        assert recognises(source)
        torch.testing.assert_close(read(source, Options()).net(tokens), expected, rtol=0, atol=1e-5)
