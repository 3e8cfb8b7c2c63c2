"""Legacy TransformerLens: against HookedTransformer 3.9's own logits, and everything that must be refused."""

import pytest
import torch
from foreign_nets import (
    HOOKED_TRANSFORMERS,
    causal_ln,
    hooked_transformer,
    in_memory,
    modular,
    with_buffers,
    without,
    write_json,
)
from safetensors.torch import save_file

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Options
from circuit_lab.importers.legacy_transformer_lens import LEGACY_TRANSFORMER_LENS, read, recognises
from circuit_lab.importers.native_transformer_lens import recognises as native_recognises
from circuit_lab.importers.original_grokking import recognises as original_recognises
from circuit_lab.importers.source import read_source

NORMED = {"act_fn": "gelu"}


def imported(state, config=None, **options):
    content = state if config is None else {"model": state, "config": config}
    return read(in_memory(content), Options(**options))


def refused(match, state, config=None, **options):
    with pytest.raises(InputError, match=match) as error:
        imported(state, config, **options)
    assert "\n" not in str(error.value)


# The same function


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("name", HOOKED_TRANSFORMERS)
def test_logits_of_hooked_transformer_3_9(name, suffix, tmp_path):
    state, config, tokens, logits, layer_map = hooked_transformer(name)
    path = tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save(with_buffers(state, n_ctx=config["n_ctx"], n_layers=config["n_layers"]), path)
    else:
        save_file(state, path)
    write_json(tmp_path / "net.json", config)
    source = read_source(path)
    assert recognises(source) and not original_recognises(source) and not native_recognises(source)
    result = LEGACY_TRANSFORMER_LENS.read(source, Options())
    assert result.net.cfg.layer_map == layer_map and not result.net.training
    # HookedTransformer 3.9 rounded every norm's quotient to float32 (see test_shared_transformer_golden).
    atol = 1e-10 if config["normalization_type"] is None else 1e-6
    torch.testing.assert_close(result.net(tokens), logits, rtol=0, atol=atol)


def test_tied_layers_are_said():
    state, config, *_ = hooked_transformer("tied_cycle_4layer")
    assert "layer_map = [0, 1, 0, 1] (layers with equal weights share a block)" in imported(state, config).inferred
    state["blocks.3.ln2.b"] = state["blocks.3.ln2.b"] + 1e-3
    assert imported(state, config).net.cfg.layer_map == (0, 1, 0, 2)


def test_sizes_and_defaults_without_a_config():
    state, tokens, logits = modular()
    result = imported(state)
    torch.testing.assert_close(result.net(tokens), logits, rtol=0, atol=1e-10)
    config = result.net.cfg
    sizes = (config.n_heads, config.d_model, config.d_head, config.d_mlp, config.d_vocab, config.d_vocab_out)
    assert sizes == (3, 12, 5, 20, 8, 7) and config.n_ctx == 3 and config.act_fn == "relu"
    said = " ".join(result.inferred)
    assert "act_fn = relu" in said and "folded" in said and "attention_dir = causal" in said


def test_a_config_may_come_from_the_caller_the_file_or_beside_it_in_that_order(tmp_path):
    state, config, *_ = causal_ln()
    given = write_json(tmp_path / "given.json", {**config, "eps": 0.5})
    write_json(tmp_path / "config.json", {**config, "eps": 0.25})
    source = in_memory(state, tmp_path / "net.pt")
    assert read(source, Options(config=given)).net.cfg.eps == 0.5
    assert read(source, Options()).net.cfg.eps == 0.25
    assert "settings from config.json (a JSON file beside the checkpoint)" in read(source, Options()).inferred
    write_json(tmp_path / "net.json", {**config, "eps": 0.75})
    assert read(source, Options()).net.cfg.eps == 0.75
    inside = in_memory({"model": state, "config": {**config, "eps": 0.125}}, tmp_path / "net.pt")
    assert read(inside, Options()).net.cfg.eps == 0.125


def test_a_pickled_config_is_read_as_data(tmp_path):
    """The Grokking demo saves `model.cfg` itself; TransformerLens 4 still has a class that its state goes into."""
    from transformer_lens.config import TransformerBridgeConfig

    state, config, tokens, logits = causal_ln()
    path = tmp_path / "run.pth"
    torch.save({"model": state, "config": TransformerBridgeConfig(**config)}, path)
    result = read(read_source(path), Options())
    torch.testing.assert_close(result.net(tokens), logits, rtol=0, atol=1e-6)


@pytest.mark.parametrize("entry", ["model", "state_dict", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod."])
def test_containers_and_prefixes(entry, prefix):
    state, tokens, logits = modular()
    content = {entry: {prefix + name: tensor for name, tensor in state.items()}, "train_losses": [0.5], "epoch": 70}
    source = in_memory(content)
    assert recognises(source)
    result = read(source, Options())
    torch.testing.assert_close(result.net(tokens), logits, rtol=0, atol=1e-10)
    assert result.step == 70 and f"entries epoch, train_losses: beside {entry}, no weights of it" in result.ignored


def series():
    state, tokens, _ = modular()
    states = [{name: tensor * factor for name, tensor in state.items()} for factor in (0.25, 0.5, 0.75)]
    return {"model": state, "checkpoints": states, "checkpoint_epochs": [99, 199, 299]}, tokens


def test_a_checkpoint_is_chosen_by_its_epoch():
    content, tokens = series()
    for step, alone in zip([99, 199, 299, None], [*content["checkpoints"], content["model"]], strict=True):
        chosen = read(in_memory(content), Options(step=step))
        torch.testing.assert_close(chosen.net(tokens), imported(alone).net(tokens), rtol=0, atol=0)
        assert chosen.step == step
    assert "entry checkpoints[1] (step 199 is asked for)" in read(in_memory(content), Options(step=199)).inferred
    with pytest.raises(InputError, match=r"has no net of step 180; it has 3, from 99 to 299, the nearest at 199"):
        read(in_memory(content), Options(step=180))


def test_a_series_without_epochs_is_counted_and_without_a_final_net_ends_it():
    content, tokens = series()
    del content["checkpoint_epochs"]
    second = read(in_memory(content), Options(step=1))
    assert second.step is None and any("step counts its nets, from 0" in note for note in second.inferred)
    torch.testing.assert_close(second.net(tokens), imported(content["checkpoints"][1]).net(tokens), rtol=0, atol=0)
    with pytest.raises(InputError, match=r"step counts the nets in checkpoints: 0..2, got 3"):
        read(in_memory(content), Options(step=3))
    del content["model"]
    last = read(in_memory(content), Options())
    torch.testing.assert_close(last.net(tokens), imported(content["checkpoints"][2]).net(tokens), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint_epochs": [1, 2]}, "list of epochs has 2 entries; it must be 3 whole numbers"),
        ({"checkpoint_epochs": [1, 2, "3"]}, "it must be 3 whole numbers"),
        ({"checkpoint_epochs": [1, 2, -3]}, "it must be 3 whole numbers"),
        ({"checkpoints": [{}, {}, modular()[0]]}, r"checkpoints\[1\] is no dict of tensors but dict of 0"),
        ({"state_dict": modular()[0]}, "holds weights under model and state_dict"),
    ],
)
def test_unclear_containers(change, message):
    content, _ = series()
    with pytest.raises(InputError, match=message):
        read(in_memory({**content, **change}), Options(step=199))


def test_a_step_that_is_not_there():
    state, *_ = modular()
    refused("holds one net without a step, but step = 5 is asked for", state, step=5)
    with pytest.raises(InputError, match="holds one net of step 4, but step = 5 is asked for"):
        read(in_memory({"model": state, "step": 4}), Options(step=5))
    assert read(in_memory({"model": state, "step": 4}), Options(step=4)).step == 4


# Biases, norms, masks, aliases, types


@pytest.mark.parametrize(
    ("endings", "flags"),
    [
        (("b_Q", "b_K", "b_V", "b_O"), (False, True, True)),
        (("b_in", "b_out"), (True, False, True)),
        (("b_U",), (True, True, False)),
    ],
)
def test_biases_that_are_not_there(endings, flags):
    state, config, tokens, _ = causal_ln()
    lacking = imported(without(state, *endings), config)
    assert (lacking.net.cfg.attn_bias, lacking.net.cfg.mlp_bias, lacking.net.cfg.unembed_bias) == flags
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items() if name.endswith(endings)}
    torch.testing.assert_close(lacking.net(tokens), imported(state | zeros, config).net(tokens), rtol=0, atol=1e-12)


def test_some_biases_that_are_not_there_are_zero():
    state, config, tokens, _ = causal_ln()
    zero = {"blocks.1.attn.b_K": torch.zeros(3, 5).double(), "blocks.0.attn.b_O": torch.zeros(12).double()}
    lacking = imported(without(state, *zero), config)
    assert (
        "blocks.0.attn.b_O, blocks.1.attn.b_K = 0 (the file has other biases of that kind, but not these)"
        in lacking.inferred
    )
    torch.testing.assert_close(lacking.net(tokens), imported(state | zero, config).net(tokens), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("folded", "plain", "name"), [("LNPre", "LN", "causal_ln"), ("RMSPre", "RMS", "bidirectional_rms")]
)
def test_folded_norms(folded, plain, name):
    state, config, tokens, *_ = hooked_transformer(f"{name}_2layer")
    bare = without(state, ".w", ".b")
    unit = {
        n: torch.ones_like(t) if n.endswith(".w") else torch.zeros_like(t) for n, t in state.items() if n not in bare
    }
    assert len(unit) in (5, 10)
    result = imported(bare, {**config, "normalization_type": folded})
    expected = imported(bare | unit, {**config, "normalization_type": plain}).net(tokens)
    torch.testing.assert_close(result.net(tokens), expected, rtol=0, atol=1e-12)
    assert any(f"normalization_type {folded} has none" in note for note in result.inferred)


def test_norms_are_told_from_their_weights():
    state, *_ = causal_ln()
    rms, *_ = hooked_transformer("bidirectional_rms_2layer")
    assert imported(state, NORMED).net.cfg.normalization_type == "LN"
    assert imported(rms, NORMED).net.cfg.normalization_type == "RMS"


def test_masks_tell_the_direction():
    state, config, tokens, _ = causal_ln()
    open_masks = {name: torch.ones_like(mask) for name, mask in state.items() if name.endswith("mask")}
    both_ways = imported(state | open_masks, config)
    assert both_ways.net.cfg.attention_dir == "bidirectional"
    assert "attention_dir = bidirectional (the attention masks in the file)" in both_ways.inferred
    # A HookedTransformer has a causal mask whatever its direction, so the config decides.
    by_config = imported(state, {**config, "attention_dir": "bidirectional"})
    torch.testing.assert_close(by_config.net(tokens), both_ways.net(tokens), rtol=0, atol=0)
    refused("attention_dir = causal contradicts", state | open_masks, {**config, "attention_dir": "causal"})


def changed(name, tensor):
    return {**causal_ln()[0], name: tensor}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (changed("blocks.1.attn.mask", torch.ones(4, 4).triu().bool()), "blocks.1.attn.mask is neither causal"),
        (changed("blocks.1.attn.mask", torch.ones(4, 4).tril().triu(-1).bool()), "is neither causal .* nor all True"),
        (changed("blocks.1.attn.mask", torch.ones(4, 4).bool()), "attention masks of the layers differ"),
        (
            changed("blocks.1.attn.mask", torch.ones(5, 5).bool().tril()),
            r"mask must be \[n_ctx = 4, n_ctx = 4\], got \[5",
        ),
        (changed("blocks.0.attn.IGNORE", torch.tensor(-5.0)), r"IGNORE must be -inf, or at most -10000.0, got -5.0"),
        (changed("blocks.0.attn.IGNORE", torch.tensor(torch.nan)), "IGNORE must be -inf.* got nan"),
    ],
)
def test_buffers_that_mean_another_computation(state, message):
    refused(message, state, causal_ln()[1])


def test_copies_of_embeddings():
    state, tokens, logits = modular()
    copy = {"embed.embed.W_E": state["embed.W_E"].clone(), "embed.pos_embed.W_pos": state["pos_embed.W_pos"].clone()}
    result = imported(state | copy)
    assert "embed.embed.W_E: a copy of embed.W_E" in result.ignored
    moved = {name: tensor for name, tensor in state.items() if name not in ("embed.W_E", "pos_embed.W_pos")}
    renamed = imported(moved | copy)
    assert "embed.W_E = embed.embed.W_E (the file has it by that name only)" in renamed.inferred
    for net in (result.net, renamed.net):
        torch.testing.assert_close(net(tokens), logits, rtol=0, atol=1e-10)
    copy["embed.embed.W_E"][2, 3] += 1e-9
    refused("embed.embed.W_E differs from embed.W_E", state | copy)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32)])
def test_half_precision_becomes_float32(dtype, expected):
    state, tokens, _ = modular()
    half = {name: tensor.to(dtype) for name, tensor in state.items()}
    result = imported(half)
    assert result.net.dtype == expected
    assert f"dtype = float32 (the file has {str(dtype)[6:]})" in result.inferred
    same = imported({name: tensor.float() for name, tensor in half.items()})
    torch.testing.assert_close(result.net(tokens), same.net(tokens), rtol=0, atol=0)


def test_the_files_dtype_is_kept_and_mixed_types_are_said():
    state, *_ = modular()
    assert imported(state).net.dtype == torch.float64
    single = {name: tensor.float() for name, tensor in state.items()}
    assert imported(single).net.dtype == torch.float32
    mixed = imported(single | {"embed.W_E": state["embed.W_E"]})
    assert mixed.net.dtype == torch.float64 and "dtype = float64 (the file has float32, float64)" in mixed.inferred
