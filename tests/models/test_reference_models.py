"""Contract of the reference models: each folder is complete, and its committed numbers are measured again."""

import json
import re

import pytest

from circuit_lab.cli.tables import print_tables
from circuit_lab.training import (
    load_checkpoint,
    load_recipe,
    parse_recipe,
    reference_models,
    split_scores,
    train,
)
from circuit_lab.training.parent import resolve_parent
from circuit_lab.verdict import Diagnosis, diagnose

VERDICTS = {
    "two-hop-true-circuit": "true_circuit",
    "two-hop-second-hop-failure": "second_hop_failure",
    "two-hop-shortcut": "fake_grokking",
    "modular-grokked": "true_circuit",
    "modular-grokked-p113": "true_circuit",
    "modular-memorising": "memorising",
    "modular-random-labels": "memorising",
    "modular-semi-grokked": "semi_grokked",
    "modular-ungrokked": "ungrokked",
}
DECIDING_SPLIT = {"two_hop": "test_ood", "modular": "test_unmirrored"}
FOLDERS = reference_models()


def test_every_model_is_listed():
    assert set(FOLDERS) == set(VERDICTS)


@pytest.fixture(scope="module", params=VERDICTS)
def folder(request):
    return FOLDERS[request.param]


@pytest.fixture(scope="module")
def committed(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def diagnosis(folder):
    return diagnose(folder)


def test_the_folder_is_complete(folder):
    assert {p.name for p in folder.iterdir()} == {"recipe.toml", "weights.safetensors", "README.md", "metrics.json"}


def test_the_weights_come_from_the_recipe_beside_them(folder):
    checkpoint, recipe = load_checkpoint(folder / "weights.safetensors"), load_recipe(folder / "recipe.toml")
    trained_by = parse_recipe(dict(checkpoint.recipe), source="the weights file")
    assert trained_by == resolve_parent(recipe, checkpoint.task)[0]
    assert checkpoint.step == recipe.training.n_steps


def test_the_accuracies_in_the_weights_file_are_measured_again(folder):
    checkpoint = load_checkpoint(folder / "weights.safetensors")
    measured = {name: score.accuracy for name, score in split_scores(checkpoint.net, checkpoint.task).items()}
    assert measured == pytest.approx(dict(checkpoint.metrics), abs=2e-3)  # another machine may turn a tie


@pytest.mark.slow
def test_the_committed_diagnosis_is_measured_again(folder, committed, diagnosis):
    assert diagnosis.verdict == committed["verdict"] == VERDICTS[folder.name]
    assert diagnosis.confidence == pytest.approx(committed["confidence"], abs=0.03)
    assert list(diagnosis.sites) == committed["sites"]
    for now, then in zip(diagnosis.outcomes, committed["outcomes"], strict=True):
        assert (now.split, now.n) == (then["split"], then["n"])
        assert now.shares == pytest.approx(then["shares"], abs=0.02)  # a near-tie may turn elsewhere


@pytest.mark.slow
def test_another_seed_of_partners_gives_the_same_verdict(folder, diagnosis):
    assert diagnose(folder, seed=1).verdict == diagnosis.verdict


def test_the_deciding_split_is_large_enough(committed):
    assert {s["split"]: s["n"] for s in committed["outcomes"]}[DECIDING_SPLIT[committed["family"]]] >= 100


def test_only_the_shortcut_has_a_leaked_test_set(folder, committed):
    leaked = folder.name == "two-hop-shortcut"
    assert committed["certificate"]["clean"] is not leaked
    assert any("test set leaked" in warning for warning in committed["warnings"]) is leaked


def test_the_card_states_the_verdict_and_the_accuracies(folder, committed):
    card = (folder / "README.md").read_text()
    assert f"`{committed['verdict']}`" in card
    for split in committed["outcomes"]:
        named = [share for outcome, share in split["shares"].items() if outcome != "untestable"]
        numbers = " | ".join(f"{number:.3f}" for number in (split["accuracy"], *named))
        assert f"| {split['split']} | {split['n']} | {numbers} |" in card


def test_the_readme_shows_what_the_command_prints(monkeypatch, capsys):
    """Every number in the README's tables is what is printed of the committed diagnoses, which are measured above."""
    monkeypatch.setenv("COLUMNS", "80")
    committed = [json.loads((FOLDERS[name] / "metrics.json").read_text()) for name in sorted(VERDICTS)]
    print_tables([Diagnosis.model_validate(record | {"measurements": None}) for record in committed])
    printed_lines = {line.rstrip() for line in capsys.readouterr().out.splitlines()}
    readme = (FOLDERS["two-hop-shortcut"].parents[1] / "README.md").read_text().splitlines()
    rows = [line for line in readme if re.search(r"\d\.\d\d( |$)", line) and not line.startswith(("#", "`"))]
    assert len(rows) == len(VERDICTS) + 5
    assert [row for row in rows if row not in printed_lines] == []


def assert_learns_again(name, tmp_path):
    """The recipe from the start: the same bytes on the same machine, the same mechanism on another."""
    folder = FOLDERS[name]
    run = train(load_recipe(folder / "recipe.toml"), tmp_path / "run", progress=False)
    if run.checkpoint.read_bytes() == (folder / "weights.safetensors").read_bytes():
        return
    diagnosis = diagnose(run.run)
    assert next(iter(diagnosis.candidates)) == VERDICTS[name], diagnosis.reasons
    committed = json.loads((folder / "metrics.json").read_text())
    for now, then in zip(diagnosis.outcomes, committed["outcomes"], strict=True):
        assert now.shares["circuit"] == pytest.approx(then["shares"]["circuit"], abs=0.15)


@pytest.mark.slow
def test_the_shortest_recipe_learns_again_what_its_weights_show(tmp_path):
    assert_learns_again("modular-memorising", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two-hop-shortcut", "modular-ungrokked", "modular-grokked"])
def test_a_recipe_learns_again_what_its_weights_show(name, tmp_path):
    assert_learns_again(name, tmp_path)
