"""Training the runs of studies, parents before their children."""

from collections.abc import Iterable
from pathlib import Path

from circuit_lab.errors import InputError
from circuit_lab.studies.recipes import recipe_of
from circuit_lab.studies.study import StudyRun
from circuit_lab.sweeps import train_fleet
from circuit_lab.training import Recipe, latest_checkpoint
from circuit_lab.training.run_folder import checkpoint_path


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
        n_jobs: Processes.
        device: As in `train`.
        progress: Whether to show a bar with the time left.

    Raises:
        InputError: For whatever `train` refuses, once all others are trained.
    """
    everything = with_parents(runs)
    for generation in sorted({run.generation for run in everything}):
        planned = {
            folder / run.place: recipe_at(run, folder, scale=scale)
            for run in everything
            if run.generation == generation
        }
        problems = train_fleet(planned, n_jobs=n_jobs, device=device, progress=progress)
        if problems:
            raise InputError("; ".join(problems.values()))


def recipe_at(run: StudyRun, folder: Path, *, scale: str) -> Recipe:
    """The recipe of a run that lies in a folder, from the last checkpoint of its parent there, if it has one."""
    if run.parent is None:
        return recipe_of(run, scale)
    parent = recipe_at(run.parent, folder, scale=scale)
    return recipe_of(run, scale, parent_checkpoint=checkpoint_path(folder / run.parent.place, parent.training.n_steps))


def last_checkpoint(run: StudyRun, folder: Path) -> Path:
    """The last checkpoint of a run."""
    return latest_checkpoint(folder / run.place)
