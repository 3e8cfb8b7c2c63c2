"""From a `StudyRun` and a scale to a recipe."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from circuit_lab.errors import InputError
from circuit_lab.studies.catalogue import analyses_folder
from circuit_lab.studies.study import StudyRun
from circuit_lab.training import Recipe, parse_recipe

SCALES: Mapping[str, str] = MappingProxyType(
    {
        "smoke": "seconds a run: shows that a study works, and nothing else",
        "small": "minutes a run on one CPU core",
        "medium": "minutes a run on one GPU",
        "paper": "the published size",
    }
)
"""Scale -> what a run of it costs."""

_TINY: Mapping[str, Mapping[str, Any]] = {
    "net": {"d_model": 16, "n_heads": 2, "d_mlp": 32},
    "training": {"n_steps": 40, "resume_every": 20},
    "evaluation": {"every": 20},
    "checkpoints": {"every": 20},
}
_SMOKE: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "two_hop": {
        **_TINY,
        "task": {"n_entities": 12, "n_relations": 7, "out_degree": 5, "ood_share": 0.3, "test_id_share": 0.1},
        "training": {**_TINY["training"], "batch_size": 32},
    },
    "modular": {**_TINY, "task": {"p": 11}},
}
"""Kind of task -> what makes a small recipe one of seconds; settings that a recipe does not have are left out."""


def base_tables(net: str, scale: str) -> dict[str, Any]:
    """The tables of a base recipe.

    Args:
        net: A name of `analyses/recipes/<net>-<scale>.toml`.
        scale: One of `SCALES`.

    Returns:
        The tables, as read from TOML.

    Raises:
        InputError: If there is no such scale or recipe.
    """
    if scale not in SCALES:
        raise InputError(f"unknown scale {scale!r}; the scales are: {', '.join(SCALES)}")
    folder = analyses_folder() / "recipes"
    path = folder / f"{net}-{'small' if scale == 'smoke' else scale}.toml"
    if not path.is_file():
        known = sorted({found.stem.rpartition("-")[0] for found in folder.glob("*.toml")})
        raise InputError(f"no recipe {path}; there are recipes of: {', '.join(known)}")
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    if scale == "smoke":
        for name, settings in _SMOKE[tables["task"]["kind"]].items():
            tables[name] |= {key: value for key, value in settings.items() if key in tables[name]}
    return tables


def recipe_of(run: StudyRun, scale: str, *, parent_checkpoint: Path | None = None) -> Recipe:
    """The recipe of a run at a scale.

    Args:
        run: The run.
        scale: One of `SCALES`.
        parent_checkpoint: The last checkpoint of its parent; needed if it has one.

    Returns:
        The recipe. A run with a parent has the parent's net, and its task unless the settings give another table; a
        table for a task with a `base` that the settings leave out gets the parent's task as base.

    No such scale or base recipe is an InputError.
    """
    tables = base_tables(run.net, scale)
    if run.parent is None:
        tables["task"]["seed"] = tables["net"]["init_seed"] = run.seed
    else:
        of_parent = _tables(run.parent, scale)
        tables["task"], tables["net"] = of_parent["task"], of_parent["net"]
        tables["parent"] = {"checkpoint": str(parent_checkpoint)}
    tables["training"]["seed"] = run.seed
    tables["training"]["n_steps"] = max(1, round(run.steps * tables["training"]["n_steps"]))
    for key, value in run.settings.items():
        _set(tables, key, value)
    return parse_recipe(tables, source=f"of {run.place} at scale {scale}")


def _tables(run: StudyRun, scale: str) -> dict[str, Any]:
    """Task and net of a run, as a run that starts from it needs them."""
    recipe = recipe_of(run, scale, parent_checkpoint=Path())
    return {"task": recipe.task.model_dump(mode="json", exclude_none=True), "net": dict(recipe.net)}


def _set(tables: dict[str, Any], key: str, value: Any) -> None:
    """Change one setting, or a whole table."""
    name, dot, setting = key.partition(".")
    if dot:
        tables[name] = {**tables.get(name, {}), setting: value}
        return
    if name == "task" and value.get("base", ...) is None:  # asked for by name: the parent's task
        value = {**value, "base": tables["task"]}
    tables[name] = dict(value)
