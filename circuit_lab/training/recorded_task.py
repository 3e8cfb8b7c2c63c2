"""The task that a checkpoint records: rebuilt, or given again, and in either case the one that it was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from circuit_lab.errors import InputError, short
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import AnswerSlots, Task, TaskConfig, TwoHopTask, build_task, in_answer_slots
from circuit_lab.tasks.safe_files import climbs
from circuit_lab.training.checkpoint_format import first_problem

_TASK = TypeAdapter(TaskConfig)


def rebuild_task(
    path: Path, recorded: Mapping[str, Any] | None, task_hash: str | None, *, given: Task | None = None
) -> Task | None:
    """The task of a checkpoint, which must be the one it was trained on.

    Args:
        path: The checkpoint file, named in errors.
        recorded: The task's config as the checkpoint has it; None if it came without a task.
        task_hash: Hash of the task it was trained on; None likewise.
        given: Taken in place of a missing one, or of the recorded one if it is the same.

    Returns:
        The task; None if there is none.

    Raises:
        InputError: If the config is not valid, or the task it builds, or the one given, is another one.
    """
    if recorded is None:
        return given
    if given is not None:
        if given.certificate.task_hash != task_hash:
            raise InputError(
                f"checkpoint {path} belongs to another task: it was trained on {short(recorded)} with the hash "
                f"{task_hash}, the task given has {given.certificate.task_hash}; give that one, or none"
            )
        return _laid_out(path, recorded, given)
    return _rebuilt_task(path, recorded, task_hash)


def _laid_out(path: Path, recorded: Mapping[str, Any], given: Task) -> Task:
    """The task given, its queries laid out as those of the recorded one."""
    if recorded.get("answer_slots") is None or not isinstance(given, TwoHopTask):
        return given
    try:
        slots = AnswerSlots.model_validate(recorded["answer_slots"])
    except ValidationError as error:
        raise InputError(f"checkpoint {path}: its task is not valid: {first_problem(error)}") from error
    return in_answer_slots(given, d_vocab=slots.d_vocab, n_ctx=slots.n_ctx)


def check_task_fits(path: Path, net: HookedNet, task: Task) -> None:
    """Refuse a task whose tokens or positions a net does not have.

    Args:
        path: The checkpoint, named in errors.
        net: Its net.
        task: The task.

    Raises:
        InputError: Names the size that differs.
    """
    for name in ("d_vocab", "d_vocab_out"):
        ours, theirs = getattr(net.cfg, name), getattr(task, name)
        if ours != theirs:
            raise InputError(
                f"{path} is a net with {name} = {ours}, but {task} has {name} = {theirs}; "
                "give the task it was trained on"
            )
    if net.cfg.n_ctx < task.n_ctx:
        raise InputError(
            f"{path} reads at most {net.cfg.n_ctx} positions, but {task} has {task.n_ctx}; "
            "give the task it was trained on"
        )


def _rebuilt_task(path: Path, recorded: Mapping[str, Any], task_hash: str | None) -> Task:
    """The task that a record describes, whose hash must be the recorded one."""
    try:
        config = _TASK.validate_python(recorded)
        if climbs(getattr(config, "path", "")):
            raise InputError(
                f"checkpoint {path}: the path of its dataset, {recorded['path']!r}, climbs with '..'; give the "
                "dataset itself: load_checkpoint(path, task=read_dataset_folder(folder))"
            )
        task = build_task(config)
    except ValidationError as error:
        raise InputError(f"checkpoint {path}: its task is not valid: {first_problem(error)}") from error
    except (ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"checkpoint {path}: its task cannot be rebuilt: {error}") from error
    if task.certificate.task_hash != task_hash:
        raise InputError(
            f"checkpoint {path}: its task rebuilds to hash {task.certificate.task_hash}, but it was trained on "
            f"{short(task_hash)}; the file is damaged or from an incompatible version of circuit_lab"
        )
    return task
