"""`circuit-lab calibrate`, as a user types it."""

import json

import pytest
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.cli.calibrate import RESULTS_FILE
from circuit_lab.verdict import calibration
from circuit_lab.verdict.calibration import read_records


def call(*arguments):
    return CliRunner().invoke(app, ["calibrate", *(str(a) for a in arguments)])


@pytest.fixture
def few(monkeypatch):
    """The command with three cheap controls in place of its hundreds."""
    names = ("two_hop/shared_table/task=0", "two_hop/training_table/task=0", "modular/flat_table/task=0")

    def three(*, seed, trained):
        assert trained == []
        chosen = [t for t in calibration.all_trials(seed=seed) if t.control.name in names]
        return [t for t in chosen if t.settings == chosen[0].settings]

    monkeypatch.setattr(calibration, "quick_trials", three)


@pytest.mark.slow
def test_it_prints_writes_and_goes_on(few, tmp_path):
    out = tmp_path / "calibration"
    first = call("--quick", "--out", out, "--jobs", 1)
    assert first.exit_code == 0, first.output
    assert "macro-F1 1.000" in first.output and "true_circuit" in first.output
    assert "0 of 1 nets without a circuit called one" in first.output.replace("\n", " ")
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "calibration.json", "figures.html", RESULTS_FILE]
    before = (out / RESULTS_FILE).read_bytes()
    again = call("--quick", "--out", out, "--jobs", 1, "--json")
    result = json.loads(again.stdout)
    assert result["n_controls"] == 3 and result == json.loads((out / "calibration.json").read_text())
    assert (out / RESULTS_FILE).read_bytes() == before
    assert [r.verdict for r in read_records(out / RESULTS_FILE)] == ["true_circuit", "memorising", "fake_grokking"]


def test_bad_input_is_one_line_and_exit_2(few, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / RESULTS_FILE).write_text("{}\n")
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["--out", tmp_path / "file"], "is a file; name a folder, such as runs/calibration"),
        (["--quick", "--out", tmp_path, "--jobs", 1], "results.jsonl, line 1 is no result of a control"),
        (["--trained", tmp_path / "empty", "--out", tmp_path / "o"], "train_controls.py"),
        (["--trained", tmp_path / "missing", "--out", tmp_path / "o"], "missing"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2, result.output
        assert message in result.stderr and "Traceback" not in result.output
    assert not (tmp_path / "o").exists()


def test_help_has_examples():
    result = call("--help")
    assert result.exit_code == 0 and "circuit-lab calibrate --quick" in result.output
