"""Starting a run from another run's weights: finding the parent checkpoint and checking that it fits."""

from circuit_lab.errors import InputError
from circuit_lab.tasks import Task
from circuit_lab.training.checkpoint import Checkpoint, load_checkpoint
from circuit_lab.training.recipe import ParentRecipe, Recipe
from circuit_lab.training.reference import resolve_checkpoint

_INITIAL_WEIGHTS = ("init_std", "init_seed")


def resolve_parent(recipe: Recipe, task: Task) -> tuple[Recipe, Checkpoint | None]:
    """Load the checkpoint that a recipe starts from, and write into the recipe what it is.

    Args:
        recipe: A recipe, with or without a parent.
        task: The recipe's task.

    Returns:
        The recipe with its parent's hash, step and accuracies filled in, and the parent; None without one.

    Raises:
        InputError: If there is no such checkpoint, it is not the one the recipe describes, or its net is another.
    """
    if recipe.parent is None:
        return recipe, None
    parent = load_checkpoint(resolve_checkpoint(recipe.parent.checkpoint))
    found = ParentRecipe(
        checkpoint=recipe.parent.checkpoint,
        weights_hash=parent.weights_hash,
        step=parent.step,
        accuracy=dict(parent.metrics),
    )
    for name, value in recipe.parent.model_dump(exclude_none=True).items():
        if value != getattr(found, name):
            raise InputError(
                f"parent.{name} is {value!r} in the recipe, but {recipe.parent.checkpoint} has "
                f"{getattr(found, name)!r}: it is another checkpoint; give the right one, or leave parent.{name} out"
            )
    _check_net(recipe, task, parent)
    return recipe.model_copy(update={"parent": found}), parent


def _check_net(recipe: Recipe, task: Task, parent: Checkpoint) -> None:
    """The weights are continued, so both nets must compute the same function of their weights."""
    config = recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx)
    wanted, given = config.model_dump(), parent.net.cfg.model_dump()
    different = [
        f"{name} is {given[name]!r} there and {wanted[name]!r} here"
        for name in wanted
        if name not in _INITIAL_WEIGHTS and wanted[name] != given[name]
    ]
    if different:
        assert recipe.parent is not None
        raise InputError(f"cannot start from {recipe.parent.checkpoint}: another net: {'; '.join(different)}")
