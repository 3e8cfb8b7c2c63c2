"""What a recipe leaves open is found and recorded before training, and decides whose run a folder is."""

import shutil

import pytest

from circuit_lab.errors import InputError
from circuit_lab.tasks import build_task
from circuit_lab.tasks.natural_language_config import WorldConfig
from circuit_lab.tasks.natural_language_world import write_world_file
from circuit_lab.training import is_finished, load_checkpoint, load_recipe, parse_recipe, prepared, train, train_many

WORLD = {"n_people": 6, "n_cities": 2, "n_companies": 2, "n_works": 2, "n_countries": 2}
NET = {"layer_map": [0], "d_model": 12, "n_heads": 3, "d_mlp": 20}
EVERY_FIVE = {"checkpoints": {"every": 5}}


def write_world(path, *, seed):
    path.unlink(missing_ok=True)
    return write_world_file(WorldConfig(**WORLD, seed=seed), path)


def of_file(path, *, n_steps=4, **task):
    tables = {
        "task": {"kind": "natural_language", "path": str(path), "ood_share": 0.2, "test_id_share": 0.05} | task,
        "net": NET,
        "training": {"n_steps": n_steps, "batch_size": 8},
    }
    return parse_recipe(tables, source="a test")


@pytest.fixture
def facts(tmp_path):
    return write_world(tmp_path / "facts.json", seed=1)


def train_one(recipe, run):
    return train(recipe, run, progress=False)


def train_in_a_stack(recipe, run):
    return train_many({run: recipe}, progress=False)[run]


def test_the_run_records_which_facts_they_were(facts, tmp_path):
    recipe = of_file(facts)
    run = train(recipe, tmp_path / "run", progress=False)
    content_hash = build_task(recipe.task).config.content_hash
    assert load_recipe(run.run / "run.toml").task.content_hash == content_hash
    assert load_checkpoint(run.checkpoint).recipe["task"]["content_hash"] == content_hash
    assert recipe.task.content_hash is None, "the caller's recipe stays as it was"


@pytest.mark.parametrize("train_by", [train_one, train_in_a_stack])
def test_a_run_does_not_go_on_with_other_facts(facts, tmp_path, train_by):
    train_by(of_file(facts), tmp_path / "run")
    kept = facts.read_bytes()
    write_world(facts, seed=2)
    with pytest.raises(InputError, match="run of another recipe: task.content_hash was '[0-9a-f]{64}' and is '"):
        train_by(of_file(facts, n_steps=6), tmp_path / "run")
    facts.write_bytes(kept)
    assert train_by(of_file(facts, n_steps=6), tmp_path / "run").resumed_at == 4


def test_a_run_from_before_hashes_were_recorded_goes_on(facts, tmp_path):
    run = train(of_file(facts), tmp_path / "run", progress=False).run
    lines = (run / "run.toml").read_text().splitlines(keepends=True)
    (run / "run.toml").write_text("".join(line for line in lines if not line.startswith("content_hash")))
    assert load_recipe(run / "run.toml").task.content_hash is None
    assert is_finished(run, of_file(facts))
    assert train(of_file(facts, n_steps=6), run, progress=False).resumed_at == 4
    assert load_recipe(run / "run.toml").task.content_hash is not None


def test_a_hash_that_is_given_is_not_replaced(facts, tmp_path):
    right = build_task(of_file(facts).task).config.content_hash
    assert prepared.prepare(of_file(facts, content_hash=right)).recipe == of_file(facts, content_hash=right)
    assert prepared.prepare(of_file(facts)).recipe == of_file(facts, content_hash=right)
    with pytest.raises(InputError, match=r"the facts of .*facts.json' have changed"):
        train(of_file(facts, content_hash="0" * 64), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def modular(*, n_steps=10, **tables):
    task = {"kind": "modular", "p": 7, "n_train": 20}
    training = {"n_steps": n_steps, "batch_size": "full"}
    return parse_recipe({"task": task, "net": NET, "training": training} | EVERY_FIVE | tables, source="a test")


def test_a_finished_run_and_ones_that_are_not(tmp_path):
    run = tmp_path / "run"
    assert not is_finished(run, modular())
    train(modular(n_steps=5), run, progress=False)
    assert is_finished(run, modular(n_steps=5)) and not is_finished(run, modular())
    train(modular(), run, progress=False)
    assert is_finished(run, modular())
    (run / "checkpoints/step-00000010.safetensors").unlink()
    assert not is_finished(run, modular())


def test_what_looks_finished_but_is_another_run_is_named(tmp_path):
    run = train(modular(), tmp_path / "run", progress=False).run
    with pytest.raises(InputError, match=r"another recipe: optimizer.learning_rate was 0.001 and is 0.5"):
        is_finished(run, modular(optimizer={"learning_rate": 0.5}))
    with pytest.raises(InputError, match="holds a run of 10 steps; training.n_steps = 5 is less"):
        is_finished(run, modular(n_steps=5))


def test_a_child_is_finished_while_its_parent_has_the_same_weights(tmp_path):
    parent = train(modular(n_steps=5), tmp_path / "parent", progress=False).run
    child = modular(parent={"checkpoint": str(parent)})
    run = train(child, tmp_path / "run", progress=False).run
    assert is_finished(run, child)
    shutil.rmtree(parent)
    train(modular(n_steps=5, training={"n_steps": 5, "batch_size": 3}), parent, progress=False)
    with pytest.raises(InputError, match=r"another recipe: .*parent.weights_hash was '[0-9a-f]{64}' and is '"):
        is_finished(run, child)


def test_finished_facts_are_compared_and_no_task_is_built_in_vain(facts, tmp_path, monkeypatch):
    run = train(of_file(facts), tmp_path / "run", progress=False).run
    recorded = load_recipe(run / "run.toml")
    write_world(facts, seed=2)
    with pytest.raises(InputError, match="another recipe: task.content_hash was"):
        is_finished(run, of_file(facts))

    def refuse(config):
        raise AssertionError("a task was built")

    monkeypatch.setattr("circuit_lab.training.prepared.build_task", refuse)
    assert is_finished(run, recorded), "nothing is left open"
    assert not is_finished(tmp_path / "none", of_file(facts)), "nothing is there"
    with pytest.raises(AssertionError, match="a task was built"):
        is_finished(run, of_file(facts))
