"""Export to legacy TransformerLens: nothing is lost on the way there and back, and its own converter reads it."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_nets import make_net, make_tokens

from circuit_lab.errors import InputError
from circuit_lab.exporters.legacy_transformer_lens import export_legacy, legacy_settings, legacy_state_dict
from circuit_lab.importers.contract import Options
from circuit_lab.importers.legacy_transformer_lens import read, recognises
from circuit_lab.importers.source import read_source
from circuit_lab.nets import RecursiveTransformerConfig, build_net
from circuit_lab.training import Checkpoint, reference_model, reference_models

NETS = {
    "causal LN, cycle": {"unembed_bias": True, "act_fn": "silu"},
    "bidirectional RMS": {
        "attention_dir": "bidirectional",
        "normalization_type": "RMS",
        "layer_map": (0, 0, 0),
        "eps": 0.5,
    },
    "no norms, no biases": {"normalization_type": None, "attn_bias": False, "mlp_bias": False, "act_fn": "relu"},
    "repeated in place": {"layer_map": (0, 0, 1, 1), "act_fn": "gelu_new"},
    "one kind of bias": {"attn_bias": False, "layer_map": (0, 1)},
}


def checkpoint_of(net):
    return Checkpoint(
        net=net, given_task=None, step=7, metrics={}, recipe={}, path=Path("net.safetensors"), weights_hash=""
    )


def imported(path):
    source = read_source(path)
    assert recognises(source)
    return read(source, Options())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("changes", NETS.values(), ids=NETS.keys())
def test_there_and_back(changes, suffix, tmp_path):
    net = make_net(**changes)
    path = export_legacy(checkpoint_of(net), tmp_path / "new" / f"net{suffix}")
    again = imported(path).net
    assert again.cfg.layer_map == net.cfg.layer_map and again.dtype == net.dtype
    torch.testing.assert_close(again(make_tokens()), net(make_tokens()), rtol=0, atol=1e-12)
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(["net.json", path.name])


def test_names_and_shapes_are_those_of_hooked_transformer():
    """By hand, from the state dict of a HookedTransformer of TransformerLens 3.9 (tests/golden) and its two buffers."""
    state = legacy_state_dict(make_net(layer_map=(0,), attn_bias=False, mlp_bias=False))
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    heads, model, head, mlp = 3, 12, 5, 20
    expected = {f"blocks.0.attn.W_{part}": (heads, model, head) for part in "QKV"}
    expected |= {f"blocks.0.attn.b_{part}": (heads, head) for part in "QKV"}
    expected |= {"blocks.0.attn.W_O": (heads, head, model), "blocks.0.attn.b_O": (model,)}
    expected |= {"blocks.0.attn.mask": (4, 4), "blocks.0.attn.IGNORE": ()}
    expected |= {"blocks.0.mlp.W_in": (model, mlp), "blocks.0.mlp.b_in": (mlp,)}
    expected |= {"blocks.0.mlp.W_out": (mlp, model), "blocks.0.mlp.b_out": (model,)}
    expected |= {f"{norm}.{part}": (model,) for norm in ("blocks.0.ln1", "blocks.0.ln2", "ln_final") for part in "wb"}
    expected |= {
        "embed.W_E": (17, model),
        "pos_embed.W_pos": (4, model),
        "unembed.W_U": (model, 13),
        "unembed.b_U": (13,),
    }
    assert shapes == expected
    assert state["blocks.0.attn.mask"].tolist() == [[col <= row for col in range(4)] for row in range(4)]
    assert state["blocks.0.attn.mask"].dtype == torch.bool and state["blocks.0.attn.IGNORE"] == -torch.inf
    assert all(not state[name].any() for name in state if name.startswith("blocks.0.attn.b_"))


def test_every_layers_copy_is_written():
    state = legacy_state_dict(make_net(layer_map=(0, 1, 0)))
    torch.testing.assert_close(state["blocks.2.attn.W_V"], state["blocks.0.attn.W_V"], rtol=0, atol=0)
    assert not torch.equal(state["blocks.1.attn.W_V"], state["blocks.0.attn.W_V"])


def test_the_settings_are_fields_of_a_hooked_transformer_config(tmp_path):
    net = make_net(attention_dir="bidirectional", act_fn="gelu_new", eps=0.25)
    path = export_legacy(checkpoint_of(net), tmp_path / "net.pt")
    assert json.loads((tmp_path / "net.json").read_text()) == {
        "n_layers": 3,
        "d_model": 12,
        "n_ctx": 4,
        "d_head": 5,
        "n_heads": 3,
        "d_mlp": 20,
        "d_vocab": 17,
        "d_vocab_out": 13,
        "act_fn": "gelu_new",
        "eps": 0.25,
        "normalization_type": "LN",
        "attention_dir": "bidirectional",
    }
    assert set(torch.load(path, weights_only=True)) == set(legacy_state_dict(net))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_position": "post"}, "norms stand after attention and MLP"),
        ({"final_norm": False}, r"none before the unembedding \(final_norm = false\)"),
        ({"norm_position": "post", "final_norm": False}, "norm_position = post.*; it has norms, but none before"),
    ],
)
def test_what_a_hooked_transformer_cannot_be(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        export_legacy(checkpoint_of(make_net(**changes)), tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == []


def test_a_recursive_net_is_refused(tmp_path):
    sizes = {"d_model": 8, "n_heads": 2, "d_vocab": 5, "n_ctx": 3}
    net = build_net(RecursiveTransformerConfig(n_blocks=1, h_cycles=2, l_cycles=2, **sizes))
    with pytest.raises(InputError, match="it is a HookedRecursiveTransformer, which is no transformer of that library"):
        export_legacy(checkpoint_of(net), tmp_path / "net.pt")


@pytest.mark.parametrize("name", ["net", "net.onnx", "net.json"])
def test_endings_that_are_refused(name, tmp_path):
    with pytest.raises(InputError, match="must end in .pt, .pth or .safetensors"):
        export_legacy(checkpoint_of(make_net()), tmp_path / name)


@pytest.mark.parametrize("taken", ["net.pt", "net.json"])
def test_nothing_is_overwritten(taken, tmp_path):
    (tmp_path / taken).write_text("mine")
    with pytest.raises(InputError, match=f"{taken} already exists"):
        export_legacy(checkpoint_of(make_net()), tmp_path / "net.pt")
    assert [p.name for p in tmp_path.iterdir()] == [taken] and (tmp_path / taken).read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"net.pt cannot be made: .*; give another path"):
        export_legacy(checkpoint_of(make_net()), tmp_path / "file" / "net.pt")


@pytest.mark.parametrize("nth", [1, 2])
def test_a_full_disk_leaves_nothing(nth, tmp_path, monkeypatch):
    calls = []

    def fsync(fd):
        calls.append(fd)
        if len(calls) == nth:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        export_legacy(checkpoint_of(make_net()), tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == [] and len(calls) == nth


@pytest.mark.parametrize("nth", [1, 2])
def test_a_rename_that_fails_leaves_nothing(nth, tmp_path, monkeypatch):
    renamed, rename = [], Path.replace

    def fail(self, target):
        renamed.append(target)
        if len(renamed) == nth:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="Input/output"):
        export_legacy(checkpoint_of(make_net()), tmp_path / "net.pt")
    assert list(tmp_path.iterdir()) == [] and len(renamed) == nth


@pytest.mark.slow
@pytest.mark.parametrize("model", reference_models())
@torch.no_grad()
def test_every_reference_model_there_and_back(model, tmp_path):
    checkpoint = reference_model(model)
    again = imported(export_legacy(checkpoint, tmp_path / "net.pt"))
    tokens = checkpoint.task.training.tokens[:500]
    torch.testing.assert_close(again.net(tokens), checkpoint.net(tokens), rtol=0, atol=1e-5)
    assert again.net.cfg.layer_map == checkpoint.net.cfg.layer_map


@pytest.mark.slow
@pytest.mark.parametrize("changes", NETS.values(), ids=NETS.keys())
@torch.no_grad()
def test_the_librarys_own_converter_reads_it(changes, tmp_path):
    """TransformerLens 4 converts legacy state dicts to its own names and loads them, strictly, into boot_native."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    net = make_net(dtype=torch.float32, **changes)
    path = export_legacy(checkpoint_of(net), tmp_path / "net.pt")
    config = TransformerBridgeConfig(**json.loads((tmp_path / "net.json").read_text()))
    bridge = TransformerBridge.boot_native(config, device="cpu").eval()
    converted = convert_tl_checkpoint(torch.load(path, weights_only=True), config)
    bridge.load_state_dict(converted, strict=True)
    tokens = make_tokens()
    torch.testing.assert_close(bridge(tokens, return_type="logits"), net(tokens), rtol=0, atol=1e-5)


def test_a_foreign_step_and_path_do_not_matter(tmp_path):
    """The export depends on the net alone."""
    checkpoint = checkpoint_of(make_net())
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, step in zip(paths, (1, 2), strict=True):
        export_legacy(replace(checkpoint, step=step), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert legacy_settings(checkpoint.net.cfg)["n_layers"] == 3
