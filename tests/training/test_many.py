"""Nets that are trained at once get the weights that each gets alone, in a folder like its own."""

import os
import signal
from pathlib import Path

import pytest
import torch
from cut_runs import cut_at

from circuit_lab.errors import InputError
from circuit_lab.training import (
    TrainingInterrupted,
    load_checkpoint,
    parse_recipe,
    read_metrics,
    run_checkpoints,
    train,
    train_many,
)
from circuit_lab.training.stacked_learner import StackedLearner

TWO_HOP = {
    "task": {"kind": "two_hop", "n_entities": 10, "n_relations": 4, "out_degree": 4, "ood_share": 0.2},
    "net": {"layer_map": [0, 0], "d_model": 16, "n_heads": 2, "d_mlp": 32},
    "training": {"n_steps": 100, "batch_size": 16, "resume_every": 50},
    "evaluation": {"every": 50},
    "checkpoints": {"every": 50},
}
MODULAR = {
    "task": {"kind": "modular", "p": 11, "train_share": 0.5},
    "net": {"layer_map": [0], "d_model": 16, "n_heads": 2, "d_mlp": 32, "normalization_type": "none"},
    "training": {"n_steps": 100, "batch_size": "full", "resume_every": 50, "loss_dtype": "float64"},
    "evaluation": {"every": 50},
    "checkpoints": {"every": 50},
}
RECURSIVE = TWO_HOP | {
    "net": {
        "kind": "recursive_transformer",
        "n_blocks": 1,
        "h_cycles": 2,
        "l_cycles": 2,
        "d_model": 16,
        "n_heads": 2,
    },
    "training": TWO_HOP["training"] | {"loss": "stablemax", "ema_decay": 0.9},
}


def recipe(base, **tables):
    merged = {table: dict(values) for table, values in base.items()}
    for table, values in tables.items():
        merged[table] = merged.get(table, {}) | values
    return parse_recipe(merged, source="a test")


def variants(base):
    """Members that differ in all that they may: data and how much of it, seeds, rate, decay, penalties, clipping."""
    by_size = "train_share" in base["task"]
    return [
        recipe(
            base,
            task={"seed": seed} | ({"train_share": 0.4 + 0.1 * seed} if by_size else {}),
            net={"init_seed": 7 + seed},
            training={"seed": 3 * seed},
            optimizer={
                "learning_rate": 1e-3 * (1 + seed),
                "weight_decay": float(seed),
                "warmup_steps": 20 * seed,
                "max_gradient_norm": 0.3 * seed,
                "l1": 1e-4 * seed,
                "l2": 1e-3 * (2 - seed),
                "fixed_norm": seed == 1,
            },
        )
        for seed in range(3)
    ]


def weights(run, step=100):
    return load_checkpoint(run / f"checkpoints/step-{step:08d}.safetensors").net.unique_state_dict()


def assert_equal_weights(one, other, step=100):
    """All but the keys' bias: softmax does not see it, so its gradient is rounding, which AdamW scales up."""
    found, expected = weights(one, step), weights(other, step)
    assert found.keys() == expected.keys()
    for name in (name for name in found if not name.endswith(".b_K")):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("base", [TWO_HOP, MODULAR, RECURSIVE], ids=["two_hop", "modular", "recursive"])
def test_each_gets_the_weights_that_it_gets_alone(base, tmp_path):
    recipes = variants(base)
    results = train_many({tmp_path / f"many/{n}": r for n, r in enumerate(recipes)}, progress=False)
    for number, r in enumerate(recipes):
        alone, together = tmp_path / f"alone/{number}", tmp_path / f"many/{number}"
        expected = train(r, alone, progress=False)
        assert results[together].accuracy == pytest.approx(expected.accuracy, abs=0.02)
        assert_equal_weights(alone, together)
        for mine, its in zip(read_metrics(together), read_metrics(alone), strict=True):
            assert mine == pytest.approx(its, abs=1e-3)
        assert [path.name for path in run_checkpoints(together)] == [path.name for path in run_checkpoints(alone)]


def test_members_do_learn_and_differ(tmp_path):
    recipes = variants(TWO_HOP)
    train_many({tmp_path / str(n): r for n, r in enumerate(recipes)}, progress=False)
    final = [weights(tmp_path / str(n)) for n in range(3)]
    for name in final[0]:
        if "W_" in name:
            assert not torch.allclose(final[0][name], final[1][name], atol=1e-2)
    losses = [[record["loss/training"] for record in read_metrics(tmp_path / str(n))] for n in range(3)]
    assert all(first > last + 0.1 for first, *_, last in losses)


def test_runs_that_stand_at_different_steps_meet(tmp_path):
    """One is finished, one is at half, one is fresh; `train` made the first two."""
    recipes = variants(TWO_HOP)
    folders = [tmp_path / str(n) for n in range(3)]
    train(recipes[0], folders[0], progress=False)
    with cut_at(60):
        train(recipes[1], folders[1], progress=False)
    results = train_many(dict(zip(folders, recipes, strict=True)), progress=False)
    assert [result.resumed_at for result in results.values()] == [100, 50, 0]
    for number, r in enumerate(recipes):
        train(r, tmp_path / f"alone/{number}", progress=False)
        assert_equal_weights(folders[number], tmp_path / f"alone/{number}")
        assert [record["step"] for record in read_metrics(folders[number])] == [0, 50, 100]


def test_train_goes_on_with_what_was_stacked(tmp_path):
    recipes = dict(zip((tmp_path / "0", tmp_path / "1"), variants(MODULAR), strict=False))
    with cut_at(60, learner=StackedLearner):
        train_many(recipes, progress=False)
    for folder, r in recipes.items():
        assert train(r, folder, progress=False).resumed_at == 50
        train(r, tmp_path / f"alone{folder.name}", progress=False)
        assert_equal_weights(folder, tmp_path / f"alone{folder.name}")


def test_one_that_diverges_is_named_and_stops_no_other(tmp_path):
    good, _, _ = variants(TWO_HOP)
    bad = recipe(TWO_HOP, optimizer={"learning_rate": 1e30, "warmup_steps": 0, "max_gradient_norm": 0.0})
    with pytest.raises(InputError, match="bad: training diverged: after step") as error:
        train_many({tmp_path / "bad": bad, tmp_path / "good": good}, progress=False)
    assert "good" not in str(error.value)
    train(good, tmp_path / "alone", progress=False)
    assert_equal_weights(tmp_path / "good", tmp_path / "alone")
    assert run_checkpoints(tmp_path / "good")[-1].name == "step-00000100.safetensors"


def diverging(seed):
    optimizer = {"learning_rate": 1e30, "warmup_steps": 0, "max_gradient_norm": 0.0}
    return recipe(TWO_HOP, net={"init_seed": seed}, optimizer=optimizer)


def counting_steps(monkeypatch, *, before_each=lambda _: None):
    """The steps that stacks make from now on, in a list that grows."""
    steps, real = [], StackedLearner.step

    def counted(self, step):
        before_each(step)
        steps.append(step)
        return real(self, step)

    monkeypatch.setattr(StackedLearner, "step", counted)
    return steps


def test_no_step_is_made_when_all_have_diverged(tmp_path, monkeypatch):
    steps = counting_steps(monkeypatch)
    with pytest.raises(InputError, match="0: training diverged: after step .*1: training diverged: after step"):
        train_many({tmp_path / "0": diverging(0), tmp_path / "1": diverging(1)}, progress=False)
    assert 0 < len(steps) < 50


def test_one_that_waits_is_trained_though_all_before_it_have_diverged(tmp_path):
    good, _, _ = variants(TWO_HOP)
    with cut_at(60):
        train(good, tmp_path / "good", progress=False)
    with pytest.raises(InputError, match="bad: training diverged"):
        train_many({tmp_path / "bad": diverging(0), tmp_path / "good": good}, progress=False)
    assert run_checkpoints(tmp_path / "good")[-1].name == "step-00000100.safetensors"


def test_a_signal_names_the_folder_above_relative_and_absolute_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipes = dict(zip((Path("here/0"), tmp_path / "1"), variants(TWO_HOP), strict=False))
    with monkeypatch.context() as patch:
        counting_steps(patch, before_each=lambda step: os.kill(os.getpid(), signal.SIGINT) if step == 12 else None)
        with pytest.raises(TrainingInterrupted, match="stopped at step 13; saved in ") as stop:
            train_many(recipes, progress=False)
    assert stop.value.run == tmp_path
    assert [result.resumed_at for result in train_many(recipes, progress=False).values()] == [13, 13]


def test_two_names_of_one_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other, _ = variants(TWO_HOP)
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "x")
    for again in (Path("x"), "y/../x", tmp_path / "x", "link"):
        with pytest.raises(InputError, match=f"x and {again} are one run folder, {tmp_path}/x; give each run its own"):
            train_many({"x": one, again: other}, progress=False)
    assert list((tmp_path / "x").iterdir()) == []


def test_the_same_settings_in_other_words_fit_into_one_stack(tmp_path):
    plain = recipe(TWO_HOP, optimizer={"only": ["mlp", "attention"]})
    spelt = recipe(
        TWO_HOP,
        net={"kind": "shared_transformer", "d_head": 8, "act_fn": "gelu", "init_seed": 1},
        optimizer={"only": ["attention", "mlp", "mlp"]},
    )
    train_many({tmp_path / "0": plain, tmp_path / "1": spelt}, progress=False)
    train(spelt, tmp_path / "alone", progress=False)
    assert_equal_weights(tmp_path / "1", tmp_path / "alone")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net": {"d_mlp": 64}}, r"0 and .*1 cannot be trained at once: net.d_mlp is 32 and 64; train them in two"),
        ({"net": {"init_std": 0.5}}, r"net.init_std is null and 0.5"),
        ({"task": {"n_relations": 5}}, r"net.d_vocab is 15 and 16"),
        ({"optimizer": {"only": ["mlp"]}}, r"optimizer.only is null and \[\"mlp\"\]"),
        ({"training": {"n_steps": 50}}, r"training.n_steps is 100 and 50"),
        ({"optimizer": {"betas": [0.5, 0.9]}}, r"optimizer.betas is \[0.9, 0.999\] and \[0.5, 0.9\]"),
    ],
)
def test_what_does_not_fit_into_one_stack_is_refused_before_anything_is_written(changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train_many({tmp_path / "0": recipe(TWO_HOP), tmp_path / "1": recipe(TWO_HOP, **changes)}, progress=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="no runs to train"):
        train_many({})


def test_tasks_of_another_size_are_refused_before_anything_is_written(tmp_path):
    sevens, elevens = recipe(MODULAR, task={"p": 7}), recipe(MODULAR)
    with pytest.raises(InputError, match=r"0 and .*1 cannot be trained at once: net.d_vocab is 8 and 12; train them"):
        train_many({tmp_path / "0": sevens, tmp_path / "1": elevens}, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_refused_as_train_does():
    for train_by in (lambda r, run: train(r, run, progress=False), lambda r, run: train_many({run: r}, progress=False)):
        with pytest.raises(InputError, match="is no path: embedded null byte"):
            train_by(recipe(TWO_HOP), "a\0b")
