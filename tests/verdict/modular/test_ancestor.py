"""Ungrokked or never grokked: what a checkpoint's past says, from files arranged by hand."""

import json

import pytest

from circuit_lab.training import checkpoint_path, reference_model, save_checkpoint
from circuit_lab.verdict import Verdict, diagnose


@pytest.fixture(scope="module")
def memoriser():
    return reference_model("modular-memorising")


@pytest.fixture(scope="module")
def grokked():
    return reference_model("modular-grokked")


def save(path, checkpoint, *, step, parent=None):
    recipe = {} if parent is None else {"parent": parent}
    return save_checkpoint(path, net=checkpoint.net, task=checkpoint.task, step=step, metrics={}, recipe=recipe)


def record_of(checkpoint, name):
    return {
        "checkpoint": name,
        "weights_hash": checkpoint.weights_hash,
        "step": checkpoint.step,
        "accuracy": dict(checkpoint.metrics),
    }


@pytest.mark.slow
def test_a_memoriser_without_a_past_memorises(memoriser, tmp_path):
    assert diagnose(save(tmp_path / "alone.safetensors", memoriser, step=500)).verdict == Verdict.MEMORISING
    assert diagnose((memoriser.net, memoriser.task)).verdict == Verdict.MEMORISING


@pytest.mark.slow
def test_a_memoriser_whose_parent_is_a_true_circuit_has_ungrokked(memoriser, grokked, tmp_path):
    parent = record_of(grokked, "modular-grokked")
    diagnosis = diagnose(save(tmp_path / "child.safetensors", memoriser, step=500, parent=parent))
    assert diagnosis.verdict == Verdict.UNGROKKED and diagnosis.confidence > 0.99
    assert "It comes from modular-grokked, step 15000 (true_circuit, held-out accuracy 1.00)." in diagnosis.reasons
    assert not any("parent" in warning for warning in diagnosis.warnings)


@pytest.mark.slow
def test_a_memoriser_whose_parent_never_grokked_memorises(memoriser, tmp_path):
    parent = record_of(memoriser, "modular-memorising")
    diagnosis = diagnose(save(tmp_path / "child.safetensors", memoriser, step=500, parent=parent))
    assert diagnosis.verdict == Verdict.MEMORISING
    assert any("It comes from modular-memorising, step 500 (memorising" in reason for reason in diagnosis.reasons)


@pytest.mark.parametrize(("accuracy", "verdict"), [(1.0, Verdict.UNGROKKED), (0.3, Verdict.MEMORISING)])
@pytest.mark.parametrize(
    "change", [pytest.param({"checkpoint": "nowhere/at-all"}, marks=pytest.mark.slow), {"weights_hash": "0" * 64}]
)
def test_a_parent_that_is_gone_is_taken_from_the_record_and_said_so(
    memoriser, grokked, tmp_path, change, accuracy, verdict
):
    parent = record_of(grokked, "modular-grokked") | change | {"accuracy": {"test_unmirrored": accuracy}}
    diagnosis = diagnose(save(tmp_path / "child.safetensors", memoriser, step=500, parent=parent))
    assert diagnosis.verdict == verdict
    assert any("The parent's checkpoint was not found" in warning for warning in diagnosis.warnings)


def test_a_recorded_parent_that_makes_no_sense_is_named(memoriser, tmp_path):
    path = save(tmp_path / "child.safetensors", memoriser, step=500, parent={"checkpoint": 3})
    with pytest.raises(ValueError, match="child.safetensors: recipe parent.checkpoint: Input should be a valid string"):
        diagnose(path)


def test_a_grokked_child_keeps_its_own_verdict(grokked, tmp_path):
    parent = record_of(grokked, "modular-grokked")
    child = diagnose(save(tmp_path / "child.safetensors", grokked, step=1, parent=parent))
    assert child.verdict == Verdict.TRUE_CIRCUIT
    assert not any("It comes from" in reason for reason in child.reasons)


def arrange_run(run, *, states):
    """A run folder whose checkpoints and metrics are these, oldest first."""
    records = []
    for step, (checkpoint, accuracy) in states.items():
        save(checkpoint_path(run, step), checkpoint, step=step)
        records.append(json.dumps({"step": step, "accuracy/test_unmirrored": accuracy}))
    (run / "metrics.jsonl").write_text("\n".join(records) + "\n")
    return run


@pytest.mark.slow
def test_a_run_that_had_grokked_and_fell_back_has_ungrokked(memoriser, grokked, tmp_path):
    run = arrange_run(tmp_path / "run", states={10: (memoriser, 0.0), 20: (grokked, 1.0), 30: (memoriser, 0.0)})
    last = diagnose(run)
    assert last.verdict == Verdict.UNGROKKED
    assert any("It comes from step 20 of the same run (true_circuit" in reason for reason in last.reasons)
    assert diagnose(checkpoint_path(run, 10)).verdict == Verdict.MEMORISING  # what comes later is not its past
    assert diagnose(checkpoint_path(run, 20)).verdict == Verdict.TRUE_CIRCUIT


@pytest.mark.slow
def test_a_false_record_of_the_past_is_found_out(memoriser, tmp_path):
    """The metrics claim a solved past, but that checkpoint is a memoriser."""
    run = arrange_run(tmp_path / "run", states={10: (memoriser, 1.0), 20: (memoriser, 0.0)})
    assert diagnose(run).verdict == Verdict.MEMORISING
