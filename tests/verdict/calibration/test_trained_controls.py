"""Trained controls: the labelling rules by hand, small runs read back, and the grid's own script in a slow test."""

import re
import runpy
import subprocess
import sys
import time
from collections import defaultdict
from math import sqrt
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from circuit_lab.tasks import ModularConfig, TwoHopConfig, build_task
from circuit_lab.training import load_checkpoint, load_recipe, parse_recipe, train
from circuit_lab.verdict import diagnose
from circuit_lab.verdict.calibration.controls import NO_CIRCUIT_KINDS
from circuit_lab.verdict.calibration.trained import (
    IS_HELD_OUT,
    label_modular,
    label_two_hop,
    run_of,
    trained_controls,
)
from circuit_lab.verdict.checks import Share

SCRIPT = Path(__file__).parents[3] / "analyses" / "calibration" / "train_controls.py"
SIZES = {"n_entities": 8, "n_relations": 5, "out_degree": 5, "ood_share": 0.3, "test_id_share": 0.1, "seed": 1}
CIRCUITS = {"true_circuit", "id_circuit", "first_hop_failure", "second_hop_failure"}
"""Verdicts which say that right answers go through a circuit, in distribution at least."""


def shares(n=1000, **accuracies):
    return {split: Share(round(n * accuracy), n) for split, accuracy in accuracies.items()}


def two_hop_scores(n=1000, **changes):
    """A net that has learnt its training items and nothing else, but for the changes."""
    rote = {"training": 1.0, "test_id": 0.1, "hop1_ood": 0.1, "hop2_ood": 0.1, "test_ood": 0.1}
    return shares(n, **(rote | changes))


CLEAN, SHUFFLED, LEAKED, BOTH = (
    TwoHopConfig(**SIZES, **changes)
    for changes in (
        {},
        {"shuffled_answers": True},
        {"leaked_share": 1.0},
        {"shuffled_answers": True, "leaked_share": 1.0},
    )
)


@pytest.mark.parametrize(
    ("config", "changes", "truth"),
    [
        (CLEAN, {}, "memorising"),
        (SHUFFLED, {}, "memorising"),
        (LEAKED, {}, None),  # leaked, and yet not answered: by what it answers the rest is not known
        (CLEAN, {"training": 0.5}, "untrained"),
        (SHUFFLED, {"training": 0.5}, "untrained"),
        (CLEAN, {"training": 0.9}, None),  # its interval straddles
        (CLEAN, {"test_id": 0.5}, None),
        (CLEAN, {"test_id": 0.9}, None),
        (CLEAN, {"test_id": 0.9, "test_ood": 0.95}, None),  # generalises: by a circuit or not
        (CLEAN, {"test_ood": 0.95}, None),  # right without a leak: not by rote, at any rate
        (CLEAN, {"test_ood": 0.8}, None),
        (LEAKED, {"test_ood": 0.95}, "fake_grokking"),
        (LEAKED, {"test_ood": 0.95, "training": 0.5}, "fake_grokking"),  # whatever else it has learnt
        (LEAKED, {"test_ood": 0.8}, None),
        (LEAKED, {"test_ood": 0.95, "hop1_ood": 0.25}, None),  # perhaps composed
        (LEAKED, {"test_ood": 0.95, "hop2_ood": 0.25}, None),
        (BOTH, {"test_ood": 0.95}, "fake_grokking"),
        (BOTH, {"test_ood": 0.95, "hop1_ood": 0.25}, "fake_grokking"),  # shuffled: nothing to compose
        (BOTH, {"test_ood": 0.6}, "memorising"),
        (BOTH, {"test_ood": 0.8}, None),
    ],
)
def test_two_hop_rules(config, changes, truth):
    assert label_two_hop(config, two_hop_scores(**changes)).truth == truth


def wilson(n_true, n, *, z=1.959963984540054):
    """Wilson's interval by its formula."""
    p = n_true / n
    centre, width = p + z**2 / (2 * n), z * sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (centre - width) / (1 + z**2 / n), (centre + width) / (1 + z**2 / n)


@pytest.mark.parametrize("n", [20, 93])
def test_surely_means_the_whole_wilson_interval(n):
    for n_right in range(n + 1):
        low, high = wilson(n_right, n)
        trained = label_two_hop(CLEAN, two_hop_scores() | {"training": Share(n_right, n)}).truth
        assert trained == ("untrained" if high < 0.9 else "memorising" if low >= 0.9 else None)
        held_out = label_two_hop(CLEAN, two_hop_scores() | {"test_id": Share(n_right, n)}).truth
        assert held_out == ("memorising" if high < 0.5 else None)
        leaked = label_two_hop(BOTH, two_hop_scores() | {"test_ood": Share(n_right, n)}).truth
        assert leaked == ("fake_grokking" if low >= 0.8 else "memorising" if high < 0.8 else None)


@pytest.mark.parametrize(
    ("labels", "accuracies", "truth"),
    [
        ("true", {10: 0.03, 20: 0.03}, "memorising"),
        ("true", {5: 0.3, 10: 0.0, 25: 0.03}, "memorising"),  # the past does not matter
        ("true", {10: 0.03}, None),  # nothing is known of its future
        ("true", {10: 0.03, 19: 0.03}, None),  # too little
        ("true", {10: 0.3, 20: 0.03}, None),  # above chance: part of a circuit, perhaps
        ("true", {10: 0.03, 20: 0.03, 30: 0.3}, None),  # goes on to generalise, so a circuit may be forming
        ("true", {10: 0.99, 20: 0.99}, None),
        ("random", {10: 0.03}, "memorising"),
        ("random", {10: 0.3, 20: 0.3}, "memorising"),  # whatever the accuracy: nothing but rote gives random answers
        ("random_commutative", {10: 0.03}, "memorising"),
    ],
)
def test_modular_rules(labels, accuracies, truth):
    task = build_task(ModularConfig(p=29, train_share=0.3, labels=labels))
    assert task.chance["test_unmirrored"] == pytest.approx(0.035, abs=0.03)
    for training, expected in ((1.0, truth), (0.9, None), (0.5, "untrained")):
        evaluated = {s: shares(training=training, test=a, test_unmirrored=a) for s, a in accuracies.items()}
        assert label_modular(task, evaluated, step=10).truth == expected


def test_held_out_pairs_below_chance_are_not_above_it():
    """Net and chance on the few unmirrored pairs of a large training set; all of `test` plays no part."""
    task = build_task(ModularConfig(p=29, train_share=0.6))
    n = len(task.splits["test_unmirrored"])
    evaluated = {s: shares(training=1.0, test=0.6) | {"test_unmirrored": Share(2, n)} for s in (10, 20)}
    assert label_modular(task, evaluated, step=10).truth == "memorising"
    evaluated[20] = evaluated[20] | {"test_unmirrored": Share(n // 4, n)}
    assert label_modular(task, evaluated, step=10).truth is None


# Runs on disk: one tiny run, four checkpoints, the last of which has learnt.

PLACE = "two_hop/random_labels/standard/seed=1"
TINY = {
    "task": {"kind": "two_hop", **SIZES, "test_id_share": 0.3, "shuffled_answers": True},
    "net": {"kind": "shared_transformer", "layer_map": [0, 1], "d_model": 24, "n_heads": 3, "d_mlp": 40},
    "optimizer": {"learning_rate": 5e-3, "weight_decay": 0.0, "warmup_steps": 7},
    "training": {"n_steps": 160, "batch_size": 64},
    "evaluation": {"every": 40},
    "checkpoints": {"every": 40},
}


@pytest.fixture(scope="module")
def tiny_grid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls")
    train(parse_recipe(TINY, source="a test"), folder / PLACE, device="cpu", progress=False)
    return folder


def test_each_checkpoint_of_a_run_is_a_control(tiny_grid):
    controls = trained_controls(tiny_grid)
    assert [c.name for c in controls] == [f"trained/{PLACE}/step={step}" for step in (40, 80, 120, 160)]
    assert {c.family for c in controls} == {"trained/two_hop/random_labels/standard"}
    assert {run_of(c.name) for c in controls} == {f"trained/{PLACE}"}
    assert all(c.held_out for c in controls)
    assert (controls[0].truth, controls[0].kind) == ("untrained", "untrained")
    assert (controls[-1].truth, controls[-1].kind) == ("memorising", "random_labels")
    assert controls[-1].mechanism.startswith("Its labels are random")


def test_a_control_builds_its_own_checkpoint(tiny_grid):
    for control, step in zip(trained_controls(tiny_grid), (40, 80, 120, 160), strict=True):
        net, task = control.build()
        saved = load_checkpoint(tiny_grid / PLACE / "checkpoints" / f"step-{step:08d}.safetensors")
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), saved.net.parameters(), strict=True))
        with torch.no_grad():
            items = task.training
            logits = net(items.tokens)[torch.arange(len(items)), items.answer_position]
        right = float((logits.argmax(-1) == items.answer).float().mean())
        assert (right < 0.85) == (control.truth == "untrained")
        assert saved.metrics["training"] == pytest.approx(right, abs=1e-6)


def copy_run(source, folder, place):
    for path in [p for p in source.rglob("*") if p.is_file()]:
        target = folder / place / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder / place


def test_listing_reads_no_weights(tiny_grid, tmp_path):
    run = copy_run(tiny_grid / PLACE, tmp_path, PLACE)
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    controls = trained_controls(tmp_path)
    assert [c.truth for c in controls] == [c.truth for c in trained_controls(tiny_grid)]
    with pytest.raises(ValueError, match="truncated or not a safetensors file"):
        controls[0].build()


def test_a_run_that_has_not_ended_is_left_out(tiny_grid, tmp_path):
    copy_run(tiny_grid / PLACE, tmp_path, PLACE)
    other = copy_run(tiny_grid / PLACE, tmp_path, "two_hop/random_labels/shared/seed=1")
    (other / "checkpoints" / "step-00000160.safetensors").unlink()
    assert {run_of(c.name) for c in trained_controls(tmp_path)} == {f"trained/{PLACE}"}


def test_a_folder_without_runs_names_the_script(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run folder; python analyses/calibration/train_controls\.py --out"):
        trained_controls(tmp_path / "none")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("seed=1", "run seed=1 does not lie at <task>/<data>/<architecture>/<run>"),
        ("two_hop/random_labels/wide/seed=1", "the architecture 'wide' is in neither half; there are: shared,"),
    ],
)
def test_a_run_in_an_unknown_place_is_refused(tiny_grid, tmp_path, place, message):
    copy_run(tiny_grid / PLACE, tmp_path, place)
    with pytest.raises(ValueError, match=re.escape(message)):
        trained_controls(tmp_path)


# The grid itself.


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT), run_name="the script")


@pytest.fixture(scope="module")
def grid(script):
    return script["grid"]()


def test_every_run_of_the_grid_is_valid_and_named_by_what_it_is(grid):
    assert len({run.name for run in grid}) == len(grid) > 150
    assert [run.seed for run in grid] == sorted(run.seed for run in grid)
    for run in grid:
        recipe = parse_recipe(dict(run.tables), source=run.name)
        kind, data, architecture, seed = run.name.split("/")
        random = getattr(recipe.task, "shuffled_answers", None) or getattr(recipe.task, "labels", "true") != "true"
        assert (kind, seed) == (recipe.task.kind, f"seed={recipe.task.seed}")
        assert ("random" in data) == random
        assert ("leaked" in data) == (getattr(recipe.task, "leaked_share", 0) == 1)
        assert (data == "no_decay") == (recipe.optimizer.weight_decay == 0)
        assert len(recipe.checkpoints.steps(recipe.training.n_steps)) == 4
        assert architecture in IS_HELD_OUT
        assert recipe.training.seed == recipe.net["init_seed"] == recipe.task.seed == run.seed


def test_both_halves_of_the_grid_hold_every_condition(grid):
    conditions = defaultdict(set)
    nets = defaultdict(set)
    for run in grid:
        kind, data, architecture, _ = run.name.split("/")
        conditions[IS_HELD_OUT[architecture]].add((kind, data))
        nets[kind, IS_HELD_OUT[architecture]].add(architecture)
    assert conditions[True] == conditions[False]
    assert not nets["two_hop", True] & nets["two_hop", False] and not nets["modular", True] & nets["modular", False]


@pytest.fixture
def call_in_process(script, monkeypatch):
    """Calls the script's command line in a process where nothing can be trained."""
    monkeypatch.delitem(script["main"].__globals__, "train_all")
    app = typer.Typer()
    app.command()(script["main"])
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_an_unknown_pattern_is_refused_before_anything_is_written(call_in_process, tmp_path):
    out = tmp_path / "out"
    result = call_in_process("--out", str(out), "--only", "two_hop/*", "--only", "three_hop/*")
    assert result.exit_code == 2 and "no run matches 'three_hop/*'" in result.output
    assert not out.exists()


def test_patterns_choose_runs_and_listing_trains_none(call_in_process, grid, tmp_path):
    out = tmp_path / "out"
    result = call_in_process("--list", "--out", str(out), "--only", "*/seed=7", "--only", "modular/gen*/n*")
    chosen = [run.name for run in grid if run.name.endswith("/seed=7") or run.name.startswith("modular/gen")]
    chosen = [name for name in chosen if name.endswith("/seed=7") or "/normed/" in name]
    assert result.output.split() == chosen and len(chosen) == 6
    assert not out.exists()


def call_script(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


@pytest.mark.slow
def test_runs_of_the_grid_trained_from_scratch_are_what_they_are_made_to_be(tmp_path):
    """Five of the smallest; none may be called a circuit, whatever its accuracy."""
    expected = {
        "two_hop/random_labels/standard/seed=0": "memorising",
        "two_hop/leaked_random_labels/bidirectional/seed=0": "fake_grokking",
        "two_hop/leaked/standard/seed=0": "fake_grokking",
        "modular/random_labels/shared/seed=0": "memorising",
        "modular/no_decay/normed/seed=0": "memorising",
    }
    arguments = ["--out", str(tmp_path), *(part for name in expected for part in ("--only", name))]
    first = call_script(*arguments, "--n-jobs", "2")
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("min left") == len(expected) and "was finished" not in first.stdout
    again = call_script(*arguments, "--n-jobs", "1")
    assert again.stdout.count("was finished") == len(expected) and "min left" not in again.stdout

    controls = trained_controls(tmp_path)
    assert {run_of(c.name) for c in controls} == {f"trained/{name}" for name in expected}
    last = {run_of(c.name).removeprefix("trained/"): str(c.truth) for c in controls if c.truth is not None}
    assert last == expected
    n_negative = 0
    for control in controls:
        if control.truth is not None:
            verdict = diagnose(control.build()).verdict
            assert verdict not in CIRCUITS, control.name
            n_negative += control.kind in NO_CIRCUIT_KINDS
            assert verdict in {control.truth, "inconclusive"}, control.name
    assert n_negative >= 10


@pytest.mark.slow
def test_the_script_continues_an_interrupted_run(tmp_path):
    name = "modular/random_labels/one_layer/seed=0"
    process = subprocess.Popen(
        [sys.executable, SCRIPT, "--out", str(tmp_path), "--n-jobs", "1", "--only", name], stderr=subprocess.PIPE
    )
    checkpoints = tmp_path / name / "checkpoints"
    while process.poll() is None and not any(checkpoints.glob("step-*")):
        time.sleep(0.02)
    process.terminate()
    _, message = process.communicate()
    assert process.returncode == 128 + 15 and b"the same command continues it" in message
    assert trained_controls(tmp_path) == []
    assert call_script("--out", str(tmp_path), "--only", name).returncode == 0
    run, whole = tmp_path / name, tmp_path / "whole"
    train(load_recipe(run / "run.toml"), whole, device="cpu", progress=False)
    for path in sorted((whole / "checkpoints").iterdir()):
        assert (run / "checkpoints" / path.name).read_bytes() == path.read_bytes()
