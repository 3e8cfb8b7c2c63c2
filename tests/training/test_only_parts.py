"""Training some parts of a net only: the others keep every bit, and parts have names that fit every net."""

import pytest
import torch
from cut_runs import cut_at
from recursive_nets import RECURSIVE, make_recursive_net
from small_nets import make_net

from circuit_lab.training import load_checkpoint, parse_recipe, train
from circuit_lab.training.optimizer import part_of

RECURSIVE_NET = {"kind": "recursive_transformer", "n_blocks": 1, "h_cycles": 2, "l_cycles": 1, "d_model": 12}
NETS = {
    "shared": {"kind": "shared_transformer", "layer_map": [0, 1, 0], "d_model": 12, "n_heads": 3, "d_mlp": 20},
    "attention": RECURSIVE_NET | {"n_heads": 3, "n_prefix": 2, "positions": "learned"},
    "position_mlp": RECURSIVE_NET | {"token_mixing": "position_mlp"},
}
CASES = [
    ("shared", ["attention"], {"W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"}),
    ("shared", ["mlp"], {"W_in", "W_out", "b_in", "b_out"}),
    ("shared", ["embedding", "unembedding"], {"W_E", "W_pos", "W_U"}),
    ("shared", ["norm"], {"w", "b"}),
    ("attention", ["attention"], {"W_Q", "W_K", "W_V", "W_O"}),
    ("attention", ["embedding"], {"W_E", "W_pos", "W_prefix"}),
    ("position_mlp", ["position_mlp"], {"W_gate", "W_in", "W_out"}),
    ("position_mlp", ["mlp", "unembedding"], {"W_gate", "W_in", "W_out", "W_U"}),
]


def recipe_with(tables, net, **optimizer):
    changes = {"net": NETS[net], "optimizer": tables["optimizer"] | optimizer, "checkpoints": {"every": 5}}
    changes["task"] = tables["task"]
    if net != "shared":
        changes["task"] = tables["task"] | {"answer_slots": {"d_vocab": 14, "n_ctx": 5}}
    return parse_recipe(tables | changes, source="a test")


def last_name(name):
    return name.rpartition(".")[2]


@pytest.mark.parametrize(("net", "only", "expected"), CASES)
def test_only_these_weights_change(tables, tmp_path, net, only, expected):
    """Between the checkpoints of steps 5 and 40, at a decay of .5 and a warm rate."""
    run = train(recipe_with(tables, net, only=only), tmp_path / "run", progress=False, device="cpu").run
    first, last = (
        load_checkpoint(run / "checkpoints" / f"step-{step:08d}.safetensors").net.unique_state_dict()
        for step in (5, 40)
    )
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert {last_name(name) for name in changed} == expected
    assert {part_of(name) for name in changed} == set(only)


def test_the_frozen_weights_are_the_initial_ones(tables, tmp_path):
    runs = {
        part: train(recipe_with(tables, "shared", only=[part]), tmp_path / part, progress=False)
        for part in ("mlp", "norm")
    }
    weights = {part: load_checkpoint(run.checkpoint).net.unique_state_dict() for part, run in runs.items()}
    both_frozen = [name for name in weights["mlp"] if part_of(name) not in runs]
    assert len(both_frozen) >= 10
    assert all(torch.equal(weights["mlp"][name], weights["norm"][name]) for name in both_frozen)


@pytest.mark.parametrize(
    "net", ["attention", *(pytest.param(n, marks=pytest.mark.slow) for n in ("shared", "position_mlp"))]
)
def test_a_cut_run_ends_with_the_same_bytes(tables, tmp_path, net):
    tables["training"]["ema_decay"] = 0.8
    recipe = recipe_with(tables, net, only=["mlp"])
    whole = train(recipe, tmp_path / "whole", progress=False)
    with cut_at(23):
        train(recipe, tmp_path / "cut", progress=False)
    resumed = train(recipe, tmp_path / "cut", progress=False)
    assert resumed.resumed_at == 18
    assert resumed.checkpoint.read_bytes() == whole.checkpoint.read_bytes()


def test_all_parts_together_are_the_whole_net(tables, tmp_path):
    parts = ["embedding", "attention", "mlp", "norm", "unembedding"]
    hashes = {
        load_checkpoint(
            train(recipe_with(tables, "shared", **only), tmp_path / name, progress=False).checkpoint
        ).weights_hash
        for name, only in (("all", {}), ("each", {"only": parts}))
    }
    assert len(hashes) == 1


@pytest.mark.parametrize(
    ("net", "only", "message"),
    [
        ("shared", ["atention"], r"optimizer.only.0: Input should be 'embedding', 'attention', .* \(got 'atention'\)"),
        ("shared", [], r"optimizer.only: .* at least 1 item"),
        ("shared", "mlp", r"optimizer.only: Input should be a valid tuple \(got 'mlp'\)"),
        ("shared", ["position_mlp"], "no part 'position_mlp'; its parts are: embedding, norm, attention, mlp, unem"),
        ("position_mlp", ["attention"], "no part 'attention'; its parts are: embedding, position_mlp, mlp, unembeddi"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(tables, tmp_path, net, only, message):
    with pytest.raises(ValueError, match=message):
        train(recipe_with(tables, net, only=only), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_every_weight_of_every_net_belongs_to_a_part():
    nets = [make_net(), *(make_recursive_net(**changes) for changes in RECURSIVE.values())]
    parts = {part_of(name) for net in nets for name, _ in net.named_parameters()}
    assert parts == {"embedding", "attention", "position_mlp", "mlp", "norm", "unembedding"}
