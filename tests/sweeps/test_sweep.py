"""Sweeps end to end: stacks and single runs alike, resumed, grown, with failures, on processes and clusters."""

import os
import signal
import subprocess
import sys
import time

import pytest
import tomli_w
import torch
from cut_runs import cut_at
from small_runs import MODULAR, TWO_HOP
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.errors import InputError
from circuit_lab.measures.intervals import proportion_interval
from circuit_lab.sweeps import load_sweep, read_results, results_frame, run_sweep
from circuit_lab.sweeps.fleet import stacked, train_fleet
from circuit_lab.training import checkpoint_path, load_checkpoint, read_metrics, train
from circuit_lab.training.learner import Learner
from circuit_lab.training.run_lock import locked
from circuit_lab.training.stacked_learner import StackedLearner

TEXT = """
recipe = "base.toml"
seeds = 2

[axes]
task.train_share = [0.4, 0.6]
optimizer.weight_decay = [0.5, 1.0]
"""


@pytest.fixture
def sweep(tmp_path):
    (tmp_path / "base.toml").write_text(tomli_w.dumps(MODULAR))
    path = tmp_path / "grid.toml"
    path.write_text(TEXT)
    return path


def run(sweep, out, **settings):
    return run_sweep(sweep, out, device="cpu", progress=False, **settings)


def final_weights(folder):
    return load_checkpoint(checkpoint_path(folder, 40)).net.unique_state_dict()


def test_each_run_is_the_run_of_its_recipe(sweep, tmp_path):
    found = run(sweep, tmp_path / "out")
    assert found.problems == {} and len(found.runs) == 8
    for each in (found.runs[0], found.runs[5]):
        alone = train(each.recipe, tmp_path / "alone" / each.name, device="cpu", progress=False)
        there = checkpoint_path(tmp_path / "out" / each.name, 40)
        assert there.read_bytes() == alone.checkpoint.read_bytes()


def test_stacks_give_the_weights_of_single_runs(sweep, tmp_path):
    single, stack = run(sweep, tmp_path / "single"), run(sweep, tmp_path / "stack", stack_size=3)
    for each in single.runs:
        one, many = final_weights(tmp_path / "single" / each.name), final_weights(tmp_path / "stack" / each.name)
        for name in one:
            if not name.endswith("b_K"):  # softmax does not see it: its gradient is rounding alone
                torch.testing.assert_close(many[name], one[name], rtol=0, atol=2e-5)
    assert list(stack.results["run"]) == list(single.results["run"])


def test_the_table_says_what_the_metrics_say(sweep, tmp_path):
    found = run(sweep, tmp_path / "out")
    table = read_results(tmp_path / "out")
    assert table.equals(found.results) and found.path == tmp_path / "out" / "results.parquet"
    assert len(table) == 8 * 5 * 3 and table["finished"].all()  # runs, evaluations, splits
    each = found.runs[3]
    rows = table[(table["run"] == each.name) & (table["split"] == "test")]
    assert set(rows["weight_decay"]) == {1.0} and set(rows["train_share"]) == {0.4} and set(rows["seed"]) == {1}
    records = read_metrics(tmp_path / "out" / each.name)
    assert list(rows["step"]) == [record["step"] for record in records] == [0, 10, 20, 30, 40]
    assert list(rows["accuracy"]) == [record["accuracy/test"] for record in records]
    assert list(rows["loss"]) == [record["loss/test"] for record in records]
    n = 49 - round(0.4 * 49)
    assert set(rows["n"]) == {n}
    last = rows.iloc[-1]
    interval = proportion_interval(round(last["accuracy"] * n), n)
    assert (last["low"], last["high"]) == (interval.low, interval.high)
    assert last["low"] <= last["accuracy"] <= last["high"] and 0 < last["chance"] < 0.5


def test_a_stopped_sweep_goes_on(sweep, tmp_path):
    with cut_at(23):
        run(sweep, tmp_path / "cut")
    so_far = results_frame(load_sweep(sweep), tmp_path / "cut")
    assert so_far["run"].nunique() == 1 and not so_far["finished"].any()
    resumed, whole = run(sweep, tmp_path / "cut"), run(sweep, tmp_path / "whole")
    assert resumed.results.equals(whole.results)


def test_a_sweep_grows_and_leaves_what_is_finished(sweep, tmp_path, monkeypatch):
    run(sweep, tmp_path / "out")
    sweep.write_text(TEXT.replace("[0.5, 1.0]", "[0.5, 1.0, 2.0]"))
    steps, real = [], Learner.step

    def counted(self, step):
        steps.append(self.recipe.optimizer.weight_decay)
        return real(self, step)

    monkeypatch.setattr(Learner, "step", counted)
    grown = run(sweep, tmp_path / "out")
    assert len(grown.runs) == 12 and grown.results["run"].nunique() == 12
    assert steps == [2.0] * 4 * 40


@pytest.mark.parametrize("stack_size", [1, 8])
def test_one_bad_run_stops_no_other(sweep, tmp_path, stack_size):
    sweep.write_text(TEXT.replace("optimizer.weight_decay = [0.5, 1.0]", "optimizer.learning_rate = [5e-3, 1e30]"))
    found = run(sweep, tmp_path / "out", stack_size=stack_size)
    assert {name.split(",")[1] for name in found.problems} == {
        "learning_rate=1e+30/seed=0",
        "learning_rate=1e+30/seed=1",
    }
    assert all("training diverged" in problem for problem in found.problems.values())
    finished = found.results[found.results["finished"]]
    assert finished["run"].nunique() == 4 and set(finished["learning_rate"]) == {5e-3}


def test_a_folder_of_another_recipe_is_named_and_not_shown(sweep, tmp_path):
    run(sweep, tmp_path / "out")
    sweep.write_text(TEXT + "[set]\noptimizer.learning_rate = 1e-4\n")
    found = run(sweep, tmp_path / "out")
    assert len(found.problems) == 8 and found.results.empty
    assert all("optimizer.learning_rate was 0.005 and is 0.0001" in problem for problem in found.problems.values())


def test_shorter_runs_than_there_are_are_not_shown_longer(sweep, tmp_path):
    run(sweep, tmp_path / "out")
    sweep.write_text(TEXT + "[set]\ntraining.n_steps = 20\n")
    found = run(sweep, tmp_path / "out")
    assert len(found.problems) == 8 and found.results.empty


@pytest.mark.parametrize("stack_size", [1, 4])
def test_a_run_whose_task_cannot_be_built_stops_no_other(sweep, tmp_path, stack_size):
    task = {"kind": "two_hop_transfer", "n_entities": 20, "n_relations": 8, "out_degree": 6, "ood_share": 0.3}
    (tmp_path / "base.toml").write_text(tomli_w.dumps(TWO_HOP | {"task": task}))
    sweep.write_text('recipe = "base.toml"\naxes.task.new_per_entity = [9.0, 1.0]')
    found = run(sweep, tmp_path / "out", stack_size=stack_size)
    assert list(found.problems) == ["new_per_entity=9.0/seed=0"]
    assert found.results["finished"].all() and set(found.results["new_per_entity"]) == {1.0}


def test_a_sweep_of_which_nothing_can_be_trained_says_so(sweep, tmp_path):
    sweep.write_text(TEXT + "[set]\nparent.checkpoint = 'nowhere'\n")
    found = run(sweep, tmp_path / "out")
    assert len(found.problems) == 8 and read_results(tmp_path / "out").empty


def test_numbers_below_one_are_refused(sweep, tmp_path):
    for settings in ({"stack_size": 0}, {"stack_size": -1}, {"n_jobs": 0}):
        with pytest.raises(InputError, match="must be at least 1, got"):
            run(sweep, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_stack_with_a_locked_folder_trains_the_others_together(sweep, tmp_path, monkeypatch):
    sizes, real = [], StackedLearner.__init__

    def noted(self, learners):
        sizes.append(len(learners))
        real(self, learners)

    monkeypatch.setattr(StackedLearner, "__init__", noted)
    taken = tmp_path / "out" / load_sweep(sweep)[1].name
    taken.mkdir(parents=True)
    with locked(taken):
        found = run(sweep, tmp_path / "out", stack_size=8)
    assert len(found.problems) == 1 and found.results["run"].nunique() == 7
    assert sizes == [2, 4]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_runs_of_every_process(sweep, tmp_path, number):
    """SIGINT to all processes, as Ctrl-C in a terminal; SIGTERM to the first alone."""
    sweep.write_text(TEXT + "[set]\ntraining.n_steps = 1000000\ntraining.resume_every = 1000000\n")
    command = [sys.executable, "-c", "from circuit_lab.cli import main; main()", "sweep", str(sweep), "--jobs", "2"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out"), "--quiet"], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(begun := list((tmp_path / "out").glob("*/*/metrics.jsonl"))) < 2 or not all(map(read_metrics_of, begun)):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.terminate()
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 128 + number, stderr
    assert "the same command continues it" in stderr and "Traceback" not in stderr
    assert len(list((tmp_path / "out").glob("*/*/resume.safetensors"))) == 2
    assert read_results(tmp_path / "out")["run"].nunique() == 2


def read_metrics_of(path):
    return len(read_metrics(path.parent)) > 1


def test_stacks_hold_what_fits_together(sweep, tmp_path):
    sweep.write_text(TEXT.replace("optimizer.weight_decay = [0.5, 1.0]", "task.p = [7, 11]\nnet.d_mlp = [20, 24]"))
    recipes = {tmp_path / each.name: each.recipe for each in load_sweep(sweep)}
    stacks = stacked(recipes, size=3)
    assert sorted(len(stack) for stack in stacks) == [1, 1, 1, 1, 3, 3, 3, 3]
    for stack in stacks:
        assert len({(recipe.task.p, recipe.net["d_mlp"]) for _, recipe in stack}) == 1
    assert sorted(folder for stack in stacks for folder, _ in stack) == sorted(recipes)


def test_runs_are_stacked_if_asked(sweep, tmp_path, monkeypatch):
    sizes, real = [], StackedLearner.__init__

    def noted(self, learners):
        sizes.append(len(learners))
        real(self, learners)

    monkeypatch.setattr(StackedLearner, "__init__", noted)
    run(sweep, tmp_path / "out", stack_size=5)
    assert sorted(sizes) == [3, 5]


def test_processes_train_the_same(sweep, tmp_path):
    here, there = run(sweep, tmp_path / "here"), run(sweep, tmp_path / "there", n_jobs=2)
    assert here.results.equals(there.results)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ray", "dask"])
def test_a_cluster_of_two_workers_trains_the_same(sweep, tmp_path, backend):
    here, there = run(sweep, tmp_path / "here"), run(sweep, tmp_path / "there", n_jobs=2, backend=backend)
    assert there.problems == {} and here.results.equals(there.results)


@pytest.mark.slow
def test_what_a_worker_refuses_comes_back(sweep, tmp_path):
    sweep.write_text(TEXT.replace("optimizer.weight_decay = [0.5, 1.0]", "optimizer.learning_rate = [5e-3, 1e30]"))
    found = run(sweep, tmp_path / "out", n_jobs=2, backend="ray")
    assert len(found.problems) == 4 and found.results["finished"].sum() == 4 * 5 * 3


def test_backends_that_cannot_be(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="unknown backend 'slurm'; the backends are: loky, ray, dask"):
        train_fleet({}, backend="slurm")
    with pytest.raises(InputError, match="address 'head:6379' needs a cluster's backend: ray or dask, not loky"):
        train_fleet({}, address="head:6379")
    monkeypatch.setattr("circuit_lab.sweeps.backends.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"backend 'ray' is not installed; pip install 'circuit-lab\[cluster\]'"):
        train_fleet({}, backend="ray")


def test_no_table_where_there_was_no_sweep(tmp_path):
    with pytest.raises(InputError, match="no results of a sweep at .*results.parquet"):
        read_results(tmp_path)
    (tmp_path / "results.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(InputError, match="no results of a sweep at .*results.parquet"):
        read_results(tmp_path)


def test_the_command(sweep, tmp_path):
    arguments = ["sweep", str(sweep), "--out", str(tmp_path / "out"), "--jobs", "1", "--quiet"]
    planned = CliRunner().invoke(app, [*arguments, "--plan"])
    assert planned.exit_code == 0 and planned.output.endswith("8 runs, 320 steps\n")
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "8 of 8 runs finished" in done.output and "results.parquet" in done.output
    table = read_results(tmp_path / "out")
    last = table[(table["step"] == 40) & (table["train_share"] == 0.4) & (table["weight_decay"] == 0.5)]
    for split in ("train", "test"):
        scores = last["accuracy"][last["split"] == split]
        assert f"{scores.mean():.3f} ({scores.min():.3f} to {scores.max():.3f})" in done.output


def test_the_command_names_what_failed(sweep, tmp_path):
    sweep.write_text(TEXT.replace("optimizer.weight_decay = [0.5, 1.0]", "optimizer.learning_rate = [1e30]"))
    failed = CliRunner().invoke(app, ["sweep", str(sweep), "--out", str(tmp_path / "out"), "--jobs", "1", "--quiet"])
    assert failed.exit_code == 1
    assert "0 of 4 runs finished" in failed.output and "training diverged" in failed.output
    wrong = CliRunner().invoke(app, ["sweep", str(tmp_path / "none.toml")])
    assert wrong.exit_code == 2 and wrong.stderr.count("\n") == 1
