"""`circuit-lab compare`, as a user types it."""

import json

import pytest
import torch
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.nets.controls.modular import cosine_network
from circuit_lab.nets.controls.two_hop import fact_table_read_twice, triple_table
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.training import save_checkpoint


def call(*arguments):
    return CliRunner().invoke(app, ["compare", *(str(a) for a in arguments)])


@pytest.fixture
def checkpoints(small_task, tmp_path):
    """A circuit and a table of the training queries."""
    facts, d_vocab, trained = small_task.facts, small_task.d_vocab, small_task.splits["train_inferred"]
    nets = {
        "circuit": fact_table_read_twice(facts, d_vocab=d_vocab),
        "table": triple_table(facts, torch.cat([trained.tokens, trained.answer[:, None]], dim=1), d_vocab=d_vocab),
    }
    return {
        name: save_checkpoint(tmp_path / f"{name}.safetensors", net=net, task=small_task, step=7, metrics={})
        for name, net in nets.items()
    }


def test_the_answer_comes_first_then_why_then_the_differences(checkpoints, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = call(*checkpoints.values())
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 80
    words = " ".join(result.output.split())
    order = ["step 7: true_circuit", "step 7: memorising", "Same path: no.", "Paths:", "Differences"]
    assert [words.index(part) for part in order] == sorted(words.index(part) for part in order)
    assert "accuracy, test_ood 1.00 0.00 -1.00 -1.00, -0.97* 154 p" in words
    assert "differences looked at; of equal nets about" in words


@pytest.mark.slow
def test_modular_nets_as_json(tmp_path):
    task = build_task(ModularConfig(p=43, train_share=0.4))
    path = save_checkpoint(
        tmp_path / "a.safetensors", net=cosine_network(43, frequencies=[1, 4, 9, 20]), task=task, step=1, metrics={}
    )
    result = call(path, path, "--json", "--seed", "2")
    assert result.exit_code == 0, result.output
    read = json.loads(result.stdout)
    assert (read["same_path"], read["seed"], read["n_excluding_zero"]) == ("yes", 2, 0)
    assert read["a"]["verdict"] == read["b"]["verdict"] == "true_circuit"


def test_mistakes_are_one_line_and_exit_2(checkpoints):
    families = call(checkpoints["circuit"], "modular-grokked")
    assert families.exit_code == 2 and "nothing can be compared" in families.stderr
    missing = call(checkpoints["circuit"], "nowhere")
    assert missing.exit_code == 2 and "nowhere" in missing.stderr
    for result in (families, missing):
        assert result.stderr.count("\n") == 1 and "Traceback" not in result.output


def test_help_has_examples():
    result = CliRunner().invoke(app, ["compare", "--help"])
    assert result.exit_code == 0 and "circuit-lab compare " in result.output and "Examples:" in result.output
