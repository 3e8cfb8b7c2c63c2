"""A study is trained, measured, stored and judged, and a second call repeats nothing."""

import json
import shutil
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.errors import InputError
from circuit_lab.studies import Holding, find_study, read_results, reproduce, study_names
from circuit_lab.studies.runs import last_checkpoint, train_runs
from circuit_lab.training import load_checkpoint


def run(home, **settings):
    return reproduce("toy", scale="smoke", runs=home.parent / "runs", device="cpu", progress=False, **settings)


def test_runs_are_trained_with_their_parents_and_judged(home):
    found = run(home, seeds=(0, 1))
    assert {j.claim.name: j.holding for j in found.judgements} == {"positive": Holding.HELD, "absent": Holding.UNTESTED}
    assert found.results.measurements["step"].tolist() == [20, 20]
    assert found.results.provenance.n_training_steps == 2 * (40 + 20)
    of_second = load_checkpoint(home.parent / "runs/smoke/toy/second/seed=1/checkpoints/step-00000020.safetensors")
    of_first = load_checkpoint(home.parent / "runs/smoke/toy/first/seed=1/checkpoints/step-00000040.safetensors")
    assert of_second.recipe["parent"]["weights_hash"] == of_first.weights_hash
    stored = read_results(found.folder)
    pd.testing.assert_frame_equal(stored.measurements, found.results.measurements)


def test_a_second_call_trains_and_measures_nothing(home):
    run(home, seeds=(0,))
    before = {path: path.stat().st_mtime_ns for path in (home.parent / "runs/smoke/toy").rglob("*") if path.is_file()}
    tables = {path: path.stat().st_mtime_ns for path in (home.parent / "runs/smoke/tables").rglob("*.csv")}
    run(home, seeds=(0,))
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert tables == {path: path.stat().st_mtime_ns for path in (home.parent / "runs/smoke/tables").rglob("*.csv")}


def test_another_study_text_measures_again(home):
    run(home, seeds=(0,))
    study = home / "toy" / "study.py"
    study.write_text(study.read_text().replace(".norm())", ".norm()) * 2"))
    find_study.cache_clear()
    run(home, seeds=(0,))
    tables = sorted((home.parent / "runs/smoke/tables/toy").glob("*.csv"), key=lambda path: path.stat().st_mtime_ns)
    first, again = (pd.read_csv(path)["value"][0] for path in tables)
    assert again == pytest.approx(2 * first, rel=1e-5)


def test_other_code_of_the_studies_measures_again(home, monkeypatch):
    module = sys.modules["circuit_lab.studies.reproduce"]  # the package's own name for it is the function
    code = home.parent / "code"
    shutil.copytree(module._HERE, code)
    monkeypatch.setattr(module, "_HERE", code)
    for n_tables in (1, 2):
        run(home, seeds=(0,))
        assert len(list((home.parent / "runs/smoke/tables/toy").glob("*.csv"))) == n_tables
        timeline = code / "timeline.py"
        timeline.write_text(timeline.read_text() + "# changed\n")


@pytest.mark.parametrize(
    ("seeds", "command"),
    [
        ((0,), "circuit-lab reproduce toy --scale smoke --seeds 1"),
        (
            (1,),
            "python -c \"from circuit_lab.studies import reproduce; reproduce('toy', scale='smoke', seeds=[1])\"",
        ),
    ],
)
def test_the_command_that_makes_it_again_names_the_seeds(home, seeds, command):
    assert run(home, seeds=seeds).results.provenance.command == command


@pytest.mark.slow
def test_several_processes_train_the_same_nets(home):
    planned = [run_ for seed in (0, 1) for run_ in find_study("toy").runs(seed)]
    for name, n_jobs in (("one", 1), ("two", 2)):
        train_runs(planned, home.parent / name, scale="smoke", n_jobs=n_jobs, device="cpu", progress=False)
    last = [load_checkpoint(last_checkpoint(run_, home.parent / name)) for name in ("one", "two") for run_ in planned]
    hashes = [checkpoint.weights_hash for checkpoint in last]
    assert hashes[:2] == hashes[2:] and hashes[0] != hashes[1]


def test_mistakes_are_named(home):
    assert study_names() == ("toy",)
    with pytest.raises(InputError, match="unknown study 'toys'; the studies are: toy"):
        reproduce("toys")
    with pytest.raises(InputError, match=r"seeds must be different and at least one, got \[1, 1\]"):
        run(home, seeds=(1, 1))


def test_the_command_prints_each_claim_and_writes_the_figures(home):
    out = home.parent / "out"
    words = ["reproduce", "toy", "--scale", "smoke", "--seeds", "1", "--jobs", "1"]
    shown = CliRunner().invoke(app, [*words, "--runs", str(home.parent / "runs"), "--out", str(out)])
    assert shown.exit_code == 0, shown.output
    assert "positive: held" in shown.output and "absent: untested" in shown.output
    page = (out / "figures.html").read_text(encoding="utf-8")
    assert len(page) > 10_000 and "<h1>A toy</h1>" in page
    assert json.loads((out / "provenance.json").read_text())["seeds"] == [0]


def test_the_command_lists_the_studies_and_refuses_others(home):
    assert "toy" in CliRunner().invoke(app, ["reproduce"]).output
    refused = CliRunner().invoke(app, ["reproduce", "other"])
    assert refused.exit_code == 2
    refused = CliRunner().invoke(app, ["reproduce", "toy", "--scale", "huge"])
    assert refused.exit_code == 2
