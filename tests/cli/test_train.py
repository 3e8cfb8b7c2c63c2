"""`circuit-lab train`: a finished run says so; SIGTERM saves as Ctrl-C does."""

import signal
import subprocess
import sys
import time

import pytest
import tomli_w
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.training import parse_recipe, train

TABLES = {
    "task": {"kind": "two_hop", "n_entities": 8, "n_relations": 5, "out_degree": 5, "ood_share": 0.3},
    "net": {"kind": "shared_transformer", "layer_map": [0, 0], "d_model": 12, "n_heads": 3, "d_mlp": 20},
    "training": {"n_steps": 20, "batch_size": 16},
}


def test_a_finished_run_says_so(tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tomli_w.dumps(TABLES))
    arguments = ["train", str(recipe), "--out", str(tmp_path / "run"), "--quiet"]
    first, second = CliRunner().invoke(app, arguments), CliRunner().invoke(app, arguments)
    assert (first.exit_code, second.exit_code) == (0, 0), second.output
    assert "Already finished" not in first.output
    assert "Already finished at step 20; --set training.n_steps=... prolongs it." in second.output
    assert "Continued" not in second.output
    longer = CliRunner().invoke(app, [*arguments, "--set", "training.n_steps=25"])
    assert "Continued from step 20." in longer.output and "Already finished" not in longer.output


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(tmp_path):
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(tomli_w.dumps(TABLES | {"training": {"n_steps": 100_000, "resume_every": 100_000}}))
    command = [sys.executable, "-c", "from circuit_lab.cli import main; main()", "train", str(recipe)]
    process = subprocess.Popen([*command, "--out", str(tmp_path / "run"), "--quiet"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not (tmp_path / "run" / "metrics.jsonl").read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert stderr.count("\n") == 1 and "the same command continues it" in stderr
    step = int(stderr.split("stopped at step ")[1].split(";")[0])
    whole = {**TABLES, "training": {"n_steps": step, "resume_every": 100_000}}
    recipe_to_there = parse_recipe(whole, source="a test")
    state = (train(recipe_to_there, tmp_path / "whole", progress=False).run / "resume.safetensors").read_bytes()
    assert (tmp_path / "run" / "resume.safetensors").read_bytes() == state
