"""Is this folder a run of this recipe? Opening a run folder for a first or a further call."""

import os
from pathlib import Path

from circuit_lab.errors import InputError
from circuit_lab.tasks.safe_files import check_inside
from circuit_lab.training.prepared import is_anything_open, prepare
from circuit_lab.training.recipe import Recipe, dotted_keys, load_recipe
from circuit_lab.training.run_folder import (
    CHECKPOINTS,
    HOLDER,
    LOCK,
    METRICS,
    RECIPE,
    RESUME,
    checkpoint_path,
    is_leftover,
    remove_leftovers,
    write_atomically,
)

_MAY_DIFFER = ("about", "training.n_steps", "parent.checkpoint")
_MAY_BE_UNKNOWN = ("task.content_hash",)
"""Settings that runs of earlier versions did not record."""


def check_usable(run: Path, recipe: Recipe) -> None:
    """Whether a folder can be the run of a recipe; nothing is written.

    Args:
        run: The folder, there or not.
        recipe: The recipe of this call.

    Raises:
        InputError: If the folder holds something that is not a run, or a run of another recipe, or a link outside.
    """
    try:
        if os.path.lexists(run) and not run.is_dir():
            raise InputError(
                f"cannot use {run} as run folder: it is a {'link to nothing' if run.is_symlink() else 'file'}"
            )
        others = [name for name in os.listdir(run) if not _is_ours(name)] if run.is_dir() else []  # noqa: PTH208
        is_run = (run / RECIPE).exists()
        if os.path.lexists(run / CHECKPOINTS) and not (run / CHECKPOINTS).is_dir():
            raise InputError(f"its {CHECKPOINTS} is no folder")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot use {run!s:.300} as run folder: {error!s:.300}; choose another folder") from error
    for name in (RECIPE, METRICS, RESUME, CHECKPOINTS, LOCK):
        check_inside(run, name)
    if is_run:
        _check_same(run, load_recipe(run / RECIPE), recipe)
    elif others:
        raise InputError(
            f"cannot use {run} as run folder: it holds other files (such as {min(others)}) and no {RECIPE}; "
            "choose another folder"
        )


def is_finished(run: Path, recipe: Recipe) -> bool:
    """Whether a folder is a run of a recipe that has come to its end; nothing is written.

    Args:
        run: The folder, there or not.
        recipe: From `load_recipe`. Only where it leaves open what its facts or its parent are, these are read.

    Returns:
        False if the last checkpoint is not there.

    One that is there, but in a run of another recipe, of facts or a parent that have changed since, or of more steps,
    is an InputError.
    """
    if not checkpoint_path(run, recipe.training.n_steps).is_file():
        return False
    check_holds(run, recipe)
    return True


def check_holds(run: Path, recipe: Recipe) -> None:
    """Whether a folder, if it is there, holds a run of a recipe, whose open settings are looked up; else as above."""
    check_usable(run, prepare(recipe).recipe if is_anything_open(recipe) else recipe)


def open_run(run: Path, recipe: Recipe) -> Path:
    """Make a run folder, or check that an existing one belongs to the recipe.

    A larger `training.n_steps` prolongs a run. The recipe is written first, so that a kill at any instant leaves a
    folder that the next call opens. Who calls this holds the folder's lock.

    Args:
        run: The folder.
        recipe: The recipe of this call.

    Returns:
        The folder, with `run.toml` and `checkpoints/` in it, and without the temporary files of killed processes.

    A folder that holds something that is not a run, or a run of another recipe, is an InputError.
    """
    check_usable(run, recipe)
    run.mkdir(parents=True, exist_ok=True)
    remove_leftovers(run)
    write_atomically(run / RECIPE, recipe.to_toml().encode())
    (run / CHECKPOINTS).mkdir(exist_ok=True)
    return run


def _is_ours(name: str) -> bool:
    """What a process may leave that was killed before its recipe was written."""
    return name in (LOCK, HOLDER) or is_leftover(name)


def _check_same(run: Path, before: Recipe, now: Recipe) -> None:
    old, new = (dotted_keys(r.model_dump(mode="json", exclude_none=True)) for r in (before, now))
    different = [
        f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and not key.startswith(_MAY_DIFFER)
        and not (key in _MAY_BE_UNKNOWN and key not in old)
    ]
    if different:
        raise InputError(f"{run} holds a run of another recipe: {'; '.join(different)}; choose another folder")
    if now.training.n_steps < before.training.n_steps:
        raise InputError(
            f"{run} holds a run of {before.training.n_steps} steps; training.n_steps = {now.training.n_steps} is less"
        )
