"""Training many runs: those of one architecture in stacks, the stacks on processes here or on a cluster.

Every run is an ordinary run folder, so a stopped fleet goes on where each of its runs stands, in whatever stacks, on
whatever backend; what is finished is left as it is.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from circuit_lab.errors import InputError
from circuit_lab.sweeps.backends import check_backend, on_cluster, on_processes
from circuit_lab.tasks import build_task
from circuit_lab.training import (
    Recipe,
    TrainingInterrupted,
    is_finished,
    read_metrics,
    resolve_device,
    train,
    train_many,
)
from circuit_lab.training.data_parallel import refuse_launcher
from circuit_lab.training.stacked_learner import shared_settings

STACK_ON_GPU = 32
"""Runs trained at once on a GPU, where small nets leave most of it idle; a CPU core is busy with one."""
_SECONDS_BETWEEN_LOOKS = 2.0
_PAUSES_PER_LOOK = 20
"""A look at thousands of runs takes a while; at most one part in so many of the time goes into looking."""

Stack = list[tuple[Path, Recipe]]
"""Runs that one process trains at once."""


def train_fleet(
    runs: Mapping[Path, Recipe],
    *,
    n_jobs: int = 1,
    stack_size: int | None = None,
    backend: str = "loky",
    address: str | None = None,
    device: str = "auto",
    progress: bool = True,
) -> dict[Path, str]:
    """Train runs, or continue them.

    Args:
        runs: Run folder -> recipe.
        n_jobs: Processes, or workers of a cluster that is started here; each trains one stack at a time.
        stack_size: Runs of one architecture that are trained at once; by default 1 on a CPU and `STACK_ON_GPU` on a
            GPU.
        backend: One of `BACKENDS`. On a cluster the folders must be the same on every machine.
        address: Of a running cluster; without it, one of `n_jobs` workers is started on this machine.
        device: As in `train`.
        progress: Whether to show a bar over the steps of all runs, with the time left.

    Returns:
        Run folder -> what is wrong, for runs that could not be trained or whose folder holds another run; they stop no
        other.

    Raises:
        InputError: If the backend is unknown, not installed or out of reach, or a number is below 1.
        TrainingInterrupted: After SIGINT or SIGTERM, when every run is saved; on a cluster, runs go on from their last
            save.
    """
    refuse_launcher("training many runs")
    check_backend(backend, address=address)
    for name, number in (("n_jobs", n_jobs), ("stack_size", stack_size)):
        if number is not None and number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")
    resolve_device(device)  # before anything is built
    waiting, problems = _unfinished(runs)
    if not waiting:
        return problems
    stacks = stacked(waiting, size=default_stack_size(device) if stack_size is None else stack_size)
    calls = [(stack, device, str(Path.cwd())) for stack in stacks]
    n_jobs, stopped_by = min(n_jobs, len(stacks)), None
    with _bar(list(waiting.items()), label=f"training {len(waiting)} runs", show=progress):
        if backend != "loky":
            try:
                found = on_cluster(_in_worker, calls, n_jobs=n_jobs, backend=backend, address=address)
            except KeyboardInterrupt:
                found, stopped_by = [], signal.SIGINT
        elif n_jobs > 1:
            found, stopped_by = on_processes(_in_process, calls, n_jobs=n_jobs)
        else:
            found = [_trained(stack, device) for stack in stacks]
    if stopped_by is not None:
        common = os.path.commonpath([folder.absolute() for folder in waiting])
        raise TrainingInterrupted(Path(common), _steps_done(list(waiting.items())), stopped_by)
    return problems | {folder: problem for of_stack in found for folder, problem in of_stack.items()}


def _unfinished(runs: Mapping[Path, Recipe]) -> tuple[dict[Path, Recipe], dict[Path, str]]:
    """Runs that are not finished, and what is wrong with folders that hold other ones."""
    waiting, problems = {}, {}
    for folder, recipe in runs.items():
        try:
            if not is_finished(folder, recipe):
                waiting[folder] = recipe
        except (ValueError, OSError) as error:
            problems[folder] = str(error)
    return waiting, problems


def default_stack_size(device: str) -> int:
    """Runs that are trained at once where nothing else is said."""
    return STACK_ON_GPU if resolve_device(device).type == "cuda" else 1


def stacked(runs: Mapping[Path, Recipe], *, size: int) -> list[Stack]:
    """Runs in stacks of at most `size`: of one architecture, length and size of task; the longest first."""
    groups: dict[str, Stack] = {}
    for folder, recipe in runs.items():
        groups.setdefault(str(folder) if size == 1 else _fits_with(folder, recipe), []).append((folder, recipe))
    stacks = [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
    return sorted(stacks, key=lambda stack: -stack[0][1].training.n_steps * len(stack))


def _fits_with(folder: Path, recipe: Recipe) -> str:
    """What recipes of one stack have in common, in a form that can be compared; a run without a task stands alone."""
    try:
        return json.dumps(shared_settings(recipe, build_task(recipe.task)), sort_keys=True)
    except (ValueError, OSError):  # its training says what is wrong
        return str(folder)


def _in_process(stack: Stack, device: str, here: str) -> dict[Path, str]:
    """Train one stack in a process of its own; a signal ends it when all is saved, and leaves the process whole."""
    for number in (signal.SIGINT, signal.SIGTERM):  # but for those that training notes
        signal.signal(number, signal.SIG_IGN)
    try:
        return _in_worker(stack, device, here)
    except TrainingInterrupted:  # `train_fleet` knows of the signal, too
        return {}


def _in_worker(stack: Stack, device: str, here: str) -> dict[Path, str]:
    """Train one stack where another process, or machine, asked for it."""
    os.chdir(here)  # relative paths of runs, parents and data are those of who asked
    return _trained(stack, device)


def _trained(stack: Stack, device: str) -> dict[Path, str]:
    """Train one stack quietly; returns what is wrong with each run that cannot be trained.

    What a stack is refused for, such as a lock of one folder, is looked for in its halves.
    """
    if len(stack) == 1:
        ((folder, recipe),) = stack
        try:
            train(recipe, folder, device=device, progress=False)
        except (ValueError, OSError) as error:
            return {folder: str(error)}
        return {}
    try:
        train_many(dict(stack), device=device, progress=False)
    except (ValueError, OSError):
        left, problems = _unfinished(dict(stack))
        items = list(left.items())
        # Where some were trained, the others diverged; where none was, one of them was refused.
        size = 1 if len(items) < len(stack) else len(items) // 2
        for start in range(0, len(items), size):
            problems |= _trained(items[start : start + size], device)
        return problems
    return {}


@contextmanager
def _bar(waiting: Stack, *, label: str, show: bool) -> Iterator[None]:
    """A bar over the steps of all runs, read from their metrics, whichever process trains them."""
    if not show:
        yield
        return
    done = threading.Event()
    total = sum(recipe.training.n_steps for _, recipe in waiting)
    with tqdm(total=total, initial=_steps_done(waiting), desc=label, unit="step") as bar:

        def look() -> None:
            pause = _SECONDS_BETWEEN_LOOKS
            while not done.wait(pause):
                started = time.monotonic()
                bar.update(_steps_done(waiting) - bar.n)
                pause = max(_SECONDS_BETWEEN_LOOKS, _PAUSES_PER_LOOK * (time.monotonic() - started))

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
            bar.update(_steps_done(waiting) - bar.n)


def _steps_done(waiting: Stack) -> int:
    """Steps that the metrics of the runs speak of, together; those of damaged files are not counted."""
    steps = 0
    for folder, _ in waiting:
        with suppress(InputError):
            records = read_metrics(folder) if os.path.lexists(folder) else []
            steps += records[-1]["step"] if records else 0
    return steps
