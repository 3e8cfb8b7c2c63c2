"""Sweep files: the runs that they name, and what is refused."""

import pytest
import tomli_w
from small_runs import MODULAR, TWO_HOP

from circuit_lab.errors import InputError
from circuit_lab.sweeps import load_sweep

AXES = """
recipe = "base.toml"
seeds = [4, 7]
set.training.n_steps = 30

[axes]
task.train_share = [0.4, 0.6]
optimizer.weight_decay = [0.5, 1.0, 2.0]

[variants.operation]
sum = {task.operation = "a+b"}
quotient = {task.operation = "a/b", optimizer.learning_rate = 1e-3}
"""


@pytest.fixture
def planned(tmp_path):
    def plan(text, base=MODULAR):
        (tmp_path / "base.toml").write_text(tomli_w.dumps(base))
        (tmp_path / "sweep.toml").write_text(text)
        return load_sweep(tmp_path / "sweep.toml")

    return plan


def test_every_combination_and_every_seed(planned):
    runs = planned(AXES)
    assert len(runs) == len({run.name for run in runs}) == 2 * 3 * 2 * 2
    first, last = runs[0], runs[-1]
    assert first.name == "train_share=0.4,weight_decay=0.5,operation=sum/seed=4"
    assert last.point == {"train_share": 0.6, "weight_decay": 2.0, "operation": "quotient"}
    for run in runs:
        recipe = run.recipe
        assert recipe.task.train_share == run.point["train_share"]
        assert recipe.optimizer.weight_decay == run.point["weight_decay"]
        assert recipe.task.operation == {"sum": "a+b", "quotient": "a/b"}[run.point["operation"]]
        assert recipe.optimizer.learning_rate == {"sum": 5e-3, "quotient": 1e-3}[run.point["operation"]]
        assert run.seed == recipe.task.seed == recipe.net["init_seed"] == recipe.training.seed
        assert recipe.training.n_steps == 30
        assert recipe.task.p == MODULAR["task"]["p"]


def test_without_axes_only_seeds_differ(planned):
    assert [run.name for run in planned('recipe = "base.toml"\nseeds = 3')] == ["seed=0", "seed=1", "seed=2"]


def test_values_that_no_folder_may_be_called(planned):
    runs = planned('recipe = "base.toml"\naxes.task.operation = ["a/b", "a*b", "a^2+b^2"]')
    assert [run.name for run in runs] == ["operation=a%2Fb/seed=0", "operation=a*b/seed=0", "operation=a^2+b^2/seed=0"]
    long = planned(f'recipe = "base.toml"\naxes.about.description = ["{"x" * 300}", "{"x" * 301}"]')
    assert len({run.name for run in long}) == 2 and max(len(run.name) for run in long) < 200


def test_lists_are_values_too(planned):
    runs = planned('recipe = "base.toml"\naxes.net.layer_map = [[0], [0, 0]]')
    assert [run.recipe.net["layer_map"] for run in runs] == [[0], [0, 0]]
    assert runs[1].point == {"layer_map": "[0, 0]"}


def test_axes_of_one_last_name_keep_their_tables(planned):
    runs = planned('recipe = "base.toml"\naxes.evaluation.every = [5]\naxes.checkpoints.every = [10]')
    assert runs[0].name == "evaluation.every=5,checkpoints.every=10/seed=0"


def test_axes_named_like_a_column_of_the_results_keep_their_tables(planned):
    runs = planned('recipe = "base.toml"\naxes.training.loss = ["cross_entropy", "stablemax"]')
    assert [run.point for run in runs] == [{"training.loss": "cross_entropy"}, {"training.loss": "stablemax"}]


def test_values_of_several_kinds_become_texts(planned):
    runs = planned('recipe = "base.toml"\naxes.training.batch_size = ["full", 8]')
    assert [run.point["batch_size"] for run in runs] == ["full", "8"]
    assert [run.recipe.training.batch_size for run in runs] == ["full", 8]
    runs = planned('recipe = "base.toml"\naxes.optimizer.weight_decay = [0, 0.5]')
    assert [run.point["weight_decay"] for run in runs] == [0, 0.5]


def test_seeds_of_other_things_are_settings(planned):
    runs = planned('recipe = "base.toml"\naxes.task.label_seed = [3, 4]\nset.task.labels = "random"')
    assert [run.recipe.task.label_seed for run in runs] == [3, 4]


def test_a_task_without_a_seed_has_none(planned):
    folder = {"kind": "two_hop_folder", "path": "facts", "content_hash": "0" * 64}
    base = {"task": folder, "net": TWO_HOP["net"], "training": {"n_steps": 3}}
    runs = planned('recipe = "base.toml"\nseeds = 2', base)
    assert [run.recipe.training.seed for run in runs] == [run.recipe.net["init_seed"] for run in runs] == [0, 1]


def test_with_a_parent_the_seed_is_that_of_the_batches(planned):
    base = MODULAR | {"parent": {"checkpoint": "modular-grokked"}}
    (run,) = planned('recipe = "base.toml"\nseeds = [5]', base)
    assert (run.recipe.task.seed, run.recipe.training.seed) == (1, 5)
    assert "init_seed" not in run.recipe.net


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('recipe = "none.toml"', "no recipe at .*none.toml"),
        ("seeds = 2", "recipe: Field required"),
        ('recipe = "base.toml"\naxis = 1', "unknown key 'axis'; valid keys are: recipe, seeds, set, axes, variants"),
        ('recipe = "base.toml"\nseeds = 0', r"seeds: .*greater than or equal to 1 \(got 0\)"),
        ('recipe = "base.toml"\nseeds = [1, 1]', r"seeds must differ, got \[1, 1\]"),
        ('recipe = "base.toml"\naxes.task.p = 7', "axes.task.p must be a list of values, got 7"),
        ('recipe = "base.toml"\naxes.task.p = []', r"axes.task.p must be a list of values, got \[\]"),
        ('recipe = "base.toml"\naxes.task.p = [7, 7]', "axis p has a value twice"),
        ('recipe = "base.toml"\naxes.task.q = [7]', "of q=7/seed=0 in sweep .*unknown ModularConfig setting 'q'"),
        ('recipe = "base.toml"\naxes.task.p = [8]', "of p=8/seed=0 in sweep .* got 8"),
        (
            'recipe = "base.toml"\naxes.task.seed = [1, 2]',
            "seed sets task.seed, but seeds are no settings; write seeds =",
        ),
        ('recipe = "base.toml"\nset.training.seed = 5', "set sets training.seed, but seeds are no settings"),
        ('recipe = "base.toml"\nvariants.a.b = {net.init_seed = 5}', "a sets net.init_seed, but seeds are no settings"),
        (
            'recipe = "base.toml"\naxes.task.p = [7]\nvariants.size.large = {task.p = 11}',
            "both p and size set task.p; leave it out of one",
        ),
        ('recipe = "base.toml"\nvariants.step.large = {task.p = 11}', "variants.step: .* has a column step; rename it"),
        ('recipe = "base.toml"\nseeds = 20240101', "seeds: .*less than or equal to 100000"),
        ('recipe = "base.toml"\naxes.task.p.x = [7]', "'p' is a value, not a table, so it has no key 'x'"),
        ('recipe = "base.toml"\nvariants.size = {}', "variants.size has no points"),
        (f'recipe = "base.toml"\nseeds = {list(range(400))}\naxes.task.p = {list(range(300))}', "120000 runs; at most"),
        ("recipe = ", "sweep.toml is not valid TOML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(planned, text, message):
    with pytest.raises(InputError, match=message) as error:
        planned(text)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no sweep file at .*sweep.toml"):
        load_sweep(tmp_path / "sweep.toml")
