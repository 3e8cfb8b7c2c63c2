"""Checkpoints as GPT-2 folders: transformers loads them, and reads the same logits off them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_nets import make_net, make_tokens
from transformers import GPT2LMHeadModel

from circuit_lab.errors import InputError
from circuit_lab.exporters.gpt2_folder import export_gpt2
from circuit_lab.importers.contract import Options, Source
from circuit_lab.importers.gpt2_folder import GPT2_FOLDER
from circuit_lab.nets import RecursiveTransformerConfig, build_net
from circuit_lab.training import Checkpoint

GPT2_LIKE = {"d_head": 4, "d_vocab": 17, "d_vocab_out": 17, "eps": 1e-3}


def make_checkpoint(*, task=None, **changes):
    net = make_net(**{"dtype": torch.float32, **GPT2_LIKE, **changes})
    return Checkpoint(
        net=net, given_task=task, step=7, metrics={}, recipe={}, path=Path("a.safetensors"), weights_hash="abc"
    )


@torch.no_grad()
def difference(net, model, tokens):
    return float((net(tokens) - model(tokens).logits).abs().max())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layer_map": (0, 1, 2), "act_fn": "gelu_new"},
        {"act_fn": "relu", "attn_bias": False},
        {"act_fn": "silu", "mlp_bias": False, "layer_map": (0, 0)},
        {"dtype": torch.float64, "n_heads": 2, "d_head": 6},
    ],
    ids=str,
)
def test_transformers_agrees(tmp_path, changes):
    checkpoint = make_checkpoint(**changes)
    folder = export_gpt2(checkpoint, tmp_path / "new" / "gpt2")
    model = GPT2LMHeadModel.from_pretrained(folder).eval()
    assert model.dtype == checkpoint.net.dtype
    assert len(model.transformer.h) == checkpoint.net.cfg.n_layers
    assert difference(checkpoint.net, model, make_tokens()) < 1e-5
    assert [path.name for path in folder.parent.iterdir()] == ["gpt2"]


def test_every_key_and_weight_is_one_that_transformers_knows(tmp_path):
    folder = export_gpt2(make_checkpoint(), tmp_path / "gpt2")
    _, report = GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    config = GPT2LMHeadModel.from_pretrained(folder).config
    assert (config.tie_word_embeddings, config.n_inner, config.layer_norm_epsilon) == (False, 20, 1e-3)


def test_shared_layers_are_noted_beside_the_config(tmp_path):
    notes = json.loads((export_gpt2(make_checkpoint(), tmp_path / "gpt2") / "circuit_lab.json").read_text())
    assert (notes["layer_map"], notes["step"], notes["weights_hash"], notes["task"]) == ([0, 1, 0], 7, "abc", None)


def test_our_importer_reads_it_back(tmp_path, small_task):
    checkpoint = make_checkpoint(task=small_task, d_vocab=29, d_vocab_out=29)
    folder = export_gpt2(checkpoint, tmp_path / "gpt2")
    tokens = small_task.splits["test_ood"].tokens
    with torch.no_grad():
        expected = checkpoint.net(tokens)
        for task in (None, small_task):
            imported = GPT2_FOLDER.read(Source(folder, None), Options(task=task))
            assert imported.net.cfg.d_vocab == 29
            assert float((imported.net(tokens) - expected).abs().max()) < 1e-6
    assert json.loads((folder / "added_tokens.json").read_text())["<pad>"] == 28


def test_a_zero_unembedding_bias_is_left_out(tmp_path):
    checkpoint = make_checkpoint(unembed_bias=True)
    with torch.no_grad():
        checkpoint.net.unembed.b_U.zero_()
    model = GPT2LMHeadModel.from_pretrained(export_gpt2(checkpoint, tmp_path / "gpt2"))
    assert difference(checkpoint.net, model, make_tokens()) < 1e-5


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"normalization_type": "RMS"}, "normalization_type = RMS, GPT-2 has LN"),
        ({"normalization_type": None}, "normalization_type = none, GPT-2 has LN; it has no final norm"),
        ({"norm_position": "post"}, "norm_position = post, GPT-2 has pre"),
        ({"final_norm": False}, "it has no final norm"),
        ({"attention_dir": "bidirectional"}, "attention_dir = bidirectional, GPT-2 has causal"),
        ({"d_head": 5}, "n_heads x d_head = 3 x 5 is not d_model = 12"),
        ({"d_vocab_out": 13}, "d_vocab_out = 13 is not d_vocab = 17"),
        ({"unembed_bias": True}, "its unembedding has a bias"),
        (
            {"attention_dir": "bidirectional", "d_head": 5, "d_vocab_out": 13},
            "attention_dir = bidirectional.*; n_heads x d_head.*; d_vocab_out",
        ),
    ],
    ids=str,
)
def test_other_architectures_are_refused_with_every_reason(tmp_path, changes, reason):
    with pytest.raises(InputError, match=f"a.safetensors cannot be written as a GPT-2 folder: .*{reason}"):
        export_gpt2(make_checkpoint(**changes), tmp_path / "gpt2")
    assert not list(tmp_path.iterdir())


def test_a_recursive_net_is_refused(tmp_path):
    sizes = {"n_blocks": 2, "h_cycles": 2, "l_cycles": 3, "d_model": 12, "n_heads": 2, "d_vocab": 17, "n_ctx": 4}
    net = build_net(RecursiveTransformerConfig(token_mixing="attention", **sizes)).eval()
    with pytest.raises(InputError, match="it is a recursive_transformer net, GPT-2 is a plain transformer"):
        export_gpt2(replace(make_checkpoint(), net=net), tmp_path / "gpt2")


def test_an_empty_folder_is_filled_and_a_full_one_left_alone(tmp_path):
    folder = tmp_path / "gpt2"
    folder.mkdir()
    export_gpt2(make_checkpoint(), folder)
    before = (folder / "model.safetensors").read_bytes()
    for occupied in (folder, folder / "config.json"):
        with pytest.raises(InputError, match="already exists and is not an empty folder"):
            export_gpt2(make_checkpoint(layer_map=(0,)), occupied)
    assert (folder / "model.safetensors").read_bytes() == before
    with pytest.raises(InputError, match="below cannot be made: "):
        export_gpt2(make_checkpoint(), folder / "config.json" / "below")


def test_nothing_is_left_of_an_export_that_fails(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        export_gpt2(make_checkpoint(), tmp_path / "gpt2")
    assert not list(tmp_path.iterdir())
