"""Recipes: what is read, what is refused, and how it is said."""

import tomllib

import pytest
import tomli_w

from circuit_lab.errors import InputError
from circuit_lab.training import Recipe, load_recipe, parse_recipe
from circuit_lab.training.recipe import Schedule


@pytest.fixture
def file(tables, tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(tomli_w.dumps(tables))
    return path


def test_resolved_recipe_reads_back_as_itself(file):
    recipe = load_recipe(file)
    assert parse_recipe(tomllib.loads(recipe.to_toml()), source="again") == recipe
    assert recipe.net_config(d_vocab=14, d_vocab_out=14, n_ctx=3).d_head == 4


def test_custom_augmentation_reads_back_as_itself(tables):
    tables["task"]["augmentation"] = {
        "hop1": {"ratio": 0.5, "samples_per_fact": 2},
        "hop2": {"ratio": 0.0, "samples_per_fact": 0},
    }
    recipe = parse_recipe(tables, source="a test")
    assert parse_recipe(tomllib.loads(recipe.to_toml()), source="again") == recipe


def test_overrides_are_toml_values_at_dotted_keys(file):
    recipe = load_recipe(
        file, ["training.n_steps=7", "task.regime=both_full", "optimizer.betas=[0.8, 0.95]", "about.title=short run"]
    )
    assert (recipe.training.n_steps, recipe.optimizer.betas) == (7, (0.8, 0.95))
    assert (recipe.task.model_dump()["regime"], recipe.about.title) == ("both_full", "short run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.n_step=7", r"unknown key 'training.n_step'; valid keys are: n_steps, batch_size"),
        ("trainin.n_steps=7", r"unknown key 'trainin'; valid keys are: about, parent, task, net, optimizer"),
        ("training.n_steps=0", r"training.n_steps: Input should be greater than or equal to 1 \(got 0\)"),
        ("training.n_steps=seven", r"training.n_steps: Input should be a valid integer \(got 'seven'\)"),
        ("training.dtype=float16", r"training.dtype: Input should be 'float32' or 'float64' \(got 'float16'\)"),
        ("task.out_degree=9", r"out_degree = 9 is more than n_relations = 5"),
        ("task.regime=half", r"unknown regime 'half'; the regimes are: natural, both_full"),
        ("task.kind=three_hop", r"task.kind: unknown kind 'three_hop'; the kinds are: 'two_hop', 'two_hop_folder'"),
        ("net.kind=perceptron", r"net.kind: unknown kind 'perceptron'; the kinds are: shared_transformer, recursive_"),
        ("net.kind={a=1}", r"net.kind: unknown kind {'a': 1}; the kinds are: shared_transformer, rec"),
        ("net.colour=1", r"unknown key 'net.colour'; valid keys are: kind, layer_map, (?!.*(d_vocab|n_ctx))"),
        ("optimizer.betas=[0.9, 1.0]", r"optimizer.betas.1: Input should be less than 1 \(got 1.0\)"),
        ("optimizer.learning_rate=inf", r"optimizer.learning_rate: Input should be a finite number \(got inf\)"),
        ("net.d_vocab=9", r"net.d_vocab follows from the task; leave it out \(got 9\)"),
        ("net.n_heads=5", r"d_model = 12 is not divisible by n_heads = 5"),
        ("net.layer_map=[1, 0]", r"layer_map must number blocks 0, 1, 2, ... in order of first use, got \[1, 0\]"),
        ("training", r"--set 'training' is not key=value; write for example --set training.n_steps=100"),
        ("training.n_steps.x=1", r"'n_steps' is a value, not a table, so it has no key 'x'"),
    ],
)
def test_mistakes_are_named(file, override, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(file, [override])


@pytest.mark.parametrize(
    "override",
    [
        "task.kind='{long}'",
        "task.operation='{long}'",
        "task.regime='{long}'",
        "task={{kind={{a='{long}'}}}}",
        "net.kind='{long}'",
        "net.act_fn='{long}'",
        "training.batch_size='{long}'",
        "training.{long}=1",
        "{long}=1",
        "{long}",
        "training.n_steps.{long}=1",
        "{long}.{long}.{long}=1",
    ],
)
def test_long_values_and_keys_are_cut_in_messages(file, override):
    with pytest.raises(InputError) as refused:
        load_recipe(file, [override.format(long="x" * 3000)])
    assert len(str(refused.value)) < 1500


def test_missing_tables_and_files_are_named(file, tables, tmp_path):
    del tables["training"]
    with pytest.raises(ValueError, match="recipe a test: training is missing"):
        parse_recipe(tables, source="a test")
    with pytest.raises(ValueError, match="no recipe at .*nowhere.toml"):
        load_recipe(tmp_path / "nowhere.toml")
    with pytest.raises(ValueError, match="it is a folder; give the .toml file in it"):
        load_recipe(tmp_path)
    file.write_text("[task\n")
    with pytest.raises(ValueError, match="small.toml is not valid TOML: .*line 1"):
        load_recipe(file)


def test_schedules_by_hand():
    assert Schedule(every=10).steps(25) == {10, 20, 25}
    assert Schedule(spacing="log", n_points=3).steps(100) == {1, 10, 100}
    assert max(Schedule(spacing="log", n_points=50).steps(777)) == 777


def test_recipes_are_frozen(recipe):
    assert isinstance(recipe, Recipe)
    with pytest.raises(ValueError, match="frozen"):
        recipe.training.n_steps = 3
