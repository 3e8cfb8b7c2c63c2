"""What a run would cost: reckoned by hand, bounded in time, and nothing written."""

import re
import time

import pytest
import tomli_w
import torch
from small_runs import FULL_BATCH
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.tasks import build_task
from circuit_lab.training import TrainingCost, cost, estimate_cost, load_recipe, parse_recipe
from circuit_lab.training.learner import Learner


def test_of_a_small_recipe(recipe, monkeypatch):
    monkeypatch.setattr(cost, "_MAX_TIMED", 3)
    task = build_task(recipe.task)
    learner = Learner(recipe, task, torch.device("cpu"), None)
    found = estimate_cost(recipe, device="cpu", seconds=20.0)
    assert found.n_parameters == sum(weight.numel() for weight in learner.net.parameters())
    assert (found.n_items, found.n_steps, found.batch_size) == (len(task.training), 40, 16)
    assert found.n_evaluations == 6  # at 0, 10, 15, 20, 30, 40, as the run of the same recipe logs
    assert list(found.timed) == [16] and found.step_seconds == found.timed[16] > 0
    assert found.total_seconds == pytest.approx(40 * found.step_seconds + 6 * found.evaluation_seconds)
    assert 0 < found.evaluation_seconds < 60


def test_flops_by_hand(tables):
    """One layer of width 12 at 3 positions, computed where the answer is read alone; 2 FLOPs per product, forward and
    twice backward."""
    tables["net"] |= {"layer_map": [0], "attention_dir": "bidirectional"}
    recipe = parse_recipe(tables, source="a test")
    task = build_task(recipe.task)
    learner = Learner(recipe, task, torch.device("cpu"), None)
    # Queries, MLP and attention output at one position, keys and values at three, scores and values over three.
    products = 12 * 12 * (1 + 3 + 3 + 1) + 2 * 12 * 20 + 2 * 3 * 12 + 12 * task.d_vocab_out
    assert learner.count_flops(torch.arange(4)) == 4 * 3 * 2 * products
    assert all(weight.grad is None for weight in learner.net.parameters())


@pytest.mark.parametrize("n_layers", [1, 3])
def test_flops_of_shared_prefixes_by_hand(tables, n_layers):
    """All states of each beginning of the queries once, of the last layer keys and values; scores are no products."""
    tables["net"] |= {"layer_map": n_layers * [0]}
    recipe = parse_recipe(tables, source="a test")
    task = build_task(recipe.task)
    learner = Learner(recipe, task, torch.device("cpu"), None)
    rows = torch.tensor([0, 1, 2, 3, len(task.training) - 1])
    asked = task.training[rows]
    prefixes = {
        tuple(query[: position + 1].tolist())
        for query, last in zip(asked.tokens, asked.answer_position, strict=True)
        for position in range(int(last) + 1)
    }
    assert len(prefixes) < 3 * 5
    products = (n_layers - 1) * len(prefixes) * (4 * 12 * 12 + 2 * 12 * 20)
    products += 2 * len(prefixes) * 12 * 12 + 5 * (2 * 12 * 12 + 2 * 12 * 20 + 12 * task.d_vocab_out)
    assert learner.count_flops(rows) == 3 * 2 * products


def test_flops_of_a_full_batch_by_hand():
    """20 pairs of p = 7 have 15 distinct inputs, one of which asks; keys and values are computed of these alone."""
    recipe = parse_recipe(FULL_BATCH, source="a test")
    learner = Learner(recipe, build_task(recipe.task), torch.device("cpu"), None)
    # Queries of one input, keys and values of 15, scores of 15; attention output, MLP and unembedding of 20 queries.
    products = 12 * 12 * (1 + 2 * 15) + 15 * 12 + 20 * (12 * 12 + 2 * 12 * 20 + 12 * 7)
    assert learner.count_flops(None) == 3 * 2 * products
    assert estimate_cost(recipe, device="cpu", seconds=0.5).flops_per_step == 3 * 2 * products


def test_flops_are_those_of_a_whole_full_batch_even_if_its_step_takes_too_long(monkeypatch):
    recipe = parse_recipe(FULL_BATCH, source="a test")
    monkeypatch.setattr(cost, "_time_steps", lambda *_, **__: {5: 1.0, 10: 2.0})
    learner = Learner(recipe, build_task(recipe.task), torch.device("cpu"), None)
    assert estimate_cost(recipe, device="cpu", seconds=0.5).flops_per_step == learner.count_flops(None)


def test_a_step_that_takes_too_long_is_reckoned_from_two_smaller_batches(tables, monkeypatch):
    """Here a step takes 1 ms a row, and 5 ms beside: 517 ms at 512 rows, more than the time there is."""
    tables["training"] |= {"batch_size": 512}
    sizes, real = [], time.perf_counter
    clock = {"now": 0.0}

    def step_on(self, rows, step):
        sizes.append(len(rows))
        clock["now"] += 0.005 + 0.001 * len(rows)

    monkeypatch.setattr(Learner, "step_on", step_on)
    monkeypatch.setattr(cost.time, "perf_counter", lambda: clock["now"])
    started = real()
    found = estimate_cost(parse_recipe(tables, source="a test"), device="cpu", seconds=1.0)
    assert list(found.timed) == [8, 32] and max(sizes) == 32
    assert found.timed == pytest.approx({8: 0.013, 32: 0.037})
    assert found.step_seconds == pytest.approx(0.517)
    assert clock["now"] < 2.0 and real() - started < 30


def test_a_full_batch_counts_as_all_items(tables):
    tables["training"] |= {"batch_size": "full"}
    recipe = parse_recipe(tables, source="a test")
    found = estimate_cost(recipe, device="cpu", seconds=0.1)
    assert found.batch_size == found.n_items == len(build_task(recipe.task).training)


def test_what_training_would_refuse_is_refused(tables):
    tables["training"] |= {"precision": "tf32"}
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        estimate_cost(parse_recipe(tables, source="a test"), device="cpu", seconds=0.1)


def test_the_command_says_all_of_it_and_writes_nothing(tables, tmp_path, monkeypatch):
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(tables))
    made_up = TrainingCost(
        device="cpu",
        n_threads=1,
        n_parameters=12_345,
        n_items=2_000,
        n_steps=20_000,
        batch_size=128,
        timed={2: 0.001, 8: 0.002},
        step_seconds=0.03,
        n_evaluations=11,
        evaluation_seconds=6.0,
        flops_per_step=4.2e8,
    )
    seen = []

    def fake(recipe, *, device):
        seen.append((recipe, device))
        return made_up

    monkeypatch.setattr("circuit_lab.training.estimate_cost", fake)
    arguments = ["train", str(path), "--estimate", "--device", "cpu", "--set", "training.n_steps=9"]
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert seen == [(load_recipe(path, ["training.n_steps=9"]), "cpu")]
    assert result.stdout.splitlines() == [
        "Device: cpu, 1 thread(s)",
        "Parameters: 12,345",
        "Training items: 2,000, of which 128 per step",
        "One step: 30 ms (reckoned from batches of 2 and 8), 4.2e+08 FLOPs",
        "One evaluation: 6 s",
        "In all: 11 min for 20,000 steps and 11 evaluations, saving not counted",
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.toml"]


def test_the_command_times_a_real_recipe(tables, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(tomli_w.dumps(tables))
    monkeypatch.setattr(cost, "_MAX_TIMED", 3)
    result = CliRunner().invoke(app, ["train", "recipe.toml", "--estimate", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert re.search(r"^One step: [\d.]+ ms \(timed\), [\d.e+]+ FLOPs$", result.stdout, flags=re.MULTILINE)
    assert [entry.name for entry in tmp_path.iterdir()] == ["recipe.toml"]
