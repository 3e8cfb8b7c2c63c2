"""Checkpoints as ONNX files, run by onnxruntime."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from small_nets import VARIANTS, make_net, make_tokens

from circuit_lab.errors import InputError
from circuit_lab.exporters import onnx as onnx_exporter
from circuit_lab.exporters.onnx import export_onnx, run_onnx
from circuit_lab.nets import RecursiveTransformerConfig, build_net
from circuit_lab.training import Checkpoint

installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs the extra circuit-lab[onnx] and onnxruntime",
)


def make_checkpoint(net=None, *, task=None):
    net = make_net(dtype=torch.float32) if net is None else net
    return Checkpoint(
        net=net, given_task=task, step=7, metrics={}, recipe={}, path=Path("a.safetensors"), weights_hash="abc"
    )


@torch.no_grad()
def difference(net, file, tokens):
    return float((net(tokens).float() - run_onnx(str(file), tokens)).abs().max())


@installed
@pytest.mark.slow
def test_a_file_gives_the_nets_logits_for_any_number_of_rows(tmp_path, small_task):
    import onnx

    net = make_net(dtype=torch.float32, d_vocab=29, d_vocab_out=29)
    fired = []

    def spoil(activation, hook):
        fired.append(hook.name)
        return activation * 0

    net.blocks[0].hook_resid_post.add_hook(spoil)
    file = export_onnx(make_checkpoint(net, task=small_task), tmp_path / "new" / "net.onnx")
    assert not fired, "the net's own hooks are no part of the file"
    net.reset_hooks()
    tokens = small_task.splits["test_ood"].tokens
    for n in (1, 3, len(tokens)):
        assert difference(net, file, tokens[:n]) < 1e-5
    model = onnx.load(file)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["circuit_lab_step"] == "7"
    assert metadata["circuit_lab_weights_hash"] == "abc"
    assert metadata["circuit_lab_task_hash"] == small_task.certificate.task_hash
    assert json.loads(metadata["circuit_lab_net"])["layer_map"] == [0, 1, 0]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["net.onnx"], "the weights are inside"
    assert not any(entry.external_data for entry in model.graph.initializer)
    assert str(Path(onnx_exporter.__file__).parents[2]).encode() not in file.read_bytes(), "no path of this machine"


@installed
@pytest.mark.slow
@pytest.mark.parametrize("variant", [*VARIANTS, "float64"])
def test_every_kind_of_net(tmp_path, variant):
    changes = VARIANTS.get(variant, {})
    net = make_net(dtype=torch.float64 if variant == "float64" else torch.float32, **changes)
    file = export_onnx(make_checkpoint(net), tmp_path / "net.onnx")
    assert difference(net, file, make_tokens(5)) < 1e-5


@installed
@pytest.mark.slow
@pytest.mark.parametrize("token_mixing, n_heads", [("attention", 2), ("position_mlp", 0)])
def test_recursive_nets(tmp_path, token_mixing, n_heads):
    sizes = {"n_blocks": 1, "h_cycles": 2, "l_cycles": 1, "d_model": 12, "d_vocab": 17, "n_ctx": 4}
    net = build_net(RecursiveTransformerConfig(token_mixing=token_mixing, n_heads=n_heads, **sizes)).eval()
    file = export_onnx(make_checkpoint(net), tmp_path / "net.onnx")
    assert difference(net, file, make_tokens(5)) < 1e-5


@installed
@pytest.mark.slow
def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    exported = onnx_exporter._exported

    def other_net(net, tokens):
        return exported(make_net(dtype=torch.float32, seed=9), tokens)

    monkeypatch.setattr(onnx_exporter, "_exported", other_net)
    with pytest.raises(InputError, match="as ONNX its logits differ by .* so no file was written"):
        export_onnx(make_checkpoint(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_exporter, "PACKAGES", ("onnx_that_is_not_there", "torch"))
    with pytest.raises(
        InputError, match=r"needs the packages onnx_that_is_not_there: pip install 'circuit-lab\[onnx\]'"
    ):
        export_onnx(make_checkpoint(), tmp_path / "net.onnx")


def test_an_existing_file_and_a_net_too_large_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_exporter, "PACKAGES", ())
    (tmp_path / "net.onnx").write_bytes(b"mine")
    with pytest.raises(InputError, match="already exists and is not overwritten"):
        export_onnx(make_checkpoint(), tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_bytes() == b"mine"
    monkeypatch.setattr(onnx_exporter, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="bytes of weights, more than the 100 one file can hold"):
        export_onnx(make_checkpoint(), tmp_path / "other.onnx")
