"""The training loop: recipe -> run folder.

One step: draw a batch of training items (or take all), the loss at each answer position, gradient clipping, AdamW.
A run that is called again with the same folder continues from its last save and ends with the same bytes as if never
interrupted. Several processes that a launcher started train one run together (`data_parallel`).
"""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from circuit_lab.errors import InputError
from circuit_lab.training.data_parallel import Processes, join_processes, own_device
from circuit_lab.training.device import cpu_threads, resolve_device
from circuit_lab.training.prepared import Prepared, prepare
from circuit_lab.training.progress import STEPS_PER_REFRESH, progress_bar
from circuit_lab.training.recipe import Recipe, dotted_keys
from circuit_lab.training.run_identity import check_usable, open_run
from circuit_lab.training.run_lock import locked
from circuit_lab.training.training_run import TrainingResult, TrainingRun


class TrainingInterrupted(KeyboardInterrupt):
    """A signal stopped the run after its state was saved."""

    def __init__(self, run: Path, step: int, signal_number: int) -> None:
        super().__init__(f"stopped at step {step}; saved in {run}; the same command continues it")
        self.run, self.step, self.signal_number = run, step, signal_number

    def __reduce__(self) -> tuple[type["TrainingInterrupted"], tuple[Path, int, int]]:
        # An exception is pickled by its message alone, from which `__init__` could not make it again.
        return type(self), (self.run, self.step, self.signal_number)


def train(recipe: Recipe, out: str | Path, *, device: str = "auto", progress: bool = True) -> TrainingResult:
    """Train by a recipe, or continue a run.

    Args:
        recipe: From `load_recipe`.
        out: The run folder: absent, empty, or a run of the same recipe.
        device: "auto" (cuda, else mps, else cpu) or a torch device. Only the CPU promises bit-identical resumption.
        progress: Whether to show a progress bar.

    Returns:
        The finished run.

    A folder that holds something else or that another process trains into, a device that is not there or cannot do what
    the recipe asks, and training that diverges are each an InputError. SIGINT and SIGTERM raise `TrainingInterrupted`
    after the state is saved.

    Where a launcher started several processes, every one of them calls this, and all get the result, or the error.
    """
    where = own_device(resolve_device(device))
    processes = join_processes(where)
    with ExitStack() as held:
        # Whatever can be wrong is found before anything is written.
        with processes.as_one():
            prepared = prepare(recipe)
            told = _told(prepared, out)
        expected = processes.of_main(lambda: told)
        with processes.as_one():
            _check_equal(told, expected)
        processes.of_main(check_usable, Path(out), prepared.recipe)  # before a large net is built, or a file written
        with processes.as_one():
            held.enter_context(cpu_threads(prepared.recipe.training.n_threads))
            run = TrainingRun(prepared.recipe, prepared.task, Path(out), where, prepared.parent, processes)
        processes.of_main(held.enter_context, _opened(run))
        return _train(run, processes, progress=progress)


def _told(prepared: Prepared, out: str | Path) -> dict[str, Any]:
    """What processes that train together have in common."""
    recipe = dotted_keys(prepared.recipe.model_dump(mode="json"))
    return {"run folder": str(out), "task's hash": prepared.task.certificate.task_hash, **recipe}


def _check_equal(own: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Processes that learn other things than the main one would spoil its gradients."""
    for key in sorted(own.keys() | expected.keys()):
        if own.get(key) != expected.get(key):
            raise InputError(f"its {key} is {own.get(key)!r}, and that of the main process is {expected.get(key)!r}")


@contextmanager
def _opened(run: TrainingRun) -> Iterator[None]:
    """Hold a run's folder, made or checked."""
    with locked(run.folder):
        open_run(run.folder, run.recipe)
        yield


def _train(run: TrainingRun, processes: Processes, *, progress: bool) -> TrainingResult:
    """Train a run from where its folder stands to the end."""
    n_steps, is_main = run.recipe.training.n_steps, processes.is_main
    with progress_bar(n_steps=n_steps, show=progress and is_main) as bar, noted_signals() as stopped_by:
        start = processes.of_main(run.start, bar.accuracies)
        run.take_state_of_main(start)
        for step in range(start + 1, n_steps + 1):
            loss = run.learner.step(step - 1)
            # What is on the device is looked at now and then only, for that waits for it.
            look = step % STEPS_PER_REFRESH == 0
            number = processes.agreed_stop(stopped_by(), look=look)
            if look or run.is_due(step, interrupted=number is not None):
                bar.loss(step, float(loss))
                processes.of_main(run.after_step, step, float(loss), bar.accuracies, interrupted=number is not None)
            if number is not None and step < n_steps:
                raise TrainingInterrupted(run.folder, step, number)
    return processes.of_main(run.result, resumed_at=start)


@contextmanager
def noted_signals() -> Iterator[Callable[[], int | None]]:
    """Note SIGINT and SIGTERM instead of dying at once; yields a function that tells which one came, if any.

    Handlers can be set in the main thread only; elsewhere signals keep their usual effect.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
