"""Training many runs: those of one architecture in stacks, the stacks on processes here or on a cluster.

Every run is an ordinary run folder, so a stopped fleet goes on where each of its runs stands, in whatever stacks, on
whatever backend; what is finished is left as it is.
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from pathlib import Path

from tqdm import tqdm

from circuit_lab.errors import InputError
from circuit_lab.sweeps.backends import check_backend, on_workers
from circuit_lab.tasks import build_task
from circuit_lab.training import Recipe, checkpoint_path, read_metrics, resolve_device, train, train_many
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
        Run folder -> what is wrong, for runs that could not be trained; they stop no other.

    A backend that is unknown, not installed or out of reach is an InputError. Ctrl-C saves every run that is being
    trained, as in `train`.
    """
    check_backend(backend, address=address)
    resolve_device(device)  # before anything is built
    waiting = {folder: recipe for folder, recipe in runs.items() if not is_finished(recipe, folder)}
    if not waiting:
        return {}
    stacks = stacked(waiting, size=default_stack_size(device) if stack_size is None else stack_size)
    with _bar(list(waiting.items()), label=f"training {len(waiting)} runs", show=progress):
        if backend == "loky" and (n_jobs == 1 or len(stacks) == 1):
            problems = [_train_stack(stack, device, str(Path.cwd())) for stack in stacks]
        else:
            jobs = [(stack, device, str(Path.cwd())) for stack in stacks]
            problems = on_workers(_train_stack, jobs, n_jobs=min(n_jobs, len(stacks)), backend=backend, address=address)
    return {folder: problem for of_stack in problems for folder, problem in of_stack.items()}


def is_finished(recipe: Recipe, folder: Path) -> bool:
    """Whether a run folder has the last checkpoint of a recipe."""
    return checkpoint_path(folder, recipe.training.n_steps).is_file()


def default_stack_size(device: str) -> int:
    """Runs that are trained at once where nothing else is said."""
    return STACK_ON_GPU if resolve_device(device).type == "cuda" else 1


def stacked(runs: Mapping[Path, Recipe], *, size: int) -> list[Stack]:
    """Runs in stacks: of one architecture, length and size of task, at most `size` in each, the longest first."""
    groups: dict[str, Stack] = {}
    for folder, recipe in runs.items():
        groups.setdefault(str(folder) if size == 1 else _fits_with(recipe), []).append((folder, recipe))
    stacks = [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
    return sorted(stacks, key=lambda stack: -stack[0][1].training.n_steps * len(stack))


def _fits_with(recipe: Recipe) -> str:
    """What recipes of one stack have in common, in a form that can be compared."""
    task = build_task(recipe.task)
    return json.dumps([shared_settings(recipe), task.d_vocab, task.d_vocab_out, task.n_ctx], sort_keys=True)


def _train_stack(stack: Stack, device: str, here: str) -> dict[Path, str]:
    """Train one stack quietly in a working folder; returns what is wrong with each run that cannot be trained.

    What a stack as a whole is refused for, such as a lock of one folder, is found run by run.
    """
    with chdir(here):  # relative paths of runs and parents are those of the process that asked
        return _trained(stack, device)


def _trained(stack: Stack, device: str) -> dict[Path, str]:
    if len(stack) > 1:
        try:
            train_many(dict(stack), device=device, progress=False)
        except InputError:
            pass
        else:
            return {}
    problems = {}
    for folder, recipe in stack:
        if not is_finished(recipe, folder):
            try:
                train(recipe, folder, device=device, progress=False)
            except InputError as error:
                problems[folder] = str(error)
    return problems


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
    """Steps that the metrics of the runs speak of, together."""
    steps = 0
    for folder, _ in waiting:
        records = read_metrics(folder) if os.path.lexists(folder) else []
        steps += records[-1]["step"] if records else 0
    return steps
