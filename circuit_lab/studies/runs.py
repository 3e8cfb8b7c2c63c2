"""Training the runs of studies: several at once, each continued where it stopped."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from circuit_lab.errors import InputError
from circuit_lab.studies.recipes import recipe_of
from circuit_lab.studies.study import StudyRun
from circuit_lab.training import Recipe, latest_checkpoint, read_metrics, train
from circuit_lab.training.run_folder import checkpoint_path

_SECONDS_BETWEEN_LOOKS = 2.0


def with_parents(runs: Iterable[StudyRun]) -> tuple[StudyRun, ...]:
    """The runs and all their ancestors, each once, ancestors first.

    Args:
        runs: Runs, in any order.

    Returns:
        The runs, in order of generation.

    Raises:
        InputError: If two of them have one place and differ.
    """
    found: dict[str, StudyRun] = {}
    waiting = list(runs)
    while waiting:
        run = waiting.pop(0)
        if found.setdefault(run.place, run) != run:
            raise InputError(f"two runs are called {run.place} and differ: {run} and {found[run.place]}")
        if run.parent is not None:
            waiting.append(run.parent)
    return tuple(sorted(found.values(), key=lambda run: run.generation))


def train_runs(
    runs: Iterable[StudyRun], folder: Path, *, scale: str, n_jobs: int = 1, device: str = "auto", progress: bool = True
) -> None:
    """Train runs and their ancestors, or continue them; what is finished is left as it is.

    Args:
        runs: The runs.
        folder: Where the runs of this scale lie, one folder for each.
        scale: One of `SCALES`.
        n_jobs: Processes; each trains one run at a time.
        device: As in `train`.
        progress: Whether to show a bar with the time left.

    Whatever `train` refuses is an InputError.
    """
    everything = with_parents(runs)
    for generation in sorted({run.generation for run in everything}):
        planned = [(recipe_at(run, folder, scale=scale), folder / run.place) for run in everything]
        of_generation = [pair for run, pair in zip(everything, planned, strict=True) if run.generation == generation]
        waiting = [(recipe, out) for recipe, out in of_generation if not is_finished(recipe, out)]
        with _bar(waiting, label=f"training {len(waiting)} runs", show=progress and bool(waiting)):
            _train_all(waiting, n_jobs=n_jobs, device=device)


def recipe_at(run: StudyRun, folder: Path, *, scale: str) -> Recipe:
    """The recipe of a run that lies in a folder, from the last checkpoint of its parent there, if it has one."""
    if run.parent is None:
        return recipe_of(run, scale)
    parent = recipe_at(run.parent, folder, scale=scale)
    return recipe_of(run, scale, parent_checkpoint=checkpoint_path(folder / run.parent.place, parent.training.n_steps))


def is_finished(recipe: Recipe, out: Path) -> bool:
    """Whether a run folder has the last checkpoint of a recipe."""
    return checkpoint_path(out, recipe.training.n_steps).is_file()


def last_checkpoint(run: StudyRun, folder: Path) -> Path:
    """The last checkpoint of a run."""
    return latest_checkpoint(folder / run.place)


def _train_all(waiting: Sequence[tuple[Recipe, Path]], *, n_jobs: int, device: str) -> None:
    if n_jobs == 1 or len(waiting) <= 1:
        for recipe, out in waiting:
            train(recipe, out, device=device, progress=False)
        return
    from joblib import Parallel, delayed, parallel_config

    with parallel_config(backend="loky", inner_max_num_threads=1):
        Parallel(n_jobs=min(n_jobs, len(waiting)))(
            delayed(_train_quietly)(recipe, out, device) for recipe, out in waiting
        )


def _train_quietly(recipe: Recipe, out: Path, device: str) -> None:
    train(recipe, out, device=device, progress=False)


@contextmanager
def _bar(waiting: Sequence[tuple[Recipe, Path]], *, label: str, show: bool) -> Iterator[None]:
    """A bar over the steps of all runs, read from their metrics, whichever process trains them."""
    if not show:
        yield
        return
    done = threading.Event()
    total = sum(recipe.training.n_steps for recipe, _ in waiting)
    with tqdm(total=total, initial=_steps_done(waiting), desc=label, unit="step") as bar:

        def look() -> None:
            while not done.wait(_SECONDS_BETWEEN_LOOKS):
                bar.update(_steps_done(waiting) - bar.n)

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            bar.update(_steps_done(waiting) - bar.n)


def _steps_done(waiting: Sequence[tuple[Recipe, Path]]) -> int:
    """Steps that the metrics of the runs speak of, together."""
    steps = 0
    for _, out in waiting:
        records = read_metrics(out) if os.path.lexists(out) else []
        steps += records[-1]["step"] if records else 0
    return steps
