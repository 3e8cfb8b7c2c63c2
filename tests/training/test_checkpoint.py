"""Checkpoints: what comes back, and every way a file can be wrong."""

import pickle

import pytest
import safetensors.torch
import torch
from changed_checkpoints import rewrite, set_field

from circuit_lab.nets import SharedTransformerConfig, build_net
from circuit_lab.tasks import TwoHopConfig, build_task
from circuit_lab.training import (
    load_checkpoint,
    reference_model,
    reference_models,
    resolve_checkpoint,
    save_checkpoint,
    train,
)


@pytest.fixture
def task():
    return build_task(TwoHopConfig(n_entities=8, n_relations=5, out_degree=5, ood_share=0.3, test_id_share=0.1))


@pytest.fixture
def net(task):
    config = SharedTransformerConfig(
        layer_map=(0, 1, 0), d_model=12, n_heads=3, d_mlp=20, d_vocab=task.d_vocab, n_ctx=3, init_seed=7
    )
    return build_net(config)


@pytest.fixture
def file(net, task, tmp_path):
    return save_checkpoint(tmp_path / "deep" / "c.safetensors", net=net, task=task, step=3, metrics={"test_ood": 0.5})


def test_round_trip(file, net, task):
    loaded = load_checkpoint(file)
    assert (loaded.step, loaded.metrics, loaded.net.cfg) == (3, {"test_ood": 0.5}, net.cfg)
    assert loaded.task.certificate == task.certificate
    queries = task.splits["test_ood"].tokens
    assert torch.equal(loaded.net(queries), net(queries))
    assert not loaded.net.training
    assert loaded.net.blocks[0].attn.W_Q is loaded.net.blocks[2].attn.W_Q


def test_tied_weights_are_stored_once(file, net):
    with safetensors.safe_open(file, framework="pt") as opened:
        stored = {name for name in opened.keys() if not name.startswith("fingerprint/")}  # noqa: SIM118
    assert stored == {name for name, _ in net.named_parameters()}
    assert not any(name.startswith("blocks.2.") for name in stored)


def test_equal_checkpoints_have_equal_bytes(file, net, task, tmp_path):
    again = save_checkpoint(tmp_path / "again.safetensors", net=net, task=task, step=3, metrics={"test_ood": 0.5})
    assert again.read_bytes() == file.read_bytes()
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_field("format_version", 3), "format version 3 is newer than this .*up to 2.; upgrade it: pip install -"),
        (
            set_field("format_version", 0),
            "format version 0 is older than this circuit_lab reads .from 1.; load and save",
        ),
        (set_field("format_version", -1), "format version -1 is older than this circuit_lab reads"),
        (set_field("format_version", True), "format version True is no whole number; the file is damaged"),
        (set_field("format_version", "2"), "format version 2 is no whole number"),
        (set_field("sha", 2), r"metadata keys missing: \[\], unknown: \['sha'\]"),
        (lambda r: r.pop("step"), r"metadata keys missing: \['step'\], unknown: \[\]"),
        (set_field("step", "3"), r"metadata step: Input should be a valid integer \(got '3'\)"),
        (set_field("step", -1), r"metadata step: Input should be greater than or equal to 0 \(got -1\)"),
        (set_field("metrics", [1]), r"metadata metrics: Input should be a valid dictionary \(got \[1\]\)"),
        (set_field("recipe", "x"), r"metadata recipe: Input should be a valid dictionary \(got 'x'\)"),
        (set_field("step", 2**60), "metadata step: Input should be less than or equal to 9007199254740992"),
        (set_field("task", None), "metadata it: task and task_hash go together, got None and '[0-9a-f]{64}'"),
        (set_field("origin", {"format": 1}), "metadata origin.format: Input should be a valid string .got 1"),
        (set_field("net", None), r"metadata net: Input should be a valid dictionary \(got None\)"),
        (set_field("task_hash", "0" * 64), "its task rebuilds to hash .* but it was trained on 0000"),
        (lambda r: r["task"].__setitem__("seed", 1), "its task rebuilds to hash"),
        (lambda r: r["task"].__setitem__("colour", 1), "its task is not valid: .*unknown TwoHopConfig setting"),
        (lambda r: r["net"].__setitem__("colour", 1), "its net config is not valid"),
        (lambda r: r["net"].__setitem__("act_fn", "relu"), "logits on the fingerprint inputs differ by"),
        (lambda r: r["net"].__setitem__("d_mlp", 21), r"weight blocks.0.mlp.W_in must be \[12, 21\]"),
    ],
)
def test_a_changed_record_is_noticed(file, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(rewrite(file, change))
    assert str(file) in str(caught.value)


def test_changed_tensors_are_noticed(file, net):
    # One bit of the embedding of a token that no fingerprint input has: the logits there are the same.
    damaged = net.embed.W_E.detach().clone()
    damaged.view(torch.int32)[-1, 0] ^= 1
    with pytest.raises(ValueError, match="its weights are damaged: their hash is not the one they were saved with"):
        load_checkpoint(rewrite(file, **{"embed.W_E": damaged}))
    with pytest.raises(ValueError, match=r"missing \['unembed.W_U'\], unknown \[\]"):
        load_checkpoint(rewrite(file, **{"unembed.W_U": None}))


def test_a_missing_fingerprint_is_noticed(file):
    with pytest.raises(ValueError, match="it has no fingerprint/tokens and fingerprint/logits"):
        load_checkpoint(rewrite(file, **{"fingerprint/logits": None}))


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("tokens", lambda t: t[:, :2].contiguous(), "its fingerprint must have 14 logits for each token"),
        ("tokens", lambda t: t.float(), "its fingerprint must be .n, pos. token ids with floating-point logits"),
        ("tokens", lambda t: t + 1000, "tokens must lie in 0..13"),
        ("logits", lambda t: t[:1], r"14 logits for each token, got .* \[1, 3, 14\]"),
        ("logits", lambda t: t.long(), "token ids with floating-point logits, got .*torch.int64 logits"),
    ],
)
def test_a_malformed_fingerprint_is_noticed(file, part, change, message):
    with safetensors.safe_open(file, framework="pt") as opened:
        changed = change(opened.get_tensor(f"fingerprint/{part}"))
    with pytest.raises(ValueError, match=message) as caught:
        load_checkpoint(rewrite(file, **{f"fingerprint/{part}": changed}))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_files_are_refused(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="c.safetensors is truncated or not a safetensors file"):
        load_checkpoint(file)


def test_pickles_are_refused_unread(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="not a safetensors file"):
        load_checkpoint(path)
    assert not (tmp_path / "boom").exists()


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="it is a folder; give the .safetensors file in it"):
        load_checkpoint(tmp_path)


def test_foreign_safetensors_are_named(tmp_path):
    path = tmp_path / "other.safetensors"
    path.write_bytes(safetensors.torch.save({"w": torch.ones(2)}))
    with pytest.raises(ValueError, match="is a safetensors file but no circuit_lab checkpoint"):
        load_checkpoint(path)


def test_what_a_path_means(recipe, tmp_path, file):
    run = train(recipe, tmp_path / "run", progress=False)
    assert resolve_checkpoint(tmp_path / "run") == run.checkpoint
    assert resolve_checkpoint(file) == file
    with pytest.raises(ValueError, match="there is no such file or folder"):
        resolve_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="expected weights.safetensors .* or checkpoints/"):
        resolve_checkpoint(file.parent)
    run.checkpoint.unlink()
    for other in run.checkpoint.parent.iterdir():
        other.unlink()
    with pytest.raises(ValueError, match="has no checkpoint yet; train it further"):
        resolve_checkpoint(tmp_path / "run")


def test_reference_models_by_name():
    assert "two-hop-true-circuit" in reference_models()
    assert reference_model("two-hop-true-circuit").step == 20_000
    with pytest.raises(ValueError, match="unknown reference model 'two-hop'; there are: .*two-hop-true-circuit"):
        reference_model("two-hop")
