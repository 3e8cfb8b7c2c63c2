"""`circuit-lab diagnose RUN --all`, as a user types it."""

import json

import pytest
from small_runs import MODULAR, train_run
from told_runs import STORY, told_run
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.cli.run_tables import print_run_tables
from circuit_lab.verdict.runs import RunDiagnosis
from circuit_lab.verdict.runs.cache import DIAGNOSES


def call(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return train_run(MODULAR, path, training={"n_steps": 20}, checkpoints={"every": 10}, evaluation={"every": 10})


@pytest.mark.slow
def test_json_is_the_whole_diagnosis_and_what_is_kept_serves_the_next_call(run):
    result = call("diagnose", run, "--all", "--json")
    assert result.exit_code == 0, result.output
    found = RunDiagnosis.model_validate_json(result.stdout)
    assert [verdict.step for verdict in found.verdicts] == [10, 20] and len(list((run / DIAGNOSES).iterdir())) == 2
    two = call("diagnose", run, run, "--all", "--json")
    assert [one["source"] for one in json.loads(two.stdout)] == [str(run)] * 2
    assert len(list((run / DIAGNOSES).iterdir())) == 2


def test_tables_of_a_modular_run(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = call("diagnose", run, "--all")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("Was the circuit there before held-out accuracy rose?") for line in lines)
    assert any(line.split()[:2] == ["10", "untrained"] for line in lines)
    assert "exchange of logits" in result.output and "No alarms" in result.output


def test_tables_of_a_told_two_hop_run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    print_run_tables(told_run("3 of 10 test_ood queries are training items", **STORY))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    text = " ".join(out.split())
    assert "Was the circuit there before OOD accuracy rose? Yes: the circuit was there" in text
    rows = [line.split() for line in out.splitlines()]
    assert ["mediation,", "training", "there", "0.60", "30", "20", "30"] in rows
    assert ["OOD", "solved", "0.80", "40", "30", "40", "fell", "50"] in rows
    assert "- memorisation: steps 10 to 30" in out and "- clean up: not seen" in out
    assert "! leak, step 10: The test set is leaked: 3 of 10 test_ood queries are training items." in text
    assert "! ungrokked, step 50: OOD accuracy was certainly solved" in text


@pytest.mark.parametrize("paths", [["modular-grokked"], ["models/modular-grokked"], ["{run}", "{run}/run.toml"]])
def test_what_is_no_run_is_one_line_and_exit_2_before_anything_is_diagnosed(run, paths, monkeypatch):
    result = call("diagnose", *(path.format(run=run) for path in paths), "--all")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1 and "is no run folder" in result.stderr
    assert result.stdout == ""


def test_a_report_shows_the_run_and_tables_are_printed_too(run, tmp_path):
    result = call("diagnose", run, "--all", "--report", tmp_path / "r.html")
    assert result.exit_code == 0, result.output
    assert "Was the circuit there before held-out accuracy rose?" in (tmp_path / "r.html").read_text()
    assert "No alarms" in result.stdout and result.stdout.endswith(f"Report: {tmp_path / 'r.html'}\n")
