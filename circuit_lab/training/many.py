"""Many runs in one process: each in its own folder, as `train` would leave it, all making their steps together."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from math import isfinite
from pathlib import Path

from circuit_lab.errors import InputError
from circuit_lab.training.data_parallel import refuse_launcher
from circuit_lab.training.device import cpu_threads, resolve_device
from circuit_lab.training.loop import TrainingInterrupted, noted_signals
from circuit_lab.training.prepared import Prepared, prepare
from circuit_lab.training.progress import STEPS_PER_REFRESH, progress_bar
from circuit_lab.training.recipe import Recipe, dotted_keys
from circuit_lab.training.run_identity import check_usable, open_run
from circuit_lab.training.run_lock import locked
from circuit_lab.training.stacked_learner import StackedLearner, shared_settings
from circuit_lab.training.training_run import TrainingResult, TrainingRun


def train_many(
    runs: Mapping[str | Path, Recipe], *, device: str = "auto", progress: bool = True
) -> dict[Path, TrainingResult]:
    """Train many nets of one architecture at once, or continue their runs.

    Args:
        runs: Run folder -> recipe. Recipes may differ in task, seeds, learning rate, warm-up, weight decay, penalties,
            fixed norm, clipping, schedules and parent; everything else must be equal, and so must be the tasks' numbers
            of tokens and positions.
        device: As in `train`.
        progress: Whether to show a bar over all runs, with the time left.

    Returns:
        Run folder -> finished run, in the order given.

    Raises:
        InputError: If recipes do not fit into one stack, two of the folders are one, or for whatever `train` refuses.
            Runs that diverge are named when all others are finished.

    Every run is a run folder like that of `train`, with weights equal to its weights up to rounding; which of the two
    continues it makes no difference. SIGINT and SIGTERM raise `TrainingInterrupted` after all are saved.
    """
    refuse_launcher("training many nets at once")
    if not runs:
        raise InputError("there are no runs to train; give at least one folder with its recipe")
    where = resolve_device(device)
    prepared = {Path(folder): prepare(recipe) for folder, recipe in runs.items()}
    check_stackable(prepared)
    for folder, run in prepared.items():
        check_usable(folder, run.recipe)
    _refuse_two_names(list(runs))
    n_threads = next(iter(runs.values())).training.n_threads
    with cpu_threads(n_threads), ExitStack() as held:
        members = [TrainingRun(run.recipe, run.task, folder, where, run.parent) for folder, run in prepared.items()]
        for member in members:
            held.enter_context(locked(member.folder))
            open_run(member.folder, member.recipe)
        return _train(members, progress=progress)


def _refuse_two_names(folders: Sequence[str | Path]) -> None:
    """Refuse two names of one folder, spelt otherwise or through a link."""
    name_of: dict[str, str | Path] = {}
    for folder in folders:
        place = os.path.realpath(folder)
        if place in name_of:
            raise InputError(f"{name_of[place]} and {folder} are one run folder, {place}; give each run its own")
        name_of[place] = folder


def check_stackable(runs: Mapping[Path, Prepared]) -> None:
    """Refuse recipes that do not fit into one stack.

    Args:
        runs: Run folder -> recipe and task.

    Raises:
        InputError: Names the first setting that differs, and two folders.
    """
    (first_folder, first), *others = runs.items()
    expected = _in_words(first)
    for folder, run in others:
        found = _in_words(run)
        for key in {**expected, **found}:
            if expected.get(key) != found.get(key):
                raise InputError(
                    f"{first_folder} and {folder} cannot be trained at once: {key} is {expected.get(key)} and "
                    f"{found.get(key)}; train them in two calls"
                )


def _in_words(run: Prepared) -> dict[str, str]:
    """What a run shares with its stack: dotted key -> value, as JSON."""
    settings = dotted_keys(shared_settings(run.recipe, run.task))
    return {key: json.dumps(value) for key, value in settings.items()}


def _train(members: Sequence[TrainingRun], *, progress: bool) -> dict[Path, TrainingResult]:
    """Train all members from where their folders stand; those that were saved later wait until the others are there."""
    n_steps = members[0].recipe.training.n_steps
    with progress_bar(n_steps=n_steps * len(members), show=progress) as bar, noted_signals() as stopped_by:
        started = {member.folder: member.start(lambda _: None) for member in members}
        diverged: dict[Path, InputError] = {}
        for start, stop in pairwise(sorted({*started.values(), n_steps})):
            stack = [m for m in members if started[m.folder] <= start and m.folder not in diverged]
            behind = sum(started[m.folder] for m in members if m not in stack)
            for step in _steps(stack, start, stop, diverged, stopped_by):
                bar.step(len(stack) * step + behind)
    if diverged:
        raise InputError("; ".join(str(error) for error in diverged.values()))
    return {member.folder: member.result(resumed_at=started[member.folder]) for member in members}


def _steps(
    members: Sequence[TrainingRun],
    start: int,
    stop: int,
    diverged: dict[Path, InputError],
    stopped_by: Callable[[], int | None],
) -> Iterator[int]:
    """Train members from one step to another, or until all have diverged; yields now and then, fills in which did."""
    stack = StackedLearner([member.learner for member in members])
    for step in range(start + 1, stop + 1):
        losses = stack.step(step - 1)
        number = stopped_by()
        is_due = any(member.is_due(step, interrupted=number is not None) for member in members)
        if is_due or step % STEPS_PER_REFRESH == 0:
            for member, loss in zip(members, losses.tolist(), strict=True):
                if member.folder not in diverged and (is_due or not isfinite(loss)):
                    try:
                        member.after_step(step, loss, lambda _: None, interrupted=number is not None)
                    except InputError as error:
                        diverged[member.folder] = error
            yield step
        if number is not None and step < members[0].recipe.training.n_steps:
            common = os.path.commonpath([member.folder.absolute() for member in members])
            raise TrainingInterrupted(Path(common), step, number)
        if all(member.folder in diverged for member in members):
            return
