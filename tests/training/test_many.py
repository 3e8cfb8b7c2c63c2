"""Nets that are trained at once get the weights that each gets alone, in a folder like its own."""

import pytest
import torch
from cut_runs import cut_at

from circuit_lab.errors import InputError
from circuit_lab.training import load_checkpoint, parse_recipe, read_metrics, run_checkpoints, train, train_many

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
    """Members that differ in all that they may: data and how much of it, seeds, rate, warm-up, decay, clipping."""
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
    from circuit_lab.training.stacked_learner import StackedLearner

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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net": {"d_mlp": 64}}, r"0 and .*1 cannot be trained at once: net.d_mlp is 32 and 64; train them in two"),
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
