"""`circuit-lab import` and `circuit-lab export`, as a user types them."""

import json

import pytest
import torch
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.exporters import EXPORTERS
from circuit_lab.exporters.formats import EXPORT_FORMATS
from circuit_lab.importers import FORMATS, load
from circuit_lab.nets.controls.modular import cosine_network
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.training import load_checkpoint, save_checkpoint

TASK = "modular:p=23,train_share=0.4"


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def table_of(output):
    """The numbers beside each split."""
    rows = (line.split() for line in output.splitlines())
    return {row[0]: row[1:] for row in rows if len(row) == 5 and row[1].isdigit()}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "cosines.safetensors"
    task = build_task(ModularConfig(p=23, train_share=0.4))
    return save_checkpoint(path, net=cosine_network(23, frequencies=[1, 3, 4]), task=task, step=3, metrics={})


@pytest.fixture(scope="module")
def legacy(own, tmp_path_factory):
    path = tmp_path_factory.mktemp("legacy") / "theirs.pt"
    result = call("export", own, "--to", "transformer-lens-legacy", "--out", path)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"Written: {path}\n"
    return path


def test_there_and_back(own, legacy, tmp_path):
    kept = tmp_path / "kept.safetensors"
    result = call("import", legacy, "--task", TASK, "--out", kept)
    assert result.exit_code == 0, result.output
    assert "Format:   transformer-lens-legacy" in result.stdout
    assert "Inferred: " in result.stdout and "Ignored:  " in result.stdout
    assert f"Next: circuit-lab diagnose {kept}" in result.stdout
    tokens = build_task(ModularConfig(p=23, train_share=0.4)).pairs.tokens
    assert torch.allclose(load_checkpoint(kept).net(tokens), load_checkpoint(own).net(tokens), atol=1e-5)
    assert load_checkpoint(kept).origin.format == "transformer-lens-legacy"


def test_every_split_is_shown_with_its_chance(legacy):
    rows = table_of(call("import", legacy, "--task", TASK).stdout)
    task = build_task(ModularConfig(p=23, train_share=0.4))
    assert rows["train"] == ["212", "1.000", f"{task.chance['train']:.3f}", "212"]
    assert rows["test"] == ["317", "1.000", f"{task.chance['test']:.3f}", "0"]


def test_an_unknown_split_says_that_it_is(legacy):
    rows = table_of(call("import", legacy, "--task", "modular:p=23").stdout)
    assert rows["all"] == ["529", "1.000", "0.043", "?"]


def test_without_out_nothing_is_written(legacy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call("import", legacy)
    assert "Nothing was written; --out FILE.safetensors keeps it" in result.stdout
    assert "Task:     none given" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_net_at_chance_warns_on_the_error_stream(legacy):
    result = call("import", legacy, "--task", "modular:p=23,operation=a-b,train_share=0.4")
    assert result.exit_code == 0
    assert result.stderr.startswith("! ") and "near chance" in result.stderr
    assert "near chance" not in result.stdout


def test_another_code_s_file_goes_straight_to_the_verdict(legacy):
    result = call("diagnose", legacy, "--task", TASK, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["verdict"] == "true_circuit"


def test_a_net_at_chance_is_diagnosed_with_the_same_warning(legacy):
    result = call("diagnose", legacy, "--task", "modular:p=23,operation=a-b,train_share=0.4", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["verdict"] == "untrained"
    assert result.stderr.startswith("! ") and "near chance" in result.stderr and result.stderr.count("\n") == 1


def test_without_a_task_diagnose_points_to_load(legacy):
    result = call("diagnose", legacy)
    assert result.exit_code == 2
    assert "theirs.pt" in result.stderr


def test_an_old_checkpoint_is_written_anew(tmp_path):
    out = tmp_path / "new.safetensors"
    result = call("import", "tests/golden/checkpoint_version_1.safetensors", "--out", out)
    assert result.exit_code == 0, result.output
    assert "Format: circuit-lab" in result.stdout
    old, new = load("tests/golden/checkpoint_version_1.safetensors"), load_checkpoint(out)
    assert old.weights_hash == new.weights_hash
    assert (old.step, old.metrics, old.recipe) == (new.step, new.metrics, new.recipe)


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=pytest.mark.slow if name == "onnx" else ()) for name in EXPORT_FORMATS]
)
def test_every_layout_is_written_or_refused_with_a_reason(own, layout, tmp_path):
    result = call("export", own, "--to", layout, "--out", tmp_path / "out")
    assert result.exit_code in (0, 2), result.output
    if result.exit_code == 2:
        assert result.stderr.startswith("circuit-lab: ") and result.stderr.count("\n") == 1
        assert list(tmp_path.iterdir()) == []
    else:
        assert (tmp_path / "out").exists() or list(tmp_path.iterdir())


def test_the_tables_name_the_same_layouts():
    assert tuple(EXPORTERS) == EXPORT_FORMATS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "nowhere.pt"], "no checkpoint at nowhere.pt"),
        (["import", "{legacy}", "--format", "pickle"], "unknown format 'pickle'; the formats are: "),
        (["import", "{legacy}", "--task", "modular:q=13"], "'q'"),
        (["import", "{legacy}", "--weights", "best"], "weights must be"),
        (["import", "{own}", "--passes", "2"], "leave n_passes out"),
        (["diagnose", "{own}", "--all", "--task", "modular:p=23"], "--task 'modular:p=23' does not go with --all"),
        (["export", "{own}", "--to", "keras", "--out", "x"], "--to 'keras': unknown format; the formats are: "),
        (["export", "nowhere", "--to", "onnx", "--out", "x"], "no checkpoint at nowhere"),
        (["export", "{own}", "--to", "gpt2-folder", "--out", "x"], "norm"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, message, own, legacy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(*(a.format(own=own, legacy=legacy) for a in arguments))
    assert result.exit_code == 2
    assert result.stderr.startswith("circuit-lab: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    assert result.stdout == "" and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["import", "export"])
def test_help_has_examples_and_every_format(command):
    text = " ".join(call(command, "--help").stdout.split())
    assert "Examples" in text
    assert all(name in text for name in (FORMATS if command == "import" else EXPORT_FORMATS))
