"""From a run and a scale to a recipe."""

import pytest

from circuit_lab.errors import InputError
from circuit_lab.studies import SCALES, StudyRun, find_study, recipe_of, study_names
from circuit_lab.studies.recipes import base_tables
from circuit_lab.studies.runs import with_parents

RUN = StudyRun(
    "universal", "universal/natural", 7, {"task.regime": "natural", "net.attention_dir": "bidirectional"}, 1.5
)


def test_the_seed_goes_into_task_net_and_batches():
    recipe = recipe_of(RUN, "small")
    assert (recipe.task.seed, recipe.net["init_seed"], recipe.training.seed) == (7, 7, 7)


def test_settings_and_length_are_applied():
    recipe = recipe_of(RUN, "small")
    base = base_tables("universal", "small")
    assert recipe.net["attention_dir"] == "bidirectional"
    assert recipe.training.n_steps == 1.5 * base["training"]["n_steps"]


def test_smoke_shrinks_the_small_recipe_and_keeps_the_rest():
    smoke, small = recipe_of(RUN, "smoke"), recipe_of(RUN, "small")
    assert smoke.task.n_entities < small.task.n_entities and smoke.training.n_steps == 60
    assert smoke.net["layer_map"] == small.net["layer_map"]
    assert smoke.optimizer == small.optimizer


def test_a_smoke_recipe_has_no_setting_that_its_net_lacks():
    assert "d_mlp" not in recipe_of(StudyRun("recursive", "recursive/natural", 0), "smoke").net


def test_a_run_with_a_parent_keeps_its_task_and_net(tmp_path):
    child = StudyRun("universal", "child", 3, {"training.batch_size": 16}, parent=RUN)
    recipe = recipe_of(child, "small", parent_checkpoint=tmp_path / "last.safetensors")
    assert recipe.task == recipe_of(RUN, "small").task
    assert recipe.net == recipe_of(RUN, "small").net
    assert recipe.training.seed == 3
    assert recipe.parent is not None and recipe.parent.checkpoint == str(tmp_path / "last.safetensors")


def test_a_whole_table_replaces_the_recipes():
    modular = {"kind": "modular", "p": 13, "train_share": 0.5}
    recipe = recipe_of(StudyRun("universal", "modular", 0, {"task": modular}), "small")
    assert recipe.task.kind == "modular"


def test_the_callers_settings_stay_as_they_are():
    table = {"kind": "modular", "p": 13, "train_share": 0.5}
    run = StudyRun("universal", "modular", 0, {"task": table, "task.seed": 5})
    recipe_of(run, "small")
    assert table == {"kind": "modular", "p": 13, "train_share": 0.5}


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("net", ["universal", "shared", "standard", "recursive", "modular"])
def test_every_net_has_a_recipe_at_every_scale(net, scale):
    assert recipe_of(StudyRun(net, net, 0), scale).training.n_steps > 0


def test_what_is_not_there_is_named():
    with pytest.raises(InputError, match="unknown scale 'tiny'; the scales are: smoke, small, medium, paper"):
        recipe_of(RUN, "tiny")
    with pytest.raises(InputError, match=r"mamba-small.toml; there are recipes of: modular, recursive, shared"):
        recipe_of(StudyRun("mamba", "mamba", 0), "small")


def test_no_two_studies_mean_different_runs_by_one_name():
    runs = [run for name in study_names() for run in find_study(name).runs(0)]
    found = with_parents(runs)
    assert len({run.place for run in found}) == len(found) < len(runs)


def test_ancestors_come_first_and_once():
    grandchild = StudyRun("universal", "grandchild", 0, parent=StudyRun("universal", "child", 0, parent=RUN))
    other = StudyRun("universal", "other", 0, parent=RUN)
    names = [run.name for run in with_parents([grandchild, other])]
    assert names[0] == "universal/natural" and names[3] == "grandchild"
    assert sorted(names[1:3]) == ["child", "other"]


def test_two_different_runs_of_one_place_are_refused():
    with pytest.raises(InputError, match="two runs are called universal/natural/seed=7 and differ"):
        with_parents([RUN, StudyRun("universal", "universal/natural", 7)])
