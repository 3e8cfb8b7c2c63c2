"""The training loop: recipe -> run folder.

One step: draw a batch of training items (or take all), cross-entropy at each answer position, gradient clipping, AdamW.
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
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_

from circuit_lab.errors import InputError
from circuit_lab.nets import HookedNet, build_net
from circuit_lab.tasks import Task, build_task
from circuit_lab.training.batches import BatchStream
from circuit_lab.training.checkpoint import Checkpoint, save_checkpoint
from circuit_lab.training.device import resolve_device
from circuit_lab.training.evaluation import SplitScore, split_scores
from circuit_lab.training.optimizer import learning_rate, make_optimizer
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

    A folder that holds something else or that another process trains into, a device that is not there, and training
    that diverges are each an InputError. SIGINT and SIGTERM raise `TrainingInterrupted` after the state is saved.
    """
    # Whatever can be wrong is found before anything is written.
    where, task = resolve_device(device), build_task(recipe.task)
    recipe, parent = resolve_parent(recipe, task)
    run = Path(out)
    check_usable(run, recipe)  # before the lock's file is put into a folder that is no run
    with locked(run), _threads(recipe.training.n_threads):
        return _Run(recipe, task, open_run(run, recipe), where, parent).train(progress=progress)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Run:
    """Everything a run needs in memory."""

    def __init__(self, recipe: Recipe, task: Task, run: Path, device: torch.device, parent: Checkpoint | None) -> None:
        self.recipe, self.task, self.run = recipe, task, run
        self.loss_dtype = getattr(torch, recipe.training.loss_dtype)
        config = recipe.net_config(d_vocab=task.d_vocab, d_vocab_out=task.d_vocab_out, n_ctx=task.n_ctx)
        dtype = getattr(torch, recipe.training.dtype)
        self.net: HookedNet = build_net(config).to(dtype)
        if parent is not None:
            self.net.load_unique_state_dict(parent.net.to(dtype).unique_state_dict())
        self.net.to(device).train()
        self.optimizer = make_optimizer(self.net, recipe.optimizer)
        items = self.task.training
        self.tokens, self.answer = items.tokens.to(device), items.answer.to(device)
        self.answer_position = items.answer_position.to(device)
        batch_size = recipe.training.batch_size
        self.batches = None
        if batch_size != "full":
            self.batches = BatchStream(seed=recipe.training.seed, n_items=len(items), batch_size=batch_size)

    def train(self, *, progress: bool) -> TrainingResult:
        """Run the loop from where the folder stands to the end."""
        n_steps = self.recipe.training.n_steps
        start = load_resume(self.run, net=self.net, optimizer=self.optimizer, n_steps=n_steps)
        drop_metrics_after(self.run, start if start > 0 else -1)  # a fresh run evaluates step 0 again
        with progress_bar(n_steps=n_steps, start=start, show=progress) as bar, _signals() as stopped_by:
            if start == 0:
                self._evaluate(0, bar)
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
            loss = self._step(step - 1)
            interrupted = stopped_by()
            is_saved = step % self.recipe.training.resume_every == 0 or step == n_steps or interrupted is not None
            if step % STEPS_PER_REFRESH == 0 or step in evaluated or is_saved:
                shown = float(loss)  # waits for the device, so not at every step
                self._check_converging(step, shown)
                bar.loss(step, shown)
            scores = self._evaluate(step, bar) if step in evaluated else None
            if scores is not None and step in checkpoints:
                self._save_checkpoint(step, scores)
            if is_saved:
                save_resume(self.run, net=self.net, optimizer=self.optimizer, step=step)
                self.saved = step
            if interrupted is not None and step < n_steps:
                raise TrainingInterrupted(self.run, step, interrupted)

    def _step(self, step: int) -> torch.Tensor:
        """One optimiser step, counted from 0; its loss in nats."""
        rows = slice(None) if self.batches is None else self.batches.rows(step).to(self.tokens.device)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe.optimizer, step)
        logits = self.net(self.tokens[rows], answer_only=True, answer_position=self.answer_position[rows])
        loss = F.cross_entropy(logits.to(self.loss_dtype), self.answer[rows])
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.optimizer.max_gradient_norm > 0:
            clip_grad_norm_(self.net.parameters(), self.recipe.optimizer.max_gradient_norm)
        self.optimizer.step()
        return loss.detach()

    def _check_converging(self, step: int, loss: float) -> None:
        """Stop before anything of a net whose numbers have run off is saved."""
        weight_norm = self._weight_norm()
        if math.isfinite(loss) and math.isfinite(weight_norm):
            return
        kept = f"the state of step {self.saved} is kept" if self.saved > 0 else "nothing was saved before"
        raise InputError(
            f"{self.run}: training diverged: after step {step} the loss is {loss} and the norm of the weights "
            f"{weight_norm}; {kept}; train in another folder with a lower optimizer.learning_rate or a "
            "max_gradient_norm"
        )

    def _weight_norm(self) -> float:
        """Euclidean norm over all weights, each counted once."""
        return float(torch.stack([p.detach().square().sum() for p in self.net.parameters()]).sum().sqrt())

    def _evaluate(self, step: int, bar: ProgressBar) -> dict[str, SplitScore]:
        """Score every split and add a line to the metrics."""
        scores = split_scores(self.net, self.task, loss_dtype=self.loss_dtype)
        record = {"step": step, "learning_rate": learning_rate(self.recipe.optimizer, max(step - 1, 0))}
        record |= {"weight_norm": self._weight_norm(), "loss_dtype": self.recipe.training.loss_dtype}
        record["softmax_collapse"] = scores["training"].collapsed
        record |= {f"accuracy/{name}": score.accuracy for name, score in scores.items()}
        record |= {f"loss/{name}": score.loss for name, score in scores.items()}
        append_metrics(self.run, record)
        bar.accuracies({name: score.accuracy for name, score in scores.items()})
        return scores

    def _save_checkpoint(self, step: int, scores: dict[str, SplitScore]) -> None:
        save_checkpoint(
            checkpoint_path(self.run, step),
            net=self.net,
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
