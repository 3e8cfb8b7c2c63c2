"""Tasks in words: every form that is offered, and every mistake in one."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuit_lab.errors import InputError
from circuit_lab.tasks import ModularConfig, TwoHopConfig, build_task, write_dataset_folder
from circuit_lab.tasks.modular_splits import SPLITS
from circuit_lab.tasks.task_spec import CONFIG_OF_KIND, TASK_FORMS, task_from_words
from circuit_lab.training import reference_model

MODELS = Path(__file__).parents[2] / "models"
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize(
    ("words", "config"),
    [
        ("modular:p=13", ModularConfig(p=13, split="unknown")),
        ("modular:p=13,operation=a-b", ModularConfig(p=13, operation="a-b", split="unknown")),
        ("modular:p=13,n_train=40,seed=7", ModularConfig(p=13, n_train=40, seed=7)),
        (
            "modular: p = 13 , train_share = 0.3 , split = python_shuffle",
            ModularConfig(p=13, train_share=0.3, split="python_shuffle"),
        ),
        (
            'modular:p=13,train_share=0.3,split="torch_randperm",seed=598',
            ModularConfig(p=13, train_share=0.3, split="torch_randperm", seed=598),
        ),
        ("modular:operation=S5: ab,n_train=30", ModularConfig(operation="S5: ab", n_train=30)),
        ("modular:p=7,labels=random,split=unknown", ModularConfig(p=7, labels="random", split="unknown")),
        (
            "two_hop:n_entities=12,n_relations=5,out_degree=4,ood_share=0.3,shuffled_answers=true",
            TwoHopConfig(n_entities=12, n_relations=5, out_degree=4, ood_share=0.3, shuffled_answers=True),
        ),
    ],
)
def test_settings_in_words_are_those_of_the_config(words, config):
    task = task_from_words(words)
    assert task.config == config
    assert task.certificate.task_hash == build_task(config).certificate.task_hash


def test_training_pairs_come_from_a_file(tmp_path):
    (tmp_path / "pairs.json").write_text(json.dumps([9, 0, 48]))
    assert task_from_words(f"modular:p=7,train_pairs={tmp_path}/pairs.json").config == ModularConfig(
        p=7, train_pairs=(0, 9, 48)
    )


@pytest.mark.parametrize("name", ["recipe.toml", "", "run.toml"])
def test_a_recipe_and_its_folder_mean_the_recipes_task(tmp_path, name):
    path = MODELS / "modular-memorising"
    if name == "run.toml":
        path = tmp_path
        shutil.copy(MODELS / "modular-memorising" / "recipe.toml", path / name)
    expected = reference_model("modular-memorising").task.certificate.task_hash
    assert task_from_words(str(path / name)).certificate.task_hash == expected


def test_a_dataset_folder_is_read(tmp_path, small_task):
    write_dataset_folder(small_task, tmp_path / "data")
    found = task_from_words(str(tmp_path / "data"))
    assert found.config.kind == "two_hop_folder" and len(found.training) == len(small_task.training)


def test_every_form_that_is_offered_is_one(tmp_path, monkeypatch):
    """Placeholders stand for files that are made here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.txt").write_text("0\n1\n")
    shutil.copy(MODELS / "modular-memorising" / "recipe.toml", tmp_path / "RECIPE.toml")
    shutil.copytree(MODELS / "modular-memorising", tmp_path / "FOLDER")
    shutil.copy(GOLDEN / "natural_language_2wiki.json", tmp_path / "QUESTIONS.json")
    for form, meaning in TASK_FORMS:
        assert task_from_words(form.replace("=FILE", "=pairs.txt")).splits and meaning
    offered = " ".join(form for form, _ in TASK_FORMS)
    assert all(f"{kind}:" in offered for kind in CONFIG_OF_KIND)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "task '' is empty; write one of: modular:p=113; "),
        (
            "modul:p=7",
            "no such file or folder, and it begins with no kind of task; the nearest is modular; write one of: ",
        ),
        ("no/such/place", "no such file or folder, and it begins with no kind of task; write one of: .*RECIPE.toml"),
        ("modular", "p is missing; give an odd prime"),
        ("modular:p=91", r"task 'modular:p=91': p must be an odd prime, got 91 \(= 7 x 13\)"),
        ("modular:p=x", r"p: Input should be a valid integer \(got 'x'\)"),
        ("modular:p=7\nq=3", r"p: Input should be a valid integer"),
        ("modular:p=7,train", "'train' is not name=value; the settings are: operation, p, train_share"),
        ("modular:p=7,train_shre=1", "unknown setting 'train_shre'; the nearest is train_share; the settings are: op"),
        ("modular:p=7,kind=two_hop", "unknown setting 'kind'; the settings are"),
        ("modular:p=7,p=7", "p is given twice"),
        (
            "modular:p=7,n_train=3,split=python_shufle",
            "unknown split 'python_shufle'; the nearest is python_shuffle; the",
        ),
        ("modular:p=7,n_train=3,split=[[1]]", r"unknown split '\[\[1\]\]'; the splits are: ours, python_shuffle"),
        ("modular:p=7,seed=598", "exactly one of train_share and n_train, got train_share = None"),
        ("modular:p=7,train_pairs=gone.json", "no train_pairs file at gone.json: there is no such file"),
        ("modular:p=7,train_pairs=3", "train_pairs: Input should be a valid tuple"),
        ("modular:p=7,operation=a^b", "operation: Input should be 'a\\+b'"),
        ("two_hop:n_entities=60,n_relations=10", "out_degree is missing; give out_degree="),
        (
            "two_hop:n_entities=99999999999999,n_relations=1,out_degree=1",
            "n_entities = 99999999999999 with out_degree = 1 make .* lower one of them",
        ),
        ("modular:p=" + "[" * 5000, "p: Input should be a valid integer"),
        ("/dev/null", "no task at /dev/null: it is a pipe, socket or device"),
        ("a\0b", "a path cannot hold this"),
        ("x" * 5000, "the name is longer than the file system allows"),
    ],
)
def test_mistakes_say_what_is_allowed(words, message):
    with pytest.raises(InputError, match=message) as caught:
        task_from_words(words)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe", "is not valid TOML .*give a recipe, or a dataset's folder"),
        (b"x = [" + b"[" * 100_000, "is not valid TOML"),
        (b"a = 1\n[net]\n", r"has no \[task\] table, so it is no recipe; it has 'a', 'net'"),
        (b"task = 3\n", r"has no \[task\] table"),
        (
            b"[task]\np = 7\n",
            "one of modular, two_hop, two_hop_transfer, natural_language or two_hop_folder, got",
        ),
        (
            b"[task]\nkind = 'modular'\np = 7\nn_trains = 3\n",
            "unknown ModularConfig setting 'n_trains' = 3; the settings",
        ),
    ],
)
def test_files_that_are_no_recipe_are_refused(tmp_path, content, message):
    (tmp_path / "file.toml").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        task_from_words(str(tmp_path / "file.toml"))
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_dataset_is_named(tmp_path):
    with pytest.raises(InputError, match="vocab.json"):
        task_from_words(str(tmp_path))


SETTINGS = st.sampled_from(list(ModularConfig.model_fields))
VALUES = st.sampled_from(
    ["7", "0.3", "-1", "unknown", "[1, 2]", "listed", "nan", "1e400", '"', "9" * 5000, *SPLITS]
) | st.text(max_size=5)


@given(settings=st.lists(st.tuples(SETTINGS, VALUES), max_size=4), kind=st.sampled_from(["modular:p=7,", "modular:"]))
def test_whatever_the_words_only_our_own_error_comes_out(settings, kind):
    words = kind + ",".join(f"{name}={value}" for name, value in settings)
    try:
        assert task_from_words(words).config.kind == "modular"
    except InputError as error:
        assert "\n" not in str(error)
