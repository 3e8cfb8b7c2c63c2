"""The command line, as a user types it: output, exit codes, one clear line for a mistake."""

import json
import signal
import subprocess
import sys
import time

import pytest
import tomli_w
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.nets.controls.two_hop import fact_table_read_twice, triple_table
from circuit_lab.training import read_metrics, save_checkpoint

TABLES = {
    "task": {"kind": "two_hop", "n_entities": 8, "n_relations": 5, "out_degree": 5, "ood_share": 0.3},
    "net": {"kind": "shared_transformer", "layer_map": [0, 0], "d_model": 12, "n_heads": 3, "d_mlp": 20},
    "training": {"n_steps": 30, "batch_size": 16},
}


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(tomli_w.dumps(TABLES))
    return path


@pytest.fixture
def checkpoints(small_task, tmp_path):
    """A circuit and a table, as checkpoint files."""
    q = small_task.splits["train_inferred"]
    from torch import cat

    nets = {
        "circuit": fact_table_read_twice(small_task.facts, d_vocab=small_task.d_vocab),
        "table": triple_table(small_task.facts, cat([q.tokens, q.answer[:, None]], dim=1), d_vocab=small_task.d_vocab),
    }
    return {
        name: save_checkpoint(tmp_path / f"{name}.safetensors", net=net, task=small_task, step=0, metrics={})
        for name, net in nets.items()
    }


def test_train_writes_a_run_and_resumes_it(recipe, tmp_path):
    first = call("train", recipe, "--out", tmp_path / "run", "--set", "training.n_steps=20", "--quiet")
    assert first.exit_code == 0, first.output
    assert "test_ood         accuracy 0." in first.output and "step-00000020.safetensors" in first.output
    second = call("train", recipe, "--out", tmp_path / "run", "--quiet")
    assert second.exit_code == 0 and "Continued from step 20." in second.output
    assert [r["step"] for r in read_metrics(tmp_path / "run")] == [0, 20, 30]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "training.n_step=3"], "unknown key 'training.n_step'; valid keys are: n_steps"),
        (["--set", "task.out_degree=6"], "out_degree = 6 is more than n_relations = 5"),
        (["--device", "tpu"], "device 'tpu' is not available"),
        (["--set", "task.ood_share=0.001"], "test_ood is empty"),
    ],
)
def test_mistakes_in_training_are_one_line_and_exit_2(recipe, tmp_path, arguments, message):
    result = call("train", recipe, "--out", tmp_path / "run", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr and result.stderr.count("\n") == 1 and "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_ctrl_c_saves_and_tells_how_to_go_on(recipe, tmp_path):
    command = [sys.executable, "-c", "from circuit_lab.cli import main; main()", "train", recipe]
    command += ["--out", tmp_path / "run", "--set", "training.n_steps=100000", "--quiet"]
    process = subprocess.Popen([str(c) for c in command], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped at step" in stderr and "the same command continues it" in stderr and "Traceback" not in stderr
    assert (tmp_path / "run" / "resume.safetensors").exists()


def test_diagnose_prints_the_verdict_first_then_why(checkpoints):
    result = call("diagnose", *checkpoints.values())
    assert result.exit_code == 0, result.output
    lines = result.output
    assert lines.index("true_circuit") < lines.index("Out-of-distribution answers are right, and they go through")
    assert "memorising" in lines and "hop1" in lines and "resid_post 0 @ r1" in lines


@pytest.mark.slow
def test_both_families_have_their_own_tables_and_models_are_found_by_name(checkpoints, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = call("diagnose", "modular-ungrokked", checkpoints["circuit"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert any(line.startswith("Two-hop composition") for line in lines) and any(
        line.startswith("Modular arithmetic") for line in lines
    )
    assert "It comes from modular-grokked, step 15000 (true_circuit" in result.output.replace("\n", " ")
    assert "inputs, rank 4 of 58" in result.output and max(map(len, lines)) <= 80


@pytest.mark.slow
def test_json_is_json_alone(checkpoints):
    one = call("diagnose", checkpoints["circuit"], "--json")
    assert json.loads(one.stdout)["verdict"] == "true_circuit"
    two = call("diagnose", *checkpoints.values(), "--json")
    assert [d["verdict"] for d in json.loads(two.stdout)] == ["true_circuit", "memorising"]


def test_larger_splits_can_be_sampled_down(checkpoints):
    result = call("diagnose", checkpoints["circuit"], "--json", "--max-queries", "30")
    diagnosis = json.loads(result.stdout)
    assert diagnosis["max_queries_per_split"] == 30
    assert max(split["n"] for split in diagnosis["outcomes"]) == 30
    none = call("diagnose", checkpoints["circuit"], "--max-queries", "0")
    assert none.exit_code == 2 and "--max-queries" in none.stderr and "greater than or equal to" in none.stderr


@pytest.mark.slow
def test_report_is_written(checkpoints, tmp_path):
    result = call("diagnose", checkpoints["circuit"], "--report", tmp_path / "out" / "r.html")
    assert result.exit_code == 0 and "true circuit" in (tmp_path / "out" / "r.html").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "there is no such file or folder"), (b"\x80\x04K\x01.", "truncated or not a safetensors file")],
)
def test_bad_checkpoints_are_one_line_and_exit_2(checkpoints, tmp_path, content, message):
    bad = tmp_path / "bad.safetensors"
    if content is not None:
        bad.write_bytes(content)
    result = call("diagnose", checkpoints["circuit"], bad)
    assert result.exit_code == 2
    assert message in result.stderr and str(bad) in result.stderr.replace("\n", "")
    assert "Traceback" not in result.output and "true_circuit" not in result.stdout


@pytest.mark.parametrize("command", ["train", "diagnose"])
def test_help_has_examples(command):
    result = call(command, "--help")
    assert result.exit_code == 0 and f"circuit-lab {command} " in result.output and "Examples:" in result.output
