"""Runs that start from another run's weights: what is continued, what is recorded, what is refused."""

import shutil

import pytest
import tomli_w
import torch
from cut_runs import cut_at
from typer.testing import CliRunner

from circuit_lab.cli import app
from circuit_lab.training import load_checkpoint, load_recipe, parse_recipe, read_metrics, train

TABLES = {
    "task": {"kind": "modular", "p": 7, "n_train": 20},
    "net": {"kind": "shared_transformer", "layer_map": [0], "d_model": 12, "n_heads": 3, "d_mlp": 20},
    "optimizer": {"warmup_steps": 0},
    "training": {"n_steps": 60, "batch_size": "full"},
}


def recipe_with(**tables):
    return parse_recipe(TABLES | tables, source="a test")


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    return train(recipe_with(), tmp_path_factory.mktemp("parent") / "run", progress=False)


def child_recipe(of, **tables):
    return recipe_with(**({"parent": {"checkpoint": str(of.run)}} | tables))


def test_a_child_starts_with_its_parents_weights_and_nothing_else(parent, tmp_path):
    child = train(child_recipe(parent), tmp_path / "run", progress=False)
    first, last = read_metrics(child.run)[0], read_metrics(parent.run)[-1]
    shared = [key for key in first if key.startswith(("accuracy/", "loss/")) or key == "weight_norm"]
    assert len(shared) >= 9 and {key: first[key] for key in shared} == {key: last[key] for key in shared}
    # Fresh moments: AdamW's first step moves every weight by about the learning rate, whatever came before.
    one = train(child_recipe(parent, training=TABLES["training"] | {"n_steps": 1}), tmp_path / "one", progress=False)
    before, after = load_checkpoint(parent.checkpoint).net, load_checkpoint(one.checkpoint).net
    moved = [float((a - b).detach().abs().max()) for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert max(moved) == pytest.approx(1e-3, rel=0.6)


def test_the_run_records_which_weights_they_were(parent, tmp_path):
    child = train(child_recipe(parent), tmp_path / "run", progress=False)
    loaded, recorded = load_checkpoint(parent.checkpoint), load_recipe(child.run / "run.toml").parent
    assert (recorded.checkpoint, recorded.weights_hash, recorded.step) == (str(parent.run), loaded.weights_hash, 60)
    assert recorded.accuracy == dict(loaded.metrics)
    assert load_checkpoint(child.checkpoint).recipe["parent"]["weights_hash"] == loaded.weights_hash


def test_changed_data_and_resumption_by_another_path(parent, tmp_path):
    fewer = child_recipe(parent, task=TABLES["task"] | {"n_train": 8})
    child = train(fewer, tmp_path / "run", progress=False)
    assert len(load_checkpoint(child.checkpoint).task.training) == 8
    same_weights = {"checkpoint": str(parent.checkpoint)}
    again = train(fewer.model_copy(update={"parent": type(fewer.parent)(**same_weights)}), child.run, progress=False)
    assert again.resumed_at == 60


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"parent": {"checkpoint": "nowhere"}}, "no checkpoint at nowhere: there is no such file or folder"),
        ({"net": TABLES["net"] | {"act_fn": "relu"}}, "another net: act_fn is 'gelu' there and 'relu' here"),
        ({"net": TABLES["net"] | {"d_mlp": 21}}, "another net: d_mlp is 20 there and 21 here"),
        ({"task": TABLES["task"] | {"p": 11}}, "another net: d_vocab is 8 there and 12 here; d_vocab_out is 7"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_written(parent, tmp_path, tables, message):
    with pytest.raises(ValueError, match=message):
        train(child_recipe(parent, **tables), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_other_weights_under_the_same_name_are_refused(parent, tmp_path):
    wrong = {"checkpoint": str(parent.run), "weights_hash": "0" * 64}
    with pytest.raises(ValueError, match="parent.weights_hash is '0000.* has '[0-9a-f]{64}': it is another checkpoint"):
        train(recipe_with(parent=wrong), tmp_path / "run", progress=False)


def test_an_unknown_key_of_the_parent_is_named():
    with pytest.raises(ValueError, match="unknown key 'parent.step_'; valid keys are: checkpoint, weights_hash, step"):
        recipe_with(parent={"checkpoint": "x", "step_": 3})


def test_the_command_line_takes_a_parent(parent, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(tomli_w.dumps(TABLES))
    arguments = ["train", str(path), "--out", str(tmp_path / "run"), "--quiet", "--from"]
    result = CliRunner().invoke(app, [*arguments, str(parent.checkpoint), "--set", "task.n_train=9"])
    assert result.exit_code == 0, result.output
    assert load_recipe(tmp_path / "run" / "run.toml").parent.step == 60
    bad = CliRunner().invoke(app, [*arguments, "nowhere/at all"])
    assert bad.exit_code == 2 and bad.stderr.count("\n") == 1 and "no checkpoint at nowhere/at all" in bad.stderr


def test_a_reference_model_is_found_by_its_name(parent, tmp_path, monkeypatch):
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(parent.checkpoint.read_bytes())
    monkeypatch.setattr("circuit_lab.training.reference.reference_models", lambda: {"tiny": folder})
    child = train(recipe_with(parent={"checkpoint": "tiny"}), tmp_path / "run", progress=False)
    assert load_recipe(child.run / "run.toml").parent.step == 60


def test_a_child_steps_as_a_fresh_optimizer_does_and_not_as_its_parents_would(parent, tmp_path):
    """Two steps of AdamW by torch from the parent's weights; the prolonged parent, with old moments, goes elsewhere."""
    child = train(child_recipe(parent, training=TABLES["training"] | {"n_steps": 2}), tmp_path / "run", progress=False)
    loaded = load_checkpoint(parent.checkpoint)
    items, named = loaded.task.training, list(loaded.net.named_parameters())
    decayed, others = ([w for name, w in named if (".W_" in name) is is_matrix] for is_matrix in (True, False))
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": others, "weight_decay": 0.0}]
    fresh = torch.optim.AdamW(groups, lr=1e-3)
    for _ in range(2):
        fresh.zero_grad()
        torch.nn.functional.cross_entropy(loaded.net(items.tokens)[:, 2], items.answer).backward()
        torch.nn.utils.clip_grad_norm_(loaded.net.parameters(), 1.0)
        fresh.step()
    prolonged = shutil.copytree(parent.run, tmp_path / "prolonged")
    longer = train(recipe_with(training=TABLES["training"] | {"n_steps": 62}), prolonged, progress=False)
    assert longer.resumed_at == 60

    def furthest_from_child(others):
        weights = load_checkpoint(child.checkpoint).net.unique_state_dict()
        # b_K shifts all scores of a query alike: its gradient is rounding noise, which AdamW scales up.
        return max(float((weights[n] - others[n]).detach().abs().max()) for n in weights if not n.endswith("b_K"))

    assert furthest_from_child(loaded.net.unique_state_dict()) < 1e-5
    assert furthest_from_child(load_checkpoint(longer.checkpoint).net.unique_state_dict()) > 5e-4


@pytest.mark.parametrize(("name", "wrong"), [("step", 59), ("accuracy", {"train": 0.123})])
def test_a_wrong_step_or_accuracy_is_refused_with_both_values(parent, tmp_path, name, wrong):
    described = {"checkpoint": str(parent.run), name: wrong}
    with pytest.raises(
        ValueError, match=f"^parent.{name} is .* it is another checkpoint; give the right one"
    ) as caught:
        train(recipe_with(parent=described), tmp_path / "run", progress=False)
    found = {"step": 60, "accuracy": dict(load_checkpoint(parent.checkpoint).metrics)}[name]
    assert repr(wrong) in str(caught.value) and repr(found) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_only_how_the_weights_were_first_drawn_may_differ(parent, tmp_path):
    drawn_otherwise = TABLES["net"] | {"init_std": 0.123, "init_seed": 9}
    child = train(child_recipe(parent, net=drawn_otherwise), tmp_path / "run", progress=False)
    assert read_metrics(child.run)[0]["weight_norm"] == read_metrics(parent.run)[-1]["weight_norm"]
    # Other head counts and layer maps have weights of the same shapes, and would load without a word.
    for change in ({"n_heads": 2}, {"layer_map": [0, 0]}, {"normalization_type": "none"}):
        [name] = change
        with pytest.raises(ValueError, match=f"another net: .*{name} is .* there and .* here"):
            train(child_recipe(parent, net=TABLES["net"] | change), tmp_path / name, progress=False)


def test_a_finished_child_called_again_keeps_its_bytes_and_a_cut_one_ends_with_them(parent, tmp_path):
    recipe = child_recipe(parent, training=TABLES["training"] | {"n_steps": 30, "resume_every": 7})
    whole = train(recipe, tmp_path / "whole", progress=False)
    before = whole.checkpoint.read_bytes()
    assert train(recipe, tmp_path / "whole", progress=False).resumed_at == 30
    assert whole.checkpoint.read_bytes() == before
    with cut_at(12):
        train(recipe, tmp_path / "cut", progress=False)
    cut = train(recipe, tmp_path / "cut", progress=False)
    assert cut.resumed_at == 7  # from its own save, not from the parent's weights again
    assert cut.checkpoint.read_bytes() == before


def test_the_command_line_takes_a_parent_whose_path_is_not_ascii(parent, tmp_path):
    """A path is written into the recipe as TOML, which has no surrogate pairs as JSON has for such letters."""
    path, folder = tmp_path / "recipe.toml", tmp_path / "r\u00e9seau \U0001f600"
    path.write_text(tomli_w.dumps(TABLES))
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(parent.checkpoint.read_bytes())
    arguments = ["train", str(path), "--out", str(tmp_path / "run"), "--quiet", "--from", str(folder)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert load_recipe(tmp_path / "run" / "run.toml").parent.checkpoint == str(folder)
