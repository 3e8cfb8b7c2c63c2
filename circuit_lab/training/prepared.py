"""What a recipe leaves open is found before it is trained, so that a run folder records all that the run depends on."""

from dataclasses import dataclass

from circuit_lab.tasks import NaturalLanguageConfig, Task, build_task
from circuit_lab.training.checkpoint import Checkpoint
from circuit_lab.training.parent import resolve_parent
from circuit_lab.training.recipe import Recipe


@dataclass(frozen=True, eq=False)
class Prepared:
    """A recipe with nothing left open, and what it starts from.

    Attributes:
        recipe: The recipe, with the hash of its facts and what its parent is.
        task: What is learnt.
        parent: Whose weights it starts from; None for the net's initial ones.
    """

    recipe: Recipe
    task: Task
    parent: Checkpoint | None


def prepare(recipe: Recipe) -> Prepared:
    """Build the task of a recipe, load its parent, and write into the recipe what they are.

    Args:
        recipe: From `load_recipe`; it stays as it is.

    Returns:
        The recipe filled in, task and parent. A task or a parent that is not what the recipe says is an InputError.
    """
    task = build_task(recipe.task)
    if _is_hash_open(recipe):
        assert isinstance(task.config, NaturalLanguageConfig)
        known = recipe.task.model_copy(update={"content_hash": task.config.content_hash})
        recipe = recipe.model_copy(update={"task": known})
    recipe, parent = resolve_parent(recipe, task)
    return Prepared(recipe, task, parent)


def is_anything_open(recipe: Recipe) -> bool:
    """Whether only task and parent, as they are now, say all that a run of the recipe depends on."""
    return recipe.parent is not None or _is_hash_open(recipe)


def _is_hash_open(recipe: Recipe) -> bool:
    return isinstance(recipe.task, NaturalLanguageConfig) and recipe.task.content_hash is None
