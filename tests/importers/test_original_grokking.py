"""The original grokking code: against its forward pass in plain torch, and everything that must be refused."""

import pytest
import torch
from foreign_nets import hooked_transformer, in_memory, original_logits, original_state, write_json
from safetensors.torch import save_file
from torch.nn import functional as F

from circuit_lab.errors import InputError
from circuit_lab.importers.contract import Options
from circuit_lab.importers.legacy_transformer_lens import recognises as legacy_recognises
from circuit_lab.importers.native_transformer_lens import recognises as native_recognises
from circuit_lab.importers.original_grokking import ORIGINAL_GROKKING, read, recognises
from circuit_lab.importers.source import read_source

CONFIG = {
    "lr": 1e-3,
    "weight_decay": 1.0,
    "p": 7,
    "d_model": 12,
    "fn_name": "add",
    "frac_train": 0.3,
    "num_layers": 1,
    "d_vocab": 8,
    "n_ctx": 3,
    "d_mlp": 20,
    "num_heads": 3,
    "act_type": "ReLU",
    "use_ln": False,
    "seed": 0,
}


def every_pair(p=7):
    a, b = torch.meshgrid(torch.arange(p), torch.arange(p), indexing="ij")
    return torch.stack([a.flatten(), b.flatten(), torch.full((p * p,), p)], dim=1)


def refused(match, content, **options):
    with pytest.raises(InputError, match=match) as error:
        read(in_memory(content), Options(**options))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_logits_of_that_codes_forward(n_layers, tmp_path):
    state = original_state(n_layers=n_layers)
    path = tmp_path / "full_run_data.pth"
    torch.save({"model": state, "train_losses": [2.0], "optimizer": {"state": {}}, "epoch": 49_999}, path)
    source = read_source(path)
    assert recognises(source) and not legacy_recognises(source) and not native_recognises(source)
    result = ORIGINAL_GROKKING.read(source, Options())
    expected = original_logits(state, every_pair())
    torch.testing.assert_close(result.net(every_pair()), expected[..., :7], rtol=0, atol=1e-10)
    assert result.step == 49_999 and result.net.cfg.d_vocab_out == 7 and not result.net.training
    assert "the last 1 logit(s): that code's loss is over the first 7 only" in result.ignored
    assert "entries epoch, optimizer, train_losses: beside model, no weights of it" in result.ignored
    assert any("act_fn = relu" in note for note in result.inferred)


@pytest.mark.parametrize("name", ["W_Q", "W_K", "W_V", "W_O", "W_in", "W_out"])
def test_the_forward_sees_every_weight(name):
    """So that the test above could not pass with one of them left out."""
    state = original_state()
    key = next(key for key in state if key.endswith(name))
    zeroed = {**state, key: torch.zeros_like(state[key])}
    pairs = every_pair()
    assert (original_logits(zeroed, pairs) - original_logits(state, pairs)).abs().max() > 1e-3


def test_the_state_alone_and_as_safetensors(tmp_path):
    state = original_state(dtype=torch.float32)
    save_file(state, tmp_path / "net.safetensors")
    result = read(read_source(tmp_path / "net.safetensors"), Options())
    expected = original_logits(state, every_pair())[..., :7]
    torch.testing.assert_close(result.net(every_pair()), expected, rtol=0, atol=1e-5)
    assert result.net.dtype == torch.float32 and result.step is None


def test_a_state_during_training():
    states = [original_state(seed=seed) for seed in range(3)]
    run = {"model": original_state(seed=9), "state_dicts": states, "epochs": [0, 100, 200]}
    chosen = read(in_memory(run), Options(step=100))
    expected = original_logits(states[1], every_pair())[..., :7]
    torch.testing.assert_close(chosen.net(every_pair()), expected, rtol=0, atol=1e-10)
    assert chosen.step == 100
    refused("has no net of step 150; it has 3, from 0 to 200", run, step=150)


def test_settings_of_that_code():
    state = original_state()
    result = read(in_memory({"model": state, "config": {**CONFIG, "act_type": "GeLU"}}), Options())
    expected = original_logits(state, every_pair(), act=F.gelu)[..., :7]
    torch.testing.assert_close(result.net(every_pair()), expected, rtol=0, atol=1e-10)
    assert any(note.startswith("settings fn_name, frac_train") for note in result.ignored)


def test_settings_from_a_file(tmp_path):
    path = write_json(tmp_path / "given.json", {"p": 6})
    result = read(in_memory({"model": original_state()}), Options(config=path))
    assert result.net.cfg.d_vocab_out == 6 and any("the last 2 logit(s)" in note for note in result.ignored)


def test_outputs_of_another_number_are_kept():
    state = original_state()
    state["unembed.W_U"] = state["unembed.W_U"][:, :7]
    result = read(in_memory({"model": state}), Options())
    torch.testing.assert_close(result.net(every_pair()), original_logits(state, every_pair()), rtol=0, atol=1e-10)
    assert not any("logit" in note for note in result.ignored)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 9}, "p = 9, but unembed.W_U gives 8 logits only"),
        ({"d_model": 16}, "d_model = 16 contradicts the shapes"),
        ({"num_heads": 4}, "n_heads = 4 contradicts"),
        ({"num_layers": 2}, "n_layers = 2 contradicts"),
        ({"act_type": "SiLU"}, "act_type must be ReLU or GeLU, got 'SiLU'"),
        ({"act_type": ["ReLU"]}, "act_type must be a number, text, .* got list"),
        ({"nun_heads": 3}, "'nun_heads' is no setting of the original grokking code; the nearest is num_heads"),
        ({"d_mlp": 20.0}, "d_mlp must be a whole number"),
    ],
)
def test_settings_that_are_refused(change, message):
    refused(message, {"model": original_state(), "config": {**CONFIG, **change}})


def test_every_missing_tensor_is_named():
    state = original_state()
    for name in state:
        rest = {other: tensor for other, tensor in state.items() if other != name}
        if name.endswith("mask"):
            assert read(in_memory(rest), Options()).net.cfg.attention_dir == "causal"
        else:
            refused(f"{name} is missing, so this is no whole original grokking net", rest)


def test_every_turned_tensor_is_named():
    state = original_state()
    turned = [name for name, tensor in state.items() if tensor.ndim >= 2 and not name.endswith("mask")]
    assert len(turned) == 9
    for name in turned:
        tensor = state[name].transpose(-1, -2).contiguous()
        refused(f"{name} must be .*; it looks transposed", {**state, name: tensor})


def test_nan_and_other_damage():
    state = original_state()
    nan = state["blocks.0.mlp.b_in"].clone()
    nan[4] = torch.nan
    refused(r"1 of the 20 numbers of blocks.0.mlp.b_in are NaN", {**state, "blocks.0.mlp.b_in": nan})
    upper = torch.ones(3, 3).triu()
    refused("blocks.0.attn.mask must be causal", {**state, "blocks.0.attn.mask": upper})
    refused(
        r"blocks.0.mlp.b_im \[2\] is not part of .* is blocks.0.mlp.b_i", {**state, "blocks.0.mlp.b_im": torch.ones(2)}
    )
    refused(r"blocks.0.ln1.w_ln \[12\] is not part of", {**state, "blocks.0.ln1.w_ln": torch.ones(12)})
    refused("layer blocks.1 is missing", {**state, "blocks.2.mlp.b_in": torch.ones(20)})
    refused("embed.W_E must be a tensor, got list of 2", {**state, "embed.W_E": [1, 2]})
    refused("holds no moving average", state, weights="ema")


def test_weights_of_transformer_lens_are_not_taken_for_this():
    state, *_ = hooked_transformer("modular_1layer")
    assert legacy_recognises(in_memory(state)) and not recognises(in_memory(state))
    refused("must be", state)


def test_square_nets_are_told_apart_by_the_shape_of_W_O():
    """d_model = d_head: queries have the same shape in both layouts."""
    square = {"n_heads": 2, "d_head": 12, "d_model": 12}
    original = original_state(**square)
    legacy = {**original, "blocks.0.attn.W_O": torch.ones(2, 12, 12)}
    neither = {name: tensor for name, tensor in original.items() if not name.endswith("W_O")}
    told = [
        (recognises(in_memory(state)), legacy_recognises(in_memory(state))) for state in (original, legacy, neither)
    ]
    assert told == [(True, False), (False, True), (False, False)]
