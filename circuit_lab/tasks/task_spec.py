"""A task given in words: a kind with settings, a dataset folder, or the task of a recipe.

`modular:p=113,train_share=0.3,split=python_shuffle,seed=0` is the kind, a colon, and settings of its config separated
by commas, each with a TOML value or a bare word. Settings that hold tables or lists have no such form; give a recipe.
"""

import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from circuit_lab.errors import InputError, quoted
from circuit_lab.tasks.modular_config import ModularConfig
from circuit_lab.tasks.modular_splits import SPLITS, read_train_pairs
from circuit_lab.tasks.natural_language_config import NaturalLanguageConfig
from circuit_lab.tasks.registry import Task, TaskConfig, build_task
from circuit_lab.tasks.safe_files import file_kind, open_regular
from circuit_lab.tasks.transfer_config import TransferConfig
from circuit_lab.tasks.two_hop_config import TwoHopConfig
from circuit_lab.tasks.two_hop_folder import read_dataset_folder

CONFIG_OF_KIND: dict[str, type[BaseModel]] = {
    "modular": ModularConfig,
    "two_hop": TwoHopConfig,
    "two_hop_transfer": TransferConfig,
    "natural_language": NaturalLanguageConfig,
}
"""The kinds that have settings to write in words."""
RECIPE_FILES = ("run.toml", "recipe.toml")
"""What the recipe in a run folder, and in a reference model's, is called."""
MAX_RECIPE_BYTES = 64 * 2**20
"""Far more than any recipe has; one may list training pairs."""
TASK_FORMS: tuple[tuple[str, str], ...] = (
    ("modular:p=113", "a+b modulo 113; which pairs were trained on is not known"),
    (
        "modular:p=113,train_share=0.3,split=python_shuffle,seed=0",
        f"the same with its training pairs: {SPLITS['python_shuffle']}",
    ),
    (
        "modular:p=113,train_share=0.3,split=torch_randperm,seed=598",
        f"the same with its training pairs: {SPLITS['torch_randperm']}",
    ),
    (
        "modular:p=113,train_pairs=FILE",
        "the same with the training pairs that FILE (.json, .npy or .txt) lists by their row-major indices a * p + b",
    ),
    ('modular:operation=a-b,p=59,n_train=1393,labels="random"', "any other setting of a modular task"),
    ("two_hop:n_entities=60,n_relations=10,out_degree=10", "a two-hop task drawn by circuit_lab, with its settings"),
    (
        "two_hop_transfer:n_entities=60,n_relations=12,out_degree=10,new_per_entity=1.0",
        "a two-hop task with new facts beside old ones, as a finetuned net is asked",
    ),
    (
        "natural_language:path=QUESTIONS.json,format=2wiki,ood_share=0.2,form=words",
        "two-hop questions over the facts of a file of 2WikiMultihopQA (2wiki) or MuSiQue (musique)",
    ),
    ("FOLDER", "a dataset folder of two-hop composition, or a run folder"),
    ("RECIPE.toml", "the task of a recipe, or of a run's run.toml"),
)
"""Every way to name a task, with its meaning."""
_CONFIG = TypeAdapter(TaskConfig)
_DRAWING = ("train_share", "n_train", "train_pairs", "split", "seed")
"""Settings that say something of a modular task's training pairs."""


def task_from_words(text: str) -> Task:
    """The task that words mean.

    Args:
        text: One of `TASK_FORMS`.

    Returns:
        The task. A modular task whose words say nothing of its training pairs has an unknown split.

    Raises:
        InputError: If the words mean no task; says which part, and what is allowed there.

    >>> task_from_words("modular:p=59,n_train=1393")
    ModularTask(a+b mod 59, 1393 of 3481 pairs in training, 1255 unmirrored test pairs, true labels)
    >>> task_from_words("modular:p=5")
    ModularTask(a+b mod 5, 25 pairs, which of them are in training is not known, true labels)
    """
    place = f"task {quoted(text)}"
    if not text.strip():
        raise InputError(f"{place} is empty; write one of: {'; '.join(form for form, _ in TASK_FORMS)}")
    kind, _, settings = text.partition(":")
    try:
        if kind in CONFIG_OF_KIND:
            return build_task(_config_of(_parse_settings(kind, settings, place) | {"kind": kind}, place))
        return _task_at(Path(text), place)
    except InputError:
        raise
    except (ValueError, OverflowError) as error:
        raise InputError(f"{place}: {_in_one_line(error)}") from error


def _parse_settings(kind: str, settings: str, place: str) -> dict[str, Any]:
    """The settings of a kind, by name, with files read."""
    values: dict[str, Any] = {}
    names = [name for name in CONFIG_OF_KIND[kind].model_fields if name != "kind"]
    for setting in settings.split(",") if settings else []:
        name, equals, value = (part.strip() for part in setting.partition("="))
        if not equals:
            raise InputError(f"{place}: {quoted(setting)} is not name=value; the settings are: {', '.join(names)}")
        if name not in names:
            raise InputError(
                f"{place}: unknown setting {quoted(name)}{_nearest(name, names)}; the settings are: {', '.join(names)}"
            )
        if name in values:
            raise InputError(f"{place}: {name} is given twice; leave one of them out")
        values[name] = _value(value)
    if kind == "modular":
        if isinstance(values.get("train_pairs"), str):
            values["train_pairs"] = read_train_pairs(Path(values["train_pairs"]))
        if not values.keys() & set(_DRAWING):
            values["split"] = "unknown"
        _check_split_name(values, place)
    return values


def _value(text: str) -> Any:
    """A TOML value of one line, or else the words themselves."""
    try:
        value = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return value["value"] if len(value) == 1 else text


def _check_split_name(values: dict[str, Any], place: str) -> None:
    split = values.get("split", "ours")
    if not isinstance(split, str) or split not in SPLITS:
        raise InputError(
            f"{place}: unknown split {quoted(str(split))}{_nearest(str(split), list(SPLITS))}; the splits are: "
            f"{', '.join(SPLITS)}"
        )


def _task_at(path: Path, place: str) -> Task:
    """The task of a folder or file."""
    kind = file_kind(path, what="task")
    if kind == "folder":
        recipe = next((path / name for name in RECIPE_FILES if file_kind(path / name, what="recipe") == "file"), None)
        return read_dataset_folder(path) if recipe is None else _task_of_recipe(recipe, place)
    if kind == "file":
        return _task_of_recipe(path, place)
    forms = "; ".join(form for form, _ in TASK_FORMS)
    raise InputError(
        f"{place}: there is no such file or folder, and it begins with no kind of task"
        f"{_nearest(str(path), list(CONFIG_OF_KIND))}; write one of: {forms}"
    )


def _task_of_recipe(path: Path, place: str) -> Task:
    """The task of a recipe's [task] table."""
    with open_regular(path, what="recipe", max_bytes=MAX_RECIPE_BYTES) as file:
        content = file.read(MAX_RECIPE_BYTES)
    try:
        tables = tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{place}: {path} is not valid TOML ({_in_one_line(error)}); give a recipe, or a dataset's folder"
        ) from error
    table = tables.get("task")
    if not isinstance(table, dict):
        there = ", ".join(quoted(key) for key in tables) or "nothing"
        raise InputError(f"{place}: {path} has no [task] table, so it is no recipe; it has {there}")
    return build_task(_config_of(table, f"{place}: {path}"))


def _config_of(settings: dict[str, Any], place: str) -> Any:
    """The config that settings make."""
    try:
        return _CONFIG.validate_python(settings)
    except ValidationError as error:
        raise InputError(f"{place}: {_problem(error)}") from error


def _problem(error: ValidationError) -> str:
    """The first validation error as `setting: what is wrong (got value)`."""
    detail = error.errors(include_url=False)[0]
    message = _in_one_line(detail["msg"].removeprefix("Value error, "))
    if detail["type"] == "value_error":
        return message
    if detail["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return f"kind must be one of {', '.join(CONFIG_OF_KIND)} or two_hop_folder, got {quoted(detail['input'])}"
    setting = ".".join(str(part) for part in detail["loc"][1:])
    if detail["type"] == "missing":
        return f"{setting} is missing; give {setting}=..."
    return f"{setting}: {message} (got {quoted(detail['input'])})"


def _nearest(word: str, words: list[str]) -> str:
    nearest = get_close_matches(word.partition(":")[0], words, n=1, cutoff=0.5)
    return f"; the nearest is {nearest[0]}" if nearest else ""


def _in_one_line(problem: object) -> str:
    return " ".join(str(problem).split())
