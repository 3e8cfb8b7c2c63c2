"""A sweep file: a recipe, and the settings in which its runs differ.

    recipe = "recipe.toml"               # beside this file
    seeds = 3                            # or a list; each sets task.seed, net.init_seed and training.seed

    [set]                                # in every run
    training.n_steps = 5000

    [axes]                               # every combination of these values
    task.n_train = [400, 800, 1600]
    optimizer.weight_decay = [0.3, 1.0]

    [variants.operation]                 # an axis whose points change several settings, each under a name
    sum = {task.operation = "a+b"}
    product = {task.operation = "a*b", optimizer.learning_rate = 3e-3}

The runs of this one are 3 x 3 x 2 x 2. A run that starts from a checkpoint (`parent.checkpoint`) keeps the task and net
of its settings; its seed is that of its batches alone.
"""

import copy
import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from circuit_lab.errors import InputError, short
from circuit_lab.tasks.safe_files import open_regular
from circuit_lab.tasks.task_spec import CONFIG_OF_KIND
from circuit_lab.training import Recipe, parse_recipe
from circuit_lab.training.recipe import dotted_keys, read_tables, set_key

MAX_RUNS = 100_000
RESULT_COLUMNS = (
    "run",
    "seed",
    "step",
    "finished",
    "split",
    "accuracy",
    "low",
    "high",
    "n",
    "chance",
    "loss",
    "weight_norm",
    "softmax_collapse",
)
"""Columns of the table of results that are no axes."""
_SEED_KEYS = ("task.seed", "net.init_seed", "training.seed")
_MAX_BYTES = 2**20
_MAX_NAME = 150
"""Characters of a run's folder name; most file systems take 255 bytes."""


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: Its folder below that of the sweep, such as "n_train=400,weight_decay=1.0/seed=0".
        point: Its value on each axis, by the axis' name.
        seed: Its seed.
        recipe: Its recipe.
    """

    name: str
    point: Mapping[str, str | int | float | bool]
    seed: int
    recipe: Recipe


class _SweepFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    recipe: str
    seeds: (
        Annotated[int, Field(ge=1, le=MAX_RUNS)] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    ) = 1
    set: dict[str, Any] = {}
    axes: dict[str, Any] = {}
    variants: dict[str, dict[str, dict[str, Any]]] = {}


@dataclass(frozen=True)
class _Axis:
    """One axis: its name, and the settings of each of its points by label."""

    name: str
    points: tuple[tuple[str | int | float | bool, dict[str, Any]], ...]


def load_sweep(path: str | Path) -> tuple[SweepRun, ...]:
    """Read a sweep file.

    Args:
        path: A TOML file; the recipe that it names lies relative to it.

    Returns:
        Its runs: every combination of the axes, and of each every seed.

    Raises:
        InputError: If a file is missing or malformed, a key or value is not allowed, or the runs are more than
            `MAX_RUNS`; says where.
    """
    path = Path(path)
    given = _parse(path)
    seeds = given.seeds if isinstance(given.seeds, list) else list(range(given.seeds))
    if len(set(seeds)) < len(seeds):
        raise InputError(f"sweep {path}: seeds must differ, got {short(seeds)}")
    base = read_tables(path.parent / given.recipe)
    axes = _axes(given, path)
    _check_keys(given, axes, path)
    for key, value in dotted_keys(given.set).items():
        set_key(base, key, value, source=f"sweep {path}")
    n_runs = math.prod(len(axis.points) for axis in axes) * len(seeds)
    if n_runs > MAX_RUNS:
        raise InputError(f"sweep {path}: {n_runs} runs; at most {MAX_RUNS} are made of one file")
    return tuple(
        _run(base, axes, points, seed, path)
        for points in itertools.product(*(axis.points for axis in axes))
        for seed in seeds
    )


def _parse(path: Path) -> _SweepFile:
    with open_regular(path, what="sweep file", max_bytes=_MAX_BYTES) as file:
        content = file.read()
    try:
        return _SweepFile.model_validate(tomllib.loads(content.decode("utf-8")))
    except ValidationError as error:
        detail = error.errors()[0]
        key = ".".join(str(part) for part in detail["loc"] if not str(part).startswith(("constrained-", "list[")))
        if detail["type"] == "extra_forbidden":
            known = ", ".join(_SweepFile.model_fields)
            raise InputError(f"sweep {path}: unknown key {key!r}; valid keys are: {known}") from error
        raise InputError(f"sweep {path}: {key}: {detail['msg']} (got {short(detail['input'])})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML: {short(error)}") from error


def _axes(given: _SweepFile, path: Path) -> list[_Axis]:
    """All axes, in the file's order, under names as short as tells them apart."""
    listed = dotted_keys(given.axes)
    last_parts = [key.rpartition(".")[2] for key in listed]
    taken = {*RESULT_COLUMNS, *given.variants, *(part for part in last_parts if last_parts.count(part) > 1)}
    axes = []
    for key, values in listed.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"sweep {path}: axes.{key} must be a list of values, got {short(values)}")
        last = key.rpartition(".")[2]
        labels = _labels(values)
        points = tuple((label, {key: value}) for label, value in zip(labels, values, strict=True))
        axes.append(_Axis(key if last in taken else last, points))
    for name, variants in given.variants.items():
        if not variants:
            raise InputError(f"sweep {path}: variants.{name} has no points")
        if name in RESULT_COLUMNS:
            raise InputError(f"sweep {path}: variants.{name}: the table of results has a column {name}; rename it")
        axes.append(_Axis(name, tuple((label, dotted_keys(settings)) for label, settings in variants.items())))
    for axis in axes:
        labels = [json.dumps(label) for label, _ in axis.points]
        if len(set(labels)) < len(labels):
            raise InputError(f"sweep {path}: axis {axis.name} has a value twice: {short(labels)}")
    return axes


def _check_keys(given: _SweepFile, axes: Sequence[_Axis], path: Path) -> None:
    """Refuse seeds among the settings, and a setting that two axes change."""
    of_axis = {axis.name: {key for _, settings in axis.points for key in settings} for axis in axes}
    for where, keys in {"set": set(dotted_keys(given.set)), **of_axis}.items():
        for key in sorted(keys.intersection(_SEED_KEYS)):
            raise InputError(f"sweep {path}: {where} sets {key}, but seeds are no settings; write seeds = [0, 1, 2]")
    for one, other in itertools.combinations(of_axis, 2):
        for key in sorted(of_axis[one] & of_axis[other]):
            raise InputError(f"sweep {path}: both {one} and {other} set {key}; leave it out of one")


def _labels(values: Sequence[object]) -> list[str | int | float | bool]:
    """Values as cells of one column: numbers, or all truth values, or texts."""
    kinds = {type(value) for value in values}
    if kinds <= {int, float} or kinds == {bool}:
        return [value for value in values if isinstance(value, int | float)]
    return [value if isinstance(value, str) else json.dumps(value, default=str) for value in values]


def _run(base: dict[str, Any], axes: list[_Axis], points: tuple[Any, ...], seed: int, path: Path) -> SweepRun:
    """The run at one point of every axis."""
    tables = copy.deepcopy(base)
    point = {axis.name: label for axis, (label, _) in zip(axes, points, strict=True)}
    for _, settings in points:
        for key, value in settings.items():
            set_key(tables, key, value, source=f"sweep {path}")
    for key in _seed_keys(tables):
        set_key(tables, key, seed, source=f"sweep {path}")
    name = f"{_folder_name(point)}/seed={seed}" if point else f"seed={seed}"
    return SweepRun(name, point, seed, parse_recipe(tables, source=f"of {name} in sweep {path}"))


def _seed_keys(tables: Mapping[str, Any]) -> tuple[str, ...]:
    """What a seed sets: with a parent the batches alone, and the task where it has a seed."""
    task = tables.get("task")
    config = CONFIG_OF_KIND.get(str(task.get("kind"))) if isinstance(task, Mapping) else None
    if "parent" in tables:
        return ("training.seed",)
    return _SEED_KEYS if config is not None and "seed" in config.model_fields else _SEED_KEYS[1:]


def _folder_name(point: Mapping[str, object]) -> str:
    """A point as a folder name.

    >>> _folder_name({"operation": "a/b", "weight_decay": 0.3})
    'operation=a%2Fb,weight_decay=0.3'
    """
    name = ",".join(f"{quote(axis, safe='')}={quote(str(label), safe='+*^-')}" for axis, label in point.items())
    if len(name) <= _MAX_NAME:
        return name
    return f"{name[: _MAX_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
