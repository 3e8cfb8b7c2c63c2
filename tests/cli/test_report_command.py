"""`circuit-lab report`, as a user types it."""

import pytest
from small_runs import MODULAR, train_run
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.nets.controls.modular import cosine_network
from circuit_lab.report.scripts import SCRIPTS_FOLDER
from circuit_lab.tasks import ModularConfig, build_task
from circuit_lab.training import save_checkpoint


def call(*arguments):
    return CliRunner().invoke(app, ["report", *(str(a) for a in arguments)])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "cosines.safetensors"
    task = build_task(ModularConfig(p=11, train_share=0.5))
    return save_checkpoint(path, net=cosine_network(11, frequencies=[1, 4]), task=task, step=3, metrics={})


def test_it_writes_report_html_here_unless_told_where(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = call(checkpoint, "--seed", "2", "--link-scripts")
    assert result.exit_code == 0, result.output
    assert result.stdout == "Report: report.html\n"
    page = (tmp_path / "report.html").read_text()
    assert f"{checkpoint}, step 3" in page and "seed=2)" in page and len(page) < 1e6
    assert len(list((tmp_path / SCRIPTS_FOLDER).iterdir())) == 2


def test_whole_runs(tmp_path):
    run = train_run(MODULAR, tmp_path / "run", training={"n_steps": 20}, checkpoints={"every": 10})
    result = call(run, "--all", "-o", tmp_path / "out" / "run.html")
    assert result.exit_code == 0, result.output
    assert "Was the circuit there before held-out accuracy rose?" in (tmp_path / "out" / "run.html").read_text()


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (["{good}", "nowhere"], "no checkpoint at nowhere: there is no such file or folder"),
        (["{good}", "{broken}"], "truncated or not a safetensors file"),
        (["{good}", "--all"], "is no run folder"),
        (["{good}", "-o", "{folder}"], "it is a folder; name a file such as"),
        (["{good}", "-o", "{broken}/r.html"], "is a file, not a folder"),
    ],
)
def test_mistakes_are_one_line_and_exit_2_before_the_first_diagnosis(checkpoint, tmp_path, monkeypatch, paths, message):
    def diagnose(*given, **settings):
        raise AssertionError("diagnosed")

    monkeypatch.setattr("circuit_lab.verdict.diagnose", diagnose)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"\x80\x04K\x01.")
    names = {"good": checkpoint, "broken": tmp_path / "broken.safetensors", "folder": tmp_path}
    result = call(*(path.format(**names) for path in paths))
    assert result.exit_code == 2 and message in result.stderr.replace("\n", "")
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    assert [p.name for p in tmp_path.iterdir()] == ["broken.safetensors"]


def test_help_has_examples():
    result = CliRunner().invoke(app, ["report", "--help"])
    assert result.exit_code == 0 and "circuit-lab report models/*" in result.output and "Examples:" in result.output
