"""The training loop: recipe -> run folder.

One step: draw a batch of training items (or take all), the loss at each answer position, gradient clipping, AdamW.
A run that is called again with the same folder continues from its last save and ends with the same bytes as if never
interrupted.
"""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

from circuit_lab.errors import InputError
from circuit_lab.nets import HookedNet
from circuit_lab.tasks import Task, build_task
from circuit_lab.training.checkpoint import Checkpoint, save_checkpoint
from circuit_lab.training.device import cpu_threads, resolve_device
from circuit_lab.training.evaluation import SplitScore, split_scores
from circuit_lab.training.learner import Learner
from circuit_lab.training.optimizer import learning_rate
from circuit_lab.training.parent import resolve_parent
from circuit_lab.training.progress import STEPS_PER_REFRESH, ProgressBar, progress_bar
from circuit_lab.training.recipe import Recipe
from circuit_lab.training.resume import load_resume, save_resume
from circuit_lab.training.run_folder import (
    METRICS,
    RESUME,
    append_metrics,
    checkpoint_path,
    drop_metrics_after,
    read_metrics,
)
from circuit_lab.training.run_identity import check_usable, open_run
from circuit_lab.training.run_lock import locked


class TrainingInterrupted(KeyboardInterrupt):
    """A signal stopped the run after its state was saved."""

    def __init__(self, run: Path, step: int, signal_number: int) -> None:
        super().__init__(f"stopped at step {step}; saved in {run}; the same command continues it")
        self.run, self.step, self.signal_number = run, step, signal_number


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    Attributes:
        run: The run folder.
        checkpoint: Its last checkpoint.
        accuracy: Accuracy per split at the end, in [0, 1].
        resumed_at: Step at which this call started: 0 for a fresh run, the last step for a finished one.
    """

    run: Path
    checkpoint: Path
    accuracy: dict[str, float]
    resumed_at: int


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
    """
    # Whatever can be wrong is found before anything is written.
    where, task = resolve_device(device), build_task(recipe.task)
    recipe, parent = resolve_parent(recipe, task)
    run = Path(out)
    check_usable(run, recipe)  # before the lock's file is put into a folder that is no run
    with cpu_threads(recipe.training.n_threads):
        a_run = _Run(recipe, task, run, where, parent)
        with locked(run):
            open_run(run, recipe)
            return a_run.train(progress=progress)


class _Run:
    """A run: a learner, and the folder that it is saved in, which need not be there before `train`."""

    def __init__(self, recipe: Recipe, task: Task, run: Path, device: torch.device, parent: Checkpoint | None) -> None:
        self.recipe, self.task, self.run = recipe, task, run
        self.learner = Learner(recipe, task, device, parent)

    def train(self, *, progress: bool) -> TrainingResult:
        """Run the loop from where the folder stands to the end."""
        n_steps = self.recipe.training.n_steps
        start = load_resume(
            self.run,
            net=self.learner.net,
            optimizer=self.learner.optimizer,
            average=self.learner.average,
            n_steps=n_steps,
        )
        drop_metrics_after(self.run, start if start > 0 else -1)  # a fresh run evaluates step 0 again
        with progress_bar(n_steps=n_steps, start=start, show=progress) as bar, _signals() as stopped_by:
            if start == 0:
                self._evaluate(0, bar, save=False)
            self._loop(start, n_steps, bar, stopped_by)
        return TrainingResult(
            run=self.run,
            checkpoint=checkpoint_path(self.run, n_steps),
            accuracy=self._final_accuracy(n_steps),
            resumed_at=start,
        )

    def _final_accuracy(self, n_steps: int) -> dict[str, float]:
        """The accuracies of the last step, which a finished run has in its metrics."""
        final = [record for record in read_metrics(self.run) if record["step"] == n_steps]
        if not final:
            raise InputError(
                f"{self.run / METRICS} has no line of step {n_steps}, the last of this finished run; restore it, or "
                f"delete {RESUME} to train this run from the start"
            )
        return {k.removeprefix("accuracy/"): v for k, v in final[-1].items() if k.startswith("accuracy/")}

    def _loop(self, start: int, n_steps: int, bar: ProgressBar, stopped_by: Callable[[], int | None]) -> None:
        evaluations = self.recipe.evaluation.steps(n_steps)
        checkpoints = self.recipe.checkpoints.steps(n_steps)
        evaluated = evaluations | checkpoints
        self.saved = start
        for step in range(start + 1, n_steps + 1):
            loss = self.learner.step(step - 1)
            interrupted = stopped_by()
            is_saved = step % self.recipe.training.resume_every == 0 or step == n_steps or interrupted is not None
            if step % STEPS_PER_REFRESH == 0 or step in evaluated or is_saved:
                shown = float(loss)  # waits for the device, so not at every step
                self._check_converging(step, shown)
                bar.loss(step, shown)
            if step in evaluated:
                self._evaluate(step, bar, save=step in checkpoints)
            if is_saved:
                self._save_state(step)
            if interrupted is not None and step < n_steps:
                raise TrainingInterrupted(self.run, step, interrupted)

    def _check_converging(self, step: int, loss: float) -> None:
        """Stop before anything of a net whose numbers have run off is saved."""
        weight_norm = self.learner.weight_norm()
        if math.isfinite(loss) and math.isfinite(weight_norm):
            return
        kept = f"the state of step {self.saved} is kept" if self.saved > 0 else "nothing was saved before"
        raise InputError(
            f"{self.run}: training diverged: after step {step} the loss is {loss} and the norm of the weights "
            f"{weight_norm}; {kept}; train in another folder with a lower optimizer.learning_rate or a "
            "max_gradient_norm"
        )

    def _save_state(self, step: int) -> None:
        """Save what the run continues from."""
        learner = self.learner
        save_resume(self.run, net=learner.net, optimizer=learner.optimizer, average=learner.average, step=step)
        self.saved = step

    def _evaluate(self, step: int, bar: ProgressBar, *, save: bool) -> None:
        """Score every split, write the metrics and, if asked, keep a checkpoint: of averaged weights, if any."""
        training = self.recipe.training
        loss_dtype = getattr(torch, training.loss_dtype)
        with self.learner.net_to_show() as net:
            scores = split_scores(net, self.task, loss=training.loss, loss_dtype=loss_dtype)
            record = {"step": step, "learning_rate": learning_rate(self.recipe.optimizer, max(step - 1, 0))}
            record |= {"weight_norm": self.learner.weight_norm(), "loss_dtype": training.loss_dtype}
            record |= {"loss_name": training.loss, "weights": "trained" if self.learner.average is None else "averaged"}
            record["softmax_collapse"] = scores["training"].collapsed
            record |= {f"accuracy/{name}": score.accuracy for name, score in scores.items()}
            record |= {f"loss/{name}": score.loss for name, score in scores.items()}
            append_metrics(self.run, record)
            bar.accuracies({name: score.accuracy for name, score in scores.items()})
            if save:
                self._save_checkpoint(net, step, scores)

    def _save_checkpoint(self, net: HookedNet, step: int, scores: dict[str, SplitScore]) -> None:
        save_checkpoint(
            checkpoint_path(self.run, step),
            net=net,
            task=self.task,
            step=step,
            metrics={name: score.accuracy for name, score in scores.items()},
            recipe=self.recipe.model_dump(mode="json", exclude_none=True),
        )


@contextmanager
def _signals() -> Iterator[Callable[[], int | None]]:
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
